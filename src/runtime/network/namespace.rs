//! The namespace that a container starts in, and the bridges in the anchor's that it is joined to.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use super::{Lease, digest};
use crate::runtime::{
    Error, Result,
    anchor::Anchor,
    dns,
    netlink::{self, Netlink, Plug},
    netns, nft, rootless,
};

/// A namespace for a container with these places: loopback, an interface for each lease (`eth0`,
/// `eth1`, ...), the default route through the first network that has a way out, and the redirection
/// of DNS. It lives as long as the descriptor or a process in it does. Whoever had one of the
/// addresses before (a former life of the container, one that it replaces) is cut off.
pub fn prepare(anchor: &Anchor, leases: &[Lease]) -> Result<OwnedFd> {
    let namespace = loopback_only()?;
    let mut inside = within(namespace.as_fd(), "the container's", Netlink::open)?;
    within(namespace.as_fd(), "the container's", || {
        // Neighbours must learn at once where an address has moved to.
        sysctl("ipv4/conf/default/arp_notify", "1")?;
        if leases.is_empty() { Ok(()) } else { nft::redirect_dns(dns::SERVER, dns::PORT) }
    })?;
    join(anchor, namespace.as_fd(), &mut inside, leases)?;
    Ok(namespace)
}

/// Joins a container that runs to its networks again when the anchor's namespace is not the one it was
/// joined to: its interfaces went with that, or are about to, since the kernel takes its time.
pub fn reconnect(anchor: &Anchor, namespace: BorrowedFd<'_>, leases: &[Lease]) -> Result<()> {
    let mut inside = within(namespace, "the container's", Netlink::open)?;
    let failed = |source| Error::System { what: "examine a container's network".to_owned(), source };
    let cables: Vec<String> = leases.iter().map(cable_name).collect();
    let interfaces: Vec<String> =
        leases.iter().enumerate().map(|(number, lease)| interface(number, lease)).collect();
    let plugged = within(anchor.netns(), "the anchor's", || Netlink::open()?.has_all(&cables))?;
    if plugged && inside.has_all(&interfaces).map_err(failed)? {
        return Ok(());
    }
    for name in &interfaces {
        inside.delete_if_there(name).map_err(failed)?;
    }
    join(anchor, namespace, &mut inside, leases)
}

fn join(anchor: &Anchor, namespace: BorrowedFd<'_>, inside: &mut Netlink, leases: &[Lease]) -> Result<()> {
    within(anchor.netns(), "the anchor's", || {
        let mut outside = Netlink::open()?;
        for (number, lease) in leases.iter().enumerate() {
            plug_in(&mut outside, namespace, &interface(number, lease), lease)?;
        }
        Ok(())
    })?;
    let route = default_route(leases);
    for (number, lease) in leases.iter().enumerate() {
        let default = route.filter(|route| route.network == lease.network).map(|lease| lease.gateway);
        let name = interface(number, lease);
        let failed = |source| Error::System {
            what: format!("set address {} on network `{}`", lease.address, lease.network),
            source,
        };
        if lease.v6.is_some() || lease.interface.link_local.iter().any(IpAddr::is_ipv6) {
            within(namespace, "the container's", || sysctl(&format!("ipv6/conf/{name}/disable_ipv6"), "0"))?;
        }
        configure(inside, &name, lease, default).map_err(failed)?;
        for (setting, value) in &lease.interface.sysctls {
            let path = setting.replace("IFNAME", &name).replace('.', "/");
            within(namespace, "the container's", || set(&path, value))?;
        }
    }
    Ok(())
}

/// Of the networks that have a way out the one with the highest priority, of equal ones the first.
fn default_route(leases: &[Lease]) -> Option<&Lease> {
    let ways: Vec<&Lease> = leases.iter().filter(|lease| !lease.internal).collect();
    let highest = ways.iter().map(|lease| lease.interface.gateway_priority).max()?;
    ways.into_iter().find(|lease| lease.interface.gateway_priority == highest)
}

/// Where containers on networks reach the host: the way that leads out of the namespace of the bridges.
pub fn host_gateway(anchor: Option<&Anchor>) -> Result<Ipv4Addr> {
    let Some(anchor) = anchor else { return Ok(Ipv4Addr::LOCALHOST) };
    let table = within(anchor.netns(), "the anchor's", || fs::read_to_string("/proc/thread-self/net/route"))?;
    gateway(&table).ok_or_else(|| {
        Error::Condition("`host-gateway` leads nowhere: containers have no way out here".to_owned())
    })
}

/// Of the default route in a table as /proc/net/route has it: addresses in the order of the machine.
fn gateway(table: &str) -> Option<Ipv4Addr> {
    table.lines().find_map(|line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let number = |at: usize| u32::from_str_radix(fields.get(at)?, 16).ok();
        (number(1)? == 0 && number(2)? != 0)
            .then(|| Ipv4Addr::from(number(2).unwrap_or_default().to_ne_bytes()))
    })
}

/// A namespace with nothing but loopback.
pub fn loopback_only() -> Result<OwnedFd> {
    let namespace = netns::create()
        .map_err(|source| Error::System { what: "make a network namespace".to_owned(), source })?;
    within(namespace.as_fd(), "the container's", || {
        // As the field has it: anybody in a container may ping and listen on low ports.
        sysctl("ipv4/ip_unprivileged_port_start", "0")?;
        sysctl("ipv4/ping_group_range", &format!("0 {}", rootless::last_group()))?;
        // Networks are IPv4 only; `::1` stays.
        sysctl("ipv6/conf/default/disable_ipv6", "1")?;
        Netlink::open()?.all(&[netlink::set_up(LOOPBACK)])
    })?;
    Ok(namespace)
}

/// Loopback is the first link of every namespace.
const LOOPBACK: u32 = 1;

fn interface(number: usize, lease: &Lease) -> String {
    lease.interface.name.clone().unwrap_or_else(|| format!("eth{number}"))
}

/// The cable from the bridge to the container; runs in the anchor's namespace.
fn plug_in(netlink: &mut Netlink, namespace: BorrowedFd<'_>, name: &str, lease: &Lease) -> io::Result<()> {
    let bridge = ensure_bridge(netlink, lease)?;
    let near = cable_name(lease);
    let [a, b, c, d] = lease.address.octets();
    let cable = netlink::add_veth(
        Plug { name: &near, mac: None, netns: None },
        Some(bridge),
        Plug {
            name,
            mac: Some(lease.interface.mac.unwrap_or([0x02, 0x42, a, b, c, d])),
            netns: Some(namespace),
        },
    );
    for _ in 0..CABLE_ATTEMPTS {
        match netlink.all(std::slice::from_ref(&cable)) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => netlink.delete_if_there(&near)?,
            Ok(()) => {
                let Some(mtu) = lease.interface.mtu else { return Ok(()) };
                let index = netlink.index_of(&near)?;
                return netlink.all(&[netlink::set_mtu(index, mtu)]);
            }
            other => return other,
        }
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("link `{near}` comes back")))
}

/// The kernel takes away the namespace of an ended container in its own time, and until then that
/// answers for the address. So a cable is named by its address, and who comes next cuts the old one.
fn cable_name(lease: &Lease) -> String {
    let digest = digest(&format!("{} {}", lease.network, lease.address));
    digest[..6].iter().fold("fv".to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

const CABLE_ATTEMPTS: usize = 5;

fn ensure_bridge(netlink: &mut Netlink, lease: &Lease) -> io::Result<u32> {
    if let Some(index) = netlink.index(&lease.bridge)? {
        return Ok(index);
    }
    let exists = |result: io::Result<()>| match result {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        other => other,
    };
    nft::permit_within(&lease.bridge)?;
    netlink.perform(&[netlink::add_bridge(&lease.bridge)])?.into_iter().try_for_each(exists)?;
    let index = netlink.index_of(&lease.bridge)?;
    let address = netlink::add_address(index, lease.gateway, lease.prefix);
    netlink.perform(&[address])?.into_iter().try_for_each(exists)?;
    if let Some(v6) = &lease.v6 {
        sysctl(&format!("ipv6/conf/{}/disable_ipv6", lease.bridge), "0")?;
        let address = netlink::add_address(index, v6.gateway, v6.prefix);
        netlink.perform(&[address])?.into_iter().try_for_each(exists)?;
    }
    Ok(index)
}

/// Prefix lengths of further addresses, of IPv4 and of IPv6.
const LINK_LOCAL: (u8, u8) = (16, 64);

/// Address first, then up: coming up is what tells the neighbours.
fn configure(netlink: &mut Netlink, name: &str, lease: &Lease, default: Option<Ipv4Addr>) -> io::Result<()> {
    let index = netlink.index_of(name)?;
    let mut requests: Vec<_> =
        lease.interface.mtu.map(|mtu| netlink::set_mtu(index, mtu)).into_iter().collect();
    requests.push(netlink::add_address(index, lease.address, lease.prefix));
    requests.extend(lease.v6.as_ref().map(|v6| netlink::add_address(index, v6.address, v6.prefix)));
    requests.extend(lease.interface.link_local.iter().map(|address| {
        let (v4, v6) = LINK_LOCAL;
        netlink::add_address(index, *address, if address.is_ipv4() { v4 } else { v6 })
    }));
    requests.push(netlink::set_up(index));
    requests.extend(default.map(|gateway| netlink::add_route((Ipv4Addr::UNSPECIFIED, 0), gateway)));
    netlink.all(&requests)
}

fn within<T: Send>(
    namespace: BorrowedFd<'_>,
    whose: &str,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> Result<T> {
    netns::within(namespace, work)
        .and_then(|done| done)
        .map_err(|source| Error::System { what: format!("set up {whose} network namespace"), source })
}

/// Writes a value below /proc/sys/net; a kernel without that knob needs no turning of it.
fn sysctl(name: &str, value: &str) -> io::Result<()> {
    match fs::write(Path::new("/proc/sys/net").join(name), value) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(io::Error::new(error.kind(), format!("net/{name}: {error}")))
        }
        _ => Ok(()),
    }
}

/// The same for a setting that somebody asked for: one that is not there is an error.
fn set(name: &str, value: &str) -> io::Result<()> {
    let name = name.trim_start_matches("net/");
    if Path::new(name).components().any(|part| !matches!(part, std::path::Component::Normal(_))) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("net/{name} is no setting")));
    }
    fs::write(Path::new("/proc/sys/net").join(name), value)
        .map_err(|error| io::Error::new(error.kind(), format!("net/{name}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_route_of_a_table_is_found() {
        let table = "Iface\tDestination\tGateway\n\
                     fic1\t0008090A\t00000000\n\
                     uplink\t00000000\t01F0FEA9\n";
        let expected = if cfg!(target_endian = "little") { [169, 254, 240, 1] } else { [1, 240, 254, 169] };
        assert_eq!(gateway(table), Some(expected.into()));
        assert_eq!(gateway("Iface\tDestination\tGateway\n"), None);
    }
}
