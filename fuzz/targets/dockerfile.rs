//! Dockerfiles: a syntax tree or mistakes, each with its place in the text.
#![no_main]

use ficelle::build::dockerfile::{line_of, parse, parse_trigger};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Err(mistakes) = parse(text) {
        assert!(!mistakes.is_empty());
        for mistake in mistakes {
            assert!(mistake.span.start <= mistake.span.end && mistake.span.end <= text.len(), "{mistake:?}");
            line_of(text, mistake.span.start);
        }
    }
    let _ = parse_trigger(text);
});
