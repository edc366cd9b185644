//! Replaces variables and takes quotes off, by the Dockerfile's rules: a word of a shell without
//! its commands, arithmetic and bracket patterns. Pure.

/// Where variables come from.
pub trait Variables {
    fn get(&self, name: &str) -> Option<String>;
}

impl<F: Fn(&str) -> Option<String>> Variables for F {
    fn get(&self, name: &str) -> Option<String> {
        self(name)
    }
}

/// What a word became.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expanded {
    pub text: String,
    /// The same, split at white space that was not quoted.
    pub words: Vec<String>,
    /// Names used as `$name` or `${name}` that nobody has set.
    pub undefined: Vec<String>,
}

/// Whether quotes are taken off, or are text (inside a heredoc).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quotes {
    Removed,
    Kept,
}

/// `escape` is the Dockerfile's escape character.
pub fn expand(
    text: &str,
    escape: char,
    quotes: Quotes,
    variables: &dyn Variables,
) -> Result<Expanded, String> {
    let mut reader = Reader {
        chars: text.chars().collect(),
        at: 0,
        escape,
        raw_escapes: false,
        quotes,
        depth: 0,
        variables,
        undefined: Vec::new(),
    };
    let (text, words) = reader.until(None)?;
    Ok(Expanded { text, words: words.finish(), undefined: reader.undefined })
}

const DEPTH: u32 = 64;

struct Reader<'a> {
    chars: Vec<char>,
    at: usize,
    escape: char,
    /// Inside a pattern escapes stay, since they protect its wildcards.
    raw_escapes: bool,
    quotes: Quotes,
    depth: u32,
    variables: &'a dyn Variables,
    undefined: Vec<String>,
}

/// Splits what is added at white space.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    open: Option<String>,
}

impl Words {
    fn add(&mut self, text: &str) {
        for c in text.chars() {
            if c.is_whitespace() {
                self.done.extend(self.open.take());
            } else {
                self.open.get_or_insert_default().push(c);
            }
        }
    }

    fn add_quoted(&mut self, text: &str) {
        self.open.get_or_insert_default().push_str(text);
    }

    fn finish(mut self) -> Vec<String> {
        self.done.extend(self.open);
        self.done
    }
}

impl Reader<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    /// Up to `stop` (which is taken), or to the end.
    fn until(&mut self, stop: Option<char>) -> Result<(String, Words), String> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.next() {
            if Some(c) == stop {
                return Ok((text, words));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    words.add(&value);
                    text.push_str(&value);
                }
                '\'' | '"' if self.quotes == Quotes::Removed => {
                    let value = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    words.add_quoted(&value);
                    text.push_str(&value);
                }
                _ if c == self.escape => {
                    let raw = if self.raw_escapes { String::from(c) } else { String::new() };
                    let Some(next) = self.next() else { break };
                    // In a heredoc only what would be replaced needs protection.
                    let kept = self.quotes == Quotes::Kept && next != '$' && next != self.escape;
                    let value = if kept { format!("{c}{next}") } else { format!("{raw}{next}") };
                    words.add_quoted(&value);
                    text.push_str(&value);
                }
                _ => {
                    words.add(c.encode_utf8(&mut [0; 4]));
                    text.push(c);
                }
            }
        }
        match stop {
            None => Ok((text, words)),
            Some('/') => Err("syntax error: missing '/' in ${}".into()),
            Some(_) => Err("syntax error: missing '}'".into()),
        }
    }

    fn single_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.next() {
                None => {
                    return Err("unexpected end of statement while looking for matching single-quote".into());
                }
                Some('\'') => return Ok(text),
                Some(c) => text.push(c),
            }
        }
    }

    fn double_quoted(&mut self) -> Result<String, String> {
        let mut text = String::new();
        loop {
            match self.next() {
                None => {
                    return Err("unexpected end of statement while looking for matching double-quote".into());
                }
                Some('"') => return Ok(text),
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) if c == self.escape => match self.peek() {
                    None => {}
                    Some(next) if next == '"' || next == '$' || next == self.escape => {
                        if self.raw_escapes {
                            text.push(c);
                        }
                        text.extend(self.next());
                    }
                    Some(_) => text.push(c),
                },
                Some(c) => text.push(c),
            }
        }
    }

    /// Behind a `$`.
    fn dollar(&mut self) -> Result<String, String> {
        if self.peek() != Some('{') {
            let name = self.name();
            return Ok(if name.is_empty() { "$".into() } else { self.plain(&name) });
        }
        self.at += 1;
        match self.peek() {
            None => return Err("syntax error: missing '}'".into()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".into()),
            _ => {}
        }
        self.depth += 1;
        if self.depth > DEPTH {
            return Err("syntax error: substitutions are nested too deep".into());
        }
        let value = self.braced();
        self.depth -= 1;
        value
    }

    fn plain(&mut self, name: &str) -> String {
        self.variables.get(name).unwrap_or_else(|| {
            self.undefined.push(name.to_owned());
            String::new()
        })
    }

    /// Behind `${`.
    fn braced(&mut self) -> Result<String, String> {
        let name = self.name();
        let (operator, colon) = match self.next() {
            None => return Err("syntax error: missing '}'".into()),
            Some('}') => return Ok(self.plain(&name)),
            Some(':') => (self.next().ok_or("syntax error: missing '}'")?, true),
            Some(c) => (c, false),
        };
        let unsupported = || {
            let colon = if colon { ":" } else { "" };
            Err(format!("unsupported modifier ({colon}{operator}) in substitution"))
        };
        match operator {
            '-' | '+' | '?' => {
                let word = self.operand('}', false)?;
                let value = self.variables.get(&name).filter(|value| !(colon && value.is_empty()));
                match (operator, value) {
                    ('-', value) => Ok(value.unwrap_or(word)),
                    ('+', value) => Ok(value.map_or_else(String::new, |_| word)),
                    (_, Some(value)) => Ok(value),
                    (_, None) if !word.is_empty() => Err(format!("{name}: {word}")),
                    (_, None) if colon => Err(format!("{name}: is not allowed to be empty")),
                    (_, None) => Err(format!("{name}: is not allowed to be unset")),
                }
            }
            '#' | '%' if !colon => {
                let word = self.operand('}', true)?;
                let longest = word.starts_with(operator);
                let pattern = pattern(if longest { &word[1..] } else { &word }, self.escape)?;
                let value = self.plain(&name);
                Ok(if operator == '#' {
                    without_prefix(&value, &pattern, longest)
                } else {
                    without_suffix(&value, pattern, longest)
                })
            }
            '/' if !colon => {
                let all = self.peek() == Some('/');
                if all {
                    self.at += 1;
                }
                let from = self.operand('/', true)?;
                let to = self.operand('}', false)?;
                let value = self.plain(&name);
                Ok(replaced(&value, &pattern(&from, self.escape)?, &to, all))
            }
            _ => unsupported(),
        }
    }

    fn operand(&mut self, stop: char, raw_escapes: bool) -> Result<String, String> {
        let before = std::mem::replace(&mut self.raw_escapes, raw_escapes);
        let text = self.until(Some(stop)).map(|(text, _)| text);
        self.raw_escapes = before;
        text
    }

    /// Letters, digits and `_`; or only digits; or one of the shell's special names.
    fn name(&mut self) -> String {
        let start = self.at;
        match self.peek() {
            Some(c) if c.is_ascii_digit() => self.skip(|c| c.is_ascii_digit()),
            Some('@' | '*' | '#' | '?' | '-' | '!' | '$') => self.at += 1,
            _ => self.skip(|c| c.is_alphanumeric() || c == '_'),
        }
        self.chars[start..self.at].iter().collect()
    }

    fn skip(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Part {
    One(char),
    Any,
    Many,
}

fn pattern(text: &str, escape: char) -> Result<Vec<Part>, String> {
    let mut parts = Vec::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Many,
            '?' => Part::Any,
            c if c == escape => Part::One(chars.next().ok_or(format!("invalid escape '{escape}'"))?),
            c => Part::One(c),
        });
    }
    Ok(parts)
}

/// Length of the shortest or longest start of `text` that matches, in characters.
fn prefix(text: &[char], pattern: &[Part], longest: bool) -> Option<usize> {
    let mut states = vec![false; pattern.len() + 1];
    states[0] = true;
    let mut best = None;
    for at in 0..=text.len() {
        for i in 0..pattern.len() {
            if states[i] && pattern[i] == Part::Many {
                states[i + 1] = true;
            }
        }
        if states[pattern.len()] {
            best = Some(at);
            if !longest {
                break;
            }
        }
        let Some(c) = text.get(at) else { break };
        let mut next = vec![false; states.len()];
        for i in 0..pattern.len() {
            match pattern[i] {
                _ if !states[i] => {}
                Part::Many => next[i] = true,
                Part::Any => next[i + 1] = true,
                Part::One(wanted) => next[i + 1] |= wanted == *c,
            }
        }
        states = next;
    }
    best
}

fn without_prefix(value: &str, pattern: &[Part], longest: bool) -> String {
    let chars: Vec<char> = value.chars().collect();
    chars[prefix(&chars, pattern, longest).unwrap_or(0)..].iter().collect()
}

fn without_suffix(value: &str, mut pattern: Vec<Part>, longest: bool) -> String {
    pattern.reverse();
    let chars: Vec<char> = value.chars().rev().collect();
    chars[prefix(&chars, &pattern, longest).unwrap_or(0)..].iter().rev().collect()
}

fn replaced(value: &str, pattern: &[Part], to: &str, all: bool) -> String {
    let chars: Vec<char> = value.chars().collect();
    let mut text = String::new();
    let mut at = 0;
    while at < chars.len() {
        match prefix(&chars[at..], pattern, true) {
            Some(length) if length > 0 => {
                text.push_str(to);
                at += length;
                if !all {
                    break;
                }
            }
            _ => {
                text.push(chars[at]);
                at += 1;
            }
        }
    }
    text.extend(&chars[at..]);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(name: &str) -> Option<String> {
        let table = [
            ("HOME", "/home/me"),
            ("EMPTY", ""),
            ("X", "x y"),
            ("FILE", "a.tar.gz"),
            ("PATHS", "/a/b/c"),
            ("STAR", "a*b*c"),
            ("KÖ", "umlaut"),
            ("a1_b", "mixed"),
            ("NAMES", "80 443"),
            ("LONG", "foofoobar"),
            ("KO", "ö"),
        ];
        table.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
    }

    fn word(text: &str) -> String {
        match expand(text, '\\', Quotes::Removed, &variables) {
            Ok(expanded) => expanded.text,
            Err(message) => format!("error: {message}"),
        }
    }

    #[test]
    fn words_are_read_as_a_shell_reads_them() {
        let table = [
            ("hello", "hello"),
            ("he'll'o", "hello"),
            ("he\"ll\"o", "hello"),
            ("'a b'\"c d\"", "a bc d"),
            ("hel\\lo", "hello"),
            ("hel\\\\lo", "hel\\lo"),
            ("hel\\'lo", "hel'lo"),
            ("end\\", "end"),
            ("'it\\s'", "it\\s"),
            ("\"a\\b\"", "a\\b"),
            ("\"a\\\"b\"", "a\"b"),
            ("\"a\\\\b\"", "a\\b"),
            ("\"a\\$HOME\"", "a$HOME"),
            ("'$HOME'", "$HOME"),
            ("\"$HOME\"", "/home/me"),
            ("\"'$HOME'\"", "'/home/me'"),
            ("\\$HOME", "$HOME"),
            ("$HOME", "/home/me"),
            ("$HOME/x", "/home/me/x"),
            ("${HOME}x", "/home/mex"),
            ("a$", "a$"),
            ("$$", ""),
            ("$ x", "$ x"),
            ("a$NOPE.b", "a.b"),
            ("${NOPE}", ""),
            ("$1a", "a"),
            ("${10}", ""),
            ("$KÖ", "umlaut"),
            ("$a1_b-", "mixed-"),
            ("''", ""),
            ("\"\"", ""),
            ("ü'ö'", "üö"),
            ("'open", "error: unexpected end of statement while looking for matching single-quote"),
            ("\"open", "error: unexpected end of statement while looking for matching double-quote"),
            ("\"open\\", "error: unexpected end of statement while looking for matching double-quote"),
        ];
        for (text, expected) in table {
            assert_eq!(word(text), expected, "{text}");
        }
    }

    #[test]
    fn operators_choose_by_set_and_empty() {
        let table = [
            ("${HOME:-w}", "/home/me"),
            ("${EMPTY:-w}", "w"),
            ("${NOPE:-w}", "w"),
            ("${HOME-w}", "/home/me"),
            ("${EMPTY-w}", ""),
            ("${NOPE-w}", "w"),
            ("${HOME:+w}", "w"),
            ("${EMPTY:+w}", ""),
            ("${NOPE:+w}", ""),
            ("${HOME+w}", "w"),
            ("${EMPTY+w}", "w"),
            ("${NOPE+w}", ""),
            ("${HOME?e}", "/home/me"),
            ("${HOME:?e}", "/home/me"),
            ("${EMPTY?e}", ""),
            ("${EMPTY:?e}", "error: EMPTY: e"),
            ("${NOPE?e}", "error: NOPE: e"),
            ("${NOPE?}", "error: NOPE: is not allowed to be unset"),
            ("${NOPE:?}", "error: NOPE: is not allowed to be empty"),
            ("${NOPE:-$HOME/x}", "/home/me/x"),
            ("${NOPE:-${NADA:-deep}}", "deep"),
            ("${NOPE:-'a}b'}", "a}b"),
            ("${NOPE:-\"$X\"}", "x y"),
            ("${NOPE:-a\\}b}", "a}b"),
            ("${NOPE:-}", ""),
            ("${HOME:+${X}}", "x y"),
            ("\"${NOPE:-a b}\"", "a b"),
        ];
        for (text, expected) in table {
            assert_eq!(word(text), expected, "{text}");
        }
    }

    /// Operator and word; what comes of a variable that is `/home/me`, of an empty one, and of none.
    #[test]
    fn every_operator_meets_every_state_and_word() {
        let home = "/home/me";
        let words = [
            ("w", "w"),
            ("", ""),
            ("a b", "a b"),
            ("'a b'", "a b"),
            ("\"a b\"", "a b"),
            ("'$HOME'", "$HOME"),
            ("\"$HOME\"", home),
            ("$HOME/x", "/home/me/x"),
            ("${X}", "x y"),
            ("${EMPTY:-${NADA-z}}", "z"),
            ("a\\}b", "a}b"),
            ("'}'", "}"),
            ("\\$HOME", "$HOME"),
            ("\\'", "'"),
            ("a:-b", "a:-b"),
            ("-", "-"),
            ("{", "{"),
            ("#/%", "#/%"),
            ("ü", "ü"),
            ("a'b'\"c\"d", "abcd"),
        ];
        for (written, comes_to) in words {
            let is_empty = "is not allowed to be empty";
            let is_unset = "is not allowed to be unset";
            let why = |name: &str, otherwise: &str| {
                format!("error: {name}: {}", if comes_to.is_empty() { otherwise } else { comes_to })
            };
            let table = [
                (":-", home.into(), comes_to.to_owned(), comes_to.to_owned()),
                ("-", home.into(), String::new(), comes_to.to_owned()),
                (":+", comes_to.to_owned(), String::new(), String::new()),
                ("+", comes_to.to_owned(), comes_to.to_owned(), String::new()),
                (":?", home.into(), why("EMPTY", is_empty), why("NOPE", is_empty)),
                ("?", home.into(), String::new(), why("NOPE", is_unset)),
            ];
            for (operator, set, empty, unset) in table {
                for (name, expected) in [("HOME", set), ("EMPTY", empty), ("NOPE", unset)] {
                    let text = format!("${{{name}{operator}{written}}}");
                    assert_eq!(word(&text), expected, "{text}");
                    // Quotes around it change nothing but the splitting; text around it stays.
                    let text = format!("<\"{text}\">");
                    let expected =
                        if expected.starts_with("error") { expected } else { format!("<{expected}>") };
                    assert_eq!(word(&text), expected, "{text}");
                }
            }
        }
    }

    #[test]
    fn names_end_where_they_must() {
        let table = [
            ("$HOME", "/home/me"),
            ("$HOME$HOME", "/home/me/home/me"),
            ("$HOME-x", "/home/me-x"),
            ("$HOME.x", "/home/me.x"),
            ("$HOME/x", "/home/me/x"),
            ("$HOME:x", "/home/me:x"),
            ("$HOME_x", ""),
            ("$HOMEx", ""),
            ("$HOME$", "/home/me$"),
            ("$HOME\\x", "/home/mex"),
            ("$HOME'x'", "/home/mex"),
            ("$HOME\"x\"", "/home/mex"),
            ("a$HOME", "a/home/me"),
            ("a${HOME}b${EMPTY}c${NOPE}d", "a/home/mebcd"),
            ("${HOME", "error: syntax error: missing '}'"),
            ("$1", ""),
            ("$12x", "x"),
            ("a$1b", "ab"),
            ("${1}b", "b"),
            ("$@x", "x"),
            ("$*x", "x"),
            ("$#x", "x"),
            ("$?x", "x"),
            ("$-x", "x"),
            ("$!x", "x"),
            ("$$x", "x"),
            ("$", "$"),
            ("$.", "$."),
            ("$ ", "$ "),
            ("$=", "$="),
            ("$'a'", "$a"),
            ("$\"a\"", "$a"),
            ("$/", "$/"),
            ("\\$", "$"),
            ("\\${HOME}", "${HOME}"),
            ("\\\\$HOME", "\\/home/me"),
            ("\\\\\\$HOME", "\\$HOME"),
            ("'\\$HOME'", "\\$HOME"),
            ("\"\\\\$HOME\"", "\\/home/me"),
            ("'${'", "${"),
            ("\"${HOME}\"", "/home/me"),
            ("\"a'$HOME'b\"", "a'/home/me'b"),
            ("'a\"$HOME\"b'", "a\"$HOME\"b"),
            ("\"\"$HOME\"\"", "/home/me"),
            ("\"a\\nb\"", "a\\nb"),
            ("a\\nb", "anb"),
            ("a\\ b", "a b"),
            ("\\\"a\\\"", "\"a\""),
            ("'a'\\''b'", "a'b"),
            ("   a  b ", "   a  b "),
            ("a\tb", "a\tb"),
        ];
        for (text, expected) in table {
            assert_eq!(word(text), expected, "{text}");
        }
    }

    /// The four cuts of one pattern: shortest and longest from the front, then from the end.
    #[test]
    fn every_cut_of_every_pattern() {
        let table = [
            // Of `a.tar.gz`.
            ("FILE", "a", [".tar.gz", ".tar.gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "gz", ["a.tar.gz", "a.tar.gz", "a.tar.", "a.tar."]),
            ("FILE", "a.tar.gz", ["", "", "", ""]),
            ("FILE", "a.tar.gzz", ["a.tar.gz", "a.tar.gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "", ["a.tar.gz", "a.tar.gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "*", ["a.tar.gz", "", "a.tar.gz", ""]),
            ("FILE", "?", [".tar.gz", ".tar.gz", "a.tar.g", "a.tar.g"]),
            ("FILE", "??", ["tar.gz", "tar.gz", "a.tar.", "a.tar."]),
            ("FILE", "*.", ["tar.gz", "gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", ".*", ["a.tar.gz", "a.tar.gz", "a.tar", "a"]),
            ("FILE", "a*r", [".gz", ".gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "*a", [".tar.gz", "r.gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "?.*", ["tar.gz", "", "a.ta", ""]),
            ("FILE", "'a'", [".tar.gz", ".tar.gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "\"a.\"", ["tar.gz", "tar.gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "\\a", [".tar.gz", ".tar.gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "\\*", ["a.tar.gz", "a.tar.gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "${NOPE:-a.}", ["tar.gz", "tar.gz", "a.tar.gz", "a.tar.gz"]),
            ("FILE", "$NOPE", ["a.tar.gz", "a.tar.gz", "a.tar.gz", "a.tar.gz"]),
            // Of `a*b*c`.
            ("STAR", "a\\*", ["b*c", "b*c", "a*b*c", "a*b*c"]),
            ("STAR", "\\*c", ["a*b*c", "a*b*c", "a*b", "a*b"]),
            ("STAR", "*\\*", ["b*c", "c", "a*b*c", "a*b*c"]),
            ("STAR", "\\**", ["a*b*c", "a*b*c", "a*b", "a"]),
            // Of `/a/b/c`.
            ("PATHS", "/", ["a/b/c", "a/b/c", "/a/b/c", "/a/b/c"]),
            ("PATHS", "*/", ["a/b/c", "c", "/a/b/c", "/a/b/c"]),
            ("PATHS", "/*", ["a/b/c", "", "/a/b", ""]),
            ("PATHS", "/?/", ["b/c", "b/c", "/a/b/c", "/a/b/c"]),
            // Of nothing.
            ("EMPTY", "*", ["", "", "", ""]),
            ("NOPE", "?", ["", "", "", ""]),
            // Of what has more bytes than letters.
            ("KO", "?", ["", "", "", ""]),
        ];
        for (name, pattern, expected) in table {
            for (operator, expected) in ["#", "##", "%", "%%"].into_iter().zip(expected) {
                let text = format!("${{{name}{operator}{pattern}}}");
                assert_eq!(word(&text), expected, "{text}");
            }
        }
    }

    /// What one and what all replacements come to.
    #[test]
    fn every_replacement_once_and_everywhere() {
        let table = [
            ("LONG", "foo", "x", ["xfoobar", "xxbar"]),
            ("LONG", "foo", "", ["foobar", "bar"]),
            ("LONG", "o", "0", ["f0ofoobar", "f00f00bar"]),
            ("LONG", "nope", "x", ["foofoobar", "foofoobar"]),
            ("LONG", "foofoobar", "x", ["x", "x"]),
            ("LONG", "*", "x", ["x", "x"]),
            ("LONG", "f*o", "x", ["xbar", "xbar"]),
            ("LONG", "f?", "x", ["xofoobar", "xoxobar"]),
            ("LONG", "?", "x", ["xoofoobar", "xxxxxxxxx"]),
            ("LONG", "bar", "'b }'", ["foofoob }", "foofoob }"]),
            ("LONG", "bar", "\\}", ["foofoo}", "foofoo}"]),
            ("LONG", "bar", "$HOME", ["foofoo/home/me", "foofoo/home/me"]),
            ("LONG", "bar", "${NOPE:-x}", ["foofoox", "foofoox"]),
            ("LONG", "$NOPE", "x", ["foofoobar", "foofoobar"]),
            ("LONG", "${NOPE:-foo}", "x", ["xfoobar", "xxbar"]),
            ("LONG", "'foo'", "x", ["xfoobar", "xxbar"]),
            ("PATHS", "\\/", ".", [".a/b/c", ".a.b.c"]),
            ("PATHS", "\\/*\\/", ".", [".c", ".c"]),
            ("PATHS", "a", "/", ["///b/c", "///b/c"]),
            ("STAR", "\\*", "+", ["a+b*c", "a+b+c"]),
            ("STAR", "\\?", "+", ["a*b*c", "a*b*c"]),
            ("X", " ", "_", ["x_y", "x_y"]),
            ("EMPTY", "a", "x", ["", ""]),
            ("NOPE", "a", "x", ["", ""]),
        ];
        for (name, from, to, expected) in table {
            for (operator, expected) in ["/", "//"].into_iter().zip(expected) {
                let text = format!("${{{name}{operator}{from}/{to}}}");
                assert_eq!(word(&text), expected, "{text}");
            }
        }
    }

    #[test]
    fn patterns_cut_and_replace() {
        let table = [
            ("${FILE#*.}", "tar.gz"),
            ("${FILE##*.}", "gz"),
            ("${FILE%.*}", "a.tar"),
            ("${FILE%%.*}", "a"),
            ("${PATHS#/*/}", "b/c"),
            ("${PATHS##*/}", "c"),
            ("${PATHS%/*}", "/a/b"),
            ("${PATHS%%/*}", ""),
            ("${FILE#x}", "a.tar.gz"),
            ("${FILE%?}", "a.tar.g"),
            ("${FILE#?}", ".tar.gz"),
            ("${FILE%$X}", "a.tar.gz"),
            ("${FILE%.$NOPE}", "a.tar.gz"),
            ("${STAR#a\\*}", "b*c"),
            ("${STAR##*\\*}", "c"),
            ("${EMPTY#*}", ""),
            ("${LONG/foo/x}", "xfoobar"),
            ("${LONG//foo/x}", "xxbar"),
            ("${LONG/o*b/-}", "f-ar"),
            ("${LONG//o/}", "ffbar"),
            ("${PATHS//\\//.}", ".a.b.c"),
            ("${LONG/nope/x}", "foofoobar"),
            ("${LONG/?/_}", "_oofoobar"),
            ("${LONG//foo/$HOME}", "/home/me/home/mebar"),
            ("${NOPE/a/b}", ""),
        ];
        for (text, expected) in table {
            assert_eq!(word(text), expected, "{text}");
        }
    }

    #[test]
    fn what_is_no_substitution_is_an_error() {
        let table = [
            ("${", "syntax error: missing '}'"),
            ("${HOME", "syntax error: missing '}'"),
            ("${HOME:", "syntax error: missing '}'"),
            ("${HOME:-x", "syntax error: missing '}'"),
            ("${}", "syntax error: bad substitution"),
            ("${:x}", "syntax error: bad substitution"),
            ("${{x}}", "syntax error: bad substitution"),
            ("${HOME:=x}", "unsupported modifier (:=) in substitution"),
            ("${HOME=x}", "unsupported modifier (=) in substitution"),
            ("${HOME:#x}", "unsupported modifier (:#) in substitution"),
            ("${HOME^}", "unsupported modifier (^) in substitution"),
            ("${FILE/a}", "syntax error: missing '/' in ${}"),
            ("${FILE/a/b", "syntax error: missing '}'"),
        ];
        for (text, message) in table {
            assert_eq!(word(text), format!("error: {message}"), "{text}");
        }
        let deep = "${a:-".repeat(100_000);
        assert_eq!(word(&deep), "error: syntax error: substitutions are nested too deep");
    }

    #[test]
    fn unquoted_white_space_splits_words() {
        let words = |text: &str| expand(text, '\\', Quotes::Removed, &variables).unwrap().words;
        assert_eq!(words("a b  c"), ["a", "b", "c"]);
        assert_eq!(words("$NAMES/tcp"), ["80", "443/tcp"]);
        assert_eq!(words("\"$NAMES\" 'x y'z"), ["80 443", "x yz"]);
        assert_eq!(words("a\\ b ''"), ["a b", ""]);
        assert_eq!(words("$NOPE"), Vec::<String>::new());
        let table: &[(&str, &[&str])] = &[
            ("", &[]),
            ("  ", &[]),
            ("a", &["a"]),
            (" a\tb\nc ", &["a", "b", "c"]),
            ("''", &[""]),
            ("'' \"\"", &["", ""]),
            ("a''b", &["ab"]),
            ("'a'b\"c\" d", &["abc", "d"]),
            ("'a b' c", &["a b", "c"]),
            ("\"a  b\"", &["a  b"]),
            ("'a'  'b'", &["a", "b"]),
            ("a\\ b c", &["a b", "c"]),
            ("\\'a b\\'", &["'a", "b'"]),
            ("$X", &["x", "y"]),
            ("a$X", &["ax", "y"]),
            ("${X}b", &["x", "yb"]),
            ("\"$X\"", &["x y"]),
            ("'$X'", &["$X"]),
            ("$X$X", &["x", "yx", "y"]),
            ("$X\"$X\"", &["x", "yx y"]),
            ("\"$EMPTY\"", &[""]),
            ("$EMPTY", &[]),
            ("a$EMPTY", &["a"]),
            ("$EMPTY a", &["a"]),
            ("${NOPE:-a b}", &["a", "b"]),
            ("\"${NOPE:-a b}\"", &["a b"]),
            ("${X:+c d}", &["c", "d"]),
            ("${X#x }", &["y"]),
            ("${X/ /  }", &["x", "y"]),
            ("${X// /}", &["xy"]),
            ("80 $NAMES/udp", &["80", "80", "443/udp"]),
        ];
        for (text, expected) in table {
            assert_eq!(words(text), *expected, "{text:?}");
        }
    }

    #[test]
    fn another_escape_character_leaves_backslashes_alone() {
        let word = |text: &str| expand(text, '`', Quotes::Removed, &variables).unwrap().text;
        assert_eq!(word(r"C:\dir\`$x$HOME"), r"C:\dir\$x/home/me");
        assert_eq!(word("a``b"), "a`b");
    }

    #[test]
    fn heredocs_keep_their_quotes() {
        let text = expand("it's \"$HOME\" \\$HOME \\n", '\\', Quotes::Kept, &variables).unwrap().text;
        assert_eq!(text, "it's \"/home/me\" $HOME \\n");
    }

    #[test]
    fn undefined_names_are_reported_unless_a_default_is_given() {
        let undefined = |text: &str| expand(text, '\\', Quotes::Removed, &variables).unwrap().undefined;
        assert_eq!(undefined("$A ${B} ${C:-x} ${D+y} $HOME"), ["A", "B"]);
    }
}
