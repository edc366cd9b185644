//! Control groups: what is written there is what the document says.

use std::{fs, path::PathBuf};

use serde_json::{Value, json};

use super::{Bundle, bundle};

/// The directory of the container's group in the hierarchy of a controller (version 1).
fn group(bundle: &Bundle, controller: &str) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{}/cgroup", bundle.pid())).unwrap();
    let line = text.lines().find(|line| {
        line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == controller))
    });
    let path = line.unwrap_or_else(|| panic!("no {controller} in {text}")).splitn(3, ':').nth(2).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mount = mounts.lines().find(|line| {
        let (place, kind) = line.split_once(" - ").unwrap();
        kind.starts_with("cgroup ")
            && kind.rsplit(' ').next().unwrap().split(',').any(|name| name == controller)
            && !place.is_empty()
    });
    let mount = mount.unwrap().split(' ').nth(4).unwrap();
    PathBuf::from(format!("{mount}{path}"))
}

fn is_version_1() -> bool {
    fs::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| line.contains(" - cgroup "))
}

fn has(controller: &str) -> bool {
    fs::read_to_string("/proc/self/cgroup").unwrap().lines().any(|line| {
        line.split(':').nth(1).is_some_and(|names| names.split(',').any(|name| name == controller))
    })
}

#[test]
fn what_a_container_may_use_is_written_to_its_groups() {
    let rate = |key: &str| json!({key: [{"major": 7, "minor": 0, "rate": 102_400}]});
    let cases: [(&str, &str, Value, &str, &str); 25] = [
        ("blockIO", "blkio", rate("throttleReadBpsDevice"), "blkio.throttle.read_bps_device", "7:0 102400"),
        ("blockIO", "blkio", rate("throttleWriteBpsDevice"), "blkio.throttle.write_bps_device", "7:0 102400"),
        ("blockIO", "blkio", rate("throttleReadIOPSDevice"), "blkio.throttle.read_iops_device", "7:0 102400"),
        (
            "blockIO",
            "blkio",
            rate("throttleWriteIOPSDevice"),
            "blkio.throttle.write_iops_device",
            "7:0 102400",
        ),
        ("memory", "memory", json!({"limit": 52_428_800}), "memory.limit_in_bytes", "52428800"),
        (
            "memory",
            "memory",
            json!({"limit": 52_428_800, "swap": 104_857_600}),
            "memory.memsw.limit_in_bytes",
            "104857600",
        ),
        ("memory", "memory", json!({"reservation": 26_214_400}), "memory.soft_limit_in_bytes", "26214400"),
        ("memory", "memory", json!({"swappiness": 50}), "memory.swappiness", "50"),
        ("memory", "memory", json!({"disableOOMKiller": true}), "memory.oom_control", "oom_kill_disable 1"),
        ("cpu", "cpu", json!({"shares": 512}), "cpu.shares", "512"),
        ("cpu", "cpu", json!({"quota": 50_000, "period": 100_000}), "cpu.cfs_quota_us", "50000"),
        ("cpu", "cpu", json!({"quota": 50_000, "period": 200_000}), "cpu.cfs_period_us", "200000"),
        ("cpu", "cpu", json!({"quota": -1}), "cpu.cfs_quota_us", "-1"),
        ("cpu", "cpu", json!({}), "cpu.cfs_quota_us", "-1"),
        ("cpu", "cpu", json!({"idle": 1}), "cpu.idle", "1"),
        ("cpu", "cpu", json!({"shares": 512, "quota": 50_000}), "cpu.idle", "0"),
        ("cpu", "cpuset", json!({"cpus": "0"}), "cpuset.cpus", "0"),
        ("cpu", "cpuset", json!({"cpus": "0", "mems": "0"}), "cpuset.mems", "0"),
        ("pids", "pids", json!({"limit": 50}), "pids.max", "50"),
        ("pids", "pids", json!({"limit": -1}), "pids.max", "max"),
        ("pids", "pids", json!({"limit": 0}), "pids.max", "max"),
        ("network", "net_cls", json!({"classID": 1_048_577}), "net_cls.classid", "1048577"),
        (
            "network",
            "net_prio",
            json!({"priorities": [{"name": "lo", "priority": 7}]}),
            "net_prio.ifpriomap",
            "lo 7",
        ),
        (
            "hugepageLimits",
            "hugetlb",
            json!([{"pageSize": "2MB", "limit": 4_194_304}]),
            "hugetlb.2MB.limit_in_bytes",
            "4194304",
        ),
        (
            "devices",
            "devices",
            json!([{"allow": false, "access": "rwm"},
            {"allow": true, "type": "c", "major": 10, "minor": 229, "access": "rw"}]),
            "devices.list",
            "c 10:229 rw",
        ),
    ];
    if !is_version_1() {
        eprintln!("SKIPPED: control groups of version 1");
        return;
    }
    let mut wrong = Vec::new();
    for (key, controller, value, file, want) in cases {
        if !has(controller) || (key == "blockIO" && !std::path::Path::new("/sys/block/loop0").exists()) {
            eprintln!("SKIPPED: no controller {controller} here");
            continue;
        }
        let Some(mut bundle) = bundle() else { return };
        bundle.set(&format!("/linux/resources/{key}"), value.clone()).script("sleep 100").write();
        let said = bundle.oci("create --bundle BUNDLE ID");
        if said.code != Some(0) {
            wrong.push(format!("{key} {value}: {said:?}"));
            continue;
        }
        let path = group(&bundle, controller).join(file);
        match fs::read_to_string(&path) {
            Ok(text) if text.lines().any(|line| line == want) => {}
            // A kernel without accounting of swap, or without idle groups.
            Err(_) if file.contains("memsw") || file == "cpu.idle" => {}
            other => wrong.push(format!("{key} {value}: {} is {other:?}, not {want}", path.display())),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn groups_of_a_relative_path_are_the_containers_own_and_go_with_it() {
    let Some(mut bundle) = bundle() else { return };
    let path = format!("ficelle-{}/own", bundle.id);
    bundle.set("/linux/cgroupsPath", json!(path)).set("/linux/resources/pids", json!({"limit": 31}));
    let bundle = bundle.running("sleep 100");
    let pid = bundle.pid();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let line = text.lines().find(|line| line.ends_with(&path)).unwrap_or_else(|| panic!("{text}"));
    let inside = line.rsplit(':').next().unwrap().trim_start_matches('/');
    let group = if is_version_1() { "/sys/fs/cgroup/pids" } else { "/sys/fs/cgroup" };
    let group = PathBuf::from(group).join(inside);
    assert_eq!(fs::read_to_string(group.join("pids.max")).unwrap().trim(), "31");
    bundle.ok("delete --force ID");
    assert!(!group.exists());
    let _ = fs::remove_dir(group.parent().unwrap());
}

#[test]
fn groups_stand_where_the_document_says_and_go_with_the_container() {
    let Some(mut bundle) = bundle() else { return };
    let bundle = bundle.running("sleep 100");
    let pid = bundle.pid().to_string();
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(text.lines().any(|line| line.ends_with(&format!(":/ficelle-{}/own", bundle.id))), "{text}");
    let group = if is_version_1() { Some(group(bundle, "pids")) } else { None };
    bundle.ok("delete --force ID");
    assert!(group.is_none_or(|group| !group.exists()));
}
