//! The directories that overlayfs stacks for an image.
//!
//! A layer's directory is shared by all images that have the layer. In two cases its form depends on
//! what lies below it: when entries stand in directories that are no entries themselves (their mode and
//! owner come from below; else `/tmp` would lose its sticky bit), and when it hides its whole root
//! (overlayfs does not read the mark there). Then a variant `<hex>@<what lies below>` is made of
//! hard links. So it is for a layer that an image has twice: overlayfs takes no directory twice.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::FileTypeExt, fs::MetadataExt},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags},
    io::Errno,
};
use sha2::{Digest, Sha256};

use super::{
    ImageError,
    codec::digest_text,
    layout::{Layout, file_error, hex},
    lease::Lease,
    lock::FileLock,
    names::from_text,
    record::LayerRecord,
    tarout::xattrs,
    untar::set_opaque,
};

impl Layout {
    /// Names of the directories to stack for these layers, the base first. All must be there.
    pub(super) fn stack(&self, lease: &Lease, diff_ids: &[String]) -> Result<Vec<String>, ImageError> {
        let mut names: Vec<String> = Vec::new();
        for diff_id in diff_ids {
            let plain = hex(diff_id)?;
            let record =
                self.layer_record(plain)?.ok_or_else(|| ImageError::NotFound(format!("layer {diff_id}")))?;
            let below: Vec<PathBuf> = names.iter().map(|name| self.layer(name).join("fs")).collect();
            let corrections = corrections(&record, &self.layer(plain).join("fs"), &below)?;
            if corrections.is_empty() && !names.iter().any(|name| name == plain) {
                names.push(plain.to_owned());
                continue;
            }
            let chain = Sha256::new_with_prefix(names.join("\n"));
            let name = format!("{plain}@{}", &digest_text(chain)[7..23]);
            self.make_variant(lease, plain, &name, &record, &corrections)?;
            names.push(name);
        }
        Ok(names)
    }

    fn make_variant(
        &self,
        lease: &Lease,
        plain: &str,
        name: &str,
        record: &LayerRecord,
        corrections: &[Correction],
    ) -> Result<(), ImageError> {
        lease.hold([name])?;
        let lock = self.lock(name);
        let _lock = FileLock::wait(&lock).map_err(file_error("lock", &lock))?;
        if self.layer(name).exists() {
            return Ok(());
        }
        let scratch = lease.scratch()?;
        let copy = scratch.path().join("fs");
        let make = || -> io::Result<()> {
            clone(&self.layer(plain).join("fs"), &copy)?;
            corrections.iter().try_for_each(|correction| correction.apply(&copy))
        };
        make().map_err(file_error("make a variant of layer", &self.layer(plain)))?;
        self.publish_layer(scratch, name, record)
    }
}

/// What a layer's directory lacks above certain others.
enum Correction {
    /// A directory takes the attributes of the one below it.
    Attributes { path: PathBuf, of: PathBuf },
    /// A name of the root is hidden.
    Hide(PathBuf),
    /// A directory of the root hides the one below it.
    Cover(PathBuf),
}

fn corrections(record: &LayerRecord, own: &Path, below: &[PathBuf]) -> Result<Vec<Correction>, ImageError> {
    let find = || -> io::Result<Vec<Correction>> {
        let mut found = Vec::new();
        for text in &record.facts.implied {
            let Some(bytes) = from_text(text) else { continue };
            let path = PathBuf::from(std::ffi::OsStr::from_bytes(&bytes));
            if let Some(of) = directory_below(below, &path)?
                && !alike(&own.join(&path), &of)?
            {
                found.push(Correction::Attributes { path, of });
            }
        }
        if record.facts.opaque_root {
            let mut names: Vec<PathBuf> = Vec::new();
            for layer in below {
                for entry in fs::read_dir(layer)? {
                    names.push(entry?.file_name().into());
                }
            }
            names.sort();
            names.dedup();
            for name in names {
                match fs::symlink_metadata(own.join(&name)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {
                        found.push(Correction::Hide(name));
                    }
                    Ok(metadata) if metadata.is_dir() => found.push(Correction::Cover(name)),
                    result => {
                        result?;
                    }
                }
            }
        }
        Ok(found)
    };
    find().map_err(file_error("read layer", own))
}

/// The directory that a stack shows at `path`, in the topmost layer that has it.
fn directory_below(layers: &[PathBuf], path: &Path) -> io::Result<Option<PathBuf>> {
    'layers: for layer in layers.iter().rev() {
        let mut place = layer.clone();
        let mut covered = false;
        for part in path {
            place.push(part);
            match fs::symlink_metadata(&place) {
                Ok(metadata) if metadata.is_dir() => {
                    covered |= xattrs(&place)?
                        .iter()
                        .any(|(name, value)| name.ends_with(b".overlay.opaque") && value == b"y");
                }
                // A whiteout, or something else of that name: nothing below it shows.
                Ok(_) => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::NotFound && !covered => continue 'layers,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
                Err(error) => return Err(error),
            }
        }
        return Ok(Some(place));
    }
    Ok(None)
}

/// Whether two directories have the same owner, mode and attributes.
fn alike(a: &Path, b: &Path) -> io::Result<bool> {
    let (first, second) = (fs::symlink_metadata(a)?, fs::symlink_metadata(b)?);
    let same = (first.mode(), first.uid(), first.gid()) == (second.mode(), second.uid(), second.gid());
    Ok(same && shown_xattrs(a)? == shown_xattrs(b)?)
}

fn shown_xattrs(path: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut found = xattrs(path)?;
    found.retain(|(name, _)| !name.starts_with(b"trusted.overlay.") && !name.starts_with(b"user.overlay."));
    Ok(found)
}

impl Correction {
    fn apply(&self, root: &Path) -> io::Result<()> {
        match self {
            Self::Attributes { path, of } => {
                let place = root.join(path);
                let opaque = xattrs(&place)?.into_iter().find(|(name, _)| name.ends_with(b".overlay.opaque"));
                take_attributes(&place, of, &shown_xattrs(of)?)?;
                if opaque.is_some() {
                    set_opaque(fs::File::open(&place)?)?;
                }
                times(&place, &fs::symlink_metadata(of)?)
            }
            Self::Hide(name) => {
                rustix::fs::mknodat(CWD, root.join(name), FileType::CharacterDevice, Mode::empty(), 0)
                    .map_err(io::Error::from)
            }
            Self::Cover(name) => set_opaque(fs::File::open(root.join(name))?).map_err(io::Error::from),
        }
    }
}

/// A copy whose directories are new and whose files are the same. Layers are never written to.
fn clone(from: &Path, to: &Path) -> io::Result<()> {
    let mut open = vec![PathBuf::new()];
    let mut made = Vec::new();
    while let Some(path) = open.pop() {
        let (source, target) = (from.join(&path), to.join(&path));
        fs::create_dir(&target)?;
        take_attributes(&target, &source, &xattrs(&source)?)?;
        for entry in fs::read_dir(&source)? {
            let entry = entry?;
            let name = path.join(entry.file_name());
            if entry.file_type()?.is_dir() {
                open.push(name);
            } else if entry.file_type()?.is_char_device() && entry.metadata()?.rdev() == 0 {
                // Whiteouts would soon have more links than an inode can.
                rustix::fs::mknodat(CWD, to.join(&name), FileType::CharacterDevice, Mode::empty(), 0)?;
            } else {
                let old = entry.path();
                match rustix::fs::linkat(CWD, &old, CWD, to.join(&name), AtFlags::empty()) {
                    Err(Errno::MLINK) => return Err(io::Error::from(Errno::MLINK)),
                    result => result?,
                }
            }
        }
        made.push(path);
    }
    made.iter().rev().try_for_each(|path| times(&to.join(path), &fs::symlink_metadata(from.join(path))?))
}

fn take_attributes(place: &Path, of: &Path, attributes: &[(Vec<u8>, Vec<u8>)]) -> io::Result<()> {
    let metadata = fs::symlink_metadata(of)?;
    std::os::unix::fs::lchown(place, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(place, metadata.permissions())?;
    for (name, value) in attributes {
        rustix::fs::lsetxattr(place, name.as_slice(), value, XattrFlags::empty())?;
    }
    Ok(())
}

fn times(place: &Path, of: &fs::Metadata) -> io::Result<()> {
    let time = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps {
        last_access: time(of.atime(), of.atime_nsec()),
        last_modification: time(of.mtime(), of.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, place, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(io::Error::from)
}
