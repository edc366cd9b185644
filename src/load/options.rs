//! What a load is asked for, and what it gives.

use std::{collections::BTreeMap, path::PathBuf};

use super::{diagnostic::Diagnostic, explain::Explained, tree::Node};
use crate::model::{Place, Project};

/// Everything the command line can say about loading. The default loads what lies in the current
/// directory.
#[derive(Clone, Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a flag of `config`, named at its use")]
pub struct LoadOptions {
    /// Compose files in merge order (`-f`); `-` is standard input. Empty: look for one.
    pub files: Vec<String>,
    /// The text of one more Compose file, laid over all others; what is wrong in it is told as being in
    /// the flags.
    pub overlay: Option<String>,
    pub project_directory: Option<PathBuf>,
    /// `-p`; must be a valid name already.
    pub project_name: Option<String>,
    /// Files of variables in place of `.env`, the later winning.
    pub env_files: Vec<PathBuf>,
    /// Profiles that are on, beside those of `COMPOSE_PROFILES`; `*` is all.
    pub profiles: Vec<String>,
    /// Services that are meant: with what they need they stay, the rest goes. Empty: all.
    pub services: Vec<String>,
    /// Keep networks, volumes, configs and secrets that no service uses.
    pub all_resources: bool,
    /// Leave variables as written.
    pub no_interpolate: bool,
    /// Leave out names, the default network and other defaults.
    pub no_normalize: bool,
    /// Leave relative paths as written.
    pub no_path_resolution: bool,
    /// Do not check that references lead somewhere.
    pub no_consistency: bool,
    /// Do not read `env_file` and do not take variables from the environment.
    pub no_env_resolution: bool,
    /// Tell of every value where it comes from ([`Resolved::explained`]).
    pub explain: bool,
}

/// A loaded project.
#[derive(Clone, Debug)]
pub struct Loaded {
    pub resolved: Resolved,
    /// The types that engines and plans work with.
    pub project: Project,
    /// What is valid in the file but not honoured.
    pub unsupported: Vec<Unsupported>,
}

/// A project as `config` shows it: files merged, variables filled in, short forms written out.
#[derive(Clone, Debug)]
pub struct Resolved {
    pub canonical: Node,
    pub warnings: Vec<Diagnostic>,
    /// The variables used for interpolation, those of the process and of the files.
    pub environment: BTreeMap<String, String>,
    /// Profiles named by any service, in order.
    pub profiles: Vec<String>,
    /// Every value with its place and why it won; empty unless it was asked for.
    pub explained: Vec<Explained>,
    /// How the tree is to be printed: as typed values, or as written.
    pub(super) as_written: bool,
}

/// An attribute that the engine in this binary does not honour.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// `services.web.devices`
    pub path: String,
    pub place: Option<Place>,
    pub text: String,
    pub effect: Effect,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Running the service without it would be something else than was asked for.
    Refused,
    /// Means something elsewhere only (on a cluster, on Windows, in Docker's files); goes without.
    Ignored,
}

impl Unsupported {
    /// The same as a message.
    #[must_use]
    pub fn short(&self) -> String {
        let place = self.place.as_ref().map(|place| format!("{place}: ")).unwrap_or_default();
        format!("{place}{}", self.text)
    }
}
