//! Which subnet a network gets and which address a container: pure choices over what is taken.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::{Endpoint, Error, Result, leases::Taken, netlink::mask};

/// An address network and the length of its prefix.
pub type Subnet = (Ipv4Addr, u8);

/// The place of one container on one network.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    pub network: String,
    /// Its bridge in the anchor's namespace.
    pub bridge: String,
    pub address: Ipv4Addr,
    pub prefix: u8,
    pub gateway: Ipv4Addr,
    /// What the container answers to on this network.
    pub names: Vec<String>,
    /// The network has no way out.
    pub internal: bool,
    /// Id of the container.
    pub container: String,
    pub group: String,
    /// Container with which it may share the address, since only one of the two will run.
    #[serde(skip)]
    pub replaces: Option<String>,
    /// The container runs, so its names are answered.
    #[serde(skip)]
    pub up: bool,
    /// Its address of the other kind, where the network has them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub v6: Option<Address6>,
    #[serde(default, skip_serializing_if = "Interface::is_plain")]
    pub interface: Interface,
    /// Names that it alone uses here: (name of another, alias).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<(String, String)>,
    /// Where it asks for names that are no names of containers; the host's servers when empty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub servers: Vec<IpAddr>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address6 {
    pub address: Ipv6Addr,
    pub prefix: u8,
    pub gateway: Ipv6Addr,
}

/// What is particular to the container's end of the cable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Interface {
    /// `eth` and a number when `None`.
    pub name: Option<String>,
    pub mac: Option<[u8; 6]>,
    /// Bytes.
    pub mtu: Option<u32>,
    pub link_local: Vec<IpAddr>,
    pub sysctls: Vec<(String, String)>,
    pub gateway_priority: i64,
}

impl Interface {
    fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

impl Lease {
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        network_of(self.address, self.prefix)
    }
}

/// What a lease needs to know of its network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground<'a> {
    pub network: &'a str,
    pub bridge: &'a str,
    pub subnet: Subnet,
    pub gateway: Ipv4Addr,
    /// The part of the subnet that addresses are taken from.
    pub range: Option<Subnet>,
    /// Addresses that nobody gets.
    pub kept: &'a [Ipv4Addr],
    pub internal: bool,
    pub v6: Option<Ground6<'a>>,
    pub mtu: Option<u32>,
}

/// The same of IPv6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ground6<'a> {
    pub subnet: Subnet6,
    pub gateway: Ipv6Addr,
    pub kept: &'a [Ipv6Addr],
}

pub type Subnet6 = (Ipv6Addr, u8);

/// Ranges that subnets are taken from, in this order: 9,280 networks of 1,022 addresses. The ranges
/// that other tools take first (10.0.0.0/9, 172.17.0.0/16, 192.168.0.0/24) come late or not at all.
const POOL: [Subnet; 3] = [
    (Ipv4Addr::new(10, 128, 0, 0), 9),
    (Ipv4Addr::new(172, 16, 0, 0), 12),
    (Ipv4Addr::new(192, 168, 0, 0), 16),
];
/// As many as a bridge of Linux has ports (BR_MAX_PORTS, 1024).
const POOL_PREFIX: u8 = 22;

/// The first free subnet of the pool, looked for from a place that `seed` gives, so that a network
/// which comes back mostly gets the subnet it had. `None` when all overlap with `taken`.
#[must_use]
pub fn free_subnet(taken: &[Subnet], seed: u64) -> Option<Subnet> {
    let mut blocked: Vec<(u32, u32)> = taken.iter().map(|&subnet| bounds(subnet)).collect();
    blocked.sort_unstable();
    POOL.into_iter().find_map(|range| {
        let (first, last) = bounds(range);
        let size = 1_u32 << (32 - POOL_PREFIX);
        let count = (last - first) / size + 1;
        let start = u32::try_from(seed % u64::from(count)).unwrap_or(0);
        (0..count)
            .map(|step| first + (start + step) % count * size)
            .find(|&base| !touches(&blocked, base, base + size - 1))
            .map(|base| (Ipv4Addr::from_bits(base), POOL_PREFIX))
    })
}

/// Whether any of the blocked ranges (sorted by their begin) reaches into `first..=last`.
fn touches(blocked: &[(u32, u32)], first: u32, last: u32) -> bool {
    let before = blocked.partition_point(|&(begin, _)| begin <= last);
    blocked[..before].iter().any(|&(_, end)| end >= first)
}

#[must_use]
pub fn overlap(a: Subnet, b: Subnet) -> bool {
    let ((a_first, a_last), (b_first, b_last)) = (bounds(a), bounds(b));
    a_first <= b_last && b_first <= a_last
}

/// The gateway when none was asked for: the first address.
#[must_use]
pub fn first_host((network, _): Subnet) -> Ipv4Addr {
    Ipv4Addr::from_bits(network.to_bits().wrapping_add(1))
}

/// # Errors
/// [`Error::Invalid`] when containers cannot live there.
pub fn check_subnet(network: &str, subnet: Subnet, gateway: Option<Ipv4Addr>) -> Result<()> {
    let (address, prefix) = subnet;
    let invalid = |why: String| Err(Error::Invalid(format!("network `{network}`: {why}")));
    if !(8..=29).contains(&prefix) {
        return invalid(format!("the prefix length of subnet {address}/{prefix} is not between 8 and 29"));
    }
    let network_address = network_of(address, prefix).0;
    if network_address != address {
        return invalid(format!(
            "subnet {address}/{prefix} has host bits set; did you mean {network_address}/{prefix}?"
        ));
    }
    if address.is_loopback()
        || address.is_multicast()
        || address.octets()[0] == 0
        || address.octets()[0] >= 240
    {
        return invalid(format!("subnet {address}/{prefix} is not for hosts"));
    }
    match gateway {
        Some(gateway) if !is_host(subnet, gateway) => {
            invalid(format!("gateway {gateway} is no host address of subnet {address}/{prefix}"))
        }
        _ => Ok(()),
    }
}

/// The lease of `container` on one network, given all leases there are. What it has already is
/// kept; the address of the container it replaces is shared; else the first free one is taken.
///
/// # Errors
/// [`Error::Invalid`] for an address outside the subnet, [`Error::Conflict`] for a taken one,
/// [`Error::Exhausted`] when none is left.
pub fn assign(
    ground: &Ground<'_>,
    leases: &[Taken<'_>],
    group: &str,
    container: &str,
    endpoint: &Endpoint,
    replaces: Option<&str>,
) -> Result<Lease> {
    let here: Vec<&Taken<'_>> = leases.iter().filter(|lease| lease.network == ground.network).collect();
    let of = |id: &str| here.iter().find(|lease| lease.container == id);
    let own = of(container);
    let replaces = replaces.or_else(|| own.and_then(|lease| lease.replaces));
    let holder = |address| {
        here.iter().find(|lease| {
            lease.address == address
                && lease.container != container
                && Some(lease.container) != replaces
                && lease.replaces != Some(container)
        })
    };
    let inherited = own.or_else(|| replaces.and_then(of)).map(|lease| lease.address);
    let address = match endpoint.address {
        Some(address) => {
            check_address(ground, address)?;
            if let Some(other) = holder(address) {
                return Err(Error::Conflict(format!(
                    "address {address} of network `{}` is held by {}",
                    ground.network,
                    other.holder()
                )));
            }
            address
        }
        None => inherited
            .filter(|&address| usable(ground, address) && holder(address).is_none())
            .or_else(|| free_address(ground, &here))
            .ok_or_else(|| Error::Exhausted(format!("the addresses of network `{}`", ground.network)))?,
    };
    let v6 = match &ground.v6 {
        Some(six) => Some(address6(ground, six, &here, container, replaces, endpoint.address6, address)?),
        None if endpoint.address6.is_some() => {
            return Err(Error::Invalid(format!(
                "network `{}` has no IPv6: give it `enable_ipv6: true`",
                ground.network
            )));
        }
        None => None,
    };
    Ok(Lease {
        network: ground.network.to_owned(),
        bridge: ground.bridge.to_owned(),
        address,
        prefix: ground.subnet.1,
        gateway: ground.gateway,
        names: endpoint.names.clone(),
        internal: ground.internal,
        container: container.to_owned(),
        group: group.to_owned(),
        replaces: replaces.map(ToOwned::to_owned),
        up: own.is_some_and(|lease| lease.up),
        v6,
        interface: Interface {
            name: endpoint.interface.clone(),
            mac: endpoint.mac,
            mtu: ground.mtu,
            link_local: endpoint.link_local.clone(),
            sysctls: endpoint.sysctls.clone(),
            gateway_priority: endpoint.gateway_priority,
        },
        links: endpoint.links.clone(),
        servers: endpoint.servers.clone(),
    })
}

/// The IPv6 address beside `v4`: the one asked for, the one it had, or one that ends as `v4` does, so that
/// who has a free address of one kind has one of the other.
fn address6(
    ground: &Ground<'_>,
    six: &Ground6<'_>,
    here: &[&Taken<'_>],
    container: &str,
    replaces: Option<&str>,
    asked: Option<Ipv6Addr>,
    v4: Ipv4Addr,
) -> Result<Address6> {
    let (network, prefix) = six.subnet;
    let holder = |address: Ipv6Addr| {
        here.iter().find(|lease| {
            lease.v6 == Some(address)
                && lease.container != container
                && Some(lease.container) != replaces
                && lease.replaces != Some(container)
        })
    };
    let inside = |address: Ipv6Addr| {
        network_of6(address, prefix) == six.subnet && address != network && address != six.gateway
    };
    let free =
        |address: &Ipv6Addr| inside(*address) && !six.kept.contains(address) && holder(*address).is_none();
    let address = match asked {
        Some(address) if !inside(address) => {
            return Err(Error::Invalid(format!(
                "network `{}`: address {address} is no address for containers in its subnet {network}/{prefix}",
                ground.network
            )));
        }
        Some(address) => match holder(address) {
            None => address,
            Some(other) => {
                return Err(Error::Conflict(format!(
                    "address {address} of network `{}` is held by {}",
                    ground.network,
                    other.holder()
                )));
            }
        },
        None => {
            let had = |id: &str| here.iter().find(|lease| lease.container == id).and_then(|lease| lease.v6);
            let inherited = had(container).or_else(|| replaces.and_then(had)).filter(free);
            let size = 1_u128.checked_shl(u32::from(128 - prefix)).unwrap_or(u128::MAX);
            let first = u128::from(v4.to_bits() & !mask(ground.subnet.1));
            let tries = u128::from(u16::MAX).max(2 * here.len() as u128);
            let made = |step| Ipv6Addr::from_bits(network.to_bits() + (first + step) % size);
            inherited.or_else(|| (0..tries.min(size)).map(made).find(free)).ok_or_else(|| {
                Error::Exhausted(format!("the IPv6 addresses of network `{}`", ground.network))
            })?
        }
    };
    Ok(Address6 { address, prefix, gateway: six.gateway })
}

#[must_use]
pub fn network_of6(address: Ipv6Addr, prefix: u8) -> Subnet6 {
    let mask = u128::MAX.checked_shl(u32::from(128 - prefix.min(128))).unwrap_or(0);
    (Ipv6Addr::from_bits(address.to_bits() & mask), prefix)
}

#[must_use]
pub fn overlap6(a: Subnet6, b: Subnet6) -> bool {
    let prefix = a.1.min(b.1);
    network_of6(a.0, prefix) == network_of6(b.0, prefix)
}

/// The gateway when none was asked for: the first address.
#[must_use]
pub fn first_host6((network, _): Subnet6) -> Ipv6Addr {
    Ipv6Addr::from_bits(network.to_bits().wrapping_add(1))
}

/// # Errors
/// [`Error::Invalid`] when containers cannot live there.
pub fn check_subnet6(network: &str, subnet: Subnet6, gateway: Option<Ipv6Addr>) -> Result<()> {
    let (address, prefix) = subnet;
    let invalid = |why: String| Err(Error::Invalid(format!("network `{network}`: {why}")));
    if !(16..=125).contains(&prefix) {
        return invalid(format!("the prefix length of subnet {address}/{prefix} is not between 16 and 125"));
    }
    let first = network_of6(address, prefix).0;
    if first != address {
        return invalid(format!(
            "subnet {address}/{prefix} has host bits set; did you mean {first}/{prefix}?"
        ));
    }
    if address.is_multicast() || address.is_unicast_link_local() || address.is_unspecified() {
        return invalid(format!("subnet {address}/{prefix} is not for hosts"));
    }
    match gateway {
        Some(gateway) if network_of6(gateway, prefix) != subnet || gateway == address => {
            invalid(format!("gateway {gateway} is no host address of subnet {address}/{prefix}"))
        }
        _ => Ok(()),
    }
}

/// # Errors
/// [`Error::Invalid`] for a range or a kept address that is not in the subnet.
pub fn check_parts(network: &str, subnet: Subnet, range: Option<Subnet>, kept: &[Ipv4Addr]) -> Result<()> {
    let inside = |address| network_of(address, subnet.1).0 == subnet.0;
    let invalid = |what: String| {
        Err(Error::Invalid(format!(
            "network `{network}`: {what} is not in its subnet {}/{}",
            subnet.0, subnet.1
        )))
    };
    match range {
        Some((address, prefix)) if prefix < subnet.1 || prefix > 32 || !inside(address) => {
            return invalid(format!("the range {address}/{prefix}"));
        }
        _ => {}
    }
    match kept.iter().find(|address| !inside(**address)) {
        Some(address) => invalid(format!("the address {address}")),
        None => Ok(()),
    }
}

fn check_address(ground: &Ground<'_>, address: Ipv4Addr) -> Result<()> {
    let (network, prefix) = ground.subnet;
    let why = if address == ground.gateway {
        "is its gateway".to_owned()
    } else if !is_host(ground.subnet, address) {
        format!("is no host address of its subnet {network}/{prefix}")
    } else {
        return Ok(());
    };
    Err(Error::Invalid(format!("network `{}`: address {address} {why}", ground.network)))
}

fn usable(ground: &Ground<'_>, address: Ipv4Addr) -> bool {
    check_address(ground, address).is_ok()
}

fn free_address(ground: &Ground<'_>, here: &[&Taken<'_>]) -> Option<Ipv4Addr> {
    let mut taken: Vec<u32> = here.iter().map(|lease| lease.address.to_bits()).collect();
    taken.push(ground.gateway.to_bits());
    taken.extend(ground.kept.iter().map(|address| address.to_bits()));
    taken.sort_unstable();
    let (first, last) = bounds(ground.subnet);
    let (from, to) = ground.range.map_or((first + 1, last - 1), bounds);
    // A range may reach to the ends of the subnet, which are no hosts.
    (from.max(first + 1)..=to.min(last - 1))
        .find(|address| taken.binary_search(address).is_err())
        .map(Ipv4Addr::from_bits)
}

fn is_host(subnet: Subnet, address: Ipv4Addr) -> bool {
    let (first, last) = bounds(subnet);
    (first + 1..last).contains(&address.to_bits())
}

#[must_use]
pub fn network_of(address: Ipv4Addr, prefix: u8) -> Subnet {
    (Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix)
}

fn bounds((address, prefix): Subnet) -> (u32, u32) {
    let first = address.to_bits() & mask(prefix);
    (first, first | !mask(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    const GROUND: Ground<'_> = Ground {
        network: "net",
        bridge: "fic0",
        subnet: (Ipv4Addr::new(10, 9, 8, 0), 29),
        gateway: Ipv4Addr::new(10, 9, 8, 1),
        range: None,
        kept: &[],
        internal: false,
        v6: None,
        mtu: None,
    };

    fn taken(leases: &[Lease]) -> Vec<Taken<'_>> {
        leases.iter().map(Taken::of).collect()
    }

    fn ask(
        leases: &[Lease],
        container: &str,
        address: Option<&str>,
        replaces: Option<&str>,
    ) -> Result<Lease> {
        let endpoint = Endpoint {
            network: "net".to_owned(),
            names: vec![container.to_owned()],
            address: address.map(ip),
            ..Endpoint::default()
        };
        assign(&GROUND, &taken(leases), "demo", container, &endpoint, replaces)
    }

    #[test]
    fn four_thousand_networks_do_not_overlap_each_other_or_the_host() {
        let host = [(ip("10.200.0.0"), 16), (ip("172.16.0.0"), 12), (ip("192.0.2.0"), 24)];
        let mut taken = host.to_vec();
        for number in 0..4096_u64 {
            let subnet = free_subnet(&taken, number.wrapping_mul(0x9e37_79b9_7f4a_7c15)).unwrap();
            assert!(!host.iter().any(|&other| overlap(other, subnet)), "{subnet:?}");
            taken.push(subnet);
        }
        let mut made = taken.split_off(host.len());
        made.sort_unstable();
        assert!(made.windows(2).all(|pair| !overlap(pair[0], pair[1])));
    }

    #[test]
    fn the_pool_ends_when_all_of_it_is_taken() {
        assert_eq!(free_subnet(&POOL, 7), None);
        assert!(free_subnet(&POOL[..2], 7).is_some_and(|subnet| overlap(POOL[2], subnet)));
    }

    #[test]
    fn the_same_network_gets_its_subnet_again() {
        assert_eq!(free_subnet(&[], 99), free_subnet(&[], 99));
        let first = free_subnet(&[], 99).unwrap();
        assert_ne!(free_subnet(&[first], 99), Some(first));
    }

    #[test]
    fn addresses_are_given_until_none_is_left() {
        let mut leases = Vec::new();
        for number in 2..=6 {
            let lease = ask(&leases, &format!("c{number}"), None, None).unwrap();
            assert_eq!(lease.address, ip(&format!("10.9.8.{number}")));
            leases.push(lease);
        }
        let error = ask(&leases, "late", None, None).unwrap_err();
        assert_eq!(error.to_string(), "the addresses of network `net` are used up");
    }

    #[test]
    fn an_address_asked_for_is_checked_against_subnet_gateway_and_holders() {
        let held = ask(&[], "0123456789abcdef", Some("10.9.8.4"), None).unwrap();
        let refusal =
            |address| ask(std::slice::from_ref(&held), "b", Some(address), None).unwrap_err().to_string();
        assert_eq!(
            refusal("10.9.8.4"),
            "address 10.9.8.4 of network `net` is held by container 0123456789ab (0123456789abcdef) of \
             project `demo`"
        );
        assert_eq!(
            refusal("10.9.8.8"),
            "network `net`: address 10.9.8.8 is no host address of its subnet 10.9.8.0/29"
        );
        assert_eq!(refusal("10.9.8.1"), "network `net`: address 10.9.8.1 is its gateway");
    }

    #[test]
    fn a_replacement_shares_the_address_and_nobody_else_gets_it() {
        let mut leases = vec![ask(&[], "old", None, None).unwrap()];
        let new = ask(&leases, "new", None, Some("old")).unwrap();
        assert_eq!(new.address, leases[0].address);
        leases.push(new);
        assert_ne!(ask(&leases, "other", None, None).unwrap().address, leases[0].address);
        assert!(ask(&leases, "other", Some("10.9.8.2"), None).is_err());
        // Asked again, by either, nothing moves.
        for container in ["old", "new"] {
            assert_eq!(ask(&leases, container, None, None).unwrap().address, leases[0].address);
        }
    }

    #[test]
    fn a_subnet_that_cannot_hold_containers_is_refused() {
        let refusal = |text: &str, prefix, gateway: Option<&str>| {
            check_subnet("n", (ip(text), prefix), gateway.map(ip)).unwrap_err().to_string()
        };
        assert_eq!(
            refusal("10.1.2.3", 24, None),
            "network `n`: subnet 10.1.2.3/24 has host bits set; did you mean 10.1.2.0/24?"
        );
        assert!(refusal("10.0.0.0", 30, None).contains("not between 8 and 29"));
        assert!(refusal("0.0.0.0", 0, None).contains("not between 8 and 29"));
        assert!(refusal("127.0.0.0", 8, None).contains("not for hosts"));
        assert!(refusal("10.0.0.0", 24, Some("10.0.0.255")).contains("gateway 10.0.0.255"));
        check_subnet("n", (ip("10.0.0.0"), 24), Some(ip("10.0.0.254"))).unwrap();
    }

    #[test]
    fn addresses_are_taken_from_the_range_and_kept_ones_left() {
        let kept = [ip("10.9.8.5")];
        let ground = Ground { range: Some((ip("10.9.8.4"), 30)), kept: &kept, ..GROUND };
        let ask = |leases: &[Lease], name: &str| {
            let endpoint = Endpoint { network: "net".into(), ..Endpoint::default() };
            assign(&ground, &taken(leases), "demo", name, &endpoint, None)
        };
        let first = ask(&[], "a").unwrap();
        assert_eq!(first.address, ip("10.9.8.4"));
        let second = ask(std::slice::from_ref(&first), "b").unwrap();
        assert_eq!(second.address, ip("10.9.8.6"), "5 is kept, 7 is the broadcast address");
        assert!(ask(&[first, second], "c").is_err());
        assert!(check_parts("net", GROUND.subnet, Some((ip("10.9.9.0"), 30)), &[]).is_err());
        assert!(check_parts("net", GROUND.subnet, None, &[ip("10.9.7.1")]).is_err());
    }

    #[test]
    fn who_has_an_address_has_one_of_ipv6() {
        let six = |text: &str| text.parse::<Ipv6Addr>().unwrap();
        let v6 = Ground6 { subnet: (six("fd00:1::"), 64), gateway: six("fd00:1::1"), kept: &[] };
        let ground = Ground { v6: Some(v6), ..GROUND };
        let ask = |leases: &[Lease], name: &str, asked: Option<&str>| {
            let address6 = asked.map(six);
            let endpoint = Endpoint { network: "net".into(), address6, ..Endpoint::default() };
            assign(&ground, &taken(leases), "demo", name, &endpoint, None)
        };
        let fixed = ask(&[], "a", Some("fd00:1::3")).unwrap();
        assert_eq!((fixed.address, fixed.v6.as_ref().unwrap().address), (ip("10.9.8.2"), six("fd00:1::3")));
        let next = ask(std::slice::from_ref(&fixed), "b", None).unwrap();
        assert_eq!(next.address, ip("10.9.8.3"));
        assert_eq!(next.v6.unwrap().address, six("fd00:1::4"), "3 is taken");
        assert!(ask(std::slice::from_ref(&fixed), "c", Some("fd00:1::3")).is_err());
        assert!(ask(&[], "c", Some("fd00:2::3")).is_err());
        assert!(check_subnet6("net", (six("fd00::5"), 64), None).is_err());
    }
}
