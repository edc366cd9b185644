//! A start waits until the conditions of `depends_on` hold: nothing else does.

use std::collections::BTreeMap;

use crate::{
    engine::{Container, ContainerState, Health, Op, WaitFor},
    model::{Condition, HealthTest, Service},
};

use super::{
    Cause, PlanError, StepId,
    draft::Draft,
    order::{Need, Scene},
};

/// What of the services that the plan handles runs or will run, and the waits for them.
#[derive(Default)]
pub(super) struct Conditions<'a> {
    replicas: BTreeMap<&'a str, Vec<Begun<'a>>>,
    /// A wait is shared by all who need it: by container, condition, whether it may fail.
    waits: BTreeMap<(String, Condition, bool), StepId>,
}

/// A container that there will be.
#[derive(Clone)]
pub(super) struct Begun<'a> {
    pub name: String,
    /// The step that starts it, if one does.
    pub start: Option<StepId>,
    /// The container itself, if it is there and stays.
    pub kept: Option<&'a Container>,
}

impl Begun<'_> {
    /// Holds already, or no step of this plan can make it hold.
    fn needs_no_wait(&self, condition: Condition) -> bool {
        self.start.is_none()
            && self.kept.is_none_or(|container| match condition {
                Condition::ServiceStarted => true,
                Condition::ServiceHealthy => container.health == Some(Health::Healthy),
                Condition::ServiceCompletedSuccessfully => container.state == ContainerState::Exited(Some(0)),
            })
    }
}

impl<'a> Conditions<'a> {
    pub fn add(&mut self, service: &'a str, begun: Begun<'a>) {
        self.replicas.entry(service).or_default().push(begun);
    }

    pub fn of(&self, service: &str) -> &[Begun<'a>] {
        self.replicas.get(service).map_or(&[], Vec::as_slice)
    }

    /// `start`, of a container of `service`, begins when the services it depends on are as it asks.
    /// Those must have been added before.
    ///
    /// # Errors
    /// A condition that can never hold.
    pub fn before(
        &mut self,
        draft: &mut Draft,
        scene: &Scene<'_>,
        service: &Service,
        start: StepId,
    ) -> Result<(), PlanError> {
        for need in scene.needs(service) {
            let on = scene.project.services.get(need.on).filter(|on| has_no_healthcheck(on));
            if let Some(on) = on.filter(|_| need.condition == Condition::ServiceHealthy) {
                return Err(no_healthcheck(service, on));
            }
            for begun in self.of(need.on).to_vec() {
                if begun.needs_no_wait(need.condition) {
                    continue;
                }
                if need.condition == Condition::ServiceStarted && need.required {
                    draft.need_all(start, begun.start);
                } else {
                    let wait = self.wait(draft, scene, &begun, &need, &service.name);
                    draft.need(start, wait);
                }
            }
        }
        Ok(())
    }

    fn wait(
        &mut self,
        draft: &mut Draft,
        scene: &Scene<'_>,
        begun: &Begun<'_>,
        need: &Need<'_>,
        by: &str,
    ) -> StepId {
        let key = (begun.name.clone(), need.condition, !need.required);
        let wait = *self.waits.entry(key).or_insert_with(|| {
            let (project, name) = (scene.project.name.clone(), begun.name.clone());
            let op = Op::Wait { project, name, until: WaitFor::Condition(need.condition) };
            let wait = draft.add(op, Cause::Needed { by: Vec::new() });
            draft.step_mut(wait).optional = !need.required;
            draft.need_all(wait, begun.start);
            wait
        });
        if let Cause::Needed { by: dependents } = &mut draft.step_mut(wait).cause
            && !dependents.iter().any(|name| name == by)
        {
            dependents.push(by.to_owned());
        }
        wait
    }
}

/// The file says so; an image may bring a check that the file does not show.
fn has_no_healthcheck(service: &Service) -> bool {
    let check = service.container.healthcheck.as_ref();
    check.is_some_and(|check| check.test == Some(HealthTest::Disabled))
}

fn no_healthcheck(service: &Service, on: &Service) -> PlanError {
    PlanError::at(
        format!("services.{}.depends_on.{}", service.name, on.name),
        format!(
            "service `{}` waits until `{}` is healthy, whose health check is disabled",
            service.name, on.name
        ),
    )
    .help("use `condition: service_started`, or give it a health check")
}
