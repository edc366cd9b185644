//! Decides what to do: pure functions from a project, a goal and a snapshot to a plan.
//!
//! No engine, no clock, no file is in reach here. What a plan prints is what happens.
//!
//! [`images`] plans the first round, [`converge`] everything after it. Deciding (`converge`) and
//! writing the steps down (`assemble`) are apart: the first says what becomes of each container,
//! the second which operations that takes and in which order.

mod assemble;
mod conditions;
mod converge;
mod diff;
mod draft;
mod goal;
mod hooks;
mod images;
mod labels;
mod life;
mod once;
mod order;
mod providers;
mod remove;
mod resources;
mod restart;
mod steps;

pub use goal::{Goal, Once, Orphans, Recreate, WaitOptions};
pub use images::{OnFailure, images, pushes};
pub use providers::{Provided, provide, provided};
pub use steps::{Cause, FieldChange, Plan, Step, StepId};

use std::collections::BTreeMap;

use crate::{
    engine::Observed,
    model::{Graph, Project, PullPolicy},
};

/// What `up`, `build` and `pull` say about images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    pub build: BuildMode,
    /// `--pull`: in place of the `pull_policy` of the services.
    pub pull: Option<PullPolicy>,
    /// `--locked`: the digest that each image, as written, must have.
    pub locked: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BuildMode {
    /// What is not in the store.
    #[default]
    Missing,
    /// `--build`, and the `build` command.
    Always,
    /// `--no-build`.
    Never,
}

/// A goal that cannot be planned. `path` is the model path of the value at fault.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct PlanError {
    pub message: String,
    pub path: Option<String>,
    pub help: Vec<String>,
    /// What is there is not what was locked.
    pub drift: bool,
}

impl PlanError {
    fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { message: message.into(), path: Some(path.into()), help: Vec::new(), drift: false }
    }

    fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }
}

/// The second round: everything else that the goal asks for.
///
/// # Errors
/// A goal that contradicts the project or what is there (an external network that is missing).
pub fn converge(
    project: &Project,
    graph: &Graph,
    goal: &Goal,
    observed: &Observed,
) -> Result<Plan, PlanError> {
    let scene = order::Scene::of(project, graph, observed)?;
    hooks::weave(&scene, goal, reach(&scene, goal)?)
}

fn reach(scene: &order::Scene<'_>, goal: &Goal) -> Result<Plan, PlanError> {
    match goal {
        Goal::Running { .. } => converge::running(scene, goal),
        Goal::Started { selection, wait } => restart::started(scene, selection, *wait),
        Goal::Restarted { selection, timeout, dependents } => {
            restart::restarted(scene, selection, *timeout, *dependents)
        }
        Goal::Once(goal) => once::once(scene, goal),
        Goal::Signalled { selection, signal, remove_orphans } => {
            life::signalled(scene, selection, signal, *remove_orphans)
        }
        Goal::Paused { selection, paused } => life::paused(scene, selection, *paused),
        Goal::Discarded { selection, stop, volumes } => life::discarded(scene, selection, *stop, *volumes),
        Goal::Gone { container } => life::gone(scene, container),
        Goal::Stopped { selection, timeout } => remove::stopped(scene, selection, *timeout),
        Goal::Removed { selection, volumes, remove_orphans, timeout } => {
            remove::removed(scene, selection, *volumes, *remove_orphans, *timeout)
        }
    }
}
