//! The published schema, held against the attribute table it is made from.

use std::{fs, path::Path};

use ficelle::load::{attributes, schema};
use serde_json::Value as Json;

#[test]
fn generated_schema_is_that_of_the_attribute_table() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("schema/compose-spec.json");
    if std::env::var_os("FICELLE_GENERATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, schema::text()).unwrap();
    } else {
        let hint = "FICELLE_GENERATE=1 cargo test --test it generated";
        let same = fs::read_to_string(&path).unwrap() == schema::text();
        assert!(same, "schema/compose-spec.json is out of date: {hint}");
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
