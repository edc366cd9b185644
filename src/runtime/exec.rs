//! A further program in a running container: its namespaces, control groups, user, capabilities and
//! seccomp filter, entered by ourselves. For a caller with a single thread.

use std::{
    fs::File,
    io::Read,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, WaitOptions, pidfd_open, waitpid},
    thread::{ThreadNameSpaceType, move_into_thread_name_spaces},
};

use super::{
    ContainerConfig, Error, ExecConfig, Result, cgroup,
    process::{self, ExecFailure, FailedAt, Program, tell},
    signal,
    state::{Identity, failed},
    users::{self, User},
    worker,
};

/// A program that can be run in a container as often as wanted.
#[derive(Debug)]
pub struct Exec {
    program: Program,
    user: User,
    cwd: String,
    rlimits: Vec<(i32, libc::rlimit64)>,
    /// Its streams are a terminal, which becomes that of its session.
    tty: bool,
    /// How soon it is ended when memory is short; as its caller when absent.
    oom_score_adj: Option<i32>,
}

/// It runs: a child of the caller, who must reap it.
#[derive(Debug)]
pub struct Running {
    pub pidfd: OwnedFd,
}

/// The step that fails when the caller named a directory that is not there.
const DIRECTORY: &str = "cannot enter the working directory";

impl Exec {
    /// As the container's own program is run, but for what `exec` says otherwise.
    pub fn new(config: &ContainerConfig, process: &Identity, exec: &ExecConfig) -> Result<Self> {
        let root = format!("/proc/{}/root", process.pid);
        let root = super::rootfs::open_path(root.as_ref())?;
        let user = exec.user.as_ref().unwrap_or(&config.user);
        let user = users::resolve(root.as_fd(), user, &config.groups)?;
        let mut asked = config.clone();
        asked.tty = exec.tty;
        for variable in &exec.env {
            asked.env.retain(|known| worker::name_of(known) != worker::name_of(variable));
            // A name alone takes the variable away.
            asked.env.extend(variable.contains('=').then(|| variable.clone()));
        }
        let mut program = Program::new(&exec.args, &worker::environment(&asked, &user))?;
        program.capabilities = if exec.privileged {
            process::EVERY_CAPABILITY
        } else {
            process::capability_set(&config.capabilities)?
        };
        program.no_new_privileges = config.no_new_privileges;
        program.filter = worker::filter(config)?;
        let cwd = match &exec.cwd {
            Some(cwd) => {
                let cwd = std::path::Path::new("/").join(&config.cwd).join(cwd).display().to_string();
                worker::check_cwd(&cwd)?;
                cwd
            }
            None => config.cwd.clone(),
        };
        let rlimits = config
            .rlimits
            .iter()
            .filter_map(|limit| Some((process::rlimit(&limit.kind)?, limit)))
            .map(|(kind, limit)| (kind, libc::rlimit64 { rlim_cur: limit.soft, rlim_max: limit.hard }))
            .collect();
        Ok(Self { program, user, cwd, rlimits, tty: exec.tty, oom_score_adj: config.oom_score_adj })
    }

    /// Whom it runs as.
    pub fn user(&self) -> &User {
        &self.user
    }

    /// Runs it with these streams; returns when it was executed.
    pub fn spawn(&self, process: &Identity, streams: &[OwnedFd; 3]) -> Result<Running> {
        let container = signal::pidfd(process)
            .ok_or_else(|| Error::Condition("the container does not run any more".to_owned()))?;
        let cgroups = cgroup::of_process(process.pid)?;
        let users = of_other_users(process);
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("cannot make a pipe"))?;
        // SAFETY: the caller has a single thread, so the child may go on as an ordinary program.
        match unsafe { libc::fork() } {
            -1 => Err(Error::System { what: "cannot fork".into(), source: std::io::Error::last_os_error() }),
            0 => {
                let failure = self.enter(&container, users, &cgroups, streams, &writer);
                tell(writer.as_raw_fd(), &Told::Failed(failure));
                // SAFETY: leaves without running what belongs to the process it was forked from.
                unsafe { libc::_exit(1) }
            }
            between => {
                drop(writer);
                let _ = waitpid(Pid::from_raw(between), WaitOptions::empty());
                hear(reader)
            }
        }
    }

    /// In the process between: into the container's groups and namespaces, then a sibling there,
    /// since a pid namespace counts from the next process on. Returns only on failure.
    fn enter(
        &self,
        container: &OwnedFd,
        users: ThreadNameSpaceType,
        cgroups: &[PathBuf],
        streams: &[OwnedFd; 3],
        report: &OwnedFd,
    ) -> ExecFailure {
        let step = |step: &str, e: rustix::io::Errno| ExecFailure {
            of: if step == DIRECTORY { FailedAt::Program } else { FailedAt::Engine },
            step: step.into(),
            errno: e.raw_os_error(),
        };
        // What the caller serves is not held by a program that waits, in a paused container perhaps.
        let [input, output, errors] = streams;
        process::close_all_but(&mut [container, input, output, errors, report].map(AsRawFd::as_raw_fd));
        // Nobody in there may look into our memory before it is gone.
        // SAFETY: integers only.
        unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
        if cgroup::enter(cgroups, 0).is_err() {
            return step("cannot enter the control groups", rustix::io::Errno::IO);
        }
        let all = users
            | ThreadNameSpaceType::MOUNT
            | ThreadNameSpaceType::PROCESS_ID
            | ThreadNameSpaceType::NETWORK
            | ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION
            | ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME
            | ThreadNameSpaceType::CONTROL_GROUP;
        if let Some(score) = self.oom_score_adj
            && let Err(e) = std::fs::write("/proc/self/oom_score_adj", score.to_string())
            // A lower one than the caller's own is root's to give.
            && e.kind() != std::io::ErrorKind::PermissionDenied
        {
            let errno = rustix::io::Errno::from_io_error(&e).unwrap_or(rustix::io::Errno::IO);
            return step("cannot set the score for want of memory", errno);
        }
        if let Err(e) = move_into_thread_name_spaces(container.as_fd(), all) {
            return step("cannot enter the container", e);
        }
        let flags = libc::c_ulong::from((libc::CLONE_PARENT | libc::SIGCHLD).cast_unsigned());
        // SAFETY: as fork, of a process with one thread; the new one is a child of our parent.
        match unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) } {
            -1 => {
                let error = std::io::Error::last_os_error();
                step("cannot fork", rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))
            }
            0 => {
                let failure = match self.inside(streams) {
                    Ok(()) => self.program.named(&rustix::system::uname()).become_it(),
                    Err((what, e)) => step(what, e),
                };
                tell(report.as_raw_fd(), &Told::Failed(failure));
                // SAFETY: as in `spawn`.
                unsafe { libc::_exit(127) }
            }
            pid => {
                tell(report.as_raw_fd(), &Told::Pid(i32::try_from(pid).unwrap_or(0)));
                // SAFETY: as in `spawn`.
                unsafe { libc::_exit(0) }
            }
        }
    }

    /// In the container: session, streams, directory, limits, user.
    fn inside(&self, streams: &[OwnedFd; 3]) -> Result<(), (&'static str, rustix::io::Errno)> {
        let in_step = |step: &'static str| move |e| (step, e);
        rustix::process::setsid().map_err(in_step("cannot make a session"))?;
        process::leave_keyring().map_err(in_step("cannot leave the keys of the host"))?;
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        rustix::stdio::dup2_stdin(&streams[0])
            .and_then(|()| rustix::stdio::dup2_stdout(&streams[1]))
            .and_then(|()| rustix::stdio::dup2_stderr(&streams[2]))
            .map_err(in_step("cannot set the streams"))?;
        if self.tty {
            rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
                .map_err(in_step("cannot take the terminal"))?;
        }
        // SAFETY: marks what is above the streams to close on exec; nothing is closed now.
        unsafe { libc::close_range(3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC.cast_signed()) };
        rustix::process::chdir(&self.cwd).map_err(in_step(DIRECTORY))?;
        for (kind, limit) in &self.rlimits {
            process::set_rlimit(*kind, limit).map_err(in_step("cannot set a limit"))?;
        }
        process::switch_user(&self.user).map_err(in_step("cannot become the user"))
    }
}

/// The user namespace of a process when it is another than ours: nobody can enter their own.
fn of_other_users(process: &Identity) -> ThreadNameSpaceType {
    let namespace = |of: &str| rustix::fs::stat(format!("/proc/{of}/ns/user")).ok().map(|stat| stat.st_ino);
    let theirs = namespace(&process.pid.to_string());
    if theirs.is_some() && theirs != namespace("self") {
        ThreadNameSpaceType::USER
    } else {
        ThreadNameSpaceType::empty()
    }
}

/// What comes over the pipe before the program is executed.
#[derive(serde::Serialize, serde::Deserialize)]
enum Told {
    Pid(i32),
    Failed(ExecFailure),
}

fn hear(reader: OwnedFd) -> Result<Running> {
    let mut text = Vec::new();
    File::from(reader)
        .read_to_end(&mut text)
        .map_err(|source| Error::System { what: "cannot hear the program".into(), source })?;
    let mut pid = None;
    for told in serde_json::Deserializer::from_slice(&text).into_iter::<Told>() {
        match told {
            Ok(Told::Pid(number)) => pid = Pid::from_raw(number),
            Ok(Told::Failed(failure)) => {
                if let Some(pid) = pid {
                    let _ = waitpid(Some(pid), WaitOptions::empty());
                }
                return Err(failure.into_error());
            }
            Err(_) => break,
        }
    }
    let pid = pid.ok_or_else(|| Error::Helper("the container ended meanwhile".to_owned()))?;
    let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(failed("cannot follow the program"))?;
    Ok(Running { pidfd })
}
