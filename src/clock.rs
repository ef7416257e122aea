//! Time and randomness, handed in as values so that tests decide both. The only module that may read the
//! system's clock or random source.

use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use serde::{Serialize, Serializer};

/// Whole milliseconds of a duration, for what counts them in 64 bits.
#[must_use]
pub fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A point in time: milliseconds since the Unix epoch, UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From milliseconds since the Unix epoch.
    #[must_use]
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the Unix epoch.
    #[must_use]
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the Unix epoch, as `webhook-timestamp` wants them.
    #[must_use]
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This point plus a duration, saturating at the end of time.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// This point minus a duration.
    #[must_use]
    pub fn minus(self, by: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(by.as_millis()).unwrap_or(i64::MAX)))
    }

    /// Time from `earlier` to this point; zero when `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Parses RFC 3339, with any offset.
    #[must_use]
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        // RFC 3339 knows offsets up to 23:59.
        if let Some(at) = text.rfind(['+', '-']).filter(|at| *at > "2026-01-03".len())
            && text[at + 1..].get(..2).is_some_and(|hours| hours > "23")
        {
            return None;
        }
        match text.parse::<jiff::Timestamp>() {
            Ok(time) => Some(Self(time.as_millisecond())),
            Err(_) => Self::parse_last_day(text),
        }
    }

    /// The end of the year 9999, which stands for "never" in many systems, lies behind the last of jiff's points in time.
    fn parse_last_day(text: &str) -> Option<Self> {
        let time: jiff::civil::DateTime = text.strip_suffix(['Z', 'z'])?.parse().ok()?;
        let since = time.duration_since(jiff::civil::date(1970, 1, 1).at(0, 0, 0, 0));
        i64::try_from(since.as_millis()).ok().map(Self)
    }
}

/// RFC 3339 in UTC, always with three digits of milliseconds: texts of one width, which sort like the times they name.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_millisecond(self.0) {
            Ok(t) => write!(f, "{t:.3}"),
            Err(_) => f.write_str("9999-12-31T23:59:59.999Z"),
        }
    }
}

/// The text that [`Timestamp`] displays.
impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where "now" comes from.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// A clock that a test moves by hand: milliseconds since the Unix epoch.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    /// A clock that stands at `start` until it is advanced.
    #[must_use]
    pub fn manual(start: Timestamp) -> Self {
        Self::Manual(Arc::new(AtomicI64::new(start.as_millis())))
    }

    /// The current time.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn now(&self) -> Timestamp {
        match self {
            Self::System => {
                let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
            }
            Self::Manual(millis) => Timestamp(millis.load(Ordering::SeqCst)),
        }
    }

    /// A monotonic instant, for measuring how long something took.
    #[must_use]
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the system's clock")]
    pub fn instant(&self) -> std::time::Instant {
        std::time::Instant::now()
    }

    /// Moves a manual clock; has no effect on the machine's.
    pub fn advance(&self, by: Duration) {
        if let Self::Manual(millis) = self {
            millis.fetch_add(i64::try_from(by.as_millis()).unwrap_or(0), Ordering::SeqCst);
        }
    }
}

/// Random bytes fetched ahead: asking for a few at a time costs more than all else that is done for an id. Each is handed
/// out once and forgotten.
pub struct Pool {
    random: SystemRandom,
    ahead: Mutex<Ahead>,
}

struct Ahead {
    bytes: [u8; Ahead::BYTES],
    left: usize,
}

impl Ahead {
    const BYTES: usize = 1024;
}

impl Pool {
    fn new() -> Self {
        Self { random: SystemRandom::new(), ahead: Mutex::new(Ahead { bytes: [0; Ahead::BYTES], left: 0 }) }
    }

    fn fetch(&self, out: &mut [u8]) {
        assert!(self.random.fill(out).is_ok(), "the operating system gave no random bytes");
    }

    fn fill(&self, out: &mut [u8]) {
        // Keys and the like are asked for directly.
        if out.len() > 16 {
            return self.fetch(out);
        }
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        if ahead.left < out.len() {
            self.fetch(&mut ahead.bytes);
            ahead.left = Ahead::BYTES;
        }
        let from = ahead.left - out.len();
        let taken = from..ahead.left;
        out.copy_from_slice(&ahead.bytes[taken.clone()]);
        ahead.bytes[taken].fill(0);
        ahead.left = from;
    }
}

/// Where random bits come from.
#[derive(Clone)]
pub enum Entropy {
    /// The operating system's generator.
    System(Arc<Pool>),
    /// A reproducible sequence (splitmix64), for tests only.
    Seeded(Arc<AtomicU64>),
}

impl Entropy {
    /// The operating system's generator.
    #[must_use]
    pub fn system() -> Self {
        Self::System(Arc::new(Pool::new()))
    }

    /// A reproducible sequence, for tests only.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self::Seeded(Arc::new(AtomicU64::new(seed)))
    }

    /// Fills `out` with random bytes.
    ///
    /// # Panics
    /// When the operating system has no randomness to give, which it says only before it has booted.
    pub fn fill(&self, out: &mut [u8]) {
        match self {
            Self::System(pool) => pool.fill(out),
            Self::Seeded(state) => {
                for chunk in out.chunks_mut(8) {
                    // splitmix64, Steele et al., "Fast splittable pseudorandom number generators" (2014)
                    let mut z =
                        state.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::SeqCst).wrapping_add(0x9E37_79B9_7F4A_7C15);
                    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
                    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
                    let bytes = (z ^ (z >> 31)).to_le_bytes();
                    chunk.copy_from_slice(&bytes[..chunk.len()]);
                }
            }
        }
    }

    /// A random number of 64 bits.
    #[must_use]
    pub fn number(&self) -> u64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        u64::from_le_bytes(bytes)
    }

    /// A uniform number in `[0, 1)`.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "53 bits fit an f64 exactly")]
    pub fn unit(&self) -> f64 {
        let mut bytes = [0; 8];
        self.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1u64 << 53) as f64
    }

    /// A new sortable id: `prefix` + `_` + a ULID made of `now` and 80 random bits.
    #[must_use]
    pub fn id(&self, prefix: &str, now: Timestamp) -> String {
        let mut random = [0; 16];
        self.fill(&mut random[6..]);
        let millis = u64::try_from(now.as_millis()).unwrap_or(0);
        let ulid = ulid::Ulid::from_parts(millis, u128::from_be_bytes(random));
        format!("{prefix}_{ulid}")
    }
}

impl fmt::Debug for Entropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System(_) => "Entropy::System",
            Self::Seeded(_) => "Entropy::Seeded",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_read_and_print_rfc3339() {
        let t = Timestamp::parse_rfc3339("2026-01-03T12:38:10+01:00").expect("a valid time");
        assert_eq!(t.to_string(), "2026-01-03T11:38:10.000Z");
        assert_eq!(Timestamp::from_millis(1_500).to_string(), "1970-01-01T00:00:01.500Z");
        assert_eq!(Timestamp::from_millis(i64::MAX).to_string(), "9999-12-31T23:59:59.999Z");
        for text in ["yesterday", "2026-01-03T12:38:10+25:00", "2026-01-03", "2026-01-03T12:38:10", "9999-12-31", "Z"] {
            assert!(Timestamp::parse_rfc3339(text).is_none(), "{text}");
        }
        let never = Timestamp::parse_rfc3339("9999-12-31T23:59:59Z").expect("a time");
        assert_eq!(never.as_millis(), 253_402_300_799_000);
        assert!(Timestamp::parse_rfc3339("2026-01-03T12:38:10-23:59").is_some());
    }

    #[test]
    fn bytes_fetched_ahead_are_handed_out_once() {
        let entropy = Entropy::system();
        let mut seen = std::collections::HashSet::new();
        for round in 0..1_000 {
            // Of sizes that do not divide what is fetched at once.
            let mut bytes = [0; 16];
            entropy.fill(&mut bytes[..10 + round % 7]);
            assert!(seen.insert(bytes), "twice the same");
        }
    }

    #[test]
    fn ids_are_prefixed_sortable_and_distinct() {
        let entropy = Entropy::seeded(7);
        let early = entropy.id("msg", Timestamp::from_millis(1_000));
        let late = entropy.id("msg", Timestamp::from_millis(2_000));
        assert!(early < late && early.starts_with("msg_") && early.len() == 30, "{early} {late}");
        assert_ne!(early, entropy.id("msg", Timestamp::from_millis(1_000)));
    }
}
