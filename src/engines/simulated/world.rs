//! What there is in a simulation, and what each operation does to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::Duration,
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Behaviour,
    record::{Life, Record, named_volume},
    store::full,
    unusable,
};
use crate::{
    engine::{
        ContainerId, CreateContainer, EngineError, ErrorKind, Health, HookAt, HookRequest, Op, Outcome,
        PublishedPort, WaitFor,
    },
    model::{Condition, Lender, MountSource, NetworkMode, label, signal_number},
};

type Labels = IndexMap<String, String>;

/// Everything on the simulated machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct World {
    /// Seconds since the beginning; each operation takes one.
    pub clock: u64,
    /// Oldest first.
    pub containers: Vec<Record>,
    pub networks: BTreeMap<String, Labels>,
    pub volumes: BTreeMap<String, Labels>,
    /// Id by full reference.
    pub images: BTreeMap<String, String>,
    /// What the registry has in place of the usual, by full reference; `None` is nothing.
    pub remote: BTreeMap<String, Option<String>>,
    /// By service.
    #[serde(default)]
    pub behaviours: BTreeMap<String, Behaviour>,
}

const SIGKILL: i32 = 9;

/// Signals that end no program by themselves: CHLD, CONT, those that stop it, URG, WINCH.
const HARMLESS: [i32; 8] = [17, 18, 19, 20, 21, 22, 23, 28];

/// Where free host ports are looked for.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;

pub(super) type Done = Result<Outcome, EngineError>;

pub(super) const UNCHANGED: Done = Ok(Outcome { id: None, unchanged: true, variables: Vec::new() });
pub(super) const DONE: Done = Ok(Outcome { id: None, unchanged: false, variables: Vec::new() });

pub(super) fn error(kind: ErrorKind, message: impl Into<String>) -> EngineError {
    EngineError::new(kind, message)
}

pub(super) fn conflict(message: impl Into<String>) -> EngineError {
    error(ErrorKind::Conflict, message)
}

pub(super) fn no_container(name: &str) -> EngineError {
    error(ErrorKind::NotFound, format!("no such container: {name}"))
}

pub(super) fn not_running(record: &Record) -> EngineError {
    error(ErrorKind::Dependency, format!("container {} is not running", record.name))
}

impl World {
    pub fn read(file: &Path) -> Result<Self, EngineError> {
        match fs::read(file) {
            Ok(text) => {
                serde_json::from_slice(&text).map_err(|error| unusable(file, &io::Error::other(error)))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(unusable(file, &error)),
        }
    }

    /// A reader finds the old state or the new one.
    pub fn write(&self, file: &Path) -> Result<(), EngineError> {
        let text =
            serde_json::to_vec_pretty(self).map_err(|error| unusable(file, &io::Error::other(error)))?;
        let next = file.with_extension("next");
        let mut out = fs::File::create(&next).map_err(|error| unusable(&next, &error))?;
        out.write_all(&text).map_err(|error| unusable(&next, &error))?;
        fs::rename(&next, file).map_err(|error| unusable(file, &error))
    }

    pub fn carry_out(&mut self, op: &Op) -> Done {
        self.clock += 1;
        match op {
            Op::Pull(pull) => self.pull(pull),
            Op::Build(request) => self.build(&request.build, &request.image),
            Op::Push(push) => self.push(push),
            Op::CreateNetwork { network, labels, .. } => Ok(make(&mut self.networks, &network.name, labels)),
            Op::RemoveNetwork { name } => self.remove_network(name),
            Op::CreateVolume { volume, labels, .. } => Ok(make(&mut self.volumes, &volume.name, labels)),
            Op::RemoveVolume { name } => self.remove_volume(name),
            Op::Create(create) => self.create(create),
            Op::Start { project, name } => self.start(project, name),
            Op::Stop { id, timeout, .. } => self.stop(id, *timeout),
            Op::Kill { id, signal, .. } => self.kill(id, signal),
            Op::Pause { id, .. } => self.pause(id),
            Op::Unpause { id, .. } => self.unpause(id),
            Op::Remove { id, volumes, .. } => self.remove(id, *volumes),
            Op::Wait { project, name, until } => self.decide(project, name, *until).unwrap_or(DONE),
            Op::Hook(request) => self.hook(request),
            Op::Provide(_) => DONE,
        }
    }

    /// Its program does what anyone can carry out in their head.
    fn hook(&mut self, request: &HookRequest) -> Done {
        let code = Behaviour::of(&request.hook.command).exit.unwrap_or(0);
        if code != 0 {
            let message = format!("{} hook exited with status {code}", request.service);
            return Err(error(ErrorKind::Dependency, message).at(request.path()));
        }
        if request.at == HookAt::PostStart
            && let Some(at) = self.newest(&request.project, &request.name)
        {
            let record = &mut self.containers[at];
            record.owed_hooks = request.next_of(&record.spec.post_start);
        }
        DONE
    }

    fn container(&mut self, id: &ContainerId) -> Result<&mut Record, EngineError> {
        let mut containers = self.containers.iter_mut();
        containers.find(|record| record.id == id.0).ok_or_else(|| no_container(&id.0))
    }

    fn pause(&mut self, id: &ContainerId) -> Done {
        let record = self.container(id)?;
        match record.state {
            Life::Running => record.state = Life::Paused,
            Life::Paused => return UNCHANGED,
            Life::Created | Life::Restarting | Life::Exited(_) => return Err(not_running(record)),
        }
        DONE
    }

    fn unpause(&mut self, id: &ContainerId) -> Done {
        let record = self.container(id)?;
        if record.state != Life::Paused {
            return UNCHANGED;
        }
        record.state = Life::Running;
        DONE
    }

    /// Programs of a simulation end by every signal that is not for something else.
    fn kill(&mut self, id: &ContainerId, signal: &str) -> Done {
        let clock = self.clock;
        let record = self.container(id)?;
        let number = signal_number(signal)
            .ok_or_else(|| error(ErrorKind::Invalid, format!("`{signal}` is no signal")))?;
        match record.state {
            Life::Running | Life::Paused if number == SIGKILL => {
                record.ended(Life::Exited(128 + number), clock);
            }
            Life::Running if number == record.stop_signal() => {
                record.ended(Life::Exited(128 + number), clock);
            }
            Life::Running if !HARMLESS.contains(&number) => record.end(128 + number, clock),
            // What is frozen hears nothing.
            Life::Running | Life::Paused => {}
            Life::Created | Life::Restarting | Life::Exited(_) => return Err(not_running(record)),
        }
        DONE
    }

    fn remove_network(&mut self, name: &str) -> Done {
        let on_it = |record: &&Record| record.runs() && record.networks().any(|network| network == name);
        if let Some(user) = self.containers.iter().find(on_it) {
            return Err(conflict(format!("network {name} is in use by container {}", user.name)));
        }
        Ok(Outcome { id: None, unchanged: self.networks.remove(name).is_none(), variables: Vec::new() })
    }

    fn remove_volume(&mut self, name: &str) -> Done {
        if let Some(user) = self.containers.iter().find(|record| record.mounts(name)) {
            return Err(conflict(format!("volume {name} is in use by container {}", user.name)));
        }
        Ok(Outcome { id: None, unchanged: self.volumes.remove(name).is_none(), variables: Vec::new() })
    }

    fn create(&mut self, create: &CreateContainer) -> Done {
        let replaces = create.replaces.as_ref().map(|id| id.0.clone());
        if let Some(same) = self.containers.iter().rev().find(|record| record.name == create.name) {
            let again = same.config_hash == create.config_hash
                && same.image_id == create.image_id
                && same.replaces == replaces
                && same.state == Life::Created;
            if again {
                return Ok(Outcome { id: Some(same.id.clone()), unchanged: true, variables: Vec::new() });
            }
            if (&same.project, &same.service) != (&create.project, &create.service) {
                return Err(conflict(format!("the name {} is taken by another container", create.name)));
            }
        }
        self.has_what_it_needs(create)?;
        let old = self.containers.iter().find(|record| Some(&record.id) == replaces.as_ref());
        let handed_on = old.map(|old| old.anonymous.clone()).unwrap_or_default();
        let id = digest(&format!("container {} {}", self.clock, create.name));
        let mut anonymous = BTreeMap::new();
        for mount in &create.spec.mounts {
            if let MountSource::Anonymous { options } = &mount.source {
                let fresh = || digest(&format!("volume {id} {}", mount.target));
                let volume = handed_on.get(&mount.target).cloned().unwrap_or_else(fresh);
                let mut labels = options.labels.clone();
                labels.insert(label::PROJECT.to_owned(), create.project.clone());
                labels.insert(label::ANONYMOUS.to_owned(), String::new());
                self.volumes.entry(volume.clone()).or_insert(labels);
                anonymous.insert(mount.target.clone(), volume);
            }
        }
        self.containers.push(Record {
            id: id.clone(),
            project: create.project.clone(),
            service: create.service.clone(),
            number: create.number,
            name: create.name.clone(),
            spec: create.spec.clone(),
            config_hash: create.config_hash.clone(),
            labels: create.labels.clone(),
            image_id: create.image_id.clone(),
            replaces,
            state: Life::Created,
            health: None,
            created: self.clock,
            started: None,
            finished: None,
            owed_hooks: None,
            restarts: 0,
            ports: Vec::new(),
            anonymous,
            lines: Vec::new(),
        });
        Ok(Outcome { id: Some(id), unchanged: false, variables: Vec::new() })
    }

    fn has_what_it_needs(&self, create: &CreateContainer) -> Result<(), EngineError> {
        let missing = |kind: &str, name: &str| error(ErrorKind::NotFound, format!("no such {kind}: {name}"));
        if !self.images.contains_key(&full(&create.spec.image)?) {
            return Err(missing("image", &create.spec.image));
        }
        if let NetworkMode::Networks(networks) = &create.spec.network
            && let Some(name) = networks.keys().find(|name| !self.networks.contains_key(*name))
        {
            return Err(missing("network", name));
        }
        let named = create.spec.mounts.iter().filter_map(|mount| named_volume(&mount.source));
        match named.into_iter().find(|name| !self.volumes.contains_key(*name)) {
            Some(name) => Err(missing("volume", name)),
            None => Ok(()),
        }
    }

    fn start(&mut self, project: &str, name: &str) -> Done {
        let at = self.newest(project, name).ok_or_else(|| no_container(name))?;
        let record = &self.containers[at];
        if matches!(record.state, Life::Running | Life::Paused) {
            return UNCHANGED;
        }
        if let NetworkMode::Of(Lender::Service(owner)) = &record.spec.network
            && !self.containers.iter().any(|c| c.project == project && c.service == *owner && c.runs())
        {
            return Err(conflict(format!(
                "{name} shares the network of service `{owner}`, which does not run"
            )));
        }
        if let Some(network) = record.networks().find(|network| !self.networks.contains_key(*network)) {
            return Err(error(ErrorKind::NotFound, format!("no such network: {network}")));
        }
        let ports = self.bind(record)?;
        let clock = self.clock;
        let record = &mut self.containers[at];
        let behaviour = self.behaviours.get(&record.service).cloned();
        let behaviour =
            behaviour.unwrap_or_else(|| Behaviour::of(record.spec.command.as_deref().unwrap_or(&[])));
        record.ports = ports;
        record.state = Life::Running;
        record.started = Some(clock);
        record.finished = None;
        record.owed_hooks = (!record.spec.post_start.is_empty()).then_some(0);
        record.health = record.check().map(|found| behaviour.health.unwrap_or(found));
        record.lines.extend(behaviour.lines.iter().map(|line| (clock, line.clone())));
        if let Some(code) = behaviour.exit {
            record.end(code, clock);
        }
        DONE
    }

    fn newest(&self, project: &str, name: &str) -> Option<usize> {
        self.containers.iter().rposition(|record| record.project == project && record.name == name)
    }

    /// The host ports the container gets.
    fn bind(&self, record: &Record) -> Result<Vec<PublishedPort>, EngineError> {
        let mut bound: Vec<PublishedPort> = Vec::new();
        for (at, port) in record.spec.ports.iter().enumerate() {
            let host_ip = port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
            let range = port.published.map_or(EPHEMERAL, |range| range.first..=range.last);
            let claim = |host_port| PublishedPort {
                host_ip,
                host_port,
                target: port.target,
                protocol: port.protocol,
            };
            let is_free = |claim: &PublishedPort| {
                self.holder(claim).is_none() && !bound.iter().any(|other| clash(other, claim))
            };
            let free = range.map(claim).find(is_free);
            let taken = || {
                let first = port.published.map_or(0, |range| range.first);
                let holder = self.holder(&claim(first)).map_or("another port of it", |holder| &holder.name);
                port_in_use(&record.service, at, first, holder)
            };
            bound.push(free.ok_or_else(taken)?);
        }
        Ok(bound)
    }

    fn holder(&self, claim: &PublishedPort) -> Option<&Record> {
        self.containers.iter().find(|record| record.ports.iter().any(|port| clash(port, claim)))
    }

    fn stop(&mut self, id: &ContainerId, timeout: Option<Duration>) -> Done {
        let clock = self.clock;
        match self.container(id) {
            Ok(record) if record.runs() => {
                let grace = timeout.or(record.spec.stop_grace_period);
                let signal = if grace == Some(Duration::ZERO) { SIGKILL } else { record.stop_signal() };
                record.ended(Life::Exited(128 + signal), clock);
                DONE
            }
            _ => UNCHANGED,
        }
    }

    fn remove(&mut self, id: &ContainerId, volumes: bool) -> Done {
        let Some(at) = self.containers.iter().position(|record| record.id == id.0) else { return UNCHANGED };
        if self.containers[at].runs() {
            return Err(conflict(format!("container {} runs: stop it first", self.containers[at].name)));
        }
        let record = self.containers.remove(at);
        if volumes {
            let shared: BTreeSet<&String> =
                self.containers.iter().flat_map(|record| record.anonymous.values()).collect();
            for volume in record.anonymous.values().filter(|volume| !shared.contains(volume)) {
                self.volumes.remove(volume);
            }
        }
        DONE
    }

    /// Whether the wait is over; `None`: not yet.
    pub fn decide(&self, project: &str, name: &str, until: WaitFor) -> Option<Done> {
        let Some(at) = self.newest(project, name) else { return Some(Err(no_container(name))) };
        let record = &self.containers[at];
        let fail = |what: String| Some(Err(error(ErrorKind::Dependency, format!("container {name} {what}"))));
        if until == WaitFor::Condition(Condition::ServiceHealthy) && record.check().is_none() {
            let message = format!("container {name} has no health check, so it can never become healthy");
            return Some(Err(error(ErrorKind::Invalid, message)));
        }
        match (until, record.state, record.health) {
            (WaitFor::Condition(Condition::ServiceStarted), Life::Created, _) => None,
            (WaitFor::Condition(Condition::ServiceStarted), ..) => Some(DONE),
            (
                WaitFor::Condition(Condition::ServiceCompletedSuccessfully) | WaitFor::Ready { .. },
                Life::Exited(0),
                _,
            ) => Some(DONE),
            (_, Life::Exited(code), _) => fail(format!("exited with code {code}")),
            (WaitFor::Condition(Condition::ServiceCompletedSuccessfully), ..) => None,
            (_, Life::Running, Some(Health::Healthy)) => Some(DONE),
            (_, Life::Running, Some(Health::Unhealthy)) => fail("is unhealthy".to_owned()),
            (_, Life::Running, None) => Some(DONE),
            (WaitFor::Ready { timeout: Some(timeout) }, ..) => {
                fail(format!("is not ready after {} s", timeout.as_secs()))
            }
            (_, Life::Created | Life::Restarting | Life::Running | Life::Paused, _) => None,
        }
    }

    pub fn behave(&mut self, service: &str, behaviour: Behaviour) {
        self.behaviours.insert(service.to_owned(), behaviour);
    }

    pub fn turn(&mut self, name: &str, health: Health) -> Result<(), EngineError> {
        self.running(name)?.health = Some(health);
        Ok(())
    }

    pub fn exit(&mut self, name: &str, code: i32) -> Result<(), EngineError> {
        self.clock += 1;
        let clock = self.clock;
        self.running(name)?.end(code, clock);
        Ok(())
    }

    fn running(&mut self, name: &str) -> Result<&mut Record, EngineError> {
        let mut running = self.containers.iter_mut().filter(|record| record.runs());
        running.find(|record| record.name == name).ok_or_else(|| no_container(name))
    }
}

fn make(there: &mut BTreeMap<String, Labels>, name: &str, labels: &Labels) -> Outcome {
    let unchanged = there.contains_key(name);
    there.entry(name.to_owned()).or_insert_with(|| labels.clone());
    Outcome { id: None, unchanged, variables: Vec::new() }
}

pub(super) fn clash(one: &PublishedPort, other: &PublishedPort) -> bool {
    let same_address =
        one.host_ip == other.host_ip || one.host_ip.is_unspecified() || other.host_ip.is_unspecified();
    one.host_port == other.host_port && one.protocol == other.protocol && same_address
}

pub(super) fn port_in_use(service: &str, at: usize, port: u16, holder: &str) -> EngineError {
    conflict(format!("port {port} is in use by container {holder}"))
        .at(format!("services.{service}.ports[{at}]"))
        .help("stop it, or publish another port")
}

/// 64 hex digits.
pub(super) fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
