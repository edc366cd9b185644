//! Removes trees of any depth with a fixed number of open files and no recursion.

use std::{fs, io, os::fd::AsFd, path::Path};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags},
    io::Errno,
};

/// Removes what `name` in `parent` is. Directories within directories are first moved to `trash`,
/// a directory on the same file system, so depth costs nothing.
pub(super) fn remove_tree(parent: impl AsFd, name: &[u8], trash: impl AsFd) -> rustix::io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut moved: Vec<String> = Vec::new();
    let mut counter = 0u64;
    let mut current: Option<String> = None;
    loop {
        let (at, leaf) = match &current {
            None => (parent.as_fd(), name),
            Some(moved) => (trash.as_fd(), moved.as_bytes()),
        };
        match rustix::fs::unlinkat(at, leaf, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                let directory = rustix::fs::openat(at, leaf, flags, Mode::empty())?;
                for entry in Dir::read_from(&directory)? {
                    let entry = entry?;
                    let child = entry.file_name();
                    if matches!(child.to_bytes(), b"." | b"..") {
                        continue;
                    }
                    let first = if entry.file_type() == FileType::Directory {
                        AtFlags::REMOVEDIR
                    } else {
                        AtFlags::empty()
                    };
                    match rustix::fs::unlinkat(&directory, child, first) {
                        Ok(()) | Err(Errno::NOENT) => {}
                        Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ISDIR) => {
                            let place = format!("{}-{counter}", std::process::id());
                            counter += 1;
                            rustix::fs::renameat(&directory, child, &trash, &place)?;
                            moved.push(place);
                        }
                        Err(error) => return Err(error),
                    }
                }
                rustix::fs::unlinkat(at, leaf, AtFlags::REMOVEDIR)?;
            }
            Err(error) => return Err(error),
        }
        match moved.pop() {
            Some(next) => current = Some(next),
            None => return Ok(()),
        }
    }
}

/// Removes `path`; no error when it is not there.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent = match fs::File::open(parent) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        parent => parent?,
    };
    // Beside it, under a name that belongs to the same holder.
    let mut prefix = name.to_owned();
    prefix.push("-trash-");
    let trash = tempfile::Builder::new().prefix(&prefix).tempdir_in(path.parent().unwrap_or(path))?;
    let opened = fs::File::open(trash.path())?;
    remove_tree(&parent, name.as_encoded_bytes(), &opened)?;
    trash.close()
}
