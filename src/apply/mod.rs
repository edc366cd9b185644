//! Carries a plan out: the schedule says what may start, the engine does it, events tell of it.

mod event;
mod run;
mod schedule;

pub use event::Event;
pub use run::run;
pub use schedule::{Schedule, StepState};

use crate::engine::EngineError;
// The vocabulary of events, for those who show them.
pub use crate::plan::{Cause, FieldChange, Plan, Step, StepId};

/// How a plan ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Steps that failed, but for optional ones.
    pub failed: Vec<(StepId, EngineError)>,
    /// Steps that were not done: something they need failed, or the user asked to stop.
    pub skipped: Vec<StepId>,
    /// The user asked to stop before all was done.
    pub cancelled: bool,
}

impl Report {
    /// Everything was done that had to be.
    #[must_use]
    pub fn is_success(&self) -> bool {
        self.failed.is_empty() && self.skipped.is_empty() && !self.cancelled
    }
}
