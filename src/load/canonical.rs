//! One file's tree to its canonical form, by the attribute table: every short form becomes the long one,
//! every value its type, and every mistake of form a diagnostic. What is wrong is left out of the result,
//! so that the phases after this one can look at all the rest.

use super::{
    attributes::{
        self, Absent, FORMER, Form, NameDefault, OptionValues, PORT, PROJECT, SERVICE, Short, Table,
    },
    diagnostic::{Diagnostic, Files, nearest},
    mounts,
    path::Path,
    ports, scalars,
    tree::{Edit, Key, Map, Node, Span, Value},
};

/// What a walk needs beside the tree, and what it has to tell.
#[derive(Debug)]
pub struct Canonical<'a> {
    pub files: &'a Files,
    pub diagnostics: &'a mut Vec<Diagnostic>,
    /// Variables were left as written: a text with `$` fits everywhere.
    pub raw: bool,
}

/// Ports of a model left as written: with all files merged, a list without variables gets its long form.
pub fn written_ports(model: &mut Node, files: &Files) {
    let services = model.get_mut("services").and_then(Node::as_map_mut);
    for ports in services.into_iter().flatten().filter_map(|(_, service)| service.get_mut("ports")) {
        // What is wrong with them was told when their file was read.
        let mut canonical = Canonical { files, diagnostics: &mut Vec::new(), raw: true };
        if let Some(done) = canonical.ports(ports.clone(), &Path::Root) {
            *ports = done;
        }
    }
}

impl Canonical<'_> {
    /// The canonical form of a value; `None` when it is wrong, which has then been told.
    pub fn value(&mut self, node: Node, form: Form, path: &Path<'_>) -> Option<Node> {
        if node.edit == Edit::Reset || node.is_null() {
            return Some(node);
        }
        let edit = node.edit;
        let done = self.formed(node, form, path)?;
        Some(Node { edit, ..done })
    }

    fn formed(&mut self, node: Node, form: Form, path: &Path<'_>) -> Option<Node> {
        if self.raw && (is_scalar(form) || is_written(form)) {
            // Checked, but shown as it was written.
            let variable = is_scalar(form) && node.as_str().is_some_and(|text| text.contains('$'));
            let mut written = node.clone();
            // A scalar with a tag of its own is text.
            if let Some(text) = written.value.scalar_text().filter(|_| written.edit == Edit::Replace) {
                written.value = Value::Text(text);
            }
            return if variable { Some(node) } else { self.typed(node, form, path).map(|_| written) };
        }
        self.typed(node, form, path)
    }

    fn typed(&mut self, node: Node, form: Form, path: &Path<'_>) -> Option<Node> {
        match form {
            Form::Any => Some(node),
            Form::Text | Form::TextOrNull => self.text(node, path),
            Form::TextOrFlag => match node.value {
                Value::Bool(value) => Some(Node::text(value.to_string(), node.span)),
                _ => self.text(node, path),
            },
            Form::Choice(words) => self.choice(node, words, path),
            Form::PullPolicy => self.pull_policy(node, path),
            Form::ContainerName => self.container_name(node, path),
            Form::Flag => self.flag(node, path),
            Form::StrictFlag => self.only(node, path, "a boolean", |v| matches!(v, Value::Bool(_))),
            Form::StrictInteger => self.only(node, path, "an integer", |v| matches!(v, Value::Int(_))),
            Form::StrictNumber => {
                self.only(node, path, "a number", |v| matches!(v, Value::Int(_) | Value::Float(_)))
            }
            Form::Count if self.raw && node.as_str() == Some("all") => Some(node),
            Form::Count if node.as_str() == Some("all") => Some(Node::new(Value::Int(-1), node.span)),
            Form::Count => self.whole(&node, path),
            Form::Integer(low, high) => self.integer(&node, low.into(), high.into(), path),
            Form::Whole => self.whole(&node, path),
            Form::Number => self.number(node, path),
            Form::Mode => self.mode(&node, path),
            Form::Bytes => self.bytes(&node, path),
            Form::WholeBytes => match node.value {
                Value::Float(_) => self.expected(&node, "an integer or a size such as `64m`", path),
                _ => self.bytes(&node, path),
            },
            Form::BytesText => match node.value {
                Value::Text(_) => self.bytes(&node, path),
                _ => self.expected(&node, "a string such as `64m`", path),
            },
            Form::Duration => self.duration(&node, path),
            Form::Words => self.words(node, path),
            Form::Test => self.test(node, path),
            Form::Pairs(absent) => self.pairs(node, absent, path),
            Form::Ssh => self.pairs(node, Absent::Inherit, path),
            Form::Options(values) => self.options(node, values, path),
            Form::Hosts => self.hosts(node, path),
            Form::Strings => self.list(node, Form::Text, path),
            Form::OneOrList if self.raw && node.as_str().is_some() => Some(node),
            Form::StringOrList | Form::OneOrList => match node.value {
                Value::Text(_) => {
                    let span = node.span;
                    Some(Node::new(Value::List(vec![node]), span))
                }
                _ => self.list(node, Form::Text, path),
            },
            Form::Scalars => self.scalars(node, path),
            Form::List(item) => self.list_of(node, *item, path),
            Form::Keyed(item) => self.keyed(node, *item, path),
            Form::Names(item, default) => self.names(node, *item, default, path),
            Form::Object(table) | Form::ObjectOrNull(table) => self.object(node, table, true, path),
            Form::Closed(table) => self.object(node, table, false, path),
            Form::Short(short, table) => self.short(node, short, table, path),
            Form::Ports => self.ports(node, path),
            Form::Gpus => self.gpus(node, path),
            Form::External => self.external(node, path),
            Form::Include => self.include(node, path),
        }
    }

    // ---- telling ----

    fn tell(&mut self, span: Span, path: &Path<'_>, message: impl Into<String>) -> Option<Node> {
        self.diagnostics.push(Diagnostic::error(message).at(path).mark(self.files.mark(span, "")));
        None
    }

    fn expected(&mut self, node: &Node, wanted: &str, path: &Path<'_>) -> Option<Node> {
        let message = format!("`{}` must be {wanted}, not {}", path.name(), node.value.kind());
        let mut diagnostic = Diagnostic::error(message).at(path).mark(self.files.mark(node.span, ""));
        if wanted.starts_with("a string")
            && let Some(text) = node.value.scalar_text()
        {
            let text = if path.name() == "restart" && text == "false" { "no".to_owned() } else { text };
            diagnostic = diagnostic.help(format!("put it in quotes: \"{text}\""));
        }
        self.diagnostics.push(diagnostic);
        None
    }

    fn only(&mut self, node: Node, path: &Path<'_>, wanted: &str, fits: fn(&Value) -> bool) -> Option<Node> {
        if fits(&node.value) { Some(node) } else { self.expected(&node, wanted, path) }
    }

    // ---- single values ----

    fn text(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        self.only(node, path, "a string", |value| matches!(value, Value::Text(_)))
    }

    fn choice(&mut self, node: Node, words: &[&str], path: &Path<'_>) -> Option<Node> {
        let node = self.text(node, path)?;
        let text = node.as_str().unwrap_or_default();
        if words.contains(&text) {
            return Some(node);
        }
        let known = words.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let diagnostic = Diagnostic::error(format!("`{}` must be one of {known}", path.name()))
            .at(path)
            .mark(self.files.mark(node.span, ""))
            .nearest(text, words.iter().copied());
        self.diagnostics.push(diagnostic);
        None
    }

    fn pull_policy(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        const WORDS: [&str; 8] =
            ["always", "never", "build", "if_not_present", "missing", "refresh", "daily", "weekly"];
        let node = self.text(node, path)?;
        let text = node.as_str().unwrap_or_default();
        let every = text.strip_prefix("every_").is_some_and(|every| scalars::duration(every).is_some());
        if every || WORDS.iter().any(|word| text.contains(word)) {
            return Some(node);
        }
        let diagnostic = Diagnostic::error(format!(
            "`{text}` is no pull policy; known are {} and `every_<duration>`",
            WORDS.join(", ")
        ))
        .at(path)
        .mark(self.files.mark(node.span, ""))
        .nearest(text, WORDS);
        self.diagnostics.push(diagnostic);
        None
    }

    fn container_name(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let node = self.text(node, path)?;
        let text = node.as_str().unwrap_or_default();
        let fits = text.as_bytes().windows(2).any(|pair| {
            pair[0].is_ascii_alphanumeric()
                && (pair[1].is_ascii_alphanumeric() || matches!(pair[1], b'_' | b'.' | b'-'))
        });
        if fits {
            return Some(node);
        }
        self.tell(
            node.span,
            path,
            format!("`{text}` is no container name: two or more of letters, digits, `_`, `.` and `-`, a letter or digit first"),
        )
    }

    fn flag(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        match &node.value {
            Value::Bool(_) => Some(node),
            Value::Text(text) => match scalars::flag(text) {
                Some(value) => {
                    if matches!(text.to_ascii_lowercase().as_str(), "y" | "yes" | "on" | "n" | "no" | "off") {
                        let told = Diagnostic::warning(format!("`{text}` is text, taken for {value}"))
                            .at(path)
                            .mark(self.files.mark(node.span, ""))
                            .help(format!("write `{value}`: only `true` and `false` are booleans"));
                        self.diagnostics.push(told);
                    }
                    Some(Node::new(Value::Bool(value), node.span))
                }
                None => self.tell(node.span, path, format!("`{text}` is no boolean; write true or false")),
            },
            _ => self.expected(&node, "a boolean", path),
        }
    }

    fn integer(&mut self, node: &Node, low: i128, high: i128, path: &Path<'_>) -> Option<Node> {
        let value = match &node.value {
            Value::Int(value) => *value,
            #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
            Value::Float(value) if value.fract() == 0.0 => *value as i128,
            Value::Text(text) => match text.parse::<i64>() {
                Ok(value) => return Some(Node::new(Value::Int(value.into()), node.span)),
                Err(_) => return self.tell(node.span, path, format!("`{text}` is no integer")),
            },
            _ => return self.expected(node, "an integer", path),
        };
        if (low..=high).contains(&value) {
            return Some(Node::new(Value::Int(value), node.span));
        }
        let message = format!("`{}` must be between {low} and {high}", path.name());
        self.tell(node.span, path, message)
    }

    fn whole(&mut self, node: &Node, path: &Path<'_>) -> Option<Node> {
        match node.value {
            #[expect(clippy::cast_possible_truncation, reason = "the cast saturates")]
            Value::Float(value) if value.is_finite() => {
                Some(Node::new(Value::Int(value.trunc() as i128), node.span))
            }
            _ => self.integer(node, i64::MIN.into(), i64::MAX.into(), path),
        }
    }

    fn number(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let value = match &node.value {
            Value::Int(_) | Value::Float(_) => return Some(node),
            Value::Text(text) => text.parse::<f64>().ok().filter(|value| value.is_finite()),
            _ => return self.expected(&node, "a number", path),
        };
        match value {
            Some(value) => Some(Node::new(Value::Float(value), node.span)),
            None => {
                let message = format!("`{}` is no number", node.as_str().unwrap_or_default());
                self.tell(node.span, path, message)
            }
        }
    }

    fn mode(&mut self, node: &Node, path: &Path<'_>) -> Option<Node> {
        let mode = match &node.value {
            Value::Int(value) => u32::try_from(*value).ok(),
            Value::Text(text) => u32::from_str_radix(text, 8).ok(),
            _ => return self.expected(node, "a file mode such as \"0440\"", path),
        };
        match mode {
            Some(mode) => Some(Node::text(format!("0{mode:o}"), node.span)),
            None => self.tell(node.span, path, "this is no file mode; write it as \"0440\""),
        }
    }

    fn bytes(&mut self, node: &Node, path: &Path<'_>) -> Option<Node> {
        let size = match &node.value {
            Value::Int(value) => Some(*value),
            Value::Float(value) => return Some(self.no_size(*value, node.span, path)),
            Value::Text(text) => scalars::bytes(text),
            _ => return self.expected(node, "a size such as `64m`", path),
        };
        match size {
            Some(size) => Some(Node::text(size.to_string(), node.span)),
            None => {
                let text = node.value.scalar_text().unwrap_or_default();
                self.tell(node.span, path, format!("`{text}` is no size; write it as `64m` or `1.5gb`"))
            }
        }
    }

    /// A number with a point or an exponent is not taken for a size, by the reference neither.
    fn no_size(&mut self, value: f64, span: Span, path: &Path<'_>) -> Node {
        let told = Diagnostic::warning(format!(
            "`{}` is no size, since it has a point or an exponent; nothing is limited",
            path.name()
        ))
        .at(path)
        .mark(self.files.mark(span, ""))
        .help(format!("write a whole number of bytes, `{value:.0}`, or a size such as `64m`"));
        self.diagnostics.push(told);
        Node::new(Value::Null, span)
    }

    fn duration(&mut self, node: &Node, path: &Path<'_>) -> Option<Node> {
        let Value::Text(text) = &node.value else {
            return self.expected(node, "a string such as `1m30s`", path);
        };
        match scalars::duration(text) {
            Some(nanos) => Some(Node::text(scalars::duration_text(nanos), node.span)),
            None => {
                let message =
                    format!("`{text}` is no duration; write a number with its unit, such as `1m30s`");
                self.tell(node.span, path, message)
            }
        }
    }

    fn words(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let Value::Text(text) = &node.value else { return self.list(node, Form::Text, path) };
        match scalars::words(text) {
            Ok((words, cut)) => {
                if let Some(operator) = cut {
                    let diagnostic = Diagnostic::warning(format!(
                        "what follows `{operator}` is dropped: no shell runs this command"
                    ))
                    .at(path)
                    .mark(self.files.mark(node.span, ""))
                    .help("name the shell: [\"sh\", \"-c\", \"...\"]");
                    self.diagnostics.push(diagnostic);
                }
                let words = words.into_iter().map(|word| Node::text(word, node.span)).collect();
                Some(Node::new(Value::List(words), node.span))
            }
            Err(fault) => self.tell(node.span, path, fault.to_string()),
        }
    }

    fn test(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let span = node.span;
        match node.value {
            Value::Text(_) => Some(Node::new(Value::List(vec![Node::text("CMD-SHELL", span), node]), span)),
            _ => self.list(node, Form::Text, path),
        }
    }

    // ---- lists ----

    fn list(&mut self, node: Node, item: Form, path: &Path<'_>) -> Option<Node> {
        self.list_of(node, item, path)
    }

    fn list_of(&mut self, node: Node, item: Form, path: &Path<'_>) -> Option<Node> {
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

    fn scalars(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
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

    fn pairs(&mut self, node: Node, absent: Absent, path: &Path<'_>) -> Option<Node> {
        let missing = |absent| match absent {
            Absent::Inherit => Value::Null,
            Absent::Empty => Value::Text(String::new()),
        };
        let mut found = Map::new();
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

    fn options(&mut self, node: Node, values: OptionValues, path: &Path<'_>) -> Option<Node> {
        let Value::Map(map) = node.value else { return self.expected(&node, "a mapping", path) };
        let mut found = Map::new();
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
                _ if values == OptionValues::ScalarOrList => {
                    let item = Node { value: text(&value.value), ..value };
                    Node::new(Value::List(vec![item]), value.span)
                }
                ref scalar => Node { value: text(scalar), ..value },
            };
            found.insert(key, value);
        }
        Some(Node::new(Value::Map(found), node.span))
    }

    /// Canonically a list of `host=ip`.
    fn hosts(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
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

    // ---- mappings ----

    fn object(&mut self, node: Node, table: Table, extensible: bool, path: &Path<'_>) -> Option<Node> {
        let Value::Map(map) = node.value else { return self.expected(&node, "a mapping", path) };
        let mut found = Map::with_capacity(map.len());
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
    fn external_name(&mut self, node: &mut Node, path: &Path<'_>) {
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
    fn unknown_key(
        &mut self,
        key: &Key,
        value: &Node,
        table: Table,
        path: &Path<'_>,
    ) -> Option<&'static str> {
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

    fn keyed(&mut self, node: Node, item: Form, path: &Path<'_>) -> Option<Node> {
        let Value::Map(map) = node.value else { return self.expected(&node, "a mapping", path) };
        let mut found = Map::with_capacity(map.len());
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

    fn name_fits(&mut self, key: &Key, path: &Path<'_>) -> bool {
        let fits = !key.text.is_empty()
            && key.text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'));
        if !fits {
            let message = format!("`{}` is no valid name: letters, digits, `.`, `_` and `-` only", key.text);
            self.tell(key.span, &path.key(&key.text), message);
        }
        fits
    }

    fn names(&mut self, node: Node, item: Form, default: NameDefault, path: &Path<'_>) -> Option<Node> {
        let span = node.span;
        match node.value {
            Value::List(items) => {
                let mut found = Map::new();
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

    // ---- short forms ----

    fn short(&mut self, node: Node, short: Short, table: Table, path: &Path<'_>) -> Option<Node> {
        let span = node.span;
        if node.as_map().is_some() {
            let closed = matches!(short, Short::EnvFile | Short::Extends);
            let mut done = self.object(node, table, !closed, path)?;
            complete(&mut done, short);
            return Some(done);
        }
        if short == Short::Ulimit && !matches!(node.value, Value::List(_)) {
            return self.integer(&node, i64::MIN.into(), i64::MAX.into(), path);
        }
        let Value::Text(text) = &node.value else {
            return self.expected(&node, "a string or a mapping", path);
        };
        let mut done = Node::map(span);
        match short {
            Short::Build => done.set("context", Value::Text(text.clone())),
            Short::FileMount => done.set("source", Value::Text(text.clone())),
            Short::EnvFile => done.set("path", Value::Text(text.clone())),
            Short::Extends => done.set("service", Value::Text(text.clone())),
            Short::Ulimit => return None,
            Short::Device => {
                let parts: Vec<&str> = text.split(':').collect();
                let (source, target, permissions) = match parts.as_slice() {
                    [source] => (*source, *source, "rwm"),
                    [source, target] => (*source, *target, "rwm"),
                    [source, target, permissions] => (*source, *target, *permissions),
                    _ => {
                        let message = format!("`{text}` is not of the form `source[:target[:permissions]]`");
                        return self.tell(span, path, message);
                    }
                };
                for (key, value) in [("source", source), ("target", target), ("permissions", permissions)] {
                    done.set(key, Value::Text(value.to_owned()));
                }
            }
            Short::Volume => match mounts::parse(text) {
                Ok(mount) => {
                    for unknown in &mount.unknown {
                        let diagnostic = Diagnostic::warning(format!("`{unknown}` is no option of a mount"))
                            .at(path)
                            .mark(self.files.mark(span, ""))
                            .nearest(
                                unknown,
                                ["ro", "rw", "nocopy", "rprivate", "rshared", "rslave", "z", "Z"],
                            );
                        self.diagnostics.push(diagnostic);
                    }
                    done = mount_node(&mount, span);
                }
                Err(message) => return self.tell(span, path, format!("`{text}` is no mount: {message}")),
            },
        }
        complete(&mut done, short);
        Some(done)
    }

    fn ports(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let variable = |item: &Node| item.as_str().is_some_and(|text| text.contains('$'));
        if self.raw && node.items().iter().any(variable) {
            return Some(node);
        }
        let Value::List(items) = node.value else { return self.expected(&node, "a list", path) };
        let mut found = Vec::new();
        for (at, item) in items.into_iter().enumerate() {
            let path = path.item(at);
            let (span, edit) = (item.span, item.edit);
            match &item.value {
                _ if edit == Edit::Reset => found.push(item),
                Value::Map(_) => {
                    if let Some(port) = self.long_port(item, &path) {
                        found.push(Node { edit, ..port });
                    }
                }
                Value::Text(_) | Value::Int(_) => {
                    let text = item.value.scalar_text().unwrap_or_default();
                    match ports::parse(&text) {
                        Ok(ports) => {
                            if ports::is_sexagesimal(&text) && self.is_plain(span, &text) {
                                self.sexagesimal(&text, span, &path);
                            }
                            found.extend(ports.iter().map(|port| Node { edit, ..port_node(port, span) }));
                        }
                        Err(message) => {
                            let mut diagnostic = Diagnostic::error(format!("`{text}` is no port: {message}"))
                                .at(path)
                                .mark(self.files.mark(span, ""));
                            if matches!(item.value, Value::Int(_)) {
                                diagnostic =
                                    diagnostic.help("put it in quotes: YAML takes some ports for numbers");
                            }
                            self.diagnostics.push(diagnostic);
                        }
                    }
                }
                _ => drop(self.expected(&item, "a string or a mapping", &path)),
            }
        }
        Some(Node::new(Value::List(found), node.span))
    }

    fn sexagesimal(&mut self, text: &str, span: Span, path: &Path<'_>) {
        let told = Diagnostic::warning(format!("`{text}` without quotes is a number of base 60 to YAML 1.1"))
            .at(path)
            .mark(self.files.mark(span, ""))
            .help(format!("put it in quotes, so that every reader takes it for a port: \"{text}\""));
        self.diagnostics.push(told);
    }

    /// Whether a text stands in the file as it is, without quotes.
    fn is_plain(&self, span: Span, text: &str) -> bool {
        let line = self.files.text(span.file).lines().nth((span.line as usize).saturating_sub(1));
        let words = line.unwrap_or_default().chars().skip((span.column as usize).saturating_sub(1));
        words.take(span.length as usize).eq(text.chars())
    }

    fn long_port(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let mut port = self.object(node, PORT, true, path)?;
        if let Some(published) = port.get_mut("published") {
            match &published.value {
                Value::Text(_) | Value::Null => {}
                Value::Int(number) => published.value = Value::Text(number.to_string()),
                _ => {
                    let published = published.clone();
                    return self.expected(&published, "a string or an integer", &path.key("published"));
                }
            }
        }
        for (key, default) in [("mode", "ingress"), ("protocol", "tcp")] {
            if port.get(key).is_none() {
                port.set(key, Value::Text(default.to_owned()));
            }
        }
        Some(port)
    }

    fn gpus(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        match &node.value {
            // Stays as it is until all files are merged: a list replaces it.
            Value::Text(text) if text == "all" => Some(node),
            Value::List(_) => self.list_of(node, Form::Object(attributes::DEVICE_REQUEST), path),
            _ => self.expected(&node, "`all` or a list of devices", path),
        }
    }

    fn external(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        match &node.value {
            Value::Map(_) => self.object(node, EXTERNAL, true, path),
            _ => self.flag(node, path),
        }
    }

    fn include(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        let Value::List(items) = node.value else { return self.expected(&node, "a list", path) };
        let mut found = Vec::new();
        for (at, item) in items.into_iter().enumerate() {
            let path = path.item(at);
            let span = item.span;
            match &item.value {
                Value::Text(_) => {
                    let mut long = Node::map(span);
                    long.set("path", Value::List(vec![item]));
                    found.push(long);
                }
                Value::Map(_) => found.extend(self.object(item, INCLUDE, false, &path)),
                _ => drop(self.expected(&item, "a string or a mapping", &path)),
            }
        }
        Some(Node::new(Value::List(found), node.span))
    }
}

/// The long form of `external` in the older files.
static EXTERNAL: Table = &[attributes::row_of("name", Form::Text)];

static INCLUDE: Table = &[
    attributes::row_of("path", Form::StringOrList),
    attributes::row_of("env_file", Form::StringOrList),
    attributes::row_of("project_directory", Form::Text),
];

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

/// Forms whose value is one scalar: a text with a variable may stand for each of them.
const fn is_scalar(form: Form) -> bool {
    matches!(
        form,
        Form::Choice(_)
            | Form::PullPolicy
            | Form::ContainerName
            | Form::Flag
            | Form::Integer(..)
            | Form::Whole
            | Form::Number
            | Form::Mode
            | Form::Bytes
            | Form::WholeBytes
            | Form::BytesText
            | Form::Duration
            | Form::External
            | Form::Short(Short::Ulimit, _)
    )
}

/// Further forms whose value is not rewritten while variables stand in it.
const fn is_written(form: Form) -> bool {
    matches!(
        form,
        Form::Words
            | Form::Test
            | Form::Pairs(_)
            | Form::Options(_)
            | Form::Hosts
            | Form::Scalars
            | Form::TextOrFlag
            | Form::Ports
    )
}

const fn wanted(form: Form) -> &'static str {
    match form {
        Form::Object(_) | Form::Closed(_) => "a mapping",
        Form::Short(..) => "a string or a mapping",
        _ => "a string",
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

/// Defaults that belong to the long form itself.
fn complete(node: &mut Node, short: Short) {
    match short {
        Short::EnvFile if node.get("required").is_none() => node.set("required", Value::Bool(true)),
        Short::Volume => {
            if let Some(target) = node.get_mut("target")
                && let Value::Text(text) = &mut target.value
            {
                *text = clean(text);
            }
        }
        _ => {}
    }
}

fn mount_node(mount: &mounts::MountText, span: Span) -> Node {
    let text = |value: &str| Value::Text(value.to_owned());
    let mut node = Node::map(span);
    node.set("type", text(if mount.is_bind() { "bind" } else { "volume" }));
    if let Some(source) = &mount.source {
        node.set("source", text(source));
    }
    node.set("target", text(&mount.target));
    if mount.read_only {
        node.set("read_only", Value::Bool(true));
    }
    let mut bind = Node::map(span);
    if let Some(selinux) = &mount.selinux {
        bind.set("selinux", text(selinux));
    }
    if let Some(propagation) = &mount.propagation {
        bind.set("propagation", text(propagation));
    }
    if mount.is_bind() {
        bind.set("create_host_path", Value::Bool(true));
    }
    if bind.as_map().is_some_and(|map| !map.is_empty()) {
        node.set("bind", bind.value);
    }
    if !mount.bare && !mount.is_bind() || mount.nocopy {
        let mut volume = Node::map(span);
        if mount.nocopy {
            volume.set("nocopy", Value::Bool(true));
        }
        node.set("volume", volume.value);
    }
    node
}

fn port_node(port: &ports::PortText, span: Span) -> Node {
    let mut node = Node::map(span);
    node.set("mode", Value::Text("ingress".to_owned()));
    if let Some(ip) = &port.host_ip {
        node.set("host_ip", Value::Text(ip.clone()));
    }
    node.set("target", Value::Int(port.target.into()));
    if let Some(published) = &port.published {
        node.set("published", Value::Text(published.clone()));
    }
    node.set("protocol", Value::Text(port.protocol.clone()));
    node
}

/// A path of the container without `.`, `..`, doubled and trailing slashes.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}
