//! The face of the runtime core. All calls block; none may be made from an async task.

use std::{
    collections::HashMap,
    fs::File,
    net::IpAddr,
    ops::ControlFlow,
    os::{
        fd::{BorrowedFd, OwnedFd},
        unix::net::UnixStream,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};

pub use super::lock::GroupLock;
use super::{
    Attended, ContainerConfig, Error, ExecConfig, MountKind, NetworkConfig, NetworkNamespace, PortConfig,
    Result, VolumeConfig,
    anchor::{self, Anchor},
    attended, cgroup, client,
    failpoint::{Point, reached},
    logs, network, ports,
    protocol::Request,
    rootfs::{self, Files, Shown},
    run, signal,
    state::{
        Group, Place, Spec, Stage, State, entries, failed, file_error, make_dir, plain_name, read_json,
        remove_dir, remove_file, write_file, write_json,
    },
    uplink, usage, volumes,
    wait::{self, Deadline, Watcher},
    worker,
};
use super::{ProcessRecord, Usage};
use crate::model::Protocol;

/// The two state trees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// Clones share what they have read.
#[derive(Clone, Debug)]
pub struct Core {
    roots: Roots,
    /// Specifications never change once they are written: each is read once. By the container's id.
    specs: Arc<Mutex<HashMap<String, Arc<Spec>>>>,
    /// What [`Core::prepare`] holds.
    prepared: Arc<Mutex<Option<Prepared>>>,
}

/// Those who stay as long as we have these.
#[derive(Debug)]
#[expect(dead_code, reason = "held for what their ends bring")]
struct Prepared {
    keeper: Option<UnixStream>,
    anchor: Option<Anchor>,
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
    /// At its last end, the kernel had ended a process of it for want of memory.
    pub out_of_memory: bool,
    /// How much is done of what is owed to this start ([`Core::owe`]), until it is all done.
    pub owed: Option<usize>,
    /// It ran when the machine went down, and nobody learnt how it ended.
    pub host_restarted: bool,
    pub restarts: u32,
    pub ports: Vec<BoundPort>,
    /// Names of its anonymous volumes, by target.
    pub anonymous_volumes: Vec<(String, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    /// Running, and every process of it is frozen.
    Paused,
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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

/// What a container wrote, as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RawRecord {
    Bytes { stderr: bool, bytes: Vec<u8> },
    Exited { exit: i32, restarting: bool },
}

/// What of a container can be typed at.
#[derive(Debug, Default)]
pub struct Attachment {
    /// Its standard input.
    pub input: Option<OwnedFd>,
    /// The master of its terminal.
    pub terminal: Option<OwnedFd>,
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
        Self { roots, specs: Arc::default(), prepared: Arc::default() }
    }

    /// Whether this process may do what the runtime needs, with the reason when not.
    pub fn permitted(&self) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            return Ok(());
        }
        Err(Error::Permission {
            what: "running containers in the embedded engine".to_owned(),
            need: "root, or a user namespace, which the command enters first".to_owned(),
        })
    }

    #[must_use]
    pub fn new_id() -> String {
        wait::random_id()
    }

    /// Takes the group's lock; `waiting` is called once with the holder's description when it is taken.
    pub fn lock(&self, group: &str, purpose: &str, waiting: &mut dyn FnMut(&str)) -> Result<GroupLock> {
        GroupLock::take(self.group(group)?, purpose, waiting)
    }

    /// Puts right what a killed command, keeper or supervisor of the group left. Its lock is held.
    pub fn repair(&self, group: &str) -> Result<()> {
        let group = self.group(group)?;
        // What a killed command asked for may be under way: it holds ports that no file names yet.
        client::ask_living(&group, &Request::Settle)?;
        let ids = group.ids()?;
        let mut unattended = false;
        for id in &ids {
            let place = group.place(id)?;
            let state: Option<State> = read_json(&place.run.join("state.json"))?;
            unattended |= state.is_some_and(|state| !matches!(state.phase, Stage::Exited { .. }));
        }
        self.remove_remains(&group, &ids)?;
        volumes::sweep(&self.roots)?;
        let volumes = volumes::list(&self.roots)?;
        self.unmount_volumes(volumes.iter().map(|volume| volume.config.name.as_str()))?;
        network::sweep(&self.roots)?;
        uplink::mend(&self.roots.run, false)?;
        network::retain(&self.roots, &group.name, &ids.iter().map(String::as_str).collect::<Vec<_>>())?;
        if ids.is_empty() {
            anchor::leavings(&self.roots, false)?;
        }
        if unattended { client::ensure(&group) } else { Ok(()) }
    }

    /// The containers of a group, or of all groups, oldest first. Reads files only.
    pub fn containers(&self, group: Option<&str>) -> Result<Vec<ContainerRecord>> {
        self.select(group, &|_| true)
    }

    /// Those of a group that are called so, oldest first: several while one takes the place of another.
    pub fn named(&self, group: &str, name: &str) -> Result<Vec<ContainerRecord>> {
        self.select(Some(group), &|config| config.name == name)
    }

    fn select(
        &self,
        group: Option<&str>,
        wanted: &dyn Fn(&ContainerConfig) -> bool,
    ) -> Result<Vec<ContainerRecord>> {
        let groups = match group {
            Some(group) => vec![group.to_owned()],
            None => entries(&self.roots.data.join("p"))?,
        };
        let mut records = Vec::new();
        for group in groups {
            let group = self.group(&group)?;
            for id in group.ids()? {
                let found = self.spec(&group, &id).and_then(|spec| match wanted(&spec.config) {
                    true => record(&group.place(&id)?, &spec).map(Some),
                    false => Ok(None),
                });
                match found {
                    Ok(found) => records.extend(found),
                    // Removed meanwhile.
                    Err(Error::NoContainer(_)) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        records.sort_by_key(|record| record.created);
        Ok(records)
    }

    fn spec(&self, group: &Group, id: &str) -> Result<Arc<Spec>> {
        let specs = || self.specs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spec) = specs().get(id) {
            return Ok(Arc::clone(spec));
        }
        let spec = Arc::new(group.place(id)?.spec()?);
        specs().insert(id.to_owned(), Arc::clone(&spec));
        Ok(spec)
    }

    /// Everything that would make `create` or `start` fail and can be known now.
    pub fn check(&self, config: &ContainerConfig) -> Vec<Error> {
        super::check::check(config)
    }

    /// Ports of a group's containers that cannot be bound. Ports that the containers in `replaced`
    /// (ids) hold now count as free.
    pub fn check_ports(&self, group: &str, ports: &[PortConfig], replaced: &[String]) -> Vec<PortConflict> {
        let mut held = Vec::new();
        // What cannot be read holds nothing that could be named.
        for record in self.containers(None).unwrap_or_default() {
            let config = &record.config;
            let owner = format!("container {} of project {}", config.name, config.group);
            let replaced = config.group == group && replaced.contains(&config.id);
            held.extend(record.ports.iter().map(|&port| ports::Held {
                port,
                owner: owner.clone(),
                replaced,
            }));
        }
        ports::check(ports, &held)
    }

    /// Makes the container: directories, volumes, addresses. Nothing runs yet.
    pub fn create(&self, config: &ContainerConfig) -> Result<()> {
        let group = self.group(&config.group)?;
        let place = group.place(&config.id)?;
        if place.data.exists() {
            return Ok(());
        }
        let replaced = match &config.replaces {
            Some(id) => group.place(id)?.spec().ok(),
            None => None,
        };
        if let NetworkNamespace::Own(endpoints) = &config.network {
            let replaces = config.replaces.as_deref();
            network::lease(&self.roots, &config.group, &config.id, endpoints, replaces)?;
            reached(Point::Leased);
        }
        let result = self.write(config, &place, replaced.as_ref());
        if result.is_err() {
            let _ = network::release(&self.roots, &config.id);
            let _ = self.bury(&aside(&place, config.id.as_str(), WITH_VOLUMES));
            let _ = remove_dir(&place.run);
            let _ = remove_empty(&group);
        }
        result
    }

    /// The container's own directory, whole or not at all. Its volumes are named there before they are
    /// made: those of a creation that was killed are found again.
    fn write(&self, config: &ContainerConfig, place: &Place, replaced: Option<&Spec>) -> Result<()> {
        let anonymous_volumes = anonymous_volumes(config, replaced);
        let spec = Spec { config: config.clone(), created: SystemTime::now(), anonymous_volumes };
        let half = aside(place, &config.id, WITH_VOLUMES);
        remove_dir(&half)?;
        make_dir(&half)?;
        write_json(&half.join("spec.json"), &spec)?;
        reached(Point::Specified);
        for (target, name) in spec.anonymous_volumes {
            let anonymous_of = Some(config.group.clone());
            let annotations = config.mounts.iter().find_map(|mount| match &mount.kind {
                MountKind::Anonymous { annotations, .. } if mount.target == target => {
                    Some(annotations.clone())
                }
                _ => None,
            });
            let annotations = annotations.unwrap_or_default();
            volumes::create(&self.roots, &VolumeConfig { name, anonymous_of, mount: None, annotations })?;
        }
        reached(Point::VolumesMade);
        make_dir(&place.run)?;
        std::fs::rename(&half, &place.data).map_err(|e| file_error("cannot make", &place.data, e))?;
        reached(Point::Made);
        Ok(())
    }

    /// As long as this is held, and no longer than its holder lives, a one-off container that removes itself
    /// stays when it has ended: somebody has still to learn how.
    pub fn attend(&self, group: &str, id: &str) -> Result<File> {
        let place = self.group(group)?.place(id)?;
        make_dir(&place.run)?;
        let path = place.attended();
        let file = File::create(&path).map_err(|e| file_error("cannot open", &path, e))?;
        flock(&file, FlockOperation::LockShared).map_err(failed("cannot lock a container"))?;
        Ok(file)
    }

    /// Makes ready what starting containers of the group takes, with `networks` also for those on
    /// networks; it stays until [`Core::release`], or the end of this process. A hint: what cannot be
    /// had now is told by the start that needs it.
    pub fn prepare(&self, group: &str, networks: bool) -> Result<()> {
        let group = self.group(group)?;
        let roots = self.roots.clone();
        let anchor = networks.then(|| std::thread::spawn(move || anchor::connect(&roots).ok()));
        let keeper = client::prepare(&group, networks);
        let anchor = anchor.and_then(|anchor| anchor.join().ok()?);
        *self.prepared.lock().unwrap_or_else(PoisonError::into_inner) = Some(Prepared { keeper, anchor });
        Ok(())
    }

    /// Ends what [`Core::prepare`] began, unless containers run.
    pub fn release(&self) {
        drop(self.prepared.lock().unwrap_or_else(PoisonError::into_inner).take());
    }

    /// Writes down that something is still to be done for a container that was started or is about to be, and
    /// how much of it is: should the caller be killed, another goes on. `None` when all is done.
    pub fn owe(&self, group: &str, id: &str, done: Option<usize>) -> Result<()> {
        let place = self.group(group)?.place(id)?;
        make_dir(&place.run)?;
        place.write_owed(done)
    }

    /// Returns when the program was executed, or with the reason why it could not be.
    pub fn start(&self, group: &str, id: &str) -> Result<()> {
        let group = self.group(group)?;
        if !group.place(id)?.data.exists() {
            return Err(Error::NoContainer(worker::short_id(id)));
        }
        client::ask(&group, &Request::Start { id: id.to_owned() })
    }

    /// Stop signal, grace (its own when `None`), SIGKILL; the restart policy ends too. `tell` hears why it takes
    /// longer than it should.
    pub fn stop(
        &self,
        group: &str,
        id: &str,
        grace: Option<Duration>,
        tell: &mut dyn FnMut(String),
    ) -> Result<()> {
        /// From the kill to the end of the log.
        const LONGEST: Duration = Duration::from_secs(30);
        /// When it is late.
        const USUAL: Duration = Duration::from_secs(2);
        let group = self.group(group)?;
        let place = group.place(id)?;
        let spec = place.spec()?;
        Self::end_policy(&group, id, &place)?;
        reached(Point::PolicyEnded);
        let Some(process) = place.state()?.and_then(|state| state.process) else { return Ok(()) };
        if let Some(pidfd) = signal::pidfd(&process) {
            let grace = grace.unwrap_or(spec.config.stop_grace);
            let hopeless = !spec.config.init && signal::is_dropped(process.pid, spec.config.stop_signal);
            let failed = |source| Error::System { what: "cannot signal the container".to_owned(), source };
            if !grace.is_zero() && !hopeless {
                signal::send(&pidfd, spec.config.stop_signal).map_err(failed)?;
                reached(Point::Signalled);
                thaw(&place)?;
                signal::wait_for_end(&pidfd, grace)?;
            }
            signal::send(&pidfd, libc::SIGKILL).map_err(failed)?;
            thaw(&place)?;
        }
        let why = || signal::held_up(process.pid, group.cgroup(id).as_deref());
        for time in [USUAL, LONGEST] {
            // Over a socket: the end of a watch of files takes the kernel longer (SRCU) than all the rest.
            if client::await_end(&group, id, time)
                && place.state()?.is_none_or(|state| matches!(state.phase, Stage::Exited { .. }))
            {
                return Ok(());
            }
            why().into_iter().for_each(&mut *tell);
        }
        let waited = self.wait(&group.name, id, Until::Exited, Some(LONGEST), &|| false);
        waited.map(drop).map_err(|error| why().map_or(error, Error::Condition))
    }

    /// Freezes every process of a running container; it shows as paused until it is thawed.
    pub fn pause(&self, group: &str, id: &str) -> Result<()> {
        let group = self.group(group)?;
        let place = group.place(id)?;
        let name = place.spec()?.config.name;
        let process = place.state()?.and_then(|state| state.process);
        let gone = || Error::Condition(format!("container {name} is not running"));
        let process = process.ok_or_else(gone)?;
        let _entrance = super::lock::lock(&place.entrance(), |_| {})?;
        // First: a freeze that nobody knows of would be thawed by nobody.
        write_file(&place.run.join("paused"), b"", 0o600)?;
        let frozen = cgroup::of_container(process.pid, id).and_then(|groups| cgroup::freeze(&groups, true));
        if frozen.is_err() {
            remove_file(&place.run.join("paused"))?;
        }
        // It may have ended at this moment.
        if process.lives() { frozen } else { Err(gone()) }
    }

    /// Lets a frozen container go on; no error for one that is not frozen.
    pub fn unpause(&self, group: &str, id: &str) -> Result<()> {
        let place = self.group(group)?.place(id)?;
        place.spec()?;
        thaw(&place)
    }

    /// Sends a signal by number. One that ends containers (SIGKILL, the stop signal) ends the restart
    /// policy too.
    pub fn kill(&self, group: &str, id: &str, signal: i32) -> Result<()> {
        let group = self.group(group)?;
        let place = group.place(id)?;
        let spec = place.spec()?;
        let process = place.state()?.and_then(|state| state.process);
        let Some(pidfd) = process.as_ref().and_then(signal::pidfd) else {
            return Err(Error::Condition(format!("container {} is not running", spec.config.name)));
        };
        if signal == libc::SIGKILL || signal == spec.config.stop_signal {
            Self::end_policy(&group, id, &place)?;
        }
        signal::send(&pidfd, signal).map_err(|source| match source.raw_os_error() {
            Some(libc::EINVAL) => Error::Invalid(format!("no signal {signal}")),
            _ => Error::System { what: "cannot signal the container".to_owned(), source },
        })?;
        // What is frozen dies of nothing.
        if signal == libc::SIGKILL { thaw(&place) } else { Ok(()) }
    }

    /// From here on nothing starts it but a command.
    fn end_policy(group: &Group, id: &str, place: &Place) -> Result<()> {
        if client::ask_living(group, &Request::Stop { id: id.to_owned() })? {
            return Ok(());
        }
        make_dir(&place.run)?;
        write_file(&place.run.join("stopped"), b"", 0o600)?;
        // Somebody must see its end.
        client::ensure_if_unattended(group, place)
    }

    /// Removes what does not run; repeated removal is no error.
    pub fn remove(&self, group: &str, id: &str, anonymous_volumes: bool) -> Result<()> {
        let group = self.group(group)?;
        let place = group.place(id)?;
        let spec = match place.spec() {
            Ok(spec) => Some(spec),
            Err(Error::NoContainer(_)) => None,
            Err(error) => return Err(error),
        };
        if let Some(state) = place.state()?
            && !matches!(state.phase, Stage::Exited { .. })
        {
            let name = spec.map_or_else(|| worker::short_id(id), |spec| spec.config.name);
            return Err(Error::Conflict(format!("container {name} runs: stop it first")));
        }
        client::ask_living(&group, &Request::Forget { id: id.to_owned() })?;
        reached(Point::Forgotten);
        group.cgroup(id).as_deref().map_or(Ok(()), cgroup::remove)?;
        reached(Point::CgroupRemoved);
        // First: as long as it is seen, so is how it ended.
        let grave = aside(&place, id, if anonymous_volumes { WITH_VOLUMES } else { WITHOUT_VOLUMES });
        if place.data.exists() {
            std::fs::rename(&place.data, &grave).map_err(|e| file_error("cannot remove", &place.data, e))?;
        }
        reached(Point::PutAside);
        remove_dir(&place.run)?;
        reached(Point::RunRemoved);
        let names = spec.iter().flat_map(|spec| named_volumes(&spec.config));
        let buried = self.bury(&grave).and_then(|()| self.unmount_volumes(names));
        reached(Point::Buried);
        let released = network::release(&self.roots, id);
        reached(Point::Released);
        remove_empty(&group)?;
        buried.and(released)
    }

    /// Removes what was put [`aside`]: a container that is no more, or not yet.
    fn bury(&self, grave: &Path) -> Result<()> {
        let mut result = Ok(());
        let spec: Option<Spec> = read_json(&grave.join("spec.json")).unwrap_or_default();
        if grave.extension().is_none_or(|extension| extension != WITHOUT_VOLUMES)
            && let Some(anonymous) = spec.map(|spec| self.anonymous(&spec)).filter(|names| !names.is_empty())
        {
            let others = self.containers(None)?;
            for volume in anonymous {
                let used = others.iter().any(|other| uses_volume(other, &volume));
                if !used && let Err(error) = volumes::remove(&self.roots, &volume) {
                    result = Err(error);
                }
            }
        }
        // Last: what could not be done is done by the next command.
        result.and_then(|()| remove_dir(grave))
    }

    /// Anonymous volumes of a container: those made with it, and those that another lent it.
    fn anonymous(&self, spec: &Spec) -> Vec<String> {
        let own = spec.anonymous_volumes.iter().map(|(_, volume)| volume.clone());
        let lent = named_volumes(&spec.config).filter(|name| volumes::is_anonymous(&self.roots, name));
        own.chain(lent.map(ToOwned::to_owned)).collect()
    }

    /// Volumes that mount something do so as long as there is a container for it.
    fn unmount_volumes<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<()> {
        let mounting: Vec<&str> = names.filter(|name| volumes::mounts(&self.roots, name)).collect();
        if mounting.is_empty() {
            return Ok(());
        }
        let containers = self.containers(None)?;
        let is_used = |name: &str| containers.iter().any(|record| uses_volume(record, name));
        mounting
            .into_iter()
            .filter(|name| !is_used(name))
            .try_for_each(|name| volumes::unmount(&self.roots, name))
    }

    /// What creations and removals that were killed left: directories put aside, and run directories and
    /// control groups of containers that are no more.
    fn remove_remains(&self, group: &Group, ids: &[String]) -> Result<()> {
        let listing = std::fs::read_dir(group.data().join("c"));
        for entry in listing.map(|listing| listing.flatten().collect()).unwrap_or_else(|_| Vec::new()) {
            if entry.file_name().to_string_lossy().starts_with('.') {
                self.bury(&entry.path())?;
            }
        }
        let runs = group.run().join("c");
        for id in entries(&runs)? {
            if !ids.contains(&id) && plain_name("container", &id).is_ok() {
                group.cgroup(&id).as_deref().map_or(Ok(()), cgroup::remove)?;
                remove_dir(&runs.join(&id))?;
            }
        }
        if ids.is_empty() { remove_empty(group) } else { Ok(()) }
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
        const LONGEST: Duration = Duration::from_millis(100);
        let group = self.group(group)?;
        let place = group.place(id)?;
        place.spec()?;
        let watcher = Watcher::new()?;
        watcher.add(&place.run)?;
        let deadline = Deadline::new(deadline);
        loop {
            // Read again: it may be removed while it is waited for.
            let record = record(&place, &place.spec()?)?;
            if wait::reached(&record, until)? {
                return Ok(record);
            }
            if cancelled() {
                return Err(Error::Condition("cancelled".to_owned()));
            }
            if !watcher.wait(Some(deadline.left(LONGEST)?), None) {
                // Nothing for a while: is there anybody who would tell?
                let attended = client::ensure_if_unattended(&group, &place);
                // An end is seen also where nobody can be, on a full disk.
                if !place.state()?.is_some_and(|state| matches!(state.phase, Stage::Exited { .. })) {
                    attended?;
                }
            }
        }
    }

    /// Runs a container to its end in the foreground and removes it; its output goes to `output`
    /// (true for stderr). No logs, no restart, no group needed.
    pub fn run(&self, config: &ContainerConfig, output: &mut dyn FnMut(bool, &[u8])) -> Result<Exit> {
        run::run(&self.roots, config, output, None)
    }

    /// [`Core::run`] that kills the container when `cancel` becomes readable; then it is an
    /// [`Error::Condition`].
    pub fn run_until(
        &self,
        config: &ContainerConfig,
        output: &mut dyn FnMut(bool, &[u8]),
        cancel: BorrowedFd<'_>,
    ) -> Result<Exit> {
        run::run(&self.roots, config, output, Some(cancel))
    }

    /// Runs a further program in a running container; returns when it was executed.
    pub fn exec(&self, group: &str, id: &str, exec: &ExecConfig) -> Result<Attended> {
        let group = self.group(group)?;
        let place = group.place(id)?;
        let name = place.spec()?.config.name;
        let process = place.state()?.and_then(|state| state.process);
        let over = || Error::Condition(format!("container {name} is not running"));
        let process = process.ok_or_else(over)?;
        if place.is_paused() {
            return Err(Error::Condition(format!("container {name} is paused: unpause it first")));
        }
        match attended::start(&group, id, process.clone(), exec) {
            // It ended while the program was being prepared.
            Err(error) if !matches!(error, Error::Exec { .. }) && !process.lives() => Err(over()),
            begun => begun,
        }
    }

    /// Runs a further program that nobody listens to; returns when it was executed.
    pub fn exec_detached(&self, group: &str, id: &str, exec: &ExecConfig) -> Result<()> {
        let group = self.group(group)?;
        group.place(id)?.spec()?;
        client::ask(&group, &Request::Exec { id: id.to_owned(), exec: exec.clone() })
    }

    /// The files of a container as it sees them; of one that does not run, with its volumes and what it
    /// binds. No path may be walked below it but with the descriptor as root: the container changes it.
    pub fn files(&self, group: &str, id: &str) -> Result<Files> {
        let place = self.group(group)?.place(id)?;
        let spec = place.spec()?;
        let config = &spec.config;
        if let Some(process) = place.state()?.and_then(|state| state.process) {
            let root = rootfs::open_path(format!("/proc/{}/root/.", process.pid).as_ref())?;
            // What was opened was that of this process only if it lives still.
            if process.lives() {
                return Ok(root.into());
            }
        }
        let (upper, work) = rootfs::upper_dirs(&config.rootfs.upper, &place.data)?;
        let layers = &config.rootfs.layers;
        if config.mounts.is_empty() {
            return rootfs::open_detached(layers, &upper, &work).map(Files::from);
        }
        rootfs::open_whole(layers, &upper, &work, &place.data, |root| self.shown(&spec, root))
    }

    /// What a container that does not run would see at its mounts, but for what is in memory only.
    fn shown(&self, spec: &Spec, root: BorrowedFd<'_>) -> Result<Vec<Shown>> {
        let mut shown = Vec::new();
        for mount in &spec.config.mounts {
            let source = match &mount.kind {
                MountKind::Volume { name, .. } => {
                    volumes::ready(&self.roots, name)?;
                    worker::volume_of(&self.roots, spec, mount, root)?
                }
                MountKind::Anonymous { .. } => worker::volume_of(&self.roots, spec, mount, root)?,
                // What is not there any more is not seen either.
                MountKind::Bind { path, .. } => rootfs::open_path(path).ok(),
                MountKind::Layers { .. } | MountKind::Tmpfs { .. } => None,
            };
            let (target, read_only) = (mount.target.clone(), mount.read_only);
            shown.extend(source.map(|source| Shown { target, read_only, source }));
        }
        Ok(shown)
    }

    /// What a container has changed of its layers, as overlayfs writes it: the directory is its own still.
    pub fn changes(&self, group: &str, id: &str) -> Result<PathBuf> {
        let place = self.group(group)?.place(id)?;
        let config = place.spec()?.config;
        Ok(rootfs::upper_dirs(&config.rootfs.upper, &place.data)?.0)
    }

    /// What a running container uses now; `None` when it does not run.
    pub fn usage(&self, group: &str, id: &str) -> Result<Option<Usage>> {
        self.main_process(group, id)?.map(usage::of_process).transpose()
    }

    /// The processes of a container; none when it does not run.
    pub fn processes(&self, group: &str, id: &str) -> Result<Vec<ProcessRecord>> {
        self.main_process(group, id)?.map_or(Ok(Vec::new()), usage::processes)
    }

    fn main_process(&self, group: &str, id: &str) -> Result<Option<i32>> {
        let place = self.group(group)?.place(id)?;
        place.spec()?;
        Ok(place.state()?.and_then(|state| state.process).map(|process| process.pid))
    }

    /// The ends of a running container's own program that somebody can type at.
    pub fn attach(&self, group: &str, id: &str, stdin: bool) -> Result<Attachment> {
        let group = self.group(group)?;
        let place = group.place(id)?;
        let config = place.spec()?.config;
        let mut attachment = Attachment::default();
        if place.state()?.is_none_or(|state| state.process.is_none()) {
            return Ok(attachment);
        }
        let id = id.to_owned();
        if config.tty {
            let master = client::ask_for(&group, &Request::Terminal { id })?;
            if stdin {
                let copy = master.try_clone();
                attachment.input = Some(
                    copy.map_err(|source| Error::System { what: "cannot copy a terminal".into(), source })?,
                );
            }
            attachment.terminal = Some(master);
        } else if config.stdin_open {
            let path = place.run.join("in");
            let flags = OFlags::WRONLY | OFlags::NONBLOCK | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let input = rustix::fs::open(&path, flags, Mode::empty());
            attachment.input = input.ok().filter(|_| stdin);
            if config.once.is_some_and(|once| once.close_stdin) {
                client::ask_living(&group, &Request::CloseInput { id })?;
            }
        }
        Ok(attachment)
    }

    /// What a container wrote, in order; `sink` breaks to end.
    pub fn logs(
        &self,
        group: &str,
        id: &str,
        request: &LogRequest,
        sink: &mut dyn FnMut(LogRecord) -> ControlFlow<()>,
    ) -> Result<()> {
        let place = self.group(group)?.place(id)?;
        let spec = place.spec()?;
        if !spec.config.log.kept {
            return Err(Error::Unsupported(format!("container {} keeps no log", spec.config.name)));
        }
        logs::read(&place.log(&spec), request, &|| may_write(&place), sink)
    }

    /// What a container writes from now on (with `from_start`, from the beginning), byte by byte, until
    /// it has ended for good.
    pub fn follow(
        &self,
        group: &str,
        id: &str,
        from_start: bool,
        sink: &mut dyn FnMut(RawRecord) -> ControlFlow<()>,
    ) -> Result<()> {
        let place = self.group(group)?.place(id)?;
        let spec = place.spec()?;
        let log = place.log(&spec);
        if !spec.config.log.kept {
            // It may not have run since the machine was started.
            make_dir(&log)?;
        }
        logs::follow(&log, from_start, &|| may_write(&place), sink)
    }

    /// Calls `changed` now and whenever any container of the group changes, until it breaks.
    pub fn watch(&self, group: &str, changed: &mut dyn FnMut() -> ControlFlow<()>) -> Result<()> {
        let group = self.group(group)?;
        let watcher = Watcher::new()?;
        loop {
            watcher.add(&group.data().join("c"))?;
            for id in group.ids()? {
                watcher.add(&group.place(&id)?.run)?;
            }
            if changed().is_break() {
                return Ok(());
            }
            watcher.wait(None, None);
        }
    }

    pub fn create_network(&self, config: &NetworkConfig) -> Result<()> {
        network::create(&self.roots, config)
    }

    /// Whether it was there; [`Error::Conflict`] while a container is joined to it.
    pub fn remove_network(&self, name: &str) -> Result<bool> {
        let joined = self.networks()?.into_iter().find(|network| network.config.name == name);
        match joined {
            Some(network) if !network.containers.is_empty() => Err(Error::Conflict(format!(
                "network `{name}` is used by container {}",
                network.containers.join(", ")
            ))),
            _ => network::remove(&self.roots, name),
        }
    }

    pub fn networks(&self) -> Result<Vec<NetworkRecord>> {
        let containers = self.containers(None)?;
        let on = |name: &str| {
            let joined = containers.iter().filter(|record| joins(record, name));
            joined.map(|record| record.config.name.clone()).collect()
        };
        let networks = network::list(&self.roots)?.into_iter();
        Ok(networks.map(|config| NetworkRecord { containers: on(&config.name), config }).collect())
    }

    pub fn create_volume(&self, config: &VolumeConfig) -> Result<()> {
        volumes::create(&self.roots, config)
    }

    /// Whether it was there; [`Error::Conflict`] while a container uses it.
    pub fn remove_volume(&self, name: &str) -> Result<bool> {
        let users: Vec<String> = self
            .containers(None)?
            .into_iter()
            .filter(|record| uses_volume(record, name))
            .map(|record| record.config.name)
            .collect();
        if users.is_empty() {
            volumes::remove(&self.roots, name)
        } else {
            Err(Error::Conflict(format!("volume `{name}` is used by container {}", users.join(", "))))
        }
    }

    pub fn volumes(&self) -> Result<Vec<VolumeRecord>> {
        volumes::list(&self.roots)
    }

    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    fn group(&self, name: &str) -> Result<Group> {
        Group::new(&self.roots, name)
    }
}

/// Lets a container go on that was frozen.
fn thaw(place: &Place) -> Result<()> {
    if !place.is_paused() {
        return Ok(());
    }
    if let Some(process) = place.state()?.and_then(|state| state.process) {
        let id = place.data.file_name().unwrap_or_default().to_string_lossy();
        let groups = cgroup::of_container(process.pid, &id);
        let thawed = groups.and_then(|groups| cgroup::freeze(&groups, false));
        // A signal that waited for this may have ended it, and its groups went with it.
        if process.lives() {
            thawed?;
        }
    }
    remove_file(&place.run.join("paused"))
}

/// Whether something may still be written to its log.
fn may_write(place: &Place) -> bool {
    match place.state() {
        Ok(Some(state)) => !matches!(state.phase, Stage::Exited { .. }),
        // Not started yet: something may come.
        Ok(None) => place.data.exists(),
        Err(_) => false,
    }
}

/// Marks of what stands aside, see [`aside`].
const WITH_VOLUMES: &str = "volumes";
const WITHOUT_VOLUMES: &str = "kept";

/// Where a container's directory stands while it is made or removed, so that it is seen whole or not at
/// all; whether its anonymous volumes go with it is in the name.
fn aside(place: &Place, id: &str, mark: &str) -> PathBuf {
    place.data.with_file_name(format!(".{id}.{mark}"))
}

/// The container of a name that stands aside.
pub fn is_aside(name: &str) -> Option<&str> {
    let (id, mark) = name.strip_prefix('.')?.split_once('.')?;
    [WITH_VOLUMES, WITHOUT_VOLUMES].contains(&mark).then_some(id)
}

/// A volume for each anonymous mount: that of the container it replaces, or a new one.
fn anonymous_volumes(config: &ContainerConfig, replaced: Option<&Spec>) -> Vec<(String, String)> {
    let old = replaced.map(|spec| spec.anonymous_volumes.as_slice()).unwrap_or_default();
    let anonymous = config.mounts.iter().filter(|mount| matches!(mount.kind, MountKind::Anonymous { .. }));
    anonymous
        .map(|mount| {
            let known = old.iter().find(|(target, _)| target == &mount.target);
            known.cloned().unwrap_or_else(|| (mount.target.clone(), wait::random_id()))
        })
        .collect()
}

/// A container as its files and the kernel tell.
fn record(place: &Place, spec: &Spec) -> Result<ContainerRecord> {
    let Spec { config, created, anonymous_volumes } = spec.clone();
    let state = place.state()?;
    let phase = match state.as_ref().map(|state| state.phase) {
        None => Phase::Created,
        Some(Stage::Running) if place.is_paused() => Phase::Paused,
        Some(Stage::Running) => Phase::Running,
        Some(Stage::Restarting { .. }) => Phase::Restarting,
        Some(Stage::Exited { exit }) => Phase::Exited(exit.into()),
    };
    let pid = state.as_ref().and_then(|state| state.process.as_ref()).map(|process| process.pid);
    let health = match pid {
        Some(pid) if config.health.is_some() => {
            let known = place.health().filter(|health| health.pid == pid);
            Some(known.map_or((Health::Starting, None), |known| (known.status, known.last_probe)))
        }
        _ => None,
    };
    let (health, last_probe) = health.map_or((None, None), |(status, probe)| (Some(status), probe));
    Ok(ContainerRecord {
        config,
        phase,
        health,
        last_probe,
        pid,
        created,
        started: state.as_ref().and_then(|state| state.started),
        finished: state.as_ref().and_then(|state| state.finished),
        out_of_memory: state.as_ref().is_some_and(|state| state.out_of_memory),
        owed: pid.and_then(|_| place.owed()),
        host_restarted: state.as_ref().is_some_and(|state| state.host_restarted),
        restarts: state.as_ref().map_or(0, |state| state.restarts),
        ports: state.map(|state| state.ports).unwrap_or_default(),
        anonymous_volumes,
    })
}

fn joins(record: &ContainerRecord, network: &str) -> bool {
    match &record.config.network {
        NetworkNamespace::Own(endpoints) => endpoints.iter().any(|endpoint| endpoint.network == network),
        _ => false,
    }
}

fn uses_volume(record: &ContainerRecord, name: &str) -> bool {
    named_volumes(&record.config).any(|used| used == name)
        || record.anonymous_volumes.iter().any(|(_, volume)| volume == name)
}

fn named_volumes(config: &ContainerConfig) -> impl Iterator<Item = &str> {
    config.mounts.iter().filter_map(|mount| match &mount.kind {
        MountKind::Volume { name, .. } => Some(name.as_str()),
        _ => None,
    })
}

/// A group without containers leaves no directory. One that is put [`aside`] is there still: who is removing it
/// reads there what else goes with it.
fn remove_empty(group: &Group) -> Result<()> {
    let containers = group.data().join("c");
    // The first that is there is enough: a large group that goes asks this for each of its containers.
    let first = match std::fs::read_dir(&containers) {
        Ok(mut entries) => entries.next(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => None,
        Err(e) => return Err(file_error("cannot list", &containers, e)),
    };
    if first.is_some() {
        return Ok(());
    }
    client::wait_for_leave(group);
    for dir in [group.run(), group.data()] {
        // Whoever watches the group may make a directory again at this moment.
        let gone = (0..10).any(|_| remove_dir(&dir).is_ok());
        if !gone {
            remove_dir(&dir)?;
        }
    }
    for root in [&group.roots.run, &group.roots.data] {
        // Only when it was the last group.
        let _ = std::fs::remove_dir(root.join("p"));
    }
    Ok(())
}
