//! What names of images stand for at their registries now: for `config` and `lock`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tokio::task::JoinSet;

use super::{
    context::Context,
    failure::{Failure, Problem, engine_code},
};
use crate::{
    load::Loaded,
    session::{Engine, EngineError, ErrorKind, ImageAct, ImageAnswer, ImageRef, Silent},
};

/// The digest that the registry of the image gives for it; its own when it has one.
///
/// # Errors
/// As the engine's, which asks the registry.
pub(super) async fn of(engine: &dyn Engine, image: ImageRef) -> Result<String, EngineError> {
    if let Some(digest) = image.digest {
        return Ok(digest);
    }
    let name = image.familiar();
    match engine.act_on_images(ImageAct::Digest { image }, Arc::new(Silent)).await? {
        ImageAnswer::Id { id, .. } => Ok(id),
        _ => Err(EngineError::new(ErrorKind::Other, format!("image `{name}` has no digest"))),
    }
}

/// Writes digests into the images of the canonical form, as docker compose does: `redis:7` becomes
/// `docker.io/library/redis:7@sha256:...`; what has a digest loses its tag. Services without an image are
/// left as they are.
///
/// # Errors
/// Every service whose image has no digest.
pub(super) async fn resolve(context: &Context, loaded: &mut Loaded) -> Result<(), Failure> {
    let images = loaded.resolved.written_images();
    if images.is_empty() {
        return Ok(());
    }
    let engine = context.connect()?;
    let mut asking = JoinSet::new();
    // Each name is asked for once, all of them side by side.
    for name in images.values().cloned().collect::<BTreeSet<_>>() {
        let engine = Arc::clone(&engine);
        asking.spawn(async move {
            let found = pinned(&*engine, &name).await;
            (name, found)
        });
    }
    let found: BTreeMap<String, Result<String, EngineError>> = asking.join_all().await.into_iter().collect();
    let mut failed = Vec::new();
    for (service, name) in &images {
        match found.get(name) {
            Some(Ok(image)) => loaded.resolved.set_image(service, image),
            Some(Err(error)) => failed.push(told(service, error, loaded)),
            None => {}
        }
    }
    let Some(first) = failed.first() else { return Ok(()) };
    let code = engine_code(first);
    let problem = |error| Problem::of_engine(error, &loaded.project, context.source());
    Err(Failure::of(code, failed.iter().map(problem).collect()))
}

/// The full name with the digest.
async fn pinned(engine: &dyn Engine, name: &str) -> Result<String, EngineError> {
    let image: ImageRef = name.parse().map_err(|error| {
        EngineError::new(ErrorKind::Invalid, "no registry can be asked").caused_by(&error)
    })?;
    let tag = image.tag.clone().filter(|_| image.digest.is_none());
    let digest = Some(of(engine, image.clone()).await?);
    Ok(ImageRef { tag, digest, ..image }.to_string())
}

/// The error, with the service that asks for the image and what can be done there.
fn told(service: &str, error: &EngineError, loaded: &Loaded) -> EngineError {
    let mut error = error.clone().at(format!("services.{service}.image"));
    error.message = format!("image of service `{service}`: {}", error.message);
    if loaded.project.services.get(service).is_some_and(|service| service.build.is_some()) {
        error.help(format!(
            "it is built here: `ficelle build {service} && ficelle push {service}` puts it there"
        ))
    } else if error.help.is_empty() {
        error.help("correct `image:`, or leave out the flag that asks for digests")
    } else {
        error
    }
}
