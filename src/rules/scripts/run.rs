//! One call of a script: under the limits, without a lock, and with a rest for a rule that is too slow again and again.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use rhai::{Dynamic, EvalAltResult};

use super::Shared;
use super::link::key_of;
use crate::clock::Timestamp;
use crate::limits;
use crate::rules::engine::{Call, Mode};
use crate::rules::explain;
use crate::rules::program::RuleError;
use crate::telemetry::rules::{RuleRan, RuleSuspended};

/// Runs a script. Rhai has `unreachable!`s of its own: one that is reached fails the rule, not the process.
pub(super) fn guarded<T>(run: impl FnOnce() -> Result<T, Box<EvalAltResult>>) -> Result<T, Box<EvalAltResult>> {
    std::panic::catch_unwind(std::panic::AssertUnwindSafe(run))
        .unwrap_or_else(|_| Err("the script engine failed; this is a fault of sidehook, please report it".into()))
}

/// Time-outs in a row, and until when the rule rests.
#[derive(Debug, Default)]
pub(in crate::rules) struct Health {
    timeouts: AtomicU32,
    /// Milliseconds since the epoch; 0 while the rule runs.
    suspended_until: AtomicI64,
    /// How many evaluations yet are not tried quickly.
    takes_long: AtomicU32,
    /// Quick tries in a row that came to nothing.
    misses: AtomicU32,
}

impl Health {
    /// Whether a quick try is worth while.
    pub(in crate::rules) fn is_quick(&self) -> bool {
        let left = self.takes_long.load(Ordering::Relaxed);
        if left > 0 {
            // Two at once may count one: it is a guess anyway.
            self.takes_long.store(left - 1, Ordering::Relaxed);
        }
        left == 0 && self.timeouts.load(Ordering::Relaxed) == 0 && self.suspended_until.load(Ordering::Relaxed) == 0
    }

    /// A quick try came to nothing.
    pub(in crate::rules) fn takes_long(&self) {
        let before = self.misses.fetch_add(1, Ordering::Relaxed);
        self.takes_long.store(if before == 0 { 1 } else { limits::QUICK_RULE_REST }, Ordering::Relaxed);
    }

    /// A quick try was good.
    pub(in crate::rules) fn was_quick(&self) {
        // Almost always so already; a plain load keeps the line shared between cores.
        if self.misses.load(Ordering::Relaxed) != 0 {
            self.misses.store(0, Ordering::Relaxed);
        }
    }

    /// Whether a call may run. After a suspension one call at a time tries whether the rule is well again.
    fn admit(&self, now: Timestamp, suspend_for: Duration) -> bool {
        let until = self.suspended_until.load(Ordering::Acquire);
        if until == 0 {
            return true;
        }
        let next = now.plus(suspend_for).as_millis().max(1);
        now.as_millis() >= until
            && self.suspended_until.compare_exchange(until, next, Ordering::AcqRel, Ordering::Acquire).is_ok()
    }

    /// Takes note of how a call ended; true when it suspends the rule.
    fn record(&self, timed_out: bool, now: Timestamp, suspend_for: Duration) -> bool {
        if !timed_out {
            // Almost always true already; a plain load keeps the line shared between cores.
            if self.timeouts.load(Ordering::Relaxed) != 0 {
                self.timeouts.store(0, Ordering::Release);
                self.suspended_until.store(0, Ordering::Release);
            }
            return false;
        }
        if self.timeouts.fetch_add(1, Ordering::AcqRel) + 1 < limits::RULE_TIMEOUTS {
            return false;
        }
        self.suspended_until.store(now.plus(suspend_for).as_millis().max(1), Ordering::Release);
        true
    }
}

impl Shared {
    /// Runs one function under the limits, if the rule is not suspended.
    pub(super) fn run(
        &self,
        call: &Call,
        what: &Callee,
        suspend_for: Duration,
        run: impl FnOnce() -> Result<Dynamic, Box<EvalAltResult>>,
    ) -> Result<Dynamic, RuleError> {
        if call.mode == Mode::Service && !what.health.admit(self.clock.now(), suspend_for) {
            let message = format!("suspended after {} time-outs in a row; mend the script", limits::RULE_TIMEOUTS);
            return Err(RuleError::new(what.file, what.function, "suspended", message));
        }
        let start = self.clock.instant();
        call.arm(start, &self.limits);
        let result = guarded(run).and_then(|value| call.ended().map(|()| value));
        let end = self.clock.instant();
        // What a function of Rhai did last, no operation follows that would look at the clock.
        let result = result.and_then(|value| call.in_time(end).map(|()| value));
        let took = end.duration_since(start);
        call.disarm(took);
        if call.mode == Mode::Service {
            RuleRan { rule: what.name, took }.emit();
        }
        let result = result.map_err(|error| {
            let text_of = |file: &str| {
                let source = || self.sources.files.get(key_of(file)).map(|source| Arc::clone(&source.text));
                what.inline.cloned().or_else(source)
            };
            explain::run_error(what.file, what.function, &text_of, error)
        });
        // An endless loop meets whichever limit is nearer; either way it had its time.
        let timed_out = result.as_ref().is_err_and(|error| matches!(error.kind, "timeout" | "operations"));
        if call.mode == Mode::Service && what.health.record(timed_out, self.clock.now(), suspend_for) {
            RuleSuspended { rule: what.name, suspended_for: suspend_for }.emit();
        }
        result
    }
}

/// What [`Shared::run`] is to run, for messages and metrics.
pub(super) struct Callee<'a> {
    pub file: &'a str,
    /// The metric's label.
    pub name: &'a str,
    pub function: &'a str,
    /// The source of an expression.
    pub inline: Option<&'a Arc<str>>,
    pub health: &'a Health,
}
