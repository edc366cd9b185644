//! Containers out of bundles of others: a directory with a `config.json` (OCI runtime specification)
//! that was not written by us, created, started and deleted by separate processes. Only the
//! command-line face uses it; libcontainer's own files are the state here.

use std::{
    collections::HashMap,
    fs,
    path::{Path, PathBuf},
};

use libcontainer::{
    container::{Container, builder::ContainerBuilder},
    oci_spec::runtime::Spec,
    signal::Signal,
    syscall::syscall::SyscallType,
    workload::{Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError, default},
};
use serde::Serialize;

use super::told;
use crate::runtime::{
    Error, Result, process, seccomp, signal,
    state::{Identity, plain_name, read_json, write_json},
};

/// Where the containers of one `--root` are.
#[derive(Clone, Debug)]
pub struct Bundles {
    pub root: PathBuf,
    /// Control groups through systemd, as scopes.
    pub systemd: bool,
}

/// How a container is made.
#[derive(Clone, Debug, Default)]
pub struct Making {
    pub bundle: PathBuf,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    /// Descriptors from 3 on that the program inherits.
    pub preserve_fds: i32,
    pub no_pivot: bool,
    /// The new process is to be the caller's child, and its streams the caller's.
    pub foreground: bool,
}

/// A process beside the main one.
#[derive(Clone, Debug, Default)]
pub struct Extra {
    pub args: Vec<String>,
    pub env: HashMap<String, String>,
    pub cwd: Option<PathBuf>,
    pub user: Option<(u32, Option<u32>)>,
    pub groups: Vec<u32>,
    pub capabilities: Vec<String>,
    /// A process document in place of all the above.
    pub process: Option<PathBuf>,
    pub no_new_privileges: bool,
    pub console_socket: Option<PathBuf>,
    pub pid_file: Option<PathBuf>,
    pub preserve_fds: i32,
    pub detach: bool,
    pub ignore_paused: bool,
    pub cgroup: Option<String>,
    pub process_label: Option<String>,
    pub apparmor: Option<String>,
}

/// The state that `state` prints (OCI runtime specification, "State").
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleState {
    pub oci_version: String,
    pub id: String,
    pub status: String,
    /// 0 when there is no process.
    pub pid: i32,
    pub bundle: PathBuf,
    #[serde(skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
}

impl Bundles {
    fn place(&self, id: &str) -> Result<PathBuf> {
        plain_name("container", id)?;
        Ok(self.root.join(id))
    }

    fn load(&self, id: &str) -> Result<Container> {
        let place = self.place(id)?;
        if !place.is_dir() {
            return Err(Error::NoContainer(id.to_owned()));
        }
        let mut container = Container::load(place.clone()).map_err(|e| wrong("cannot read the state", &e))?;
        // Its number may be another process's by now.
        let known: Option<Identity> = read_json(&place.join(IDENTITY))?;
        if known.is_some_and(|process| !process.lives()) {
            container.set_status(libcontainer::container::ContainerStatus::Stopped);
        }
        Ok(container)
    }

    /// Makes the container's process, which waits to be started; its pid.
    pub fn create(&self, id: &str, making: &Making) -> Result<i32> {
        let place = self.place(id)?;
        let document = making.bundle.join("config.json");
        let spec = Spec::load(&document).map_err(|e| wrong("cannot read config.json", &e))?;
        let builder = ContainerBuilder::new(id.to_owned(), SyscallType::default())
            .with_executor(Confined::of(&spec)?)
            .validate_id()
            .and_then(|builder| builder.with_root_path(&self.root))
            .and_then(|builder| builder.with_pid_file(making.pid_file.clone()))
            .map_err(|e| wrong("cannot make the container", &e))?
            .with_console_socket(making.console_socket.clone())
            .with_preserved_fds(making.preserve_fds);
        let known = place.exists();
        let made = builder
            .as_init(&making.bundle)
            .with_systemd(self.systemd)
            .with_detach(!making.foreground)
            .with_no_pivot(making.no_pivot)
            .build();
        let container = match made {
            Ok(container) => container,
            Err(error) => {
                if !known {
                    self.forget(&place);
                }
                return Err(wrong("cannot make the container", &error));
            }
        };
        let pid = container.pid().map_or(0, libcontainer::nix_pid);
        if let Some(identity) = Identity::of(pid) {
            write_json(&place.join(IDENTITY), &identity)?;
        }
        Ok(pid)
    }

    /// What a failed creation left.
    fn forget(&self, place: &Path) {
        let Ok(mut container) = Container::load(place.to_owned()) else {
            let _ = fs::remove_dir_all(place);
            return;
        };
        if container.delete(true).is_err() {
            let _ = fs::remove_dir_all(place);
        }
    }

    pub fn start(&self, id: &str) -> Result<()> {
        self.load(id)?.start().map_err(|e| wrong("cannot start the container", &e))
    }
}

const IDENTITY: &str = "identity.json";

fn wrong(what: &str, error: &dyn std::error::Error) -> Error {
    Error::Helper(told(what, error))
}
