//! Keys of the `standard` scheme. Reads and checks them; an error says what is wrong with a key and never shows it.

use std::fmt;

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use base64::Engine;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig, general_purpose::STANDARD};
use zeroize::Zeroizing;

use crate::secret::Secret;

/// Standard alphabet, with or without padding: both are found in the wild.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

const HMAC_PREFIX: &str = "whsec_";
const PRIVATE_PREFIX: &str = "whsk_";
const PUBLIC_PREFIX: &str = "whpk_";
/// Standard Webhooks 1.0: a random secret of 24 to 64 bytes.
const HMAC_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
const SEED_BYTES: usize = 32;

/// Why a secret is not a signing key. Never shows the key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Nothing is there.
    #[error("the signing secret is empty; `sidehook secret new` makes one")]
    Empty,
    /// Neither prefix.
    #[error(
        "a signing secret begins with whsec_ (HMAC-SHA256) or whsk_ (ed25519); `sidehook secret new` makes one, \
         `scheme: hmac` takes any text"
    )]
    Prefix,
    /// The half that cannot sign.
    #[error("whpk_ is the public half of an ed25519 key, which only verifies; signing needs the whsk_ half")]
    PublicHalf,
    /// Not base64.
    #[error("what follows {prefix} is not base64: {detail}")]
    Encoding {
        /// `whsec_`, `whsk_` or `whpk_`.
        prefix: &'static str,
        /// What is wrong and what would be right.
        detail: &'static str,
    },
    /// Base64 of too few or too many bytes.
    #[error("what follows {prefix} must be base64 of {expected}, this is {found} bytes")]
    Length {
        /// `whsec_`, `whsk_` or `whpk_`.
        prefix: &'static str,
        /// What is right.
        expected: &'static str,
        /// Bytes found.
        found: usize,
    },
    /// The two halves of a `whsk_` key are not of one pair.
    #[error("the public half inside the whsk_ key does not belong to its private half; the key is damaged")]
    Halves,
}

/// One key of the `standard` scheme: `whsec_` HMAC-SHA256 (`v1`) or `whsk_` ed25519 (`v1a`).
pub struct SigningKey(Kind);

enum Kind {
    Hmac(Box<hmac::Key>),
    Ed25519(Box<Ed25519KeyPair>),
}

impl SigningKey {
    /// Reads `whsec_…` (base64 of 24 to 64 bytes) or `whsk_…` (base64 of ed25519 seed and public key, or the seed alone).
    pub fn parse(secret: &Secret) -> Result<Self, KeyError> {
        let text = secret.expose();
        if text.is_empty() {
            Err(KeyError::Empty)
        } else if let Some(rest) = text.strip_prefix(HMAC_PREFIX) {
            Ok(Self(Kind::Hmac(Box::new(hmac_key(rest)?))))
        } else if let Some(rest) = text.strip_prefix(PRIVATE_PREFIX) {
            Ok(Self(Kind::Ed25519(Box::new(key_pair(rest)?))))
        } else if text.starts_with(PUBLIC_PREFIX) {
            Err(KeyError::PublicHalf)
        } else {
            Err(KeyError::Prefix)
        }
    }

    /// `v1` or `v1a`.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match &self.0 {
            Kind::Hmac(_) => "v1",
            Kind::Ed25519(_) => "v1a",
        }
    }

    /// The `whpk_…` that verifies what this key signs; `None` for an HMAC key.
    #[must_use]
    pub fn public(&self) -> Option<String> {
        match &self.0 {
            Kind::Hmac(_) => None,
            Kind::Ed25519(pair) => Some(format!("{PUBLIC_PREFIX}{}", STANDARD.encode(pair.public_key()))),
        }
    }

    /// Appends `version,base64(signature)` over `id.timestamp.body`.
    pub(super) fn sign_into(&self, out: &mut String, id: &str, timestamp_secs: i64, body: &[u8]) {
        out.push_str(self.version());
        out.push(',');
        match &self.0 {
            Kind::Hmac(key) => STANDARD.encode_string(mac(key, id, &timestamp_secs.to_string(), body), out),
            Kind::Ed25519(pair) => {
                STANDARD.encode_string(pair.sign(&signed_content(id, &timestamp_secs.to_string(), body)), out);
            }
        }
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({}, ****)", self.version())
    }
}

/// A key that verifies: `whsec_`, `whpk_`, or the public half of a `whsk_`.
pub struct VerifyKey(VerifyKind);

enum VerifyKind {
    Hmac(Box<hmac::Key>),
    Ed25519(Vec<u8>),
}

impl VerifyKey {
    /// Reads `whsec_…`, `whpk_…` (base64 of 32 bytes) or `whsk_…`.
    pub fn parse(secret: &Secret) -> Result<Self, KeyError> {
        let text = secret.expose();
        if let Some(rest) = text.strip_prefix(PUBLIC_PREFIX) {
            let bytes = decode(PUBLIC_PREFIX, rest)?;
            if bytes.len() != SEED_BYTES {
                return Err(KeyError::Length { prefix: PUBLIC_PREFIX, expected: "32 bytes", found: bytes.len() });
            }
            return Ok(Self(VerifyKind::Ed25519(bytes.to_vec())));
        }
        Ok(Self(match SigningKey::parse(secret)?.0 {
            Kind::Hmac(key) => VerifyKind::Hmac(key),
            Kind::Ed25519(pair) => VerifyKind::Ed25519(pair.public_key().as_ref().to_vec()),
        }))
    }

    /// `v1` or `v1a`: which signatures it can check.
    #[must_use]
    pub fn version(&self) -> &'static str {
        match &self.0 {
            VerifyKind::Hmac(_) => "v1",
            VerifyKind::Ed25519(_) => "v1a",
        }
    }

    /// Whether `signature` (decoded) is right for this message; constant time for HMAC.
    pub(super) fn accepts(&self, signature: &[u8], id: &str, timestamp: &str, body: &[u8]) -> bool {
        match &self.0 {
            VerifyKind::Hmac(key) => {
                aws_lc_rs::constant_time::verify_slices_are_equal(mac(key, id, timestamp, body).as_ref(), signature)
                    .is_ok()
            }
            VerifyKind::Ed25519(public) => {
                UnparsedPublicKey::new(&ED25519, public).verify(&signed_content(id, timestamp, body), signature).is_ok()
            }
        }
    }
}

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VerifyKey({}, ****)", self.version())
    }
}

/// The raw bytes of a `whsec_` secret, for schemes that use it as a plain HMAC key.
pub(super) fn whsec_bytes(secret: &Secret) -> Result<Option<Zeroizing<Vec<u8>>>, KeyError> {
    secret.expose().strip_prefix(HMAC_PREFIX).map(|rest| decode(HMAC_PREFIX, rest)).transpose()
}

/// HMAC over the message without gluing it together first: bodies may be megabytes.
fn mac(key: &hmac::Key, id: &str, timestamp: &str, body: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(key);
    context.update(id.as_bytes());
    context.update(b".");
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    context.sign()
}

/// Ed25519 hashes its message twice, so it needs it in one piece.
fn signed_content(id: &str, timestamp: &str, body: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(id.len() + timestamp.len() + body.len() + 2);
    message.extend_from_slice(id.as_bytes());
    message.push(b'.');
    message.extend_from_slice(timestamp.as_bytes());
    message.push(b'.');
    message.extend_from_slice(body);
    message
}

fn hmac_key(rest: &str) -> Result<hmac::Key, KeyError> {
    let bytes = decode(HMAC_PREFIX, rest)?;
    if !HMAC_BYTES.contains(&bytes.len()) {
        return Err(KeyError::Length { prefix: HMAC_PREFIX, expected: "24 to 64 bytes", found: bytes.len() });
    }
    Ok(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
}

fn key_pair(rest: &str) -> Result<Ed25519KeyPair, KeyError> {
    let bytes = decode(PRIVATE_PREFIX, rest)?;
    let pair = if bytes.len() == SEED_BYTES {
        Ed25519KeyPair::from_seed_unchecked(&bytes)
    } else if bytes.len() == 2 * SEED_BYTES {
        let (seed, public) = bytes.split_at(SEED_BYTES);
        Ed25519KeyPair::from_seed_and_public_key(seed, public)
    } else {
        return Err(KeyError::Length {
            prefix: PRIVATE_PREFIX,
            expected: "64 bytes (seed and public key) or 32 bytes (seed)",
            found: bytes.len(),
        });
    };
    pair.map_err(|_| KeyError::Halves)
}

fn decode(prefix: &'static str, text: &str) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let detail = if text.is_empty() {
        "nothing follows"
    } else if text.contains(|c: char| c.is_ascii_whitespace()) {
        "it holds a space or a line break; take it out (a file may end in one line break)"
    } else if text.contains(['-', '_']) {
        "it is in the URL-safe alphabet (- and _); use the standard one (+ and /)"
    } else {
        match LENIENT.decode(text) {
            Ok(bytes) => return Ok(Zeroizing::new(bytes)),
            Err(base64::DecodeError::InvalidByte(..)) => "it holds a character that base64 does not have",
            Err(_) => "it is cut short or its end is damaged; copy the whole secret",
        }
    };
    Err(KeyError::Encoding { prefix, detail })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_keys_are_named_and_never_shown() {
        let short = format!("whsec_{}", STANDARD.encode([7; 23]));
        let long = format!("whsec_{}", STANDARD.encode([7; 65]));
        let odd = format!("whsk_{}", STANDARD.encode([7; 33]));
        let mismatched = format!("whsk_{}", STANDARD.encode([7; 64]));
        let public = format!("whpk_{}", STANDARD.encode([7; 32]));
        let cases: &[(&str, &str)] = &[
            ("", "the signing secret is empty"),
            ("hunter2", "begins with whsec_ (HMAC-SHA256) or whsk_ (ed25519)"),
            ("WHSEC_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "begins with whsec_"),
            (&public, "whpk_ is the public half of an ed25519 key"),
            ("whsec_", "what follows whsec_ is not base64: nothing follows"),
            ("whsec_MfKQ9r8G KYqrTwjUPD8ILPZIo2LaLaSw", "it holds a space or a line break"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", "it holds a space or a line break"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaL-_w", "it is in the URL-safe alphabet"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaS", "it is cut short or its end is damaged"),
            ("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaL", "it is cut short or its end is damaged"),
            ("whsec_MfKQ9r8G!YqrTwjUPD8ILPZIo2LaLaSw", "it holds a character that base64 does not have"),
            (&short, "what follows whsec_ must be base64 of 24 to 64 bytes, this is 23 bytes"),
            (&long, "what follows whsec_ must be base64 of 24 to 64 bytes, this is 65 bytes"),
            (&odd, "64 bytes (seed and public key) or 32 bytes (seed), this is 33 bytes"),
            (&mismatched, "does not belong to its private half"),
        ];
        for (secret, expected) in cases {
            let error = SigningKey::parse(&Secret::new(*secret)).expect_err(secret).to_string();
            assert!(error.contains(expected), "{secret:?}: {error}");
            let key = secret.trim_start_matches(|c: char| c != '_').trim_start_matches('_');
            assert!(key.len() < 5 || !error.contains(key), "{error} shows {secret}");
        }
    }

    #[test]
    fn good_keys_of_every_size_are_read() {
        for bytes in [24, 32, 64] {
            let key = SigningKey::parse(&Secret::new(format!("whsec_{}", STANDARD.encode(vec![9; bytes]))));
            assert_eq!(key.expect("valid").version(), "v1");
        }
        let seed = SigningKey::parse(&Secret::new(format!("whsk_{}", STANDARD.encode([9; 32])))).expect("valid");
        let public = seed.public().expect("ed25519 has a public half");
        assert!(VerifyKey::parse(&Secret::new(public)).is_ok());
        assert_eq!(format!("{seed:?}"), "SigningKey(v1a, ****)");
    }

    #[test]
    fn the_public_half_matches_the_published_one() {
        let key = SigningKey::parse(&Secret::new(
            "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==",
        ))
        .expect("valid");
        assert_eq!(key.public().as_deref(), Some("whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="));
    }
}
