//! Whether and when a container that ended by itself starts again: Docker's rule and back-off.

use std::time::Duration;

use super::RestartConfig;

const FIRST: Duration = Duration::from_millis(100);
const LONGEST: Duration = Duration::from_mins(1);
/// Having run this long, a container counts as well again.
const SETTLED: Duration = Duration::from_secs(10);

/// What happens after an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    Stay,
    StartAfter(Duration),
}

/// The memory of one container's restarts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Backoff {
    delay: Duration,
    /// Restarts without a settled run between them.
    pub count: u32,
}

impl Backoff {
    /// The delays are forgotten with the keeper that knew them.
    pub fn with_count(count: u32) -> Self {
        Self { count, ..Self::default() }
    }

    /// After an end with `exit` (`None`: unknown, which is a failure) that the user did not ask for.
    pub fn next(&mut self, policy: RestartConfig, exit: Option<i32>, ran: Duration) -> Next {
        if ran >= SETTLED {
            *self = Self::default();
        }
        let again = match policy {
            RestartConfig::No => false,
            RestartConfig::Always | RestartConfig::UnlessStopped => true,
            RestartConfig::OnFailure { max_retries } => {
                exit != Some(0) && max_retries.is_none_or(|most| self.count < most)
            }
        };
        if !again {
            return Next::Stay;
        }
        self.count += 1;
        self.delay = if self.delay.is_zero() { FIRST } else { (self.delay * 2).min(LONGEST) };
        Next::StartAfter(self.delay)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(5);

    fn delays(policy: RestartConfig, exits: &[Option<i32>]) -> Vec<Option<u64>> {
        let mut backoff = Backoff::default();
        let in_millis = |next| match next {
            Next::Stay => None,
            Next::StartAfter(delay) => Some(u64::try_from(delay.as_millis()).unwrap()),
        };
        exits.iter().map(|exit| in_millis(backoff.next(policy, *exit, SHORT))).collect()
    }

    #[test]
    fn always_doubles_from_100_ms_up_to_a_minute() {
        let delays = delays(RestartConfig::Always, &[Some(0); 12]);
        let expected = [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000];
        assert_eq!(delays, expected.map(Some));
    }

    #[test]
    fn on_failure_stays_after_success_and_after_its_last_try() {
        let policy = RestartConfig::OnFailure { max_retries: Some(2) };
        assert_eq!(delays(policy, &[Some(1), None, Some(1)]), [Some(100), Some(200), None]);
        assert_eq!(delays(policy, &[Some(0)]), [None]);
        let endless = RestartConfig::OnFailure { max_retries: None };
        assert!(delays(endless, &[Some(1); 50]).iter().all(Option::is_some));
    }

    #[test]
    fn no_policy_never_restarts() {
        assert_eq!(delays(RestartConfig::No, &[Some(1), None]), [None, None]);
    }

    #[test]
    fn a_run_of_ten_seconds_forgives() {
        let mut backoff = Backoff::default();
        for _ in 0..5 {
            backoff.next(RestartConfig::Always, Some(1), SHORT);
        }
        assert_eq!(
            backoff.next(RestartConfig::Always, Some(1), SETTLED),
            Next::StartAfter(Duration::from_millis(100))
        );
    }
}
