//! Carries out the stages that the target needs, side by side where they do not need each other.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
};

use super::{
    BuildError, BuildEvent,
    cache::{Cache, Key, Record},
    cancel::Cancel,
    config::{Document, Made},
    content::Digest,
    context::{Context, Text},
    dockerfile::{Kind, Mistake, Span, line_of},
    graph::{Base, Graph, Node, Origin, Source, Step},
    platform::Platforms,
    tree::Tree,
};
use crate::{
    image::{Image, LayerRef, Store},
    model::Build,
    runtime::Core,
};

/// One build; shared by the threads of its stages.
pub struct Solver<'a> {
    pub store: &'a Store,
    pub core: &'a Core,
    pub build: &'a Build,
    pub file: &'a Text,
    pub graph: &'a Graph,
    /// Bases and sources, by name and platform.
    pub images: &'a HashMap<ImageName, Image>,
    pub platforms: &'a Platforms,
    pub context: Context,
    /// Named contexts that are files and are read.
    pub contexts: HashMap<String, Context>,
    pub cache: Cache,
    /// To wait for what comes over a network.
    pub wait: tokio::runtime::Handle,
    pub events: &'a (dyn Fn(BuildEvent) + Send + Sync),
    /// Set when the caller went away or a stage failed.
    pub cancel: &'a Cancel,
    /// RFC 3339; of what is made now.
    pub now: String,
    pub progress: Progress,
}

/// An image as written, and the platform wanted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageName {
    pub name: String,
    pub platform: String,
}

/// Which stages are done.
#[derive(Debug, Default)]
pub struct Progress {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    done: HashMap<usize, Arc<Stage>>,
    failed: Option<BuildError>,
}

/// A stage as far as it has come.
#[derive(Clone, Debug)]
pub struct Stage {
    pub layers: Vec<LayerRef>,
    pub document: Document,
    /// ARG in the order declared.
    pub args: Vec<(String, Option<String>)>,
    /// Key of all that was done, and what came of it.
    pub chain: Key,
    /// CMD was written in this stage.
    pub cmd_is_own: bool,
    /// When the newest layer was made.
    pub created: Option<String>,
}

/// The step being carried out.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    pub node: &'a Node,
    pub step: &'a Step,
    /// `[web 2/5]`
    pub number: &'a str,
}

impl At<'_> {
    /// In the Dockerfile: that of the FROM for a trigger.
    #[must_use]
    pub fn span(&self) -> Span {
        if self.step.origin == Origin::File { self.step.instruction.span } else { self.node.span }
    }
}

/// What a step depends on, beside the layers below.
#[derive(Debug, Default)]
pub struct Inputs {
    pub definition: Vec<Vec<u8>>,
    /// Fast keys of stages that are read, digests of the context.
    pub fast: Vec<Vec<u8>>,
    /// The layer does not depend on those below (`COPY --link`).
    pub parentless: bool,
}

/// A merged view of layers, to read or to write on.
#[derive(Debug)]
pub struct View {
    pub tree: Tree,
    /// Holds `fs`, what was written.
    pub scratch: tempfile::TempDir,
}

impl Solver<'_> {
    /// The target's stage.
    pub fn solve(&self) -> Result<Arc<Stage>, BuildError> {
        thread::scope(|scope| {
            for stage in self.graph.reachable() {
                scope.spawn(move || self.attend(stage));
            }
        });
        let mut state = self.state();
        match state.failed.take() {
            Some(error) => Err(error),
            None => state.done.get(&self.graph.target).cloned().ok_or(BuildError::Cancelled),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.progress.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for what the stage needs, then carries it out.
    fn attend(&self, stage: usize) {
        let needs = self.graph.needs(stage);
        let mut state = self.state();
        while state.failed.is_none() && !needs.iter().all(|need| state.done.contains_key(need)) {
            state = self.progress.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.failed.is_some() {
            return;
        }
        drop(state);
        let result = self.stage(stage);
        let mut state = self.state();
        match result {
            Ok(done) => {
                state.done.insert(stage, Arc::new(done));
            }
            // Later ones are most likely consequences.
            Err(error) => {
                state.failed.get_or_insert(error);
                self.cancel.set();
            }
        }
        drop(state);
        self.progress.changed.notify_all();
    }

    pub fn check(&self) -> Result<(), BuildError> {
        if self.cancel.is_set() { Err(BuildError::Cancelled) } else { Ok(()) }
    }

    fn stage(&self, index: usize) -> Result<Stage, BuildError> {
        let node = &self.graph.stages[index];
        let total = 1 + node.steps.iter().filter(|step| touches_files(&step.instruction.kind)).count();
        let mut number = 1;
        let prefix = |number: usize| match (self.graph.stages.len(), &node.name) {
            (1, None) => format!("[{number}/{total}]"),
            _ => format!("[{} {number}/{total}]", node.label),
        };
        let mut stage = self.begin(node, &prefix(number))?;
        for step in &node.steps {
            self.check()?;
            if touches_files(&step.instruction.kind) {
                number += 1;
            }
            let at = At { node, step, number: &prefix(number) };
            self.step(&mut stage, at)?;
        }
        Ok(stage)
    }

    fn begin(&self, node: &Node, number: &str) -> Result<Stage, BuildError> {
        let mut stage = match &node.base {
            Base::Scratch => Stage {
                layers: Vec::new(),
                document: Document::scratch(&self.platforms.target),
                args: Vec::new(),
                chain: Key::of([&b"scratch"[..]]),
                cmd_is_own: false,
                created: None,
            },
            Base::Stage(base) => Stage { cmd_is_own: false, ..(*self.done(*base)).clone() },
            Base::Image(name) => {
                let image = self.image(name, node.platform.as_deref())?;
                let document = Document::of(image)?;
                (self.events)(BuildEvent::Step { step: format!("{number} FROM {name}"), cached: true });
                Stage {
                    layers: image.layers.clone(),
                    created: document.created.clone(),
                    document,
                    args: Vec::new(),
                    chain: Key::of([&b"image"[..], image.id.as_bytes()]),
                    cmd_is_own: false,
                }
            }
        };
        stage.document.config.on_build.clear();
        stage.document.begin();
        Ok(stage)
    }

    /// A stage that was waited for.
    pub fn done(&self, stage: usize) -> Arc<Stage> {
        Arc::clone(&self.state().done[&stage])
    }

    pub fn image(&self, name: &str, platform: Option<&str>) -> Result<&Image, BuildError> {
        let platform = platform.map_or_else(|| self.platforms.target.to_string(), str::to_owned);
        let found = self.images.get(&ImageName { name: name.to_owned(), platform });
        found.ok_or_else(|| crate::image::ImageError::NotFound(name.to_owned()).into())
    }

    /// The context that `from` names: the main one when it is `None`; `None` for stages and images.
    pub fn context_of(&self, from: Option<&str>) -> Option<&Context> {
        let Some(from) = from else { return Some(&self.context) };
        match self.graph.source(from) {
            Source::Files(name) => self.contexts.get(&name),
            Source::Stage(_) | Source::Image(_) => None,
        }
    }

    /// Layers and fast key of the stage or image that a `--from` names.
    pub fn source(&self, source: &Source) -> Result<(Vec<LayerRef>, Key), BuildError> {
        Ok(match source {
            Source::Stage(stage) => {
                let stage = self.done(*stage);
                (stage.layers.clone(), stage.chain)
            }
            Source::Image(name) => {
                let image = self.image(name, None)?;
                (image.layers.clone(), Key::of([&b"image"[..], image.id.as_bytes()]))
            }
            Source::Files(name) => return Err(crate::image::ImageError::NotFound(name.clone()).into()),
        })
    }

    pub fn view(&self, layers: &[LayerRef]) -> Result<View, BuildError> {
        let scratch = self.store.scratch()?;
        let tree = Tree::overlay(&stack(layers), scratch.path()).map_err(|source| BuildError::Context {
            message: format!("cannot mount the layers of a stage: {source}"),
            source: Some(source),
        })?;
        Ok(View { tree, scratch })
    }

    /// Finds or makes the layer of a step. `slow` digests what is read from stages; `make` returns
    /// the directory with the changes, or `None` for none, and says whether the result may be kept.
    pub fn layer(
        &self,
        stage: &mut Stage,
        at: At<'_>,
        inputs: &Inputs,
        slow: impl FnOnce() -> Result<Vec<Digest>, BuildError>,
        make: impl FnOnce(&Stage) -> Result<Change, BuildError>,
    ) -> Result<Made, BuildError> {
        let parts = |kind: &'static str| {
            std::iter::once(kind.as_bytes()).chain(inputs.definition.iter().map(Vec::as_slice))
        };
        let ends = [&b"--"[..]];
        let below: &[u8] = if inputs.parentless { b"" } else { stage.chain.bytes() };
        let fast =
            Key::of(parts("fast").chain(ends).chain([below]).chain(inputs.fast.iter().map(Vec::as_slice)));
        let record = match self.usable(at.node, &fast)? {
            Some(record) => Some(record),
            None => {
                let digests = slow()?;
                let below = stage.layers.iter().map(|layer| layer.diff_id.as_bytes());
                let below = below.take(if inputs.parentless { 0 } else { usize::MAX });
                let slow = Key::of(
                    parts("slow").chain(ends).chain(below).chain(ends).chain(digests.iter().map(|d| &d[..])),
                );
                let found = self.usable(at.node, &slow)?;
                match &found {
                    Some((record, _)) => self.keep(&fast, record)?,
                    None => {
                        self.announce(at, false);
                        let made = self.make(stage, make)?;
                        if made.2 == Keep::Yes {
                            self.keep(&fast, &made.0)?;
                            self.keep(&slow, &made.0)?;
                        }
                        return Ok(advance(stage, fast, (made.0, made.1)));
                    }
                }
                found
            }
        };
        self.announce(at, true);
        Ok(record.map_or(Made::Nothing, |record| advance(stage, fast, record)))
    }

    fn make(
        &self,
        stage: &Stage,
        make: impl FnOnce(&Stage) -> Result<Change, BuildError>,
    ) -> Result<(Record, Option<LayerRef>, Keep), BuildError> {
        let change = make(stage)?;
        self.check()?;
        let layer = match change.written {
            Some(view) if !is_empty(&view.path().join("fs"))? => {
                Some(self.store.commit_layer(&view.path().join("fs"))?)
            }
            _ => None,
        };
        let record =
            Record { layer: layer.as_ref().map(|layer| layer.diff_id.clone()), created: self.now.clone() };
        Ok((record, layer, change.keep))
    }

    /// A record whose layer is there.
    fn usable(&self, node: &Node, key: &Key) -> Result<Option<(Record, Option<LayerRef>)>, BuildError> {
        let is_named = |name: &String| name.eq_ignore_ascii_case(&node.label);
        if self.build.no_cache || self.build.no_cache_filter.iter().any(is_named) {
            return Ok(None);
        }
        let Some(record) = self.cache.find(key) else { return Ok(None) };
        match &record.layer {
            None => Ok(Some((record, None))),
            Some(diff_id) => Ok(self.store.layer(diff_id)?.map(|layer| (record, Some(layer)))),
        }
    }

    fn keep(&self, key: &Key, record: &Record) -> Result<(), BuildError> {
        self.cache.put(key, record).map_err(|source| BuildError::Context {
            message: format!("cannot write to the build cache: {source}"),
            source: Some(source),
        })
    }

    fn announce(&self, at: At<'_>, cached: bool) {
        (self.events)(BuildEvent::Step {
            step: format!("{} {}", at.number, at.step.instruction.text),
            cached,
        });
    }

    /// A mistake of the step, with its place.
    pub fn wrong(&self, at: At<'_>, mistake: Mistake) -> BuildError {
        let (span, message) = match at.step.origin {
            Origin::File => (mistake.span, mistake.message),
            Origin::Trigger => (
                at.node.span,
                format!("in `ONBUILD {}` of the base image: {}", at.step.instruction.text, mistake.message),
            ),
        };
        super::located(self.file, Mistake { span, message, help: mistake.help })
    }

    pub fn line(&self, at: At<'_>) -> u32 {
        line_of(&self.file.text, at.span().start)
    }

    pub fn warn(&self, at: At<'_>, message: &str) {
        let text = format!("{}:{}: {message}", self.file.name, self.line(at));
        (self.events)(BuildEvent::Warning(text));
    }
}

/// The directories to mount, the base first. Two steps may make the same layer, but overlayfs takes no
/// directory twice; the upper one alone shows the same.
#[must_use]
pub fn stack(layers: &[LayerRef]) -> Vec<PathBuf> {
    let above = |at: usize| &layers[at + 1..];
    let last = |(at, layer): &(usize, &LayerRef)| !above(*at).iter().any(|upper| upper.path == layer.path);
    layers.iter().enumerate().filter(last).map(|(_, layer)| layer.path.clone()).collect()
}

/// What a step did.
#[derive(Debug)]
pub struct Change {
    /// Holds `fs`.
    pub written: Option<tempfile::TempDir>,
    pub keep: Keep,
}

/// Whether a result may stand for the same step in later builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    Yes,
    /// What it read changed meanwhile.
    No,
}

/// The result is part of the chain: a step that had to be carried out again may have come to another
/// one, and then nothing that was made from the first fits.
fn advance(stage: &mut Stage, fast: Key, (record, layer): (Record, Option<LayerRef>)) -> Made {
    stage.chain = Key::of([fast.bytes(), layer.as_ref().map_or(&[][..], |layer| layer.diff_id.as_bytes())]);
    let made = if layer.is_some() { Made::Layer } else { Made::Nothing };
    if let Some(layer) = layer {
        stage.layers.push(layer);
        stage.created = Some(record.created);
    }
    made
}

fn is_empty(path: &std::path::Path) -> Result<bool, BuildError> {
    let mut entries = std::fs::read_dir(path).map_err(|source| BuildError::Context {
        message: format!("cannot read `{}`: {source}", path.display()),
        source: Some(source),
    })?;
    Ok(entries.next().is_none())
}

/// Counted in `2/5`.
fn touches_files(kind: &Kind) -> bool {
    matches!(kind, Kind::Run(_) | Kind::Copy(_) | Kind::Workdir(_))
}
