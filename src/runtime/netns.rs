//! Network namespaces: making one, and doing something inside another one. A namespace belongs to a
//! thread, so all of this is safe beside other threads; what is opened inside stays inside.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Runs `work` in the network namespace `ns` and comes back.
///
/// # Errors
/// The way in failed, and nothing was done.
///
/// The process ends when the way back is barred: a thread must not go on in the wrong namespace.
pub fn within<T>(ns: BorrowedFd<'_>, work: impl FnOnce() -> T) -> io::Result<T> {
    let home = Return(current()?);
    move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))?;
    let done = work();
    drop(home);
    Ok(done)
}

/// A new, empty network namespace; this thread stays where it is.
pub fn create() -> io::Result<OwnedFd> {
    let home = Return(current()?);
    // SAFETY: a new network namespace changes neither memory nor the table of descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    let made = current();
    drop(home);
    made
}

/// The network namespace of this thread.
pub fn current() -> io::Result<OwnedFd> {
    Ok(File::open("/proc/thread-self/ns/net")?.into())
}

/// Goes back when dropped, also when the work in between panicked.
struct Return(OwnedFd);

impl Drop for Return {
    fn drop(&mut self) {
        if move_into_link_name_space(self.0.as_fd(), Some(LinkNameSpaceType::Network)).is_err() {
            std::process::abort();
        }
    }
}
