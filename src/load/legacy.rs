//! The older formats: files of Fig and the first Compose, whose top level is the services, and the group
//! proposal (`name:` and `containers:`). Each becomes a document of today's form, places and all.

use super::{
    attributes::{self, PROJECT, SERVICE},
    diagnostic::{Diagnostic, Files, Told},
    mounts,
    tree::{Key, Map, Node, Span, Value},
};
use crate::model::{Project, container_name};

/// Names of Compose files of these formats.
pub const NAMES: [&str; 4] = ["fig.yml", "fig.yaml", "group.yml", "group.yaml"];

/// Service keys that only the first format has.
const FORMER_KEYS: [&str; 5] = ["dockerfile", "log_driver", "log_opt", "net", "volume_driver"];

/// What kind of file a document is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Today,
    /// Its top level is the services.
    First,
    /// Its services are `containers`.
    Group,
}

#[must_use]
pub fn format(map: &Map) -> Format {
    if map.contains_key("containers") && !map.contains_key("services") {
        Format::Group
    } else if is_first_format(map) {
        Format::First
    } else {
        Format::Today
    }
}

/// Brings a document to today's form; tells what it did. Leaves today's documents alone, and says
/// whether it was another.
pub fn modernise(document: &mut Node, files: &Files, told: &mut Told) -> bool {
    let span = document.span;
    let Some(map) = document.as_map_mut() else { return false };
    match format(map) {
        Format::Today => return false,
        Format::Group => {
            let Some((at, key, _)) = map.get_full("containers") else { return false };
            let mark = files.mark(key.span, "");
            told.push(
                Diagnostic::warning("read as a group file: its containers are services")
                    .mark(mark)
                    .help("`ficelle migrate FILE` prints it in today's form"),
            );
            let key = Key { text: "services".to_owned(), ..key.clone() };
            if let Some((_, containers)) = map.shift_remove_index(at) {
                map.insert(key, containers);
            }
        }
        Format::First => {
            let mark = map.keys().next().and_then(|key| files.mark(key.span, ""));
            told.push(
                Diagnostic::warning("read as a file of the first format: its top level is the services")
                    .mark(mark)
                    .help("`ficelle migrate FILE` prints it in today's form, with a top-level `services:`"),
            );
            let services = std::mem::take(map);
            map.insert(Key::new("services", span), Node::new(Value::Map(services), span));
        }
    }
    let Some(services) = document.get_mut("services").and_then(Node::as_map_mut) else { return true };
    let names: Vec<String> = services.keys().map(|key| key.text.clone()).collect();
    let volumes = named_volumes(services);
    services.values_mut().for_each(|service| modernise_service(service, &names));
    declare(document, volumes);
    true
}

/// Gives services the names that links had in the older formats (the alias, `db_1`, `shop_db_1`), and
/// the variables.
pub fn link(project: &mut Project, model: &Node) {
    let names: Vec<String> = project.services.keys().cloned().collect();
    for name in names {
        let written = model.get("services").and_then(|services| services.get(&name));
        let links = written.and_then(|service| service.get("links")).map(Node::items).unwrap_or_default();
        let mut pairs = Vec::new();
        for text in links.iter().filter_map(Node::as_str) {
            let (target, alias) = text.split_once(':').unwrap_or((text, text));
            pairs.push((target.to_owned(), alias.to_owned()));
            let Some(service) = project.services.get(target) else { continue };
            for number in 1..=service.scale {
                let container = match &service.container.container_name {
                    Some(name) => name.clone(),
                    None => container_name(&project.name, target, number),
                };
                pairs.push((container.clone(), format!("{target}_{number}")));
                pairs.push((container, format!("{}_{target}_{number}", project.name)));
            }
        }
        if let Some(service) = project.services.get_mut(&name).filter(|_| !pairs.is_empty()) {
            service.container.links.retain(|known| !pairs.contains(known));
            pairs.append(&mut service.container.links);
            service.container.links = pairs;
            service.container.link_variables = true;
        }
    }
}

/// A volume that a service made by naming it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedVolume {
    pub name: String,
    pub driver: Option<String>,
    pub span: Span,
}

/// Volumes that services name, each once; the `volume_driver` of the first is theirs.
#[must_use]
pub fn named_volumes(services: &Map) -> Vec<NamedVolume> {
    let mut found: Vec<NamedVolume> = Vec::new();
    for service in services.values() {
        for item in service.get("volumes").map(Node::items).unwrap_or_default() {
            let Some(mount) = item.as_str().and_then(|text| mounts::parse(text).ok()) else { continue };
            if let Some(name) = mount.source.clone().filter(|_| !mount.is_bind())
                && !name.contains('$')
                && !found.iter().any(|known| known.name == name)
            {
                let driver = service.get_str("volume_driver").map(ToOwned::to_owned);
                found.push(NamedVolume { name, driver, span: item.span });
            }
        }
    }
    found
}

/// The older formats declared no volume: its name was that of the engine.
fn declare(document: &mut Node, volumes: Vec<NamedVolume>) {
    if volumes.is_empty() {
        return;
    }
    if document.get("volumes").and_then(Node::as_map).is_none() {
        document.set("volumes", Value::Map(Map::default()));
    }
    let Some(declared) = document.get_mut("volumes").and_then(Node::as_map_mut) else { return };
    for volume in volumes {
        declared.entry(Key::new(&volume.name, volume.span)).or_insert_with(|| {
            let mut node = Node::map(volume.span);
            node.set("name", Value::Text(volume.name));
            if let Some(driver) = volume.driver {
                node.set("driver", Value::Text(driver));
            }
            node
        });
    }
}

/// The service whose network `net: container:NAME` shares.
#[must_use]
pub fn shared_service<'a>(net: &'a Node, names: &[String]) -> Option<&'a str> {
    let name = net.as_str()?.strip_prefix("container:")?;
    names.iter().any(|known| known == name).then_some(name)
}

/// `NAME[:ro]` of a container that is no service, as it is written today.
#[must_use]
pub fn foreign_container(from: &Node, names: &[String]) -> Option<String> {
    let text = from.as_str()?;
    let name = text.split(':').next()?;
    let foreign = name != "container" && !name.contains('$') && !names.iter().any(|known| known == name);
    foreign.then(|| format!("container:{text}"))
}

/// Every top-level value is a service: a mapping with at least one key that services have.
fn is_first_format(map: &Map) -> bool {
    let is_service = |node: &Node| {
        node.as_map().is_some_and(|service| {
            service.keys().any(|key| {
                attributes::find(SERVICE, &key.text).is_some() || FORMER_KEYS.contains(&key.text.as_str())
            })
        })
    };
    let has_origin = |node: &Node| ["image", "build", "extends"].iter().any(|key| node.get(key).is_some());
    !map.is_empty()
        && !map.contains_key("services")
        && map.iter().all(|(key, node)| {
            is_service(node) && (attributes::find(PROJECT, &key.text).is_none() || has_origin(node))
        })
}

fn modernise_service(service: &mut Node, names: &[String]) {
    let Some(map) = service.as_map_mut() else { return };
    if let Some((_, key, mut node)) = map.shift_remove_full("net") {
        if let Some(service) = shared_service(&node, names).map(|name| format!("service:{name}")) {
            node.value = Value::Text(service);
        }
        map.entry(Key { text: "network_mode".to_owned(), ..key }).or_insert(node);
    }
    if let Some(Value::List(items)) = map.get_mut("volumes_from").map(|node| &mut node.value) {
        for item in items {
            if let Some(text) = foreign_container(item, names) {
                item.value = Value::Text(text);
            }
        }
    }
    move_below(map, "dockerfile", "build", "dockerfile", "context");
    move_below(map, "log_driver", "logging", "driver", "driver");
    move_below(map, "log_opt", "logging", "options", "driver");
    // Today it is the driver of each volume, which has it by now.
    map.shift_remove("volume_driver");
}

/// Moves the value of a former key below a mapping; a text that stands there becomes its `short` key.
fn move_below(map: &mut Map, former: &str, home: &str, name: &str, short: &str) {
    let Some((_, key, node)) = map.shift_remove_full(former) else { return };
    let place =
        map.entry(Key { text: home.to_owned(), ..key.clone() }).or_insert_with(|| Node::map(key.span));
    if let Value::Text(text) = &place.value {
        let text = Value::Text(text.clone());
        place.value = Value::Map(Map::default());
        place.set(short, text);
    }
    if let Some(inner) = place.as_map_mut() {
        inner.entry(Key { text: name.to_owned(), ..key }).or_insert(node);
    }
}
