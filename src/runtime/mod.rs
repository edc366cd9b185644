//! The in-process runtime core: one container, its network and its disk; nothing of Compose.
//!
//! [`Core`] is the face; everything else stands behind it. A *group* is what containers share a
//! keeper and a supervisor with (the embedded engine makes one per Compose project).

mod config;
mod core;
mod error;
pub mod logs;
pub mod seccomp;
pub mod volumes;

pub use self::{
    config::{
        ContainerConfig, Device, Endpoint, HealthConfig, MountConfig, MountKind, NetworkConfig,
        NetworkNamespace, PortConfig, RestartConfig, Rlimit, Rootfs, Upper, VolumeConfig,
    },
    core::{
        BoundPort, ContainerRecord, Core, Exit, GroupLock, Health, LogRecord, LogRequest, NetworkRecord,
        Phase, PortConflict, Roots, Until, VolumeRecord,
    },
    error::{Error, Result},
};

/// Runs a hidden entry (keeper, supervisor, anchor, container init) when this process was started
/// as one, and returns its exit code. Must be called before any thread exists.
#[must_use]
pub fn entry() -> Option<i32> {
    None
}
