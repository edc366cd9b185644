//! Namespaces: new ones, shared ones, given ones; names; kernel parameters; user mappings.

use std::{fs, process::Command};

use serde_json::{Value, json};

use super::{Bundle, bundle, hold, refused};

const ALL: [(&str, &str); 7] = [
    ("pid", "pid"),
    ("ipc", "ipc"),
    ("uts", "uts"),
    ("mount", "mnt"),
    ("network", "net"),
    ("cgroup", "cgroup"),
    ("time", "time"),
];

fn namespaces(bundle: &mut Bundle) -> &mut Vec<Value> {
    bundle.document["linux"]["namespaces"].as_array_mut().unwrap()
}

/// The file of a namespace of a process as `net:[4026531840]`.
fn namespace(pid: &str, file: &str) -> String {
    fs::read_link(format!("/proc/{pid}/ns/{file}")).unwrap().display().to_string()
}

#[test]
fn each_namespace_is_new_where_asked_for_and_the_hosts_where_not() {
    for (kind, file) in ALL {
        for wanted in [true, false] {
            // A host's mounts are no place for a test, and processes of others none of its business.
            if !wanted && ["mount", "pid"].contains(&kind) {
                continue;
            }
            let Some(mut bundle) = bundle() else { return };
            namespaces(&mut bundle).retain(|namespace| namespace["type"] != kind);
            if wanted {
                namespaces(&mut bundle).push(json!({"type": kind}));
            }
            if kind == "uts" && !wanted {
                bundle.set("/hostname", Value::Null);
            }
            let bundle = bundle.running("sleep 100");
            let inside = namespace(&bundle.pid().to_string(), file);
            assert_eq!(inside != namespace("self", file), wanted, "{kind}");
        }
    }
}

#[test]
fn a_namespace_can_be_given_by_its_path() {
    for (kind, file) in [("ipc", "ipc"), ("uts", "uts"), ("network", "net"), ("pid", "pid")] {
        let Some(mut given) = bundle() else { return };
        let given = given.running("sleep 100");
        let path = format!("/proc/{}/ns/{file}", given.pid());
        let mut joins = bundle().unwrap();
        namespaces(&mut joins).retain(|namespace| namespace["type"] != kind);
        namespaces(&mut joins).push(json!({"type": kind, "path": path}));
        if kind == "uts" {
            joins.set("/hostname", Value::Null);
        }
        let joins = joins.running("sleep 100");
        let of = |bundle: &Bundle| namespace(&bundle.pid().to_string(), file);
        assert_eq!(of(joins), of(given), "{kind}");
    }
}

#[test]
fn names_and_kernel_parameters_are_the_containers_own() {
    hold(&[
        (
            "host name",
            |b| {
                b.set("/hostname", json!("sea"));
            },
            "hostname",
            "sea",
        ),
        (
            "an empty host name",
            |b| {
                b.set("/hostname", json!(""));
            },
            "echo goes on",
            "goes on",
        ),
        (
            "domain name",
            |b| {
                b.set("/domainname", json!("example.org"));
            },
            "cat /proc/sys/kernel/domainname",
            "example.org",
        ),
        (
            "a parameter of the network",
            |b| {
                b.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1"}));
            },
            "cat /proc/sys/net/ipv4/ip_forward",
            "1",
        ),
        (
            "a parameter of messages",
            |b| {
                b.set("/linux/sysctl", json!({"kernel.msgmax": "9000"}));
            },
            "cat /proc/sys/kernel/msgmax",
            "9000",
        ),
        ("the first process", |_| {}, "echo $$", "1"),
        ("loopback only", |_| {}, "ls /sys/class/net", "lo"),
        (
            "a time of its own",
            |b| {
                namespaces(b).push(json!({"type": "time"}));
                b.set("/linux/timeOffsets", json!({"boottime": {"secs": 1_000_000_000}}));
            },
            "awk '{print ($1 > 1000000000)}' /proc/uptime",
            "1",
        ),
    ]);
}

#[test]
fn a_user_namespace_maps_as_the_document_says() {
    let Some(mut bundle) = bundle() else { return };
    let owned = Command::new("chown").args(["-R", "100000:100000"]).arg(bundle.rootfs()).status().unwrap();
    assert!(owned.success());
    // Who maps others' ids must reach what is theirs.
    for dir in [bundle.dir.path().to_owned(), bundle.path()] {
        fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    namespaces(&mut bundle).push(json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 1000}]);
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map);
    bundle.document["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/sys");
    bundle.script("id -u; awk '{print $1, $2, $3}' /proc/self/uid_map; stat -c %u /bin/busybox");
    let said = bundle.run();
    assert_eq!(said.stdout.trim_end(), "0\n0 100000 1000\n0", "{said:?}");
}

#[test]
fn documents_that_contradict_themselves_are_refused() {
    refused(&[
        (
            "a namespace twice",
            |b| {
                namespaces(b).push(json!({"type": "pid"}));
            },
            "namespace",
        ),
        (
            "a user namespace without mappings",
            |b| {
                namespaces(b).push(json!({"type": "user"}));
            },
            "mapping",
        ),
        (
            "a path that is no namespace",
            |b| {
                namespaces(b).retain(|namespace| namespace["type"] != "network");
                namespaces(b).push(json!({"type": "network", "path": "/proc/self/status"}));
            },
            "cannot make the container",
        ),
        (
            "a parameter of the host",
            |b| {
                b.set("/linux/sysctl", json!({"vm.swappiness": "10"}));
            },
            "sysctl",
        ),
        (
            "a parameter of a network that is the host's",
            |b| {
                namespaces(b).retain(|namespace| namespace["type"] != "network");
                b.set("/linux/sysctl", json!({"net.ipv4.ip_forward": "0"}));
            },
            "sysctl",
        ),
    ]);
}

#[test]
fn devices_of_the_network_move_in() {
    let Some(mut first) = bundle() else { return };
    // Such pairs can be made where there are no dummies.
    let [kept, renamed] = [1, 2].map(|number| format!("fo{}-{number}", std::process::id()));
    let link = |words: &str| Command::new("ip").args(words.split(' ')).status().unwrap().success();
    assert!(link(&format!("link add {kept} type veth peer name {renamed}")));
    assert!(link(&format!("address add 198.51.100.7/24 dev {kept}")));
    let _link = Link(kept.clone());
    let mut devices = serde_json::Map::new();
    devices.insert(kept.clone(), json!({}));
    devices.insert(renamed, json!({"name": "inside0"}));
    first.set("/linux/netDevices", Value::Object(devices));
    let said = first.script("ls /sys/class/net; /bin/busybox ip -o -4 address show").run();
    let (names, addresses) = said.stdout.split_once("lo\n").unwrap_or_else(|| panic!("{said:?}"));
    assert_eq!(names, format!("{kept}\ninside0\n"));
    assert!(addresses.contains("198.51.100.7/24"), "{addresses}");
    let mut missing = bundle().unwrap();
    missing.set("/linux/netDevices", json!({"fo-nobody": {}})).write();
    missing.fails("create --bundle BUNDLE ID");
}

/// Taken away at the end, where it is still here; its other end goes with it.
struct Link(String);

impl Drop for Link {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["link", "delete", &self.0]).output();
    }
}
