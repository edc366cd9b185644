//! The published schema, held against the attribute table it is made from.

use std::{fs, path::Path};

use ficelle::load::{attributes, schema};
use serde_json::Value as Json;

/// Holds a published file against the text it is generated from, or writes it.
fn published(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema").join(name);
    if std::env::var_os("FICELLE_GENERATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    } else {
        let same = fs::read_to_string(&path).is_ok_and(|found| found == text);
        assert!(same, "schema/{name} is out of date: FICELLE_GENERATE=1 cargo test --test it generated");
    }
}

#[test]
fn generated_schema_is_that_of_the_attribute_table() {
    published("compose-spec.json", &schema::text());
}

#[test]
fn generated_schema_of_diagnostics_describes_what_is_told() {
    published("diagnostics.json", &schema::diagnostics_text());
    let source = ficelle::load::source::Memory::project(&[(
        "compose.yaml",
        "services:\n  a: {imag: i, privileged: yes, depends_on: [b]}\n  b: {image: i, depends_on: [a]}\n",
    )]);
    let told = ficelle::load::load(&ficelle::load::LoadOptions::default(), &source).unwrap_err();
    assert!(told.len() > 1, "{told:?}");
    for told in &told {
        let json: Json = serde_json::from_str(&told.json()).unwrap();
        assert_eq!(mismatch(&schema::diagnostics(), &json), None, "{json}");
    }
}

/// What of a value a schema of closed objects does not allow.
fn mismatch(schema: &Json, value: &Json) -> Option<String> {
    let wrong = || Some(format!("{value} is not {schema}"));
    let kinds = match &schema["type"] {
        Json::Array(kinds) => kinds.clone(),
        Json::Null => return (!schema["enum"].as_array()?.contains(value)).then(wrong).flatten(),
        kind => vec![kind.clone()],
    };
    let kind = match value {
        Json::Null => "null",
        Json::Bool(_) => "boolean",
        Json::Number(_) => "integer",
        Json::String(_) => "string",
        Json::Array(_) => "array",
        Json::Object(_) => "object",
    };
    if !kinds.iter().any(|known| known == kind) {
        return wrong();
    }
    match value {
        Json::Array(items) => items.iter().find_map(|item| mismatch(&schema["items"], item)),
        Json::Object(object) => {
            let known = schema["properties"].as_object().unwrap();
            let same = object.len() == known.len() && object.keys().all(|key| known.contains_key(key));
            if !same {
                return wrong();
            }
            object.iter().find_map(|(key, value)| mismatch(&known[key], value))
        }
        _ => None,
    }
}

#[test]
fn every_key_of_a_service_is_in_the_schema_and_every_reference_leads_somewhere() {
    let schema = schema::schema();
    let known = schema["$defs"]["service"]["properties"].as_object().unwrap();
    for row in attributes::SERVICE.iter().filter(|row| !row.hidden) {
        assert!(known.contains_key(row.name), "{}", row.name);
    }
    let mut references = Vec::new();
    collect(&schema, &mut references);
    assert!(references.len() > 20, "{references:?}");
    for reference in references {
        let definition = schema.pointer(reference.trim_start_matches('#'));
        assert!(definition.is_some_and(Json::is_object), "{reference}");
    }
}

fn collect(json: &Json, found: &mut Vec<String>) {
    match json {
        Json::Object(object) => {
            found.extend(object.get("$ref").and_then(Json::as_str).map(ToOwned::to_owned));
            object.values().for_each(|value| collect(value, found));
        }
        Json::Array(items) => items.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}
