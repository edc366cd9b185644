//! `.dockerignore`: patterns, and after a byte that no text has a path. What is pruned stays pruned.
#![no_main]

use ficelle::build::ignore::{Matcher, matches_name};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.split(|byte| *byte == 0xff).map(String::from_utf8_lossy);
    let (patterns, path) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let _ = matches_name(&patterns, &path);
    let Ok(matcher) = Matcher::parse(&patterns) else { return };
    let ignored = matcher.ignores(&path);
    if matcher.prunes(&path) {
        assert!(ignored);
        for below in ["x", "a/b", ".git"] {
            assert!(matcher.ignores(&format!("{path}/{below}")), "{path} is pruned, {below} is not");
        }
    }
});
