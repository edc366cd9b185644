//! The ports of a container, as `docker compose ps` lists them.

use std::net::{IpAddr, SocketAddr};

use serde_json::{Value, json};

use crate::session::{Container, ContainerState, Protocol};

/// A port of a container, and where on the host it is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Publisher {
    target: u16,
    protocol: Protocol,
    published: Option<SocketAddr>,
}

/// Of a container that runs, on networks of its own: others have no port that anybody could reach. By port.
pub(super) fn of(container: &Container) -> Vec<Publisher> {
    if !matches!(container.state, ContainerState::Running | ContainerState::Paused) {
        return Vec::new();
    }
    let published = container.ports.iter().map(|port| Publisher {
        target: port.target,
        protocol: port.protocol,
        published: Some(SocketAddr::new(port.host_ip, port.host_port)),
    });
    let is_published = |target, protocol| {
        container.ports.iter().any(|port| (port.target, port.protocol) == (target, protocol))
    };
    let exposed = container
        .exposed
        .iter()
        .filter(|(target, protocol)| !container.networks.is_empty() && !is_published(*target, *protocol))
        .map(|&(target, protocol)| Publisher { target, protocol, published: None });
    let mut all: Vec<_> = published.chain(exposed).collect();
    all.sort_by_key(|port| (port.target, port.url(), port.number(), port.protocol));
    all.dedup();
    all
}

impl Publisher {
    fn url(&self) -> String {
        self.published.map(|at| at.ip().to_string()).unwrap_or_default()
    }

    fn number(&self) -> u16 {
        self.published.map_or(0, |at| at.port())
    }
}

/// The value of `Publishers`.
pub(super) fn objects(all: &[Publisher]) -> Value {
    let object = |port: &Publisher| {
        json!({"URL": port.url(), "TargetPort": port.target, "PublishedPort": port.number(),
               "Protocol": port.protocol})
    };
    all.iter().map(object).collect()
}

/// Ports in a row that stand for the same.
struct Row {
    ip: Option<IpAddr>,
    protocol: Protocol,
    first: u16,
    last: u16,
}

/// `80/tcp, 0.0.0.0:8000-8002->8000-8002/tcp, [::]:8080->80/tcp`: neighbours that are published under their
/// own number, or not at all, are told as one. `all` are in the order of [`of`].
pub(super) fn text(all: &[Publisher]) -> String {
    let (mut rows, mut done, mut others): (Vec<Row>, Vec<String>, Vec<String>) = Default::default();
    for &Publisher { target, protocol, published } in all {
        if let Some(at) = published.filter(|at| at.port() != target) {
            others.push(format!("{at}->{target}/{protocol}"));
            continue;
        }
        let ip = published.map(|at| at.ip());
        let fresh = Row { ip, protocol, first: target, last: target };
        match rows.iter_mut().find(|row| (row.ip, row.protocol) == (ip, protocol)) {
            Some(row) if row.last + 1 == target => row.last = target,
            Some(row) => done.push(std::mem::replace(row, fresh).text()),
            None => rows.push(fresh),
        }
    }
    done.extend(rows.iter().map(Row::text));
    done.extend(others);
    done.join(", ")
}

impl Row {
    fn text(&self) -> String {
        let Self { ip, protocol, first, last } = self;
        let ports = if first == last { first.to_string() } else { format!("{first}-{last}") };
        match ip {
            None => format!("{ports}/{protocol}"),
            Some(IpAddr::V4(ip)) => format!("{ip}:{ports}->{ports}/{protocol}"),
            Some(IpAddr::V6(ip)) => format!("[{ip}]:{ports}->{ports}/{protocol}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(target: u16, published: Option<&str>) -> Publisher {
        Publisher { target, protocol: Protocol::Tcp, published: published.map(|at| at.parse().unwrap()) }
    }

    /// As Docker's command writes these (cli/command/formatter/container_test.go).
    #[test]
    fn neighbours_are_told_as_one_and_mappings_last() {
        let all = [
            port(80, Some("0.0.0.0:8080")),
            port(80, Some("[::]:8080")),
            port(5432, None),
            port(5433, None),
            port(9000, Some("0.0.0.0:9000")),
            port(9001, Some("0.0.0.0:9001")),
            port(9003, Some("0.0.0.0:9003")),
        ];
        assert_eq!(
            text(&all),
            "0.0.0.0:9000-9001->9000-9001/tcp, 5432-5433/tcp, 0.0.0.0:9003->9003/tcp, 0.0.0.0:8080->80/tcp, \
             [::]:8080->80/tcp"
        );
        assert_eq!(text(&[]), "");
    }

    #[test]
    fn a_port_that_is_not_published_has_the_number_0() {
        let found = objects(&[port(80, None)]);
        assert_eq!(found, json!([{"URL": "", "TargetPort": 80, "PublishedPort": 0, "Protocol": "tcp"}]));
    }
}
