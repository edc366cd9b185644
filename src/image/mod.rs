//! Images: references, content, registries. Knows nothing of containers.
//!
//! [`Store`] is the face. Blocking calls, but for the registry's.

mod archive;
mod arrival;
mod codec;
mod commit;
mod extract;
mod fetch;
pub mod files;
#[cfg(fuzzing)]
pub mod fuzz;
mod gc;
mod ingest;
mod layout;
mod lease;
mod load;
mod lock;
mod names;
mod pax;
mod platform;
mod pull;
mod record;
mod registry;
mod stack;
mod store;
mod tarin;
mod tarout;
mod trash;
mod untar;

pub use commit::{DockerConfig, ImageHealthcheck};
pub use extract::{ArchiveKind, archive_kind, extract};
pub use platform::Platform;
pub use registry::{Endpoint, Registries};
pub use store::{Image, ImageError, LayerRef, Report, Store};
