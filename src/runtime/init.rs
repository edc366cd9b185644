//! The tiny first process of a container with `init: true`: runs the program as its child, hands
//! signals on, reaps what is orphaned, and ends as the program does.
//!
//! It is not executed but stays in the process the launcher made: nothing of ours need be mounted
//! into the container, and the image need not fit our binary.

use std::{io, os::fd::RawFd};

use rustix::process::{WaitOptions, wait};

use super::process::{ExecFailure, FailedAt, Program, replace_arguments, reset_signals, set_name, tell};

/// Makes standard input the controlling terminal of this session.
pub fn take_terminal() {
    // SAFETY: an ioctl without memory; without a terminal it fails, and then there is none to take.
    unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
}

/// Returns only when the program could not be run.
pub fn run(program: &Program, report: RawFd) -> ExecFailure {
    if let Err(failure) = program.confine() {
        return failure;
    }
    let signals = match block_all() {
        Ok(signals) => signals,
        Err(error) => return failed("cannot block signals", &error),
    };
    // SAFETY: this process has one thread.
    match unsafe { libc::fork() } {
        -1 => failed("cannot fork", &io::Error::last_os_error()),
        0 => child(program, report),
        pid => {
            // The child alone tells by this whether it was executed.
            // SAFETY: nothing else of this process uses the descriptor.
            unsafe { libc::close(report) };
            set_name("ficelle-init");
            replace_arguments("ficelle-init");
            let code = attend(pid, &signals);
            // SAFETY: ends this process without running what belongs to the one it was forked from.
            unsafe { libc::_exit(code) }
        }
    }
}

/// In the foreground of the terminal, when there is one, and in a process group of its own.
fn child(program: &Program, report: RawFd) -> ! {
    // SAFETY: both calls take integers; TTOU is blocked, so the second does not stop us.
    unsafe {
        libc::setpgid(0, 0);
        libc::tcsetpgrp(0, libc::getpgrp());
    }
    let failure = match reset_signals() {
        Ok(()) => program.execute(),
        Err(error) => failed("cannot reset signals", &error),
    };
    tell(report, &failure);
    // SAFETY: as above.
    unsafe { libc::_exit(127) }
}

fn block_all() -> io::Result<libc::sigset_t> {
    // SAFETY: sigfillset initialises the set before anything reads it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigfillset(&raw mut set);
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(set)
    }
}

/// Until the program ends; its code, or 128 and the signal.
fn attend(program: i32, signals: &libc::sigset_t) -> i32 {
    loop {
        // SAFETY: the set is initialised; no information about the signal is asked for.
        let signal = unsafe { libc::sigwaitinfo(signals, std::ptr::null_mut()) };
        if signal == libc::SIGCHLD {
            if let Some(code) = reap(program) {
                return code;
            }
        } else if signal > 0 {
            // SAFETY: integers only. The program is our child and not yet reaped.
            unsafe { libc::kill(program, signal) };
        }
    }
}

fn reap(program: i32) -> Option<i32> {
    let mut code = None;
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == program {
            code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
        }
    }
    code
}

fn failed(step: &str, error: &io::Error) -> ExecFailure {
    ExecFailure {
        of: FailedAt::Engine,
        step: step.to_owned(),
        errno: error.raw_os_error().unwrap_or(libc::EIO),
    }
}
