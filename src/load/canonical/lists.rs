//! Lists, and pairs that may be written as lists.

use super::{Absent, Canonical, Edit, Form, Key, Map, Node, OptionValues, Path, Short, Value, wanted};

impl Canonical<'_> {
    pub(super) fn list(&mut self, node: Node, item: Form, path: &Path<'_>) -> Option<Node> {
        self.list_of(node, item, path)
    }

    pub(super) fn list_of(&mut self, node: Node, item: Form, path: &Path<'_>) -> Option<Node> {
        let node = match (&node.value, item) {
            // One file of variables may stand without a list around it.
            (Value::Text(_), Form::Short(Short::EnvFile, _)) => {
                let span = node.span;
                Node::new(Value::List(vec![node]), span)
            }
            _ => node,
        };
        let Value::List(items) = node.value else { return self.expected(&node, "a list", path) };
        let items = items
            .into_iter()
            .enumerate()
            .filter_map(|(at, inner)| {
                let path = path.item(at);
                if inner.is_null() && inner.edit != Edit::Reset {
                    return self.expected(&inner, wanted(item), &path);
                }
                self.value(inner, item, &path)
            })
            .collect();
        Some(Node::new(Value::List(items), node.span))
    }

    pub(super) fn scalars(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let Value::List(items) = node.value else { return self.expected(&node, "a list", path) };
        let mut found = Vec::new();
        for (at, item) in items.into_iter().enumerate() {
            match &item.value {
                Value::Int(_) | Value::Float(_) | Value::Text(_) => {
                    let text = item.value.scalar_text().unwrap_or_default();
                    found.push(Node { value: Value::Text(text), ..item });
                }
                _ if item.edit == Edit::Reset => found.push(item),
                _ => {
                    self.expected(&item, "a string or a number", &path.item(at));
                }
            }
        }
        Some(Node::new(Value::List(found), node.span))
    }

    pub(super) fn pairs(&mut self, node: Node, absent: Absent, path: &Path<'_>) -> Option<Node> {
        let missing = |absent| match absent {
            Absent::Inherit => Value::Null,
            Absent::Empty | Absent::Wrong => Value::Text(String::new()),
        };
        let mut found = Map::default();
        match node.value {
            Value::Map(map) => {
                for (key, value) in map {
                    let text = match &value.value {
                        Value::Null if value.edit == Edit::Reset => Value::Null,
                        Value::Null => missing(absent),
                        Value::List(_) | Value::Map(_) => {
                            self.expected(&value, "a string, a number or a boolean", &path.key(&key.text));
                            continue;
                        }
                        scalar => Value::Text(scalar.scalar_text().unwrap_or_default()),
                    };
                    found.insert(key, Node { value: text, ..value });
                }
            }
            Value::List(items) => {
                for (at, item) in items.into_iter().enumerate() {
                    let Some(text) = item.as_str() else {
                        self.expected(&item, "a string, `KEY=value`", &path.item(at));
                        continue;
                    };
                    let (name, value) = match text.split_once('=') {
                        Some((name, value)) => (name, Value::Text(value.to_owned())),
                        None if absent == Absent::Wrong => {
                            self.tell(
                                item.span,
                                &path.item(at),
                                format!("`{text}` is not of the form `name=value`"),
                            );
                            continue;
                        }
                        None => (text, missing(absent)),
                    };
                    if absent == Absent::Inherit && name.ends_with(char::is_whitespace) {
                        self.tell(
                            item.span,
                            &path.item(at),
                            format!("the name `{name}` ends with white space"),
                        );
                        continue;
                    }
                    found.insert(Key::new(name, item.span), Node { value, span: item.span, edit: item.edit });
                }
            }
            _ => return self.expected(&node, "a mapping or a list of `KEY=value`", path),
        }
        Some(Node::new(Value::Map(found), node.span))
    }

    pub(super) fn options(&mut self, node: Node, values: OptionValues, path: &Path<'_>) -> Option<Node> {
        let Value::Map(map) = node.value else { return self.expected(&node, "a mapping", path) };
        let mut found = Map::default();
        for (key, value) in map {
            let fits = match (&value.value, values) {
                (Value::Text(_), _) => true,
                (Value::Int(_) | Value::Float(_), values) => values != OptionValues::Text,
                (Value::Null, OptionValues::TextNumberNull | OptionValues::AnyScalar) => true,
                (Value::Bool(_), OptionValues::AnyScalar | OptionValues::ScalarOrList) => true,
                (Value::List(items), OptionValues::ScalarOrList) => {
                    items.iter().all(|item| item.value.scalar_text().is_some())
                }
                _ => value.edit == Edit::Reset,
            };
            let path = path.key(&key.text);
            if !fits {
                self.expected(&value, "a string or a number", &path);
                continue;
            }
            let text = |value: &Value| Value::Text(value.scalar_text().unwrap_or_default());
            let value = match value.value {
                Value::List(items) => {
                    let items = items.into_iter().map(|item| Node { value: text(&item.value), ..item });
                    Node::new(Value::List(items.collect()), value.span)
                }
                ref scalar => Node { value: text(scalar), ..value },
            };
            found.insert(key, value);
        }
        Some(Node::new(Value::Map(found), node.span))
    }

    /// Canonically a list of `host=ip`.
    pub(super) fn hosts(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let mut found = Vec::new();
        // Several addresses of one host may stand behind one another.
        let entries = |host: &str, ips: &str, item: &Node| -> Vec<Node> {
            let bare = |ip: &str| -> String {
                let ip = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(ip);
                format!("{host}={ip}")
            };
            let node = |ip| Node { value: Value::Text(bare(ip)), ..item.clone() };
            ips.split(',').map(str::trim).map(node).collect()
        };
        match node.value {
            Value::Map(map) => {
                for (host, value) in map {
                    let path = path.key(&host.text);
                    let items = match value.value {
                        Value::List(items) => items,
                        _ => vec![value],
                    };
                    for item in items {
                        match item.as_str() {
                            Some(ip) => found.extend(entries(&host.text, ip, &item)),
                            None => drop(self.expected(&item, "a string, the address", &path)),
                        }
                    }
                }
            }
            Value::List(items) => {
                for (at, item) in items.into_iter().enumerate() {
                    let path = path.item(at);
                    let Some(text) = item.as_str() else {
                        self.expected(&item, "a string, `host:address`", &path);
                        continue;
                    };
                    if self.raw && text.contains('$') {
                        found.push(item);
                        continue;
                    }
                    match text.split_once('=').or_else(|| text.split_once(':')) {
                        Some((host, ip)) if !host.is_empty() => {
                            found.extend(entries(host, ip, &item));
                        }
                        _ => drop(self.tell(
                            item.span,
                            &path,
                            format!("`{text}` is not of the form `host:address`"),
                        )),
                    }
                }
            }
            _ => return self.expected(&node, "a list of `host:address` or a mapping", path),
        }
        Some(Node::new(Value::List(found), node.span))
    }
}
