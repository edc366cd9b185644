//! One flag for all threads of a build, which also wakes those that wait for a program.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
};

use rustix::event::{EventfdFlags, eventfd};

#[derive(Debug)]
pub struct Cancel {
    set: AtomicBool,
    event: OwnedFd,
}

impl Cancel {
    pub fn new() -> io::Result<Self> {
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { set: AtomicBool::new(false), event })
    }

    pub fn set(&self) {
        self.set.store(true, Ordering::Release);
        // It can only fail when it is set already.
        let _ = rustix::io::write(&self.event, &1u64.to_ne_bytes());
    }

    #[must_use]
    pub fn is_set(&self) -> bool {
        self.set.load(Ordering::Acquire)
    }

    /// Readable from then on.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }
}
