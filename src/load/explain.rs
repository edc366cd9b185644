//! Why a value is what it is: the place it was written at, and what made it win (`config --explain`).
//! The trace is kept while loading, and only when it is asked for.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{
    diagnostic::Files,
    discover::Variables,
    tree::{Node, Span, Value},
};
use crate::model::Place;

/// One value of the canonical project.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explained {
    /// Path in the model, `services.web.ports[0].target`.
    pub path: String,
    pub value: String,
    /// Where it was written; `None` for a default that no file says.
    pub place: Option<Place>,
    /// Why it won: empty for what is simply written in the file.
    pub why: Vec<String>,
}

/// What happened to values on their way, by the place they were written at.
#[derive(Debug, Default)]
pub struct Trace {
    /// Where each scalar was written, as opposed to made up.
    written: HashSet<Span>,
    /// Values of each document by path, in merge order.
    layers: Vec<BTreeMap<String, Span>>,
    /// By the service that extends and the place of the value: what it was extended from.
    extended: HashMap<(String, Span), (String, Span)>,
    included: HashMap<Span, Span>,
    /// Variables that a value was made of.
    variables: HashMap<Span, Vec<String>>,
    inherited: HashSet<Span>,
    /// Files of variables or labels, by the place they are named at.
    files: HashMap<Span, String>,
}

impl Trace {
    /// A document as it was parsed.
    pub fn document(&mut self, document: &Node) {
        scalars(document, &mut |span| {
            self.written.insert(span);
        });
    }

    /// A document in canonical form, before it is laid on those before it.
    pub fn layer(&mut self, document: &Node) {
        let mut layer = BTreeMap::new();
        leaves(document, String::new(), &mut |path, node| {
            layer.insert(path, node.span);
        });
        self.layers.push(layer);
    }

    /// `service` takes over what `base` says; `at` is the place of its `extends`.
    pub fn extend(&mut self, service: &str, base_name: &str, base: &Node, at: Span) {
        scalars(base, &mut |span| {
            self.extended.entry((service.to_owned(), span)).or_insert((base_name.to_owned(), at));
        });
    }

    /// Everything of `model` came through the `include` at this place.
    pub fn include(&mut self, model: &Node, at: Span) {
        scalars(model, &mut |span| {
            self.included.entry(span).or_insert(at);
        });
    }

    pub fn variables(&mut self, at: Span, names: Vec<String>) {
        self.variables.insert(at, names);
    }

    /// What stands in the file that is named at this place has that place.
    pub fn file(&mut self, at: Span, name: &str) {
        self.files.insert(at, name.to_owned());
    }

    /// Keys of `environment` that stand without a value.
    pub fn inherit(&mut self, model: &Node) {
        let services = model.get("services").and_then(Node::as_map);
        for service in services.into_iter().flat_map(|map| map.values()) {
            let pairs = service.get("environment").and_then(Node::as_map);
            let bare = pairs.into_iter().flat_map(|map| map.values()).filter(|value| value.is_null());
            self.inherited.extend(bare.map(|value| value.span));
        }
    }

    /// Every value of the finished model.
    #[must_use]
    pub fn explain(&self, model: &Node, files: &Files, origins: &Origins<'_>) -> Vec<Explained> {
        let mut found = Vec::new();
        leaves(model, String::new(), &mut |path, node| {
            let value = node.value.scalar_text().unwrap_or_else(|| "null".to_owned());
            let told = if self.written.contains(&node.span) {
                let why = self.why(&path, node.span, files, origins);
                Explained { path, value, place: files.place(node.span), why }
            } else {
                Explained { path, value, place: None, why: vec!["default".to_owned()] }
            };
            found.push(told);
        });
        found
    }

    fn why(&self, path: &str, span: Span, files: &Files, origins: &Origins<'_>) -> Vec<String> {
        let mut why = Vec::new();
        let shown = |span: Span| files.place(span).map(|place| place.to_string()).unwrap_or_default();
        for name in self.variables.get(&span).into_iter().flatten() {
            why.push(format!("`{name}` {}", origins.of(name)));
        }
        if self.inherited.contains(&span)
            && let Some(name) = path.rsplit('.').next()
        {
            why.push(format!("`{name}` {}", origins.of(name)));
        }
        let service = path.strip_prefix("services.").and_then(|rest| rest.split('.').next());
        if let Some(service) = service
            && let Some((base, at)) = self.extended.get(&(service.to_owned(), span))
        {
            why.push(format!("extends `{base}` ({})", shown(*at)));
        }
        if let Some(at) = self.included.get(&span) {
            why.push(format!("include ({})", shown(*at)));
        }
        let earlier: Vec<Span> = self
            .layers
            .iter()
            .filter_map(|layer| layer.get(path).copied())
            .take_while(|at| *at != span)
            .collect();
        if let Some(loser) = earlier.last() {
            why.push(format!("override of {}", shown(*loser)));
        }
        if let Some(name) = self.files.get(&span) {
            why.push(format!("from `{name}`"));
        }
        why
    }
}

/// Where variables have their values from.
#[derive(Debug)]
pub struct Origins<'a> {
    pub shell: &'a Variables,
    pub all: &'a Variables,
    /// The files of variables as they are told, `.env` or those of `--env-file`.
    pub files: String,
}

impl Origins<'_> {
    fn of(&self, name: &str) -> String {
        if name == "COMPOSE_PROJECT_NAME" {
            "is the project name".to_owned()
        } else if self.shell.contains_key(name) {
            "from the shell".to_owned()
        } else if self.all.contains_key(name) {
            format!("from {}", self.files)
        } else {
            "is not set: its default".to_owned()
        }
    }
}

fn scalars(node: &Node, hear: &mut impl FnMut(Span)) {
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| scalars(item, hear)),
        Value::Map(map) => map.values().for_each(|value| scalars(value, hear)),
        _ => hear(node.span),
    }
}

/// Every scalar with its path.
fn leaves(node: &Node, path: String, hear: &mut impl FnMut(String, &Node)) {
    match &node.value {
        Value::List(items) => {
            for (at, item) in items.iter().enumerate() {
                leaves(item, format!("{path}[{at}]"), hear);
            }
        }
        Value::Map(map) => {
            for (key, value) in map {
                let dot = if path.is_empty() { "" } else { "." };
                leaves(value, format!("{path}{dot}{key}"), hear);
            }
        }
        _ => hear(path, node),
    }
}
