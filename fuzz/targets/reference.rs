//! Image references: what is read can be printed and read again, in full and in its familiar form.
#![no_main]

use ficelle::model::ImageRef;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(image) = text.parse::<ImageRef>() else { return };
    assert_eq!(image.to_string().parse(), Ok(image.clone()), "in full");
    assert_eq!(image.familiar().parse(), Ok(image), "familiar");
});
