//! Two canonical trees to one, by the merge rules of the attribute table.

use super::{
    attributes::{self, Absent, Form, KeyOf, Merge, OptionValues, Short},
    tree::{Edit, Key, Map, Node, Span, Value},
};

/// How far the values of the trees have been brought to one form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    Canonical,
    /// As the file has them, with their variables: of several forms, one after the other.
    AsInFile,
}

/// Lays `over` on `base`. Marks of `!reset` and `!override` stay in the result, so that it can be laid on
/// something else again; [`settle`] takes them out.
pub fn merge(base: &mut Node, over: Node, form: Form, rule: Merge, written: Written) {
    if over.edit != Edit::Merge {
        *base = over;
        return;
    }
    if rule == Merge::Replace {
        *base = over;
        return;
    }
    if over.is_null() {
        return;
    }
    match (&mut base.value, over.value) {
        (Value::Map(_) | Value::List(_), above @ (Value::Map(_) | Value::List(_)))
            if written == Written::AsInFile && is_pairs(form) =>
        {
            let mut items = pair_items(std::mem::take(&mut base.value));
            join(&mut items, pair_items(above), if rule == Merge::Hosts { rule } else { UNIQUE_NAME });
            base.value = Value::List(items);
        }
        (below @ (Value::Text(_) | Value::List(_)), above @ (Value::Text(_) | Value::List(_)))
            if written == Written::AsInFile && matches!(form, Form::OneOrList) =>
        {
            let mut items = list_items(std::mem::take(below), base.span);
            join(&mut items, list_items(above, over.span), rule);
            *below = Value::List(items);
        }
        (Value::Map(below), Value::Map(above)) => match form {
            _ if rule == Merge::Logging && other_driver(below, &above) => *below = above,
            Form::Short(Short::Ulimit, _) => *below = above,
            // Lists of options are joined.
            Form::Options(OptionValues::ScalarOrList) => {
                merge_maps(below, above, written, |_| Some((Form::Any, Merge::Default)));
            }
            Form::Pairs(_) | Form::Ssh | Form::Options(_) => {
                for (key, value) in above {
                    below.insert(key, value);
                }
            }
            Form::Any => merge_maps(below, above, written, |_| Some((Form::Any, Merge::Default))),
            Form::Keyed(item) | Form::Names(item, _) => {
                merge_maps(below, above, written, |_| Some((*item, Merge::Default)));
            }
            Form::Object(table) | Form::ObjectOrNull(table) | Form::Closed(table) | Form::Short(_, table) => {
                merge_maps(below, above, written, |key| {
                    let row = attributes::find(table, key);
                    Some(row.map_or((Form::Any, Merge::Default), |row| (row.form, row.merge)))
                });
            }
            _ => *below = above,
        },
        (Value::List(below), Value::List(above)) => join(below, above, rule),
        (below, above) => {
            *below = above;
            base.span = over.span;
        }
    }
}

const UNIQUE_NAME: Merge = Merge::Unique(KeyOf::Name);

const fn is_pairs(form: Form) -> bool {
    matches!(form, Form::Pairs(Absent::Inherit | Absent::Empty) | Form::Ssh | Form::Hosts)
}

fn list_items(value: Value, span: Span) -> Vec<Node> {
    match value {
        Value::List(items) => items,
        value => vec![Node::new(value, span)],
    }
}

/// `KEY=value` items of pairs that were left as written.
fn pair_items(value: Value) -> Vec<Node> {
    match value {
        Value::List(items) => items,
        Value::Map(mut map) => {
            map.sort_by(|a, _, b, _| a.text.cmp(&b.text));
            let pair = |key: &Key, node: &Node| {
                let text = match node.value.scalar_text() {
                    Some(value) => format!("{key}={value}"),
                    None => key.text.clone(),
                };
                Node { value: Value::Text(text), span: node.span, edit: node.edit }
            };
            // A host may have several addresses.
            map.iter()
                .flat_map(|(key, node)| match &node.value {
                    Value::List(items) => items.iter().map(|item| pair(key, item)).collect(),
                    _ => vec![pair(key, node)],
                })
                .collect()
        }
        _ => Vec::new(),
    }
}

fn merge_maps(below: &mut Map, above: Map, written: Written, rule: impl Fn(&str) -> Option<(Form, Merge)>) {
    for (key, value) in above {
        match (below.get_mut(key.text.as_str()), rule(&key.text)) {
            (Some(base), Some((form, merge_rule))) if !base.is_null() => {
                merge(base, value, form, merge_rule, written);
            }
            _ => drop(below.insert(key, value)),
        }
    }
}

fn other_driver(below: &Map, above: &Map) -> bool {
    let driver = |map: &Map| map.get("driver").and_then(Node::as_str).map(ToOwned::to_owned);
    matches!((driver(below), driver(above)), (Some(a), Some(b)) if a != b)
}

fn join(below: &mut Vec<Node>, above: Vec<Node>, rule: Merge) {
    for item in above {
        let same = match rule {
            Merge::Unique(key) => identity(&item, key).and_then(|wanted| {
                below.iter().position(|other| identity(other, key) == Some(wanted.clone()))
            }),
            Merge::Hosts => below.iter().position(|other| other.value == item.value),
            _ => None,
        };
        match same.and_then(|at| below.get_mut(at)) {
            Some(other) => *other = item,
            None => below.push(item),
        }
    }
}

/// Of several items with the same identity the last one stays, in the place of the first.
pub fn unify(items: &mut Vec<Node>, rule: Merge) {
    if matches!(rule, Merge::Unique(_)) {
        let all = std::mem::take(items);
        if all.len() < 64 {
            join(items, all, rule);
            return;
        }
        let Merge::Unique(key) = rule else { return };
        let mut seen = std::collections::HashMap::new();
        for item in all {
            match identity(&item, key).map(|id| *seen.entry(id).or_insert(items.len())) {
                Some(at) if at < items.len() => items[at] = item,
                _ => items.push(item),
            }
        }
    }
}

/// What makes an item of a list the same as another.
#[must_use]
pub fn identity(item: &Node, key: KeyOf) -> Option<String> {
    let field = |name: &str| item.get(name).and_then(|value| value.value.scalar_text());
    match key {
        KeyOf::Item => item.value.scalar_text(),
        KeyOf::Name => item.as_str().map(|text| text.split('=').next().unwrap_or(text).to_owned()),
        KeyOf::Target => field("target").or_else(|| item.value.scalar_text()),
        KeyOf::Path => field("path"),
        KeyOf::MountedAt(dir) => field("target").or_else(|| Some(format!("{dir}/{}", field("source")?))),
        KeyOf::Subnet => Some(field("subnet").unwrap_or_default()),
        KeyOf::Port => {
            let Some(target) = field("target") else { return item.value.scalar_text() };
            let host = field("host_ip").unwrap_or_else(|| "0.0.0.0".to_owned());
            let published = field("published").unwrap_or_default();
            let protocol = field("protocol").unwrap_or_else(|| "tcp".to_owned());
            Some(format!("{host}:{published}:{target}/{protocol}"))
        }
    }
}

/// Takes out what was reset, and the marks that asked a merge for something.
pub fn settle(node: &mut Node) {
    node.edit = Edit::Merge;
    match &mut node.value {
        Value::Map(map) => {
            map.retain(|_, value| value.edit != Edit::Reset);
            map.values_mut().for_each(settle);
        }
        Value::List(items) => {
            items.retain(|item| item.edit != Edit::Reset);
            items.iter_mut().for_each(settle);
        }
        _ => {}
    }
}

/// Makes every list of a tree keep to its row's uniqueness.
pub fn unify_all(node: &mut Node, form: Form, rule: Merge) {
    match (&mut node.value, form) {
        (Value::List(items), form) => {
            unify(items, if matches!(form, Form::Pairs(_)) { UNIQUE_NAME } else { rule });
            if let Form::List(item) = form {
                items.iter_mut().for_each(|node| unify_all(node, *item, Merge::Default));
            }
        }
        (Value::Map(map), Form::Keyed(item) | Form::Names(item, _)) => {
            map.values_mut().for_each(|node| unify_all(node, *item, Merge::Default));
        }
        (
            Value::Map(map),
            Form::Object(table) | Form::ObjectOrNull(table) | Form::Closed(table) | Form::Short(_, table),
        ) => {
            for (key, value) in map {
                if let Some(row) = attributes::find(table, &key.text) {
                    unify_all(value, row.form, row.merge);
                }
            }
        }
        _ => {}
    }
}
