//! The `Retry-After` header (RFC 9110, section 10.2.3): seconds, or an HTTP date in any of its three forms.

use std::time::Duration;

use jiff::fmt::strtime;
use jiff::tz::TimeZone;

use crate::clock::Timestamp;
use crate::limits;

/// The forms of RFC 9110, section 5.6.7: IMF-fixdate, RFC 850, asctime.
const DATES: [&str; 3] = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];

/// How long to wait from `now`, at most [`limits::RETRY_AFTER`]; zero for a date that is over. `None` for anything that
/// is neither form, which then has no effect.
#[must_use]
pub fn parse_retry_after(value: &str, now: Timestamp) -> Option<Duration> {
    let value = value.trim();
    if value.len() > 64 || value.is_empty() {
        return None;
    }
    if value.bytes().all(|b| b.is_ascii_digit()) {
        let seconds = value.parse().unwrap_or(u64::MAX);
        return Some(Duration::from_secs(seconds).min(limits::RETRY_AFTER));
    }
    let date = DATES.iter().find_map(|format| {
        let date = strtime::parse(format, value).ok()?.to_datetime().ok()?;
        date.to_zoned(TimeZone::UTC).ok()
    })?;
    let until = Timestamp::from_millis(date.timestamp().as_millisecond());
    Some(until.since(now).min(limits::RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn seconds_and_dates() {
        let now = Timestamp::parse_rfc3339("1994-11-06T08:49:00Z").expect("a time");
        for (value, expected) in [
            ("120", Some(120)),
            (" 5 ", Some(5)),
            ("0", Some(0)),
            ("99999999999999999999999", Some(86_400)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(37)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(37)),
            ("Sun Nov  6 08:49:37 1994", Some(37)),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(0)),
            ("Thu, 06 Nov 2094 08:49:37 GMT", None),
            ("Sat, 06 Nov 2094 08:49:37 GMT", Some(86_400)),
            ("-5", None),
            ("1.5", None),
            ("soon", None),
            ("", None),
        ] {
            assert_eq!(parse_retry_after(value, now), expected.map(Duration::from_secs), "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_exceeds_a_day(value in ".{0,70}", now in any::<i64>()) {
            if let Some(wait) = parse_retry_after(&value, Timestamp::from_millis(now)) {
                prop_assert!(wait <= limits::RETRY_AFTER);
            }
        }
    }
}
