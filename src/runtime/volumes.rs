//! Volumes: named directories on disk that outlive containers, filled once from the image.
//!
//! A volume is `<data>/volumes/<name>/` with `meta.json` and `_data`. It exists when its directory
//! does; it is made aside and renamed in, so it is never seen half made.

use std::{
    ffi::CString,
    fs::{self, File},
    io::{self, Write},
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{
        AtFlags, CWD, Dir, FileType, FlockOperation, Gid, Mode, OFlags, RawMode, RenameFlags, Timespec,
        Timestamps, Uid, XattrFlags, chownat, fchmod, fchown, fgetxattr, flistxattr, flock, fsetxattr,
        futimens, linkat, mkdirat, mknodat, openat, readlinkat, renameat_with, statat, symlinkat, utimensat,
    },
    io::Errno,
};

use super::{
    Error, Result, Roots, VolumeConfig, VolumeMount, VolumeRecord,
    failpoint::{Point, reached},
};

const META: &str = "meta.json";
const DATA: &str = "_data";
/// Marks a volume that was filled, or was used before it could be: it is never filled again.
const SEEDED: &str = "seeded";

/// Where the files of a volume are.
#[must_use]
pub fn data_dir(roots: &Roots, name: &str) -> PathBuf {
    volume_dir(roots, name).join(DATA)
}

fn volumes_dir(roots: &Roots) -> PathBuf {
    roots.data.join("volumes")
}

fn volume_dir(roots: &Roots, name: &str) -> PathBuf {
    volumes_dir(roots).join(name)
}

/// Docker's rule for volume names, which also keeps them single path components.
fn checked(name: &str) -> Result<()> {
    let word = |c: char| c.is_ascii_alphanumeric();
    let ok =
        name.len() <= 255 && name.starts_with(word) && name.chars().all(|c| word(c) || "_.-".contains(c));
    if ok {
        return Ok(());
    }
    Err(Error::Invalid(format!(
        "`{name}` is not a valid volume name: letters, digits, `_`, `.` and `-`, beginning with a letter or digit"
    )))
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::File { what, path: path.to_owned(), source }
}

/// Makes a volume; one that exists is left as it is.
pub fn create(roots: &Roots, config: &VolumeConfig) -> Result<()> {
    checked(&config.name)?;
    let (all, dir) = (volumes_dir(roots), volume_dir(roots, &config.name));
    if dir.exists() {
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(&all).map_err(failed("make", &all))?;
    let _making = working(&all)?;
    let aside =
        tempfile::Builder::new().prefix(".new-").tempdir_in(&all).map_err(failed("make volume in", &all))?;
    let data = aside.path().join(DATA);
    fs::DirBuilder::new().mode(0o755).create(&data).map_err(failed("make", &data))?;
    // The umask of the caller must not decide who may enter a volume.
    fs::set_permissions(&data, fs::Permissions::from_mode(0o755)).map_err(failed("set mode of", &data))?;
    let meta = aside.path().join(META);
    let json = serde_json::to_vec_pretty(config).map_err(|e| failed("write", &meta)(e.into()))?;
    let write = || {
        let mut file = File::create(&meta)?;
        file.write_all(&json)?;
        file.sync_all()
    };
    write().map_err(failed("write", &meta))?;
    reached(Point::VolumeAside);
    match renameat_with(CWD, aside.path(), CWD, &dir, RenameFlags::NOREPLACE) {
        Ok(()) => {
            let _ = aside.keep(); // Moved: there is nothing at the old path to remove.
            Ok(())
        }
        Err(Errno::EXIST) => Ok(()), // Another process made it meanwhile.
        Err(error) => Err(failed("make volume", &dir)(error.into())),
    }
}

/// Where the files of a volume are, what it mounts being mounted. Only in the mount namespace that its
/// users come from: all of them see the same.
///
/// # Errors
/// [`Error::NoVolume`], and what the kernel says to the mount.
pub fn ready(roots: &Roots, name: &str) -> Result<PathBuf> {
    let (data, dir) = (data_dir(roots, name), volume_dir(roots, name));
    if !data.exists() {
        return Err(Error::NoVolume(name.to_owned()));
    }
    let Some(wanted) = read(&dir)?.mount else { return Ok(data) };
    // Containers that start side by side mount it once.
    let _lock = locked(&dir)?;
    if !is_mounted(&data)? {
        mount_at(&wanted, &data)?;
    }
    Ok(data)
}

/// Whether it was made with a container, and goes with the last that uses it.
#[must_use]
pub fn is_anonymous(roots: &Roots, name: &str) -> bool {
    read(&volume_dir(roots, name)).is_ok_and(|config| config.anonymous_of.is_some())
}

/// Whether its files are on something that is mounted there.
#[must_use]
pub fn mounts(roots: &Roots, name: &str) -> bool {
    read(&volume_dir(roots, name)).is_ok_and(|config| config.mount.is_some())
}

/// Takes what it mounts away; nothing uses it any more.
pub fn unmount(roots: &Roots, name: &str) -> Result<()> {
    let data = data_dir(roots, name);
    if data.exists() && is_mounted(&data)? {
        rustix::mount::unmount(&data, rustix::mount::UnmountFlags::DETACH)
            .map_err(|e| failed("unmount volume", &data)(e.into()))?;
    }
    Ok(())
}

fn read(dir: &Path) -> Result<VolumeConfig> {
    let meta = dir.join(META);
    let text = fs::read(&meta).map_err(failed("read", &meta))?;
    serde_json::from_slice(&text).map_err(|e| failed("read", &meta)(e.into()))
}

fn locked(dir: &Path) -> Result<File> {
    let lock = File::open(dir).map_err(failed("open volume", dir))?;
    rustix::io::retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive))
        .map_err(|e| failed("lock volume", dir)(e.into()))?;
    Ok(lock)
}

/// Another mount stands there than above it.
fn is_mounted(data: &Path) -> Result<bool> {
    let id = |path: &Path| {
        rustix::fs::statx(CWD, path, AtFlags::empty(), rustix::fs::StatxFlags::MNT_ID)
            .map(|stat| stat.stx_mnt_id)
            .map_err(|e| failed("examine volume", path)(e.into()))
    };
    Ok(id(data)? != id(data.parent().unwrap_or(data))?)
}

/// As mount(8) does it for `-t kind -o options device`.
fn mount_at(wanted: &VolumeMount, data: &Path) -> Result<()> {
    use rustix::mount::MountFlags;
    let VolumeMount { kind, options, device } = wanted;
    let mut flags = MountFlags::empty();
    let mut rest: Vec<String> = Vec::new();
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => flags |= MountFlags::RDONLY,
            "noexec" => flags |= MountFlags::NOEXEC,
            "nosuid" => flags |= MountFlags::NOSUID,
            "nodev" => flags |= MountFlags::NODEV,
            "noatime" => flags |= MountFlags::NOATIME,
            "nodiratime" => flags |= MountFlags::NODIRATIME,
            "relatime" => flags |= MountFlags::RELATIME,
            "strictatime" => flags |= MountFlags::STRICTATIME,
            "sync" => flags |= MountFlags::SYNCHRONOUS,
            "bind" => flags |= MountFlags::BIND,
            "rbind" => flags |= MountFlags::BIND | MountFlags::REC,
            "rw" | "exec" | "suid" | "dev" | "defaults" | "async" | "_netdev" => {}
            other => rest.push(with_address(other)?),
        }
    }
    let told = |e: Errno| {
        let error: io::Error = e.into();
        Error::Invalid(format!(
            "`{device}` (type `{kind}`, options `{options}`) cannot be mounted as a volume: {error}"
        ))
    };
    if flags.contains(MountFlags::BIND) {
        let recursive = if flags.contains(MountFlags::REC) { MountFlags::REC } else { MountFlags::empty() };
        rustix::mount::mount(device.as_str(), data, "none", MountFlags::BIND | recursive, None)
            .map_err(told)?;
        let others = flags - MountFlags::BIND - MountFlags::REC;
        if !others.is_empty() {
            rustix::mount::mount_remount(data, MountFlags::BIND | others, "").map_err(told)?;
        }
        return Ok(());
    }
    let rest = CString::new(rest.join(",")).map_err(|e| failed("mount volume", data)(e.into()))?;
    rustix::mount::mount(device.as_str(), data, kind.as_str(), flags, rest.as_c_str()).map_err(told)
}

/// The kernel takes the address of a server (`addr=`) in numbers only.
fn with_address(option: &str) -> Result<String> {
    use std::net::{IpAddr, ToSocketAddrs};
    let Some(host) = option.strip_prefix("addr=").filter(|host| host.parse::<IpAddr>().is_err()) else {
        return Ok(option.to_owned());
    };
    let address = (host, 0).to_socket_addrs().ok().and_then(|mut found| found.next());
    let address =
        address.ok_or_else(|| Error::Invalid(format!("the server `{host}` of a volume is not known")))?;
    Ok(format!("addr={}", address.ip()))
}

/// Removes a volume and its data; whether it was there. The caller has made sure that no container
/// uses it.
pub fn remove(roots: &Roots, name: &str) -> Result<bool> {
    checked(name)?;
    let (all, dir) = (volumes_dir(roots), volume_dir(roots, name));
    if !dir.exists() {
        return Ok(false);
    }
    let _removing = working(&all)?;
    // What is mounted there is not ours to remove.
    unmount(roots, name)?;
    let grave = all.join(format!(".old-{name}-{}", std::process::id()));
    match fs::rename(&dir, &grave) {
        Ok(()) => {
            reached(Point::VolumeBuried);
            fs::remove_dir_all(&grave).map(|()| true).map_err(failed("remove", &grave))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(failed("remove volume", &dir)(error)),
    }
}

/// Held while something is being made or removed aside; it dies with its holder.
fn working(all: &Path) -> Result<File> {
    let file = File::open(all).map_err(failed("open", all))?;
    rustix::io::retry_on_intr(|| flock(&file, FlockOperation::LockShared))
        .map_err(|e| failed("lock", all)(e.into()))?;
    Ok(file)
}

/// Removes what makers and removers that were killed left aside. While one lives there is no telling
/// whose is what: then it is left to the next command.
pub fn sweep(roots: &Roots) -> Result<()> {
    let all = volumes_dir(roots);
    let Ok(entries) = fs::read_dir(&all) else { return Ok(()) };
    let hidden = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with('.');
    let aside: Vec<PathBuf> = entries.flatten().filter(hidden).map(|entry| entry.path()).collect();
    if aside.is_empty() {
        return Ok(());
    }
    let file = File::open(&all).map_err(failed("open", &all))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        return Ok(());
    }
    for path in aside {
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &path)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// All volumes, by name.
pub fn list(roots: &Roots) -> Result<Vec<VolumeRecord>> {
    let all = volumes_dir(roots);
    let entries = match fs::read_dir(&all) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(failed("list", &all)(error)),
    };
    let mut volumes = Vec::new();
    for entry in entries {
        let dir = entry.map_err(failed("list", &all))?.path();
        let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.starts_with('.') {
            continue;
        }
        let meta = dir.join(META);
        let json = match fs::read(&meta) {
            Ok(json) => json,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue, // Removed meanwhile.
            Err(error) => return Err(failed("read", &meta)(error)),
        };
        let config = serde_json::from_slice(&json).map_err(|e| failed("read", &meta)(e.into()))?;
        volumes.push(VolumeRecord { config, data: dir.join(DATA) });
    }
    volumes.sort_by(|a, b| a.config.name.cmp(&b.config.name));
    Ok(volumes)
}

/// Fills the volume whose data directory is `volume` with what the image has at its mount point
/// (`source`, a directory of the mounted root filesystem), unless it has been used before or holds
/// anything. Owners, modes, times, extended attributes, links and devices are kept.
pub fn seed(volume: &Path, source: BorrowedFd<'_>) -> Result<()> {
    let mark = volume.with_file_name(SEEDED);
    if mark.exists() {
        return Ok(());
    }
    // Replicas that start side by side fill it once.
    let home = volume.parent().unwrap_or(volume);
    let lock = File::open(home).map_err(failed("open volume", home))?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|e| failed("lock volume", home)(e.into()))?;
    if mark.exists() {
        return Ok(());
    }
    let mut entries = fs::read_dir(volume).map_err(failed("read volume", volume))?;
    if entries.next().is_none() {
        // A copy that was cut short has left no mark and is in the way of nobody: it is redone.
        let aside = volume.with_file_name("seeding");
        match fs::remove_dir_all(&aside) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed("remove", &aside)(error)),
        }
        fs::DirBuilder::new().mode(0o700).create(&aside).map_err(failed("make", &aside))?;
        let target = openat(CWD, &aside, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| failed("open", &aside)(e.into()))?;
        Copier::default().directory(source, target.as_fd()).map_err(failed("fill volume", volume))?;
        fs::rename(&aside, volume).map_err(failed("fill volume", volume))?;
    }
    File::create(&mark).map(drop).map_err(failed("mark volume", &mark))
}

/// Copies a tree by descriptors: no path of the image is ever followed.
#[derive(Debug, Default)]
struct Copier {
    /// First copy of each file with several links: (device, inode), and where it stands.
    links: std::collections::HashMap<(u64, u64), (OwnedFd, CString)>,
}

impl Copier {
    /// The content and the attributes of directory `from` to the open directory `to`.
    fn directory(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
        // An own descriptor: a Dir moves the offset, and O_PATH descriptors cannot be listed.
        let readable =
            openat(from, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        for entry in Dir::read_from(&readable)? {
            let entry = entry?;
            let name = entry.file_name();
            if name != c"." && name != c".." {
                self.entry(readable.as_fd(), to, name)?;
            }
        }
        attributes(readable.as_fd(), to)
    }

    fn entry(&mut self, from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &std::ffi::CStr) -> io::Result<()> {
        let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let linked = kind != FileType::Directory && stat.st_nlink > 1;
        if linked && let Some((dir, first)) = self.links.get(&(stat.st_dev, stat.st_ino)) {
            return Ok(linkat(dir, first, to, name, AtFlags::empty())?);
        }
        let open = |flags| openat(from, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
        match kind {
            FileType::Directory => {
                mkdirat(to, name, Mode::RWXU)?;
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let target = openat(to, name, flags, Mode::empty())?;
                self.directory(open(OFlags::RDONLY | OFlags::DIRECTORY)?.as_fd(), target.as_fd())?;
            }
            FileType::RegularFile => {
                let source = File::from(open(OFlags::RDONLY)?);
                let flags =
                    OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let mut target = File::from(openat(to, name, flags, Mode::RUSR | Mode::WUSR)?);
                io::copy(&mut &source, &mut target)?; // copy_file_range, or a reflink where the disk can.
                attributes(source.as_fd(), target.as_fd())?;
            }
            FileType::Symlink => {
                symlinkat(readlinkat(from, name, Vec::new())?, to, name)?;
                own(to, name, &stat)?;
            }
            _ => {
                mknodat(to, name, kind, Mode::from_raw_mode(stat.st_mode), stat.st_rdev)?;
                own(to, name, &stat)?;
                rustix::fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
            }
        }
        if linked {
            self.links.insert((stat.st_dev, stat.st_ino), (to.try_clone_to_owned()?, name.to_owned()));
        }
        Ok(())
    }
}

/// Owner and times of what cannot be opened.
fn own(dir: BorrowedFd<'_>, name: &std::ffi::CStr, stat: &rustix::fs::Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    let times = Timestamps {
        last_access: Timespec { tv_sec: stat.st_atime, tv_nsec: stat.st_atime_nsec.cast_signed() },
        last_modification: Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec.cast_signed() },
    };
    Ok(utimensat(dir, name, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Owner, mode, extended attributes and times of an open file, in the order in which none undoes
/// another (chown clears set-user-ID and capabilities; writing attributes touches the times).
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let meta = File::from(from.try_clone_to_owned()?).metadata()?;
    fchown(to, Some(Uid::from_raw(meta.uid())), Some(Gid::from_raw(meta.gid())))?;
    fchmod(to, Mode::from_raw_mode(meta.mode() as RawMode))?;
    let mut names = vec![0; 64 * 1024];
    let length = match flistxattr(from, &mut names) {
        Ok(length) => length,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    for name in names[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") || name.starts_with(b"user.overlay.") {
            continue; // Of the layer store, not of the image.
        }
        let name = CString::new(name)?;
        let mut value = vec![0; 64 * 1024];
        let length = fgetxattr(from, &name, &mut value)?;
        match fsetxattr(to, &name, &value[..length], XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let times = Timestamps {
        last_access: Timespec { tv_sec: meta.atime(), tv_nsec: meta.atime_nsec() },
        last_modification: Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() },
    };
    Ok(futimens(to, &times)?)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{lchown, symlink};

    use super::*;

    fn roots(dir: &Path) -> Roots {
        Roots::below(dir)
    }

    fn volume(roots: &Roots, name: &str) {
        create(roots, &VolumeConfig { name: name.into(), ..VolumeConfig::default() }).unwrap();
    }

    fn open_dir(path: &Path) -> File {
        File::open(path).unwrap()
    }

    #[test]
    fn a_volume_is_there_until_it_is_removed_and_making_it_twice_keeps_its_data() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        volume(&roots, "p_data");
        fs::write(data_dir(&roots, "p_data").join("row"), "1").unwrap();
        volume(&roots, "p_data");
        assert_eq!(fs::read(data_dir(&roots, "p_data").join("row")).unwrap(), b"1");
        assert_eq!(
            list(&roots).unwrap().iter().map(|v| v.config.name.as_str()).collect::<Vec<_>>(),
            ["p_data"]
        );
        remove(&roots, "p_data").unwrap();
        remove(&roots, "p_data").unwrap();
        assert_eq!(fs::read_dir(volumes_dir(&roots)).unwrap().count(), 0, "nothing is left");
    }

    #[test]
    fn a_name_cannot_leave_the_volumes_directory() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["", ".", "..", "../x", "a/b", "-a", "a b", ".hidden"] {
            let made =
                create(&roots(dir.path()), &VolumeConfig { name: name.into(), ..VolumeConfig::default() });
            assert!(matches!(made, Err(Error::Invalid(_))), "{name}");
        }
        assert!(!dir.path().join("data").exists());
    }

    #[test]
    fn seeding_keeps_owners_modes_links_and_attributes() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        volume(&roots, "v");
        let image = dir.path().join("image");
        fs::create_dir_all(image.join("sub")).unwrap();
        fs::write(image.join("sub/file"), "text").unwrap();
        fs::hard_link(image.join("sub/file"), image.join("again")).unwrap();
        symlink("/etc/passwd", image.join("link")).unwrap();
        rustix::fs::setxattr(image.join("sub/file"), c"user.note", b"kept", XattrFlags::empty()).unwrap();
        let owned = lchown(&image, Some(999), Some(998)).is_ok();
        fs::set_permissions(&image, fs::Permissions::from_mode(0o1770)).unwrap();
        fs::set_permissions(image.join("sub/file"), fs::Permissions::from_mode(0o4755)).unwrap();

        seed(&data_dir(&roots, "v"), open_dir(&image).as_fd()).unwrap();

        let data = data_dir(&roots, "v");
        let top = fs::metadata(&data).unwrap();
        assert_eq!(top.mode() & 0o7777, 0o1770);
        if owned {
            assert_eq!((top.uid(), top.gid()), (999, 998));
        }
        assert_eq!(fs::metadata(data.join("sub/file")).unwrap().mode() & 0o7777, 0o4755);
        assert_eq!(
            fs::metadata(data.join("sub/file")).unwrap().ino(),
            fs::metadata(data.join("again")).unwrap().ino()
        );
        assert_eq!(fs::read_link(data.join("link")).unwrap(), Path::new("/etc/passwd"));
        let mut value = [0; 16];
        let length = rustix::fs::getxattr(data.join("sub/file"), c"user.note", &mut value).unwrap();
        assert_eq!(&value[..length], b"kept");
    }

    #[test]
    fn a_volume_is_seeded_once_and_never_over_data() {
        let dir = tempfile::tempdir().unwrap();
        let roots = roots(dir.path());
        let image = dir.path().join("image");
        fs::create_dir(&image).unwrap();
        fs::write(image.join("default"), "image").unwrap();
        volume(&roots, "used");
        fs::write(data_dir(&roots, "used").join("mine"), "user").unwrap();
        seed(&data_dir(&roots, "used"), open_dir(&image).as_fd()).unwrap();
        assert!(!data_dir(&roots, "used").join("default").exists());

        volume(&roots, "fresh");
        seed(&data_dir(&roots, "fresh"), open_dir(&image).as_fd()).unwrap();
        fs::remove_file(data_dir(&roots, "fresh").join("default")).unwrap();
        seed(&data_dir(&roots, "fresh"), open_dir(&image).as_fd()).unwrap();
        assert!(!data_dir(&roots, "fresh").join("default").exists(), "what the user removed stays removed");
    }
}
