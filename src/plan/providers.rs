//! Services that a program of somebody else's provides: asked for before containers are planned, since what
//! they hand over is part of their dependents; given back when nobody uses them any more.

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
};

use crate::{
    engine::{Observed, Op, ProviderAct, ProviderRequest},
    model::{Project, Provider, Selection, Service},
};

use super::{Cause, Goal, Plan, PlanError, StepId, draft::Draft, order::Scene};

/// What providers handed over: variables of their dependents, by service.
pub type Provided = BTreeMap<String, Vec<(String, String)>>;

/// Brings up the providers that `goal` needs, after the images of `plan`.
///
/// # Errors
/// Providers that depend on each other in a circle, which no project has.
pub fn provide(project: &Project, goal: &Goal, plan: Plan) -> Result<Plan, PlanError> {
    let selection = match goal {
        Goal::Running { selection, .. } => selection,
        Goal::Once(once) => &once.dependencies,
        _ => return Ok(plan),
    };
    let providers = selected(project, selection);
    if providers.is_empty() {
        return Ok(plan);
    }
    let mut draft = Draft::of(plan);
    let mut steps: BTreeMap<&str, StepId> = BTreeMap::new();
    for &(service, provider) in &providers {
        let step = draft.add(request(project, service, provider, ProviderAct::Up), Cause::Asked("provider"));
        steps.insert(&service.name, step);
    }
    for (service, _) in providers {
        let on = service.depends_on.keys().filter_map(|on| steps.get(on.as_str()).copied());
        draft.need_all(steps[service.name.as_str()], on);
    }
    draft.finish()
}

/// Annotation of a dependent: the names of what a provider set, `dev.ficelle.provided.SERVICE`.
const GIVEN: &str = "dev.ficelle.provided";

/// The project with what providers handed over. One that was not asked (a preview, `--no-deps`) is taken to hand
/// over what it did when the dependents were made.
#[must_use]
pub fn provided<'p>(project: &'p Project, given: &Provided, observed: &Observed) -> Cow<'p, Project> {
    let providers: BTreeSet<&str> = project
        .services
        .values()
        .filter(|service| service.provider.is_some())
        .map(|service| service.name.as_str())
        .collect();
    if providers.is_empty() {
        return Cow::Borrowed(project);
    }
    let mut project = project.clone();
    for service in project.services.values_mut() {
        let needs = service.depends_on.keys().filter(|on| providers.contains(on.as_str()));
        for on in needs.cloned().collect::<Vec<_>>() {
            let variables = given.get(&on).cloned();
            let variables = variables.unwrap_or_else(|| as_before(&service.name, &on, observed));
            if variables.is_empty() {
                continue;
            }
            let names: Vec<&str> = variables.iter().map(|(name, _)| name.as_str()).collect();
            let spec = &mut service.container;
            spec.annotations.insert(format!("{GIVEN}.{on}"), names.join(","));
            spec.environment.extend(variables.into_iter().map(|(name, value)| (name, Some(value))));
        }
        service.container.environment.sort_unstable_keys();
    }
    Cow::Owned(project)
}

/// What the provider `on` set in the newest container of `service`.
fn as_before(service: &str, on: &str, observed: &Observed) -> Vec<(String, String)> {
    let container = observed.containers.iter().rev().find(|container| container.service == service);
    let spec = container.and_then(|container| container.spec.as_ref());
    let names = spec.and_then(|spec| spec.annotations.get(&format!("{GIVEN}.{on}")));
    let value = |name: &str| spec?.environment.get(name)?.clone();
    names
        .into_iter()
        .flat_map(|names| names.split(','))
        .filter_map(|name| Some((name.to_owned(), value(name)?)))
        .collect()
}

/// Gives the selected providers back, each after the steps that end what depends on it.
pub(super) fn give_back(scene: &Scene<'_>, selection: &Selection, act: ProviderAct, draft: &mut Draft) {
    let providers = selected(scene.project, selection);
    let of_service = |id: &str| {
        let container = scene.observed.containers.iter().find(|container| container.id.0 == id);
        container.and_then(|container| scene.project.services.get(&container.service))
    };
    let mut ends: Vec<(&Service, StepId)> = draft
        .steps()
        .filter_map(|(step, what)| match &what.op {
            Op::Stop { id, .. } | Op::Remove { id, .. } => Some((of_service(&id.0)?, step)),
            _ => None,
        })
        .collect();
    for &(service, provider) in &providers {
        ends.push((service, draft.add(request(scene.project, service, provider, act), Cause::Goal)));
    }
    let own = ends.split_off(ends.len() - providers.len());
    ends.extend(own.iter().copied());
    for (service, step) in own {
        let before = ends.iter().filter(|(dependent, _)| dependent.depends_on.contains_key(&service.name));
        draft.need_all(step, before.map(|(_, step)| *step));
    }
}

fn selected<'p>(project: &'p Project, selection: &Selection) -> Vec<(&'p Service, &'p Provider)> {
    let services = project.services.values().filter(|service| selection.contains(&service.name));
    services.filter_map(|service| Some((service, service.provider.as_ref()?))).collect()
}

fn request(project: &Project, service: &Service, provider: &Provider, act: ProviderAct) -> Op {
    Op::Provide(Box::new(ProviderRequest {
        project: project.name.clone(),
        service: service.name.clone(),
        root: project.root.clone(),
        provider: provider.clone(),
        act,
    }))
}
