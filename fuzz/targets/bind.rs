//! One file through the whole of loading: no panic, and what `config` prints reads back to itself. Keys with a `$`
//! do not: docker compose doubles that where it prints and leaves it alone where it reads, and so do we.
#![no_main]

use ficelle::load::{
    LoadOptions, config,
    diagnostic::Paint,
    load,
    source::Memory,
    tree::{Node, Value},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let options = LoadOptions { all_resources: true, profiles: vec!["*".into()], ..LoadOptions::default() };
    let source = Memory::project(&[("compose.yaml", text)]).with_environment(&[("HOME", "/root")]);
    let loaded = match load(&options, &source) {
        Ok(loaded) => loaded,
        Err(told) => {
            assert!(!told.is_empty());
            told.iter().for_each(|told| drop(told.render(Paint::Colour)));
            return;
        }
    };
    config::json(&loaded.resolved);
    let printed = config::yaml(&loaded.resolved);
    if has_dollar_key(&loaded.resolved.canonical) {
        return;
    }
    let again = load(&options, &Memory::project(&[("compose.yaml", &printed)]));
    match again {
        Ok(again) => assert_eq!(config::yaml(&again.resolved), printed),
        Err(told) => panic!("what was printed is not read:\n{printed}\n{}", told[0]),
    }
});

fn has_dollar_key(node: &Node) -> bool {
    match &node.value {
        Value::Map(map) => map.iter().any(|(key, value)| key.text.contains('$') || has_dollar_key(value)),
        Value::List(items) => items.iter().any(has_dollar_key),
        _ => false,
    }
}
