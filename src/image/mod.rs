//! Images: references, content, registries. Knows nothing of containers.
//!
//! [`Store`] is the face. Blocking calls, but for the registry's.

mod archive;
mod arrival;
mod artifact;
mod changes;
mod codec;
mod commit;
mod extract;
mod fetch;
pub mod files;
#[cfg(fuzzing)]
pub mod fuzz;
mod gc;
mod import;
mod ingest;
mod layout;
mod lease;
mod load;
mod lock;
mod lookup;
mod names;
mod pack;
mod pax;
mod platform;
mod pull;
mod push;
mod recipe;
mod record;
mod registry;
mod save;
mod stack;
mod store;
mod tarin;
mod tarout;
mod trash;
mod untar;

pub use artifact::compose_project;
pub use changes::Remark;
pub use commit::{DockerConfig, ImageHealthcheck};
pub use extract::{ArchiveKind, archive_kind, extract};
pub use lookup::{Found, Made};
pub use platform::Platform;
pub use push::Pushed;
pub use registry::{Download, Endpoint, LoggedIn, Registries, download, log_in, log_out};
pub use store::{Image, ImageError, LayerRef, Named, Report, Store};
