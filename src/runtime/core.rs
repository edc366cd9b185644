//! The face of the runtime core. All calls block; none may be made from an async task.

use std::{
    net::IpAddr,
    ops::ControlFlow,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{ContainerConfig, Error, NetworkConfig, PortConfig, Result, VolumeConfig};
use crate::model::Protocol;

/// The two state trees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roots {
    /// Live state, on tmpfs: `/run/ficelle`.
    pub run: PathBuf,
    /// Durable state: `/var/lib/ficelle`.
    pub data: PathBuf,
}

impl Roots {
    /// Both below one directory (`--root`).
    #[must_use]
    pub fn below(root: &Path) -> Self {
        Self { run: root.join("run"), data: root.join("data") }
    }
}

#[derive(Clone, Debug)]
pub struct Core {
    roots: Roots,
}

/// Exclusive over one group until dropped; the kernel frees it when the holder dies.
#[derive(Debug)]
pub struct GroupLock {
    _file: std::fs::File,
}

/// A container as found.
#[derive(Clone, Debug, PartialEq)]
pub struct ContainerRecord {
    pub config: ContainerConfig,
    pub phase: Phase,
    pub health: Option<Health>,
    /// Output and result of the last health probe.
    pub last_probe: Option<String>,
    /// Of the main process, in the caller's pid namespace.
    pub pid: Option<i32>,
    pub created: SystemTime,
    pub started: Option<SystemTime>,
    pub finished: Option<SystemTime>,
    pub restarts: u32,
    pub ports: Vec<BoundPort>,
    /// Network name and address.
    pub addresses: Vec<(String, std::net::Ipv4Addr)>,
    /// Names of its anonymous volumes, by target.
    pub anonymous_volumes: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoundPort {
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub target: u16,
    pub protocol: Protocol,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Made, never started.
    Created,
    Running,
    /// Ended, to be started again by its policy.
    Restarting,
    Exited(Exit),
}

/// How the main process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its code, or 128 + the signal.
    Code(i32),
    /// The machine went down, or nobody could learn it.
    Unknown,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    Starting,
    Healthy,
    Unhealthy,
}

/// What to wait for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    Running,
    Healthy,
    Exited,
    /// Running, and healthy where there is a check; an end with 0 counts as well.
    Ready,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogRequest {
    pub tail: Option<usize>,
    pub since: Option<SystemTime>,
    pub until: Option<SystemTime>,
    /// Go on, across restarts, until the container has ended for good.
    pub follow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogRecord {
    Line { stderr: bool, time: SystemTime, text: Vec<u8> },
    Exited { exit: i32, restarting: bool },
}

/// A port that cannot be had.
#[derive(Clone, Debug, PartialEq)]
pub struct PortConflict {
    pub port: PortConfig,
    /// Who has it, as far as can be seen: `nginx (pid 4711)`, `container a-web-1 of project a`.
    pub holder: Option<String>,
    pub error: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct NetworkRecord {
    pub config: NetworkConfig,
    /// Names of containers joined to it.
    pub containers: Vec<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct VolumeRecord {
    pub config: VolumeConfig,
    /// Where its data is on the host.
    pub data: PathBuf,
}

impl Core {
    /// Does nothing on disk.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        Self { roots }
    }

    /// Whether this process may do what the runtime needs, with the reason when not.
    pub fn permitted(&self) -> Result<()> {
        unimplemented!()
    }

    #[must_use]
    pub fn new_id() -> String {
        unimplemented!()
    }

    /// Takes the group's lock; `waiting` is called once with the holder's description when it is taken.
    pub fn lock(&self, group: &str, purpose: &str, waiting: &mut dyn FnMut(&str)) -> Result<GroupLock> {
        waiting(purpose);
        unimplemented!("{group}")
    }

    /// Puts right what a killed command, keeper or supervisor of the group left.
    pub fn repair(&self, group: &str) -> Result<()> {
        unimplemented!("{group}")
    }

    /// The containers of a group, or of all groups, oldest first. Reads files only.
    pub fn containers(&self, group: Option<&str>) -> Result<Vec<ContainerRecord>> {
        unimplemented!("{group:?}")
    }

    /// Everything that would make `create` or `start` fail and can be known now.
    pub fn check(&self, config: &ContainerConfig) -> Vec<Error> {
        unimplemented!("{config:?}")
    }

    /// Ports of a group's containers that cannot be bound. Ports that the containers in `replaced`
    /// (ids) hold now count as free.
    pub fn check_ports(&self, group: &str, ports: &[PortConfig], replaced: &[String]) -> Vec<PortConflict> {
        unimplemented!("{group} {ports:?} {replaced:?}")
    }

    /// Makes the container: directories, volumes, addresses. Nothing runs yet.
    pub fn create(&self, config: &ContainerConfig) -> Result<()> {
        unimplemented!("{config:?}")
    }

    /// Returns when the program was executed, or with the reason why it could not be.
    pub fn start(&self, group: &str, id: &str) -> Result<()> {
        unimplemented!("{group} {id}")
    }

    /// Stop signal, grace (its own when `None`), SIGKILL; the restart policy ends too.
    pub fn stop(&self, group: &str, id: &str, grace: Option<Duration>) -> Result<()> {
        unimplemented!("{group} {id} {grace:?}")
    }

    pub fn kill(&self, group: &str, id: &str, signal: i32) -> Result<()> {
        unimplemented!("{group} {id} {signal}")
    }

    /// Removes what does not run; repeated removal is no error.
    pub fn remove(&self, group: &str, id: &str, anonymous_volumes: bool) -> Result<()> {
        unimplemented!("{group} {id} {anonymous_volumes}")
    }

    /// Waits by events. An end that makes `until` impossible is [`Error::Condition`].
    /// `cancelled` is polled when something happens and at least every 100 ms.
    pub fn wait(
        &self,
        group: &str,
        id: &str,
        until: Until,
        deadline: Option<Duration>,
        cancelled: &dyn Fn() -> bool,
    ) -> Result<ContainerRecord> {
        unimplemented!("{group} {id} {until:?} {deadline:?} {}", cancelled())
    }

    /// Runs a container to its end in the foreground and removes it; its output goes to `output`
    /// (true for stderr). No logs, no restart, no group needed.
    pub fn run(&self, config: &ContainerConfig, output: &mut dyn FnMut(bool, &[u8])) -> Result<Exit> {
        output(false, b"");
        unimplemented!("{config:?}")
    }

    /// What a container wrote, in order; `sink` breaks to end.
    pub fn logs(
        &self,
        group: &str,
        id: &str,
        request: &LogRequest,
        sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<()> {
        let _ = sink(LogRecord::Exited { exit: 0, restarting: false });
        unimplemented!("{group} {id} {request:?}")
    }

    /// Calls `changed` now and whenever any container of the group changes, until it breaks.
    pub fn watch(&self, group: &str, changed: &mut dyn FnMut() -> ControlFlow<()>) -> Result<()> {
        let _ = changed();
        unimplemented!("{group}")
    }

    pub fn create_network(&self, config: &NetworkConfig) -> Result<()> {
        unimplemented!("{config:?}")
    }

    /// [`Error::Conflict`] while a container is joined to it.
    pub fn remove_network(&self, name: &str) -> Result<()> {
        unimplemented!("{name}")
    }

    pub fn networks(&self) -> Result<Vec<NetworkRecord>> {
        unimplemented!()
    }

    pub fn create_volume(&self, config: &VolumeConfig) -> Result<()> {
        unimplemented!("{config:?}")
    }

    /// [`Error::Conflict`] while a container uses it.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        unimplemented!("{name}")
    }

    pub fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        unimplemented!()
    }

    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }
}
