//! `stop` and `down`: dependents end before what they depend on; then nothing of it is left.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    engine::{Container, Op, ProviderAct},
    model::{MountSource, Selection, Service, label},
};

use super::{Cause, Plan, PlanError, StepId, draft::Draft, order::Scene, providers};

pub(super) fn stopped(
    scene: &Scene<'_>,
    selection: &Selection,
    timeout: Option<Duration>,
) -> Result<Plan, PlanError> {
    let mut draft = Draft::default();
    let mut stops: BTreeMap<&str, Vec<StepId>> = BTreeMap::new();
    for service in scene.services.iter().rev().filter(|service| selection.contains(&service.name)) {
        let running = scene.containers(&service.name).filter(|container| container.state.is_running());
        let steps = running.map(|container| draft.stop(container, timeout, Cause::Goal)).collect();
        stops.insert(&service.name, steps);
    }
    dependents_first(scene, &mut draft, &stops);
    providers::give_back(scene, selection, ProviderAct::Stop, &mut draft);
    draft.finish()
}

/// Each stop needs those of all containers that depend on it, through services without any, too.
fn dependents_first(scene: &Scene<'_>, draft: &mut Draft, stops: &BTreeMap<&str, Vec<StepId>>) {
    let mut above: BTreeMap<&str, BTreeSet<StepId>> = BTreeMap::new();
    for service in scene.services.iter().rev() {
        let inherited = above.remove(service.name.as_str()).unwrap_or_default();
        let own = stops.get(service.name.as_str()).map_or(&[][..], Vec::as_slice);
        for &stop in own {
            draft.need_all(stop, inherited.iter().copied());
        }
        let handed_on = if own.is_empty() { inherited } else { own.iter().copied().collect() };
        for need in scene.needs(service) {
            above.entry(need.on).or_default().extend(handed_on.iter().copied());
        }
    }
}

pub(super) fn removed(
    scene: &Scene<'_>,
    selection: &Selection,
    volumes: bool,
    remove_orphans: bool,
    timeout: Option<Duration>,
) -> Result<Plan, PlanError> {
    let mut draft = Draft::default();
    let mut stops: BTreeMap<&str, Vec<StepId>> = BTreeMap::new();
    let mut gone = Gone::default();
    for service in scene.services.iter().rev().filter(|service| selection.contains(&service.name)) {
        for container in scene.containers(&service.name) {
            let (stop, remove) = draft.stop_and_remove(container, timeout, volumes, &Cause::Goal);
            stops.entry(&service.name).or_default().extend(stop);
            gone.0.insert(&container.id.0, remove);
        }
    }
    dependents_first(scene, &mut draft, &stops);
    if remove_orphans {
        let one_offs = scene.observed.containers.iter().filter(|c| c.is_one_off() && c.state.is_running());
        let orphans = scene.orphans().chain(one_offs);
        for container in orphans.filter(|container| scene.elsewhere(container).is_none()) {
            let (_, remove) = draft.stop_and_remove(container, timeout, volumes, &Cause::Orphan);
            gone.0.insert(&container.id.0, remove);
        }
    }
    providers::give_back(scene, selection, ProviderAct::Down, &mut draft);
    note_kept(scene, selection, &gone, &mut draft);
    networks(scene, selection, &gone, &mut draft);
    if volumes {
        remove_volumes(scene, selection, &gone, &mut draft);
        if !selection.partial {
            remove_left_volumes(scene, &mut draft);
        }
    }
    draft.finish()
}

/// The removals, by container id.
#[derive(Default)]
struct Gone<'a>(BTreeMap<&'a str, StepId>);

impl Gone<'_> {
    fn contains(&self, container: &Container) -> bool {
        self.0.contains_key(container.id.0.as_str())
    }

    /// Of the containers that `uses` is true of: the removals of those that go, the names of others.
    fn users<'o>(
        &self,
        scene: &Scene<'o>,
        uses: impl Fn(&Container) -> bool,
    ) -> (Vec<StepId>, BTreeSet<&'o str>) {
        let mut steps = Vec::new();
        let mut kept = BTreeSet::new();
        for container in scene.observed.containers.iter().filter(|container| uses(container)) {
            match self.0.get(container.id.0.as_str()) {
                Some(&step) => steps.push(step),
                None => drop(kept.insert(container.name.as_str())),
            }
        }
        (steps, kept)
    }
}

/// A whole `down` that leaves something says what.
fn note_kept(scene: &Scene<'_>, selection: &Selection, gone: &Gone<'_>, draft: &mut Draft) {
    if selection.partial {
        return;
    }
    for container in scene.observed.containers.iter().filter(|container| !gone.contains(container)) {
        let why = if let Some(elsewhere) = scene.elsewhere(container) {
            elsewhere
        } else if container.is_one_off() {
            "it is a one-off container; `--remove-orphans` removes it".to_owned()
        } else if scene.project.disabled.contains_key(&container.service) {
            format!("service `{}` is disabled; turn its profile on to remove it", container.service)
        } else {
            format!(
                "the files do not name its service `{}`; `--remove-orphans` removes it",
                container.service
            )
        };
        draft.notes.push(format!("container {} is kept: {why}", container.name));
    }
}

fn networks(scene: &Scene<'_>, selection: &Selection, gone: &Gone<'_>, draft: &mut Draft) {
    let external: BTreeSet<&str> =
        scene.project.networks.values().filter(|net| net.external).map(|net| net.name.as_str()).collect();
    for (name, info) in &scene.observed.networks {
        let ours = info.labels.get(label::PROJECT) == Some(&scene.project.name);
        if !ours || external.contains(name.as_str()) {
            continue;
        }
        let (steps, mut kept) = gone.users(scene, |container| container.networks.contains(name));
        let going: BTreeSet<&str> = scene
            .observed
            .containers
            .iter()
            .filter(|container| gone.contains(container))
            .map(|container| container.name.as_str())
            .collect();
        kept.extend(info.containers.iter().map(String::as_str).filter(|user| !going.contains(user)));
        if kept.is_empty() {
            let remove = draft.add(Op::RemoveNetwork { name: name.clone() }, Cause::Goal);
            draft.need_all(remove, steps);
        } else if !selection.partial {
            draft.notes.push(format!("network {name} is kept: used by {}", join(&kept)));
        }
    }
}

/// Declared ones only; of services that were named, those that nothing else uses.
fn remove_volumes(scene: &Scene<'_>, selection: &Selection, gone: &Gone<'_>, draft: &mut Draft) {
    for (key, volume) in scene.project.volumes.iter().filter(|(_, volume)| !volume.external) {
        let Some(info) = scene.observed.volumes.get(&volume.name) else { continue };
        if info.labels.get(label::PROJECT).is_some_and(|project| *project != scene.project.name) {
            draft.notes.push(format!("volume {} is kept: another project made it", volume.name));
            continue;
        }
        let (steps, mut kept) = gone.users(scene, |container| container.mounts.contains(&volume.name));
        if selection.partial {
            kept.extend(other_users(scene, selection, &volume.name));
        }
        if kept.is_empty() {
            let remove = draft.add(Op::RemoveVolume { name: volume.name.clone() }, Cause::Goal);
            draft.need_all(remove, steps);
        } else {
            draft.notes.push(format!("volume {key} is kept: used by {}", join(&kept)));
        }
    }
}

/// Anonymous volumes that an earlier `down` kept: without a container nobody can name them again.
fn remove_left_volumes(scene: &Scene<'_>, draft: &mut Draft) {
    for (name, info) in &scene.observed.volumes {
        let ours = info.labels.get(label::PROJECT) == Some(&scene.project.name);
        let used = || scene.observed.containers.iter().any(|container| container.mounts.contains(name));
        if ours && info.labels.contains_key(label::ANONYMOUS) && !used() {
            draft.add(Op::RemoveVolume { name: name.clone() }, Cause::Goal);
        }
    }
}

/// Services outside the selection that mount the volume.
fn other_users<'a>(scene: &Scene<'a>, selection: &Selection, volume: &str) -> Vec<&'a str> {
    let mounts = |service: &&&Service| {
        let mut sources = service.container.mounts.iter().map(|mount| &mount.source);
        sources.any(|source| matches!(source, MountSource::Volume { name, .. } if name == volume))
    };
    let others = scene.services.iter().filter(|service| !selection.contains(&service.name));
    others.filter(mounts).map(|service| service.name.as_str()).collect()
}

fn join(names: &BTreeSet<&str>) -> String {
    names.iter().copied().collect::<Vec<_>>().join(", ")
}
