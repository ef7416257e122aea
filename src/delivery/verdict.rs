//! What follows from an attempt.

use std::fmt;
use std::time::Duration;

use super::RetryPolicy;
use crate::clock::Timestamp;

/// Why an attempt got no complete answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The deadline passed.
    Timeout,
    /// No connection: name not resolved, refused, unreachable.
    Connect,
    /// The TLS handshake failed.
    Tls,
    /// The connection broke, or what came was not HTTP.
    Reset,
    /// The egress guard refused the address.
    Denied,
    /// No token could be had from the token endpoint.
    Auth,
}

impl Fault {
    /// The word for it in metrics, attempts and reasons.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Reset => "reset",
            Self::Denied => "denied",
            Self::Auth => "auth",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With this status, and the body's end or its first bytes.
    Status(u16),
    /// Without a complete answer.
    Fault(Fault),
}

impl Outcome {
    /// 2xx.
    #[must_use]
    pub fn is_success(self) -> bool {
        matches!(self, Self::Status(200..300))
    }

    /// Whether this says that the destination itself is in trouble, rather than that it dislikes a request. Decides
    /// the breaker; 429 is a healthy destination asking for less.
    #[must_use]
    pub fn is_outage(self) -> bool {
        match self {
            Self::Status(status) => status >= 500 || status == 408,
            Self::Fault(_) => true,
        }
    }

    /// The metric label and the attempt's `status`: the code, or the fault's word.
    #[must_use]
    pub fn label(self) -> String {
        match self {
            Self::Status(status) => status.to_string(),
            Self::Fault(fault) => fault.as_str().to_owned(),
        }
    }

    /// The reason of a delivery that this outcome ends: `status_503`, `timeout`, …
    #[must_use]
    pub fn reason(self) -> String {
        match self {
            Self::Status(status) => format!("status_{status}"),
            Self::Fault(fault) => fault.as_str().to_owned(),
        }
    }
}

/// What follows from an attempt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judgement {
    /// Done.
    Delivered,
    /// Another attempt at this time.
    Retry(Timestamp),
    /// Given up, with the reason.
    Dead(String),
    /// 410: the destination wants nothing any more.
    Gone,
}

/// Judges attempt number `made` (the first is 1) that ended at `now`. `unit` is uniform in `[0, 1)`.
#[must_use]
pub fn judge(
    policy: &RetryPolicy,
    outcome: Outcome,
    made: u32,
    now: Timestamp,
    retry_after: Option<Duration>,
    unit: f64,
) -> Judgement {
    let retried = match outcome {
        Outcome::Status(200..300) => return Judgement::Delivered,
        Outcome::Status(410) => return Judgement::Gone,
        Outcome::Status(status) => policy.statuses.contains(status),
        Outcome::Fault(_) => true,
    };
    match policy.next(made, now, retry_after, unit) {
        Some(at) if retried => Judgement::Retry(at),
        _ => Judgement::Dead(outcome.reason()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::delivery::{Schedule, StatusSet};

    #[test]
    fn every_kind_of_outcome() {
        let policy = RetryPolicy {
            schedule: Schedule::List(vec![Duration::from_secs(5)]),
            jitter: 0.0,
            statuses: StatusSet::default(),
        };
        let now = Timestamp::from_millis(0);
        let later = Judgement::Retry(Timestamp::from_millis(5_000));
        let dead = |reason: &str| Judgement::Dead(reason.to_owned());
        for (outcome, made, expected) in [
            (Outcome::Status(200), 1, Judgement::Delivered),
            (Outcome::Status(299), 2, Judgement::Delivered),
            (Outcome::Status(302), 1, dead("status_302")),
            (Outcome::Status(400), 1, dead("status_400")),
            (Outcome::Status(410), 1, Judgement::Gone),
            (Outcome::Status(429), 1, later.clone()),
            (Outcome::Status(503), 1, later.clone()),
            (Outcome::Status(503), 2, dead("status_503")),
            (Outcome::Fault(Fault::Timeout), 1, later.clone()),
            (Outcome::Fault(Fault::Denied), 1, later.clone()),
            (Outcome::Fault(Fault::Connect), 2, dead("connect")),
        ] {
            assert_eq!(judge(&policy, outcome, made, now, None, 0.5), expected, "{outcome:?} after {made}");
        }
        let after = Some(Duration::from_secs(60));
        assert_eq!(
            judge(&policy, Outcome::Status(503), 1, now, after, 0.0),
            Judgement::Retry(Timestamp::from_millis(60_000))
        );
    }

    #[test]
    fn outages_are_told_from_refusals() {
        for (outcome, expected) in [
            (Outcome::Status(200), false),
            (Outcome::Status(400), false),
            (Outcome::Status(429), false),
            (Outcome::Status(408), true),
            (Outcome::Status(502), true),
            (Outcome::Fault(Fault::Tls), true),
        ] {
            assert_eq!(outcome.is_outage(), expected, "{outcome:?}");
        }
    }
}
