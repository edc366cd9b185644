//! Files to one canonical tree: each document is interpolated, brought to its canonical form, extended,
//! given what it includes, and laid on those before it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path as FilePath, PathBuf},
    rc::Rc,
};

use super::{
    attributes::{Form, Merge, PROJECT, SERVICE_FORM},
    canonical::{self, Canonical},
    diagnostic::{Diagnostic, FileId, Files, Told, offset},
    discover::{self, Variables},
    explain::Trace,
    interpolate, legacy,
    merge::{Written, merge, settle, unify_all},
    normalise,
    options::LoadOptions,
    path::Path,
    paths::Base,
    remote,
    source::Source,
    tree::{self, Edit, Map, Node, Span, Value},
};

/// Most files that include one another in a row.
const MAX_INCLUDES: usize = 32;
/// Most bytes of text with variables in it, replaced.
const MAX_SUBSTITUTED: usize = 4 << 20;
/// Most services that extend one another in a row.
const MAX_EXTENDS: usize = 400;
/// Most files of one project.
const MAX_FILES: usize = 1_000;

/// One load: where text comes from and what was found wrong so far.
pub struct Loader<'a> {
    pub options: &'a LoadOptions,
    pub source: &'a dyn Source,
    pub files: Files,
    pub diagnostics: Told,
    /// Kept when every value is to be explained.
    pub trace: Option<Trace>,
    /// A file of an older format was among them.
    pub former: bool,
    /// The project directory.
    pub root: PathBuf,
    /// The current directory, below which paths are shown relative.
    pub here: PathBuf,
    /// Names of variables that were told to be unset.
    unset: BTreeSet<String>,
    /// Bytes of text that variables were replaced in.
    substituted: usize,
    /// Files that services were extended from: interpolated services by path.
    bases: BTreeMap<PathBuf, Option<Rc<Map>>>,
}

/// Services of one model with what they extend, by file and name.
type Known = HashMap<(PathBuf, String), Option<Node>>;

/// The surroundings of a file: where its relative paths start and which variables it sees.
#[derive(Clone)]
pub struct Scope {
    /// Directory of relative paths, absolute.
    pub dir: PathBuf,
    pub environment: Rc<Variables>,
    /// The files that led here by `include`, each with the place that names the next.
    pub chain: Vec<(PathBuf, Span)>,
    /// The file itself.
    pub file: PathBuf,
}

impl<'a> Loader<'a> {
    #[must_use]
    pub fn new(options: &'a LoadOptions, source: &'a dyn Source) -> Self {
        Self {
            options,
            source,
            files: Files::default(),
            diagnostics: Told::default(),
            trace: options.explain.then(Trace::default),
            root: PathBuf::new(),
            here: source.current_dir(),
            former: false,
            unset: BTreeSet::new(),
            substituted: 0,
            bases: BTreeMap::new(),
        }
    }

    pub fn tell(&mut self, span: Span, path: impl std::fmt::Display, message: impl Into<String>) {
        let files = &self.files;
        self.diagnostics.error(|| Diagnostic::error(message).at(path).mark(files.mark(span, "")));
    }

    /// The documents of a file; `None` when it cannot be read or parsed, which has been told.
    pub fn parse_file(&mut self, path: &FilePath, named_at: Span) -> Option<Vec<Node>> {
        let shown = discover::shown(path, &self.here);
        if self.files.count() >= MAX_FILES {
            self.tell(
                named_at,
                "",
                format!("`{shown}` is not read: a project has at most {MAX_FILES} files"),
            );
            return None;
        }
        let text = if path.as_os_str() == "-" { self.source.read_stdin() } else { self.source.read(path) };
        match text {
            Ok(text) => {
                let file = self.files.add(if shown == "-" { "<stdin>" } else { &shown }, &text);
                self.parse(file)
            }
            Err(error) => {
                let told = discover::unreadable("Compose file", &shown, &error);
                self.diagnostics.push(told.mark(self.files.mark(named_at, "named here")));
                None
            }
        }
    }

    pub fn parse_text(&mut self, shown: &str, text: &str) -> Option<Vec<Node>> {
        let file = self.files.add(shown, text);
        self.parse(file)
    }

    fn parse(&mut self, file: FileId) -> Option<Vec<Node>> {
        match tree::parse(&self.files, file) {
            Ok(mut documents) => {
                for document in &mut documents {
                    self.former |= legacy::modernise(document, &self.files, &mut self.diagnostics);
                    if let Some(trace) = &mut self.trace {
                        trace.document(document);
                    }
                }
                Some(documents)
            }
            Err(errors) => {
                self.diagnostics.extend(errors);
                None
            }
        }
    }

    /// One model of several documents, the later laid on the earlier. Paths are not resolved yet.
    pub fn model(&mut self, documents: Vec<(PathBuf, Node)>, scope: &Scope) -> Node {
        let mut model = Node::map(Span::default());
        for (file, document) in documents {
            let scope = Scope { file, ..scope.clone() };
            if let Some(mut done) = self.document(document, &scope) {
                self.no_gpus_on_a_list(&model, &done);
                normalise::all_gpus(&mut done, &self.all_devices());
                if let Some(trace) = &mut self.trace {
                    trace.layer(&done);
                }
                merge(&mut model, done, Form::Object(PROJECT), Merge::Default, self.written());
                settle(&mut model);
                if self.options.no_interpolate {
                    canonical::written_ports(&mut model, &self.files);
                }
                unify_all(&mut model, Form::Object(PROJECT), Merge::Default);
            }
        }
        model
    }

    fn written(&self) -> Written {
        if self.options.no_interpolate { Written::AsInFile } else { Written::Canonical }
    }

    /// What stands for all devices.
    pub fn all_devices(&self) -> Value {
        if self.options.no_interpolate { Value::Text("all".to_owned()) } else { Value::Int(-1) }
    }

    /// `gpus: all` says nothing that could be laid on a list of devices.
    fn no_gpus_on_a_list(&mut self, below: &Node, above: &Node) {
        let services = |model| Node::get(model, "services").and_then(Node::as_map);
        let (Some(below), Some(above)) = (services(below), services(above)) else { return };
        for (key, service) in above {
            let Some(all) = service.get("gpus").filter(|gpus| gpus.as_str() == Some("all")) else { continue };
            let list = below.get(key.text.as_str()).and_then(|service| service.get("gpus"));
            if all.edit != Edit::Replace
                && let Some(list) = list.filter(|list| !list.items().is_empty())
            {
                let told = Diagnostic::error("`gpus: all` cannot be laid on a list of devices")
                    .at(format_args!("services.{key}.gpus"))
                    .mark(self.files.mark(all.span, ""))
                    .mark(self.files.mark(list.span, "the list stands here"))
                    .help("write `gpus: !override all`, or `gpus: [{count: all}]`");
                self.diagnostics.push(told);
            }
        }
    }

    fn document(&mut self, mut document: Node, scope: &Scope) -> Option<Node> {
        match &document.value {
            Value::Null => return None,
            Value::Map(_) => {}
            other => {
                let message = format!("a Compose file must be a mapping, not {}", other.kind());
                self.tell(document.span, "", message);
                return None;
            }
        }
        if !self.options.no_interpolate {
            self.interpolate(&mut document, &Path::Root, &scope.environment);
        }
        let mut model = self.canonical(document, Form::Object(PROJECT), &Path::Root)?;
        if let Some(version) = model.as_map_mut().and_then(|map| map.shift_remove("version")) {
            let mark = self.files.mark(version.span, "");
            self.diagnostics.push(
                Diagnostic::warning("the attribute `version` is obsolete and ignored")
                    .mark(mark)
                    .help("remove it"),
            );
        }
        self.extend_services(&mut model, scope);
        self.include(&mut model, scope);
        Some(model)
    }

    pub fn canonical(&mut self, node: Node, form: Form, path: &Path<'_>) -> Option<Node> {
        let raw = self.options.no_interpolate;
        Canonical { files: &self.files, diagnostics: &mut self.diagnostics, raw }.value(node, form, path)
    }

    // ---- variables ----

    /// Replaces the variables in every value of a tree; keys stay.
    pub fn interpolate(&mut self, node: &mut Node, path: &Path<'_>, environment: &Variables) {
        match &mut node.value {
            Value::Text(text) if text.contains('$') => {
                let lookup = |name: &str| environment.get(name).cloned();
                match interpolate::substitute(text, &lookup) {
                    Ok(done) if self.substituted + done.text.len() > MAX_SUBSTITUTED => {
                        // Told once: what comes after this has no room either.
                        if self.substituted <= MAX_SUBSTITUTED {
                            let most = MAX_SUBSTITUTED >> 20;
                            self.tell(
                                node.span,
                                path,
                                format!("more than {most} MiB of text, variables replaced"),
                            );
                        }
                        self.substituted = MAX_SUBSTITUTED + 1;
                    }
                    Ok(done) => {
                        self.substituted += done.text.len();
                        if let Some(trace) = &mut self.trace {
                            let names = interpolate::variables(text).into_iter().map(|used| used.name);
                            trace.variables(node.span, names.collect());
                        }
                        for (name, at) in &done.unset {
                            if self.unset.insert(name.clone()) {
                                let files = &self.files;
                                self.diagnostics.warning(|| {
                                    let span = inside(files, node.span, text, at.clone());
                                    let text =
                                        format!("the variable `{name}` is not set; a blank string is used");
                                    Diagnostic::warning(text)
                                        .at(path)
                                        .mark(files.mark(span, ""))
                                        .nearest(name, environment.keys().map(String::as_str))
                                });
                            }
                        }
                        *text = done.text;
                    }
                    Err(fault) => {
                        let files = &self.files;
                        self.diagnostics.error(|| {
                            let span = inside(files, node.span, text, fault.at());
                            let told =
                                Diagnostic::error(fault.to_string()).at(path).mark(files.mark(span, ""));
                            match fault {
                                interpolate::Fault::Format { .. } => {
                                    told.help("a `$` that is meant as such is written `$$`")
                                }
                                _ => told,
                            }
                        });
                    }
                }
            }
            Value::List(items) => {
                for (at, item) in items.iter_mut().enumerate() {
                    self.interpolate(item, &path.item(at), environment);
                }
            }
            Value::Map(map) => {
                for (key, value) in map.iter_mut() {
                    self.interpolate(value, &path.key(&key.text), environment);
                }
            }
            _ => {}
        }
    }

    // ---- extends ----

    fn extend_services(&mut self, model: &mut Node, scope: &Scope) {
        let Some(services) = model.get("services").and_then(Node::as_map) else { return };
        if services.values().all(|service| service.get("extends").is_none()) {
            return;
        }
        let services = Rc::new(services.clone());
        let mut known = Known::new();
        let mut done = Map::with_capacity_and_hasher(services.len(), Default::default());
        for key in services.keys() {
            let extended = self.extended(&key.text, &services, scope, &mut Vec::new(), &mut known);
            done.extend(extended.map(|service| (key.clone(), service)));
        }
        if let Some(place) = model.get_mut("services") {
            place.value = Value::Map(done);
        }
    }

    fn extended(
        &mut self,
        name: &str,
        services: &Rc<Map>,
        scope: &Scope,
        chain: &mut Vec<(PathBuf, String, Span)>,
        known: &mut Known,
    ) -> Option<Node> {
        let key = (scope.file.clone(), name.to_owned());
        if let Some(found) = known.get(&key) {
            return found.clone();
        }
        let found = self.extend(name, services, scope, chain, known);
        // Within a circle each service says something else of it.
        if found.is_some() || chain.is_empty() {
            known.insert(key, found.clone());
        }
        found
    }

    fn extend(
        &mut self,
        name: &str,
        services: &Rc<Map>,
        scope: &Scope,
        chain: &mut Vec<(PathBuf, String, Span)>,
        known: &mut Known,
    ) -> Option<Node> {
        let mut service = services.get(name)?.clone();
        let Some(extends) = service.as_map_mut().and_then(|map| map.shift_remove("extends")) else {
            return Some(service);
        };
        let step = (scope.file.clone(), name.to_owned(), extends.span);
        if chain.iter().any(|(file, service, _)| *service == step.1 && *file == step.0) {
            chain.push(step);
            self.extends_cycle(chain);
            return None;
        }
        if chain.len() >= MAX_EXTENDS {
            let message = format!("more than {MAX_EXTENDS} services extend one another in a row");
            self.tell(extends.span, format_args!("services.{name}.extends"), message);
            return None;
        }
        chain.push(step);
        let path = format!("services.{name}.extends");
        let wanted = extends.get_str("service").map(ToOwned::to_owned);
        let Some(wanted) = wanted else {
            self.tell(extends.span, path, "`extends` needs the name of a `service`");
            return Some(service);
        };
        let (bases, base_scope) = match extends.get("file").and_then(Node::as_str) {
            Some(file) => {
                let span = extends.get("file").map(|node| node.span).unwrap_or_default();
                let file = self.file_of(scope, file, span, &path)?;
                let dir = file.parent().unwrap_or(&scope.dir).to_owned();
                (self.base_services(&file, span, &scope.environment)?, Scope { dir, file, ..scope.clone() })
            }
            None => (services.clone(), scope.clone()),
        };
        if bases.get(wanted.as_str()).is_none() {
            let span = extends.get("service").map_or(extends.span, |node| node.span);
            let shown = discover::shown(&base_scope.file, &self.here);
            let told = Diagnostic::error(format!("there is no service `{wanted}` in `{shown}` to extend"))
                .at(path)
                .mark(self.files.mark(span, ""))
                .nearest(&wanted, bases.keys().map(|key| key.text.as_str()));
            self.diagnostics.push(told);
            return Some(service);
        }
        if bases.get(wanted.as_str()).is_some_and(Node::is_null) {
            // Nothing is extended: the reference leaves the key where it is.
            chain.pop();
            let mut extends = extends;
            if extends.get("file").is_some() && !self.options.no_path_resolution {
                extends.set("file", Value::Text(base_scope.file.to_string_lossy().into_owned()));
            }
            service.set("extends", extends.value);
            return Some(service);
        }
        let mut base = self.extended(&wanted, &bases, &base_scope, chain, known)?;
        chain.pop();
        if base_scope.file != scope.file {
            settle(&mut base);
            let dir = relative(&scope.dir, &base_scope.dir);
            Base { dir: &dir, home: home(&scope.environment) }.resolve(&mut base, SERVICE_FORM);
        }
        if let Some(trace) = &mut self.trace {
            trace.extend(name, &wanted, &base, extends.span);
        }
        merge(&mut base, service, SERVICE_FORM, Merge::Default, self.written());
        unify_all(&mut base, SERVICE_FORM, Merge::Default);
        Some(base)
    }

    fn extends_cycle(&mut self, chain: &[(PathBuf, String, Span)]) {
        let names: Vec<_> = chain.iter().map(|(_, service, _)| service.as_str()).collect();
        let mut told =
            Diagnostic::error(format!("services extend one another in a circle: {}", names.join(" -> ")));
        for (_, service, span) in &chain[..chain.len() - 1] {
            told = told.mark(self.files.mark(*span, format!("`{service}` extends")));
        }
        if !self.diagnostics.iter().any(|other| other.marks.first() == told.marks.first()) {
            self.diagnostics.push(told);
        }
    }

    /// The services of a file that something extends.
    fn base_services(&mut self, file: &FilePath, span: Span, environment: &Variables) -> Option<Rc<Map>> {
        if let Some(known) = self.bases.get(file) {
            return known.clone();
        }
        let found = self.read_base(file, span, environment);
        self.bases.insert(file.to_owned(), found.clone());
        found
    }

    fn read_base(&mut self, file: &FilePath, span: Span, environment: &Variables) -> Option<Rc<Map>> {
        let documents = self.parse_file(file, span)?;
        let mut all = Node::map(Span::default());
        for mut document in documents {
            if !self.options.no_interpolate {
                self.interpolate(&mut document, &Path::Root, environment);
            }
            let Some(services) = document.as_map_mut().and_then(|map| map.shift_remove("services")) else {
                continue;
            };
            let root = Path::Root;
            let services = self.canonical(services, Form::Keyed(&SERVICE_FORM), &root.key("services"))?;
            merge(&mut all, services, Form::Keyed(&SERVICE_FORM), Merge::Default, self.written());
        }
        match all.value {
            Value::Map(map) => Some(Rc::new(map)),
            _ => None,
        }
    }

    /// The file that a name in `extends` or `include` stands for; `None` when it cannot be fetched, which
    /// has been told.
    fn file_of(&mut self, scope: &Scope, name: &str, span: Span, path: &str) -> Option<PathBuf> {
        match remote::local(self.source, name) {
            None => Some(absolute(scope, name)),
            Some(Ok(file)) => Some(file),
            Some(Err(why)) => {
                self.tell(span, path, why);
                None
            }
        }
    }

    // ---- include ----

    fn include(&mut self, model: &mut Node, scope: &Scope) {
        let Some(include) = model.as_map_mut().and_then(|map| map.shift_remove("include")) else { return };
        for entry in include.items() {
            if let Some(included) = self.included(entry, scope) {
                let mut below = included;
                let above = std::mem::take(model);
                // What the including file says itself wins.
                merge(&mut below, above, Form::Object(PROJECT), Merge::Default, self.written());
                *model = below;
            }
        }
    }

    fn included(&mut self, entry: &Node, scope: &Scope) -> Option<Node> {
        let mut paths: Vec<(PathBuf, Span)> = Vec::new();
        for node in entry.get("path").map(Node::items).unwrap_or_default() {
            let Some(name) = node.as_str() else { continue };
            paths.push((self.file_of(scope, name, node.span, "include")?, node.span));
        }
        let Some((first, span)) = paths.first().cloned() else {
            self.tell(entry.span, "include", "`include` needs a `path`");
            return None;
        };
        let mut chain = scope.chain.clone();
        chain.push((scope.file.clone(), span));
        if chain.len() > MAX_INCLUDES {
            self.tell(
                span,
                "include",
                format!("more than {MAX_INCLUDES} files include one another in a row"),
            );
            return None;
        }
        if let Some(from) = chain.iter().position(|(file, _)| *file == first) {
            self.include_cycle(&chain[from..], &first);
            return None;
        }
        let dir = match entry.get_str("project_directory") {
            Some(dir) => absolute(scope, dir),
            None => first.parent().unwrap_or(&scope.dir).to_owned(),
        };
        let environment = self.include_environment(entry, scope, &dir)?;
        let mut documents = Vec::new();
        for (path, span) in paths {
            let found = self.parse_file(&path, span)?;
            documents.extend(found.into_iter().map(|document| (path.clone(), document)));
        }
        let inner = Scope { dir, environment: Rc::new(environment), chain, file: first };
        let mut model = self.model(documents, &inner);
        if let Some(trace) = &mut self.trace {
            trace.include(&model, span);
        }
        if let Some(map) = model.as_map_mut() {
            map.shift_remove("name");
        }
        inherit_environment(&mut model, &inner.environment);
        // The default context is the directory of what is included.
        normalise::defaults(&mut model, &self.all_devices());
        let dir = relative(&scope.dir, &inner.dir);
        Base { dir: &dir, home: home(&scope.environment) }.resolve(&mut model, Form::Object(PROJECT));
        Some(model)
    }

    /// `first` is included by the last of `chain`, the place where it closes the circle first.
    fn include_cycle(&mut self, chain: &[(PathBuf, Span)], first: &FilePath) {
        let shown = |file: &FilePath| discover::shown(file, &self.here);
        let names: Vec<_> = chain.iter().map(|(file, _)| shown(file)).chain([shown(first)]).collect();
        let message = format!("files include one another in a circle: {}", names.join(" -> "));
        let mut told = Diagnostic::error(message).at("include");
        for ((_, span), name) in chain.iter().zip(&names[1..]).rev() {
            told = told.mark(self.files.mark(*span, format!("includes `{name}`")));
        }
        self.diagnostics.push(told);
    }

    fn include_environment(&mut self, entry: &Node, scope: &Scope, dir: &FilePath) -> Option<Variables> {
        let named = entry.get("env_file").map(Node::items).unwrap_or_default();
        let chosen: Vec<PathBuf> = if named.is_empty() {
            Some(dir.join(".env")).filter(|path| self.source.is_file(path)).into_iter().collect()
        } else {
            named.iter().filter_map(|node| Some(absolute(scope, node.as_str()?))).collect()
        };
        let chosen: Vec<_> = chosen.into_iter().filter(|path| path != FilePath::new("/dev/null")).collect();
        let here = self.here.clone();
        match discover::read_variables(&chosen, self.source, &mut self.files, &here, &scope.environment) {
            Ok(mut found) => {
                found.extend(scope.environment.iter().map(|(name, value)| (name.clone(), value.clone())));
                Some(found)
            }
            Err(errors) => {
                let mark = self.files.mark(entry.span, "included here");
                self.diagnostics.extend(errors.into_iter().map(|error| error.mark(mark.clone())));
                None
            }
        }
    }
}

/// The part of a scalar that the bytes `at` of its text are, where the source shows them as they are.
fn inside(files: &Files, span: Span, text: &str, at: std::ops::Range<usize>) -> Span {
    let line = files.line(span);
    let line = &line[offset(line, span.column.saturating_sub(1) as usize)..];
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let words = text.get(at).unwrap_or(text);
    match line.find(words).filter(|_| !words.is_empty()) {
        Some(found) => Span {
            column: span.column + number(line[..found].chars().count()),
            length: number(words.chars().count()),
            ..span
        },
        None => span,
    }
}

/// `KEY` alone in an environment gets the value of the variable, if there is one.
pub fn inherit_environment(model: &mut Node, environment: &Variables) {
    let Some(services) = model.get_mut("services").and_then(Node::as_map_mut) else { return };
    for service in services.values_mut() {
        if let Some(own) = service.get_mut("environment") {
            normalise::inherit(own, environment);
        }
    }
}

/// `to` as seen from `from`, both absolute.
fn relative(from: &FilePath, to: &FilePath) -> String {
    let (a, b): (Vec<_>, Vec<_>) = (from.components().collect(), to.components().collect());
    let same = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let up = a[same..].iter().map(|_| "..".to_owned());
    let down = b[same..].iter().map(|part| part.as_os_str().to_string_lossy().into_owned());
    let parts: Vec<_> = up.chain(down).collect();
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

/// What `~` stands for.
#[must_use]
pub fn home(environment: &Variables) -> Option<&str> {
    environment.get("HOME").map(String::as_str).filter(|home| !home.is_empty())
}

fn absolute(scope: &Scope, path: &str) -> PathBuf {
    let dir = scope.dir.to_string_lossy();
    PathBuf::from(Base { dir: &dir, home: home(&scope.environment) }.join(path))
}
