//! Builds an image from a Dockerfile: parse, then solve on the runtime core, with a cache.
//!
//! [`build`] reads the Dockerfile (`dockerfile`), arranges its stages (`graph`), brings the images
//! they start from, and carries out those the target needs (`solve`, `steps`, `copying`, `running`).
//! Every step that touches files makes one layer of the store, remembered under two keys (`cache`).
//! Files are read and written through directories taken as roots (`tree`), so no link of a context,
//! of an image or of an archive leads out of them.

mod cache;
mod cancel;
mod config;
mod content;
mod context;
mod copy;
mod copying;
pub mod dockerfile;
pub mod expand;
mod graph;
pub mod ignore;
mod memo;
mod mode;
mod mounts;
mod platform;
mod running;
mod solve;
mod steps;
mod tree;

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use self::{
    cache::Cache,
    cancel::Cancel,
    context::{Context, Text},
    dockerfile::{Dockerfile, Mistake, line_of},
    graph::{Base, Graph, Source},
    platform::Platforms,
    solve::{ImageName, Progress, Solver},
};
use crate::{
    image::{Image, ImageError, Platform, Store},
    model::{Build, ImageRef},
    runtime::Core,
};
pub use cache::{forget as forget_cache, layers as cached_layers};

/// What a build says while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildEvent {
    /// `[web 2/5] RUN make`; numbers are of its stage.
    Step {
        step: String,
        cached: bool,
    },
    /// A line that the step's program wrote.
    Output(String),
    Warning(String),
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A mistake in the Dockerfile, rendered with its place by the caller.
    #[error("{file}:{line}: {message}")]
    Dockerfile { file: String, line: u32, message: String, help: Option<String> },
    /// Several mistakes in the Dockerfile, each of the kind above.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<BuildError>),
    /// A RUN step ended with a code other than 0.
    #[error("{file}:{line}: `{command}` exited with code {code}")]
    Step { file: String, line: u32, command: String, code: i32 },
    #[error("{message}")]
    Context {
        message: String,
        #[source]
        source: Option<std::io::Error>,
    },
    #[error(transparent)]
    Image(#[from] ImageError),
    #[error(transparent)]
    Runtime(#[from] crate::runtime::Error),
    #[error("cancelled")]
    Cancelled,
}

/// Builds `build` and names the result. Base images missing in the store are pulled.
///
/// Dropping the future stops the build: a program that runs is killed, and nothing is remembered of
/// its step.
pub async fn build(
    store: &Store,
    core: &Core,
    build: &Build,
    references: &[ImageRef],
    events: Arc<dyn Fn(BuildEvent) + Send + Sync>,
) -> Result<Image, BuildError> {
    let cancel = Cancel::new().map_err(|source| BuildError::Context {
        message: format!("cannot make an event: {source}"),
        source: Some(source),
    })?;
    let stop = Stop(Arc::new(cancel));
    let file = Text::read(build)?;
    let (mut graph, platforms) = arrange(build, &file, &events)?;
    let images = fetch(store, build, &file, &mut graph, &platforms).await?;
    let references = names(build, references)?;
    let (store, core, build) = (store.clone(), core.clone(), build.clone());
    let cancel = Arc::clone(&stop.0);
    let work = tokio::task::spawn_blocking(move || {
        let cache = Cache::open(&store).map_err(|source| BuildError::Context {
            message: format!("cannot open the build cache: {source}"),
            source: Some(source),
        })?;
        let context = Context::open(&build, &file, cache.memo(&build.context))?;
        let solver = Solver {
            store: &store,
            core: &core,
            build: &build,
            file: &file,
            graph: &graph,
            images: &images,
            platforms: &platforms,
            context,
            cache,
            events: &*events,
            cancel: &cancel,
            now: now(&build),
            progress: Progress::default(),
        };
        let result = solver.solve();
        // Digests that were found stay true even when a step failed.
        let _ = solver.context.memo().save();
        finish(&solver, &*result?, &references)
    });
    work.await.map_err(|_| BuildError::Cancelled)?
}

/// Tells the threads when the future is dropped.
struct Stop(Arc<Cancel>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.set();
    }
}

fn arrange(
    build: &Build,
    file: &Text,
    events: &Arc<dyn Fn(BuildEvent) + Send + Sync>,
) -> Result<(Graph, Platforms), BuildError> {
    let located = |mistake: Mistake| located(file, mistake);
    let parsed = dockerfile::parse(&file.text).map_err(|mistakes| {
        let mut errors: Vec<BuildError> = mistakes.into_iter().map(located).collect();
        if errors.len() == 1 { errors.remove(0) } else { BuildError::Mistakes(errors) }
    })?;
    let mut platforms = Platforms::native(Platform::host());
    if let Some(wanted) = build.platform.as_deref().filter(|text| !text.is_empty()) {
        platforms.target = Platform::parse(wanted)?;
    }
    let argument = |name: &str| build.args.get(name).cloned().flatten();
    let graph = Graph::new(&parsed, &argument, &platforms, build.target.as_deref()).map_err(located)?;
    for warning in &parsed.warnings {
        let line = line_of(&file.text, warning.span.start);
        events(BuildEvent::Warning(format!("{}:{line}: {}", file.name, warning.message)));
    }
    if let Some(syntax) = &parsed.directives.syntax
        && !syntax.text.starts_with("docker/dockerfile:1")
    {
        let text = format!("`# syntax={}` is not run; the Dockerfile is read as it is", syntax.text);
        events(BuildEvent::Warning(format!("{}: {text}", file.name)));
    }
    if let Some(text) = unconsumed(build, &parsed) {
        events(BuildEvent::Warning(text));
    }
    Ok((graph, platforms))
}

/// Build arguments that no ARG declares.
fn unconsumed(build: &Build, parsed: &Dockerfile) -> Option<String> {
    let all = parsed.arguments.iter().chain(parsed.stages.iter().flat_map(|stage| &stage.instructions));
    let declared: Vec<&str> = all
        .filter_map(|instruction| match &instruction.kind {
            dockerfile::Kind::Arg(declared) => Some(declared),
            _ => None,
        })
        .flatten()
        .map(|(name, _)| name.text.as_str())
        .collect();
    let known = |name: &str| {
        declared.contains(&name)
            || steps::is_proxy(name)
            || name.starts_with("BUILDKIT_")
            || name == "SOURCE_DATE_EPOCH"
    };
    let left: Vec<&str> = build.args.keys().map(String::as_str).filter(|name| !known(name)).collect();
    (!left.is_empty()).then(|| format!("one or more build-args [{}] were not consumed", left.join(" ")))
}

fn located(file: &Text, mistake: Mistake) -> BuildError {
    BuildError::Dockerfile {
        file: file.name.clone(),
        line: line_of(&file.text, mistake.span.start),
        message: mistake.message,
        help: mistake.help,
    }
}

/// Brings the images that the needed stages start from or read; their triggers may need more.
async fn fetch(
    store: &Store,
    build: &Build,
    file: &Text,
    graph: &mut Graph,
    platforms: &Platforms,
) -> Result<HashMap<ImageName, Image>, BuildError> {
    let mut images = HashMap::new();
    loop {
        let mut wanted = Vec::new();
        for stage in graph.reachable() {
            let node = &graph.stages[stage];
            if let Base::Image(name) = &node.base {
                let platform = node.platform.clone().unwrap_or_else(|| platforms.target.to_string());
                wanted.push((ImageName { name: name.clone(), platform }, node.span));
            }
            for (source, span) in graph.sources(stage) {
                if let Source::Image(name) = source {
                    wanted.push((ImageName { name, platform: platforms.target.to_string() }, span));
                }
            }
        }
        wanted.retain(|(name, _)| !images.contains_key(name));
        for (name, span) in wanted {
            // One name may stand in several places.
            if let Entry::Vacant(place) = images.entry(name) {
                let name = place.key();
                let image = bring(store, build, name).await.map_err(|error| match error {
                    ImageError::File { .. } => error.into(),
                    _ => {
                        let message = format!("cannot use image `{}`: {error}", name.name);
                        located(file, Mistake::new(span, message))
                    }
                })?;
                place.insert(image);
            }
        }
        if !insert_triggers(file, graph, &images, platforms)? {
            return Ok(images);
        }
    }
}

async fn bring(store: &Store, build: &Build, name: &ImageName) -> Result<Image, ImageError> {
    let reference: ImageRef = name
        .name
        .parse()
        .map_err(|error: crate::model::ImageRefError| ImageError::Invalid(error.to_string()))?;
    if !build.pull
        && let Some(image) = store.find(&reference)?
        && fits(&image, &Platform::parse(&name.platform)?)
    {
        return Ok(image);
    }
    store.pull(&reference, Some(&name.platform), &|_, _, _| {}).await
}

fn fits(image: &Image, platform: &Platform) -> bool {
    let architecture = image.config.architecture().to_string();
    architecture.is_empty() || architecture == platform.architecture
}

/// True when a stage got steps of which nobody knew.
fn insert_triggers(
    file: &Text,
    graph: &mut Graph,
    images: &HashMap<ImageName, Image>,
    platforms: &Platforms,
) -> Result<bool, BuildError> {
    let mut grown = false;
    for stage in graph.reachable() {
        let node = &graph.stages[stage];
        let Base::Image(name) = &node.base else { continue };
        if node.triggered {
            continue;
        }
        let platform = node.platform.clone().unwrap_or_else(|| platforms.target.to_string());
        let image = images.get(&ImageName { name: name.clone(), platform });
        let texts = image.and_then(|image| image.docker.on_build.clone()).unwrap_or_default();
        let span = node.span;
        let triggers = texts
            .iter()
            .map(|text| {
                dockerfile::parse_trigger(text).map_err(|mistake| {
                    let message = format!("in `ONBUILD {text}` of `{name}`: {}", mistake.message);
                    located(file, Mistake { span, message, help: mistake.help })
                })
            })
            .collect::<Result<Vec<_>, _>>()?;
        grown |= !triggers.is_empty();
        graph.trigger(stage, triggers);
    }
    graph.refuse_circles().map_err(|mistake| located(file, mistake))?;
    Ok(grown)
}

/// All names of the result.
fn names(build: &Build, references: &[ImageRef]) -> Result<Vec<ImageRef>, BuildError> {
    let mut names = references.to_vec();
    for tag in &build.tags {
        let name = tag.parse::<ImageRef>().map_err(|error| BuildError::Context {
            message: format!("invalid tag `{tag}`: {error}"),
            source: None,
        })?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// What layers made now are dated: `SOURCE_DATE_EPOCH`, or the clock.
fn now(build: &Build) -> String {
    let given = build.args.get("SOURCE_DATE_EPOCH").cloned().flatten();
    let given = given.or_else(|| std::env::var("SOURCE_DATE_EPOCH").ok());
    if let Some(seconds) = given.and_then(|text| text.parse::<u32>().ok()) {
        return config::rfc3339(seconds.into(), 0);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    config::rfc3339(i64::try_from(now.as_secs()).unwrap_or(0), now.subsec_nanos())
}

fn finish(solver: &Solver<'_>, stage: &solve::Stage, references: &[ImageRef]) -> Result<Image, BuildError> {
    solver.check()?;
    let mut document = stage.document.clone();
    document.created.clone_from(&stage.created);
    document.config.labels.extend(solver.build.labels.clone());
    document.rootfs.diff_ids = stage.layers.iter().map(|layer| layer.diff_id.clone()).collect();
    let (config, docker) = document.split()?;
    Ok(solver.store.commit_image_with(&config, &docker, references)?)
}

/// The images that a build starts from or copies out of, as its Dockerfile writes them. What triggers
/// of those bases name is known only when they are there.
pub fn bases(build: &Build) -> Result<Vec<String>, BuildError> {
    let silent: Arc<dyn Fn(BuildEvent) + Send + Sync> = Arc::new(|_| {});
    let (graph, _) = arrange(build, &Text::read(build)?, &silent)?;
    let mut names = std::collections::BTreeSet::new();
    for stage in graph.reachable() {
        if let Base::Image(name) = &graph.stages[stage].base {
            names.insert(name.clone());
        }
        for (source, _) in graph.sources(stage) {
            if let Source::Image(name) = source {
                names.insert(name);
            }
        }
    }
    Ok(names.into_iter().collect())
}
