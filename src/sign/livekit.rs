//! `LiveKit`'s signature: a JSON web token (RFC 7519) in the authorization header, signed with HMAC-SHA256 by the secret of an API key,
//! whose claim `sha256` is the digest of the body. One algorithm only, whatever a token says.

use std::time::Duration;

use aws_lc_rs::{constant_time, digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, header::AUTHORIZATION};
use serde::Deserialize;

use super::inbound::{InboundError, header};
use crate::clock::Timestamp;
use crate::secret::Secret;

/// How far the clocks of both sides may be apart.
const LEEWAY: Duration = Duration::from_secs(60);
/// Longest token that is read.
const TOKEN_BYTES: usize = 8 * 1024;

/// What `LiveKit` signs with.
pub struct LiveKit {
    api_key: String,
    key: Box<hmac::Key>,
}

#[derive(Deserialize)]
struct Head {
    alg: String,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: String,
    exp: Option<f64>,
    nbf: Option<f64>,
    #[serde(default)]
    sha256: String,
}

impl LiveKit {
    /// From `api_key` and `api_secret`.
    #[must_use]
    pub fn new(api_key: &str, api_secret: &Secret) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, api_secret.expose().as_bytes());
        Self { api_key: api_key.to_owned(), key: Box::new(key) }
    }

    pub(super) fn verify(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), InboundError> {
        let refused = InboundError::Token;
        let value = header(headers, &AUTHORIZATION)?;
        let token = value.strip_prefix("Bearer ").unwrap_or(value).trim();
        if token.len() > TOKEN_BYTES {
            return Err(refused("is too long"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(refused("is no JSON web token"))?;
        let (head, claims) = signed.split_once('.').ok_or(refused("is no JSON web token"))?;
        let head: Head = part(head).ok_or(refused("is no JSON web token"))?;
        if head.alg != "HS256" {
            return Err(refused("is not signed with HS256, the only algorithm that is taken"));
        }
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| refused("is no JSON web token"))?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).map_err(|_| InboundError::Mismatch)?;
        let claims: Claims = part(claims).ok_or(refused("has claims that cannot be read"))?;
        if claims.iss != self.api_key {
            return Err(refused("was issued by another API key"));
        }
        let hash = digest::digest(&digest::SHA256, body);
        let told = STANDARD.decode(&claims.sha256).map_err(|_| refused("has no sha256 of the body"))?;
        if constant_time::verify_slices_are_equal(hash.as_ref(), &told).is_err() {
            return Err(refused("is of another body: its sha256 is a different one"));
        }
        on_time(&claims, now)
    }
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of our age are exact in a float")]
fn on_time(claims: &Claims, now: Timestamp) -> Result<(), InboundError> {
    let (now, leeway) = (now.as_millis() as f64 / 1000.0, LEEWAY.as_secs_f64());
    match (claims.exp, claims.nbf) {
        (None, _) => Err(InboundError::Token("has no exp, so it would be good for ever")),
        (Some(exp), _) if now > exp + leeway => Err(InboundError::Token("has expired")),
        (_, Some(nbf)) if now + leeway < nbf => Err(InboundError::Token("is not good yet: the clocks are apart")),
        _ => Ok(()),
    }
}

fn part<T: serde::de::DeserializeOwned>(text: &str) -> Option<T> {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()
}
