//! Builds an image from a Dockerfile: parse, then solve on the runtime core, with a cache.

pub mod cache;
pub mod config;
pub mod content;
pub mod copy;
pub mod dockerfile;
pub mod expand;
pub mod graph;
pub mod ignore;
pub mod memo;
pub mod mode;
pub mod mounts;
pub mod platform;
pub mod tree;

use std::sync::Arc;

use crate::{
    image::{Image, Store},
    model::{Build, ImageRef},
    runtime::Core,
};

/// What a build says while it goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BuildEvent {
    /// `[web 2/5] RUN make`; numbers are of its stage.
    Step {
        step: String,
        cached: bool,
    },
    /// A line that the step's program wrote.
    Output(String),
    Warning(String),
}

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A mistake in the Dockerfile, rendered with its place by the caller.
    #[error("{message}")]
    Dockerfile { file: String, line: u32, message: String, help: Option<String> },
    /// A RUN step ended with a code other than 0.
    #[error("{file}:{line}: `{command}` exited with code {code}")]
    Step { file: String, line: u32, command: String, code: i32 },
    #[error("{message}")]
    Context {
        message: String,
        #[source]
        source: Option<std::io::Error>,
    },
    #[error(transparent)]
    Image(#[from] crate::image::ImageError),
    #[error(transparent)]
    Runtime(#[from] crate::runtime::Error),
    #[error("cancelled")]
    Cancelled,
}

/// Builds `build` and names the result. Base images missing in the store are pulled.
pub async fn build(
    store: &Store,
    core: &Core,
    build: &Build,
    references: &[ImageRef],
    events: Arc<dyn Fn(BuildEvent) + Send + Sync>,
) -> Result<Image, BuildError> {
    events(BuildEvent::Output(String::new()));
    unimplemented!("{store:?} {core:?} {build:?} {references:?}")
}
