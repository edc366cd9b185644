//! The contract between a plan and whatever carries it out. No I/O here.
//!
//! An engine observes, performs one [`Op`] at a time (many at once), and tells what its containers
//! say. It decides nothing: the planner does. What is promised beyond the types is held by
//! `tests/contract.rs`, the same list of cases for every engine.

mod copy;
mod doctor;
mod error;
mod images;
mod observed;
mod op;
mod process;
mod usage;

use std::{sync::Arc, time::SystemTime};

use async_trait::async_trait;
use tokio::sync::mpsc;

pub use copy::{CopyRequest, Source, Target};
pub use doctor::{Finding, Verdict};
pub use error::{EngineError, ErrorKind};
pub use images::{CommitRequest, ImageAct, ImageAnswer, ImageStep, LabelFilter, Prune};
pub use observed::{
    Container, ContainerId, ContainerState, Health, ImageInfo, NetworkInfo, Observed, PublishedPort,
    VolumeInfo,
};
pub use op::{
    BuildRequest, CreateContainer, HookAt, HookRequest, OneOff, Op, Outcome, ProviderAct, ProviderRequest,
    PullRequest, PushRequest, WaitFor,
};
pub use process::{AttachRequest, Chunk, Control, Conversation, ExecRequest, Size};

use crate::model::{Build, ImageRef};
pub use usage::{ProcessInfo, Usage};
// What a [`WaitFor`] speaks of.
pub use crate::model::Condition;

/// What an engine can and cannot do; the planner asks here, never "which engine".
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Shown to the user: `embedded`, `simulated`.
    pub engine: &'static str,
    /// `build:` works.
    pub build: bool,
    /// Limits of containers that have no effect for this user.
    pub unlimited: Option<Unlimited>,
}

/// Limits that have no effect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unlimited {
    /// As the kernel names what limits: `cpu`, `cpuset`, `io`, `memory`, `pids`.
    pub controllers: Vec<&'static str>,
    /// With what would change it.
    pub why: String,
}

/// What to look at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Name of the project.
    pub project: String,
    /// Images whose presence and id matter, as written.
    pub images: Vec<String>,
    /// Engine names of external networks and volumes whose presence matters.
    pub networks: Vec<String>,
    pub volumes: Vec<String>,
}

/// Hears how far a long operation is. Cheap to call; never fails.
pub trait Progress: Send + Sync {
    fn report(&self, progress: Detail);
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Detail {
    /// What is being done now, in a few words (`waiting for health, last: connection refused`).
    Doing(String),
    /// Of a transfer or extraction; `total` of 0 is unknown.
    Bytes { what: String, done: u64, total: u64 },
    /// A line of output of a build step.
    Line(String),
}

/// Nobody listens.
#[derive(Clone, Copy, Debug)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _: Detail) {}
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogQuery {
    pub project: String,
    /// Container names; all of the project's when empty.
    pub containers: Vec<String>,
    /// Only the last lines of each container.
    pub tail: Option<usize>,
    pub since: Option<SystemTime>,
    pub until: Option<SystemTime>,
    /// Go on until every followed container has ended for good; containers of the project (within
    /// `containers`) that start later are followed too.
    pub follow: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    Stdout,
    Stderr,
}

/// What a container said or did, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogItem {
    Line {
        container: String,
        stream: Stream,
        time: SystemTime,
        /// Without its line feed; not necessarily UTF-8.
        text: Vec<u8>,
    },
    /// The main process ended; `restarting` when its policy brings it back.
    Exited { container: String, code: Option<i32>, restarting: bool },
}

/// A lock on one project that dies with its holder.
pub trait ProjectLock: Send {}

/// One way of running containers.
#[async_trait]
pub trait Engine: Send + Sync {
    fn capabilities(&self) -> Capabilities;

    /// Takes the project's lock for a command that changes it, waiting for another holder.
    /// `waiting` hears who holds it.
    async fn lock(
        &self,
        project: &str,
        command: &str,
        waiting: &dyn Progress,
    ) -> Result<Box<dyn ProjectLock>, EngineError>;

    /// A true snapshot; what a killed command left behind is repaired or shown as it is.
    async fn observe(&self, scope: &Scope) -> Result<Observed, EngineError>;

    /// Finds everything that would make `ops` fail and can be known now (ports in use, missing
    /// bind sources, values out of range), without changing anything.
    async fn check(&self, ops: &[&Op]) -> Vec<EngineError>;

    /// Hears what will be done before it is: what `ops` will need can be made ready beside the first of
    /// them. Changes nothing that is observed, and ends with the project's lock.
    fn expect(&self, _ops: &[&Op]) {}

    /// Carries out one operation. Repeating an operation that was already carried out is no error.
    async fn perform(&self, op: &Op, progress: Arc<dyn Progress>) -> Result<Outcome, EngineError>;

    /// What build checks say of a service's Dockerfile, and whether that is nothing; builds nothing.
    async fn check_build(&self, service: &str, build: &Build) -> Result<(String, bool), EngineError> {
        let _ = build;
        let message = format!("the {} engine cannot check builds", self.capabilities().engine);
        Err(EngineError::new(ErrorKind::Unsupported, message).at(format!("services.{service}.build")))
    }

    /// Sends what the containers say; returns when there is no more, or nobody listens.
    async fn logs(&self, query: &LogQuery, sink: mpsc::Sender<LogItem>) -> Result<(), EngineError>;

    /// Runs a further program in a container; returns when it was executed.
    async fn exec(&self, request: &ExecRequest) -> Result<Conversation, EngineError>;

    /// The same for a program that nobody talks with and that outlives this one.
    async fn exec_detached(&self, request: &ExecRequest) -> Result<(), EngineError>;

    /// Talks with a container's own program: types to it when `stdin`, and reads what it writes from now
    /// on, or from its beginning. One that has ended has nothing to say but its code.
    async fn attach(&self, request: &AttachRequest) -> Result<Conversation, EngineError>;

    /// What these running containers of a project use now; those that do not run are left out.
    async fn usage(&self, project: &str, containers: &[ContainerId]) -> Result<Vec<Usage>, EngineError>;

    /// The processes of a container; none when it does not run.
    async fn processes(
        &self,
        project: &str,
        container: &ContainerId,
    ) -> Result<Vec<ProcessInfo>, EngineError>;

    /// The containers of all projects, oldest first.
    async fn everything(&self) -> Result<Vec<Container>, EngineError>;

    /// Says that a container of the project changed, now and whenever one did, until nobody listens.
    async fn changes(&self, project: &str, sink: mpsc::Sender<()>) -> Result<(), EngineError>;

    /// Copies files into or out of a container.
    async fn copy(&self, request: CopyRequest) -> Result<(), EngineError>;

    /// Looks whether this machine can do what the engine needs; changes nothing.
    async fn examine(&self) -> Vec<Finding>;

    /// Finds what killed processes have left and nobody holds, and removes it unless `dry`; a line for each.
    async fn sweep(&self, _dry: bool) -> Result<Vec<String>, EngineError> {
        Ok(Vec::new())
    }

    /// The images of the store.
    async fn images(&self) -> Result<Vec<ImageInfo>, EngineError>;

    /// Takes the images of a docker archive or OCI layout (a tar file or a directory) into the
    /// store; returns their references.
    async fn load_image(
        &self,
        path: &std::path::Path,
        progress: Arc<dyn Progress>,
    ) -> Result<Vec<String>, EngineError>;

    /// Carries out one act on images.
    async fn act_on_images(
        &self,
        act: ImageAct,
        _progress: Arc<dyn Progress>,
    ) -> Result<ImageAnswer, EngineError> {
        let engine = self.capabilities().engine;
        let message = format!("the {engine} engine has no `{}` of images", act.name());
        Err(EngineError::new(ErrorKind::Unsupported, message))
    }

    /// Removes a reference, and the content that nothing else uses.
    async fn remove_image(&self, image: &ImageRef, force: bool) -> Result<(), EngineError>;
}
