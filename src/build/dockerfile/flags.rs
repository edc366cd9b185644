//! The `--name=value` words behind a keyword.

use std::ops::Range;

use super::{Mistake, Word, lex::Line, nearest};

/// Flags as written, each known to its instruction.
#[derive(Debug, Default)]
pub(super) struct Flags(Vec<(&'static str, Word)>);

impl Flags {
    pub(super) fn one(&mut self, name: &str) -> Option<Word> {
        let at = self.0.iter().position(|(known, _)| *known == name)?;
        Some(self.0.remove(at).1)
    }

    pub(super) fn all(&mut self, name: &str) -> Vec<Word> {
        let mut words = Vec::new();
        while let Some(word) = self.one(name) {
            words.push(word);
        }
        words
    }

    /// `--link`, `--link=true`, `--link=false`.
    pub(super) fn truth(&mut self, name: &str) -> Result<Option<bool>, Mistake> {
        let Some(word) = self.one(name) else { return Ok(None) };
        match word.text.as_str() {
            "true" | "" => Ok(Some(true)),
            "false" => Ok(Some(false)),
            other => {
                Err(Mistake::new(word.span, format!("expecting boolean value for flag {name}, not: {other}")))
            }
        }
    }
}

/// What an instruction takes: flags with a value, flags that may be repeated, truth values.
#[derive(Clone, Copy, Debug)]
pub(super) struct Known {
    pub(super) valued: &'static [&'static str],
    pub(super) repeated: &'static [&'static str],
    pub(super) truths: &'static [&'static str],
}

pub(super) const NONE: Known = Known { valued: &[], repeated: &[], truths: &[] };

/// Takes the flags off the front; what is left starts at the returned range.
pub(super) fn take(
    line: &Line,
    rest: Range<usize>,
    escape: char,
    known: Known,
) -> Result<(Flags, Range<usize>), Mistake> {
    let mut flags = Flags::default();
    let mut left = rest.clone();
    for range in super::words::quoted_ranges(&line.text, rest, escape) {
        let raw = &line.text[range.clone()];
        if !raw.starts_with("--") {
            break;
        }
        left.start = range.end;
        if raw == "--" {
            break;
        }
        add(&mut flags, &unquoted(raw, escape), line.span(range.start, range.end), known)?;
    }
    Ok((flags, super::words::trim(&line.text, left)))
}

fn add(flags: &mut Flags, text: &str, span: super::Span, known: Known) -> Result<(), Mistake> {
    let (name, value) = match text[2..].split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (&text[2..], None),
    };
    let find = |names: &[&'static str]| names.iter().copied().find(|known| *known == name);
    let (name, repeated, valued) = if let Some(name) = find(known.valued) {
        (name, false, true)
    } else if let Some(name) = find(known.repeated) {
        (name, true, true)
    } else if let Some(name) = find(known.truths) {
        (name, false, false)
    } else {
        let all = [known.valued, known.repeated, known.truths].concat();
        let mistake = Mistake::new(span, format!("unknown flag: --{name}"));
        return Err(match nearest(name, &all) {
            Some(near) => mistake.help(format!("did you mean --{near}?")),
            None if all.is_empty() => mistake.help("this instruction takes no flags"),
            None => mistake.help(format!("it takes --{}", all.join(", --"))),
        });
    };
    if valued && value.is_none() {
        return Err(Mistake::new(span, format!("missing a value on flag: {name}")));
    }
    if !repeated && flags.0.iter().any(|(earlier, _)| *earlier == name) {
        return Err(Mistake::new(span, format!("duplicate flag specified: {name}")));
    }
    flags.0.push((name, Word { text: value.unwrap_or_default().to_owned(), span }));
    Ok(())
}

/// Without quotes, and without the escapes that protected a character.
fn unquoted(raw: &str, escape: char) -> String {
    let mut text = String::new();
    let mut quote = None;
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        match quote {
            None if c == '\'' || c == '"' => quote = Some(c),
            Some(open) if c == open => quote = None,
            Some('\'') => text.push(c),
            _ if c == escape => text.extend(chars.next()),
            _ => text.push(c),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPY: Known = Known { valued: &["from", "chown"], repeated: &["exclude"], truths: &["link"] };

    fn flags(text: &str) -> Result<(Flags, String), String> {
        take(&Line::plain(text), 0..text.len(), '\\', COPY)
            .map(|(flags, rest)| (flags, text[rest].to_owned()))
            .map_err(|mistake| match mistake.help {
                Some(help) => format!("{}; {help}", mistake.message),
                None => mistake.message,
            })
    }

    #[test]
    fn flags_stand_in_front() {
        let (mut found, rest) = flags("--from=a --link --exclude='x y' --exclude=z  src --dst").unwrap();
        assert_eq!(rest, "src --dst");
        assert_eq!(found.one("from").unwrap().text, "a");
        assert_eq!(found.truth("link"), Ok(Some(true)));
        let all: Vec<_> = found.all("exclude").into_iter().map(|word| word.text).collect();
        assert_eq!(all, ["x y", "z"]);
        assert_eq!(flags("-- --from=a").unwrap().1, "--from=a");
    }

    #[test]
    fn a_wrong_flag_is_told() {
        assert_eq!(flags("--form=a x").unwrap_err(), "unknown flag: --form; did you mean --from?");
        assert_eq!(flags("--from x").unwrap_err(), "missing a value on flag: from");
        assert_eq!(flags("--from=a --from=b x").unwrap_err(), "duplicate flag specified: from");
        let (mut found, _) = flags("--link=maybe x").unwrap();
        assert!(found.truth("link").is_err());
    }
}
