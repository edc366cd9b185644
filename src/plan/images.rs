//! The first round: which images are pulled, which are built, each once.

use std::collections::BTreeMap;

use crate::{
    engine::{BuildRequest, Observed, Op, PullRequest},
    model::{Build, Project, PullPolicy, Selection, Service},
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
    let mut round = Round { builds_now: options.build != BuildMode::Never, ..Round::default() };
    for service in project.services.values().filter(|service| selection.contains(&service.name)) {
        let there = observed.images.contains_key(service.image());
        match decide(project, service, options, there)? {
            Need::Nothing => {}
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
    round.finish()
}

/// An image that only a build gives has no registry to come from.
fn is_only_built(project: &Project, service: &Service) -> bool {
    service.build.is_some() && service.image() == format!("{}-{}", project.name, service.name)
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
    there: bool,
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
        _ if there => Ok(Need::Nothing),
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

    fn finish(mut self) -> Result<Plan, PlanError> {
        let built: Vec<&str> =
            self.builds.iter().flat_map(|(_, _, names, ..)| names.iter().copied()).collect();
        self.pulls.retain(|(image, _), _| !built.contains(image));
        for ((image, platform), (service, policy, cause)) in self.pulls {
            // `pull`: what cannot be pulled can still be built.
            let optional = service.build.is_some() && cause == Cause::Asked("--pull") && !self.builds_now;
            let platform = platform.map(ToOwned::to_owned);
            let (image, service) = (image.to_owned(), service.name.clone());
            let step = self.draft.add(Op::Pull(PullRequest { image, platform, policy, service }), cause);
            self.draft.step_mut(step).optional = optional;
        }
        let mut last: BTreeMap<&str, (StepId, &str)> = BTreeMap::new();
        for (service, build, names, cause, project) in self.builds {
            let mut build = build.clone();
            build.tags.extend(names.iter().skip(1).map(|name| (*name).to_owned()));
            let op = Op::Build(Box::new(BuildRequest {
                project: project.to_owned(),
                service: service.name.clone(),
                build,
                image: service.image().to_owned(),
            }));
            let step = self.draft.add(op, cause);
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
        self.draft.finish()
    }
}
