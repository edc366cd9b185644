//! `run`: one container of a service, after what the service needs.

use crate::{
    engine::{CreateContainer, Op},
    model::{Lender, MountSource, NetworkMode, Service, label},
};

use super::{
    Cause, Goal, Once, Orphans, Plan, PlanError, StepId,
    conditions::{Begun, Conditions},
    converge,
    draft::Draft,
    labels,
    order::Scene,
    resources::Resources,
};

pub(super) fn once(scene: &Scene<'_>, once: &Once) -> Result<Plan, PlanError> {
    let service = scene
        .project
        .services
        .get(&once.service)
        .ok_or_else(|| PlanError::at("services", format!("no such service: {}", once.service)))?;
    if service.provider.is_some() {
        let message = format!("service `{}` is no container: its provider runs it", service.name);
        return Err(PlanError::at(format!("services.{}.provider", service.name), message));
    }
    if let Some(taken) = scene.observed.containers.iter().find(|container| container.name == once.name) {
        let what = if taken.state.is_running() { "runs" } else { "is there" };
        let message =
            format!("the name {} is taken: a container of service `{}` {what}", taken.name, taken.service);
        return Err(
            PlanError::at(format!("services.{}", service.name), message).help("`--name` gives another one")
        );
    }
    let mut draft = Draft::of(needed(scene, once)?);
    resources(scene, service, &mut draft)?;
    let create = draft.add(create(scene, service, once), Cause::Asked("run"));
    let needs: Vec<StepId> =
        draft.steps().filter(|(_, step)| comes_before(&step.op, service)).map(|(id, _)| id).collect();
    draft.need_all(create, needs);
    let start = draft.start(&scene.project.name, &once.name, Cause::New);
    draft.need(start, create);
    let mut conditions = begun(scene, service, &draft);
    conditions.before(&mut draft, scene, service, start)?;
    draft.finish()
}

/// The services it needs, running.
fn needed(scene: &Scene<'_>, once: &Once) -> Result<Plan, PlanError> {
    if once.dependencies.named.is_empty() && once.orphans != Orphans::Removed {
        return Ok(Plan::default());
    }
    let mut goal = Goal::running(once.dependencies.clone());
    if let Goal::Running { orphans, .. } = &mut goal {
        *orphans = once.orphans;
    }
    let mut plan = converge::running(scene, &goal)?;
    plan.unchanged.clear();
    Ok(plan)
}

/// Networks and volumes that are missing; one that differs from the file is used as it is.
fn resources(scene: &Scene<'_>, service: &Service, draft: &mut Draft) -> Result<(), PlanError> {
    let service = scene.services.iter().copied().filter(|known| known.name == service.name);
    let mut own = Draft::default();
    Resources::of(scene, service)?.make(scene, &mut own);
    for (_, step) in own.steps() {
        let missing = matches!(step.op, Op::CreateNetwork { .. } | Op::CreateVolume { .. })
            && step.cause == Cause::Missing;
        if missing && !draft.steps().any(|(_, known)| known.op == step.op) {
            draft.add(step.op.clone(), step.cause.clone());
        }
    }
    Ok(())
}

fn create(scene: &Scene<'_>, service: &Service, once: &Once) -> Op {
    let spec = service.container.clone();
    let config_hash = spec.digest();
    let image_id = scene.observed.images.get(service.image()).map_or("", |image| &image.id);
    let mut labels = labels::container(scene.project, service, 1, &config_hash, image_id, None);
    labels.shift_remove(label::CONTAINER_NUMBER);
    labels.insert(label::ONEOFF.to_owned(), "True".to_owned());
    labels.insert(label::SLUG.to_owned(), once.slug.clone());
    Op::Create(Box::new(CreateContainer {
        project: scene.project.name.clone(),
        service: service.name.clone(),
        number: 1,
        name: once.name.clone(),
        spec,
        config_hash,
        labels,
        image_id: image_id.to_owned(),
        replaces: None,
        once: Some(once.one_off.clone()),
    }))
}

/// What `service` joins, mounts or lives in.
fn comes_before(op: &Op, service: &Service) -> bool {
    match op {
        Op::CreateNetwork { network, .. } => converge::networks(service).any(|name| *name == network.name),
        Op::CreateVolume { volume, .. } => {
            service.container.mounts.iter().any(
                |mount| matches!(&mount.source, MountSource::Volume { name, .. } if *name == volume.name),
            )
        }
        Op::Create(create) => {
            matches!(&service.container.network, NetworkMode::Of(Lender::Service(owner)) if *owner == create.service)
        }
        _ => false,
    }
}

/// The containers of the services that `service` needs, as they will be.
fn begun<'a>(scene: &Scene<'a>, service: &'a Service, draft: &Draft) -> Conditions<'a> {
    let mut conditions = Conditions::default();
    let names: Vec<&str> = scene.needs(service).iter().map(|need| need.on).collect();
    for on in scene.services.iter().filter(|on| names.contains(&on.name.as_str())) {
        let made = draft.steps().filter_map(|(_, step)| match &step.op {
            Op::Create(create) if create.service == on.name => Some(create.name.clone()),
            _ => None,
        });
        let made: Vec<String> = made.collect();
        let kept = scene.containers(&on.name).filter(|container| !made.contains(&container.name));
        let begun = |name: String, kept| {
            let starts = |op: &Op| matches!(op, Op::Start { name: started, .. } if *started == name);
            let start = draft.steps().find(|(_, step)| starts(&step.op)).map(|(id, _)| id);
            Begun { name, start, kept }
        };
        for container in kept {
            conditions.add(&on.name, begun(container.name.clone(), Some(container)));
        }
        for name in made {
            conditions.add(&on.name, begun(name, None));
        }
    }
    conditions
}
