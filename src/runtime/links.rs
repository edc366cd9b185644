//! The variables that Fig and the first Compose set for linked containers: where each is, and what it
//! was given (`DB_PORT_5432_TCP_ADDR`, `DB_ENV_USER`; docs of docker's legacy container links).

use super::{
    ContainerConfig, NetworkNamespace, Result, Roots, network,
    state::{Group, Spec},
};
use crate::model::Protocol;

/// `NAME=value` for each link whose container runs, in the order of the links.
pub fn variables(roots: &Roots, config: &ContainerConfig) -> Result<Vec<String>> {
    let NetworkNamespace::Own(endpoints) = &config.network else { return Ok(Vec::new()) };
    let leases = network::leases(roots)?;
    let mut found = Vec::new();
    let mut told: Vec<&str> = Vec::new();
    for endpoint in endpoints {
        for (name, alias) in &endpoint.links {
            let lease = leases.iter().find(|lease| {
                lease.up && lease.network == endpoint.network && lease.names.iter().any(|known| known == name)
            });
            let Some(lease) = lease.filter(|_| !told.contains(&alias.as_str())) else { continue };
            told.push(alias);
            let linked = Group::new(roots, &lease.group)?.place(&lease.container)?.spec()?;
            found.extend(of_link(alias, &config.name, &lease.address.to_string(), &linked));
        }
    }
    Ok(found)
}

fn of_link(alias: &str, own: &str, address: &str, linked: &Spec) -> Vec<String> {
    let prefix = alias.replace(['-', '.'], "_").to_uppercase();
    let mut ports: Vec<(u16, Protocol)> =
        linked.config.exposed.iter().flat_map(|text| Protocol::of_ports(text)).collect();
    ports.sort_unstable();
    ports.dedup();
    let mut found = vec![format!("{prefix}_NAME=/{own}/{alias}")];
    if let Some((port, protocol)) = ports.first() {
        found.push(format!("{prefix}_PORT={protocol}://{address}:{port}"));
    }
    for (port, protocol) in ports {
        let upper = protocol.to_string().to_uppercase();
        found.extend([
            format!("{prefix}_PORT_{port}_{upper}={protocol}://{address}:{port}"),
            format!("{prefix}_PORT_{port}_{upper}_ADDR={address}"),
            format!("{prefix}_PORT_{port}_{upper}_PORT={port}"),
            format!("{prefix}_PORT_{port}_{upper}_PROTO={protocol}"),
        ]);
    }
    let given = linked.config.env.iter().filter_map(|variable| variable.split_once('='));
    let given = given.filter(|(name, _)| !["HOME", "PATH"].contains(name));
    found.extend(given.map(|(name, value)| format!("{prefix}_ENV_{name}={value}")));
    found
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_link_is_told_as_fig_did() {
        let config = ContainerConfig {
            env: vec!["PATH=/bin".into(), "USER=app".into()],
            exposed: vec!["5432/tcp".into(), "53/udp".into(), "5432".into()],
            ..ContainerConfig::default()
        };
        let linked = Spec { config, created: SystemTime::UNIX_EPOCH, anonymous_volumes: Vec::new() };
        assert_eq!(
            of_link("my-db_1", "shop-web-1", "10.0.0.2", &linked),
            [
                "MY_DB_1_NAME=/shop-web-1/my-db_1",
                "MY_DB_1_PORT=udp://10.0.0.2:53",
                "MY_DB_1_PORT_53_UDP=udp://10.0.0.2:53",
                "MY_DB_1_PORT_53_UDP_ADDR=10.0.0.2",
                "MY_DB_1_PORT_53_UDP_PORT=53",
                "MY_DB_1_PORT_53_UDP_PROTO=udp",
                "MY_DB_1_PORT_5432_TCP=tcp://10.0.0.2:5432",
                "MY_DB_1_PORT_5432_TCP_ADDR=10.0.0.2",
                "MY_DB_1_PORT_5432_TCP_PORT=5432",
                "MY_DB_1_PORT_5432_TCP_PROTO=tcp",
                "MY_DB_1_ENV_USER=app",
            ]
        );
    }
}
