//! Secret values: wiped when dropped, never shown. There is deliberately no `Display`, no `Serialize`, and a
//! `Debug` that shows nothing of the value.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

/// A secret text. Equality is for configuration comparison, not for authentication: compare tokens with
/// [`Secret::matches`].
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Wraps a value.
    #[must_use]
    pub fn new(value: impl Into<String>) -> Self {
        Self(Zeroizing::new(value.into()))
    }

    /// The value itself. The name makes every use easy to find.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether `candidate` is this secret, in time that does not depend on where they differ.
    #[must_use]
    pub fn matches(&self, candidate: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.0.as_bytes(), candidate.as_bytes()).is_ok()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(****)")
    }
}

/// A key of 32 bytes that seals what is stored.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    /// From standard base64 with its padding; `None` for anything but 32 bytes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = Zeroizing::new(STANDARD.decode(text).ok()?);
        <[u8; 32]>::try_from(bytes.as_slice()).ok().map(|key| Self(Zeroizing::new(key)))
    }

    /// The key itself.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(****)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_32_bytes_in_base64_and_not_shown() {
        let text = STANDARD.encode([7; 32]);
        let key = SecretKey::parse(&text).expect("a key");
        assert_eq!((key.expose(), format!("{key:?}").as_str()), (&[7; 32], "SecretKey(****)"));
        for bad in ["", "x", text.trim_end_matches('='), &STANDARD.encode([7; 31]), &STANDARD.encode([7; 33])] {
            assert_eq!(SecretKey::parse(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn debug_shows_nothing_and_matching_is_exact() {
        let secret = Secret::new("hunter2");
        assert_eq!(format!("{secret:?}"), "Secret(****)");
        assert!(secret.matches("hunter2") && !secret.matches("hunter") && !secret.matches(""));
    }
}
