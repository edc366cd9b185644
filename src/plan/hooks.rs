//! Puts the hooks of containers around the steps that start and stop them: a plan goes in, and comes out with
//! `pre_start` before the first start of a service, `post_start` between each start and what waits for it, and
//! `pre_stop` before each stop.
//!
//! A container that a restart policy starts again, or a signal ends, has none: no command does that.

mod runners;

use std::collections::HashMap;

use crate::{
    engine::{Container, ContainerState, HookAt, HookRequest, Op},
    model::{ContainerSpec, Hook},
};

use super::{Cause, Plan, PlanError, StepId, draft::Draft, order::Scene};

/// # Errors
/// None of a plan that is in order.
pub(super) fn weave(scene: &Scene<'_>, plan: Plan) -> Result<Plan, PlanError> {
    let hooked = Hooked::of(scene, &plan);
    let found: Vec<(StepId, Vec<HookRequest>)> = plan
        .steps
        .iter()
        .enumerate()
        .map(|(at, step)| (StepId(at), hooked.around(&step.op)))
        .filter(|(_, hooks)| !hooks.is_empty())
        .collect();
    let first: Vec<(Vec<StepId>, Vec<HookRequest>)> = runners::of(scene, &plan);
    if found.is_empty() && first.is_empty() {
        return Ok(plan);
    }
    let mut draft = Draft::of(plan);
    for (step, hooks) in found {
        match hooks[0].at {
            HookAt::PostStart => after(&mut draft, step, hooks),
            HookAt::PreStart | HookAt::PreStop => before(&mut draft, step, hooks),
        }
    }
    for (starts, hooks) in first {
        first_of_all(&mut draft, &starts, hooks);
    }
    draft.finish()
}

/// The first of them begins when the first start could have; no replica starts before the last.
fn first_of_all(draft: &mut Draft, starts: &[StepId], hooks: Vec<HookRequest>) {
    let Some(&start) = starts.first() else { return };
    let mut needs = draft.step_mut(start).needs.clone();
    for hook in hooks {
        let run = draft.add(Op::Hook(Box::new(hook)), Cause::Hook(HookAt::PreStart));
        draft.need_all(run, std::mem::replace(&mut needs, vec![run]));
    }
    for &start in starts {
        draft.need_all(start, needs.iter().copied());
    }
}

/// What waits for the start waits for its hooks.
fn after(draft: &mut Draft, start: StepId, hooks: Vec<HookRequest>) {
    let dependents: Vec<StepId> =
        draft.steps().filter(|(_, step)| step.needs.contains(&start)).map(|(id, _)| id).collect();
    let mut last = start;
    for hook in hooks {
        let run = draft.add(Op::Hook(Box::new(hook)), Cause::Hook(HookAt::PostStart));
        draft.need(run, last);
        last = run;
    }
    for dependent in dependents {
        let needs = &mut draft.step_mut(dependent).needs;
        needs.retain(|need| *need != start);
        draft.need(dependent, last);
    }
}

/// The first hook begins when the stop could have; one that fails keeps nothing from ending.
fn before(draft: &mut Draft, stop: StepId, hooks: Vec<HookRequest>) {
    let mut needs = std::mem::take(&mut draft.step_mut(stop).needs);
    for hook in hooks {
        let run = draft.add(Op::Hook(Box::new(hook)), Cause::Hook(HookAt::PreStop));
        draft.step_mut(run).optional = true;
        draft.need_all(run, std::mem::replace(&mut needs, vec![run]));
    }
    draft.need_all(stop, needs);
}

/// Whose hooks they are: the service and what its container was, or will be, made of.
struct Hooked<'a> {
    /// Of containers that the plan makes, by name.
    made: HashMap<&'a str, (&'a str, &'a ContainerSpec)>,
    scene: &'a Scene<'a>,
}

impl<'a> Hooked<'a> {
    fn of(scene: &'a Scene<'a>, plan: &'a Plan) -> Self {
        let made = plan.steps.iter().filter_map(|step| match &step.op {
            Op::Create(create) => Some((create.name.as_str(), (create.service.as_str(), &create.spec))),
            _ => None,
        });
        Self { made: made.collect(), scene }
    }

    fn around(&self, op: &Op) -> Vec<HookRequest> {
        let request =
            |at: HookAt, project: &str, name: &str, service: &str, container: Option<&Container>| {
                let id = container.map(|container| container.id.clone());
                let (project, name, service) = (project.to_owned(), name.to_owned(), service.to_owned());
                move |(index, hook): (usize, &Hook)| HookRequest {
                    project: project.clone(),
                    service: service.clone(),
                    name: name.clone(),
                    id: id.clone(),
                    at,
                    index,
                    hook: hook.clone(),
                    runner: None,
                }
            };
        let containers = &self.scene.observed.containers;
        match op {
            Op::Start { project, name } => {
                let kept = containers.iter().rev().find(|container| container.name == *name);
                let of_kept = || kept.and_then(|kept| Some((kept.service.as_str(), self.spec(kept)?)));
                let Some((service, spec)) = self.made.get(name.as_str()).copied().or_else(of_kept) else {
                    return Vec::new();
                };
                let request = request(HookAt::PostStart, project, name, service, None);
                spec.post_start.iter().enumerate().map(request).collect()
            }
            Op::Stop { project, name, id, .. } => {
                let running = containers
                    .iter()
                    .find(|container| container.id == *id && container.state == ContainerState::Running);
                let Some((container, spec)) = running.and_then(|found| Some((found, self.spec(found)?)))
                else {
                    return Vec::new();
                };
                let request = request(HookAt::PreStop, project, name, &container.service, Some(container));
                spec.pre_stop.iter().enumerate().map(request).collect()
            }
            _ => Vec::new(),
        }
    }

    /// What it was made of, where the engine remembers that; else what the file says now.
    fn spec<'c>(&'c self, container: &'c Container) -> Option<&'c ContainerSpec> {
        let of_file = || Some(&self.scene.project.services.get(&container.service)?.container);
        container.spec.as_ref().or_else(of_file)
    }
}
