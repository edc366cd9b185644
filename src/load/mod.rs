//! Text to [`Project`](crate::model::Project): in phases, every value with its place.
//!
//! `discover` finds files and variables; `tree` parses; for each document `interpolate`, `canonical`
//! (driven by the table in `attributes`), `compose` (extends, include, merge); then `normalise`, `check`,
//! `select` and `bind`. All mistakes of all files are told in one run; only a later phase that makes no
//! sense without an earlier one is left out.

pub mod attributes;
pub mod bind;
mod canonical;
mod check;
mod compose;
pub mod config;
pub mod diagnostic;
mod discover;
mod document;
pub mod dotenv;
mod envfiles;
mod explain;
mod git;
pub mod interpolate;
mod legacy;
pub mod merge;
pub mod migrate;
mod mounts;
mod normalise;
mod options;
mod path;
mod paths;
mod ports;
pub mod remote;
mod scalars;
pub mod schema;
mod select;
pub mod source;
pub mod tree;
mod views;
mod yaml;

#[cfg(test)]
mod broken;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, rc::Rc};

pub use diagnostic::{Diagnostic, Paint, Severity};
pub use discover::finds_nothing;
pub use explain::Explained;
pub use options::{Effect, LoadOptions, Loaded, Resolved, Unsupported};
pub use source::{Source, System};
pub use views::VariableView;

/// The variables of a file like `.env`; `outer` is asked for those that it uses.
///
/// # Errors
/// The first mistake.
pub fn variables(
    text: &str,
    outer: dotenv::Lookup<'_>,
) -> Result<indexmap::IndexMap<String, String>, dotenv::Fault> {
    dotenv::parse(text, outer, &dotenv::nothing)
}

use crate::model::Logging;
use attributes::{Form, PROJECT, Support};
use bind::Bind;
use check::Check;
use compose::{Loader, Scope};
use discover::{Site, normal_name};
use paths::Base;
use tree::{Map, Node, Span};

/// Loads the project that the options mean.
///
/// # Errors
/// Every mistake of every file, at least one of them an error; warnings are among them.
pub fn load(options: &LoadOptions, source: &dyn Source) -> Result<Loaded, Vec<Diagnostic>> {
    Ok(Unbound::of(options, source)?.bind())
}

/// The same without what only running it needs.
///
/// # Errors
/// As [`load`].
pub fn resolve(options: &LoadOptions, source: &dyn Source) -> Result<Resolved, Vec<Diagnostic>> {
    Ok(Unbound::of(options, source)?.resolved)
}

/// A resolved project, with what binding it needs.
struct Unbound<'a> {
    loader: Loader<'a>,
    site: Site,
    name: String,
    /// Services that no profile turns on.
    disabled: Map,
    resolved: Resolved,
}

impl<'a> Unbound<'a> {
    fn of(options: &'a LoadOptions, source: &'a dyn Source) -> Result<Self, Vec<Diagnostic>> {
        let mut loader = Loader::new(options, source);
        let mut site = discover::discover(options, source, &mut loader.files, &mut loader.diagnostics)?;
        loader.root.clone_from(&site.root);
        let mut documents = read_all(&mut loader, &site.files)?;
        if let Some(text) = &options.overlay {
            let found = loader.parse_text("<flags>", text).unwrap_or_default();
            documents.extend(found.into_iter().map(|document| (PathBuf::from("-"), document)));
        }
        let name = project_name(&mut loader, &site, &documents)?;
        site.environment.insert("COMPOSE_PROJECT_NAME".to_owned(), name.clone());
        let scope = Scope {
            dir: site.root.clone(),
            environment: Rc::new(site.environment.clone()),
            chain: Vec::new(),
            file: PathBuf::new(),
        };
        let model = loader.model(documents, &scope);
        if model.as_map().is_none_or(Map::is_empty) && !loader.diagnostics.has_errors() {
            let names: Vec<_> = site.files.iter().map(|file| discover::shown(file, &loader.here)).collect();
            loader
                .diagnostics
                .push(Diagnostic::error(format!("empty compose file: `{}`", names.join("`, `"))));
        }
        finish(loader, model, site, name)
    }

    /// To the types of the model.
    fn bind(self) -> Loaded {
        let Self { loader, site, name, disabled, resolved } = self;
        let model = &resolved.canonical;
        let mut unbound = Vec::new();
        let secrets = model.get("secrets").and_then(Node::as_map);
        let mut bind = Bind::new(&loader.files, &mut unbound, secrets, &site.environment, &site.root);
        let mut project = bind.project(model, &disabled, &name);
        project.places = bind::places(model, &loader.files);
        if loader.former {
            legacy::link(&mut project, model);
        }
        project.root = site.root;
        project.files = site.files;
        Loaded { project, unsupported: unsupported(model, unbound, &loader), resolved }
    }
}

fn read_all(loader: &mut Loader<'_>, files: &[PathBuf]) -> Result<Vec<(PathBuf, Node)>, Vec<Diagnostic>> {
    let mut documents = Vec::new();
    for file in files {
        let found = loader.parse_file(file, Span::default()).unwrap_or_default();
        documents.extend(found.into_iter().map(|document| (file.clone(), document)));
    }
    if loader.diagnostics.has_errors() {
        return Err(loader.diagnostics.take());
    }
    Ok(documents)
}

/// Flag or variable, else the last `name:` of the files, else the project directory.
fn project_name(
    loader: &mut Loader<'_>,
    site: &Site,
    documents: &[(PathBuf, Node)],
) -> Result<String, Vec<Diagnostic>> {
    if let Some(name) = &site.name {
        return Ok(name.clone());
    }
    let of_file = documents.iter().rev().filter_map(|(_, document)| document.get("name"));
    let named = of_file.clone().find(|node| node.as_str().is_some_and(|name| !name.is_empty()));
    if let Some(named) = named {
        let mut named = named.clone();
        if !loader.options.no_interpolate {
            let root = path::Path::Root;
            loader.interpolate(&mut named, &root.key("name"), &site.environment);
        }
        let written = named.as_str().unwrap_or_default();
        let name = if loader.options.no_normalize { written.to_owned() } else { normal_name(written) };
        if name.is_empty() {
            let mark = loader.files.mark(named.span, "this gives no letter or digit");
            return Err(vec![Diagnostic::error("project name must not be empty").at("name").mark(mark)]);
        }
        return Ok(name);
    }
    let directory = site.root.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = normal_name(&directory);
    if name.is_empty() {
        return Err(vec![
            Diagnostic::error("project name must not be empty")
                .help("set `name:` in the Compose file, COMPOSE_PROJECT_NAME, or `-p NAME`"),
        ]);
    }
    Ok(name)
}

/// From the merged tree to the canonical one.
fn finish(
    mut loader: Loader<'_>,
    mut canonical: Node,
    site: Site,
    name: String,
) -> Result<Unbound<'_>, Vec<Diagnostic>> {
    let options = loader.options;
    let model = &mut canonical;
    loader.diagnostics.decide(model);
    Check { files: &loader.files, diagnostics: &mut loader.diagnostics }.complete(model);
    normalise::defaults(model, &loader.all_devices());
    let root = site.root.to_string_lossy().into_owned();
    let base = Base { dir: &root, home: compose::home(&site.environment) };
    if !options.no_path_resolution {
        base.resolve(model, Form::Object(PROJECT));
    }
    if let Some(trace) = &mut loader.trace {
        trace.inherit(model);
    }
    compose::inherit_environment(model, &site.environment);
    if options.no_normalize {
        model.set("name", tree::Value::Text(name.clone()));
    } else {
        normalise::normalise(model, &name, &site.environment);
    }
    let profiles = select::profiles(model);
    let active: &[String] = if options.no_interpolate { &["*".to_owned()] } else { &site.profiles };
    let disabled = select::take_disabled(model, active, &options.services);
    if !options.no_interpolate {
        normalise::provider_options(model);
        // A variable may stand for any name.
        if !options.no_consistency {
            Check { files: &loader.files, diagnostics: &mut loader.diagnostics }.consistent(model, &disabled);
            normalise::replicas(model);
        }
        loader.read_service_files(model, &site.environment);
    }
    if !options.services.is_empty() {
        select::keep_needed(model, &options.services);
    }
    if !options.all_resources && !options.no_interpolate {
        select::drop_unused(model);
    }
    let failed = loader.diagnostics.has_errors();
    let told = loader.diagnostics.take();
    if failed {
        return Err(told);
    }
    let resolved = Resolved {
        explained: explained(model, &site, &loader),
        canonical,
        warnings: told,
        environment: site.environment.clone(),
        profiles,
        as_written: options.no_interpolate,
    };
    Ok(Unbound { loader, site, name, disabled, resolved })
}

/// Why each value is what it is, when that was asked for.
fn explained(model: &Node, site: &Site, loader: &Loader<'_>) -> Vec<Explained> {
    let Some(trace) = &loader.trace else { return Vec::new() };
    let shell = loader.source.environment();
    let named = &loader.options.env_files;
    let files = if named.is_empty() {
        "`.env`".to_owned()
    } else {
        let shown: Vec<_> = named.iter().map(|file| format!("`{}`", file.display())).collect();
        shown.join(", ")
    };
    let origins = explain::Origins { shell: &shell, all: &site.environment, files };
    trace.explain(model, &loader.files, &origins)
}

/// Attributes that are not honoured, and values that no type of the model can hold.
fn unsupported(model: &Node, unbound: Vec<Diagnostic>, loader: &Loader<'_>) -> Vec<Unsupported> {
    let mut found = Vec::new();
    config::walk_unsupported(model, Form::Object(PROJECT), "", &mut found);
    let rows = found.into_iter().filter_map(|(path, _, span, support)| {
        let (text, effect) = match support {
            Support::Yes => return None,
            Support::Elsewhere(place) => (format!("`{path}` means something {place} only"), Effect::Ignored),
            Support::Never(why) => (format!("`{path}` cannot be: {why}"), Effect::Refused),
        };
        Some(Unsupported { text, place: loader.files.place(span), effect, path })
    });
    let values = unbound.into_iter().map(|told| Unsupported {
        path: told.path.clone().unwrap_or_default(),
        place: told.place().cloned(),
        text: told.message,
        effect: Effect::Refused,
    });
    let idle =
        [idle_log_options, idle_refreshes, idle_labels].into_iter().flat_map(|idle| idle(model, loader));
    rows.chain(values).chain(idle).collect()
}

/// Labels that a mount gives a volume with a name: that has its own, from where it is made.
fn idle_labels(model: &Node, loader: &Loader<'_>) -> Vec<Unsupported> {
    let services = model.get("services").and_then(Node::as_map).into_iter().flatten();
    let mounts = services.flat_map(|(service, node)| {
        let mounts = node.get("volumes").map(Node::items).unwrap_or_default().iter().enumerate();
        mounts.map(move |(at, mount)| (format!("services.{service}.volumes[{at}].volume.labels"), mount))
    });
    let named = mounts.filter(|(_, mount)| mount.get_str("source").is_some_and(|source| !source.is_empty()));
    let found = named.filter_map(|(path, mount)| {
        Some(Unsupported {
            place: loader.files.place(mount.get("volume")?.get("labels")?.span),
            text: format!("`{path}` has no effect: a volume with a name has the labels of its own"),
            effect: Effect::Ignored,
            path,
        })
    });
    found.collect()
}

/// Times of a refresh that no policy asks for.
fn idle_refreshes(model: &Node, loader: &Loader<'_>) -> Vec<Unsupported> {
    let services = model.get("services").and_then(Node::as_map).into_iter().flatten();
    let idle = services.filter(|(_, node)| node.get_str("pull_policy") != Some("refresh"));
    let found = idle.filter_map(|(service, node)| {
        let path = format!("services.{service}.pull_refresh_after");
        Some(Unsupported {
            place: loader.files.place(node.get("pull_refresh_after")?.span),
            text: format!("`{path}` has no effect without `pull_policy: refresh`"),
            effect: Effect::Ignored,
            path,
        })
    });
    found.collect()
}

/// Options of `logging:` that are known and change nothing here. Those of another driver are told by the
/// engine, with the driver.
fn idle_log_options(model: &Node, loader: &Loader<'_>) -> Vec<Unsupported> {
    let mut found = Vec::new();
    for (service, node) in model.get("services").and_then(Node::as_map).into_iter().flatten() {
        let Some(logging) = node.get("logging") else { continue };
        if !matches!(logging.get_str("driver"), None | Some("" | "json-file" | "local" | "none")) {
            continue;
        }
        for (name, value) in logging.get("options").and_then(Node::as_map).into_iter().flatten() {
            if !Logging::is_without_effect(&name.text, &value.value.scalar_text().unwrap_or_default()) {
                continue;
            }
            let path = format!("services.{service}.logging.options.{name}");
            found.push(Unsupported {
                text: format!("`{path}` has no effect: logs are kept as they were written, unpacked"),
                place: loader.files.place(name.span),
                effect: Effect::Ignored,
                path,
            });
        }
    }
    found
}
