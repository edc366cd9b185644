//! The older formats: files of Fig and the first Compose, whose top level is the services, and the group
//! proposal (`name:` and `containers:`). Each becomes a document of today's form, places and all.

use super::{
    attributes::{self, PROJECT, SERVICE},
    diagnostic::{Diagnostic, Files, Told},
    tree::{Key, Map, Node, Value},
};

/// Names of Compose files of these formats.
pub const NAMES: [&str; 4] = ["fig.yml", "fig.yaml", "group.yml", "group.yaml"];

/// Service keys that only the first format has.
const FORMER_KEYS: [&str; 5] = ["dockerfile", "log_driver", "log_opt", "net", "volume_driver"];

/// Brings a document to today's form; tells what it did. Leaves today's documents alone.
pub fn modernise(document: &mut Node, files: &Files, told: &mut Told) {
    let span = document.span;
    let Some(map) = document.as_map_mut() else { return };
    if let Some((at, key, _)) = map.get_full("containers").filter(|_| !map.contains_key("services")) {
        let mark = files.mark(key.span, "");
        told.push(Diagnostic::warning("read as a group file: its containers are services").mark(mark));
        let key = Key { text: "services".to_owned(), ..key.clone() };
        if let Some((_, containers)) = map.shift_remove_index(at) {
            map.insert(key, containers);
        }
    } else if is_first_format(map) {
        let mark = map.keys().next().and_then(|key| files.mark(key.span, ""));
        told.push(
            Diagnostic::warning("read as a file of the first format: its top level is the services")
                .mark(mark)
                .help("put the services below a top-level `services:`"),
        );
        let services = std::mem::take(map);
        map.insert(Key::new("services", span), Node::new(Value::Map(services), span));
    } else {
        return;
    }
    let Some(services) = document.get_mut("services").and_then(Node::as_map_mut) else { return };
    let names: Vec<String> = services.keys().map(|key| key.text.clone()).collect();
    services.values_mut().for_each(|service| modernise_service(service, &names));
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
        if let Some(name) = node.as_str().and_then(|net| net.strip_prefix("container:"))
            && names.iter().any(|known| known == name)
        {
            node.value = Value::Text(format!("service:{name}"));
        }
        map.entry(Key { text: "network_mode".to_owned(), ..key }).or_insert(node);
    }
    move_below(map, "dockerfile", "build", "dockerfile", "context");
    move_below(map, "log_driver", "logging", "driver", "driver");
    move_below(map, "log_opt", "logging", "options", "driver");
    // The driver of volumes is a matter of the volume today; the name alone is kept.
    map.shift_remove("volume_driver");
}

/// Moves the value of a former key below a mapping; a text that stands there becomes its `short` key.
fn move_below(map: &mut Map, former: &str, home: &str, name: &str, short: &str) {
    let Some((_, key, node)) = map.shift_remove_full(former) else { return };
    let place =
        map.entry(Key { text: home.to_owned(), ..key.clone() }).or_insert_with(|| Node::map(key.span));
    if let Value::Text(text) = &place.value {
        let text = Value::Text(text.clone());
        place.value = Value::Map(Map::new());
        place.set(short, text);
    }
    if let Some(inner) = place.as_map_mut() {
        inner.entry(Key { text: name.to_owned(), ..key }).or_insert(node);
    }
}
