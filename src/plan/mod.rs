//! Decides what to do: pure functions from a project, a goal and a snapshot to a plan.
//!
//! No engine, no clock, no file is in reach here. What a plan prints is what happens.

mod goal;
mod steps;

pub use goal::{Goal, Recreate, WaitOptions};
pub use steps::{Cause, FieldChange, Plan, Step, StepId};

use crate::{
    engine::Observed,
    model::{Graph, Project, PullPolicy, Selection},
};

/// What `up`, `build` and `pull` say about images.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    pub build: BuildMode,
    /// `--pull`: in place of the `pull_policy` of the services.
    pub pull: Option<PullPolicy>,
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
}

/// The first round: images that the selected services need and the store has not got.
///
/// # Errors
/// An image that is neither there nor allowed to be made (`--no-build`, `pull_policy: never`).
pub fn images(
    project: &Project,
    selection: &Selection,
    options: &ImageOptions,
    observed: &Observed,
) -> Result<Plan, PlanError> {
    unimplemented!("{project:?} {selection:?} {options:?} {observed:?}")
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
    unimplemented!("{project:?} {graph:?} {goal:?} {observed:?}")
}
