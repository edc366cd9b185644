//! Prints the canonical form of a project as `docker compose config` does, letter by letter.

use std::{borrow::Cow, cmp::Ordering};

use sha2::{Digest, Sha256};

use super::{
    attributes::{self, Form, NETWORK, PROJECT, Support, Table},
    document::Document,
    options::Resolved,
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
pub fn yaml(resolved: &Resolved) -> String {
    yaml::print(&value(resolved, Format::Yaml))
}

/// The canonical form as indented JSON, ended by a line break.
#[must_use]
pub fn json(resolved: &Resolved) -> String {
    let text = serde_json::to_string_pretty(&value(resolved, Format::Json)).unwrap_or_default();
    text + "\n"
}

/// The canonical form of one service as JSON on one line.
#[must_use]
pub(super) fn service_json(service: &Node) -> String {
    line(&table_value(service, attributes::SERVICE, Format::Json))
}

/// The config hash of docker compose, 64 hex digits: SHA-256 over the canonical JSON of the service, in
/// Go's spelling and without what changes no container.
#[must_use]
pub(super) fn service_hash(service: &Node) -> String {
    let mut document = table_value(service, attributes::SERVICE, Format::Json);
    for key in ["build", "pull_policy", "scale", "depends_on", "profiles"] {
        document.remove(key);
    }
    if let Some(deploy) = document.get_mut("deploy") {
        deploy.remove("replicas");
    }
    let text = line(&document);
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

/// As JSON on one line.
fn line(document: &Document<'_>) -> String {
    serde_json::to_string(document).unwrap_or_default()
}

fn value(resolved: &Resolved, format: Format) -> Document<'_> {
    if resolved.as_written {
        return extension(&resolved.canonical, format);
    }
    let mut document = table_value(&resolved.canonical, PROJECT, format);
    double_dollars(&mut document);
    document
}

/// Every `$` is doubled, so that reading the output gives the same values again. Keys are not interpolated when
/// they are read, and doubled all the same: so does the reference.
fn double_dollars(document: &mut Document<'_>) {
    let double = |text: &mut Cow<'_, str>| {
        if text.contains('$') {
            *text = Cow::Owned(text.replace('$', "$$"));
        }
    };
    match document {
        Document::Text(text) => double(text),
        Document::List(items) => items.iter_mut().for_each(double_dollars),
        Document::Map(entries) => {
            for (key, value) in entries {
                double(key);
                double_dollars(value);
            }
        }
        _ => {}
    }
}

fn table_value(node: &Node, table: Table, format: Format) -> Document<'_> {
    let Some(map) = node.as_map() else { return plain(node, format) };
    let mut entries = Vec::new();
    for row in table.iter().filter(|row| !row.hidden) {
        let value = map.get(row.name).map_or(Document::Null, |value| form_value(value, row.form, format));
        if row.kept && !value.is_null() || !value.is_zero() {
            entries.push((Cow::Borrowed(row.name), value));
        } else if let Some(unset) = unset(table, row.name).filter(|_| format == Format::Json) {
            entries.push((Cow::Borrowed(row.name), unset));
        }
    }
    let is_project = std::ptr::eq(table, PROJECT);
    if is_project && !entries.iter().any(|(key, _)| key == "services") {
        let at = usize::from(entries.iter().any(|(key, _)| key == "name"));
        entries.insert(at, (Cow::Borrowed("services"), Document::Map(Vec::new())));
    }
    if format == Format::Json {
        respell(&mut entries, table);
    }
    // JSON shows the keys of the user's own at the top alone.
    if format == Format::Yaml || is_project {
        let own = sorted(map, format).filter(|(key, _)| key.starts_with("x-"));
        entries.extend(own.map(|(key, value)| (Cow::Borrowed(key), extension(value, format))));
    }
    Document::Map(entries)
}

/// What JSON shows for a key that is not set, where it shows one.
fn unset(table: Table, key: &str) -> Option<Document<'static>> {
    let empty = || Document::Map(Vec::new());
    let is = |other: Table| std::ptr::eq(table, other);
    match key {
        "command" | "entrypoint" if is(attributes::SERVICE) => Some(Document::Null),
        "command" if is(attributes::HOOK) => Some(Document::Null),
        "resources" | "placement" if is(attributes::DEPLOY) => Some(empty()),
        "exec" if is(attributes::WATCH) => Some([("command", Document::Null)].into_iter().collect()),
        "ipam" if is(NETWORK) => Some(empty()),
        _ => None,
    }
}

/// What JSON spells otherwise than the file.
fn respell(entries: &mut Vec<(Cow<'_, str>, Document<'_>)>, table: Table) {
    let is = |other: Table| std::ptr::eq(table, other);
    if is(PROJECT) {
        entries.retain(|(key, _)| key != "models");
    }
    if is(attributes::THROTTLE) || is(attributes::WEIGHT_DEVICE) {
        for (key, _) in entries {
            *key = Cow::Owned(key[..1].to_ascii_uppercase() + &key[1..]);
        }
    }
}

fn form_value(node: &Node, form: Form, format: Format) -> Document<'_> {
    match (&node.value, form) {
        (Value::Null, _) => Document::Null,
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
            hosts.into_iter().map(Document::text).collect()
        }
        (Value::Map(map), Form::Ssh) => sorted(map, format)
            .map(|(key, value)| match value.as_str() {
                Some(path) if !path.is_empty() && format == Format::Yaml => {
                    Document::Text(format!("{key}: {path}").into())
                }
                Some(path) if !path.is_empty() => Document::Text(format!("{key}={path}").into()),
                _ => Document::text(key),
            })
            .collect(),
        (Value::Text(size), Form::Bytes | Form::WholeBytes | Form::BytesText) if size == "0" => {
            Document::Null
        }
        (Value::Map(map), Form::Keyed(item) | Form::Names(item, _)) => {
            sorted(map, format).map(|(key, value)| (key, form_value(value, *item, format))).collect()
        }
        (Value::Map(map), Form::Pairs(_) | Form::Options(_)) => {
            sorted(map, format).map(|(key, value)| (key, plain(value, format))).collect()
        }
        (
            Value::Map(_),
            Form::Object(table) | Form::ObjectOrNull(table) | Form::Closed(table) | Form::Short(_, table),
        ) => table_value(node, table, format),
        #[expect(clippy::cast_possible_truncation, reason = "the reference keeps these as 32-bit floats")]
        (Value::Float(value), Form::Number) => {
            let shortest = (*value as f32).to_string().parse::<f64>().ok();
            shortest.map_or(Document::Null, float)
        }
        _ => plain(node, format),
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
    let same = a.chars().zip(b.chars()).take_while(|(x, y)| x == y).map(|(x, _)| x.len_utf8()).sum();
    let ((start, a), (_, b)) = (a.split_at(same), b.split_at(same));
    let (Some(x), Some(y)) = (a.chars().next(), b.chars().next()) else { return a.len().cmp(&b.len()) };
    match (x.is_alphabetic(), y.is_alphabetic()) {
        (true, true) => return x.cmp(&y),
        (false, false) => {}
        (x_is_letter, _) => {
            let after_digit = start.ends_with(char::is_numeric);
            return if x_is_letter == after_digit { Ordering::Less } else { Ordering::Greater };
        }
    }
    // Zeros within a number count, leading zeros do not.
    let inside = start.chars().rev().take_while(char::is_ascii_digit).any(|c| c != '0');
    let first = u64::from((x == '0' || y == '0') && inside);
    let run = |text: &str| {
        let digits = text.chars().map_while(|c| c.to_digit(10)).map(u64::from);
        digits.fold((first, 0), |(sum, count), digit| (sum.wrapping_mul(10).wrapping_add(digit), count + 1))
    };
    run(a).cmp(&run(b)).then(x.cmp(&y))
}

fn float(value: f64) -> Document<'static> {
    #[expect(clippy::cast_possible_truncation, reason = "whole and in range")]
    if value.fract() == 0.0 && value.abs() < 9e15 {
        return Document::Int(value as i64);
    }
    if value.is_finite() {
        return Document::Float(value);
    }
    Document::Text(super::tree::float_text(value).into())
}

/// A value that no table describes; the reference loses empty lists in these.
fn extension(node: &Node, format: Format) -> Document<'_> {
    let mut document = plain(node, format);
    let mut open = vec![&mut document];
    while let Some(value) = open.pop() {
        match value {
            Document::List(items) if items.is_empty() => *value = Document::Null,
            Document::List(items) => open.extend(items.iter_mut()),
            Document::Map(entries) => open.extend(entries.iter_mut().map(|(_, value)| value)),
            _ => {}
        }
    }
    document
}

/// A tree without a table: keys sorted, nothing left out.
fn plain(node: &Node, format: Format) -> Document<'_> {
    match &node.value {
        Value::Null => Document::Null,
        Value::Bool(value) => Document::Bool(*value),
        Value::Int(value) => i64::try_from(*value)
            .map(Document::Int)
            .or_else(|_| u64::try_from(*value).map(Document::Large))
            .unwrap_or_else(|_| Document::Text(value.to_string().into())),
        Value::Float(value) => float(*value),
        Value::Text(text) => Document::text(text),
        Value::List(items) => items.iter().map(|item| plain(item, format)).collect(),
        Value::Map(map) => sorted(map, format).map(|(key, value)| (key, plain(value, format))).collect(),
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
                } else if !plain(value, Format::Json).is_zero() {
                    found.push((path, value, key.span, row.support));
                }
            }
        }
        _ => {}
    }
}
