//! Control groups by path, in every hierarchy there is (version 1, hybrid or 2). The launcher makes
//! them; here they are entered, closed further and removed.

mod view;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount_remount},
    process::{Pid, Signal, kill_process},
};

pub use self::view::View;
use super::{
    Error, Result,
    state::{entries, file_error},
};

/// A mounted hierarchy: its controllers (none for version 2) and where it is.
struct Hierarchy {
    controllers: Vec<String>,
    mount: PathBuf,
}

/// The directories of the groups that a process is in.
pub fn of_process(pid: i32) -> Result<Vec<PathBuf>> {
    let path = PathBuf::from(format!("/proc/{pid}/cgroup"));
    let text = fs::read_to_string(&path).map_err(|e| file_error("cannot read", &path, e))?;
    let hierarchies = hierarchies();
    Ok(text.lines().filter_map(|line| directory(line, &hierarchies)).collect())
}

/// Of a line `4:memory:/path` or `0::/path`.
fn directory(line: &str, hierarchies: &[Hierarchy]) -> Option<PathBuf> {
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
    Some(found.mount.join(path))
}

fn hierarchies() -> Vec<Hierarchy> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    text.lines().filter_map(hierarchy).collect()
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

/// Takes back what the launcher allows and Docker does not: network tunnels (version 1).
pub fn deny_tunnels(path: &str) -> Result<()> {
    for hierarchy in hierarchies() {
        if hierarchy.controllers.iter().any(|controller| controller == "devices") {
            let file = hierarchy.mount.join(path.trim_start_matches('/')).join("devices.deny");
            fs::write(&file, "c 10:200 rwm").map_err(|e| file_error("cannot write", &file, e))?;
        }
    }
    Ok(())
}

/// Moves the process with this number (0: the caller) into groups.
pub fn enter(directories: &[PathBuf], pid: i32) -> Result<()> {
    for directory in directories {
        let file = directory.join("cgroup.procs");
        fs::write(&file, pid.to_string()).map_err(|e| file_error("cannot write", &file, e))?;
    }
    Ok(())
}

/// Freezes the processes of a container's groups, or lets them go on; returns when it is so.
pub fn freeze(directories: &[PathBuf], frozen: bool) -> Result<()> {
    let unified = |directory: &&PathBuf| directory.join("cgroup.freeze").exists();
    let legacy = |directory: &&PathBuf| directory.join("freezer.state").exists();
    if let Some(directory) = directories.iter().find(legacy) {
        let file = directory.join("freezer.state");
        let word = if frozen { "FROZEN" } else { "THAWED" };
        // Processes that come to be meanwhile keep it at FREEZING until it is asked for again.
        for _ in 0..1000 {
            fs::write(&file, word).map_err(|e| file_error("cannot write", &file, e))?;
            let now = fs::read_to_string(&file).map_err(|e| file_error("cannot read", &file, e))?;
            if now.trim() == word {
                return Ok(());
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        return Err(Error::Helper("the container's processes cannot be frozen".to_owned()));
    }
    let Some(directory) = directories.iter().find(unified) else {
        return Err(Error::Unsupported(
            "freezing: this machine has no freezer for control groups".to_owned(),
        ));
    };
    let file = directory.join("cgroup.freeze");
    fs::write(&file, if frozen { "1" } else { "0" }).map_err(|e| file_error("cannot write", &file, e))?;
    let events = directory.join("cgroup.events");
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    for _ in 0..1000 {
        let now = fs::read_to_string(&events).map_err(|e| file_error("cannot read", &events, e))?;
        if now.contains(wanted) {
            return Ok(());
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    Err(Error::Helper("the container's processes cannot be frozen".to_owned()))
}

/// Kills every process in the groups at `path`.
pub fn kill(path: &str) {
    for hierarchy in hierarchies() {
        let file = hierarchy.mount.join(path.trim_start_matches('/')).join("cgroup.procs");
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
        while let Some(next) = parent.parent().filter(|next| *next != hierarchy.mount) {
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
