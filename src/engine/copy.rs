//! Files on their way into and out of containers.

use std::{
    fmt,
    io::{Read, Write},
    path::PathBuf,
};

use super::ContainerId;

/// Files to be copied, as `cp` does: into a directory that is there, or under a new name.
#[derive(Debug)]
pub struct CopyRequest {
    pub project: String,
    pub from: Source,
    pub to: Target,
    /// A link at the path itself is followed.
    pub follow: bool,
    /// Owners are kept; else files belong to root in a container, and to the caller on the host.
    pub archive: bool,
}

pub enum Source {
    Container {
        id: ContainerId,
        path: PathBuf,
    },
    /// A path of the host.
    Host(PathBuf),
    /// A tar.
    Stream(Box<dyn Read + Send>),
    /// All of a container but what is mounted in it.
    Whole(ContainerId),
}

pub enum Target {
    Container {
        id: ContainerId,
        path: PathBuf,
    },
    Host(PathBuf),
    /// As a tar.
    Stream(Box<dyn Write + Send>),
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { id, path } => write!(f, "{}:{}", id.short(), path.display()),
            Self::Host(path) => write!(f, "{}", path.display()),
            Self::Stream(_) => f.write_str("-"),
            Self::Whole(id) => write!(f, "{}:/", id.short()),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { id, path } => write!(f, "{}:{}", id.short(), path.display()),
            Self::Host(path) => write!(f, "{}", path.display()),
            Self::Stream(_) => f.write_str("-"),
        }
    }
}
