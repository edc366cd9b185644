//! The cases of yaml-test-suite, all 402: what is no YAML is refused, all else is read, and to the right
//! values. `yaml/README.md` says where they come from.

use ficelle::load::{
    diagnostic::Files,
    tree::{Node, Reading, Value, read},
};
use serde_json::Value as Json;

struct Case {
    id: String,
    yaml: String,
    invalid: bool,
    json: Option<Vec<Json>>,
}

fn cases() -> Vec<Case> {
    let row = |line: &str| {
        let row: Json = serde_json::from_str(line).unwrap();
        let text = |key: &str| row[key].as_str().map(str::to_owned);
        Case {
            id: text("id").unwrap(),
            yaml: text("yaml").unwrap(),
            invalid: row["invalid"] == true,
            json: text("json").map(|json| {
                serde_json::Deserializer::from_str(&json).into_iter().collect::<Result<_, _>>().unwrap()
            }),
        }
    };
    include_str!("yaml/suite.jsonl").lines().map(row).collect()
}

fn reading(case: &Case) -> Option<Reading> {
    let mut files = Files::default();
    let file = files.add(&case.id, &case.yaml);
    read(&files, file).ok()
}

#[test]
fn what_is_no_yaml_is_refused_and_all_else_is_read() {
    let (invalid, valid): (Vec<_>, Vec<_>) = cases().into_iter().partition(|case| case.invalid);
    assert_eq!((invalid.len(), valid.len()), (94, 308));
    let ids = |cases: Vec<Case>| cases.into_iter().map(|case| case.id).collect::<Vec<_>>().join(" ");
    let taken = invalid.into_iter().filter(|case| reading(case).is_some()).collect();
    assert_eq!(ids(taken), "", "invalid, but read");
    let refused = valid.into_iter().filter(|case| reading(case).is_none()).collect();
    assert_eq!(ids(refused), "", "valid, but refused");
}

#[test]
fn what_compose_takes_has_the_values_of_the_suite() {
    let mut compared = 0;
    let mut wrong = Vec::new();
    for case in cases() {
        let Some(expected) = &case.json else { continue };
        let Some(reading) = reading(&case).filter(|reading| reading.refused.is_empty()) else { continue };
        compared += 1;
        let found: Vec<Json> = reading.documents.iter().map(json).collect();
        if found != *expected {
            wrong.push(format!("{}: {found:?}, not {expected:?}", case.id));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(compared > 200, "{compared}");
}

fn json(node: &Node) -> Json {
    match &node.value {
        Value::Null => Json::Null,
        Value::Bool(value) => (*value).into(),
        Value::Int(value) => i64::try_from(*value).unwrap().into(),
        // JSON knows one kind of number: `450.00` is 450.
        Value::Float(value) => format!("{value}").parse().unwrap(),
        Value::Text(text) => text.as_str().into(),
        Value::List(items) => items.iter().map(json).collect(),
        Value::Map(map) => map.iter().map(|(key, value)| (key.text.clone(), json(value))).collect(),
    }
}
