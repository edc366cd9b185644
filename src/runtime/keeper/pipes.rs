//! The standard streams of a container: FIFOs that the keeper holds open.

use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags};

use super::super::{
    ContainerConfig, Result,
    state::{Place, failed, file_error},
};

/// Standard input first.
pub(super) const COUNT: usize = PIPES.len();

const PIPES: [&str; 3] = ["in", "out", "err"];

pub(super) fn make_pipes(place: &Place) -> Result<()> {
    for name in PIPES {
        let path = place.run.join(name);
        let mode = Mode::from_raw_mode(0o600);
        match rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0) {
            Err(rustix::io::Errno::EXIST) | Ok(()) => {}
            Err(e) => return Err(file_error("cannot make pipe", &path, e.into())),
        }
    }
    Ok(())
}

/// Our ends, so that nothing written is lost when everybody else is gone.
pub(super) fn open_pipes(place: &Place) -> Result<Vec<OwnedFd>> {
    PIPES.iter().map(|name| open_pipe(place, name, OFlags::RDWR | OFlags::NONBLOCK)).collect()
}

pub(super) fn open_pipe(place: &Place, name: &str, flags: OFlags) -> Result<OwnedFd> {
    let path = place.run.join(name);
    rustix::fs::open(&path, OFlags::CLOEXEC | OFlags::NOFOLLOW | flags, Mode::empty())
        .map_err(|e| file_error("cannot open", &path, e.into()))
}

/// The container's ends: readable and writable, so that no death of a reader is a SIGPIPE for it.
pub(super) fn streams(place: &Place, config: &ContainerConfig) -> Result<Option<[OwnedFd; 3]>> {
    if config.tty {
        return Ok(None);
    }
    let stdin = if config.stdin_open {
        // Written to by nobody but its user, it must end when they are gone.
        let closes = config.once.as_ref().is_some_and(|once| once.close_stdin);
        open_pipe(place, "in", if closes { OFlags::RDONLY } else { OFlags::RDWR })?
    } else {
        rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("cannot open /dev/null"))?
    };
    Ok(Some([stdin, open_pipe(place, "out", OFlags::RDWR)?, open_pipe(place, "err", OFlags::RDWR)?]))
}

/// Of a program that nobody talks with.
pub(super) fn null_streams() -> Result<[OwnedFd; 3]> {
    let null = || {
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("cannot open /dev/null"))
    };
    Ok([null()?, null()?, null()?])
}
