//! Facts that `rules` states.

use std::time::Duration;

use metrics::{counter, histogram};
use tracing::warn;

/// A rule's function ran.
pub struct RuleRan<'a> {
    /// File name without suffix; `when` for an expression.
    pub rule: &'a str,
    /// How long it took.
    pub took: Duration,
}

impl RuleRan<'_> {
    /// States the fact.
    pub fn emit(&self) {
        histogram!("sidehook_rule_duration_seconds", "rule" => self.rule.to_owned()).record(self.took.as_secs_f64());
    }
}

/// A rule failed for one event. The log line is that of `ingest`, which knows for which webhook.
pub struct RuleFailed<'a> {
    /// File name without suffix; `when` for an expression.
    pub rule: &'a str,
    /// The kind of error.
    pub kind: &'static str,
}

impl RuleFailed<'_> {
    /// States the fact.
    pub fn emit(&self) {
        counter!("sidehook_rule_errors_total", "rule" => self.rule.to_owned(), "kind" => self.kind).increment(1);
    }
}

/// A rule was suspended after too many time-outs in a row.
pub struct RuleSuspended<'a> {
    /// File name without suffix.
    pub rule: &'a str,
    /// For how long.
    pub suspended_for: Duration,
}

impl RuleSuspended<'_> {
    /// States the fact.
    pub fn emit(&self) {
        warn!(
            rule = self.rule,
            seconds = self.suspended_for.as_secs(),
            "rule suspended: it timed out too often in a row; mend the script, its events fail meanwhile"
        );
    }
}

/// A rule set a header that it may not set.
pub struct HeaderDropped<'a> {
    /// Script file.
    pub rule: &'a str,
    /// The header, in lower case.
    pub header: &'a str,
}

impl HeaderDropped<'_> {
    /// States the fact.
    pub fn emit(&self) {
        warn!(
            rule = self.rule,
            header = self.header,
            "header of a rule dropped: it is kept for the signature, the protocol or the config"
        );
    }
}
