//! Builds an image from a Dockerfile: parse, then solve on the runtime core, with a cache.
//!
//! [`build`] reads the Dockerfile (`dockerfile`), arranges its stages (`graph`), brings the images
//! they start from, and carries out those the target needs (`solve`, `steps`, `copying`, `running`).
//! Every step that touches files makes one layer of the store, remembered under two keys (`cache`).
//! Files are read and written through directories taken as roots (`tree`), so no link of a context,
//! of an image or of an archive leads out of them.

mod agent;
mod cache;
mod cachemount;
mod cancel;
mod checks;
mod config;
mod content;
mod context;
mod copy;
mod copying;
pub mod dockerfile;
pub mod expand;
mod fetched;
mod graph;
pub mod ignore;
mod lint;
mod memo;
mod mode;
mod mounts;
mod place;
mod platform;
mod running;
mod sandbox;
mod secret;
mod share;
mod solve;
mod steps;
mod tree;

use std::{
    collections::{HashMap, HashSet, hash_map::Entry},
    path::PathBuf,
    sync::{Arc, Mutex},
    time::{SystemTime, UNIX_EPOCH},
};

use self::{
    cache::Cache,
    cancel::Cancel,
    context::{Context, Text},
    dockerfile::{Dockerfile, Mistake, line_of},
    fetched::Fetched,
    graph::{Base, Graph, Source},
    place::Place,
    platform::Platforms,
    solve::{ImageName, Progress, Solver},
};
use crate::{
    image::{Image, ImageError, Platform, Store},
    model::{Build, ImageRef, LockedBases},
    runtime::Core,
};
pub use cache::{forget as forget_cache, layers as cached_layers};
pub use checks::check;

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
    /// An image on its way: which part of it, and bytes of how many (0 when nobody knows).
    Bytes {
        what: String,
        done: u64,
        total: u64,
    },
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A mistake in the Dockerfile, rendered with its place by the caller.
    #[error("{file}:{line}: {message}")]
    Dockerfile {
        file: String,
        line: u32,
        message: String,
        help: Option<String>,
        /// The lines around it.
        snippet: String,
    },
    /// Several mistakes in the Dockerfile, each of the kind above.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Mistakes(Vec<BuildError>),
    /// A RUN step ended with a code other than 0.
    #[error("{file}:{line}: `{command}` exited with code {code}")]
    Step {
        file: String,
        line: u32,
        command: String,
        code: i32,
        /// The lines around it.
        snippet: String,
        /// The last lines that it wrote.
        output: Vec<String>,
    },
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

/// Builds `build` and names the result. Base images missing in the store are pulled; with `locked` they
/// must be those.
///
/// Dropping the future stops the build: a program that runs is killed, and nothing is remembered of
/// its step.
pub async fn build(
    store: &Store,
    core: &Core,
    build: &Build,
    references: &[ImageRef],
    locked: Option<&LockedBases>,
    events: Arc<dyn Fn(BuildEvent) + Send + Sync>,
) -> Result<Image, BuildError> {
    let platforms = platform::every(build)?;
    if platforms.len() < 2 {
        let (image, records) = build_one(store, core, build, references, locked, &events).await?;
        share::export(store, build, &image, &records, &*events).await?;
        return Ok(image);
    }
    let mut images = Vec::new();
    let mut records = share::Records::new();
    let told = Arc::new(Mutex::new(HashSet::new()));
    for platform in platforms {
        let one = Build {
            platform: Some(platform.to_string()),
            platforms: Vec::new(),
            tags: Vec::new(),
            ..build.clone()
        };
        let events = platform::events(platform, &told, Arc::clone(&events));
        let (image, made) = build_one(store, core, &one, &[], locked, &events).await?;
        images.push(image.id);
        records.extend(made);
    }
    let image = store.commit_index(&images, &names(build, references)?)?;
    share::export(store, build, &image, &records, &*events).await?;
    Ok(image)
}

/// The image for one platform, and what is remembered of its steps.
async fn build_one(
    store: &Store,
    core: &Core,
    build: &Build,
    references: &[ImageRef],
    locked: Option<&LockedBases>,
    events: &Arc<dyn Fn(BuildEvent) + Send + Sync>,
) -> Result<(Image, share::Records), BuildError> {
    let cancel = Cancel::new().map_err(|source| BuildError::Context {
        message: format!("cannot make an event: {source}"),
        source: Some(source),
    })?;
    let stop = Stop(Arc::new(cancel));
    let wait = tokio::runtime::Handle::current();
    let prepared = blocking({
        let (store, build, wait) = (store.clone(), build.clone(), wait.clone());
        let run = core.roots().run.clone();
        move || {
            secret::sweep(&run);
            prepare(&store, &build, &wait)
        }
    });
    let Prepared { mut cache, file, directory, fetched } = prepared.await?;
    cache.import(share::import(store, build, &**events).await);
    let (parsed, mut graph, platforms) = arrange(build, &file, &**events)?;
    let bringer = Bringer { store, build, locked, events: &**events };
    let images = fetch(&bringer, &file, &mut graph, &platforms).await?;
    let found = checks::found(build, &file, &parsed, &graph, &platforms, &images, &directory)?;
    for lint in &found.lints {
        events(BuildEvent::Warning(checks::Found::line(&file, lint)));
    }
    found.refuse(&file)?;
    let references = names(build, references)?;
    let (store, core, build) = (store.clone(), core.clone(), build.clone());
    let cancel = Arc::clone(&stop.0);
    let events = Arc::clone(events);
    blocking({
        move || {
            let context = match fetched {
                Some(fetched) => Context::of(fetched, &file)?,
                None => Context::open(&directory, &file, cache.memo(&directory))?,
            };
            let contexts = named_contexts(&store, &cache, &wait, &graph)?;
            let solver = Solver {
                store: &store,
                core: &core,
                build: &build,
                file: &file,
                graph: &graph,
                images: &images,
                platforms: &platforms,
                context,
                contexts,
                cache,
                wait,
                events: &*events,
                cancel: &cancel,
                now: now(&build),
                progress: Progress::default(),
            };
            let result = solver.solve();
            solver.context.remember();
            solver.contexts.values().for_each(Context::remember);
            let image = finish(&solver, &*result?, &references)?;
            Ok((image, solver.cache.used()))
        }
    })
    .await
}

/// Runs what blocks where it may.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BuildError> + Send + 'static,
) -> Result<T, BuildError> {
    tokio::task::spawn_blocking(work).await.map_err(|_| BuildError::Cancelled)?
}

/// What the user's side of a build gives: cache, Dockerfile, and the main context.
struct Prepared {
    cache: Cache,
    file: Text,
    directory: PathBuf,
    fetched: Option<Fetched>,
}

fn prepare(store: &Store, build: &Build, wait: &tokio::runtime::Handle) -> Result<Prepared, BuildError> {
    let cache = Cache::open(store).map_err(|source| BuildError::Context {
        message: format!("cannot open the build cache: {source}"),
        source: Some(source),
    })?;
    let context = build.context.to_string_lossy();
    let wrong = |message: String| BuildError::Context {
        message: format!("cannot use the build context `{context}`: {message}"),
        source: None,
    };
    let place = Place::parse(&context).map_err(wrong)?;
    let keep = build.args.get("BUILDKIT_CONTEXT_KEEP_GIT_DIR").cloned().flatten();
    let keep = keep.is_some_and(|text| text == "1" || text == "true");
    let fetched = fetched::context(store, &cache, wait, &place, keep).map_err(wrong)?;
    let directory = match (&fetched, place) {
        (Some(fetched), _) => fetched.path.clone(),
        (None, Place::Directory(path)) => path,
        (None, _) => build.context.clone(),
    };
    let remote = build
        .dockerfile
        .as_ref()
        .and_then(|path| path.to_str())
        .filter(|text| text.starts_with("http://") || text.starts_with("https://"));
    let file = match remote.filter(|_| build.dockerfile_inline.is_none()) {
        None => Text::read(build, &directory)?,
        Some(url) => {
            let found = fetched::file(store, &cache, wait, url, None);
            let text = found.and_then(|found| {
                let path = found.path.join(found.name.as_deref().unwrap_or_default());
                std::fs::read_to_string(path).map_err(|error| error.to_string())
            });
            let failed = |why| BuildError::Context {
                message: format!("failed to read dockerfile `{url}`: {why}"),
                source: None,
            };
            Text::given(url, &text.map_err(failed)?)
        }
    };
    Ok(Prepared { cache, file, directory, fetched })
}

/// The named contexts that the needed stages read as files.
fn named_contexts(
    store: &Store,
    cache: &Cache,
    wait: &tokio::runtime::Handle,
    graph: &Graph,
) -> Result<HashMap<String, Context>, BuildError> {
    let mut found = HashMap::new();
    for (source, _) in graph.reachable().into_iter().flat_map(|stage| graph.sources(stage)) {
        let Source::Files(name) = source else { continue };
        let (false, Some(place)) = (found.contains_key(&name), graph.place(&name)) else { continue };
        // It has no Dockerfile of its own.
        let none = Text::default();
        let fetched =
            fetched::context(store, cache, wait, place, false).map_err(|why| BuildError::Context {
                message: format!("cannot use the build context `{name}`: {why}"),
                source: None,
            })?;
        let context = match (fetched, place) {
            (Some(fetched), _) => Context::of(fetched, &none)?,
            (None, Place::Directory(path)) => Context::open(path, &none, cache.memo(path))?,
            (None, _) => continue,
        };
        found.insert(name, context);
    }
    Ok(found)
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
    events: &(dyn Fn(BuildEvent) + Send + Sync),
) -> Result<(Dockerfile, Graph, Platforms), BuildError> {
    let located = |mistake: Mistake| located(file, mistake);
    let parsed = dockerfile::parse(&file.text).map_err(|mistakes| {
        let mut errors: Vec<BuildError> = mistakes.into_iter().map(located).collect();
        if errors.len() == 1 { errors.remove(0) } else { BuildError::Mistakes(errors) }
    })?;
    let mut platforms = Platforms::native(Platform::host());
    platforms.target = target_platform(build, &platforms.build)?;
    let argument = |name: &str| build.args.get(name).cloned().flatten();
    let contexts = build.additional_contexts.iter().map(|(name, text)| {
        let wrong = |why| BuildError::Context {
            message: format!("cannot use the build context `{name}`: {why}"),
            source: None,
        };
        Ok((name.clone(), Place::parse(text).map_err(wrong)?))
    });
    let contexts = contexts.collect::<Result<Vec<_>, BuildError>>()?;
    let target = build.target.as_deref();
    let graph = Graph::new(&parsed, &argument, &platforms, target, &contexts).map_err(located)?;
    if let Some(syntax) = &parsed.directives.syntax
        && !is_dockerfile_frontend(&syntax.text)
    {
        let mistake = Mistake::new(syntax.span, format!("the frontend `{}` is not run here", syntax.text));
        return Err(located(mistake.help("only Dockerfiles are read: `# syntax=docker/dockerfile:1`")));
    }
    for text in unconsumed(build, &parsed).into_iter().chain(not_honoured(build, &platforms.target)) {
        events(BuildEvent::Warning(text));
    }
    Ok((parsed, graph, platforms))
}

/// Images whose language is the one that is read here.
fn is_dockerfile_frontend(image: &str) -> bool {
    let Ok(image) = image.parse::<ImageRef>() else { return false };
    ["docker/dockerfile", "docker/dockerfile-upstream"].contains(&image.repository.as_str())
}

/// That of the service; else this machine's when `platforms` has it, else the first of them.
fn target_platform(build: &Build, machine: &Platform) -> Result<Platform, BuildError> {
    if let Some(wanted) = build.platform.as_deref().filter(|text| !text.is_empty()) {
        return Ok(Platform::parse(wanted)?);
    }
    let platforms: Result<Vec<_>, _> = build.platforms.iter().map(|text| Platform::parse(text)).collect();
    let platforms = platforms?;
    let own = platforms.iter().find(|platform| platform.architecture == machine.architecture);
    Ok(own.or(platforms.first()).unwrap_or(machine).clone())
}

/// What was asked for and is not done, each by its name.
fn not_honoured(build: &Build, target: &Platform) -> Vec<String> {
    let mut told = Vec::new();
    if build.platforms.len() > 1 {
        told.push(format!(
            "`platforms`: the image is built for {target} only; `ficelle build` builds it for all"
        ));
    }
    if let Some(isolation) = build.isolation.as_deref().filter(|name| *name != "default") {
        told.push(format!("`isolation: {isolation}` means something on Windows only"));
    }
    for (name, asked) in [("provenance", &build.provenance), ("sbom", &build.sbom)] {
        if asked.as_deref().is_some_and(|text| text != "false") {
            told.push(format!("`{name}`: no attestation is made"));
        }
    }
    for name in &build.entitlements {
        if !["network.host", "security.insecure"].contains(&name.as_str()) {
            told.push(format!("`entitlements`: `{name}` is not known"));
        }
    }
    told
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
        snippet: file.snippet(mistake.span),
        message: mistake.message,
        help: mistake.help,
    }
}

/// Brings the images that the needed stages start from or read; their triggers may need more.
async fn fetch(
    bringer: &Bringer<'_>,
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
                let image = bringer.bring(name).await.map_err(|error| match error {
                    ImageError::File { .. } | ImageError::Drift { .. } | ImageError::NotLocked(_) => {
                        error.into()
                    }
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

/// Where the images of a build come from.
struct Bringer<'a> {
    store: &'a Store,
    build: &'a Build,
    locked: Option<&'a LockedBases>,
    events: &'a (dyn Fn(BuildEvent) + Send + Sync),
}

impl Bringer<'_> {
    async fn bring(&self, name: &ImageName) -> Result<Image, ImageError> {
        let store = self.store;
        if let Some(layout) = name.name.strip_prefix(place::LAYOUT) {
            return of_layout(store, layout).await;
        }
        let (text, stored) = match name.name.strip_prefix(place::STORED) {
            Some(text) => (text, true),
            None => (name.name.as_str(), false),
        };
        let reference: ImageRef = text
            .parse()
            .map_err(|error: crate::model::ImageRefError| ImageError::Invalid(error.to_string()))?;
        let locked = if stored { None } else { self.digest(text)? };
        if (stored || !self.build.pull)
            && let Some(image) = store.find_for(&reference, &Platform::parse(&name.platform)?)?
        {
            let named = store.named(&reference)?.map(|named| named.digest);
            return match (locked, named) {
                (Some(locked), Some(found)) if *locked != found => {
                    Err(ImageError::Drift { image: text.to_owned(), locked: locked.clone(), found })
                }
                _ => Ok(image),
            };
        }
        if stored {
            return Err(ImageError::NotFound(text.to_owned()));
        }
        let report = |what: &str, done, total| {
            (self.events)(BuildEvent::Bytes { what: what.to_owned(), done, total });
        };
        let locked = locked.map(String::as_str);
        store.pull_locked(&reference, Some(&name.platform), locked, &report).await
    }

    /// What the image must be; `None` when it may be anything.
    fn digest(&self, name: &str) -> Result<Option<&String>, ImageError> {
        let Some(locked) = self.locked.filter(|locked| !locked.built_here.contains(name)) else {
            return Ok(None);
        };
        locked.digests.get(name).map(Some).ok_or_else(|| ImageError::NotLocked(name.to_owned()))
    }
}

/// The image of an OCI layout: `/path`, with `:tag` or `@digest`.
async fn of_layout(store: &Store, layout: &str) -> Result<Image, ImageError> {
    let at = layout.rfind('/').unwrap_or(0);
    let (path, wanted) = match (layout.split_once('@'), layout[at..].split_once(':')) {
        (Some((path, digest)), _) => (path, digest),
        (None, Some((end, tag))) => (&layout[..at + end.len()], tag),
        (None, None) => (layout, ""),
    };
    let (store, path, wanted) = (store.clone(), PathBuf::from(path), wanted.to_owned());
    let load = move || Ok(store.load_one(&path, &wanted)?);
    blocking(load).await.map_err(|error| match error {
        BuildError::Image(error) => error,
        other => ImageError::Invalid(other.to_string()),
    })
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
    let (config, mut docker) = document.split()?;
    docker.build_cache = share::inline(solver.build, &solver.cache.used(), &document);
    Ok(solver.store.commit_image_with(&config, &docker, references)?)
}

/// The images that a build starts from or copies out of, as its Dockerfile writes them. What triggers
/// of those bases name is known only when they are there.
pub async fn bases(store: &Store, build: &Build) -> Result<Vec<String>, BuildError> {
    let wait = tokio::runtime::Handle::current();
    let prepared = blocking({
        let (store, build) = (store.clone(), build.clone());
        move || prepare(&store, &build, &wait)
    });
    let (_, graph, _) = arrange(build, &prepared.await?.file, &|_| {})?;
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
    // What is made here, or lies beside the project, no registry has.
    names.retain(|name| !name.starts_with(place::STORED) && !name.starts_with(place::LAYOUT));
    Ok(names.into_iter().collect())
}
