//! Images: references, content, registries. Knows nothing of containers.
//!
//! [`Store`] is the face. Blocking calls, but for the registry's.

mod store;

pub use store::{Image, ImageError, LayerRef, Report, Store};
