//! What can go wrong in the runtime, by what a caller can act on.

use std::{io, path::PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no container `{0}`")]
    NoContainer(String),
    #[error("no network `{0}`")]
    NoNetwork(String),
    #[error("no volume `{0}`")]
    NoVolume(String),
    #[error("{what} needs {need}")]
    Permission { what: String, need: String },
    /// An ordinary user cannot run containers here; `help` is what opens the way.
    #[error("{message}")]
    Rootless { message: String, help: String },
    /// Port, name or address taken.
    #[error("{0}")]
    Conflict(String),
    /// The configuration cannot be carried out on any machine.
    #[error("{0}")]
    Invalid(String),
    /// It cannot be carried out on this machine, or by this version.
    #[error("{0}")]
    Unsupported(String),
    #[error("{0} are used up")]
    Exhausted(String),
    /// The program of the container could not be run (missing: 127, not executable: 126).
    #[error("{message}")]
    Exec { message: String, code: i32 },
    /// While waiting: the container ended or became unhealthy, so what was waited for cannot come.
    #[error("{0}")]
    Condition(String),
    #[error("timed out after {0:?}")]
    Timeout(std::time::Duration),
    #[error("{what} `{}`", path.display())]
    File { what: &'static str, path: PathBuf, source: io::Error },
    /// A helper process (keeper, worker, supervisor, anchor) failed.
    #[error("{0}")]
    Helper(String),
    #[error("{what}")]
    System { what: String, source: io::Error },
}
