//! YAML text to a tree: never a panic, whatever the text, and every place lies in it.
#![no_main]

use ficelle::load::{
    diagnostic::{Files, Paint},
    tree::{self, Node, Span, Value},
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let mut files = Files::default();
    let file = files.add("compose.yaml", text);
    match tree::parse(&files, file) {
        Ok(documents) => documents.iter().for_each(|document| within(document, text)),
        Err(mistakes) => {
            assert!(!mistakes.is_empty());
            for mistake in mistakes {
                assert!(mistake.place().is_some(), "{mistake:?}");
                mistake.render(Paint::Plain);
                mistake.json();
                mistake.github();
            }
        }
    }
});

fn within(node: &Node, text: &str) {
    check(node.span, text);
    match &node.value {
        Value::List(items) => items.iter().for_each(|item| within(item, text)),
        Value::Map(map) => {
            for (key, value) in map {
                check(key.span, text);
                within(value, text);
            }
        }
        _ => {}
    }
}

fn check(span: Span, text: &str) {
    // A value that is not there stands behind the end, on a line of its own.
    let lines = text.bytes().filter(|byte| matches!(byte, b'\n' | b'\r')).count() + 2;
    assert!(span.line >= 1 && span.column >= 1 && span.line as usize <= lines, "{span:?}");
}
