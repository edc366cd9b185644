//! `up`: the operations that the decisions take, and which must wait for which.
//!
//! Pulling apart what can be apart: containers, networks and volumes are made at once; only a start
//! waits for what the service depends on. A replacement is made before the old container stops, so
//! that a command killed anywhere leaves a container to go on from.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    engine::{Container, ContainerState, CreateContainer, Health, Op, WaitFor},
    model::{HealthTest, Mount, MountSource, Service},
};

use super::{
    Cause, Goal, Orphans, Plan, PlanError, StepId, WaitOptions,
    conditions::{Begun, Conditions},
    converge::{Decision, Fate, Replica, fixed_ports, networks},
    draft::Draft,
    labels,
    order::{Scene, lenders},
    resources::{Made, Resources},
};

/// Writes the plan for [`Goal::Running`] down.
pub(super) fn running<'a>(
    scene: &Scene<'a>,
    goal: &Goal,
    decisions: &BTreeMap<&'a str, Decision<'a>>,
    resources: Resources<'a>,
) -> Result<Plan, PlanError> {
    let Goal::Running { start, orphans, renew_anon_volumes, timeout, wait, .. } = goal else {
        return Ok(Plan::default());
    };
    let replaces_networks = !resources.replaced.is_empty();
    let mut draft = Draft::default();
    let made = resources.make(scene, &mut draft);
    let mut writer = Writer {
        scene,
        made,
        replaces_networks,
        renew: *renew_anon_volumes,
        start: *start,
        timeout: *timeout,
        draft,
        tracks: BTreeMap::new(),
        freed: Vec::new(),
        removals: BTreeMap::new(),
        conditions: Conditions::default(),
    };
    writer.orphans(*orphans);
    let order: Vec<&Decision<'a>> =
        scene.services.iter().filter_map(|service| decisions.get(service.name.as_str())).collect();
    order.iter().for_each(|decision| writer.containers(decision));
    writer.names_are_free_first()?;
    writer.stops_wait_for_dependents(&order);
    writer.networks_wait_for_stops();
    for decision in &order {
        writer.starts(decision)?;
    }
    if let Some(options) = wait {
        order.iter().for_each(|decision| writer.ready(decision, *options));
    }
    writer.draft.finish()
}

/// The steps of one replica, but its start.
#[derive(Default)]
struct Track {
    create: Option<StepId>,
    /// Of the container that is there now.
    stop: Option<StepId>,
    /// Must be done before the replica starts.
    cleared: Vec<StepId>,
}

struct Writer<'w, 'a> {
    scene: &'w Scene<'a>,
    made: Made<'a>,
    replaces_networks: bool,
    renew: bool,
    start: bool,
    timeout: Option<Duration>,
    draft: Draft,
    /// By service, in the order of the decision's replicas.
    tracks: BTreeMap<&'a str, Vec<Track>>,
    /// Containers that stop, and the step after which their ports and networks are free.
    freed: Vec<(&'a Container, StepId)>,
    /// By id.
    removals: BTreeMap<&'a str, StepId>,
    conditions: Conditions<'a>,
}

impl<'a> Writer<'_, 'a> {
    /// Removes the orphans, or tells of them.
    fn orphans(&mut self, wanted: Orphans) {
        let mut kept = Vec::new();
        for orphan in self.scene.orphans() {
            if let Some(elsewhere) = self.scene.elsewhere(orphan) {
                self.draft.notes.push(format!("container {} is kept: {elsewhere}", orphan.name));
            } else if wanted == Orphans::Removed {
                self.discard(orphan, &Cause::Orphan);
            } else {
                kept.push(format!("{} (service `{}`)", orphan.name, orphan.service));
            }
        }
        if !kept.is_empty() && wanted == Orphans::Told {
            self.draft.notes.push(format!(
                "kept, though the files no longer name their services: {}; `--remove-orphans` removes them",
                kept.join(", ")
            ));
        }
    }

    /// Stops and removes a container that nothing takes the place of; the removal.
    fn discard(&mut self, container: &'a Container, cause: &Cause) -> StepId {
        let (stop, remove) = self.draft.stop_and_remove(container, self.timeout, false, cause);
        self.freed.extend(stop.map(|stop| (container, stop)));
        self.removals.insert(&container.id.0, remove);
        remove
    }

    /// All but the starts.
    fn containers(&mut self, decision: &Decision<'a>) {
        for container in &decision.surplus {
            self.discard(container, &Cause::Surplus);
        }
        for replica in &decision.replicas {
            let track = self.track(decision.service, replica);
            self.tracks.entry(&decision.service.name).or_default().push(track);
        }
    }

    fn track(&mut self, service: &'a Service, replica: &Replica<'a>) -> Track {
        let mut track = Track::default();
        match &replica.fate {
            Fate::Keep(container) => self.keep(container, replica, &mut track),
            Fate::Create => track.create = Some(self.create(service, replica, None, Cause::Missing)),
            Fate::Recreate { old, cause } => {
                let create = self.create(service, replica, Some(old), cause.clone());
                track.create = Some(create);
                self.replace(old, create, &mut track);
                if matches!(cause, Cause::ImageChanged { .. }) {
                    self.note_old_volumes(service, old);
                }
            }
        }
        for double in &replica.doubles {
            let removal = self.discard(double, &Cause::Interrupted);
            self.go_after(track.create, double, removal);
            track.cleared.push(removal);
        }
        track
    }

    /// Anonymous volumes hide what a new image has at their place.
    fn note_old_volumes(&mut self, service: &Service, old: &Container) {
        let anonymous = |mount: &&Mount| matches!(mount.source, MountSource::Anonymous { .. });
        let targets: Vec<&str> =
            service.container.mounts.iter().filter(anonymous).map(|mount| mount.target.as_str()).collect();
        if !targets.is_empty() && !self.renew {
            self.draft.notes.push(format!(
                "container {} keeps its anonymous volumes, which hide what the new image has at {}; `-V` \
                 renews them",
                old.name,
                targets.join(", ")
            ));
        }
    }

    /// What is there goes when its replacement is made; it stops earlier only where the replacement
    /// waits for a network to be made anew.
    fn go_after(&mut self, create: Option<StepId>, old: &Container, removal: StepId) {
        self.draft.need_all(removal, create);
        let stop = self.freed.iter().find(|(container, _)| container.id == old.id).map(|(_, stop)| *stop);
        if let Some(stop) = stop.filter(|_| !self.replaces_networks) {
            self.draft.need_all(stop, create);
        }
    }

    fn keep(&mut self, container: &'a Container, replica: &Replica<'a>, track: &mut Track) {
        if let Some(cause) = &replica.restart {
            let stop = self.draft.stop(container, self.timeout, cause.clone());
            self.freed.push((container, stop));
            track.stop = Some(stop);
            track.cleared.push(stop);
        }
    }

    fn replace(&mut self, old: &'a Container, create: StepId, track: &mut Track) {
        let (stop, remove) = self.draft.stop_and_remove(old, self.timeout, self.renew, &Cause::Replaced);
        self.freed.extend(stop.map(|stop| (old, stop)));
        self.removals.insert(&old.id.0, remove);
        self.go_after(Some(create), old, remove);
        track.stop = stop;
        track.cleared.push(remove);
    }

    fn create(
        &mut self,
        service: &'a Service,
        replica: &Replica<'a>,
        old: Option<&Container>,
        cause: Cause,
    ) -> StepId {
        let project = self.scene.project;
        let spec = service.container.clone();
        let config_hash = service.config_hash();
        let image_id = self.scene.observed.images.get(service.image()).map_or("", |image| &image.id);
        let labels = labels::container(project, service, replica.number, &config_hash, image_id, old);
        let op = Op::Create(Box::new(CreateContainer {
            project: project.name.clone(),
            service: service.name.clone(),
            number: replica.number,
            name: replica.name.clone(),
            spec,
            config_hash,
            labels,
            image_id: image_id.to_owned(),
            replaces: old.filter(|_| !self.renew).map(|old| old.id.clone()),
            once: None,
        }));
        let create = self.draft.add(op, cause);
        let joined = networks(service).filter_map(|name| self.made.networks.get(name.as_str())).copied();
        let volumes = service.container.mounts.iter().filter_map(|mount| match &mount.source {
            MountSource::Volume { name, .. } => self.made.volumes.get(name.as_str()).copied(),
            MountSource::Anonymous { .. }
            | MountSource::Bind { .. }
            | MountSource::Tmpfs(_)
            | MountSource::Image { .. } => None,
        });
        self.draft.need_all(create, joined.chain(volumes));
        for lender in lenders(service) {
            let created = self.tracks.get(lender).into_iter().flatten().filter_map(|track| track.create);
            self.draft.need_all(create, created.collect::<Vec<_>>());
        }
        create
    }

    /// A container of one service may have the name that a container of another will have.
    fn names_are_free_first(&mut self) -> Result<(), PlanError> {
        let creates = self.tracks.values().flatten().filter_map(|track| track.create);
        for create in creates.collect::<Vec<_>>() {
            let Op::Create(request) = &self.draft.step_mut(create).op else { continue };
            let (name, service) = (request.name.clone(), request.service.clone());
            let holders = self.scene.observed.containers.iter().filter(|c| c.name == name);
            for holder in holders.filter(|holder| holder.service != service) {
                let removal = self.removals.get(holder.id.0.as_str()).copied();
                // Of two services that swap names neither can go first.
                let removal = removal.filter(|removal| !self.draft.reaches(*removal, create));
                self.draft.need(create, removal.ok_or_else(|| name_is_taken(&service, &name, holder))?);
            }
        }
        Ok(())
    }

    /// A dependent that restarts with its dependency, or lives in its namespace, stops first.
    fn stops_wait_for_dependents(&mut self, order: &[&Decision<'a>]) {
        for decision in order {
            let stops = self.stops(&decision.service.name);
            for need in self.scene.needs(decision.service) {
                if need.restart || need.namespace {
                    for on in self.stops(need.on) {
                        self.draft.need_all(on, stops.iter().copied());
                    }
                }
            }
        }
    }

    fn stops(&self, service: &str) -> Vec<StepId> {
        self.tracks.get(service).into_iter().flatten().filter_map(|track| track.stop).collect()
    }

    /// A network can go when nothing that runs is on it.
    fn networks_wait_for_stops(&mut self) {
        let unmade: Vec<(&str, StepId)> =
            self.made.unmade.iter().map(|(name, step)| (*name, *step)).collect();
        for (name, removal) in unmade {
            let joined = |container: &&Container| container.networks.iter().any(|network| network == name);
            let running = self.scene.observed.containers.iter().filter(|c| c.state.is_running());
            for container in running.filter(joined) {
                let stop =
                    self.freed.iter().find(|(freed, _)| freed.id == container.id).map(|(_, stop)| *stop);
                let stop = stop.unwrap_or_else(|| self.step_aside(container, name));
                self.draft.need(removal, stop);
            }
        }
    }

    /// Stops and starts a container that the command does not mean, for a network that is made anew.
    fn step_aside(&mut self, container: &'a Container, network: &str) -> StepId {
        let cause = Cause::Dependency { on: format!("network {network}") };
        let stop = self.draft.stop(container, self.timeout, cause.clone());
        let start = self.draft.start(&container.project, &container.name, cause);
        let made = container.networks.iter().filter_map(|name| self.made.networks.get(name.as_str()));
        self.draft.need(start, stop);
        self.draft.need_all(start, made.copied());
        self.freed.push((container, stop));
        stop
    }

    fn starts(&mut self, decision: &Decision<'a>) -> Result<(), PlanError> {
        let service = decision.service;
        let tracks = self.tracks.remove(service.name.as_str()).unwrap_or_default();
        for (replica, track) in decision.replicas.iter().zip(&tracks) {
            let kept = match &replica.fate {
                Fate::Keep(container) => Some(*container),
                Fate::Create | Fate::Recreate { .. } => None,
            };
            let start = match self.why_start(decision, replica) {
                Some(cause) => Some(self.start(service, &replica.name, track, cause)?),
                None => {
                    kept.into_iter().for_each(|container| self.leave(decision, container));
                    None
                }
            };
            // Nobody waits for a service that the command leaves alone (`--no-deps`).
            if decision.selected || start.is_some() {
                self.conditions.add(&service.name, Begun { name: replica.name.clone(), start, kept });
            }
        }
        for need in self.scene.needs(service).iter().filter(|need| need.namespace) {
            for owner in self.conditions.of(need.on) {
                if let Some(start) = owner.start {
                    self.draft.need_all(start, tracks.iter().filter_map(|track| track.stop));
                }
            }
        }
        Ok(())
    }

    fn start(
        &mut self,
        service: &'a Service,
        name: &str,
        track: &Track,
        cause: Cause,
    ) -> Result<StepId, PlanError> {
        let start = self.draft.start(&self.scene.project.name, name, cause);
        self.draft.need_all(start, track.create);
        self.draft.need_all(start, track.cleared.iter().copied());
        self.start_after_networks_and_ports(service, start);
        self.conditions.before(&mut self.draft, self.scene, service, start)?;
        Ok(start)
    }

    fn why_start(&self, decision: &Decision<'a>, replica: &Replica<'a>) -> Option<Cause> {
        let was_running = |old: &Container| old.state.is_running();
        match &replica.fate {
            _ if !self.start => None,
            Fate::Create => Some(Cause::New),
            Fate::Recreate { old, .. } => (decision.selected || was_running(old)).then_some(Cause::New),
            Fate::Keep(_) if replica.restart.is_some() => replica.restart.clone(),
            Fate::Keep(container) => match container.state {
                ContainerState::Running | ContainerState::Paused => None,
                _ => decision.selected.then_some(Cause::NotRunning),
            },
        }
    }

    /// Says that a container stays as it is.
    fn leave(&mut self, decision: &Decision<'a>, container: &Container) {
        if !decision.selected {
            return;
        }
        if container.state == ContainerState::Paused {
            self.draft.notes.push(format!("container {} is paused and stays so", container.name));
        }
        self.draft.unchanged.push(container.name.clone());
    }

    fn start_after_networks_and_ports(&mut self, service: &Service, start: StepId) {
        let made: Vec<StepId> =
            networks(service).filter_map(|name| self.made.networks.get(name.as_str()).copied()).collect();
        self.draft.need_all(start, made);
        let wanted: BTreeSet<u16> = fixed_ports(service).collect();
        let holds =
            |container: &Container| container.ports.iter().any(|port| wanted.contains(&port.host_port));
        let freed = self.freed.iter().filter(|(container, _)| holds(container)).map(|(_, step)| *step);
        self.draft.need_all(start, freed);
    }

    /// `--wait`.
    fn ready(&mut self, decision: &Decision<'a>, options: WaitOptions) {
        let is_ready = |container: &Container| match container.health {
            Some(health) => health == Health::Healthy,
            None => !has_healthcheck(decision.service),
        };
        for begun in self.conditions.of(&decision.service.name) {
            if !decision.selected || (begun.start.is_none() && begun.kept.is_none_or(is_ready)) {
                continue;
            }
            let (project, name) = (self.scene.project.name.clone(), begun.name.clone());
            let until = WaitFor::Ready { timeout: options.timeout };
            let wait = self.draft.add(Op::Wait { project, name, until }, Cause::Asked("--wait"));
            self.draft.need_all(wait, begun.start);
        }
    }
}

fn name_is_taken(service: &str, name: &str, holder: &Container) -> PlanError {
    PlanError::at(
        format!("services.{service}.container_name"),
        format!("the name `{name}` is taken by a container of service `{}`", holder.service),
    )
    .help(format!("remove that container first (`ficelle down {}`), or use another name", holder.service))
}

fn has_healthcheck(service: &Service) -> bool {
    let check = service.container.healthcheck.as_ref();
    check.is_some_and(|check| check.test != Some(HealthTest::Disabled))
}
