//! What a container shares with the host or with another container instead of having its own.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Another container, as the file names it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lender {
    /// The first container of this service of the project.
    Service(String),
    /// Any container, by name or id.
    Container(String),
}

impl Lender {
    /// Of `service:NAME` or `container:NAME`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, name) = text.split_once(':').filter(|(_, name)| !name.is_empty())?;
        match kind {
            "service" => Some(Self::Service(name.to_owned())),
            "container" => Some(Self::Container(name.to_owned())),
            _ => None,
        }
    }

    #[must_use]
    pub fn service(&self) -> Option<&str> {
        match self {
            Self::Service(name) => Some(name),
            Self::Container(_) => None,
        }
    }
}

impl fmt::Display for Lender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(name) => write!(f, "service:{name}"),
            Self::Container(name) => write!(f, "container:{name}"),
        }
    }
}

/// `ipc:`, where shared memory and message queues are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IpcMode {
    /// Its own, which no other container may join.
    #[default]
    Private,
    /// Its own, which others may join.
    Shareable,
    /// Its own, without /dev/shm.
    None,
    Host,
    Of(Lender),
}

impl fmt::Display for IpcMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.write_str("private"),
            Self::Shareable => f.write_str("shareable"),
            Self::None => f.write_str("none"),
            Self::Host => f.write_str("host"),
            Self::Of(lender) => lender.fmt(f),
        }
    }
}

/// `pid:`, which processes it sees.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PidMode {
    #[default]
    Private,
    Host,
    Of(Lender),
}

impl fmt::Display for PidMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Private => f.write_str("private"),
            Self::Host => f.write_str("host"),
            Self::Of(lender) => lender.fmt(f),
        }
    }
}

/// All volumes and bind mounts of another container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumesFrom {
    pub lender: Lender,
    pub read_only: bool,
}

impl fmt::Display for VolumesFrom {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.lender, if self.read_only { ":ro" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lender_is_a_service_or_a_container_with_a_name() {
        assert_eq!(Lender::parse("service:db"), Some(Lender::Service("db".into())));
        assert_eq!(Lender::parse("container:a-b-1"), Some(Lender::Container("a-b-1".into())));
        for text in ["host", "service:", "pod:x", ""] {
            assert_eq!(Lender::parse(text), None, "{text}");
        }
    }
}
