//! Brings a layer in: bytes from anywhere become a verified directory, or nothing.
//!
//! One thread reads and inflates, one hashes, one writes. The directory is built in `tmp`,
//! made durable by `syncfs` (the disk begins with it while there is still more to unpack), and renamed.
//! Two processes that want the same layer: the second one waits and finds it.

use std::{
    fs,
    io::{self, Read},
    os::fd::OwnedFd,
    path::Path,
    sync::mpsc::{SyncSender, sync_channel},
};

use oci_spec::image::Descriptor;
use rustix::io::Errno;

use super::{
    ImageError,
    codec::{Hashing, inflate, pipe},
    layout::{Layout, file_error, hex, sync_parent},
    lease::Lease,
    lock::FileLock,
    recipe::Recipe,
    record::LayerRecord,
    untar::{Facts, Limits, UntarError, untar},
};

/// In a layer's directory, when its tar is to be made from its files.
pub(super) const RECIPE: &str = "recipe.zst";

/// Bytes of tar after which the disk is to begin with what is unpacked, so that little is left at the end.
const FLUSHED: u64 = 32 << 20;

/// A layer that is wanted.
#[derive(Clone, Debug)]
pub(super) struct Wanted<'a> {
    /// `sha256:<hex>` of the uncompressed tar.
    pub(super) diff_id: &'a str,
    /// What the manifest says of the stream, where there is a manifest.
    pub(super) blob: Option<&'a Descriptor>,
    /// How to make the tar again is kept: no compressed form is.
    pub(super) recipe: bool,
    /// For messages: `layer 2 of 5`.
    pub(super) what: &'a str,
}

/// What came out of a stream.
struct Unpacked {
    facts: Facts,
    diff_id: String,
    tar_size: u64,
}

impl Layout {
    /// Whether the layer is there, complete. Hold it by a lease first.
    pub(super) fn has_layer(&self, diff_id: &str) -> Result<bool, ImageError> {
        Ok(self.layer(hex(diff_id)?).exists())
    }

    /// The lock of whoever brings the layer in; `None` when it has come meanwhile. Waits.
    pub(super) fn claim_layer(&self, diff_id: &str) -> Result<Option<FileLock>, ImageError> {
        let path = self.lock(hex(diff_id)?);
        let lock = FileLock::wait(&path).map_err(file_error("lock", &path))?;
        Ok(if self.has_layer(diff_id)? { None } else { Some(lock) })
    }

    /// Unpacks `source` as the layer that `wanted` names. The caller has claimed it.
    pub(super) fn ingest(
        &self,
        lease: &Lease,
        wanted: &Wanted<'_>,
        source: impl Read + Send,
        keep: impl FnOnce(&Facts) -> Result<Option<Descriptor>, ImageError>,
    ) -> Result<(), ImageError> {
        let scratch = lease.scratch()?;
        let what = wanted.what;
        let recipe = wanted.recipe.then(|| scratch.path().join(RECIPE));
        let (unpacked, blob) = match wanted.blob {
            None => (unpack(scratch.path(), source, recipe.as_deref()), None),
            Some(_) => {
                let mut source = Hashing::new(source);
                let unpacked = unpack(scratch.path(), &mut source, recipe.as_deref());
                (unpacked, Some(source.finish()))
            }
        };
        let unpacked = unpacked.map_err(|error| match error {
            UntarError::Write(entry, source) => {
                let path = Path::new(what).join(entry.trim_start_matches('/'));
                ImageError::File { what: "unpack", path, source }
            }
            UntarError::Full(entry, needs) => {
                let what = format!("{what}/{}", entry.trim_start_matches('/'));
                let help = vec!["`ficelle image prune` removes what nothing uses".to_owned()];
                ImageError::Full { what, path: self.root().to_owned(), needs, help }
            }
            UntarError::Archive(message) => ImageError::Invalid(format!("{what} is refused: {message}")),
            UntarError::Read(error) => ImageError::Invalid(format!("{what} cannot be read: {error}")),
        })?;
        verify(wanted, &unpacked, blob)?;
        let blob = keep(&unpacked.facts)?;
        if let (Some(recipe), true) = (recipe, unpacked.facts.replaced) {
            fs::remove_file(&recipe).map_err(file_error("remove", &recipe))?;
        }
        let record = LayerRecord { facts: unpacked.facts, tar_size: unpacked.tar_size, blob };
        self.publish_layer(scratch, hex(wanted.diff_id)?, &record)
    }

    /// Makes `scratch` (with its `fs`) the layer of this name. Its lock is the caller's.
    pub(super) fn publish_layer(
        &self,
        scratch: tempfile::TempDir,
        name: &str,
        record: &LayerRecord,
    ) -> Result<(), ImageError> {
        let place = self.layer(name);
        let publish = || -> io::Result<()> {
            match fs::remove_dir_all(scratch.path().join("trash")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            fs::write(scratch.path().join("meta.json"), serde_json::to_vec_pretty(record)?)?;
            rustix::fs::syncfs(fs::File::open(scratch.path())?)?;
            fs::rename(scratch.path(), &place)?;
            sync_parent(&place)
        };
        publish().map_err(file_error("store layer", &place))?;
        // It has moved; there is nothing left to remove.
        let _ = scratch.keep();
        Ok(())
    }
}

/// Wrong content must never be found under a right name. `blob` is digest and size of the stream.
fn verify(wanted: &Wanted<'_>, unpacked: &Unpacked, blob: Option<(String, u64)>) -> Result<(), ImageError> {
    let what = wanted.what;
    if let Some((said, (digest, size))) = wanted.blob.zip(blob) {
        if said.size() != size {
            return Err(ImageError::Invalid(format!(
                "{what} is {size} bytes long; its manifest says {}",
                said.size()
            )));
        }
        if said.digest().as_ref() != digest {
            return Err(ImageError::Invalid(format!(
                "{what} has digest {digest}; its manifest says {}",
                said.digest()
            )));
        }
    }
    if wanted.diff_id != unpacked.diff_id {
        return Err(ImageError::Invalid(format!(
            "{what} unpacks to {}; the image's configuration says {}",
            unpacked.diff_id, wanted.diff_id
        )));
    }
    Ok(())
}

/// Unpacks an archive that is no layer into `fs` below `scratch`.
pub(super) fn unpack_plain(scratch: &Path, source: impl Read + Send) -> Result<(), UntarError> {
    unpack(scratch, source, None).map(drop)
}

/// Unpacks into `fs` below `scratch`, and writes its recipe down if there is a place for it.
fn unpack(
    scratch: &Path,
    mut source: impl Read + Send,
    recipe: Option<&Path>,
) -> Result<Unpacked, UntarError> {
    let made = |error: io::Error| UntarError::Write("/".into(), error);
    let open = |name: &str| -> io::Result<OwnedFd> {
        use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
        let path = scratch.join(name);
        fs::DirBuilder::new().mode(0o755).create(&path)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(fs::File::open(path)?.into())
    };
    let root = open("fs").map_err(made)?;
    let trash = open("trash").map_err(made)?;
    let mut recipe = recipe.map(Recipe::create).transpose().map_err(made)?;
    let (writer, hasher, mut reader) = pipe();
    let source_ref = &mut source;
    let (enough, flush) = sync_channel(1);
    let unpacked = std::thread::scope(|scope| {
        let disk = scope.spawn(|| flush_on(flush, &root));
        let hashed = scope.spawn(|| hasher.hash_all());
        scope.spawn(move || {
            let whole = match inflate(&mut *source_ref) {
                Ok(plain) => writer.send_all(Paced { source: plain, passed: 0, enough }),
                Err(error) => writer.send_all(Failing(Some(error))),
            };
            if whole {
                // What stands behind the compressed data belongs to the blob too; an error shows in
                // its size and digest.
                let _ = io::copy(source_ref, &mut io::sink());
            }
        });
        let facts = untar(&mut reader, &root, &trash, Limits::default(), recipe.as_mut());
        if facts.is_err() {
            // Nobody reads on: lets the writer end.
            reader.close();
        }
        let facts = facts?;
        let flushed = disk.join().unwrap_or(Err(Errno::IO));
        flushed.map_err(|error| made(error.into()))?;
        let diff_id =
            hashed.join().map_err(|_| made(io::Error::other("the thread that hashes has failed")))?;
        Ok((facts, diff_id))
    });
    let tar_size = reader.length();
    let (facts, diff_id) = unpacked
        .and_then(|unpacked| recipe.map_or(Ok(()), Recipe::finish).map(|()| unpacked).map_err(made))
        .map_err(|error| error.or_full(tar_size))?;
    Ok(Unpacked { facts, diff_id, tar_size })
}

/// Has the file system of `root` written out each time there is enough for it. What fails here is told to no
/// later `syncfs` (the kernel tells an error once), so it is the layer's error.
fn flush_on(enough: impl IntoIterator<Item = ()>, root: &OwnedFd) -> rustix::io::Result<()> {
    enough.into_iter().try_for_each(|()| rustix::fs::syncfs(root))
}

/// Tells when enough has been read through it to be written out.
struct Paced<R> {
    source: R,
    passed: u64,
    enough: SyncSender<()>,
}

impl<R: Read> Read for Paced<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.passed += length as u64;
        if self.passed >= FLUSHED {
            self.passed = 0;
            // Full: the disk is still busy with what was there before.
            let _ = self.enough.try_send(());
        }
        Ok(length)
    }
}

/// A stream that begins with its end.
struct Failing(Option<io::Error>);

impl Read for Failing {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        self.0.take().map_or(Ok(0), Err)
    }
}
