//! Points and spans of time as they are typed: `10m`, `1h30m`, `2026-11-21T08:00:00Z`, seconds since 1970.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time: a date, seconds since 1970, or a span before `now`.
///
/// # Errors
/// What is none of these.
pub(super) fn point(text: &str, now: SystemTime) -> Result<SystemTime, String> {
    let seconds = text.parse::<f64>().ok().filter(|s| s.is_finite() && *s >= 0.0);
    let found = if let Some(seconds) = seconds {
        Duration::try_from_secs_f64(seconds).ok().and_then(|since| UNIX_EPOCH.checked_add(since))
    } else if let Some(span) = span(text) {
        now.checked_sub(span)
    } else {
        date(text)
    };
    found.ok_or_else(|| {
        format!("`{text}` is no time: expected a date (2026-11-21T08:00:00Z), a span (10m, 1h30m) or seconds since 1970")
    })
}

/// `1h30m`, `90s`, `1.5h`, `200ms`.
pub(super) fn span(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut sum = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !(c.is_ascii_digit() || c == '.'))?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let seconds = match &rest[..unit] {
            "h" => 3_600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 0.001,
            "us" | "µs" => 0.000_001,
            "ns" => 0.000_000_001,
            _ => return None,
        };
        rest = &rest[unit..];
        sum = sum.checked_add(Duration::try_from_secs_f64(number * seconds).ok()?)?;
    }
    (!text.is_empty()).then_some(sum)
}

/// `2026-11-21[T08:00[:00[.5]]][Z|+01:00]`; UTC without a zone.
fn date(text: &str) -> Option<SystemTime> {
    let (day, clock) = match text.split_once(['T', ' ']) {
        Some((day, clock)) => (day, clock),
        None => (text.trim_end_matches('Z'), ""),
    };
    let mut fields = day.splitn(3, '-').map(|field| field.parse::<i64>().ok());
    let (year, month, day) = (fields.next()??, fields.next()??, fields.next()??);
    if !(1970..=9999).contains(&year) || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, offset) = zone(clock)?;
    let mut parts = clock.split(':');
    let number = |part: Option<&str>| match part {
        None | Some("") => Some(0.0),
        Some(part) => part.parse::<f64>().ok(),
    };
    let (hour, minute, second) = (number(parts.next())?, number(parts.next())?, number(parts.next())?);
    if parts.next().is_some()
        || !(0.0..24.0).contains(&hour)
        || !(0.0..60.0).contains(&minute)
        || !(0.0..61.0).contains(&second)
    {
        return None;
    }
    let midnight =
        UNIX_EPOCH.checked_add(Duration::from_secs(days(year, month, day)?.checked_mul(86_400)?))?;
    let clock = Duration::try_from_secs_f64(hour * 3_600.0 + minute * 60.0 + second).ok()?;
    let local = midnight.checked_add(clock)?;
    if offset >= 0 {
        local.checked_sub(Duration::from_secs(offset.unsigned_abs()))
    } else {
        local.checked_add(Duration::from_secs(offset.unsigned_abs()))
    }
}

/// The clock without its zone, and the zone's seconds east of Greenwich.
fn zone(clock: &str) -> Option<(&str, i64)> {
    if let Some(clock) = clock.strip_suffix('Z') {
        return Some((clock, 0));
    }
    let Some(at) = clock.find(['+', '-']) else { return Some((clock, 0)) };
    let (hours, minutes) = clock[at + 1..].split_once(':')?;
    let seconds = hours.parse::<i64>().ok()? * 3_600 + minutes.parse::<i64>().ok()? * 60;
    Some((&clock[..at], if clock[at..].starts_with('-') { -seconds } else { seconds }))
}

/// Days from 1970-01-01, by Howard Hinnant's `days_from_civil`.
fn days(year: i64, month: i64, day: i64) -> Option<u64> {
    let year = year - i64::from(month <= 2);
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    u64::try_from(era * 146_097 + day_of_era - 719_468).ok()
}

/// Whole seconds, as `--timeout` takes them.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    text.parse().map(Duration::from_secs).map_err(|_| "expected a number of seconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Option<u64> {
        let now = UNIX_EPOCH + Duration::from_secs(10_000);
        Some(point(text, now).ok()?.duration_since(UNIX_EPOCH).unwrap().as_secs())
    }

    #[test]
    fn every_way_of_saying_when() {
        assert_eq!(at("42"), Some(42));
        assert_eq!(at("10m"), Some(9_400));
        assert_eq!(at("1h30m"), Some(4_600));
        assert_eq!(at("1970-01-02"), Some(86_400));
        assert_eq!(at("2026-11-21T08:00:00Z"), Some(1_795_248_000));
        assert_eq!(at("2026-11-21T09:00:00+01:00"), Some(1_795_248_000));
        assert_eq!(at("2000-02-29T00:00"), Some(951_782_400));
    }

    #[test]
    fn nonsense_is_told() {
        for text in ["", "yesterday", "10x", "2026-13-01", "2026-11-21T25:00", "1e400", "-5"] {
            assert!(at(text).is_none(), "{text}");
        }
    }

    #[test]
    fn spans_add_up() {
        assert_eq!(span("1h2m3s"), Some(Duration::from_secs(3_723)));
        assert_eq!(span("1.5s"), Some(Duration::from_millis(1_500)));
        assert_eq!(span("5"), None);
    }
}
