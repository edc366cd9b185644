//! The doors of `fuzz/` into this room: documents and layers as they come from outside.

use std::{path::Path, str::FromStr};

use oci_spec::image::{Descriptor, Digest, MediaType};

use super::{
    arrival::{Arrival, parse_manifest},
    codec::digest,
    ingest::unpack_plain,
    platform::Platform,
    pull::choose,
};

/// Reads `first` as an index, and as a manifest whose configuration is `second`.
pub fn documents(first: &[u8], second: &[u8]) {
    let _ = choose(first, &Platform::host(), "fuzz");
    let id = digest(second);
    let _ = Arrival::new(&id, second.to_vec(), None);
    let Ok(manifest) = parse_manifest(first, "fuzz") else { return };
    let Ok(name) = Digest::from_str(&digest(first)) else { return };
    let descriptor = Descriptor::new(MediaType::ImageManifest, first.len() as u64, name);
    let _ = Arrival::new(&id, second.to_vec(), Some((descriptor, first.to_vec(), manifest)));
}

/// Unpacks a layer below `scratch`, an empty directory.
pub fn layer(bytes: &[u8], scratch: &Path) {
    let _ = unpack_plain(scratch, bytes);
}
