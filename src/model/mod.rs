//! The nouns of Compose, after loading: what the user asked for, complete and checked.
//!
//! Nothing here does I/O, and nothing here knows an engine. Short forms, variables, merges and
//! relative paths are the business of `load`; what runs is the business of `engine` and below.

mod build;
mod container;
mod device;
mod files;
mod graph;
mod hook;
mod image_ref;
mod names;
mod place;
mod project;
mod provider;
mod repository;
mod selection;
mod service;
mod sharing;
mod signal;

pub use build::{Build, BuildSecret, Hidden, LockedBases, SecretSource};
pub use container::{
    Attachment, Blkio, ContainerSpec, Dns, ExtraHost, HealthTest, Healthcheck, Limits, Logging, Mount,
    MountSource, NetworkMode, Port, PortRange, Protocol, RestartPolicy, SecurityOption, TmpfsOptions, Ulimit,
    VolumeOptions,
};
pub use device::{Device, DeviceRequest, DeviceRule, is_access};
pub use files::{FileMount, FileSource, Sealed};
pub use graph::{Cycle, Graph};
pub use hook::Hook;
pub use image_ref::{ImageRef, ImageRefError};
pub use names::{container_name, image_name, label};
pub use place::{Place, Places};
pub use project::{Network, Project, Subnet, Volume};
pub use provider::Provider;
pub use repository::Repository;
pub use selection::{Selection, UnknownService, WithDependencies};
pub use service::{Condition, Dependency, PullPolicy, Service};
pub use sharing::{IpcMode, Lender, PidMode, VolumesFrom};
pub use signal::number as signal_number;
