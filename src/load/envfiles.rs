//! `env_file` and `label_file` of each service, read into its environment and labels.

use std::path::Path as FilePath;

use super::{
    compose::Loader,
    diagnostic::Diagnostic,
    discover::{self, Variables, shown},
    dotenv::{self, Lookup},
    tree::{Key, Map, Node, Value},
};

impl Loader<'_> {
    /// Reads the files of every service; `environment:` and `labels:` win over them.
    pub fn read_service_files(&mut self, model: &mut Node, environment: &Variables) {
        let Some(services) = model.get_mut("services").and_then(Node::as_map_mut) else { return };
        for (key, service) in services {
            let path = format!("services.{key}");
            if !self.options.no_env_resolution {
                self.read_env_files(service, environment, &path);
            }
            self.read_label_files(service, &path);
        }
    }

    fn read_env_files(&mut self, service: &mut Node, environment: &Variables, path: &str) {
        let Some(files) = service.as_map_mut().and_then(|map| map.shift_remove("env_file")) else { return };
        let mut found = Map::default();
        for file in files.items() {
            let required = file.get("required").is_none_or(|node| node.value == Value::Bool(true));
            let raw = match file.get_str("format") {
                None | Some("") => false,
                Some("raw") => true,
                Some(other) => {
                    let told = Diagnostic::error(format!("`{other}` is no format of an env_file"))
                        .at(format_args!("{path}.env_file"))
                        .mark(self.files.mark(file.get("format").map(|n| n.span).unwrap_or_default(), ""))
                        .help("known is `raw`");
                    self.diagnostics.push(told);
                    continue;
                }
            };
            let earlier = found.clone();
            let outer = |name: &str| environment.get(name).cloned();
            let earlier = |name: &str| earlier.get(name).and_then(Node::as_str).map(ToOwned::to_owned);
            let Some(node) = file.get("path") else { continue };
            self.read_into(&mut found, node, required, raw, (&outer, &earlier), &format!("{path}.env_file"));
        }
        lay_on(service, "environment", found);
    }

    fn read_label_files(&mut self, service: &mut Node, path: &str) {
        let Some(files) = service.as_map_mut().and_then(|map| map.shift_remove("label_file")) else { return };
        let mut found = Map::default();
        for file in files.items() {
            self.read_into(
                &mut found,
                file,
                true,
                false,
                (&dotenv::nothing, &dotenv::nothing),
                &format!("{path}.label_file"),
            );
        }
        lay_on(service, "labels", found);
    }

    fn read_into(
        &mut self,
        found: &mut Map,
        node: &Node,
        required: bool,
        raw: bool,
        (outer, earlier): (Lookup<'_>, Lookup<'_>),
        path: &str,
    ) {
        let name = node.as_str().unwrap_or_default();
        let file = self.root.join(FilePath::new(name));
        if !required && !self.source.is_file(&file) {
            return;
        }
        let shown = shown(&file, &self.here);
        let text = match self.source.read(&file) {
            Ok(text) => text,
            Err(error) => {
                let what = path.rsplit('.').next().unwrap_or("file");
                let told = discover::unreadable(what, &shown, &error).at(path);
                self.diagnostics.push(told.mark(self.files.mark(node.span, "named here")));
                return;
            }
        };
        let parsed = if raw { dotenv::parse_raw(&text, outer) } else { dotenv::parse(&text, outer, earlier) };
        match parsed {
            Ok(variables) => {
                if let Some(trace) = &mut self.trace {
                    trace.file(node.span, &shown);
                }
                for (name, value) in variables {
                    found.insert(Key::new(name, node.span), Node::text(value, node.span));
                }
            }
            Err(fault) => {
                let told = discover::variable_fault(&mut self.files, &shown, &text, fault);
                self.diagnostics.push(told.at(path).mark(self.files.mark(node.span, "named here")));
            }
        }
    }
}

/// Values of files below those that the service has itself.
fn lay_on(service: &mut Node, key: &str, mut found: Map) {
    let own = service.as_map_mut().and_then(|map| map.shift_remove(key));
    if let Some(Value::Map(own)) = own.map(|node| node.value) {
        for (key, value) in own {
            found.insert(key, value);
        }
    }
    if !found.is_empty() {
        service.set(key, Value::Map(found));
    }
}
