//! The root filesystem of a container: an overlay of layers and one writable directory, mounted in
//! the caller's own mount namespace so that the host's never sees it.

use std::{
    ffi::OsString,
    fs,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStringExt,
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, mkdirat, openat, openat2, statat},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
        OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
        mount_change, move_mount, open_tree,
    },
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe},
};
use serde_json::Value;

use super::{
    Error, Result, Upper, rootless,
    state::{failed, make_dir},
};

/// Leaves the host's mount namespace: from here on mounts of this process are its own, while those
/// the host makes or removes are still followed. Only for a process with a single thread, or a thread that
/// ends soon.
pub fn own_mounts() -> Result<()> {
    // SAFETY: a new mount namespace invalidates nothing that Rust relies on; it is this thread's only.
    unsafe { unshare_unsafe(UnshareFlags::NEWNS) }.map_err(failed("cannot leave the mount namespace"))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)
        .map_err(failed("cannot separate mounts from those of the host"))
}

/// How mounts pass to and from those of a document, by their places: the launcher does not carry that out.
pub fn propagations(document: &Value) -> Vec<(PathBuf, MountPropagationFlags)> {
    let asked = |mount: &Value| {
        let options = mount["options"].as_array()?.iter().filter_map(Value::as_str);
        Some((mount["destination"].as_str()?.into(), options.filter_map(propagation).next_back()?))
    };
    document["mounts"].as_array().into_iter().flatten().filter_map(asked).collect()
}

/// As an option of a mount has it.
pub fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let (kind, below) = match option {
        "rshared" | "rslave" | "rprivate" | "runbindable" => (&option[1..], MountPropagationFlags::REC),
        _ => (option, MountPropagationFlags::empty()),
    };
    let kind = match kind {
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "private" => MountPropagationFlags::PRIVATE,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | below)
}

/// Carries that out for a process that has mounts of its own and whose program does not run yet. The caller has
/// a single thread; one that it made for this could not be, once its children have process numbers of their own.
pub fn propagate(pid: i32, wanted: &[(PathBuf, MountPropagationFlags)]) -> Result<()> {
    let theirs = format!("/proc/{pid}/ns/mnt");
    if wanted.is_empty() || fs::read_link(&theirs).ok() == fs::read_link("/proc/self/ns/mnt").ok() {
        return Ok(());
    }
    let find = |path: &str| {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        openat(CWD, path, flags, Mode::empty()).map_err(failed("cannot find its mounts"))
    };
    let enter = |namespace: &OwnedFd| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
            .map_err(failed("cannot reach its mounts"))
    };
    let (ours, theirs) = (find("/proc/self/ns/mnt")?, find(&theirs)?);
    enter(&theirs)?;
    let set = wanted.iter().try_for_each(|(place, flags)| {
        let place = Path::new("/").join(place);
        mount_change(&place, *flags)
            .map_err(failed(format!("cannot separate the mount at `{}`", place.display())))
    });
    enter(&ours)?;
    set
}

/// Whether what the host mounts later is to be seen, or more.
pub fn passes(wanted: MountPropagationFlags) -> bool {
    wanted.intersects(MountPropagationFlags::SHARED | MountPropagationFlags::DOWNSTREAM)
}

/// What is mounted at a path of the host, to be mounted in a container so that mounts pass between them. Before
/// the mounts of this process are its own.
pub fn passing(path: &Path, wanted: MountPropagationFlags) -> Result<OwnedFd> {
    let fd = open_path(path)?;
    let what = |source| Error::File { what: "cannot examine", path: path.to_owned(), source };
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).map_err(what)?;
    let number = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).unwrap_or_default().trim();
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(what)?;
    let mount = mounts.lines().find(|line| line.split(' ').next() == Some(number)).unwrap_or_default();
    let both = wanted.contains(MountPropagationFlags::SHARED);
    if mount.contains(" shared:") || (!both && mount.contains(" master:")) {
        return copied(fd.as_fd());
    }
    let (path, kind) = (path.display(), if both { "shared" } else { "shared or slave" });
    Err(Error::Invalid(format!(
        "`{path}` is not on a {kind} mount, so no mount passes to or from it (mount(8))"
    )))
}

/// The writable part: where it is, and made when missing.
pub fn upper_dirs(upper: &Upper, own: &Path) -> Result<(PathBuf, PathBuf)> {
    let (fs, work) = match upper {
        Upper::Own => (own.join("upper"), own.join("work")),
        Upper::Dir(dir) => (dir.join("fs"), dir.join("work")),
    };
    if !fs.exists() {
        make_dir(&fs)?;
        // The root directory of a container is open to all its users.
        fs::set_permissions(&fs, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .map_err(|source| Error::File { what: "cannot open to all", path: fs.clone(), source })?;
    }
    make_dir(&work)?;
    Ok((fs, work))
}

/// Mounts the overlay at `target`; `layers` has the base first.
pub fn mount(layers: &[PathBuf], upper: &Path, work: &Path, target: &Path) -> Result<()> {
    let what = || format!("cannot mount the root filesystem at `{}`", target.display());
    let layers = layers
        .iter()
        .rev()
        .map(|layer| {
            openat(CWD, layer, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .map_err(|e| Error::File { what: "cannot open layer", path: layer.clone(), source: e.into() })
        })
        .collect::<Result<Vec<OwnedFd>>>()?;
    let upper = open_path(upper)?;
    let work = open_path(work)?;
    match mount_new(&layers, &upper, &work, target) {
        // Kernels before 6.5 know no `lowerdir+`.
        Err(Errno::INVAL | Errno::NOSYS) => mount_old(&layers, &upper, &work, target),
        other => other,
    }
    .map_err(failed(what()))
}

/// What layers (the base first) hold together, to be read only, or what stands at a path in it.
pub fn view(layers: &[PathBuf], at: &Path, subpath: Option<&str>) -> Result<OwnedFd> {
    let part = |name: &str| {
        let path = at.join(name);
        make_dir(&path).map(|()| path)
    };
    make_dir(at)?;
    let (upper, work, target) = (part("upper")?, part("work")?, part("all")?);
    fs::set_permissions(&upper, std::os::unix::fs::PermissionsExt::from_mode(0o755))
        .map_err(|source| Error::File { what: "cannot open to all", path: upper.clone(), source })?;
    mount(layers, &upper, &work, &target)?;
    let root = open_path(&target)?;
    match subpath {
        None => Ok(root),
        Some(path) => open_inside(root.as_fd(), path, OFlags::PATH)
            .map_err(failed(format!("cannot open `{path}` in the image"))),
    }
}

/// What a kernel may do by default and we must not have: attributes in the upper directory by which the
/// content of a file comes from elsewhere, which whoever writes that directory (an image) could forge.
const PLAIN: [(&str, &str); 3] = [("redirect_dir", "off"), ("metacopy", "off"), ("index", "off")];

/// With `userxattr` the first two are off and may not even be said to be.
fn plain() -> &'static [(&'static str, &'static str)] {
    if rootless::is_confined() { &PLAIN[2..] } else { &PLAIN }
}

/// Short whatever the path: values of fsconfig end at 255 bytes.
fn name_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn mount_new(layers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd, target: &Path) -> Result<(), Errno> {
    let mounted = detached(layers, upper, work)?;
    move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
}

/// The root filesystem of a container that does not run, mounted nowhere: it goes with the descriptor.
pub fn open_detached(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd> {
    let layers = layers.iter().rev().map(|layer| open_path(layer)).collect::<Result<Vec<_>>>()?;
    let mounted = detached(&layers, &open_path(upper)?, &open_path(work)?);
    mounted.map_err(failed("cannot mount the root filesystem"))
}

/// A tree of files as a container sees them, for as long as this is held.
#[derive(Debug)]
pub struct Files {
    root: OwnedFd,
    /// The mount namespace in which something is mounted below the root.
    _mounts: Option<OwnedFd>,
}

impl From<OwnedFd> for Files {
    fn from(root: OwnedFd) -> Self {
        Self { root, _mounts: None }
    }
}

impl AsFd for Files {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// What is to be seen at a path of a container.
pub struct Shown {
    pub target: String,
    pub read_only: bool,
    pub source: OwnedFd,
}

/// The same with what the container mounts, in a mount namespace of its own. `at` is any directory: it is
/// covered there, and there alone. `shown` is given the root.
pub fn open_whole(
    layers: &[PathBuf],
    upper: &Path,
    work: &Path,
    at: &Path,
    shown: impl FnOnce(BorrowedFd<'_>) -> Result<Vec<Shown>> + Send,
) -> Result<Files> {
    let build = || {
        let root = open_detached(layers, upper, work)?;
        own_mounts()?;
        move_mount(&root, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .map_err(failed("cannot mount the root filesystem"))?;
        for Shown { target, read_only, source } in shown(root.as_fd())? {
            let target = place_for(root.as_fd(), &target, source.as_fd())?;
            put(&copied(source.as_fd())?, &target).map_err(failed("cannot mount a volume"))?;
            if read_only {
                // The descriptor is of what is covered now: its path leads to what covers it.
                let path = fs::read_link(format!("/proc/self/fd/{}", target.as_raw_fd()));
                let path = path.map_err(|source| Error::System {
                    what: "cannot find a mount again".to_owned(),
                    source,
                })?;
                let read_only = MountFlags::BIND | MountFlags::RDONLY;
                rustix::mount::mount_remount(path, read_only, c"")
                    .map_err(failed("cannot protect a mount"))?;
            }
        }
        let mounts = open_path("/proc/thread-self/ns/mnt".as_ref())?;
        Ok(Files { root, _mounts: Some(mounts) })
    };
    // A thread has mounts of its own; the others of this process keep theirs.
    std::thread::scope(|scope| scope.spawn(build).join())
        .unwrap_or_else(|_| Err(Error::Helper("bug while opening the files of a container".to_owned())))
}

/// Where something is mounted: a directory or a file, as it is itself.
fn place_for(root: BorrowedFd<'_>, target: &str, source: BorrowedFd<'_>) -> Result<OwnedFd> {
    let stat = rustix::fs::fstat(source).map_err(failed("cannot examine a mount source"))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return make_dirs(root, target, 0, 0);
    }
    if let Ok(there) = open_inside(root, target, OFlags::PATH | OFlags::CLOEXEC) {
        return Ok(there);
    }
    let (parent, name) = target.rsplit_once('/').unwrap_or(("", target));
    let parent = make_dirs(root, parent, 0, 0)?;
    let flags = OFlags::CREATE | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
    openat(&parent, name, flags, Mode::from_raw_mode(0o644))
        .map_err(failed("cannot make a file in the container"))
}

fn detached(layers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> Result<OwnedFd, Errno> {
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in layers {
        fsconfig_set_string(context.as_fd(), "lowerdir+", name_of(layer))?;
    }
    fsconfig_set_string(context.as_fd(), "upperdir", name_of(upper))?;
    fsconfig_set_string(context.as_fd(), "workdir", name_of(work))?;
    if rootless::is_confined() {
        fsconfig_set_flag(context.as_fd(), "userxattr")?;
    }
    for &(option, value) in plain() {
        match fsconfig_set_string(context.as_fd(), option, value) {
            // A kernel that does not know it cannot do it either.
            Ok(()) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn mount_old(layers: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd, target: &Path) -> Result<(), Errno> {
    let lower = layers.iter().map(name_of).collect::<Vec<_>>().join(":");
    let marks = if rootless::is_confined() { ",userxattr" } else { "" };
    let options = format!("lowerdir={lower},upperdir={},workdir={}{marks}", name_of(upper), name_of(work));
    let plain =
        plain().iter().fold(options.clone(), |all, (option, value)| format!("{all},{option}={value}"));
    let mount = |options: String| {
        let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
        rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
    };
    match mount(plain) {
        // A kernel that does not know one of them.
        Err(Errno::INVAL) => mount(options),
        other => other,
    }
}

/// Attaches what stands at `source` (an `O_PATH` descriptor: no path is walked again) at `target`.
pub fn attach(source: BorrowedFd<'_>, target: &Path) -> Result<()> {
    attach_tree(copied(source)?.as_fd(), target)
}

/// Attaches a mount that is attached nowhere.
pub fn attach_tree(tree: BorrowedFd<'_>, target: &Path) -> Result<()> {
    let what = || format!("cannot mount at `{}`", target.display());
    move_mount(tree, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH).map_err(failed(what()))
}

/// Mounts what is mounted nowhere yet at a place that is open.
pub fn put(mounted: &OwnedFd, at: &OwnedFd) -> Result<(), Errno> {
    // Without the second flag the target would be looked up by a name.
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mounted, "", at, "", flags)
}

/// A file system of its own, mounted nowhere. An option without a value is a flag.
pub fn create(
    kind: &str,
    source: &str,
    options: &[(&str, &str)],
    attributes: MountAttrFlags,
) -> Result<OwnedFd, Errno> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", source)?;
    for (option, value) in options {
        if value.is_empty() {
            fsconfig_set_flag(context.as_fd(), *option)?;
        } else {
            fsconfig_set_string(context.as_fd(), *option, *value)?;
        }
    }
    fsconfig_create(context.as_fd())?;
    fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}

/// What is mounted there, once more, to be mounted elsewhere.
fn copied(source: BorrowedFd<'_>) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(source, "", flags).map_err(failed("cannot copy a mount"))
}

/// Refuses a root filesystem whose /dev, /proc or /sys is a link: what is mounted there could land
/// on the host (CVE-2026-41579 and its kin).
pub fn refuse_links(root: BorrowedFd<'_>) -> Result<()> {
    for name in ["dev", "proc", "sys"] {
        match statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {}
            Err(Errno::NOENT) => {}
            Ok(_) => return Err(Error::Invalid(format!("the image's /{name} is not a directory"))),
            Err(e) => return Err(failed(format!("cannot examine the image's /{name}"))(e)),
        }
    }
    Ok(())
}

/// Makes directory `path` (absolute) and its parents below `root`, never following a link out of it.
pub fn make_dirs(root: BorrowedFd<'_>, path: &str, uid: u32, gid: u32) -> Result<OwnedFd> {
    let what = || format!("cannot make directory `{path}` in the container");
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut at = openat2(root, ".", flags, Mode::empty(), ResolveFlags::IN_ROOT).map_err(failed(what()))?;
    let mut walked = String::new();
    for part in Path::new(path).components() {
        let Component::Normal(name) = part else { continue };
        walked.push('/');
        walked.push_str(&name.to_string_lossy());
        // From the root again: a link on the way may be absolute.
        at = match open_inside(root, &walked, flags) {
            Ok(fd) => fd,
            Err(Errno::NOENT) => {
                mkdirat(&at, name, Mode::from_raw_mode(0o755)).map_err(failed(what()))?;
                let made = openat(&at, name, flags | OFlags::NOFOLLOW, Mode::empty());
                let made = made.map_err(failed(what()))?;
                if (uid, gid) != (0, 0) {
                    let owner = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
                    rustix::fs::chownat(&made, "", Some(owner.0), Some(owner.1), AtFlags::EMPTY_PATH)
                        .map_err(failed(what()))?;
                }
                made
            }
            Err(Errno::NOTDIR) => {
                return Err(Error::Invalid(format!("`{walked}` in the container is not a directory")));
            }
            Err(e) => return Err(failed(what())(e)),
        };
    }
    Ok(at)
}

/// Opens `path` below `root` as a process in the container would, links included.
pub fn open_inside(root: BorrowedFd<'_>, path: &str, flags: OFlags) -> Result<OwnedFd, Errno> {
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)
}

pub fn open_path(path: &Path) -> Result<OwnedFd> {
    openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(|e| Error::File {
        what: "cannot open",
        path: path.to_owned(),
        source: e.into(),
    })
}

/// Where a path leads below `root`, through its links, whether or not there is anything.
pub fn led_to(root: BorrowedFd<'_>, path: &str) -> Result<PathBuf> {
    /// As many as the kernel follows.
    const MOST: usize = 40;
    let parts = |path: &Path| -> Vec<OsString> {
        path.components()
            .rev()
            .filter(|part| !matches!(part, Component::RootDir | Component::CurDir))
            .map(|part| part.as_os_str().to_owned())
            .collect()
    };
    let mut open = parts(Path::new(path));
    let mut at = PathBuf::from("/");
    let mut links = 0;
    while let Some(part) = open.pop() {
        if part == ".." {
            at.pop();
            continue;
        }
        let next = at.join(&part);
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let link = openat2(root, &next, flags, Mode::empty(), resolve)
            .and_then(|found| rustix::fs::readlinkat(found, "", Vec::new()));
        // What is no link, or is not there.
        let Ok(link) = link else {
            at = next;
            continue;
        };
        links += 1;
        if links > MOST {
            return Err(Error::Invalid(format!("`{path}` leads through too many links")));
        }
        let link = PathBuf::from(OsString::from_vec(link.into_bytes()));
        if link.is_absolute() {
            at = PathBuf::from("/");
        }
        open.extend(parts(&link));
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn a_path_leads_where_its_links_lead_and_never_out() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("dir")).unwrap();
        for (name, to) in
            [("way", "/proc/sys"), ("dir/up", "../../../proc"), ("a", "b"), ("b", "a"), ("in", "dir")]
        {
            symlink(to, root.path().join(name)).unwrap();
        }
        let root = open_path(root.path()).unwrap();
        for (path, led) in [
            ("/data/x", "/data/x"),
            ("/way/net", "/proc/sys/net"),
            ("/dir/up/self", "/proc/self"),
            ("/in/up", "/proc"),
            ("/in/./x/../y", "/dir/y"),
            ("/../..", "/"),
        ] {
            assert_eq!(led_to(root.as_fd(), path).unwrap(), Path::new(led), "{path}");
        }
        assert!(led_to(root.as_fd(), "/a/x").is_err(), "links in a circle");
    }

    #[test]
    fn directories_are_made_inside_even_through_hostile_links() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let outside = dir.path().join("outside");
        fs::create_dir_all(root.join("real")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("absolute")).unwrap();
        symlink("../../../../../../real", root.join("relative")).unwrap();
        symlink("loop", root.join("loop")).unwrap();
        let fd = open_path(&root).unwrap();

        make_dirs(fd.as_fd(), "/relative/a/b", 5, 6).unwrap();
        let made = fs::metadata(root.join("real/a/b")).unwrap();
        assert!(made.is_dir());
        assert_eq!(std::os::unix::fs::MetadataExt::uid(&made), 5);

        assert!(make_dirs(fd.as_fd(), "/absolute/x", 0, 0).is_err(), "its target is missing inside");
        assert!(make_dirs(fd.as_fd(), "/loop/x", 0, 0).is_err());
        make_dirs(fd.as_fd(), "/../../up", 0, 0).unwrap();
        assert!(root.join("up").is_dir());
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        assert!(!dir.path().join("up").exists());
    }

    #[test]
    fn a_root_with_links_for_dev_proc_or_sys_is_refused() {
        for name in ["dev", "proc", "sys"] {
            for target in ["/tmp", "usr"] {
                let dir = tempfile::tempdir().unwrap();
                fs::create_dir(dir.path().join("usr")).unwrap();
                symlink(target, dir.path().join(name)).unwrap();
                let root = open_path(dir.path()).unwrap();
                assert!(matches!(refuse_links(root.as_fd()), Err(Error::Invalid(_))), "{name} -> {target}");
            }
        }
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("dev")).unwrap();
        refuse_links(open_path(dir.path()).unwrap().as_fd()).unwrap();
    }
}
