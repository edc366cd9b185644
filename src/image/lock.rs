//! Kernel locks on files of the store: they end with their holder, however it ends.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use rustix::{fs::FlockOperation, io::Errno};

/// A lock on a file that exists only while somebody holds or awaits it.
#[derive(Debug)]
pub(super) struct FileLock {
    path: PathBuf,
    /// Open: locked.
    _file: File,
}

impl FileLock {
    /// Waits for another holder.
    pub(super) fn wait(path: &Path) -> io::Result<Self> {
        loop {
            let file = open(path)?;
            flock(&file, FlockOperation::LockExclusive)?;
            if let Some(lock) = Self::still(path, file)? {
                return Ok(lock);
            }
        }
    }

    /// The holder before may have removed the file that we waited for.
    fn still(path: &Path, file: File) -> io::Result<Option<Self>> {
        let ours = file.metadata()?;
        match fs::metadata(path) {
            Ok(there) if (there.dev(), there.ino()) == (ours.dev(), ours.ino()) => {
                Ok(Some(Self { path: path.to_owned(), _file: file }))
            }
            Ok(_) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Drop for FileLock {
    fn drop(&mut self) {
        // While it is held, so that nobody can take it in between. A file that stays does no harm.
        let _ = fs::remove_file(&self.path);
    }
}

/// The lock of the whole store, on a file that stays: shared to take content into use, exclusive to
/// remove what nobody uses.
pub(super) fn shared(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    flock(&file, FlockOperation::LockShared)?;
    Ok(file)
}

pub(super) fn exclusive(path: &Path) -> io::Result<File> {
    let file = open(path)?;
    flock(&file, FlockOperation::LockExclusive)?;
    Ok(file)
}

/// `None` when somebody shares it.
pub(super) fn try_exclusive(path: &Path) -> io::Result<Option<File>> {
    let file = open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        result => result.map(|()| Some(file)),
    }
}

fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    File::options().read(true).append(true).create(true).mode(0o600).open(path)
}

fn flock(file: &File, operation: FlockOperation) -> io::Result<()> {
    loop {
        match rustix::fs::flock(file, operation) {
            Err(Errno::INTR) => {}
            result => return result.map_err(io::Error::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_waits_and_the_file_goes_with_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.lock");
        let first = FileLock::wait(&path).unwrap();
        let second = open(&path).unwrap();
        assert_eq!(
            rustix::fs::flock(&second, FlockOperation::NonBlockingLockExclusive),
            Err(Errno::WOULDBLOCK)
        );
        drop(second);
        let waiter = std::thread::spawn({
            let path = path.clone();
            move || drop(FileLock::wait(&path).unwrap())
        });
        drop(first);
        waiter.join().unwrap();
        assert!(!path.exists());
    }
}
