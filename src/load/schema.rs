//! The JSON Schema of a Compose file, made from the attribute table: what editors complete and check with.
//! It says which shapes are valid; what a string contains (durations, ports) and what leads where is said by
//! loading alone.

use serde_json::{Map as Object, Value as Json, json};

use super::attributes::{self, Attribute, Form, NameDefault, OptionValues, PROJECT, Short, Support, Table};

/// What the schema is called among others.
const ID: &str = "urn:ficelle:compose-spec";

/// The schema, indented, ended by a line break.
#[must_use]
pub fn text() -> String {
    let text = serde_json::to_string_pretty(&schema()).unwrap_or_default();
    text + "\n"
}

/// The schema of a whole file (draft 2020-12). Mappings that several keys share stand in `$defs`.
#[must_use]
pub fn schema() -> Json {
    let mut definitions = Definitions::default();
    let mut root = Object::new();
    root.insert("$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
    root.insert("$id".into(), json!(ID));
    root.insert("title".into(), json!("Compose file"));
    if let Json::Object(project) = definitions.object(PROJECT, Extensions::Allowed) {
        root.extend(project);
    }
    root.insert("$defs".into(), Json::Object(definitions.done));
    Json::Object(root)
}

/// The schema of one line of `--message-format json`, indented, ended by a line break.
#[must_use]
pub fn diagnostics_text() -> String {
    let text = serde_json::to_string_pretty(&diagnostics()).unwrap_or_default();
    text + "\n"
}

/// The schema of a diagnostic (draft 2020-12): a mistake or a remark about what the user wrote.
#[must_use]
pub fn diagnostics() -> Json {
    let text = |says: &str| json!({ "type": "string", "description": says });
    let number = |says: &str| json!({ "type": "integer", "minimum": 1, "description": says });
    let closed = |properties: Json| {
        let required: Vec<&String> = properties.as_object().into_iter().flat_map(Object::keys).collect();
        json!({ "type": "object", "required": required, "additionalProperties": false, "properties": properties })
    };
    let place = closed(json!({
        "file": text("As the user would write it, relative to the current directory where it lies below."),
        "line": number("From 1."),
        "column": number("In characters, from 1."),
    }));
    let mark = closed(json!({
        "place": place,
        "length": number("Marked characters from the place on, within the line."),
        "line": text("The whole line as written."),
        "text": text("What these words have to do with it; may be empty."),
    }));
    let mut schema = closed(json!({
        "severity": { "enum": ["error", "warning"] },
        "message": text("A fragment without a final full stop, names in backticks."),
        "path": {
            "type": ["string", "null"],
            "description": "Path in the model, `services.web.ports[1]`.",
        },
        "marks": {
            "type": "array",
            "description": "The words the message is about; the first is the main one.",
            "items": mark,
        },
        "help": { "type": "array", "description": "What to do now.", "items": { "type": "string" } },
    }));
    if let Some(root) = schema.as_object_mut() {
        root.shift_insert(0, "$schema".into(), json!("https://json-schema.org/draft/2020-12/schema"));
        root.shift_insert(1, "$id".into(), json!("urn:ficelle:diagnostic"));
        root.shift_insert(2, "title".into(), json!("A line of `ficelle --message-format json`"));
    }
    schema
}

/// Names of the mappings that are defined once.
const NAMED: &[(&str, Table)] = &[
    ("service", attributes::SERVICE),
    ("build", attributes::BUILD),
    ("deploy", attributes::DEPLOY),
    ("develop", attributes::DEVELOP),
    ("device_request", attributes::DEVICE_REQUEST),
    ("file_mount", attributes::FILE_MOUNT),
    ("hook", attributes::HOOK),
    ("mount", attributes::MOUNT),
    ("network", attributes::NETWORK),
    ("volume", attributes::VOLUME),
    ("config", attributes::CONFIG),
    ("secret", attributes::SECRET),
    ("model", attributes::MODEL),
    ("port", attributes::PORT),
    ("throttle", attributes::THROTTLE),
    ("ulimit", attributes::ULIMIT),
    ("update", attributes::UPDATE),
];

/// Whether a mapping may have keys that begin with `x-`.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extensions {
    Allowed,
    Refused,
}

/// By the keys: the address of a table may differ between the places that name it.
fn is_same(one: Table, other: Table) -> bool {
    one.iter().map(|row| row.name).eq(other.iter().map(|row| row.name))
}

#[derive(Default)]
struct Definitions {
    done: Object<String, Json>,
}

impl Definitions {
    /// A mapping by its name, or in place when it has none.
    fn table(&mut self, table: Table, extensions: Extensions) -> Json {
        let Some((name, _)) = NAMED.iter().find(|(_, named)| is_same(named, table)) else {
            return self.object(table, extensions);
        };
        if !self.done.contains_key(*name) {
            self.done.insert((*name).to_owned(), Json::Null);
            let object = self.object(table, extensions);
            self.done.insert((*name).to_owned(), object);
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    fn object(&mut self, table: Table, extensions: Extensions) -> Json {
        let mut properties = Object::new();
        for row in table.iter().filter(|row| !row.hidden) {
            properties.insert(row.name.to_owned(), self.property(row));
        }
        let required: Vec<_> = table.iter().filter(|row| row.required).map(|row| row.name).collect();
        let mut object = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        if !required.is_empty() {
            object["required"] = json!(required);
        }
        if extensions == Extensions::Allowed {
            object["patternProperties"] = json!({ "^x-": {} });
        }
        object
    }

    fn property(&mut self, row: &Attribute) -> Json {
        let mut schema = self.form(row.form);
        let remark = match row.support {
            Support::Yes => return schema,
            Support::Elsewhere(place) => format!("Means something {place} only."),
            Support::Never(why) => format!("Valid; `ficelle up` refuses it: {why}."),
        };
        schema["description"] = json!(remark);
        schema
    }

    fn form(&mut self, form: Form) -> Json {
        match form {
            Form::Any => json!({}),
            Form::Text | Form::PullPolicy | Form::ContainerName | Form::BytesText | Form::Duration => {
                json!({ "type": "string" })
            }
            Form::TextOrNull => json!({ "type": ["string", "null"] }),
            Form::TextOrFlag | Form::Flag => json!({ "type": ["boolean", "string"] }),
            Form::StrictFlag => json!({ "type": "boolean" }),
            // A variable stands where a word does.
            Form::Choice(words) => {
                json!({ "anyOf": [{ "enum": words }, { "type": "string", "pattern": "\\$" }] })
            }
            Form::Integer(low, high) => bounded(low, high),
            Form::StrictInteger => json!({ "type": "integer" }),
            Form::StrictNumber => json!({ "type": "number" }),
            Form::Whole | Form::Number | Form::Mode | Form::Bytes => json!({ "type": ["number", "string"] }),
            Form::Count | Form::WholeBytes => json!({ "type": ["integer", "string"] }),
            Form::Words => any_of([json!({ "type": ["string", "null"] }), strings()]),
            Form::Test | Form::StringOrList | Form::OneOrList => {
                any_of([json!({ "type": "string" }), strings()])
            }
            Form::Pairs(_) | Form::Ssh => {
                any_of([mapping(&json!({ "type": ["string", "number", "boolean", "null"] })), strings()])
            }
            Form::Options(values) => mapping(&option_value(values)),
            Form::Hosts => any_of([mapping(&any_of([json!({ "type": "string" }), strings()])), strings()]),
            Form::Strings => strings(),
            Form::Scalars => list(&json!({ "type": ["string", "number"] })),
            Form::List(item) => self.list_of(*item),
            Form::Keyed(item) => mapping(&self.form(*item)),
            Form::Names(item, default) => {
                let value = self.form(*item);
                let value = match default {
                    NameDefault::Null => any_of([json!({ "type": "null" }), value]),
                    NameDefault::Dependency => value,
                };
                any_of([strings(), mapping(&value)])
            }
            Form::Object(table) => self.table(table, Extensions::Allowed),
            Form::Closed(table) => self.table(table, Extensions::Refused),
            Form::ObjectOrNull(table) => {
                any_of([json!({ "type": "null" }), self.table(table, Extensions::Allowed)])
            }
            Form::Short(short, table) => {
                any_of([json!({ "type": short_type(short) }), self.table(table, Extensions::Allowed)])
            }
            Form::Ports => list(&any_of([
                json!({ "type": ["number", "string"] }),
                self.table(attributes::PORT, Extensions::Allowed),
            ])),
            Form::Gpus => any_of([
                json!({ "const": "all" }),
                list(&self.table(attributes::DEVICE_REQUEST, Extensions::Allowed)),
            ]),
            Form::External => any_of([
                json!({ "type": ["boolean", "string"] }),
                json!({ "type": "object", "properties": { "name": { "type": "string" } } }),
            ]),
            Form::Include => include(),
        }
    }

    /// Of files of variables one may stand without its list.
    fn list_of(&mut self, item: Form) -> Json {
        let items = list(&self.form(item));
        match item {
            Form::Short(Short::EnvFile, _) => any_of([json!({ "type": "string" }), items]),
            _ => items,
        }
    }
}

fn bounded(low: i64, high: i64) -> Json {
    let mut schema = json!({ "type": ["integer", "string"] });
    if low != i64::MIN {
        schema["minimum"] = json!(low);
    }
    if high != i64::MAX {
        schema["maximum"] = json!(high);
    }
    schema
}

fn option_value(values: OptionValues) -> Json {
    match values {
        OptionValues::Text => json!({ "type": "string" }),
        OptionValues::TextNumber => json!({ "type": ["string", "number"] }),
        OptionValues::TextNumberNull => json!({ "type": ["string", "number", "null"] }),
        OptionValues::AnyScalar => json!({ "type": ["string", "number", "boolean", "null"] }),
        OptionValues::ScalarOrList => {
            let scalar = json!({ "type": ["string", "number", "boolean"] });
            any_of([scalar.clone(), list(&scalar)])
        }
    }
}

const fn short_type(short: Short) -> &'static [&'static str] {
    match short {
        Short::Ulimit => &["integer", "string"],
        _ => &["string"],
    }
}

fn include() -> Json {
    let paths = any_of([json!({ "type": "string" }), strings()]);
    list(&any_of([
        json!({ "type": "string" }),
        json!({
            "type": "object",
            "properties": { "path": paths, "env_file": paths, "project_directory": { "type": "string" } },
            "additionalProperties": false
        }),
    ]))
}

fn any_of<const N: usize>(schemas: [Json; N]) -> Json {
    json!({ "anyOf": Vec::from(schemas) })
}

fn list(item: &Json) -> Json {
    json!({ "type": "array", "items": item })
}

fn strings() -> Json {
    list(&json!({ "type": "string" }))
}

fn mapping(value: &Json) -> Json {
    json!({ "type": "object", "additionalProperties": value })
}
