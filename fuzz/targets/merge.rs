//! Several files of one project, parted by bytes that no text has: override, include, extends, `.env`.
#![no_main]

use ficelle::load::{LoadOptions, load, source::Memory};
use libfuzzer_sys::fuzz_target;

const FILES: [&str; 4] = ["compose.yaml", "compose.override.yaml", "other.yaml", ".env"];

fuzz_target!(|bytes: &[u8]| {
    let texts: Vec<String> =
        bytes.split(|byte| *byte == 0xff).map(|text| String::from_utf8_lossy(text).into_owned()).collect();
    let files: Vec<_> = FILES.into_iter().zip(texts.iter().map(String::as_str)).collect();
    let source = Memory::project(&files).with_environment(&[("HOME", "/root"), ("SET", "value")]);
    let explained = LoadOptions { explain: true, ..LoadOptions::default() };
    let first = load(&LoadOptions::default(), &source);
    let second = load(&explained, &source);
    assert_eq!(first.is_ok(), second.is_ok());
});
