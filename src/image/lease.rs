//! What a living process is working on. A lease is a locked file; its lines name content that must
//! not be collected, its name begins the names of the process's entries in `tmp`. It ends with its
//! holder, and then both are free.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io::{self, Write},
    path::PathBuf,
};

use rustix::fs::FlockOperation;

use super::{
    ImageError,
    layout::{Layout, file_error},
    lock, trash,
};

#[derive(Debug)]
pub(super) struct Lease {
    layout: Layout,
    name: String,
    path: PathBuf,
    file: File,
}

impl Lease {
    pub(super) fn take(layout: &Layout) -> Result<Self, ImageError> {
        let leases = layout.leases();
        let gc = layout.gc_lock();
        let make = || -> io::Result<(File, String)> {
            let _guard = lock::shared(&gc)?;
            // Locked before it has a name among the leases, so that nobody finds it free.
            let file = tempfile::Builder::new().prefix(".new-").rand_bytes(12).tempfile_in(layout.tmp())?;
            rustix::fs::flock(&file, FlockOperation::LockExclusive)?;
            let name = file.path().file_name().unwrap_or_default().to_string_lossy()[5..].to_owned();
            let file = file.persist_noclobber(leases.join(&name))?;
            Ok((file, name))
        };
        let (file, name) = make().map_err(file_error("create a lease in", &leases))?;
        let path = leases.join(&name);
        Ok(Self { layout: layout.clone(), name, path, file })
    }

    /// From here on the layers, blobs and images of these names (digests or their hex) stay.
    pub(super) fn hold<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Result<(), ImageError> {
        let gc = self.layout.gc_lock();
        let lines: String = names.into_iter().flat_map(|name| [name, "\n"]).collect();
        let hold = || -> io::Result<()> {
            let _guard = lock::shared(&gc)?;
            (&self.file).write_all(lines.as_bytes())
        };
        hold().map_err(file_error("write", &self.path))
    }

    /// A new directory in `tmp` that goes when dropped or when this process has died.
    pub(super) fn scratch(&self) -> Result<tempfile::TempDir, ImageError> {
        let tmp = self.layout.tmp();
        tempfile::Builder::new()
            .prefix(&format!("{}-", self.name))
            .tempdir_in(&tmp)
            .map_err(file_error("create a directory in", &tmp))
    }

    /// A new file in `tmp` that goes like [`Lease::scratch`].
    pub(super) fn scratch_file(&self) -> Result<tempfile::NamedTempFile, ImageError> {
        let tmp = self.layout.tmp();
        tempfile::Builder::new()
            .prefix(&format!("{}-", self.name))
            .tempfile_in(&tmp)
            .map_err(file_error("create a file in", &tmp))
    }

    /// A name in `tmp` for something moved there to be removed.
    pub(super) fn grave(&self, number: usize) -> PathBuf {
        self.layout.tmp().join(format!("{}-dead-{number}", self.name))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Left behind it is found free, and removed then.
        let _ = fs::remove_file(&self.path);
    }
}

/// What living leases hold, as they wrote it.
pub(super) fn held(layout: &Layout) -> io::Result<BTreeSet<String>> {
    let mut held = BTreeSet::new();
    for entry in fs::read_dir(layout.leases())? {
        let path = entry?.path();
        if is_alive(&path)? {
            held.extend(fs::read_to_string(&path).unwrap_or_default().lines().map(str::to_owned));
        } else {
            let _ = fs::remove_file(&path);
        }
    }
    Ok(held)
}

/// Removes what processes that died have left in `tmp`. Errors are not the caller's: the next one tries again.
pub(super) fn clean(layout: &Layout) {
    for path in dead(layout) {
        let _ = trash::remove(&path);
    }
}

/// What lies in `tmp` that nobody holds.
pub(super) fn dead(layout: &Layout) -> Vec<PathBuf> {
    // Files being written have no lease: their writers share this lock.
    let alone = lock::try_exclusive(&layout.gc_lock()).ok().flatten();
    let Ok(entries) = fs::read_dir(layout.tmp()) else { return Vec::new() };
    let mut found = Vec::new();
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let dead = if name.starts_with(".new-") {
            alone.is_some()
        } else {
            let lease = name.split('-').next().unwrap_or_default();
            !is_alive(&layout.leases().join(lease)).unwrap_or(true)
        };
        if dead {
            found.push(entry.path());
        }
    }
    found
}

fn is_alive(lease: &std::path::Path) -> io::Result<bool> {
    let file = match File::open(lease) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scratch_of_the_dead_goes_and_of_the_living_stays() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        layout.prepare().unwrap();
        let lease = Lease::take(&layout).unwrap();
        let living = lease.scratch().unwrap();
        let dead = layout.tmp().join("Zz00-left/deep/er");
        fs::create_dir_all(&dead).unwrap();
        clean(&layout);
        assert!(living.path().exists());
        assert!(!layout.tmp().join("Zz00-left").exists());
    }

    #[test]
    fn a_lease_holds_until_it_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().to_owned());
        layout.prepare().unwrap();
        let lease = Lease::take(&layout).unwrap();
        lease.hold(["a", "b"]).unwrap();
        assert_eq!(held(&layout).unwrap().into_iter().collect::<Vec<_>>(), ["a", "b"]);
        drop(lease);
        assert!(held(&layout).unwrap().is_empty());
    }
}
