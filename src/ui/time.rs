//! Points and spans of time as people and programs read them. UTC; the clock is the caller's.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A point in time, split up in UTC.
struct Civil {
    year: i64,
    month: u64,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    nanos: u32,
}

/// Howard Hinnant's `civil_from_days`, for times since 1970 (earlier ones show as 1970).
fn civil(time: SystemTime) -> Civil {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    Civil {
        year: i64::try_from(year).unwrap_or(i64::MAX),
        month,
        day: day_of_year - (153 * shifted + 2) / 5 + 1,
        hour: rest / 3_600,
        minute: rest / 60 % 60,
        second: rest % 60,
        nanos: since.subsec_nanos(),
    }
}

/// `2026-11-21T08:00:00.123456789Z`.
#[must_use]
pub fn rfc3339(time: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, nanos } = civil(time);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{nanos:09}Z")
}

/// `2026-11-21 08:00:00 +0000 UTC`, as `ps --format json` has it.
#[must_use]
pub fn readable(time: SystemTime) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = civil(time);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02} +0000 UTC")
}

/// `2 minutes`, in the words of `docker ps`.
#[must_use]
pub fn rough(span: Duration) -> String {
    let seconds = span.as_secs();
    let (minutes, hours) = (seconds / 60, (seconds + 1_800) / 3_600);
    match seconds {
        0 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3_600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

/// `0.2s`, `12.3s`, `3m20s`.
#[must_use]
pub fn short(span: Duration) -> String {
    if span < Duration::from_secs(60) {
        return format!("{:.1}s", span.as_secs_f64());
    }
    format!("{}m{:02}s", span.as_secs() / 60, span.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!(rfc3339(at(0)), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(at(951_782_399)), "2000-02-28T23:59:59.000000000Z");
        assert_eq!(rfc3339(at(951_782_400)), "2000-02-29T00:00:00.000000000Z");
        assert_eq!(readable(at(1_795_248_000)), "2026-11-21 08:00:00 +0000 UTC");
        assert_eq!(readable(at(1_798_761_599)), "2026-12-31 23:59:59 +0000 UTC");
    }

    #[test]
    fn spans_are_in_the_words_of_docker() {
        let rough = |seconds| rough(Duration::from_secs(seconds));
        assert_eq!(rough(0), "Less than a second");
        assert_eq!(rough(45), "45 seconds");
        assert_eq!(rough(61), "About a minute");
        assert_eq!(rough(600), "10 minutes");
        assert_eq!(rough(3_700), "About an hour");
        assert_eq!(rough(86_400), "24 hours");
        assert_eq!(rough(86_400 * 3), "3 days");
        assert_eq!(short(Duration::from_millis(240)), "0.2s");
        assert_eq!(short(Duration::from_secs(200)), "3m20s");
    }
}
