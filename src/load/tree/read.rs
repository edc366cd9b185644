//! Reading YAML: from parser events with a stack of its own and within budgets, so that no input can exhaust
//! stack, memory or time.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Tag};

use super::{Edit, Key, Map, Node, Span, Value, resolve};
use crate::load::diagnostic::{Diagnostic, FileId, Files, MAX_TOLD};

/// Deepest nesting. Also what makes walking and dropping a tree by recursion safe.
pub const MAX_DEPTH: usize = 64;
/// Most values of one file, aliases expanded.
pub const MAX_NODES: usize = 100_000;
/// Most aliases of one file.
pub const MAX_ALIASES: usize = 50_000;
/// Most anchors of one document.
pub const MAX_ANCHORS: usize = 20_000;
/// Longest key, in bytes.
pub const MAX_KEY: usize = 4 << 10;
/// Most bytes of text of one file, aliases expanded.
pub const MAX_TEXT: usize = 16 << 20;

/// What a YAML text holds.
#[derive(Debug, Default)]
pub struct Reading {
    /// An empty document is null.
    pub documents: Vec<Node>,
    /// What YAML allows and Compose does not: keys that are no strings, keys written twice, unknown tags.
    pub refused: Vec<Diagnostic>,
}

/// The documents of a YAML text.
///
/// # Errors
/// The first mistake of the syntax, or the budget that the text exceeds; else all that Compose refuses.
pub fn parse(files: &Files, file: FileId) -> Result<Vec<Node>, Vec<Diagnostic>> {
    let reading = read(files, file)?;
    if reading.refused.is_empty() { Ok(reading.documents) } else { Err(reading.refused) }
}

/// As [`parse`], with what Compose refuses beside the documents.
///
/// # Errors
/// What the text has refused so far and the first mistake of its syntax, or the budget that it exceeds.
pub fn read(files: &Files, file: FileId) -> Result<Reading, Vec<Diagnostic>> {
    let text = files.text(file);
    if let Some(at) = text.find('\0') {
        let line = text[..at].matches('\n').count() + 1;
        let column = text[..at].chars().rev().take_while(|c| *c != '\n').count() + 1;
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let span = Span { file, line: number(line), column: number(column), length: 1 };
        return Err(vec![Fault::new(span, "invalid YAML: a zero byte is no text").diagnostic(files)]);
    }
    let mut text = Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text));
    let mut moved = HashSet::new();
    loop {
        let mut builder = Builder::new(file, &moved);
        let end = builder.read(&text);
        let tell = |faults: Vec<Fault>| faults.into_iter().map(|fault| fault.diagnostic(files));
        match end {
            Ok(()) => {
                let refused = tell(builder.refused).collect();
                return Ok(Reading { documents: builder.documents, refused });
            }
            // A bracket may close at the indentation of its key: common, and read by every other reader.
            Err((_, Some(line)))
                if moved.len() < MAX_MOVED
                    && moved.len() * text.len() < MAX_AGAIN
                    && !moved.contains(&line) =>
            {
                text = Cow::Owned(move_line(&text, line));
                moved.insert(line);
            }
            Err((fault, _)) => return Err(tell(builder.refused).chain([fault.diagnostic(files)]).collect()),
        }
    }
}

/// Most lines of a file that are moved to where the parser accepts them.
const MAX_MOVED: usize = 200;
/// How far they are moved, in characters.
const MOVE: usize = 2 * MAX_DEPTH;
/// Most bytes that are read again for them.
const MAX_AGAIN: usize = 4 << 20;

/// Whether the parser complains of a line within brackets that stands no deeper than their key. At the
/// margin only a closing bracket may stand.
fn outdented(text: &str, complaint: &str, at: Marker) -> bool {
    let Some(line) = text.lines().nth(at.line().saturating_sub(1)) else { return false };
    let closes = line.trim_start_matches(' ').starts_with([']', '}']);
    complaint.starts_with("invalid indentation")
        && (closes || (complaint.ends_with("flow construct") && line.starts_with(' ')))
}

/// The text with one line (from 1) indented.
fn move_line(text: &str, line: usize) -> String {
    let mut lines: Vec<&str> = text.split('\n').collect();
    let moved = format!("{:MOVE$}{}", "", lines.get(line.saturating_sub(1)).copied().unwrap_or_default());
    if let Some(place) = lines.get_mut(line.saturating_sub(1)) {
        *place = &moved;
    }
    lines.join("\n")
}

/// What may help with a mistake of the syntax, from the parser's words and the line.
fn syntax_help(text: &str, marker: Marker, info: &str) -> Option<String> {
    let line = |number: usize| text.lines().nth(number.saturating_sub(1)).unwrap_or_default();
    let mut near = text.lines().skip(marker.line().saturating_sub(2)).take(3);
    if near.any(|line| line.trim_start_matches(' ').starts_with('\t')) {
        return Some("YAML forbids tabs in the indentation; use spaces".to_owned());
    }
    if info.contains("mapping values are not allowed") {
        return Some(
            "a value that contains `: ` must stand in quotes; a key of its own, on a line of its own".into(),
        );
    }
    let first = line(marker.line()).chars().nth(marker.col())?;
    if info.contains("unknown anchor") {
        return Some(
            "no `&name` stands before this alias; a value that begins with `*` must stand in quotes".into(),
        );
    }
    let special = info.contains("unexpected character");
    special.then(|| format!("a value that begins with `{first}` must stand in quotes"))
}

struct Fault {
    span: Span,
    message: String,
    help: Option<String>,
    other: Option<(Span, &'static str)>,
}

impl Fault {
    fn new(span: Span, message: impl Into<String>) -> Self {
        Self { span, message: message.into(), help: None, other: None }
    }

    fn diagnostic(self, files: &Files) -> Diagnostic {
        let mut diagnostic = Diagnostic::error(self.message).mark(files.mark(self.span, ""));
        if let Some((span, text)) = self.other {
            diagnostic = diagnostic.mark(files.mark(span, text));
        }
        match self.help {
            Some(help) => diagnostic.help(help),
            None => diagnostic,
        }
    }
}

/// A list or mapping whose end has not come yet.
struct Open {
    anchor: usize,
    node: Node,
    /// The key whose value comes next.
    key: Option<Key>,
    /// Values of `<<`, merged when the mapping ends.
    inherited: Vec<Node>,
    /// The next value belongs to `<<`.
    inheriting: Option<Span>,
    size: Size,
}

#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    text: usize,
    depth: usize,
}

impl Size {
    fn add(&mut self, inner: Self) {
        self.nodes += inner.nodes;
        self.text += inner.text;
        self.depth = self.depth.max(inner.depth + 1);
    }
}

struct Builder<'a> {
    file: FileId,
    /// Lines that were moved to the right by [`MOVE`].
    moved: &'a HashSet<usize>,
    documents: Vec<Node>,
    open: Vec<Open>,
    anchors: HashMap<usize, (Node, Size)>,
    aliases: usize,
    total: Size,
    /// What YAML allows and Compose does not.
    refused: Vec<Fault>,
}

impl<'a> Builder<'a> {
    fn new(file: FileId, moved: &'a HashSet<usize>) -> Self {
        Self {
            file,
            moved,
            documents: Vec::new(),
            open: Vec::new(),
            anchors: HashMap::new(),
            aliases: 0,
            total: Size::default(),
            refused: Vec::new(),
        }
    }

    /// Reads a text to its end or its first mistake, with the line that would be right if it were
    /// indented more.
    fn read(&mut self, text: &str) -> Result<(), (Fault, Option<usize>)> {
        let mut parser = Parser::new_from_str(text);
        while let Some(event) = parser.next_event() {
            match event {
                Ok((event, span)) => {
                    let span = self.span(span.start, span.end);
                    self.take(event, span).map_err(|fault| (fault, None))?;
                    if self.refused.len() >= MAX_TOLD {
                        return Err((
                            Fault::new(span, "too many mistakes; nothing after this is read"),
                            None,
                        ));
                    }
                }
                Err(error) => {
                    let at = *error.marker();
                    let message = format!("invalid YAML: {}", error.info());
                    let fault = Fault {
                        help: syntax_help(text, at, error.info()),
                        ..Fault::new(self.span(at, at), message)
                    };
                    return Err((fault, outdented(text, error.info(), at).then_some(at.line())));
                }
            }
        }
        Ok(())
    }

    fn span(&self, start: Marker, end: Marker) -> Span {
        let column =
            |at: Marker| at.col().saturating_sub(if self.moved.contains(&at.line()) { MOVE } else { 0 });
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let length = if start.line() == end.line() { column(end).saturating_sub(column(start)) } else { 999 };
        Span {
            file: self.file,
            line: number(start.line()),
            column: number(column(start) + 1),
            length: number(length.max(1)),
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd => {}
            Event::DocumentStart(_) => self.anchors.clear(),
            Event::DocumentEnd => {}
            Event::Alias(anchor) => return self.alias(anchor, span),
            Event::Scalar(text, style, anchor, tag) => {
                let value = self.allowed(scalar(&text, style, tag.as_deref(), span)).unwrap_or_default();
                let edit = self.allowed(edit(tag.as_deref(), span)).unwrap_or_default();
                let size = Size { nodes: 1, text: text.len(), depth: 1 };
                return self.complete(Node { value, span, edit }, anchor, size, size);
            }
            Event::SequenceStart(anchor, tag) => {
                return self.start(Value::List(Vec::new()), anchor, tag.as_deref(), span);
            }
            Event::MappingStart(anchor, tag) => {
                return self.start(Value::Map(Map::default()), anchor, tag.as_deref(), span);
            }
            Event::SequenceEnd | Event::MappingEnd => return self.end(),
        }
        Ok(())
    }

    /// Keeps what Compose refuses, so that the rest of the text is still looked at.
    fn allowed<T>(&mut self, value: Result<T, Fault>) -> Option<T> {
        value.map_err(|fault| self.refused.push(fault)).ok()
    }

    fn start(&mut self, value: Value, anchor: usize, tag: Option<&Tag>, span: Span) -> Result<(), Fault> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Fault::new(span, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        let node = Node { value, span, edit: self.allowed(edit(tag, span)).unwrap_or_default() };
        let size = Size { nodes: 1, text: 0, depth: 1 };
        self.open.push(Open { anchor, node, key: None, inherited: Vec::new(), inheriting: None, size });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Fault> {
        let Some(mut open) = self.open.pop() else { return Ok(()) };
        if let Value::Map(map) = &mut open.node.value {
            for base in open.inherited {
                inherit(map, base);
            }
        }
        // The values inside were counted as they came.
        self.complete(open.node, open.anchor, open.size, Size { nodes: 1, text: 0, depth: 1 })
    }

    fn alias(&mut self, anchor: usize, span: Span) -> Result<(), Fault> {
        self.aliases += 1;
        if self.aliases > MAX_ALIASES {
            return Err(Fault::new(span, format!("more than {MAX_ALIASES} aliases")));
        }
        let Some((node, size)) = self.anchors.get(&anchor) else {
            return Err(Fault::new(span, "this alias stands inside the value it refers to"));
        };
        let size = *size;
        self.within_budget(size, span)?;
        let node = node.clone();
        self.complete(node, 0, size, size)
    }

    fn within_budget(&self, size: Size, span: Span) -> Result<(), Fault> {
        if self.total.nodes + size.nodes > MAX_NODES {
            return Err(Fault::new(span, format!("more than {MAX_NODES} values, aliases expanded")));
        }
        if self.total.text + size.text > MAX_TEXT {
            return Err(Fault::new(
                span,
                format!("more than {} MiB of text, aliases expanded", MAX_TEXT >> 20),
            ));
        }
        if self.open.len() + size.depth > MAX_DEPTH + 1 {
            return Err(Fault::new(span, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        Ok(())
    }

    /// A value is whole: counts what is new of it, keeps it for its anchor and hands it to what
    /// surrounds it.
    fn complete(&mut self, node: Node, anchor: usize, size: Size, new: Size) -> Result<(), Fault> {
        self.within_budget(new, node.span)?;
        self.total.nodes += new.nodes;
        self.total.text += new.text;
        if anchor > 0 {
            if self.anchors.len() >= MAX_ANCHORS {
                return Err(Fault::new(node.span, format!("more than {MAX_ANCHORS} anchors")));
            }
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(open) = self.open.last_mut() else {
            self.documents.push(node);
            return Ok(());
        };
        open.size.add(size);
        match &mut open.node.value {
            Value::List(items) => items.push(node),
            Value::Map(map) => match (open.inheriting.take(), open.key.take()) {
                (Some(at), _) => match bases(node, at) {
                    Ok(bases) => open.inherited.extend(bases),
                    Err(fault) => self.refused.push(fault),
                },
                (None, Some(key)) => {
                    map.insert(key, node);
                }
                (None, None) if node.as_str() == Some("<<") => open.inheriting = Some(node.span),
                (None, None) => {
                    let span = node.span;
                    if size.text > MAX_KEY {
                        return Err(Fault::new(span, format!("a key of more than {MAX_KEY} bytes")));
                    }
                    let text = key_text(node).unwrap_or_else(|fault| {
                        self.refused.push(fault);
                        // No other key is this one.
                        format!("{}:{}", span.line, span.column)
                    });
                    if let Some((first, _)) = map.get_key_value(text.as_str()) {
                        let other = Some((first.span, "first written here"));
                        let message = format!("the key `{text}` is written twice in one mapping");
                        self.refused.push(Fault { other, ..Fault::new(span, message) });
                    }
                    open.key = Some(Key::new(text, span));
                }
            },
            _ => {}
        }
        Ok(())
    }
}

/// What `<<` was given: a mapping or a list of mappings, the first of which wins.
fn bases(node: Node, at: Span) -> Result<Vec<Node>, Fault> {
    let wrong = |node: &Node| {
        Fault::new(at, format!("`<<` takes a mapping or a list of mappings, not {}", node.value.kind()))
    };
    match node.value {
        Value::Map(_) => Ok(vec![node]),
        Value::List(items) => items
            .into_iter()
            .map(|item| if item.as_map().is_some() { Ok(item) } else { Err(wrong(&item)) })
            .collect(),
        _ => Err(wrong(&node)),
    }
}

fn inherit(map: &mut Map, base: Node) {
    if let Value::Map(base) = base.value {
        for (key, node) in base {
            map.entry(key).or_insert(node);
        }
    }
}

fn key_text(node: Node) -> Result<String, Fault> {
    match node.value {
        Value::Text(text) => Ok(text),
        other => {
            let text = other.scalar_text().unwrap_or_else(|| other.kind().to_owned());
            let fault =
                Fault::new(node.span, format!("a key must be a string, `{text}` is {}", other.kind()));
            let help = other.scalar_text().map(|text| format!("write `\"{text}\"`"));
            Err(Fault { help, ..fault })
        }
    }
}

fn edit(tag: Option<&Tag>, span: Span) -> Result<Edit, Fault> {
    let Some(tag) = tag else { return Ok(Edit::Merge) };
    match (tag.handle.as_str(), tag.suffix.as_str()) {
        ("!", "reset") => Ok(Edit::Reset),
        ("!", "override") => Ok(Edit::Replace),
        ("tag:yaml.org,2002:" | "!!" | "" | "!", _) => Ok(Edit::Merge),
        (handle, suffix) => Err(Fault::new(span, format!("unknown tag `{handle}{suffix}`"))),
    }
}

fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>, span: Span) -> Result<Value, Fault> {
    let typed = tag.filter(|tag| tag.is_yaml_core_schema()).map(|tag| tag.suffix.as_str());
    let value = match typed {
        // `! 12`: not to be taken for a number.
        None if tag.is_some_and(|tag| tag.handle.is_empty() && tag.suffix == "!") => {
            Value::Text(text.to_owned())
        }
        Some("str" | "binary") => Value::Text(text.to_owned()),
        Some("null") => Value::Null,
        Some(kind @ ("int" | "float" | "bool")) => {
            let value = resolve(text);
            let fits = matches!(
                (kind, &value),
                ("int", Value::Int(_))
                    | ("float", Value::Float(_) | Value::Int(_))
                    | ("bool", Value::Bool(_))
            );
            if !fits {
                return Err(Fault::new(span, format!("`{text}` is no value for the tag `!!{kind}`")));
            }
            value
        }
        _ if style == ScalarStyle::Plain => resolve(text),
        _ => Value::Text(text.to_owned()),
    };
    Ok(value)
}
