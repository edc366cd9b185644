//! Services that a program of somebody else's provides: what it is told, what its dependents get.

use std::{fs, os::unix::fs::PermissionsExt as _};

use crate::scenarios::stack::{Machine, Project};

/// Writes down what it is asked, and answers with what stands in the file `answer`.
const PROVIDER: &str = "#!/bin/sh\n[ \"$2\" = metadata ] && exit 1\necho \"$*\" >>calls\n[ \"$3\" = up ] || exit 0\ncat answer\n";

const SHOP: &str = r#"
services:
  web:
    image: busybox
    init: true
    command: sleep 1000
    depends_on: [db]
  db:
    provider:
      type: ./provider
      options: {size: 256, name: [a, b]}
"#;

fn shop<'a>(machine: &'a Machine, name: &str, answer: &str) -> Project<'a> {
    let project = machine.compose(name, SHOP);
    let program = project.dir.join("provider");
    fs::write(&program, PROVIDER).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(project.dir.join("answer"), answer).unwrap();
    project
}

fn calls(project: &Project<'_>) -> String {
    let file = project.dir.join("calls");
    let text = fs::read_to_string(&file).unwrap_or_default();
    fs::write(file, "").unwrap();
    text
}

const ANSWER: &str = r#"{"type":"info","message":"making"}
{"type":"debug","message":"unseen"}
{"type":"setenv","message":"URL=http://db"}
{"type":"rawsetenv","message":"TOKEN=t=1"}
"#;

#[test]
fn dependents_have_what_a_provider_sets_and_it_is_given_back() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = shop(&machine, "provider", ANSWER);
    let up = || project.ficelle(&["up", "-d"]).ok();
    up();
    assert_eq!(calls(&project), "compose --project-name=provider up --size=256 --name=a --name=b db\n");
    let environment = project.ficelle(&["exec", "web", "env"]).ok().stdout;
    assert!(
        environment.contains("DB_URL=http://db\n") && environment.contains("TOKEN=t=1\n"),
        "{environment}"
    );
    assert_eq!(project.containers().len(), 1, "the provider is no container");

    let before = project.container("web").id;
    up();
    assert_eq!(project.container("web").id, before, "nothing has changed");
    let dry = project.ficelle(&["--dry-run", "up", "-d"]).ok().stdout;
    assert!(dry.contains("ask provider ./provider for up of db") && !dry.contains("container"), "{dry}");
    fs::write(project.dir.join("answer"), ANSWER.replace("http://db", "http://other")).unwrap();
    up();
    assert_ne!(project.container("web").id, before, "what it hands over is part of its dependents");
    let environment = project.ficelle(&["exec", "web", "env"]).ok().stdout;
    assert!(environment.contains("DB_URL=http://other\n"), "{environment}");

    calls(&project);
    project.ficelle(&["stop"]).ok();
    assert_eq!(calls(&project), "", "one that does not say that it can stop is not asked to");
    project.ficelle(&["down"]).ok();
    assert_eq!(calls(&project), "compose --project-name=provider down --size=256 --name=a --name=b db\n");
}

#[test]
fn what_a_provider_says_of_its_failure_is_told_with_the_place() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = shop(&machine, "provider-fails", "{\"type\":\"error\",\"message\":\"no quota\"}\n");
    let told = project.ficelle(&["up", "-d"]).fails().stderr;
    assert!(told.contains("no quota") && told.contains("compose.yaml:9:"), "{told}");
    assert!(project.containers().is_empty(), "nothing starts without it");

    fs::write(project.dir.join("answer"), "hello\n").unwrap();
    let told = project.ficelle(&["up", "-d"]).fails().stderr;
    assert!(told.contains("`hello`, which is no message of a provider"), "{told}");

    project.write(&SHOP.replace("./provider", "no-such-provider"));
    let told = project.ficelle(&["up", "-d"]).fails().stderr;
    assert!(told.contains("there is no provider `no-such-provider`"), "{told}");
    assert!(told.contains("install the plugin `docker-no-such-provider`"), "{told}");
}

#[test]
fn a_provider_that_describes_itself_gets_the_options_it_knows() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let project = shop(&machine, "provider-meta", "");
    let metadata =
        r#"{"description":"d","up":{"parameters":[{"name":"size","required":true}]},"down":{},"stop":{}}"#;
    let program = PROVIDER.replace("exit 1", &format!("{{ echo '{metadata}'; exit 0; }}"));
    fs::write(project.dir.join("provider"), program).unwrap();
    project.ficelle(&["up", "-d"]).ok();
    project.ficelle(&["stop"]).ok();
    assert_eq!(
        calls(&project),
        "compose --project-name=provider-meta up --size=256 db\ncompose --project-name=provider-meta stop db\n"
    );
    project.write(&SHOP.replace("size: 256, ", ""));
    let told = project.ficelle(&["up", "-d"]).fails().stderr;
    assert!(told.contains("needs the option `size`"), "{told}");
}
