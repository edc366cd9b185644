//! What can be done with images beside a plan: each is one act, complete in itself.

use std::{path::PathBuf, time::SystemTime};

use indexmap::IndexMap;

use super::ContainerId;
use crate::model::{Build, ImageRef};

/// An act on images, the store or a registry. Images are named as people name them, by a name or the
/// beginning of an id.
#[derive(Clone, PartialEq)]
pub enum ImageAct {
    Pull {
        image: ImageRef,
        platform: Option<String>,
    },
    Push {
        image: ImageRef,
    },
    /// Into one archive; `-` is standard output.
    Save {
        images: Vec<String>,
        output: PathBuf,
    },
    /// A file system as an image of one layer; `-` is standard input.
    Import {
        input: PathBuf,
        image: Option<ImageRef>,
        platform: Option<String>,
        message: String,
        /// Instructions of a Dockerfile that change no file.
        changes: Vec<String>,
        created: String,
    },
    Inspect {
        image: String,
    },
    History {
        image: String,
    },
    Tag {
        source: String,
        target: ImageRef,
    },
    Prune(Prune),
    /// Of a container as it is now.
    Commit(Box<CommitRequest>),
    Login {
        registry: String,
        user: String,
        password: String,
    },
    Logout {
        registry: String,
    },
    /// What a name stands for at its registry now.
    Digest {
        image: ImageRef,
    },
    /// The images that a build starts from, as its Dockerfile writes them.
    Bases {
        build: Box<Build>,
    },
}

/// An image to be made of a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CommitRequest {
    pub project: String,
    pub container: ContainerId,
    /// Of the container, for messages.
    pub name: String,
    pub image: Option<ImageRef>,
    pub author: String,
    pub message: String,
    /// It is frozen meanwhile.
    pub pause: bool,
    /// Instructions of a Dockerfile that change no file.
    pub changes: Vec<String>,
    /// RFC 3339.
    pub created: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prune {
    /// Every image without a container, not only those without a name.
    pub all: bool,
    /// What builds keep for the next one, too.
    pub build_cache: bool,
    /// Only images made before.
    pub until: Option<SystemTime>,
    /// Only images of which all of these are true.
    pub labels: Vec<LabelFilter>,
}

/// Whether an image has a label, with any value or this one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LabelFilter {
    pub name: String,
    pub value: Option<String>,
    /// False: it has it not.
    pub has: bool,
}

impl LabelFilter {
    /// `name` or `name=value`.
    #[must_use]
    pub fn new(text: &str, has: bool) -> Self {
        let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
        Self { name: name.to_owned(), value: value.map(str::to_owned), has }
    }

    #[must_use]
    pub fn takes(&self, labels: &IndexMap<String, String>) -> bool {
        let fits = |found: &String| self.value.as_ref().is_none_or(|value| value == found);
        labels.get(&self.name).is_some_and(fits) == self.has
    }
}

/// What an act gives.
#[derive(Clone, Debug, PartialEq)]
pub enum ImageAnswer {
    Done,
    /// Of an image, or of what a name stands for.
    Id {
        id: String,
        notes: Vec<String>,
    },
    Document(serde_json::Value),
    History(Vec<ImageStep>),
    /// Names that were taken away, and bytes freed.
    Pruned {
        names: Vec<String>,
        freed: u64,
    },
    Names(Vec<String>),
    /// The file that a login stands in, and the helper that keeps its secret.
    LoggedIn {
        file: PathBuf,
        helper: Option<String>,
    },
    LoggedOut {
        files: Vec<PathBuf>,
    },
}

/// A step of an image's history, the last one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageStep {
    pub created: Option<SystemTime>,
    pub created_by: String,
    /// In bytes.
    pub size: u64,
    pub comment: String,
}

/// Never shows a password.
impl std::fmt::Debug for ImageAct {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl ImageAct {
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pull { .. } => "pull",
            Self::Push { .. } => "push",
            Self::Save { .. } => "save",
            Self::Import { .. } => "import",
            Self::Inspect { .. } => "inspect",
            Self::History { .. } => "history",
            Self::Tag { .. } => "tag",
            Self::Prune(_) => "prune",
            Self::Commit(_) => "commit",
            Self::Login { .. } => "login",
            Self::Logout { .. } => "logout",
            Self::Digest { .. } => "digest",
            Self::Bases { .. } => "bases",
        }
    }
}
