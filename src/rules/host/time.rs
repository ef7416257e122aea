//! `now`, `parse_time`, `format_time`.

use jiff::Timestamp;
use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use rhai::{Engine, INT, ImmutableString};

use super::super::engine::facts;
use super::{Fallible, bounded};

/// Longest format of `format_time`.
const FORMAT_BYTES: usize = 1024;

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("now", || -> Fallible<ImmutableString> {
        let facts = facts().ok_or("now() is there only while an event is handled")?;
        Ok(facts.arrived.to_string().into())
    });
    engine.register_fn("parse_time", |text: &str| -> Fallible<INT> {
        match text.trim().parse::<Timestamp>() {
            Ok(time) => Ok(time.as_millisecond()),
            Err(_) => Err(format!("parse_time: `{}` is no time such as 2026-01-03T11:38:10Z", short(text)).into()),
        }
    });
    engine.register_fn("format_time", |millis: INT, format: &str| -> Fallible<ImmutableString> {
        if format.len() > FORMAT_BYTES {
            return Err(format!("format_time: a format is at most {FORMAT_BYTES} bytes long").into());
        }
        let time = Timestamp::from_millisecond(millis)
            .map_err(|_| format!("format_time: {millis} ms is no time between the years -9999 and 9999"))?;
        let text =
            strtime::format(format, &time.to_zoned(TimeZone::UTC)).map_err(|error| format!("format_time: {error}"))?;
        bounded(text)
    });
}

fn short(text: &str) -> String {
    text.chars().take(40).collect()
}
