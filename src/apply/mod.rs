//! Carries a plan out: the schedule says what may start, the engine does it, events tell of it.

mod event;

pub use event::Event;
// The vocabulary of events, for those who show them.
pub use crate::plan::{Cause, FieldChange, Plan, Step, StepId};

use std::{num::NonZeroUsize, sync::Arc};

use tokio::sync::watch;

use crate::engine::{Engine, EngineError};

/// How a plan ended.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    pub failed: Vec<(StepId, EngineError)>,
    pub skipped: Vec<StepId>,
    /// The user asked to stop before all was done.
    pub cancelled: bool,
}

/// Carries out `plan`: steps whose needs are done run side by side, at most `parallel` at once. A
/// failure skips what needs it and lets the rest end. When `cancel` turns true nothing new starts.
pub async fn run(
    plan: &Plan,
    engine: Arc<dyn Engine>,
    parallel: Option<NonZeroUsize>,
    cancel: watch::Receiver<bool>,
    events: &mut (dyn FnMut(Event) + Send),
) -> Report {
    let _ = (plan, engine, parallel, cancel, events);
    unimplemented!()
}
