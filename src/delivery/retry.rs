//! When the next attempt is due.

use std::time::Duration;

use super::StatusSet;
use crate::clock::Timestamp;
use crate::limits;

/// A checked retry policy.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Delays.
    pub schedule: Schedule,
    /// Spread around each delay, 0 to 1.
    pub jitter: f64,
    /// Statuses that are retried.
    pub statuses: StatusSet,
}

/// Delays between attempts.
#[derive(Debug, Clone, PartialEq)]
pub enum Schedule {
    /// One retry per entry.
    List(Vec<Duration>),
    /// `attempts` counts all, the first included.
    Exponential {
        /// First delay.
        initial: Duration,
        /// Multiplier.
        factor: f64,
        /// Longest delay.
        max: Duration,
        /// Attempts in all.
        attempts: u32,
    },
}

impl Schedule {
    /// Attempts in all, the first included.
    #[must_use]
    pub fn attempts(&self) -> u32 {
        match self {
            Self::List(delays) => u32::try_from(delays.len()).unwrap_or(u32::MAX).saturating_add(1),
            Self::Exponential { attempts, .. } => *attempts,
        }
    }

    /// The delay after attempt number `made`, before jitter; `None` when none follows.
    fn delay(&self, made: u32) -> Option<Duration> {
        let retry = made.saturating_sub(1);
        match self {
            Self::List(delays) => delays.get(usize::try_from(retry).ok()?).copied(),
            Self::Exponential { initial, factor, max, attempts } => {
                if made >= *attempts {
                    return None;
                }
                let grown = initial.as_secs_f64() * factor.powf(f64::from(retry));
                Some(Duration::try_from_secs_f64(grown).unwrap_or(*max).min(*max))
            }
        }
    }
}

/// 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 10 h with a fifth of jitter: 27 h in all.
impl Default for RetryPolicy {
    fn default() -> Self {
        let delays = [5, 300, 1_800, 7_200, 18_000, 36_000, 36_000];
        Self {
            schedule: Schedule::List(delays.into_iter().map(Duration::from_secs).collect()),
            jitter: 0.2,
            statuses: StatusSet::default(),
        }
    }
}

impl RetryPolicy {
    /// When attempt number `made + 1` is due; `None` when the schedule is used up. `unit` is uniform in `[0, 1)`;
    /// `retry_after` is a floor, capped at [`crate::limits::RETRY_AFTER`], that jitter never goes below.
    #[must_use]
    pub fn next(&self, made: u32, now: Timestamp, retry_after: Option<Duration>, unit: f64) -> Option<Timestamp> {
        if made == 0 {
            return Some(now);
        }
        let floor = retry_after.unwrap_or(Duration::ZERO).min(limits::RETRY_AFTER);
        let base = self.schedule.delay(made)?.max(floor);
        let spread = 1.0 + self.jitter * (2.0 * unit - 1.0);
        let jittered = Duration::try_from_secs_f64(base.as_secs_f64() * spread.max(0.0)).unwrap_or(base);
        Some(now.plus(jittered.max(floor)))
    }
}

#[cfg(test)]
#[allow(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "delays are far below 2^53"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000_000);

    fn due_in(policy: &RetryPolicy, made: u32, after: Option<u64>, unit: f64) -> Option<u64> {
        let at = policy.next(made, NOW, after.map(Duration::from_secs), unit)?;
        Some(u64::try_from(at.since(NOW).as_millis()).expect("fits"))
    }

    #[test]
    fn the_first_attempt_is_at_once_and_then_one_retry_per_entry() {
        let policy = RetryPolicy { jitter: 0.0, ..RetryPolicy::default() };
        let delays: Vec<_> = (0..9).map(|made| due_in(&policy, made, None, 0.5)).collect();
        let expected = [0, 5, 300, 1_800, 7_200, 18_000, 36_000, 36_000].map(|s| Some(s * 1000));
        assert_eq!(delays[..8], expected);
        assert_eq!(delays[8], None);
        assert_eq!(policy.schedule.attempts(), 8);
    }

    #[test]
    fn exponential_counts_all_attempts_and_stops_growing() {
        let schedule = Schedule::Exponential {
            initial: Duration::from_secs(2),
            factor: 2.0,
            max: Duration::from_secs(10),
            attempts: 5,
        };
        let policy = RetryPolicy { schedule, jitter: 0.0, statuses: StatusSet::default() };
        let delays: Vec<_> = (0..6).map(|made| due_in(&policy, made, None, 0.5)).collect();
        assert_eq!(delays, [Some(0), Some(2000), Some(4000), Some(8000), Some(10_000), None]);
    }

    #[test]
    fn retry_after_is_a_floor_that_jitter_respects_and_a_day_is_its_cap() {
        let policy = RetryPolicy::default();
        assert_eq!(due_in(&policy, 1, Some(120), 0.0), Some(120_000));
        assert_eq!(due_in(&policy, 1, Some(3), 0.0), Some(4_000));
        assert_eq!(due_in(&policy, 1, Some(10_000_000), 0.0), Some(86_400_000));
        assert_eq!(due_in(&policy, 8, Some(120), 0.0), None);
    }

    proptest! {
        #[test]
        fn bounds_hold(
            made in 1u32..40, unit in 0.0f64..1.0, jitter in 0.0f64..=1.0, after in proptest::option::of(0u64..200_000),
            initial in 1u64..100_000, factor in 1.0f64..10.0, max in 1u64..1_000_000, attempts in 1u32..40,
        ) {
            let max = Duration::from_millis(max);
            let schedule = Schedule::Exponential { initial: Duration::from_millis(initial), factor, max, attempts };
            let policy = RetryPolicy { schedule, jitter, statuses: StatusSet::default() };
            match due_in(&policy, made, after, unit) {
                None => prop_assert!(made >= attempts),
                Some(delay) => {
                    prop_assert!(made < attempts);
                    let floor = after.unwrap_or(0).min(86_400) * 1000;
                    prop_assert!(delay >= floor);
                    let most = u128::from(floor).max(max.as_millis()) * 2 + 1;
                    prop_assert!(u128::from(delay) <= most, "{} > {}", delay, most);
                }
            }
        }

        #[test]
        fn a_list_gives_one_retry_per_entry_each_within_its_jitter(
            entries in proptest::collection::vec(0u64..100_000_000, 0..12), jitter in 0.0f64..=1.0, unit in 0.0f64..1.0,
            after in proptest::option::of(0u64..200_000),
        ) {
            let delays = entries.iter().copied().map(Duration::from_millis).collect();
            let policy = RetryPolicy { schedule: Schedule::List(delays), jitter, statuses: StatusSet::default() };
            let floor = after.unwrap_or(0).min(86_400) * 1000;
            for (made, entry) in (1..).zip(&entries) {
                let delay = due_in(&policy, made, after, unit);
                prop_assert!(delay.is_some(), "attempt {} has an entry", made);
                let (delay, base) = (delay.unwrap_or(0), (*entry).max(floor));
                // A millisecond is lost where the product is cut to whole ones.
                let spread = (base as f64 * jitter).ceil() as u64 + 1;
                prop_assert!(delay >= floor.max(base.saturating_sub(spread)) && delay <= base + spread, "{} of {}", delay, base);
            }
            let beyond = u32::try_from(entries.len()).unwrap_or(0) + 1;
            prop_assert_eq!(due_in(&policy, beyond, after, unit), None);
        }
    }
}
