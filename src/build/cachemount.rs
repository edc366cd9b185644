//! The directories of cache mounts: they stay between builds.

use std::{
    fs, io,
    os::unix::fs::{PermissionsExt, chown},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    BuildError,
    copying::{mounted_copy, opened},
    mounts::{Kind, Sharing},
    solve::Solver,
    tree::Tree,
};

/// The directory of a cache mount, and the lock that says it is in use.
pub fn directory(solver: &Solver<'_>, kind: &Kind) -> Result<(PathBuf, fs::File), BuildError> {
    let Kind::Cache { id, from, source, sharing, attributes, .. } = kind else {
        return Err(BuildError::Cancelled);
    };
    let failed = |error: io::Error| BuildError::Context {
        message: format!("cannot use the build cache `{id}`: {error}"),
        source: Some(error),
    };
    // A part of a cache is a cache of its own: then no link in it can lead a mount elsewhere.
    let full = match (from, source.as_str()) {
        (None, "/") => id.clone(),
        (from, source) => format!("{id}\0{}\0{source}", from.as_deref().unwrap_or_default()),
    };
    for number in 0.. {
        let name = if number == 0 { full.clone() } else { format!("{full}\0private {number}") };
        let path = solver.cache.mount(&name);
        let lock = fs::File::create(path.with_extension("lock")).map_err(failed)?;
        match sharing {
            Sharing::Locked => flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed(e.into()))?,
            Sharing::Shared => flock(&lock, FlockOperation::LockShared).map_err(|e| failed(e.into()))?,
            Sharing::Private => match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Err(rustix::io::Errno::WOULDBLOCK) => continue,
                other => other.map_err(|e| failed(e.into()))?,
            },
        }
        if !path.exists() {
            let parent = path.parent().unwrap_or(Path::new("/"));
            let fresh = tempfile::tempdir_in(parent).map_err(failed)?;
            if let Some(from) = from {
                let view = opened(solver, Some(from))?;
                let target = Tree::open(fresh.path()).map_err(failed)?;
                mounted_copy(&view.files(), source, &target, "/")
                    .map_err(|error| failed(io::Error::other(error)))?;
            }
            chown(fresh.path(), Some(attributes.uid), Some(attributes.gid)).map_err(failed)?;
            fs::set_permissions(fresh.path(), fs::Permissions::from_mode(attributes.mode)).map_err(failed)?;
            match fs::rename(fresh.path(), &path) {
                Ok(()) => drop(fresh.keep()),
                // Another step was first.
                Err(_) if path.exists() => {}
                Err(error) => return Err(failed(error)),
            }
        }
        return Ok((path, lock));
    }
    Err(BuildError::Cancelled)
}
