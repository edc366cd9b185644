//! Everything that would fail later and can be known now: all of it at once, nothing changed.

use super::{Embedded, error, observe, others::Others, perform, resources};
use crate::{
    engine::{CreateContainer, EngineError, ErrorKind, Op},
    model::{Port, label},
    runtime::{self, ContainerRecord, PortConfig, PortConflict},
};

pub(super) fn check(engine: &Embedded, ops: &[Op]) -> Vec<EngineError> {
    let mut problems: Vec<EngineError> = ops.iter().filter_map(resource).collect();
    let creates: Vec<&CreateContainer> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Create(create) => Some(&**create),
            _ => None,
        })
        .collect();
    let others = Others::new(&engine.core);
    for create in &creates {
        problems.extend(container(engine, create, ops, &others));
    }
    match others.list() {
        Ok(records) => {
            problems.extend(creates.iter().filter_map(|create| namesake(create, records)));
            problems.extend(ports(engine, ops, &creates, records));
        }
        Err(error) => problems.push(error),
    }
    problems
}

/// Projects do not see each other's containers, but people call all of them by their names.
fn namesake(create: &CreateContainer, records: &[ContainerRecord]) -> Option<EngineError> {
    let other = |record: &&ContainerRecord| {
        record.config.name == create.name && record.config.group != create.project
    };
    let other = records.iter().find(other).filter(|record| observe::container(record).is_some())?;
    let message =
        format!("the name {} is taken by a container of project {}", create.name, other.config.group);
    let error = EngineError::new(ErrorKind::Conflict, message);
    Some(error.at(format!("services.{}.container_name", create.service)))
}

/// What this engine has not got.
fn resource(op: &Op) -> Option<EngineError> {
    match op {
        Op::CreateNetwork { network, labels, .. } => {
            let key = labels.get(label::NETWORK).map_or(network.name.as_str(), String::as_str);
            resources::network("", network, labels)
                .err()
                .map(|error| under(error, &format!("networks.{key}")))
        }
        Op::CreateVolume { volume, labels, .. } => {
            let key = labels.get(label::VOLUME).map_or(volume.name.as_str(), String::as_str);
            resources::volume(volume, labels).err().map(|error| under(error, &format!("volumes.{key}")))
        }
        _ => None,
    }
}

/// The error names the key below the resource.
fn under(error: EngineError, path: &str) -> EngineError {
    match &error.path {
        Some(key) => {
            let path = format!("{path}.{key}");
            error.at(path)
        }
        None => error.at(path),
    }
}

/// Whether the missing thing is made by the plan itself, before it is needed.
fn comes(error: &runtime::Error, ops: &[Op]) -> bool {
    ops.iter().any(|op| match (error, op) {
        (runtime::Error::NoNetwork(missing), Op::CreateNetwork { network, .. }) => network.name == *missing,
        (runtime::Error::NoVolume(missing), Op::CreateVolume { volume, .. }) => volume.name == *missing,
        _ => false,
    })
}

fn container(
    engine: &Embedded,
    create: &CreateContainer,
    ops: &[Op],
    others: &Others<'_>,
) -> Vec<EngineError> {
    match perform::configuration(engine, create, others) {
        Ok(config) => engine
            .core
            .check(&config)
            .iter()
            .filter(|error| !comes(error, ops))
            .map(|error| {
                error::runtime(error, format!("container {} cannot be made", create.name))
                    .at(format!("services.{}", create.service))
            })
            .collect(),
        // A namespace of a service that this plan makes as well is there when its turn comes.
        Err(error) if lends_later(&error, create, ops) => Vec::new(),
        Err(error) => vec![error],
    }
}

/// Whether the missing container, which is to lend something, may be one that the plan makes.
fn lends_later(error: &EngineError, create: &CreateContainer, ops: &[Op]) -> bool {
    let prefix = format!("services.{}.", create.service);
    let attribute = error.path.as_deref().and_then(|path| path.strip_prefix(&prefix)).unwrap_or_default();
    let lent = ["network_mode", "ipc", "pid", "volumes_from"].iter().any(|name| attribute.starts_with(name));
    let others = |op: &Op| matches!(op, Op::Create(other) if other.name != create.name);
    error.kind == ErrorKind::NotFound && lent && ops.iter().any(others)
}

/// A port that a container of the plan wants, and where it is asked for.
struct Wanted<'a> {
    service: &'a str,
    index: usize,
    config: PortConfig,
}

fn ports(
    engine: &Embedded,
    ops: &[Op],
    creates: &[&CreateContainer],
    records: &[ContainerRecord],
) -> Vec<EngineError> {
    let project = ops.iter().find_map(|op| match op {
        Op::Create(create) => Some(create.project.as_str()),
        Op::Start { project, .. } => Some(project.as_str()),
        _ => None,
    });
    let Some(project) = project else { return Vec::new() };
    let mut wanted: Vec<Wanted<'_>> = creates.iter().flat_map(|create| of_create(create)).collect();
    let labels: Vec<_> = records.iter().map(|record| (record, observe::labels(record))).collect();
    for op in ops {
        let Op::Start { name, .. } = op else { continue };
        if creates.iter().any(|create| create.name == *name) {
            continue;
        }
        let found = labels
            .iter()
            .rev()
            .find(|(record, _)| record.config.group == project && record.config.name == *name);
        if let Some((record, labels)) = found
            && record.pid.is_none()
            && let Some(service) = labels.get(label::SERVICE)
        {
            let ports = record.config.ports.iter().cloned().enumerate();
            wanted.extend(ports.map(|(index, config)| Wanted { service, index, config }));
        }
    }
    let gone: Vec<String> = ops
        .iter()
        .filter_map(|op| match op {
            Op::Stop { id, .. } | Op::Remove { id, .. } => Some(id.0.clone()),
            Op::Create(create) => create.replaces.as_ref().map(|id| id.0.clone()),
            _ => None,
        })
        .collect();
    let mut asked: Vec<PortConfig> = Vec::new();
    let mut problems = twice(&wanted);
    for want in &wanted {
        if !asked.contains(&want.config) {
            asked.push(want.config.clone());
        }
    }
    let conflicts = engine.core.check_ports(project, &asked, &gone);
    problems.extend(conflicts.iter().map(|conflict| in_use(conflict, &wanted)));
    problems
}

fn of_create(create: &CreateContainer) -> impl Iterator<Item = Wanted<'_>> {
    create.spec.ports.iter().enumerate().map(|(index, port)| {
        let Port { target, published, host_ip, protocol } = port;
        let published = published.map(|range| (range.first, range.last));
        let config = PortConfig { target: *target, published, host_ip: *host_ip, protocol: *protocol };
        Wanted { service: &create.service, index, config }
    })
}

/// One fixed host port that two containers of the plan want.
fn twice(wanted: &[Wanted<'_>]) -> Vec<EngineError> {
    let mut problems = Vec::new();
    for (at, want) in wanted.iter().enumerate() {
        let Some((first, last)) = want.config.published else { continue };
        let same = |other: &&Wanted<'_>| {
            first == last
                && other.config.published == Some((first, last))
                && other.config.protocol == want.config.protocol
                && (other.config.host_ip == want.config.host_ip
                    || other.config.host_ip.is_none()
                    || want.config.host_ip.is_none())
        };
        if let Some(other) = wanted[..at].iter().find(same) {
            let whose = if other.service == want.service {
                format!("two containers of service `{}`", want.service)
            } else {
                format!("services `{}` and `{}`", other.service, want.service)
            };
            problems.push(
                EngineError::new(ErrorKind::Conflict, format!("host port {first} is wanted by {whose}"))
                    .at(format!("services.{}.ports[{}]", want.service, want.index))
                    .help("publish a range (`8000-8010:80`) or leave the host port open (`80`)"),
            );
        }
    }
    problems
}

fn in_use(conflict: &PortConflict, wanted: &[Wanted<'_>]) -> EngineError {
    let PortConflict { port, holder, error } = conflict;
    let number = match port.published {
        Some((first, last)) if first == last => format!("host port {first}/{}", port.protocol),
        Some((first, last)) => format!("every host port of {first}-{last}/{}", port.protocol),
        None => format!("a host port for {}/{}", port.target, port.protocol),
    };
    let told = match holder {
        Some(holder) => EngineError::new(ErrorKind::Conflict, format!("{number} is in use by {holder}")),
        None => EngineError::new(ErrorKind::Conflict, format!("{number} cannot be had: {error}")),
    };
    let told = told.help(match holder {
        Some(_) => "stop what holds it, or publish another port",
        None => "publish another port",
    });
    match wanted.iter().find(|want| want.config == *port) {
        Some(want) => told.at(format!("services.{}.ports[{}]", want.service, want.index)),
        None => told,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Protocol;

    fn want<'a>(service: &'a str, published: Option<(u16, u16)>, host_ip: Option<&str>) -> Wanted<'a> {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        Wanted {
            service,
            index: 0,
            config: PortConfig { target: 80, published, host_ip, protocol: Protocol::Tcp },
        }
    }

    #[test]
    fn one_port_for_two_containers_is_told_before_anything_is_made() {
        let problems =
            twice(&[want("a", Some((8080, 8080)), None), want("b", Some((8080, 8080)), Some("127.0.0.1"))]);
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].message, "host port 8080 is wanted by services `a` and `b`");
        assert_eq!(problems[0].path.as_deref(), Some("services.b.ports[0]"));
    }

    #[test]
    fn ranges_open_ports_and_other_addresses_do_not_clash() {
        let wanted = [
            want("a", Some((8000, 8010)), None),
            want("b", Some((8000, 8010)), None),
            want("c", None, None),
            want("d", None, None),
            want("e", Some((80, 80)), Some("127.0.0.1")),
            want("f", Some((80, 80)), Some("127.0.0.2")),
        ];
        assert!(twice(&wanted).is_empty());
    }

    #[test]
    fn the_holder_of_a_port_is_named() {
        let wanted = [want("web", Some((8080, 8080)), None)];
        let conflict = PortConflict {
            port: wanted[0].config.clone(),
            holder: Some("nginx (pid 4711)".into()),
            error: "address in use".into(),
        };
        let told = in_use(&conflict, &wanted);
        assert_eq!(told.message, "host port 8080/tcp is in use by nginx (pid 4711)");
        assert_eq!(told.path.as_deref(), Some("services.web.ports[0]"));
    }
}
