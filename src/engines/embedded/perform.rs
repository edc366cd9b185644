//! Carries one operation out. What is already so is left alone and said to be unchanged.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use super::{Embedded, config, error, hook, observe, others::Others, resources};
use crate::{
    build::{self, BuildEvent},
    engine::{
        BuildRequest, Condition, ContainerState, CreateContainer, Detail, EngineError, ErrorKind, Op,
        Outcome, Progress, PullRequest, PushRequest, WaitFor,
    },
    engines::provider,
    image::{Image, ImageError},
    model::{ImageRef, MountSource, Network, PullPolicy, Volume, label},
    runtime::{ContainerConfig, ContainerRecord, Core, Until},
};

pub(super) const UNCHANGED: Outcome = Outcome { id: None, unchanged: true, variables: Vec::new() };
pub(super) const DONE: Outcome = Outcome { id: None, unchanged: false, variables: Vec::new() };

pub(super) async fn perform(
    engine: &Embedded,
    op: &Op,
    progress: Arc<dyn Progress>,
) -> Result<Outcome, EngineError> {
    match op {
        Op::Pull(request) => pull(engine, request, progress).await,
        Op::Build(request) => build_image(engine, request, progress).await,
        Op::Push(request) => push(engine, request, progress).await,
        Op::Wait { project, name, until } => wait(engine, project, name, *until, progress).await,
        Op::Hook(request) => hook::run(engine, request, progress).await,
        Op::Provide(request) => provider::run(request, progress).await,
        op => {
            // A stop waits for a program's own end, and keeps nobody from anything.
            let _place = match op {
                Op::Stop { .. } => None,
                _ => engine.places.acquire().await.ok(),
            };
            let op = op.clone();
            engine.blocking(move |engine| act(engine, &op, &*progress)).await
        }
    }
}

fn act(engine: &Embedded, op: &Op, progress: &dyn Progress) -> Result<Outcome, EngineError> {
    match op {
        Op::CreateNetwork { project, network, labels } => create_network(engine, project, network, labels),
        Op::RemoveNetwork { name } => match engine.core.remove_network(name) {
            Ok(there) => Ok(Outcome { unchanged: !there, ..Outcome::default() }),
            Err(error) => Err(error::runtime(&error, format!("network {name} cannot be removed"))),
        },
        Op::CreateVolume { volume, labels, .. } => create_volume(engine, volume, labels),
        Op::RemoveVolume { name } => match engine.core.remove_volume(name) {
            Ok(there) => Ok(Outcome { unchanged: !there, ..Outcome::default() }),
            Err(error) => Err(error::runtime(&error, format!("volume {name} cannot be removed"))),
        },
        Op::Create(create) => create_container(engine, create, progress),
        Op::Start { project, name } => start(engine, project, name),
        Op::Stop { project, name, id, timeout } => {
            let tell = &mut |why: String| progress.report(Detail::Line(format!("warning: {name}: {why}")));
            match engine.core.stop(project, &id.0, *timeout, tell) {
                Ok(()) => Ok(DONE),
                Err(crate::runtime::Error::NoContainer(_)) => Ok(UNCHANGED),
                Err(error) => Err(error::runtime(&error, format!("container {name} cannot be stopped"))),
            }
        }
        Op::Kill { project, name, id, signal } => {
            let number = crate::model::signal_number(signal)
                .ok_or_else(|| EngineError::new(ErrorKind::Invalid, format!("`{signal}` is no signal")))?;
            told(engine.core.kill(project, &id.0, number), name, "signalled")
        }
        Op::Pause { project, name, id } => told(engine.core.pause(project, &id.0), name, "paused"),
        Op::Unpause { project, name, id } => told(engine.core.unpause(project, &id.0), name, "unpaused"),
        Op::Remove { project, name, id, volumes } => engine
            .core
            .remove(project, &id.0, *volumes)
            .map(|()| DONE)
            .map_err(|error| error::runtime(&error, format!("container {name} cannot be removed"))),
        // Carried out by `perform` itself.
        Op::Pull(_) | Op::Build(_) | Op::Push(_) | Op::Wait { .. } | Op::Hook(_) | Op::Provide(_) => {
            Ok(UNCHANGED)
        }
    }
}

fn told(done: crate::runtime::Result<()>, name: &str, what: &str) -> Result<Outcome, EngineError> {
    done.map(|()| DONE).map_err(|error| error::runtime(&error, format!("container {name} cannot be {what}")))
}

async fn pull(
    engine: &Embedded,
    request: &PullRequest,
    progress: Arc<dyn Progress>,
) -> Result<Outcome, EngineError> {
    let PullRequest { image, platform, policy, service, locked } = request;
    let path = format!("services.{service}.image");
    let reference: ImageRef = image.parse().map_err(|e: crate::model::ImageRefError| {
        EngineError::new(ErrorKind::Invalid, e.to_string()).at(&path)
    })?;
    let told = |error| {
        error::image(&error, format!("image `{image}` of service `{service}` cannot be pulled")).at(&path)
    };
    let wanted = reference.clone();
    let before = engine.blocking(move |engine| {
        engine.permitted()?;
        Ok(engine.store.find(&wanted))
    });
    let before = before.await?.map_err(told)?;
    if let (PullPolicy::Missing, Some(there)) = (policy, &before) {
        return Ok(Outcome { id: Some(there.id.clone()), unchanged: true, ..Outcome::default() });
    }
    let pulled = engine
        .store
        .pull_locked(&reference, platform.as_deref(), locked.as_deref(), &bytes_to(&progress))
        .await
        .map_err(told)?;
    let unchanged = before.is_some_and(|before| before.id == pulled.id);
    Ok(Outcome { id: Some(pulled.id), unchanged, ..Outcome::default() })
}

async fn push(
    engine: &Embedded,
    request: &PushRequest,
    progress: Arc<dyn Progress>,
) -> Result<Outcome, EngineError> {
    let PushRequest { image, service } = request;
    let path = format!("services.{service}.image");
    let reference: ImageRef = image.parse().map_err(|e: crate::model::ImageRefError| {
        EngineError::new(ErrorKind::Invalid, e.to_string()).at(&path)
    })?;
    engine.permitted()?;
    let pushed = engine.store.push(&reference, &bytes_to(&progress)).await.map_err(|error| {
        let told = error::image(&error, format!("image `{image}` of service `{service}` cannot be pushed"));
        let told = told.at(&path);
        match error {
            ImageError::NotFound(_) => told.help(format!("`ficelle build {service}` makes it")),
            _ => told,
        }
    })?;
    for note in pushed.notes {
        progress.report(Detail::Doing(note));
    }
    Ok(Outcome { id: Some(pushed.digest), unchanged: pushed.unchanged, ..Outcome::default() })
}

/// Hands bytes of a transfer on.
pub(super) fn bytes_to(progress: &Arc<dyn Progress>) -> impl Fn(&str, u64, u64) + Send + Sync {
    let progress = Arc::clone(progress);
    move |what, done, total| progress.report(Detail::Bytes { what: what.to_owned(), done, total })
}

async fn build_image(
    engine: &Embedded,
    request: &BuildRequest,
    progress: Arc<dyn Progress>,
) -> Result<Outcome, EngineError> {
    let BuildRequest { project, service, build, image, locked } = request;
    let path = format!("services.{service}.build");
    engine.permitted()?;
    let mut references = Vec::new();
    for name in std::iter::once(image).chain(&build.tags) {
        references.push(
            name.parse::<ImageRef>()
                .map_err(|error| EngineError::new(ErrorKind::Invalid, error.to_string()).at(&path))?,
        );
    }
    let events = Arc::new(move |event: BuildEvent| {
        progress.report(match event {
            BuildEvent::Step { step, cached: true } => Detail::Doing(format!("CACHED {step}")),
            BuildEvent::Step { step, cached: false } => Detail::Doing(step),
            BuildEvent::Output(line) => Detail::Line(line),
            BuildEvent::Bytes { what, done, total } => Detail::Bytes { what, done, total },
            BuildEvent::Warning(text) => Detail::Line(format!("warning: {text}")),
        });
    });
    let mut build = build.clone();
    for (name, value) in [
        (label::PROJECT, project.as_str()),
        (label::SERVICE, service),
        (label::VERSION, env!("CARGO_PKG_VERSION")),
    ] {
        build.labels.insert(name.to_owned(), value.to_owned());
    }
    let built = build::build(&engine.store, &engine.core, &build, &references, locked.as_ref(), events).await;
    let built = built.map_err(|error| {
        error::build(&error, format!("image `{image}` of service `{service}` cannot be built")).at(&path)
    })?;
    Ok(Outcome { id: Some(built.id), unchanged: false, ..Outcome::default() })
}

fn create_network(
    engine: &Embedded,
    project: &str,
    network: &Network,
    labels: &indexmap::IndexMap<String, String>,
) -> Result<Outcome, EngineError> {
    let config = resources::network(project, network, labels)?;
    let what = || format!("network {} cannot be made", network.name);
    let there = engine.core.networks().map_err(|error| error::runtime(&error, what()))?;
    if there.iter().any(|record| record.config.name == network.name) {
        return Ok(UNCHANGED);
    }
    engine.core.create_network(&config).map(|()| DONE).map_err(|error| error::runtime(&error, what()))
}

fn create_volume(
    engine: &Embedded,
    volume: &Volume,
    labels: &indexmap::IndexMap<String, String>,
) -> Result<Outcome, EngineError> {
    let config = resources::volume(volume, labels)?;
    let what = || format!("volume {} cannot be made", volume.name);
    let there = engine.core.volumes().map_err(|error| error::runtime(&error, what()))?;
    if there.iter().any(|record| record.config.name == volume.name) {
        return Ok(UNCHANGED);
    }
    engine.core.create_volume(&config).map(|()| DONE).map_err(|error| error::runtime(&error, what()))
}

/// Images that a container mounts, by reference.
fn mounted_images(
    engine: &Embedded,
    create: &CreateContainer,
) -> Result<BTreeMap<String, Image>, EngineError> {
    let mut found = BTreeMap::new();
    for (at, mount) in create.spec.mounts.iter().enumerate() {
        let MountSource::Image { reference, .. } = &mount.source else { continue };
        let path = format!("services.{}.volumes[{at}]", create.service);
        let failed = |error: EngineError| error.at(&path);
        let parsed: ImageRef = reference.parse().map_err(|error: crate::model::ImageRefError| {
            failed(EngineError::new(ErrorKind::Invalid, error.to_string()))
        })?;
        let image = engine
            .store
            .find(&parsed)
            .map_err(|error| failed(error::image(&error, format!("image `{reference}` cannot be read"))))?;
        let image = image.ok_or_else(|| {
            let message = format!("image `{reference}`, which is mounted, is not in the store");
            failed(EngineError::new(ErrorKind::NotFound, message))
                .help("`ficelle image load -i FILE` takes it from an archive (`docker save`, OCI layout)")
        })?;
        found.insert(reference.clone(), image);
    }
    Ok(found)
}

/// All that a container is made of.
pub(super) fn configuration(
    engine: &Embedded,
    create: &CreateContainer,
    others: &Others<'_>,
) -> Result<ContainerConfig, EngineError> {
    let image = image_of(engine, create)?;
    let around = config::Around { others, images: mounted_images(engine, create)? };
    config::container(Core::new_id(), create, &image, &around)
}

/// The image a container is made from: the one observed when planning, else the one of that name.
fn image_of(engine: &Embedded, create: &CreateContainer) -> Result<Image, EngineError> {
    let name = &create.spec.image;
    let path = format!("services.{}.image", create.service);
    let what = || format!("image `{name}` of service `{}` is not in the store", create.service);
    let failed = |error| error::image(&error, what()).at(&path);
    let observed = match create.image_id.as_str() {
        "" => None,
        id => engine.image(id).map_err(failed)?,
    };
    let found = match observed {
        Some(image) => Some(image),
        None => match name.parse::<ImageRef>() {
            Ok(reference) => engine.store.find(&reference).map_err(failed)?,
            Err(error) => return Err(EngineError::new(ErrorKind::Invalid, error.to_string()).at(&path)),
        },
    };
    let found = found.ok_or_else(|| {
        EngineError::new(ErrorKind::NotFound, what())
            .at(&path)
            .help(format!("`ficelle pull {}` fetches it", create.service))
            .help("`ficelle image load -i FILE` takes it from an archive (`docker save`, OCI layout)")
    })?;
    match found.foreign() {
        None => Ok(found),
        Some(platform) => {
            let service = &create.service;
            let message =
                format!("image `{name}` of service `{service}` is for {platform}, which does not run here");
            Err(EngineError::new(ErrorKind::Invalid, message).at(&path).help(
                "pull or load it for this machine, or install an interpreter (package qemu-user-static)",
            ))
        }
    }
}

fn create_container(
    engine: &Embedded,
    create: &CreateContainer,
    progress: &dyn Progress,
) -> Result<Outcome, EngineError> {
    let what = || format!("container {} cannot be made", create.name);
    let failed = |error| error::runtime(&error, what()).at(format!("services.{}", create.service));
    let records = engine.core.named(&create.project, &create.name).map_err(failed)?;
    if let Some(made) = records.iter().find(|record| is_made(record, create)) {
        return Ok(Outcome { id: Some(made.config.id.clone()), unchanged: true, ..Outcome::default() });
    }
    let config = configuration(engine, create, &Others::new(&engine.core))?;
    for note in config::ignored(&create.spec) {
        progress.report(Detail::Line(format!("warning: {}: {note}", create.name)));
    }
    engine.core.create(&config).map_err(failed)?;
    if create.once.as_ref().is_some_and(|once| once.remove && once.attended) {
        engine.attend(engine.core.attend(&create.project, &config.id).map_err(failed)?);
    }
    Ok(Outcome { id: Some(config.id), unchanged: false, ..Outcome::default() })
}

/// Whether `record` is what this very operation made before, and was not used since.
fn is_made(record: &ContainerRecord, create: &CreateContainer) -> bool {
    record.config.group == create.project
        && observe::state(record.phase) == ContainerState::Created
        && observe::container(record).is_some_and(|made| {
            made.name == create.name
                && made.config_hash == create.config_hash
                && made.image_id == create.image_id
                && made.replaces == create.replaces
        })
}

/// Of several containers of this name, the newest: the others are on their way out.
pub(super) fn newest(engine: &Embedded, project: &str, name: &str) -> Result<ContainerRecord, EngineError> {
    let records = engine
        .core
        .named(project, name)
        .map_err(|error| error::runtime(&error, "containers cannot be listed"))?;
    records
        .into_iter()
        .next_back()
        .ok_or_else(|| EngineError::new(ErrorKind::NotFound, format!("no container {name}")))
}

fn start(engine: &Embedded, project: &str, name: &str) -> Result<Outcome, EngineError> {
    let record = newest(engine, project, name)?;
    if matches!(observe::state(record.phase), ContainerState::Running | ContainerState::Paused) {
        return Ok(UNCHANGED);
    }
    let id = &record.config.id;
    let hooks = observe::spec(&record).is_some_and(|spec| !spec.post_start.is_empty());
    let owed = if hooks { engine.core.owe(project, id, Some(0)) } else { Ok(()) };
    owed.and_then(|()| engine.core.start(project, id)).map(|()| DONE).map_err(|error| {
        let told = error::runtime(&error, format!("container {name} cannot be started"));
        match observe::labels(&record).get(label::SERVICE) {
            Some(service) => told.at(format!("services.{service}")),
            None => told,
        }
    })
}

/// Ends a wait when the future that asked for it is dropped.
struct GivenUp(Arc<AtomicBool>);

impl Drop for GivenUp {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

async fn wait(
    engine: &Embedded,
    project: &str,
    name: &str,
    until: WaitFor,
    progress: Arc<dyn Progress>,
) -> Result<Outcome, EngineError> {
    let flag = Arc::new(AtomicBool::new(false));
    let _given_up = GivenUp(flag.clone());
    let (project, name) = (project.to_owned(), name.to_owned());
    engine
        .blocking(move |engine| {
            let record = newest(engine, &project, &name)?;
            let (goal, deadline) = aim(&record, until)?;
            progress.report(Detail::Doing(waiting_words(until).to_owned()));
            let cancelled = || flag.load(Ordering::Acquire);
            let waited = engine.core.wait(&project, &record.config.id, goal, deadline, &cancelled);
            // One that has ended meanwhile was started.
            let began = || newest(engine, &project, &name).is_ok_and(|now| now.started.is_some());
            if waited.is_err() && until == WaitFor::Condition(Condition::ServiceStarted) && began() {
                return Ok(DONE);
            }
            let after = waited.map_err(|error| unmet(engine, &project, &record, &error))?;
            completed(&after, until)?;
            Ok(DONE)
        })
        .await
}

fn waiting_words(until: WaitFor) -> &'static str {
    match until {
        WaitFor::Condition(Condition::ServiceStarted) => "until it runs",
        WaitFor::Condition(Condition::ServiceHealthy) => "until it is healthy",
        WaitFor::Condition(Condition::ServiceCompletedSuccessfully) => "until it has completed",
        WaitFor::Ready { .. } => "until it is ready",
    }
}

fn aim(record: &ContainerRecord, until: WaitFor) -> Result<(Until, Option<Duration>), EngineError> {
    let name = &record.config.name;
    Ok(match until {
        WaitFor::Condition(Condition::ServiceStarted) => (Until::Running, None),
        WaitFor::Condition(Condition::ServiceHealthy) if record.config.health.is_none() => {
            let service = observe::labels(record).get(label::SERVICE).cloned().unwrap_or_default();
            return Err(EngineError::new(
                ErrorKind::Invalid,
                format!("container {name} has no health check, so it can never become healthy"),
            )
            .at(format!("services.{service}.healthcheck"))
            .help("give the service a `healthcheck`, or wait for `service_started`"));
        }
        WaitFor::Condition(Condition::ServiceHealthy) => (Until::Healthy, None),
        WaitFor::Condition(Condition::ServiceCompletedSuccessfully) => (Until::Exited, None),
        WaitFor::Ready { timeout } => (Until::Ready, timeout),
    })
}

/// Why a wait ended without its goal, with what the last probe said.
fn unmet(
    engine: &Embedded,
    project: &str,
    before: &ContainerRecord,
    error: &crate::runtime::Error,
) -> EngineError {
    let name = &before.config.name;
    let now = newest(engine, project, name).unwrap_or_else(|_| before.clone());
    let message = match observe::state(now.phase) {
        ContainerState::Exited(Some(code)) => format!("container {name} exited ({code})"),
        _ if now.health == Some(crate::runtime::Health::Unhealthy) => {
            format!("container {name} is unhealthy")
        }
        _ => format!("container {name} did not get ready"),
    };
    let mut told = error::runtime(error, message);
    if let Some(probe) = now.last_probe.as_deref().map(str::trim).filter(|probe| !probe.is_empty()) {
        told.causes.push(format!("the last health probe said: {probe}"));
    }
    told
}

/// An end counts as completion only when it is a success.
fn completed(record: &ContainerRecord, until: WaitFor) -> Result<(), EngineError> {
    if until != WaitFor::Condition(Condition::ServiceCompletedSuccessfully) {
        return Ok(());
    }
    let name = &record.config.name;
    match observe::state(record.phase) {
        ContainerState::Exited(Some(0)) => Ok(()),
        ContainerState::Exited(Some(code)) => Err(EngineError::new(
            ErrorKind::Dependency,
            format!("container {name} did not complete successfully: it exited with code {code}"),
        )),
        _ => {
            Err(EngineError::new(ErrorKind::Dependency, format!("nobody learnt how container {name} ended")))
        }
    }
}
