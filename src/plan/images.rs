//! The first round: which images are pulled, which are built, each once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    engine::{BuildRequest, Observed, Op, PullRequest, PushRequest},
    model::{Build, LockedBases, Project, PullPolicy, Selection, Service, image_name},
};

use super::{BuildMode, Cause, ImageOptions, Plan, PlanError, StepId, draft::Draft};

/// Images that the selected services need and the store has not got, or that were asked for.
///
/// A service with `build` is built rather than pulled, unless its `pull_policy` says otherwise.
/// Services that build the same thing share one build, under all their names.
///
/// # Errors
/// An image that is neither there nor allowed to be made (`--no-build`, `pull_policy: never`).
pub fn images(
    project: &Project,
    selection: &Selection,
    options: &ImageOptions,
    observed: &Observed,
) -> Result<Plan, PlanError> {
    let mut round = Round {
        builds_now: options.build != BuildMode::Never,
        lock: options.locked.as_ref(),
        ..Round::default()
    };
    let selected = project.services.values().filter(|service| selection.contains(&service.name));
    for service in selected.filter(|service| service.provider.is_none()) {
        let there = observed.images.get(service.image()).map(|image| image.age);
        match decide(project, service, options, there)? {
            Need::Nothing => unchanged(service, options, observed)?,
            Need::Pull(policy, cause) => round.pull(service, policy, cause),
            Need::Build(build, cause) => round.build(project, service, build, cause),
        }
        for image in service.container.mounted_images() {
            if !observed.images.contains_key(image) {
                let wanted = (service, PullPolicy::Missing, Cause::Missing);
                round.pulls.entry((image, service.container.platform.as_deref())).or_insert(wanted);
            }
        }
    }
    round.bases(project)?;
    round.finish(project)
}

/// What becomes of a command when one image cannot be pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    Stop,
    /// `--ignore-push-failures`.
    GoOn,
}

/// Sends the images that the selected services build, under all their names. As docker compose has it,
/// an image that is not built here is another's to push; one without a name of its own has no registry.
#[must_use]
pub fn pushes(project: &Project, selection: &Selection, on_failure: OnFailure) -> Plan {
    let mut draft = Draft::default();
    let mut seen = BTreeSet::new();
    for service in project.services.values().filter(|service| selection.contains(&service.name)) {
        let Some(build) = &service.build else { continue };
        let own = (!is_only_built(project, service)).then(|| service.image());
        for image in own.into_iter().chain(build.tags.iter().map(String::as_str)) {
            if seen.insert(image) {
                let push = PushRequest { image: image.to_owned(), service: service.name.clone() };
                let step = draft.add(Op::Push(push), Cause::Asked("push"));
                draft.step_mut(step).optional = on_failure == OnFailure::GoOn;
            }
        }
    }
    // Pushes need nothing of each other, so there is no circle in them.
    draft.finish().unwrap_or_default()
}

/// An image that only a build gives has no registry to come from.
fn is_only_built(project: &Project, service: &Service) -> bool {
    service.build.is_some() && service.image() == image_name(&project.name, &service.name)
}

enum Need<'a> {
    Nothing,
    Pull(PullPolicy, Cause),
    Build(&'a Build, Cause),
}

fn decide<'a>(
    project: &Project,
    service: &'a Service,
    options: &ImageOptions,
    there: Option<Option<Duration>>,
) -> Result<Need<'a>, PlanError> {
    let only_built = is_only_built(project, service);
    let policy = match options.pull {
        Some(_) if only_built => service.pull_policy,
        asked => asked.or(service.pull_policy),
    };
    let asked = if options.pull.is_some() && !only_built { "--pull" } else { "pull_policy" };
    match (&service.build, policy) {
        (Some(build), _) if options.build == BuildMode::Always => {
            Ok(Need::Build(build, Cause::Asked("--build")))
        }
        (Some(build), Some(PullPolicy::Build)) if options.build == BuildMode::Missing => {
            Ok(Need::Build(build, Cause::Asked(asked)))
        }
        (None, Some(PullPolicy::Build)) => Err(nothing_to_build(service)),
        (_, Some(PullPolicy::Always)) if !only_built => {
            Ok(Need::Pull(PullPolicy::Always, Cause::Asked(asked)))
        }
        // A name whose age nobody knows is as old as can be.
        (_, Some(PullPolicy::Every(every)))
            if !only_built && there.is_some_and(|age| age.is_none_or(|age| age >= every)) =>
        {
            Ok(Need::Pull(PullPolicy::Always, Cause::Asked(asked)))
        }
        _ if there.is_some() => Ok(Need::Nothing),
        // An explicit `missing` asks for a pull where there is anything to pull.
        (Some(build), policy)
            if options.build == BuildMode::Missing && (only_built || policy != Some(PullPolicy::Missing)) =>
        {
            Ok(Need::Build(build, Cause::Missing))
        }
        (_, Some(PullPolicy::Never)) => Err(never(service)),
        (Some(_), _) if only_built => Err(not_built(service)),
        _ => Ok(Need::Pull(PullPolicy::Missing, Cause::Missing)),
    }
}

/// An image that is used as it is must be the locked one.
fn unchanged(service: &Service, options: &ImageOptions, observed: &Observed) -> Result<(), PlanError> {
    let Some(lock) = options.locked.as_ref().filter(|_| service.build.is_none()) else { return Ok(()) };
    let locked = locked(service, lock)?;
    let there = observed.images.get(service.image()).and_then(|image| image.digest.as_deref());
    match there {
        Some(there) if there != locked => Err(drift(
            service,
            format!("image {} is locked to {locked}, and the store has {there}", service.image()),
        )
        .help(format!("`ficelle pull --locked {}` fetches the locked one again", service.name))
        .help("`ficelle lock` accepts the new one")),
        _ => Ok(()),
    }
}

fn locked(service: &Service, lock: &BTreeMap<String, String>) -> Result<String, PlanError> {
    lock.get(service.image()).cloned().ok_or_else(|| {
        drift(
            service,
            format!("image {} of service `{}` is not in ficelle.lock", service.image(), service.name),
        )
        .help("`ficelle lock` writes it there")
    })
}

fn drift(service: &Service, message: String) -> PlanError {
    PlanError { drift: true, ..PlanError::at(format!("services.{}.image", service.name), message) }
}

fn nothing_to_build(service: &Service) -> PlanError {
    PlanError::at(
        format!("services.{}.pull_policy", service.name),
        format!("service `{}` has the pull policy `build` and nothing to build", service.name),
    )
    .help(format!("add `build:` to `{}`, or use another policy", service.name))
}

fn never(service: &Service) -> PlanError {
    PlanError::at(
        format!("services.{}.image", service.name),
        format!("image {} of service `{}` is not there and may not be pulled", service.image(), service.name),
    )
    .help("load it with `ficelle image load`, or use the pull policy `missing`")
}

fn not_built(service: &Service) -> PlanError {
    PlanError::at(
        format!("services.{}.build", service.name),
        format!("image {} of service `{}` is not there and may not be built", service.image(), service.name),
    )
    .help("leave out `--no-build`, or run `ficelle build` first")
}

#[derive(Default)]
struct Round<'a> {
    draft: Draft,
    builds_now: bool,
    lock: Option<&'a BTreeMap<String, String>>,
    /// By image and platform.
    pulls: BTreeMap<(&'a str, Option<&'a str>), (&'a Service, PullPolicy, Cause)>,
    builds: Vec<(&'a Service, &'a Build, Vec<&'a str>, Cause, &'a str)>,
}

impl<'a> Round<'a> {
    fn pull(&mut self, service: &'a Service, policy: PullPolicy, cause: Cause) {
        let key = (service.image(), service.container.platform.as_deref());
        let pull = self.pulls.entry(key).or_insert((service, policy, cause.clone()));
        if policy == PullPolicy::Always && pull.1 != policy {
            *pull = (service, policy, cause);
        } else if service.build.is_none() {
            pull.0 = service;
        }
    }

    fn build(&mut self, project: &'a Project, service: &'a Service, build: &'a Build, cause: Cause) {
        match self.builds.iter_mut().find(|(_, other, ..)| *other == build) {
            Some((_, _, names, ..)) if names.contains(&service.image()) => {}
            Some((_, _, names, ..)) => names.push(service.image()),
            None => self.builds.push((service, build, vec![service.image()], cause, &project.name)),
        }
    }

    fn locked(&self, service: &Service) -> Result<Option<String>, PlanError> {
        self.lock.map(|lock| locked(service, lock)).transpose()
    }

    /// What builds start from is built before, selected or not.
    fn bases(&mut self, project: &'a Project) -> Result<(), PlanError> {
        let mut at = 0;
        while let Some((service, build, ..)) = self.builds.get(at).cloned() {
            for name in base_services(build) {
                let base = find(project, name).filter(|base| base.build.is_some());
                let Some((base, build)) = base.and_then(|base| Some((base, base.build.as_ref()?))) else {
                    return Err(no_base(service, name));
                };
                self.build(project, base, build, Cause::Needed { by: vec![service.name.clone()] });
            }
            at += 1;
        }
        Ok(())
    }

    fn finish(mut self, project: &Project) -> Result<Plan, PlanError> {
        let built: Vec<&str> =
            self.builds.iter().flat_map(|(_, _, names, ..)| names.iter().copied()).collect();
        self.pulls.retain(|(image, _), _| !built.contains(image));
        for ((image, platform), (service, policy, cause)) in std::mem::take(&mut self.pulls) {
            // `pull`: what cannot be pulled can still be built.
            let optional = service.build.is_some() && cause == Cause::Asked("--pull") && !self.builds_now;
            let platform = platform.map(ToOwned::to_owned);
            let locked = self.locked(service)?;
            let (image, service) = (image.to_owned(), service.name.clone());
            let step =
                self.draft.add(Op::Pull(PullRequest { image, platform, policy, locked, service }), cause);
            self.draft.step_mut(step).optional = optional;
        }
        let mut last: BTreeMap<&str, (StepId, &str)> = BTreeMap::new();
        let mut steps: Vec<(&Service, &Build, StepId)> = Vec::new();
        for (service, of, names, cause, name_of_project) in self.builds {
            let mut build = of.clone();
            build.tags.extend(names.iter().skip(1).map(|name| (*name).to_owned()));
            for text in build.additional_contexts.values_mut() {
                if let Some(base) = text.strip_prefix(SERVICE).and_then(|name| find(project, name)) {
                    *text = format!("stored-image://{}", base.image());
                }
            }
            let op = Op::Build(Box::new(BuildRequest {
                project: name_of_project.to_owned(),
                service: service.name.clone(),
                build,
                image: service.image().to_owned(),
                locked: self.lock.map(|digests| locked_bases(project, digests)),
            }));
            let step = self.draft.add(op, cause);
            steps.push((service, of, step));
            for name in names {
                if let Some((before, other)) = last.insert(name, (step, &service.name)) {
                    self.draft.need(step, before);
                    self.draft.notes.push(format!(
                        "services `{other}` and `{}` build different things under one name, {name}: \
                         the second is used",
                        service.name
                    ));
                }
            }
        }
        for (service, build, step) in &steps {
            for base in base_services(build).filter_map(|name| find(project, name)?.build.as_ref()) {
                let Some((of, _, on)) = steps.iter().find(|(_, other, _)| *other == base) else { continue };
                if self.draft.reaches(*on, *step) {
                    return Err(circle(service, of));
                }
                self.draft.need(*step, *on);
            }
        }
        self.draft.finish()
    }
}

fn locked_bases(project: &Project, digests: &BTreeMap<String, String>) -> LockedBases {
    let services = project.services.values().chain(project.disabled.values());
    let built = services.filter(|service| service.build.is_some());
    LockedBases {
        digests: digests.clone(),
        built_here: built.map(|service| service.image().to_owned()).collect(),
    }
}

const SERVICE: &str = "service:";

/// The services whose images a build reads as named contexts.
fn base_services(build: &Build) -> impl Iterator<Item = &str> {
    build.additional_contexts.values().filter_map(|text| text.strip_prefix(SERVICE))
}

/// Also one whose profile is off.
fn find<'a>(project: &'a Project, name: &str) -> Option<&'a Service> {
    project.services.get(name).or_else(|| project.disabled.get(name))
}

fn no_base(service: &Service, name: &str) -> PlanError {
    PlanError::at(
        format!("services.{}.build.additional_contexts", service.name),
        format!(
            "service `{}` builds from service `{name}`, which is not there or builds nothing",
            service.name
        ),
    )
    .help("name a service with a `build` section")
}

fn circle(service: &Service, other: &Service) -> PlanError {
    PlanError::at(
        format!("services.{}.build.additional_contexts", service.name),
        format!("the builds of services `{}` and `{}` need each other", service.name, other.name),
    )
}
