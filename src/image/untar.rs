//! Writes the entries of one layer below a directory, and nowhere else, in the form overlayfs takes.
//!
//! Parents are reached by `openat2` with the directory as root, so a symbolic link of the archive
//! leads to where it would lead in the container; a last component is never followed. Whiteouts
//! become overlayfs's. Knows nothing of digests, compression or the store.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    io::{self, BufRead},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    rc::Rc,
};

use rustix::{
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, Timespec, Timestamps, XattrFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::{
    names::{MAX_PATH, clean, clean_clamped, join, split, to_text},
    recipe::{Recipe, Recorded},
    tarin::{Entry, TarReader},
    trash,
};

const MAX_LINKS: u32 = 40;
/// Open directories kept for the entries that follow.
const KEPT_DIRECTORIES: usize = 128;
const WHITEOUT: &[u8] = b".wh.";
const WHITEOUT_META: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";

/// More than this is refused: a layer is not to fill the disk by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) entries: u64,
    /// Of file content, holes included.
    pub(super) bytes: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { entries: 5_000_000, bytes: 256 << 30 }
    }
}

/// What a layer turned out to be; stored beside its directory.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Facts {
    /// Bytes of file content.
    pub(super) size: u64,
    pub(super) entries: u64,
    /// Directories that entries stand in but that are no entries themselves: their mode and owner
    /// are those of the layers below. One character a byte.
    pub(super) implied: BTreeSet<String>,
    /// The layer hides everything below it.
    pub(super) opaque_root: bool,
    /// Devices that we had no right to make.
    pub(super) devices_left_out: u64,
    /// Extended attributes that the file system does not take.
    pub(super) xattrs_left_out: u64,
    /// An entry took the place of an earlier one, whose content is in no file of that name any more.
    #[serde(default)]
    pub(super) replaced: bool,
}

/// Why a layer could not be written.
#[derive(Debug, thiserror::Error)]
pub(super) enum UntarError {
    /// The archive is at fault.
    #[error("{0}")]
    Archive(String),
    /// Reading the archive failed.
    #[error("{0}")]
    Read(io::Error),
    /// The file system is at fault; the entry, and why.
    #[error("cannot write `{0}`: {1}")]
    Write(String, io::Error),
    /// There is no space for the entry, nor for what comes with it; bytes of archive that came so far.
    #[error("no space left for `{0}`, after {1} bytes of the archive")]
    Full(String, u64),
}

impl UntarError {
    /// What is told of a full disk, after so many bytes of the archive.
    pub(super) fn or_full(self, bytes: u64) -> Self {
        match self {
            Self::Write(entry, error) if error.kind() == io::ErrorKind::StorageFull => {
                Self::Full(entry, bytes)
            }
            // What is read is kept as well.
            Self::Read(error) if error.kind() == io::ErrorKind::StorageFull => Self::Full("/".into(), bytes),
            other => other,
        }
    }
}

/// Unpacks `archive` below `root`, an empty directory; `trash` is one beside it. Reads to the end.
/// `recipe` hears how the archive can be made again, unless [`Facts::replaced`].
pub(super) fn untar(
    archive: impl BufRead,
    root: &OwnedFd,
    trash: &OwnedFd,
    limits: Limits,
    recipe: Option<&mut Recipe>,
) -> Result<Facts, UntarError> {
    let mut unpacker = Unpacker {
        root: Rc::new(root.try_clone().map_err(|error| UntarError::Write("/".into(), error))?),
        trash,
        limits,
        directories: HashMap::new(),
        times: Vec::new(),
        implied: BTreeSet::new(),
        hidden: HashSet::new(),
        facts: Facts::default(),
    };
    let mut archive = TarReader::new(Recorded::new(archive, recipe));
    while let Some(entry) = archive.next_entry().map_err(UntarError::Read)? {
        unpacker.entry(&entry, &mut archive)?;
    }
    archive.finish().map_err(UntarError::Read)?;
    unpacker.finish()
}

/// An archive whose recipe may be written down.
type Data<'a, R> = TarReader<Recorded<'a, R>>;

struct Unpacker<'a> {
    root: Rc<OwnedFd>,
    trash: &'a OwnedFd,
    limits: Limits,
    directories: HashMap<Vec<u8>, Rc<OwnedFd>>,
    /// Of directories, set when nothing more is written into them.
    times: Vec<(Vec<u8>, (i64, u32))>,
    implied: BTreeSet<Vec<u8>>,
    /// Paths that a whiteout of this layer named.
    hidden: HashSet<Vec<u8>>,
    facts: Facts,
}

impl Unpacker<'_> {
    fn entry<R: BufRead>(&mut self, entry: &Entry, data: &mut Data<'_, R>) -> Result<(), UntarError> {
        self.facts.entries += 1;
        if self.facts.entries > self.limits.entries {
            return Err(UntarError::Archive(format!("it has more than {} entries", self.limits.entries)));
        }
        let path = clean(&entry.path).map_err(UntarError::Archive)?;
        let Some((parent, leaf)) = split(&path) else {
            return self.root_entry(entry);
        };
        if let Some(hidden) = leaf.strip_prefix(WHITEOUT) {
            return self.whiteout(parent, leaf, hidden);
        }
        let directory = self.directory(parent)?;
        let at = Place { directory: &directory, leaf, path: &path };
        match entry.kind {
            EntryType::Directory => self.make_directory(at, entry),
            EntryType::Regular | EntryType::Continuous => self.make_file(at, entry, data),
            EntryType::Symlink => self.make_symlink(at, entry),
            EntryType::Link => self.make_link(at, entry),
            EntryType::Char | EntryType::Block | EntryType::Fifo => self.make_node(at, entry),
            kind => Err(UntarError::Archive(format!(
                "entry `{}` is of the unknown kind `{}`",
                path.escape_ascii(),
                kind.as_byte().escape_ascii()
            ))),
        }
    }

    /// The entry of the layer's own root, `./`.
    fn root_entry(&mut self, entry: &Entry) -> Result<(), UntarError> {
        if entry.kind != EntryType::Directory {
            return Err(UntarError::Archive("its root directory is an entry of another kind".into()));
        }
        let root = Rc::clone(&self.root);
        let at = Place { directory: &root, leaf: b".", path: b"" };
        self.attributes(&*root, at, entry)?;
        self.times.push((Vec::new(), entry.mtime));
        Ok(())
    }

    fn make_directory(&mut self, at: Place<'_>, entry: &Entry) -> Result<(), UntarError> {
        let mode = made_with(entry);
        let mut replaced_whiteout = false;
        if let Err(error) = rustix::fs::mkdirat(at.directory, at.leaf, mode) {
            if error != Errno::EXIST {
                return Err(at.failed(error));
            }
            if at.kind()? != FileType::Directory {
                replaced_whiteout = self.hidden.contains(at.path);
                self.remove(at)?;
                rustix::fs::mkdirat(at.directory, at.leaf, mode).map_err(|error| at.failed(error))?;
            }
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::openat(at.directory, at.leaf, flags, Mode::empty())
            .map_err(|error| at.failed(error))?;
        self.attributes(&made, at, entry)?;
        if replaced_whiteout {
            // The directory of the layers below was taken away before this one came.
            set_opaque(&made).map_err(|error| at.failed(error))?;
        }
        self.implied.remove(at.path);
        self.times.push((at.path.to_vec(), entry.mtime));
        Ok(())
    }

    fn make_file<R: BufRead>(
        &mut self,
        at: Place<'_>,
        entry: &Entry,
        data: &mut Data<'_, R>,
    ) -> Result<(), UntarError> {
        let size = entry.sparse.as_ref().map_or(entry.size, |sparse| sparse.size);
        self.facts.size = self.facts.size.saturating_add(size);
        if self.facts.size > self.limits.bytes {
            return Err(UntarError::Archive(format!(
                "its files are larger than {} bytes",
                self.limits.bytes
            )));
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = self.make(at, || rustix::fs::openat(at.directory, at.leaf, flags, made_with(entry)))?;
        let mut file = std::fs::File::from(file);
        match &entry.sparse {
            None => {
                data.input_mut().content(at.path, entry.size);
                copy(data, &mut file, entry.size, at)?;
            }
            Some(sparse) => {
                rustix::fs::ftruncate(&file, sparse.size).map_err(|error| at.failed(error))?;
                for (offset, length) in &sparse.regions {
                    io::Seek::seek(&mut file, io::SeekFrom::Start(*offset))
                        .map_err(|error| at.failed_io(error))?;
                    copy(data, &mut file, *length, at)?;
                }
            }
        }
        self.attributes(&file, at, entry)?;
        rustix::fs::futimens(&file, &timestamps(entry.mtime)).map_err(|error| at.failed(error))
    }

    fn make_symlink(&mut self, at: Place<'_>, entry: &Entry) -> Result<(), UntarError> {
        if entry.link.is_empty() || entry.link.len() >= MAX_PATH {
            return Err(at.wrong("is a symbolic link whose target is empty or too long"));
        }
        self.make(at, || rustix::fs::symlinkat(entry.link.as_slice(), at.directory, at.leaf))?;
        self.unopened_attributes(at, entry)
    }

    fn make_link(&mut self, at: Place<'_>, entry: &Entry) -> Result<(), UntarError> {
        let target = clean(&entry.link).map_err(UntarError::Archive)?;
        let Some((parent, leaf)) = split(&target) else {
            return Err(at.wrong("is a hard link to the root directory"));
        };
        let from = self.existing(parent).map_err(|_| at.link_wants(&target))?;
        let stat =
            rustix::fs::statat(&from, leaf, AtFlags::SYMLINK_NOFOLLOW).map_err(|_| at.link_wants(&target))?;
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(at.wrong("is a hard link to a directory"));
        }
        if let Ok(own) = rustix::fs::statat(at.directory, at.leaf, AtFlags::SYMLINK_NOFOLLOW)
            && (own.st_dev, own.st_ino) == (stat.st_dev, stat.st_ino)
        {
            return Ok(());
        }
        self.make(at, || rustix::fs::linkat(&from, leaf, at.directory, at.leaf, AtFlags::empty()))
    }

    fn make_node(&mut self, at: Place<'_>, entry: &Entry) -> Result<(), UntarError> {
        let kind = match entry.kind {
            EntryType::Char => FileType::CharacterDevice,
            EntryType::Block => FileType::BlockDevice,
            _ => FileType::Fifo,
        };
        let device = if kind == FileType::Fifo {
            0
        } else {
            match (u32::try_from(entry.device.0), u32::try_from(entry.device.1)) {
                (Ok(major), Ok(minor)) if major < 1 << 12 && minor < 1 << 20 => {
                    rustix::fs::makedev(major, minor)
                }
                _ => return Err(at.wrong("is a device whose number is out of range")),
            }
        };
        let made = self.make(at, || {
            match rustix::fs::mknodat(at.directory, at.leaf, kind, Mode::from_raw_mode(0o600), device) {
                // Without rights over devices (a user namespace) a container cannot use them either.
                Err(Errno::PERM) if kind != FileType::Fifo => Ok(false),
                result => result.map(|()| true),
            }
        })?;
        if !made {
            self.facts.devices_left_out += 1;
            return Ok(());
        }
        self.unopened_attributes(at, entry)
    }

    /// `.wh.name`, `.wh..wh..opq` and the other marks of AUFS, whatever kind of entry they are.
    fn whiteout(&mut self, parent: &[u8], leaf: &[u8], hidden: &[u8]) -> Result<(), UntarError> {
        let path = join(parent, leaf);
        if leaf == OPAQUE {
            if parent.is_empty() {
                self.facts.opaque_root = true;
            }
            let directory = self.opened(parent)?;
            return set_opaque(&directory).map_err(|error| written(&path, error));
        }
        if leaf.starts_with(WHITEOUT_META) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(UntarError::Archive(format!("whiteout `{}` names nothing", path.escape_ascii())));
        }
        let directory = self.directory(parent)?;
        let target = join(parent, hidden);
        let device = FileType::CharacterDevice;
        match rustix::fs::mknodat(&*directory, hidden, device, Mode::empty(), 0) {
            // It hides what is below this layer, never what is in it.
            Err(Errno::EXIST) => {
                let at = Place { directory: &directory, leaf: hidden, path: &target };
                if at.kind()? == FileType::Directory {
                    set_opaque(&self.opened(&target)?).map_err(|error| written(&path, error))?;
                }
            }
            result => result.map_err(|error| written(&path, error))?,
        }
        self.hidden.insert(target);
        Ok(())
    }

    /// Makes something in a place where something may stand already.
    fn make<T>(
        &mut self,
        at: Place<'_>,
        mut create: impl FnMut() -> rustix::io::Result<T>,
    ) -> Result<T, UntarError> {
        match create() {
            Err(Errno::EXIST) => {
                self.remove(at)?;
                create().map_err(|error| at.failed(error))
            }
            result => result.map_err(|error| at.failed(error)),
        }
    }

    fn remove(&mut self, at: Place<'_>) -> Result<(), UntarError> {
        let kind = at.kind()?;
        // Nothing was written by way of a whiteout.
        self.facts.replaced |= kind != FileType::CharacterDevice;
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            // Kept directories may have been reached through it.
            self.directories.clear();
        }
        if kind == FileType::Directory {
            let mut below = at.path.to_vec();
            below.push(b'/');
            self.implied.retain(|path| path != at.path && !path.starts_with(&below));
            trash::remove_tree(at.directory, at.leaf, self.trash).map_err(|error| at.failed(error))
        } else {
            rustix::fs::unlinkat(at.directory, at.leaf, AtFlags::empty()).map_err(|error| at.failed(error))
        }
    }

    /// The directory, made if it is not there: it is then an implied one.
    fn directory(&mut self, path: &[u8]) -> Result<Rc<OwnedFd>, UntarError> {
        self.directory_within(path, MAX_LINKS)
    }

    fn directory_within(&mut self, path: &[u8], links: u32) -> Result<Rc<OwnedFd>, UntarError> {
        match self.existing(path) {
            Err(Errno::NOENT) if links > 0 => {}
            result => return result.map_err(|error| no_directory(path, error)),
        }
        // From the top, so that depth costs no stack.
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            if let Err(Errno::NOENT) = self.existing(&path[..end]) {
                self.make_parent(&path[..end], links)?;
            }
        }
        self.existing(path).map_err(|error| no_directory(path, error))
    }

    /// Makes a directory that is no entry, or what a link there leads to; all above it exists.
    fn make_parent(&mut self, path: &[u8], links: u32) -> Result<(), UntarError> {
        let failed = |error| no_directory(path, error);
        let Some((parent, leaf)) = split(path) else { return Err(failed(Errno::NOENT)) };
        let above = self.existing(parent).map_err(failed)?;
        match rustix::fs::mkdirat(&*above, leaf, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                rustix::fs::chmodat(&*above, leaf, Mode::from_raw_mode(0o755), AtFlags::empty())
                    .map_err(failed)?;
                self.implied.insert(path.to_vec());
            }
            // A symbolic link to a directory that only the layers below have.
            Err(Errno::EXIST) => {
                let target = rustix::fs::readlinkat(&*above, leaf, Vec::new()).map_err(failed)?;
                let target = target.to_bytes();
                let whole = if target.starts_with(b"/") { target.to_vec() } else { join(parent, target) };
                self.directory_within(&clean_clamped(&whole), links - 1)?;
            }
            Err(error) => return Err(failed(error)),
        }
        Ok(())
    }

    fn existing(&mut self, path: &[u8]) -> rustix::io::Result<Rc<OwnedFd>> {
        if path.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(kept) = self.directories.get(path) {
            return Ok(Rc::clone(kept));
        }
        let opened = Rc::new(open_in(&*self.root, path, OFlags::PATH)?);
        if self.directories.len() >= KEPT_DIRECTORIES {
            self.directories.clear();
        }
        self.directories.insert(path.to_vec(), Rc::clone(&opened));
        Ok(opened)
    }

    /// Opened for more than passing through.
    fn opened(&mut self, path: &[u8]) -> Result<OwnedFd, UntarError> {
        self.directory(path)?;
        let path = if path.is_empty() { b".".as_slice() } else { path };
        open_in(&*self.root, path, OFlags::RDONLY).map_err(|error| no_directory(path, error))
    }

    /// Owner, then mode (a change of owner takes set-user-id away), then extended attributes. Setting what is so
    /// already costs a file system with a journal as much as a change, and most files are root's.
    fn attributes(&mut self, fd: impl AsFd, at: Place<'_>, entry: &Entry) -> Result<(), UntarError> {
        let (uid, gid) = owner(at, entry)?;
        let made = rustix::fs::fstat(&fd).map_err(|error| at.failed(error))?;
        let owned = (made.st_uid, made.st_gid) == (uid.as_raw(), gid.as_raw());
        if !owned {
            rustix::fs::fchown(&fd, Some(uid), Some(gid)).map_err(|error| at.failed(error))?;
        }
        if !owned || made.st_mode & 0o7777 != entry.mode {
            rustix::fs::fchmod(&fd, Mode::from_raw_mode(entry.mode)).map_err(|error| at.failed(error))?;
        }
        self.xattrs(at, entry, |name, value| rustix::fs::fsetxattr(&fd, name, value, XattrFlags::empty()))
    }

    /// The same for what is not to be opened: links, devices, FIFOs.
    fn unopened_attributes(&mut self, at: Place<'_>, entry: &Entry) -> Result<(), UntarError> {
        let (uid, gid) = owner(at, entry)?;
        let unfollowed = AtFlags::SYMLINK_NOFOLLOW;
        rustix::fs::chownat(at.directory, at.leaf, Some(uid), Some(gid), unfollowed)
            .map_err(|error| at.failed(error))?;
        if entry.kind != EntryType::Symlink {
            rustix::fs::chmodat(at.directory, at.leaf, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(|error| at.failed(error))?;
        }
        let mut place = format!("/proc/self/fd/{}/", at.directory.as_raw_fd()).into_bytes();
        place.extend_from_slice(at.leaf);
        self.xattrs(at, entry, |name, value| {
            rustix::fs::lsetxattr(place.as_slice(), name, value, XattrFlags::empty())
        })?;
        rustix::fs::utimensat(at.directory, at.leaf, &timestamps(entry.mtime), unfollowed)
            .map_err(|error| at.failed(error))
    }

    fn xattrs(
        &mut self,
        at: Place<'_>,
        entry: &Entry,
        set: impl Fn(&[u8], &[u8]) -> rustix::io::Result<()>,
    ) -> Result<(), UntarError> {
        let capability = |name: &[u8]| name == b"security.capability";
        let (last, first): (Vec<_>, Vec<_>) = entry.xattrs.iter().partition(|(name, _)| capability(name));
        for (name, value) in first.into_iter().chain(last) {
            // What overlayfs itself reads is not for a layer to forge.
            if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
                continue;
            }
            match set(name, value) {
                Ok(()) => {}
                Err(Errno::NOTSUP) => self.facts.xattrs_left_out += 1,
                // Links and devices take no `user.` attributes; a user namespace no `trusted.` ones.
                Err(Errno::PERM) => self.facts.xattrs_left_out += 1,
                Err(error) => return Err(at.failed(error)),
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Facts, UntarError> {
        for (path, mtime) in std::mem::take(&mut self.times).into_iter().rev() {
            let path = if path.is_empty() { b".".to_vec() } else { path };
            // It may have been replaced since.
            if let Ok(directory) = open_in(&*self.root, &path, OFlags::RDONLY | OFlags::NOFOLLOW) {
                rustix::fs::futimens(&directory, &timestamps(mtime))
                    .map_err(|error| written(&path, error))?;
            }
        }
        self.facts.implied = self.implied.iter().map(|path| to_text(path)).collect();
        Ok(self.facts)
    }
}

/// Where an entry goes.
#[derive(Clone, Copy)]
struct Place<'a> {
    directory: &'a OwnedFd,
    leaf: &'a [u8],
    path: &'a [u8],
}

impl Place<'_> {
    fn kind(self) -> Result<FileType, UntarError> {
        rustix::fs::statat(self.directory, self.leaf, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| FileType::from_raw_mode(stat.st_mode))
            .map_err(|error| self.failed(error))
    }

    fn failed(self, error: Errno) -> UntarError {
        written(self.path, error)
    }

    fn failed_io(self, error: io::Error) -> UntarError {
        UntarError::Write(self.path.escape_ascii().to_string(), error)
    }

    fn wrong(self, what: &str) -> UntarError {
        UntarError::Archive(format!("entry `{}` {what}", self.path.escape_ascii()))
    }

    fn link_wants(self, target: &[u8]) -> UntarError {
        self.wrong(&format!("is a hard link to `{}`, which is not in the layer", target.escape_ascii()))
    }
}

fn written(path: &[u8], error: Errno) -> UntarError {
    UntarError::Write(path.escape_ascii().to_string(), error.into())
}

fn no_directory(path: &[u8], error: Errno) -> UntarError {
    match error {
        Errno::NOTDIR | Errno::LOOP | Errno::NOENT | Errno::XDEV | Errno::INVAL => {
            UntarError::Archive(format!(
                "entries stand below `{}`, which leads to no directory of the layer",
                path.escape_ascii()
            ))
        }
        error => written(path, error),
    }
}

fn open_in(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let mut looped = 0;
    loop {
        match rustix::fs::openat2(
            &root,
            path,
            flags | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            resolve,
        ) {
            // The kernel could not rule out a rename at the same time, somewhere.
            Err(Errno::AGAIN | Errno::INTR) => {}
            // It counts the links twice of a walk that a mount somewhere else has disturbed.
            Err(Errno::LOOP) if looped < 5 => looped += 1,
            result => return result,
        }
    }
}

fn copy<R: BufRead>(
    data: &mut Data<'_, R>,
    file: &mut std::fs::File,
    mut length: u64,
    at: Place<'_>,
) -> Result<(), UntarError> {
    while length > 0 {
        let available = data.fill_buf().map_err(UntarError::Read)?;
        if available.is_empty() {
            return Err(at.wrong("is shorter than its size says"));
        }
        let take = usize::try_from(length).map_or(available.len(), |length| length.min(available.len()));
        io::Write::write_all(file, &available[..take]).map_err(|error| at.failed_io(error))?;
        data.consume(take);
        length -= take as u64;
    }
    Ok(())
}

/// In a user namespace that owns the file system only `user.overlay.opaque` can be set.
pub(super) fn set_opaque(directory: impl AsFd) -> rustix::io::Result<()> {
    match rustix::fs::fsetxattr(&directory, "trusted.overlay.opaque", b"y", XattrFlags::empty()) {
        Err(Errno::PERM) => {
            rustix::fs::fsetxattr(&directory, "user.overlay.opaque", b"y", XattrFlags::empty())
        }
        result => result,
    }
}

fn owner(at: Place<'_>, entry: &Entry) -> Result<(rustix::fs::Uid, rustix::fs::Gid), UntarError> {
    // The largest number means "leave it" to chown.
    let fits = |id: u64| u32::try_from(id).ok().filter(|id| *id != u32::MAX);
    match (fits(entry.uid), fits(entry.gid)) {
        (Some(uid), Some(gid)) => Ok((rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid))),
        _ => Err(at.wrong("has an owner out of range")),
    }
}

/// The mode that something is made with: most often it is then the right one. Nobody else can look into the store.
fn made_with(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode & 0o777)
}

fn timestamps((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests;
