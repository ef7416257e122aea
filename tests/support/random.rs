//! Chance that can be repeated: a small generator whose seed is printed.

use std::time::{SystemTime, UNIX_EPOCH};

/// `splitmix64`, after Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
pub struct Random(u64);

impl Random {
    /// Seeded by the environment variable, or by the clock; prints which.
    pub fn from_env(variable: &str) -> Self {
        let given = std::env::var(variable).ok().and_then(|s| s.parse().ok());
        let seed =
            given.unwrap_or_else(|| u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()));
        println!("{variable}={seed}");
        Self(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From 0 up to and without the limit.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit.max(1)
    }

    /// An index of a slice of this length.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap()
    }

    pub fn pick<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.index(all.len())]
    }
}
