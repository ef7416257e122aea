//! Inbound signatures: whether a request comes from the platform that it claims to come from. Pure; knows no clock, and no
//! message shows a secret or the signature that would be right.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, HeaderName};

use super::hmac::HmacVerifier;
use super::livekit::LiveKit;
use super::verify::{VerifyError, verify};
use super::{ID, SIGNATURE, TIMESTAMP, VerifyKey};
use crate::clock::{Timestamp, millis};

/// Signatures of one header that are looked at, so that a hostile header costs little.
pub(super) const SIGNATURES: usize = 64;

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InboundError {
    /// A header is not there.
    #[error("the {0} header is missing")]
    Missing(String),
    /// A header that is not as configured.
    #[error("the {0} header holds no signature of the configured form")]
    Malformed(String),
    /// No whole number where a timestamp belongs.
    #[error("the timestamp of the signature must be a whole number")]
    Timestamp,
    /// Signatures are there, none is right.
    #[error("no signature matches: the secret is another one, or what was signed was changed on the way")]
    Mismatch,
    /// Signed too long ago.
    #[error("the signature is right, but its timestamp is {0} s in the past, more than the tolerance")]
    TooOld(u64),
    /// Signed in the future.
    #[error("the signature is right, but its timestamp is {0} s in the future, more than the tolerance")]
    TooNew(u64),
    /// A `standard` signature.
    #[error("{0}")]
    Standard(#[from] VerifyError),
    /// What is wrong with a token.
    #[error("the token in the authorization header {0}")]
    Token(&'static str),
}

/// How a source's requests are checked.
pub enum Verifier {
    /// `scheme: standard`
    Standard {
        /// Any of them may have signed.
        keys: Vec<VerifyKey>,
        /// `tolerance`
        tolerance: Duration,
    },
    /// `scheme: hmac`
    Hmac(Box<HmacVerifier>),
    /// `scheme: livekit`
    LiveKit(LiveKit),
}

impl Verifier {
    /// Whether the request is signed as it must be, at `now`.
    pub fn verify(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), InboundError> {
        match self {
            Self::Standard { keys, tolerance } => {
                let of = |name: &HeaderName| header(headers, name);
                let (id, timestamp, signature) = (of(&ID)?, of(&TIMESTAMP)?, of(&SIGNATURE)?);
                Ok(verify(keys, id, timestamp, signature, body, now, Some(*tolerance))?)
            }
            Self::Hmac(scheme) => scheme.verify(headers, body, now),
            Self::LiveKit(scheme) => scheme.verify(headers, body, now),
        }
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Standard { keys, .. } => write!(f, "Verifier::Standard({} keys)", keys.len()),
            Self::Hmac(scheme) => write!(f, "Verifier::Hmac({})", scheme.header()),
            Self::LiveKit(_) => f.write_str("Verifier::LiveKit"),
        }
    }
}

/// The one that a generation made; another may have other secrets.
impl PartialEq for Verifier {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

/// The text of a header; one that is no text or comes twice is none, since it would be unclear which of them was checked.
pub(super) fn header<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<&'h str, InboundError> {
    let mut values = headers.get_all(name).iter();
    match (values.next().and_then(|value| value.to_str().ok()), values.next()) {
        (Some(text), None) if !text.is_empty() => Ok(text),
        (None, None) => Err(InboundError::Missing(name.to_string())),
        _ => Err(InboundError::Malformed(name.to_string())),
    }
}

/// Whether `at` is within `tolerance` of `now`.
pub(super) fn within(at: Timestamp, now: Timestamp, tolerance: Duration) -> Result<(), InboundError> {
    let off = now.as_millis().saturating_sub(at.as_millis());
    let seconds = off.unsigned_abs().div_ceil(1000);
    if off.unsigned_abs() <= millis(tolerance) {
        Ok(())
    } else if off > 0 {
        Err(InboundError::TooOld(seconds))
    } else {
        Err(InboundError::TooNew(seconds))
    }
}

#[cfg(test)]
mod tests;
