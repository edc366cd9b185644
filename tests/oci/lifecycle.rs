//! Create, start, state, kill, delete, exec, pause: what may follow what.

use std::{fs, os::unix::net::UnixListener};

use serde_json::{Value, json};

use super::{bundle, refused};

#[test]
fn a_container_lives_through_its_states() {
    let Some(mut bundle) = bundle() else { return };
    bundle.script("sleep 100").write();
    let file = bundle.path().join("pid");
    bundle.ok(&format!("create --bundle BUNDLE --pid-file {} ID", file.display()));
    assert_eq!(bundle.status(), "created");
    assert_eq!(fs::read_to_string(file).unwrap().trim(), bundle.pid().to_string());
    assert!(bundle.fails("create --bundle BUNDLE ID").contains("already"));
    bundle.ok("start ID");
    assert_eq!(bundle.status(), "running");
    bundle.fails("start ID");
    bundle.fails("delete ID");
    bundle.ok("kill ID KILL");
    while bundle.status() != "stopped" {}
    let before = bundle.ok("state ID").stdout;
    bundle.fails("kill ID KILL");
    assert_eq!(bundle.ok("state ID").stdout, before, "a signal for nobody has no effect");
    bundle.fails("start ID");
    bundle.ok("delete ID");
    bundle.fails("state ID");
    bundle.fails("delete ID");
    bundle.ok("delete --force ID");
}

#[test]
fn what_is_not_there_is_told() {
    let Some(bundle) = bundle() else { return };
    bundle.write();
    for words in [
        "start nobody",
        "state nobody",
        "kill nobody KILL",
        "delete nobody",
        "exec nobody true",
        "pause nobody",
        "resume nobody",
        "ps nobody",
    ] {
        assert!(bundle.fails(words).contains("nobody"), "{words}");
    }
    assert!(bundle.fails("create --bundle /no/such/place ID").contains("/no/such/place"));
    for id in ["", "../up", "a/b", "..", "."] {
        bundle.fails(&format!("create --bundle BUNDLE {id}"));
        bundle.fails(&format!("kill {id} KILL"));
    }
}

#[test]
fn the_state_has_what_the_specification_asks_for() {
    let Some(mut bundle) = bundle() else { return };
    bundle.set("/annotations", json!({"org.example.a": "b"})).script("sleep 100").write();
    bundle.ok("create --bundle BUNDLE ID");
    let state: Value = serde_json::from_str(&bundle.ok("state ID").stdout).unwrap();
    assert_eq!(state["id"], bundle.id);
    assert_eq!(state["bundle"], bundle.path().display().to_string());
    assert_eq!(state["annotations"]["org.example.a"], "b");
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."));
    let listed: Value = serde_json::from_str(&bundle.ok("list --format json").stdout).unwrap();
    assert_eq!(listed[0]["id"], bundle.id);
    assert_eq!(bundle.ok("list -q").stdout, format!("{}\n", bundle.id));
    assert_eq!(bundle.ok("ps ID --format json").stdout, format!("[{}]\n", bundle.pid()));
}

#[test]
fn one_that_was_only_made_can_be_killed_and_deleted() {
    let Some(mut bundle) = bundle() else { return };
    bundle.script("sleep 100").write();
    bundle.ok("create --bundle BUNDLE ID");
    bundle.ok("kill ID KILL");
    while bundle.status() != "stopped" {}
    bundle.ok("delete ID");
    bundle.ok("create --bundle BUNDLE ID");
    bundle.ok("delete ID");
}

#[test]
fn signals_arrive_by_name_and_number() {
    for (name, signal) in
        [("USR1", "USR1"), ("USR1", "SIGUSR1"), ("USR1", "10"), ("TERM", "TERM"), ("USR2", "USR2")]
    {
        let Some(mut bundle) = bundle() else { return };
        bundle.running(&format!(
            "trap 'echo got >/tmp/got; exit 3' {name}; touch /tmp/ready; while true; do sleep 0.05; done",
        ));
        let inside = bundle.rootfs().join("tmp");
        while !inside.join("ready").exists() {}
        bundle.ok(&format!("kill ID {signal}"));
        while bundle.status() != "stopped" {}
        assert_eq!(fs::read_to_string(inside.join("got")).unwrap(), "got\n");
    }
    let Some(mut bundle) = bundle() else { return };
    let bundle = bundle.running("trap '' HUP; sleep 100");
    bundle.ok("kill ID HUP");
    assert_eq!(bundle.status(), "running", "it ignores that signal");
    assert!(bundle.fails("kill ID NOSUCH").contains("NOSUCH"));
    bundle.ok("kill --all ID KILL");
    while bundle.status() != "stopped" {}
}

#[test]
fn a_frozen_container_does_nothing_until_it_goes_on() {
    let Some(mut bundle) = bundle() else { return };
    let bundle = bundle.running("sleep 100");
    bundle.fails("resume ID");
    bundle.ok("pause ID");
    assert_eq!(bundle.status(), "paused");
    bundle.fails("pause ID");
    bundle.fails("exec ID true");
    bundle.ok("resume ID");
    assert_eq!(bundle.status(), "running");
    bundle.ok("exec ID true");
    bundle.ok("pause ID");
    bundle.ok("delete --force ID");
}

#[test]
fn further_programs_run_inside() {
    let Some(mut bundle) = bundle() else { return };
    bundle.set(
        "/linux/seccomp",
        json!({"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}),
    );
    bundle.set("/process/env", json!(["PATH=/bin", "FROM=document"]));
    let bundle = bundle.running("sleep 100");
    let cases: [(&[&str], &str, i32); 9] = [
        (&["exec", "ID", "sh", "-c", "hostname; exit 4"], "inside", 4),
        (&["exec", "--cwd", "/tmp", "ID", "sh", "-c", "pwd"], "/tmp", 0),
        (&["exec", "--env", "A=b", "ID", "sh", "-c", "echo $A $FROM"], "b document", 0),
        (&["exec", "--user", "5:6", "ID", "sh", "-c", "echo $(id -u):$(id -g)"], "5:6", 0),
        (&["exec", "--user", "5", "-g", "7", "ID", "id", "-G"], "0 7", 0),
        (
            &["exec", "ID", "sh", "-c", "grep -E 'Cap(Eff|Bnd)' /proc/self/status | cut -f2"],
            "0000000008040023\n0000000008040023",
            0,
        ),
        (
            &["exec", "--cap", "CAP_NET_RAW", "ID", "sh", "-c", "grep CapEff /proc/self/status | cut -f2"],
            "0000000008042023",
            0,
        ),
        (&["exec", "ID", "sh", "-c", "mkdir /tmp/d 2>/dev/null || echo filtered"], "filtered", 0),
        (&["exec", "ID", "nosuchprogram"], "", 1),
    ];
    let mut wrong = Vec::new();
    for (words, prints, code) in cases {
        let said = bundle.words(words);
        if said.stdout.trim_end() != prints || said.code != Some(code) {
            wrong.push(format!("{words:?}: expected {prints:?} and {code}, {said:?}"));
        }
    }
    let document = bundle.path().join("process.json");
    let process =
        json!({"user": {"uid": 3, "gid": 4}, "args": ["id", "-u"], "env": ["PATH=/bin"], "cwd": "/"});
    fs::write(&document, process.to_string()).unwrap();
    let said = bundle.words(&["exec", "--process", document.to_str().unwrap(), "ID"]);
    if said.stdout != "3\n" {
        wrong.push(format!("a document: {said:?}"));
    }
    let file = bundle.path().join("exec-pid");
    let said = bundle.words(&["exec", "-d", "--pid-file", file.to_str().unwrap(), "ID", "sleep", "50"]);
    let pid = fs::read_to_string(&file).unwrap_or_default();
    let known = bundle.ok("ps ID --format json").stdout;
    if said.code != Some(0) || pid.is_empty() || !known.contains(pid.trim()) {
        wrong.push(format!("in the background: {said:?}, {pid} of {known}"));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn further_programs_are_where_the_first_is() {
    let Some(mut bundle) = bundle() else { return };
    bundle.mount(json!({"destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]}));
    let bundle = bundle.running("echo seen >/mnt/file; sleep 100");
    let group = |pid: &str| fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let said = bundle.words(&["exec", "ID", "cat", "/proc/self/cgroup"]);
    assert_eq!(said.stdout, group(&bundle.pid().to_string()), "the same control groups");
    while bundle.words(&["exec", "ID", "cat", "/mnt/file"]).stdout != "seen\n" {}
}

/// Inheritable, permitted, effective, bounding and ambient ones of a further program, and no_new_privs.
fn rights(bundle: &super::Bundle, more: &[&str]) -> String {
    let script = "grep -E 'Cap|NoNewPrivs' /proc/self/status | awk '{sub(/^0+/, \"\", $2); print $2 == \"\" ? 0 : $2}'";
    let words = [&["exec"], more, &["ID", "sh", "-c", script]].concat();
    let said = bundle.words(&words);
    assert_eq!(said.code, Some(0), "{said:?}");
    said.stdout.lines().collect::<Vec<_>>().join(" ")
}

#[test]
fn further_programs_have_the_rights_of_the_document_and_those_asked_for() {
    let sets = |bounding: &[&str], permitted: &[&str], inheritable: &[&str]| {
        json!({"bounding": bounding, "permitted": permitted, "effective": [],
               "inheritable": inheritable, "ambient": inheritable})
    };
    let none = sets(&[], &[], &[]);
    let few = sets(&["CAP_SYS_ADMIN"], &["CAP_SYS_ADMIN", "CAP_AUDIT_WRITE", "CAP_KILL"], &[]);
    let several = sets(&["CAP_KILL", "CAP_CHOWN", "CAP_SYSLOG"], &["CAP_KILL", "CAP_CHOWN"], &["CAP_CHOWN"]);
    let two: &[&str] = &["--cap", "CAP_KILL", "--cap", "CAP_AUDIT_WRITE"];
    let cases: [(&str, &Value, bool, &[&str], &str); 6] = [
        ("none", &none, true, &[], "0 0 0 0 0 1"),
        ("none, and new ones may be had", &none, false, &[], "0 0 0 0 0 0"),
        ("within the bounds", &few, true, &[], "0 200000 200000 200000 0 1"),
        ("asked for", &none, true, two, "0 20000020 20000020 20000020 0 1"),
        ("handed on", &several, true, &[], "1 21 21 400000021 1 1"),
        (
            "handed on, and asked for",
            &several,
            true,
            &["--cap", "CAP_SYSLOG"],
            "1 400000021 400000021 400000021 1 1",
        ),
    ];
    let mut wrong = Vec::new();
    for (name, capabilities, no_new, more, wanted) in cases {
        let Some(mut bundle) = bundle() else { return };
        bundle
            .set("/process/capabilities", capabilities.clone())
            .set("/process/noNewPrivileges", json!(no_new));
        let found = rights(bundle.running("sleep 100"), more);
        if found != wanted {
            wrong.push(format!("{name}: {found}, not {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn further_programs_have_the_variables_of_the_document_and_those_asked_for() {
    let Some(mut bundle) = bundle() else { return };
    bundle.set("/process/env", json!(["PATH=/bin", "KEPT=document", "OTHER=document"]));
    let bundle = bundle.running("sleep 100");
    let show = ["ID", "sh", "-c", "echo $KEPT $OTHER $NEW"];
    let exec = |more: &[&str]| bundle.words(&[&["exec"], more, &show].concat()).stdout;
    assert_eq!(exec(&[]), "document document\n");
    assert_eq!(exec(&["--env", "OTHER=exec", "--env", "NEW=exec"]), "document exec exec\n");
    let document = bundle.path().join("variables.json");
    let process = json!({"user": {"uid": 0, "gid": 0}, "args": ["sh", "-c", "echo $KEPT $NEW"],
                         "env": ["PATH=/bin", "NEW=process"], "cwd": "/"});
    fs::write(&document, process.to_string()).unwrap();
    assert_eq!(bundle.words(&["exec", "--process", document.to_str().unwrap(), "ID"]).stdout, "process\n");
}

/// The processors that a further program may use, as `affinity` of a process document says, or as its own does.
fn processors(bundle: &super::Bundle, affinity: Option<Value>) -> String {
    let show = ["grep", "Cpus_allowed_list", "/proc/self/status"];
    let said = match affinity {
        None => bundle.words(&[&["exec", "ID"][..], &show].concat()),
        Some(affinity) => {
            let document = bundle.path().join("affinity.json");
            let process = json!({"user": {"uid": 0, "gid": 0}, "args": show, "env": ["PATH=/bin"], "cwd": "/",
                                 "execCPUAffinity": affinity});
            fs::write(&document, process.to_string()).unwrap();
            bundle.words(&["exec", "--process", document.to_str().unwrap(), "ID"])
        }
    };
    said.stdout.trim().rsplit('\t').next().unwrap_or_default().to_owned()
}

#[test]
fn further_programs_run_on_the_processors_of_a_document() {
    let Some(mut bundle) = bundle() else { return };
    bundle.set("/process/execCPUAffinity", json!({"initial": "0", "final": "0"}));
    let bundle = bundle.running("sleep 100");
    assert_eq!(processors(bundle, None), "0", "of the container's own");
    assert_eq!(processors(bundle, Some(json!({"initial": "0"}))), "0", "at first");
    if std::thread::available_parallelism().unwrap().get() > 1 {
        assert_eq!(processors(bundle, Some(json!({"initial": "0", "final": "1"}))), "1", "at last");
    }
}

/// `ficelle oci` with these words, and this at its descriptor 3; nothing else of ours is open in it.
fn with_descriptor(bundle: &super::Bundle, third: &str, words: &str) -> String {
    let words = words.replace("ID", &bundle.id).replace("BUNDLE", bundle.path().to_str().unwrap());
    let script = format!(
        "for fd in /proc/self/fd/*; do fd=${{fd##*/}}; [ $fd -le 2 ] || eval \"exec $fd>&-\"; done
         exec 3{third}; exec {} oci --root {} {words}",
        env!("CARGO_BIN_EXE_ficelle"),
        bundle.state().display()
    );
    let done = std::process::Command::new("bash").args(["-c", &script]).output().unwrap();
    String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr)
}

#[test]
fn descriptors_are_kept_as_many_as_asked_for_and_no_others() {
    let Some(mut bundle) = bundle() else { return };
    let file = bundle.dir.path().join("given");
    fs::write(&file, "through the descriptor\n").unwrap();
    let file = format!("<{}", file.display());
    bundle.script("cat /proc/self/fd/3 2>/dev/null || echo none").write();
    assert_eq!(
        with_descriptor(&bundle, &file, "run --bundle BUNDLE --preserve-fds 1 ID"),
        "through the descriptor\n"
    );
    assert_eq!(with_descriptor(&bundle, &file, "run --bundle BUNDLE ID"), "none\n");
    // 3 is of the listing itself.
    bundle.script("ls /proc/self/fd").write();
    let all = "run --bundle BUNDLE --preserve-fds 100 ID";
    assert_eq!(with_descriptor(&bundle, ">&-", all), "0\n1\n2\n3\n", "only the streams");
    bundle.script("cat /proc/self/fd/3 2>/dev/null || echo none").write();
    let bundle = bundle.running("sleep 100");
    let look = "ID sh -c 'cat /proc/self/fd/3 2>/dev/null || echo none'";
    assert_eq!(
        with_descriptor(bundle, &file, &format!("exec --preserve-fds 1 {look}")),
        "through the descriptor\n"
    );
    assert_eq!(with_descriptor(bundle, &file, &format!("exec {look}")), "none\n");
}

#[test]
fn a_program_can_be_sent_into_a_frozen_container_and_waits_there() {
    let Some(mut bundle) = bundle() else { return };
    let bundle = bundle.running("sleep 100");
    bundle.ok("pause ID");
    std::thread::scope(|scope| {
        let sent = scope.spawn(|| bundle.words(&["exec", "--ignore-paused", "ID", "echo", "thawed"]));
        // Its way in may itself be frozen, at any point of it.
        bundle.ok("resume ID");
        let said = sent.join().unwrap();
        assert_eq!(said.stdout, "thawed\n", "{said:?}");
    });
}

#[test]
fn a_document_that_changes_after_the_creation_changes_nothing() {
    let Some(mut bundle) = bundle() else { return };
    bundle.script("hostname >/tmp/said; sleep 100").write();
    bundle.ok("create --bundle BUNDLE ID");
    bundle.set("/hostname", json!("other")).script("echo other >/tmp/said").write();
    bundle.ok("start ID");
    let told = bundle.rootfs().join("tmp/said");
    while fs::read_to_string(&told).unwrap_or_default().is_empty() {}
    assert_eq!(fs::read_to_string(told).unwrap(), "inside\n");
    assert_eq!(bundle.status(), "running");
}

#[test]
fn what_a_document_has_besides_is_passed_over_and_rights_that_cannot_be_given_are_told() {
    super::hold(&[
        (
            "properties of nobody",
            |b| {
                b.set("/unknown", json!({"a": [1]}))
                    .set("/linux/unknown", json!("b"))
                    .set("/process/unknown", json!(2));
            },
            "echo goes on",
            "goes on",
        ),
        (
            "annotations",
            |b| {
                b.set("/annotations", json!({"org.example.key": "", "a": "b"}));
            },
            "echo goes on",
            "goes on",
        ),
        (
            "the order of reading and writing",
            |b| {
                b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 6}));
            },
            "/bin/busybox ionice",
            "best-effort: prio 6",
        ),
        (
            "before all others",
            |b| {
                b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_RT", "priority": 1}));
            },
            "/bin/busybox ionice",
            "realtime: prio 1",
        ),
        (
            "after all others",
            |b| {
                b.set("/process/ioPriority", json!({"class": "IOPRIO_CLASS_IDLE", "priority": 3}));
            },
            "/bin/busybox ionice",
            "idle",
        ),
    ]);
    let Some(mut bundle) = bundle() else { return };
    for set in ["bounding", "permitted", "effective"] {
        let all: Vec<_> = (0..41).map(|number| super::NAMES[number]).collect();
        bundle.set(&format!("/process/capabilities/{set}"), json!(all));
    }
    let said = bundle.script("grep CapBnd /proc/self/status | cut -f2").run();
    let own = fs::read_to_string("/proc/self/status").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    assert_eq!(said.stdout.trim(), own, "{said:?}");
    assert_eq!(said.stderr.is_empty(), own == "000001ffffffffff", "{said:?}");
}

#[test]
fn a_terminal_is_handed_over() {
    let Some(mut bundle) = bundle() else { return };
    bundle.set("/process/terminal", json!(true)).script("tty >/tmp/tty; sleep 100").write();
    bundle.fails("create --bundle BUNDLE ID");
    let socket = bundle.dir.path().join("tty.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    bundle.ok(&format!("create --bundle BUNDLE --console-socket {} ID", socket.display()));
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut text = [0; 64];
    let flags = rustix::net::RecvFlags::CMSG_CLOEXEC;
    rustix::net::recvmsg(&stream, &mut [std::io::IoSliceMut::new(&mut text)], &mut control, flags).unwrap();
    let master = control.drain().find_map(|message| match message {
        rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    // A terminal ends with its master.
    let master = master.unwrap();
    assert!(rustix::termios::isatty(&master));
    bundle.ok("start ID");
    let told = bundle.rootfs().join("tmp/tty");
    while fs::read_to_string(&told).unwrap_or_default().is_empty() {}
    let told = fs::read_to_string(told).unwrap();
    assert!(told.starts_with("/dev/"), "{told}");
}

#[test]
fn documents_that_are_none_are_refused() {
    refused(&[
        (
            "a version to come",
            |b| {
                b.set("/ociVersion", json!("9.0.0"));
            },
            "version",
        ),
        (
            "no root",
            |b| {
                b.document.as_object_mut().unwrap().remove("root");
            },
            "root",
        ),
        (
            "no words",
            |b| {
                b.set("/process/args", json!([]));
            },
            "arg",
        ),
        (
            "no program of that name",
            |b| {
                b.set("/process/args", json!(["nosuchprogram"]));
            },
            "nosuchprogram",
        ),
        (
            "a relative working directory",
            |b| {
                b.set("/process/cwd", json!("here"));
            },
            "cwd",
        ),
    ]);
    let Some(bundle) = bundle() else { return };
    assert!(bundle.fails("create --bundle BUNDLE ID").contains("config.json"));
    fs::write(bundle.path().join("config.json"), "{").unwrap();
    assert!(bundle.fails("create --bundle BUNDLE ID").contains("config.json"));
}

#[test]
fn what_it_can_do_and_a_document_to_start_from_are_printed() {
    let Some(bundle) = bundle() else { return };
    let features: Value = serde_json::from_str(&bundle.ok("features").stdout).unwrap();
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    let fresh = bundle.dir.path().join("fresh");
    fs::create_dir(&fresh).unwrap();
    bundle.ok(&format!("spec --bundle {}", fresh.display()));
    let text = fs::read_to_string(fresh.join("config.json")).unwrap();
    let document: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(document["root"]["path"], "rootfs");
    assert!(bundle.fails(&format!("spec --bundle {}", fresh.display())).contains("config.json"));
}
