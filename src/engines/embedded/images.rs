//! Acts on images: the store and the registries, in the words of the contract.

use std::sync::Arc;

use super::{Embedded, commit, error, observe, perform::bytes_to};
use crate::{
    build,
    engine::{EngineError, ErrorKind, ImageAct, ImageAnswer, ImageStep, Progress, Prune},
    image::{self, ImageError, Registries},
    model::ImageRef,
};

pub(super) async fn act(
    engine: &Embedded,
    act: ImageAct,
    progress: Arc<dyn Progress>,
) -> Result<ImageAnswer, EngineError> {
    match act {
        ImageAct::Pull { image, platform } => {
            engine.permitted()?;
            let report = bytes_to(&progress);
            let pulled = engine.store.pull(&image, platform.as_deref(), &report).await;
            let pulled = pulled.map_err(|error| cannot(&error, &image.familiar(), "pulled"))?;
            Ok(ImageAnswer::Id { id: pulled.id, notes: Vec::new() })
        }
        ImageAct::Push { image } => {
            engine.permitted()?;
            let pushed = engine.store.push(&image, &bytes_to(&progress)).await;
            let pushed = pushed.map_err(|error| cannot(&error, &image.familiar(), "pushed"))?;
            Ok(ImageAnswer::Id { id: pushed.digest, notes: pushed.notes })
        }
        ImageAct::Digest { image } => {
            let digest = engine.store.remote_digest(&image).await;
            let id = digest.map_err(|error| cannot(&error, &image.familiar(), "looked up"))?;
            Ok(ImageAnswer::Id { id, notes: Vec::new() })
        }
        ImageAct::Login { registry, user, password } => {
            let failed = |error| error::image(&error, format!("cannot log in at {registry}"));
            let settings = Registries::from_environment().map_err(failed)?;
            let kept = image::log_in(&settings, &registry, &user, &password).await.map_err(failed)?;
            Ok(ImageAnswer::LoggedIn { file: kept.file, helper: kept.helper })
        }
        ImageAct::Logout { registry } => {
            let failed = |error| error::image(&error, format!("cannot log out at {registry}"));
            let settings = Registries::from_environment().map_err(failed)?;
            let files = image::log_out(&settings, &registry).await.map_err(failed)?;
            Ok(ImageAnswer::LoggedOut { files })
        }
        ImageAct::Import { ref changes, .. } if !changes.is_empty() => {
            commit::import_changed(engine, act, progress).await
        }
        ImageAct::Commit(request) => commit::commit(engine, *request, progress).await,
        ImageAct::Bases { build } => {
            engine.permitted()?;
            let bases = build::bases(&engine.store, &build).await;
            let bases =
                bases.map_err(|error| error::build(&error, "the bases of a build cannot be found out"));
            Ok(ImageAnswer::Names(bases?))
        }
        act => engine.blocking(move |engine| on_store(engine, act, &progress)).await,
    }
}

pub(super) fn on_store(
    engine: &Embedded,
    act: ImageAct,
    progress: &Arc<dyn Progress>,
) -> Result<ImageAnswer, EngineError> {
    engine.permitted()?;
    let store = &engine.store;
    match act {
        ImageAct::Save { images, output } => {
            store.save(&images, &output, &bytes_to(progress)).map(|()| ImageAnswer::Done).map_err(|error| {
                error::image(&error, format!("images cannot be saved to `{}`", output.display()))
            })
        }
        ImageAct::Import { input, image, platform, message, changes: _, created } => {
            let made = store.import(
                &input,
                image.as_ref(),
                platform.as_deref(),
                &message,
                &created,
                &bytes_to(progress),
            );
            let made = made
                .map_err(|error| error::image(&error, format!("`{}` cannot be imported", input.display())))?;
            Ok(ImageAnswer::Id { id: made.id, notes: Vec::new() })
        }
        ImageAct::Inspect { image } => store
            .inspect(&image)
            .map(ImageAnswer::Document)
            .map_err(|error| cannot(&error, &image, "inspected")),
        ImageAct::History { image } => {
            let steps = store.history(&image).map_err(|error| cannot(&error, &image, "looked at"))?;
            let step = |made: image::Made| ImageStep {
                created: made.created.as_deref().and_then(observe::created),
                created_by: made.created_by,
                size: made.size,
                comment: made.comment,
            };
            Ok(ImageAnswer::History(steps.into_iter().map(step).collect()))
        }
        ImageAct::Tag { source, target } => {
            let failed = |error| cannot(&error, &source, "tagged");
            let found = store.lookup(&source).map_err(failed)?;
            match found.reference {
                Some(name) => store.tag_as(&name, &target),
                None => store.tag(&found.id, &target),
            }
            .map(|()| ImageAnswer::Done)
            .map_err(failed)
        }
        ImageAct::Prune(prune) => clear(engine, &prune),
        // Carried out by `act` itself.
        ImageAct::Pull { .. }
        | ImageAct::Push { .. }
        | ImageAct::Digest { .. }
        | ImageAct::Bases { .. }
        | ImageAct::Commit(_)
        | ImageAct::Login { .. }
        | ImageAct::Logout { .. } => Ok(ImageAnswer::Done),
    }
}

pub(super) fn cannot(error: &ImageError, image: &str, what: &str) -> EngineError {
    let told = error::image(error, format!("image `{image}` cannot be {what}"));
    match error {
        ImageError::NotFound(_) => told.help("`ficelle image ls` lists the images of the store"),
        _ => told,
    }
}

/// What containers and the next build need of the store.
pub(super) fn needed(engine: &Embedded) -> Result<Vec<String>, EngineError> {
    let containers = engine
        .core
        .containers(None)
        .map_err(|error| error::runtime(&error, "containers cannot be listed"))?;
    let cached = build::cached_layers(&engine.store);
    Ok(containers.iter().flat_map(observe::used_content).chain(cached).collect())
}

fn clear(engine: &Embedded, prune: &Prune) -> Result<ImageAnswer, EngineError> {
    let failed = |error| error::image(&error, "images cannot be cleared away");
    if prune.build_cache {
        build::forget_cache(&engine.store).map_err(|error| {
            EngineError::new(ErrorKind::Other, "the build cache cannot be cleared away").caused_by(&error)
        })?;
    }
    let used = needed(engine)?;
    let spared = |image: &image::Image| {
        let created = image.config.created().as_deref().and_then(observe::created);
        let young = prune.until.is_some_and(|until| created.is_some_and(|created| created >= until));
        let labels = observe::image_labels(image);
        young || !prune.labels.iter().all(|filter| filter.takes(&labels))
    };
    let keep = |image: &image::Image| !prune.all || spared(image) || used.contains(&image.id);
    let mut needed = used.clone();
    if prune.until.is_some() || !prune.labels.is_empty() {
        let nameless = engine.store.list().map_err(failed)?;
        let nameless = nameless.iter().filter(|image| image.references.is_empty() && spared(image));
        needed.extend(nameless.map(|image| image.id.clone()));
    }
    let (names, freed) = engine.store.prune(keep, &needed).map_err(failed)?;
    Ok(ImageAnswer::Pruned { names: names.iter().map(ImageRef::familiar).collect(), freed })
}
