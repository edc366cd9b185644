//! A service: a container specification and what is arranged around it.

use std::time::Duration;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Build, ContainerSpec, Provider};

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Service {
    pub name: String,
    pub container: ContainerSpec,
    /// A program of somebody else's is the service; there is no container, whatever `container` says.
    pub provider: Option<Provider>,
    pub build: Option<Build>,
    pub pull_policy: Option<PullPolicy>,
    /// By service key, in the order of the file.
    pub depends_on: IndexMap<String, Dependency>,
    /// Profiles that turn the service on; on always when empty.
    pub profiles: Vec<String>,
    /// Number of containers.
    pub scale: u32,
    /// `up` follows its output.
    pub attach: bool,
    /// What docker compose calls its config hash, when it was read from a file.
    pub file_hash: Option<String>,
}

impl Service {
    /// The image its containers run: the one named, or the one it builds.
    #[must_use]
    pub fn image(&self) -> &str {
        &self.container.image
    }

    /// The config hash that its containers carry as a label and `config --hash` prints: 64 hex digits.
    #[must_use]
    pub fn config_hash(&self) -> String {
        self.file_hash.clone().unwrap_or_else(|| self.container.digest())
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dependency {
    pub condition: Condition,
    /// Restart the dependent when this dependency is restarted or recreated by a command.
    pub restart: bool,
    /// An absent or disabled dependency is an error.
    pub required: bool,
}

/// What must be true of a dependency before its dependent starts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    #[default]
    ServiceStarted,
    ServiceHealthy,
    ServiceCompletedSuccessfully,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PullPolicy {
    Always,
    Never,
    Missing,
    Build,
    /// When it was last pulled (built, loaded, tagged) so long ago.
    Every(Duration),
}
