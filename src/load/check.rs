//! Whether a model holds together: what is required is there, references lead somewhere, attributes that
//! exclude each other do not meet. Tells everything it finds.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    attributes::{self, Form, Merge, PROJECT, Table},
    canonical::clean,
    diagnostic::{Diagnostic, Files, Told},
    path::Path,
    tree::{Map, Node, Span, Value},
};

/// What a check reads and where it tells.
#[derive(Debug)]
pub struct Check<'a> {
    pub files: &'a Files,
    pub diagnostics: &'a mut Told,
}

impl Check<'_> {
    fn tell(&mut self, span: Span, path: impl std::fmt::Display, message: impl Into<String>) {
        let files = self.files;
        self.diagnostics.error(|| Diagnostic::error(message).at(path).mark(files.mark(span, "")));
    }

    // ---- completeness, by the table ----

    /// Required keys, values that may not be null, items listed twice.
    pub fn complete(&mut self, model: &Node) {
        self.complete_table(model, PROJECT, &Path::Root);
    }

    fn complete_node(&mut self, node: &Node, form: Form, rule: Merge, path: &Path<'_>) {
        if node.is_null() {
            let told = self.files.place(node.span);
            let wrong = self.diagnostics.iter().any(|other| told.is_some() && other.place() == told.as_ref());
            if !may_be_null(form) && !wrong {
                let wanted = match form {
                    Form::Object(_) | Form::Closed(_) | Form::Keyed(_) => "a mapping",
                    Form::Pairs(_) | Form::Options(_) | Form::Names(..) => "a mapping or a list",
                    Form::List(_) | Form::Strings | Form::Scalars | Form::Ports => "a list",
                    Form::StringOrList | Form::OneOrList => "a list",
                    _ => "a value",
                };
                let message = format!("`{}` has no value; it must be {wanted}", path.name());
                self.tell(node.span, path, message);
            }
            return;
        }
        match (&node.value, form) {
            (Value::List(items), form) => {
                if rule == Merge::Distinct {
                    self.distinct(items, path);
                }
                let item_form = match form {
                    Form::List(item) => *item,
                    _ => Form::Any,
                };
                for (at, item) in items.iter().enumerate() {
                    self.complete_node(item, item_form, Merge::Default, &path.item(at));
                }
            }
            (Value::Map(map), Form::Keyed(item) | Form::Names(item, _)) => {
                for (key, value) in map {
                    self.complete_node(value, *item, Merge::Default, &path.key(&key.text));
                }
            }
            (
                Value::Map(_),
                Form::Object(table) | Form::ObjectOrNull(table) | Form::Closed(table) | Form::Short(_, table),
            ) => self.complete_table(node, table, path),
            _ => {}
        }
    }

    fn complete_table(&mut self, node: &Node, table: Table, path: &Path<'_>) {
        let Some(map) = node.as_map() else { return };
        for row in table.iter().filter(|row| row.required && !map.contains_key(row.name)) {
            self.tell(node.span, path, format!("`{}` needs the key `{}`", path.name(), row.name));
        }
        for (key, value) in map {
            if let Some(row) = attributes::find(table, &key.text) {
                self.complete_node(value, row.form, row.merge, &path.key(&key.text));
            }
        }
    }

    fn distinct(&mut self, items: &[Node], path: &Path<'_>) {
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        for (at, item) in items.iter().enumerate() {
            let Some(text) = item.as_str() else { continue };
            match seen.get(text) {
                Some(first) => {
                    let told = Diagnostic::error(format!("`{text}` is listed twice"))
                        .at(path.item(at))
                        .mark(self.files.mark(item.span, ""))
                        .mark(self.files.mark(*first, "first listed here"));
                    self.diagnostics.push(told);
                }
                None => drop(seen.insert(text, item.span)),
            }
        }
    }

    // ---- consistency ----

    /// Every rule that ties values together. `disabled` are services whose profiles are off.
    pub fn consistent(&mut self, model: &Node, disabled: &Map) {
        let empty = Map::default();
        let services = model.get("services").and_then(Node::as_map).unwrap_or(&empty);
        for (key, service) in services {
            if service.is_null() {
                continue;
            }
            let path = format!("services.{key}");
            self.service(service, key.span, &path);
            self.references(model, service, &path);
            self.dependencies(&key.text, service, services, disabled, &path);
        }
        self.container_names(services);
        self.cycles(services);
        self.resources(model);
    }

    fn service(&mut self, service: &Node, named_at: Span, path: &str) {
        let has = |key: &str| service.get(key).is_some();
        let has_image = has("image") && service.get_str("image") != Some("");
        if !has_image && !has("build") && !has("provider") {
            let told = Diagnostic::error("this service has neither an `image` nor a `build`")
                .at(path)
                .mark(self.files.mark(named_at, ""));
            self.diagnostics.push(told);
        }
        self.image_name(service, path);
        if let Some(mode) = service.get("network_mode").filter(|_| {
            service.get("networks").and_then(Node::as_map).is_some_and(|networks| !networks.is_empty())
        }) {
            let message = "`network_mode` and `networks` exclude each other";
            let other = service.get("networks").map(|node| node.span).unwrap_or_default();
            let told = Diagnostic::error(message)
                .at(format_args!("{path}.network_mode"))
                .mark(self.files.mark(mode.span, ""))
                .mark(self.files.mark(other, "`networks` stands here"));
            self.diagnostics.push(told);
        }
        if let Some(build) = service.get("build")
            && build.get("dockerfile_inline").is_some()
            && let Some(dockerfile) = build.get("dockerfile")
        {
            self.tell(
                dockerfile.span,
                format_args!("{path}.build.dockerfile"),
                "`dockerfile` and `dockerfile_inline` exclude each other",
            );
        }
        self.healthcheck(service, path);
        self.twins(service, path);
        self.mount_targets(service, path);
        self.bind_sources(service, path);
        self.device_requests(service, path);
        self.watch(service, path);
        self.scale(service, path);
        self.platforms(service, path);
    }

    fn image_name(&mut self, service: &Node, path: &str) {
        let Some(node) = service.get("image") else { return };
        let text = node.as_str().unwrap_or_default();
        if text.chars().any(|c| c.is_ascii_uppercase())
            && !text.contains('$')
            && let Err(error) = text.parse::<crate::model::ImageRef>()
        {
            let told = Diagnostic::warning(error.to_string())
                .at(format_args!("{path}.image"))
                .mark(self.files.mark(node.span, ""))
                .help(format!("write `{}`", text.to_lowercase()));
            self.diagnostics.push(told);
        }
    }

    fn healthcheck(&mut self, service: &Node, path: &str) {
        let Some(test) = service.get("healthcheck").and_then(|check| check.get("test")) else { return };
        let Some(first) = test.items().first() else { return };
        let word = first.as_str().unwrap_or_default();
        if !matches!(word, "NONE" | "CMD" | "CMD-SHELL") {
            let told = Diagnostic::error("a health check as a list begins with NONE, CMD or CMD-SHELL")
                .at(format_args!("{path}.healthcheck.test"))
                .mark(self.files.mark(first.span, ""))
                .help(format!("write [\"CMD\", \"{word}\", ...]"));
            self.diagnostics.push(told);
        }
    }

    /// Limits that can be written in two places must agree.
    fn twins(&mut self, service: &Node, path: &str) {
        let deploy = service.get("deploy");
        let within = |section: &str, key: &str| deploy?.get("resources")?.get(section)?.get(key);
        let pairs = [
            ("cpus", within("limits", "cpus"), "limits.cpus"),
            ("mem_limit", within("limits", "memory"), "limits.memory"),
            ("pids_limit", within("limits", "pids"), "limits.pids"),
            ("mem_reservation", within("reservations", "memory"), "reservations.memory"),
        ];
        let mut wrong = Vec::new();
        for (key, twin, name) in pairs {
            if let (Some(own), Some(twin)) = (service.get(key), twin)
                && number(own).as_deref() != Some("0")
                && number(own) != number(twin)
            {
                wrong.push((own.span, twin.span, key, format!("deploy.resources.{name}")));
            }
        }
        if let (Some(own), Some(twin)) =
            (service.get("scale"), deploy.and_then(|deploy| deploy.get("replicas")))
            && number(own) != number(twin)
        {
            wrong.push((own.span, twin.span, "scale", "deploy.replicas".to_owned()));
        }
        for (own, twin, key, name) in wrong {
            let told = Diagnostic::error(format!("`{key}` and `{name}` say different things"))
                .at(format_args!("{path}.{key}"))
                .mark(self.files.mark(own, ""))
                .mark(self.files.mark(twin, format!("`{name}` stands here")));
            self.diagnostics.push(told);
        }
    }

    fn mount_targets(&mut self, service: &Node, path: &str) {
        let mut seen: BTreeMap<String, Span> = BTreeMap::new();
        let volumes = service.get("volumes").map(Node::items).unwrap_or_default();
        let tmpfs = service.get("tmpfs").map(Node::items).unwrap_or_default();
        let of_volume = volumes.iter().map(|node| (node.get_str("target").map(clean), node, "volumes"));
        let of_tmpfs = tmpfs.iter().map(|node| {
            (node.as_str().map(|text| clean(text.split(':').next().unwrap_or(text))), node, "tmpfs")
        });
        let mut wrong = Vec::new();
        for (target, node, key) in of_volume.chain(of_tmpfs) {
            let span = node.get("target").map_or(node.span, |target| target.span);
            let Some(target) = target.filter(|target| !target.is_empty()) else {
                wrong.push((span, key, "this mount has no target".to_owned(), None));
                continue;
            };
            if let Some(first) = seen.get(&target) {
                wrong.push((span, key, format!("`{target}` is mounted twice"), Some(*first)));
            } else {
                seen.insert(target, span);
            }
        }
        for (span, key, message, first) in wrong {
            let first = first.and_then(|first| self.files.mark(first, "first mounted here"));
            let told = Diagnostic::error(message)
                .at(format_args!("{path}.{key}"))
                .mark(self.files.mark(span, ""))
                .mark(first);
            self.diagnostics.push(told);
        }
    }

    fn bind_sources(&mut self, service: &Node, path: &str) {
        let volumes = service.get("volumes").map(Node::items).unwrap_or_default();
        for (at, mount) in volumes.iter().enumerate() {
            let path = format!("{path}.volumes[{at}]");
            if mount.get_str("type") == Some("bind") && mount.get_str("source").is_none_or(str::is_empty) {
                self.tell(mount.span, &path, "a bind mount needs a `source`");
            }
            if let Some(size) = mount.get("tmpfs").and_then(|tmpfs| tmpfs.get("size"))
                && size.as_str().is_some_and(|size| size.starts_with('-'))
            {
                self.tell(size.span, format_args!("{path}.tmpfs.size"), "a size cannot be negative");
            }
        }
    }

    fn device_requests(&mut self, service: &Node, path: &str) {
        let reserved = || service.get("deploy")?.get("resources")?.get("reservations")?.get("devices");
        let requests = [(reserved(), "deploy.resources.reservations.devices"), (service.get("gpus"), "gpus")];
        for (list, key) in requests {
            for (at, request) in list.map(Node::items).unwrap_or_default().iter().enumerate() {
                let path = format!("{path}.{key}[{at}]");
                if key != "gpus" && request.get("capabilities").is_none() {
                    self.tell(request.span, &path, "a request for devices needs `capabilities`");
                }
                if let (Some(count), Some(_)) = (request.get("count"), request.get("device_ids")) {
                    self.tell(count.span, &path, "`count` and `device_ids` exclude each other");
                }
            }
        }
    }

    fn watch(&mut self, service: &Node, path: &str) {
        let rules = service.get("develop").and_then(|develop| develop.get("watch"));
        for (at, rule) in rules.map(Node::items).unwrap_or_default().iter().enumerate() {
            let action = rule.get_str("action").unwrap_or_default();
            if action.starts_with("sync") && rule.get("target").is_none() {
                self.tell(
                    rule.span,
                    format_args!("{path}.develop.watch[{at}]"),
                    format!("the action `{action}` needs a `target`"),
                );
            }
        }
    }

    fn scale(&mut self, service: &Node, path: &str) {
        let replicas = service.get("deploy").and_then(|deploy| deploy.get("replicas"));
        let Some(node) = service.get("scale").or(replicas) else { return };
        let Value::Int(scale) = node.value else { return };
        if scale < 0 {
            self.tell(node.span, format_args!("{path}.scale"), "a number of containers cannot be negative");
        }
        if scale > 1
            && let Some(name) = service.get("container_name")
        {
            let told = Diagnostic::error(format!(
                "{scale} containers cannot all have the name `{}`",
                name.as_str().unwrap_or_default()
            ))
            .at(format_args!("{path}.container_name"))
            .mark(self.files.mark(name.span, ""))
            .mark(self.files.mark(node.span, "their number stands here"));
            self.diagnostics.push(told);
        }
    }

    fn platforms(&mut self, service: &Node, path: &str) {
        let Some(platforms) = service.get("build").and_then(|build| build.get("platforms")) else { return };
        let Some(platform) = service.get("platform") else { return };
        if !platforms.items().is_empty()
            && !platforms.items().iter().any(|item| item.as_str() == platform.as_str())
        {
            let message = "`build.platforms` does not contain the `platform` of the service";
            self.tell(platforms.span, format_args!("{path}.build.platforms"), message);
        }
    }

    fn references(&mut self, model: &Node, service: &Node, path: &str) {
        let defined = |kind: &str| model.get(kind).and_then(Node::as_map);
        let mut wanted: Vec<(&str, &str, String, Span)> = Vec::new();
        for kind in ["networks", "models"] {
            for key in service.get(kind).and_then(Node::as_map).into_iter().flat_map(Map::keys) {
                wanted.push((kind, kind, key.text.clone(), key.span));
            }
        }
        let mut sources = |key: &'static str, kind: &'static str, node: Option<&Node>| {
            for item in node.map(Node::items).unwrap_or_default() {
                let named = kind != "volumes" || item.get_str("type") == Some("volume");
                if let Some(source) = item.get("source").filter(|_| named)
                    && let Some(name) = source.as_str().filter(|name| !name.is_empty())
                {
                    wanted.push((key, kind, name.to_owned(), source.span));
                }
            }
        };
        sources("volumes", "volumes", service.get("volumes"));
        sources("secrets", "secrets", service.get("secrets"));
        sources("configs", "configs", service.get("configs"));
        sources("build.secrets", "secrets", service.get("build").and_then(|build| build.get("secrets")));
        for (key, kind, name, span) in wanted {
            let own = kind == "networks" && name.starts_with("x-");
            let is_known = !own && defined(kind).is_some_and(|known| known.contains_key(name.as_str()));
            if name.contains('$') || is_known {
                continue;
            }
            let noun = kind.trim_end_matches('s');
            let files = self.files;
            self.diagnostics.error(|| {
                let told = Diagnostic::error(format!("there is no {noun} `{name}`"))
                    .at(format_args!("{path}.{key}"))
                    .mark(files.mark(span, ""));
                let known = defined(kind).into_iter().flat_map(Map::keys).map(|key| key.text.as_str());
                match super::diagnostic::nearest(&name, known) {
                    _ if own => told.help(
                        "a service takes names that begin with `x-` for keys of your own; rename the network",
                    ),
                    Some(near) => told.help(format!("did you mean `{near}`?")),
                    None => told.help(format!("define it below the top-level `{kind}:`")),
                }
            });
        }
    }

    fn dependencies(&mut self, name: &str, service: &Node, services: &Map, disabled: &Map, path: &str) {
        for (key, dependency) in service.get("depends_on").and_then(Node::as_map).into_iter().flatten() {
            let target = key.text.as_str();
            if services.contains_key(target) {
                continue;
            }
            let required = dependency.get("required").is_none_or(|node| node.value == Value::Bool(true));
            let off = disabled.get(target);
            if !required && off.is_some() {
                continue;
            }
            let files = self.files;
            let tell = || match off {
                Some(service) => {
                    let profiles = service.get("profiles").map(Node::items).unwrap_or_default();
                    let names: Vec<_> = profiles.iter().filter_map(Node::as_str).collect();
                    Diagnostic::error(format!("`{name}` needs `{target}`, which no active profile turns on"))
                        .help(format!("turn on one of its profiles: {}", names.join(", ")))
                }
                None => Diagnostic::error(format!("there is no service `{target}`"))
                    .nearest(target, services.keys().map(|key| key.text.as_str())),
            };
            self.diagnostics
                .error(|| tell().at(format_args!("{path}.depends_on")).mark(files.mark(key.span, "")));
        }
    }

    fn container_names(&mut self, services: &Map) {
        let mut seen: BTreeMap<&str, Span> = BTreeMap::new();
        for (key, service) in services {
            let Some(node) = service.get("container_name") else { continue };
            let Some(name) = node.as_str() else { continue };
            if let Some(first) = seen.insert(name, node.span) {
                let told = Diagnostic::error(format!("two services have the container name `{name}`"))
                    .at(format_args!("services.{key}.container_name"))
                    .mark(self.files.mark(node.span, ""))
                    .mark(self.files.mark(first, "the first one"));
                self.diagnostics.push(told);
            }
        }
    }

    fn cycles(&mut self, services: &Map) {
        let needs = |name: &str| -> Vec<(&str, Span)> {
            let depends_on = services.get(name).and_then(|service| service.get("depends_on")?.as_map());
            depends_on.into_iter().flat_map(Map::keys).map(|key| (key.text.as_str(), key.span)).collect()
        };
        let mut done: BTreeSet<&str> = BTreeSet::new();
        for start in services.keys() {
            // A walk with a stack of its own: chains may be thousands long.
            let mut way: Vec<Stop<'_>> = Vec::new();
            let mut on_way: BTreeSet<&str> = BTreeSet::new();
            if done.contains(start.text.as_str()) {
                continue;
            }
            way.push((&start.text, start.span, needs(&start.text)));
            on_way.insert(&start.text);
            while let Some((name, _, rest)) = way.last_mut() {
                let name = *name;
                let Some((next, span)) = rest.pop() else {
                    done.insert(name);
                    on_way.remove(name);
                    way.pop();
                    continue;
                };
                if on_way.contains(next) {
                    let from = way.iter().position(|(name, ..)| *name == next).unwrap_or_default();
                    let circle: Vec<(&str, Span)> =
                        way[from..].iter().map(|(name, span, _)| (*name, *span)).collect();
                    self.cycle(&circle, next, span);
                    return;
                }
                if !done.contains(next) && services.contains_key(next) {
                    on_way.insert(next);
                    way.push((next, span, needs(next)));
                }
            }
        }
    }

    fn cycle(&mut self, circle: &[(&str, Span)], back: &str, back_span: Span) {
        let names: Vec<&str> = circle.iter().map(|(name, _)| *name).chain([back]).collect();
        let mut told = Diagnostic::error(format!("dependency cycle: {}", names.join(" -> ")))
            .at(format_args!("services.{back}.depends_on"));
        let arrows = circle.iter().skip(1).map(|(_, span)| *span).chain([back_span]);
        for (pair, span) in names.windows(2).zip(arrows) {
            told = told.mark(self.files.mark(span, format!("`{}` needs `{}`", pair[0], pair[1])));
        }
        self.diagnostics.push(told);
    }

    fn resources(&mut self, model: &Node) {
        let entries = |kind: &str| model.get(kind).and_then(Node::as_map).into_iter().flatten();
        for (key, volume) in entries("volumes") {
            if volume.get("external").is_some_and(|node| node.value == Value::Bool(true)) {
                for other in ["driver", "driver_opts", "labels"] {
                    if let Some(node) = volume.get(other) {
                        self.tell(
                            node.span,
                            format_args!("volumes.{key}.{other}"),
                            format!("an external volume is not made here: `{other}` has no effect on it"),
                        );
                    }
                }
            }
        }
        for (kind, ways) in
            [("secrets", &["file", "environment"][..]), ("configs", &["file", "environment", "content"])]
        {
            for (key, resource) in entries(kind) {
                let external = resource.get("external").is_some_and(|node| node.value == Value::Bool(true));
                let given: Vec<_> = ways.iter().filter(|way| resource.get(way).is_some()).collect();
                let ways: Vec<_> = ways.iter().map(|way| format!("`{way}`")).collect();
                if !external && given.is_empty() {
                    let message = format!("`{key}` needs one of {}, or `external: true`", ways.join(", "));
                    self.tell(key.span, format_args!("{kind}.{key}"), message);
                }
                if given.len() > 1 {
                    let message = format!("`{key}` has more than one of {}", ways.join(", "));
                    self.tell(key.span, format_args!("{kind}.{key}"), message);
                }
            }
        }
    }
}

/// A service on the way of a walk: its name, where it was named, and what it needs that is still to be seen.
type Stop<'a> = (&'a str, Span, Vec<(&'a str, Span)>);

fn number(node: &Node) -> Option<String> {
    let text = node.value.scalar_text()?;
    Some(text.parse::<f64>().map_or(text, |number| number.to_string()))
}

const fn may_be_null(form: Form) -> bool {
    matches!(form, Form::Any | Form::TextOrNull | Form::ObjectOrNull(_) | Form::Words | Form::External)
}
