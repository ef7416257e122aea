//! Small texts with a unit: durations, sizes, names. Pure; each error says what would be right.

use std::time::Duration;

use crate::limits;

/// Reads `50ms`, `15s`, `5m`, `24h`, `7d` and sums of them such as `1h30m`.
pub fn duration(text: &str) -> Result<Duration, String> {
    let right = "write a number and a unit, like 50ms, 15s, 5m, 24h or 7d";
    let mut millis: f64 = 0.0;
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(format!("a duration is missing; {right}"));
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let Ok(number) = number.parse::<f64>() else { return Err(format!("not a duration; {right}")) };
        let letters = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let factor = match unit {
            "ms" => 1.0,
            "s" => 1_000.0,
            "m" => 60_000.0,
            "h" => 3_600_000.0,
            "d" => 86_400_000.0,
            "" => return Err(format!("a duration needs a unit; {right}")),
            _ => return Err(format!("unknown unit `{unit}`; {right}")),
        };
        millis += number * factor;
        rest = tail;
    }
    // A hundred years: what is longer is a slip, and everything below fits the clock's arithmetic.
    if millis > 36_500.0 * 86_400_000.0 {
        return Err("longer than a hundred years".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small and not negative")]
    Ok(Duration::from_millis(millis.round() as u64))
}

/// Reads `512B`, `8MiB`, `1GiB`, `1.5GB`.
pub fn size(text: &str) -> Result<u64, String> {
    let right = "write a number and a unit, like 512KiB, 8MiB or 1GiB";
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let Ok(number) = number.parse::<f64>() else { return Err(format!("not a size; {right}")) };
    let factor: f64 = match unit.trim_start() {
        "B" => 1.0,
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        "GiB" => 1024.0 * 1024.0 * 1024.0,
        "TiB" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        "kB" | "KB" => 1e3,
        "MB" => 1e6,
        "GB" => 1e9,
        "TB" => 1e12,
        "" => return Err(format!("a size needs a unit; {right}")),
        other => return Err(format!("unknown unit `{other}`; {right}")),
    };
    let bytes = number * factor;
    if bytes > 1e15 {
        return Err("larger than a petabyte".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small and not negative")]
    Ok(bytes.round() as u64)
}

/// Prints a duration the way [`duration`] reads it.
#[must_use]
pub fn show_duration(d: Duration) -> String {
    let ms = d.as_millis();
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
    for (factor, unit) in units {
        if ms >= factor && ms.is_multiple_of(factor) {
            return format!("{}{unit}", ms / factor);
        }
    }
    "0s".to_owned()
}

/// Prints a size the way [`size`] reads it.
#[must_use]
pub fn show_size(bytes: u64) -> String {
    for (power, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
        if bytes >= 1 << power && bytes.is_multiple_of(1 << power) {
            return format!("{}{unit}", bytes >> power);
        }
    }
    format!("{bytes}B")
}

/// Checks the name of a webhook or a source: it becomes a file name, a metric label and part of a URL.
pub fn name(text: &str) -> Result<(), String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.is_empty() {
        return Err("a name is empty".to_owned());
    }
    if text.len() > limits::CONFIG_NAME_BYTES {
        return Err(format!("a name is longer than {} characters", limits::CONFIG_NAME_BYTES));
    }
    if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
        return Err(format!("a name may hold letters, digits, `_`, `-` and `.`, but not {bad:?}"));
    }
    if !text.starts_with(|c: char| c.is_ascii_alphanumeric()) {
        return Err("a name begins with a letter or a digit".to_owned());
    }
    Ok(())
}

/// What to call something whose name [`name`] refuses.
#[must_use]
pub fn rename(text: &str) -> String {
    let allowed = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.') { c } else { '-' };
    let better: String = text.chars().map(allowed).take(limits::CONFIG_NAME_BYTES).collect();
    let better = better.trim_start_matches(|c: char| !c.is_ascii_alphanumeric()).trim_end_matches('-');
    if name(better).is_ok() { format!("call it `{better}`") } else { "call it `crm`, for example".to_owned() }
}

/// The candidate that `text` was probably meant to be.
#[must_use]
pub fn nearest<'a>(text: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let wanted = text.to_ascii_lowercase().replace('-', "_");
    candidates
        .into_iter()
        .map(|c| (strsim::damerau_levenshtein(&wanted, &c.to_ascii_lowercase().replace('-', "_")), c))
        .filter(|(distance, c)| *distance <= 1 + c.len().max(wanted.len()) / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, c)| c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, ms) in
            [("50ms", 50), ("15s", 15_000), ("1.5s", 1_500), ("1h30m", 5_400_000), ("7d", 604_800_000), ("0s", 0)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for (text, says) in [
            ("", "missing"),
            ("15", "needs a unit"),
            ("15 s", "needs a unit"),
            ("15sec", "unknown unit `sec`"),
            ("-1s", "not a duration"),
            ("1..5s", "not a duration"),
            ("soon", "not a duration"),
            ("9999999999d", "longer"),
            ("1e9s", "unknown unit `e`"),
        ] {
            let error = duration(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
        for text in ["50ms", "15s", "90m", "24h", "7d", "0s"] {
            assert_eq!(duration(&show_duration(duration(text).expect(text))), duration(text));
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("1GiB", 1 << 30), ("8MiB", 8 << 20), ("1.5KiB", 1536), ("10MB", 10_000_000), ("7B", 7)] {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
        for (text, says) in [("1024", "needs a unit"), ("8Mb", "unknown unit `Mb`"), ("big", "not a size")] {
            let error = size(text).expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
        assert_eq!((show_size(1 << 30), show_size(1536)), ("1GiB".to_owned(), "1536B".to_owned()));
    }

    #[test]
    fn names() {
        assert_eq!(name("crm-2.eu_west"), Ok(()));
        for bad in ["", "a b", ".hidden", "ä", "a/b", &"x".repeat(65)] {
            assert!(name(bad).is_err(), "{bad}");
        }
        assert_eq!(nearest("timeuot", ["timeout", "retry"]), Some("timeout"));
        assert_eq!(nearest("rateLimit", ["rate_limit", "retry"]), Some("rate_limit"));
        assert_eq!(nearest("banana", ["timeout", "retry"]), None);
    }
}
