//! Files of a tree as a tar and back, for trees that a hostile program may change meanwhile: every step
//! goes through `openat2` with the tree as root, so no symbolic link leads out of it, and a last
//! component is never followed unless that was asked for.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, fstat,
        openat2,
    },
    io::Errno,
};
use tar::{EntryType, Header};

/// Links are resolved inside the tree, and those of /proc that lead anywhere not at all.
const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Missing,
    Directory,
    Other,
}

/// # Errors
/// What keeps it from being looked at.
pub fn kind(root: BorrowedFd<'_>, path: &Path) -> io::Result<Kind> {
    match open(root, path, OFlags::PATH) {
        Ok(found) if is_directory(&fstat(&found)?) => Ok(Kind::Directory),
        Ok(_) => Ok(Kind::Other),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(Kind::Missing),
        Err(error) => Err(error.into()),
    }
}

fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), INSIDE)
}

fn is_directory(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// How a tree is packed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Packing {
    /// A link at the path itself is followed.
    pub follow: bool,
    /// What is mounted below is left out.
    pub one_file_system: bool,
}

/// Writes what stands at `path` as a tar in which it is called `name`; of a directory only what is in it
/// when `name` is empty.
///
/// # Errors
/// What cannot be read or written; sockets are left out.
pub fn pack(
    root: BorrowedFd<'_>,
    path: &Path,
    name: &Path,
    packing: Packing,
    out: &mut dyn Write,
) -> io::Result<()> {
    let flags = if packing.follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW };
    let top = open(root, path, flags)?;
    let stat = fstat(&top)?;
    let mut packer =
        Packer { builder: tar::Builder::new(out), links: HashMap::new(), device: stat.st_dev, packing };
    if !name.as_os_str().is_empty() {
        packer.entry(&top, &stat, name)?;
    }
    if is_directory(&stat) {
        packer.tree(&top, name)?;
    }
    packer.builder.finish()
}

struct Packer<'a> {
    builder: tar::Builder<&'a mut dyn Write>,
    /// First name of each inode that has several.
    links: HashMap<(u64, u64), PathBuf>,
    device: u64,
    packing: Packing,
}

/// A directory that is being listed: itself, its name, and what is left of it.
type Level = (OwnedFd, PathBuf, Vec<Vec<u8>>);

impl Packer<'_> {
    fn tree(&mut self, top: &OwnedFd, name: &Path) -> io::Result<()> {
        let mut open: Vec<Level> = vec![level(top, name.to_owned())?];
        while let Some((directory, name, left)) = open.last_mut() {
            let Some(child) = left.pop() else {
                open.pop();
                continue;
            };
            let path = name.join(OsStr::from_bytes(&child));
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let found = match rustix::fs::openat(&*directory, OsStr::from_bytes(&child), flags, Mode::empty())
            {
                Ok(found) => found,
                // Gone meanwhile.
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(error.into()),
            };
            let stat = fstat(&found)?;
            self.entry(&found, &stat, &path)?;
            let elsewhere = self.packing.one_file_system && stat.st_dev != self.device;
            if is_directory(&stat) && !elsewhere {
                open.push(level(&found, path)?);
            }
        }
        Ok(())
    }

    fn entry(&mut self, found: &OwnedFd, stat: &Stat, path: &Path) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                header.set_entry_type(EntryType::Link);
                return self.builder.append_link(&mut header, path, first);
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_owned());
        }
        match kind {
            FileType::RegularFile => {
                header.set_entry_type(EntryType::Regular);
                header.set_size(u64::try_from(stat.st_size).unwrap_or(0));
                // What is open is what was examined: no path is walked again.
                let file = File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))?;
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                // One that shrinks meanwhile is filled up: the header has gone out.
                let padded = file.take(size).chain(io::repeat(0)).take(size);
                self.builder.append_data(&mut header, path, padded)
            }
            FileType::Directory => {
                header.set_entry_type(EntryType::Directory);
                let mut path = path.as_os_str().to_owned();
                path.push("/");
                self.builder.append_data(&mut header, path, io::empty())
            }
            FileType::Symlink => {
                header.set_entry_type(EntryType::Symlink);
                let target = rustix::fs::readlinkat(found, "", Vec::new())?.into_bytes();
                self.builder.append_link(&mut header, path, OsStr::from_bytes(&target))
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                header.set_entry_type(match kind {
                    FileType::CharacterDevice => EntryType::Char,
                    FileType::BlockDevice => EntryType::Block,
                    _ => EntryType::Fifo,
                });
                header.set_device_major(rustix::fs::major(stat.st_rdev))?;
                header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
                self.builder.append_data(&mut header, path, io::empty())
            }
            FileType::Socket | FileType::Unknown => Ok(()),
        }
    }
}

/// Names in order, the last one first.
fn level(found: &OwnedFd, name: PathBuf) -> io::Result<Level> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(found, ".", flags, Mode::empty())?;
    let mut names = Vec::new();
    for entry in Dir::read_from(&directory)? {
        let entry = entry?.file_name().to_bytes().to_vec();
        if entry != b"." && entry != b".." {
            names.push(entry);
        }
    }
    names.sort_unstable_by(|a, b| b.cmp(a));
    Ok((directory, name, names))
}

/// Writes the entries of a tar below directory `path`, with their owners or all with `owner`.
///
/// # Errors
/// An archive that is broken or names what lies outside; what cannot be written.
pub fn unpack(
    root: BorrowedFd<'_>,
    path: &Path,
    owner: Option<(u32, u32)>,
    input: &mut dyn Read,
) -> io::Result<()> {
    let mut archive = tar::Archive::new(input);
    // Of directories, at the end: what is written into them changes them.
    let mut times = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = clean(&entry.path()?)?;
        let at = Unpacking { root, owner };
        if let Some(time) = at.entry(path, &name, &mut entry)? {
            times.push((path.join(name), time));
        }
    }
    for (path, time) in times.into_iter().rev() {
        if let Ok(directory) = open(root, &path, OFlags::RDONLY | OFlags::DIRECTORY) {
            rustix::fs::futimens(&directory, &stamps(time))?;
        }
    }
    Ok(())
}

/// Without `.` and leading `/`.
fn clean(path: &Path) -> io::Result<PathBuf> {
    let mut cleaned = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            Component::ParentDir => {
                let message = format!("the archive names `{}`, which may lie outside", path.display());
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
        }
    }
    Ok(cleaned)
}

fn stamps(time: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(time).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

struct Unpacking<'a> {
    root: BorrowedFd<'a>,
    owner: Option<(u32, u32)>,
}

impl Unpacking<'_> {
    /// Writes one entry; the time of a directory, to be set later.
    fn entry(
        &self,
        below: &Path,
        name: &Path,
        entry: &mut tar::Entry<'_, &mut dyn Read>,
    ) -> io::Result<Option<u64>> {
        let header = entry.header();
        let (kind, time) = (header.entry_type(), header.mtime().unwrap_or(0));
        let mode = Mode::from_raw_mode(header.mode()? & 0o7777);
        let Some(last) = name.file_name() else {
            // The directory itself.
            return Ok((kind == EntryType::Directory).then_some(time));
        };
        let parent = name.parent().unwrap_or(Path::new(""));
        let directory = self.parent(below, parent)?;
        let owner = match self.owner {
            Some(owner) => owner,
            None => (id(header.uid()?)?, id(header.gid()?)?),
        };
        match kind {
            EntryType::Directory => {
                match rustix::fs::mkdirat(&directory, last, Mode::from_raw_mode(0o700)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&directory, last, flags, Mode::empty())?;
                own(&made, owner, mode)?;
                return Ok(Some(time));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                clear(&directory, last)?;
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = rustix::fs::openat(&directory, last, flags, Mode::from_raw_mode(0o600))?;
                let mut file = File::from(made);
                io::copy(entry, &mut file)?;
                own(file.as_fd(), owner, mode)?;
                rustix::fs::futimens(&file, &stamps(time))?;
            }
            EntryType::Symlink => {
                let target = link_name(entry)?;
                clear(&directory, last)?;
                rustix::fs::symlinkat(target.as_path(), &directory, last)?;
                chown_link(&directory, last, owner)?;
            }
            EntryType::Link => {
                let target = clean(&link_name(entry)?)?;
                let from = target.file_name().ok_or(io::ErrorKind::InvalidData)?;
                let holder = self.parent(below, target.parent().unwrap_or(Path::new("")))?;
                clear(&directory, last)?;
                rustix::fs::linkat(&holder, from, &directory, last, AtFlags::empty())?;
            }
            EntryType::Char | EntryType::Block | EntryType::Fifo => {
                let file_type = match kind {
                    EntryType::Char => FileType::CharacterDevice,
                    EntryType::Block => FileType::BlockDevice,
                    _ => FileType::Fifo,
                };
                let number = |part: io::Result<Option<u32>>| part.map(Option::unwrap_or_default);
                let device =
                    rustix::fs::makedev(number(header.device_major())?, number(header.device_minor())?);
                clear(&directory, last)?;
                rustix::fs::mknodat(&directory, last, file_type, mode, device)?;
                chown_link(&directory, last, owner)?;
            }
            _ => {}
        }
        Ok(None)
    }

    /// The directory that an entry stands in, made where it is missing.
    fn parent(&self, below: &Path, parent: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        let mut walked = below.to_owned();
        let mut directory = open(self.root, &walked, flags)?;
        for part in parent.components() {
            walked.push(part);
            directory = match open(self.root, &walked, flags) {
                Err(Errno::NOENT) => {
                    rustix::fs::mkdirat(&directory, part.as_os_str(), Mode::from_raw_mode(0o755))?;
                    open(self.root, &walked, flags)?
                }
                found => found?,
            };
        }
        Ok(directory)
    }
}

fn link_name(entry: &tar::Entry<'_, &mut dyn Read>) -> io::Result<PathBuf> {
    let name = entry.link_name_bytes().ok_or(io::ErrorKind::InvalidData)?;
    Ok(PathBuf::from(std::ffi::OsString::from_vec(name.into_owned())))
}

fn id(number: u64) -> io::Result<u32> {
    u32::try_from(number).ok().filter(|id| *id != u32::MAX).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("the archive has an owner {number}, which cannot be"),
        )
    })
}

/// Takes away what is no directory: a new file comes in its place.
fn clear(directory: &OwnedFd, name: &OsStr) -> io::Result<()> {
    match rustix::fs::unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn own(file: impl AsFd, (uid, gid): (u32, u32), mode: Mode) -> io::Result<()> {
    // The owner first: a change of it takes set-user-id away.
    rustix::fs::fchown(&file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))?;
    rustix::fs::fchmod(&file, mode)?;
    Ok(())
}

fn chown_link(directory: &OwnedFd, name: &OsStr, (uid, gid): (u32, u32)) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    rustix::fs::chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn root(dir: &Path) -> OwnedFd {
        rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    fn packed(dir: &Path, path: &str, name: &str, follow: bool) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let packing = Packing { follow, one_file_system: false };
        pack(root(dir).as_fd(), Path::new(path), Path::new(name), packing, &mut out)?;
        Ok(out)
    }

    #[test]
    fn a_tree_comes_out_as_it_went_in() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let long = "x".repeat(150);
        fs::create_dir_all(from.path().join("a/b").join(&long)).unwrap();
        fs::write(from.path().join("a/b").join(&long).join("file"), "content").unwrap();
        fs::hard_link(from.path().join("a/b").join(&long).join("file"), from.path().join("a/again")).unwrap();
        symlink("/etc/passwd", from.path().join("a/link")).unwrap();
        let tar = packed(from.path(), "a", "c", false).unwrap();
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        unpack(root(to.path()).as_fd(), Path::new(""), Some(me), &mut tar.as_slice()).unwrap();
        assert_eq!(fs::read_to_string(to.path().join("c/again")).unwrap(), "content");
        assert_eq!(fs::read_to_string(to.path().join("c/b").join(&long).join("file")).unwrap(), "content");
        assert_eq!(fs::read_link(to.path().join("c/link")).unwrap(), Path::new("/etc/passwd"));
    }

    #[test]
    fn no_link_leads_out_of_the_tree() {
        let (outside, inside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        fs::write(outside.path().join("secret"), "secret").unwrap();
        symlink(outside.path(), inside.path().join("out")).unwrap();
        symlink("../../../../../../../../etc", inside.path().join("up")).unwrap();
        assert!(packed(inside.path(), "out/secret", "x", true).is_err());
        assert!(packed(inside.path(), "up/passwd", "x", true).is_err());
        let tar = packed(outside.path(), "secret", "planted", false).unwrap();
        let me = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        assert!(
            unpack(root(inside.path()).as_fd(), Path::new("out"), Some(me), &mut tar.as_slice()).is_err()
        );
        assert!(!outside.path().join("planted").exists());
    }

    #[test]
    fn an_archive_that_names_what_lies_outside_is_refused() {
        assert!(clean(Path::new("a/../../b")).is_err());
        assert_eq!(clean(Path::new("/./a//b")).unwrap(), Path::new("a/b"));
    }
}
