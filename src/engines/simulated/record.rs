//! One simulated container.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::{
    engine::{Container, ContainerId, ContainerState, Health, LogItem, ProcessInfo, PublishedPort},
    model::{ContainerSpec, HealthTest, MountSource, NetworkMode, Protocol, RestartPolicy, signal_number},
};

use super::Behaviour;

const SIGTERM: i32 = 15;

/// A container, with what it was asked to be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Record {
    pub id: String,
    pub project: String,
    pub service: String,
    pub number: u32,
    pub name: String,
    pub spec: ContainerSpec,
    pub config_hash: String,
    pub labels: IndexMap<String, String>,
    pub image_id: String,
    pub replaces: Option<String>,
    pub state: Life,
    pub health: Option<Health>,
    pub created: u64,
    pub started: Option<u64>,
    pub finished: Option<u64>,
    /// The first of its `post_start` hooks that has still to run.
    pub owed_hooks: Option<usize>,
    pub restarts: u32,
    pub ports: Vec<PublishedPort>,
    /// Anonymous volumes by target.
    pub anonymous: BTreeMap<String, String>,
    /// What it wrote to stdout, with the seconds of each line.
    pub lines: Vec<(u64, String)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Life {
    Created,
    Running,
    Paused,
    Restarting,
    Exited(i32),
}

impl Record {
    pub fn runs(&self) -> bool {
        matches!(self.state, Life::Running | Life::Paused | Life::Restarting)
    }

    /// What its health check, if it has one, finds when anyone can carry it out in their head: one that runs on
    /// (`sleep`) never decides.
    pub fn check(&self) -> Option<Health> {
        let check = self.spec.healthcheck.as_ref()?;
        let words = match check.test.as_ref() {
            Some(HealthTest::Disabled) => return None,
            Some(HealthTest::Command(words)) => words.clone(),
            Some(HealthTest::Shell(script)) => script.split_whitespace().map(ToOwned::to_owned).collect(),
            None => Vec::new(),
        };
        Some(match Behaviour::of(&words).exit {
            None if words.first().is_some_and(|program| program == "sleep") => Health::Starting,
            None | Some(0) => Health::Healthy,
            Some(_) => Health::Unhealthy,
        })
    }

    pub fn stop_signal(&self) -> i32 {
        self.spec.stop_signal.as_deref().and_then(signal_number).unwrap_or(SIGTERM)
    }

    pub fn networks(&self) -> impl Iterator<Item = &String> {
        let joined = match &self.spec.network {
            NetworkMode::Networks(networks) => Some(networks.keys()),
            NetworkMode::None | NetworkMode::Host | NetworkMode::Of(_) => None,
        };
        joined.into_iter().flatten()
    }

    pub fn mounts(&self, volume: &str) -> bool {
        let mut named = self.spec.mounts.iter().filter_map(|mount| named_volume(&mount.source));
        named.any(|name| name == volume) || self.anonymous.values().any(|name| name == volume)
    }

    /// The main process ended by itself: its policy says what follows. A restart that would end the
    /// same way again is not repeated for ever.
    pub fn end(&mut self, code: i32, clock: u64) {
        match self.spec.restart {
            RestartPolicy::Always | RestartPolicy::UnlessStopped => self.ended(Life::Restarting, clock),
            RestartPolicy::OnFailure { max_retries: None } if code != 0 => {
                self.ended(Life::Restarting, clock);
            }
            RestartPolicy::OnFailure { max_retries: Some(retries) } if code != 0 => {
                self.restarts = retries;
                self.ended(Life::Exited(code), clock);
            }
            RestartPolicy::No | RestartPolicy::OnFailure { .. } => self.ended(Life::Exited(code), clock),
        }
    }

    /// Its own program.
    pub fn process(&self) -> ProcessInfo {
        let command = self.spec.command.clone().unwrap_or_default().join(" ");
        let tty = "?".to_owned();
        ProcessInfo { user: "root".to_owned(), pid: 1, parent: 0, cpu: 0, age: 0, busy: 0, tty, command }
    }

    pub fn ended(&mut self, state: Life, clock: u64) {
        self.state = state;
        self.health = None;
        self.ports.clear();
        self.finished = Some(clock);
    }

    pub fn exited(&self) -> LogItem {
        let (code, restarting) = match self.state {
            Life::Exited(code) => (Some(code), false),
            Life::Created | Life::Running | Life::Paused | Life::Restarting => (None, true),
        };
        LogItem::Exited { container: self.name.clone(), code, restarting }
    }

    pub fn observed(&self) -> Container {
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
                Life::Paused => ContainerState::Paused,
                Life::Running => ContainerState::Running,
                Life::Restarting => ContainerState::Restarting,
                Life::Exited(code) => ContainerState::Exited(Some(code)),
            },
            health: self.health,
            command: self.spec.command.clone().unwrap_or_default(),
            created: time(self.created),
            started: self.started.map(time),
            finished: self.finished.map(time),
            out_of_memory: false,
            owed_hooks: self.owed_hooks,
            host_restarted: false,
            restarts: self.restarts,
            ports: self.ports.clone(),
            exposed: self.spec.expose.iter().flat_map(|text| Protocol::of_ports(text)).collect(),
            networks: self.networks().cloned().collect(),
            mounts: named.chain(self.anonymous.values().cloned()).collect(),
        }
    }
}

/// The simulated time starts on 1 January 2024.
const BEGINNING: Duration = Duration::from_secs(1_704_067_200);

pub(super) fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + BEGINNING + Duration::from_secs(seconds)
}

/// The first moment of the simulated time that is not before `now`.
pub(super) fn clock_at(now: SystemTime) -> u64 {
    now.duration_since(SystemTime::UNIX_EPOCH + BEGINNING).map_or(0, |since| since.as_secs() + 1)
}

pub(super) fn named_volume(source: &MountSource) -> Option<&str> {
    match source {
        MountSource::Volume { name, .. } => Some(name),
        MountSource::Anonymous { .. }
        | MountSource::Bind { .. }
        | MountSource::Tmpfs(_)
        | MountSource::Image { .. } => None,
    }
}
