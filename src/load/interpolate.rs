//! `${VARIABLE}` in text: `$V ${V} ${V:-d} ${V-d} ${V:?e} ${V?e} ${V:+a} ${V+a}`, nested, and `$$`.
//! Knows nothing of YAML.

use std::ops::Range;

/// Deepest nesting of `${A:-${B:-...}}`.
const MAX_NESTING: usize = 32;
/// Longest text that comes out, in bytes.
pub const MAX_RESULT: usize = 4 << 20;

/// What came of a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Substituted {
    pub text: String,
    /// Variables that were blank because nobody set them, with where they stand in the input.
    pub unset: Vec<(String, Range<usize>)>,
    /// Variables that were asked for, set or not.
    pub used: Vec<String>,
}

/// Why a text cannot be substituted, and the bytes of the input that are the cause.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("invalid interpolation format `{text}`")]
    Format { text: String, at: Range<usize> },
    #[error("required variable `{name}` is missing a value{}", if message.is_empty() { String::new() } else { format!(": {message}") })]
    Required { name: String, message: String, at: Range<usize> },
    #[error("with its variables this is longer than {} MiB", MAX_RESULT >> 20)]
    TooLong { at: Range<usize> },
}

impl Fault {
    #[must_use]
    pub fn at(&self) -> Range<usize> {
        match self {
            Self::Format { at, .. } | Self::Required { at, .. } | Self::TooLong { at } => at.clone(),
        }
    }
}

/// Replaces every variable of `text`.
///
/// # Errors
/// The first malformed use, or a `?` variable without a value.
pub fn substitute(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Substituted, Fault> {
    let mut out = Substituted::default();
    out.text = walk(text, 0, 0, lookup, &mut out, Use::Wanted)?;
    Ok(out)
}

/// Every variable that a text names, with its default where it has one: for `config --variables`.
#[must_use]
pub fn variables(text: &str) -> Vec<Variable> {
    let mut found = Vec::new();
    collect(text, 0, &mut found);
    found
}

/// One use of a variable.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Variable {
    pub name: String,
    pub required: bool,
    pub default: String,
    pub alternative: String,
}

fn collect(text: &str, depth: usize, found: &mut Vec<Variable>) {
    if depth >= MAX_NESTING {
        return;
    }
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let after = &rest[at + 1..];
        let name = name_length(after);
        if let Some(escaped) = after.strip_prefix('$') {
            rest = escaped;
        } else if name > 0 {
            found.push(Variable { name: after[..name].to_owned(), ..Variable::default() });
            rest = &after[name..];
        } else if let Some(end) = after.starts_with('{').then(|| closing(after)).flatten() {
            let (name, operator, word) = Operator::split(&after[1..end]);
            let mut variable = Variable { name: name.to_owned(), ..Variable::default() };
            match operator {
                Some(Operator { kind: Kind::Default, .. }) => word.clone_into(&mut variable.default),
                Some(Operator { kind: Kind::Require, .. }) => variable.required = true,
                Some(Operator { kind: Kind::Replace, .. }) => word.clone_into(&mut variable.alternative),
                None => {}
            }
            found.push(variable);
            collect(word, depth + 1, found);
            rest = &after[end + 1..];
        } else {
            rest = after;
        }
    }
}

/// Whether the value of this part of the text is needed; what is not needed must still be well formed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Wanted,
    Checked,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Default,
    Require,
    Replace,
}

#[derive(Clone, Copy)]
struct Operator {
    kind: Kind,
    /// With the colon an empty value counts as unset.
    colon: bool,
}

impl Operator {
    /// `NAME:-word` to its three parts; the name is the longest valid one.
    fn split(inner: &str) -> (&str, Option<Self>, &str) {
        let (name, rest) = inner.split_at(name_length(inner));
        let (colon, sign) = rest.strip_prefix(':').map_or((false, rest), |sign| (true, sign));
        let kind = match sign.bytes().next() {
            Some(b'-') => Kind::Default,
            Some(b'?') => Kind::Require,
            Some(b'+') => Kind::Replace,
            _ => return (name, None, rest),
        };
        (name, Some(Self { kind, colon }), &sign[1..])
    }
}

fn name_length(text: &str) -> usize {
    let first = |b: u8| b == b'_' || b.is_ascii_alphabetic();
    if !text.bytes().next().is_some_and(first) {
        return 0;
    }
    text.bytes().position(|b| !(first(b) || b.is_ascii_digit())).unwrap_or(text.len())
}

/// Index of the brace that closes the one `text` begins with; only `${` opens another.
fn closing(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let (mut open, mut at) = (1, 1);
    while at < bytes.len() {
        match bytes[at] {
            b'}' => open -= 1,
            b'$' if bytes.get(at + 1) == Some(&b'{') => {
                open += 1;
                at += 1;
            }
            _ => {}
        }
        if open == 0 {
            return Some(at);
        }
        at += 1;
    }
    None
}

fn walk(
    text: &str,
    offset: usize,
    depth: usize,
    lookup: &dyn Fn(&str) -> Option<String>,
    out: &mut Substituted,
    need: Use,
) -> Result<String, Fault> {
    let mut result = String::with_capacity(text.len());
    let mut at = 0;
    while let Some(dollar) = text[at..].find('$').map(|found| found + at) {
        result.push_str(&text[at..dollar]);
        if result.len() > MAX_RESULT {
            return Err(Fault::TooLong { at: offset..offset + text.len() });
        }
        let after = &text[dollar + 1..];
        let name = name_length(after);
        if after.starts_with('$') {
            result.push('$');
            at = dollar + 2;
        } else if name > 0 {
            at = dollar + 1 + name;
            let place = offset + dollar..offset + at;
            result.push_str(&plain(&after[..name], place, lookup, out, need));
        } else {
            if !after.starts_with('{') {
                // A dollar before anything else is a dollar.
                result.push('$');
                at = dollar + 1;
                continue;
            }
            let malformed = |length: usize| Fault::Format {
                text: text[dollar..dollar + length].to_owned(),
                at: offset + dollar..offset + dollar + length,
            };
            let Some(end) = closing(after).filter(|_| depth < MAX_NESTING) else {
                return Err(malformed(text.len() - dollar));
            };
            let inner = &after[1..end];
            at = dollar + 1 + end + 1;
            let (name, operator, word) = Operator::split(inner);
            if name.is_empty() || (operator.is_none() && !word.is_empty()) {
                return Err(malformed(at - dollar));
            }
            let place = offset + dollar..offset + at;
            let Some(operator) = operator else {
                result.push_str(&plain(name, place, lookup, out, need));
                continue;
            };
            let value = lookup(name);
            out.used.push(name.to_owned());
            let set = value.as_ref().is_some_and(|value| !(operator.colon && value.is_empty()));
            let word_wanted = need == Use::Wanted && (set == (operator.kind == Kind::Replace));
            let word_need = if word_wanted { Use::Wanted } else { Use::Checked };
            let word_at = offset + dollar + 2 + (inner.len() - word.len());
            let word = walk(word, word_at, depth + 1, lookup, out, word_need)?;
            match operator.kind {
                Kind::Default if !set => result.push_str(&word),
                Kind::Replace if set => result.push_str(&word),
                Kind::Require if !set && need == Use::Wanted => {
                    return Err(Fault::Required { name: name.to_owned(), message: word, at: place });
                }
                _ => result.push_str(value.as_deref().unwrap_or_default()),
            }
        }
    }
    result.push_str(&text[at..]);
    if result.len() > MAX_RESULT.max(text.len()) {
        return Err(Fault::TooLong { at: offset..offset + text.len() });
    }
    Ok(result)
}

fn plain(
    name: &str,
    at: Range<usize>,
    lookup: &dyn Fn(&str) -> Option<String>,
    out: &mut Substituted,
    need: Use,
) -> String {
    out.used.push(name.to_owned());
    let value = lookup(name);
    if value.is_none() && need == Use::Wanted {
        out.unset.push((name.to_owned(), at));
    }
    value.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn substituted(text: &str) -> String {
        let lookup = |name: &str| match name {
            "SET" => Some("value".to_owned()),
            "OTHER" => Some("other".to_owned()),
            "EMPTY" => Some(String::new()),
            _ => None,
        };
        match substitute(text, &lookup) {
            Ok(done) if done.unset.is_empty() => done.text,
            Ok(done) => {
                let names: Vec<_> = done.unset.iter().map(|(name, _)| name.as_str()).collect();
                format!("{} (unset: {})", done.text, names.join(" "))
            }
            Err(fault) => format!("{:?} {fault}", fault.at()),
        }
    }

    #[test]
    fn every_operator_in_every_state() {
        let table = [
            ("$SET", "value"),
            ("${SET}", "value"),
            ("a${SET}b$OTHER.c", "avaluebother.c"),
            ("$NONE", " (unset: NONE)"),
            ("${NONE}x", "x (unset: NONE)"),
            ("${SET:-d}|${EMPTY:-d}|${NONE:-d}", "value|d|d"),
            ("${SET-d}|${EMPTY-d}|${NONE-d}", "value||d"),
            ("${SET:+a}|${EMPTY:+a}|${NONE:+a}", "a||"),
            ("${SET+a}|${EMPTY+a}|${NONE+a}", "a|a|"),
            ("${SET:?e}|${SET?e}|${EMPTY?e}", "value|value|"),
            ("${EMPTY:?gone}", "0..14 required variable `EMPTY` is missing a value: gone"),
            ("x ${NONE?}", "2..10 required variable `NONE` is missing a value"),
            ("${NONE:-}", ""),
            ("${NONE:--}", "-"),
            ("${NONE:-:?}", ":?"),
            ("${set}", " (unset: set)"),
        ];
        for (text, expected) in table {
            assert_eq!(substituted(text), expected, "{text}");
        }
    }

    #[test]
    fn defaults_nest_and_unneeded_ones_stay_silent() {
        assert_eq!(substituted("${NONE:-${SET}}"), "value");
        assert_eq!(substituted("${NONE:-a${NONE:-b${NONE:-c}}}"), "abc");
        assert_eq!(substituted("${SET:-${NONE:?unneeded}}"), "value");
        assert_eq!(substituted("${SET:-$NONE}"), "value");
        assert_eq!(substituted("${NONE:-$NONE}"), " (unset: NONE)");
        assert_eq!(substituted("${NONE:-{\"a\":1}}"), "{\"a\":1}");
    }

    #[test]
    fn a_doubled_dollar_is_a_dollar() {
        assert_eq!(substituted("$$SET $${SET} $$$SET"), "$SET ${SET} $value");
        assert_eq!(substituted("$${"), "${");
        assert_eq!(substituted("5$ $1 $-"), "5$ $1 $-");
        assert_eq!(substituted("${NONE:-$2a$}"), "$2a$ (unset: a)".replace("$2a$ (unset: a)", "$2a$"));
    }

    #[test]
    fn what_is_malformed_is_marked() {
        assert_eq!(substituted("${}"), "0..3 invalid interpolation format `${}`");
        assert_eq!(substituted("a ${A }"), "2..7 invalid interpolation format `${A }`");
        assert_eq!(substituted("${A:}"), "0..5 invalid interpolation format `${A:}`");
        assert_eq!(substituted("${-x}"), "0..5 invalid interpolation format `${-x}`");
        assert_eq!(substituted("${1}"), "0..4 invalid interpolation format `${1}`");
        assert_eq!(substituted("${UNSET:-${A}"), "0..13 invalid interpolation format `${UNSET:-${A}`");
        assert_eq!(substituted("${SET:-${}}"), "7..10 invalid interpolation format `${}`");
    }

    #[test]
    fn nesting_is_bounded() {
        let text = format!("{}{}", "${A:-".repeat(5_000), "}".repeat(5_000));
        assert!(substituted(&text).contains("invalid interpolation format"));
    }
}
