//! An engine in memory, with a clock that counts operations and failures on request: the engine of
//! most tests. Nothing is run; containers behave as they are told.
//!
//! What a container does when it starts is read from its command, as far as that is plain (`true`,
//! `false`, `exit 3`, `echo hello`), unless [`Simulated::behave`] says otherwise for its service.
//! With a file as its memory ([`Simulated::at`]) it also serves one process after another.

mod faults;
mod record;
mod store;
mod talk;
mod view;
mod world;

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};

pub use faults::Effect;

use self::{
    faults::{Faults, Verdict},
    world::World,
};
use crate::{
    engine::{
        AttachRequest, Capabilities, Container, ContainerId, Conversation, CopyRequest, Detail, Engine,
        EngineError, ErrorKind, ExecRequest, Finding, Health, ImageInfo, LogItem, LogQuery, Observed, Op,
        Outcome, ProcessInfo, Progress, ProjectLock, Scope, Usage,
    },
    model::ImageRef,
};

/// An engine that only pretends. Clones share what there is.
#[derive(Clone)]
pub struct Simulated {
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    file: Option<PathBuf>,
    faults: Mutex<Faults>,
    /// Counts changes; waits and followed logs look again when it moves.
    changes: watch::Sender<u64>,
    /// By project; each holds the command that has it.
    locks: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<String>>>>,
}

impl fmt::Debug for Simulated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulated").field("world", &*held(&self.shared.world)).finish_non_exhaustive()
    }
}

/// What a container does when it is started.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Behaviour {
    /// Ends at once with this code; runs on when absent.
    pub exit: Option<i32>,
    /// What its health check finds; as soon as it runs, healthy, when it has a check and this is
    /// absent. `Starting` never decides.
    pub health: Option<Health>,
    /// Lines it writes to stdout.
    pub lines: Vec<String>,
}

impl Behaviour {
    /// Ends at once with `code`.
    #[must_use]
    pub fn exits(code: i32) -> Self {
        Self { exit: Some(code), ..Self::default() }
    }

    #[must_use]
    pub fn health(health: Health) -> Self {
        Self { health: Some(health), ..Self::default() }
    }

    /// Of a command that anyone can carry out in their head.
    fn of(command: &[String]) -> Self {
        let words: Vec<&str> = match command.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            [shell, "-c", script] if shell.ends_with("sh") => script.split_whitespace().collect(),
            words => words.to_vec(),
        };
        match words.as_slice() {
            ["true"] => Self::exits(0),
            ["false"] => Self::exits(1),
            ["exit", code] => code.parse().map_or_else(|_| Self::default(), Self::exits),
            ["echo", text @ ..] => Self { exit: Some(0), lines: vec![text.join(" ")], health: None },
            _ => Self::default(),
        }
    }
}

impl Default for Simulated {
    fn default() -> Self {
        Self::new()
    }
}

impl Simulated {
    /// An empty machine whose registry has every image.
    #[must_use]
    pub fn new() -> Self {
        Self::with(None)
    }

    /// Remembers in a JSON file, which is read before and written after each operation.
    #[must_use]
    pub fn at(file: PathBuf) -> Self {
        Self::with(Some(file))
    }

    fn with(file: Option<PathBuf>) -> Self {
        Self {
            shared: Arc::new(Shared {
                world: Mutex::default(),
                file,
                faults: Mutex::default(),
                changes: watch::Sender::new(0),
                locks: Mutex::default(),
            }),
        }
    }

    /// Containers of `service` behave so from their next start on.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn behave(&self, service: &str, behaviour: Behaviour) -> Result<(), EngineError> {
        self.change(|world| {
            world.behave(service, behaviour);
            Ok(())
        })
    }

    /// From now on the registry has another content (or none) under this name, and a build gives it.
    ///
    /// # Errors
    /// `image` is no image reference, or the file cannot be written.
    pub fn publish(&self, image: &str, content: Option<&str>) -> Result<(), EngineError> {
        self.change(|world| world.publish(image, content))
    }

    /// The health check of a running container finds out something new.
    ///
    /// # Errors
    /// No such container, or the file cannot be written.
    pub fn turn(&self, container: &str, health: Health) -> Result<(), EngineError> {
        self.change(|world| world.turn(container, health))
    }

    /// The main process of a running container ends; its restart policy acts.
    ///
    /// # Errors
    /// No such container, or the file cannot be written.
    pub fn exit(&self, container: &str, code: i32) -> Result<(), EngineError> {
        self.change(|world| world.exit(container, code))
    }

    /// The operation after `after` more fails.
    pub fn fail_after(&self, after: usize, effect: Effect) {
        held(&self.shared.faults).fail_after(after, effect);
    }

    /// Operations that `matches` is true of fail, until [`Self::heal`].
    pub fn fail_matching(&self, matches: impl Fn(&Op) -> bool + Send + 'static) {
        held(&self.shared.faults).fail_matching(Box::new(matches));
    }

    /// After `after` more operations nothing is carried out any more, until [`Self::heal`].
    pub fn crash_after(&self, after: usize) {
        held(&self.shared.faults).crash_after(after);
    }

    /// Takes back all failures that were asked for.
    pub fn heal(&self) {
        held(&self.shared.faults).heal();
    }

    /// Operations asked for so far, those that failed included.
    #[must_use]
    pub fn performed(&self) -> usize {
        held(&self.shared.faults).performed()
    }

    fn look<T>(&self, see: impl FnOnce(&World) -> T) -> Result<T, EngineError> {
        let mut world = held(&self.shared.world);
        if let Some(file) = &self.shared.file {
            *world = World::read(file)?;
        }
        Ok(see(&world))
    }

    /// `act` fails before it changes anything, or not at all.
    fn change<T>(&self, act: impl FnOnce(&mut World) -> Result<T, EngineError>) -> Result<T, EngineError> {
        let mut world = held(&self.shared.world);
        // Held until the end of this function; dies with the process.
        let _lock =
            self.shared.file.as_deref().map(|file| exclusive(&file.with_extension("lock"))).transpose()?;
        if let Some(file) = &self.shared.file {
            *world = World::read(file)?;
            // Other processes compare our times with theirs.
            world.clock = world.clock.max(record::clock_at(std::time::SystemTime::now()));
        }
        let result = act(&mut world)?;
        if let Some(file) = &self.shared.file {
            world.write(file)?;
        }
        drop(world);
        self.shared.changes.send_modify(|count| *count += 1);
        Ok(result)
    }

    fn carry_out(&self, op: &Op) -> Result<Outcome, EngineError> {
        self.change(|world| world.carry_out(op))
    }

    /// Looks again at each change until `see` finds an answer.
    async fn until<T>(&self, mut see: impl FnMut(&World) -> Option<T>) -> Result<T, EngineError> {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(answer) = self.look(&mut see)? {
                return Ok(answer);
            }
            if self.shared.file.is_some() {
                // What another process does to the file is told to nobody: patience has to end.
                if tokio::time::timeout(PATIENCE, changes.changed()).await.is_ok() {
                    continue;
                }
                let message = "nothing in this simulation will bring about what is waited for";
                return Err(EngineError::new(ErrorKind::Dependency, message));
            }
            // The sender lives as long as `self`.
            let _ = changes.changed().await;
        }
    }
}

/// How long a simulation kept in a file waits for a change that only its own process could make.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(5);

/// The lock; a panic elsewhere does not matter to a value that is replaced as a whole.
fn held<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn exclusive(path: &Path) -> Result<File, EngineError> {
    let lock = open_lock(path)?;
    lock.lock().map_err(|error| unusable(path, &error))?;
    Ok(lock)
}

fn open_lock(path: &Path) -> Result<File, EngineError> {
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(|error| unusable(dir, &error))?;
    }
    File::options().create(true).append(true).open(path).map_err(|error| unusable(path, &error))
}

fn unusable(path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::new(ErrorKind::Other, format!("cannot use `{}`", path.display())).caused_by(error)
}

/// Held by one command; the file lock, where there is one, holds off other processes.
struct Held {
    _command: tokio::sync::OwnedMutexGuard<String>,
    _file: Option<File>,
}

impl ProjectLock for Held {}

#[async_trait]
impl Engine for Simulated {
    fn capabilities(&self) -> Capabilities {
        Capabilities { engine: "simulated", build: true, unlimited: None }
    }

    async fn lock(
        &self,
        project: &str,
        command: &str,
        waiting: &dyn Progress,
    ) -> Result<Box<dyn ProjectLock>, EngineError> {
        let holder = Arc::clone(held(&self.shared.locks).entry(project.to_owned()).or_default());
        let mut guard = match Arc::clone(&holder).try_lock_owned() {
            Ok(guard) => guard,
            Err(_) => {
                waiting.report(Detail::Doing("another command of this process".to_owned()));
                holder.lock_owned().await
            }
        };
        command.clone_into(&mut guard);
        let file = match &self.shared.file {
            None => None,
            Some(file) => {
                let path = file.with_extension(format!("{project}.lock"));
                let lock = open_lock(&path)?;
                if lock.try_lock().is_err() {
                    waiting.report(Detail::Doing("another process".to_owned()));
                    let taken = tokio::task::spawn_blocking(move || lock.lock().map(|()| lock)).await;
                    let taken = taken.map_err(std::io::Error::other).and_then(|lock| lock);
                    Some(taken.map_err(|error| unusable(&path, &error))?)
                } else {
                    Some(lock)
                }
            }
        };
        Ok(Box::new(Held { _command: guard, _file: file }))
    }

    async fn observe(&self, scope: &Scope) -> Result<Observed, EngineError> {
        self.look(|world| world.observe(scope))
    }

    async fn check(&self, ops: &[&Op]) -> Vec<EngineError> {
        self.look(|world| world.check(ops)).unwrap_or_else(|error| vec![error])
    }

    async fn perform(&self, op: &Op, progress: Arc<dyn Progress>) -> Result<Outcome, EngineError> {
        let verdict = held(&self.shared.faults).judge(op);
        match verdict {
            Verdict::Refuse(error) => return Err(error),
            Verdict::LoseAnswer(error) => {
                self.carry_out(op)?;
                return Err(error);
            }
            Verdict::Allow => {}
        }
        // Lets steps that run side by side mix.
        tokio::task::yield_now().await;
        match op {
            Op::Wait { project, name, until } => {
                progress.report(Detail::Doing(format!("waiting for {name}")));
                self.until(|world| world.decide(project, name, *until)).await?
            }
            op => self.carry_out(op),
        }
    }

    async fn logs(&self, query: &LogQuery, sink: mpsc::Sender<LogItem>) -> Result<(), EngineError> {
        let mut told = BTreeMap::new();
        let mut first = true;
        loop {
            let mut changes = self.shared.changes.subscribe();
            changes.borrow_and_update();
            let tail = query.tail.filter(|_| first);
            let (items, over) = self.look(|world| world.logs(query, tail, &mut told))?;
            first = false;
            for item in items {
                if sink.send(item).await.is_err() {
                    return Ok(());
                }
            }
            if over || !query.follow {
                return Ok(());
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = sink.closed() => return Ok(()),
            }
        }
    }

    async fn exec(&self, request: &ExecRequest) -> Result<Conversation, EngineError> {
        self.look(|world| world.live(&request.container).map(drop))??;
        Ok(talk::converse(&Behaviour::of(&request.command), request.stdin))
    }

    async fn attach(&self, request: &AttachRequest) -> Result<Conversation, EngineError> {
        let mut behaviour = self.look(|world| world.behaviour(&request.container))??;
        if !request.from_start {
            behaviour.lines.clear();
        }
        if request.stdin || behaviour.exit.is_some() {
            return Ok(talk::converse(&behaviour, request.stdin));
        }
        let (engine, id) = (self.clone(), request.container.clone());
        let end = async move { engine.until(|world| world.end_of(&id)).await.ok().flatten() };
        Ok(talk::listen(behaviour.lines, end))
    }

    async fn usage(&self, _project: &str, containers: &[ContainerId]) -> Result<Vec<Usage>, EngineError> {
        // Programs of a simulation use nothing.
        let used = |world: &World| {
            let running = containers.iter().filter_map(|id| world.live(id).ok());
            running
                .map(|record| Usage { container: record.name.clone(), tasks: 1, ..Usage::default() })
                .collect()
        };
        self.look(used)
    }

    async fn processes(&self, _project: &str, id: &ContainerId) -> Result<Vec<ProcessInfo>, EngineError> {
        self.look(|world| world.processes(id))?
    }

    async fn everything(&self) -> Result<Vec<Container>, EngineError> {
        self.look(|world| world.containers.iter().map(record::Record::observed).collect())
    }

    async fn changes(&self, _project: &str, sink: mpsc::Sender<()>) -> Result<(), EngineError> {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.borrow_and_update();
            let _ = sink.try_send(());
            tokio::select! {
                _ = changes.changed() => {}
                () = sink.closed() => return Ok(()),
            }
        }
    }

    /// Containers of a simulation have no files: there is nothing to copy.
    async fn copy(&self, _request: CopyRequest) -> Result<(), EngineError> {
        Err(EngineError::new(ErrorKind::Unsupported, "containers of the simulated engine have no files"))
    }

    async fn examine(&self) -> Vec<Finding> {
        let text = "nothing is run, so nothing is needed".to_owned();
        vec![Finding { name: "engine", verdict: crate::engine::Verdict::Pass, text, fix: None }]
    }

    async fn exec_detached(&self, request: &ExecRequest) -> Result<(), EngineError> {
        self.look(|world| world.live(&request.container).map(drop))?
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, EngineError> {
        self.look(World::images)
    }

    async fn load_image(
        &self,
        path: &Path,
        _progress: Arc<dyn Progress>,
    ) -> Result<Vec<String>, EngineError> {
        if let Err(error) = std::fs::metadata(path) {
            let message = format!("cannot read `{}`", path.display());
            return Err(EngineError::new(ErrorKind::NotFound, message).caused_by(&error));
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        self.change(|world| world.load(&name))
    }

    async fn remove_image(&self, image: &ImageRef, force: bool) -> Result<(), EngineError> {
        self.change(|world| world.remove_image(image, force))
    }
}
