//! What a command wants to be true.

use std::{collections::BTreeMap, time::Duration};

use crate::model::Selection;

/// What should be true of the selected services when the command is done.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// `up`, `create`: there, as the file says, and started unless `start` is false.
    Running {
        selection: Selection,
        /// Of the services that the user named (of all, when none was named).
        recreate: Recreate,
        /// Of the services that are only needed by those (`--always-recreate-deps`).
        recreate_dependencies: Recreate,
        start: bool,
        /// Containers of services that the files no longer name are removed.
        remove_orphans: bool,
        /// Anonymous volumes start afresh.
        renew_anon_volumes: bool,
        /// Number of containers by service, over what the file says.
        scale: BTreeMap<String, u32>,
        timeout: Option<Duration>,
        /// `up --wait`.
        wait: Option<WaitOptions>,
    },
    /// `start`: what was created runs again.
    Started {
        selection: Selection,
    },
    Stopped {
        selection: Selection,
        timeout: Option<Duration>,
    },
    Restarted {
        selection: Selection,
        timeout: Option<Duration>,
        dependents: bool,
    },
    /// `down`: containers and networks are gone, and volumes if asked.
    Removed {
        selection: Selection,
        volumes: bool,
        remove_orphans: bool,
        timeout: Option<Duration>,
    },
}

impl Goal {
    /// `up` with no flags.
    #[must_use]
    pub fn running(selection: Selection) -> Self {
        Self::Running {
            selection,
            recreate: Recreate::Diverged,
            recreate_dependencies: Recreate::Diverged,
            start: true,
            remove_orphans: false,
            renew_anon_volumes: false,
            scale: BTreeMap::new(),
            timeout: None,
            wait: None,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaitOptions {
    pub timeout: Option<Duration>,
}

/// When an existing container is replaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Recreate {
    /// When its configuration or image differs.
    #[default]
    Diverged,
    /// `--force-recreate`.
    Always,
    /// `--no-recreate`.
    Never,
}
