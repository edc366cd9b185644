//! Prints the canonical form of a project as `docker compose config` does, letter by letter.

use std::cmp::Ordering;

use serde_json::{Map as Object, Number, Value as Json};
use sha2::{Digest, Sha256};

use super::{
    attributes::{self, Form, NETWORK, PROJECT, Support, Table},
    options::Loaded,
    tree::{Map, Node, Value},
    yaml,
};

/// Which of the two formats a value is prepared for; they leave out different things.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Yaml,
    Json,
}

/// The canonical form as YAML, ended by a line break.
#[must_use]
pub fn yaml(loaded: &Loaded) -> String {
    yaml::print(&value(loaded, Format::Yaml))
}

/// The canonical form as indented JSON, ended by a line break.
#[must_use]
pub fn json(loaded: &Loaded) -> String {
    let text = serde_json::to_string_pretty(&value(loaded, Format::Json)).unwrap_or_default();
    text + "\n"
}

/// The canonical form of one service as JSON on one line.
#[must_use]
pub(super) fn service_json(service: &Node) -> String {
    table_value(service, attributes::SERVICE, Format::Json).to_string()
}

/// The config hash of docker compose, 64 hex digits: SHA-256 over the canonical JSON of the service, in
/// Go's spelling and without what changes no container.
#[must_use]
pub(super) fn service_hash(service: &Node) -> String {
    let mut json = table_value(service, attributes::SERVICE, Format::Json);
    if let Some(object) = json.as_object_mut() {
        for key in ["build", "pull_policy", "scale", "depends_on", "profiles"] {
            object.shift_remove(key);
        }
        if let Some(deploy) = object.get_mut("deploy").and_then(Json::as_object_mut) {
            deploy.shift_remove("replicas");
        }
    }
    let text = json.to_string();
    let mut digest = Sha256::new();
    for part in text.split_inclusive(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        let mut chars = part.chars();
        match chars.next_back() {
            Some(last @ ('<' | '>' | '&' | '\u{2028}' | '\u{2029}')) => {
                digest.update(chars.as_str());
                digest.update(format!("\\u{:04x}", u32::from(last)));
            }
            _ => digest.update(part),
        }
    }
    digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn value(loaded: &Loaded, format: Format) -> Json {
    let mut json = if loaded.as_written {
        extension(&loaded.canonical, format)
    } else {
        table_value(&loaded.canonical, PROJECT, format)
    };
    if !loaded.as_written {
        double_dollars(&mut json);
    }
    json
}

/// Every `$` of keys and values is doubled, so that reading the output gives the same model again.
fn double_dollars(json: &mut Json) {
    match json {
        Json::String(text) if text.contains('$') => *text = text.replace('$', "$$"),
        Json::Array(items) => items.iter_mut().for_each(double_dollars),
        Json::Object(object) => {
            object.values_mut().for_each(double_dollars);
            if object.keys().any(|key| key.contains('$')) {
                let old = std::mem::take(object);
                object.extend(old.into_iter().map(|(key, value)| (key.replace('$', "$$"), value)));
            }
        }
        _ => {}
    }
}

fn table_value(node: &Node, table: Table, format: Format) -> Json {
    let Some(map) = node.as_map() else { return plain(node, format) };
    let mut object = Object::new();
    for row in table.iter().filter(|row| !row.hidden) {
        let json = map.get(row.name).map_or(Json::Null, |value| form_value(value, row.form, format));
        if row.kept && !json.is_null() || !is_zero(&json) {
            object.insert(row.name.to_owned(), json);
        } else if let Some(unset) = unset(table, row.name).filter(|_| format == Format::Json) {
            object.insert(row.name.to_owned(), unset);
        }
    }
    if std::ptr::eq(table, PROJECT) && !object.contains_key("services") {
        let at = usize::from(object.contains_key("name"));
        object.shift_insert(at, "services".to_owned(), Json::Object(Object::new()));
    }
    if format == Format::Json {
        respell(&mut object, table);
    }
    // JSON shows the keys of the user's own at the top alone.
    if format == Format::Yaml || std::ptr::eq(table, PROJECT) {
        for (key, value) in sorted(map, format).filter(|(key, _)| key.starts_with("x-")) {
            object.insert(key.to_owned(), extension(value, format));
        }
    }
    Json::Object(object)
}

/// What JSON shows for a key that is not set, where it shows one.
fn unset(table: Table, key: &str) -> Option<Json> {
    let empty = || Json::Object(Object::new());
    let is = |other: Table| std::ptr::eq(table, other);
    match key {
        "command" | "entrypoint" if is(attributes::SERVICE) => Some(Json::Null),
        "command" if is(attributes::HOOK) => Some(Json::Null),
        "resources" | "placement" if is(attributes::DEPLOY) => Some(empty()),
        "exec" if is(attributes::WATCH) => Some(serde_json::json!({ "command": null })),
        "ipam" if is(NETWORK) => Some(empty()),
        _ => None,
    }
}

/// What JSON spells otherwise than the file.
fn respell(object: &mut Object<String, Json>, table: Table) {
    let is = |other: Table| std::ptr::eq(table, other);
    if is(PROJECT) {
        object.remove("models");
    }
    if is(attributes::THROTTLE) || is(attributes::WEIGHT_DEVICE) {
        let old = std::mem::take(object);
        let upper = |key: String| key[..1].to_ascii_uppercase() + &key[1..];
        object.extend(old.into_iter().map(|(key, value)| (upper(key), value)));
    }
}

fn form_value(node: &Node, form: Form, format: Format) -> Json {
    match (&node.value, form) {
        (Value::Null, _) => Json::Null,
        (Value::List(items), Form::List(item)) => {
            items.iter().map(|node| form_value(node, *item, format)).collect()
        }
        (Value::List(items), Form::Ports) => {
            items.iter().map(|node| table_value(node, attributes::PORT, format)).collect()
        }
        (Value::List(items), Form::Gpus) => {
            items.iter().map(|node| table_value(node, attributes::DEVICE_REQUEST, format)).collect()
        }
        (Value::List(items), Form::Hosts) => {
            let mut hosts: Vec<_> = items.iter().filter_map(Node::as_str).collect();
            hosts.sort_unstable();
            hosts.into_iter().map(Json::from).collect()
        }
        (Value::Map(map), Form::Ssh) => sorted(map, format)
            .map(|(key, value)| match value.as_str() {
                Some(path) if !path.is_empty() && format == Format::Yaml => {
                    Json::from(format!("{key}: {path}"))
                }
                Some(path) if !path.is_empty() => Json::from(format!("{key}={path}")),
                _ => Json::from(key),
            })
            .collect(),
        (Value::Text(size), Form::Bytes | Form::WholeBytes | Form::BytesText) if size == "0" => Json::Null,
        (Value::Map(map), Form::Keyed(item) | Form::Names(item, _)) => sorted(map, format)
            .map(|(key, value)| (key.to_owned(), form_value(value, *item, format)))
            .collect(),
        (Value::Map(map), Form::Pairs(_) | Form::Options(_)) => {
            sorted(map, format).map(|(key, value)| (key.to_owned(), plain(value, format))).collect()
        }
        (
            Value::Map(_),
            Form::Object(table) | Form::ObjectOrNull(table) | Form::Closed(table) | Form::Short(_, table),
        ) => table_value(node, table, format),
        #[expect(clippy::cast_possible_truncation, reason = "the reference keeps these as 32-bit floats")]
        (Value::Float(value), Form::Number) => {
            let shortest = (*value as f32).to_string().parse::<f64>().ok();
            shortest.map_or(Json::Null, float)
        }
        _ => plain(node, format),
    }
}

fn is_zero(json: &Json) -> bool {
    match json {
        Json::Null => true,
        Json::Bool(value) => !value,
        Json::Number(number) => number.as_f64() == Some(0.0),
        Json::String(text) => text.is_empty(),
        Json::Array(items) => items.is_empty(),
        Json::Object(object) => object.is_empty(),
    }
}

fn sorted(map: &Map, format: Format) -> impl Iterator<Item = (&str, &Node)> {
    let mut entries: Vec<_> = map.iter().map(|(key, value)| (key.text.as_str(), value)).collect();
    match format {
        Format::Yaml => entries.sort_unstable_by(|(a, _), (b, _)| natural(a, b)),
        Format::Json => entries.sort_unstable_by_key(|(key, _)| *key),
    }
    entries.into_iter()
}

/// The order of keys that the reference prints as YAML: numbers by their value, other signs before letters.
fn natural(a: &str, b: &str) -> Ordering {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let (Some(&x), Some(&y)) = (a.get(same), b.get(same)) else { return a.len().cmp(&b.len()) };
    match (x.is_alphabetic(), y.is_alphabetic()) {
        (true, true) => return x.cmp(&y),
        (false, false) => {}
        (x_is_letter, _) => {
            let after_digit = same > 0 && a[same - 1].is_numeric();
            return if x_is_letter == after_digit { Ordering::Less } else { Ordering::Greater };
        }
    }
    // Zeros within a number count, leading zeros do not.
    let inside = a[..same].iter().rev().take_while(|c| c.is_ascii_digit()).any(|c| *c != '0');
    let start = u64::from((x == '0' || y == '0') && inside);
    let run = |chars: &[char]| {
        let digits: Vec<u64> = chars[same..].iter().map_while(|c| c.to_digit(10)).map(u64::from).collect();
        let value = digits.iter().fold(start, |sum, digit| sum.wrapping_mul(10).wrapping_add(*digit));
        (value, digits.len())
    };
    run(&a).cmp(&run(&b)).then(x.cmp(&y))
}

fn float(value: f64) -> Json {
    #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Json::from(value as i64);
    }
    Number::from_f64(value).map_or_else(|| Json::String(super::tree::float_text(value)), Json::Number)
}

/// A value that no table describes; the reference loses empty lists in these.
fn extension(node: &Node, format: Format) -> Json {
    let mut json = plain(node, format);
    let mut open = vec![&mut json];
    while let Some(value) = open.pop() {
        match value {
            Json::Array(items) if items.is_empty() => *value = Json::Null,
            Json::Array(items) => open.extend(items.iter_mut()),
            Json::Object(object) => open.extend(object.values_mut()),
            _ => {}
        }
    }
    json
}

/// A tree without a table: keys sorted, nothing left out.
fn plain(node: &Node, format: Format) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => Json::Bool(*value),
        Value::Int(value) => i64::try_from(*value)
            .map(Json::from)
            .or_else(|_| u64::try_from(*value).map(Json::from))
            .unwrap_or_else(|_| Json::String(value.to_string())),
        Value::Float(value) => float(*value),
        Value::Text(text) => Json::String(text.clone()),
        Value::List(items) => items.iter().map(|item| plain(item, format)).collect(),
        Value::Map(map) => {
            sorted(map, format).map(|(key, value)| (key.to_owned(), plain(value, format))).collect()
        }
    }
}

/// Attributes of a tree that are not honoured: path, node and why.
pub(super) fn walk_unsupported<'a>(
    node: &'a Node,
    form: Form,
    path: &str,
    found: &mut Vec<(String, &'a Node, super::tree::Span, Support)>,
) {
    match (&node.value, form) {
        (Value::List(items), Form::List(item)) => {
            for (at, node) in items.iter().enumerate() {
                walk_unsupported(node, *item, &format!("{path}[{at}]"), found);
            }
        }
        (Value::Map(map), Form::Keyed(item) | Form::Names(item, _)) => {
            for (key, node) in map {
                walk_unsupported(node, *item, &format!("{path}.{key}"), found);
            }
        }
        (
            Value::Map(map),
            Form::Object(table) | Form::ObjectOrNull(table) | Form::Closed(table) | Form::Short(_, table),
        ) => {
            for (key, value) in map {
                let Some(row) = attributes::find(table, &key.text) else { continue };
                let path = if path.is_empty() { key.text.clone() } else { format!("{path}.{key}") };
                if row.support == Support::Yes {
                    walk_unsupported(value, row.form, &path, found);
                } else if !is_zero(&plain(value, Format::Json)) {
                    found.push((path, value, key.span, row.support));
                }
            }
        }
        _ => {}
    }
}
