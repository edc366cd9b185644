//! Where things stand below the store's root, and how they come there: whole or not at all.
//!
//! ```text
//! blobs/sha256/<hex>                       manifests, configurations, compressed layers
//! images/<hex>.json                        an image: its manifest and the layers it stacks
//! refs/<registry>/<repository>/_tags/<tag>, .../_digests/<hex>
//! layers/<name>/{fs,meta.json}             <name> is the diff id's hex, see stack.rs for `@`
//! partial/<hex>                            of a blob what came before a pull was cut
//! leases/, locks/, tmp/, gc.lock           work in progress, each held by a kernel lock
//! ```

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use serde::{Serialize, de::DeserializeOwned};

use super::{ImageError, lock};

/// JSON documents of the store are ours; this bounds what a damaged disk can cost.
const MAX_DOCUMENT: u64 = 16 << 20;

#[derive(Clone, Debug)]
pub(super) struct Layout {
    root: PathBuf,
}

impl Layout {
    pub(super) fn new(root: PathBuf) -> Self {
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    /// `hex` is the digest without `sha256:`.
    pub(super) fn blob(&self, hex: &str) -> PathBuf {
        self.root.join("blobs/sha256").join(hex)
    }

    pub(super) fn blobs(&self) -> PathBuf {
        self.root.join("blobs/sha256")
    }

    pub(super) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    pub(super) fn refs(&self) -> PathBuf {
        self.root.join("refs")
    }

    pub(super) fn layers(&self) -> PathBuf {
        self.root.join("layers")
    }

    pub(super) fn layer(&self, name: &str) -> PathBuf {
        self.layers().join(name)
    }

    pub(super) fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    /// What has come of a compressed layer so far.
    pub(super) fn partial(&self, hex: &str) -> PathBuf {
        self.partials().join(hex)
    }

    pub(super) fn partials(&self) -> PathBuf {
        self.root.join("partial")
    }

    pub(super) fn leases(&self) -> PathBuf {
        self.root.join("leases")
    }

    /// Held by whoever brings the layer or blob `name` in.
    pub(super) fn lock(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(format!("{name}.lock"))
    }

    pub(super) fn gc_lock(&self) -> PathBuf {
        self.root.join("gc.lock")
    }

    /// Makes the directories. Only their owner may look into them.
    pub(super) fn prepare(&self) -> Result<(), ImageError> {
        for directory in ["blobs/sha256", "images", "refs", "layers", "leases", "locks", "partial", "tmp"] {
            let path = self.root.join(directory);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(file_error("create", &path))?;
        }
        let layout = self.root.join("oci-layout");
        if !layout.exists() {
            self.write(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        Ok(())
    }

    /// Writes a file as a whole: another process sees all of it or none, and it outlives a crash.
    pub(super) fn write(&self, path: &Path, bytes: &[u8]) -> Result<(), ImageError> {
        let write = || -> io::Result<()> {
            // While it is held nobody takes the file for a dead process's.
            let _guard = lock::shared(&self.gc_lock())?;
            let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(self.tmp())?;
            io::Write::write_all(&mut file, bytes)?;
            file.as_file().sync_data()?;
            file.persist(path)?;
            sync_parent(path)
        };
        write().map_err(file_error("write", path))
    }

    pub(super) fn write_json(&self, path: &Path, value: &impl Serialize) -> Result<(), ImageError> {
        let bytes = serde_json::to_vec_pretty(value)
            .map_err(|error| ImageError::Invalid(format!("cannot write `{}`: {error}", path.display())))?;
        self.write(path, &bytes)
    }

    /// Stores bytes under their digest. `digest` must be theirs.
    pub(super) fn write_blob(&self, digest: &str, bytes: &[u8]) -> Result<(), ImageError> {
        let path = self.blob(hex(digest)?);
        if path.exists() { Ok(()) } else { self.write(&path, bytes) }
    }
}

/// A document of the store; `None` when it is not there.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, ImageError> {
    match read_bounded(path, MAX_DOCUMENT) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(file_error("read", path)(error)),
    }
}

pub(super) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>, ImageError> {
    let Some(bytes) = read(path)? else { return Ok(None) };
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(|error| ImageError::Invalid(format!("`{}` is damaged: {error}", path.display())))
}

/// Reads a file of at most `max` bytes.
pub(super) fn read_bounded(path: &Path, max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path)?;
    io::Read::read_to_end(&mut io::Read::take(file, max + 1), &mut bytes)?;
    if bytes.len() as u64 > max {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("it is larger than {max} bytes")));
    }
    Ok(bytes)
}

/// Makes a rename in the directory of `path` last.
pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |parent| fs::File::open(parent)?.sync_all())
}

/// The 64 digits of `sha256:<hex>`; nothing else may become part of a path.
pub(super) fn hex(digest: &str) -> Result<&str, ImageError> {
    digest
        .strip_prefix("sha256:")
        .filter(|hex| hex.len() == 64 && hex.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
        .ok_or_else(|| ImageError::Invalid(format!("`{digest}` is no sha256 digest")))
}

pub(super) fn file_error<'a>(
    what: &'static str,
    path: &'a Path,
) -> impl FnOnce(io::Error) -> ImageError + use<'a> {
    move |source| ImageError::File { what, path: path.to_owned(), source }
}
