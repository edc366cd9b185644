//! Starting the main process of a container. This file and those below it alone know
//! libcontainer.
//!
//! libcontainer changes the process that calls it (directory, oom score, dumpable) and forks Rust
//! code, so it is called in a worker: a short-lived process of one thread. What it does not do well
//! is done in [`Exec`], which runs in the new process where libcontainer would execute the program:
//! the seccomp filter comes ready-made, signals are as a program expects them, and why a program
//! could not be executed is told with its errno.

pub mod bundle;
mod direct;

use std::{
    collections::HashMap,
    fs,
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::PathBuf,
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    notify_socket::NotifySocket,
    oci_spec::runtime::Spec,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError},
};
use rustix::pipe::{PipeFlags, pipe_with};
use serde_json::Value;

use super::{
    Error, Result, cgroup, init,
    process::{self, ExecFailure, FailedAt, Program, tell},
    rootfs, signal,
    state::{Identity, failed, make_dir, remove_dir, write_json},
};

/// What to start.
#[derive(Debug)]
pub struct Launch {
    pub id: String,
    /// The OCI document.
    pub document: Value,
    /// A directory for the launcher's own files, gone when the container is.
    pub scratch: PathBuf,
    pub program: Program,
    /// Reap orphans and forward signals in front of the program.
    pub init: bool,
    /// The container may look at its control groups and not change them.
    pub protect_cgroups: bool,
    /// What of them is still to be mounted.
    pub cgroups: cgroup::View,
    /// The caller is in them, and what it forks: there are no limits left to set.
    pub settled: bool,
    /// Directories made for devices; libcontainer lets everybody write there.
    pub device_dirs: Vec<PathBuf>,
    /// A terminal of its own is to be its controlling one.
    pub stdio: Stdio,
}

#[derive(Debug)]
pub enum Stdio {
    /// Standard input, output and error.
    Streams([OwnedFd; 3]),
    /// A socket that a terminal's master is sent to, by path.
    Console(PathBuf),
}

/// One way of starting containers. The new process is a child of the caller's parent, which learns
/// its end.
pub trait Launcher {
    /// Makes the process, up to where it would execute the program.
    fn create(&self, launch: Launch) -> Result<Box<dyn Created>>;
}

/// A process that waits to execute its program.
pub trait Created {
    fn process(&self) -> &Identity;
    /// Returns when the program was executed, or with the reason why it could not be.
    fn start(self: Box<Self>) -> Result<()>;
}

/// libcontainer 0.7.
#[derive(Debug)]
pub struct Libcontainer;

impl Launcher for Libcontainer {
    fn create(&self, launch: Launch) -> Result<Box<dyn Created>> {
        let Launch {
            id,
            document,
            scratch,
            program,
            init,
            protect_cgroups,
            cgroups,
            settled,
            device_dirs,
            stdio,
        } = launch;
        // What an attempt that was killed left would be in the way.
        remove_dir(&scratch)?;
        make_dir(&scratch)?;
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(failed("cannot make a pipe"))?;
        let reader = reader.into();
        let program =
            Exec { program, init, protect_cgroups, cgroups, device_dirs, report: writer.as_raw_fd() };
        let wrong = |error: &dyn std::error::Error| Error::Helper(told("cannot make the container", error));
        let propagations = rootfs::propagations(&document);
        let waiting = |gate, process| -> Result<Box<dyn Created>> {
            let waiting = Waiting { gate, process, reader, writer: Some(writer) };
            rootfs::propagate(waiting.process.pid, &propagations)?;
            Ok(Box::new(waiting))
        };
        if settled && direct::fits(&document) {
            let (process, gate) = direct::create(id, document, &scratch, Box::new(program), stdio)?;
            return waiting(Gate::Direct(gate), process);
        }

        write_json(&scratch.join("config.json"), &document)?;
        let builder = ContainerBuilder::new(id, SyscallType::default())
            .with_executor(program)
            .with_root_path(&scratch)
            .map_err(|e| wrong(&e))?;
        let builder = match stdio {
            Stdio::Streams([stdin, stdout, stderr]) => {
                builder.with_stdin(stdin).with_stdout(stdout).with_stderr(stderr)
            }
            Stdio::Console(path) => builder.with_console_socket(Some(path)),
        };
        let container = builder
            .as_init(&scratch)
            .with_systemd(false)
            .with_detach(true)
            .as_sibling(true)
            .build()
            .map_err(|e| wrong(&e))?;
        let process = container
            .pid()
            .and_then(|pid| Identity::of(pid.as_raw()))
            .ok_or_else(|| Error::Helper("the container's process ended before it was started".to_owned()))?;
        let gate = Gate::Launcher(Box::new(container));
        waiting(gate, process)
    }
}

/// By whom the process is told to execute its program.
enum Gate {
    Direct(NotifySocket),
    Launcher(Box<Container>),
}

struct Waiting {
    gate: Gate,
    process: Identity,
    reader: fs::File,
    /// `None` from the moment on when it executes the program.
    writer: Option<OwnedFd>,
}

impl Drop for Waiting {
    /// Who was never told to begin would wait for ever.
    fn drop(&mut self) {
        if self.writer.is_some() {
            signal::kill(&self.process);
        }
    }
}

impl Created for Waiting {
    fn process(&self) -> &Identity {
        &self.process
    }

    /// The pipe closes by itself when the program is executed: silence is success.
    fn start(mut self: Box<Self>) -> Result<()> {
        let wrong = |error: &dyn std::error::Error| Error::Helper(told("cannot start the container", error));
        match &mut self.gate {
            Gate::Direct(socket) => socket.notify_container_start().map_err(|e| wrong(&e))?,
            Gate::Launcher(container) => container.start().map_err(|e| wrong(&e))?,
        }
        self.writer = None;
        let mut text = Vec::new();
        std::io::Read::read_to_end(&mut &self.reader, &mut text)
            .map_err(|source| Error::System { what: "cannot hear the container".to_owned(), source })?;
        if text.is_empty() {
            return Ok(());
        }
        match serde_json::from_slice::<ExecFailure>(&text) {
            Ok(failure) => Err(failure.into_error()),
            Err(e) => Err(Error::Helper(format!("the container's process said what is not understood: {e}"))),
        }
    }
}

fn told(what: &str, error: &dyn std::error::Error) -> String {
    let mut text = format!("{what}: {error}");
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}

/// Executes the program in libcontainer's place.
#[derive(Clone)]
struct Exec {
    program: Program,
    init: bool,
    protect_cgroups: bool,
    cgroups: cgroup::View,
    device_dirs: Vec<PathBuf>,
    /// Closes on exec.
    report: RawFd,
}

impl Exec {
    /// What libcontainer leaves to be done inside.
    fn finish(&self) -> Result<(), (&'static str, rustix::io::Errno)> {
        process::leave_keyring().map_err(|e| ("cannot leave the keys of the host", e))?;
        for dir in &self.device_dirs {
            let mode = rustix::fs::Mode::from_raw_mode(0o755);
            rustix::fs::chmod(dir, mode).map_err(|e| ("cannot set the mode of a directory of /dev", e))?;
        }
        let in_step = |e| ("cannot show the control groups", e);
        if !self.cgroups.show().map_err(in_step)? && self.protect_cgroups {
            cgroup::seal_mounts().map_err(in_step)?;
        }
        Ok(())
    }
}

impl Executor for Exec {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        if spec.process().as_ref().and_then(oci_spec::runtime::Process::terminal).unwrap_or(false) {
            init::take_terminal();
        }
        // What the worker holds (ports, the namespace of the bridges, the directories it mounted) must
        // not be found in `/proc/1/fd` of the container, nor outlive the keeper in an init.
        process::close_all_but(&mut [self.report]);
        let failure = match self.finish() {
            Err((step, e)) => {
                ExecFailure { of: FailedAt::Engine, step: step.to_owned(), errno: e.raw_os_error() }
            }
            Ok(()) if self.init => init::run(&self.program, self.report),
            Ok(()) => self.program.become_it(),
        };
        tell(self.report, &failure);
        // SAFETY: ends this process at once: its owners of descriptors are not to close them again.
        unsafe { libc::_exit(127) }
    }

    /// Nothing: a program is looked for when it is executed, with the code of its failure.
    fn validate(&self, _: &Spec) -> Result<(), ExecutorValidationError> {
        Ok(())
    }

    /// Nothing: the program is executed with its own environment, in order.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }
}
