//! Files of variables, in both forms: places of faults lie in the text.
#![no_main]

use ficelle::load::dotenv::{Fault, nothing, parse, parse_raw};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let outer = |name: &str| (name.len() == 1).then(|| "outer".to_owned());
    check(parse(text, &outer, &nothing).err(), text);
    check(parse_raw(text, &outer).err(), text);
});

fn check(fault: Option<Fault>, text: &str) {
    let Some(fault) = fault else { return };
    assert!(fault.line >= 1 && fault.line as usize <= text.matches('\n').count() + 1, "{fault:?}");
    assert!(fault.column >= 1 && fault.length >= 1, "{fault:?}");
}
