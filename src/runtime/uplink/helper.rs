//! The way out for an ordinary user, who cannot lay a cable to the host's namespace: a program of the
//! machine, `pasta` or `slirp4netns`, carries what leaves a link in the anchor's namespace through ordinary
//! sockets. One for each state tree; it ends with the anchor.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    process::{Pid, PidfdFlags, pidfd_open},
};

use super::{FORWARDING, INNER};
use crate::runtime::{netns, nft};

/// The keeper has no PATH of its own.
const DIRECTORIES: [&str; 6] =
    ["/usr/local/bin", "/usr/bin", "/bin", "/usr/local/sbin", "/usr/sbin", "/sbin"];
/// Both make a link with this.
const TUN: &str = "/dev/net/tun";
/// How long the link may take to come up (16 to 47 ms were measured); what starts then finds its way out.
const PATIENCE: Duration = Duration::from_millis(1500);
/// Addresses of the link are link-local, so that no network of a user meets them; by default `pasta` takes
/// the host's own, which the containers could not reach then.
const SLIRP: &str = "169.254.241.0/24";
const PASTA: [&str; 6] =
    ["--address", "169.254.241.2", "--netmask", "255.255.255.0", "--gateway", "169.254.241.1"];

/// A way out, until dropped.
#[derive(Debug)]
pub struct Helper {
    child: Child,
}

impl Helper {
    /// # Errors
    /// What is missing, with what brings it; or what the program said.
    pub fn open(inner: &OwnedFd) -> io::Result<Self> {
        let program = found("pasta").or_else(|| found("slirp4netns")).ok_or_else(|| {
            io::Error::other(
                "neither `pasta` nor `slirp4netns` is installed; `sudo apt install passt` brings one",
            )
        })?;
        OpenOptions::new().read(true).write(true).open(TUN).map_err(|e| {
            let help = "everybody may usually open it; `sudo chmod 666 /dev/net/tun` lets this user";
            io::Error::new(e.kind(), format!("`{TUN}` cannot be opened ({e}); {help}"))
        })?;
        netns::within(inner.as_fd(), || {
            nft::permit_out(INNER)?;
            fs::write(FORWARDING, "1")
        })??;
        let changes = netns::within(inner.as_fd(), changes)??;
        let mut helper = Self { child: start(&program, inner)? };
        helper.await_link(inner, &changes, &program)?;
        Ok(helper)
    }

    /// It may have been killed.
    pub fn lives(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Until there is a route out, which `changes` tells of, or the program has given up.
    fn await_link(&mut self, inner: &OwnedFd, changes: &Socket, program: &Path) -> io::Result<()> {
        let until = Instant::now() + PATIENCE;
        let ended = pidfd_open(Pid::from_child(&self.child), PidfdFlags::empty())?;
        while !netns::within(inner.as_fd(), leads_out)?? {
            let left = until.saturating_duration_since(Instant::now());
            if !self.lives() || left.is_zero() {
                let name = program.display();
                return Err(io::Error::other(match self.said() {
                    said if said.is_empty() => format!("`{name}` made no link in time"),
                    said => format!("`{name}`: {said}"),
                }));
            }
            // SAFETY: the socket lives through the call.
            let changed = unsafe { BorrowedFd::borrow_raw(changes.as_raw_fd()) };
            let mut fds =
                [PollFd::from_borrowed_fd(changed, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
            poll(
                &mut fds,
                Some(&Timespec { tv_sec: 0, tv_nsec: left.subsec_nanos().max(1_000_000).into() }),
            )?;
            while changes.recv_from_full().is_ok() {}
        }
        Ok(())
    }

    /// The last line of what it had to say before it ended.
    fn said(&mut self) -> String {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let mut text = String::new();
        if let Some(stderr) = &mut self.child.stderr {
            let _ = stderr.read_to_string(&mut text);
        }
        text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells of every route that comes or goes in this thread's namespace (rtnetlink(7)).
fn changes() -> io::Result<Socket> {
    const RTMGRP_IPV4_ROUTE: u32 = 0x40;
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind(&SocketAddr::new(0, RTMGRP_IPV4_ROUTE))?;
    socket.set_non_blocking(true)?;
    Ok(socket)
}

/// Whether this thread's namespace has a default route over the link: its fields are the link, then the
/// destination in hexadecimal digits.
fn leads_out() -> io::Result<bool> {
    let routes = fs::read_to_string("/proc/thread-self/net/route")?;
    let out = |line: &str| {
        let mut fields = line.split_whitespace();
        fields.next() == Some(INNER) && fields.next() == Some("00000000")
    };
    Ok(routes.lines().any(out))
}

fn found(name: &str) -> Option<PathBuf> {
    let runs = |path: &PathBuf| rustix::fs::access(path, rustix::fs::Access::EXEC_OK).is_ok();
    DIRECTORIES.iter().map(|dir| Path::new(dir).join(name)).find(runs)
}

/// It finds the namespace at its standard input.
fn start(program: &Path, inner: &OwnedFd) -> io::Result<Child> {
    let mut command = Command::new(program);
    let namespace = "/proc/self/fd/0";
    if program.ends_with("pasta") {
        // Nothing of the host's loopback, and no port in either direction: both are ours to decide.
        command.args(["--foreground", "--quiet", "--config-net", "--no-map-gw", "--ipv4-only"]);
        command.args(["--ns-ifname", INNER, "-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
        command.args(PASTA).args(["--netns-only", "--netns", namespace]);
    } else {
        command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--cidr", SLIRP]);
        command.args(["--netns-type=path", namespace, INNER]);
    }
    command
        .env_clear()
        .stdin(Stdio::from(File::from(inner.try_clone()?)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    // SAFETY: one system call with integers; nothing is allocated between fork and exec.
    unsafe {
        command.pre_exec(|| {
            // Where the anchor is killed, its way out is of no use to anybody.
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
    command.spawn()
}
