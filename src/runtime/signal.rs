//! Processes by descriptor: signals that never hit a stranger, ends of processes that are not our
//! children, and whether a signal would be heard at all.

use std::{
    fs,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{
    Error, Result, cgroup,
    state::{Identity, failed},
    wait::Deadline,
};

/// A descriptor of the process, if it is still the same one.
pub fn pidfd(identity: &Identity) -> Option<OwnedFd> {
    let pidfd = pidfd_open(Pid::from_raw(identity.pid)?, PidfdFlags::empty()).ok()?;
    // Checked after opening: what lives now is what we have opened.
    identity.lives().then_some(pidfd)
}

/// SIGKILL, if it is still the same process.
pub fn kill(identity: &Identity) {
    if let Some(pidfd) = pidfd(identity) {
        let _ = send(&pidfd, libc::SIGKILL);
    }
}

/// Sends a signal by number.
pub fn send(pidfd: &OwnedFd, signal: i32) -> std::io::Result<()> {
    // SAFETY: no information is passed along, so the pointer may be null.
    let sent = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    };
    match std::io::Error::last_os_error() {
        _ if sent == 0 => Ok(()),
        // It has ended: that is what signals are for.
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Until the process has ended, or the time is over.
pub fn wait_for_end(pidfd: &OwnedFd, time: Duration) -> Result<()> {
    let deadline = Deadline::new(Some(time));
    while let Ok(left) = deadline.left(time) {
        let left = Timespec {
            tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: left.subsec_nanos().into(),
        };
        match poll(&mut [PollFd::new(pidfd, PollFlags::IN)], Some(&left)) {
            Ok(0) | Err(rustix::io::Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(e) => return Err(failed("cannot wait for the end of a process")(e)),
        }
    }
    Ok(())
}

/// Blocks signals and makes a descriptor that tells of them.
pub fn descriptor(signals: &[i32]) -> Result<OwnedFd> {
    let failed = |what: &str| Error::System { what: what.into(), source: std::io::Error::last_os_error() };
    // SAFETY: the set is initialised by sigemptyset; the descriptor that signalfd returns is ours.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals {
            libc::sigaddset(&raw mut set, *signal);
        }
        if libc::sigprocmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(failed("cannot block signals"));
        }
        let fd = libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        if fd < 0 { Err(failed("cannot listen for signals")) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Takes what the descriptor has to tell.
pub fn drain(signals: BorrowedFd<'_>) {
    let mut buffer = [0; 1024];
    while matches!(rustix::io::read(signals, &mut buffer), Ok(length) if length > 0) {}
}

/// The numbers of the signals that the descriptor has to tell.
pub fn taken(signals: &OwnedFd) -> Vec<i32> {
    // Of each `signalfd_siginfo` (signalfd(2)) only the first field counts.
    const SIZE: usize = 128;
    let mut numbers = Vec::new();
    let mut buffer = [0; 8 * SIZE];
    while let Ok(length) = rustix::io::read(signals, &mut buffer) {
        if length == 0 {
            break;
        }
        let told = buffer[..length].chunks_exact(SIZE);
        numbers.extend(told.map(|one| i32::from_ne_bytes([one[0], one[1], one[2], one[3]])));
    }
    numbers
}

/// How a process ended that is another's child: its code, or 128 and the signal. Before it was reaped every
/// kernel tells, afterwards those from 6.15 on.
pub fn exit_of(pidfd: &OwnedFd) -> Option<i32> {
    let status = reaped(pidfd).or_else(|| unreaped(pidfd)).or_else(|| {
        // Just between the two.
        let mut fds = [PollFd::new(pidfd, PollFlags::empty())];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 5, tv_nsec: 0 }));
        reaped(pidfd)
    })?;
    Some(if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { 128 + libc::WTERMSIG(status) })
}

/// How a process ended that nobody has collected yet.
pub fn last_word(identity: &Identity) -> Option<i32> {
    let pidfd = pidfd_open(Pid::from_raw(identity.pid)?, PidfdFlags::empty()).ok()?;
    // Checked after opening, as ever.
    identity.has_just_ended().then(|| exit_of(&pidfd)).flatten()
}

/// The status of a process that its parent has collected.
fn reaped(pidfd: &OwnedFd) -> Option<i32> {
    const PIDFD_INFO_EXIT: u64 = 1 << 3;
    /// `_IOWR(0xFF, 11, struct pidfd_info)` with its first published size, 64 bytes.
    const PIDFD_GET_INFO: libc::c_ulong = 0xc040_ff0b;
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup_id: u64,
        /// pid, tgid, ppid; then real, effective, saved and file system user and group.
        ids: [u32; 11],
        exit_code: i32,
    }
    let mut info = PidfdInfo { mask: PIDFD_INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the structure has the size that the request names, and lives through the call.
    let done = unsafe { libc::ioctl(pidfd.as_raw_fd(), PIDFD_GET_INFO, &raw mut info) };
    (done == 0 && info.mask & PIDFD_INFO_EXIT != 0).then_some(info.exit_code)
}

/// The status of a process that has ended and that its parent, perhaps an init with other cares, leaves
/// uncollected: field 52 of its stat.
fn unreaped(pidfd: &OwnedFd) -> Option<i32> {
    let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", pidfd.as_raw_fd())).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 2..)?.split_ascii_whitespace();
    let state = fields.next()?;
    let status = fields.nth(48)?.parse().ok()?;
    // As long as the descriptor has not hung up, nobody else has the number.
    let mut fds = [PollFd::new(pidfd, PollFlags::empty())];
    let uncollected = poll(&mut fds, Some(&Timespec::default())) == Ok(0);
    (state == "Z" && uncollected).then_some(status)
}

/// Whether the kernel certainly drops `signal` sent to this first process of a pid namespace: it
/// neither catches, blocks nor waits for it. Then no grace can help.
pub fn is_dropped(pid: i32, signal: i32) -> bool {
    /// Of a process that is on the processor just now nobody can tell whether it waits for a signal:
    /// it is looked at again, as often as takes no noticeable time.
    const LOOKS: u32 = 20;
    // An ignored SIGKILL is no such thing.
    if signal == libc::SIGKILL || signal == libc::SIGSTOP || !(1..=64).contains(&signal) {
        return false;
    }
    for _ in 0..LOOKS {
        match hearing(pid, signal) {
            Hearing::Deaf => return true,
            Hearing::Perhaps => return false,
            Hearing::Busy => std::thread::sleep(Duration::from_millis(5)),
        }
    }
    false
}

/// Whether any thread of a process could hear a signal.
enum Hearing {
    Deaf,
    Perhaps,
    Busy,
}

fn hearing(pid: i32, signal: i32) -> Hearing {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return Hearing::Perhaps };
    let mut hearing = Hearing::Perhaps;
    for thread in threads.flatten() {
        let read = |name| fs::read_to_string(thread.path().join(name)).unwrap_or_default();
        let call = read("syscall");
        if !is_deaf(&read("status"), signal) || call.is_empty() || is_waiting(&call) {
            return Hearing::Perhaps;
        }
        match hearing {
            Hearing::Busy => {}
            _ if call.starts_with("running") => hearing = Hearing::Busy,
            _ => hearing = Hearing::Deaf,
        }
    }
    hearing
}

/// The status neither catches nor blocks the signal.
fn is_deaf(status: &str, signal: i32) -> bool {
    let bit = 1_u64 << (signal - 1);
    let set = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        u64::from_str_radix(line.trim(), 16).ok()
    };
    // A blocked signal is kept for somebody who will look for it (signalfd, sigwait).
    matches!((set("SigCgt:"), set("SigBlk:")), (Some(caught), Some(blocked)) if (caught | blocked) & bit == 0)
}

/// In `rt_sigtimedwait`, which shows neither as caught nor as blocked (tini).
fn is_waiting(syscall: &str) -> bool {
    let number = syscall.split_whitespace().next().unwrap_or_default();
    number.parse() == Ok(libc::SYS_rt_sigtimedwait)
}

/// What keeps a container from ending that was killed, where it is the kernel itself: by its main process and
/// the path of its control groups.
pub fn held_up(pid: i32, cgroup: Option<&str>) -> Option<String> {
    let all = cgroup.map(cgroup::processes).unwrap_or_default().into_iter().chain([pid]);
    let (pid, name) = all.filter_map(|pid| Some((pid, uninterruptible(pid)?))).next()?;
    Some(format!(
        "process {pid} (`{name}`) of it was killed and waits in the kernel, for a device that is slow or \
         throttled (`blkio_config`): it ends when that has answered"
    ))
}

/// The name of a process that no signal reaches now, by the state of `/proc/PID/stat`.
fn uninterruptible(pid: i32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything.
    let (before, after) = stat.rsplit_once(") ")?;
    after.starts_with('D').then(|| before.split_once('(').map_or(before, |(_, name)| name).to_owned())
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    fn status(caught: u64, blocked: u64) -> String {
        format!("Name:\tx\nSigBlk:\t{blocked:016x}\nSigIgn:\t0000000000000000\nSigCgt:\t{caught:016x}\n")
    }

    #[test]
    fn a_signal_is_dropped_only_when_nobody_could_hear_it() {
        assert!(is_deaf(&status(0, 0), 15));
        assert!(is_deaf(&status(1 << 1, 0), 15), "catches SIGINT only");
        assert!(!is_deaf(&status(1 << 14, 0), 15));
        assert!(!is_deaf(&status(0, 1 << 14), 15), "a signalfd may tell it");
        assert!(!is_deaf("", 15), "what cannot be read is not known");
        assert!(is_waiting(&format!("{} 0x0 0x0", libc::SYS_rt_sigtimedwait)), "tini");
        assert!(!is_waiting(&format!("{} 0x0", libc::SYS_clock_nanosleep)));
        assert!(!is_waiting("running\n"));
    }

    #[test]
    fn the_end_of_a_process_is_read_from_its_descriptor_after_it_was_reaped() {
        let mut child = Command::new("sh").args(["-c", "exit 9"]).spawn().unwrap();
        let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
        child.wait().unwrap();
        match exit_of(&pidfd) {
            Some(code) => assert_eq!(code, 9),
            None => println!("SKIPPED: this kernel does not tell (it takes 6.15)"),
        }
    }

    #[test]
    fn the_end_of_a_process_is_read_before_it_was_reaped() {
        for (script, code) in [("exit 9", 9), ("kill -TERM $$", 143)] {
            let mut child = Command::new("sh").args(["-c", script]).spawn().unwrap();
            let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty()).unwrap();
            wait_for_end(&pidfd, Duration::from_secs(60)).unwrap();
            assert_eq!(exit_of(&pidfd), Some(code), "{script}");
            child.wait().unwrap();
        }
    }

    #[test]
    fn a_descriptor_is_only_given_for_the_same_process() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let identity = Identity::of(i32::try_from(child.id()).unwrap()).unwrap();
        assert!(pidfd(&Identity { start: identity.start + 1, ..identity.clone() }).is_none());
        send(&pidfd(&identity).unwrap(), libc::SIGKILL).unwrap();
        child.wait().unwrap();
        assert!(pidfd(&identity).is_none());
    }
}
