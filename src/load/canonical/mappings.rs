//! Mappings: by a table, with keys of the user's own, and lists of names that stand for mappings.

use super::{
    Canonical, Diagnostic, Edit, FORMER, Form, Key, Map, NameDefault, Node, PROJECT, Path, SERVICE, Span,
    Table, Value, attributes, nearest,
};

/// Most names of one list: each becomes a mapping.
const MAX_NAMES: usize = 10_000;

impl Canonical<'_> {
    pub(super) fn object(
        &mut self,
        node: Node,
        table: Table,
        extensible: bool,
        path: &Path<'_>,
    ) -> Option<Node> {
        let Value::Map(map) = node.value else { return self.expected(&node, "a mapping", path) };
        let mut found = Map::with_capacity_and_hasher(map.len(), Default::default());
        for (key, value) in map {
            if extensible && key.text.starts_with("x-") {
                found.insert(key, value);
                continue;
            }
            let Some(row) = attributes::find(table, &key.text) else {
                if value.edit != Edit::Reset
                    && let Some(meant) = self.unknown_key(&key, &value, table, path)
                    && !found.contains_key(meant)
                {
                    // Nobody shall call missing what is only mistyped.
                    found.insert(Key::new(meant, key.span), Node::new(Value::Null, key.span));
                }
                continue;
            };
            // A wrong value leaves its key behind, so that nobody calls it missing.
            let wrong = Node::new(Value::Null, value.span);
            let value = self.value(value, row.form, &path.key(row.name)).unwrap_or(wrong);
            found.insert(key, value);
        }
        let mut done = Node::new(Value::Map(found), node.span);
        self.external_name(&mut done, path);
        Some(done)
    }

    /// `external: {name: other}` of the older files is `external: true` and `name: other`.
    pub(super) fn external_name(&mut self, node: &mut Node, path: &Path<'_>) {
        let Some(external) = node.get("external").filter(|external| external.as_map().is_some()) else {
            return;
        };
        let span = external.span;
        let name = external.get("name").cloned();
        let told = Diagnostic::warning("`external.name` is deprecated")
            .at(path.key("external"))
            .mark(self.files.mark(span, ""))
            .help("write `name:` and `external: true`");
        self.diagnostics.push(told);
        if let Some(own) = node.get_str("name")
            && name.as_ref().is_some_and(|name| name.as_str() != Some(own))
        {
            let own = node.get("name").map(|node| node.span).unwrap_or_default();
            self.tell(own, path, "`name` and `external.name` say different things");
        }
        if let Some(map) = node.as_map_mut() {
            map.insert(Key::new("external", span), Node::new(Value::Bool(true), span));
            if let Some(name) = name {
                map.insert(Key::new("name", name.span), name);
            }
        }
    }

    /// Tells of a key that no row is of; the key that was meant, when it is near.
    pub(super) fn unknown_key(
        &mut self,
        key: &Key,
        value: &Node,
        table: Table,
        path: &Path<'_>,
    ) -> Option<&'static str> {
        if self.diagnostics.overflows() {
            return None;
        }
        let name = key.text.as_str();
        let is = |other: Table| std::ptr::eq(table, other);
        let near = nearest(name, table.iter().map(|row| row.name));
        let plural = near.filter(|near| near.strip_suffix('s') == Some(name));
        let former =
            FORMER.iter().find(|(of, former, _)| is(of) && *former == name).map(|(_, _, help)| *help);
        let (help, meant) = if let Some(help) = former {
            (help.to_owned(), None)
        } else if let Some(near) = plural {
            (format!("did you mean `{near}`?"), Some(near))
        } else if is(PROJECT) && attributes::find(SERVICE, name).is_some() {
            (format!("`{name}` belongs to a service, below `services:`"), None)
        } else if let Some(home) = home_of(name, table) {
            (format!("`{name}` belongs to {home}"), None)
        } else if let Some(near) = near {
            (format!("did you mean `{near}`?"), Some(near))
        } else if is(PROJECT) && value.as_map().is_some() {
            (format!("if `{name}` is a service, it belongs below `services:`"), None)
        } else {
            ("keys of your own begin with `x-`".to_owned(), None)
        };
        let told = Diagnostic::error(format!("unknown key `{name}`"))
            .at(path.key(name))
            .mark(self.files.mark(key.span, ""))
            .help(help);
        self.diagnostics.push(told);
        meant
    }

    pub(super) fn keyed(&mut self, node: Node, item: Form, path: &Path<'_>) -> Option<Node> {
        let Value::Map(map) = node.value else { return self.expected(&node, "a mapping", path) };
        let mut found = Map::with_capacity_and_hasher(map.len(), Default::default());
        for (key, value) in map {
            if !self.name_fits(&key, path) {
                continue;
            }
            let wrong = Node::new(Value::Null, value.span);
            let value = self.value(value, item, &path.key(&key.text)).unwrap_or(wrong);
            found.insert(key, value);
        }
        Some(Node::new(Value::Map(found), node.span))
    }

    pub(super) fn name_fits(&mut self, key: &Key, path: &Path<'_>) -> bool {
        let fits = !key.text.is_empty()
            && key.text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !fits {
            let message = format!("`{}` is no valid name: letters, digits, `.`, `_` and `-` only", key.text);
            self.tell(key.span, &path.key(&key.text), message);
        }
        fits
    }

    pub(super) fn names(
        &mut self,
        node: Node,
        item: Form,
        default: NameDefault,
        path: &Path<'_>,
    ) -> Option<Node> {
        let span = node.span;
        match node.value {
            Value::List(items) if items.len() > MAX_NAMES => {
                self.tell(span, path, format!("more than {MAX_NAMES} names in one list"))
            }
            Value::List(items) => {
                let mut found = Map::default();
                for (at, item) in items.into_iter().enumerate() {
                    let path = path.item(at);
                    let Some(name) = item.as_str() else {
                        self.expected(&item, "a string, a name", &path);
                        continue;
                    };
                    let key = Key::new(name, item.span);
                    if found.contains_key(name) {
                        self.tell(item.span, &path, format!("`{name}` is listed twice"));
                        continue;
                    }
                    let value = default.node(item.span);
                    found.insert(key, Node { edit: item.edit, ..value });
                }
                Some(Node::new(Value::Map(found), span))
            }
            Value::Map(map) => {
                let mut done = self.keyed(Node::new(Value::Map(map), span), item, path)?;
                if default == NameDefault::Dependency
                    && let Some(map) = done.as_map_mut()
                {
                    for (_, value) in map.iter_mut().filter(|(_, value)| value.as_map().is_some()) {
                        if value.get("required").is_none() {
                            value.set("required", Value::Bool(true));
                        }
                    }
                }
                Some(done)
            }
            _ => self.expected(&node, "a list of names or a mapping", path),
        }
    }
}

impl NameDefault {
    fn node(self, span: Span) -> Node {
        match self {
            Self::Null => Node::new(Value::Null, span),
            Self::Dependency => {
                let mut dependency = Node::map(span);
                dependency.set("condition", Value::Text("service_started".to_owned()));
                dependency.set("required", Value::Bool(true));
                dependency
            }
        }
    }
}

/// Where a key lives, when it is not in this mapping.
fn home_of(name: &str, here: Table) -> Option<&'static str> {
    let homes: [(Table, &str); 9] = [
        (SERVICE, "a service"),
        (attributes::BUILD, "the `build:` of a service"),
        (attributes::DEPLOY, "the `deploy:` of a service"),
        (attributes::HEALTHCHECK, "the `healthcheck:` of a service"),
        (attributes::RESOURCES, "`deploy: {resources: ...}`"),
        (attributes::DEVELOP, "the `develop:` of a service"),
        (attributes::NETWORK, "a network below the top-level `networks:`"),
        (attributes::VOLUME, "a volume below the top-level `volumes:`"),
        (PROJECT, "the top level of the file"),
    ];
    let mut elsewhere = homes.into_iter().filter(|(table, _)| !std::ptr::eq(*table, here));
    elsewhere.find(|(table, _)| attributes::find(table, name).is_some()).map(|(_, home)| home)
}
