//! `post_start` and `pre_stop` on real containers, and in the plans that start and stop them.

use std::{fs, os::unix::fs::PermissionsExt as _};

use ficelle::model::{Condition, Hook, Project as Model};
use insta::assert_snapshot;

use crate::{
    scenarios::stack::{Machine, Project, eventually},
    stage::{Stage, With, down, project, service, up},
};

fn hook(words: &str) -> Hook {
    Hook { command: words.split(' ').map(str::to_owned).collect(), ..Hook::default() }
}

/// A database with hooks and what needs it.
fn hooked() -> Model {
    let mut db = service("db");
    db.container.post_start = vec![hook("true"), hook("echo seeded")];
    db.container.pre_stop = vec![hook("true")];
    project([db, service("web").needs("db", Condition::ServiceStarted)])
}

#[test]
fn dependents_start_after_the_hooks_and_stop_before_them() {
    let (stage, hooked) = (Stage::new(), hooked());
    stage.pull(&hooked);
    assert_snapshot!(stage.plan(&hooked, &up(&hooked)).unwrap(), @r"
    create network demo_default (missing)
    create container demo-db-1 (missing)
    create container demo-web-1 (missing)
    start container demo-db-1 (new)
    run post_start[0] in container demo-db-1 (after its start)
    run post_start[1] in container demo-db-1 (after its start)
    start container demo-web-1 (new)
    ");
    assert!(stage.play(&hooked, &up(&hooked)).report.is_success());
    assert_snapshot!(stage.plan(&hooked, &down(&hooked, false)).unwrap(), @r"
    stop container demo-web-1 (asked for)
    remove container demo-web-1 (asked for)
    run pre_stop[0] in container demo-db-1 (before its stop, may fail)
    stop container demo-db-1 (asked for)
    remove container demo-db-1 (asked for)
    remove network demo_default (asked for)
    ");
}

#[test]
fn a_failed_hook_keeps_dependents_from_starting_and_nothing_from_ending() {
    let stage = Stage::new();
    let mut hooked = hooked();
    stage.pull(&hooked);
    let db = &mut hooked.services["db"].container;
    (db.post_start, db.pre_stop) = (vec![hook("false")], vec![hook("false")]);
    let begun = stage.play(&hooked, &up(&hooked)).report;
    assert_eq!((begun.failed.len(), begun.skipped.len()), (1, 1));
    let ended = stage.play(&hooked, &down(&hooked, false)).report;
    assert_eq!((ended.failed.len(), ended.skipped.len()), (1, 0), "the container is gone all the same");
    assert!(stage.containers(&hooked).is_empty());
}

#[test]
fn hooks_that_a_killed_command_or_a_failure_left_are_run_by_the_next() {
    let stage = Stage::new();
    let mut hooked = hooked();
    stage.pull(&hooked);
    // The second fails: the first is not run again, and what needs the container waits for it.
    hooked.services["db"].container.post_start[1] = hook("false");
    stage.play(&hooked, &up(&hooked));
    assert_snapshot!(stage.plan(&hooked, &up(&hooked)).unwrap(), @r"
    run post_start[1] in container demo-db-1 (left by an interrupted command)
    start container demo-web-1 (not running)
    unchanged: container demo-db-1
    ");
    assert_eq!(stage.play(&hooked, &up(&hooked)).report.skipped.len(), 1);
}

const APP: &str = r#"
services:
  web:
    image: busybox
    init: true
    command: sleep 1000
    environment: {KIND: container, MORE: more}
    volumes: ["./log:/log"]
    post_start:
      - command: sh -c 'echo started $$KIND $$MORE $$(pwd) >>/log/all'
        environment: {KIND: hook, MORE: }
        working_dir: /tmp
      - command: sh -c 'id -un >>/log/all; grep CapEff /proc/self/status >/log/caps'
        user: root
        privileged: true
    pre_stop:
      - command: sh -c 'echo stopping >>/log/all'
"#;

fn log(project: &Project<'_>) -> String {
    let file = project.dir.join("log/all");
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, "").unwrap();
    text
}

#[test]
fn hooks_run_wherever_roots_command_starts_or_stops() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    hooks_run_wherever_a_command_starts_or_stops(&machine);
}

#[test]
fn hooks_run_wherever_a_users_command_starts_or_stops() {
    let Some(machine) = Machine::of_user(&["busybox"]) else { return };
    hooks_run_wherever_a_command_starts_or_stops(&machine);
}

fn hooks_run_wherever_a_command_starts_or_stops(machine: &Machine) {
    let project = machine.compose("hooks-run", APP);
    let run = |args: &[&str]| project.ficelle(args).ok();
    const STARTED: &str = "started hook /tmp\nroot\n";
    fs::create_dir(project.dir.join("log")).unwrap();
    // The files are the user's who runs the command.
    fs::set_permissions(project.dir.join("log"), fs::Permissions::from_mode(0o777)).unwrap();
    run(&["up", "-d"]);
    assert_eq!(log(&project), STARTED);
    let caps = fs::read_to_string(project.dir.join("log/caps")).unwrap();
    let own = run(&["exec", "web", "grep", "CapEff", "/proc/self/status"]).stdout;
    assert_ne!(caps, own, "a privileged hook has all capabilities");
    run(&["up", "-d"]);
    assert_eq!(log(&project), "", "nothing was started");
    run(&["restart"]);
    assert_eq!(log(&project), format!("stopping\n{STARTED}"));
    run(&["up", "-d", "--force-recreate"]);
    let recreated = log(&project);
    assert!(recreated.contains("stopping\n") && recreated.contains(STARTED), "{recreated}");
    run(&["stop"]);
    assert_eq!(log(&project), "stopping\n");
    run(&["start"]);
    assert_eq!(log(&project), STARTED);
    run(&["kill"]);
    assert_eq!(log(&project), "", "a signal runs no hook");
    run(&["down"]);
    assert_eq!(log(&project), "", "what does not run has nothing to stop");
    run(&["run", "--rm", "web", "sleep", "1"]);
    assert_eq!(log(&project), STARTED);
}

#[test]
fn a_hook_whose_command_was_killed_is_run_by_the_next() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let hook =
        "sh -c 'echo begun >>/log/all; while test -e /log/hold; do sleep 0.01; done; echo done >>/log/all'";
    let project = machine.compose(
        "hooks-killed",
        &format!(
            "services:\n  web:\n    image: busybox\n    init: true\n    command: sleep 1000\n    volumes: ['./log:/log']\n    \
             post_start: [{{command: {hook}}}]\n"
        ),
    );
    fs::create_dir(project.dir.join("log")).unwrap();
    let [hold, all] = ["log/hold", "log/all"].map(|name| project.dir.join(name));
    fs::write(&hold, "").unwrap();
    let mut up = project.ficelle(&["up", "-d"]).start();
    eventually(|| fs::read_to_string(&all).map(drop)).unwrap();
    up.kill();
    let main = project.container("web").main();
    fs::remove_file(&all).unwrap();
    fs::remove_file(&hold).unwrap();
    let again = project.ficelle(&["up", "-d"]).ok();
    assert!(log(&project).contains("begun\ndone\n"), "{}", again.stderr);
    assert!(main.is_alive(), "the container ran on");
    let again = project.ficelle(&["up", "-d"]).ok();
    assert!(again.stderr.contains("nothing to do"), "{}", again.stderr);
}

#[test]
fn a_hook_that_fails_tells_its_place_and_its_last_words() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let yaml = |hooks: &str| {
        format!("services:\n  web:\n    image: busybox\n    init: true\n    command: sleep 1000\n{hooks}")
    };
    let project = machine.compose(
        "hooks-fail",
        &yaml("    post_start:\n      - command: sh -c 'seq 1 20; exit 3'\n    pre_stop:\n      - command: no-such\n"),
    );
    let up = project.ficelle(&["up", "-d"]).run();
    assert_eq!(up.code, Some(1));
    assert!(up.stderr.contains("web hook exited with status 3"), "{}", up.stderr);
    assert!(up.stderr.contains("compose.yaml:7:"), "{}", up.stderr);
    assert!(up.stderr.contains("    | 11\n") && up.stderr.contains("    | 20\n"), "{}", up.stderr);
    assert!(!up.stderr.contains("    | 10\n"), "only the last ten: {}", up.stderr);
    assert_eq!(project.container("web").state, "running");
    let again = project.ficelle(&["up", "-d"]).run();
    assert_eq!(again.code, Some(1), "what failed is owed still: {again:?}");
    let down = project.ficelle(&["down"]).run();
    assert_eq!(down.code, Some(1));
    assert!(down.stderr.contains("web hook exited with status 127"), "{}", down.stderr);
    assert_eq!(project.containers().len(), 0, "it is gone all the same");
}

const INIT: &str = r#"
services:
  web:
    image: busybox
    init: true
    command: sleep 1000
    environment: {KIND: service}
    volumes: ["data:/data", "/own"]
    pre_start:
      - command: ["sh", "-c", "echo one $$KIND >>/data/log; echo seen >/own/file"]
      - command: ["sh", "-c", "echo two $$KIND >>/data/log; test ! -e /data/fail || { echo why; exit 17; }"]
        environment: {KIND: hook}
volumes: {data: {}}
"#;

#[test]
fn what_a_service_needs_first_is_done_once_before_its_first_container_starts() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = machine.compose("hooks-init", INIT);
    let log = || project.ficelle(&["exec", "web", "cat", "/data/log"]).ok().stdout;
    const ONCE: &str = "one service\ntwo hook\n";
    project.ficelle(&["create"]).ok();
    project.ficelle(&["start"]).ok();
    assert_eq!(log(), ONCE);
    let own = project.ficelle(&["exec", "web", "cat", "/own/file"]).ok().stdout;
    assert_eq!(own, "seen\n", "it has the volumes of the container that follows");
    project.ficelle(&["up", "-d", "--scale", "web=2"]).ok();
    assert_eq!(log(), ONCE, "one runs already");
    assert_eq!(project.containers().len(), 2, "nothing is left of what ran before");
    project.ficelle(&["up", "-d", "--force-recreate"]).ok();
    assert_eq!(log(), format!("{ONCE}{ONCE}"));
    project.ficelle(&["exec", "web", "touch", "/data/fail"]).ok();
    let failed = project.ficelle(&["up", "-d", "--force-recreate"]).run();
    assert_eq!(failed.code, Some(1));
    for part in ["pre_start[1]", "web hook exited with status 17", "compose.yaml:11:", "    | why\n"] {
        assert!(failed.stderr.contains(part), "{part} is not in {}", failed.stderr);
    }
    assert_eq!(project.container("web").state, "created");
}
