//! Writes YAML in block style, indented by two, with the quoting of the reference's printer.

use super::document::Document;

/// The value as a YAML document, ended by a line break.
#[must_use]
pub fn print(value: &Document<'_>) -> String {
    let mut out = String::new();
    match value {
        Document::Map(entries) if entries.is_empty() => out.push_str("{}\n"),
        Document::List(items) if items.is_empty() => out.push_str("[]\n"),
        Document::Map(_) | Document::List(_) => block(&mut out, value, 0, false),
        scalar => {
            write_scalar(&mut out, scalar, 0);
            out.push('\n');
        }
    }
    out
}

/// A mapping or list, every line ended. `inline`: the first line follows what stands already.
fn block(out: &mut String, value: &Document<'_>, indent: usize, inline: bool) {
    let mut first = inline;
    let mut start = |out: &mut String| {
        if !std::mem::take(&mut first) {
            out.extend(std::iter::repeat_n(' ', indent));
        }
    };
    match value {
        Document::Map(entries) => {
            for (key, value) in entries {
                start(out);
                write_text(out, key, false, indent);
                out.push(':');
                match value {
                    Document::Map(inner) if !inner.is_empty() => {
                        out.push('\n');
                        block(out, value, indent + 2, false);
                    }
                    Document::List(inner) if !inner.is_empty() => {
                        out.push('\n');
                        block(out, value, indent + 2, false);
                    }
                    scalar => {
                        out.push(' ');
                        write_scalar(out, scalar, indent + 2);
                        out.push('\n');
                    }
                }
            }
        }
        Document::List(items) => {
            for value in items {
                start(out);
                out.push_str("- ");
                match value {
                    Document::Map(inner) if !inner.is_empty() => block(out, value, indent + 2, true),
                    Document::List(inner) if !inner.is_empty() => block(out, value, indent + 2, true),
                    scalar => {
                        write_scalar(out, scalar, indent + 2);
                        out.push('\n');
                    }
                }
            }
        }
        _ => {}
    }
}

fn write_scalar(out: &mut String, value: &Document<'_>, indent: usize) {
    match value {
        Document::Null => out.push_str("null"),
        Document::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Document::Int(value) => out.push_str(&value.to_string()),
        Document::Large(value) => out.push_str(&value.to_string()),
        Document::Float(value) => out.push_str(&super::tree::float_text(*value)),
        Document::Text(text) => write_text(out, text, true, indent),
        Document::List(_) => out.push_str("[]"),
        Document::Map(_) => out.push_str("{}"),
    }
}

/// What the characters of a text allow.
#[derive(Default)]
struct Shape {
    /// Characters that mean something to YAML outside quotes.
    indicators: bool,
    special: bool,
    tab: bool,
    line_break: bool,
    leading_space: bool,
    trailing_space: bool,
    leading_break: bool,
    trailing_break: bool,
    space_break: bool,
    break_space: bool,
}

impl Shape {
    fn of(text: &str) -> Self {
        let mut shape = Self::default();
        if text.starts_with("---") || text.starts_with("...") {
            shape.indicators = true;
        }
        let (mut space_before, mut break_before, mut preceded) = (false, false, true);
        let mut chars = text.chars().enumerate().peekable();
        while let Some((at, c)) = chars.next() {
            let followed = chars.peek().is_none_or(|(_, next)| is_blank(*next));
            let last = chars.peek().is_none();
            shape.indicators |= match (at, c) {
                (
                    0,
                    '#' | ',' | '[' | ']' | '{' | '}' | '&' | '*' | '!' | '|' | '>' | '\'' | '"' | '%' | '@'
                    | '`',
                ) => true,
                (0, '?' | '-') => followed,
                (_, ':') => followed,
                (_, '#') => preceded,
                _ => false,
            };
            shape.special |= !is_printable(c);
            shape.tab |= c == '\t';
            if c == ' ' {
                shape.leading_space |= at == 0;
                shape.trailing_space |= last;
                shape.break_space |= break_before;
                (space_before, break_before) = (true, false);
            } else if is_break(c) {
                shape.line_break = true;
                shape.leading_break |= at == 0;
                shape.trailing_break |= last;
                shape.space_break |= space_before;
                (space_before, break_before) = (false, true);
            } else {
                (space_before, break_before) = (false, false);
            }
            preceded = is_blank(c);
        }
        shape
    }

    const fn plain(&self) -> bool {
        !(self.indicators
            || self.special
            || self.tab
            || self.line_break
            || self.leading_space
            || self.trailing_space
            || self.space_break
            || self.break_space)
    }

    const fn single(&self) -> bool {
        !(self.special || self.tab || self.space_break || self.break_space)
    }

    const fn literal(&self) -> bool {
        !(self.special || self.space_break || self.trailing_space)
    }
}

fn is_blank(c: char) -> bool {
    c == ' ' || c == '\t' || is_break(c)
}

const fn is_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')
}

fn is_printable(c: char) -> bool {
    matches!(c, '\t' | '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}' | '\u{e000}'..='\u{fffd}') && c != '\u{feff}'
}

/// A text in the form that the reference chooses: plain, quoted, or a literal block.
fn write_text(out: &mut String, text: &str, block_allowed: bool, indent: usize) {
    if !text.contains('\n') && reads_as_other(text) {
        double(out, text);
        return;
    }
    if is_word(text) {
        out.push_str(text);
        return;
    }
    let shape = Shape::of(text);
    match text.contains('\n') {
        true if block_allowed && shape.literal() => literal(out, text, indent),
        true => double(out, text),
        false if shape.plain() => out.push_str(text),
        false if shape.single() => {
            out.push('\'');
            out.push_str(&text.replace('\'', "''"));
            out.push('\'');
        }
        false => double(out, text),
    }
}

/// Most texts: nothing in them can be a sign of YAML's.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'/' | b'-'))
}

/// Texts that would be read as a boolean, a number, a time or null.
fn reads_as_other(text: &str) -> bool {
    const OLD_BOOLEANS: [&str; 16] =
        ["y", "Y", "yes", "Yes", "YES", "on", "On", "ON", "n", "N", "no", "No", "NO", "off", "Off", "OFF"];
    OLD_BOOLEANS.contains(&text)
        || text == "<<"
        || super::tree::typed(text).is_some()
        || text.starts_with(|c: char| matches!(c, '+' | '-' | '0'..='9'))
            && (is_base60(text) || is_time(text))
}

/// `12:30:45`, which older readers take for a number.
fn is_base60(text: &str) -> bool {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let mut parts = whole.split(':');
    let first = parts.next().unwrap_or_default();
    let rest: Vec<&str> = parts.collect();
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit() || b == b'_');
    !rest.is_empty()
        && first.starts_with(|c: char| c.is_ascii_digit())
        && digits(first)
        && rest
            .iter()
            .all(|part| part.len() <= 2 && digits(part) && (part.len() == 1 || part.as_bytes()[0] < b'6'))
        && fraction.bytes().all(|b| b.is_ascii_digit() || b == b'_')
}

/// `2001-01-02`, also with a time of day.
fn is_time(text: &str) -> bool {
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], text[at + 1..].trim_start()),
        None => (text, ""),
    };
    let parts: Vec<&str> = date.split('-').collect();
    let digits = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    let [year, month, day] = parts.as_slice() else { return false };
    let number = |text: &str| text.parse::<u32>().unwrap_or_default();
    year.len() == 4
        && digits(year)
        && digits(month)
        && digits(day)
        && (1..=2).contains(&month.len())
        && (1..=2).contains(&day.len())
        && (1..=12).contains(&number(month))
        && (1..=31).contains(&number(day))
        && (time.is_empty() && date.len() == text.len()
            || time.split(':').count() >= 3 && time.starts_with(|c: char| c.is_ascii_digit()))
}

fn literal(out: &mut String, text: &str, indent: usize) {
    out.push('|');
    if text.starts_with([' ', '\n']) {
        out.push('2');
    }
    if !text.ends_with('\n') {
        out.push('-');
    } else if text.ends_with("\n\n") || text == "\n" {
        out.push('+');
    }
    let body = text.strip_suffix('\n').unwrap_or(text);
    for line in body.split('\n') {
        out.push('\n');
        if !line.is_empty() {
            out.extend(std::iter::repeat_n(' ', indent));
            out.push_str(line);
        }
    }
}

fn double(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            '\0' => out.push_str("\\0"),
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{b}' => out.push_str("\\v"),
            '\u{c}' => out.push_str("\\f"),
            '\u{1b}' => out.push_str("\\e"),
            '\u{85}' => out.push_str("\\N"),
            '\u{a0}' => out.push_str("\\_"),
            '\u{2028}' => out.push_str("\\L"),
            '\u{2029}' => out.push_str("\\P"),
            c if is_printable(c) => out.push(c),
            c => {
                let code = u32::from(c);
                out.push_str(&match code {
                    0..=0xff => format!("\\x{code:02X}"),
                    0x100..=0xffff => format!("\\u{code:04X}"),
                    _ => format!("\\U{code:08X}"),
                });
            }
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_only_where_needed() {
        let table = [
            ("plain text", "plain text"),
            ("", "\"\""),
            ("80", "\"80\""),
            ("1.5", "\"1.5\""),
            ("true", "\"true\""),
            ("yes", "\"yes\""),
            ("null", "\"null\""),
            ("12:30:45", "\"12:30:45\""),
            ("2001-01-02", "\"2001-01-02\""),
            ("80:80", "80:80"),
            ("- a", "'- a'"),
            ("a: b", "'a: b'"),
            ("a #b", "'a #b'"),
            ("it's", "it's"),
            ("'x", "'''x'"),
            ("{a}", "'{a}'"),
            (" a", "' a'"),
            ("*", "'*'"),
            ("a\tb", "\"a\\tb\""),
        ];
        for (text, expected) in table {
            let mut out = String::new();
            write_text(&mut out, text, true, 2);
            assert_eq!(out, expected, "{text}");
        }
    }

    #[test]
    fn several_lines_are_a_literal_block() {
        let text = Document::text;
        let inner = [("e", Document::Int(1)), ("f", Document::Map(Vec::new()))];
        let value: Document<'_> = [
            ("a", text("x\ny\n")),
            ("b", [text("p\nq")].into_iter().collect()),
            ("c", Document::List(Vec::new())),
            ("d", [inner.into_iter().collect::<Document<'_>>()].into_iter().collect()),
        ]
        .into_iter()
        .collect();
        assert_eq!(
            print(&value),
            "a: |\n  x\n  y\nb:\n  - |-\n    p\n    q\nc: []\nd:\n  - e: 1\n    f: {}\n"
        );
    }
}
