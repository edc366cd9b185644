//! Texts that stand for one value: sizes, durations, booleans, and commands as words.

use std::time::Duration;

/// Bytes of `64m`, `1.5GB`, `1073741824` or `-1`; units are powers of 1024.
#[must_use]
pub fn bytes(text: &str) -> Option<i128> {
    if let Ok(plain) = text.parse::<i64>() {
        return Some(plain.into());
    }
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let number: f64 = number.parse().ok().filter(|_| number.starts_with(|c: char| c.is_ascii_digit()))?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let power = match unit.strip_suffix('b').unwrap_or(unit) {
        "" => 0,
        "k" | "ki" => 1,
        "m" | "mi" => 2,
        "g" | "gi" => 3,
        "t" | "ti" => 4,
        "p" | "pi" => 5,
        _ => return None,
    };
    let value = number * 1024_f64.powi(power);
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    (value < 9.2e18).then_some(value as i128)
}

/// `yes` and `no` in all their spellings.
#[must_use]
pub fn flag(text: &str) -> Option<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "y" | "yes" | "on" | "1" => Some(true),
        "false" | "n" | "no" | "off" | "0" => Some(false),
        _ => None,
    }
}

/// Nanoseconds of `1h30m`, `1.5s`, `2w`, `0`.
#[must_use]
pub fn duration(text: &str) -> Option<i128> {
    let (sign, mut rest) = match text.as_bytes().first()? {
        b'-' => (-1.0, &text[1..]),
        b'+' => (1.0, &text[1..]),
        _ => (1.0, text),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut total = 0.0;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        let after = &rest[digits..];
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let scale = match &after[..unit] {
            "ns" => 1.0,
            "us" | "µs" | "μs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 6e10,
            "h" => 3.6e12,
            "d" => 8.64e13,
            "w" => 6.048e14,
            _ => return None,
        };
        total += number * scale;
        rest = &after[unit..];
    }
    #[expect(clippy::cast_possible_truncation, reason = "the range is checked")]
    (total < 9.2e18).then_some((sign * total).round() as i128)
}

/// The same, as the type; `None` for a negative one too.
#[must_use]
pub fn std_duration(text: &str) -> Option<Duration> {
    duration(text).and_then(|nanos| u64::try_from(nanos).ok()).map(Duration::from_nanos)
}

/// The canonical text of a duration: `1h0m0s`, `1m30s`, `1.5s`, `500ms`, `0s`.
#[must_use]
pub fn duration_text(nanos: i128) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let fraction = |value: u128, unit: u128| {
        let (whole, rest) = (value / unit, value % unit);
        if rest == 0 {
            return whole.to_string();
        }
        let digits = unit.ilog10() as usize;
        format!("{whole}.{}", format!("{rest:0digits$}").trim_end_matches('0'))
    };
    match nanos {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{nanos}ns"),
        1_000..1_000_000 => format!("{sign}{}µs", fraction(nanos, 1_000)),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", fraction(nanos, 1_000_000)),
        _ => {
            let minutes = nanos / 60_000_000_000;
            let seconds = fraction(nanos % 60_000_000_000, 1_000_000_000);
            match (minutes / 60, minutes % 60) {
                (0, 0) => format!("{sign}{seconds}s"),
                (0, minutes) => format!("{sign}{minutes}m{seconds}s"),
                (hours, minutes) => format!("{sign}{hours}h{minutes}m{seconds}s"),
            }
        }
    }
}

/// Why a command cannot be split into words.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WordsFault {
    #[error("a quote in this command is not closed")]
    Quote,
    #[error("this command uses `{0}`, which only a shell understands")]
    Shell(char),
}

/// Splits a command as a shell splits words: quotes and backslashes, nothing else. What comes after an
/// operator (`;`, `&`, `|`, `<`, `>`) outside quotes is told through `cut`, since no shell is there to
/// carry it out.
///
/// # Errors
/// An open quote, or a bracket outside quotes.
pub fn words(text: &str) -> Result<(Vec<String>, Option<char>), WordsFault> {
    let mut found = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some('\''), '\'') | (Some('"'), '"') => quote = None,
            (Some('\''), c) => word.get_or_insert_default().push(c),
            (_, '\\') => {
                if let Some(next) = chars.next() {
                    word.get_or_insert_default().push(next);
                }
            }
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, ' ' | '\t' | '\r' | '\n') => found.extend(word.take()),
            (None, ';' | '&' | '|' | '<' | '>') => {
                found.extend(word.take());
                return Ok((found, Some(c)));
            }
            (None, '(' | ')') => return Err(WordsFault::Shell(c)),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err(WordsFault::Quote);
    }
    found.extend(word);
    Ok((found, None))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        let table: [(&str, Option<i128>); 12] = [
            ("64m", Some(64 << 20)),
            ("1.5g", Some(3 << 29)),
            ("1GB", Some(1 << 30)),
            ("1 kib", Some(1024)),
            ("100", Some(100)),
            ("100b", Some(100)),
            ("-1", Some(-1)),
            ("", None),
            ("m", None),
            ("1x", None),
            ("1.2.3k", None),
            ("99999999p", None),
        ];
        for (text, expected) in table {
            assert_eq!(bytes(text), expected, "{text}");
        }
    }

    #[test]
    fn durations_read_and_print() {
        let table = [
            ("90s", Some("1m30s")),
            ("1h", Some("1h0m0s")),
            ("1d", Some("24h0m0s")),
            ("1.5s", Some("1.5s")),
            ("1h30m5s", Some("1h30m5s")),
            ("500ms", Some("500ms")),
            ("0", Some("0s")),
            ("10us", Some("10µs")),
            ("10", None),
            ("", None),
            ("s", None),
            ("1y", None),
        ];
        for (text, expected) in table {
            assert_eq!(duration(text).map(duration_text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn commands_are_split_as_a_shell_splits_words() {
        let split = |text: &str| words(text).map(|(words, cut)| format!("{words:?} {cut:?}"));
        assert_eq!(
            split(r#"sh -c 'a b' "c\"d" e\ f"#).unwrap(),
            r#"["sh", "-c", "a b", "c\"d", "e f"] None"#
        );
        assert_eq!(split("a '' b").unwrap(), r#"["a", "", "b"] None"#);
        assert_eq!(split("echo a && echo b").unwrap(), r#"["echo", "a"] Some('&')"#);
        assert_eq!(split("").unwrap(), "[] None");
        assert_eq!(split("a 'b").unwrap_err(), WordsFault::Quote);
    }
}
