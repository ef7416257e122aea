//! Numbers of streams: they grow, over restarts too, so that one look tells which are of a former run. Knows nothing of
//! what comes by them.

use std::sync::atomic::{AtomicI64, Ordering};

use crate::clock::Timestamp;

/// Streams of one millisecond before the next one's numbers are taken.
const PER_MILLI: i64 = 1 << 20;

/// The numbers of this run.
pub(super) struct Streams {
    first: AtomicI64,
    next: AtomicI64,
}

impl Streams {
    /// Those of a run that begins now.
    pub fn new(now: Timestamp) -> Self {
        let first = now.as_millis().saturating_mul(PER_MILLI);
        Self { first: AtomicI64::new(first), next: AtomicI64::new(first) }
    }

    /// Begins behind `last`, of a former run, whatever the clock said then.
    pub fn begin_behind(&self, last: i64) {
        let first = self.first.fetch_max(last.saturating_add(1), Ordering::SeqCst).max(last.saturating_add(1));
        self.next.fetch_max(first, Ordering::SeqCst);
    }

    /// A new one.
    pub fn open(&self) -> i64 {
        self.next.fetch_add(1, Ordering::SeqCst)
    }

    /// The first of this run: those below it are over.
    pub fn first(&self) -> i64 {
        self.first.load(Ordering::SeqCst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_grow_over_restarts_though_the_clock_is_set_back() {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let run = Streams::new(now);
        let last = (0..3).map(|_| run.open()).max().expect("some");
        assert!(run.first() <= last && last > 0);
        let later = Streams::new(Timestamp::from_millis(now.as_millis() + 1));
        assert!(later.first() > last);
        let before = Streams::new(Timestamp::from_millis(1_000));
        before.begin_behind(last);
        assert_eq!((before.first(), before.open()), (last + 1, last + 1));
        let far = Streams::new(Timestamp::from_millis(4_000_000_000_000));
        assert!(far.open() > last, "in the year 2096 too");
    }
}
