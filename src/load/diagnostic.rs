//! What is wrong with a project, said so that it can be put right: place, marked words, next move.
//! A diagnostic carries the lines it shows; printing it needs no file.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use serde::Serialize;

use super::tree::Span;
use crate::model::Place;

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
    /// The whole line as written.
    pub line: String,
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

    fn new(severity: Severity, message: String) -> Self {
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
        let column = self.place.column.saturating_sub(1) as usize;
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
pub struct Files(Vec<(Arc<str>, Arc<str>)>);

/// One text of [`Files`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FileId(u32);

impl Files {
    /// Takes a text under the name that messages show.
    pub fn add(&mut self, name: &str, text: &str) -> FileId {
        self.0.push((name.into(), text.into()));
        FileId(u32::try_from(self.0.len() - 1).unwrap_or(u32::MAX))
    }

    #[must_use]
    pub fn name(&self, file: FileId) -> Option<&Arc<str>> {
        self.0.get(file.0 as usize).map(|(name, _)| name)
    }

    #[must_use]
    pub fn text(&self, file: FileId) -> &str {
        self.0.get(file.0 as usize).map_or("", |(_, text)| text)
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
        let line = self.text(span.file).lines().nth(span.line as usize - 1).unwrap_or_default().to_owned();
        let rest = line.chars().count().saturating_sub(span.column.saturating_sub(1) as usize);
        let length = span.length.min(u32::try_from(rest).unwrap_or(u32::MAX)).max(1);
        Some(Mark { place, length, line, text: text.into() })
    }
}

/// The name of `known` that `name` most probably meant: the smallest edit distance (with swapped
/// neighbours as one edit), at most a third of the name.
#[must_use]
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = (name.chars().count() / 3).max(1);
    let simple = |text: &str| text.to_lowercase().replace('-', "_");
    let wanted = simple(name);
    known
        .into_iter()
        .filter(|known| *known != name)
        .map(|known| (distance(&wanted, &simple(known)), known))
        .filter(|(far, known)| {
            let near = *far <= allowed && *far < wanted.chars().count();
            near || (wanted.len() > 3 && (known.contains(&wanted) || wanted.starts_with(*known)))
        })
        .min_by_key(|(far, _)| *far)
        .map(|(_, known)| known)
}

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
