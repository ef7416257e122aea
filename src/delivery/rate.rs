//! Token bucket behind `rate_limit`.

use std::time::Duration;

use crate::clock::Timestamp;

/// Requests per second with a burst of one second's worth.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens a second; at least one a day.
    pub per_second: f64,
}

impl Rate {
    /// From `50/s`, `100/m`, `10/h`, `1/d`.
    pub fn parse(text: &str) -> Result<Self, String> {
        const RIGHT: &str = "write a number and a unit, such as 50/s, 100/m or 10/h";
        let wrong = || format!("{text:?} is not a rate; {RIGHT}");
        let (number, unit) = text.split_once('/').ok_or_else(wrong)?;
        let seconds = match unit.trim() {
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return Err(wrong()),
        };
        let number = number.trim();
        if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
            return Err(wrong());
        }
        let number: f64 = number.parse().map_err(|_| wrong())?;
        let per_second = number / seconds;
        if per_second < 1.0 / 86_400.0 {
            return Err(format!("{text:?} is less than one a day; pause the webhook or set enabled: false instead"));
        }
        if per_second > 1_000_000.0 {
            return Err(format!("{text:?} is more than 1000000/s, which limits nothing; leave rate_limit out"));
        }
        Ok(Self { per_second })
    }
}

/// Counts requests against a [`Rate`].
#[derive(Debug, Clone)]
pub struct TokenBucket {
    rate: Rate,
    tokens: f64,
    filled_at: Timestamp,
}

impl TokenBucket {
    /// A full bucket.
    #[must_use]
    pub fn new(rate: Rate, now: Timestamp) -> Self {
        Self { rate, tokens: capacity(rate), filled_at: now }
    }

    /// Takes over a changed rate; what is in the bucket stays, up to the new capacity.
    pub fn set_rate(&mut self, rate: Rate) {
        self.rate = rate;
        self.tokens = self.tokens.min(capacity(rate));
    }

    /// Takes one token, or says when one will be there.
    pub fn take(&mut self, now: Timestamp) -> Result<(), Timestamp> {
        // A clock that jumped back must not freeze the bucket until it catches up.
        let passed = now.since(self.filled_at);
        self.filled_at = now;
        self.tokens = (self.tokens + passed.as_secs_f64() * self.rate.per_second).min(capacity(self.rate));
        if self.tokens >= 1.0 {
            self.tokens -= 1.0;
            return Ok(());
        }
        let missing = (1.0 - self.tokens) / self.rate.per_second;
        let wait = Duration::try_from_secs_f64(missing).unwrap_or(Duration::from_secs(86_400));
        Err(now.plus(wait.max(Duration::from_millis(1))))
    }

    /// Gives a token back that was not used after all.
    pub fn put_back(&mut self) {
        self.tokens = (self.tokens + 1.0).min(capacity(self.rate));
    }
}

/// One second's worth, but at least one whole request.
fn capacity(rate: Rate) -> f64 {
    rate.per_second.max(1.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rates_are_read_and_mistakes_named() {
        for (text, per_second) in
            [("50/s", 50.0), ("90/m", 1.5), ("36/h", 0.01), ("0.5/s", 0.5), ("1/d", 1.0 / 86_400.0)]
        {
            let rate = Rate::parse(text).expect(text);
            assert!((rate.per_second - per_second).abs() < 1e-9, "{text}");
        }
        for (text, expected) in [
            ("50", "\"50\" is not a rate; write a number and a unit"),
            ("50/w", "is not a rate"),
            ("-1/s", "is not a rate"),
            ("inf/s", "is not a rate"),
            ("1.2.3/s", "is not a rate"),
            ("/s", "is not a rate"),
            ("0/s", "less than one a day"),
            ("9999999999/s", "more than 1000000/s"),
        ] {
            let error = Rate::parse(text).expect_err(text);
            assert!(error.contains(expected), "{error}");
        }
    }

    #[test]
    fn a_burst_of_one_second_and_then_the_rate() {
        let start = Timestamp::from_millis(0);
        let mut bucket = TokenBucket::new(Rate { per_second: 4.0 }, start);
        for _ in 0..4 {
            assert_eq!(bucket.take(start), Ok(()));
        }
        assert_eq!(bucket.take(start), Err(Timestamp::from_millis(250)));
        assert_eq!(bucket.take(Timestamp::from_millis(250)), Ok(()));
        bucket.put_back();
        assert_eq!(bucket.take(Timestamp::from_millis(250)), Ok(()));
        bucket.set_rate(Rate { per_second: 1.0 });
        assert_eq!(bucket.take(Timestamp::from_millis(500)), Err(Timestamp::from_millis(1_250)));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_plus_rate_and_never_stuck(
            per_second in 0.01f64..200.0, steps in proptest::collection::vec(-500i64..2_000, 1..200),
        ) {
            let mut now = 1_000_000_i64;
            let mut forward = 0_i64;
            let mut taken = 0_u32;
            let mut bucket = TokenBucket::new(Rate { per_second }, Timestamp::from_millis(now));
            for step in steps {
                now += step;
                forward += step.max(0);
                match bucket.take(Timestamp::from_millis(now)) {
                    Ok(()) => taken += 1,
                    Err(at) => prop_assert!(at > Timestamp::from_millis(now)),
                }
            }
            #[expect(clippy::cast_precision_loss, reason = "small numbers")]
            let most = per_second.max(1.0) + per_second * forward as f64 / 1000.0 + 1e-6;
            prop_assert!(f64::from(taken) <= most, "{} > {}", taken, most);
        }
    }
}
