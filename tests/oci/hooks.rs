//! Hooks: when each runs, what it hears, and what its failure does.

use std::{fs, thread, time::Duration};

use serde_json::{Value, json};

use super::{Bundle, bundle};

/// A hook that appends `name` and what it hears to a file of the host.
fn hook(bundle: &Bundle, name: &str) -> Value {
    let log = bundle.path().join("log");
    let script = format!("echo {name} >>{0}; cat >{0}.{name}", log.display());
    json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin"]})
}

fn log(bundle: &Bundle) -> String {
    fs::read_to_string(bundle.path().join("log")).unwrap_or_default()
}

const OUTSIDE: [&str; 5] = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];

#[test]
fn they_run_in_their_order_and_hear_the_state() {
    let Some(mut bundle) = bundle() else { return };
    for name in OUTSIDE {
        let hook = hook(&bundle, name);
        // This one is looked up outside and runs inside.
        let hook = if name == "createContainer" { json!({"path": "/bin/true"}) } else { hook };
        bundle.set(&format!("/hooks/{name}"), json!([hook]));
    }
    bundle.set("/annotations", json!({"org.example": "yes"})).script("sleep 100").write();
    bundle.ok("create --bundle BUNDLE ID");
    assert_eq!(log(&bundle), "prestart\ncreateRuntime\n");
    let pid = bundle.pid();
    bundle.ok("start ID");
    assert_eq!(log(&bundle), "prestart\ncreateRuntime\npoststart\n");
    bundle.ok("delete --force ID");
    assert_eq!(log(&bundle), "prestart\ncreateRuntime\npoststart\npoststop\n");
    for (name, status) in [("createRuntime", "creat"), ("poststart", "running"), ("poststop", "stopped")] {
        let text = fs::read_to_string(bundle.path().join(format!("log.{name}"))).unwrap();
        let state: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(state["id"], bundle.id, "{name}");
        assert_eq!(state["bundle"], bundle.path().display().to_string(), "{name}");
        assert!(state["status"].as_str().unwrap().starts_with(status), "{name}: {state}");
        if name != "poststop" {
            assert_eq!(state["pid"], pid, "{name}");
        }
    }
}

#[test]
fn one_that_fails_before_the_start_leaves_no_container() {
    for name in ["prestart", "createRuntime", "createContainer"] {
        let Some(mut bundle) = bundle() else { return };
        bundle.set(&format!("/hooks/{name}"), json!([{"path": "/bin/false"}])).script("sleep 100").write();
        bundle.fails("create --bundle BUNDLE ID");
        bundle.fails("state ID");
    }
}

#[test]
fn each_of_a_list_runs_and_one_that_fails_ends_the_list() {
    let Some(mut bundle) = bundle() else { return };
    for name in ["prestart", "createRuntime", "poststart", "poststop"] {
        let [one, two] = [1, 2].map(|number| hook(&bundle, &format!("{name}{number}")));
        bundle.set(&format!("/hooks/{name}"), json!([one, two]));
    }
    bundle.script("sleep 100").write();
    bundle.ok("create --bundle BUNDLE ID");
    bundle.ok("start ID");
    bundle.ok("delete --force ID");
    let listed =
        "prestart1 prestart2 createRuntime1 createRuntime2 poststart1 poststart2 poststop1 poststop2";
    assert_eq!(log(&bundle).split_whitespace().collect::<Vec<_>>().join(" "), listed);
}

#[test]
fn one_that_fails_after_the_start_is_told() {
    let Some(mut bundle) = bundle() else { return };
    let failing = json!({"path": "/bin/sh", "args": ["sh", "-c", "exit 1"]});
    let [one, three] = [1, 3].map(|number| hook(&bundle, &format!("poststart{number}")));
    bundle.set("/hooks/poststart", json!([one, failing, three])).script("sleep 100").write();
    bundle.ok("create --bundle BUNDLE ID");
    bundle.fails("start ID");
    assert_eq!(log(&bundle), "poststart1\n");
}

#[test]
fn one_that_fails_after_the_end_keeps_nothing() {
    let Some(mut bundle) = bundle() else { return };
    let failing = json!({"path": "/bin/sh", "args": ["sh", "-c", "exit 1"]});
    bundle.set("/hooks/poststop", json!([failing])).script("true").write();
    bundle.ok("create --bundle BUNDLE ID");
    bundle.ok("start ID");
    while bundle.status() != "stopped" {}
    assert!(bundle.ok("delete ID").stderr.contains("hook"), "it is told");
    bundle.fails("state ID");
}

#[test]
fn one_inside_runs_before_the_program() {
    let Some(mut bundle) = bundle() else { return };
    let hook =
        json!({"path": "/bin/sh", "args": ["sh", "-c", "echo hook >/tmp/order"], "env": ["PATH=/bin"]});
    bundle.set("/hooks/startContainer", json!([hook])).script("echo program >>/tmp/order; cat /tmp/order");
    assert_eq!(bundle.run().stdout, "hook\nprogram\n");
}

#[test]
fn one_that_takes_too_long_is_ended() {
    let Some(mut bundle) = bundle() else { return };
    bundle
        .set("/hooks/createRuntime", json!([{"path": "/bin/sleep", "args": ["sleep", "60"], "timeout": 1}]))
        .write();
    bundle.fails("create --bundle BUNDLE ID");
}

#[test]
fn hooks_inherit_nothing_but_their_own_environment() {
    let Some(mut bundle) = bundle() else { return };
    let file = bundle.path().join("env");
    let script = format!("env >{}", file.display());
    let hook =
        json!({"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/bin:/usr/bin", "ONLY=this"]});
    bundle.set("/hooks/createRuntime", json!([hook])).script("sleep 100").write();
    bundle.ok("create --bundle BUNDLE ID");
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains("ONLY=this"), "{text}");
    assert!(!text.contains("CARGO"), "{text}");
}

#[test]
fn the_state_tells_of_the_end() {
    let Some(mut bundle) = bundle() else { return };
    bundle.running("true");
    // The end of a process that is not our child is not an event for us.
    for _ in 0..500 {
        if bundle.status() == "stopped" {
            return;
        }
        thread::sleep(Duration::from_millis(10));
    }
    panic!("{}", bundle.status());
}
