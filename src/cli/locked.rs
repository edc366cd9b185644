//! `ficelle.lock`: which content each image of a project has.
//!
//! ```json
//! {
//!   "version": 1,
//!   "images": {
//!     "postgres:16": "sha256:5e3f..."
//!   }
//! }
//! ```
//!
//! It stands in the project's directory, to be kept with the files. A name is that of the file after
//! interpolation (`image:` of a service, or a base that a Dockerfile names); the digest is that of the
//! manifest or index that the registry gave for it when `ficelle lock` was run. Names are sorted, so
//! that two locks differ where images do.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::failure::Failure;
use crate::session::Project;

const VERSION: u32 = 1;
const NAME: &str = "ficelle.lock";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    images: BTreeMap<String, String>,
}

pub(super) fn path(project: &Project) -> PathBuf {
    project.root.join(NAME)
}

/// What `--locked` asks for; `None` without it.
pub(super) fn wanted(locked: bool, project: &Project) -> Result<Option<BTreeMap<String, String>>, Failure> {
    if !locked {
        return Ok(None);
    }
    let path = path(project);
    read(project)?.map(Some).ok_or_else(|| {
        Failure::failed(format!("there is no `{}`, which --locked asks for", path.display()))
            .help("`ficelle lock` writes it")
    })
}

/// The lock of the project, if it has one.
pub(super) fn read(project: &Project) -> Result<Option<BTreeMap<String, String>>, Failure> {
    let path = path(project);
    let wrong = |why: String| Failure::failed(format!("`{}` cannot be read", path.display())).because(why);
    let text = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        text => text.map_err(|error| wrong(error.to_string()))?,
    };
    let file: File = serde_json::from_str(&text)
        .map_err(|error| wrong(error.to_string()).help("`ficelle lock` writes it anew"))?;
    if file.version != VERSION {
        return Err(wrong(format!(
            "it is of version {}; this ficelle knows version {VERSION}",
            file.version
        )));
    }
    Ok(Some(file.images))
}

/// Whole or not at all.
pub(super) fn write(project: &Project, images: BTreeMap<String, String>) -> Result<(), Failure> {
    let path = path(project);
    let write = || -> std::io::Result<()> {
        let mut text = serde_json::to_string_pretty(&File { version: VERSION, images })?;
        text.push('\n');
        let mut file = tempfile::NamedTempFile::new_in(&project.root)?;
        std::io::Write::write_all(&mut file, text.as_bytes())?;
        // It is no secret, and is kept with the files.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        file.as_file().set_permissions(mode)?;
        file.persist(&path)?;
        Ok(())
    };
    write().map_err(|error| {
        Failure::failed(format!("`{}` cannot be written", path.display())).because(error.to_string())
    })
}
