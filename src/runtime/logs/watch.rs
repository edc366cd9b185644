//! Waiting for a log to grow.

use std::path::Path;

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
    io::Errno,
};

use super::super::{Error, Result};

/// Wakes when the log grows.
#[derive(Debug)]
pub(super) struct Watch {
    inotify: rustix::fd::OwnedFd,
}

impl Watch {
    pub(super) fn on(dir: &Path) -> Result<Self> {
        let watch = || {
            let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&inotify, dir, inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE)?;
            Ok(Self { inotify })
        };
        watch().map_err(|error: Errno| Error::File {
            what: "watch log",
            path: dir.to_owned(),
            source: error.into(),
        })
    }

    /// True when something was written; false after a second of silence, since a writer that was
    /// killed wakes nobody.
    pub(super) fn wait(&self) -> Result<bool> {
        let mut fds = [PollFd::new(&self.inotify, PollFlags::IN)];
        let woken = match poll(&mut fds, Some(&Timespec { tv_sec: 1, tv_nsec: 0 })) {
            Ok(ready) => ready > 0,
            Err(Errno::INTR) => true,
            Err(error) => return Err(Error::System { what: "wait for log".into(), source: error.into() }),
        };
        let mut buffer = [0; 4096];
        while rustix::io::read(&self.inotify, &mut buffer).is_ok_and(|n| n > 0) {}
        Ok(woken)
    }
}
