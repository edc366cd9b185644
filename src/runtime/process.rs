//! Turning this process into the program of a container: filter, capabilities, signals, exec. All
//! steps are system calls on data prepared before, and each failure is told with its errno.

use std::{
    ffi::{CString, OsStr},
    io,
    os::fd::{BorrowedFd, RawFd},
    os::unix::ffi::OsStrExt,
};

use serde::{Deserialize, Serialize};

use super::{
    Error, Result,
    config::{ALL_CAPABILITIES, capability_name},
};

/// A program ready to be executed, with all memory it needs.
#[derive(Clone, Debug)]
pub struct Program {
    /// What the user asked for, for messages.
    pub name: String,
    /// Paths to try, in order.
    candidates: Vec<CString>,
    args: Vec<CString>,
    env: Vec<CString>,
    /// Bit set of what it may keep.
    pub capabilities: u64,
    pub no_new_privileges: bool,
    pub filter: Vec<libc::sock_filter>,
}

/// Why a program could not be executed; crosses process boundaries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecFailure {
    pub of: FailedAt,
    pub step: String,
    pub errno: i32,
}

/// Whose failure it is, as the exit codes of docker tell them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailedAt {
    /// The way into the container: 125.
    Engine,
    /// What the caller named, the program or its directory: 127 where it is missing, else 126.
    Program,
}

impl Program {
    /// `args[0]` is looked for along the PATH of `env` unless it has a slash.
    pub fn new(args: &[String], env: &[String]) -> Result<Self> {
        let text = |text: &String| {
            CString::new(text.as_bytes())
                .map_err(|_| Error::Invalid(format!("`{}` holds a NUL byte", text.escape_debug())))
        };
        let name = args.first().filter(|name| !name.is_empty());
        let name = name.ok_or_else(|| Error::Invalid("no program to run".to_owned()))?;
        let path = env.iter().find_map(|variable| variable.strip_prefix("PATH="));
        let candidates = if name.contains('/') {
            vec![text(name)?]
        } else {
            path.unwrap_or(DEFAULT_PATH)
                .split(':')
                .map(|dir| text(&format!("{}/{name}", if dir.is_empty() { "." } else { dir })))
                .collect::<Result<_>>()?
        };
        Ok(Self {
            name: name.clone(),
            candidates,
            args: args.iter().map(text).collect::<Result<_>>()?,
            env: env.iter().map(text).collect::<Result<_>>()?,
            capabilities: 0,
            no_new_privileges: false,
            filter: Vec::new(),
        })
    }

    /// With the name of the machine it runs on, unless its environment has another.
    #[must_use]
    pub fn named(&self, machine: &rustix::system::Uname) -> Self {
        let mut named = self.clone();
        if !named.env.iter().any(|variable| variable.as_bytes().starts_with(b"HOSTNAME=")) {
            let variable = [b"HOSTNAME=", machine.nodename().to_bytes()].concat();
            named.env.extend(CString::new(variable));
        }
        named
    }

    /// Never returns when all went well.
    pub fn become_it(&self) -> ExecFailure {
        match self.try_become() {
            Ok(never) => match never {},
            Err(failure) => failure,
        }
    }

    fn try_become(&self) -> Result<std::convert::Infallible, ExecFailure> {
        self.confine()?;
        reset_signals().map_err(failure("cannot reset signals"))?;
        Err(self.execute())
    }

    /// Filter first, while the capabilities to load it are still there.
    pub fn confine(&self) -> Result<(), ExecFailure> {
        if self.no_new_privileges {
            rustix::thread::set_no_new_privs(true)
                .map_err(|e| failure("cannot set no_new_privs")(e.into()))?;
        }
        if !self.filter.is_empty() {
            super::seccomp::load(&self.filter).map_err(failure("cannot load the seccomp filter"))?;
        }
        drop_capabilities(self.capabilities).map_err(failure("cannot drop capabilities"))
    }

    /// Executes the first candidate that exists; the reason of an earlier one that may not be
    /// executed outlives that later ones are missing.
    pub fn execute(&self) -> ExecFailure {
        let args = pointers(&self.args);
        let env = pointers(&self.env);
        let mut errno = libc::ENOENT;
        for candidate in &self.candidates {
            // SAFETY: all three are NUL-terminated and outlive the call.
            unsafe { libc::execve(candidate.as_ptr(), args.as_ptr(), env.as_ptr()) };
            match io::Error::last_os_error().raw_os_error() {
                Some(libc::ENOENT | libc::ENOTDIR) | None => {}
                Some(other) => {
                    errno = other;
                    if other != libc::EACCES {
                        break;
                    }
                }
            }
        }
        ExecFailure { of: FailedAt::Program, step: format!("cannot run `{}`", self.name), errno }
    }
}

/// Where programs are looked for when the image says nothing.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl ExecFailure {
    pub fn into_error(self) -> Error {
        let code = match (self.of, self.errno) {
            (FailedAt::Engine, _) => 125,
            (FailedAt::Program, libc::ENOENT | libc::ENOTDIR) => 127,
            (FailedAt::Program, _) => 126,
        };
        let reason = match self.errno {
            libc::ENOENT if self.of == FailedAt::Program => {
                "no such file in the container (or its interpreter is missing)".to_owned()
            }
            libc::ENOEXEC => "it is no program for this machine".to_owned(),
            errno => io::Error::from_raw_os_error(errno).to_string(),
        };
        Error::Exec { message: format!("{}: {reason}", self.step), code }
    }
}

fn failure(step: &str) -> impl FnOnce(io::Error) -> ExecFailure {
    let step = step.to_owned();
    let of = FailedAt::Engine;
    move |error| ExecFailure { of, step, errno: error.raw_os_error().unwrap_or(libc::EIO) }
}

fn pointers(texts: &[CString]) -> Vec<*const libc::c_char> {
    texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

/// Rust starts with SIGPIPE ignored, and the keeper blocks what it reads from a descriptor; a
/// container starts with neither.
pub fn reset_signals() -> io::Result<()> {
    // The kernel's structure: handler, flags, restorer, mask. The C library's call would refuse
    // the signals it keeps for itself, and they are inherited like all others.
    let default = [0_u64; 4];
    for signal in (1..=64).filter(|signal| ![libc::SIGKILL, libc::SIGSTOP].contains(signal)) {
        // SAFETY: the structure lives through the call, which is told the size of its mask.
        let done = unsafe {
            let nothing = std::ptr::null_mut::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, 8)
        };
        if done < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    unblock_signals()
}

/// Lets every signal through.
pub fn unblock_signals() -> io::Result<()> {
    // SAFETY: an empty set is initialised by sigemptyset before it is read.
    let done = unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut())
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy)]
struct CapabilityData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

/// Ambient and inheritable sets emptied; bounding, permitted and effective cut down to `wanted`.
fn drop_capabilities(wanted: u64) -> io::Result<()> {
    rustix::thread::clear_ambient_capability_set()?;
    bound_capabilities(wanted)?;
    let halves = halves(wanted);
    change_capabilities(|data| {
        for (data, wanted) in data.iter_mut().zip(halves) {
            data.permitted &= wanted;
            data.effective = data.permitted;
            data.inheritable = 0;
        }
    })
}

/// Bounding, permitted and effective set cut down to these, whatever else there is left alone.
pub fn narrow(bounding: u64, permitted: u64, effective: u64) -> io::Result<()> {
    bound_capabilities(bounding)?;
    let sets = halves(permitted).into_iter().zip(halves(effective));
    change_capabilities(|data| {
        for (data, (permitted, effective)) in data.iter_mut().zip(sets) {
            data.permitted &= permitted;
            data.effective &= effective & permitted;
        }
    })
}

fn halves(set: u64) -> [u32; 2] {
    [set & 0xffff_ffff, set >> 32].map(|half| u32::try_from(half).unwrap_or(0))
}

/// Takes from the bounding set what is not wanted.
fn bound_capabilities(wanted: u64) -> io::Result<()> {
    for number in 0..64 {
        // SAFETY: prctl with integers only. EINVAL ends the numbers this kernel knows.
        let held = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
        if held < 0 {
            break;
        }
        if held == 1 && wanted & (1 << number) == 0 {
            // SAFETY: as above.
            let dropped = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) };
            if dropped < 0 {
                return Err(io::Error::last_os_error());
            }
        }
    }
    Ok(())
}

/// Everything permitted becomes effective.
fn raise_capabilities() -> io::Result<()> {
    change_capabilities(|data| data.iter_mut().for_each(|data| data.effective = data.permitted))
}

fn change_capabilities(change: impl FnOnce(&mut [CapabilityData; 2])) -> io::Result<()> {
    let header = CapabilityHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapabilityData { effective: 0, permitted: 0, inheritable: 0 }; 2];
    // SAFETY: header and data have the layout of version 3, which reads two elements.
    if unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    change(&mut data);
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Into a session keyring of its own: that of the caller holds keys of the host (session-keyring(7)). A kernel
/// may know no keys; a user who has as many as it may stays in the keyring of the keeper, which left the host's.
pub fn leave_keyring() -> rustix::io::Result<()> {
    const JOIN_SESSION_KEYRING: libc::c_long = 1;
    // SAFETY: no name is given, so no memory is read.
    let joined = unsafe { libc::syscall(libc::SYS_keyctl, JOIN_SESSION_KEYRING, std::ptr::null::<u8>()) };
    match last_errno() {
        _ if joined >= 0 => Ok(()),
        rustix::io::Errno::NOSYS | rustix::io::Errno::DQUOT => Ok(()),
        error => Err(error),
    }
}

/// Becomes a user and keeps the capabilities to confine itself further; a program that is executed
/// by another user than root has none of them.
pub fn switch_user(user: &super::users::User) -> rustix::io::Result<()> {
    use rustix::io::Errno;
    let done = |result: libc::c_long| if result < 0 { Err(last_errno()) } else { Ok(()) };
    // The C library's calls would do the same for all threads; there is only this one.
    // SAFETY: the list of groups outlives the call, and its length is given; the rest are integers.
    unsafe {
        done(libc::syscall(libc::SYS_setgroups, user.groups.len(), user.groups.as_ptr()))?;
        done(libc::syscall(libc::SYS_setresgid, user.gid, user.gid, user.gid))?;
        if libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0 {
            return Err(last_errno());
        }
        done(libc::syscall(libc::SYS_setresuid, user.uid, user.uid, user.uid))?;
    }
    raise_capabilities().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))
}

fn last_errno() -> rustix::io::Errno {
    rustix::io::Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(rustix::io::Errno::IO)
}

/// A limit of this process, by the number of its kind.
pub fn set_rlimit(kind: i32, limit: &libc::rlimit64) -> rustix::io::Result<()> {
    // SAFETY: the limit outlives the call; nothing is read back.
    let done = unsafe {
        libc::syscall(
            libc::SYS_prlimit64,
            0,
            kind,
            std::ptr::from_ref(limit),
            std::ptr::null::<libc::rlimit64>(),
        )
    };
    if done < 0 { Err(last_errno()) } else { Ok(()) }
}

/// The number of a limit, by its name.
pub fn rlimit(name: &str) -> Option<i32> {
    let number = match name {
        "RLIMIT_CPU" => libc::RLIMIT_CPU,
        "RLIMIT_FSIZE" => libc::RLIMIT_FSIZE,
        "RLIMIT_DATA" => libc::RLIMIT_DATA,
        "RLIMIT_STACK" => libc::RLIMIT_STACK,
        "RLIMIT_CORE" => libc::RLIMIT_CORE,
        "RLIMIT_RSS" => libc::RLIMIT_RSS,
        "RLIMIT_NPROC" => libc::RLIMIT_NPROC,
        "RLIMIT_NOFILE" => libc::RLIMIT_NOFILE,
        "RLIMIT_MEMLOCK" => libc::RLIMIT_MEMLOCK,
        "RLIMIT_AS" => libc::RLIMIT_AS,
        "RLIMIT_LOCKS" => libc::RLIMIT_LOCKS,
        "RLIMIT_SIGPENDING" => libc::RLIMIT_SIGPENDING,
        "RLIMIT_MSGQUEUE" => libc::RLIMIT_MSGQUEUE,
        "RLIMIT_NICE" => libc::RLIMIT_NICE,
        "RLIMIT_RTPRIO" => libc::RLIMIT_RTPRIO,
        "RLIMIT_RTTIME" => libc::RLIMIT_RTTIME,
        _ => return None,
    };
    i32::try_from(number).ok()
}

/// The bit set of capabilities by name (`CAP_CHOWN`).
pub fn capability_set(names: &[String]) -> Result<u64> {
    let number = |name: &String| ALL_CAPABILITIES.iter().position(|known| *known == capability_name(name));
    names.iter().try_fold(0, |set, name| match number(name) {
        Some(number) => Ok(set | 1 << number),
        None => Err(Error::Invalid(format!("no capability `{name}`"))),
    })
}

/// The names, without `CAP_`, of the capabilities that a container can be given here: those this kernel knows,
/// less those outside root's bounding set (capabilities(7)). A user namespace starts with all of them.
#[must_use]
pub fn available_capabilities() -> Vec<&'static str> {
    let bound = rustix::process::geteuid().is_root() && !super::rootless::is_confined();
    ALL_CAPABILITIES
        .into_iter()
        .zip(0..)
        .filter(|(_, number): &(&str, libc::c_int)| {
            // SAFETY: integers only; -1 is a number that the kernel does not know.
            let held = unsafe { libc::prctl(libc::PR_CAPBSET_READ, *number, 0, 0, 0) };
            held == 1 || (held == 0 && !bound)
        })
        .map(|(name, _)| name)
        .collect()
}

/// The bit set of all capabilities that Linux knows.
pub const EVERY_CAPABILITY: u64 = (1 << ALL_CAPABILITIES.len()) - 1;

/// Writes a whole message to a pipe; a reader that is gone is no concern of the writer.
pub fn tell(pipe: RawFd, message: &impl Serialize) {
    let text = serde_json::to_vec(message).unwrap_or_default();
    // SAFETY: the caller keeps the descriptor open.
    let pipe = unsafe { BorrowedFd::borrow_raw(pipe) };
    let mut rest = text.as_slice();
    while !rest.is_empty() {
        match rustix::io::write(pipe, rest) {
            Ok(written) => rest = rest.get(written..).unwrap_or_default(),
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return,
        }
    }
}

/// Replaces the arguments that others see of this process (`/proc/PID/cmdline`) with one word, as far as there
/// is room: they name directories of the host.
pub fn replace_arguments(word: &str) {
    // proc_pid_stat(5): arg_start and arg_end are the fields 48 and 49; the second, in brackets, may hold anything.
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace();
    let range: Vec<usize> = fields.skip(45).take(2).filter_map(|field| field.parse().ok()).collect();
    let &[start, end] = range.as_slice() else { return };
    if start == 0 || end <= start {
        return;
    }
    // SAFETY: the kernel put the arguments there, in memory that is this process's own and writable; nobody
    // reads them any more.
    let memory = unsafe { std::slice::from_raw_parts_mut(start as *mut u8, end - start) };
    memory.fill(0);
    for (byte, new) in memory.iter_mut().zip(word.bytes()) {
        *byte = new;
    }
}

/// The name a process shows in lists; the kernel keeps 15 bytes.
pub fn set_name(name: &str) {
    if let Ok(name) = CString::new(OsStr::new(name).as_bytes()) {
        let _ = rustix::thread::set_name(&name);
    }
}

/// Closes every descriptor above the streams but these: what a shell left open is not ours, and
/// what the keeper holds is not a worker's.
pub fn close_all_but(kept: &mut [RawFd]) {
    kept.sort_unstable();
    let mut first = 3;
    for fd in kept.iter().map(|fd| fd.cast_unsigned()).chain([u32::MAX]) {
        if first < fd {
            // SAFETY: nobody in this process goes on to use these descriptors.
            unsafe { libc::close_range(first, fd - 1, 0) };
        }
        first = first.max(fd.saturating_add(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(program: &str, env: &[&str]) -> Vec<String> {
        let env: Vec<String> = env.iter().map(|v| (*v).to_owned()).collect();
        let program = Program::new(&[program.to_owned()], &env).unwrap();
        program.candidates.iter().map(|c| c.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn a_program_is_looked_for_along_the_path_of_the_container() {
        assert_eq!(candidates("sh", &["PATH=/a:/b", "PATH=/c"]), ["/a/sh", "/b/sh"]);
        assert_eq!(candidates("sh", &["PATH=:/b"]), ["./sh", "/b/sh"]);
        assert_eq!(candidates("./sh", &["PATH=/a"]), ["./sh"]);
        assert_eq!(candidates("sh", &[]).len(), DEFAULT_PATH.split(':').count());
        assert!(Program::new(&[], &[]).is_err());
        assert!(Program::new(&["a\0b".to_owned()], &[]).is_err());
    }

    #[test]
    fn a_missing_program_is_127_and_one_that_cannot_run_126() {
        let code = |of, errno| match (ExecFailure { of, step: String::new(), errno }).into_error() {
            Error::Exec { code, .. } => code,
            other => panic!("{other}"),
        };
        assert_eq!(code(FailedAt::Program, libc::ENOENT), 127);
        assert_eq!(code(FailedAt::Program, libc::EACCES), 126);
        assert_eq!(code(FailedAt::Program, libc::ENOEXEC), 126);
        assert_eq!(code(FailedAt::Engine, libc::ENOENT), 125);
    }

    #[test]
    fn capabilities_have_the_numbers_of_the_kernel() {
        let set = |names: &[&str]| capability_set(&names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>());
        assert_eq!(set(&["CAP_CHOWN", "CAP_KILL"]).unwrap(), 0b10_0001);
        assert_eq!(set(&["CAP_SYS_ADMIN"]).unwrap(), 1 << 21);
        assert_eq!(set(&["CAP_CHECKPOINT_RESTORE"]).unwrap(), 1 << 40);
        assert!(set(&["CAP_EVERYTHING"]).is_err());
    }
}
