//! The small documents of the store: images, references, layers.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use oci_spec::image::Descriptor;
use serde::{Deserialize, Serialize};

use super::{
    ImageError,
    layout::{Layout, file_error, hex, read_json},
    untar::Facts,
};
use crate::model::ImageRef;

/// `images/<hex>.json`: written when everything it names is there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ImageRecord {
    pub(super) manifest: Descriptor,
    /// Names in `layers`, the base first.
    pub(super) layers: Vec<String>,
    /// Hex digests of the compressed layers that its manifest names.
    #[serde(default)]
    pub(super) blobs: Vec<String>,
}

/// A file below `refs`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct RefRecord {
    /// Id of the image.
    pub(super) image: String,
    /// What the name stands for at its registry: a manifest, or the index it was chosen from.
    pub(super) target: Descriptor,
    /// Where it came from: `registry 127.0.0.1:5000`, `archive x.tar`, `build`.
    pub(super) source: String,
    /// When the name was last brought or given, in seconds since 1970.
    #[serde(default)]
    pub(super) since: Option<u64>,
    /// Ids of images for other platforms that were made here under the same name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) others: Vec<String>,
}

impl RefRecord {
    /// As of now.
    pub(super) fn new(image: &str, target: Descriptor, source: impl Into<String>) -> Self {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok();
        let since = since.map(|since| since.as_secs());
        Self { image: image.to_owned(), target, source: source.into(), since, others: Vec::new() }
    }
}

/// `layers/<name>/meta.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct LayerRecord {
    pub(super) facts: Facts,
    /// Size of the uncompressed tar.
    pub(super) tar_size: u64,
    /// The compressed form that a registry gave, when it is kept.
    pub(super) blob: Option<Descriptor>,
}

impl Layout {
    pub(super) fn image_record(&self, id: &str) -> Result<Option<ImageRecord>, ImageError> {
        read_json(&self.images().join(format!("{}.json", hex(id)?)))
    }

    pub(super) fn write_image_record(&self, id: &str, record: &ImageRecord) -> Result<(), ImageError> {
        self.write_json(&self.images().join(format!("{}.json", hex(id)?)), record)
    }

    /// Ids of all images.
    pub(super) fn image_ids(&self) -> Result<Vec<String>, ImageError> {
        let mut ids: Vec<_> = names(&self.images())?
            .iter()
            .filter_map(|name| name.strip_suffix(".json").map(|hex| format!("sha256:{hex}")))
            .collect();
        ids.sort();
        Ok(ids)
    }

    pub(super) fn layer_record(&self, name: &str) -> Result<Option<LayerRecord>, ImageError> {
        read_json(&self.layer(name).join("meta.json"))
    }

    /// The file of a reference. `_tags` and `_digests` can be no part of a repository's name.
    pub(super) fn ref_path(&self, image: &ImageRef) -> Result<PathBuf, ImageError> {
        let repository = self.repository(image);
        Ok(match (&image.digest, &image.tag) {
            (Some(digest), _) => repository.join("_digests").join(hex(digest)?),
            (None, Some(tag)) => repository.join("_tags").join(tag),
            (None, None) => repository.join("_tags/latest"),
        })
    }

    fn repository(&self, image: &ImageRef) -> PathBuf {
        self.refs().join(&image.registry).join(&image.repository)
    }

    pub(super) fn read_ref(&self, image: &ImageRef) -> Result<Option<RefRecord>, ImageError> {
        if let Some(found) = read_json(&self.ref_path(image)?)? {
            return Ok(Some(found));
        }
        // A digest may also be that of something a tag of the same repository points at.
        let Some(digest) = &image.digest else { return Ok(None) };
        let tags = self.repository(image).join("_tags");
        for tag in names(&tags)? {
            let Some(found) = read_json::<RefRecord>(&tags.join(tag))? else { continue };
            let same = |descriptor: &Descriptor| descriptor.digest().as_ref() == digest.as_str();
            if same(&found.target)
                || self.image_record(&found.image)?.is_some_and(|record| same(&record.manifest))
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    pub(super) fn write_ref(&self, image: &ImageRef, record: &RefRecord) -> Result<(), ImageError> {
        let path = self.ref_path(image)?;
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(file_error("create", parent))?;
        }
        self.write_json(&path, record)
    }

    /// All references and what they point at, in order.
    pub(super) fn all_refs(&self) -> Result<Vec<(ImageRef, RefRecord)>, ImageError> {
        let mut found = Vec::new();
        let root = self.refs();
        for registry in names(&root)? {
            let mut open = vec![String::new()];
            while let Some(repository) = open.pop() {
                let directory = root.join(&registry).join(&repository);
                for name in names(&directory)? {
                    let inner = directory.join(&name);
                    match name.as_str() {
                        "_tags" | "_digests" => {
                            for leaf in names(&inner)? {
                                let Some(record) = read_json(&inner.join(&leaf))? else { continue };
                                let by_tag = name == "_tags";
                                let image = ImageRef {
                                    registry: registry.clone(),
                                    repository: repository.clone(),
                                    tag: by_tag.then(|| leaf.clone()),
                                    digest: (!by_tag).then(|| format!("sha256:{leaf}")),
                                };
                                found.push((image, record));
                            }
                        }
                        _ if repository.is_empty() => open.push(name),
                        _ => open.push(format!("{repository}/{name}")),
                    }
                }
            }
        }
        found.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }
}

/// Names in a directory; none when it is not there.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, ImageError> {
    let entries = match fs::read_dir(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Vec::new());
        }
        entries => entries.map_err(file_error("read", directory))?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry.map_err(file_error("read", directory))?;
        if let Ok(name) = entry.file_name().into_string() {
            found.push(name);
        }
    }
    found.sort();
    Ok(found)
}
