//! Text to logical lines: comments dropped, continuations joined, directives and heredocs taken out.
//! Each logical line remembers where its pieces stood.

use super::{Lint, Mistake, Rule, Span, Word, words};

/// One instruction's line, continuations joined.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Line {
    pub(super) text: String,
    /// (offset in `text`, offset in the source), ascending.
    pieces: Vec<(usize, usize)>,
    pub(super) heredocs: Vec<Heredoc>,
}

/// A file that stands in the Dockerfile: `<<EOF`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Heredoc {
    pub name: String,
    /// Variables are replaced: its name was not quoted.
    pub expand: bool,
    /// `<<-`: leading tabs do not count.
    pub chomp: bool,
    /// With the end of its last line; tabs still there.
    pub content: String,
    pub span: Span,
}

impl Heredoc {
    /// What the file holds.
    #[must_use]
    pub fn data(&self) -> String {
        if !self.chomp {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }
}

/// `# key=value` lines on top of the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Directives {
    /// Backslash, or backtick.
    pub escape: char,
    pub syntax: Option<Word>,
    pub check: Option<Word>,
}

#[derive(Debug)]
pub(super) struct Lexed {
    pub(super) directives: Directives,
    pub(super) lines: Vec<Line>,
    pub(super) lints: Vec<Lint>,
    pub(super) mistakes: Vec<Mistake>,
}

impl Line {
    /// The line of a trigger or a test: one piece at the start of the source.
    pub(super) fn plain(text: &str) -> Self {
        Self { text: text.to_owned(), pieces: vec![(0, 0)], heredocs: Vec::new() }
    }

    /// Where bytes `start..end` of the text stand in the source.
    pub(super) fn span(&self, start: usize, end: usize) -> Span {
        let start = self.source(start);
        Span { start, end: if end == 0 { start } else { (self.source(end - 1) + 1).max(start) } }
    }

    pub(super) fn whole(&self) -> Span {
        self.span(0, self.text.len())
    }

    fn source(&self, offset: usize) -> usize {
        let after = self.pieces.partition_point(|(start, _)| *start <= offset);
        let (start, source) = self.pieces[after.saturating_sub(1)];
        source + (offset - start)
    }

    fn push(&mut self, text: &str, source: usize) {
        self.pieces.push((self.text.len(), source));
        self.text.push_str(text);
    }
}

pub(super) fn lex(text: &str) -> Lexed {
    let mut physical = Physical { text, at: if text.starts_with('\u{feff}') { 3 } else { 0 } };
    let mut mistakes = Vec::new();
    let directives = directives(&mut physical, &mut mistakes);
    let mut lexed = Lexed { directives, lines: Vec::new(), lints: Vec::new(), mistakes };
    while let Some((start, raw)) = physical.next() {
        let content = raw.trim_start();
        if content.is_empty() || content.starts_with('#') {
            continue;
        }
        let mut line = Line::default();
        let escape = lexed.directives.escape;
        let mut more = take(&mut line, content, start + (raw.len() - content.len()), escape);
        let mut blank = None;
        while more {
            let Some((start, raw)) = physical.next() else { break };
            let content = raw.trim_start();
            if content.is_empty() {
                blank.get_or_insert(start);
            } else if !content.starts_with('#') {
                more = take(&mut line, raw, start, escape);
            }
        }
        if let Some(start) = blank {
            let span = Span { start, end: start };
            lexed.lints.push(Lint::new(Rule::NoEmptyContinuation, span, "Empty continuation line"));
        }
        for mut heredoc in words::heredocs(&line, escape) {
            match body(&mut physical, &heredoc) {
                Some(content) => heredoc.content = content,
                None => lexed.mistakes.push(
                    Mistake::new(heredoc.span, "unterminated heredoc")
                        .help(format!("put a line with only `{}` at its end", heredoc.name)),
                ),
            }
            line.heredocs.push(heredoc);
        }
        lexed.lines.push(line);
    }
    lexed
}

/// Adds a physical line; true when the next one belongs to it.
fn take(line: &mut Line, content: &str, source: usize, escape: char) -> bool {
    let trimmed = content.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => {
            line.push(rest, source);
            true
        }
        _ => {
            line.push(content, source);
            false
        }
    }
}

/// The lines up to the terminator, or `None` at the end of the file.
fn body(physical: &mut Physical<'_>, heredoc: &Heredoc) -> Option<String> {
    let mut content = String::new();
    loop {
        let from = physical.at;
        let (_, raw) = physical.next()?;
        let end = if heredoc.chomp { raw.trim_start_matches('\t') } else { raw };
        if end == heredoc.name {
            return Some(content);
        }
        content.push_str(&physical.text[from..physical.at]);
    }
}

/// The physical lines, without their ends.
struct Physical<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Physical<'a> {
    fn next(&mut self) -> Option<(usize, &'a str)> {
        let start = self.at;
        let rest = &self.text[start..];
        if rest.is_empty() {
            return None;
        }
        let line = rest.split_inclusive('\n').next().unwrap_or(rest);
        self.at += line.len();
        let line = line.strip_suffix('\n').unwrap_or(line);
        Some((start, line.strip_suffix('\r').unwrap_or(line)))
    }
}

fn directives(physical: &mut Physical<'_>, mistakes: &mut Vec<Mistake>) -> Directives {
    let mut found = Directives { escape: '\\', syntax: None, check: None };
    let mut escape: Option<Word> = None;
    loop {
        let before = physical.at;
        let Some((key, value)) = physical.next().and_then(|(start, raw)| directive(start, raw)) else {
            physical.at = before;
            break;
        };
        let slot = match key.as_str() {
            "escape" => &mut escape,
            "syntax" => &mut found.syntax,
            "check" => &mut found.check,
            _ => {
                physical.at = before;
                break;
            }
        };
        if slot.is_some() {
            mistakes.push(Mistake::new(value.span, format!("only one {key} parser directive can be used")));
        }
        *slot = Some(value);
    }
    if let Some(word) = escape {
        match word.text.as_str() {
            "\\" => {}
            "`" => found.escape = '`',
            other => {
                mistakes.push(Mistake::new(
                    word.span,
                    format!("invalid escape token '{other}' does not match ` or \\"),
                ));
            }
        }
    }
    found
}

/// `# key = value`: the key in lower case, and the value.
fn directive(start: usize, raw: &str) -> Option<(String, Word)> {
    let rest = raw.strip_prefix('#')?;
    let (key, value) = rest.split_once('=')?;
    let key = key.trim();
    let word =
        key.starts_with(|c: char| c.is_ascii_alphabetic()) && key.chars().all(|c| c.is_ascii_alphanumeric());
    let trimmed = value.trim();
    if !word || trimmed.is_empty() {
        return None;
    }
    let begin = start + raw.len() - value.len() + (value.len() - value.trim_start().len());
    let span = Span { start: begin, end: begin + trimmed.len() };
    Some((key.to_ascii_lowercase(), Word { text: trimmed.to_owned(), span }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        let lexed = lex(text);
        assert!(lexed.mistakes.is_empty(), "{:?}", lexed.mistakes);
        lexed.lines.into_iter().map(|line| line.text).collect()
    }

    #[test]
    fn continuations_join_and_comments_between_them_vanish() {
        let table: &[(&str, &[&str])] = &[
            ("RUN a \\\n  b", &["RUN a   b"]),
            ("RUN a \\\n# not this\n  b", &["RUN a   b"]),
            ("RUN a \\\n   # nor this\nb", &["RUN a b"]),
            ("RUN a \\  \t\nb", &["RUN a b"]),
            ("RUN a \\\\\nENV b c", &["RUN a \\\\", "ENV b c"]),
            ("RUN a \\", &["RUN a "]),
            ("  \t RUN x\r\n\r\nRUN y\r\n", &["RUN x", "RUN y"]),
            ("\u{feff}RUN x", &["RUN x"]),
            ("# escape=`\nRUN a `\nb \\\nRUN c", &["RUN a b \\", "RUN c"]),
            ("#comment\n# escape=`\nRUN a \\\nb", &["RUN a b"]),
            ("RUN echo # kept", &["RUN echo # kept"]),
            ("\\\nRUN x", &["RUN x"]),
        ];
        for (text, expected) in table {
            assert_eq!(lines(text), *expected, "{text:?}");
        }
    }

    #[test]
    fn places_survive_the_joining() {
        let text = "# top\nRUN one \\\n# middle\n   two";
        let line = &lex(text).lines[0];
        let at = line.text.find("two").unwrap();
        let span = line.span(at, at + 3);
        assert_eq!(&text[span.start..span.end], "two");
        let whole = line.whole();
        assert_eq!(&text[whole.start..whole.end], "RUN one \\\n# middle\n   two");
    }

    #[test]
    fn directives_stand_on_top_only() {
        let lexed = lex("# Syntax = docker/dockerfile:1 \n# check=skip=all\nFROM x");
        assert_eq!(lexed.directives.syntax.unwrap().text, "docker/dockerfile:1");
        assert_eq!(lexed.directives.check.unwrap().text, "skip=all");
        assert_eq!(lexed.directives.escape, '\\');
        assert!(lex("\n# syntax=x\nFROM x").directives.syntax.is_none());
        assert!(lex("# unknown=1\n# syntax=x\nFROM x").directives.syntax.is_none());
        let message = |text: &str| lex(text).mistakes[0].message.clone();
        assert_eq!(message("# escape=`\n# escape=`\n"), "only one escape parser directive can be used");
        assert_eq!(message("# escape=x\n"), "invalid escape token 'x' does not match ` or \\");
    }

    #[test]
    fn heredocs_are_taken_out() {
        let text = "RUN <<EOF\na\n  EOF\n# kept\nEOF\nCOPY <<-'A' <<B /x/\n\tone\n\tA\n$two\nB\nRUN last";
        let lexed = lex(text);
        assert_eq!(lexed.mistakes, []);
        let [run, copy, last] = &lexed.lines[..] else { panic!("{:?}", lexed.lines) };
        assert_eq!(run.heredocs[0].data(), "a\n  EOF\n# kept\n");
        assert!(run.heredocs[0].expand);
        assert_eq!((copy.heredocs[0].name.as_str(), copy.heredocs[0].expand), ("A", false));
        assert_eq!(copy.heredocs[0].data(), "one\n");
        assert_eq!(copy.heredocs[1].data(), "$two\n");
        assert_eq!(last.text, "RUN last");
    }

    #[test]
    fn what_only_looks_like_a_heredoc_is_none() {
        for text in [
            "RUN cat <<<EOF",
            "RUN echo \"a <<EOF\"",
            "RUN echo $((1<<2))",
            "ENV A=<<EOF",
            "RUN cat << EOF",
            "CMD cat <<EOF",
            "RUN [\"a\", \"<<EOF\"]",
        ] {
            assert!(lex(text).lines[0].heredocs.is_empty(), "{text}");
        }
        assert_eq!(lex("RUN <<EOF\nx\n").mistakes[0].message, "unterminated heredoc");
        assert_eq!(lex("ONBUILD RUN <<EOF\nx\nEOF\n").lines[0].heredocs.len(), 1);
        assert_eq!(lex("RUN 3<<EOF cat\nx\nEOF\n").lines[0].heredocs.len(), 1);
    }

    #[test]
    fn an_empty_line_in_a_continuation_is_warned_of() {
        assert_eq!(lex("RUN a \\\n\nb").lints[0].rule, Rule::NoEmptyContinuation);
        assert_eq!(lex("RUN a \\\n\nb").lines[0].text, "RUN a b");
    }
}
