//! What differs between the container that is there and the one the file asks for, field by field.

use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::{
    engine::Container,
    model::{ContainerSpec, MountSource, NetworkMode, Port, Project, Service},
};

use super::FieldChange;

/// The differences; none when the container is as the service says. An engine that remembers the
/// specification is asked for it, so that another version of the config hash means nothing.
pub(super) fn changes(project: &Project, service: &Service, container: &Container) -> Vec<FieldChange> {
    let base = format!("services.{}", service.name);
    let pairs = match &container.spec {
        Some(old) if *old == service.container => Vec::new(),
        Some(old) => differing(&fields(project, old), &fields(project, &service.container)),
        None => hashes(&container.config_hash, &service.container.digest()),
    };
    pairs
        .into_iter()
        .map(|(field, from, to)| {
            let path = if field.is_empty() { base.clone() } else { format!("{base}.{field}") };
            let place = project.places.nearest(&path).cloned();
            FieldChange { path, from, to, place }
        })
        .collect()
}

type Difference = (String, Option<String>, Option<String>);

fn hashes(old: &str, new: &str) -> Vec<Difference> {
    let short = |hash: &str| Some(format!("config hash {}", hash.get(..12).unwrap_or(hash)));
    if old == new { Vec::new() } else { vec![(String::new(), short(old), short(new))] }
}

fn differing(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<Difference> {
    let keys: Vec<&String> = new.keys().chain(old.keys().filter(|key| !new.contains_key(*key))).collect();
    let mut found = Vec::new();
    for key in keys {
        let (from, to) = (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null));
        compare(key, from, to, &mut found);
    }
    found
}

fn compare(path: &str, from: &Value, to: &Value, found: &mut Vec<Difference>) {
    match (from, to) {
        _ if from == to => {}
        (Value::Object(old), Value::Object(new)) => {
            let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let path =
                    if key.starts_with('[') { format!("{path}{key}") } else { format!("{path}.{key}") };
                match (old.get(key), new.get(key)) {
                    (Some(from), Some(to)) => compare(&path, from, to, found),
                    (from, to) => found.push((path, from.and_then(present), to.and_then(present))),
                }
            }
        }
        _ => found.push((path.to_owned(), text(from), text(to))),
    }
}

/// Of a key that stands in the mapping: even an empty value is something.
fn present(value: &Value) -> Option<String> {
    Some(text(value).unwrap_or_else(|| "(no value)".to_owned()))
}

/// Short text; `None` for what is absent.
fn text(value: &Value) -> Option<String> {
    match value {
        Value::Null => None,
        Value::String(text) if text.is_empty() => Some("\"\"".to_owned()),
        Value::String(text) => Some(text.clone()),
        Value::Array(items) if items.is_empty() => Some("[]".to_owned()),
        other => Some(other.to_string()),
    }
}

/// The specification under the names that the file uses.
fn fields(project: &Project, spec: &ContainerSpec) -> Map<String, Value> {
    let Ok(Value::Object(raw)) = serde_json::to_value(spec) else { return Map::new() };
    let mut named = Map::new();
    for (field, value) in raw {
        match field.as_str() {
            "network" => {
                let (key, value) = network(project, spec);
                named.insert(key.to_owned(), value);
            }
            "ports" => drop(named.insert(field, list(spec.ports.iter().map(port)))),
            "mounts" => drop(named.insert("volumes".to_owned(), mounts(project, spec))),
            "extra_hosts" => {
                let hosts = spec.extra_hosts.iter().map(|(host, ip)| format!("{host}={ip}"));
                named.insert(field, list(hosts));
            }
            "limits" => limits(value, &mut named),
            _ => drop(named.insert(field, value)),
        }
    }
    named
}

fn list(items: impl Iterator<Item = String>) -> Value {
    Value::Array(items.map(Value::String).collect())
}

fn network(project: &Project, spec: &ContainerSpec) -> (&'static str, Value) {
    let mode = |text: String| ("network_mode", Value::String(text));
    match &spec.network {
        NetworkMode::None => mode("none".to_owned()),
        NetworkMode::Host => mode("host".to_owned()),
        NetworkMode::Service(service) => mode(format!("service:{service}")),
        NetworkMode::Container(container) => mode(format!("container:{container}")),
        NetworkMode::Networks(networks) => {
            let key_of = |name: &String| {
                let declared = project.networks.iter().find(|(_, network)| network.name == *name);
                declared.map_or(name, |(key, _)| key).clone()
            };
            let value = |attachment| serde_json::to_value(attachment).unwrap_or_default();
            let joined =
                networks.iter().map(|(name, attachment)| (key_of(name), value(attachment))).collect();
            ("networks", Value::Object(joined))
        }
    }
}

/// `127.0.0.1:8080:80/tcp`, as in the file.
fn port(port: &Port) -> String {
    let host = port.host_ip.map(|ip| format!("{ip}:")).unwrap_or_default();
    let published = match port.published {
        None => String::new(),
        Some(range) if range.first == range.last => format!("{}:", range.first),
        Some(range) => format!("{}-{}:", range.first, range.last),
    };
    format!("{host}{published}{}/{}", port.target, port.protocol)
}

/// By target, so that one mount more does not look like a change of all.
fn mounts(project: &Project, spec: &ContainerSpec) -> Value {
    let mut by_target = Map::new();
    for mount in &spec.mounts {
        let source = match &mount.source {
            MountSource::Volume { name, .. } => {
                let declared = project.volumes.iter().find(|(_, volume)| volume.name == *name);
                format!("volume {}", declared.map_or(name, |(key, _)| key))
            }
            MountSource::Anonymous { .. } => "anonymous volume".to_owned(),
            MountSource::Bind { path, .. } => format!("bind {}", path.display()),
            MountSource::Tmpfs(_) => "tmpfs".to_owned(),
        };
        let options = match &mount.source {
            MountSource::Volume { options, .. } | MountSource::Anonymous { options } => {
                serde_json::to_value(options)
            }
            MountSource::Bind { create, propagation, .. } => serde_json::to_value((create, propagation)),
            MountSource::Tmpfs(options) => serde_json::to_value(options),
        };
        let access = if mount.read_only { "read only" } else { "read and write" };
        let fields = [
            ("source", Value::String(source)),
            ("access", access.into()),
            ("options", options.unwrap_or_default()),
        ];
        let fields = fields.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        by_target.insert(format!("[{}]", mount.target), Value::Object(fields));
    }
    Value::Object(by_target)
}

fn limits(value: Value, named: &mut Map<String, Value>) {
    let Value::Object(limits) = value else { return };
    for (limit, value) in limits {
        let name = match limit.as_str() {
            "memory" => "mem_limit",
            "memory_swap" => "memswap_limit",
            "memory_reservation" => "mem_reservation",
            "nano_cpus" => "cpus",
            "pids" => "pids_limit",
            other => other,
        };
        named.insert(name.to_owned(), value);
    }
}
