//! Compose projects that registries keep, fetched as images are. Needs no engine: the files of a project
//! are read before one is chosen.

use std::path::{Path, PathBuf};

use crate::{
    image::{self, ImageError, Registries},
    model::ImageRef,
};

/// The directory of the project that `name` (`host/path:tag`) stands for, below `cache`. Blocks.
///
/// # Errors
/// Why there is none and what to do, for the user.
pub fn project(name: &str, cache: &Path) -> Result<PathBuf, String> {
    let failed = |why: String| format!("cannot fetch `oci://{name}`: {why}");
    let image: ImageRef = name.parse().map_err(|error| failed(format!("{error}")))?;
    // The caller may stand in a runtime already, which a thread may enter but once.
    let fetched = std::thread::scope(|scope| scope.spawn(|| fetch(&image, cache)).join());
    let fetched = fetched.unwrap_or_else(|_| Err("its thread has failed".to_owned()));
    fetched.map_err(failed)
}

fn fetch(image: &ImageRef, cache: &Path) -> Result<PathBuf, String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let settings = Registries::from_environment().map_err(|error| told(&error))?;
    runtime.block_on(image::compose_project(&settings, image, cache)).map_err(|error| told(&error))
}

/// In one line: what is wrong, why, and what can be done.
fn told(error: &ImageError) -> String {
    let why = match error {
        ImageError::File { source, .. } => format!("{error}: {source}"),
        _ => error.to_string(),
    };
    match error {
        // A file of this machine stands for no project of a registry.
        ImageError::Remote { help, .. } if !help.is_empty() => format!("{why}; {}", help.join(", or ")),
        _ => why,
    }
}
