//! Numbers that keep their digits: a JSON number becomes a Rhai integer or float only where nothing is lost, and
//! stays a text of digits otherwise, which compares exactly and refuses to be calculated with.

use std::cmp::Ordering;
use std::sync::Arc;

use rhai::{Dynamic, Engine, EvalAltResult, FLOAT, INT, ImmutableString};

/// A JSON number that neither a 64-bit integer nor a float holds without loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Exact(Arc<str>);

impl Exact {
    /// The digits as they came.
    pub fn digits(&self) -> &str {
        &self.0
    }
}

/// A JSON number as a script sees it.
pub(super) fn to_dynamic(digits: &str) -> Dynamic {
    if digits != "-0"
        && let Ok(n) = digits.parse::<INT>()
    {
        return Dynamic::from_int(n);
    }
    match digits.parse::<FLOAT>() {
        Ok(f) if f.is_finite() && Decimal::parse(digits) == Decimal::parse(&format!("{f:e}")) => Dynamic::from_float(f),
        _ => Dynamic::from(Exact(Arc::from(digits))),
    }
}

/// Whether neither a 64-bit integer nor a float holds a JSON number.
pub(super) fn is_exact(digits: &str) -> bool {
    to_dynamic(digits).read_lock::<Exact>().is_some()
}

/// A decimal number taken apart: `0.DIGITS × 10^exponent`, without leading or trailing zeros.
#[derive(Debug, PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: Vec<u8>,
    exponent: i64,
}

impl Decimal {
    /// Reads a JSON number, or what `{:e}` prints.
    fn parse(text: &str) -> Self {
        let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        // An exponent beyond i64 is a number beyond all others, or nothing; saturating keeps the order.
        let shift: i64 =
            exponent.parse().unwrap_or(if exponent.starts_with('-') { i64::MIN / 4 } else { i64::MAX / 4 });
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let leading = digits.iter().take_while(|d| **d == b'0').count();
        digits.drain(..leading);
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        let point = i64::try_from(whole.len()).unwrap_or(0) - i64::try_from(leading).unwrap_or(0);
        if digits.is_empty() {
            return Self { negative: false, digits, exponent: 0 };
        }
        Self { negative, digits, exponent: point.saturating_add(shift) }
    }
}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let sign = |d: &Self| match (d.digits.is_empty(), d.negative) {
            (true, _) => 0,
            (false, true) => -1,
            (false, false) => 1,
        };
        sign(self).cmp(&sign(other)).then_with(|| {
            let size = self.exponent.cmp(&other.exponent).then_with(|| self.digits.cmp(&other.digits));
            if self.negative { size.reverse() } else { size }
        })
    }
}

/// The digits of any number a script may hold.
fn digits_of(value: &Dynamic) -> Option<String> {
    if let Some(exact) = value.read_lock::<Exact>() {
        return Some(exact.digits().to_owned());
    }
    if let Ok(n) = value.as_int() {
        return Some(n.to_string());
    }
    value.as_float().ok().filter(|f| f.is_finite()).map(|f| format!("{f:e}"))
}

/// Exact order of two numbers; `None` when one is none.
pub(super) fn compare(a: &Dynamic, b: &Dynamic) -> Option<Ordering> {
    Some(Decimal::parse(&digits_of(a)?).cmp(&Decimal::parse(&digits_of(b)?)))
}

pub(super) fn register(engine: &mut Engine) {
    engine.register_type_with_name::<Exact>("number");
    for name in ["to_string", "to_debug", "print", "debug"] {
        engine.register_fn(name, |n: &mut Exact| ImmutableString::from(n.digits()));
    }
    engine.register_fn("to_float", |n: &mut Exact| n.digits().parse::<FLOAT>().unwrap_or(FLOAT::NAN));
    engine.register_fn("to_int", |n: &mut Exact| -> Result<INT, Box<EvalAltResult>> {
        Err(format!("{} does not fit a 64-bit integer", n.digits()).into())
    });
    compare_with::<Exact, Exact>(engine);
    compare_with::<Exact, INT>(engine);
    compare_with::<INT, Exact>(engine);
    compare_with::<Exact, FLOAT>(engine);
    compare_with::<FLOAT, Exact>(engine);
    for op in ["+", "-", "*", "/", "%", "**", "+=", "-=", "*=", "/=", "%=", "**="] {
        refuse::<Exact, Exact>(engine, op);
        refuse::<Exact, INT>(engine, op);
        refuse::<INT, Exact>(engine, op);
        refuse::<Exact, FLOAT>(engine, op);
        refuse::<FLOAT, Exact>(engine, op);
    }
}

fn compare_with<A, B>(engine: &mut Engine)
where
    A: Clone + Send + Sync + 'static,
    B: Clone + Send + Sync + 'static,
{
    let order = |a: A, b: B| compare(&Dynamic::from(a), &Dynamic::from(b));
    engine.register_fn("==", move |a: A, b: B| order(a, b) == Some(Ordering::Equal));
    engine.register_fn("!=", move |a: A, b: B| order(a, b) != Some(Ordering::Equal));
    engine.register_fn("<", move |a: A, b: B| order(a, b) == Some(Ordering::Less));
    engine.register_fn(">", move |a: A, b: B| order(a, b) == Some(Ordering::Greater));
    engine.register_fn("<=", move |a: A, b: B| order(a, b).is_some_and(Ordering::is_le));
    engine.register_fn(">=", move |a: A, b: B| order(a, b).is_some_and(Ordering::is_ge));
}

fn refuse<A, B>(engine: &mut Engine, op: &str)
where
    A: Clone + Send + Sync + 'static,
    B: Clone + Send + Sync + 'static,
{
    engine.register_fn(op, |a: A, b: B| -> Result<Dynamic, Box<EvalAltResult>> {
        let (a, b) = (Dynamic::from(a), Dynamic::from(b));
        let exact = a.clone().try_cast::<Exact>().or_else(|| b.clone().try_cast::<Exact>());
        let digits = exact.map_or_else(String::new, |n| n.digits().to_owned());
        Err(format!(
            "{digits} has more digits than a calculation keeps: pass it on as it is, or round it with to_float()"
        )
        .into())
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_become_scalars_only_where_nothing_is_lost() {
        for (digits, kind) in [
            ("0", "i64"),
            ("-9223372036854775808", "i64"),
            ("9223372036854775807", "i64"),
            ("9223372036854775808", "exact"), // 2^63, which a float prints shorter
            ("9223372036854775809", "exact"),
            ("18446744073709551615", "exact"),
            ("1.5", "f64"),
            ("1.50", "f64"),
            ("0.1", "f64"),
            ("-0", "f64"),
            ("1e3", "f64"),
            ("1E400", "exact"),
            ("1e-400", "exact"),
            ("3.14159265358979323846", "exact"),
            ("12345678901234567890.10", "exact"),
        ] {
            let value = to_dynamic(digits);
            let got = match () {
                () if value.is_int() => "i64",
                () if value.is_float() => "f64",
                () => "exact",
            };
            assert_eq!(got, kind, "{digits}");
        }
    }

    #[test]
    fn comparison_is_exact() {
        let cmp = |a: &str, b: &str| compare(&to_dynamic(a), &to_dynamic(b));
        assert_eq!(cmp("18446744073709551615", "18446744073709551616"), Some(Ordering::Less));
        assert_eq!(cmp("-18446744073709551615", "1"), Some(Ordering::Less));
        assert_eq!(cmp("0.10000000000000000001", "0.1"), Some(Ordering::Greater));
        assert_eq!(cmp("1e400", "1E400"), Some(Ordering::Equal));
        assert_eq!(cmp("1e99999999999999999999", "2"), Some(Ordering::Greater));
        assert_eq!(cmp("1e-99999999999999999999", "0"), Some(Ordering::Greater));
    }

    proptest! {
        #[test]
        fn floats_compare_as_floats_do(a in any::<i32>(), b in any::<i32>()) {
            let (x, y) = (f64::from(a) / 64.0, f64::from(b) / 64.0);
            prop_assert_eq!(compare(&x.into(), &y.into()), x.partial_cmp(&y));
        }
    }
}
