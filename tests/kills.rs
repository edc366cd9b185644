//! The kill matrix: whoever dies, and whenever, containers run on, the next command converges, and `down`
//! leaves nothing.

mod flood;
mod moments;
mod together;

use std::time::Duration;

use crate::scenarios::{
    host::{self, Process},
    stack::{Container, Machine, Project, eventually},
};

const YAML: &str = r#"
services:
  web:
    image: busybox
    init: true
    command: ["sh", "-c", "mkdir -p /www; echo up >/www/index.html; exec httpd -f -p 80 -h /www"]
    volumes: ["kept:/v", "/anonymous"]
    ports: ["${HELLO_PORT}:80"]
    healthcheck: {test: ["CMD", "wget", "-qO-", "http://127.0.0.1/"], interval: 200ms, retries: 50}
  asks:
    image: busybox
    init: true
    command: ["sh", "-c", "while true; do wget -qO- http://web/ >/dev/null && echo found; sleep 0.2; done"]
    depends_on: {web: {condition: service_healthy}}
  idle:
    image: busybox
    init: true
    command: ["sleep", "3600"]
    volumes: ["/anonymous"]
volumes:
  kept:
"#;

const SERVICES: [&str; 3] = ["asks", "idle", "web"];

/// The processes of ours that run for the state tree of a project.
fn helpers(machine: &Machine, entry: &str) -> Vec<Process> {
    let mut found = host::processes_below(&machine.root());
    found.retain(|process| {
        host::program(process) != "ficelle-init" && process.describe().contains(&format!(" {entry} "))
    });
    found
}

fn assert_all_run_once(project: &Project<'_>, when: &str) -> Vec<Container> {
    let all = project.containers();
    let services: Vec<_> = all.iter().map(|container| container.service.as_str()).collect();
    assert_eq!(services, SERVICES, "{when}");
    for container in &all {
        assert_eq!(container.state, "running", "{container:?} {when}");
    }
    all
}

fn ids(all: &[Container]) -> Vec<String> {
    all.iter().map(|container| container.id.clone()).collect()
}

/// `asks` writes a line each time that it has found `web`.
fn assert_name_is_answered(project: &Project<'_>, when: &str) {
    let heard = project.logs("asks").lines().count();
    let found = eventually(|| match project.logs("asks").lines().count() {
        more if more > heard + 1 => Ok(()),
        same => Err(same),
    });
    assert_eq!(found, Ok(()), "the name is not answered {when}");
}

fn assert_no_trace(project: &Project<'_>, ids: &[String], when: &str) {
    project.ficelle(&["down", "-v", "-t", "0"]).ok();
    let traces = project.traces(ids);
    assert!(traces.is_empty(), "left behind {when}:\n{}", traces.join("\n"));
}

#[test]
fn containers_their_ports_and_names_outlive_keeper_supervisor_and_anchor() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    for (number, killed) in [
        &["__keeper"][..],
        &["__supervisor"],
        &["__anchor"],
        &["__keeper", "__supervisor"],
        &["__anchor", "__keeper"],
        &["__keeper", "__supervisor", "__anchor"],
    ]
    .into_iter()
    .enumerate()
    {
        let project = machine.compose(&format!("outlives{number}"), YAML);
        project.ficelle(&["up", "-d"]).ok();
        let before = assert_all_run_once(&project, "before");
        let mains: Vec<Process> = before.iter().map(Container::main).collect();
        for entry in killed {
            for process in helpers(&machine, entry) {
                process.kill_if_there();
            }
        }
        let when = format!("after the death of {killed:?}");
        assert_eq!(assert_all_run_once(&project, &when).len(), before.len());
        let again = project.ficelle(&["up", "-d"]).ok();
        assert!(again.stderr.contains("nothing to do"), "{when}: {}", again.stderr);
        assert!(mains.iter().all(|main| main.is_alive()), "a container died {when}");
        assert_eq!(eventually(|| project.get("/")), Ok("up\n".to_owned()), "{when}");
        assert_name_is_answered(&project, &when);
        for entry in ["__keeper", "__supervisor", "__anchor"] {
            // A health probe is for a moment a copy of the supervisor.
            let one = eventually(|| match helpers(&machine, entry).len() {
                1 => Ok(()),
                other => Err(other),
            });
            assert_eq!(one, Ok(()), "{entry} {when}");
        }
        assert_no_trace(&project, &ids(&before), &when);
    }
}

/// A new keeper finds no anchor, while the old supervisor still holds the namespace of the old one.
#[test]
fn networks_come_back_when_the_last_who_held_them_is_slow() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("slow", YAML);
    project.ficelle(&["up", "-d"]).ok();
    let before = assert_all_run_once(&project, "before");
    let [supervisor] = helpers(&machine, "__supervisor")[..] else { panic!("no supervisor") };
    supervisor.stop();
    for entry in ["__anchor", "__keeper"] {
        helpers(&machine, entry).into_iter().for_each(Process::kill_if_there);
    }
    project.ficelle(&["up", "-d"]).ok();
    assert_eq!(ids(&assert_all_run_once(&project, "after")), ids(&before));
    assert_eq!(eventually(|| project.get("/")), Ok("up\n".to_owned()));
    assert_name_is_answered(&project, "after the slow one");
    assert_no_trace(&project, &ids(&before), "after the slow one");
}

#[test]
fn an_up_or_down_killed_at_any_moment_is_made_good_by_the_next() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let volumes = machine.root().join("data/volumes");
    for milliseconds in [5, 20, 40, 60, 80, 100, 140, 200, 280] {
        let when = format!("killed after {milliseconds} ms");
        let project = machine.compose(&format!("moment{milliseconds}"), YAML);
        for command in [&["up", "-d"][..], &["down", "-v", "-t", "0"]] {
            let mut run = project.ficelle(command).start();
            // No event tells of an arbitrary moment; whatever it hits, what follows must hold.
            std::thread::sleep(Duration::from_millis(milliseconds));
            run.kill();
            if command[0] == "up" {
                project.ficelle(&["up", "-d"]).ok();
                assert_all_run_once(&project, &when);
                let again = project.ficelle(&["up", "-d"]).ok();
                assert!(again.stderr.contains("nothing to do"), "{when}: {}", again.stderr);
            }
        }
        assert_no_trace(&project, &[], &when);
        let left: Vec<_> = std::fs::read_dir(&volumes).into_iter().flatten().flatten().collect();
        assert!(left.is_empty(), "volumes {left:?} {when}");
    }
}

#[test]
fn nothing_of_the_host_is_open_in_the_first_process_of_a_container() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("closed", YAML);
    project.ficelle(&["up", "-d"]).ok();
    let all = assert_all_run_once(&project, "now");
    for container in &all {
        let init = container.main();
        let open = std::fs::read_dir(format!("/proc/{}/fd", init.pid)).unwrap().flatten();
        let beyond: Vec<_> = open
            .filter(|entry| entry.file_name().to_string_lossy().parse::<u32>().is_ok_and(|fd| fd > 2))
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .collect();
        assert!(beyond.is_empty(), "{container:?} has {beyond:?}");
    }
    assert_no_trace(&project, &ids(&all), "at the end");
}

#[test]
fn two_commands_on_one_project_follow_each_other_and_say_so() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("twice", YAML);
    let mut first = project.ficelle(&["--progress", "plain", "up", "-d"]).start();
    first.next_line(Duration::from_secs(60)).expect("the first says what it does");
    let second = project.ficelle(&["--progress", "plain", "up", "-d"]).ok();
    assert_eq!(first.end(), Some(0));
    assert!(second.stderr.contains("up (pid"), "nothing of whom it waited for: {}", second.stderr);
    let all = assert_all_run_once(&project, "after both");
    assert_no_trace(&project, &ids(&all), "at the end");
}
