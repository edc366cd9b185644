//! One changing command per group at a time: a kernel lock that dies with its holder.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};

use super::{
    Result,
    state::{Group, failed, file_error, make_dir},
};

/// Exclusive over one group until dropped; the kernel frees it when the holder dies.
#[derive(Debug)]
pub struct GroupLock {
    file: File,
    path: PathBuf,
    group: Group,
}

impl GroupLock {
    /// Waits for another holder; `waiting` is called once with its description.
    pub(super) fn take(group: Group, purpose: &str, waiting: &mut dyn FnMut(&str)) -> Result<Self> {
        let path = Self::path(&group);
        let file = lock(&path, |file| waiting(&holder(file)))?;
        Ok(Self::held(file, path, group, purpose))
    }

    /// `None` when somebody holds it.
    pub(super) fn try_take(group: Group, purpose: &str) -> Result<Option<Self>> {
        let path = Self::path(&group);
        Ok(try_lock(&path)?.map(|file| Self::held(file, path, group, purpose)))
    }

    fn path(group: &Group) -> PathBuf {
        group.roots.run.join("p").join(format!(".{}.lock", group.name))
    }

    fn held(mut file: File, path: PathBuf, group: Group, purpose: &str) -> Self {
        let note = format!("{purpose} (pid {})", std::process::id());
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            file.write_all(note.as_bytes())
        };
        // On a full disk others hear no name; a `down` that makes room must go on.
        let _ = write(&mut file);
        Self { file, path, group }
    }
}

impl Drop for GroupLock {
    /// Leaves no file when the group is gone.
    fn drop(&mut self) {
        if !self.group.run().exists() && !self.group.data().exists() {
            let _ = std::fs::remove_file(&self.path);
        }
        let _ = flock(&self.file, FlockOperation::Unlock);
    }
}

/// `None` when somebody holds it.
pub(super) fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = open(path)?;
    let free = flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() && is_at(&file, path);
    Ok(free.then_some(file))
}

/// Opens and locks the file at `path`. A file that its last holder removed meanwhile is no lock:
/// then once more.
pub(super) fn lock(path: &Path, mut taken: impl FnMut(&File)) -> Result<File> {
    let mut told = false;
    loop {
        let file = open(path)?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            if !told {
                taken(&file);
                told = true;
            }
            rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockExclusive))
                .map_err(failed(format!("cannot lock `{}`", path.display())))?;
        }
        if is_at(&file, path) {
            return Ok(file);
        }
    }
}

fn open(path: &Path) -> Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false).mode(0o600);
    loop {
        make_dir(path.parent().unwrap_or(path))?;
        match options.open(path) {
            // The directory was empty, and the last group's end has taken it away.
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            opened => return opened.map_err(|e| file_error("cannot open", path, e)),
        }
    }
}

fn is_at(file: &File, path: &Path) -> bool {
    let same = |a: &std::fs::Metadata, b: &std::fs::Metadata| a.ino() == b.ino() && a.dev() == b.dev();
    matches!((file.metadata(), std::fs::metadata(path)), (Ok(ours), Ok(theirs)) if same(&ours, &theirs))
}

fn holder(mut file: &File) -> String {
    let mut note = String::new();
    let _ = file.rewind();
    match file.take(200).read_to_string(&mut note) {
        Ok(_) if !note.is_empty() => note,
        _ => "another command".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::{super::Roots, *};

    #[test]
    fn a_second_command_waits_and_hears_who_holds_the_group() {
        let dir = tempfile::tempdir().unwrap();
        let group = Group::new(&Roots::below(dir.path()), "g").unwrap();
        let first = GroupLock::take(group.clone(), "up", &mut |_| panic!("free")).unwrap();
        let (heard, hears) = mpsc::channel();
        let second = std::thread::spawn(move || {
            let lock =
                GroupLock::take(group, "down", &mut |holder| heard.send(holder.to_owned()).unwrap()).unwrap();
            drop(lock);
        });
        let holder = hears.recv().unwrap();
        assert_eq!(holder, format!("up (pid {})", std::process::id()));
        drop(first);
        second.join().unwrap();
        assert!(!dir.path().join("run/p/.g.lock").exists(), "nothing is left when the group is gone");
    }

    #[test]
    fn a_lock_file_removed_by_its_holder_is_no_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let first = lock(&path, |_| {}).unwrap();
        std::fs::remove_file(&path).unwrap();
        let second = lock(&path, |_| panic!("another file")).unwrap();
        assert_ne!(first.metadata().unwrap().ino(), second.metadata().unwrap().ino());
    }
}
