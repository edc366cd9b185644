//! Which steps may start: told what happened, says what may. No I/O, no clock, no engine.

use std::collections::BTreeSet;

use crate::plan::{Plan, StepId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    /// Something it needs is not done.
    Waiting,
    /// It may start.
    Ready,
    Running,
    Done,
    Failed,
    /// Never started: something it needs failed, or all was cancelled.
    Skipped,
}

/// The states of a plan's steps.
#[derive(Clone, Debug)]
pub struct Schedule {
    states: Vec<StepState>,
    ready: BTreeSet<StepId>,
    /// Needs not yet met.
    unmet: Vec<usize>,
    /// Steps that need this one.
    dependents: Vec<Vec<StepId>>,
    optional: Vec<bool>,
    running: usize,
}

impl Schedule {
    #[must_use]
    pub fn new(plan: &Plan) -> Self {
        let count = plan.steps.len();
        let mut this = Self {
            states: vec![StepState::Waiting; count],
            ready: BTreeSet::new(),
            unmet: vec![0; count],
            dependents: vec![Vec::new(); count],
            optional: plan.steps.iter().map(|step| step.optional).collect(),
            running: 0,
        };
        for (at, step) in plan.steps.iter().enumerate() {
            let needs: BTreeSet<StepId> = step.needs.iter().copied().collect();
            this.unmet[at] = needs.len();
            for need in needs {
                if let Some(dependents) = this.dependents.get_mut(need.0) {
                    dependents.push(StepId(at));
                }
            }
            if this.unmet[at] == 0 {
                this.make_ready(StepId(at));
            }
        }
        this
    }

    #[must_use]
    pub fn state(&self, step: StepId) -> StepState {
        self.states[step.0]
    }

    /// Steps that may start, in the order of the plan.
    pub fn ready(&self) -> impl Iterator<Item = StepId> {
        self.ready.iter().copied()
    }

    /// The number of steps that run.
    #[must_use]
    pub fn running(&self) -> usize {
        self.running
    }

    /// Nothing runs and nothing may start.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.running == 0 && self.ready.is_empty()
    }

    /// A ready step has started; false (and nothing happens) if it was not ready.
    #[must_use]
    pub fn start(&mut self, step: StepId) -> bool {
        let ready = self.ready.remove(&step);
        if ready {
            self.states[step.0] = StepState::Running;
            self.running += 1;
        }
        ready
    }

    /// A running step is done.
    pub fn done(&mut self, step: StepId) {
        if self.end(step, StepState::Done) {
            self.release(step);
        }
    }

    /// A running step has failed: all that needs it is skipped, and returned. What needs an optional
    /// step goes on.
    pub fn failed(&mut self, step: StepId) -> Vec<StepId> {
        if !self.end(step, StepState::Failed) {
            return Vec::new();
        }
        self.without(step)
    }

    /// Nothing more starts: the steps that had not, which are now skipped.
    pub fn cancel(&mut self) -> Vec<StepId> {
        self.ready.clear();
        let mut skipped = Vec::new();
        for (at, state) in self.states.iter_mut().enumerate() {
            if matches!(state, StepState::Waiting | StepState::Ready) {
                *state = StepState::Skipped;
                skipped.push(StepId(at));
            }
        }
        skipped
    }

    fn end(&mut self, step: StepId, state: StepState) -> bool {
        let runs = self.states[step.0] == StepState::Running;
        if runs {
            self.states[step.0] = state;
            self.running -= 1;
        }
        runs
    }

    /// `step` did not happen: goes on where that is allowed, skips the rest.
    fn without(&mut self, step: StepId) -> Vec<StepId> {
        let mut skipped = Vec::new();
        let mut absent = vec![step];
        while let Some(step) = absent.pop() {
            if self.optional[step.0] {
                self.release(step);
                continue;
            }
            for dependent in self.dependents[step.0].clone() {
                if self.states[dependent.0] == StepState::Waiting {
                    self.states[dependent.0] = StepState::Skipped;
                    skipped.push(dependent);
                    absent.push(dependent);
                }
            }
        }
        skipped.sort_unstable();
        skipped
    }

    fn release(&mut self, step: StepId) {
        for dependent in self.dependents[step.0].clone() {
            self.unmet[dependent.0] -= 1;
            if self.unmet[dependent.0] == 0 && self.states[dependent.0] == StepState::Waiting {
                self.make_ready(dependent);
            }
        }
    }

    fn make_ready(&mut self, step: StepId) {
        self.states[step.0] = StepState::Ready;
        self.ready.insert(step);
    }
}
