//! How often a source logs what it refuses: whoever sends it, or an assistant's chatty stream, must not fill the log. The
//! metrics count each.

use std::sync::{Mutex, PoisonError};

use crate::clock::Timestamp;
use crate::limits;

/// Lines of one source.
#[derive(Debug, Default)]
pub(super) struct Pace(Mutex<Window>);

#[derive(Debug, Default)]
struct Window {
    since: Option<Timestamp>,
    said: u32,
    unsaid: u64,
}

impl Pace {
    /// Whether one more is logged at `now`, and how many were not since the last one that was.
    pub fn next(&self, now: Timestamp) -> Option<u64> {
        let mut window = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A clock that was set back begins anew, too.
        if window.since.is_none_or(|since| now < since || now.since(since) >= limits::REFUSALS_WINDOW) {
            window.since = Some(now);
            window.said = 0;
        }
        if window.said == limits::REFUSALS_LOGGED {
            window.unsaid += 1;
            return None;
        }
        window.said += 1;
        Some(std::mem::take(&mut window.unsaid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_told_in_part_and_the_rest_is_counted() {
        let pace = Pace::default();
        let at = |secs: i64| Timestamp::from_millis(secs * 1000);
        for _ in 0..limits::REFUSALS_LOGGED {
            assert_eq!(pace.next(at(0)), Some(0));
        }
        for secs in [0, 1, 9] {
            assert_eq!(pace.next(at(secs)), None);
        }
        assert_eq!(pace.next(at(10)), Some(3), "three were not logged");
        assert_eq!(pace.next(at(10)), Some(0));
        assert_eq!(pace.next(at(5)), Some(0), "the clock was set back");
    }
}
