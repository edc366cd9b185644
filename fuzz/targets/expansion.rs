//! Variables of Dockerfiles, with quotes taken off and kept, under both escape characters.
#![no_main]

use ficelle::build::expand::{Quotes, expand};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lookup = |name: &str| match name.len() % 3 {
        0 => None,
        1 => Some(String::new()),
        _ => Some("foobar.tar.gz".to_owned()),
    };
    for escape in ['\\', '`'] {
        for quotes in [Quotes::Removed, Quotes::Kept] {
            let _ = expand(text, escape, quotes, &lookup);
        }
    }
});
