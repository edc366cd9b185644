//! What paths of a tree hold: the digest that decides whether a copy is the same again. Names,
//! types, modes, owners, links, attributes and bytes count; times do not.

use std::{
    ffi::OsStr,
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Path, PathBuf},
};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, openat, readlinkat, statat};
use sha2::{Digest as _, Sha256};

use super::{
    ignore::Matcher,
    memo::Memo,
    tree::{Tree, kind, names},
};

pub type Digest = [u8; 32];

/// Directories within directories; every level holds a descriptor.
const DEPTH: usize = 256;

/// A tree to copy from.
#[derive(Clone, Copy, Debug)]
pub struct Source<'a> {
    pub tree: &'a Tree,
    /// Of the context; nothing is left out of a stage.
    pub ignore: Option<&'a Matcher>,
    /// Digests of the files as they were last seen; for the context, which stays between builds.
    pub memo: Option<&'a Memo>,
    pub ownership: Ownership,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// All belongs to root: files of the context.
    Root,
    /// As it is in the stage.
    Kept,
}

/// One thing that a source pattern named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picked {
    /// As named, wildcards replaced, relative to the root of the tree.
    pub name: PathBuf,
    /// Without links.
    pub path: PathBuf,
}

/// Paths left out of one copy (`--exclude`), relative to each source.
pub type Exclude = Matcher;

impl Source<'_> {
    /// Whether `path` below this directory belongs to the tree. A directory whose parts may belong
    /// although it does not is looked into.
    fn ignored(&self, path: &Path, is_dir: bool) -> Ignored {
        let Some(matcher) = self.ignore else { return Ignored::No };
        let text = path.to_string_lossy();
        if !matcher.ignores(&text) {
            Ignored::No
        } else if is_dir && !matcher.prunes(&text) {
            Ignored::PerhapsParts
        } else {
            Ignored::Yes
        }
    }

    /// The entries of the directory at `path` that belong to the tree, sorted by name.
    pub fn children(
        &self,
        directory: BorrowedFd<'_>,
        path: &Path,
    ) -> io::Result<Vec<(std::ffi::OsString, Stat)>> {
        let mut children = Vec::new();
        for name in names(directory)? {
            let stat = match statat(directory, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                // It went while we were looking.
                Err(rustix::io::Errno::NOENT) => continue,
                other => other?,
            };
            let is_dir = kind(&stat) == FileType::Directory;
            if kind(&stat) == FileType::Socket {
                continue;
            }
            let path = path.join(&name);
            let wanted = match self.ignored(&path, is_dir) {
                Ignored::No => true,
                Ignored::Yes => false,
                Ignored::PerhapsParts => {
                    !self.children(open_dir(directory, &name)?.as_fd(), &path)?.is_empty()
                }
            };
            if wanted {
                children.push((name, stat));
            }
        }
        Ok(children)
    }

    /// Whether the path itself is there for a copy.
    pub fn has(&self, path: &Path) -> io::Result<Option<Stat>> {
        let Some(stat) = self.tree.stat(path)? else { return Ok(None) };
        let is_dir = kind(&stat) == FileType::Directory;
        let there = path.as_os_str().is_empty()
            || match self.ignored(path, is_dir) {
                Ignored::No => true,
                Ignored::Yes => false,
                Ignored::PerhapsParts => !self.children(self.tree.directory(path)?.as_fd(), path)?.is_empty(),
            };
        Ok(there.then_some(stat))
    }

    /// The digest of all that `picked` names.
    pub fn digest(&self, picked: &[Picked], exclude: &Exclude) -> io::Result<Digest> {
        let mut hash = Sha256::new();
        for one in picked {
            field(&mut hash, one.name.as_os_str());
            let parent = self.tree.directory(one.path.parent().unwrap_or(Path::new("")))?;
            let name = one.path.file_name().unwrap_or(OsStr::new("."));
            let stat = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let is_dir = kind(&stat) == FileType::Directory;
            let below = if is_dir { PathBuf::new() } else { name.into() };
            let walk = Walk { source: self, exclude };
            hash.update(walk.entry(parent.as_fd(), name, &stat, &one.path, &below, 0)?);
        }
        Ok(hash.finalize().into())
    }
}

/// Whether a copy leaves this out; a directory of which parts may come back is entered.
pub fn excludes(exclude: &Exclude, below: &Path, is_dir: bool) -> bool {
    let text = below.to_string_lossy();
    exclude.ignores(&text) && (!is_dir || exclude.prunes(&text))
}

enum Ignored {
    No,
    Yes,
    PerhapsParts,
}

pub fn open_dir(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?)
}

pub fn open_file(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<std::fs::File> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
    Ok(openat(directory, name, flags, Mode::empty())?.into())
}

/// A refusal that also bounds the descriptors and the stack.
pub fn too_deep(path: &Path) -> io::Error {
    let message = format!("`{}` is nested more than {DEPTH} directories deep", path.display());
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

pub fn check_depth(depth: usize, path: &Path) -> io::Result<()> {
    if depth > DEPTH { Err(too_deep(path)) } else { Ok(()) }
}

struct Walk<'a> {
    source: &'a Source<'a>,
    exclude: &'a Exclude,
}

impl Walk<'_> {
    /// `path` is that of the tree, `below` that of the copied directory.
    fn entry(
        &self,
        directory: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        path: &Path,
        below: &Path,
        depth: usize,
    ) -> io::Result<Digest> {
        check_depth(depth, path)?;
        let kind = kind(stat);
        if let Some(memo) = self.source.memo
            && kind != FileType::Directory
        {
            return memo.digest(stat, || self.leaf(directory, name, stat));
        }
        if kind != FileType::Directory {
            return self.leaf(directory, name, stat);
        }
        let opened = open_dir(directory, name)?;
        let mut hash = self.head(directory, name, stat)?;
        for (name, stat) in self.source.children(opened.as_fd(), path)? {
            let below = below.join(&name);
            if excludes(self.exclude, &below, super::tree::kind(&stat) == FileType::Directory) {
                continue;
            }
            field(&mut hash, &name);
            hash.update(self.entry(opened.as_fd(), &name, &stat, &path.join(&name), &below, depth + 1)?);
        }
        Ok(hash.finalize().into())
    }

    /// Something without entries.
    fn leaf(&self, directory: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<Digest> {
        let mut hash = self.head(directory, name, stat)?;
        match kind(stat) {
            FileType::RegularFile => {
                let mut file = open_file(directory, name)?;
                let mut buffer = vec![0; 128 * 1024];
                loop {
                    let length = file.read(&mut buffer)?;
                    if length == 0 {
                        break;
                    }
                    hash.update(&buffer[..length]);
                }
            }
            FileType::Symlink => hash.update(readlinkat(directory, name, Vec::new())?.as_bytes()),
            FileType::CharacterDevice | FileType::BlockDevice => hash.update(stat.st_rdev.to_le_bytes()),
            _ => {}
        }
        Ok(hash.finalize().into())
    }

    /// Type, mode, owner and attributes.
    fn head(&self, directory: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<Sha256> {
        let mut hash = Sha256::new();
        hash.update(stat.st_mode.to_le_bytes());
        let (uid, gid) = match self.source.ownership {
            Ownership::Root => (0, 0),
            Ownership::Kept => (stat.st_uid, stat.st_gid),
        };
        hash.update(uid.to_le_bytes());
        hash.update(gid.to_le_bytes());
        if kind(stat) == FileType::Symlink {
            return Ok(hash);
        }
        for (name, value) in attributes(directory, name)? {
            field(&mut hash, &name);
            field(&mut hash, OsStr::from_bytes(&value));
        }
        Ok(hash)
    }
}

/// With its length before it, so that no two lists of fields look the same.
fn field(hash: &mut Sha256, bytes: &OsStr) {
    hash.update((bytes.len() as u64).to_le_bytes());
    hash.update(bytes.as_bytes());
}

/// The extended attributes that travel with a file, sorted.
pub fn attributes(directory: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<(std::ffi::OsString, Vec<u8>)>> {
    let path = format!("/proc/self/fd/{}", directory.as_raw_fd());
    let path = Path::new(&path).join(name);
    let mut list = Vec::with_capacity(1024);
    match rustix::fs::llistxattr(&path, rustix::buffer::spare_capacity(&mut list)) {
        Err(rustix::io::Errno::RANGE) => {
            list.reserve(64 * 1024);
            rustix::fs::llistxattr(&path, rustix::buffer::spare_capacity(&mut list))?;
        }
        Err(rustix::io::Errno::NOTSUP) => return Ok(Vec::new()),
        other => {
            other?;
        }
    }
    let mut found = Vec::new();
    for name in list.split(|byte| *byte == 0).filter(|name| travels(name)) {
        let mut value = Vec::with_capacity(64 * 1024);
        let name = OsStr::from_bytes(name);
        match rustix::fs::lgetxattr(&path, name, rustix::buffer::spare_capacity(&mut value)) {
            Err(rustix::io::Errno::NODATA) => continue,
            other => other?,
        };
        found.push((name.to_owned(), value));
    }
    found.sort();
    Ok(found)
}

fn travels(name: &[u8]) -> bool {
    !name.is_empty()
        && !name.starts_with(b"trusted.")
        && !name.starts_with(b"user.overlay.")
        && !matches!(name, b"security.selinux" | b"security.ima" | b"security.evm")
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
        time::SystemTime,
    };

    use super::*;

    struct Context {
        dir: tempfile::TempDir,
        ignore: Matcher,
        exclude: Matcher,
    }

    impl Context {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("d")).unwrap();
            fs::write(dir.path().join("d/f"), "one").unwrap();
            fs::write(dir.path().join("d/g"), "two").unwrap();
            symlink("f", dir.path().join("d/l")).unwrap();
            Self { dir, ignore: Matcher::default(), exclude: Matcher::default() }
        }

        fn digest(&self) -> Digest {
            let tree = Tree::open(self.dir.path()).unwrap();
            let source =
                Source { tree: &tree, ignore: Some(&self.ignore), memo: None, ownership: Ownership::Root };
            let picked = Picked { name: "d".into(), path: "d".into() };
            source.digest(&[picked], &self.exclude).unwrap()
        }
    }

    #[test]
    fn everything_that_a_copy_carries_changes_the_digest() {
        let context = Context::new();
        let path = |name: &str| context.dir.path().join("d").join(name);
        let mut seen = vec![context.digest()];
        let mut differs = |what: &str| {
            let digest = context.digest();
            assert!(!seen.contains(&digest), "{what}");
            seen.push(digest);
        };
        fs::write(path("f"), "two").unwrap();
        differs("bytes");
        fs::rename(path("g"), path("h")).unwrap();
        differs("name");
        fs::set_permissions(path("f"), fs::Permissions::from_mode(0o755)).unwrap();
        differs("mode");
        fs::remove_file(path("l")).unwrap();
        symlink("h", path("l")).unwrap();
        differs("target of a link");
        fs::create_dir(path("e")).unwrap();
        differs("an empty directory");
        fs::set_permissions(path(""), fs::Permissions::from_mode(0o700)).unwrap();
        differs("mode of the directory");
        rustix::fs::setxattr(path("f"), "user.note", b"x", rustix::fs::XattrFlags::empty()).unwrap();
        differs("an extended attribute");
    }

    #[test]
    fn times_and_what_is_left_out_do_not_change_the_digest() {
        let mut context = Context::new();
        context.ignore = Matcher::parse("d/*.tmp\n").unwrap();
        context.exclude = Matcher::parse("x").unwrap();
        let before = context.digest();
        let file = fs::File::options().append(true).open(context.dir.path().join("d/f")).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        fs::write(context.dir.path().join("d/new.tmp"), "x").unwrap();
        fs::write(context.dir.path().join("d/x"), "x").unwrap();
        assert_eq!(context.digest(), before);
    }

    #[test]
    fn an_ignored_directory_shows_only_what_was_taken_back() {
        let mut context = Context::new();
        context.ignore = Matcher::parse("d\n!d/f").unwrap();
        let tree = Tree::open(context.dir.path()).unwrap();
        let source =
            Source { tree: &tree, ignore: Some(&context.ignore), memo: None, ownership: Ownership::Root };
        let names = |path: &str| -> Vec<_> {
            let directory = tree.directory(Path::new(path)).unwrap();
            source
                .children(directory.as_fd(), Path::new(path))
                .unwrap()
                .into_iter()
                .map(|(name, _)| name)
                .collect()
        };
        assert_eq!(names(""), ["d"]);
        assert_eq!(names("d"), ["f"]);
        assert!(source.has(Path::new("d/g")).unwrap().is_none());
        let all = Matcher::parse("d").unwrap();
        let source = Source { ignore: Some(&all), ..source };
        assert!(source.has(Path::new("d")).unwrap().is_none());
    }
}
