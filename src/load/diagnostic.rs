//! What is wrong with a project, said so that it can be put right: place, marked words, next move.
//! A diagnostic carries the lines it shows; printing it needs no file.

use std::{
    cell::OnceCell,
    collections::HashSet,
    fmt::{self, Write as _},
    sync::Arc,
};

use serde::Serialize;

use super::tree::{Node, Span, Value};
use crate::model::Place;

/// Longer messages are cut, in bytes.
const LONGEST_MESSAGE: usize = 2_000;

/// A mistake or a remark about what the user wrote.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    pub severity: Severity,
    /// A fragment without a final full stop, names in backticks.
    pub message: String,
    /// Path in the model, `services.web.ports[1]`.
    pub path: Option<String>,
    /// The words the message is about; the first is the main one.
    pub marks: Vec<Mark>,
    /// What to do now.
    pub help: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    Error,
    Warning,
}

/// Words of a source, with the line they stand in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Mark {
    pub place: Place,
    /// Marked characters from the place on, within the line.
    pub length: u32,
    /// The line as written; of a very long one what is around the words.
    pub line: String,
    /// Characters of the line that were left out before [`Mark::line`].
    #[serde(skip)]
    pub skipped: u32,
    /// What these words have to do with it; may be empty.
    pub text: String,
}

impl Diagnostic {
    #[must_use]
    pub fn error(message: impl Into<String>) -> Self {
        Self::new(Severity::Error, message.into())
    }

    #[must_use]
    pub fn warning(message: impl Into<String>) -> Self {
        Self::new(Severity::Warning, message.into())
    }

    fn new(severity: Severity, mut message: String) -> Self {
        // It may quote a value of any length.
        if message.len() > LONGEST_MESSAGE {
            message.truncate(message.floor_char_boundary(LONGEST_MESSAGE));
            message.push_str(" ...");
        }
        Self { severity, message, path: None, marks: Vec::new(), help: Vec::new() }
    }

    #[must_use]
    pub fn at(mut self, path: impl fmt::Display) -> Self {
        self.path = Some(path.to_string()).filter(|path| !path.is_empty());
        self
    }

    #[must_use]
    pub fn mark(mut self, mark: Option<Mark>) -> Self {
        self.marks.extend(mark);
        self
    }

    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help.push(help.into());
        self
    }

    /// Adds `did you mean` when one of `known` is near to `name`.
    #[must_use]
    pub fn nearest<'a>(self, name: &str, known: impl IntoIterator<Item = &'a str>) -> Self {
        match nearest(name, known) {
            Some(right) => self.help(format!("did you mean `{right}`?")),
            None => self,
        }
    }

    /// The main place.
    #[must_use]
    pub fn place(&self) -> Option<&Place> {
        self.marks.first().map(|mark| &mark.place)
    }

    /// One line: `file:line:column: error: message`.
    #[must_use]
    pub fn short(&self) -> String {
        let place = self.place().map(|place| format!("{place}: ")).unwrap_or_default();
        format!("{place}{}: {}", self.severity, self.message)
    }

    /// One line of JSON, without its line feed: the fields of this type.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).unwrap_or_default()
    }

    /// As an annotation of GitHub Actions, without its line feed.
    #[must_use]
    pub fn github(&self) -> String {
        // In the message these signs end it; in a property two more do.
        let message = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
        let property = |text: &str| message(text).replace(':', "%3A").replace(',', "%2C");
        let place = self
            .place()
            .map(|place| format!(" file={},line={},col={}", property(&place.file), place.line, place.column));
        let help: String = self.help.iter().map(|help| format!("\nhelp: {help}")).collect();
        format!(
            "::{}{}::{}",
            self.severity,
            place.unwrap_or_default(),
            message(&(self.message.clone() + &help))
        )
    }

    /// The whole message with its marked lines, each line ended.
    #[must_use]
    pub fn render(&self, paint: Paint) -> String {
        let mut out = String::new();
        let (tone, blue, bold) = (paint.severity(self.severity), paint.code("1;34"), paint.code("1"));
        let off = paint.code("0");
        let _ = writeln!(out, "{tone}{}{off}{bold}: {}{off}", self.severity, self.message);
        let width = self.marks.iter().map(|mark| mark.place.line.to_string().len()).max().unwrap_or_default();
        for (at, mark) in self.marks.iter().enumerate() {
            let arrow = if at == 0 { "-->" } else { ":::" };
            let _ = writeln!(out, "{blue}{:width$}{arrow}{off} {}", "", mark.place);
            mark.render(&mut out, width, if at == 0 { tone } else { blue }, blue, off);
        }
        if let Some(path) = &self.path {
            let _ = writeln!(out, "{blue}{:width$} ={off} in `{path}`", "");
        }
        for help in &self.help {
            let _ = writeln!(out, "{blue}{:width$} ={off} help: {help}", "");
        }
        out
    }
}

impl Mark {
    fn render(&self, out: &mut String, width: usize, tone: &str, blue: &str, off: &str) {
        const LONGEST: usize = 120;
        let column = self.place.column.saturating_sub(1).saturating_sub(self.skipped) as usize;
        // Of a very long line only what is around the mark is shown.
        let from = column.saturating_sub(LONGEST / 2) * usize::from(self.line.chars().count() > LONGEST);
        let shown: String = self
            .line
            .chars()
            .skip(from)
            .take(LONGEST)
            .map(|c| if c == '\t' || c.is_control() { ' ' } else { c })
            .collect();
        let _ = writeln!(out, "{blue}{:width$} |{off}", "");
        let _ = writeln!(out, "{blue}{:width$} |{off} {shown}", self.place.line);
        let marked = (self.length as usize).clamp(1, LONGEST);
        let text = if self.text.is_empty() { String::new() } else { format!(" {}", self.text) };
        let _ = writeln!(
            out,
            "{blue}{:width$} |{off} {:indent$}{tone}{}{text}{off}",
            "",
            "",
            "^".repeat(marked),
            indent = column - from
        );
    }
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Error => "error",
            Self::Warning => "warning",
        })
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(Paint::Plain))
    }
}

/// Most errors, and most warnings, of one load. A text of a million mistakes is not to fill memory with them.
pub const MAX_TOLD: usize = 500;

/// What a load has told so far; of what goes beyond [`MAX_TOLD`] only the number.
#[derive(Debug, Default)]
pub struct Told {
    kept: Vec<Diagnostic>,
    errors: usize,
    warnings: usize,
    /// Mistakes of single values, which another file may still replace, and how much was told before.
    pending: Vec<(usize, Span, Diagnostic)>,
}

impl Told {
    pub fn push(&mut self, diagnostic: Diagnostic) {
        match diagnostic.severity {
            Severity::Error => self.error(|| diagnostic),
            Severity::Warning => self.warning(|| diagnostic),
        }
    }

    /// Tells an error, which is made only if there is room for it.
    pub fn error(&mut self, make: impl FnOnce() -> Diagnostic) {
        self.errors += 1;
        if self.errors <= MAX_TOLD {
            self.kept.push(make());
        }
    }

    /// Tells a warning, which is made only if there is room for it.
    pub fn warning(&mut self, make: impl FnOnce() -> Diagnostic) {
        self.warnings += 1;
        if self.warnings <= MAX_TOLD {
            self.kept.push(make());
        }
    }

    /// Tells an error of the value at `span`, if [`Told::decide`] finds it in the result.
    pub fn error_if_kept(&mut self, span: Span, make: impl FnOnce() -> Diagnostic) {
        if self.pending.len() < MAX_TOLD {
            self.pending.push((self.kept.len(), span, make()));
        } else {
            self.error(make);
        }
    }

    /// Tells the pending errors of the values that are left, each once, and forgets the others.
    pub fn decide(&mut self, model: &Node) {
        if self.pending.is_empty() {
            return;
        }
        let mut left = HashSet::new();
        let mut open = vec![model];
        while let Some(node) = open.pop() {
            match &node.value {
                Value::Map(map) => open.extend(map.values()),
                Value::List(items) => open.extend(items),
                Value::Text(_) => drop(left.insert(node.span)),
                _ => {}
            }
        }
        self.pending.retain(|(_, span, _)| left.remove(span));
        for (at, _, told) in std::mem::take(&mut self.pending).into_iter().rev() {
            self.errors += 1;
            if self.errors <= MAX_TOLD {
                self.kept.insert(at, told);
            }
        }
    }

    /// Whether no further error is kept: then one that need not be made is counted.
    pub const fn overflows(&mut self) -> bool {
        let full = self.errors >= MAX_TOLD;
        self.errors += full as usize;
        full
    }

    #[must_use]
    pub const fn has_errors(&self) -> bool {
        self.errors > 0
    }

    /// All of it, with the number of those that were not kept at the end.
    #[must_use]
    pub fn take(&mut self) -> Vec<Diagnostic> {
        let Self { mut kept, errors, warnings, pending: _ } = std::mem::take(self);
        if warnings > MAX_TOLD {
            let more = warnings - MAX_TOLD;
            kept.push(Diagnostic::warning(format!("there are {more} more warnings, not shown")));
        }
        if errors > MAX_TOLD {
            let more = errors - MAX_TOLD;
            kept.push(Diagnostic::error(format!("there are {more} more mistakes, not shown")));
        }
        kept
    }
}

impl Extend<Diagnostic> for Told {
    fn extend<I: IntoIterator<Item = Diagnostic>>(&mut self, diagnostics: I) {
        diagnostics.into_iter().for_each(|diagnostic| self.push(diagnostic));
    }
}

impl std::ops::Deref for Told {
    type Target = [Diagnostic];

    fn deref(&self) -> &[Diagnostic] {
        &self.kept
    }
}

/// Whether a message may use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Plain,
    Colour,
}

impl Paint {
    fn severity(self, severity: Severity) -> &'static str {
        self.code(match severity {
            Severity::Error => "1;31",
            Severity::Warning => "1;33",
        })
    }

    fn code(self, code: &'static str) -> &'static str {
        match (self, code) {
            (Self::Plain, _) => "",
            (Self::Colour, "0") => "\x1b[0m",
            (Self::Colour, "1") => "\x1b[1m",
            (Self::Colour, "1;31") => "\x1b[1;31m",
            (Self::Colour, "1;33") => "\x1b[1;33m",
            (Self::Colour, _) => "\x1b[1;34m",
        }
    }
}

/// The texts that spans point into.
#[derive(Debug, Default)]
pub struct Files(Vec<Text>);

#[derive(Debug)]
struct Text {
    name: Arc<str>,
    text: Arc<str>,
    /// Where every [`STEP`]-th line begins; made when a line is first asked for.
    lines: OnceCell<Vec<usize>>,
}

const STEP: usize = 64;
/// Longer lines are shown in part, in bytes.
const LONG_LINE: usize = 2_000;

/// One text of [`Files`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId(u32);

impl Files {
    /// Takes a text under the name that messages show.
    pub fn add(&mut self, name: &str, text: &str) -> FileId {
        self.0.push(Text { name: name.into(), text: text.into(), lines: OnceCell::new() });
        FileId(u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX))
    }

    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn name(&self, file: FileId) -> Option<&Arc<str>> {
        self.0.get(file.0 as usize).map(|text| &text.name)
    }

    #[must_use]
    pub fn text(&self, file: FileId) -> &str {
        self.0.get(file.0 as usize).map_or("", |text| &text.text)
    }

    /// The line that a span stands in, without its end.
    #[must_use]
    pub fn line(&self, span: Span) -> &str {
        let Some(text) = self.0.get(span.file.0 as usize) else { return "" };
        let starts = text.lines.get_or_init(|| {
            let ends = text.text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
            [0].into_iter().chain(ends.map(|(at, _)| at + 1)).step_by(STEP).collect()
        });
        let line = span.line.saturating_sub(1) as usize;
        let start = starts.get(line / STEP).copied().unwrap_or(text.text.len());
        text.text[start..].lines().nth(line % STEP).unwrap_or_default()
    }

    /// `None` for what stands in no file.
    #[must_use]
    pub fn place(&self, span: Span) -> Option<Place> {
        let file = self.name(span.file)?.clone();
        (span.line > 0).then_some(Place { file, line: span.line, column: span.column })
    }

    #[must_use]
    pub fn mark(&self, span: Span, text: impl Into<String>) -> Option<Mark> {
        let place = self.place(span)?;
        let (line, skipped) = around(self.line(span), span.column.saturating_sub(1) as usize);
        let rest = line.chars().count().saturating_sub(span.column.saturating_sub(1) as usize - skipped);
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        let length = span.length.min(number(rest)).max(1);
        let (line, skipped) = (without_passwords(line), number(skipped));
        Some(Mark { place, length, line, skipped, text: text.into() })
    }
}

/// What of a line is shown for words at a column (from 0), and how many characters before it are not.
fn around(line: &str, column: usize) -> (&str, usize) {
    if line.len() <= LONG_LINE {
        return (line, 0);
    }
    let skipped = column.saturating_sub(LONG_LINE / 4);
    let start = offset(line, skipped);
    let rest = &line[start..];
    let end = rest.floor_char_boundary(LONG_LINE);
    (&rest[..end], if start == line.len() { column } else { skipped })
}

/// The line with the passwords of its URLs (`https://user:password@host`) as stars, of the same length.
fn without_passwords(line: &str) -> String {
    let mut shown = String::with_capacity(line.len());
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("://") {
        let end = after.find(|c: char| c == '/' || c.is_whitespace()).unwrap_or(after.len());
        let password = after[..end].rfind('@').and_then(|at| Some(after[..at].find(':')? + 1..at));
        let stars = password.unwrap_or(0..0);
        shown.extend([before, "://", &after[..stars.start]]);
        shown.extend(after[stars.clone()].chars().map(|_| '*'));
        rest = &after[stars.end..];
    }
    shown + rest
}

/// The byte at which a character (from 0) of a text begins. Counts in blocks, since a text may be long.
#[must_use]
pub fn offset(text: &str, characters: usize) -> usize {
    const BLOCK: usize = 1 << 12;
    let starts = |bytes: &[u8]| bytes.iter().filter(|byte| !(0x80..0xc0).contains(*byte)).count();
    let (mut at, mut before) = (0, 0);
    while at + BLOCK <= text.len() {
        let within = starts(&text.as_bytes()[at..at + BLOCK]);
        if before + within > characters {
            break;
        }
        (at, before) = (at + BLOCK, before + within);
    }
    while at < text.len() && (!text.is_char_boundary(at) || before < characters) {
        before += usize::from(text.is_char_boundary(at));
        at += 1;
    }
    at
}

/// The name of `known` that `name` most probably meant: the smallest edit distance (with swapped
/// neighbours as one edit), at most a third of the name.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if name.len() > LONGEST_NAME {
        return None;
    }
    let length = name.chars().count();
    let allowed = (length / 3).max(1);
    let simple = |text: &str| text.to_lowercase().replace('-', "_");
    let wanted = simple(name);
    let holds = |known: &str| wanted.len() > 3 && (known.contains(&wanted) || wanted.starts_with(known));
    known
        .into_iter()
        .filter(|known| *known != name)
        // As many edits as the lengths differ are needed at least.
        .filter(|known| known.chars().count().abs_diff(length) <= allowed || holds(known))
        .map(|known| (distance(&wanted, &simple(known)), known))
        .filter(|(far, known)| *far <= allowed && *far < wanted.chars().count() || holds(known))
        .min_by_key(|(far, _)| *far)
        .map(|(_, known)| known)
}

/// Longer names, in bytes, are no typo of anything.
const LONGEST_NAME: usize = 200;

/// Edits that turn one text into the other: insert, delete, replace, swap of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(64).collect(), b.chars().take(64).collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for (i, row) in rows.iter_mut().enumerate() {
        row[0] = i;
    }
    rows[0] = (0..=b.len()).collect();
    for i in 1..=a.len() {
        for j in 1..=b.len() {
            let change = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + change);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = best;
        }
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_name_is_found_in_spite_of_a_typo() {
        let known = ["environment", "env_file", "ports", "expose", "image", "volumes", "volumes_from"];
        assert_eq!(nearest("enviroment", known), Some("environment"));
        assert_eq!(nearest("environments", known), Some("environment"));
        assert_eq!(nearest("prots", known), Some("ports"));
        assert_eq!(nearest("Image", known), Some("image"));
        assert_eq!(nearest("env-file", known), Some("env_file"));
        assert_eq!(nearest("zzz", known), None);
    }

    #[test]
    fn a_shown_line_hides_passwords() {
        let shown = without_passwords("- git://u:pw@h/x http://h:80/a@b é://ü:é@x //");
        assert_eq!(shown, "- git://u:**@h/x http://h:80/a@b é://ü:*@x //");
    }

    #[test]
    fn a_very_long_line_is_shown_around_the_words_and_only_so_many_mistakes_are_kept() {
        let mut files = Files::default();
        let file = files.add("x", &format!("a\n{}b{}\n", "é".repeat(100_000), "c".repeat(100_000)));
        let mark = files.mark(Span { file, line: 2, column: 100_001, length: 1 }, "").unwrap();
        assert_eq!(mark.line.chars().nth(100_000 - mark.skipped as usize), Some('b'));
        assert!(mark.line.len() <= LONG_LINE);
        let mut told = Told::default();
        (0..MAX_TOLD + 7).for_each(|_| told.push(Diagnostic::error("x")));
        let kept = told.take();
        assert_eq!(kept.len(), MAX_TOLD + 1);
        assert_eq!(kept[MAX_TOLD].message, "there are 7 more mistakes, not shown");
    }

    #[test]
    fn a_message_shows_the_line_and_marks_the_words() {
        let mut files = Files::default();
        let file = files.add("compose.yaml", "services:\n  web:\n    imgae: x\n");
        let span = Span { file, line: 3, column: 5, length: 5 };
        let message = Diagnostic::error("unknown key `imgae`")
            .at("services.web.imgae")
            .mark(files.mark(span, ""))
            .nearest("imgae", ["image", "init"]);
        insta::assert_snapshot!(message, @r"
        error: unknown key `imgae`
         --> compose.yaml:3:5
          |
        3 |     imgae: x
          |     ^^^^^
          = in `services.web.imgae`
          = help: did you mean `image`?
        ");
        assert_eq!(message.short(), "compose.yaml:3:5: error: unknown key `imgae`");
        assert!(message.render(Paint::Colour).starts_with("\x1b[1;31merror"));
    }
}
