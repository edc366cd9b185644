//! Running as an ordinary user: one user namespace per state tree, in which this user is root and has
//! the subordinate ids of /etc/subuid and /etc/subgid (user_namespaces(7), newuidmap(1)). The command
//! enters it before it has a second thread, so that everything behind it (keeper, workers, supervisor,
//! layers, builds) runs there and needs to know almost nothing of it.
//!
//! Nobody holds the namespace for its own sake: it lives as long as a command, a keeper or a container
//! does. Who comes later finds it through any of these, all under one lock: two namespaces side by side
//! could not reach each other's networks.

mod obstacles;
mod subids;

use std::{
    ffi::OsString,
    fs::File,
    io::{Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

use rustix::{
    fs::{Mode, OFlags},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, waitpid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};

use self::subids::Ranges;
use super::{
    Error, Result, Roots, lock, rootfs,
    state::{Group, Identity, State, entries, failed, file_error, make_dir, read_json, write_json},
};

/// Who is in the namespace.
const MEMBERS: &str = "userns.json";
const LOCK: &str = "userns.lock";

/// Whether this process is in a user namespace that has less than all ids: no device can be made there,
/// overlays keep their marks in `user.` attributes, and control groups are those of the user.
#[must_use]
pub fn is_confined() -> bool {
    static CONFINED: OnceLock<bool> = OnceLock::new();
    *CONFINED.get_or_init(|| {
        let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        map.split_whitespace().ne(["0", "0", "4294967295"])
    })
}

/// The last of the groups that there are from 0 on, as far as the kernel counts them.
#[must_use]
pub fn last_group() -> u32 {
    let map = std::fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
    let groups = map.lines().filter_map(|line| line.split_whitespace().last()?.parse::<u32>().ok());
    groups.fold(0, u32::saturating_add).saturating_sub(1).min(i32::MAX.cast_unsigned())
}

/// The caller's own state trees: the machine's for root, else below `$XDG_RUNTIME_DIR` (or /tmp) and
/// `$XDG_DATA_HOME` (or `~/.local/share`). The same before and after [`enter`].
///
/// # Errors
/// A directory in /tmp that is not this user's alone; no home directory.
pub fn roots() -> Result<Roots> {
    let entered = ENTERED.get();
    if entered.is_none() && rustix::process::geteuid().is_root() {
        return Ok(Roots { run: "/run/ficelle".into(), data: "/var/lib/ficelle".into() });
    }
    let uid = entered.copied().unwrap_or_else(|| rustix::process::getuid().as_raw());
    let run = match directory_named("XDG_RUNTIME_DIR").filter(|dir| is_ours(dir)) {
        Some(dir) => dir.join("ficelle"),
        None => own_dir(Path::new("/tmp").join(format!("ficelle-{uid}")))?,
    };
    let data = match directory_named("XDG_DATA_HOME") {
        Some(dir) => dir,
        None => home(uid)?.join(".local/share"),
    };
    Ok(Roots { run, data: data.join("ficelle") })
}

/// A variable that holds an absolute path; others do not count (XDG base directory specification).
fn directory_named(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn is_ours(dir: &Path) -> bool {
    dir.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw())
}

/// A directory where everybody may make one: it must be this user's, closed to others and no link.
fn own_dir(path: PathBuf) -> Result<PathBuf> {
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            return Err(file_error("cannot make directory", &path, e));
        }
        _ => {}
    }
    let meta = path.symlink_metadata().map_err(|e| file_error("cannot examine", &path, e))?;
    let closed = meta.mode() & 0o077 == 0;
    if meta.is_dir() && meta.uid() == rustix::process::geteuid().as_raw() && closed {
        return Ok(path);
    }
    Err(Error::Rootless {
        message: format!(
            "`{}` is not a directory of this user alone, so no state can be kept there",
            path.display()
        ),
        help: "remove it, or let XDG_RUNTIME_DIR name a directory of yours (a login session has one)"
            .to_owned(),
    })
}

fn home(uid: u32) -> Result<PathBuf> {
    directory_named("HOME").or_else(|| account(uid).map(|account| account.home)).ok_or_else(|| {
        Error::Rootless {
            message: format!("user {uid} has no home directory to keep images and volumes in"),
            help: "let XDG_DATA_HOME name a directory of yours".to_owned(),
        }
    })
}

/// What the system's user database has about a user.
struct Account {
    name: String,
    home: PathBuf,
}

fn account(uid: u32) -> Option<Account> {
    use std::{ffi::CStr, os::unix::ffi::OsStringExt};
    let mut buffer = vec![0; 16 << 10];
    // SAFETY: the entry is plain data for which zeroes are a value; the call fills it with pointers into
    // the buffer, which is read before it is dropped.
    unsafe {
        let mut entry: libc::passwd = std::mem::zeroed();
        let mut found = std::ptr::null_mut();
        libc::getpwuid_r(uid, &raw mut entry, buffer.as_mut_ptr(), buffer.len(), &raw mut found);
        if found.is_null() {
            return None;
        }
        let text = |field: *const libc::c_char| CStr::from_ptr(field).to_bytes().to_vec();
        Some(Account {
            name: String::from_utf8(text(entry.pw_name)).ok()?,
            home: OsString::from_vec(text(entry.pw_dir)).into(),
        })
    }
}

static ENTERED: OnceLock<u32> = OnceLock::new();

/// The user who has entered, by the number outside; `None` for root.
#[must_use]
pub fn user() -> Option<u32> {
    ENTERED.get().copied()
}

/// Whether containers of this user go on when the last session ends: systemd removes `$XDG_RUNTIME_DIR`
/// then and may end what runs, unless the user lingers (loginctl(1)). `None` where that is no question:
/// for root, without a runtime directory of systemd's.
#[must_use]
pub fn outlives_logout() -> Option<bool> {
    let uid = user().or_else(|| Some(rustix::process::getuid().as_raw()).filter(|uid| *uid != 0))?;
    let managed = directory_named("XDG_RUNTIME_DIR")? == Path::new("/run/user").join(uid.to_string());
    let lingers =
        account(uid).is_some_and(|user| Path::new("/var/lib/systemd/linger").join(user.name).exists());
    managed.then_some(lingers)
}

/// Brings this process into the user namespace of the state tree, made when there is none, with a view
/// of the mounts of its own. Does nothing for root. Must be called before any thread exists.
///
/// # Errors
/// [`Error::Rootless`] with the command that helps: no subordinate ids, no `newuidmap`, user namespaces
/// closed to ordinary users.
pub fn enter(run: &Path) -> Result<()> {
    if rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let uid = rustix::process::getuid().as_raw();
    make_dir(run)?;
    let path = run.join(MEMBERS);
    let _lock = lock::lock(&run.join(LOCK), |_| {})?;
    let mut members: Vec<Identity> = read_json(&path)?.unwrap_or_default();
    members.retain(Identity::lives);
    if !candidates(run, &members).any(|member| join(&member, uid)) {
        create(uid)?;
    }
    // SAFETY: integers only. What was entered is ours, so we need not hide from it: the files of this
    // process in /proc would be closed to its own children.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    rootfs::own_mounts().map_err(|error| obstacles::explain(&error, "mount anything in it"))?;
    members.extend(Identity::of(rustix::process::getpid().as_raw_nonzero().get()));
    // On a full disk others find the namespace by what runs in it; a `down` that makes room must go on.
    let _ = write_json(&path, &members);
    let _ = ENTERED.set(uid);
    Ok(())
}

/// Processes that may be in the namespace: commands, then what commands leave behind.
fn candidates<'a>(run: &Path, members: &'a [Identity]) -> impl Iterator<Item = Identity> + use<'a> {
    let of_groups = entries(&run.join("p")).unwrap_or_default();
    let roots = Roots { run: run.to_owned(), data: PathBuf::new() };
    let left = of_groups
        .into_iter()
        .filter_map(move |name| Group::new(&roots, &name).ok())
        .flat_map(|group| left_behind(&group));
    members.iter().cloned().chain(left)
}

fn left_behind(group: &Group) -> Vec<Identity> {
    let read = |name| read_json::<Identity>(&group.run().join(name)).ok().flatten();
    let mut found: Vec<Identity> = ["keeper.json", "supervisor.json"].into_iter().filter_map(read).collect();
    let containers = group.run().join("c");
    for id in entries(&containers).unwrap_or_default() {
        let state = read_json::<State>(&containers.join(id).join("state.json")).ok().flatten();
        found.extend(state.and_then(|state| state.process));
    }
    found
}

/// Enters the user namespace of a process, if that is one made by this user from here.
fn join(member: &Identity, uid: u32) -> bool {
    let path = format!("/proc/{}/ns/user", member.pid);
    let Ok(namespace) = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    // What was opened was that of this process only if it lives still.
    member.lives()
        && owner(&namespace) == Some(uid)
        && parent(&namespace).is_some_and(|parent| is_here(&parent))
        && move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::User))
            .is_ok()
}

/// `NS_GET_OWNER_UID` (ioctl_nsfs(2)).
fn owner(namespace: &OwnedFd) -> Option<u32> {
    let mut uid = 0_u32;
    // SAFETY: the kernel writes one number, which lives through the call.
    let done = unsafe { libc::ioctl(namespace.as_raw_fd(), 0xb704, &raw mut uid) };
    (done == 0).then_some(uid)
}

/// `NS_GET_PARENT` (ioctl_nsfs(2)).
fn parent(namespace: &OwnedFd) -> Option<OwnedFd> {
    // SAFETY: the call takes no argument; what it returns is a new descriptor of ours.
    unsafe {
        let fd = libc::ioctl(namespace.as_raw_fd(), 0xb702);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd))
    }
}

fn is_here(namespace: &OwnedFd) -> bool {
    let theirs = rustix::fs::fstat(namespace).map(|stat| (stat.st_dev, stat.st_ino));
    let ours = rustix::fs::stat("/proc/self/ns/user").map(|stat| (stat.st_dev, stat.st_ino));
    theirs.is_ok() && theirs == ours
}

/// A new namespace. Its ids are written from outside, by a child that stays there until we are in.
fn create(uid: u32) -> Result<()> {
    let name = account(uid).map_or_else(|| uid.to_string(), |account| account.name);
    let users = Ranges::of(subids::Kind::User, &name, uid)?;
    let groups = Ranges::of(subids::Kind::Group, &name, uid)?;
    let gid = rustix::process::getgid().as_raw();
    let me = rustix::process::getpid();
    let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(failed("cannot make a pipe"));
    let ((go_reader, go), (told, teller)) = (pipe()?, pipe()?);
    // SAFETY: no thread exists, so the child may go on as an ordinary program.
    let helper = match unsafe { libc::fork() } {
        -1 => {
            return Err(Error::System {
                what: "cannot fork".into(),
                source: std::io::Error::last_os_error(),
            });
        }
        0 => {
            drop((go, told));
            // Nothing comes when the other side failed.
            if File::from(go_reader).read_exact(&mut [0]).is_ok() {
                let mapped = users.map(me, uid).and_then(|()| groups.map(me, gid));
                if let Err(text) = mapped {
                    let _ = File::from(teller).write_all(text.as_bytes());
                }
            }
            // SAFETY: leaves without running what belongs to the process it was forked from.
            unsafe { libc::_exit(0) }
        }
        pid => pid,
    };
    drop((go_reader, teller));
    // SAFETY: a new user namespace invalidates nothing that Rust relies on; one thread only.
    let entered = unsafe { unshare_unsafe(UnshareFlags::NEWUSER) };
    let mut text = String::new();
    if entered.is_ok() {
        let _ = File::from(go).write_all(b"m");
        let _ = File::from(told).read_to_string(&mut text);
    } else {
        drop(go);
    }
    let _ = waitpid(Pid::from_raw(helper), WaitOptions::empty());
    entered.map_err(|e| obstacles::explain(&failed("cannot make a user namespace")(e), "make one"))?;
    if text.is_empty() { Ok(()) } else { Err(subids::refused(&name, &text)) }
}

impl Ranges {
    /// Lets the set-uid helper write the map of a process: its root is `own`, the rest follow.
    fn map(&self, process: Pid, own: u32) -> Result<(), String> {
        let program = self.kind.helper();
        let mut command = Command::new(program);
        command.arg(process.as_raw_nonzero().to_string()).args(["0", &own.to_string(), "1"]);
        for (inside, first, count) in self.placed() {
            command.args([inside, first, count].map(|number| number.to_string()));
        }
        let output = command.output().map_err(|e| format!("cannot run `{program}`: {e}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_in_tmp_must_be_ours_alone() {
        let dir = tempfile::tempdir().unwrap();
        let made = own_dir(dir.path().join("new")).unwrap();
        assert_eq!(made.metadata().unwrap().mode() & 0o777, 0o700);
        own_dir(made.clone()).unwrap();

        std::fs::set_permissions(&made, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        assert!(matches!(own_dir(made.clone()), Err(Error::Rootless { .. })), "open to others");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(matches!(own_dir(link), Err(Error::Rootless { .. })), "a link");
    }

    #[test]
    fn the_user_database_is_asked_by_number() {
        assert_eq!(account(0).unwrap().name, "root");
        assert!(account(u32::MAX - 7).is_none());
    }

    #[test]
    fn our_own_namespace_is_no_child_of_ours() {
        let me = Identity::of(rustix::process::getpid().as_raw_nonzero().get()).unwrap();
        assert!(!join(&me, rustix::process::getuid().as_raw()));
    }
}
