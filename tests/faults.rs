//! What a machine does to those who run on it: it goes down, its disk is full, its files are damaged, its
//! limits are low. Nothing is lost that could be kept, nothing removed that is not understood, and what
//! cannot be done is said.

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::scenarios::{
    for_everybody,
    host::{self, Process},
    stack::{Done, Machine, Project, eventually},
};

const YAML: &str = r#"
services:
  always:
    image: busybox
    init: true
    restart: always
    command: ["sh", "-c", "date >>/kept/starts; exec sleep 3600"]
    volumes: ["kept:/kept", "/anonymous"]
  never:
    image: busybox
    init: true
    command: ["sleep", "3600"]
volumes:
  kept:
"#;

fn ids(project: &Project<'_>) -> Vec<String> {
    project.containers().into_iter().map(|container| container.id).collect()
}

/// It was told in words, and by a code that is none of a crash.
fn assert_said(done: &Done, about: &str) {
    let crashed = done.code.is_none_or(|code| code == 101 || code > 128) || done.stderr.contains("panicked");
    assert!(!crashed, "{about}: {done:#?}");
    assert!(done.code == Some(0) || done.stderr.contains("error"), "{about}: {done:#?}");
}

fn assert_nothing_left(project: &Project<'_>, ids: &[String], about: &str) {
    project.ficelle(&["down", "-v", "-t", "0"]).ok();
    let traces = project.traces(ids);
    assert!(traces.is_empty(), "left behind {about}:\n{}", traces.join("\n"));
}

for_everybody!(after_the_machine_was_down_containers_have_ended_and_up_brings_them_back, with(&["busybox"]));

fn after_the_machine_was_down_containers_have_ended_and_up_brings_them_back(machine: &Machine) {
    let project = machine.compose("downed", YAML);
    project.ficelle(&["up", "-d"]).ok();
    let before = ids(&project);
    let starts = || project.ficelle(&["exec", "always", "cat", "/kept/starts"]).ok().stdout.lines().count();
    assert_eq!(starts(), 1);
    // What is there after the machine was down is written when there is nothing else to do.
    for id in &before {
        let path = machine.root().join(format!("data/p/downed/c/{id}/last.json"));
        let runs = || fs::read_to_string(&path).is_ok_and(|text| text.contains("\"running\""));
        eventually(|| if runs() { Ok(()) } else { Err(()) }).unwrap();
    }
    machine.reboot();
    // Somebody else has the number of a container's process now, and began at the same tick.
    let mut foreign = Command::new("sleep").arg("3600").stdin(Stdio::null()).spawn().unwrap();
    let bystander = Process::of(i32::try_from(foreign.id()).unwrap()).unwrap();
    for id in &before {
        let path = machine.root().join(format!("data/p/downed/c/{id}/last.json"));
        let mut last: serde_json::Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        last["process"]["pid"] = bystander.pid.into();
        last["process"]["start"] = bystander.started.into();
        fs::write(&path, last.to_string()).unwrap();
    }
    for container in project.containers() {
        assert_eq!((container.state.as_str(), container.exit_code), ("exited", -1), "{container:?}");
    }
    let told = project.ficelle(&["ps", "-a"]).ok().stdout;
    assert_eq!(told.matches("Exited (host restarted) ").count(), before.len(), "{told}");
    let told = project.ficelle(&["events", "--since", "1", "--until", "0s"]).ok().stdout;
    assert_eq!(told.matches("cause=host restarted, exitCode=-1").count(), before.len(), "{told}");
    assert!(!machine.root().join("run/leases").exists(), "addresses of before");
    project.ficelle(&["stop"]).ok();
    project.ficelle(&["up", "-d"]).ok();
    let after = project.containers();
    assert!(after.iter().all(|container| container.state == "running"), "{after:?}");
    assert_eq!(ids(&project), before, "they are the same containers");
    assert_eq!(starts(), 2, "the volume is the same");
    assert!(bystander.is_alive(), "a foreign process was signalled");
    assert_nothing_left(&project, &before, "after a reboot");
    assert!(bystander.is_alive(), "a foreign process was signalled");
    foreign.kill().unwrap();
    foreign.wait().unwrap();
}

/// Files of the state that say something in words.
fn state_files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    host::walk(root, &mut |path, is_dir| {
        let text = path.to_string_lossy();
        let shared = ["data/images", "data/build-cache", "/launch/"].iter().any(|dir| text.contains(dir));
        if !is_dir && !shared && text.ends_with(".json") {
            found.push(path.to_owned());
        }
    });
    found.sort();
    found
}

for_everybody!(a_damaged_state_file_is_told_or_made_good_and_never_removed, with(&["busybox"]));

fn a_damaged_state_file_is_told_or_made_good_and_never_removed(machine: &Machine) {
    let project = machine.compose("damaged", YAML);
    project.ficelle(&["up", "-d"]).ok();
    let all = ids(&project);
    let files = state_files(&machine.root());
    assert!(files.len() >= 8, "{files:?}");
    for path in &files {
        let whole = fs::read(path).unwrap();
        for damage in ["empty", "half", "future", "link"] {
            let about = format!("{} {damage}", path.display());
            match damage {
                "empty" => fs::write(path, "").unwrap(),
                "half" => fs::write(path, &whole[..whole.len() / 2]).unwrap(),
                "future" => fs::write(path, r#"{"version": 999, "what": ["nobody", "knows"]}"#).unwrap(),
                _ => {
                    fs::remove_file(path).unwrap();
                    symlink("/etc/passwd", path).unwrap();
                }
            }
            let damaged = fs::read(path).unwrap();
            assert_said(&project.ficelle(&["ps", "-a"]).run(), &about);
            let passwd = fs::read("/etc/passwd").unwrap();
            assert_said(&project.ficelle(&["up", "-d"]).run(), &about);
            assert_eq!(fs::read("/etc/passwd").unwrap(), passwd, "{about}");
            // It stands as it was, or was written anew; what specifies a container cannot be.
            let now = fs::read(path).unwrap_or_else(|error| panic!("{about}: {error}"));
            let specified = path.ends_with("spec.json") || path.ends_with("meta.json");
            assert!(!specified || now == damaged, "{about}");
            if damage == "link" {
                fs::remove_file(path).unwrap();
            }
            fs::write(path, &whole).unwrap();
            machine.hand_over(path);
        }
    }
    project.ficelle(&["up", "-d"]).ok();
    let more: Vec<_> = all.into_iter().chain(ids(&project)).collect();
    assert_nothing_left(&project, &more, "after damage");
}

for_everybody!(on_a_full_disk_ps_and_down_work_and_up_says_what_is_missing, with(&["busybox"]));

fn on_a_full_disk_ps_and_down_work_and_up_says_what_is_missing(machine: &Machine) {
    let machine = machine.on_a_disk_of("48m", &["busybox"]);
    let project = machine.compose("full", YAML);
    project.ficelle(&["up", "-d", "never"]).ok();
    let all = ids(&project);
    let filler = machine.fill();
    assert_eq!(project.container("never").state, "running");
    project.ficelle(&["logs"]).ok();
    let told = project.ficelle(&["up", "-d"]).fails();
    assert_said(&told, "up on a full disk");
    assert!(told.stderr.contains("No space left") || told.stderr.contains("full"), "{}", told.stderr);
    let more: Vec<_> = all.into_iter().chain(ids(&project)).collect();
    assert_nothing_left(&project, &more, "on a full disk");
    fs::remove_file(filler).unwrap();
    project.ficelle(&["up", "-d"]).ok();
    let more = ids(&project);
    assert_nothing_left(&project, &more, "after the disk was full");
}

for_everybody!(low_limits_are_told_and_leave_nothing, with(&["busybox"]));

fn low_limits_are_told_and_leave_nothing(machine: &Machine) {
    let services: String = (0..12)
        .map(|number| {
            format!("  s{number}:\n    image: busybox\n    init: true\n    command: [sleep, '3600']\n    volumes: [/a]\n")
        })
        .collect();
    for (number, limit) in ["--nofile=64", "--nofile=24"].iter().enumerate() {
        let project = machine.compose(&format!("low{number}"), &format!("services:\n{services}"));
        let done = project.ficelle(&["up", "-d"]).under(limit).run();
        assert_said(&done, limit);
        // What was started under the limit keeps it; what comes now has none.
        let all = ids(&project);
        assert_nothing_left(&project, &all, limit);
    }
}
