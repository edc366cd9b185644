//! Networks and volumes as the runtime wants them told. Errors name the key below the resource.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use indexmap::IndexMap;

use crate::{
    engine::{EngineError, ErrorKind},
    model::{Network, Subnet, Volume},
    runtime::{Ipv6Config, NetworkConfig, VolumeConfig, VolumeMount},
};

fn unsupported(key: &str, message: impl Into<String>) -> EngineError {
    EngineError::new(ErrorKind::Unsupported, message).at(key)
}

fn invalid(key: &str, message: impl Into<String>) -> EngineError {
    EngineError::new(ErrorKind::Invalid, message).at(key)
}

/// # Errors
/// What of it this engine has not got, or nobody has.
pub(super) fn network(
    project: &str,
    network: &Network,
    labels: &IndexMap<String, String>,
) -> Result<NetworkConfig, EngineError> {
    let Network { name, external: _, driver, internal, ipv6, subnets, driver_opts, labels: _ } = network;
    if let Some(driver) = driver.as_deref().filter(|driver| !matches!(*driver, "bridge" | "default")) {
        let message = format!("the embedded engine has no network driver `{driver}`, only `bridge`");
        return Err(unsupported("driver", message));
    }
    let (four, six): (Vec<&Subnet>, Vec<&Subnet>) =
        subnets.iter().partition(|subnet| subnet.address.is_ipv4());
    if four.len() > 1 || six.len() > 1 {
        let message = "the embedded engine gives a network one subnet of IPv4 and one of IPv6";
        return Err(unsupported("ipam", message));
    }
    let mtu = options(driver_opts)?;
    let four = four.first();
    Ok(NetworkConfig {
        name: name.clone(),
        group: project.to_owned(),
        internal: *internal,
        subnet: four.and_then(|subnet| Some((v4(subnet.address)?, subnet.prefix))),
        gateway: four.map(|subnet| family(subnet.gateway, v4)).transpose()?.flatten(),
        range: match four.and_then(|subnet| subnet.range) {
            Some((address, prefix)) => family(Some(address), v4)?.map(|address| (address, prefix)),
            None => None,
        },
        kept: four.map(|subnet| kept(subnet, v4)).transpose()?.unwrap_or_default(),
        // A subnet of IPv6 asks for it as well.
        ipv6: (*ipv6 || !six.is_empty()).then(|| ipv6_config(six.first().copied())).transpose()?,
        mtu,
        annotations: labels.clone(),
    })
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address),
        IpAddr::V4(_) => None,
    }
}

/// An address of the family of its subnet.
fn family<T>(address: Option<IpAddr>, of: impl Fn(IpAddr) -> Option<T>) -> Result<Option<T>, EngineError> {
    let Some(address) = address else { return Ok(None) };
    let message = || format!("`{address}` is not of the kind of its subnet");
    of(address).map(Some).ok_or_else(|| invalid("ipam", message()))
}

fn kept<T>(subnet: &Subnet, of: impl Fn(IpAddr) -> Option<T>) -> Result<Vec<T>, EngineError> {
    let addresses = subnet.aux_addresses.values();
    addresses.filter_map(|address| family(Some(*address), &of).transpose()).collect()
}

fn ipv6_config(subnet: Option<&Subnet>) -> Result<Ipv6Config, EngineError> {
    let Some(subnet) = subnet else { return Ok(Ipv6Config::default()) };
    if subnet.range.is_some() {
        return Err(unsupported("ipam", "the embedded engine has no `ip_range` of IPv6"));
    }
    Ok(Ipv6Config {
        subnet: v6(subnet.address).map(|address| (address, subnet.prefix)),
        gateway: family(subnet.gateway, v6)?,
        kept: kept(subnet, v6)?,
    })
}

/// The largest packet; options that change nothing in a namespace of our own are taken as they are.
fn options(options: &IndexMap<String, String>) -> Result<Option<u32>, EngineError> {
    let mut mtu = None;
    for (name, value) in options {
        let bad = || invalid("driver_opts", format!("`{value}` cannot be the value of `{name}`"));
        match (name.as_str(), value.as_str()) {
            ("com.docker.network.driver.mtu", value) => {
                let size = value.parse::<u32>().ok().filter(|size| (68..=65535).contains(size));
                mtu = Some(size.ok_or_else(bad)?);
            }
            // The name of a bridge that nobody else sees, and what is so anyhow.
            ("com.docker.network.bridge.name", _)
            | (
                "com.docker.network.bridge.enable_ip_masquerade" | "com.docker.network.bridge.enable_icc",
                "true",
            )
            | ("com.docker.network.bridge.host_binding_ipv4", "0.0.0.0")
            | ("com.docker.network.bridge.default_bridge", "false") => {}
            _ => {
                let message = format!("the embedded engine has no network option `{name}: {value}`");
                return Err(unsupported("driver_opts", message));
            }
        }
    }
    Ok(mtu)
}

/// # Errors
/// What of it this engine has not got.
pub(super) fn volume(
    volume: &Volume,
    labels: &IndexMap<String, String>,
) -> Result<VolumeConfig, EngineError> {
    let Volume { name, external: _, driver, driver_opts, labels: _ } = volume;
    if let Some(driver) = driver.as_deref().filter(|driver| !matches!(*driver, "local" | "default")) {
        let message = format!("the embedded engine has no volume driver `{driver}`, only `local`");
        return Err(unsupported("driver", message));
    }
    let mut mount = VolumeMount::default();
    for (option, value) in driver_opts {
        match option.as_str() {
            "type" => mount.kind.clone_from(value),
            "o" => mount.options.clone_from(value),
            "device" => mount.device.clone_from(value),
            _ => {
                let message = format!("the driver `local` has no option `{option}`, only type, o and device");
                return Err(invalid("driver_opts", message));
            }
        }
    }
    if !driver_opts.is_empty() && mount.device.is_empty() {
        return Err(invalid("driver_opts", "the driver `local` needs a `device` to mount"));
    }
    Ok(VolumeConfig {
        name: name.clone(),
        anonymous_of: None,
        mount: (!driver_opts.is_empty()).then_some(mount),
        annotations: labels.clone(),
    })
}
