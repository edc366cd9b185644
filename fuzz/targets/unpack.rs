//! Layers, plain and compressed: unpacked below one directory and nowhere else.
#![no_main]

use std::fs;

use ficelle::image::fuzz;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let around = tempfile::tempdir_in("/dev/shm").expect("a scratch directory");
    let sentinel = around.path().join("sentinel");
    fs::write(&sentinel, "whole").expect("a sentinel");
    let scratch = around.path().join("layer");
    fs::create_dir(&scratch).expect("a directory for the layer");
    fuzz::layer(bytes, &scratch);
    assert_eq!(fs::read(&sentinel).expect("the sentinel"), b"whole");
    let count = |path| fs::read_dir(path).expect("a directory").count();
    assert_eq!((count(around.path()), count(&scratch)), (2, 2), "something was written outside");
});
