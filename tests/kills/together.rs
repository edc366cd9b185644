//! Several commands on one project at the same time: none fails, and what is there afterwards is what one
//! of them would have made.

use super::{assert_no_trace, ids};
use crate::scenarios::{
    for_everybody,
    stack::{Machine, Project, Started},
};

/// Rounds of each meeting; `FICELLE_ROUNDS` asks for more.
pub(super) fn rounds() -> usize {
    std::env::var("FICELLE_ROUNDS").map_or(1, |rounds| rounds.parse().expect("FICELLE_ROUNDS is a number"))
}

fn yaml(version: usize) -> String {
    let service = |name: &str| {
        format!(
            "  {name}:\n    image: busybox\n    init: true\n    command: [sleep, '3600']\n    \
             environment: {{VERSION: '{version}'}}\n    volumes: ['kept:/v', '/anonymous']\n"
        )
    };
    format!("services:\n{}{}volumes:\n  kept:\n", service("one"), service("two"))
}

const UP: &[&str] = &["up", "-d"];
const DOWN: &[&str] = &["down", "-v", "-t", "0"];

/// All must succeed, with a `ps` again and again meanwhile.
fn at_once(project: &Project<'_>, commands: &[&[&str]]) {
    let mut all: Vec<_> = commands.iter().map(|args| project.ficelle(args).start()).collect();
    while all.iter_mut().any(Started::runs) {
        project.ficelle(&["ps", "-a"]).ok();
    }
    for (command, args) in all.iter_mut().zip(commands) {
        assert_eq!(command.end(), Some(0), "{args:?} beside {commands:?}\n{}", command.rest());
    }
}

/// The state that one `up` makes, with this version.
fn assert_as_one_up(project: &Project<'_>, version: usize, volumes: usize) {
    let all = project.containers();
    let states: Vec<_> = all.iter().map(|c| (c.name.as_str(), c.state.as_str())).collect();
    let name = |service: &str| format!("{}-{service}-1", project.name);
    assert_eq!(states, [(&*name("one"), "running"), (&*name("two"), "running")]);
    for service in ["one", "two"] {
        let told = project.ficelle(&["exec", service, "sh", "-c", "echo $VERSION"]).ok().stdout;
        assert_eq!(told.trim(), version.to_string());
    }
    assert!(project.ficelle(UP).ok().stderr.contains("nothing to do"));
    let data = project.machine().root().join("data/volumes");
    assert_eq!(std::fs::read_dir(data).unwrap().count(), volumes);
}

for_everybody!(commands_that_meet_on_one_project_all_succeed, with(&["busybox"]));

fn commands_that_meet_on_one_project_all_succeed(machine: &Machine) {
    for round in 0..rounds() {
        let project = machine.compose(&format!("meet{round}"), &yaml(1));
        at_once(&project, &[UP, UP, UP]);
        assert_as_one_up(&project, 1, 3);
        // Both see that everything must be made anew.
        project.write(&yaml(2));
        at_once(&project, &[UP, UP]);
        assert_as_one_up(&project, 2, 3);
        let all = ids(&project.containers());
        at_once(&project, &[DOWN, UP]);
        at_once(&project, &[UP]);
        assert_as_one_up(&project, 2, 3);
        at_once(&project, &[UP, DOWN, &["restart", "-t", "0"]]);
        assert_no_trace(&project, &all, "after commands that met");
    }
}

for_everybody!(projects_that_come_and_go_side_by_side_do_not_disturb_each_other, with(&["busybox"]));

/// What they share (networks, addresses, control groups, the anchor) is made and removed all the time.
fn projects_that_come_and_go_side_by_side_do_not_disturb_each_other(machine: &Machine) {
    let projects: Vec<_> = (0..4).map(|number| machine.compose(&format!("side{number}"), &yaml(1))).collect();
    for _ in 0..3 * rounds() {
        for command in [UP, DOWN] {
            let mut all: Vec<_> = projects.iter().map(|project| project.ficelle(command).start()).collect();
            for running in &mut all {
                assert_eq!(running.end(), Some(0), "{command:?}\n{}", running.rest());
            }
        }
    }
    for project in &projects {
        assert_no_trace(project, &[], "after all came and went");
    }
}
