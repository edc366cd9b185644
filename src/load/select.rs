//! Which services and resources of a model are meant: profiles, named services, unused resources.

use std::collections::BTreeSet;

use super::tree::{Map, Node, Value};

/// Profiles named by any service, sorted.
#[must_use]
pub fn profiles(model: &Node) -> Vec<String> {
    let services = model.get("services").and_then(Node::as_map).into_iter().flat_map(Map::values);
    let names: BTreeSet<String> = services
        .flat_map(|service| service.get("profiles").map(Node::items).unwrap_or_default())
        .filter_map(|name| name.as_str().map(ToOwned::to_owned))
        .collect();
    names.into_iter().collect()
}

/// Takes the services whose profiles are off out of the model and returns them. A service that is named
/// is on whatever its profiles say, and so are those it needs.
pub fn take_disabled(model: &mut Node, active: &[String], named: &[String]) -> Map {
    let Some(services) = model.get_mut("services").and_then(Node::as_map_mut) else { return Map::default() };
    let all = active.iter().any(|name| name == "*");
    let on = |service: &Node| {
        let profiles = service.get("profiles").map(Node::items).unwrap_or_default();
        all || profiles.is_empty()
            || profiles.iter().any(|name| active.iter().any(|active| Some(active.as_str()) == name.as_str()))
    };
    let mut disabled = Map::default();
    let (keep, off): (Map, Map) = std::mem::take(services)
        .into_iter()
        .partition(|(key, service)| on(service) || named.contains(&key.text));
    *services = keep;
    disabled.extend(off);
    disabled
}

/// Keeps the named services and, as far as it goes, what they need.
pub fn keep_needed(model: &mut Node, named: &[String]) {
    let Some(services) = model.get_mut("services").and_then(Node::as_map_mut) else { return };
    let mut kept: BTreeSet<String> = BTreeSet::new();
    let mut next: Vec<String> = named.to_vec();
    while let Some(name) = next.pop() {
        let Some(service) = services.get(name.as_str()) else { continue };
        if kept.insert(name) {
            let needs = service.get("depends_on").and_then(Node::as_map);
            next.extend(needs.into_iter().flat_map(Map::keys).map(|key| key.text.clone()));
        }
    }
    services.retain(|key, _| kept.contains(&key.text));
}

/// Drops networks, volumes, configs and secrets that no service uses.
pub fn drop_unused(model: &mut Node) {
    let mut used: [(&str, BTreeSet<String>); 5] =
        ["networks", "volumes", "configs", "secrets", "models"].map(|kind| (kind, BTreeSet::new()));
    let services = model.get("services").and_then(Node::as_map).into_iter().flat_map(Map::values);
    for service in services {
        for (kind, names) in &mut used {
            names.extend(references(service, kind));
        }
    }
    for (kind, names) in used {
        let Some(map) = model.as_map_mut() else { return };
        let Some(resources) = map.get_mut(kind) else { continue };
        if let Value::Map(resources) = &mut resources.value {
            resources.retain(|key, _| names.contains(&key.text));
            if resources.is_empty() {
                map.shift_remove(kind);
            }
        }
    }
}

/// Names of a kind of resource that a service refers to.
#[must_use]
pub fn references(service: &Node, kind: &str) -> Vec<String> {
    let list = |node: Option<&Node>| node.map(|node| node.items().to_vec()).unwrap_or_default();
    let sources = |items: Vec<Node>| -> Vec<String> {
        items.iter().filter_map(|item| item.get_str("source").map(ToOwned::to_owned)).collect()
    };
    match kind {
        "networks" | "models" => {
            let map = service.get(kind).and_then(Node::as_map);
            map.into_iter().flat_map(Map::keys).map(|key| key.text.clone()).collect()
        }
        "volumes" => sources(
            list(service.get("volumes"))
                .into_iter()
                .filter(|item| item.get_str("type") == Some("volume"))
                .collect(),
        ),
        "secrets" => {
            let of_build = list(service.get("build").and_then(|build| build.get("secrets")));
            sources([list(service.get("secrets")), of_build].concat())
        }
        "configs" => sources(list(service.get("configs"))),
        _ => Vec::new(),
    }
}
