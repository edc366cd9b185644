//! Network namespaces: making one, and doing something inside another one. A namespace belongs to a
//! thread, so all of this is safe beside other threads; what is opened inside stays inside.

use std::{
    fs::File,
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use super::rootless;
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space, unshare_unsafe};

/// Runs `work` in the network namespace `ns` and comes back.
///
/// # Errors
/// The way in failed, and nothing was done.
///
/// The process ends when the way back is barred: a thread must not go on in the wrong namespace.
pub fn within<T: Send>(ns: BorrowedFd<'_>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    if rootless::is_confined() {
        return aside(|| {
            move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))?;
            Ok(work())
        });
    }
    let home = Return(current()?);
    move_into_link_name_space(ns, Some(LinkNameSpaceType::Network))?;
    let done = work();
    drop(home);
    Ok(done)
}

/// A new, empty network namespace; this thread stays where it is.
pub fn create() -> io::Result<OwnedFd> {
    if rootless::is_confined() {
        return aside(|| {
            // SAFETY: as below.
            unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
            current()
        });
    }
    let home = Return(current()?);
    // SAFETY: a new network namespace changes neither memory nor the table of descriptors.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }?;
    let made = current();
    drop(home);
    made
}

/// In a thread that ends with the work: there is no way back into a namespace of the host for a user who
/// is root in a user namespace alone.
fn aside<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
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
