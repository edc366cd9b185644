//! The first process of a container whose control groups are settled, forked by the worker itself. The
//! launcher puts a process between the two that enters them; where none are left to enter it would only
//! cost its fork and its end, and the launcher's own files the time to write and read them.

use std::{
    fs,
    os::fd::{AsRawFd, OwnedFd},
    path::Path,
    rc::Rc,
};

use libcgroups::common::CgroupConfig;
use libcontainer::{
    namespaces::Namespaces,
    notify_socket::{NotifyListener, NotifySocket},
    oci_spec::runtime::{LinuxNamespaceType, Spec},
    process::{
        args::{ContainerArgs, ContainerType},
        channel::{self, InitReceiver, MainSender},
        init::container_init_process,
    },
    syscall::syscall::SyscallType,
    tty,
    validator::Validator,
    workload::Executor,
};
use serde_json::Value;

use super::{Stdio, told};
use crate::runtime::{
    Error, Result, process, signal,
    state::{Identity, failed, file_error},
};

/// Whether nothing is to be done for it beside its first process: no hook of a device runs outside, and
/// whether a profile of AppArmor can be had is the launcher's to find out.
pub fn fits(document: &Value) -> bool {
    document["hooks"].is_null() && document["process"]["apparmorProfile"].is_null()
}

/// Makes the process, up to where it waits to execute its program; what lets it go on.
pub fn create(
    id: String,
    document: Value,
    scratch: &Path,
    executor: Box<dyn Executor>,
    stdio: Stdio,
) -> Result<(Identity, NotifySocket)> {
    let spec: Spec =
        serde_json::from_value(document).map_err(|e| wrong("cannot read the container's document", &e))?;
    Validator::validate_spec(&spec).map_err(|e| wrong("cannot make the container", &e))?;
    let rootfs = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let rootfs = fs::canonicalize(&rootfs).map_err(|e| file_error("cannot find", &rootfs, e))?;
    let (streams, console) = open(stdio, scratch)?;
    let number = |descriptor: &OwnedFd| Some(descriptor.as_raw_fd());
    let [stdin, stdout, stderr] = streams.as_ref().map_or([None; 3], |all| all.each_ref().map(number));
    let gate = scratch.join("notify.sock");
    let listener = NotifyListener::new(&gate).map_err(|e| wrong("cannot make the container", &e))?;
    confine(&spec)?;
    let args = ContainerArgs {
        container_type: ContainerType::InitContainer,
        syscall: SyscallType::default(),
        spec: Rc::new(spec),
        rootfs,
        console_socket: console.as_ref().and_then(number),
        notify_listener: listener,
        preserve_fds: 0,
        container: None,
        user_ns_config: None,
        // Of no use to its first process, which is in its groups already.
        cgroup_config: CgroupConfig {
            cgroup_path: "/none".into(),
            systemd_cgroup: false,
            container_name: id,
        },
        detached: true,
        executor,
        no_pivot: false,
        stdin,
        stdout,
        stderr,
        as_sibling: true,
        pid_file: None,
    };
    let process = fork(&args)?;
    Ok((process, NotifySocket::new(gate)))
}

/// Its streams, or where its terminal goes.
fn open(stdio: Stdio, scratch: &Path) -> Result<(Option<[OwnedFd; 3]>, Option<OwnedFd>)> {
    match stdio {
        Stdio::Streams(streams) => Ok((Some(streams), None)),
        Stdio::Console(path) => tty::setup_console_socket(scratch, &path, "console-socket")
            .map(|console| (None, Some(console)))
            .map_err(|e| wrong("cannot make the container's terminal", &e)),
    }
}

/// What the process inherits: how soon it ends for want of memory, and that nobody in the namespaces it joins
/// may look into it.
fn confine(spec: &Spec) -> Result<()> {
    if let Some(score) = spec.process().as_ref().and_then(oci_spec::runtime::Process::oom_score_adj) {
        let file = Path::new("/proc/self/oom_score_adj");
        fs::write(file, score.to_string()).map_err(|e| file_error("cannot write", file, e))?;
    }
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .map_err(failed("cannot close this process to others"))
}

/// Returns when the process is ready to execute its program.
fn fork(args: &ContainerArgs) -> Result<Identity> {
    let failed_to = |error: &dyn std::error::Error| wrong("cannot make the container", error);
    let (mut to_us, mut from_it) = channel::main_channel().map_err(|e| failed_to(&e))?;
    // Only hooks and devices of networks would be spoken of the other way.
    let (to_it, mut from_us) = channel::init_channel().map_err(|e| failed_to(&e))?;
    enter_pid_namespace(&args.spec)?;
    let nothing: libc::c_long = 0;
    let flags = libc::c_long::from(libc::CLONE_PARENT | libc::SIGCHLD);
    // SAFETY: the caller has a single thread, so the child may go on as an ordinary program. Its parent is
    // ours, who hears of its end.
    let pid = match unsafe { libc::syscall(libc::SYS_clone, flags, nothing, nothing, nothing, nothing) } {
        -1 => {
            let source = std::io::Error::last_os_error();
            return Err(Error::System { what: "cannot fork".into(), source });
        }
        0 => {
            process::set_name("ficelle-init");
            let told = begin(args, &mut to_us, &mut from_us);
            if let Err(text) = told {
                let _ = to_us.exec_failed(text);
            }
            // SAFETY: leaves without running what belongs to the process it was forked from.
            unsafe { libc::_exit(1) }
        }
        pid => i32::try_from(pid).map_err(|_| Error::Helper("a process number too large".into()))?,
    };
    let process = Identity::of(pid);
    let closed = to_us.close().and_then(|()| from_us.close());
    let ready = closed.and_then(|()| from_it.wait_for_init_ready());
    let _ = from_it.close().and_then(|()| to_it.close());
    let process = process
        .ok_or_else(|| Error::Helper("the container's process ended before it was started".to_owned()));
    match ready {
        Ok(()) => process,
        Err(error) => {
            process.iter().for_each(signal::kill);
            Err(failed_to(&error))
        }
    }
}

/// Those who are forked from here on are in it, and nobody else but one.
fn enter_pid_namespace(spec: &Spec) -> Result<()> {
    let wrong = |error: &dyn std::error::Error| wrong("cannot make the container's processes its own", error);
    let all = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
    let namespaces = Namespaces::try_from(all).map_err(|e| wrong(&e))?;
    match namespaces.get(LinuxNamespaceType::Pid).map_err(|e| wrong(&e))? {
        Some(pid) => namespaces.unshare_or_setns(pid).map_err(|e| wrong(&e)),
        None => Ok(()),
    }
}

/// In the new process; returns with the reason why it never came to its program.
fn begin(args: &ContainerArgs, to_us: &mut MainSender, from_us: &mut InitReceiver) -> Result<(), String> {
    let syscall = args.syscall.create_syscall();
    let limits = args.spec.process().as_ref().and_then(|process| process.rlimits().as_ref());
    for limit in limits.into_iter().flatten() {
        syscall.set_rlimit(limit).map_err(|e| told("cannot set a limit", &e))?;
    }
    container_init_process(args, to_us, from_us).map_err(|e| e.to_string())
}

fn wrong(what: &str, error: &dyn std::error::Error) -> Error {
    Error::Helper(told(what, error))
}
