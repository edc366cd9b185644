//! The in-process runtime core: one container, its network and its disk; nothing of Compose.
//!
//! [`Core`] is the face; everything else stands behind it. A *group* is what containers share a
//! keeper and a supervisor with (the embedded engine makes one per Compose project).

use std::{path::PathBuf, sync::OnceLock};

pub mod anchor;
mod config;
mod core;
pub mod dns;
mod error;
pub mod ipam;
pub mod logs;
pub mod netlink;
pub mod netns;
pub mod network;
pub mod nft;
pub mod ports;
pub mod seccomp;
mod uplink;
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
    let args: Vec<String> = std::env::args_os().skip(1).map_while(|arg| arg.into_string().ok()).collect();
    let (name, args) = args.split_first()?;
    match name.as_str() {
        anchor::ENTRY => Some(anchor::entry(args)),
        _ => None,
    }
}

static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Says where the `ficelle` binary with the hidden entries is, for a program that uses the crate
/// but is not that binary. The first call counts.
pub fn use_program(path: PathBuf) {
    let _ = PROGRAM.set(path);
}

/// The binary with the hidden entries; this process's own unless said otherwise.
fn program() -> PathBuf {
    PROGRAM.get().cloned().unwrap_or_else(|| PathBuf::from("/proc/self/exe"))
}
