//! `commit`: an image of what a container is now.

use std::sync::Arc;

use oci_spec::image::{Config, ImageConfiguration};

use super::{Embedded, error, images, observe};
use crate::{
    build,
    engine::{CommitRequest, Detail, EngineError, ErrorKind, ImageAct, ImageAnswer, Progress},
    image::{Image, Remark},
    model::{Build, ContainerSpec, ImageRef, ImageRefError},
    runtime::{ContainerRecord, Core, Phase},
};

/// Instructions that change no file.
const CHANGES: [&str; 11] = [
    "CMD",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "HEALTHCHECK",
    "LABEL",
    "ONBUILD",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

pub(super) async fn commit(
    engine: &Embedded,
    request: CommitRequest,
    progress: Arc<dyn Progress>,
) -> Result<ImageAnswer, EngineError> {
    let changes = instructions(&request.changes)?;
    let image = request.image.clone();
    if changes.is_empty() {
        let made = engine.blocking(move |engine| copy(engine, &request, image)).await?;
        return Ok(ImageAnswer::Id { id: made.id, notes: Vec::new() });
    }
    let between = between()?;
    let name = between.clone();
    engine.blocking(move |engine| copy(engine, &request, Some(name))).await?;
    let id = changed(engine, &between, &changes, image, None, progress).await?;
    Ok(ImageAnswer::Id { id, notes: Vec::new() })
}

/// An import whose image says more than where its files come from.
pub(super) async fn import_changed(
    engine: &Embedded,
    mut act: ImageAct,
    progress: Arc<dyn Progress>,
) -> Result<ImageAnswer, EngineError> {
    let ImageAct::Import { image, platform, changes, .. } = &mut act else { return Ok(ImageAnswer::Done) };
    let changes = instructions(changes)?;
    let between = between()?;
    let (image, platform) = (image.replace(between.clone()), platform.clone());
    let report = Arc::clone(&progress);
    engine.blocking(move |engine| images::on_store(engine, act, &report)).await?;
    let id = changed(engine, &between, &changes, image, platform, progress).await?;
    Ok(ImageAnswer::Id { id, notes: Vec::new() })
}

fn instructions(changes: &[String]) -> Result<String, EngineError> {
    for change in changes {
        let word = change.split_whitespace().next().unwrap_or_default().to_uppercase();
        if !CHANGES.contains(&word.as_str()) {
            let message = format!("`{word}` is no change of an image that changes no file");
            return Err(
                EngineError::new(ErrorKind::Invalid, message).help(format!("one of {}", CHANGES.join(", ")))
            );
        }
    }
    Ok(changes.join("\n"))
}

fn copy(engine: &Embedded, request: &CommitRequest, image: Option<ImageRef>) -> Result<Image, EngineError> {
    engine.permitted()?;
    let CommitRequest { project, container, name, .. } = request;
    let what = || format!("container {name} cannot be committed");
    let failed = |error| error::runtime(&error, what());
    let records = engine.core.containers(Some(project)).map_err(failed)?;
    let record = records
        .into_iter()
        .find(|record| record.config.id == container.0)
        .ok_or_else(|| EngineError::new(ErrorKind::NotFound, format!("no container {name}")))?;
    let of_image = |error| error::image(&error, what());
    let base = engine.store.find_id(observe::image_id(&record).unwrap_or_default()).map_err(of_image)?;
    let base = base.ok_or_else(|| {
        EngineError::new(ErrorKind::NotFound, format!("the image of container {name} is not in the store"))
    })?;
    let spec = observe::container(&record).and_then(|container| container.spec).unwrap_or_default();
    let upper = engine.core.changes(project, &container.0).map_err(failed)?;
    let _paused = if request.pause && record.phase == Phase::Running {
        engine.core.pause(project, &container.0).map_err(failed)?;
        Some(Paused { core: &engine.core, record: &record })
    } else {
        None
    };
    let remark = Remark {
        author: request.author.clone(),
        message: request.message.clone(),
        created: request.created.clone(),
        created_by: record.config.args.join(" "),
    };
    let names: Vec<ImageRef> = image.into_iter().collect();
    engine
        .store
        .commit_changes(&base, &upper, &remark, |config, _| started_as(config, &spec), &names)
        .map_err(of_image)
}

/// Goes on however the copy ends.
struct Paused<'a> {
    core: &'a Core,
    record: &'a ContainerRecord,
}

impl Drop for Paused<'_> {
    fn drop(&mut self) {
        // One that was killed meanwhile does not go on.
        let _ = self.core.unpause(&self.record.config.group, &self.record.config.id);
    }
}

/// A container of the image starts as this one did. The labels of Compose are this container's alone.
fn started_as(config: &mut ImageConfiguration, spec: &ContainerSpec) {
    let mut inner: Config = config.config().clone().unwrap_or_default();
    let mut env = inner.env().clone().unwrap_or_default();
    for (name, value) in &spec.environment {
        env.retain(|known| known.split_once('=').map_or(known.as_str(), |(known, _)| known) != name);
        env.extend(value.iter().map(|value| format!("{name}={value}")));
    }
    inner.set_env(Some(env).filter(|env| !env.is_empty()));
    if let Some(entrypoint) = &spec.entrypoint {
        inner.set_entrypoint(Some(entrypoint.clone()).filter(|words| !words.is_empty()));
        inner.set_cmd(None);
    }
    if let Some(command) = &spec.command {
        inner.set_cmd(Some(command.clone()));
    }
    if let Some(user) = &spec.user {
        inner.set_user(Some(user.clone()));
    }
    if let Some(directory) = &spec.working_dir {
        inner.set_working_dir(Some(directory.clone()));
    }
    if let Some(signal) = &spec.stop_signal {
        inner.set_stop_signal(Some(signal.clone()));
    }
    if !spec.labels.is_empty() {
        let mut labels = inner.labels().clone().unwrap_or_default();
        labels.extend(spec.labels.clone());
        inner.set_labels(Some(labels));
    }
    config.set_config(Some(inner));
}

/// A name for an image until a build has given its changes to it.
fn between() -> Result<ImageRef, EngineError> {
    let name = format!("commit.invalid/{}:latest", Core::new_id());
    name.parse().map_err(|error: ImageRefError| EngineError::new(ErrorKind::Other, error.to_string()))
}

/// The image of a name with further instructions, under another name; the first one goes.
async fn changed(
    engine: &Embedded,
    between: &ImageRef,
    changes: &str,
    image: Option<ImageRef>,
    platform: Option<String>,
    progress: Arc<dyn Progress>,
) -> Result<String, EngineError> {
    let failed = |error| error::image(&error, "the changes cannot be made");
    let context = engine.store.scratch().map_err(failed)?;
    let build = Build {
        context: context.path().to_owned(),
        dockerfile_inline: Some(format!("FROM {between}\n{changes}\n")),
        platform,
        ..Build::default()
    };
    let names: Vec<ImageRef> = image.into_iter().collect();
    let events = Arc::new(move |event: build::BuildEvent| {
        if let build::BuildEvent::Warning(text) = event {
            progress.report(Detail::Line(format!("warning: {text}")));
        }
    });
    let built = build::build(&engine.store, &engine.core, &build, &names, None, events).await;
    engine.store.remove(between, &images::needed(engine)?).map_err(failed)?;
    Ok(built.map_err(|error| error::build(&error, "the changes cannot be made"))?.id)
}
