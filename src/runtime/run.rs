//! A container in the foreground: made, run to its end and removed, without keeper, log or group.
//! A process of its own stands between, since the caller has threads; when the caller dies, the
//! container does too.

use std::{
    fs,
    io::Read,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
    time::SystemTime,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags, openat2, statat, unlinkat},
    pipe::{PipeFlags, pipe_with},
    process::{WaitOptions, wait},
};

use super::{
    ContainerConfig, Error, Exit, NetworkNamespace, Result, Roots, Upper, cgroup, exe, gc, process,
    protocol::{self, Report, RunOrder, RunResult, Wire},
    rootfs, signal,
    state::{Group, Place, Spec, failed, plain_name, remove_dir},
    worker,
};

/// Name of the entry. Standard input is the socket of the caller, output and error are those of the
/// container.
pub const ENTRY: &str = "__run";

/// Runs `config` to its end; its output goes to `output` (true for stderr) as it comes. It is killed
/// when `cancel` becomes readable.
pub fn run(
    roots: &Roots,
    config: &ContainerConfig,
    output: &mut dyn FnMut(bool, &[u8]),
    cancel: Option<BorrowedFd<'_>>,
) -> Result<Exit> {
    plain_name("container", &config.id)?;
    plain_name("group", &config.group)?;
    if matches!(&config.network, NetworkNamespace::Own(networks) if !networks.is_empty()) {
        return Err(Error::Unsupported("networks of a foreground run: nobody would answer names".to_owned()));
    }
    let spec = Spec { config: config.clone(), created: SystemTime::now(), anonymous_volumes: Vec::new() };
    let (ours, theirs) = protocol::pair()?;
    let (out, out_end) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("cannot make a pipe"))?;
    let (err, err_end) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("cannot make a pipe"))?;
    let (mut command, _program) = exe::entry(ENTRY)?;
    let mut child = command
        .stdin(theirs)
        .stdout(out_end)
        .stderr(err_end)
        .spawn()
        .map_err(|source| Error::System { what: "cannot run ourselves".into(), source })?;
    // Its copies of the streams would keep ours open.
    drop(command);
    let result = protocol::send(ours.as_fd(), &RunOrder { roots: roots.clone(), spec }, &[]);
    let result = result.and_then(|()| {
        if !pass_on(out, err, output, cancel)? {
            return Err(Error::Condition("the run was cancelled".to_owned()));
        }
        protocol::receive::<RunResult>(ours.as_fd())
            .map_err(|source| Error::System { what: "cannot hear the container".into(), source })
    });
    drop(ours);
    let _ = child.wait();
    match result? {
        Some((RunResult::Ended { exit }, _)) => Ok(Exit::Code(exit)),
        Some((RunResult::Failed(wire), _)) => Err(wire.into()),
        None => Err(Error::Helper("the process that runs the container was killed".to_owned())),
    }
}

/// Until both streams are closed; false when it was cancelled before.
fn pass_on(
    out: OwnedFd,
    err: OwnedFd,
    output: &mut dyn FnMut(bool, &[u8]),
    cancel: Option<BorrowedFd<'_>>,
) -> Result<bool> {
    let mut streams = vec![(false, fs::File::from(out)), (true, fs::File::from(err))];
    let mut buffer = vec![0; 64 << 10];
    while !streams.is_empty() {
        let mut fds: Vec<_> = streams.iter().map(|(_, file)| PollFd::new(file, PollFlags::IN)).collect();
        fds.extend(cancel.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        match poll(&mut fds, None) {
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(e) => return Err(failed("cannot wait for output")(e)),
        }
        let mut ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.split_off(streams.len()).contains(&true) {
            return Ok(false);
        }
        let mut ready = ready.into_iter();
        streams.retain_mut(|(stderr, file)| {
            if !ready.next().unwrap_or(false) {
                return true;
            }
            match file.read(&mut buffer) {
                Ok(0) => false,
                Ok(length) => {
                    output(*stderr, buffer.get(..length).unwrap_or_default());
                    true
                }
                Err(e) => e.kind() == std::io::ErrorKind::Interrupted,
            }
        });
    }
    Ok(true)
}

/// The hidden entry.
pub fn entry() -> i32 {
    process::set_name("ficelle-run");
    process::close_all_but(&mut []);
    let _ = rustix::process::setsid();
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let Ok(socket) = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3) else { return 1 };
    let Ok(Some((order, _))) = protocol::receive::<RunOrder>(socket.as_fd()) else { return 1 };
    let RunOrder { roots, spec } = order;
    let result = match carry_out(&socket, &roots, spec) {
        Ok(exit) => RunResult::Ended { exit },
        Err(error) => RunResult::Failed(Wire::from(&error)),
    };
    let _ = protocol::send(socket.as_fd(), &result, &[]);
    0
}

fn carry_out(socket: &OwnedFd, roots: &Roots, spec: Spec) -> Result<i32> {
    let id = spec.config.id.clone();
    let cgroup = Group::new(roots, &spec.config.group)?.cgroup(&id);
    let dir = roots.run.join("once").join(&id);
    let place = Place { run: dir.clone(), data: dir.clone(), keeper: dir.join("keeper.json") };
    let _held = gc::hold_run(&dir, &spec.config.group)?;
    let made = made_by_mounts(&spec.config);
    let upper = spec.config.rootfs.upper.clone();
    let result = attend(socket, roots, &place, spec, cgroup.as_deref());
    if let Upper::Dir(dir) = &upper {
        remove_empty(&dir.join("fs"), &made);
    }
    if result.is_err() {
        // Nothing of a failed start may stay, and what is not collected still is in its group.
        cgroup.as_deref().into_iter().for_each(cgroup::kill);
        while wait(WaitOptions::empty()).is_ok() {}
    }
    let removed = cgroup.as_deref().map_or(Ok(()), cgroup::remove).and(remove_dir(&dir));
    let _ = fs::remove_dir(roots.run.join("once"));
    let exit = result?;
    removed?;
    Ok(exit)
}

/// From the fork of the worker to the end of the main process.
fn attend(socket: &OwnedFd, roots: &Roots, place: &Place, spec: Spec, cgroup: Option<&str>) -> Result<i32> {
    let signals = signal::descriptor(&[libc::SIGCHLD])?;
    let (ours, theirs) = protocol::pair()?;
    let job = {
        let (roots, place, cgroup) = (roots.clone(), place.clone(), cgroup.map(str::to_owned));
        move || {
            let stdio = streams()?;
            worker::start(worker::Job {
                roots,
                place,
                spec,
                cgroup,
                stdio: Some(stdio),
                bound: None,
                anchor: None,
                way_out: None,
            })
        }
    };
    let pid = worker::fork(&theirs, job)?;
    drop(theirs);
    // The caller waits for the end of the streams: from now on only the container has them.
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("cannot open /dev/null"))?;
    rustix::stdio::dup2_stdout(&null)
        .and_then(|()| rustix::stdio::dup2_stderr(&null))
        .map_err(failed("cannot leave the streams"))?;
    let heard = protocol::receive::<Report>(ours.as_fd())
        .map_err(|source| Error::System { what: "cannot hear the worker".into(), source })?;
    let started = match heard {
        Some((Report::Started(started), _)) => started,
        Some((Report::Failed(wire), _)) => return Err(wire.into()),
        _ => return Err(Error::Helper(format!("the worker (pid {pid}) was killed"))),
    };
    let main = started.process.pid;
    loop {
        while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
            if pid.as_raw_nonzero().get() == main {
                let signal = status.terminating_signal().map(|signal| 128 + signal);
                return Ok(status.exit_status().or(signal).unwrap_or(255));
            }
        }
        let mut fds = [PollFd::new(&signals, PollFlags::IN), PollFd::new(socket, PollFlags::HUP)];
        let _ = poll(&mut fds, None);
        let gone = fds[1].revents().intersects(PollFlags::HUP | PollFlags::ERR);
        if gone && let Some(pidfd) = signal::pidfd(&started.process) {
            let _ = signal::send(&pidfd, libc::SIGKILL);
        }
        signal::drain(signals.as_fd());
    }
}

fn streams() -> Result<[OwnedFd; 3]> {
    let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(failed("cannot open /dev/null"))?;
    let copy = |fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(failed("cannot copy a stream"));
    Ok([null, copy(rustix::stdio::stdout())?, copy(rustix::stdio::stderr())?])
}

/// Places in the caller's directory that only mounting makes: they are no result of the run.
fn made_by_mounts(config: &ContainerConfig) -> Vec<PathBuf> {
    let Upper::Dir(dir) = &config.rootfs.upper else { return Vec::new() };
    let ours = [
        "etc/resolv.conf",
        "etc/hosts",
        "etc/hostname",
        "proc",
        "sys",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "dev/mqueue",
        "dev",
        "etc",
    ];
    // With the directories they stand in, the deepest first.
    let own = config.mounts.iter().flat_map(|mount| {
        let target = Path::new(mount.target.trim_start_matches('/'));
        target.ancestors().filter(|path| !path.as_os_str().is_empty())
    });
    let missing = |path: &&Path| {
        let there = |root: &Path| root.join(path).symlink_metadata().is_ok();
        !there(&dir.join("fs")) && !config.rootfs.layers.iter().any(|layer| there(layer))
    };
    own.chain(ours.iter().map(Path::new)).filter(missing).map(PathBuf::from).collect()
}

/// Removes what is empty of `paths` below `root`. The container may have put links in their way:
/// none is followed, or files of the host would go (CVE-2024-23652).
fn remove_empty(root: &Path, paths: &[PathBuf]) {
    let Ok(root) = rootfs::open_path(root) else { return };
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    for path in paths {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { continue };
        let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
        let Ok(parent) = openat2(&root, parent, flags, Mode::empty(), resolve) else { continue };
        let Ok(stat) = statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
        let _ = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => unlinkat(&parent, name, AtFlags::REMOVEDIR),
            FileType::RegularFile if stat.st_size == 0 => unlinkat(&parent, name, AtFlags::empty()),
            _ => Ok(()),
        };
    }
}
