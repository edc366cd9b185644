//! `${VARIABLE}`: places of faults lie in the text, and an escaped text comes back as it was.
#![no_main]

use ficelle::load::interpolate::{substitute, variables};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let lookup = |name: &str| match name.len() % 3 {
        0 => None,
        1 => Some(String::new()),
        _ => Some(format!("${name}")),
    };
    match substitute(text, &lookup) {
        Ok(done) => {
            for (name, at) in done.unset {
                assert!(text[at].contains(&name));
            }
        }
        Err(fault) => assert!(text.get(fault.at()).is_some(), "{fault:?}"),
    }
    variables(text);
    let escaped = text.replace('$', "$$");
    assert_eq!(substitute(&escaped, &lookup).map(|done| done.text), Ok(text.to_owned()));
});
