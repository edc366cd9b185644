//! Documents of a registry or an archive: indexes, manifests, configurations; a byte that
//! no text has parts a manifest from its configuration.
#![no_main]

use ficelle::image::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(2, |byte| *byte == 0xff);
    fuzz::documents(parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
});
