//! Devices of the host that a container may use.

use std::fmt;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// An entry of `devices:`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Device {
    /// A node of the host, or all below a directory.
    Node {
        /// Absolute paths.
        source: String,
        target: String,
        /// Of `r`, `w`, `m`.
        permissions: String,
    },
    /// A device of the Container Device Interface: `vendor.com/class=name`.
    Cdi(String),
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node { source, target, permissions } => write!(f, "{source}:{target}:{permissions}"),
            Self::Cdi(name) => f.write_str(name),
        }
    }
}

/// An entry of `device_cgroup_rules:`, `c 189:* rwm`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRule {
    /// `a` (all), `b` (block) or `c` (character).
    pub kind: char,
    /// `None` is every number.
    pub major: Option<u32>,
    pub minor: Option<u32>,
    /// Of `r`, `w`, `m`.
    pub permissions: String,
}

impl DeviceRule {
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let kind = words.next().filter(|kind| matches!(*kind, "a" | "b" | "c"))?.chars().next()?;
        let (major, minor) = words.next()?.split_once(':')?;
        let permissions = words.next()?;
        let number = |text: &str| match text {
            "*" => Some(None),
            digits => digits.parse().ok().map(Some),
        };
        (is_access(permissions) && words.next().is_none()).then_some(Self {
            kind,
            major: number(major)?,
            minor: number(minor)?,
            permissions: permissions.to_owned(),
        })
    }
}

impl fmt::Display for DeviceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        write!(f, "{} {}:{} {}", self.kind, number(self.major), number(self.minor), self.permissions)
    }
}

/// Whether this says what may be done with a device: some of `r`, `w`, `m`, each once.
#[must_use]
pub fn is_access(text: &str) -> bool {
    let once = |c: char| text.matches(c).count() == 1;
    !text.is_empty() && text.chars().all(|c| "rwm".contains(c) && once(c))
}

/// An entry of `gpus:` or `deploy.resources.reservations.devices`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceRequest {
    pub driver: Option<String>,
    /// -1 is all; 0 when `device_ids` say which.
    pub count: i64,
    pub device_ids: Vec<String>,
    pub capabilities: Vec<String>,
    pub options: IndexMap<String, String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_docker_reads_it() {
        for text in ["c 189:* rwm", "a *:* rwm", "b 8:0 r"] {
            assert_eq!(DeviceRule::parse(text).unwrap().to_string(), text);
        }
        for text in
            ["", "c", "c 1 rwm", "d 1:3 rwm", "c 1:3 rwx", "c 1:3 rr", "c 1:3", "c x:3 r", "c 1:3 r w"]
        {
            assert_eq!(DeviceRule::parse(text), None, "{text}");
        }
    }
}
