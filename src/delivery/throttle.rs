//! Slowing down for a destination that says it has too much: after 429, 502 or 504 it gets a pause and fewer requests
//! at once, and earns them back one success at a time (additive increase, multiplicative decrease).

use std::time::Duration;

use crate::clock::Timestamp;
use crate::limits;

/// Statuses that ask for less, Standard Webhooks 1.0.
const STATUSES: [u16; 3] = [429, 502, 504];
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_OWN_PAUSE: Duration = Duration::from_secs(30);

/// How much of its configured concurrency a destination gets at the moment.
#[derive(Debug, Clone)]
pub struct Throttle {
    /// Requests at once; `f64::INFINITY` when nothing is held back.
    window: f64,
    pause: Duration,
    paused_until: Option<Timestamp>,
}

impl Default for Throttle {
    fn default() -> Self {
        Self { window: f64::INFINITY, pause: Duration::ZERO, paused_until: None }
    }
}

impl Throttle {
    /// Whether this status asks the sender to slow down.
    #[must_use]
    pub fn asked_by(status: u16) -> bool {
        STATUSES.contains(&status)
    }

    /// Requests that may be in flight now; `Err` with the end of the pause while there is one.
    pub fn allowed(&mut self, now: Timestamp, configured: usize) -> Result<usize, Timestamp> {
        if let Some(until) = self.paused_until {
            // A clock that jumped back must not lengthen a pause beyond its limit.
            let until = until.min(now.plus(limits::THROTTLE_PAUSE));
            if now < until {
                self.paused_until = Some(until);
                return Err(until);
            }
            self.paused_until = None;
        }
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates, and is at least 1")]
        let window = self.window.max(1.0) as usize;
        Ok(window.min(configured.max(1)))
    }

    /// The destination asked for less. Several answers of one burst count once. `in_flight` counts the one that
    /// answered. Answers the end of a pause that begins.
    pub fn slow_down(&mut self, now: Timestamp, in_flight: usize, retry_after: Option<Duration>) -> Option<Timestamp> {
        let begins = self.paused_until.is_none_or(|until| now >= until);
        if begins {
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            let current = self.window.min(in_flight.max(1) as f64);
            self.window = (current / 2.0).max(1.0);
            self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_OWN_PAUSE);
        }
        let asked = retry_after.unwrap_or(Duration::ZERO).min(limits::THROTTLE_PAUSE);
        let until = now.plus(self.pause.max(asked));
        let until = self.paused_until.map_or(until, |before| before.max(until));
        self.paused_until = Some(until);
        begins.then_some(until)
    }

    /// An attempt went well: a little more next time.
    pub fn speed_up(&mut self, configured: usize) {
        self.pause = Duration::ZERO;
        if self.window.is_finite() {
            self.window += 1.0 / self.window;
            #[expect(clippy::cast_precision_loss, reason = "a small number")]
            if self.window >= configured as f64 {
                self.window = f64::INFINITY;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: i64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn halves_pauses_and_recovers() {
        let mut throttle = Throttle::default();
        assert_eq!(throttle.allowed(at(0), 16), Ok(16));
        throttle.slow_down(at(0), 16, None);
        throttle.slow_down(at(10), 15, None);
        assert_eq!(throttle.allowed(at(20), 16), Err(at(1_010)));
        assert_eq!(throttle.allowed(at(1_010), 16), Ok(8));
        throttle.slow_down(at(1_010), 8, None);
        assert_eq!(throttle.allowed(at(1_011), 16), Err(at(3_010)), "the second pause is twice as long");
        assert_eq!(throttle.allowed(at(3_010), 16), Ok(4));
        for _ in 0..200 {
            throttle.speed_up(16);
        }
        assert_eq!(throttle.allowed(at(3_010), 16), Ok(16));
    }

    #[test]
    fn retry_after_lengthens_the_pause_up_to_a_limit() {
        let mut throttle = Throttle::default();
        throttle.slow_down(at(0), 1, Some(Duration::from_secs(60)));
        assert_eq!(throttle.allowed(at(0), 16), Err(at(60_000)));
        throttle.slow_down(at(0), 1, Some(Duration::from_secs(86_400)));
        let most = i64::try_from(limits::THROTTLE_PAUSE.as_millis()).expect("small");
        assert_eq!(throttle.allowed(at(0), 16), Err(at(most)));
        assert_eq!(throttle.allowed(at(-1_000_000), 16), Err(at(most - 1_000_000)), "a clock that jumps back");
        assert_eq!(throttle.allowed(at(most), 16), Ok(1), "never below one");
    }
}
