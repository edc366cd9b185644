//! The groups of a container without limits, in hierarchies of version 1. The launcher finds each of them by
//! reading all mounts, and moves a process by its number, for which the kernel waits for a grace period of
//! RCU (`cgroup_threadgroup_rwsem`), ten milliseconds and more. A thread that moves itself, alone, does not
//! wait; what it forks is where it is.

use std::{
    fs, io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountFlags, UnmountFlags, mount, unmount},
};
use serde_json::{Value, json};

use super::{Hierarchy, ROOT, hierarchies, is_unified, locate};
use crate::runtime::{
    Result, rootless,
    state::{failed, file_error},
};

/// The controllers that containers have groups of their own in.
const CONTROLLERS: [&str; 12] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// Of making a group.
const ATTEMPTS: usize = 10;

/// Whatever else the rules say: any node may be made, and these used (null, zero, full, random, urandom, tty,
/// console, ptmx, and terminals).
const ALWAYS: [&str; 11] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:1 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// This process is in groups of a container, and can go back to where it was.
#[derive(Debug)]
pub struct Entered(Vec<(PathBuf, OwnedFd)>);

impl Entered {
    /// Back to the groups that it came from; what it has forked stays.
    pub fn leave(self) -> Result<()> {
        self.0.iter().try_for_each(|(file, tasks)| move_into(file, tasks))
    }
}

/// Puts this process, which has a single thread, into new groups at `path` that are closed to devices as
/// `resources` say, and takes the hierarchies out of its mounts: the launcher has none to look after. `None`
/// when it must do all of it: there are limits, or no hierarchies of version 1.
pub fn enter(path: &str, resources: &Value) -> Result<Option<Entered>> {
    let limits = |resources: &serde_json::Map<String, Value>| resources.keys().any(|key| key != "devices");
    if is_unified() || rootless::is_confined() || resources.as_object().is_none_or(limits) {
        return Ok(None);
    }
    let own = Path::new("/proc/self/cgroup");
    let own = fs::read_to_string(own).map_err(|e| file_error("cannot read", own, e))?;
    let mut before = Vec::new();
    for (hierarchy, home) in own.lines().filter_map(|line| locate(line, hierarchies())) {
        if hierarchy.controllers.iter().any(|name| CONTROLLERS.contains(&name.as_str())) {
            before.push(open(home.join("tasks"))?);
            enter_one(hierarchy, path.trim_start_matches('/'), &resources["devices"])?;
        }
    }
    hide().map_err(failed("cannot hide the control groups"))?;
    Ok(Some(Entered(before)))
}

fn enter_one(hierarchy: &Hierarchy, path: &str, devices: &Value) -> Result<()> {
    let directory = hierarchy.mount.join(path);
    // The end of another container may take an empty parent away meanwhile.
    let mut attempts = std::iter::repeat_with(|| fs::create_dir_all(&directory)).take(ATTEMPTS);
    let made = attempts.find(|made| !made.as_ref().is_err_and(|e| e.kind() == io::ErrorKind::NotFound));
    made.unwrap_or_else(|| fs::create_dir(&directory))
        .map_err(|e| file_error("cannot make control group", &directory, e))?;
    let has = |name: &str| hierarchy.controllers.iter().any(|controller| controller == name);
    if has("cpuset") {
        for file in ["cpuset.cpus", "cpuset.mems"] {
            inherit(&hierarchy.mount, path, file)?;
        }
    }
    if has("devices") {
        for rule in devices.as_array().into_iter().flatten() {
            tell(&directory, rule)?;
        }
        for rule in ALWAYS {
            write(directory.join("devices.allow"), rule)?;
        }
    }
    let (file, tasks) = open(directory.join("tasks"))?;
    move_into(&file, &tasks)
}

/// Takes network tunnels, which the launcher gives to every container and Docker to none, from the group
/// `directory`, but where the document's own rules give them.
pub fn fence_tunnels(directory: &Path, devices: &Value) -> Result<()> {
    tell(directory, &json!({"allow": false, "type": "c", "major": 10, "minor": 200}))?;
    // The first is the default, for all devices.
    let own = devices.as_array().into_iter().flatten().skip(1);
    own.filter(|rule| is_about_tunnels(rule)).try_for_each(|rule| tell(directory, rule))
}

fn is_about_tunnels(rule: &Value) -> bool {
    let fits = |key: &str, number: i64| rule[key].as_i64().is_none_or(|named| named == number);
    rule["type"] != "b" && fits("major", 10) && fits("minor", 200)
}

fn tell(directory: &Path, rule: &Value) -> Result<()> {
    write(directory.join(if rule["allow"] == true { "devices.allow" } else { "devices.deny" }), &text(rule))
}

fn move_into(file: &Path, tasks: &OwnedFd) -> Result<()> {
    // The thread that writes.
    rustix::io::write(tasks, b"0").map(drop).map_err(|e| file_error("cannot write", file, e.into()))
}

fn open(file: PathBuf) -> Result<(PathBuf, OwnedFd)> {
    let opened = rustix::fs::open(&file, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|e| file_error("cannot open", &file, e.into())).map(|fd| (file, fd))
}

/// As the kernel reads it: `c 1:3 rwm`; what is not named is everything.
fn text(rule: &Value) -> String {
    let number = |key: &str| rule[key].as_i64().map_or("*".to_owned(), |number| number.to_string());
    let kind = rule["type"].as_str().unwrap_or("a");
    format!("{kind} {}:{} {}", number("major"), number("minor"), rule["access"].as_str().unwrap_or("rwm"))
}

/// A group of cpuset takes no process before it has both: what its parent has.
fn inherit(mount: &Path, path: &str, file: &str) -> Result<()> {
    let read = |path: &PathBuf| fs::read_to_string(path).map_err(|e| file_error("cannot read", path, e));
    let mut directory = mount.to_owned();
    for part in Path::new(path) {
        let above = directory.join(file);
        directory.push(part);
        let own = directory.join(file);
        if read(&own)?.trim().is_empty() {
            write(own, read(&above)?.trim())?;
        }
    }
    Ok(())
}

fn write(file: PathBuf, text: &str) -> Result<()> {
    let (file, fd) = open(file)?;
    rustix::io::write(fd, text.as_bytes()).map(drop).map_err(|e| file_error("cannot write", &file, e.into()))
}

/// An empty file system where they were, as on a machine without any, in this process's own mounts.
fn hide() -> std::result::Result<(), Errno> {
    unmount(ROOT, UnmountFlags::DETACH)?;
    mount("tmpfs", ROOT, "tmpfs", MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_written_as_the_kernel_reads_them() {
        assert_eq!(text(&json!({"allow": false, "access": "rwm"})), "a *:* rwm");
        let one = json!({"allow": true, "type": "c", "major": 1, "minor": 3, "access": "rw"});
        assert_eq!(text(&one), "c 1:3 rw");
        assert_eq!(text(&json!({"allow": true, "type": "b", "major": 8, "access": "r"})), "b 8:* r");
    }

    #[test]
    fn rules_that_give_or_take_tunnels_are_told_from_others() {
        let rule = |kind: &str, major: Option<i32>, minor: Option<i32>| json!({"type": kind, "major": major, "minor": minor});
        for rule in [rule("c", Some(10), Some(200)), rule("c", Some(10), None), rule("a", None, None)] {
            assert!(is_about_tunnels(&rule), "{rule}");
        }
        for rule in [rule("b", Some(10), Some(200)), rule("c", Some(10), Some(229)), rule("c", Some(1), None)]
        {
            assert!(!is_about_tunnels(&rule), "{rule}");
        }
    }

    #[test]
    fn limits_are_left_to_the_launcher() {
        assert!(
            enter("/ficelle/test/none", &json!({"devices": [], "pids": {"limit": 1}})).unwrap().is_none()
        );
        assert!(enter("/ficelle/test/none", &Value::Null).unwrap().is_none());
    }
}
