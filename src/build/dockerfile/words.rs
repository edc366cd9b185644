//! A logical line to words: at white space, at white space outside quotes, as a JSON array, as
//! heredoc markers. Quotes stay: they mean something to the expansion.

use std::ops::Range;

use super::{
    Mistake, Word,
    lex::{Heredoc, Line},
};

/// Go's `unicode.IsSpace`, as far as Dockerfiles use it.
fn is_space(c: char) -> bool {
    c.is_whitespace()
}

/// The ranges of the keyword and of what follows it, both without white space around.
pub(super) fn keyword(text: &str) -> (Range<usize>, Range<usize>) {
    let start = text.len() - text.trim_start().len();
    let end = text[start..].find(is_space).map_or(text.len(), |at| start + at);
    (start..end, trim(text, end..text.len()))
}

pub(super) fn trim(text: &str, range: Range<usize>) -> Range<usize> {
    let slice = &text[range.clone()];
    let start = range.start + (slice.len() - slice.trim_start().len());
    start..(start + slice.trim().len())
}

pub(super) fn word(line: &Line, range: Range<usize>) -> Word {
    Word { text: line.text[range.clone()].to_owned(), span: line.span(range.start, range.end) }
}

/// Split at white space; quotes mean nothing here.
pub(super) fn plain(line: &Line, range: Range<usize>) -> Vec<Word> {
    let mut words = Vec::new();
    let mut at = range.start;
    for piece in line.text[range].split(is_space) {
        if !piece.is_empty() {
            words.push(word(line, at..at + piece.len()));
        }
        // A space may take more than one byte.
        at += piece.len();
        at += line.text[at..].chars().next().map_or(0, char::len_utf8);
    }
    words
}

/// Split at white space outside quotes; quotes and escapes stay in the words.
pub(super) fn quoted_ranges(text: &str, range: Range<usize>, escape: char) -> Vec<Range<usize>> {
    let mut words = Vec::new();
    let mut start = None;
    let mut quote = None;
    let mut chars = text[range.clone()].char_indices();
    while let Some((at, c)) = chars.next() {
        let at = range.start + at;
        match quote {
            None if is_space(c) => {
                if let Some(start) = start.take() {
                    words.push(start..at);
                }
                continue;
            }
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == escape => {
                chars.next();
            }
            Some('"') if c == escape => {
                chars.next();
            }
            Some(open) if c == open => quote = None,
            _ => {}
        }
        start.get_or_insert(at);
    }
    if let Some(start) = start {
        words.push(start..range.end);
    }
    words
}

/// `["a", "b"]`: `None` when it is no JSON array, an error when not all of it is strings. What stands behind
/// it is passed over, as BuildKit does.
pub(super) fn json(line: &Line, range: Range<usize>) -> Option<Result<Vec<String>, Mistake>> {
    let text = &line.text[range.clone()];
    if !text.starts_with('[') {
        return None;
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Vec<serde_json::Value>>();
    let values = values.next()?.ok()?;
    let strings = values
        .into_iter()
        .map(|value| match value {
            serde_json::Value::String(text) => Ok(text),
            other => Err(Mistake::new(
                line.span(range.start, range.end),
                "when using JSON array syntax, arrays must be comprised of strings only",
            )
            .help(format!("write `\"{other}\"`"))),
        })
        .collect();
    Some(strings)
}

/// The `<<NAME` words of a line that may have them (RUN, COPY, ADD, also behind ONBUILD).
pub(super) fn heredocs(line: &Line, escape: char) -> Vec<Heredoc> {
    let (mut name, mut rest) = keyword(&line.text);
    if line.text[name.clone()].eq_ignore_ascii_case("onbuild") {
        let (inner, after) = keyword(&line.text[rest.clone()]);
        (name, rest) = (
            rest.start + inner.start..rest.start + inner.end,
            rest.start + after.start..rest.start + after.end,
        );
    }
    if !["run", "copy", "add"].iter().any(|k| line.text[name.clone()].eq_ignore_ascii_case(k)) {
        return Vec::new();
    }
    quoted_ranges(&line.text, rest, escape)
        .into_iter()
        .filter_map(|range| heredoc(&line.text[range.clone()], line.span(range.start, range.end)))
        .collect()
}

/// `<<NAME`, `3<<-NAME`, `<<'NAME'`.
pub(super) fn heredoc(word: &str, span: super::Span) -> Option<Heredoc> {
    let rest = word.trim_start_matches(|c: char| c.is_ascii_digit()).strip_prefix("<<")?;
    let (chomp, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let name: String = rest.chars().filter(|c| !matches!(c, '"' | '\'' | '\\')).collect();
    (!name.is_empty()).then(|| Heredoc { expand: name == rest, name, chomp, content: String::new(), span })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_hold_words_together() {
        let table: &[(&str, &[&str])] = &[
            ("a b\tc", &["a", "b", "c"]),
            ("a='b c' d", &["a='b c'", "d"]),
            ("a=\"b \\\" c\" d", &["a=\"b \\\" c\"", "d"]),
            ("a=b\\ c d", &["a=b\\ c", "d"]),
            ("a='b\\' c", &["a='b\\'", "c"]),
            ("'' x", &["''", "x"]),
            ("a=\"open c", &["a=\"open c"]),
            ("", &[]),
        ];
        for (text, expected) in table {
            let words: Vec<_> =
                quoted_ranges(text, 0..text.len(), '\\').into_iter().map(|range| &text[range]).collect();
            assert_eq!(words, *expected, "{text}");
        }
    }

    #[test]
    fn words_know_their_place() {
        let text = "EXPOSE 80  \u{a0}443";
        let words = plain(&Line::plain(text), 6..text.len());
        assert_eq!(words.len(), 2);
        for word in words {
            assert_eq!(text[word.span.start..word.span.end], word.text);
        }
    }

    #[test]
    fn json_is_strings_only() {
        let parse = |text: &str| json(&Line::plain(text), 0..text.len());
        assert_eq!(parse(r#"["a", "b\n\u0041"]"#), Some(Ok(vec!["a".into(), "b\nA".into()])));
        assert_eq!(parse("[]"), Some(Ok(vec![])));
        assert_eq!(parse("['a']"), None);
        assert_eq!(parse("[ -f x ]"), None);
        assert_eq!(parse("[\"a\"] # b"), Some(Ok(vec!["a".into()])));
        assert!(matches!(parse("[\"a\", 1]"), Some(Err(_))));
    }
}
