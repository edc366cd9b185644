//! Networks and the containers' places on them: what is stored, what is leased, and the namespace a
//! container starts in. Bridges live in the anchor's namespace and are made when first needed.

mod namespace;

use std::{
    fs::{self, File},
    io::{self, Write},
    net::{Ipv4Addr, Ipv6Addr},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sha2::{Digest, Sha256};

pub use self::namespace::{host_gateway, loopback_only, prepare, reconnect};
use super::{
    Endpoint, Error, Ipv6Config, NetworkConfig, Result, Roots, anchor,
    failpoint::{Point, reached},
    ipam::{self, Ground, Ground6, Subnet, Subnet6},
    leases::{self, Leases, Taken},
    netlink::Netlink,
    nft,
    state::file_error,
};
pub use super::{ipam::Lease, leases::path as leases_path};

/// A network as stored in `<data>/networks/<name>.json`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Network {
    /// As the caller asked for it; what decides whether two are the same.
    asked: NetworkConfig,
    subnet: Subnet,
    gateway: Ipv4Addr,
    #[serde(default)]
    v6: Option<(Subnet6, Ipv6Addr)>,
}

/// Stores the network, with a subnet of the pool when none was asked for. Again with the same
/// configuration does nothing.
///
/// # Errors
/// [`Error::Conflict`] when it exists otherwise or its subnet overlaps with that of another network,
/// [`Error::Invalid`] for a subnet or a name that cannot be, [`Error::Exhausted`].
pub fn create(roots: &Roots, config: &NetworkConfig) -> Result<()> {
    check_name(&config.name)?;
    if let Some(subnet) = config.subnet {
        ipam::check_subnet(&config.name, subnet, config.gateway)?;
        ipam::check_parts(&config.name, subnet, config.range, &config.kept)?;
    }
    let _lock = lock(roots)?;
    let others = match stored(roots)? {
        all if all.iter().any(|network| network.asked == *config) => return Ok(()),
        all => all,
    };
    if let Some(same) = others.iter().find(|network| network.asked.name == config.name) {
        return Err(Error::Conflict(format!(
            "network `{}` exists with another configuration (of project `{}`)",
            config.name, same.asked.group
        )));
    }
    let subnet = match config.subnet {
        Some(subnet) => subnet_asked_for(config, subnet, &others)?,
        None => subnet_of_the_pool(config, &others)?,
    };
    let gateway = config.gateway.unwrap_or_else(|| ipam::first_host(subnet));
    let v6 = config.ipv6.as_ref().map(|v6| subnet6(config, v6, &others)).transpose()?;
    let path = path_of(roots, &config.name);
    let network = Network { asked: config.clone(), subnet, gateway, v6 };
    let text = serde_json::to_vec(&network).map_err(|e| file_error("write", &path, e.into()))?;
    replace(&path, &text, Durable::Yes)
}

/// The subnet asked for, or one of the local ones (RFC 4193) that the name gives.
fn subnet6(config: &NetworkConfig, v6: &Ipv6Config, others: &[Network]) -> Result<(Subnet6, Ipv6Addr)> {
    let subnet = v6.subnet.unwrap_or_else(|| {
        let mut octets = [0; 16];
        octets[..8].copy_from_slice(&digest(&config.name)[..8]);
        octets[0] = 0xfd;
        (octets.into(), 64)
    });
    ipam::check_subnet6(&config.name, subnet, v6.gateway)?;
    let overlaps = |other: &&Network| other.v6.is_some_and(|(taken, _)| ipam::overlap6(taken, subnet));
    match others.iter().find(overlaps) {
        None => Ok((subnet, v6.gateway.unwrap_or_else(|| ipam::first_host6(subnet)))),
        Some(other) => Err(Error::Conflict(format!(
            "subnet {}/{} of network `{}` overlaps with one of network `{}` (of project `{}`)",
            subnet.0, subnet.1, config.name, other.asked.name, other.asked.group
        ))),
    }
}

fn subnet_asked_for(config: &NetworkConfig, subnet: Subnet, others: &[Network]) -> Result<Subnet> {
    match others.iter().find(|other| ipam::overlap(other.subnet, subnet)) {
        None => Ok(subnet),
        Some(other) => Err(Error::Conflict(format!(
            "subnet {}/{} of network `{}` overlaps with {}/{} of network `{}` (of project `{}`)",
            subnet.0,
            subnet.1,
            config.name,
            other.subnet.0,
            other.subnet.1,
            other.asked.name,
            other.asked.group
        ))),
    }
}

fn subnet_of_the_pool(config: &NetworkConfig, others: &[Network]) -> Result<Subnet> {
    let mut taken = Netlink::open()
        .and_then(|mut netlink| netlink.networks())
        .map_err(|source| Error::System { what: "read the routes of the host".to_owned(), source })?;
    taken.retain(|&(_, prefix)| prefix > 1);
    taken.extend(others.iter().map(|network| network.subnet));
    let seed = u64::from_be_bytes(*digest(&config.name).first_chunk().unwrap_or(&[0; 8]));
    let subnet = ipam::free_subnet(&taken, seed).ok_or_else(|| {
        Error::Exhausted(format!(
            "the address ranges for networks (wanted one for `{}`; remove unused networks or give it a `subnet`)",
            config.name
        ))
    })?;
    ipam::check_subnet(&config.name, subnet, config.gateway)?;
    Ok(subnet)
}

/// Forgets the network and takes its bridge away; whether it was there.
///
/// # Errors
/// [`Error::Conflict`] while a container has a lease on it.
pub fn remove(roots: &Roots, name: &str) -> Result<bool> {
    check_name(name)?;
    let _lock = lock(roots)?;
    if let Some(holder) = leases(roots)?.into_iter().find(|lease| lease.network == name) {
        return Err(Error::Conflict(format!(
            "network `{name}` is in use by {} of project `{}`",
            holder.names.last().unwrap_or(&holder.container),
            holder.group
        )));
    }
    let Some(network) = read::<Network>(&path_of(roots, name))? else { return Ok(false) };
    if let Some(anchor) = anchor::existing(roots)? {
        anchor.remove_bridge(&bridge_name(&network.asked))?;
    }
    reached(Point::BridgeRemoved);
    let path = path_of(roots, name);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::File { what: "remove", path, source })
        }
        _ => Ok(true),
    }
}

/// Whether the network has a way out ([`Anchor::open_way_out`](anchor::Anchor::open_way_out) makes it).
pub fn leads_out(roots: &Roots, name: &str) -> Result<bool> {
    check_name(name)?;
    let network = read::<Network>(&path_of(roots, name))?;
    Ok(!network.ok_or_else(|| Error::NoNetwork(name.to_owned()))?.asked.internal)
}

/// All networks by name, each with the subnet and gateway it has.
pub fn list(roots: &Roots) -> Result<Vec<NetworkConfig>> {
    let mut networks: Vec<NetworkConfig> = stored(roots)?
        .into_iter()
        .map(|network| NetworkConfig {
            subnet: Some(network.subnet),
            gateway: Some(network.gateway),
            ipv6: network.asked.ipv6.map(|asked| Ipv6Config {
                subnet: network.v6.map(|(subnet, _)| subnet),
                gateway: network.v6.map(|(_, gateway)| gateway),
                ..asked
            }),
            ..network.asked
        })
        .collect();
    networks.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    Ok(networks)
}

/// Gives the container an address on each of the networks; leases it has elsewhere end. Asked again,
/// it keeps what it has. The container it `replaces` keeps its leases too, until it is released.
///
/// # Errors
/// [`Error::NoNetwork`], and those of an address that cannot be had; then nothing was changed.
pub fn lease(
    roots: &Roots,
    group: &str,
    container: &str,
    endpoints: &[Endpoint],
    replaces: Option<&str>,
) -> Result<Vec<Lease>> {
    assign(roots, group, container, endpoints, replaces, |_| {})
}

/// [`lease`] for a container that is being started: its names are answered from now on.
pub fn occupy(
    roots: &Roots,
    group: &str,
    container: &str,
    endpoints: &[Endpoint],
    replaces: Option<&str>,
) -> Result<Vec<Lease>> {
    assign(roots, group, container, endpoints, replaces, |lease| lease.up = true)
}

fn assign(
    roots: &Roots,
    group: &str,
    container: &str,
    endpoints: &[Endpoint],
    replaces: Option<&str>,
    finish: impl Fn(&mut Lease),
) -> Result<Vec<Lease>> {
    let _lock = lock(roots)?;
    let stored = Leases::read(roots)?;
    let all = stored.taken()?;
    let mut own = Vec::with_capacity(endpoints.len());
    for endpoint in endpoints {
        check_name(&endpoint.network)?;
        let network = read::<Network>(&path_of(roots, &endpoint.network))?
            .ok_or_else(|| Error::NoNetwork(endpoint.network.clone()))?;
        let ground = Ground {
            network: &network.asked.name,
            bridge: &bridge_name(&network.asked),
            subnet: network.subnet,
            gateway: network.gateway,
            range: network.asked.range,
            kept: &network.asked.kept,
            internal: network.asked.internal,
            v6: network.v6.map(|(subnet, gateway)| Ground6 {
                subnet,
                gateway,
                kept: network.asked.ipv6.as_ref().map_or(&[], |asked| &asked.kept),
            }),
            mtu: network.asked.mtu,
        };
        let mut lease = ipam::assign(&ground, &all, group, container, endpoint, replaces)?;
        finish(&mut lease);
        own.push(lease);
    }
    let (had, mut all): (Vec<_>, Vec<_>) = all.into_iter().partition(|lease| lease.container == container);
    let has: Vec<_> = own.iter().map(Taken::of).collect();
    if had != has {
        all.extend(has);
        write_leases(roots, &all)?;
    }
    Ok(own)
}

/// Ends the leases of a container.
pub fn release(roots: &Roots, container: &str) -> Result<()> {
    change(roots, |leases| {
        let before = leases.len();
        leases.retain(|lease| lease.container != container);
        let mut changed = leases.len() != before;
        for lease in leases {
            changed |= lease.replaces.take_if(|replaced| *replaced == container).is_some();
        }
        changed
    })
}

/// Ends the leases of all containers of the group but these: what a killed command left.
pub fn retain(roots: &Roots, group: &str, containers: &[&str]) -> Result<()> {
    change(roots, |leases| {
        let before = leases.len();
        leases.retain(|lease| lease.group != group || containers.contains(&lease.container));
        leases.len() != before
    })
}

/// Removes what writers that were killed left.
pub fn sweep(roots: &Roots) -> Result<()> {
    let directory = roots.data.join("networks");
    let Ok(entries) = fs::read_dir(&directory) else { return Ok(()) };
    let hidden = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    let aside: Vec<PathBuf> = entries.flatten().filter(hidden).map(|entry| entry.path()).collect();
    if aside.is_empty() {
        return Ok(());
    }
    // Who writes holds it.
    let _lock = lock(roots)?;
    for path in aside {
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::File { what: "remove", path, source });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether the container runs: only then its names are answered.
pub fn set_up(roots: &Roots, container: &str, up: bool) -> Result<()> {
    change(roots, |leases| {
        let mut changed = false;
        for lease in leases.iter_mut().filter(|lease| lease.container == container) {
            changed |= std::mem::replace(&mut lease.up, up) != up;
        }
        changed
    })
}

/// All leases there are, of all groups.
pub fn leases(roots: &Roots) -> Result<Vec<Lease>> {
    Leases::read(roots)?.all()
}

/// At most 15 characters; networks of any name and length get different ones.
fn bridge_name(network: &NetworkConfig) -> String {
    let digest = digest(&network.name);
    let kind = if network.internal { nft::INTERNAL } else { nft::BRIDGE };
    digest[..6].iter().fold(kind.to_owned(), |name, byte| format!("{name}{byte:02x}"))
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// A network's name is the name of its file.
fn check_name(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let begins = name.starts_with(|c: char| c.is_ascii_alphanumeric());
    if begins && name.len() <= 200 && name.chars().all(allowed) {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "`{name}` cannot be the name of a network: a letter or digit first, then letters, digits, `_`, `.` \
         or `-`, 200 at most"
    )))
}

fn path_of(roots: &Roots, name: &str) -> PathBuf {
    roots.data.join("networks").join(format!("{name}.json"))
}

fn stored(roots: &Roots) -> Result<Vec<Network>> {
    let directory = roots.data.join("networks");
    let mut networks = Vec::new();
    for name in super::state::entries(&directory)? {
        networks.extend(read::<Network>(&directory.join(name))?);
    }
    Ok(networks)
}

/// `edit` says whether it has changed anything.
fn change(roots: &Roots, edit: impl FnOnce(&mut Vec<Taken<'_>>) -> bool) -> Result<()> {
    if !leases_path(roots).exists() {
        return Ok(());
    }
    let _lock = lock(roots)?;
    let stored = Leases::read(roots)?;
    let mut leases = stored.taken()?;
    if edit(&mut leases) { write_leases(roots, &leases) } else { Ok(()) }
}

fn write_leases(roots: &Roots, all: &[Taken<'_>]) -> Result<()> {
    replace(&leases_path(roots), leases::text(all).as_bytes(), Durable::No)
}

/// Exclusive over networks and leases until dropped.
fn lock(roots: &Roots) -> Result<File> {
    let failed = |source| Error::File { what: "make", path: roots.run.clone(), source };
    fs::create_dir_all(&roots.run).map_err(failed)?;
    super::lock::lock(&roots.run.join("net.lock"), |_| {})
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let failed = |source| Error::File { what: "read", path: path.to_owned(), source };
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|error| failed(error.into())),
    }
}

/// Whether a file must survive the machine going down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Durable {
    Yes,
    No,
}

fn replace(path: &Path, content: &[u8], durable: Durable) -> Result<()> {
    let failed = |source| Error::File { what: "write", path: path.to_owned(), source };
    let directory = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(directory).map_err(failed)?;
    // One writer at a time: what a killed one left is written over.
    let aside = directory.join(format!(".{}", path.file_name().unwrap_or_default().to_string_lossy()));
    let whole = || {
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&aside)?;
        file.write_all(content)?;
        if durable == Durable::Yes {
            file.sync_all()?;
            reached(Point::NetworkAside);
        }
        fs::rename(&aside, path)
    };
    whole().map_err(|error| {
        let _ = fs::remove_file(&aside);
        failed(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixture {
        _directory: tempfile::TempDir,
        roots: Roots,
    }

    fn fixture() -> Fixture {
        let directory = tempfile::tempdir().unwrap();
        let roots = Roots::below(directory.path());
        Fixture { _directory: directory, roots }
    }

    fn network(name: &str, subnet: Option<&str>) -> NetworkConfig {
        NetworkConfig {
            name: name.to_owned(),
            group: "demo".to_owned(),
            subnet: subnet.map(|text| (text.parse().unwrap(), 24)),
            ..NetworkConfig::default()
        }
    }

    fn endpoint(network: &str) -> Endpoint {
        Endpoint { network: network.to_owned(), names: vec!["web".to_owned()], ..Endpoint::default() }
    }

    #[test]
    fn creating_twice_is_once_and_creating_otherwise_is_a_conflict() {
        let Fixture { roots, .. } = &fixture();
        create(roots, &network("a", None)).unwrap();
        let first = list(roots).unwrap();
        create(roots, &network("a", None)).unwrap();
        assert_eq!(list(roots).unwrap(), first);
        assert!(first[0].subnet.is_some() && first[0].gateway.is_some());
        assert!(leads_out(roots, "a").unwrap());
        assert!(matches!(leads_out(roots, "b"), Err(Error::NoNetwork(_))));
        let error = create(roots, &NetworkConfig { internal: true, ..network("a", None) }).unwrap_err();
        assert_eq!(error.to_string(), "network `a` exists with another configuration (of project `demo`)");
    }

    #[test]
    fn what_a_writer_has_not_finished_is_no_network() {
        let Fixture { roots, .. } = &fixture();
        create(roots, &network("a", None)).unwrap();
        fs::write(roots.data.join("networks/.b.json"), "").unwrap();
        create(roots, &network("c", None)).unwrap();
        assert_eq!(list(roots).unwrap().len(), 2);
    }

    #[test]
    fn an_overlapping_subnet_names_its_owner() {
        let Fixture { roots, .. } = &fixture();
        create(roots, &network("a", Some("10.50.0.0"))).unwrap();
        let error = create(roots, &network("b", Some("10.50.0.0"))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "subnet 10.50.0.0/24 of network `b` overlaps with 10.50.0.0/24 of network `a` (of project `demo`)"
        );
        assert!(matches!(error, Error::Conflict(_)));
        assert_eq!(list(roots).unwrap().len(), 1);
    }

    #[test]
    fn a_network_stays_while_it_is_leased() {
        let Fixture { roots, .. } = &fixture();
        create(roots, &network("a", None)).unwrap();
        let given = lease(roots, "demo", "c1", &[endpoint("a")], None).unwrap();
        assert_eq!(lease(roots, "demo", "c1", &[endpoint("a")], None).unwrap(), given);
        let error = remove(roots, "a").unwrap_err();
        assert_eq!(error.to_string(), "network `a` is in use by web of project `demo`");
        release(roots, "c1").unwrap();
        remove(roots, "a").unwrap();
        remove(roots, "a").unwrap();
        assert_eq!(list(roots).unwrap(), []);
    }

    #[test]
    fn a_failed_lease_changes_nothing() {
        let Fixture { roots, .. } = &fixture();
        create(roots, &network("a", None)).unwrap();
        let error = lease(roots, "demo", "c1", &[endpoint("a"), endpoint("b")], None).unwrap_err();
        assert_eq!(error.to_string(), "no network `b`");
        assert_eq!(leases(roots).unwrap(), []);
    }

    #[test]
    fn leases_of_another_boot_are_void() {
        let Fixture { roots, .. } = &fixture();
        create(roots, &network("a", None)).unwrap();
        lease(roots, "demo", "c1", &[endpoint("a")], None).unwrap();
        set_up(roots, "c1", true).unwrap();
        assert!(leases(roots).unwrap()[0].up);
        let text = fs::read_to_string(leases_path(roots)).unwrap();
        let (_, lines) = text.split_once('\n').unwrap();
        fs::write(leases_path(roots), format!("before\n{lines}")).unwrap();
        assert_eq!(leases(roots).unwrap(), []);
        remove(roots, "a").unwrap();
    }

    #[test]
    fn what_a_killed_command_left_is_released() {
        let Fixture { roots, .. } = &fixture();
        create(roots, &network("a", None)).unwrap();
        for (group, container) in [("demo", "c1"), ("demo", "c2"), ("other", "c3")] {
            lease(roots, group, container, &[endpoint("a")], None).unwrap();
        }
        retain(roots, "demo", &["c2"]).unwrap();
        let left: Vec<String> = leases(roots).unwrap().into_iter().map(|lease| lease.container).collect();
        assert_eq!(left, ["c2", "c3"]);
    }

    #[test]
    fn a_name_that_is_no_file_name_is_refused() {
        let Fixture { roots, .. } = &fixture();
        for name in ["", "../a", "a/b", ".", ".hidden", "a b", &"x".repeat(201)] {
            assert!(matches!(create(roots, &network(name, None)), Err(Error::Invalid(_))), "{name}");
        }
    }
}
