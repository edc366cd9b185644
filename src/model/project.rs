//! The whole of what one Compose project asks for.

use std::{net::IpAddr, path::PathBuf};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{Places, Service};

/// A loaded project: canonical, checked, immutable.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Project {
    pub name: String,
    /// The project directory; relative paths were resolved here.
    pub root: PathBuf,
    /// The Compose files it was read from, in merge order.
    pub files: Vec<PathBuf>,
    /// Enabled services by key, in the order of the files.
    pub services: IndexMap<String, Service>,
    /// Services whose profiles are off.
    pub disabled: IndexMap<String, Service>,
    /// By key.
    pub networks: IndexMap<String, Network>,
    /// By key.
    pub volumes: IndexMap<String, Volume>,
    pub places: Places,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Network {
    /// Name the engine knows it under (`project_key` unless the file says otherwise).
    pub name: String,
    /// Made by somebody else: must exist, is never removed.
    pub external: bool,
    pub driver: Option<String>,
    /// No way out of it, and none in but published ports.
    pub internal: bool,
    /// Containers get an IPv6 address as well.
    pub ipv6: bool,
    pub subnets: Vec<Subnet>,
    pub driver_opts: IndexMap<String, String>,
    pub labels: IndexMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    pub address: IpAddr,
    pub prefix: u8,
    pub gateway: Option<IpAddr>,
    /// Containers get their addresses from this part of it.
    pub range: Option<(IpAddr, u8)>,
    /// Addresses that no container gets, by what they are kept for.
    pub aux_addresses: IndexMap<String, IpAddr>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Volume {
    /// Name the engine knows it under (`project_key` unless the file says otherwise).
    pub name: String,
    /// Made by somebody else: must exist, is never removed.
    pub external: bool,
    pub driver: Option<String>,
    pub driver_opts: IndexMap<String, String>,
    pub labels: IndexMap<String, String>,
}
