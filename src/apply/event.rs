//! The only thing a screen, a JSON log or a test hears.

use std::time::Duration;

use crate::{
    engine::{Detail, EngineError, Outcome},
    plan::{Plan, Step, StepId},
};

/// What happened while a plan is carried out. `at` counts from the start of the command.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A plan begins; it is shown to those who want to draw all of it.
    Planned {
        plan: Plan,
    },
    /// Somebody else holds the project.
    WaitingForLock {
        holder: String,
    },
    Started {
        step: StepId,
        what: Step,
        at: Duration,
    },
    Progress {
        step: StepId,
        detail: Detail,
    },
    Done {
        step: StepId,
        what: Step,
        outcome: Outcome,
        took: Duration,
    },
    Failed {
        step: StepId,
        what: Step,
        error: EngineError,
        took: Duration,
    },
    /// Not done, because a step it needs failed or the user cancelled.
    Skipped {
        step: StepId,
        what: Step,
        because: Option<StepId>,
    },
}
