//! Control groups by path, in every hierarchy there is (version 1, hybrid or 2). The launcher makes
//! them; here they are entered, closed further and removed.

pub mod devices;
mod legacy;
mod scope;
mod view;

use std::{
    fs, io,
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    mount::{MountFlags, mount, mount_remount},
    process::{Pid, Signal, kill_process},
    thread::{UnshareFlags, unshare_unsafe},
};

use serde_json::Value;

pub use self::{
    legacy::{Entered, enter as enter_new},
    view::View,
};
use super::{
    Error, Result, rootless,
    state::{Group, entries, failed, file_error, remove_file, write_file},
    wait::Deadline,
};

const ROOT: &str = "/sys/fs/cgroup";

/// Path of the control groups that the groups of these containers are below; `None` where there can be
/// none, so that no limit applies: an ordinary user was given nothing of the hierarchies.
pub fn home(group: &Group) -> Option<String> {
    match fs::read_to_string(group.run().join(HOME)) {
        Ok(path) => Some(path),
        Err(_) if rootless::is_confined() => None,
        Err(_) => Some(format!("/ficelle/{}", group.name)),
    }
}

/// Names the place that the keeper was given, where it is not the ordinary one.
const HOME: &str = "cgroup";

/// Whether there is one hierarchy, of version 2, and no other.
fn is_unified() -> bool {
    const CGROUP2_SUPER_MAGIC: u64 = 0x6367_7270;
    rustix::fs::statfs(ROOT).is_ok_and(|stat| u64::try_from(stat.f_type) == Ok(CGROUP2_SUPER_MAGIC))
}

/// Gives the containers of this process, the group's keeper, their place: a scope where systemd runs, since
/// it takes all that it has not given away for its own.
pub fn settle(group: &Group) -> Result<()> {
    // Its workers inherit what it knows.
    hierarchies();
    let Some((socket, uid)) = scope::manager().filter(|_| is_unified()) else { return Ok(()) };
    match scope::enter(&socket, uid, &group.roots.run, &group.name) {
        Ok(path) => write_file(&group.run().join(HOME), path.as_bytes(), 0o600),
        // Root can do without it.
        Err(_) if !rootless::is_confined() => Ok(()),
        Err(error) => Err(error),
    }
}

/// Limits that have no effect for this user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// Names of controllers, of [`CONTROLLERS`].
    pub controllers: Vec<&'static str>,
    /// With what would bring them.
    pub why: String,
}

/// The controllers that limits of containers need.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuset", "io", "memory", "pids"];

/// What limits this user cannot have; `None` where all apply.
#[must_use]
pub fn missing() -> Option<Missing> {
    if !rootless::is_confined() {
        return None;
    }
    let all = |why: &str| Some(Missing { controllers: CONTROLLERS.to_vec(), why: why.to_owned() });
    if !is_unified() {
        return all(
            "control groups of version 1 are root's alone; `systemd.unified_cgroup_hierarchy=1` on the \
                    kernel's command line brings version 2",
        );
    }
    let Some((_, uid)) = scope::manager() else {
        return all(
            "no systemd runs for this user: log in, or let it run with `sudo loginctl enable-linger USER`",
        );
    };
    let delegated = format!("{ROOT}/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers");
    let given = fs::read_to_string(delegated).unwrap_or_default();
    let controllers: Vec<_> = CONTROLLERS
        .into_iter()
        .filter(|name| !given.split_whitespace().any(|given| given == *name))
        .collect();
    let why =
        "systemd does not give them to this user; `Delegate=cpu cpuset io memory pids` below `[Service]` in \
               /etc/systemd/system/user@.service.d/delegate.conf makes it"
            .to_owned();
    (!controllers.is_empty()).then_some(Missing { controllers, why })
}

/// Another container's end may take an empty parent away while a group is made below it.
const ATTEMPTS: usize = 10;

/// Makes the groups at `path`; of a unified hierarchy with all controllers for the last. The launcher's way of
/// making them fails when another container's worker or end is as far at the same moment.
pub fn prepare(path: &str) -> Result<()> {
    if !is_unified() {
        hierarchies().iter().for_each(|hierarchy| prepare_in(hierarchy, path));
        return Ok(());
    }
    let directory = Path::new(ROOT).join(path.trim_start_matches('/'));
    for _ in 1..ATTEMPTS {
        if make(&directory).is_ok() {
            return Ok(());
        }
    }
    make(&directory).map_err(|e| file_error("cannot make control group", &directory, e))
}

/// Of version 1. What cannot be made is told by the launcher, if it needs it.
fn prepare_in(hierarchy: &Hierarchy, path: &str) {
    let launches = |name: &String| !name.starts_with("name=");
    if !hierarchy.controllers.is_empty() && hierarchy.controllers.iter().all(launches) {
        let directory = hierarchy.mount.join(path.trim_start_matches('/'));
        let _ = (0..ATTEMPTS).any(|_| fs::create_dir_all(&directory).is_ok());
    }
}

fn make(directory: &Path) -> io::Result<()> {
    let above: Vec<&Path> = directory.ancestors().skip(1).take_while(|dir| dir.starts_with(ROOT)).collect();
    for parent in above.into_iter().rev() {
        match fs::create_dir(parent) {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
        for controller in CONTROLLERS {
            // One that is not there, or not given to this user, fails where a limit needs it.
            let _ = fs::write(parent.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    match fs::create_dir(directory) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    }
}

/// Takes out of a document's `linux.resources` what no group at `path` could take: there is a word about it
/// where the project is loaded.
pub fn honour(path: &str, resources: &mut Value) {
    let Some(resources) = resources.as_object_mut().filter(|_| rootless::is_confined()) else { return };
    let home = Path::new(ROOT).join(path.trim_start_matches('/'));
    let given =
        home.parent().map(|scope| fs::read_to_string(scope.join("cgroup.controllers")).unwrap_or_default());
    let given = given.unwrap_or_default();
    let has = |name: &str| given.split_whitespace().any(|given| given == name);
    for (key, controller) in [("memory", "memory"), ("pids", "pids"), ("blockIO", "io")] {
        if !has(controller) {
            resources.remove(key);
        }
    }
    if let Some(cpu) = resources.get_mut("cpu").and_then(Value::as_object_mut) {
        cpu.retain(|key, _| has(if ["cpus", "mems"].contains(&key.as_str()) { "cpuset" } else { "cpu" }));
    }
}

/// Takes what the keeper was given back.
pub fn leave(group: &Group) {
    let _ = remove_file(&group.run().join(HOME));
}

/// For a container without groups of its own: a view of the unified hierarchy that nothing can be made
/// in, in this process's own mounts. The launcher takes a refusal there for what it is.
pub fn stand_in() -> Result<()> {
    let what = "cannot show the container its control groups";
    // SAFETY: changes neither memory nor descriptors; one thread only.
    unsafe { unshare_unsafe(UnshareFlags::NEWCGROUP) }.map_err(failed(what))?;
    let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("cgroup2", ROOT, "cgroup2", flags, None).map_err(failed(what))
}

/// A mounted hierarchy: its controllers (none for version 2) and where it is.
struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

/// The directories of the groups that a process is in.
pub fn of_process(pid: i32) -> Result<Vec<PathBuf>> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&path).map_err(|e| file_error("cannot read", &path, e))?;
    Ok(text.lines().filter_map(|line| directory(line, hierarchies())).collect())
}

/// The directories of a container's own groups, by its main process. Where a user can have none, the process
/// is in groups with others, and they are not for us to freeze.
pub fn of_container(pid: i32, id: &str) -> Result<Vec<PathBuf>> {
    let own = |group: &PathBuf| {
        group.ancestors().find(|dir| dir.file_name().is_some_and(|name| name == id)).map(Path::to_owned)
    };
    let groups: Vec<_> = of_process(pid)?.iter().filter_map(own).collect();
    if groups.is_empty() {
        return Err(Error::Unsupported("freezing: this user has no control groups".to_owned()));
    }
    Ok(groups)
}

/// Of a line `4:memory:/path` or `0::/path`.
fn directory(line: &str, hierarchies: &[Hierarchy]) -> Option<PathBuf> {
    locate(line, hierarchies).map(|(_, directory)| directory)
}

fn locate<'a>(line: &str, hierarchies: &'a [Hierarchy]) -> Option<(&'a Hierarchy, PathBuf)> {
    let mut fields = line.splitn(3, ':');
    let number = fields.next()?;
    let controllers = fields.next()?;
    let path = fields.next()?.trim_start_matches('/');
    let found = hierarchies.iter().find(|hierarchy| {
        if number == "0" {
            hierarchy.controllers.is_empty()
        } else {
            controllers.split(',').all(|c| hierarchy.controllers.iter().any(|known| known == c))
        }
    })?;
    Some((found, found.mount.join(path)))
}

/// Read once: they stay where they are, and whoever is forked for a start knows them already.
fn hierarchies() -> &'static [Hierarchy] {
    static ALL: OnceLock<Vec<Hierarchy>> = OnceLock::new();
    ALL.get_or_init(|| {
        let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        text.lines().filter_map(hierarchy).collect()
    })
}

/// Of a line of mountinfo.
fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mount = PathBuf::from(mount.split(' ').nth(4)?);
    let mut fields = file_system.split(' ');
    match fields.next()? {
        "cgroup2" => Some(Hierarchy { controllers: Vec::new(), mount }),
        "cgroup" => {
            let controllers = fields.nth(1)?.split(',').filter(|option| *option != "rw").map(str::to_owned);
            Some(Hierarchy { controllers: controllers.collect(), mount })
        }
        _ => None,
    }
}

/// Closes the groups at `path` to devices that are not in `devices`, the rules of the document. With version
/// 1 the launcher does so, but for network tunnels; of version 2 it does nothing.
/// A user namespace gives access to no device that was not there before, and needs no rule.
pub fn fence(path: &str, devices: &Value) -> Result<()> {
    if is_unified() && !rootless::is_confined() {
        let directory = Path::new(ROOT).join(path.trim_start_matches('/'));
        return devices::rules(devices).map_or(Ok(()), |rules| devices::restrict(&directory, &rules));
    }
    for hierarchy in hierarchies() {
        if hierarchy.controllers.iter().any(|controller| controller == "devices") {
            let directory = hierarchy.mount.join(path.trim_start_matches('/'));
            legacy::fence_tunnels(&directory, devices)?;
        }
    }
    Ok(())
}

/// Lets processes wait for memory instead of ending them (version 1; version 2 has no such thing, and the
/// launcher does not pass it on).
pub fn disable_oom_killer(path: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        if hierarchy.controllers.iter().any(|controller| controller == "memory") {
            let file = hierarchy.mount.join(path.trim_start_matches('/')).join("memory.oom_control");
            fs::write(&file, "1").map_err(|e| file_error("cannot write", &file, e))?;
        }
    }
    Ok(())
}

/// Whether the kernel ended a process of the groups at `path` for want of memory: the count `oom_kill` of
/// memory.oom_control (version 1) or memory.events (version 2).
#[must_use]
pub fn ran_out_of_memory(path: &str) -> bool {
    let counts = |hierarchy: &Hierarchy| {
        let unified = hierarchy.controllers.is_empty();
        let name = if unified { "memory.events" } else { "memory.oom_control" };
        fs::read_to_string(hierarchy.mount.join(path.trim_start_matches('/')).join(name)).ok()
    };
    let killed = |line: &str| line.strip_prefix("oom_kill ").is_some_and(|count| count.trim() != "0");
    hierarchies().iter().filter_map(counts).any(|text| text.lines().any(killed))
}

/// Whether this machine has a file of this name in any group of this controller (version 1).
#[must_use]
pub fn knows(controller: &str, file: &str) -> bool {
    hierarchies().iter().any(|hierarchy| {
        hierarchy.controllers.iter().any(|c| c == controller) && hierarchy.mount.join(file).exists()
    })
}

/// Moves the process with this number (0: the caller) into groups. An ordinary user stays in those that
/// are not this user's.
pub fn enter(directories: &[PathBuf], pid: i32) -> Result<()> {
    for directory in directories {
        let file = directory.join("cgroup.procs");
        match fs::write(&file, pid.to_string()) {
            Err(e) if e.kind() == io::ErrorKind::PermissionDenied && rootless::is_confined() => {}
            other => other.map_err(|e| file_error("cannot write", &file, e))?,
        }
    }
    Ok(())
}

/// Freezes the processes of a container's groups, or lets them go on; returns when it is so.
pub fn freeze(directories: &[PathBuf], frozen: bool) -> Result<()> {
    /// For all of them to get to where they can be frozen.
    const LONGEST: Duration = Duration::from_secs(2);
    let deadline = Deadline::new(Some(LONGEST));
    let left = |most| {
        let late = |_| Error::Helper("the container's processes cannot be frozen".to_owned());
        deadline.left(most).map_err(late)
    };
    let with = |file| directories.iter().map(|dir| dir.join(file)).find(|path: &PathBuf| path.exists());
    if let Some(file) = with("freezer.state") {
        return freeze_by_state(&file, frozen, left);
    }
    let Some(file) = with("cgroup.freeze") else {
        return Err(Error::Unsupported(
            "freezing: this machine has no freezer for control groups".to_owned(),
        ));
    };
    fs::write(&file, if frozen { "1" } else { "0" }).map_err(|e| file_error("cannot write", &file, e))?;
    let path = file.with_file_name("cgroup.events");
    let unreadable = |e| file_error("cannot read", &path, e);
    let mut events = fs::File::open(&path).map_err(unreadable)?;
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    loop {
        let mut now = String::new();
        events.rewind().and_then(|()| events.read_to_string(&mut now)).map_err(unreadable)?;
        if now.contains(wanted) {
            return Ok(());
        }
        let left = left(LONGEST)?;
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        // The file says by POLLPRI that it has changed since it was read (cgroups(7)).
        match poll(&mut [PollFd::new(&events, PollFlags::PRI)], Some(&left)) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(failed("cannot wait for the container's processes")(e)),
        }
    }
}

/// With version 1 nobody tells, and processes that come to be meanwhile keep it at FREEZING until it is asked
/// for again.
fn freeze_by_state(file: &Path, frozen: bool, left: impl Fn(Duration) -> Result<Duration>) -> Result<()> {
    const LONGEST: Duration = Duration::from_millis(20);
    let word = if frozen { "FROZEN" } else { "THAWED" };
    let mut pause = Duration::from_micros(50);
    loop {
        fs::write(file, word).map_err(|e| file_error("cannot write", file, e))?;
        let now = fs::read_to_string(file).map_err(|e| file_error("cannot read", file, e))?;
        if now.trim() == word {
            return Ok(());
        }
        std::thread::sleep(left(pause)?);
        pause = LONGEST.min(pause * 2);
    }
}

/// Numbers of all processes in the groups at `path`, of the first hierarchy that has them.
pub fn processes(path: &str) -> Vec<i32> {
    let found = hierarchies().iter().find_map(|hierarchy| {
        let file = hierarchy.mount.join(path.trim_start_matches('/')).join("cgroup.procs");
        fs::read_to_string(file).ok().filter(|text| !text.is_empty())
    });
    found.unwrap_or_default().lines().filter_map(|line| line.parse().ok()).collect()
}

/// Kills every process in the groups at `path`.
pub fn kill(path: &str) {
    for hierarchy in hierarchies() {
        let directory = hierarchy.mount.join(path.trim_start_matches('/'));
        // Version 2 does it at once, so that nothing forks out of it; kernels from 5.14 on.
        if fs::OpenOptions::new()
            .write(true)
            .open(directory.join("cgroup.kill"))
            .is_ok_and(|mut file| file.write_all(b"1").is_ok())
        {
            continue;
        }
        let file = directory.join("cgroup.procs");
        let processes = fs::read_to_string(file).unwrap_or_default();
        for pid in processes.lines().filter_map(|line| Pid::from_raw(line.parse().ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Removes the groups at `path` with all below, and parents that are ours and empty. Nothing may
/// run in them any more.
pub fn remove(path: &str) -> Result<()> {
    let mut result = Ok(());
    for hierarchy in hierarchies() {
        let directory = hierarchy.mount.join(path.trim_start_matches('/'));
        if let Err(e) = remove_tree(&directory) {
            result = Err(e);
        }
        let mut parent = directory.as_path();
        // A scope is systemd's to remove, and a parent that somebody asked for is theirs.
        while path.starts_with("/ficelle/")
            && let Some(next) = parent.parent().filter(|next| *next != hierarchy.mount)
        {
            if fs::remove_dir(next).is_err() {
                break;
            }
            parent = next;
        }
    }
    result
}

fn remove_tree(directory: &Path) -> Result<()> {
    match fs::remove_dir(directory) {
        Ok(()) => return Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        // With children this is EBUSY; files in it do not count.
        Err(_) => {}
    }
    for child in entries(directory)? {
        let child = directory.join(child);
        if child.is_dir() {
            remove_tree(&child)?;
        }
    }
    match fs::remove_dir(directory) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(file_error("cannot remove control group", directory, e))
        }
        _ => Ok(()),
    }
}

/// In a container: makes what is seen of the control groups read-only. With version 1, libcontainer
/// mounts each hierarchy writable whatever the document says.
pub fn seal_mounts() -> rustix::io::Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let Ok(entries) = fs::read_dir(root) else { return Ok(()) };
    let hierarchies = entries.flatten().map(|entry| entry.path());
    for path in hierarchies.chain([root.to_owned()]) {
        let flags = MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        match mount_remount(&path, MountFlags::BIND | flags, "") {
            // No mount point: a file of the unified hierarchy, which the root's own flag covers.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_found_in_hybrid_and_unified_machines() {
        let mounts = [
            "30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct",
            "31 25 0:27 / /sys/fs/cgroup/systemd rw,relatime shared:9 - cgroup cgroup rw,name=systemd",
            "32 25 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw",
            "33 25 0:29 / /proc rw - proc proc rw",
        ];
        let hierarchies: Vec<_> = mounts.iter().filter_map(|line| hierarchy(line)).collect();
        assert_eq!(hierarchies.len(), 3);
        let find = |line| directory(line, &hierarchies);
        assert_eq!(find("4:cpu,cpuacct:/a/b"), Some("/sys/fs/cgroup/cpu,cpuacct/a/b".into()));
        assert_eq!(find("1:name=systemd:/"), Some("/sys/fs/cgroup/systemd/".into()));
        assert_eq!(find("0::/x"), Some("/sys/fs/cgroup/unified/x".into()));
        assert_eq!(find("7:memory:/x"), None);
    }
}
