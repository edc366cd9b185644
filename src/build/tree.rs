//! A directory taken as a root: every path is resolved inside it, whatever links say. Holds the
//! build context, a layer, or the merged view of layers that a step writes to.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::{OsStrExt, OsStringExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Uid, chownat, mkdirat, openat,
        openat2, readlinkat, statat,
    },
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
        fsmount, fsopen,
    },
};

use crate::runtime::rootless::is_confined;

const LINKS: u32 = 40;
/// A component may vanish between two looks at it.
const ATTEMPTS: u32 = 16;

/// The root, open.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
}

/// User and group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    pub uid: u32,
    pub gid: u32,
}

impl Tree {
    pub fn open(path: &Path) -> io::Result<Self> {
        Ok(Self { root: open_path(path)? })
    }

    /// The layers (the base first) below the writable directory `upper`, which holds `fs` and `work`.
    ///
    /// The overlay is mounted nowhere: it lives as long as this value, so no kill can leave it behind.
    pub fn overlay(layers: &[PathBuf], upper: &Path) -> io::Result<Self> {
        let (fs, work, empty) = (upper.join("fs"), upper.join("work"), upper.join("empty"));
        for dir in [&fs, &work, &empty] {
            match std::fs::create_dir(dir) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
                _ => {}
            }
        }
        let mut lower = layers.iter().rev().map(|layer| open_path(layer)).collect::<io::Result<Vec<_>>>()?;
        if lower.is_empty() {
            lower.push(open_path(&empty)?);
        }
        let (fs, work) = (open_path(&fs)?, open_path(&work)?);
        let root = match mount(&lower, &fs, &work, LowerDirs::Each) {
            // Kernels before 6.5 take them joined only.
            Err(Errno::INVAL) => mount(&lower, &fs, &work, LowerDirs::Joined)?,
            other => other?,
        };
        Ok(Self { root })
    }

    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The path without links, `.` and `..`, relative to the root; what does not exist stays as it is.
    pub fn resolve(&self, path: &Path) -> io::Result<PathBuf> {
        let mut todo: VecDeque<OsString> = VecDeque::new();
        push_front(&mut todo, path);
        let mut done = PathBuf::new();
        let mut links = 0;
        while let Some(part) = todo.pop_front() {
            if part == ".." {
                done.pop();
                continue;
            }
            let next = done.join(&part);
            match self.link(&next)? {
                Some(target) => {
                    links += 1;
                    if links > LINKS {
                        return Err(Errno::LOOP.into());
                    }
                    if target.is_absolute() {
                        done.clear();
                    }
                    push_front(&mut todo, &target);
                }
                None => done = next,
            }
        }
        Ok(done)
    }

    /// Where the link at `path` leads; `None` for what is no link, or does not exist.
    fn link(&self, path: &Path) -> io::Result<Option<PathBuf>> {
        let fd = match self.at(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            other => other?,
        };
        match readlinkat(&fd, "", Vec::new()) {
            Ok(target) => Ok(Some(OsString::from_vec(target.into_bytes()).into())),
            Err(Errno::NOENT | Errno::INVAL) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// `None` when nothing is there. The last component is not followed.
    pub fn stat(&self, path: &Path) -> io::Result<Option<Stat>> {
        match self.at(path, OFlags::PATH | OFlags::NOFOLLOW) {
            Ok(fd) => Ok(Some(statat(&fd, "", AtFlags::EMPTY_PATH)?)),
            Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Opens a directory to read it and to work in it.
    pub fn directory(&self, path: &Path) -> io::Result<OwnedFd> {
        Ok(self.at(path, OFlags::RDONLY | OFlags::DIRECTORY)?)
    }

    /// Opens a file; never waits for the other end of a pipe.
    pub fn file(&self, path: &Path) -> io::Result<std::fs::File> {
        Ok(self.at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?.into())
    }

    /// Makes a directory and its parents, links inside the root followed. True when it was not there.
    pub fn make_dirs(&self, path: &Path, owner: Owner) -> io::Result<bool> {
        let path = self.resolve(path)?;
        let mut walked = PathBuf::new();
        let mut made = false;
        for part in path.components() {
            let parent = self.directory(&walked)?;
            walked.push(part);
            match mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755)) {
                Ok(()) => {
                    made = true;
                    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
                    chownat(&parent, part.as_os_str(), Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
                    rustix::fs::chmodat(
                        &parent,
                        part.as_os_str(),
                        Mode::from_raw_mode(0o755),
                        AtFlags::empty(),
                    )?;
                }
                Err(Errno::EXIST) => made = false,
                Err(error) => return Err(error.into()),
            }
        }
        // Says so when it is a file.
        self.directory(&path)?;
        Ok(made)
    }

    /// A directory with no entries, at this very path: no link leads to it.
    pub fn is_empty_directory(&self, path: &Path) -> io::Result<bool> {
        if self.resolve(path)? != path {
            return Ok(false);
        }
        match self.stat(path)? {
            Some(stat) if kind(&stat) == FileType::Directory => {
                Ok(names(self.directory(path)?.as_fd())?.is_empty())
            }
            _ => Ok(false),
        }
    }

    /// Whether a directory of an upper tree says the same as that of the tree below it.
    pub fn same_directory(&self, below: &Self, path: &Path) -> io::Result<bool> {
        let (Some(own), Some(other)) = (self.stat(path)?, below.stat(path)?) else { return Ok(false) };
        if (own.st_mode, own.st_uid, own.st_gid) != (other.st_mode, other.st_uid, other.st_gid) {
            return Ok(false);
        }
        let (own, other) = (self.directory(path)?, below.directory(path)?);
        let attributes = |fd: &OwnedFd| super::content::attributes(fd.as_fd(), OsStr::new("."));
        Ok(!is_opaque(&own)? && attributes(&own)? == attributes(&other)?)
    }

    pub fn remove_directory(&self, path: &Path) -> io::Result<()> {
        let parent = self.directory(path.parent().unwrap_or(Path::new("")))?;
        let name = path.file_name().unwrap_or_default();
        Ok(rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
    }

    fn at(&self, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let mut attempts = 0;
        loop {
            match openat2(&self.root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
                // Something was renamed above while `..` was resolved.
                Err(Errno::AGAIN) if attempts < ATTEMPTS => attempts += 1,
                other => return other,
            }
        }
    }
}

/// An opaque directory hides what is below it.
fn is_opaque(directory: &OwnedFd) -> io::Result<bool> {
    for name in ["trusted.overlay.opaque", "user.overlay.opaque"] {
        match rustix::fs::fgetxattr(directory, name, &mut [0; 8][..]) {
            Err(Errno::NODATA | Errno::NOTSUP) => {}
            other => return Ok(other? > 0),
        }
    }
    Ok(false)
}

fn push_front(todo: &mut VecDeque<OsString>, path: &Path) {
    for component in path.components().rev() {
        match component {
            Component::Normal(part) => todo.push_front(part.to_owned()),
            Component::ParentDir => todo.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, path, flags, Mode::empty()).map_err(|error| {
        io::Error::new(io::Error::from(error).kind(), format!("cannot open `{}`: {error}", path.display()))
    })
}

#[derive(Clone, Copy)]
enum LowerDirs {
    Each,
    Joined,
}

/// `lower` has the top one first.
fn mount(lower: &[OwnedFd], fs: &OwnedFd, work: &OwnedFd, form: LowerDirs) -> Result<OwnedFd, Errno> {
    // Short whatever the path: values of fsconfig end at 255 bytes.
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    match form {
        LowerDirs::Each => {
            for layer in lower {
                fsconfig_set_string(context.as_fd(), "lowerdir+", name(layer))?;
            }
        }
        LowerDirs::Joined => {
            let joined = lower.iter().map(name).collect::<Vec<_>>().join(":");
            fsconfig_set_string(context.as_fd(), "lowerdir", joined)?;
        }
    }
    fsconfig_set_string(context.as_fd(), "upperdir", name(fs))?;
    fsconfig_set_string(context.as_fd(), "workdir", name(work))?;
    // The upper directory becomes a layer: it must be complete in itself.
    if is_confined() {
        // Turns the two below off by itself, and may not be told to.
        fsconfig_set_flag(context.as_fd(), "userxattr")?;
    } else {
        fsconfig_set_string(context.as_fd(), "redirect_dir", "off")?;
        fsconfig_set_string(context.as_fd(), "metacopy", "off")?;
    }
    fsconfig_set_string(context.as_fd(), "index", "off")?;
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

#[must_use]
pub fn kind(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// The names in a directory, sorted.
pub fn names(directory: BorrowedFd<'_>) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        if name != "." && name != ".." {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    fn tree() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        (dir, tree)
    }

    #[test]
    fn links_are_resolved_inside_the_root() {
        let (dir, tree) = tree();
        fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        symlink("usr/lib", dir.path().join("lib")).unwrap();
        symlink("/etc", dir.path().join("out")).unwrap();
        symlink("../../../etc/passwd", dir.path().join("up")).unwrap();
        symlink("missing/x", dir.path().join("dangling")).unwrap();
        symlink("loop", dir.path().join("loop")).unwrap();
        let table = [
            ("lib/a", "usr/lib/a"),
            ("/lib/../b", "usr/b"),
            ("out/passwd", "etc/passwd"),
            ("up", "etc/passwd"),
            ("dangling/y", "missing/x/y"),
            ("../../x", "x"),
            (".", ""),
            ("", ""),
            ("a//b/.", "a/b"),
        ];
        for (path, expected) in table {
            assert_eq!(tree.resolve(Path::new(path)).unwrap(), Path::new(expected), "{path}");
        }
        assert_eq!(
            tree.resolve(Path::new("loop/x")).unwrap_err().raw_os_error(),
            Some(Errno::LOOP.raw_os_error())
        );
        assert!(tree.file(Path::new("out/passwd")).is_err());
        assert!(tree.stat(Path::new("out/passwd")).unwrap().is_none());
    }

    #[test]
    fn directories_are_made_where_links_lead_inside() {
        let (dir, tree) = tree();
        symlink("/real", dir.path().join("link")).unwrap();
        assert!(tree.make_dirs(Path::new("/link/a/b"), Owner::default()).unwrap());
        assert!(dir.path().join("real/a/b").is_dir());
        assert!(!tree.make_dirs(Path::new("/link/a"), Owner::default()).unwrap());
        fs::write(dir.path().join("file"), "").unwrap();
        assert!(tree.make_dirs(Path::new("/file/x"), Owner::default()).is_err());
        assert!(tree.make_dirs(Path::new("/file"), Owner::default()).is_err());
    }

    #[test]
    fn an_overlay_shows_layers_merged_and_writes_above_them() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: mounting an overlay needs root here");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let layers: Vec<_> = ["one", "two"].iter().map(|name| dir.path().join(name)).collect();
        for layer in &layers {
            fs::create_dir_all(layer.join("d")).unwrap();
        }
        fs::write(layers[0].join("d/f"), "base").unwrap();
        fs::write(layers[0].join("d/g"), "base").unwrap();
        fs::write(layers[1].join("d/f"), "top").unwrap();
        let upper = dir.path().join("upper");
        fs::create_dir(&upper).unwrap();
        let tree = Tree::overlay(&layers, &upper).unwrap();
        let read = |path: &str| io::read_to_string(tree.file(Path::new(path)).unwrap()).unwrap();
        assert_eq!((read("d/f"), read("d/g")), ("top".to_owned(), "base".to_owned()));
        tree.make_dirs(Path::new("d/new"), Owner { uid: 5, gid: 6 }).unwrap();
        drop(tree);
        assert!(upper.join("fs/d/new").is_dir());
        assert!(!layers[1].join("d/new").exists());
        let empty = Tree::overlay(&[], &upper).unwrap();
        assert!(empty.stat(Path::new("d/new")).unwrap().is_some());
    }
}
