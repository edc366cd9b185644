//! Our own binary as hidden entries execute it: an overlay without a writable layer, so that no
//! container that gets hold of `/proc/PID/exe` can write to the file on disk (CVE-2019-5736).

use std::{
    fs::File,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{fs::MetadataExt, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use rustix::{
    fs::{MemfdFlags, Mode, OFlags, SealFlags, fcntl_add_seals, memfd_create, openat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    },
};

use super::{Error, Result, failpoint, state::file_error};

const OURSELVES: &str = "/proc/self/exe";

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says which binary has the hidden entries, where it is not this one (tests); the first call counts.
pub fn use_program(path: PathBuf) {
    let _ = PROGRAM.set(path);
}

/// The binary that has the hidden entries.
pub fn program() -> PathBuf {
    PROGRAM.get().cloned().unwrap_or_else(|| PathBuf::from(OURSELVES))
}

/// A command that runs the hidden entry `name` from a copy that cannot be written to, and what keeps
/// that copy. The environment of the caller stays behind.
pub fn entry(name: &str) -> Result<(Command, Option<OwnedFd>)> {
    let path = program();
    // In a hidden entry we are such a copy, which has no path, or one that leads to another file.
    let sealed = match path.canonicalize() {
        Ok(real) if same_file(&path, &real) => Some(overlaid(&real).or_else(|_| copied(&real))?),
        Ok(_) => None,
        Err(_) if path == Path::new(OURSELVES) => None,
        Err(e) => return Err(file_error("cannot find", &path, e)),
    };
    let path = sealed.as_ref().map_or(path, |fd| format!("/proc/self/fd/{}", fd.as_raw_fd()).into());
    let mut command = Command::new(path);
    command.arg0("ficelle").arg(name).env_clear().stdin(Stdio::null()).stderr(Stdio::null());
    failpoint::hand_on(&mut command);
    Ok((command, sealed))
}

fn same_file(a: &Path, b: &Path) -> bool {
    let identity = |path| std::fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    identity(a) == identity(b)
}

fn overlaid(path: &Path) -> std::result::Result<OwnedFd, Errno> {
    let (dir, name) = path.parent().zip(path.file_name()).ok_or(Errno::INVAL)?;
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    let dir = openat(rustix::fs::CWD, dir, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    // Without a writable layer an overlay wants two; any other directory will do that is not above or
    // below the first and not of a file system with names of its own making (/proc/sys).
    for layer in [format!("/proc/self/fd/{}", dir.as_raw_fd()), "/sys/kernel".to_owned()] {
        fsconfig_set_string(context.as_fd(), "lowerdir+", layer)?;
    }
    fsconfig_create(context.as_fd())?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mounted = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let program = openat(&mounted, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())?;
    // Whoever closes a mount that is attached nowhere waits until nobody walks through it (RCU), some
    // milliseconds. Where there can be no thread for it the closure is dropped, and the mount with it.
    let _ = std::thread::Builder::new().spawn(move || drop(mounted));
    Ok(program)
}

/// Where there are no overlays of that kind: a sealed copy in memory.
fn copied(path: &Path) -> Result<OwnedFd> {
    let failed = |source| Error::File { what: "cannot copy into memory", path: path.to_owned(), source };
    let mut from = File::open(path).map_err(failed)?;
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let fd = memfd_create("ficelle", flags).map_err(|e| failed(e.into()))?;
    let mut to = File::from(fd);
    std::io::copy(&mut from, &mut to).map_err(failed)?;
    let seals = SealFlags::WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
    fcntl_add_seals(&to, seals).map_err(|e| failed(e.into()))?;
    Ok(to.into())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn program() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        std::fs::copy("/bin/sh", dir.path().join("program")).unwrap();
        dir
    }

    fn runs_and_cannot_be_written(fd: &OwnedFd) {
        let path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let status = Command::new(&path).args(["-c", "exit 3"]).status().unwrap();
        assert_eq!(status.code(), Some(3));
        let written = std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut f| f.write_all(b"x"));
        assert!(written.is_err());
    }

    #[test]
    fn our_binary_in_an_overlay_runs_and_cannot_be_written() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIPPED: mounting needs root");
            return;
        }
        let dir = program();
        match overlaid(&dir.path().join("program")) {
            Ok(fd) => runs_and_cannot_be_written(&fd),
            Err(e) => println!("SKIPPED: this kernel has no `lowerdir+`: {e}"),
        }
    }

    #[test]
    fn our_binary_in_memory_runs_and_cannot_be_written() {
        let dir = program();
        runs_and_cannot_be_written(&copied(&dir.path().join("program")).unwrap());
    }
}
