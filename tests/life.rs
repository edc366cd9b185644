//! The life of real containers and of the programs beside theirs: run, exec, attach, pause, kill, wait.

use std::{path::Path, process::Command};

use serde_json::Value;

use crate::scenarios::stack::{Machine, Project, eventually};

macro_rules! machine {
    () => {
        match Machine::with(&["busybox"]) {
            Some(machine) => machine,
            None => return,
        }
    };
}

/// Ends with 5 when it is asked to.
const PATIENT: &str = r#"["sh", "-c", "trap 'exit 5' TERM; while :; do sleep 0.1; done"]"#;

fn web(extra: &str) -> String {
    format!("services:\n  web:\n    image: busybox\n    command: {PATIENT}\n{extra}")
}

fn code(project: &Project<'_>, args: &[&str]) -> Option<i32> {
    project.ficelle(args).run().code
}

#[test]
fn exec_runs_as_the_containers_own_program_does_and_passes_its_code_on() {
    let machine = machine!();
    let project =
        machine.compose("life-exec", &web("    environment: {A: one, B: two}\n    working_dir: /srv\n"));
    project.ficelle(&["up", "-d"]).ok();
    let done = project.ficelle(&["exec", "web", "sh", "-c", "echo $A $B; pwd; echo no >&2; exit 7"]).run();
    assert_eq!((done.code, done.stdout.as_str()), (Some(7), "one two\n/srv\n"));
    assert!(done.stderr.contains("no\n"), "{}", done.stderr);
    let flags = [
        "exec",
        "-T",
        "-e",
        "B=2",
        "-u",
        "nobody",
        "-w",
        "/tmp",
        "web",
        "sh",
        "-c",
        "echo $A $B; id -un; pwd",
    ];
    assert_eq!(project.ficelle(&flags).ok().stdout, "one 2\nnobody\n/tmp\n");
    assert_eq!(project.ficelle(&["exec", "web", "cat"]).input("typed").ok().stdout, "typed");
    assert_eq!(code(&project, &["exec", "web", "no-such-program"]), Some(127));
    assert_eq!(code(&project, &["exec", "web", "/etc/passwd"]), Some(126));
    assert_eq!(code(&project, &["exec", "--index", "2", "web", "true"]), Some(1));
    assert_eq!(code(&project, &["exec", "web", "sh", "-c", "kill -9 $$"]), Some(137));
    project.ficelle(&["stop"]).ok();
    let told = project.ficelle(&["exec", "web", "true"]).fails().stderr;
    assert!(told.contains("service \"web\" is not running"), "{told}");
}

#[test]
fn exec_is_confined_like_the_container_unless_it_is_privileged() {
    let machine = machine!();
    let project = machine
        .compose("life-confined", &web("    cap_drop: [ALL]\n    security_opt: [no-new-privileges]\n"));
    project.ficelle(&["up", "-d"]).ok();
    let status = |flags: &[&str]| {
        let args: Vec<&str> = [&["exec"], flags, &["web", "cat", "/proc/self/status"]].concat();
        project.ficelle(&args).ok().stdout
    };
    let field = |status: &str, name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    };
    let plain = status(&[]);
    assert_eq!(field(&plain, "CapEff"), "0000000000000000");
    assert_eq!((field(&plain, "NoNewPrivs"), field(&plain, "Seccomp")), ("1".into(), "2".into()));
    let privileged = status(&["--privileged"]);
    assert_ne!(field(&privileged, "CapEff"), "0000000000000000");
    assert_eq!(field(&privileged, "Seccomp"), "2");
}

#[test]
fn a_detached_program_outlives_the_command_and_ends_with_the_container() {
    let machine = machine!();
    let project = machine.compose("life-detached", &web(""));
    project.ficelle(&["up", "-d"]).ok();
    project.ficelle(&["exec", "-d", "web", "sh", "-c", "echo begun > /tmp/begun; exec sleep 1000"]).ok();
    let wait = "until test -e /tmp/begun; do sleep 0.05; done; ps";
    assert!(project.ficelle(&["exec", "web", "sh", "-c", wait]).ok().stdout.contains("sleep 1000"));
    assert_eq!(code(&project, &["exec", "-d", "web", "no-such-program"]), Some(127));
    let ids = [project.container("web").id];
    project.ficelle(&["down", "-t", "0"]).ok();
    assert_eq!(project.traces(&ids), [] as [String; 0]);
}

#[test]
fn a_program_has_a_terminal_when_it_is_asked_for() {
    let machine = machine!();
    let project = machine.compose("life-tty", &web("    tty: true\n    stdin_open: true\n"));
    project.ficelle(&["up", "-d"]).ok();
    let shown =
        project.ficelle(&["exec", "-t", "web", "sh", "-c", "tty; echo $TERM; test -t 0 && exit 3"]).run();
    assert_eq!(shown.code, Some(3), "{shown:?}");
    assert!(shown.stdout.starts_with("/dev/pts/") && shown.stdout.contains("xterm"), "{shown:?}");
    assert_eq!(project.ficelle(&["exec", "-t", "web", "cat"]).input("").run().code, Some(0));
}

#[test]
fn run_starts_what_the_service_needs_and_leaves_nothing_of_itself() {
    let machine = machine!();
    let project = machine.compose(
        "life-run",
        "services:\n  db:\n    image: busybox\n    command: sleep 1000\n    init: true\n    healthcheck: {test: [CMD, 'true'], interval: 1s}\n  job:\n    image: busybox\n    restart: always\n    depends_on: {db: {condition: service_healthy}}\n    environment: {A: one}\n    ports: ['1:1']\n    command: [echo, unasked]\n",
    );
    let script = "echo $A $B; nslookup db > /dev/null && echo found; exit 4";
    let done = project.ficelle(&["run", "--rm", "-e", "B=$x", "job", "sh", "-c", script]).run();
    assert_eq!((done.code, done.stdout.as_str()), (Some(4), "one $x\nfound\n"), "{done:?}");
    assert_eq!(project.containers().len(), 1, "only what it needs");
    assert_eq!(project.container("db").state, "running");
    assert_eq!(project.ficelle(&["run", "--rm", "job"]).ok().stdout, "unasked\n");
    assert_eq!(
        project.ficelle(&["run", "--rm", "-T", "job", "cat"]).input("to the end").ok().stdout,
        "to the end"
    );
    let done = project.ficelle(&["run", "--rm", "job", "no-such-program"]).run();
    assert_eq!(done.code, Some(127), "{done:?}");
    assert_eq!(project.containers().len(), 1);
}

#[test]
fn a_run_is_what_its_flags_say() {
    let machine = machine!();
    let project = machine.compose("life-flags", &web("    entrypoint: ['false']\n"));
    let file = project.dir.join("variables");
    std::fs::write(&file, "FROM_FILE=yes\nB=file\n").unwrap();
    let mount = format!("{}:/mnt:ro", project.dir.display());
    let script =
        "pwd; id -u; id -g; echo $FROM_FILE $B; cat variables | head -1; touch x 2>/dev/null || echo sealed";
    let args = [
        "run",
        "--rm",
        "--entrypoint",
        "",
        "-w",
        "/mnt",
        "-u",
        "12:13",
        "-v",
        &mount,
        "--env-from-file",
        "variables",
        "-e",
        "B=flag",
        "--name",
        "mine",
        "-l",
        "a=b",
        "web",
        "sh",
        "-c",
        script,
    ];
    let said = project.ficelle(&args).ok().stdout;
    assert_eq!(said, "/mnt\n12\n13\nyes flag\nFROM_FILE=yes\nsealed\n");
    let id = project.ficelle(&["run", "-d", "--entrypoint", "sleep", "web", "1000"]).ok().stdout;
    let found = project.container("web");
    assert_eq!(found.id, id.trim());
    assert!(found.name.starts_with("life-flags-web-run-"), "{}", found.name);
    // An `up` is not about it.
    assert_eq!(project.ficelle(&["ps", "-q"]).ok().stdout.lines().count(), 1);
    project.ficelle(&["rm", "-sf"]).ok();
    assert!(project.containers().is_empty());
}

#[test]
fn a_detached_run_removes_itself_and_then_nothing_is_left() {
    let machine = machine!();
    let project = machine.compose("life-gone", &web("    network_mode: none\n"));
    let id = project.ficelle(&["run", "-d", "--rm", "web", "true"]).ok().stdout.trim().to_owned();
    assert_eq!(project.traces(&[id]), [] as [String; 0]);
}

#[test]
fn a_paused_container_does_nothing_until_it_goes_on_and_can_be_stopped() {
    let machine = machine!();
    let project = machine.compose("life-pause", &web("    stop_grace_period: 5s\n"));
    project.ficelle(&["up", "-d"]).ok();
    project.ficelle(&["pause"]).ok();
    assert_eq!(project.container("web").state, "paused");
    let told = project.ficelle(&["exec", "web", "true"]).fails().stderr;
    assert!(told.contains("paused"), "{told}");
    project.ficelle(&["unpause"]).ok();
    project.ficelle(&["exec", "web", "true"]).ok();
    project.ficelle(&["pause"]).ok();
    project.ficelle(&["stop"]).ok();
    assert_eq!(project.container("web").exit_code, 5, "it heard the signal");
}

#[test]
fn a_paused_container_is_not_probed_and_holds_nobody_up() {
    let machine = machine!();
    let yaml = "services:\n  web:\n    image: busybox\n    init: true\n    command: [sleep, '3600']\n    \
                healthcheck: {test: [CMD, 'true'], interval: 50ms, retries: 1}\n  clock:\n    \
                image: busybox\n    init: true\n    command: \
                [sh, -c, 'while :; do echo tick; sleep 0.1; done']\n";
    let project = machine.compose("life-probe", yaml);
    project.ficelle(&["up", "-d", "--wait"]).ok();
    project.ficelle(&["pause", "web"]).ok();
    let ticks = || project.logs("clock").lines().count();
    let before = ticks();
    // Twenty probes would be due meanwhile.
    let goes_on = eventually(|| match ticks() {
        more if more > before + 10 => Ok(()),
        few => Err(few),
    });
    assert_eq!(goes_on, Ok(()), "the clock stands still");
    assert_eq!(project.container("web").health, "healthy");
    project.ficelle(&["unpause", "web"]).ok();
}

#[test]
fn kill_sends_any_signal_and_ends_the_policy_with_the_last_one() {
    let machine = machine!();
    let command = r#"["sh", "-c", "trap 'echo heard' USR1; echo ready; while :; do sleep 0.1; done"]"#;
    let yaml =
        format!("services:\n  web:\n    image: busybox\n    restart: always\n    command: {command}\n");
    let project = machine.compose("life-kill", &yaml);
    project.ficelle(&["up", "-d"]).ok();
    project.wait_for_line("web", "ready");
    project.ficelle(&["kill", "-s", "USR1"]).ok();
    project.wait_for_line("web", "heard");
    let mut waiting = project.ficelle(&["wait", "web"]).start();
    project.ficelle(&["kill"]).ok();
    assert_eq!(waiting.end(), Some(137));
    assert_eq!(
        (project.container("web").state.as_str(), project.container("web").exit_code),
        ("exited", 137)
    );
    project.ficelle(&["kill", "-s", "NOSUCH"]).ok();
    project.ficelle(&["start", "--wait"]).ok();
    assert!(project.ficelle(&["kill", "-s", "NOSUCH"]).fails().stderr.contains("`NOSUCH` is no signal"));
}

#[test]
fn rm_removes_what_does_not_run_and_only_when_sure() {
    let machine = machine!();
    let project = machine.compose("life-rm", &web("    stop_grace_period: 1s\n"));
    project.ficelle(&["up", "-d"]).ok();
    project.ficelle(&["rm", "-f"]).ok();
    assert_eq!(project.containers().len(), 1, "it runs");
    project.ficelle(&["stop"]).ok();
    project.ficelle(&["rm"]).ok();
    assert_eq!(project.containers().len(), 1, "nobody could be asked");
    project.ficelle(&["rm", "-f"]).ok();
    assert_eq!(project.containers().len(), 0);
}

#[test]
fn scale_makes_and_removes_replicas() {
    let machine = machine!();
    let project = machine.compose("life-scale", &web("    stop_grace_period: 0s\n"));
    project.ficelle(&["scale", "web=3"]).ok();
    assert_eq!(project.containers().len(), 3);
    project.ficelle(&["scale", "web=1"]).ok();
    assert_eq!(project.container("web").name, "life-scale-web-1");
}

#[test]
fn what_runs_and_what_it_uses_is_shown() {
    let machine = machine!();
    let yaml = web("    volumes: ['data:/data']\n    mem_limit: 64m\nvolumes: {data: {}}\n");
    let project = machine.compose("life-shown", &yaml);
    project.ficelle(&["up", "-d"]).ok();
    let top = project.ficelle(&["top"]).ok().stdout;
    assert!(
        top.lines().nth(1).is_some_and(|line| line.starts_with("web") && line.contains("trap 'exit 5' TERM")),
        "{top}"
    );
    let stats: Value =
        serde_json::from_str(&project.ficelle(&["stats", "--no-stream", "--format", "json"]).ok().stdout)
            .unwrap();
    assert_eq!(stats["Name"], "life-shown-web-1");
    assert!(stats["MemUsage"].as_str().unwrap().ends_with("/ 64MiB"), "{stats}");
    assert!(stats["PIDs"].as_str().unwrap().parse::<u32>().unwrap() >= 1, "{stats}");
    let projects: Value =
        serde_json::from_str(&project.ficelle(&["ls", "--format", "json"]).ok().stdout).unwrap();
    assert_eq!(projects[0]["Name"], "life-shown");
    assert_eq!(projects[0]["Status"], "running(1)");
    assert_eq!(project.ficelle(&["volumes", "-q"]).ok().stdout, "life-shown_data\n");
}

#[test]
fn events_tell_what_happens_as_it_happens() {
    let machine = machine!();
    let project = machine.compose("life-events", &web("    stop_grace_period: 1s\n    labels: {mine: x}\n"));
    project.ficelle(&["create"]).ok();
    let mut events = project.ficelle(&["events", "--json", "--since", "1h"]).start();
    let mut next = |action: &str| {
        let line = events.line_with("\"action\"").unwrap();
        let event: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(event["action"], action, "{line}");
        event
    };
    let created = next("create");
    assert_eq!(
        (&created["service"], &created["attributes"]["mine"]),
        (&Value::from("web"), &Value::from("x"))
    );
    project.ficelle(&["start"]).ok();
    next("start");
    project.ficelle(&["pause"]).ok();
    next("pause");
    project.ficelle(&["unpause"]).ok();
    next("unpause");
    project.ficelle(&["stop"]).ok();
    assert_eq!(next("die")["attributes"]["exitCode"], "5");
    project.ficelle(&["rm", "-f"]).ok();
    next("destroy");
    events.kill();
}

#[test]
fn a_log_is_as_large_as_it_may_be_and_no_larger() {
    let machine = machine!();
    let flood = "    command: [sh, -c, 'seq 1 20000']\n    logging: {driver: json-file, options: {max-size: 10k, max-file: '3'}}\n";
    let project = machine.compose("life-logs", &format!("services:\n  web:\n    image: busybox\n{flood}"));
    project.ficelle(&["up", "-d"]).ok();
    project.ficelle(&["wait", "web"]).ok();
    let logs = project.logs("web");
    assert_eq!(logs.lines().last(), Some("20000"));
    assert!((10_000..=30_720).contains(&logs.len()), "{}", logs.len());
    let tail = project.ficelle(&["logs", "-n", "3", "--no-log-prefix"]).ok().stdout;
    assert_eq!(tail, "19998\n19999\n20000\n");
    project
        .write("services:\n  web:\n    image: busybox\n    command: echo x\n    logging: {driver: syslog}\n");
    let told = project.ficelle(&["up", "-d"]).fails().stderr;
    assert!(told.contains("no logging driver `syslog`") && told.contains("compose.yaml:5"), "{told}");
}

#[test]
fn what_keeps_no_log_can_be_watched_and_not_read_again() {
    let machine = machine!();
    let yaml =
        "services:\n  web:\n    image: busybox\n    command: echo heard\n    logging: {driver: none}\n";
    let project = machine.compose("life-none", yaml);
    assert_eq!(project.ficelle(&["run", "--rm", "web"]).ok().stdout, "heard\n");
    project.ficelle(&["up", "-d"]).ok();
    project.ficelle(&["wait", "web"]).run();
    assert!(project.ficelle(&["logs"]).fails().stderr.contains("keeps no log"));
}

#[test]
fn files_are_copied_both_ways_and_no_link_of_the_container_leads_out() {
    let machine = machine!();
    let project = machine.compose(
        "life-cp",
        &web("    volumes: ['data:/data']\n    stop_grace_period: 0s\nvolumes: {data: {}}\n"),
    );
    project.ficelle(&["up", "-d"]).ok();
    let dir = &project.dir;
    std::fs::create_dir_all(dir.join("tree/below")).unwrap();
    std::fs::write(dir.join("tree/below/file"), "content").unwrap();
    project.ficelle(&["cp", "tree", "web:/data"]).ok();
    project.ficelle(&["cp", "tree/.", "web:/tmp/new"]).ok();
    let shown =
        project.ficelle(&["exec", "web", "cat", "/data/tree/below/file", "/tmp/new/below/file"]).ok().stdout;
    assert_eq!(shown, "contentcontent");
    project.ficelle(&["cp", "web:/tmp/new/below/file", "back"]).ok();
    assert_eq!(std::fs::read_to_string(dir.join("back")).unwrap(), "content");
    let secret = dir.join("secret");
    std::fs::write(&secret, "of the host").unwrap();
    let link = format!("ln -s {} /data/link; ln -s {} /data/dir", secret.display(), dir.display());
    project.ficelle(&["exec", "web", "sh", "-c", &link]).ok();
    project.ficelle(&["cp", "-L", "web:/data/link", "stolen"]).fails();
    project.ficelle(&["cp", "back", "web:/data/dir/planted"]).fails();
    assert!(!dir.join("planted").exists() && !dir.join("stolen").exists());
    project.ficelle(&["stop"]).ok();
    project.ficelle(&["cp", "web:/tmp/new", "stopped"]).ok();
    assert_eq!(std::fs::read_to_string(dir.join("stopped/below/file")).unwrap(), "content");
    project.ficelle(&["export", "web", "-o", "all.tar"]).ok();
    let listed = Command::new("tar").args(["-tf", "all.tar"]).current_dir(dir).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).lines().any(|line| line == "tmp/new/below/file"));
    assert!(project.ficelle(&["cp", "web:/a", "web:/b"]).fails().stderr.contains("between services"));
}

#[test]
fn a_step_of_a_pipeline_runs_in_an_image_that_is_built_once_and_its_files_are_the_callers() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

    let machine = machine!();
    let project = machine.sample("ci-step", "life-ci");
    std::fs::set_permissions(&project.dir, std::fs::Permissions::from_mode(0o777)).unwrap();
    let here = project.dir.display().to_string();
    let step = |args: &[&str]| {
        let all = [&["run", "--rm", "--user", "1234:1235", "step"], args].concat();
        project.ficelle(&all).env("PWD", &here).run()
    };
    let first = step(&["count", "text"]);
    assert_eq!(first.code, Some(0), "{first:?}");
    let written = std::fs::metadata(project.dir.join("out/words")).unwrap();
    assert_eq!((written.uid(), written.gid()), (1234, 1235));
    let again = step(&["pwd"]);
    assert_eq!(again.stdout.trim(), here);
    assert!(!again.stderr.contains("Built"), "{again:?}");
    assert_eq!(step(&["sh", "-c", "exit 4"]).code, Some(4));
    assert!(project.containers().is_empty());
}

#[test]
fn an_end_for_want_of_memory_is_told_as_such() {
    let machine = machine!();
    if !machine.has_cgroups() {
        return;
    }
    let project = machine.compose(
        "life-oom",
        "services:\n  web:\n    image: busybox\n    command: [tail, /dev/zero]\n    mem_limit: 16m\n    memswap_limit: 16m\n",
    );
    project.ficelle(&["up", "-d"]).ok();
    assert_eq!(project.ficelle(&["wait", "web"]).run().code, Some(137));
    let told = project.ficelle(&["ps", "-a"]).ok().stdout;
    assert!(told.contains("Exited (137)") && told.contains("(OOMKilled)"), "{told}");
    let told: Value =
        serde_json::from_str(project.ficelle(&["ps", "-a", "--format", "json"]).ok().stdout.trim()).unwrap();
    assert_eq!(told["OOMKilled"], true, "{told}");
}

#[test]
fn a_commit_is_an_image_of_what_a_container_has_changed() {
    let machine = machine!();
    let project = machine.compose("life-commit", &web("    environment: {KIND: first}\n"));
    project.ficelle(&["up", "-d"]).ok();
    let change = "echo made >/made; rm /etc/passwd; mkdir -p /dir/below";
    project.ficelle(&["exec", "web", "sh", "-c", change]).ok();
    let changed = [
        "-c",
        "CMD [\"sh\", \"-c\", \"cat /made; ls /dir; echo $KIND; test ! -e /etc/passwd\"]",
        "-m",
        "why",
    ];
    let mut args = vec!["commit", "web", "life-made:1"];
    args.extend(changed);
    let id = project.ficelle(&args).ok().stdout;
    assert!(id.starts_with("sha256:"), "{id}");
    assert_eq!(project.container("web").state, "running", "it went on");
    project.ficelle(&["down"]).ok();
    project.write("services:\n  web: {image: 'life-made:1'}\n");
    assert_eq!(project.ficelle(&["run", "--rm", "web"]).ok().stdout, "made\nbelow\nfirst\n");
    let told = project.ficelle(&["commit", "-c", "RUN true", "web"]).fails().stderr;
    assert!(told.contains("has no container"), "{told}");
}

#[test]
fn the_images_of_containers_are_listed() {
    let machine = machine!();
    let project = machine.compose("life-images", &web(""));
    assert_eq!(project.ficelle(&["images", "--format", "json"]).ok().stdout, "[]\n");
    project.ficelle(&["create"]).ok();
    let shown: Value =
        serde_json::from_str(&project.ficelle(&["images", "--format", "json"]).ok().stdout).unwrap();
    let image = &shown[0];
    assert_eq!(
        (&image["ContainerName"], &image["Repository"]),
        (&"life-images-web-1".into(), &"busybox".into())
    );
    let id = project.ficelle(&["images", "-q"]).ok().stdout;
    assert_eq!(image["ID"], format!("sha256:{}", id.trim_end()));
    let table = project.ficelle(&["images", "web"]).ok().stdout;
    assert!(table.starts_with("CONTAINER           REPOSITORY   TAG"), "{table}");
}

#[test]
fn a_copy_sees_the_volumes_of_a_container_that_does_not_run() {
    let machine = machine!();
    let extra =
        "    volumes: ['data:/data', './bound:/bound', '/anonymous', 'data:/kept:ro']\nvolumes: {data: {}}\n";
    let project = machine.compose("life-cp-stopped", &web(extra));
    std::fs::create_dir(project.dir.join("bound")).unwrap();
    std::fs::write(project.dir.join("file"), "content").unwrap();
    project.ficelle(&["create"]).ok();
    for place in ["/data/a", "/bound/b", "/anonymous/c"] {
        project.ficelle(&["cp", "file", &format!("web:{place}")]).ok();
    }
    assert_eq!(std::fs::read_to_string(project.dir.join("bound/b")).unwrap(), "content");
    project.ficelle(&["cp", "file", "web:/kept/d"]).fails();
    project.ficelle(&["start"]).ok();
    let shown = project.ficelle(&["exec", "web", "cat", "/data/a", "/bound/b", "/anonymous/c"]).ok().stdout;
    assert_eq!(shown, "contentcontentcontent");
    project.ficelle(&["stop"]).ok();
    project.ficelle(&["cp", "web:/data/a", "back"]).ok();
    assert_eq!(std::fs::read_to_string(project.dir.join("back")).unwrap(), "content");
}

#[test]
fn a_run_whose_command_was_killed_is_removed_when_it_ends() {
    let machine = machine!();
    let project = machine.compose("life-orphan", &web("    network_mode: none\n"));
    let mut run = project.ficelle(&["run", "--rm", "web", "sh", "-c", "echo begun; exec sleep 1000"]).start();
    run.line_with("begun").unwrap();
    run.kill();
    let left = project.containers();
    assert_eq!((left.len(), left[0].state.as_str()), (1, "running"), "the container outlives the command");
    project.ficelle(&["kill"]).ok();
    assert_eq!(project.traces(&[left[0].id.clone()]), [] as [String; 0]);
    assert_eq!(
        code(&project, &["run", "--rm", "web", "sh", "-c", "exit 7"]),
        Some(7),
        "an end is learnt first"
    );
    assert!(project.containers().is_empty());
}

#[test]
fn a_program_of_exec_is_ended_as_soon_as_the_container_for_want_of_memory() {
    let machine = machine!();
    let project = machine.compose("life-score", &web("    oom_score_adj: 333\n"));
    project.ficelle(&["up", "-d"]).ok();
    let score = project.ficelle(&["exec", "web", "cat", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj"]);
    assert_eq!(score.ok().stdout, "333\n333\n");
}

#[test]
fn gc_finds_what_killed_processes_left_and_leaves_what_is_at_work() {
    let machine = machine!();
    let project = machine.compose("life-gc", &web("    network_mode: none\n"));
    project.ficelle(&["up", "-d"]).ok();
    let (run, data) = (machine.root().join("run"), machine.root().join("data"));
    let quiet = |args: &[&str]| project.ficelle(args).ok().stdout;
    assert_eq!(quiet(&["gc"]), "", "nothing of a project at work is debris");
    // What commands that were killed leave: half-made and half-removed, of this project and of others.
    for left in ["p/dead/c", "p/life-gc/c/.0123456789abcdef.kept/upper"] {
        std::fs::create_dir_all(data.join(left)).unwrap();
    }
    for left in ["p/dead/c/fedcba9876543210", "once/aaaa"] {
        std::fs::create_dir_all(run.join(left)).unwrap();
    }
    std::fs::create_dir_all(data.join("images/tmp/Zz00-left/deep")).unwrap();
    let told = quiet(&["--dry-run", "gc"]);
    let expected = [
        "would remove dead: run directory and control groups of container fedcba9876543210",
        "would remove life-gc: half-made container 0123456789abcdef",
        "would remove builds: container aaaa",
        "images/tmp/Zz00-left",
    ];
    for line in expected {
        assert!(told.contains(line), "{line} is not in {told}");
    }
    assert!(run.join("once/aaaa").exists(), "a dry run removes nothing");
    assert_eq!(quiet(&["gc"]), told.replace("would remove", "removed"));
    for gone in ["run/p/dead", "data/p/dead", "run/once", "data/images/tmp/Zz00-left"] {
        assert!(!machine.root().join(gone).exists(), "{gone}");
    }
    assert!(!data.join("p/life-gc/c/.0123456789abcdef.kept").exists());
    assert_eq!(project.container("web").state, "running");
    assert_eq!(quiet(&["gc"]), "");
}

#[test]
fn lists_take_templates() {
    let machine = machine!();
    let project =
        machine.compose("life-template", &web("    volumes: ['data:/data']\nvolumes: {data: {}}\n"));
    project.ficelle(&["up", "-d"]).ok();
    let shown = |args: &[&str]| project.ficelle(args).ok().stdout;
    assert_eq!(shown(&["ps", "--format", "{{.Name}} {{.State}}"]), "life-template-web-1 running\n");
    assert_eq!(
        shown(&["ps", "--format", r"table {{.Service}}\t{{.ExitCode}}"]),
        "SERVICE   EXITCODE\nweb       0\n"
    );
    assert_eq!(shown(&["volumes", "--format", "{{json .Name}}"]), "\"life-template_data\"\n");
    assert_eq!(shown(&["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}"]).split(' ').count(), 2);
    let told = project.ficelle(&["ps", "--format", "{{.Nmae}}"]).fails().stderr;
    assert!(told.contains("`.Nmae` is no field of this list") && told.contains(".Name, "), "{told}");
}

/// An attached `up` on a terminal of its own, which is gone when the child that holds it is killed. Its process
/// is in the file `pid`.
fn at_a_terminal(project: &Project<'_>, machine: &Machine) -> std::process::Child {
    use std::process::Stdio;

    let program = env!("CARGO_BIN_EXE_ficelle");
    let line = format!("echo $$ >pid; exec {program} -p {} up --no-color", project.name);
    Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .current_dir(&project.dir)
        .env("FICELLE_ROOT", machine.root())
        .env("TERM", "xterm")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Reads what is shown until it holds `text`.
fn shown_until(terminal: &mut impl std::io::Read, text: &str) {
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&all).contains(text) {
        let length = terminal.read(&mut buffer).unwrap_or(0);
        assert!(length > 0, "`{text}` was not shown: {}", String::from_utf8_lossy(&all));
        all.extend_from_slice(&buffer[..length]);
    }
}

/// Says when it has begun and when it is asked to end, and takes its time then.
const SLOW: &str =
    r#"["sh", "-c", "trap 'echo asked; sleep 1000' TERM; echo begun; while :; do sleep 0.1; done"]"#;

#[test]
fn ctrl_c_at_a_terminal_stops_and_a_second_one_does_not_wait() {
    use std::io::Write as _;

    let machine = machine!();
    let yaml = format!(
        "services:\n  web: {{image: busybox, network_mode: none, stop_grace_period: 1h, command: {SLOW}}}\n"
    );
    let project = machine.compose("life-keys", &yaml);
    let mut up = at_a_terminal(&project, &machine);
    let (mut keys, mut screen) = (up.stdin.take().unwrap(), up.stdout.take().unwrap());
    shown_until(&mut screen, "begun");
    keys.write_all(&[3]).unwrap();
    shown_until(&mut screen, "Gracefully stopping");
    shown_until(&mut screen, "asked");
    assert_eq!(project.container("web").state, "running", "it has its hour");
    keys.write_all(&[3]).unwrap();
    // Somebody must read, or the command waits to be read.
    std::io::copy(&mut screen, &mut std::io::sink()).unwrap();
    assert_eq!(up.wait().unwrap().code(), Some(130));
    let web = project.container("web");
    assert_eq!((web.state.as_str(), web.exit_code), ("exited", 137));
}

#[test]
fn a_terminal_that_is_closed_leaves_the_containers_running() {
    let machine = machine!();
    let yaml = format!(
        "services:\n  web: {{image: busybox, network_mode: none, stop_grace_period: 0s, command: {SLOW}}}\n"
    );
    let project = machine.compose("life-hangup", &yaml);
    let mut up = at_a_terminal(&project, &machine);
    shown_until(&mut up.stdout.take().unwrap(), "begun");
    let pid = std::fs::read_to_string(project.dir.join("pid")).unwrap();
    up.kill().unwrap();
    up.wait().unwrap();
    let command = Path::new("/proc").join(pid.trim());
    eventually(|| if command.exists() { Err(()) } else { Ok(()) }).unwrap();
    assert_eq!(project.container("web").state, "running");
    project.ficelle(&["down"]).ok();
}

#[test]
fn ps_lists_ports_as_docker_compose_does() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let yaml = "services:\n  web:\n    image: busybox\n    init: true\n    command: [sleep, '1000']\n    \
                ports: ['${HELLO_PORT}:80', '127.0.0.1:${HELLO_PORT}:81/udp']\n    \
                expose: ['5432', '6000-6001/udp', '80']\n";
    let project = machine.compose("ports-listed", yaml);
    project.ficelle(&["up", "-d"]).ok();
    let port = project.port;
    let told = project.ficelle(&["ps", "--format", "{{.Ports}}"]).ok().stdout;
    let six = Path::new("/proc/net/if_inet6").exists();
    let all = if six { format!(", [::]:{port}->80/tcp") } else { String::new() };
    assert_eq!(
        told.trim(),
        format!("5432/tcp, 6000-6001/udp, 0.0.0.0:{port}->80/tcp{all}, 127.0.0.1:{port}->81/udp")
    );
    let told = project.ficelle(&["ps", "--format", "json"]).ok().stdout;
    let told: Value = serde_json::from_str(&told).unwrap();
    let publishers = told["Publishers"].as_array().unwrap();
    let urls: Vec<_> = publishers.iter().map(|one| one["URL"].as_str().unwrap()).collect();
    let mut all = vec!["0.0.0.0", "::", "127.0.0.1", "", "", ""];
    all.retain(|url| six || *url != "::");
    assert_eq!(urls, all);
    assert_eq!(publishers[0]["PublishedPort"], port);
    assert_eq!(publishers.last().unwrap()["PublishedPort"], 0);
    let bound = project.ficelle(&["port", "web", "80"]).ok().stdout;
    assert_eq!(bound.trim(), format!("0.0.0.0:{port}"));
    project.ficelle(&["stop", "-t", "0"]).ok();
    let told = project.ficelle(&["ps", "-a", "--format", "{{.Ports}}"]).ok().stdout;
    assert_eq!(told.trim(), "", "what does not run listens at nothing");
}

/// What the kernel holds nobody can end.
#[test]
fn a_down_that_waits_for_a_throttled_device_says_so() {
    let Some(machine) = Machine::with(&["busybox"]) else { return };
    let root = machine.root();
    let found =
        Command::new("findmnt").args(["-no", "SOURCE", "-T", root.to_str().unwrap()]).output().unwrap();
    let device = String::from_utf8(found.stdout).unwrap().trim().to_owned();
    if !device.starts_with("/dev/")
        || !Path::new("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device").exists()
    {
        eprintln!("SKIPPED: no device below {}, or no blkio controller of version 1", root.display());
        return;
    }
    let write = "echo begun; exec dd if=/dev/zero of=/v/file bs=512k count=1 oflag=direct";
    let project = machine.compose(
        "throttled",
        &format!(
            "services:\n  slow:\n    image: busybox\n    init: true\n    command: [sh, -c, '{write}']\n    \
             volumes: ['./v:/v']\n    blkio_config: {{device_write_bps: [{{path: {device}, rate: 64k}}]}}\n"
        ),
    );
    project.ficelle(&["up", "-d"]).ok();
    project.wait_for_line("slow", "begun");
    let down = project.ficelle(&["down", "-t", "0"]).ok();
    assert!(down.stderr.contains("throttled-slow-1: process "), "{}", down.stderr);
    assert!(down.stderr.contains("(`dd`) of it was killed and waits in the kernel"), "{}", down.stderr);
    assert!(project.containers().is_empty());
}
