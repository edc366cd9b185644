//! The in-process runtime core: one container, its network and its disk; nothing of Compose.
//!
//! [`Core`] is the face; everything else stands behind it. A *group* is what containers share a
//! keeper and a supervisor with (the embedded engine makes one per Compose project).

pub mod anchor;
mod attended;
mod cdi;
mod cgroup;
mod check;
mod client;
mod config;
mod core;
mod dbus;
mod devices;
pub mod dns;
mod error;
mod exe;
mod exec;
mod face;
pub mod failpoint;
mod files;
mod fixtures;
mod gc;
mod health;
mod init;
pub mod ipam;
mod keeper;
mod launcher;
mod leases;
mod links;
mod lock;
pub mod logs;
mod memory;
pub mod netlink;
pub mod netns;
pub mod network;
pub mod nft;
mod oci;
pub mod ports;
mod process;
mod protocol;
mod restart;
mod rootfs;
pub mod rootless;
mod run;
pub mod seccomp;
mod sharing;
mod signal;
mod state;
mod supervisor;
mod terminal;
mod uplink;
mod usage;
pub mod users;
pub mod volumes;
mod wait;
mod worker;

pub use self::{
    attended::{Attended, write_all},
    cdi::first_kind as described_devices,
    cgroup::{Missing, knows as knows_limit, missing as limits_missing},
    config::{
        ALL_CAPABILITIES, ContainerConfig, Content, DEFAULT_CAPABILITIES, Device, Endpoint, ExecConfig,
        FileConfig, HealthConfig, IpcNamespace, Ipv6Config, LogConfig, MountConfig, MountKind, NetworkConfig,
        NetworkNamespace, OneOff, PidNamespace, PortConfig, RestartConfig, Rlimit, Rootfs, Seccomp, Upper,
        VolumeConfig, VolumeMount, capability_name,
    },
    core::{
        Attachment, BoundPort, ContainerRecord, Core, Exit, GroupLock, Health, LogRecord, LogRequest,
        NetworkRecord, Phase, PortConflict, RawRecord, Roots, Until, VolumeRecord,
    },
    error::{Error, Result},
    exe::{program, use_program},
    gc::Debris,
    process::available_capabilities,
    rootfs::Files,
    terminal::resize,
    usage::{ProcessRecord, Usage},
};

/// Runs a hidden entry (keeper, supervisor, anchor, foreground run) when this process was started as one,
/// and returns its exit code. Must be called before any thread exists.
#[must_use]
pub fn entry() -> Option<i32> {
    let arguments: Vec<String> =
        std::env::args_os().skip(1).map_while(|word| word.into_string().ok()).collect();
    let (name, rest) = arguments.split_first()?;
    match name.as_str() {
        keeper::ENTRY => Some(keeper::entry(rest)),
        supervisor::ENTRY => Some(supervisor::entry(rest)),
        run::ENTRY => Some(run::entry()),
        attended::ENTRY => Some(attended::entry()),
        anchor::ENTRY => Some(anchor::entry(rest)),
        face::ENTRY => Some(face::entry(rest)),
        _ => None,
    }
}
