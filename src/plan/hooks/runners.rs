//! The containers of `pre_start`: like that of their service, with another program and in nobody's way.

use crate::{
    engine::{CreateContainer, HookAt, HookRequest, OneOff, Op},
    model::{
        HealthTest, Healthcheck, Hook, Lender, MountSource, NetworkMode, RestartPolicy, Service, VolumesFrom,
        label,
    },
    plan::{Plan, StepId, labels, order::Scene},
};

/// For each service of which a first container starts: the starts, and what must have ended before.
pub(super) fn of(scene: &Scene<'_>, plan: &Plan) -> Vec<(Vec<StepId>, Vec<HookRequest>)> {
    let with_hooks = scene.services.iter().filter(|service| !service.container.pre_start.is_empty());
    let found = with_hooks.filter_map(|service| {
        let starts = starts(scene, plan, service);
        let (_, container) = starts.first()?;
        if stays(scene, plan, service) {
            return None;
        }
        let hooks = service.container.pre_start.iter().enumerate();
        let requests = hooks.map(|(index, hook)| request(scene, service, container, index, hook)).collect();
        Some((starts.iter().map(|(step, _)| *step).collect(), requests))
    });
    found.collect()
}

/// Starts of the service's containers, with their names; those of `run` are no part of it.
fn starts<'p>(scene: &Scene<'_>, plan: &'p Plan, service: &Service) -> Vec<(StepId, &'p str)> {
    let made = |name: &str| {
        plan.steps.iter().find_map(|step| match &step.op {
            Op::Create(create) if create.name == name => {
                Some((create.service.as_str(), create.once.is_some()))
            }
            _ => None,
        })
    };
    let observed = |name: &str| scene.containers(&service.name).any(|container| container.name == name);
    let ours =
        |name: &str| made(name).map_or_else(|| observed(name), |(of, once)| of == service.name && !once);
    let steps = plan.steps.iter().enumerate();
    steps
        .filter_map(|(at, step)| match &step.op {
            Op::Start { name, .. } if ours(name) => Some((StepId(at), name.as_str())),
            _ => None,
        })
        .collect()
}

/// One of them runs, and goes on: what had to be done before was done.
fn stays(scene: &Scene<'_>, plan: &Plan, service: &Service) -> bool {
    let stops = |id: &str| {
        plan.steps.iter().any(|step| matches!(&step.op, Op::Stop { id: stopped, .. } if stopped.0 == id))
    };
    scene.containers(&service.name).any(|container| container.state.is_running() && !stops(&container.id.0))
}

fn request(scene: &Scene<'_>, service: &Service, container: &str, index: usize, hook: &Hook) -> HookRequest {
    HookRequest {
        project: scene.project.name.clone(),
        service: service.name.clone(),
        name: container.to_owned(),
        id: None,
        at: HookAt::PreStart,
        index,
        hook: hook.clone(),
        runner: Some(Box::new(runner(scene, service, container, index, hook))),
    }
}

fn runner(
    scene: &Scene<'_>,
    service: &Service,
    container: &str,
    index: usize,
    hook: &Hook,
) -> CreateContainer {
    let mut spec = service.container.clone();
    spec.entrypoint = Some(Vec::new());
    spec.command = Some(hook.command.clone());
    spec.user = hook.user.clone().or(spec.user);
    spec.working_dir = hook.working_dir.clone().or(spec.working_dir);
    spec.privileged |= hook.privileged;
    spec.environment.extend(hook.environment.clone());
    (spec.tty, spec.stdin_open) = (false, false);
    (spec.container_name, spec.mac_address, spec.restart) = (None, None, RestartPolicy::No);
    spec.ports.clear();
    spec.healthcheck = Some(Healthcheck {
        test: Some(HealthTest::Disabled),
        interval: None,
        timeout: None,
        retries: None,
        start_period: None,
        start_interval: None,
    });
    for hooks in [&mut spec.pre_start, &mut spec.post_start, &mut spec.pre_stop] {
        hooks.clear();
    }
    if let NetworkMode::Networks(networks) = &mut spec.network {
        for attachment in networks.values_mut() {
            (attachment.ipv4_address, attachment.ipv6_address, attachment.mac_address) = (None, None, None);
            attachment.aliases.clear();
            attachment.link_local_ips.clear();
        }
    }
    let before = spec.mounts.len();
    spec.mounts.retain(|mount| !matches!(mount.source, MountSource::Anonymous { .. }));
    if spec.mounts.len() < before {
        spec.volumes_from
            .push(VolumesFrom { lender: Lender::Container(container.to_owned()), read_only: false });
    }
    let config_hash = spec.digest();
    let image_id = scene.observed.images.get(service.image()).map_or("", |image| &image.id);
    let mut labels = labels::container(scene.project, service, 1, &config_hash, image_id, None);
    labels.shift_remove(label::CONTAINER_NUMBER);
    labels.insert(label::ONEOFF.to_owned(), "True".to_owned());
    labels.insert(label::HOOK.to_owned(), "pre_start".to_owned());
    CreateContainer {
        project: scene.project.name.clone(),
        service: service.name.clone(),
        number: 1,
        name: format!("{}-{}-pre_start-{index}", scene.project.name, service.name),
        spec,
        config_hash,
        labels,
        image_id: image_id.to_owned(),
        replaces: None,
        once: Some(OneOff { remove: true, attended: true, ..OneOff::default() }),
    }
}
