//! The namespace that a container starts in, and the bridges in the anchor's that it is joined to.

use std::{
    fs, io,
    net::Ipv4Addr,
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

/// Joins a container that runs to its networks again when nobody held the namespace of their bridges
/// for a moment: its interfaces went with it.
pub fn reconnect(anchor: &Anchor, namespace: BorrowedFd<'_>, leases: &[Lease]) -> Result<()> {
    let mut inside = within(namespace, "the container's", Netlink::open)?;
    let there = inside
        .index(&interface(0))
        .map_err(|source| Error::System { what: "examine a container's network".to_owned(), source })?;
    match there {
        Some(_) => Ok(()),
        None => join(anchor, namespace, &mut inside, leases),
    }
}

fn join(anchor: &Anchor, namespace: BorrowedFd<'_>, inside: &mut Netlink, leases: &[Lease]) -> Result<()> {
    within(anchor.netns(), "the anchor's", || {
        let mut outside = Netlink::open()?;
        for (number, lease) in leases.iter().enumerate() {
            plug_in(&mut outside, namespace, &interface(number), lease)?;
        }
        Ok(())
    })?;
    let route = leases.iter().find(|lease| !lease.internal);
    for (number, lease) in leases.iter().enumerate() {
        let default = route.filter(|route| route.network == lease.network).map(|lease| lease.gateway);
        configure(inside, &interface(number), lease, default).map_err(|source| Error::System {
            what: format!("set address {} on network `{}`", lease.address, lease.network),
            source,
        })?;
    }
    Ok(())
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

fn interface(number: usize) -> String {
    format!("eth{number}")
}

/// The cable from the bridge to the container; runs in the anchor's namespace.
fn plug_in(netlink: &mut Netlink, namespace: BorrowedFd<'_>, name: &str, lease: &Lease) -> io::Result<()> {
    let bridge = ensure_bridge(netlink, lease)?;
    let near = cable_name(lease);
    let [a, b, c, d] = lease.address.octets();
    let cable = netlink::add_veth(
        Plug { name: &near, mac: None, netns: None },
        Some(bridge),
        Plug { name, mac: Some([0x02, 0x42, a, b, c, d]), netns: Some(namespace) },
    );
    for _ in 0..CABLE_ATTEMPTS {
        match netlink.all(std::slice::from_ref(&cable)) {
            Err(error) if error.raw_os_error() == Some(libc::EEXIST) => netlink.delete_if_there(&near)?,
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
    Ok(index)
}

/// Address first, then up: coming up is what tells the neighbours.
fn configure(netlink: &mut Netlink, name: &str, lease: &Lease, default: Option<Ipv4Addr>) -> io::Result<()> {
    let index = netlink.index_of(name)?;
    let mut requests = vec![netlink::add_address(index, lease.address, lease.prefix), netlink::set_up(index)];
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
