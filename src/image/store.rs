//! The content store: OCI blobs, one unpacked directory per layer, references.

use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

use crate::model::ImageRef;

/// The store below `<data>/images`. Cheap to open; safe for concurrent processes.
#[derive(Clone, Debug)]
pub struct Store {
    root: PathBuf,
}

/// An image that is completely in the store.
#[derive(Clone, Debug, PartialEq)]
pub struct Image {
    /// `sha256:<hex>` of the configuration's bytes.
    pub id: String,
    pub references: Vec<ImageRef>,
    pub config: ImageConfiguration,
    /// The base first.
    pub layers: Vec<LayerRef>,
    /// Bytes of the unpacked layers.
    pub size: u64,
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
    /// The registry says there is no such image, or that we may not have it.
    #[error("{0}")]
    Remote(String),
    /// The registry could not be reached.
    #[error("{message}")]
    Unreachable {
        message: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The archive, manifest or layer is not what it should be.
    #[error("{0}")]
    Invalid(String),
    #[error("no image for platform {wanted}; it has {there}")]
    Platform { wanted: String, there: String },
    #[error("image `{0}` is used by container {1}")]
    InUse(String, String),
    #[error("{what} `{}`", path.display())]
    File { what: &'static str, path: PathBuf, source: std::io::Error },
}

impl Store {
    #[must_use]
    pub fn open(root: PathBuf) -> Self {
        Self { root }
    }

    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// `None` when the reference is not in the store.
    pub fn find(&self, image: &ImageRef) -> Result<Option<Image>, ImageError> {
        unimplemented!("{image}")
    }

    /// Every image, by its references.
    pub fn list(&self) -> Result<Vec<Image>, ImageError> {
        unimplemented!()
    }

    /// Points a reference at an image of the store.
    pub fn tag(&self, id: &str, image: &ImageRef) -> Result<(), ImageError> {
        unimplemented!("{id} {image}")
    }

    /// Removes a reference, then content nothing refers to. `used` are image ids and layers of containers.
    pub fn remove(&self, image: &ImageRef, used: &[String]) -> Result<(), ImageError> {
        unimplemented!("{image} {used:?}")
    }

    /// Takes a docker archive or OCI layout (tar, gzipped tar or directory).
    pub fn load(&self, path: &Path, report: Report<'_>) -> Result<Vec<ImageRef>, ImageError> {
        report("", 0, 0);
        unimplemented!("{}", path.display())
    }

    /// Brings an image from its registry (or a mirror), and points the reference at it.
    pub async fn pull(
        &self,
        image: &ImageRef,
        platform: Option<&str>,
        report: Report<'_>,
    ) -> Result<Image, ImageError> {
        report("", 0, 0);
        unimplemented!("{image} {platform:?}")
    }

    /// A directory in the store's own file system, gone when dropped or when its process dies.
    pub fn scratch(&self) -> Result<tempfile::TempDir, ImageError> {
        unimplemented!()
    }

    /// Makes a layer of the upper directory of an overlay (whiteouts as overlayfs writes them). The
    /// directory is taken, not copied. The diff id is that of the tar a registry would get.
    pub fn commit_layer(&self, upper: &Path) -> Result<LayerRef, ImageError> {
        unimplemented!("{}", upper.display())
    }

    /// Stores an image made of layers of the store; `config.rootfs.diff_ids` must name them.
    pub fn commit_image(
        &self,
        config: &ImageConfiguration,
        references: &[ImageRef],
    ) -> Result<Image, ImageError> {
        unimplemented!("{config:?} {references:?}")
    }
}
