//! Every command through the binary, on the simulated engine: what it prints, where, and its code.

use std::{
    io::{BufRead, BufReader, Read as _},
    process::Child,
};

use crate::support::{Place, said};

const STACK: &str = "
services:
  web:
    image: web:1
    command: serve
    environment: {DEBUG: '0'}
    depends_on: [db]
  db:
    image: db:1
    command: serve
    volumes: ['data:/data']
volumes:
  data:
";

const FAILING: &str = "
services:
  app:
    image: app:1
    command: serve
    depends_on: {init: {condition: service_completed_successfully}}
  init: {image: init:1, command: exit 4}
  other: {image: other:1, command: serve}
";

fn pairs(states: &[(String, String)]) -> Vec<(&str, &str)> {
    states.iter().map(|(name, state)| (name.as_str(), state.as_str())).collect()
}

#[test]
fn up_brings_everything_and_a_second_up_changes_nothing_and_says_so() {
    let place = Place::new(STACK);
    let first = place.run("up -d");
    assert_eq!(first.stdout, "", "results only on stdout");
    for line in [" Network demo_default  Created  TIME", " Container demo-web-1  Started  TIME"] {
        assert!(first.talk().lines().any(|said| said == line), "{line}: {}", first.talk());
    }
    let before = place.containers();
    assert_eq!(pairs(&place.states()), [("demo-db-1", "running"), ("demo-web-1", "running")]);

    let second = place.run("up -d");
    assert_eq!(
        second.stderr,
        " Container demo-db-1  Running\n Container demo-web-1  Running\n\
         demo: nothing to do, 2 containers are as the files say\n"
    );
    assert_eq!(place.containers(), before);
}

#[test]
fn a_dry_run_prints_the_plan_with_its_causes_and_changes_nothing() {
    let place = Place::new(STACK);
    place.run("up -d");
    let before = place.containers();
    place.write("compose.yaml", &STACK.replace("DEBUG: '0'", "DEBUG: '1'"));
    let dry = place.run("--dry-run up -d");
    assert!(dry.stdout.contains("create container demo-web-1"), "{}", dry.stdout);
    assert!(dry.stdout.contains("environment.DEBUG: 0 -> 1 (compose.yaml:6:"), "{}", dry.stdout);
    assert!(!dry.stdout.contains("demo-db-1"), "only what changed is touched: {}", dry.stdout);
    assert!(dry.stderr.contains("DRY-RUN MODE"));
    assert_eq!(place.containers(), before);
    place.run("up -d");
    let after = place.containers();
    assert_eq!(after[0], before[0], "db was left alone");
    assert_ne!(after[1]["ID"], before[1]["ID"], "web was made anew");
    assert_eq!(place.run("--dry-run up -d").stdout, "nothing to do\n");
}

#[test]
fn down_leaves_nothing_but_volumes_and_can_be_repeated() {
    let place = Place::new(STACK);
    place.run("up -d");
    let down = place.run("down");
    assert!(down.talk().contains(" Network demo_default  Removed  TIME\n"), "{}", down.talk());
    assert!(!down.stderr.contains("Volume"), "volumes are kept: {}", down.stderr);
    assert!(place.containers().is_empty());
    assert_eq!(place.run("down").stderr, "warning: no resource found to remove for project `demo`\n");
    assert!(place.run("down -v").talk().contains(" Volume demo_data  Removed  TIME\n"));
}

#[test]
fn a_named_project_needs_no_file_to_be_seen_and_removed() {
    let place = Place::new(STACK);
    place.run("up -d");
    let ps = place.try_run_elsewhere("-p demo ps --services");
    assert_eq!((ps.code, ps.stdout.as_str()), (Some(0), "db\nweb\n"), "{ps:?}");
    let stop = place.try_run_elsewhere("-p demo stop web");
    assert!(stop.stderr.contains("demo-web-1  Stopped"), "{stop:?}");
    assert_eq!(place.try_run_elsewhere("-p demo down").code, Some(0));
    assert!(place.containers().is_empty());
    let unnamed = place.try_run_elsewhere("ps");
    assert_eq!(unnamed.code, Some(1));
    assert!(unnamed.stderr.contains("no configuration file provided"), "{unnamed:?}");
}

#[test]
fn containers_stop_start_and_restart() {
    let place = Place::new(STACK);
    place.run("create");
    assert_eq!(pairs(&place.states()), [("demo-db-1", "created"), ("demo-web-1", "created")]);
    place.run("start");
    assert_eq!(pairs(&place.states()), [("demo-db-1", "running"), ("demo-web-1", "running")]);
    place.run("stop web");
    assert_eq!(pairs(&place.states()), [("demo-db-1", "running"), ("demo-web-1", "exited")]);
    let restart = place.run("restart");
    assert!(restart.stderr.contains("demo-db-1  Stopped"), "{}", restart.stderr);
    assert_eq!(pairs(&place.states()), [("demo-db-1", "running"), ("demo-web-1", "running")]);
}

#[test]
fn services_scale() {
    let place = Place::new(STACK);
    place.run("up -d --scale web=3");
    assert_eq!(place.run("ps -q web").stdout.lines().count(), 3);
    let unknown = place.fail(1, "up -d --scale wbe=3");
    assert!(unknown.stderr.contains("did you mean `web`?"), "{}", unknown.stderr);
    assert!(place.fail(1, "up --scale web").stderr.contains("SERVICE=NUM"));
}

#[test]
fn ps_lists_what_runs_in_the_shapes_scripts_read() {
    let place = Place::new(FAILING);
    place.fail(1, "up -d");
    let table = place.run("ps").quietly().stdout;
    let rows: Vec<&str> = table.lines().collect();
    assert!(rows[0].starts_with("NAME "), "{table}");
    assert_eq!(
        rows[0].split_whitespace().collect::<Vec<_>>(),
        ["NAME", "IMAGE", "COMMAND", "SERVICE", "CREATED", "STATUS", "PORTS"]
    );
    assert_eq!(rows.len(), 2, "only what runs: {table}");
    assert!(rows[1].contains("demo-other-1") && rows[1].contains("\"serve\"") && rows[1].contains("Up "));
    let exited = place.run("ps --status exited --format json").quietly().stdout;
    let container: serde_json::Value = serde_json::from_str(exited.trim()).unwrap();
    let keys: Vec<&str> = container.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(
        keys,
        [
            "Command",
            "CreatedAt",
            "ExitCode",
            "Health",
            "ID",
            "Image",
            "Labels",
            "LocalVolumes",
            "Mounts",
            "Name",
            "Names",
            "Networks",
            "Ports",
            "Project",
            "Publishers",
            "RunningFor",
            "Service",
            "Size",
            "State",
            "Status",
        ]
    );
    assert_eq!(container["Service"], "init");
    assert_eq!(container["ExitCode"], 4);
    assert!(container["Status"].as_str().unwrap().starts_with("Exited (4)"));
    assert_eq!(place.run("ps --services").stdout, "other\n");
    let ids = place.run("ps -aq").stdout;
    assert!(ids.lines().count() == 3 && ids.lines().all(|id| id.len() == 64), "{ids}");
    assert!(place.fail(1, "ps othr").stderr.contains("did you mean `other`?"));
}

#[test]
fn a_failed_dependency_skips_its_dependents_and_shows_what_happened() {
    let place = Place::new(FAILING);
    let stderr = place.fail(1, "up -d").stderr;
    assert!(stderr.contains(" Container demo-app-1  Skipped  Container demo-init-1 failed\n"), "{stderr}");
    for fact in ["demo-init-1 exited: code 4", "needed by: app", "help: `ficelle logs init`"] {
        assert!(stderr.contains(fact), "{fact}: {stderr}");
    }
    let states = place.states();
    assert!(states.contains(&("demo-app-1".into(), "created".into())), "{states:?}");
    assert!(states.contains(&("demo-other-1".into(), "running".into())), "{states:?}");
}

#[test]
fn an_attached_up_passes_output_and_the_exit_code_on() {
    // The job ends at once, which ends the run: what is to be stopped has to be there before it.
    let place = Place::new(
        "services: {job: {image: a, command: echo hello, depends_on: [other]}, other: {image: b, command: serve}}",
    );
    let up = place.run("up --abort-on-container-exit job other");
    assert!(up.stdout.starts_with("Attaching to job-1, other-1\n"), "{}", up.stdout);
    assert!(up.stdout.contains("job-1    | hello\n"), "{}", up.stdout);
    assert!(up.stdout.contains("job-1 exited with code 0\n"), "{}", up.stdout);
    assert!(up.stderr.contains("demo-other-1  Stopped"), "{}", up.stderr);
    Place::new(FAILING).fail(4, "up --exit-code-from init init other");
    // Of its own: the simulated clock may run ahead, and an end of the run before look like one of this.
    let place = Place::new(FAILING);
    place.fail(4, "up --abort-on-container-failure init other");
    assert_eq!(place.run("logs --no-log-prefix other").stdout, "");
}

#[test]
fn logs_are_prefixed_cut_and_stamped_as_asked() {
    let place =
        Place::new("services: {a: {image: a, command: echo one}, bee: {image: b, command: echo two}}");
    place.run("up -d");
    let mut lines: Vec<String> = place.run("logs").quietly().stdout.lines().map(ToOwned::to_owned).collect();
    lines.sort();
    assert_eq!(lines, ["a-1    | one", "bee-1  | two"]);
    assert_eq!(place.run("logs --no-log-prefix a").stdout, "one\n");
    assert_eq!(place.run("logs -n 0 a").stdout, "");
    let stamped = place.run("logs -t --no-log-prefix a").stdout;
    assert!(stamped.ends_with("Z one\n"), "{stamped}");
    assert!(place.fail(1, "logs --since whenever").stderr.contains("is no time"));
    assert!(place.fail(1, "logs -n x").stderr.contains("expected a number or `all`"));
}

#[test]
fn a_published_port_is_found() {
    let place = Place::new("services: {web: {image: a, command: serve, ports: ['127.0.0.1:8099:80']}}");
    place.run("up -d");
    assert_eq!(place.run("port web 80").quietly().stdout, "127.0.0.1:8099\n");
    let none = place.fail(1, "port web 81");
    assert!(none.stderr.starts_with("error: no port 81/tcp for container demo-web-1\n"), "{}", none.stderr);
    assert!(none.stderr.contains("it publishes 80/tcp"));
    assert!(place.fail(1, "port web 80 --index 2").stderr.contains("no container number 2"));
}

#[test]
fn pull_and_build_say_what_they_did() {
    let place = Place::new("services: {web: {image: a}, made: {build: .}}");
    place.write("Dockerfile", "FROM scratch\n");
    let pull = place.run("pull");
    assert_eq!(pull.talk(), "service made is built: nothing to pull\n Image a  Pulled  TIME\n");
    let build = place.run("build");
    assert!(build.talk().contains(" Image demo-made  Built  TIME\n"), "{}", build.talk());
    let place = Place::new("services: {web: {image: a}}");
    assert!(place.run("build").stderr.contains("no service to build"));
}

#[test]
fn config_prints_data_and_nothing_else() {
    let place = Place::new(STACK);
    assert!(place.run("config").quietly().stdout.starts_with("name: demo\nservices:\n"));
    let json: serde_json::Value =
        serde_json::from_str(&place.run("config --format json").quietly().stdout).unwrap();
    assert_eq!(json["services"]["web"]["image"], "web:1");
    assert_eq!(place.run("config --services").stdout, "db\nweb\n");
    assert_eq!(place.run("config --volumes").stdout, "data\n");
    assert_eq!(place.run("config --images").stdout, "db:1\nweb:1\n");
    assert_eq!(place.run("config -q").quietly().stdout, "");
    let hash = place.run("config --hash web").stdout;
    place.run("up -d");
    let labels = place.containers()[1]["Labels"].as_str().unwrap().to_owned();
    let digest = hash.trim().strip_prefix("web ").unwrap();
    assert!(labels.contains(&format!("com.docker.compose.config-hash={digest}")), "{digest} {labels}");
    place.run("config -o out.yaml");
    assert!(std::fs::read_to_string(place.path().join("out.yaml")).unwrap().contains("image: web:1"));
}

#[test]
fn the_version_has_three_forms() {
    let place = Place::empty();
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!(place.run("version").stdout, format!("Ficelle version v{version}\n"));
    assert_eq!(place.run("version --short").stdout, format!("{version}\n"));
    assert_eq!(place.run("version --format json").stdout, format!("{{\"version\":\"v{version}\"}}\n"));
    assert_eq!(place.run("-v").stdout, format!("ficelle v{version}\n"));
}

#[test]
fn images_are_listed_and_removed_by_name() {
    let place = Place::new(STACK);
    place.run("pull");
    let table = place.run("image ls").quietly().stdout;
    assert!(table.lines().any(|line| line.starts_with("web          1")), "{table}");
    assert_eq!(place.run("image rm web:1").stdout, "Untagged: web:1\n");
    assert!(!place.run("image ls").stdout.contains("\nweb "));
    assert_eq!(place.fail(1, "image rm web:1").stdout, "");
    assert!(place.fail(1, "image rm Not/Valid").stderr.contains("upper-case"));
    let missing = place.fail(1, "image load -i missing.tar");
    assert!(missing.stderr.contains("missing.tar"), "{}", missing.stderr);
}

#[test]
fn bad_files_are_told_with_their_place_and_change_nothing() {
    let bad = [
        ("services: {web: [", "compose.yaml:"),
        ("services:\n  web:\n    imgae: x\n", "compose.yaml:3:5\n"),
        ("services:\n  web: {image: x, networks: [nowhere]}\n", "nowhere"),
        ("services:\n  web: {image: x, depends_on: [dbb]}\n  db: {image: y}\n", "dbb"),
        ("services:\n  a: {image: x, depends_on: [b]}\n  b: {image: y, depends_on: [a]}\n", "a -> b -> a"),
        ("services: {}\n", "no service selected"),
    ];
    for (text, expected) in bad {
        let place = Place::new(text);
        let up = place.fail(1, "up -d");
        assert!(up.stderr.contains(expected), "{text}: {}", up.stderr);
        assert!(up.stderr.starts_with("error: "), "{}", up.stderr);
        assert_eq!(up.stdout, "");
        assert!(!place.root().exists(), "nothing was touched for {text}");
    }
    let missing = Place::empty().fail(1, "-f missing.yaml up");
    assert!(missing.stderr.contains("`missing.yaml` not found"), "{}", missing.stderr);
}

#[test]
fn every_mistake_of_a_file_is_told_at_once() {
    let place = Place::new("services:\n  web:\n    imgae: x\n    portz: []\n");
    let up = place.fail(1, "up -d");
    assert!(up.stderr.contains("`imgae`") && up.stderr.contains("`portz`"), "{}", up.stderr);
    assert!(up.stderr.contains("did you mean `image`?"), "{}", up.stderr);
}

#[test]
fn what_the_engine_cannot_honour_is_refused_where_it_stands() {
    let place = Place::new("services:\n  web:\n    image: x\n    use_api_socket: true\n");
    let up = place.fail(1, "up -d");
    assert!(up.stderr.contains("--> compose.yaml:4:"), "{}", up.stderr);
    assert!(
        up.stderr.contains("`services.web.use_api_socket` cannot be: there is no daemon"),
        "{}",
        up.stderr
    );
    place.run("config -q");
    place.run("ps").quietly();
    place.write("compose.yaml", "services:\n  web:\n    image: x\n    storage_opt: {size: 1g}\n");
    let up = place.run("up -d");
    assert!(up.stderr.contains("warning: `services.web.storage_opt` means something"), "{}", up.stderr);
    place.fail(2, "--strict up -d");
}

#[test]
fn a_strict_run_takes_warnings_for_errors() {
    let place = Place::new("services: {web: {image: 'x${UNSET}', command: serve}}");
    assert!(place.run("up -d").stderr.contains("warning"));
    let strict = place.fail(2, "--strict up -d");
    assert!(strict.stderr.starts_with("error"), "{}", strict.stderr);
}

#[test]
fn mistyped_commands_and_flags_get_a_suggestion() {
    let place = Place::new(STACK);
    assert!(place.fail(1, "upp").stderr.contains("'up'"));
    assert!(place.fail(1, "up --detahc").stderr.contains("'--detach'"));
    assert!(place.fail(1, "up webb").stderr.contains("did you mean `web`?"));
    assert!(place.fail(1, "up -d --abort-on-container-exit").stderr.contains("cannot be used with"));
    place.fail(2, "image frobnicate");
    assert!(place.run("").stdout.contains("Usage: ficelle"));
}

#[test]
fn engines_that_are_not_there_are_told() {
    let place = Place::new(STACK);
    let docker = place.fail(2, "--engine docker ps");
    assert!(docker.stderr.contains("no engine `docker` yet"), "{}", docker.stderr);
    assert!(place.fail(2, "--engine dokcer ps").stderr.contains("no engine `dokcer`"));
}

#[test]
fn a_named_service_needs_no_profile_turned_on() {
    let place = Place::new(
        "services: {web: {image: a, command: serve}, tool: {image: b, command: serve, profiles: [debug]}}",
    );
    place.run("up -d");
    assert_eq!(place.run("ps --services").stdout, "web\n");
    place.run("up -d tool");
    assert_eq!(place.run("--profile debug ps --services").stdout, "tool\nweb\n");
    assert!(place.fail(1, "stop tool").stderr.contains("--profile debug"));
}

#[test]
fn progress_can_be_json_or_quiet() {
    let place = Place::new(STACK);
    let up = place.run("--progress json up -d");
    assert!(up.stderr.lines().count() > 4);
    for line in up.stderr.lines() {
        let event: serde_json::Value = serde_json::from_str(line).unwrap();
        assert_eq!(event["v"], 1, "{line}");
    }
    let failed = place.fail(1, "--progress json up -d nothing");
    let event: serde_json::Value = serde_json::from_str(failed.stderr.trim()).unwrap();
    assert_eq!((&event["error"], &event["message"]), (&true.into(), &"no such service: nothing".into()));
    place.run("--progress quiet down").quietly();
}

#[test]
fn colours_come_only_where_they_are_wanted() {
    let plain = Place::new(STACK);
    assert!(!plain.run("up -d").stderr.contains('\u{1b}'));
    assert!(plain.run("--ansi always --dry-run down").stdout.contains('\u{1b}'));
    let forced = Place::new(STACK).with("CLICOLOR_FORCE", "1");
    assert!(forced.run("--dry-run up").stdout.contains('\u{1b}'));
    let never = Place::new(STACK).with("CLICOLOR_FORCE", "1").with("NO_COLOR", "1");
    assert!(!never.run("--dry-run up").stdout.contains('\u{1b}'));
    let empty = Place::new(STACK).with("CLICOLOR_FORCE", "1").with("NO_COLOR", "");
    assert!(empty.run("--dry-run up").stdout.contains('\u{1b}'), "an empty NO_COLOR says nothing");
}

#[test]
fn a_closed_pipe_ends_a_command_quietly() {
    let place = Place::new(STACK);
    place.run("up -d");
    let mut child = place.spawn("config");
    drop(child.stdout.take());
    let said = said(child.wait_with_output().unwrap());
    assert_eq!((said.code, said.stderr.as_str()), (Some(0), ""));
}

/// Reads the first line that the child prints: it runs, and follows.
fn first_line(child: &mut Child) -> (String, impl BufRead + use<>) {
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    (line, stdout)
}

fn signal(child: &Child, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_child(child);
    rustix::process::kill_process(pid, signal).unwrap();
}

#[test]
fn a_signal_stops_what_an_attached_up_started() {
    for (sent, code) in [(rustix::process::Signal::INT, 130), (rustix::process::Signal::TERM, 143)] {
        let last = "  last: {image: last:1, command: echo ready, depends_on: [web]}\nvolumes:";
        let place = Place::new(&STACK.replace("volumes:\n  data", &format!("{last}\n  data")));
        let mut child = place.spawn("up");
        let (line, mut rest) = first_line(&mut child);
        assert_eq!(line, "Attaching to db-1, last-1, web-1\n");
        let mut ready = String::new();
        rest.read_line(&mut ready).unwrap();
        assert_eq!(ready, "last-1  | ready\n");
        signal(&child, sent);
        let mut text = String::new();
        rest.read_to_string(&mut text).unwrap();
        let said = said(child.wait_with_output().unwrap());
        assert_eq!(said.code, Some(code), "{said:?}");
        assert!(said.stderr.contains("Gracefully stopping"), "{said:?}");
        let states = place.states();
        assert!(states.len() == 3 && states.iter().all(|(_, state)| state == "exited"), "{states:?}");
    }
}

#[test]
fn output_is_shown_while_other_services_still_wait_and_ctrl_c_ends_the_wait() {
    let place = Place::new(
        "
services:
  job: {image: a, command: echo hello}
  slow: {image: b, command: serve}
  late: {image: c, command: serve, depends_on: {slow: {condition: service_completed_successfully}}}
",
    );
    let mut child = place.spawn("up");
    let (line, mut rest) = first_line(&mut child);
    assert_eq!(line, "Attaching to job-1, late-1, slow-1\n");
    let mut said_early = String::new();
    rest.read_line(&mut said_early).unwrap();
    assert_eq!(said_early, "job-1   | hello\n", "late-1 cannot start: slow-1 never completes");
    signal(&child, rustix::process::Signal::INT);
    let mut text = String::new();
    rest.read_to_string(&mut text).unwrap();
    let said = said(child.wait_with_output().unwrap());
    assert_eq!(said.code, Some(130), "{said:?}");
    assert!(said.stderr.contains("Gracefully stopping"), "{said:?}");
    let states = place.states();
    let ran = |name: &str| states.iter().any(|(n, state)| n == name && state == "exited");
    assert!(ran("demo-job-1") && !ran("demo-late-1"), "{states:?}");
    assert!(!states.iter().any(|(_, state)| state == "running"), "{states:?}");
}

#[test]
fn followed_logs_end_with_a_signal_and_touch_nothing() {
    let place = Place::new("services: {a: {image: a, command: serve}, b: {image: b, command: echo one}}");
    place.run("up -d");
    let mut child = place.spawn("logs -f");
    let (line, _rest) = first_line(&mut child);
    assert_eq!(line, "b-1  | one\n");
    signal(&child, rustix::process::Signal::INT);
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert!(place.states().contains(&("demo-a-1".into(), "running".into())));
}
