//! Programs that a service asks for at turns of its container's life.

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

/// A program beside the container's own (`post_start`, `pre_stop`), or before it (`pre_start`). What is absent is
/// as the container has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hook {
    pub command: Vec<String>,
    pub user: Option<String>,
    pub privileged: bool,
    pub working_dir: Option<String>,
    /// `None` as a value takes a variable of the container away.
    pub environment: IndexMap<String, Option<String>>,
}
