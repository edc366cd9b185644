//! The one parser of `.env` files, `env_file` and `label_file`.
//! Knows text and variables, nothing of where they go.

use indexmap::IndexMap;

use super::interpolate::{self, substitute};

/// A mistake in a file of variables: line and column from 1.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub struct Fault {
    pub line: u32,
    pub column: u32,
    pub length: u32,
    pub message: String,
}

/// Most bytes of all values of a file, variables replaced.
const MAX_VALUES: usize = 16 << 20;

/// A lookup of variables by name.
pub type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// The variables of a file, in its order; the later of two with one name wins. For a variable that is
/// used, `outer` (the environment) is asked first, then the file itself, then `earlier` files.
///
/// # Errors
/// The first mistake.
pub fn parse(text: &str, outer: Lookup<'_>, earlier: Lookup<'_>) -> Result<IndexMap<String, String>, Fault> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let mut reader = Reader { text: &text, at: 0, found: IndexMap::new(), size: 0, outer, earlier };
    while reader.find_statement() {
        reader.statement()?;
    }
    Ok(reader.found)
}

/// The variables of a file of `format: raw`: the text after the first `=` as it stands.
///
/// # Errors
/// A name with white space in it.
pub fn parse_raw(text: &str, lookup: Lookup<'_>) -> Result<IndexMap<String, String>, Fault> {
    let mut found = IndexMap::new();
    for (line, number) in text.strip_prefix('\u{feff}').unwrap_or(text).lines().zip(1..) {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once('=').map_or((line, None), |(name, value)| (name, Some(value)));
        if name.is_empty() || name.contains(char::is_whitespace) {
            let message = format!("`{name}` is no name of a variable");
            return Err(Fault { line: number, column: 1, length: count(name).max(1), message });
        }
        if let Some(value) = value.map(ToOwned::to_owned).or_else(|| lookup(name)) {
            found.insert(name.to_owned(), value);
        }
    }
    Ok(found)
}

/// A lookup that has no variables.
#[must_use]
pub fn nothing(_: &str) -> Option<String> {
    None
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    found: IndexMap<String, String>,
    /// Bytes of the values so far.
    size: usize,
    outer: Lookup<'a>,
    earlier: Lookup<'a>,
}

impl<'a> Reader<'a> {
    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    /// Skips blank lines and comments; false at the end of the text.
    fn find_statement(&mut self) -> bool {
        loop {
            let rest = self.rest();
            self.at += rest.len() - rest.trim_start().len();
            if !self.rest().starts_with('#') {
                return !self.rest().is_empty();
            }
            self.at += self.line_length();
        }
    }

    fn line_length(&self) -> usize {
        self.rest().find('\n').unwrap_or(self.rest().len())
    }

    fn statement(&mut self) -> Result<(), Fault> {
        if let Some(after) = self.rest().strip_prefix("export").filter(|t| t.starts_with(char::is_whitespace))
        {
            self.at += 6 + (after.len() - after.trim_start().len());
        }
        let start = self.at;
        let (name, assigned) = self.name()?;
        if name.contains(char::is_whitespace) {
            return Err(self.fault(start, name.len(), format!("the name `{name}` has white space in it")));
        }
        if assigned {
            let value = self.value()?;
            self.size += value.len();
            if self.size > MAX_VALUES {
                let message = format!("the values of this file are longer than {} MiB", MAX_VALUES >> 20);
                return Err(self.fault(start, name.len(), message));
            }
            self.found.insert(name.to_owned(), value);
        } else if let Some(value) = (self.outer)(name).or_else(|| (self.earlier)(name)) {
            self.found.insert(name.to_owned(), value);
        }
        Ok(())
    }

    /// The name before `=` or `:`; false when the line ends without one.
    fn name(&mut self) -> Result<(&'a str, bool), Fault> {
        let rest = self.rest();
        for (at, c) in rest.char_indices() {
            match c {
                '=' | ':' => {
                    self.at += at + 1;
                    let after = self.rest();
                    self.at +=
                        after.len() - after.trim_start_matches([' ', '\t', '\r', '\u{b}', '\u{c}']).len();
                    return Ok((rest[..at].trim_end(), true));
                }
                '\n' => {
                    self.at += at + 1;
                    return Ok((rest[..at].trim_end(), false));
                }
                '_' | '.' | '-' | '[' | ']' | ' ' | '\t' | '\r' => {}
                c if c.is_alphanumeric() => {}
                c => {
                    let message = format!("unexpected character `{c}` in the name of a variable");
                    return Err(self.fault(self.at + at, c.len_utf8(), message));
                }
            }
        }
        self.at += rest.len();
        Ok((rest.trim_end(), false))
    }

    fn value(&mut self) -> Result<String, Fault> {
        match self.rest().chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote),
            _ => {
                let start = self.at;
                let line = &self.rest()[..self.line_length()];
                self.at += line.len();
                let line = line.split(" #").next().unwrap_or_default();
                self.expanded(line.trim_end(), start, line.len())
            }
        }
    }

    fn quoted(&mut self, quote: char) -> Result<String, Fault> {
        let start = self.at;
        let mut value = String::new();
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            if c == quote && !escaped {
                self.at += at + 1;
                if quote == '\'' {
                    return Ok(value);
                }
                return self.expanded(&unescaped(&value), start, at + 1);
            }
            if c == '\\' && !escaped {
                escaped = true;
                continue;
            }
            if escaped && c != quote {
                value.push('\\');
            }
            escaped = false;
            value.push(c);
        }
        Err(self.fault(start, self.line_length(), "this quoted value has no end".to_owned()))
    }

    fn expanded(&self, text: &str, start: usize, length: usize) -> Result<String, Fault> {
        let lookup = |name: &str| {
            (self.outer)(name).or_else(|| self.found.get(name).cloned()).or_else(|| (self.earlier)(name))
        };
        match substitute(text, &lookup) {
            Ok(done) => Ok(done.text),
            Err(fault @ interpolate::Fault::Format { .. }) => Err(self.fault(
                start,
                length,
                format!("{fault}; a `$` that is meant as such is written `$$`, or put in single quotes"),
            )),
            Err(fault) => Err(self.fault(start, length, fault.to_string())),
        }
    }

    fn fault(&self, at: usize, length: usize, message: String) -> Fault {
        let before = &self.text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
        let words = self.text[at..].chars().take(length).take_while(|c| *c != '\n').count();
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Fault { line: number(line), column: number(column), length: number(words.max(1)), message }
    }
}

fn count(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

/// The escapes of a double-quoted value; an unknown one stays as written. `\$` becomes `$$`, which the
/// substitution after it turns into `$`.
fn unescaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let mut used = 1;
        match after.bytes().next() {
            Some(b'n') => out.push('\n'),
            Some(b'r') => out.push('\r'),
            Some(b't') => out.push('\t'),
            Some(b'a') => out.push('\u{7}'),
            Some(b'b') => out.push('\u{8}'),
            Some(b'f') => out.push('\u{c}'),
            Some(b'v') => out.push('\u{b}'),
            Some(b'"') => out.push('"'),
            Some(b'\\') => out.push('\\'),
            Some(b'$') => out.push_str("$$"),
            Some(b'0') => {
                let digits = after[1..].bytes().take(3).take_while(|b| (b'0'..b'8').contains(b)).count();
                match u8::from_str_radix(&after[1..=digits], 8) {
                    Ok(byte) if digits == 3 => out.push(char::from(byte)),
                    _ => out.push_str(&rest[at..at + 2 + digits]),
                }
                used = 1 + digits;
            }
            _ => {
                out.push('\\');
                used = 0;
            }
        }
        rest = &after[used..];
    }
    out + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> String {
        let lookup = |name: &str| (name == "OUTER").then(|| "outer".to_owned());
        match parse(text, &lookup, &nothing) {
            Ok(found) => {
                found.iter().map(|(name, value)| format!("{name}={value:?}")).collect::<Vec<_>>().join(" ")
            }
            Err(fault) => format!("{}:{} {}", fault.line, fault.column, fault.message),
        }
    }

    #[test]
    fn every_form_of_a_line() {
        let table = [
            ("A=1\nB=2", r#"A="1" B="2""#),
            ("A: 1", r#"A="1""#),
            ("export A=1", r#"A="1""#),
            ("exporter=1", r#"exporter="1""#),
            ("A = 1 ", r#"A="1""#),
            ("A=", r#"A="""#),
            ("# note\n\n  A=1 # note", r#"A="1""#),
            ("A=x#y", r#"A="x#y""#),
            ("A='$B #x' # note", r#"A="$B #x""#),
            ("A=\"x #y\"", r#"A="x #y""#),
            ("A='it\\'s'", r#"A="it's""#),
            ("A=\"two\nlines\"\nB=1", "A=\"two\\nlines\" B=\"1\""),
            (r#"A="a\nb\t\"q\" \$x \q""#, r#"A="a\nb\t\"q\" $x \\q""#),
            (r#"A="\0101\\""#, r#"A="A\\""#),
            ("A=1\nB=${A}2", r#"A="1" B="12""#),
            ("B=$OUTER", r#"B="outer""#),
            ("B=${NONE:-d}", r#"B="d""#),
            ("OUTER\nNONE\n", r#"OUTER="outer""#),
            ("OUTER", r#"OUTER="outer""#),
            ("A=1\nA=2", r#"A="2""#),
            ("\u{feff}A=1\r\nB=2\r\n", r#"A="1" B="2""#),
            ("a.b-c[0]=1", r#"a.b-c[0]="1""#),
        ];
        for (text, expected) in table {
            assert_eq!(read(text), expected, "{text}");
        }
    }

    #[test]
    fn mistakes_have_line_and_column() {
        assert_eq!(read("A=1\nB b=2"), "2:1 the name `B b` has white space in it");
        assert_eq!(read("A=1\n\nB='x"), "3:3 this quoted value has no end");
        assert_eq!(read("A='it''s'"), "1:7 unexpected character `'` in the name of a variable");
        assert!(read("A=${").starts_with("1:3 invalid interpolation format `${`"));
    }

    #[test]
    fn raw_values_are_taken_as_they_stand() {
        let found = parse_raw("A='$x' # y\n#c\nB\nC=", &nothing).unwrap();
        assert_eq!(found.get("A").unwrap(), "'$x' # y");
        assert_eq!(found.keys().collect::<Vec<_>>(), ["A", "C"]);
    }
}
