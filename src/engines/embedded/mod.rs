//! The engine inside this program: a thin adapter from operations to the runtime core, the image
//! store and the builder. It decides nothing; it translates.

mod capabilities;
mod check;
mod commit;
mod config;
mod copy;
mod devices;
mod doctor;
mod error;
mod exec;
mod health;
mod hook;
mod images;
mod inside;
mod lenders;
mod logging;
mod logs;
mod observe;
mod others;
mod perform;
mod resources;

pub(super) use self::error::runtime as failure;

use std::{
    collections::HashMap,
    fs::File,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, mpsc};

use crate::{
    build,
    engine::{
        AttachRequest, Capabilities, Container, ContainerId, Conversation, CopyRequest, Detail, Engine,
        EngineError, ErrorKind, ExecRequest, Finding, ImageAct, ImageAnswer, ImageInfo, LogItem, LogQuery,
        Observed, Op, Outcome, ProcessInfo, Progress, ProjectLock, Scope, Unlimited, Usage,
    },
    image::{Image, ImageError, Store},
    model::{Build, ImageRef, NetworkMode},
    runtime::{Core, GroupLock, Missing, Roots, limits_missing},
};

/// Containers run by this program itself. Clones share everything.
#[derive(Clone, Debug)]
pub struct Embedded {
    core: Core,
    store: Store,
    /// Images that containers were made from, by id: what an id stands for never changes.
    images: Arc<Mutex<HashMap<String, Image>>>,
    /// Creations and starts that take the processor: more of them at once only wait for each other.
    places: Arc<Semaphore>,
    /// Containers that stay until we have learnt how they ended.
    attended: Arc<Mutex<Vec<File>>>,
}

const PER_PROCESSOR: usize = 2;

struct Held {
    _lock: GroupLock,
    core: Core,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.core.release();
    }
}

impl ProjectLock for Held {}

impl Embedded {
    /// Does nothing on disk.
    #[must_use]
    pub fn new(roots: Roots) -> Self {
        let store = Store::open(roots.data.join("images"));
        let places = std::thread::available_parallelism().map_or(1, usize::from) * PER_PROCESSOR;
        Self {
            core: Core::new(roots),
            store,
            images: Arc::default(),
            places: Arc::new(Semaphore::new(places)),
            attended: Arc::default(),
        }
    }

    /// Runs what blocks on a thread of its own.
    async fn blocking<T: Send + 'static>(
        &self,
        act: impl FnOnce(&Self) -> Result<T, EngineError> + Send + 'static,
    ) -> Result<T, EngineError> {
        let this = self.clone();
        tokio::task::spawn_blocking(move || act(&this)).await.map_err(|error| {
            EngineError::new(ErrorKind::Other, "bug in the embedded engine").caused_by(&error)
        })?
    }

    /// The image of an id, read once: many containers are made from few images.
    fn image(&self, id: &str) -> Result<Option<Image>, ImageError> {
        let images = || self.images.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(image) = images().get(id) {
            return Ok(Some(image.clone()));
        }
        let found = self.store.find_id(id)?;
        images().extend(found.clone().map(|image| (id.to_owned(), image)));
        Ok(found)
    }

    fn attend(&self, container: File) {
        self.attended.lock().unwrap_or_else(PoisonError::into_inner).push(container);
    }

    /// # Errors
    /// When this user, or this machine, cannot run containers.
    fn permitted(&self) -> Result<(), EngineError> {
        self.core.permitted().map_err(|error| error::runtime(&error, "containers cannot be run here"))
    }
}

#[async_trait]
impl Engine for Embedded {
    fn capabilities(&self) -> Capabilities {
        let unlimited = limits_missing().map(|Missing { controllers, why }| Unlimited { controllers, why });
        Capabilities { engine: "embedded", build: true, unlimited }
    }

    async fn lock(
        &self,
        project: &str,
        command: &str,
        waiting: &dyn Progress,
    ) -> Result<Box<dyn ProjectLock>, EngineError> {
        let (tell, mut told) = mpsc::unbounded_channel();
        let (project, command) = (project.to_owned(), command.to_owned());
        let taking = self.blocking(move |this| {
            this.permitted()?;
            let mut waiting = |holder: &str| {
                // Nobody listens any more when the command was given up.
                let _ = tell.send(holder.to_owned());
            };
            let failed = |error| error::runtime(&error, format!("project `{project}` cannot be locked"));
            let lock = this.core.lock(&project, &command, &mut waiting).map_err(failed)?;
            this.core.repair(&project).map_err(|error| {
                error::runtime(&error, "what an earlier command left cannot be put right")
            })?;
            Ok(lock)
        });
        tokio::pin!(taking);
        loop {
            tokio::select! {
                lock = &mut taking => return Ok(Box::new(Held { _lock: lock?, core: self.core.clone() })),
                Some(holder) = told.recv() => waiting.report(Detail::Doing(holder)),
            }
        }
    }

    async fn observe(&self, scope: &Scope) -> Result<Observed, EngineError> {
        let scope = scope.clone();
        self.blocking(move |this| observe::observe(this, &scope)).await
    }

    async fn check(&self, ops: &[&Op]) -> Vec<EngineError> {
        let ops: Vec<Op> = ops.iter().map(|&op| op.clone()).collect();
        let found = self.blocking(move |this| Ok(check::check(this, &ops))).await;
        found.unwrap_or_else(|error| vec![error])
    }

    fn expect(&self, ops: &[&Op]) {
        let starts = ops.iter().find_map(|op| match op {
            Op::Start { project, .. } => Some(project.clone()),
            _ => None,
        });
        let Some(project) = starts else { return };
        let networks = ops.iter().any(|op| match op {
            Op::Create(create) => {
                matches!(&create.spec.network, NetworkMode::Networks(joined) if !joined.is_empty())
            }
            _ => false,
        });
        let core = self.core.clone();
        tokio::task::spawn_blocking(move || core.prepare(&project, networks));
    }

    async fn perform(&self, op: &Op, progress: Arc<dyn Progress>) -> Result<Outcome, EngineError> {
        perform::perform(self, op, progress).await
    }

    async fn check_build(&self, service: &str, build: &Build) -> Result<(String, bool), EngineError> {
        let checked = build::check(&self.store, build).await;
        checked.map_err(|error| {
            error::build(&error, format!("the build of service `{service}` cannot be checked"))
                .at(format!("services.{service}.build"))
        })
    }

    async fn logs(&self, query: &LogQuery, sink: mpsc::Sender<LogItem>) -> Result<(), EngineError> {
        if query.follow {
            logs::follow(self, query, sink).await
        } else {
            logs::print(self, query, sink).await
        }
    }

    async fn exec(&self, request: &ExecRequest) -> Result<Conversation, EngineError> {
        exec::exec(self, request).await
    }

    async fn attach(&self, request: &AttachRequest) -> Result<Conversation, EngineError> {
        exec::attach(self, request).await
    }

    async fn usage(&self, project: &str, containers: &[ContainerId]) -> Result<Vec<Usage>, EngineError> {
        inside::usage(self, project, containers).await
    }

    async fn processes(&self, project: &str, id: &ContainerId) -> Result<Vec<ProcessInfo>, EngineError> {
        inside::processes(self, project, id).await
    }

    async fn everything(&self) -> Result<Vec<Container>, EngineError> {
        inside::everything(self).await
    }

    async fn changes(&self, project: &str, sink: mpsc::Sender<()>) -> Result<(), EngineError> {
        inside::changes(self, project, sink).await
    }

    async fn copy(&self, request: CopyRequest) -> Result<(), EngineError> {
        copy::copy(self, request).await
    }

    async fn examine(&self) -> Vec<Finding> {
        let found = self.blocking(|this| Ok(doctor::examine(this.core.roots()))).await;
        found.unwrap_or_default()
    }

    async fn sweep(&self, dry: bool) -> Result<Vec<String>, EngineError> {
        self.blocking(move |this| {
            this.permitted()?;
            let failed = |error| error::runtime(&error, "what was left cannot be cleared away");
            let mut found: Vec<String> =
                this.core.sweep(dry).map_err(failed)?.iter().map(ToString::to_string).collect();
            let failed = |error| error::image(&error, "what was left of images cannot be cleared away");
            let files = this.store.sweep(dry).map_err(failed)?;
            found.extend(files.iter().map(|file| format!("images: {}", file.display())));
            Ok(found)
        })
        .await
    }

    async fn exec_detached(&self, request: &ExecRequest) -> Result<(), EngineError> {
        exec::detached(self, request).await
    }

    async fn images(&self) -> Result<Vec<ImageInfo>, EngineError> {
        self.blocking(|this| {
            let images =
                this.store.list().map_err(|error| error::image(&error, "images cannot be listed"))?;
            Ok(images.iter().map(observe::image_info).collect())
        })
        .await
    }

    async fn load_image(&self, path: &Path, progress: Arc<dyn Progress>) -> Result<Vec<String>, EngineError> {
        let path = path.to_owned();
        self.blocking(move |this| {
            this.permitted()?;
            let report = |what: &str, done: u64, total: u64| {
                progress.report(Detail::Bytes { what: what.to_owned(), done, total });
            };
            let loaded = this.store.load(&path, &report).map_err(|error| {
                error::image(&error, format!("images of `{}` cannot be loaded", path.display()))
            })?;
            Ok(loaded.iter().map(ImageRef::familiar).collect())
        })
        .await
    }

    async fn act_on_images(
        &self,
        act: ImageAct,
        progress: Arc<dyn Progress>,
    ) -> Result<ImageAnswer, EngineError> {
        images::act(self, act, progress).await
    }

    async fn remove_image(&self, image: &ImageRef, force: bool) -> Result<(), EngineError> {
        let image = image.clone();
        self.blocking(move |this| {
            let name = image.familiar();
            let failed = |error| error::image(&error, format!("image `{name}` cannot be removed"));
            let containers = this
                .core
                .containers(None)
                .map_err(|error| error::runtime(&error, "containers cannot be listed"))?;
            let found = this.store.find(&image).map_err(failed)?;
            let user = found.as_ref().and_then(|found| {
                containers.iter().find(|record| observe::image_id(record) == Some(found.id.as_str()))
            });
            if let (Some(user), false) = (user, force) {
                let user = &user.config.name;
                return Err(EngineError::new(
                    ErrorKind::Conflict,
                    format!("image `{name}` is used by container {user}"),
                )
                .help("remove the container first, or use `--force` to take the name away"));
            }
            let used = images::needed(this)?;
            let removed = this.store.remove(&image, &used);
            removed.map_err(|error| images::cannot(&error, &name, "removed"))
        })
        .await
    }
}
