//! What a container takes from another that runs, or from the host: namespaces and shared memory.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use super::{
    ContainerConfig, Error, IpcNamespace, PidNamespace, Result, Roots,
    state::{Group, Identity, Place, Spec, entries, failed, make_dir},
    worker::short_id,
};

/// Another container that runs.
pub struct Lender {
    pub place: Place,
    pub process: Identity,
    pub config: ContainerConfig,
}

/// The namespaces that a container joins; those it has not are made with it, or left out of the document
/// for the host's.
#[derive(Debug, Default)]
pub struct Joined {
    pub ipc: Option<OwnedFd>,
    pub pid: Option<OwnedFd>,
}

/// A container of any group that runs, by id; `what` of it is to be shared.
pub fn lender(roots: &Roots, id: &str, what: &str) -> Result<Lender> {
    for group in entries(&roots.data.join("p"))? {
        let place = Group::new(roots, &group)?.place(id)?;
        if let Some(process) = place.state()?.and_then(|state| state.process) {
            let Spec { config, .. } = place.spec()?;
            return Ok(Lender { place, process, config });
        }
    }
    Err(Error::Condition(format!("container {} does not run, and its {what} is to be shared", short_id(id))))
}

impl Lender {
    /// One of its namespaces, by its name below `/proc/PID/ns`.
    pub fn namespace(&self, name: &str) -> Result<OwnedFd> {
        namespace_of(&self.process, name)
    }
}

pub fn namespace_of(process: &Identity, name: &str) -> Result<OwnedFd> {
    let path = format!("/proc/{}/ns/{name}", process.pid);
    let fd = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed(format!("cannot open `{path}`")))?;
    // What was opened was that of this process only if it lives still.
    if process.lives() { Ok(fd) } else { Err(Error::Condition("the container has ended".to_owned())) }
}

/// Opens what is to be joined.
pub fn join(roots: &Roots, config: &ContainerConfig) -> Result<Joined> {
    let mut joined = Joined::default();
    if let IpcNamespace::Container(id) = &config.ipc {
        let lender = lender(roots, id, "memory")?;
        check_shareable(&lender.config)?;
        joined.ipc = Some(lender.namespace("ipc")?);
    }
    if let PidNamespace::Container(id) = &config.pid {
        joined.pid = Some(lender(roots, id, "processes")?.namespace("pid")?);
    }
    Ok(joined)
}

/// A container says itself whether others may use its memory; one that uses that of another lends
/// nothing of its own.
fn check_shareable(lender: &ContainerConfig) -> Result<()> {
    match lender.ipc {
        IpcNamespace::Shareable | IpcNamespace::Host => Ok(()),
        IpcNamespace::Private | IpcNamespace::None | IpcNamespace::Container(_) => {
            Err(Error::Invalid(format!(
                "the memory of container {} is its own: others can join it when it has `ipc: shareable`",
                lender.name
            )))
        }
    }
}

/// Puts the /dev/shm that is shared at `target`; `None` when the container has one of its own, or none.
pub fn shared_memory(roots: &Roots, config: &ContainerConfig, target: &Path) -> Result<Option<PathBuf>> {
    let tree = match &config.ipc {
        IpcNamespace::Private | IpcNamespace::Shareable | IpcNamespace::None => return Ok(None),
        IpcNamespace::Host => clone_tree(Path::new("/dev/shm"))?,
        IpcNamespace::Container(id) => {
            let lender = lender(roots, id, "memory")?;
            within_mounts(&lender.namespace("mnt")?, || clone_tree(Path::new("/dev/shm")))?
        }
    };
    make_dir(target)?;
    move_mount(&tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
        .map_err(failed("cannot mount the shared /dev/shm"))?;
    Ok(Some(target.to_owned()))
}

fn clone_tree(path: &Path) -> Result<OwnedFd> {
    open_tree(CWD, path, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)
        .map_err(failed("cannot take over /dev/shm"))
}

/// Does `work` in another mount namespace and comes back to where this process was. Only for a process
/// with a single thread.
fn within_mounts<T>(namespace: &OwnedFd, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let open = |path: &str, flags| {
        rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed(format!("cannot open `{path}`")))
    };
    let own = open("/proc/self/ns/mnt", OFlags::RDONLY)?;
    let here = open(".", OFlags::PATH | OFlags::DIRECTORY)?;
    let enter = |namespace: &OwnedFd| {
        move_into_thread_name_spaces(namespace.as_fd(), ThreadNameSpaceType::MOUNT)
            .map_err(failed("cannot enter a container's mounts"))
    };
    enter(namespace)?;
    let done = work();
    enter(&own)?;
    rustix::process::fchdir(&here).map_err(failed("cannot come back from a container's mounts"))?;
    done
}
