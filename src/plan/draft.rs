//! A plan being written: steps may name needs that are added later; the order comes at the end.

use std::time::Duration;

use crate::engine::{Container, Op};

use super::{Cause, Plan, PlanError, Step, StepId, order::sorted};

#[derive(Default)]
pub(super) struct Draft {
    steps: Vec<Step>,
    pub notes: Vec<String>,
    pub unchanged: Vec<String>,
}

impl Draft {
    /// A plan to be gone on with.
    pub fn of(plan: Plan) -> Self {
        Self { steps: plan.steps, notes: plan.notes, unchanged: plan.unchanged }
    }

    pub fn steps(&self) -> impl Iterator<Item = (StepId, &Step)> {
        self.steps.iter().enumerate().map(|(at, step)| (StepId(at), step))
    }

    pub fn add(&mut self, op: Op, cause: Cause) -> StepId {
        self.steps.push(Step { op, needs: Vec::new(), cause, optional: false });
        StepId(self.steps.len() - 1)
    }

    /// `step` begins only when `on` is done.
    pub fn need(&mut self, step: StepId, on: StepId) {
        let needs = &mut self.steps[step.0].needs;
        if step != on && !needs.contains(&on) {
            needs.push(on);
        }
    }

    pub fn need_all(&mut self, step: StepId, on: impl IntoIterator<Item = StepId>) {
        for on in on {
            self.need(step, on);
        }
    }

    /// `step` waits for `other`, however far.
    pub fn reaches(&self, step: StepId, other: StepId) -> bool {
        let mut seen = vec![false; self.steps.len()];
        let mut next = vec![step];
        while let Some(step) = next.pop() {
            if step == other {
                return true;
            }
            if !std::mem::replace(&mut seen[step.0], true) {
                next.extend(&self.steps[step.0].needs);
            }
        }
        false
    }

    pub fn step_mut(&mut self, step: StepId) -> &mut Step {
        &mut self.steps[step.0]
    }

    pub fn start(&mut self, project: &str, name: &str, cause: Cause) -> StepId {
        self.add(Op::Start { project: project.to_owned(), name: name.to_owned() }, cause)
    }

    pub fn stop(&mut self, container: &Container, timeout: Option<Duration>, cause: Cause) -> StepId {
        let (project, name) = (container.project.clone(), container.name.clone());
        self.add(Op::Stop { project, name, id: container.id.clone(), timeout }, cause)
    }

    pub fn remove(&mut self, container: &Container, volumes: bool, cause: Cause) -> StepId {
        let (project, name) = (container.project.clone(), container.name.clone());
        self.add(Op::Remove { project, name, id: container.id.clone(), volumes }, cause)
    }

    /// Stops the container if it runs, then removes it. The stop step if there is one, and the removal.
    pub fn stop_and_remove(
        &mut self,
        container: &Container,
        timeout: Option<Duration>,
        volumes: bool,
        cause: &Cause,
    ) -> (Option<StepId>, StepId) {
        let stop = container.state.is_running().then(|| self.stop(container, timeout, cause.clone()));
        let remove = self.remove(container, volumes, cause.clone());
        self.need_all(remove, stop);
        (stop, remove)
    }

    /// The plan: every step after what it needs.
    ///
    /// # Errors
    /// Steps that wait for each other: a mistake of the planner.
    pub fn finish(self) -> Result<Plan, PlanError> {
        let needs = |at: usize| {
            let mut needs: Vec<usize> = self.steps[at].needs.iter().map(|need| need.0).collect();
            needs.sort_unstable();
            needs
        };
        let order = sorted(self.steps.len(), needs).map_err(|circle| {
            let steps: Vec<String> = circle.iter().map(|&at| self.steps[at].op.to_string()).collect();
            PlanError {
                drift: false,
                message: format!("bug in the planner: steps wait for each other: {}", steps.join(", then ")),
                path: None,
                help: vec!["please report this with the Compose file".to_owned()],
            }
        })?;
        let mut place = vec![0; order.len()];
        for (new, &old) in order.iter().enumerate() {
            place[old] = new;
        }
        let mut steps: Vec<Option<Step>> = self.steps.into_iter().map(Some).collect();
        let renumbered = order.into_iter().filter_map(|old| steps[old].take()).map(|mut step| {
            step.needs.iter_mut().for_each(|need| need.0 = place[need.0]);
            step.needs.sort_unstable();
            step
        });
        Ok(Plan { steps: renumbered.collect(), notes: self.notes, unchanged: self.unchanged })
    }
}
