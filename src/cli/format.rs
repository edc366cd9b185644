//! `--format` of lists: a table, JSON, or a template in the words of docker's.
//!
//! Of Go's templates it knows what formats of lists are made of: `{{.Field}}`, `{{json .}}`, `{{json .Field}}`,
//! `{{upper .Field}}`, `{{lower .Field}}`, `\t` and `\n`; `table` before it puts a header over columns that `\t`
//! parts. Anything else is refused by name.

use std::str::FromStr;

use serde_json::Value;

use super::failure::Failure;
use crate::ui::table::Table;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Table,
    /// An object on each line.
    Json,
    Template(Template),
    /// `table TEMPLATE`.
    Columns(Template),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Template(Vec<Part>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Value { function: Function, field: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Function {
    Plain,
    Json,
    Upper,
    Lower,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "table" | "" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            _ => match text.strip_prefix("table ") {
                Some(columns) => Template::parse(columns).map(Self::Columns),
                None if text.contains("{{") => Template::parse(text).map(Self::Template),
                None => Err("expected `table`, `json` or a template such as `{{.Name}}`".to_owned()),
            },
        }
    }
}

impl Format {
    /// The lines of a list whose rows are `objects`; `table` gives its usual form.
    pub(super) fn lines(
        &self,
        objects: impl Iterator<Item = Value>,
        table: impl FnOnce() -> Table,
    ) -> Result<Vec<String>, Failure> {
        match self {
            Self::Table => Ok(table().lines()),
            Self::Json => Ok(objects.map(|object| object.to_string()).collect()),
            Self::Template(template) => objects.map(|object| template.line(&object)).collect(),
            Self::Columns(template) => {
                let cells = |line: &str| line.split('\t').map(str::to_owned).collect::<Vec<_>>();
                let header = cells(&template.header());
                let mut table = Table::new(&header.iter().map(String::as_str).collect::<Vec<_>>());
                for object in objects {
                    table.row(cells(&template.line(&object)?));
                }
                Ok(table.lines())
            }
        }
    }
}

impl Template {
    fn parse(text: &str) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("{{") {
            let (action, after) = after.split_once("}}").ok_or("`{{` has no `}}`")?;
            parts.push(Part::Text(unescape(before)));
            parts.push(action_of(action.trim())?);
            rest = after;
        }
        parts.push(Part::Text(unescape(rest)));
        parts.retain(|part| *part != Part::Text(String::new()));
        Ok(Self(parts))
    }

    fn header(&self) -> String {
        let words = self.0.iter().map(|part| match part {
            Part::Text(text) => text.clone(),
            Part::Value { field, .. } => field.to_uppercase(),
        });
        words.collect()
    }

    fn line(&self, object: &Value) -> Result<String, Failure> {
        let parts = self.0.iter().map(|part| match part {
            Part::Text(text) => Ok(text.clone()),
            Part::Value { function, field } if field.is_empty() => Ok(shown(*function, object)),
            Part::Value { function, field } => match object.get(field) {
                Some(value) => Ok(shown(*function, value)),
                None => {
                    let known = object.as_object().into_iter().flat_map(|object| object.keys());
                    let known: Vec<String> = known.map(|name| format!(".{name}")).collect();
                    Err(Failure::failed(format!("`.{field}` is no field of this list"))
                        .help(format!("the fields are {}", known.join(", "))))
                }
            },
        });
        parts.collect()
    }
}

fn action_of(action: &str) -> Result<Part, String> {
    let words: Vec<&str> = action.split_whitespace().collect();
    let (function, field) = match words.as_slice() {
        [field] => (Function::Plain, *field),
        ["json", field] => (Function::Json, *field),
        ["upper", field] => (Function::Upper, *field),
        ["lower", field] => (Function::Lower, *field),
        _ => return Err(unknown(action)),
    };
    let name = field.strip_prefix('.').ok_or_else(|| unknown(action))?;
    if !name.chars().all(|c| c.is_ascii_alphanumeric()) {
        return Err(unknown(action));
    }
    Ok(Part::Value { function, field: name.to_owned() })
}

fn unknown(action: &str) -> String {
    format!(
        "`{{{{{action}}}}}` is not understood: there are `.Field`, `json .`, `json .Field`, `upper` and `lower`"
    )
}

fn shown(function: Function, value: &Value) -> String {
    let plain = || value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match function {
        Function::Plain => plain(),
        Function::Json => value.to_string(),
        Function::Upper => plain().to_uppercase(),
        Function::Lower => plain().to_lowercase(),
    }
}

fn unescape(text: &str) -> String {
    text.replace("\\t", "\t").replace("\\n", "\n")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lines(format: &str) -> Vec<String> {
        let rows =
            [json!({"Name": "web", "Ports": [], "Code": 0}), json!({"Name": "db", "Ports": [1], "Code": 3})];
        let format: Format = format.parse().unwrap();
        let table = || Table::new(&["NAME"]);
        format.lines(rows.into_iter(), table).unwrap_or_else(|failure| vec![failure.json()])
    }

    #[test]
    fn a_template_is_filled_for_each_row() {
        assert_eq!(lines("{{.Name}}: {{ .Code }}"), ["web: 0", "db: 3"]);
        assert_eq!(
            lines("{{json .Name}} {{json .Ports}} {{upper .Name}}"),
            ["\"web\" [] WEB", "\"db\" [1] DB"]
        );
        assert_eq!(lines("{{json .}}")[0], r#"{"Name":"web","Ports":[],"Code":0}"#);
        assert_eq!(lines("table {{.Name}}\\t{{.Code}}"), ["NAME   CODE", "web    0", "db     3"]);
    }

    #[test]
    fn what_is_not_understood_is_refused_by_name() {
        assert!(lines("{{.Size}}")[0].contains("`.Size` is no field"));
        for wrong in ["{{.Name", "{{range .}}", "{{if .Name}}x{{end}}", "{{.Name | upper}}", "yaml"] {
            assert!(wrong.parse::<Format>().is_err(), "{wrong}");
        }
    }
}
