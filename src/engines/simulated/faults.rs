//! Failures on request: of the nth operation, of those that match, of all from some moment on.

use crate::engine::{EngineError, ErrorKind, Op};

/// Failures to come, counted from the moment each was asked for.
#[derive(Default)]
pub(super) struct Faults {
    matching: Vec<Matcher>,
    /// Operations until one fails.
    countdowns: Vec<(usize, Effect)>,
    /// Operations until nothing works any more.
    crash: Option<usize>,
    performed: usize,
}

pub(super) type Matcher = Box<dyn Fn(&Op) -> bool + Send>;

/// Whether a failing operation takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It fails and nothing was done.
    None,
    /// It was done, and fails all the same, as when the answer is lost.
    Done,
}

/// What becomes of an operation.
pub(super) enum Verdict {
    Allow,
    Refuse(EngineError),
    /// Carry it out, and say that it failed.
    LoseAnswer(EngineError),
}

impl Faults {
    pub fn fail_after(&mut self, after: usize, effect: Effect) {
        self.countdowns.push((after, effect));
    }

    pub fn fail_matching(&mut self, matches: Matcher) {
        self.matching.push(matches);
    }

    pub fn crash_after(&mut self, after: usize) {
        self.crash = Some(after);
    }

    pub fn heal(&mut self) {
        *self = Self { performed: self.performed, ..Self::default() };
    }

    pub fn performed(&self) -> usize {
        self.performed
    }

    /// Counts the operation, and says what becomes of it.
    pub fn judge(&mut self, op: &Op) -> Verdict {
        self.performed += 1;
        match &mut self.crash {
            Some(0) => return Verdict::Refuse(injected("the engine is gone")),
            Some(left) => *left -= 1,
            None => {}
        }
        let due = self.countdowns.iter().position(|(left, _)| *left == 0);
        let effect = due.map(|at| self.countdowns.swap_remove(at).1);
        self.countdowns.iter_mut().for_each(|(left, _)| *left = left.saturating_sub(1));
        match effect {
            Some(Effect::Done) if !matches!(op, Op::Wait { .. }) => {
                Verdict::LoseAnswer(injected("the answer was lost"))
            }
            Some(_) => Verdict::Refuse(injected("injected failure")),
            None if self.matching.iter().any(|matches| matches(op)) => {
                Verdict::Refuse(injected("injected failure"))
            }
            None => Verdict::Allow,
        }
    }
}

fn injected(message: &str) -> EngineError {
    EngineError::new(ErrorKind::Other, message)
}
