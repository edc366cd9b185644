//! What a command wants to be true.

use std::{collections::BTreeMap, time::Duration};

use crate::{engine::OneOff, model::Selection};

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
        orphans: Orphans,
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
        /// `start --wait`.
        wait: Option<WaitOptions>,
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
    /// `run`: a container of its own, started when what its service needs is there.
    Once(Box<Once>),
    /// `kill`.
    Signalled {
        selection: Selection,
        /// By name or number.
        signal: String,
        remove_orphans: bool,
    },
    /// `pause`, `unpause`: frozen, or going on.
    Paused {
        selection: Selection,
        paused: bool,
    },
    /// `rm`: the containers that do not run are gone; with `stop` the others, too.
    Discarded {
        selection: Selection,
        stop: bool,
        volumes: bool,
    },
    /// The end of `run`: this container is gone.
    Gone {
        container: String,
    },
    /// `down`: containers and networks are gone, and volumes if asked.
    Removed {
        selection: Selection,
        volumes: bool,
        remove_orphans: bool,
        timeout: Option<Duration>,
    },
}

/// What becomes of containers whose services the files no longer name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Orphans {
    /// They stay, and a note says so.
    #[default]
    Told,
    /// They stay.
    Ignored,
    Removed,
}

/// A container of `run`. Its service is in the project as it should be for this run.
#[derive(Clone, Debug, PartialEq)]
pub struct Once {
    pub service: String,
    /// Of the container.
    pub name: String,
    /// Tells it from others: 12 digits or more.
    pub slug: String,
    /// Services that must run first.
    pub dependencies: Selection,
    pub orphans: Orphans,
    pub one_off: OneOff,
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
            orphans: Orphans::Told,
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
