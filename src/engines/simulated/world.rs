//! What there is in a simulation, and what each operation does to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, SystemTime},
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{Behaviour, unusable};
use crate::{
    engine::{
        Container, ContainerId, ContainerState, CreateContainer, EngineError, ErrorKind, Health, ImageInfo,
        LogItem, LogQuery, NetworkInfo, Observed, Op, Outcome, PublishedPort, PullRequest, Scope, Stream,
        VolumeInfo, WaitFor,
    },
    model::{
        Build, Condition, ContainerSpec, HealthTest, ImageRef, MountSource, NetworkMode, Port, PullPolicy,
        RestartPolicy, label,
    },
};

type Labels = IndexMap<String, String>;

/// Everything on the simulated machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct World {
    /// Seconds since the beginning; each operation takes one.
    clock: u64,
    /// Oldest first.
    containers: Vec<Record>,
    networks: BTreeMap<String, Labels>,
    volumes: BTreeMap<String, Labels>,
    /// Id by full reference.
    images: BTreeMap<String, String>,
    /// What the registry has in place of the usual, by full reference; `None` is nothing.
    remote: BTreeMap<String, Option<String>>,
    /// By service.
    #[serde(default)]
    behaviours: BTreeMap<String, Behaviour>,
}

/// A container, with what it was asked to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Record {
    id: String,
    project: String,
    service: String,
    number: u32,
    name: String,
    spec: ContainerSpec,
    config_hash: String,
    labels: Labels,
    image_id: String,
    replaces: Option<String>,
    state: Life,
    health: Option<Health>,
    created: u64,
    started: Option<u64>,
    finished: Option<u64>,
    restarts: u32,
    ports: Vec<PublishedPort>,
    /// Anonymous volumes by target.
    anonymous: BTreeMap<String, String>,
    /// What it wrote to stdout, with the seconds of each line.
    lines: Vec<(u64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Life {
    Created,
    Running,
    Restarting,
    Exited(i32),
}

/// The simulated time starts on 1 January 2024.
const BEGINNING: Duration = Duration::from_secs(1_704_067_200);

/// Of a process that ends by SIGTERM.
const TERMINATED: i32 = 143;

/// Where free host ports are looked for.
const EPHEMERAL: std::ops::RangeInclusive<u16> = 32768..=60999;

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + BEGINNING + Duration::from_secs(seconds)
}

type Done = Result<Outcome, EngineError>;

const UNCHANGED: Done = Ok(Outcome { id: None, unchanged: true });
const DONE: Done = Ok(Outcome { id: None, unchanged: false });

fn error(kind: ErrorKind, message: impl Into<String>) -> EngineError {
    EngineError::new(kind, message)
}

fn conflict(message: impl Into<String>) -> EngineError {
    error(ErrorKind::Conflict, message)
}

fn no_container(name: &str) -> EngineError {
    error(ErrorKind::NotFound, format!("no such container: {name}"))
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
            Op::CreateNetwork { network, labels, .. } => Ok(make(&mut self.networks, &network.name, labels)),
            Op::RemoveNetwork { name } => self.remove_network(name),
            Op::CreateVolume { volume, labels, .. } => Ok(make(&mut self.volumes, &volume.name, labels)),
            Op::RemoveVolume { name } => self.remove_volume(name),
            Op::Create(create) => self.create(create),
            Op::Start { project, name } => self.start(project, name),
            Op::Stop { id, .. } => self.stop(id),
            Op::Remove { id, volumes, .. } => self.remove(id, *volumes),
            Op::Wait { project, name, until } => self.decide(project, name, *until).unwrap_or(DONE),
        }
    }

    fn remove_network(&mut self, name: &str) -> Done {
        let on_it = |record: &&Record| record.runs() && record.networks().any(|network| network == name);
        if let Some(user) = self.containers.iter().find(on_it) {
            return Err(conflict(format!("network {name} is in use by container {}", user.name)));
        }
        Ok(Outcome { id: None, unchanged: self.networks.remove(name).is_none() })
    }

    fn remove_volume(&mut self, name: &str) -> Done {
        if let Some(user) = self.containers.iter().find(|record| record.mounts(name)) {
            return Err(conflict(format!("volume {name} is in use by container {}", user.name)));
        }
        Ok(Outcome { id: None, unchanged: self.volumes.remove(name).is_none() })
    }

    fn create(&mut self, create: &CreateContainer) -> Done {
        let replaces = create.replaces.as_ref().map(|id| id.0.clone());
        if let Some(same) = self.containers.iter().rev().find(|record| record.name == create.name) {
            let again = same.config_hash == create.config_hash
                && same.image_id == create.image_id
                && same.replaces == replaces
                && same.state == Life::Created;
            if again {
                return Ok(Outcome { id: Some(same.id.clone()), unchanged: true });
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
            if matches!(mount.source, MountSource::Anonymous { .. }) {
                let fresh = || digest(&format!("volume {id} {}", mount.target));
                let volume = handed_on.get(&mount.target).cloned().unwrap_or_else(fresh);
                anonymous.insert(mount.target.clone(), volume);
            }
        }
        for volume in anonymous.values() {
            let labels = [(label::PROJECT.to_owned(), create.project.clone())].into_iter().collect();
            self.volumes.entry(volume.clone()).or_insert(labels);
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
            restarts: 0,
            ports: Vec::new(),
            anonymous,
            lines: Vec::new(),
        });
        Ok(Outcome { id: Some(id), unchanged: false })
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
        if record.state == Life::Running {
            return UNCHANGED;
        }
        if let NetworkMode::Service(owner) = &record.spec.network
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
        record.health = record.is_checked().then(|| behaviour.health.unwrap_or(Health::Healthy));
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

    fn stop(&mut self, id: &ContainerId) -> Done {
        let clock = self.clock;
        match self.containers.iter_mut().find(|record| record.id == id.0) {
            Some(record) if record.runs() => {
                record.ended(Life::Exited(TERMINATED), clock);
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
            (WaitFor::Ready { .. }, Life::Running, None) => Some(DONE),
            (WaitFor::Condition(_), Life::Running, None) => fail("has no health check".to_owned()),
            (WaitFor::Ready { timeout: Some(timeout) }, ..) => {
                fail(format!("is not ready after {} s", timeout.as_secs()))
            }
            (_, Life::Created | Life::Restarting | Life::Running, _) => None,
        }
    }

    fn pull(&mut self, pull: &PullRequest) -> Done {
        let reference = full(&pull.image)?;
        let there = self.images.get(&reference);
        match (pull.policy, there) {
            (PullPolicy::Missing | PullPolicy::Never | PullPolicy::Build, Some(_)) => return UNCHANGED,
            (PullPolicy::Never | PullPolicy::Build, None) => {
                return Err(error(ErrorKind::NotFound, format!("image {} is not there", pull.image)));
            }
            (PullPolicy::Missing | PullPolicy::Always, _) => {}
        }
        let id = match self.remote.get(&reference) {
            Some(Some(id)) => id.clone(),
            Some(None) => {
                return Err(error(ErrorKind::Remote, format!("no image {} in the registry", pull.image)));
            }
            None => image_id(&reference),
        };
        let unchanged = there == Some(&id);
        self.images.insert(reference, id.clone());
        Ok(Outcome { id: Some(id), unchanged })
    }

    fn build(&mut self, build: &Build, image: &str) -> Done {
        let published = self.remote.get(&full(image)?).cloned().flatten();
        let json = serde_json::to_string(build).unwrap_or_default();
        let id = published.unwrap_or_else(|| image_id(&json));
        for name in build.tags.iter().map(String::as_str).chain([image]) {
            self.images.insert(full(name)?, id.clone());
        }
        Ok(Outcome { id: Some(id), unchanged: false })
    }

    pub fn publish(&mut self, image: &str, content: Option<&str>) -> Result<(), EngineError> {
        self.remote.insert(full(image)?, content.map(image_id));
        Ok(())
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

    pub fn load(&mut self, name: &str) -> Result<Vec<String>, EngineError> {
        self.clock += 1;
        let reference = full(name)?;
        self.images.insert(reference.clone(), image_id(&reference));
        Ok(vec![familiar(&reference)])
    }

    pub fn remove_image(&mut self, image: &ImageRef, force: bool) -> Result<(), EngineError> {
        self.clock += 1;
        let reference = image.to_string();
        let Some(id) = self.images.get(&reference) else {
            return Err(error(ErrorKind::NotFound, format!("no such image: {}", image.familiar())));
        };
        let user = self.containers.iter().find(|record| record.image_id == *id);
        if let Some(user) = user.filter(|_| !force) {
            return Err(conflict(format!("image {} is in use by container {}", image.familiar(), user.name)));
        }
        self.images.remove(&reference);
        Ok(())
    }

    pub fn images(&self) -> Vec<ImageInfo> {
        let ids: BTreeSet<&String> = self.images.values().collect();
        ids.into_iter().map(|id| self.image(id)).collect()
    }

    fn image(&self, id: &str) -> ImageInfo {
        let references = self.images.iter().filter(|(_, other)| *other == id);
        ImageInfo {
            id: id.to_owned(),
            references: references.map(|(reference, _)| familiar(reference)).collect(),
            size: 1_000_000,
            created: Some(time(0)),
            platform: "linux/amd64".to_owned(),
        }
    }

    pub fn observe(&self, scope: &Scope) -> Observed {
        let ours = |labels: &Labels| labels.get(label::PROJECT) == Some(&scope.project);
        let networks =
            self.networks.iter().filter(|(name, labels)| ours(labels) || scope.networks.contains(name));
        let volumes =
            self.volumes.iter().filter(|(name, labels)| ours(labels) || scope.volumes.contains(name));
        let id = |image: &String| self.images.get(&full(image).ok()?);
        Observed {
            containers: self
                .containers
                .iter()
                .filter(|c| c.project == scope.project)
                .map(Record::observed)
                .collect(),
            networks: networks.map(|(name, labels)| (name.clone(), self.network(name, labels))).collect(),
            volumes: volumes
                .map(|(name, labels)| (name.clone(), VolumeInfo { labels: labels.clone() }))
                .collect(),
            images: scope
                .images
                .iter()
                .filter_map(|image| Some((image.clone(), self.image(id(image)?))))
                .collect(),
        }
    }

    fn network(&self, name: &str, labels: &Labels) -> NetworkInfo {
        let joined = self.containers.iter().filter(|record| record.networks().any(|network| network == name));
        NetworkInfo { labels: labels.clone(), containers: joined.map(|record| record.name.clone()).collect() }
    }

    /// Host ports that would be in use when `ops` come to start their containers.
    pub fn check(&self, ops: &[&Op]) -> Vec<EngineError> {
        let ends = |record: &&Record| {
            ops.iter()
                .any(|op| matches!(op, Op::Stop { id, .. } | Op::Remove { id, .. } if id.0 == record.id))
        };
        let stays: Vec<&Record> = self.containers.iter().filter(|record| !ends(record)).collect();
        let mut claims: Vec<(PublishedPort, &str)> = stays
            .iter()
            .flat_map(|record| record.ports.iter().map(|port| (*port, record.name.as_str())))
            .collect();
        let mut found = Vec::new();
        for op in ops {
            let Op::Create(create) = op else { continue };
            for (at, port) in create.spec.ports.iter().enumerate() {
                let Some(range) = port.published.filter(|range| range.first == range.last) else { continue };
                let claim = wildcard(port, range.first);
                match claims.iter().find(|(other, _)| clash(other, &claim)) {
                    Some((_, holder)) => found.push(port_in_use(&create.service, at, range.first, holder)),
                    None => claims.push((claim, &create.name)),
                }
            }
        }
        found
    }

    /// What is new since the last call with the same `told` (lines and end by container id), in the
    /// order of time, and whether no more can come.
    pub fn logs(
        &self,
        query: &LogQuery,
        tail: Option<usize>,
        told: &mut BTreeMap<String, (usize, Option<u64>)>,
    ) -> (Vec<LogItem>, bool) {
        let wanted = |record: &&Record| {
            record.project == query.project
                && (query.containers.is_empty() || query.containers.contains(&record.name))
        };
        let mut items: Vec<(u64, LogItem)> = Vec::new();
        let mut over = true;
        for record in self.containers.iter().filter(wanted) {
            over &= !record.runs() && record.state != Life::Created;
            let (lines, ended) = told.entry(record.id.clone()).or_default();
            let from = tail.map_or(*lines, |tail| record.lines.len().saturating_sub(tail).max(*lines));
            let fits = |at: SystemTime| {
                query.since.is_none_or(|since| at >= since) && query.until.is_none_or(|until| at <= until)
            };
            for (at, text) in record.lines[from..].iter().filter(|(at, _)| fits(time(*at))) {
                let (container, text) = (record.name.clone(), text.clone().into_bytes());
                items.push((*at, LogItem::Line { container, stream: Stream::Stdout, time: time(*at), text }));
            }
            *lines = record.lines.len();
            if let (Some(at), true) = (record.finished, query.follow && record.finished != *ended) {
                *ended = Some(at);
                items.push((at, record.exited()));
            }
        }
        items.sort_by_key(|(at, _)| *at);
        (items.into_iter().map(|(_, item)| item).collect(), over)
    }
}

impl Record {
    fn runs(&self) -> bool {
        matches!(self.state, Life::Running | Life::Restarting)
    }

    fn is_checked(&self) -> bool {
        self.spec.healthcheck.as_ref().is_some_and(|check| check.test != Some(HealthTest::Disabled))
    }

    fn networks(&self) -> impl Iterator<Item = &String> {
        let joined = match &self.spec.network {
            NetworkMode::Networks(networks) => Some(networks.keys()),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Service(_) | NetworkMode::Container(_) => {
                None
            }
        };
        joined.into_iter().flatten()
    }

    fn mounts(&self, volume: &str) -> bool {
        let mut named = self.spec.mounts.iter().filter_map(|mount| named_volume(&mount.source));
        named.any(|name| name == volume) || self.anonymous.values().any(|name| name == volume)
    }

    /// The main process ended by itself: its policy says what follows. A restart that would end the
    /// same way again is not repeated for ever.
    fn end(&mut self, code: i32, clock: u64) {
        match self.spec.restart {
            RestartPolicy::Always | RestartPolicy::UnlessStopped => self.ended(Life::Restarting, clock),
            RestartPolicy::OnFailure { max_retries: None } if code != 0 => {
                self.ended(Life::Restarting, clock)
            }
            RestartPolicy::OnFailure { max_retries: Some(retries) } if code != 0 => {
                self.restarts = retries;
                self.ended(Life::Exited(code), clock);
            }
            RestartPolicy::No | RestartPolicy::OnFailure { .. } => self.ended(Life::Exited(code), clock),
        }
    }

    fn ended(&mut self, state: Life, clock: u64) {
        self.state = state;
        self.health = None;
        self.ports.clear();
        self.finished = Some(clock);
    }

    fn exited(&self) -> LogItem {
        let (code, restarting) = match self.state {
            Life::Exited(code) => (Some(code), false),
            Life::Created | Life::Running | Life::Restarting => (None, true),
        };
        LogItem::Exited { container: self.name.clone(), code, restarting }
    }

    fn observed(&self) -> Container {
        let named = self.spec.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Bind { path, .. } => Some(path.to_string_lossy().into_owned()),
            source => named_volume(source).map(ToOwned::to_owned),
        });
        Container {
            id: ContainerId(self.id.clone()),
            name: self.name.clone(),
            project: self.project.clone(),
            service: self.service.clone(),
            number: self.number,
            labels: self.labels.clone(),
            spec: Some(self.spec.clone()),
            config_hash: self.config_hash.clone(),
            image: self.spec.image.clone(),
            image_id: self.image_id.clone(),
            replaces: self.replaces.clone().map(ContainerId),
            state: match self.state {
                Life::Created => ContainerState::Created,
                Life::Running => ContainerState::Running,
                Life::Restarting => ContainerState::Restarting,
                Life::Exited(code) => ContainerState::Exited(Some(code)),
            },
            health: self.health,
            command: self.spec.command.clone().unwrap_or_default(),
            created: time(self.created),
            started: self.started.map(time),
            finished: self.finished.map(time),
            restarts: self.restarts,
            ports: self.ports.clone(),
            networks: self.networks().cloned().collect(),
            mounts: named.chain(self.anonymous.values().cloned()).collect(),
        }
    }
}

fn make(there: &mut BTreeMap<String, Labels>, name: &str, labels: &Labels) -> Outcome {
    let unchanged = there.contains_key(name);
    there.entry(name.to_owned()).or_insert_with(|| labels.clone());
    Outcome { id: None, unchanged }
}

fn named_volume(source: &MountSource) -> Option<&str> {
    match source {
        MountSource::Volume { name, .. } => Some(name),
        MountSource::Anonymous { .. } | MountSource::Bind { .. } | MountSource::Tmpfs(_) => None,
    }
}

fn wildcard(port: &Port, host_port: u16) -> PublishedPort {
    let host_ip = port.host_ip.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    PublishedPort { host_ip, host_port, target: port.target, protocol: port.protocol }
}

fn clash(one: &PublishedPort, other: &PublishedPort) -> bool {
    let same_address =
        one.host_ip == other.host_ip || one.host_ip.is_unspecified() || other.host_ip.is_unspecified();
    one.host_port == other.host_port && one.protocol == other.protocol && same_address
}

fn port_in_use(service: &str, at: usize, port: u16, holder: &str) -> EngineError {
    conflict(format!("port {port} is in use by container {holder}"))
        .at(format!("services.{service}.ports[{at}]"))
        .help("stop it, or publish another port")
}

fn full(image: &str) -> Result<String, EngineError> {
    let parsed: Result<ImageRef, _> = image.parse();
    parsed.map(|image| image.to_string()).map_err(|cause| error(ErrorKind::Invalid, cause.to_string()))
}

fn familiar(reference: &str) -> String {
    reference.parse::<ImageRef>().map_or_else(|_| reference.to_owned(), |image| image.familiar())
}

fn image_id(content: &str) -> String {
    format!("sha256:{}", digest(content))
}

/// 64 hex digits.
fn digest(text: &str) -> String {
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}
