//! Compose projects that a registry keeps as artifacts: each layer is one of their files.
//!
//! Written as `docker compose publish` does it. Compose files become the documents of `compose.yaml`;
//! those that are only extended, and files of variables, stand beside it under the names of their
//! annotations. Nothing is written but plain files of a directory of ours.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Component, Path, PathBuf},
    sync::Arc,
};

use oci_spec::image::{Descriptor, ImageIndex, ImageManifest};

use super::{
    ImageError,
    layout::{file_error, hex},
    pull::{Asking, from_any, is_index, reference},
    registry::{Client, Fault, Registries},
};
use crate::model::ImageRef;

const PROJECT: &str = "application/vnd.docker.compose.project";
/// Of the configuration, in artifacts from before manifests had an artifact type.
const EMPTY_CONFIG: &str = "application/vnd.docker.compose.config.empty.v1+json";
const COMPOSE_FILE: &str = "application/vnd.docker.compose.file+yaml";
const ENV_FILE: &str = "application/vnd.docker.compose.envfile";
const FILE_NAME: &str = "com.docker.compose.file";
const ENV_FILE_NAME: &str = "com.docker.compose.envfile";
/// Marks a Compose file that another one extends.
const EXTENDED: &str = "com.docker.compose.extends";
const MAIN: &str = "compose.yaml";
/// Of one file, in bytes.
const MAX_FILE: u64 = 16 << 20;
const MAX_LAYERS: usize = 200;

/// Files by their path in the project.
type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Brings the project that `image` names into `cache`, if it is not there; its directory, which is called
/// as the repository is. Kept by digest: what is named by digest needs no registry again.
///
/// # Errors
/// The registry has no such project or cannot be reached, or a name of a file leads out of the project.
pub async fn compose_project(
    settings: &Registries,
    image: &ImageRef,
    cache: &Path,
) -> Result<PathBuf, ImageError> {
    if let Some(digest) = &image.digest {
        let copy = place(cache, digest, image)?;
        if copy.is_dir() {
            return Ok(copy);
        }
    }
    let ask = |client: Arc<Client>| -> Asking<'_, PathBuf> {
        Box::pin(async move {
            let (target, bytes) = client.manifest(reference(image)).await?;
            let copy = place(cache, target.digest().as_ref(), image).map_err(Fault::Wrong)?;
            if copy.is_dir() {
                return Ok(copy);
            }
            let manifest = project_manifest(&client, image, &target, bytes).await?;
            let files = files(&client, image, &manifest).await?;
            keep(&files, cache, &copy).map_err(Fault::Wrong)?;
            Ok(copy)
        })
    };
    from_any(settings, image, ask).await
}

fn place(cache: &Path, digest: &str, image: &ImageRef) -> Result<PathBuf, ImageError> {
    let name = image.repository.rsplit('/').next().unwrap_or(&image.repository);
    Ok(cache.join(hex(digest)?).join(name))
}

fn wrong(image: &ImageRef, why: impl std::fmt::Display) -> Fault {
    Fault::Wrong(ImageError::Invalid(format!("`{}` {why}", image.familiar())))
}

/// The manifest itself, or the one that an index with the project's images has for the project.
async fn project_manifest(
    client: &Client,
    image: &ImageRef,
    target: &Descriptor,
    bytes: Vec<u8>,
) -> Result<ImageManifest, Fault> {
    let malformed = |error: serde_json::Error| wrong(image, format!("has a malformed manifest: {error}"));
    let bytes = if is_index(target) {
        let index: ImageIndex = serde_json::from_slice(&bytes).map_err(malformed)?;
        let is_project =
            |entry: &&Descriptor| entry.artifact_type().as_ref().is_some_and(|kind| kind.as_ref() == PROJECT);
        let entry = index.manifests().iter().find(is_project);
        let entry = entry.ok_or_else(|| wrong(image, "is no Compose project, and holds none"))?;
        client.manifest(entry.digest().as_ref()).await?.1
    } else {
        bytes
    };
    let manifest: ImageManifest = serde_json::from_slice(&bytes).map_err(malformed)?;
    let (kind, wanted) = match manifest.artifact_type() {
        Some(kind) => (kind, PROJECT),
        None => (manifest.config().media_type(), EMPTY_CONFIG),
    };
    if kind.as_ref() != wanted {
        return Err(wrong(image, format!("is no Compose project; it is `{kind}`")));
    }
    Ok(manifest)
}

async fn files(client: &Client, image: &ImageRef, manifest: &ImageManifest) -> Result<Files, Fault> {
    if manifest.layers().len() > MAX_LAYERS {
        return Err(wrong(image, format!("has more than {MAX_LAYERS} files")));
    }
    let mut files = Files::new();
    for layer in manifest.layers() {
        let name = file_of(layer).map_err(|why| wrong(image, why))?;
        let Some(name) = name else { continue };
        let bytes = client.small_blob(layer, MAX_FILE).await?;
        add(&mut files, name, bytes).map_err(|why| wrong(image, why))?;
    }
    if !files.contains_key(Path::new(MAIN)) {
        return Err(wrong(image, "holds no Compose file"));
    }
    Ok(files)
}

/// Where a layer belongs; `None` for what is no file of a project.
fn file_of(layer: &Descriptor) -> Result<Option<PathBuf>, String> {
    let annotation = |key: &str| layer.annotations().as_ref().and_then(|all| all.get(key));
    match layer.media_type().as_ref() {
        COMPOSE_FILE => {
            let named = annotation(FILE_NAME).map(|name| inner(name)).transpose()?;
            if annotation(EXTENDED).is_none() {
                return Ok(Some(PathBuf::from(MAIN)));
            }
            named.map(Some).ok_or_else(|| format!("has an extended file without `{FILE_NAME}`"))
        }
        ENV_FILE => {
            let name = annotation(ENV_FILE_NAME);
            let name = name.ok_or_else(|| format!("has a file of variables without `{ENV_FILE_NAME}`"))?;
            inner(name).map(Some)
        }
        _ => Ok(None),
    }
}

/// A path that stays in its directory.
fn inner(name: &str) -> Result<PathBuf, String> {
    let path = Path::new(name);
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_));
    if name.is_empty() || name.contains(['\0', '\\']) || !path.components().all(plain) {
        return Err(format!("is refused: its file `{}` leads out of the project", name.escape_debug()));
    }
    Ok(path.to_owned())
}

fn add(files: &mut Files, name: PathBuf, bytes: Vec<u8>) -> Result<(), String> {
    match files.get_mut(&name) {
        None => drop(files.insert(name, bytes)),
        Some(main) if name == Path::new(MAIN) => {
            main.extend_from_slice(b"\n---\n");
            main.extend_from_slice(&bytes);
        }
        Some(there) if *there == bytes => {}
        Some(_) => return Err(format!("has two files `{}`", name.display())),
    }
    Ok(())
}

/// Whole or not at all.
fn keep(files: &Files, cache: &Path, copy: &Path) -> Result<(), ImageError> {
    let unwritten = file_error("write", cache);
    let write = || -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(cache)?;
        let scratch = tempfile::tempdir_in(cache)?;
        let tree = scratch.path().join("project");
        fs::create_dir(&tree)?;
        for (name, bytes) in files {
            let path = tree.join(name);
            fs::create_dir_all(path.parent().unwrap_or(&tree))?;
            fs::write(path, bytes)?;
        }
        fs::create_dir_all(copy.parent().unwrap_or(cache))?;
        match fs::rename(&tree, copy) {
            // Somebody else was quicker: what they have is the same.
            Err(_) if copy.is_dir() => Ok(()),
            result => result,
        }
    };
    write().map_err(unwritten)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_stays_in_the_project() {
        for good in ["a.env", "sub/dir/x.yaml", ".env", "..x"] {
            assert_eq!(inner(good), Ok(PathBuf::from(good)));
        }
        for bad in ["", "..", "../../x", "/abs", "a/../../x", "./x", "..\\x", "a\0"] {
            assert!(inner(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn compose_files_are_documents_of_one_and_others_stand_once() {
        let mut files = Files::new();
        for (name, text) in [(MAIN, "a: 1"), ("x.env", "X=1"), (MAIN, "b: 2"), ("x.env", "X=1")] {
            add(&mut files, PathBuf::from(name), text.into()).unwrap();
        }
        assert_eq!(files[Path::new(MAIN)], b"a: 1\n---\nb: 2");
        assert_eq!(add(&mut files, "x.env".into(), "X=2".into()), Err("has two files `x.env`".into()));
    }
}
