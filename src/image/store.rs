//! The content store: OCI blobs, one unpacked directory per layer, references.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::{Duration, SystemTime},
};

use oci_spec::image::ImageConfiguration;

use super::{
    commit::DockerConfig,
    layout::{Layout, file_error, hex, read},
    lease::{self, Lease},
    lock,
    platform::Platform,
    record::{ImageRecord, RefRecord},
};
use crate::model::ImageRef;

/// The store below `<data>/images`. Cheap to open; safe for concurrent processes. Clones share what
/// they hold: scratch directories and layers of no image yet last as long as the last clone.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) layout: Layout,
    held: Arc<Held>,
}

#[derive(Debug, Default)]
struct Held {
    prepared: OnceLock<()>,
    /// Of `scratch` and `commit_layer`.
    lease: Mutex<Option<Arc<Lease>>>,
}

/// An image that is completely in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// `sha256:<hex>` of the configuration's bytes.
    pub id: String,
    pub references: Vec<ImageRef>,
    pub config: ImageConfiguration,
    /// What the configuration has beside what OCI names.
    pub docker: DockerConfig,
    /// The base first.
    pub layers: Vec<LayerRef>,
    /// Bytes of the unpacked layers.
    pub size: u64,
}

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Of the manifest or index.
    pub digest: String,
    /// When the name was last brought or given.
    pub since: Option<SystemTime>,
}

/// An unpacked layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerRef {
    /// `sha256:<hex>` of the uncompressed tar.
    pub diff_id: String,
    /// A directory that overlayfs can take as a lower one; never written to again.
    pub path: PathBuf,
}

/// Hears how far a transfer or extraction is: what, bytes done, bytes in all (0: unknown).
pub type Report<'a> = &'a (dyn Fn(&str, u64, u64) + Send + Sync);

#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// Not in the store.
    #[error("no image `{0}`")]
    NotFound(String),
    /// The registry says there is no such image, or that we may not have it; `help` is the next move.
    #[error("{message}")]
    Remote { message: String, help: Vec<String> },
    /// The registry could not be reached.
    #[error("{message}")]
    Unreachable {
        message: String,
        help: Vec<String>,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The archive, manifest or layer is not what it should be.
    #[error("{0}")]
    Invalid(String),
    #[error("`{image}` is not for platform {wanted}; it is for {there}")]
    Platform { image: String, wanted: String, there: String },
    /// The registry, or the store, has something else under the name than what was asked for.
    #[error("image `{image}` is locked to {locked}, and what it stands for is {found}")]
    Drift { image: String, locked: String, found: String },
    /// The disk; `needs` are bytes that were not even enough, `help` is the next move.
    #[error("no space left below `{}` for `{what}`: it needs more than {:.1} MB", path.display(), *needs as f64 / 1e6)]
    Full { what: String, path: PathBuf, needs: u64, help: Vec<String> },
    #[error("image `{0}` is not in ficelle.lock")]
    NotLocked(String),
    #[error("image `{0}` is used by container {1}")]
    InUse(String, String),
    #[error("{what} `{}`", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
}

impl Image {
    /// What the image is for, when this machine does not run it.
    #[must_use]
    pub fn foreign(&self) -> Option<String> {
        Platform::host().foreign(&self.config)
    }
}

impl ImageError {
    pub(super) fn remote(message: impl Into<String>) -> Self {
        Self::Remote { message: message.into(), help: Vec::new() }
    }

    /// What to do next, a sentence each.
    #[must_use]
    pub fn help(&self) -> &[String] {
        match self {
            Self::Remote { help, .. } | Self::Unreachable { help, .. } | Self::Full { help, .. } => help,
            Self::NotFound(_)
            | Self::Invalid(_)
            | Self::Platform { .. }
            | Self::Drift { .. }
            | Self::NotLocked(_)
            | Self::InUse(..)
            | Self::File { .. } => &[],
        }
    }
}

impl Store {
    #[must_use]
    pub fn open(root: PathBuf) -> Self {
        Self { layout: Layout::new(root), held: Arc::default() }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        self.layout.root()
    }

    /// `None` when the reference is not in the store.
    pub fn find(&self, image: &ImageRef) -> Result<Option<Image>, ImageError> {
        match self.layout.read_ref(image)? {
            Some(found) => self.find_id(&found.image),
            None => Ok(None),
        }
    }

    /// The image for this platform that the reference stands for; `None` when the store has none.
    pub fn find_for(&self, image: &ImageRef, platform: &Platform) -> Result<Option<Image>, ImageError> {
        let Some(found) = self.layout.read_ref(image)? else { return Ok(None) };
        for id in std::iter::once(&found.image).chain(&found.others) {
            let Some(image) = self.find_id(id)? else { continue };
            let architecture = image.config.architecture().to_string();
            if architecture.is_empty() || architecture == platform.architecture {
                return Ok(Some(image));
            }
        }
        Ok(None)
    }

    /// What the reference stands for; `None` when it is not in the store.
    pub fn named(&self, image: &ImageRef) -> Result<Option<Named>, ImageError> {
        Ok(self.layout.read_ref(image)?.map(|found| Named {
            digest: found.target.digest().to_string(),
            since: found.since.map(|seconds| SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)),
        }))
    }

    /// The image of an id (`sha256:<hex>`); `None` when it is not, or not whole, in the store.
    pub fn find_id(&self, id: &str) -> Result<Option<Image>, ImageError> {
        let Some(record) = self.layout.image_record(id)? else { return Ok(None) };
        let references = self
            .layout
            .all_refs()?
            .into_iter()
            .filter(|(_, found)| found.image == id)
            .map(|(image, _)| image);
        self.image(id, &record, references.collect())
    }

    /// Every image, by its references. One that no reference points at any more has none; the images for other
    /// platforms of one that was built for several are that one's.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        let refs = self.layout.all_refs()?;
        let mut images = Vec::new();
        for id in self.layout.image_ids()? {
            let Some(record) = self.layout.image_record(&id)? else { continue };
            let references: Vec<ImageRef> =
                refs.iter().filter(|(_, found)| found.image == id).map(|(image, _)| image.clone()).collect();
            if references.is_empty() && refs.iter().any(|(_, found)| found.others.contains(&id)) {
                continue;
            }
            images.extend(self.image(&id, &record, references)?);
        }
        images.sort_by(|a, b| {
            (a.references.is_empty(), &a.references).cmp(&(b.references.is_empty(), &b.references))
        });
        Ok(images)
    }

    fn image(
        &self,
        id: &str,
        record: &ImageRecord,
        references: Vec<ImageRef>,
    ) -> Result<Option<Image>, ImageError> {
        let Some(bytes) = read(&self.layout.blob(hex(id)?))? else { return Ok(None) };
        let (config, docker) = parse_config(&bytes, id)?;
        let mut layers = Vec::new();
        let mut size = 0;
        for (name, diff_id) in record.layers.iter().zip(config.rootfs().diff_ids()) {
            let Some(layer) = self.layout.layer_record(name)? else { return Ok(None) };
            size += layer.facts.size;
            layers.push(LayerRef { diff_id: diff_id.clone(), path: self.layout.layer(name).join("fs") });
        }
        Ok(Some(Image { id: id.to_owned(), references, config, docker, layers, size }))
    }

    /// Points a reference at an image of the store.
    pub fn tag(&self, id: &str, image: &ImageRef) -> Result<(), ImageError> {
        self.prepare()?;
        let gc = self.layout.gc_lock();
        let _guard = lock::shared(&gc).map_err(file_error("lock", &gc))?;
        let record = self.layout.image_record(id)?.ok_or_else(|| ImageError::NotFound(id.to_owned()))?;
        self.layout.write_ref(image, &RefRecord::new(id, record.manifest, "tag"))
    }

    /// Points `to` at what `from` stands for, its other platforms included.
    pub fn tag_as(&self, from: &ImageRef, to: &ImageRef) -> Result<(), ImageError> {
        self.prepare()?;
        let gc = self.layout.gc_lock();
        let _guard = lock::shared(&gc).map_err(file_error("lock", &gc))?;
        let record = self.layout.read_ref(from)?.ok_or_else(|| ImageError::NotFound(from.familiar()))?;
        let others = record.others;
        let record = RefRecord::new(&record.image, record.target, record.source);
        self.layout.write_ref(to, &RefRecord { others, ..record })
    }

    /// Removes a reference, then content nothing refers to. `used` are image ids and layers of containers.
    pub fn remove(&self, image: &ImageRef, used: &[String]) -> Result<(), ImageError> {
        self.prepare()?;
        let path = self.layout.ref_path(image)?;
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Err(ImageError::NotFound(image.familiar()));
            }
            result => result.map_err(file_error("remove", &path))?,
        }
        self.layout.sweep(used).map(drop)
    }

    /// Removes content nothing refers to, such as images whose reference has moved on. Returns how many
    /// bytes it took.
    pub fn collect(&self, used: &[String]) -> Result<u64, ImageError> {
        self.prepare()?;
        self.layout.sweep(used)
    }

    /// Takes the names away of images that `keep` does not want, then collects; returns the names and
    /// how many bytes were freed.
    pub fn prune(
        &self,
        keep: impl Fn(&Image) -> bool,
        used: &[String],
    ) -> Result<(Vec<ImageRef>, u64), ImageError> {
        self.prepare()?;
        let mut gone = Vec::new();
        for image in self.list()? {
            if keep(&image) {
                continue;
            }
            for name in image.references {
                let path = self.layout.ref_path(&name)?;
                match std::fs::remove_file(&path) {
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                    result => result.map_err(file_error("remove", &path))?,
                }
                gone.push(name);
            }
        }
        Ok((gone, self.layout.sweep(used)?))
    }

    /// A directory in the store's own file system, gone when dropped or when its process dies. The
    /// store must live as long.
    pub fn scratch(&self) -> Result<tempfile::TempDir, ImageError> {
        self.lease()?.scratch()
    }

    /// The layer of this diff id, if it is there; it stays while this store is held.
    pub fn layer(&self, diff_id: &str) -> Result<Option<LayerRef>, ImageError> {
        self.lease()?.hold([diff_id])?;
        let path = self.layout.layer(hex(diff_id)?).join("fs");
        Ok(path.exists().then(|| LayerRef { diff_id: diff_id.to_owned(), path }))
    }

    /// Makes a layer of the upper directory of an overlay (whiteouts as overlayfs writes them). The
    /// directory is taken, not copied; it must be in the store's file system, best in [`Store::scratch`].
    /// The diff id is that of the tar a registry would get.
    pub fn commit_layer(&self, upper: &Path) -> Result<LayerRef, ImageError> {
        let lease = self.lease()?;
        let diff_id = self.layout.commit_layer(&lease, upper)?;
        let path = self.layout.layer(hex(&diff_id)?).join("fs");
        Ok(LayerRef { diff_id, path })
    }

    /// Stores an image made of layers of the store; `config.rootfs.diff_ids` must name them.
    pub fn commit_image(
        &self,
        config: &ImageConfiguration,
        references: &[ImageRef],
    ) -> Result<Image, ImageError> {
        self.commit_image_with(config, &DockerConfig::default(), references)
    }

    /// [`Store::commit_image`] with the fields that Docker adds to the configuration.
    pub fn commit_image_with(
        &self,
        config: &ImageConfiguration,
        docker: &DockerConfig,
        references: &[ImageRef],
    ) -> Result<Image, ImageError> {
        // Without a name nothing else keeps it.
        let lease = if references.is_empty() { self.lease()? } else { Arc::new(self.begin()?) };
        let (id, target) = self.layout.commit_image(&lease, config, docker)?;
        self.publish(&id, references, &RefRecord::new(&id, target, "build"))
    }

    /// Points references at several images of the store, each for another platform; returns the first, which is
    /// the one that is used here.
    pub fn commit_index(&self, ids: &[String], references: &[ImageRef]) -> Result<Image, ImageError> {
        let lease = self.begin()?;
        let target = self.layout.write_index(&lease, ids)?;
        let Some((own, others)) = ids.split_first() else {
            return Err(ImageError::Invalid("an index needs an image".to_owned()));
        };
        let record = RefRecord { others: others.to_vec(), ..RefRecord::new(own, target, "build") };
        self.publish(own, references, &record)
    }

    /// Points references at an image that is complete, and returns it.
    pub(super) fn publish(
        &self,
        id: &str,
        references: &[ImageRef],
        record: &RefRecord,
    ) -> Result<Image, ImageError> {
        for reference in references {
            self.layout.write_ref(reference, record)?;
        }
        self.find_id(id)?.ok_or_else(|| ImageError::NotFound(id.to_owned()))
    }

    /// What processes that died have left here; removed unless `dry`.
    ///
    /// # Errors
    /// What cannot be removed.
    pub fn sweep(&self, dry: bool) -> Result<Vec<PathBuf>, ImageError> {
        let dead = lease::dead(&self.layout);
        for path in dead.iter().filter(|_| !dry) {
            super::trash::remove(path).map_err(file_error("remove", path))?;
        }
        Ok(dead)
    }

    /// A lease for one operation.
    pub(super) fn begin(&self) -> Result<Lease, ImageError> {
        self.prepare()?;
        Lease::take(&self.layout)
    }

    /// The lease that lasts as long as this store is held.
    pub(super) fn lease(&self) -> Result<Arc<Lease>, ImageError> {
        self.prepare()?;
        let mut held = self.held.lease.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lease) = &*held {
            return Ok(Arc::clone(lease));
        }
        let lease = Arc::new(Lease::take(&self.layout)?);
        *held = Some(Arc::clone(&lease));
        Ok(lease)
    }

    /// Directories made, leavings of dead processes removed; once.
    fn prepare(&self) -> Result<(), ImageError> {
        if self.held.prepared.get().is_none() {
            self.layout.prepare()?;
            lease::clean(&self.layout);
            let _ = self.held.prepared.set(());
        }
        Ok(())
    }
}

/// A configuration's bytes, read twice: OCI's fields and Docker's.
pub(super) fn parse_config(bytes: &[u8], id: &str) -> Result<(ImageConfiguration, DockerConfig), ImageError> {
    #[derive(serde::Deserialize)]
    struct Outer {
        #[serde(default)]
        config: Option<DockerConfig>,
    }
    let wrong = |error| ImageError::Invalid(format!("the configuration of image {id} is malformed: {error}"));
    let config = serde_json::from_slice(bytes).map_err(wrong)?;
    let outer: Outer = serde_json::from_slice(bytes).map_err(wrong)?;
    Ok((config, outer.config.unwrap_or_default()))
}
