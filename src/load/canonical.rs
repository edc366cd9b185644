//! One file's tree to its canonical form, by the attribute table: every short form becomes the long one,
//! every value its type, and every mistake of form a diagnostic. What is wrong is left out of the result,
//! so that the phases after this one can look at all the rest.

mod lists;
mod mappings;
mod short;
mod values;

use super::{
    attributes::{
        self, Absent, FORMER, Form, NameDefault, OptionValues, PORT, PROJECT, SERVICE, Short, Table,
    },
    diagnostic::{Diagnostic, Files, Told, nearest},
    mounts,
    path::Path,
    ports, scalars,
    tree::{Edit, Key, Map, Node, Span, Value},
};

/// What a walk needs beside the tree, and what it has to tell.
#[derive(Debug)]
pub struct Canonical<'a> {
    pub files: &'a Files,
    pub diagnostics: &'a mut Told,
    /// Variables were left as written: a text with `$` fits everywhere.
    pub raw: bool,
}

/// Ports of a model left as written: with a further file laid on it, a list without variables gets its long
/// form.
pub fn written_ports(model: &mut Node, files: &Files) {
    let services = model.get_mut("services").and_then(Node::as_map_mut);
    for ports in services.into_iter().flatten().filter_map(|(_, service)| service.get_mut("ports")) {
        // What is wrong with them was told when their file was read.
        let mut canonical = Canonical { files, diagnostics: &mut Told::default(), raw: true };
        if let Some(done) = canonical.ports(ports.clone(), &Path::Root) {
            *ports = done;
        }
    }
}

impl Canonical<'_> {
    /// The canonical form of a value; `None` when it is wrong, which has then been told.
    pub fn value(&mut self, node: Node, form: Form, path: &Path<'_>) -> Option<Node> {
        if node.edit == Edit::Reset || node.is_null() {
            return Some(node);
        }
        let edit = node.edit;
        let done = self.formed(node, form, path)?;
        Some(Node { edit, ..done })
    }

    fn formed(&mut self, node: Node, form: Form, path: &Path<'_>) -> Option<Node> {
        if self.raw && (is_scalar(form) || is_written(form)) {
            // Checked, but shown as it was written.
            let variable = is_scalar(form) && node.as_str().is_some_and(|text| text.contains('$'));
            let mut written = node.clone();
            // A scalar with a tag of its own is text.
            if let Some(text) = written.value.scalar_text().filter(|_| written.edit == Edit::Replace) {
                written.value = Value::Text(text);
            }
            return if variable { Some(node) } else { self.typed(node, form, path).map(|_| written) };
        }
        self.typed(node, form, path)
    }

    fn typed(&mut self, node: Node, form: Form, path: &Path<'_>) -> Option<Node> {
        match form {
            Form::Any => Some(node),
            Form::Text | Form::TextOrNull => self.text(node, path),
            Form::TextOrFlag => match node.value {
                Value::Bool(value) => Some(Node::text(value.to_string(), node.span)),
                _ => self.text(node, path),
            },
            Form::Choice(words) => self.choice(node, words, path),
            Form::PullPolicy => self.pull_policy(node, path),
            Form::ContainerName => self.container_name(node, path),
            Form::Flag => self.flag(node, path),
            Form::StrictFlag => self.only(node, path, "a boolean", |v| matches!(v, Value::Bool(_))),
            Form::StrictInteger => self.only(node, path, "an integer", |v| matches!(v, Value::Int(_))),
            Form::StrictNumber => {
                self.only(node, path, "a number", |v| matches!(v, Value::Int(_) | Value::Float(_)))
            }
            Form::Count if node.as_str() == Some("all") => Some(Node::new(Value::Int(-1), node.span)),
            Form::Count => self.whole(&node, path),
            Form::Integer(low, high) => self.integer(&node, low.into(), high.into(), path),
            Form::Whole => self.whole(&node, path),
            Form::Number => self.number(node, path),
            Form::Mode => self.mode(&node, path),
            Form::Bytes => self.bytes(&node, path),
            Form::WholeBytes => match node.value {
                Value::Float(_) => self.expected(&node, "an integer or a size such as `64m`", path),
                _ => self.bytes(&node, path),
            },
            Form::BytesText => match node.value {
                Value::Text(_) => self.bytes(&node, path),
                _ => self.expected(&node, "a string such as `64m`", path),
            },
            Form::Duration => self.duration(&node, path),
            Form::Words => self.words(node, path),
            Form::Test => self.test(node, path),
            Form::Pairs(absent) => self.pairs(node, absent, path),
            Form::Ssh => self.pairs(node, Absent::Inherit, path),
            Form::Options(values) => self.options(node, values, path),
            Form::Hosts => self.hosts(node, path),
            Form::Strings => self.list(node, Form::Text, path),
            Form::OneOrList if self.raw && node.as_str().is_some() => Some(node),
            Form::StringOrList | Form::OneOrList => match node.value {
                Value::Text(_) => {
                    let span = node.span;
                    Some(Node::new(Value::List(vec![node]), span))
                }
                _ => self.list(node, Form::Text, path),
            },
            Form::Scalars => self.scalars(node, path),
            Form::List(item) => self.list_of(node, *item, path),
            Form::Keyed(item) => self.keyed(node, *item, path),
            Form::Names(item, default) => self.names(node, *item, default, path),
            Form::Object(table) | Form::ObjectOrNull(table) => self.object(node, table, true, path),
            Form::Closed(table) => self.object(node, table, false, path),
            Form::Short(short, table) => self.short(node, short, table, path),
            Form::Ports => self.ports(node, path),
            Form::Gpus => self.gpus(node, path),
            Form::External => self.external(node, path),
            Form::Include => self.include(node, path),
        }
    }

    // ---- telling ----

    fn tell(&mut self, span: Span, path: &Path<'_>, message: impl Into<String>) -> Option<Node> {
        let files = self.files;
        self.diagnostics.error(|| Diagnostic::error(message).at(path).mark(files.mark(span, "")));
        None
    }

    /// A text that is no size or no duration. It stays, since another file may replace it; told when not.
    fn unfit(&mut self, node: &Node, path: &Path<'_>, message: String) -> Node {
        let files = self.files;
        self.diagnostics
            .error_if_kept(node.span, || Diagnostic::error(message).at(path).mark(files.mark(node.span, "")));
        node.clone()
    }

    fn expected(&mut self, node: &Node, wanted: &str, path: &Path<'_>) -> Option<Node> {
        let files = self.files;
        self.diagnostics.error(|| {
            let message = format!("`{}` must be {wanted}, not {}", path.name(), node.value.kind());
            let told = Diagnostic::error(message).at(path).mark(files.mark(node.span, ""));
            let scalar = node.value.scalar_text();
            if wanted.starts_with("a string")
                && let Some(text) = scalar
            {
                let text = if path.name() == "restart" && text == "false" { "no".to_owned() } else { text };
                told.help(format!("put it in quotes: \"{text}\""))
            } else if let Some(help) = node.as_str().and_then(missing_space) {
                told.help(help)
            } else if wanted.starts_with("a list")
                && let Some(text) = scalar.filter(|text| !text.is_empty())
            {
                told.help(format!("write it as a list: [\"{text}\"]"))
            } else {
                told
            }
        });
        None
    }

    fn only(&mut self, node: Node, path: &Path<'_>, wanted: &str, fits: fn(&Value) -> bool) -> Option<Node> {
        if fits(&node.value) { Some(node) } else { self.expected(&node, wanted, path) }
    }
}

/// Forms whose value is one scalar: a text with a variable may stand for each of them.
const fn is_scalar(form: Form) -> bool {
    matches!(
        form,
        Form::Choice(_)
            | Form::PullPolicy
            | Form::ContainerName
            | Form::Flag
            | Form::Integer(..)
            | Form::Whole
            | Form::Count
            | Form::Number
            | Form::Mode
            | Form::Bytes
            | Form::WholeBytes
            | Form::BytesText
            | Form::Duration
            | Form::External
            | Form::Short(Short::Ulimit, _)
    )
}

/// Further forms whose value is not rewritten while variables stand in it.
const fn is_written(form: Form) -> bool {
    matches!(
        form,
        Form::Words
            | Form::Test
            | Form::Pairs(Absent::Inherit | Absent::Empty)
            | Form::Options(_)
            | Form::Hosts
            | Form::Scalars
            | Form::TextOrFlag
            | Form::Ports
    )
}

/// What YAML takes for one text, since no space follows its dash or its colon.
fn missing_space(text: &str) -> Option<String> {
    if let Some(item) = text.strip_prefix('-').filter(|item| !item.starts_with(' ')) {
        return Some(format!("a space must follow the dash: `- {item}`"));
    }
    let (key, value) = text.split_once(':')?;
    let is_key = attributes::find(SERVICE, key).is_some() || attributes::find(PROJECT, key).is_some();
    is_key.then(|| format!("a space must follow the colon: `{key}: {}`", value.trim_start()))
}

const fn wanted(form: Form) -> &'static str {
    match form {
        Form::Object(_) | Form::Closed(_) => "a mapping",
        Form::Short(..) => "a string or a mapping",
        _ => "a string",
    }
}

/// A path of the container without `.`, `..`, doubled and trailing slashes.
#[must_use]
pub fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    match (rooted, parts.join("/")) {
        (true, rest) => format!("/{rest}"),
        (false, rest) if rest.is_empty() => ".".to_owned(),
        (false, rest) => rest,
    }
}
