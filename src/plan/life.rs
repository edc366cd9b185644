//! `kill`, `pause`, `unpause` and `rm`: what happens to containers that are there.

use crate::{
    engine::{Container, ContainerState, Op},
    model::Selection,
};

use super::{Cause, Plan, PlanError, draft::Draft, order::Scene};

/// Containers of the selected services, one-off ones among them.
fn chosen<'a>(scene: &Scene<'a>, selection: &Selection) -> impl Iterator<Item = &'a Container> {
    let known: Vec<String> = selection.services().map(str::to_owned).collect();
    scene.observed.containers.iter().filter(move |container| known.contains(&container.service))
}

pub(super) fn signalled(
    scene: &Scene<'_>,
    selection: &Selection,
    signal: &str,
    remove_orphans: bool,
) -> Result<Plan, PlanError> {
    let mut draft = Draft::default();
    let runs =
        |container: &&Container| matches!(container.state, ContainerState::Running | ContainerState::Paused);
    for container in chosen(scene, selection).filter(runs) {
        let (project, name) = (container.project.clone(), container.name.clone());
        let (id, signal) = (container.id.clone(), signal.to_owned());
        draft.add(Op::Kill { project, name, id, signal }, Cause::Goal);
    }
    if remove_orphans {
        for orphan in scene.orphans().filter(|orphan| scene.elsewhere(orphan).is_none()) {
            draft.stop_and_remove(orphan, None, false, &Cause::Orphan);
        }
    }
    draft.finish()
}

pub(super) fn paused(scene: &Scene<'_>, selection: &Selection, paused: bool) -> Result<Plan, PlanError> {
    let mut draft = Draft::default();
    let from = if paused { ContainerState::Running } else { ContainerState::Paused };
    for container in chosen(scene, selection).filter(|container| container.state == from) {
        let (project, name, id) = (container.project.clone(), container.name.clone(), container.id.clone());
        let op = if paused { Op::Pause { project, name, id } } else { Op::Unpause { project, name, id } };
        draft.add(op, Cause::Goal);
    }
    draft.finish()
}

pub(super) fn discarded(
    scene: &Scene<'_>,
    selection: &Selection,
    stop: bool,
    volumes: bool,
) -> Result<Plan, PlanError> {
    let mut draft = Draft::default();
    for container in chosen(scene, selection).filter(|container| stop || !container.state.is_running()) {
        draft.stop_and_remove(container, None, volumes, &Cause::Goal);
    }
    draft.finish()
}

pub(super) fn gone(scene: &Scene<'_>, name: &str) -> Result<Plan, PlanError> {
    let mut draft = Draft::default();
    for container in scene.observed.containers.iter().filter(|container| container.name == name) {
        draft.stop_and_remove(container, None, true, &Cause::Goal);
    }
    draft.finish()
}
