//! What every container has in its /dev and /etc, mounted before there is a process in it: nothing of it
//! depends on a namespace of the container's, and the launcher takes a hundred calls for each mount.

use std::{
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, OFlags},
    io::Errno,
    mount::{MountAttrFlags, MountPropagationFlags, OpenTreeFlags, mount_change, open_tree},
};

use super::{ContainerConfig, IpcNamespace, Result, rootfs, state::failed};

/// Mounts it below `root`, but where the configuration mounts something else. Of `files` (our own
/// resolv.conf, hosts and hostname, by target) it returns those that the launcher must mount.
pub fn mount(
    root: BorrowedFd<'_>,
    config: &ContainerConfig,
    files: Vec<(&'static str, PathBuf)>,
) -> Result<Vec<(&'static str, PathBuf)>> {
    let taken = |target: &str| {
        config.mounts.iter().any(|mount| mount.target == target)
            || config.files.iter().any(|file| file.target == target)
    };
    let place = |target: &str, made: std::result::Result<OwnedFd, Errno>| -> Result<()> {
        let what = || format!("cannot mount the container's {target}");
        let made = made.map_err(failed(what()))?;
        rootfs::put(&made, &rootfs::make_dirs(root, target, 0, 0)?).map_err(failed(what()))
    };
    let nosuid = MountAttrFlags::MOUNT_ATTR_NOSUID;
    let noexec = nosuid | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    if !taken("/dev") {
        let options = [("mode", "755"), ("size", "65536k")];
        let attributes = nosuid | MountAttrFlags::MOUNT_ATTR_STRICTATIME;
        place("/dev", rootfs::create("tmpfs", "tmpfs", &options, attributes))?;
    }
    if !taken("/dev/pts") {
        let options = [("newinstance", ""), ("ptmxmode", "0666"), ("mode", "0620"), ("gid", "5")];
        place("/dev/pts", rootfs::create("devpts", "devpts", &options, noexec))?;
    }
    let own_memory = matches!(config.ipc, IpcNamespace::Private | IpcNamespace::Shareable);
    if own_memory && !taken("/dev/shm") {
        let size = config.shm_size.to_string();
        let attributes = noexec | MountAttrFlags::MOUNT_ATTR_NODEV;
        place("/dev/shm", rootfs::create("tmpfs", "shm", &[("mode", "1777"), ("size", &size)], attributes))?;
    }
    let mut left = Vec::new();
    for (target, source) in files {
        if !taken(target) && (config.read_only || !bind(root, target, &source)?) {
            left.push((target, source));
        }
    }
    Ok(left)
}

/// False where there is no file to mount it at.
fn bind(root: BorrowedFd<'_>, target: &str, source: &Path) -> Result<bool> {
    let Ok(there) = rootfs::open_inside(root, target, OFlags::PATH) else { return Ok(false) };
    let kind = rustix::fs::fstat(&there).map(|stat| FileType::from_raw_mode(stat.st_mode));
    if kind != Ok(FileType::RegularFile) {
        return Ok(false);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let bound = open_tree(CWD, source, flags).and_then(|tree| {
        rootfs::put(&tree, &there)?;
        // The descriptor of before is of what is covered now.
        let mounted = rootfs::open_inside(root, target, OFlags::PATH)?;
        mount_change(format!("/proc/self/fd/{}", mounted.as_raw_fd()), MountPropagationFlags::PRIVATE)
    });
    bound.map(|()| true).map_err(failed(format!("cannot mount the container's {target}")))
}
