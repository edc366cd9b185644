//! `start` and `restart`: containers that are there run (again); none is made.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    engine::{Container, ContainerState, Op, WaitFor},
    model::{Selection, Service},
};

use super::{
    Cause, Plan, PlanError, StepId, WaitOptions,
    conditions::{Begun, Conditions},
    draft::Draft,
    order::{Need, Scene},
};

/// # Errors
/// A named service that has no container.
pub(super) fn started(
    scene: &Scene<'_>,
    selection: &Selection,
    wait: Option<WaitOptions>,
) -> Result<Plan, PlanError> {
    let mut starts = Starts::new(scene);
    for service in scene.services.iter().filter(|service| selection.contains(&service.name)) {
        let newest = newest(scene, service);
        if newest.is_empty() && service.scale > 0 && selection.named.contains(&service.name) {
            return Err(no_container(service));
        }
        for container in newest {
            match container.state {
                ContainerState::Running | ContainerState::Paused => {
                    starts.draft.unchanged.push(container.name.clone());
                    starts.leave(service, container);
                }
                ContainerState::Dead => {
                    starts.draft.notes.push(format!("container {} is half removed", container.name));
                }
                ContainerState::Created | ContainerState::Restarting | ContainerState::Exited(_) => {
                    starts.start(service, container, Cause::NotRunning, None)?;
                }
            }
            if let Some(options) = wait.filter(|_| container.state != ContainerState::Dead) {
                starts.ready(service, container, options);
            }
        }
    }
    starts.draft.finish()
}

/// Stops and starts. With `dependents` also those services that `restart: true` (or a shared
/// namespace) ties to a restarted one, as far as they run.
///
/// # Errors
/// A condition that can never hold.
pub(super) fn restarted(
    scene: &Scene<'_>,
    selection: &Selection,
    timeout: Option<Duration>,
    dependents: bool,
) -> Result<Plan, PlanError> {
    let mut starts = Starts::new(scene);
    let mut causes: BTreeMap<&str, Cause> = BTreeMap::new();
    for &service in &scene.services {
        let tied = |need: &Need<'_>| (need.restart || need.namespace) && causes.contains_key(need.on);
        let asked = selection.contains(&service.name);
        let cause = if asked {
            Some(Cause::Asked("restart"))
        } else {
            let on = scene.needs(service).into_iter().find(|need| dependents && tied(need));
            on.map(|need| Cause::Dependency { on: need.on.to_owned() })
        };
        let Some(cause) = cause else { continue };
        let mut touched = false;
        for container in newest(scene, service) {
            let runs = container.state.is_running();
            if container.state != ContainerState::Dead && (asked || runs) {
                let stop = runs.then(|| starts.draft.stop(container, timeout, cause.clone()));
                starts.start(service, container, cause.clone(), stop)?;
                touched = true;
            }
        }
        if touched {
            causes.insert(&service.name, cause);
        }
    }
    starts.stop_dependents_first();
    starts.draft.finish()
}

fn no_container(service: &Service) -> PlanError {
    let message = format!("service \"{}\" has no container to start", service.name);
    PlanError::at(format!("services.{}", service.name), message).help("`ficelle up` makes it")
}

/// The newest container of each number; one that runs goes before one that does not.
fn newest<'a>(scene: &Scene<'a>, service: &Service) -> Vec<&'a Container> {
    let mut numbers: BTreeMap<u32, &Container> = BTreeMap::new();
    for container in scene.containers(&service.name) {
        let held = numbers.get(&container.number).is_some_and(|held| held.state.is_running());
        if !held || container.state.is_running() {
            numbers.insert(container.number, container);
        }
    }
    numbers.into_values().collect()
}

/// Starts being written, in dependency order.
struct Starts<'s, 'a> {
    scene: &'s Scene<'a>,
    draft: Draft,
    conditions: Conditions<'a>,
    stops: BTreeMap<&'a str, Vec<StepId>>,
}

impl<'s, 'a> Starts<'s, 'a> {
    fn new(scene: &'s Scene<'a>) -> Self {
        let (draft, conditions, stops) = (Draft::default(), Conditions::default(), BTreeMap::new());
        Self { scene, draft, conditions, stops }
    }

    fn start(
        &mut self,
        service: &'a Service,
        container: &'a Container,
        cause: Cause,
        stop: Option<StepId>,
    ) -> Result<(), PlanError> {
        let name = container.name.clone();
        let start = self.draft.start(&container.project, &name, cause);
        self.draft.need_all(start, stop);
        self.stops.entry(&service.name).or_default().extend(stop);
        self.conditions.before(&mut self.draft, self.scene, service, start)?;
        self.conditions.add(&service.name, Begun { name, start: Some(start), kept: Some(container) });
        Ok(())
    }

    fn ready(&mut self, service: &Service, container: &Container, options: WaitOptions) {
        let (project, name) = (container.project.clone(), container.name.clone());
        let until = WaitFor::Ready { timeout: options.timeout };
        let wait = self.draft.add(Op::Wait { project, name: name.clone(), until }, Cause::Asked("--wait"));
        let begun = self.conditions.of(&service.name).iter().filter(|begun| begun.name == name);
        let starts: Vec<StepId> = begun.filter_map(|begun| begun.start).collect();
        self.draft.need_all(wait, starts);
    }

    fn leave(&mut self, service: &'a Service, container: &'a Container) {
        let begun = Begun { name: container.name.clone(), start: None, kept: Some(container) };
        self.conditions.add(&service.name, begun);
    }

    /// Nobody loses what it depends on while it runs.
    fn stop_dependents_first(&mut self) {
        for service in &self.scene.services {
            let own = self.stops.get(service.name.as_str()).cloned().unwrap_or_default();
            for need in self.scene.needs(service) {
                for &on in self.stops.get(need.on).into_iter().flatten() {
                    self.draft.need_all(on, own.iter().copied());
                }
            }
        }
    }
}
