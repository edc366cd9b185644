//! What is there, as found, before any choice.

use std::{
    collections::BTreeMap,
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use crate::model::{ContainerSpec, Protocol, label};

/// 64 hex digits; unique for ever.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ContainerId(pub String);

impl ContainerId {
    /// The 12 digits people see.
    #[must_use]
    pub fn short(&self) -> &str {
        self.0.get(..12).unwrap_or(&self.0)
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A snapshot of one project's things.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Observed {
    /// All containers of the project, oldest first.
    pub containers: Vec<Container>,
    /// By engine name: the project's, and the external ones asked about that exist.
    pub networks: BTreeMap<String, NetworkInfo>,
    pub volumes: BTreeMap<String, VolumeInfo>,
    /// By reference as written; absent when the store has not got it.
    pub images: BTreeMap<String, ImageInfo>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Container {
    pub id: ContainerId,
    pub name: String,
    pub project: String,
    pub service: String,
    pub number: u32,
    pub labels: IndexMap<String, String>,
    /// What it was created from, where the engine remembers.
    pub spec: Option<ContainerSpec>,
    pub config_hash: String,
    pub image: String,
    pub image_id: String,
    /// The container it was created to take the place of.
    pub replaces: Option<ContainerId>,
    pub state: ContainerState,
    pub health: Option<Health>,
    /// The command line that runs, as `ps` shows it.
    pub command: Vec<String>,
    pub created: SystemTime,
    pub started: Option<SystemTime>,
    pub finished: Option<SystemTime>,
    /// At its last end, the kernel had ended a process of it for want of memory.
    pub out_of_memory: bool,
    /// Its `post_start` hooks from this one on have still to run: the command that started it was killed, or
    /// one of them failed.
    pub owed_hooks: Option<usize>,
    /// It ran when the machine went down, and nobody learnt how it ended.
    pub host_restarted: bool,
    pub restarts: u32,
    pub ports: Vec<PublishedPort>,
    /// Ports that it is said to listen at: by its image, its service, or by being published.
    pub exposed: Vec<(u16, Protocol)>,
    /// Engine names of its networks.
    pub networks: Vec<String>,
    /// Engine names of volumes it mounts (anonymous ones by their id), and paths it binds.
    pub mounts: Vec<String>,
}

impl Container {
    /// Made by `run`: no replica of its service.
    #[must_use]
    pub fn is_one_off(&self) -> bool {
        self.labels.get(label::ONEOFF).is_some_and(|value| value == "True")
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContainerState {
    /// Made, never started.
    Created,
    Running,
    Paused,
    /// Ended; its policy will bring it back.
    Restarting,
    /// Ended; `None` where the code could not be learnt (the machine went down).
    Exited(Option<i32>),
    /// Half removed; only removal makes sense.
    Dead,
}

impl ContainerState {
    #[must_use]
    pub fn is_running(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// As `docker ps` has it: 0 unless it has ended. Where nobody learnt it, -1: no program can end with that.
    #[must_use]
    pub fn exit_code(self) -> i32 {
        match self {
            Self::Exited(code) => code.unwrap_or(-1),
            _ => 0,
        }
    }

    /// The word of `docker ps`.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited(_) => "exited",
            Self::Dead => "dead",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    Starting,
    Healthy,
    Unhealthy,
}

impl Health {
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        }
    }
}

/// A published port as it is bound now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PublishedPort {
    pub host_ip: IpAddr,
    pub host_port: u16,
    pub target: u16,
    pub protocol: Protocol,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetworkInfo {
    pub labels: IndexMap<String, String>,
    /// Names of containers joined to it.
    pub containers: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeInfo {
    pub labels: IndexMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageInfo {
    /// `sha256:` and the digest of the image's configuration.
    pub id: String,
    /// All its references, in the familiar form.
    pub references: Vec<String>,
    /// Of its unpacked layers, in bytes.
    pub size: u64,
    pub created: Option<SystemTime>,
    /// `os/arch[/variant]`.
    pub platform: String,
    pub labels: IndexMap<String, String>,
    /// Of the manifest or index that the name asked for stands for, where there is one name.
    pub digest: Option<String>,
    /// How long ago that name was last brought or given.
    pub age: Option<Duration>,
}
