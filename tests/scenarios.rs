//! What a person does with a project, on the real engine through the real binary; each name is an
//! obligation. The checks look at the machine (pages, processes, mounts, files) before the output.

#[path = "support/host.rs"]
pub mod host;
#[path = "support/stack.rs"]
pub mod stack;

use std::{net::TcpListener, time::Duration};

use host::Process;
use stack::{Container, Machine, Project, eventually};

/// A service that does nothing and ends at once when told to.
const IDLE: &str = r#"["sh", "-c", "trap 'exit 0' TERM; echo ready; while true; do sleep 1 & wait; done"]"#;

/// A scenario that holds for root and for an ordinary user alike.
macro_rules! for_everybody {
    ($scenario:ident, with($images:expr)) => {
        for_everybody!($scenario, with of_user($images));
    };
    ($scenario:ident, in_own_network($images:expr)) => {
        for_everybody!($scenario, in_own_network of_user_in_own_network($images));
    };
    ($scenario:ident, $root:ident $user:ident($images:expr)) => {
        mod $scenario {
            use super::Machine;

            #[test]
            fn as_root() {
                let Some(machine) = Machine::$root($images) else { return };
                super::$scenario(&machine);
            }

            #[test]
            fn as_an_ordinary_user() {
                let Some(machine) = Machine::$user($images) else { return };
                super::$scenario(&machine);
            }
        }
    };
}

pub(crate) use for_everybody;

fn ids(containers: &[Container]) -> Vec<String> {
    containers.iter().map(|container| container.id.clone()).collect()
}

/// Ids and main processes: what must not change when nothing is to be done.
fn identity(project: &Project<'_>) -> Vec<(String, String, Process)> {
    let running = project.containers().into_iter().filter(|container| container.state == "running");
    running.map(|container| (container.name.clone(), container.id.clone(), container.main())).collect()
}

for_everybody!(hello_answers_and_greets_whom_the_environment_names, with(&["busybox"]));

fn hello_answers_and_greets_whom_the_environment_names(machine: &Machine) {
    let hello = machine.sample("hello", "hello");
    hello.ficelle(&["up", "-d"]).ok();
    let page = || eventually(|| hello.get("/")).unwrap();
    assert_eq!(page(), "Hello, world!\n");

    hello.ficelle(&["up", "-d"]).env("NAME", "you").ok();
    assert_eq!(page(), "Hello, you!\n");
}

#[test]
fn the_first_compose_file_of_the_readme_runs() {
    let Some(machine) = Machine::in_own_network(&["busybox", "redis"]) else { return };
    let mut project = machine.compose("first", &crate::readme::first_compose_file());
    project.port = 8000;
    project.ficelle(&["up", "-d"]).ok();
    let page = eventually(|| project.get("/")).unwrap();
    assert!(project.container("web").id.starts_with(page.trim()), "the page is no container's id: {page}");
}

for_everybody!(
    the_guestbook_answers_and_its_entries_survive_down_but_not_down_v,
    with(&["postgres", "redis", "python"])
);

fn the_guestbook_answers_and_its_entries_survive_down_but_not_down_v(machine: &Machine) {
    let book = machine.sample("guestbook", "booktest");
    book.ficelle(&["up", "-d", "--build", "--wait"]).ok();
    let page = book.get("/").unwrap();
    assert!(page.contains("Visit number 1, 0 entries."), "{page}");

    book.post("/", &[("name", "Ada"), ("message", "strings & <knots>")]).unwrap();
    let entry = "<b>Ada</b>: strings &amp; &lt;knots&gt;";
    let page = book.get("/").unwrap();
    assert!(page.contains(entry) && page.contains("1 entries."), "{page}");
    let logged = book.wait_for_line("db", "INSERT INTO entries");
    assert!(logged.contains("'Ada', 'strings & <knots>'"), "{logged}");

    for container in book.containers() {
        assert_eq!(
            (container.state.as_str(), container.health.as_str()),
            ("running", "healthy"),
            "{container:?}"
        );
    }

    book.ficelle(&["down"]).ok();
    assert!(book.containers().is_empty());
    assert!(book.get("/").is_err(), "the page answers after `down`");
    book.ficelle(&["up", "-d", "--wait"]).ok();
    let page = book.get("/").unwrap();
    assert!(page.contains(entry), "the entry did not survive `down`: {page}");

    let had = ids(&book.containers());
    book.ficelle(&["down", "-v"]).ok();
    let traces = book.traces(&had);
    assert!(traces.is_empty(), "left behind:\n{}", traces.join("\n"));

    book.ficelle(&["up", "-d", "--wait"]).ok();
    let page = book.get("/").unwrap();
    assert!(page.contains("0 entries."), "an entry survived `down -v`: {page}");
}

for_everybody!(
    down_v_leaves_no_process_mount_namespace_cgroup_interface_rule_volume_or_file,
    in_own_network(&["busybox"])
);

fn down_v_leaves_no_process_mount_namespace_cgroup_interface_rule_volume_or_file(machine: &Machine) {
    let before = machine.network().picture();
    let project = machine.compose(
        "leavesnothing",
        r#"
services:
  web:
    image: busybox
    init: true
    command: ["sh", "-c", "echo page >/data/index.html && exec httpd -f -p 80 -h /data"]
    ports: ["${HELLO_PORT}:80"]
    volumes: ["kept:/data", "/scratch"]
    networks: [front, back]
    restart: always
    healthcheck:
      test: ["CMD", "wget", "-qO-", "http://127.0.0.1/"]
      interval: 1s
      start_period: 10s
  idle:
    image: busybox
    command: COMMAND
    networks: [back]
    restart: always
networks:
  front:
  back:
volumes:
  kept:
"#
        .replace("COMMAND", IDLE)
        .as_str(),
    );
    project.ficelle(&["up", "-d", "--wait"]).ok();
    assert_eq!(project.get("/").unwrap(), "page\n");
    let had = ids(&project.containers());
    // The same look that finds nothing later finds something now.
    let now = project.traces_now(&had);
    for kind in ["process ", "cgroup ", "file "] {
        if kind == "cgroup " && !machine.has_cgroups() {
            continue;
        }
        assert!(now.iter().any(|trace| trace.starts_with(kind)), "no {kind}of a running project in {now:#?}");
    }

    project.ficelle(&["down", "-v"]).ok();
    let traces = project.traces(&had);
    assert!(traces.is_empty(), "left behind:\n{}", traces.join("\n"));
    assert_eq!(machine.network().picture(), before, "the network is not as it was");
}

for_everybody!(services_reach_each_other_by_name_and_no_other_project_reaches_them, with(&["busybox"]));

fn services_reach_each_other_by_name_and_no_other_project_reaches_them(machine: &Machine) {
    let ours = machine.compose(
        "ours",
        r#"
services:
  db:
    image: busybox
    init: true
    command: ["sh", "-c", "mkdir /www && echo rows >/www/index.html && hostname -i && exec httpd -f -p 5432 -h /www"]
  web:
    image: busybox
    init: true
    command: ["sh", "-c", "until timeout 5 wget -qO- http://db:5432/; do sleep 1; done; exec sleep 3600"]
"#,
    );
    ours.ficelle(&["up", "-d"]).ok();
    assert_eq!(ours.wait_for_line("web", "rows"), "rows");
    let address = ours.wait_for_line("db", ".");

    // By name and by address, from a project of its own; then what shows that it can reach anybody at all.
    let theirs = machine.compose(
        "theirs",
        &r#"
services:
  friend:
    image: busybox
    init: true
    command: ["sh", "-c", "mkdir /www && echo hello >/www/index.html && exec httpd -f -p 5432 -h /www"]
  intruder:
    image: busybox
    init: true
    command:
      - sh
      - -c
      - |
        until timeout 5 wget -qO- http://friend:5432/; do sleep 1; done
        timeout 5 wget -qO- http://db:5432/ && echo reached by name
        timeout 5 wget -qO- http://ADDRESS:5432/ && echo reached by address
        echo tried all
        exec sleep 3600
"#
        .replace("ADDRESS", address.trim()),
    );
    theirs.ficelle(&["up", "-d"]).ok();
    theirs.wait_for_line("intruder", "tried all");
    let log = theirs.logs("intruder");
    assert!(log.contains("hello"), "the intruder reaches nobody, so the test shows nothing: {log}");
    assert!(!log.contains("reached") && !log.contains("rows"), "{log}");
}

#[test]
fn an_unchanged_up_touches_no_container_and_says_so() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose(
        "unchanged",
        &format!(
            "services:\n  one:\n    image: busybox\n    command: {IDLE}\n    volumes: [\"kept:/v\"]\n  two:\n    image: \
             busybox\n    command: {IDLE}\n    depends_on: [one]\nvolumes:\n  kept:\n"
        ),
    );
    project.ficelle(&["up", "-d"]).ok();
    let first = identity(&project);
    assert_eq!(first.len(), 2);

    let again = project.ficelle(&["up", "-d"]).ok();
    assert_eq!(identity(&project), first, "{}", again.stderr);
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
    let plan = project.ficelle(&["up", "-d", "--dry-run"]).ok();
    assert!(format!("{}{}", plan.stdout, plan.stderr).contains("nothing to do"), "{plan:?}");
}

#[test]
fn a_changed_environment_recreates_that_service_alone_and_the_dry_run_names_the_cause() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let yaml = |colour: &str| {
        format!(
            "services:\n  painted:\n    image: busybox\n    command: {IDLE}\n    environment:\n      COLOUR: {colour}\n  \
             other:\n    image: busybox\n    command: {IDLE}\n"
        )
    };
    let project = machine.compose("painted", &yaml("red"));
    project.ficelle(&["up", "-d"]).ok();
    let (painted, other) = (project.container("painted"), project.container("other"));
    let other_main = other.main();

    project.write(&yaml("green"));
    let plan = project.ficelle(&["up", "-d", "--dry-run"]).ok();
    let said = format!("{}{}", plan.stdout, plan.stderr);
    for word in ["COLOUR", "red", "green", "painted-painted-1"] {
        assert!(said.contains(word), "the dry run does not say {word}: {said}");
    }
    assert_eq!(project.container("painted"), painted, "the dry run changed the container");

    project.ficelle(&["up", "-d"]).ok();
    let new = project.container("painted");
    assert_ne!(new.id, painted.id);
    assert_eq!(new.name, painted.name);
    assert_eq!(new.state, "running");
    assert_eq!(project.container("other"), other);
    assert!(other_main.is_alive(), "the other service was restarted");
}

for_everybody!(an_up_killed_anywhere_is_finished_by_the_next_and_nothing_is_doubled, with(&["busybox"]));

fn an_up_killed_anywhere_is_finished_by_the_next_and_nothing_is_doubled(machine: &Machine) {
    let service = |name: &str, more: &str| {
        format!(
            "  {name}:\n    image: busybox\n    command: {IDLE}\n    volumes: [\"kept:/v\", \"/anonymous\"]\n{more}"
        )
    };
    let yaml = format!(
        "services:\n{}{}{}{}volumes:\n  kept:\n",
        service("a", ""),
        service("b", "    depends_on: [a]\n"),
        service("c", "    depends_on: [b]\n    scale: 2\n"),
        service("d", "")
    );
    for lines in 1..8 {
        let project = machine.compose(&format!("killed{lines}"), &yaml);
        let mut up = project.ficelle(&["--progress", "plain", "up", "-d"]).start();
        // After so many lines of what it did; at the last ones it may have ended already.
        for _ in 0..lines {
            let _ = up.next_line(Duration::from_secs(60));
        }
        up.kill();

        project.ficelle(&["up", "-d"]).ok();
        let all = project.containers();
        let names: Vec<_> =
            all.iter().map(|container| container.name.trim_start_matches(&project.name)).collect();
        assert_eq!(names, ["-a-1", "-b-1", "-c-1", "-c-2", "-d-1"], "after {lines} lines");
        for container in &all {
            assert_eq!(container.state, "running", "{container:?} after {lines} lines");
            let shells = || {
                let all = host::processes_of(&container.id).into_iter();
                all.filter(|process| process.describe().contains("trap")).count()
            };
            // For a moment the shell's child is a second one, before it executes what it is for.
            let one = eventually(|| if shells() == 1 { Ok(()) } else { Err(shells()) });
            assert_eq!(one, Ok(()), "{container:?} runs more than once after {lines} lines");
        }
        let first = identity(&project);
        project.ficelle(&["up", "-d"]).ok();
        assert_eq!(identity(&project), first, "not converged after {lines} lines");

        project.ficelle(&["down", "-v"]).ok();
        let traces = project.traces(&ids(&all));
        assert!(traces.is_empty(), "left behind after {lines} lines:\n{}", traces.join("\n"));
    }
}

for_everybody!(a_killed_main_process_comes_back_and_gets_healthy_though_no_command_runs, with(&["busybox"]));

fn a_killed_main_process_comes_back_and_gets_healthy_though_no_command_runs(machine: &Machine) {
    let project = machine.compose(
        "phoenix",
        r#"
services:
  web:
    image: busybox
    command: ["sh", "-c", "mkdir -p /www; echo up >/www/index.html; exec httpd -f -p 80 -h /www"]
    stop_signal: SIGKILL
    ports: ["${HELLO_PORT}:80"]
    restart: always
    healthcheck:
      test: ["CMD", "wget", "-qO-", "http://127.0.0.1/"]
      interval: 1s
      start_period: 10s
"#,
    );
    project.ficelle(&["up", "-d", "--wait"]).ok();
    let before = project.container("web");
    let main = before.main();
    main.kill();

    // The page and the kernel first: asking ficelle would be a command that runs.
    // What makes a container is in its control group for a moment, too: the one that stays is meant.
    let came_back = eventually(|| match host::processes_of(&before.id).as_slice() {
        [new] if *new != main && host::program(new) == "httpd" => Ok(*new),
        others => Err(others.len()),
    });
    let new = came_back.expect("the container did not come back");
    assert!(!main.is_alive());
    assert_eq!(eventually(|| project.get("/")).unwrap(), "up\n");
    let healthy = eventually(|| match project.container("web") {
        container if container.health == "healthy" => Ok(container),
        container => Err(container.health),
    });
    let after = healthy.unwrap_or_else(|last| panic!("never healthy again: {last:?}"));
    assert_eq!(after.id, before.id);
    assert_eq!(after.main(), new, "it was restarted more than once");
}

#[test]
fn a_taken_port_is_named_with_its_holder_before_anything_is_created() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let yaml = format!(
        "services:\n  web:\n    image: busybox\n    command: {IDLE}\n    ports: [\"${{HELLO_PORT}}:80\"]\n    volumes: \
         [\"kept:/v\"]\nvolumes:\n  kept:\n"
    );
    let project = machine.compose("earlyport", &yaml);
    let holder = TcpListener::bind(("0.0.0.0", project.port)).unwrap();
    let failed = project.ficelle(&["up", "-d"]).fails();
    for word in [project.port.to_string(), std::process::id().to_string()] {
        assert!(failed.stderr.contains(&word), "the message does not name {word}: {}", failed.stderr);
    }
    assert!(project.containers().is_empty(), "a container was created");
    let traces = project.traces(&[]);
    assert!(traces.is_empty(), "created before the port was known to be taken:\n{}", traces.join("\n"));

    drop(holder);
    project.ficelle(&["up", "-d"]).ok();

    let mut second = machine.compose("lateport", &yaml);
    second.port = project.port;
    let failed = second.ficelle(&["up", "-d"]).fails();
    for word in [second.port.to_string().as_str(), "earlyport-web-1"] {
        assert!(failed.stderr.contains(word), "the message does not name {word}: {}", failed.stderr);
    }
    assert!(second.containers().is_empty(), "a container was created");
    assert_eq!(project.container("web").state, "running");
}

for_everybody!(the_queue_is_filled_once_emptied_by_its_workers_and_scales, with(&["redis"]));

fn the_queue_is_filled_once_emptied_by_its_workers_and_scales(machine: &Machine) {
    let queue = machine.sample("worker-queue", "queue");
    queue.ficelle(&["up", "-d"]).ok();
    let fill = queue.container("fill");
    assert_eq!((fill.state.as_str(), fill.exit_code), ("exited", 0));
    assert_eq!(queue.logs("fill"), "queued 20 jobs\n");

    // All but job 13, which kills its worker; the worker comes back.
    queue.wait_for_line("worker", "19 in all");
    assert_eq!(queue.logs("worker").matches("failed at job 13").count(), 1);
    let workers = |project: &Project<'_>| -> Vec<Container> {
        project.containers().into_iter().filter(|container| container.service == "worker").collect()
    };
    let both_run = eventually(|| match workers(&queue) {
        all if all.len() == 2 && all.iter().all(|worker| worker.state == "running") => Ok(all),
        all => Err(all),
    });
    let two = both_run.unwrap_or_else(|all| panic!("{all:?}"));

    queue.ficelle(&["up", "-d", "--scale", "worker=4"]).ok();
    let four = workers(&queue);
    assert_eq!(
        four.iter().map(|worker| worker.name.as_str()).collect::<Vec<_>>(),
        ["queue-worker-1", "queue-worker-2", "queue-worker-3", "queue-worker-4"]
    );
    assert_eq!(ids(&four[..2]), ids(&two), "scaling up recreated the first two");

    queue.ficelle(&["up", "-d", "--scale", "worker=1"]).ok();
    let one = workers(&queue);
    assert_eq!(ids(&one), ids(&two[..1]));
}

for_everybody!(followed_logs_bring_new_lines_and_end_with_the_container, with(&["busybox"]));

fn followed_logs_bring_new_lines_and_end_with_the_container(machine: &Machine) {
    let project = machine.compose(
        "speaker",
        r#"
services:
  speaker:
    image: busybox
    command: ["sh", "-c", "echo first; until [ -e /signals/go ]; do sleep 0.1; done; echo second; echo third >&2"]
    volumes: ["./signals:/signals"]
"#,
    );
    std::fs::create_dir(project.dir.join("signals")).unwrap();
    project.ficelle(&["up", "-d"]).ok();
    let mut follow = project.ficelle(&["logs", "-f", "--no-color"]).start();
    let first = follow.line_with("first").expect("what was written before");
    assert!(first.starts_with("speaker-1"), "{first}");
    std::fs::write(project.dir.join("signals/go"), "").unwrap();
    follow.line_with("second").expect("what is written while it follows");
    follow.line_with("third").expect("the standard error, too");
    assert_eq!(follow.end(), Some(0));

    let last = project.ficelle(&["logs", "-n", "1", "--no-log-prefix", "--no-color"]).ok();
    assert_eq!(last.stdout.lines().count() + last.stderr.lines().count(), 1, "{last:?}");
}
