//! COPY and ADD on trees: which entries a source names, and how they land at the destination.
//! All paths are resolved inside their trees; nothing is followed but a link that a source or the
//! destination itself names.

use std::{
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chownat, fchmod,
        fchown, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, readlinkat, statat, symlinkat,
        unlinkat, utimensat,
    },
    io::Errno,
};

use super::{
    content::{self, Exclude, Ownership, Picked, Source},
    ignore,
    mode::ModeChange,
    tree::{Owner, Tree, kind, names},
};

/// Where a copy goes.
#[derive(Debug)]
pub struct Target<'a> {
    pub tree: &'a Tree,
    /// Absolute, in the image; a trailing `/` says that it is a directory.
    pub path: &'a str,
    /// The owner of all that is made, in place of that of the source.
    pub owner: Option<Owner>,
    pub mode: Option<&'a ModeChange>,
}

/// A source that names nothing, or cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PickError {
    #[error("\"/{path}\": not found")]
    NotFound { path: String, help: Option<String> },
    #[error("`{0}` is not a pattern: {1}")]
    Pattern(String, &'static str),
    #[error("cannot read `{path}`")]
    Read { path: String, source: io::Error },
}

/// What `pattern` names in the tree. A pattern with wildcards may name nothing.
pub fn pick(source: &Source<'_>, pattern: &str) -> Result<Vec<Picked>, PickError> {
    let parts = clean(pattern);
    let read = |source| PickError::Read { path: pattern.to_owned(), source };
    if !parts.iter().any(|part| has_wildcard(part)) {
        let name: PathBuf = parts.iter().collect();
        let path = source.tree.resolve(&name).map_err(read)?;
        return match source.has(&path).map_err(read)? {
            Some(_) => Ok(vec![Picked { name, path }]),
            None => Err(not_found(source, &name, pattern)),
        };
    }
    let mut found = vec![PathBuf::new()];
    for part in &parts {
        let mut next = Vec::new();
        for directory in &found {
            if !has_wildcard(part) {
                next.push(directory.join(part));
                continue;
            }
            let path = source.tree.resolve(directory).map_err(read)?;
            let opened = match source.tree.directory(&path) {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
                {
                    continue;
                }
                other => other.map_err(read)?,
            };
            for name in names(opened.as_fd()).map_err(read)? {
                let fits = ignore::matches_name(part, &name.to_string_lossy())
                    .map_err(|reason| PickError::Pattern(pattern.to_owned(), reason))?;
                if fits {
                    next.push(directory.join(name));
                }
            }
        }
        found = next;
    }
    let mut picked = Vec::new();
    for name in found {
        let path = source.tree.resolve(&name).map_err(read)?;
        if source.has(&path).map_err(read)?.is_some() {
            picked.push(Picked { name, path });
        }
    }
    Ok(picked)
}

pub fn has_wildcard(part: &str) -> bool {
    part.contains(['*', '?', '[', '\\'])
}

/// The components; `..` goes up and never above the root.
fn clean(pattern: &str) -> Vec<String> {
    let mut parts = Vec::new();
    for part in pattern.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part.to_owned()),
        }
    }
    parts
}

fn not_found(source: &Source<'_>, name: &Path, pattern: &str) -> PickError {
    let parent = name.parent().unwrap_or(Path::new(""));
    let wanted = name.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let help = if Path::new(pattern).components().any(|part| part == Component::ParentDir) {
        Some("a path above the build context cannot be copied".to_owned())
    } else if source.ignore.is_some_and(|matcher| matcher.ignores(&name.to_string_lossy())) {
        Some("`.dockerignore` leaves it out".to_owned())
    } else if source
        .tree
        .stat(name)
        .is_ok_and(|stat| stat.is_some_and(|stat| kind(&stat) == FileType::Symlink))
    {
        Some("it is a link to something that is not in the build context".to_owned())
    } else {
        let there =
            source.tree.directory(parent).and_then(|directory| names(directory.as_fd())).unwrap_or_default();
        let there: Vec<String> = there.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        let there: Vec<&str> = there.iter().map(String::as_str).collect();
        super::dockerfile::nearest(&wanted, &there)
            .map(|near| format!("did you mean `{}`?", parent.join(near).display()))
    };
    PickError::NotFound { path: name.display().to_string(), help }
}

/// How `--parents` cuts the path of a source: what stands before `/./` is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parents {
    Dropped,
    /// This many leading components are not kept.
    KeptBehind(usize),
}

impl Parents {
    #[must_use]
    pub fn kept(pattern: &str) -> Self {
        Self::KeptBehind(pattern.split_once("/./").map_or(0, |(pivot, _)| clean(pivot).len()))
    }
}

/// Copies what was picked. `several`: the destination must be a directory.
pub fn copy(
    source: &Source<'_>,
    picked: &[Picked],
    exclude: &Exclude,
    parents: Parents,
    target: &Target<'_>,
) -> io::Result<()> {
    let mut copier = Copier { source, exclude, target, links: HashMap::new() };
    for one in picked {
        copier.one(one, parents).map_err(|error| named(&one.name, error))?;
    }
    Ok(())
}

/// Copies one entry to the very path of the target, a directory like that of the source. The root of the
/// target takes what a directory holds, and stays as it is.
pub fn mirror(source: &Source<'_>, picked: &Picked, target: &Target<'_>) -> io::Result<()> {
    let exclude = Exclude::default();
    let stat = source.has(&picked.path)?.ok_or(io::ErrorKind::NotFound)?;
    let path = target.tree.resolve(Path::new(target.path))?;
    if kind(&stat) != FileType::Directory || path.as_os_str().is_empty() {
        return copy(source, std::slice::from_ref(picked), &exclude, Parents::Dropped, target);
    }
    let mut copier = Copier { source, exclude: &exclude, target, links: HashMap::new() };
    let opened = source.tree.directory(&picked.path)?;
    let (parent, name) = open_parent(target.tree, &path)?;
    make_directory(parent.as_fd(), &name, &path)?;
    let made = content::open_dir(parent.as_fd(), &name)?;
    copier.entries(opened.as_fd(), &picked.path, Path::new(""), made.as_fd(), &path, 0)?;
    copier.dress(&made, &stat, &content::attributes(opened.as_fd(), OsStr::new("."))?)
}

/// Writes a file whose content is given.
pub fn write(name: &str, data: &[u8], target: &Target<'_>) -> io::Result<()> {
    let owner = target.owner.unwrap_or_default();
    let path = place(target, OsStr::new(name), owner)?;
    let (parent, name) = open_parent(target.tree, &path)?;
    let mut file = create(parent.as_fd(), &name)?;
    io::Write::write_all(&mut file, data)?;
    fchown(&file, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
    let mode = target.mode.map_or(0o644, |change| change.apply(0o644, false));
    fchmod(&file, Mode::from_raw_mode(mode))?;
    Ok(())
}

#[must_use]
pub fn is_directory_name(path: &str) -> bool {
    path.ends_with('/') || path == "." || path.ends_with("/.") || path == ".." || path.ends_with("/..")
}

/// Where a file lands: in the directory that the target names, or under the target's own name.
fn place(target: &Target<'_>, name: &OsStr, owner: Owner) -> io::Result<PathBuf> {
    let path = Path::new(target.path);
    if is_directory_name(target.path) {
        target.tree.make_dirs(path, owner)?;
        return Ok(target.tree.resolve(path)?.join(name));
    }
    let resolved = target.tree.resolve(path)?;
    if target.tree.stat(&resolved)?.is_some_and(|stat| kind(&stat) == FileType::Directory) {
        return Ok(resolved.join(name));
    }
    if let Some(parent) = resolved.parent() {
        target.tree.make_dirs(parent, owner)?;
    }
    Ok(resolved)
}

fn open_parent(tree: &Tree, path: &Path) -> io::Result<(OwnedFd, std::ffi::OsString)> {
    let name = path.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::IsADirectory))?;
    Ok((tree.directory(path.parent().unwrap_or(Path::new("")))?, name.to_owned()))
}

struct Copier<'a> {
    source: &'a Source<'a>,
    exclude: &'a Exclude,
    target: &'a Target<'a>,
    /// Files with several names: where the first one went.
    links: HashMap<(u64, u64), PathBuf>,
}

impl Copier<'_> {
    fn one(&mut self, picked: &Picked, parents: Parents) -> io::Result<()> {
        let Some(stat) = self.source.has(&picked.path)? else { return Err(io::ErrorKind::NotFound.into()) };
        let owner = self.target.owner.unwrap_or_default();
        let is_dir = kind(&stat) == FileType::Directory;
        let name = picked.name.file_name().unwrap_or_default();
        let path = match parents {
            Parents::KeptBehind(count) => self.parents(&picked.name, count)?.join(name),
            Parents::Dropped if is_dir => {
                let path = self.target.tree.resolve(Path::new(self.target.path))?;
                self.target.tree.make_dirs(path.parent().unwrap_or(Path::new("")), owner)?;
                path
            }
            Parents::Dropped => place(self.target, name, owner)?,
        };
        if is_dir && parents != Parents::Dropped {
            let (from, from_name) = open_parent(self.source.tree, &picked.path)?;
            let (to, to_name) = open_parent(self.target.tree, &path)?;
            let (opened, made) =
                self.directory(from.as_fd(), &from_name, &stat, to.as_fd(), &to_name, &path)?;
            return self.entries(opened.as_fd(), &picked.path, Path::new(""), made.as_fd(), &path, 0);
        }
        if is_dir {
            let opened = self.source.tree.directory(&picked.path)?;
            return self.top(opened.as_fd(), &picked.path, &path, owner);
        }
        if self.exclude.ignores(&name.to_string_lossy()) {
            return Ok(());
        }
        let (from, from_name) = open_parent(self.source.tree, &picked.path)?;
        let (to, to_name) = open_parent(self.target.tree, &path)?;
        self.leaf(from.as_fd(), &from_name, &stat, to.as_fd(), &to_name, &path)
    }

    /// The directories that `--parents` keeps, like those of the source where they are missing; the path of the
    /// innermost.
    fn parents(&self, name: &Path, count: usize) -> io::Result<PathBuf> {
        let tree = self.target.tree;
        let to = Path::new(self.target.path);
        tree.make_dirs(to, self.target.owner.unwrap_or_default())?;
        let mut to = tree.resolve(to)?;
        let parents = name.parent().unwrap_or(Path::new(""));
        for (at, part) in parents.components().enumerate().skip(count) {
            let from: PathBuf = parents.components().take(at + 1).collect();
            let from = self.source.tree.resolve(&from)?;
            to = tree.resolve(&to.join(part))?;
            if tree.stat(&to)?.is_some() {
                continue;
            }
            let Some(stat) = self.source.tree.stat(&from)? else {
                return Err(io::ErrorKind::NotFound.into());
            };
            let (from, from_name) = open_parent(self.source.tree, &from)?;
            let (parent, to_name) = open_parent(tree, &to)?;
            self.directory(from.as_fd(), &from_name, &stat, parent.as_fd(), &to_name, &to)?;
        }
        Ok(to)
    }

    /// A directory like that of the source, without its entries; both opened.
    fn directory(
        &self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        to: BorrowedFd<'_>,
        to_name: &OsStr,
        to_path: &Path,
    ) -> io::Result<(OwnedFd, OwnedFd)> {
        make_directory(to, to_name, to_path)?;
        let opened = content::open_dir(from, name)?;
        let made = content::open_dir(to, to_name)?;
        self.dress(&made, stat, &content::attributes(from, name)?)?;
        Ok((opened, made))
    }

    /// A source directory: what it holds goes into the destination. That is made when it is missing, and
    /// not like the source: it takes mode 0755 and the owner that `--chown` names, as BuildKit has it.
    fn top(&mut self, from: BorrowedFd<'_>, path: &Path, to_path: &Path, owner: Owner) -> io::Result<()> {
        if !to_path.as_os_str().is_empty() {
            let (parent, name) = open_parent(self.target.tree, to_path)?;
            if make_directory(parent.as_fd(), &name, to_path)? {
                let made = content::open_dir(parent.as_fd(), &name)?;
                fchown(&made, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
                fchmod(&made, Mode::from_raw_mode(0o755))?;
            }
        }
        let to = self.target.tree.directory(to_path)?;
        self.entries(from, path, Path::new(""), to.as_fd(), to_path, 0)
    }

    fn entries(
        &mut self,
        from: BorrowedFd<'_>,
        path: &Path,
        below: &Path,
        to: BorrowedFd<'_>,
        to_path: &Path,
        depth: usize,
    ) -> io::Result<()> {
        content::check_depth(depth, path)?;
        for (name, stat) in self.source.children(from, path)? {
            let below = below.join(&name);
            let is_dir = kind(&stat) == FileType::Directory;
            if content::excludes(self.exclude, &below, is_dir) {
                continue;
            }
            let (path, to_path) = (path.join(&name), to_path.join(&name));
            if !is_dir {
                self.leaf(from, &name, &stat, to, &name, &to_path).map_err(|error| named(&path, error))?;
                continue;
            }
            make_directory(to, &name, &to_path)?;
            let inner_from = content::open_dir(from, &name)?;
            let inner_to = content::open_dir(to, &name)?;
            self.entries(inner_from.as_fd(), &path, &below, inner_to.as_fd(), &to_path, depth + 1)?;
            self.dress(&inner_to, &stat, &content::attributes(from, &name)?)?;
        }
        Ok(())
    }

    /// Something without entries. What stands in its place goes, unless it is a directory.
    fn leaf(
        &mut self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        stat: &Stat,
        to: BorrowedFd<'_>,
        to_name: &OsStr,
        to_path: &Path,
    ) -> io::Result<()> {
        clear(to, to_name, to_path)?;
        match kind(stat) {
            FileType::RegularFile => self.file(from, name, to, to_name, to_path),
            FileType::Symlink => {
                let link = readlinkat(from, name, Vec::new())?;
                symlinkat(&link, to, to_name)?;
                self.dress_at(to, to_name, stat)
            }
            FileType::Fifo | FileType::CharacterDevice | FileType::BlockDevice => {
                mknodat(to, to_name, kind(stat), Mode::from_raw_mode(0o600), stat.st_rdev)?;
                self.dress_at(to, to_name, stat)
            }
            _ => Ok(()),
        }
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        name: &OsStr,
        to: BorrowedFd<'_>,
        to_name: &OsStr,
        to_path: &Path,
    ) -> io::Result<()> {
        let mut input = content::open_file(from, name)?;
        // Of the open file: the name may stand for another one by now.
        let stat = rustix::fs::fstat(&input)?;
        if kind(&stat) != FileType::RegularFile {
            return Err(io::Error::other("it changed while it was copied"));
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                linkat(self.target.tree.fd(), first, to, to_name, AtFlags::empty())?;
                return Ok(());
            }
            self.links.insert(key, to_path.to_owned());
        }
        let mut output = create(to, to_name)?;
        io::copy(&mut input, &mut output)?;
        let attributes = content::attributes(from, name)?;
        self.dress(&output.into(), &stat, &attributes)
    }

    fn owner(&self, stat: &Stat) -> Owner {
        match (self.target.owner, self.source.ownership) {
            (Some(owner), _) => owner,
            (None, Ownership::Root) => Owner::default(),
            (None, Ownership::Kept) => Owner { uid: stat.st_uid, gid: stat.st_gid },
        }
    }

    fn mode(&self, stat: &Stat) -> Mode {
        let is_dir = kind(stat) == FileType::Directory;
        let bits = stat.st_mode & 0o7777;
        Mode::from_raw_mode(self.target.mode.map_or(bits, |change| change.apply(bits, is_dir)))
    }

    /// Owner before mode, since a change of owner takes set-id bits; times last.
    fn dress(
        &self,
        fd: &OwnedFd,
        stat: &Stat,
        attributes: &[(std::ffi::OsString, Vec<u8>)],
    ) -> io::Result<()> {
        let owner = self.owner(stat);
        fchown(fd, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)))?;
        fchmod(fd, self.mode(stat))?;
        for (name, value) in attributes {
            match fsetxattr(fd, name.as_os_str(), value, XattrFlags::empty()) {
                // The store's file system, or our rights, do not have it.
                Err(Errno::NOTSUP | Errno::PERM) => {}
                other => other?,
            }
        }
        futimens(fd, &times(stat))?;
        Ok(())
    }

    /// The same by name, for what cannot be opened.
    fn dress_at(&self, to: BorrowedFd<'_>, name: &OsStr, stat: &Stat) -> io::Result<()> {
        let owner = self.owner(stat);
        let flags = AtFlags::SYMLINK_NOFOLLOW;
        chownat(to, name, Some(Uid::from_raw(owner.uid)), Some(Gid::from_raw(owner.gid)), flags)?;
        if kind(stat) != FileType::Symlink {
            rustix::fs::chmodat(to, name, self.mode(stat), AtFlags::empty())?;
        }
        utimensat(to, name, &times(stat), flags)?;
        Ok(())
    }
}

fn times(stat: &Stat) -> Timestamps {
    // The field's type differs between architectures.
    let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.try_into().unwrap_or(0) };
    Timestamps { last_access: modified, last_modification: modified }
}

/// True when it was not there.
fn make_directory(parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> io::Result<bool> {
    match mkdirat(parent, name, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => match kind(&statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?) {
            FileType::Directory => Ok(false),
            _ => Err(refused("cannot copy to non-directory", path)),
        },
        Err(error) => Err(error.into()),
    }
}

fn clear(parent: BorrowedFd<'_>, name: &OsStr, path: &Path) -> io::Result<()> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => Err(refused("cannot replace a directory with a file", path)),
        Err(error) => Err(error.into()),
    }
}

fn create(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<File> {
    clear(parent, name, Path::new(name))?;
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(openat(parent, name, flags, Mode::from_raw_mode(0o600))?.into())
}

fn refused(message: &str, path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, format!("{message}: /{}", path.display()))
}

fn named(path: &Path, error: io::Error) -> io::Error {
    if error.get_ref().is_some() {
        return error;
    }
    io::Error::new(
        error.kind(),
        format!("cannot copy `{}`: {error}", String::from_utf8_lossy(path.as_os_str().as_bytes())),
    )
}

#[cfg(test)]
mod tests;
