//! Puts the hooks of containers around the steps that start and stop them: a plan goes in, and comes out with
//! `pre_start` before the first start of a service, `post_start` between each start and what waits for it, and
//! `pre_stop` before each stop.
//!
//! `post_start` hooks that a command did not live to run are run by the next that wants the container to run.
//!
//! A container that a restart policy starts again, or a signal ends, has none: no command does that.

mod runners;

use std::collections::HashMap;

use crate::{
    engine::{Container, ContainerState, HookAt, HookRequest, Op},
    model::{ContainerSpec, Hook, Service},
};

use super::{Cause, Goal, Plan, PlanError, StepId, draft::Draft, order::Scene};

/// # Errors
/// None of a plan that is in order.
pub(super) fn weave(scene: &Scene<'_>, goal: &Goal, plan: Plan) -> Result<Plan, PlanError> {
    let hooked = Hooked::of(scene, &plan);
    let found: Vec<(StepId, Vec<HookRequest>)> = plan
        .steps
        .iter()
        .enumerate()
        .map(|(at, step)| (StepId(at), hooked.around(&step.op)))
        .filter(|(_, hooks)| !hooks.is_empty())
        .collect();
    let first: Vec<(Vec<StepId>, Vec<HookRequest>)> = runners::of(scene, &plan);
    let owed = hooked.owed(goal, &plan);
    if found.is_empty() && first.is_empty() && owed.is_empty() {
        return Ok(plan);
    }
    let mut draft = Draft::of(plan);
    for (step, hooks) in found {
        match hooks[0].at {
            HookAt::PostStart => after(&mut draft, step, hooks),
            HookAt::PreStart | HookAt::PreStop => before(&mut draft, step, hooks),
        }
    }
    for (waiting, hooks) in owed {
        late(&mut draft, &waiting, hooks);
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

/// Hooks of a start that was: what needs the container starts after them.
fn late(draft: &mut Draft, waiting: &[StepId], hooks: Vec<HookRequest>) {
    let mut last = None;
    for hook in hooks {
        let run = draft.add(Op::Hook(Box::new(hook)), Cause::Interrupted);
        draft.need_all(run, last.replace(run));
    }
    for &step in waiting {
        draft.need_all(step, last);
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

/// Makes requests of the hooks of one list.
fn request<'h>(
    at: HookAt,
    project: &str,
    name: &str,
    service: &str,
    container: Option<&Container>,
) -> impl Fn((usize, &'h Hook)) -> HookRequest + use<'h> {
    let id = container.map(|container| container.id.clone());
    let (project, name, service) = (project.to_owned(), name.to_owned(), service.to_owned());
    move |(index, hook)| HookRequest {
        project: project.clone(),
        service: service.clone(),
        name: name.clone(),
        id: id.clone(),
        at,
        index,
        hook: hook.clone(),
        runner: None,
    }
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

    /// Hooks that are owed to containers that run and are left alone, and the starts of what needs those.
    fn owed(&self, goal: &Goal, plan: &Plan) -> Vec<(Vec<StepId>, Vec<HookRequest>)> {
        let (Goal::Running { selection, start: true, .. } | Goal::Started { selection, .. }) = goal else {
            return Vec::new();
        };
        let is_meant = |container: &&Container| {
            selection.contains(&container.service)
                && !container.is_one_off()
                && container.state == ContainerState::Running
                && !plan.steps.iter().any(|step| match &step.op {
                    Op::Start { name, .. } => *name == container.name,
                    Op::Stop { id, .. } => *id == container.id,
                    _ => false,
                })
        };
        let meant = self.scene.observed.containers.iter().filter(is_meant);
        let found = meant.filter_map(|container| {
            let (from, spec) = (container.owed_hooks?, self.spec(container)?);
            let request = request(
                HookAt::PostStart,
                &container.project,
                &container.name,
                &container.service,
                Some(container),
            );
            let hooks: Vec<_> = spec.post_start.iter().enumerate().skip(from).map(request).collect();
            (!hooks.is_empty()).then(|| (self.starts_after(&container.service, plan), hooks))
        });
        found.collect()
    }

    /// Starts of containers whose service needs this one.
    fn starts_after(&self, service: &str, plan: &Plan) -> Vec<StepId> {
        let needs_it = |of: &&&Service| self.scene.needs(of).iter().any(|need| need.on == service);
        let dependents: Vec<&str> =
            self.scene.services.iter().filter(needs_it).map(|service| service.name.as_str()).collect();
        let of = |name: &str| {
            let made = self.made.get(name).map(|(service, _)| *service);
            made.or_else(|| {
                let kept = self.scene.observed.containers.iter().rev().find(|kept| kept.name == name);
                kept.map(|kept| kept.service.as_str())
            })
        };
        let steps = plan.steps.iter().enumerate().filter(|(_, step)| match &step.op {
            Op::Start { name, .. } => of(name).is_some_and(|service| dependents.contains(&service)),
            _ => false,
        });
        steps.map(|(at, _)| StepId(at)).collect()
    }

    fn around(&self, op: &Op) -> Vec<HookRequest> {
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
