//! Signals by name, as images and `stop_signal` write them.

const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// First and last real-time signal, as the C library of most images has them.
const REAL_TIME: std::ops::RangeInclusive<i32> = 34..=64;

/// `SIGTERM`, `term`, `15`, `SIGRTMIN+3`; `None` for what is no signal.
pub fn number(text: &str) -> Option<i32> {
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Ok(number) = name.parse::<i32>() {
        return ((1..=31).contains(&number) || REAL_TIME.contains(&number)).then_some(number);
    }
    let real_time = |number: i32| REAL_TIME.contains(&number).then_some(number);
    if let Some(above) = name.strip_prefix("RTMIN") {
        let above = if above.is_empty() { 0 } else { above.strip_prefix('+')?.parse().ok()? };
        return REAL_TIME.start().checked_add(above).and_then(real_time);
    }
    if let Some(below) = name.strip_prefix("RTMAX") {
        let below = if below.is_empty() { 0 } else { below.strip_prefix('-')?.parse().ok()? };
        return REAL_TIME.end().checked_sub(below).and_then(real_time);
    }
    let name = match name {
        "IOT" => "ABRT",
        "POLL" => "IO",
        "CLD" => "CHLD",
        name => name,
    };
    NAMES.iter().position(|known| *known == name).and_then(|at| i32::try_from(at + 1).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_mean_the_same() {
        for text in ["SIGTERM", "TERM", "term", "15"] {
            assert_eq!(number(text), Some(15), "{text}");
        }
        assert_eq!(number("SIGRTMIN+3"), Some(37));
        assert_eq!(number("RTMAX-1"), Some(63));
        assert_eq!(number("SIGSYS"), Some(31));
    }

    #[test]
    fn what_is_no_signal_is_none() {
        for text in ["", "SIG", "SIGFOO", "0", "65", "-1", "RTMIN+99", "RTMIN+2147483647", "RTMAX-x"] {
            assert_eq!(number(text), None, "{text}");
        }
    }
}
