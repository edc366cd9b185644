//! The corridor of every command: observe, plan, apply, for one goal. The library's front door.
//!
//! A session holds one project and one engine. It decides nothing itself: the planner decides, the
//! engine acts, and what happens is told through events.

mod acts;
mod adopt;
mod autopsy;

use std::{
    num::NonZeroUsize,
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use indexmap::IndexMap;
use tokio::sync::{mpsc, watch};

pub use self::{acts::transfer, autopsy::Autopsy};
use crate::{
    apply,
    engine::{Detail, Scope},
    plan::{self, Provided},
};
pub use crate::{
    apply::{Event, Report},
    engine::{
        AttachRequest, Chunk, CommitRequest, Container, ContainerState, Control, Conversation, CopyRequest,
        Engine, EngineError, ErrorKind, ExecRequest, Finding, Health, ImageAct, ImageAnswer, ImageInfo,
        LabelFilter, LogItem, LogQuery, Observed, OneOff, Op, ProcessInfo, Progress, Prune, PublishedPort,
        Silent, Size, Source, Stream, Target, Usage, Verdict,
    },
    engines::{
        connect::{Choice, Connected, connect, prepare},
        published::project as published_project,
    },
    model::{
        Build, BuildSecret, Condition, Cycle, Graph, ImageRef, ImageRefError, Place, Project, Protocol,
        PullPolicy, RestartPolicy, SecretSource, Selection, Service, UnknownService, WithDependencies,
    },
    plan::{
        BuildMode, Cause, Goal, ImageOptions, OnFailure, Once, Orphans, Plan, PlanError, Recreate, Step,
        StepId, WaitOptions,
    },
};

/// One project on one engine.
pub struct Session {
    project: Project,
    graph: Graph,
    engine: Arc<dyn Engine>,
    /// Operations side by side; as many as may be when `None`.
    parallel: Option<NonZeroUsize>,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("project", &self.project.name)
            .field("engine", &self.engine.capabilities().engine)
            .finish_non_exhaustive()
    }
}

/// What one command wants.
#[derive(Clone, Debug)]
pub struct Wish {
    /// The command's name, told to others who wait for the project.
    pub command: &'static str,
    /// Images to bring or build first, beside what providers are asked for.
    pub images: Option<(Selection, ImageOptions)>,
    /// What should be true then; `None` when images are all that is wanted.
    pub goal: Option<Goal>,
}

/// What would be done: both rounds.
#[derive(Clone, Debug, Default)]
pub struct Preview {
    pub images: Plan,
    /// Planned as if the images of the first round were there.
    pub rest: Plan,
}

/// What was done, or how far it came.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Steps that were carried out in both rounds.
    pub done: usize,
    /// Containers that already were as they should be.
    pub unchanged: Vec<String>,
    pub failed: Vec<Failed>,
    pub skipped: usize,
    /// The user asked to stop before all was done.
    pub cancelled: bool,
}

impl Outcome {
    /// Whether the goal was reached.
    #[must_use]
    pub fn reached(&self) -> bool {
        self.failed.is_empty() && self.skipped == 0 && !self.cancelled
    }
}

/// A step that failed, and what its container left behind.
#[derive(Debug)]
pub struct Failed {
    pub step: Step,
    pub error: EngineError,
    pub autopsy: Option<Autopsy>,
}

/// Why a goal was not even begun.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// All that would have made steps fail; nothing was changed.
    #[error("{} problems found before anything was changed", .0.len())]
    Check(Vec<EngineError>),
    #[error("dependency cycle between services: {0}")]
    Cycle(Cycle),
}

impl Session {
    /// # Errors
    /// A cycle between the project's services.
    pub fn new(
        project: Project,
        engine: Arc<dyn Engine>,
        parallel: Option<NonZeroUsize>,
    ) -> Result<Self, SessionError> {
        let graph = Graph::of(&project).map_err(SessionError::Cycle)?;
        Ok(Self { project, graph, engine, parallel })
    }

    /// A session without files: the project is what the engine has under that name.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn adopt(
        name: &str,
        engine: Arc<dyn Engine>,
        parallel: Option<NonZeroUsize>,
    ) -> Result<Self, SessionError> {
        let scope = Scope { project: name.to_owned(), images: vec![], networks: vec![], volumes: vec![] };
        let observed = engine.observe(&scope).await?;
        Self::new(adopt::project(name, &observed), engine, parallel)
    }

    #[must_use]
    pub fn project(&self) -> &Project {
        &self.project
    }

    #[must_use]
    pub fn engine(&self) -> &dyn Engine {
        &*self.engine
    }

    /// # Errors
    /// The first name that is no service of the project.
    pub fn select(
        &self,
        names: &[String],
        dependencies: WithDependencies,
    ) -> Result<Selection, UnknownService> {
        Selection::of(&self.project, &self.graph, names, dependencies)
    }

    /// # Errors
    /// When the engine cannot be asked.
    pub async fn observe(&self) -> Result<Observed, SessionError> {
        Ok(self.engine.observe(&self.scope()).await?)
    }

    fn scope(&self) -> Scope {
        let project = &self.project;
        let containers = project.services.values().filter(|service| service.provider.is_none());
        let run = containers.map(Service::image);
        let mounted = project.services.values().flat_map(|service| service.container.mounted_images());
        let mut images: Vec<String> = run.chain(mounted).map(ToOwned::to_owned).collect();
        images.sort_unstable();
        images.dedup();
        let networks = project.networks.values().filter(|n| n.external).map(|n| n.name.clone());
        let volumes = project.volumes.values().filter(|v| v.external).map(|v| v.name.clone());
        Scope {
            project: project.name.clone(),
            images,
            networks: networks.collect(),
            volumes: volumes.collect(),
        }
    }

    /// What `wish` would do, changing nothing. Images still to be made are assumed to come out as
    /// they are, or to appear where they are missing.
    ///
    /// # Errors
    /// As [`Session::pursue`], before its first change.
    pub async fn preview(&self, wish: &Wish) -> Result<Preview, SessionError> {
        let mut observed = self.observe().await?;
        let images = self.plan_images(wish, &observed)?;
        for step in &images.steps {
            let image = match &step.op {
                Op::Pull(pull) => &pull.image,
                Op::Build(build) => &build.image,
                _ => continue,
            };
            observed.images.entry(image.clone()).or_insert_with(|| ImageInfo {
                id: String::new(),
                references: vec![image.clone()],
                size: 0,
                created: None,
                platform: String::new(),
                labels: IndexMap::new(),
                digest: None,
                age: None,
            });
        }
        let rest = self.plan_goal(wish, &Provided::new(), &observed)?;
        Ok(Preview { images, rest })
    }

    fn plan_images(&self, wish: &Wish, observed: &Observed) -> Result<Plan, SessionError> {
        let images = match &wish.images {
            Some((selection, options)) => plan::images(&self.project, selection, options, observed)?,
            None => Plan::default(),
        };
        match &wish.goal {
            Some(goal) => Ok(plan::provide(&self.project, goal, images)?),
            None => Ok(images),
        }
    }

    fn plan_goal(&self, wish: &Wish, provided: &Provided, observed: &Observed) -> Result<Plan, SessionError> {
        let Some(goal) = &wish.goal else { return Ok(Plan::default()) };
        let project = plan::provided(&self.project, provided, observed);
        Ok(plan::converge(&project, &self.graph, goal, observed)?)
    }

    /// Makes `wish` true: observe, images, observe, plan, check, apply. Holds the project's lock when
    /// there is a goal. When `cancel` turns true nothing new starts.
    ///
    /// # Errors
    /// What kept it from being begun; a step that failed is in the [`Outcome`].
    pub async fn pursue(
        &self,
        wish: &Wish,
        cancel: &watch::Receiver<bool>,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Outcome, SessionError> {
        let _lock = match wish.goal {
            Some(_) => Some(self.lock(wish.command, events).await?),
            None => None,
        };
        let mut outcome = Outcome::default();
        let mut observed = self.observe().await?;
        let images = self.plan_images(wish, &observed)?;
        let mut provided = Provided::new();
        if !images.steps.is_empty() {
            let mut hear = |event: Event| {
                if let Event::Done { what: Step { op: Op::Provide(of), .. }, outcome, .. } = &event {
                    provided.insert(of.service.clone(), outcome.variables.clone());
                }
                events(event);
            };
            self.carry_out(&images, cancel, &mut hear, &mut outcome).await;
            if !outcome.reached() {
                return Ok(outcome);
            }
            observed = self.observe().await?;
        }
        let rest = self.plan_goal(wish, &provided, &observed)?;
        self.check(&rest).await?;
        self.engine.expect(&rest.steps.iter().map(|step| &step.op).collect::<Vec<_>>());
        self.carry_out(&rest, cancel, events, &mut outcome).await;
        Ok(outcome)
    }

    /// What `push` of these services sends.
    #[must_use]
    pub fn plan_push(&self, selection: &Selection, on_failure: OnFailure) -> Plan {
        plan::pushes(&self.project, selection, on_failure)
    }

    /// Carries out a plan that is about images only.
    pub async fn carry_out_images(
        &self,
        plan: &Plan,
        cancel: &watch::Receiver<bool>,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Outcome {
        let mut outcome = Outcome::default();
        self.carry_out(plan, cancel, events, &mut outcome).await;
        outcome
    }

    async fn lock(
        &self,
        command: &str,
        events: &mut (dyn FnMut(Event) + Send),
    ) -> Result<Box<dyn crate::engine::ProjectLock>, SessionError> {
        let waiting = Waiting(Mutex::new(events));
        Ok(self.engine.lock(&self.project.name, command, &waiting).await?)
    }

    async fn check(&self, plan: &Plan) -> Result<(), SessionError> {
        let ops: Vec<&Op> = plan.steps.iter().map(|step| &step.op).collect();
        let problems = if ops.is_empty() { Vec::new() } else { self.engine.check(&ops).await };
        if problems.is_empty() { Ok(()) } else { Err(SessionError::Check(problems)) }
    }

    async fn carry_out(
        &self,
        plan: &Plan,
        cancel: &watch::Receiver<bool>,
        events: &mut (dyn FnMut(Event) + Send),
        outcome: &mut Outcome,
    ) {
        events(Event::Planned { plan: plan.clone() });
        let mut done = 0;
        // Counted as told: an optional step that failed is in no list of the report.
        let mut count = |event: Event| {
            done += usize::from(matches!(event, Event::Done { .. }));
            events(event);
        };
        let report = apply::run(plan, self.engine.clone(), self.parallel, cancel.clone(), &mut count).await;
        outcome.unchanged.extend(plan.unchanged.iter().cloned());
        outcome.cancelled |= report.cancelled;
        outcome.skipped += report.skipped.len();
        outcome.done += done;
        for (id, error) in report.failed {
            let Some(step) = plan.steps.get(id.0).cloned() else { continue };
            let autopsy = autopsy::of(&*self.engine, &self.project.name, &step).await;
            outcome.failed.push(Failed { step, error, autopsy });
        }
    }

    /// Sends what the containers of `query` say; ends when there is no more, or nobody listens.
    ///
    /// # Errors
    /// When the engine cannot be asked.
    pub async fn logs(
        &self,
        containers: Vec<String>,
        range: LogRange,
        sink: mpsc::Sender<LogItem>,
    ) -> Result<(), SessionError> {
        let LogRange { tail, since, until, follow } = range;
        let project = self.project.name.clone();
        let query = LogQuery { project, containers, tail, since, until, follow };
        Ok(self.engine.logs(&query, sink).await?)
    }
}

/// Which part of the logs.
#[derive(Clone, Copy, Debug, Default)]
pub struct LogRange {
    pub tail: Option<usize>,
    pub since: Option<SystemTime>,
    pub until: Option<SystemTime>,
    pub follow: bool,
}

/// Tells who holds the lock as an event.
struct Waiting<'a>(Mutex<&'a mut (dyn FnMut(Event) + Send)>);

impl Progress for Waiting<'_> {
    fn report(&self, progress: Detail) {
        if let Detail::Doing(holder) = progress {
            let mut events = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            (*events)(Event::WaitingForLock { holder });
        }
    }
}
