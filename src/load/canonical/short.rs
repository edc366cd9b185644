//! Short forms of mappings: mounts, ports, devices, included files.

use super::{
    Canonical, Diagnostic, Edit, Form, Node, PORT, Path, Short, Span, Table, Value, attributes, clean,
    mounts, ports,
};

impl Canonical<'_> {
    pub(super) fn short(&mut self, node: Node, short: Short, table: Table, path: &Path<'_>) -> Option<Node> {
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

    pub(super) fn ports(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
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

    pub(super) fn sexagesimal(&mut self, text: &str, span: Span, path: &Path<'_>) {
        let told = Diagnostic::warning(format!("`{text}` without quotes is a number of base 60 to YAML 1.1"))
            .at(path)
            .mark(self.files.mark(span, ""))
            .help(format!("put it in quotes, so that every reader takes it for a port: \"{text}\""));
        self.diagnostics.push(told);
    }

    /// Whether a text stands in the file as it is, without quotes.
    pub(super) fn is_plain(&self, span: Span, text: &str) -> bool {
        let line = self.files.text(span.file).lines().nth((span.line as usize).saturating_sub(1));
        let words = line.unwrap_or_default().chars().skip((span.column as usize).saturating_sub(1));
        words.take(span.length as usize).eq(text.chars())
    }

    pub(super) fn long_port(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
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

    pub(super) fn gpus(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        match &node.value {
            // Stays as it is until all files are merged: a list replaces it.
            Value::Text(text) if text == "all" => Some(node),
            Value::List(_) => self.list_of(node, Form::Object(attributes::DEVICE_REQUEST), path),
            _ => self.expected(&node, "`all` or a list of devices", path),
        }
    }

    pub(super) fn external(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
        match &node.value {
            Value::Map(_) => self.object(node, EXTERNAL, true, path),
            _ => self.flag(node, path),
        }
    }

    pub(super) fn include(&mut self, node: Node, path: &Path<'_>) -> Option<Node> {
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
