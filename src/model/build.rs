//! How an image is made.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    path::PathBuf,
};

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

use super::{ExtraHost, Ulimit};

/// How an image is made from a Dockerfile.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Build {
    /// Absolute path of the context directory, or the address of a git repository or archive.
    pub context: PathBuf,
    /// By name: a directory, `docker-image://`, `oci-layout://`, the address of a git repository or
    /// archive, or `service:` and the key of a service that is built before.
    pub additional_contexts: IndexMap<String, String>,
    /// Path of the Dockerfile, absolute or relative to the context; `Dockerfile` when absent.
    pub dockerfile: Option<PathBuf>,
    pub dockerfile_inline: Option<String>,
    pub args: IndexMap<String, Option<String>>,
    pub labels: IndexMap<String, String>,
    pub target: Option<String>,
    pub no_cache: bool,
    /// Stages that are made anew.
    pub no_cache_filter: Vec<String>,
    /// Where results of other builds may be taken from: images, or `type=local,src=DIR`.
    pub cache_from: Vec<String>,
    /// Where the results of this build are put for others.
    pub cache_to: Vec<String>,
    /// Refresh the base images.
    pub pull: bool,
    /// Further names of the result.
    pub tags: Vec<String>,
    /// That of the service; one of `platforms` when absent.
    pub platform: Option<String>,
    pub platforms: Vec<String>,
    /// The result is for all of `platforms`, not only for the one that is run here.
    pub every_platform: bool,
    pub secrets: Vec<BuildSecret>,
    /// By id: the socket of an agent or key files (with commas); the user's agent when absent.
    pub ssh: IndexMap<String, Option<String>>,
    /// Of RUN: `default`, `host` or `none`.
    pub network: Option<String>,
    /// Further lines of `/etc/hosts` in RUN.
    pub extra_hosts: Vec<(String, ExtraHost)>,
    /// Size of /dev/shm in RUN, in bytes; 64 MiB when absent.
    pub shm_size: Option<u64>,
    /// Of RUN.
    pub ulimits: IndexMap<String, Ulimit>,
    /// RUN may ask for `--security=insecure`.
    pub privileged: bool,
    /// What RUN may ask for: `security.insecure`, `network.host`.
    pub entitlements: Vec<String>,
    /// Only Windows has any.
    pub isolation: Option<String>,
    /// What to attest of the build, as written.
    pub provenance: Option<String>,
    pub sbom: Option<String>,
}

/// What the images that a build starts from must be (`--locked`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LockedBases {
    /// Digest of the manifest or index by name, as the Dockerfile writes it.
    pub digests: BTreeMap<String, String>,
    /// Images that the project builds itself: no registry has them.
    pub built_here: BTreeSet<String>,
}

/// A secret that RUN may mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BuildSecret {
    pub id: String,
    pub source: SecretSource,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SecretSource {
    File(PathBuf),
    /// A variable, and its value when it is set.
    Environment {
        name: String,
        value: Option<Hidden>,
    },
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hidden(pub String);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}
