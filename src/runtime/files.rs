//! Secrets and configs of a container: files in memory that nobody outside of it sees.
//!
//! They lie on a tmpfs that is mounted in the worker's own mount namespace, so no path of the host leads
//! to them and they are gone with the container's mounts.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, mount};

use super::{
    Content, Error, FileConfig, Result,
    state::{failed, file_error, make_dir},
};

/// Most that one file may hold; it is memory of the machine.
const LIMIT: u64 = 16 << 20;

/// Writes all of them; where each stands now, in their order. Only for a process in a mount namespace of
/// its own.
pub fn write(files: &[FileConfig], directory: &Path) -> Result<Vec<PathBuf>> {
    if files.is_empty() {
        return Ok(Vec::new());
    }
    make_dir(directory)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("tmpfs", directory, "tmpfs", flags, c"mode=0700")
        .map_err(failed("cannot mount memory for secrets"))?;
    files.iter().enumerate().map(|(number, file)| one(file, directory.join(number.to_string()))).collect()
}

fn one(file: &FileConfig, path: PathBuf) -> Result<PathBuf> {
    let read;
    let content = match &file.content {
        Content::Text(text) => text.as_bytes(),
        Content::Path(source) if source.is_dir() => return Ok(source.clone()),
        Content::Path(source) => {
            read = content(source)?;
            &read
        }
    };
    let write = || {
        let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        made.write_all(content)?;
        chown(&path, Some(file.uid), Some(file.gid))?;
        // After the owner: changing that takes bits away.
        fs::set_permissions(&path, fs::Permissions::from_mode(file.mode & 0o7777))
    };
    write().map_err(|e| file_error("cannot write", &path, e))?;
    Ok(path)
}

fn content(source: &Path) -> Result<Vec<u8>> {
    let meta = fs::metadata(source).map_err(|e| file_error("cannot read", source, e))?;
    if !meta.is_file() {
        return Err(Error::Invalid(format!("`{}` is no file", source.display())));
    }
    if meta.len() > LIMIT {
        return Err(Error::Invalid(format!(
            "`{}` has {} bytes; a secret or config may have {LIMIT}",
            source.display(),
            meta.len()
        )));
    }
    fs::read(source).map_err(|e| file_error("cannot read", source, e))
}
