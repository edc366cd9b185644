//! How long to wait before a request is sent again, and when to give up.

use std::{
    hash::{BuildHasher, RandomState},
    time::{Duration, SystemTime},
};

use hyper::{
    Response,
    body::Incoming,
    header::{self, HeaderMap},
};

use super::{
    client::{Fault, said},
    http::Http,
};

/// Failures in a row, without a byte of progress between them.
pub(super) const TRIES: u32 = 5;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A registry that wants us to wait longer is told of instead.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Failures so far.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
}

impl Patience {
    pub(super) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// There was progress: what failed before counts no more.
    pub(super) fn renew(&mut self) {
        self.failures = 0;
    }

    /// Waits a little longer each time.
    ///
    /// # Errors
    /// `why`, once too often.
    pub(super) async fn wait(&mut self, http: &Http, why: String) -> Result<(), Fault> {
        self.failures += 1;
        if self.failures >= TRIES {
            return Err(Fault::Unreachable(why));
        }
        http.pause(pause(self.failures)).await;
        Ok(())
    }

    /// The same after an answer that may say how long.
    pub(super) async fn wait_as_told(
        &mut self,
        http: &Http,
        response: Response<Incoming>,
    ) -> Result<(), Fault> {
        let status = response.status();
        self.failures += 1;
        let wait = match retry_after(response.headers(), SystemTime::now()) {
            Some(wait) if wait > LONGEST_PAUSE => {
                return Err(Fault::Unreachable(format!(
                    "it answers {status} and wants to be left alone for {} s",
                    wait.as_secs()
                )));
            }
            Some(wait) => wait,
            None => pause(self.failures),
        };
        if self.failures >= TRIES {
            return Err(Fault::Unreachable(format!("it answers {status}{}", said(http, response).await)));
        }
        http.pause(wait).await;
        Ok(())
    }
}

/// Doubles each time, with chance in it so that many clients do not come back together.
pub(super) fn pause(failures: u32) -> Duration {
    let base = FIRST_PAUSE * 2u32.pow(failures.saturating_sub(1).min(5));
    let chance = RandomState::new().hash_one(failures) % 500;
    base.mul_f64(0.75 + chance as f64 / 1000.0)
}

/// Seconds, or the date of RFC 9110 5.6.7 when to come back.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let until = SystemTime::UNIX_EPOCH + Duration::from_secs(http_date(text)?);
    Some(until.duration_since(now).unwrap_or_default())
}

/// `Sun, 06 Nov 1994 08:49:37 GMT` in seconds since 1970; the two obsolete forms are nobody's any more.
fn http_date(text: &str) -> Option<u64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let (_, rest) = text.split_once(", ")?;
    let [day, month, year, time, "GMT"] = rest.split(' ').collect::<Vec<_>>()[..] else { return None };
    let number = |text: &str| text.parse::<u64>().ok();
    let (day, year) = (number(day)?, number(year).filter(|year| (1970..=9999).contains(year))?);
    let month = MONTHS.iter().position(|known| *known == month)?;
    let [hour, minute, second] = time.split(':').map(number).collect::<Option<Vec<_>>>()?[..] else {
        return None;
    };
    if !(1..=31).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let is_leap =
        |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let leaps = (1970..year).filter(|year| is_leap(*year)).count() as u64;
    let lengths = [31, if is_leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30];
    let days = (year - 1970) * 365 + leaps + lengths[..month].iter().sum::<u64>() + day - 1;
    Some(((days * 24 + hour) * 60 + minute) * 60 + second)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(text: &str, now: u64) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RETRY_AFTER, text.parse().unwrap());
        retry_after(&headers, SystemTime::UNIX_EPOCH + Duration::from_secs(now)).map(|wait| wait.as_secs())
    }

    #[test]
    fn a_pause_is_told_in_seconds_or_as_a_date() {
        assert_eq!(after("7", 0), Some(7));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777 - 30), Some(30));
        assert_eq!(after("Sun, 06 Nov 1994 08:49:37 GMT", 784_111_777 + 30), Some(0));
        assert_eq!(after("Thu, 29 Feb 2024 00:00:00 GMT", 1_709_164_800), Some(0));
        assert_eq!(after("Thu, 29 Feb 2024 00:00:09 GMT", 1_709_164_800), Some(9));
        for bad in ["soon", "-3", "Sun, 06 Nov 1994 08:49:37 CET", "Sun, 99 Nov 1994 08:49:37 GMT", "Sun, "] {
            assert_eq!(after(bad, 0), None, "{bad}");
        }
    }
}
