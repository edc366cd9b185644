//! What a container sees of the control groups where there are several hierarchies (version 1). The
//! launcher would mount each of them by a hundred system calls, a third of all that a start takes: it is
//! given one directory with the mount points instead, and the hierarchies come by one call each, in the
//! container's own control group namespace.

use std::{
    ffi::CString,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, mkdirat, symlinkat},
    io::Errno,
    mount::{MountAttrFlags, MountFlags, MoveMountFlags, mount, move_mount},
};
use serde_json::{Value, json};

use super::{ROOT, hierarchies};
use crate::runtime::{
    Result, rootfs,
    state::{failed, make_dir},
};

/// Options of a hierarchy that its file system shows and that name no controller.
const NO_CONTROLLER: [&str; 5] = ["rw", "ro", "xattr", "noprefix", "clone_children"];

/// What is still to be mounted in the container; nothing where the launcher does it.
#[derive(Clone, Debug, Default)]
pub struct View {
    /// Where, and the controllers.
    hierarchies: Vec<(PathBuf, CString)>,
    read_only: bool,
}

impl View {
    /// Takes the mount of control groups out of `document` if it can be done here, with mount points
    /// made at `staging`. The container may not change what it sees when `read_only`.
    pub fn take_over(document: &mut Value, staging: &Path, read_only: bool) -> Result<Self> {
        let hierarchies = below_root();
        let namespaces = document["linux"]["namespaces"].as_array();
        let own = namespaces
            .is_some_and(|all| all.iter().any(|one| one["type"] == "cgroup" && one["path"].is_null()));
        let mounts = document["mounts"].as_array_mut();
        let entry = mounts.and_then(|all| {
            all.iter_mut().find(|mount| mount["destination"] == ROOT && mount["type"] == "cgroup")
        });
        let (Some(entry), true, false) = (entry, own, hierarchies.is_empty()) else {
            return Ok(Self::default());
        };
        make_dir(staging)?;
        let names = hierarchies.iter().filter_map(|(path, _)| path.file_name()?.to_str());
        mount_points(&names.collect::<Vec<_>>(), staging)
            .map_err(failed("cannot make the mount points of control groups"))?;
        let access = if read_only { "ro" } else { "rw" };
        *entry = json!({
            "destination": ROOT,
            "type": "bind",
            "source": staging,
            "options": ["rbind", "nosuid", "noexec", "nodev", access],
        });
        Ok(Self { hierarchies, read_only })
    }

    /// Whether the launcher has nothing to mount.
    pub fn is_complete(&self) -> bool {
        !self.hierarchies.is_empty()
    }

    /// In the container, which needs CAP_SYS_ADMIN for it; false when the launcher has done it.
    pub fn show(&self) -> Result<bool, Errno> {
        let mut flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC | MountFlags::RELATIME;
        flags.set(MountFlags::RDONLY, self.read_only);
        for (path, controllers) in &self.hierarchies {
            mount("cgroup", path, "cgroup", flags, controllers.as_c_str())?;
        }
        Ok(!self.hierarchies.is_empty())
    }
}

/// Hierarchies of version 1 with their controllers, if all are where everybody looks for them.
fn below_root() -> Vec<(PathBuf, CString)> {
    let first = hierarchies().iter().filter(|hierarchy| !hierarchy.controllers.is_empty());
    let all = first.map(|hierarchy| {
        let names = |option: &&String| {
            !NO_CONTROLLER.contains(&option.as_str()) && !option.starts_with("release_agent=")
        };
        let controllers: Vec<&str> = hierarchy.controllers.iter().filter(names).map(String::as_str).collect();
        let controllers = CString::new(controllers.join(",")).ok()?;
        (hierarchy.mount.parent() == Some(Path::new(ROOT))).then(|| (hierarchy.mount.clone(), controllers))
    });
    all.collect::<Option<_>>().unwrap_or_default()
}

/// An empty file system at `target` with a directory for each name, and a link for each controller of
/// those that share one.
fn mount_points(names: &[&str], target: &Path) -> Result<(), Errno> {
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mounted = rootfs::create("tmpfs", "tmpfs", &[("mode", "755")], attributes)?;
    for name in names {
        mkdirat(&mounted, *name, Mode::from_raw_mode(0o755))?;
        let shared: Vec<&str> = name.split(',').collect();
        for controller in shared.iter().filter(|_| shared.len() > 1) {
            symlinkat(*name, &mounted, *controller)?;
        }
    }
    move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}
