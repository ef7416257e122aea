//! Circuit breaker of one webhook. It outlives generations: it belongs to the webhook's name.

use std::time::Duration;

use crate::clock::Timestamp;

/// Breaker settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// Failures in a row that open it.
    pub failures: u32,
    /// How long it stays open before one probe.
    pub open_for: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { failures: 10, open_for: Duration::from_secs(30) }
    }
}

/// What the breaker shows to the outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything passes.
    Closed,
    /// Nothing passes.
    Open,
    /// One probe is on its way, or may go.
    HalfOpen,
}

impl BreakerState {
    /// As the API writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// The answer to "may an attempt start now?".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Yes.
    Pass,
    /// Yes, alone: its result decides.
    Probe,
    /// No; ask again at this time, or when the probe is back (`None`).
    Wait(Option<Timestamp>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inner {
    Closed { failures: u32 },
    Open { until: Timestamp },
    Probing,
}

/// Opens after so many failures in a row; after a while one probe goes out, whose result closes or reopens it.
#[derive(Debug, Clone)]
pub struct Breaker {
    inner: Inner,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { inner: Inner::Closed { failures: 0 } }
    }
}

impl Breaker {
    /// Whether an attempt may start. [`Admission::Probe`] must be followed by [`Breaker::record`] or
    /// [`Breaker::abandon`] with `probe: true`.
    pub fn admit(&mut self, now: Timestamp, policy: &BreakerPolicy) -> Admission {
        match self.inner {
            Inner::Closed { .. } => Admission::Pass,
            Inner::Probing => Admission::Wait(None),
            Inner::Open { until } => {
                // A clock that jumped back must not keep it open longer than the policy says.
                let until = until.min(now.plus(policy.open_for));
                if now >= until {
                    self.inner = Inner::Probing;
                    Admission::Probe
                } else {
                    self.inner = Inner::Open { until };
                    Admission::Wait(Some(until))
                }
            }
        }
    }

    /// Takes the result of an attempt. Results of attempts that began before it opened say nothing new and are ignored
    /// while it is open. Answers the state when this changed it between closed and open.
    pub fn record(&mut self, ok: bool, probe: bool, now: Timestamp, policy: &BreakerPolicy) -> Option<BreakerState> {
        match (self.inner, ok, probe) {
            (Inner::Closed { .. }, true, _) => {
                self.inner = Inner::Closed { failures: 0 };
                None
            }
            (Inner::Closed { failures }, false, _) => {
                let failures = failures.saturating_add(1);
                if failures < policy.failures.max(1) {
                    self.inner = Inner::Closed { failures };
                    return None;
                }
                self.inner = Inner::Open { until: now.plus(policy.open_for) };
                Some(BreakerState::Open)
            }
            (Inner::Probing, true, true) => {
                self.inner = Inner::Closed { failures: 0 };
                Some(BreakerState::Closed)
            }
            (Inner::Probing, false, true) => {
                self.inner = Inner::Open { until: now.plus(policy.open_for) };
                None
            }
            (Inner::Probing, _, false) | (Inner::Open { .. }, _, _) => None,
        }
    }

    /// A probe that was not made after all: the next one may go at once.
    pub fn abandon(&mut self, probe: bool, now: Timestamp) {
        if probe && self.inner == Inner::Probing {
            self.inner = Inner::Open { until: now };
        }
    }

    /// The state at `now`.
    #[must_use]
    pub fn state(&self, now: Timestamp) -> BreakerState {
        match self.inner {
            Inner::Closed { .. } => BreakerState::Closed,
            Inner::Open { until } if now < until => BreakerState::Open,
            Inner::Open { .. } | Inner::Probing => BreakerState::HalfOpen,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const POLICY: BreakerPolicy = BreakerPolicy { failures: 3, open_for: Duration::from_secs(30) };

    fn at(secs: i64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    fn opened() -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..2 {
            assert_eq!(breaker.record(false, false, at(0), &POLICY), None);
        }
        assert_eq!(breaker.record(false, false, at(0), &POLICY), Some(BreakerState::Open));
        breaker
    }

    #[test]
    fn opens_after_failures_in_a_row_only() {
        let mut breaker = Breaker::default();
        for ok in [false, false, true, false, false] {
            assert_eq!(breaker.record(ok, false, at(0), &POLICY), None);
        }
        assert_eq!(breaker.admit(at(0), &POLICY), Admission::Pass);
        assert_eq!(breaker.record(false, false, at(0), &POLICY), Some(BreakerState::Open));
        assert_eq!(breaker.admit(at(1), &POLICY), Admission::Wait(Some(at(30))));
        assert_eq!(breaker.state(at(1)), BreakerState::Open);
    }

    #[test]
    fn one_probe_decides() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(at(30), &POLICY), Admission::Probe);
        assert_eq!(breaker.admit(at(30), &POLICY), Admission::Wait(None));
        assert_eq!(breaker.record(true, false, at(30), &POLICY), None, "a straggler decides nothing");
        assert_eq!(breaker.record(false, true, at(31), &POLICY), None);
        assert_eq!(breaker.admit(at(60), &POLICY), Admission::Wait(Some(at(61))));
        assert_eq!(breaker.admit(at(61), &POLICY), Admission::Probe);
        assert_eq!(breaker.record(true, true, at(61), &POLICY), Some(BreakerState::Closed));
        assert_eq!(breaker.admit(at(61), &POLICY), Admission::Pass);
    }

    #[test]
    fn an_abandoned_probe_may_go_again_and_a_clock_going_back_does_not_lock_it() {
        let mut breaker = opened();
        assert_eq!(breaker.admit(at(30), &POLICY), Admission::Probe);
        breaker.abandon(true, at(30));
        assert_eq!(breaker.admit(at(30), &POLICY), Admission::Probe);

        let mut breaker = opened();
        assert_eq!(breaker.admit(at(-1_000), &POLICY), Admission::Wait(Some(at(-970))));
        assert_eq!(breaker.admit(at(-970), &POLICY), Admission::Probe);
    }

    proptest! {
        #[test]
        fn at_most_one_probe_and_never_stuck(steps in proptest::collection::vec((any::<bool>(), 0i64..40), 1..200)) {
            let mut breaker = Breaker::default();
            let (mut now, mut probing) = (0, false);
            for (ok, wait) in steps {
                now += wait;
                match breaker.admit(at(now), &POLICY) {
                    Admission::Probe => {
                        prop_assert!(!probing);
                        probing = true;
                    }
                    Admission::Pass => { breaker.record(ok, false, at(now), &POLICY); }
                    Admission::Wait(None) => {
                        prop_assert!(probing);
                        breaker.record(ok, true, at(now), &POLICY);
                        probing = false;
                    }
                    Admission::Wait(Some(until)) => prop_assert!(until > at(now) && until <= at(now + 30)),
                }
            }
        }
    }
}
