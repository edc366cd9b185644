//! Terminals: made in the file system of a container, so that its programs find them there by name.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use rustix::{
    fs::{FileType, Gid, Mode, OFlags, Uid},
    termios::{Winsize, tcsetwinsize},
};

use super::{
    Error, Result, rootfs,
    state::{Identity, failed},
    users::User,
};

/// Major and minor number of the multiplexer of pseudo terminals.
const MULTIPLEXER: (u32, u32) = (5, 2);

/// A new terminal of the container that `process` is in: the master, and the end of the program.
pub fn open_in(process: &Identity, user: &User) -> Result<(OwnedFd, OwnedFd)> {
    let what = "cannot open a terminal in the container";
    let root = rootfs::open_path(format!("/proc/{}/root", process.pid).as_ref())?;
    let found = rootfs::open_inside(root.as_fd(), "/dev/pts/ptmx", OFlags::PATH).map_err(failed(what))?;
    // What stands there is the container's to choose: no other device is opened.
    let stat = rustix::fs::fstat(&found).map_err(failed(what))?;
    let device = (rustix::fs::major(stat.st_rdev), rustix::fs::minor(stat.st_rdev));
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || device != MULTIPLEXER {
        return Err(Error::Condition("/dev/pts/ptmx of the container makes no terminals".to_owned()));
    }
    let path = format!("/proc/self/fd/{}", found.as_raw_fd());
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let master = rustix::fs::open(path, flags, Mode::empty()).map_err(failed(what))?;
    let slave = peer(&master)?;
    let mode = Mode::from_raw_mode(0o620);
    rustix::fs::fchmod(&slave, mode).map_err(failed(what))?;
    // Its group stays that of all terminals.
    rustix::fs::fchown(&slave, Some(Uid::from_raw(user.uid)), None::<Gid>).map_err(failed(what))?;
    Ok((master, slave))
}

/// Unlocks the other end and opens it, without a path.
fn peer(master: &OwnedFd) -> Result<OwnedFd> {
    let failed = || {
        let source = std::io::Error::last_os_error();
        Error::System { what: "cannot open the other end of a terminal".to_owned(), source }
    };
    let unlocked: libc::c_int = 0;
    // SAFETY: the request reads one integer, which outlives the call.
    if unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) } < 0 {
        return Err(failed());
    }
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: the request takes flags and returns a descriptor, which is ours.
    match unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) } {
        fd if fd < 0 => Err(failed()),
        // SAFETY: as above.
        fd => Ok(unsafe { OwnedFd::from_raw_fd(fd) }),
    }
}

/// Tells a terminal, by its master, how large it is now.
pub fn resize(master: BorrowedFd<'_>, (rows, columns): (u16, u16)) -> Result<()> {
    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    tcsetwinsize(master, size).map_err(failed("cannot resize the terminal"))
}
