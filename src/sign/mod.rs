//! Signature schemes: keys in, header values out, and the way back. Does no I/O and knows no clock.

mod hmac;
mod inbound;
mod key;
mod livekit;
mod verify;

use std::fmt;

use http::{HeaderName, HeaderValue};

pub use hmac::{Algorithm, Beside, Encoding, HmacScheme, HmacTemplate, HmacVerifier, TemplateError};
pub use inbound::{InboundError, Verifier};
pub use key::{KeyError, SigningKey, VerifyKey};
pub use livekit::LiveKit;
pub use verify::{DEFAULT_TOLERANCE, VerifyError, verify};

/// Identifies a delivery: the same on every attempt.
pub const ID: HeaderName = HeaderName::from_static("webhook-id");
/// Whole seconds since the Unix epoch when the attempt was made.
pub const TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Space-separated `version,base64` signatures.
pub const SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");

/// How a webhook's requests are signed.
pub enum Signer {
    /// `scheme: none`
    None,
    /// Standard Webhooks 1.0; the first key is current.
    Standard(Vec<SigningKey>),
    /// A template, for receivers that expect another platform's scheme.
    Hmac(HmacScheme),
}

impl Signer {
    /// The signature headers for one attempt, `webhook-id` and `webhook-timestamp` included.
    #[must_use]
    pub fn headers(&self, id: &str, timestamp_secs: i64, body: &[u8]) -> Vec<(HeaderName, HeaderValue)> {
        let mut headers = vec![(ID, value(id)), (TIMESTAMP, HeaderValue::from(timestamp_secs))];
        match self {
            Self::None => {}
            Self::Standard(keys) => {
                let mut signatures = String::new();
                for key in keys {
                    if !signatures.is_empty() {
                        signatures.push(' ');
                    }
                    key.sign_into(&mut signatures, id, timestamp_secs, body);
                }
                headers.push((SIGNATURE, value(&signatures)));
            }
            Self::Hmac(scheme) => {
                headers.push((scheme.header().clone(), value(&scheme.sign(id, timestamp_secs, body))));
            }
        }
        headers
    }

    /// Names of the headers that only the signer may set.
    #[must_use]
    pub fn reserved(&self) -> Vec<HeaderName> {
        let mut names = vec![ID, TIMESTAMP, SIGNATURE];
        if let Self::Hmac(scheme) = self
            && !names.contains(scheme.header())
        {
            names.push(scheme.header().clone());
        }
        names
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("Signer::None"),
            Self::Standard(keys) => write!(f, "Signer::Standard({} keys)", keys.len()),
            Self::Hmac(scheme) => write!(f, "Signer::Hmac({})", scheme.header()),
        }
    }
}

/// Everything that reaches this is base64, hex, digits or a checked template; an id that could not be a header value
/// would have been refused when it was made, and an empty value is refused by every receiver.
fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    fn signature(secret: &str, id: &str, timestamp: i64, body: &str) -> String {
        let key = SigningKey::parse(&Secret::new(secret)).expect("a valid key");
        let headers = Signer::Standard(vec![key]).headers(id, timestamp, body.as_bytes());
        assert_eq!(headers[0].0, "webhook-id");
        assert_eq!(headers[0].1, id);
        assert_eq!(headers[1].0, "webhook-timestamp");
        assert_eq!(headers[1].1, timestamp.to_string());
        headers[2].1.to_str().expect("ascii").to_owned()
    }

    const V1: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    const V3: &str = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    const ID1: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const BODY1: &str = r#"{"test": 2432232314}"#;
    const SIG1: &str = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    const SIG3: &str = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";

    #[test]
    fn the_three_public_vectors_come_out_byte_for_byte() {
        assert_eq!(signature(V1, ID1, 1_614_265_330, BODY1), SIG1);
        let body = r#"{"email":"test@example.com","username":"test_user"}"#;
        assert_eq!(
            signature("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk", 1_649_367_553, body),
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw="
        );
        assert_eq!(signature(V3, ID1, 1_614_265_330, BODY1), SIG3);
    }

    #[test]
    fn several_keys_sign_side_by_side_current_first() {
        let keys = vec![
            SigningKey::parse(&Secret::new(V3)).expect("a key"),
            SigningKey::parse(&Secret::new(V1)).expect("a key"),
        ];
        let headers = Signer::Standard(keys).headers(ID1, 1_614_265_330, BODY1.as_bytes());
        assert_eq!(headers[2].1.to_str().expect("ascii"), format!("{SIG3} {SIG1}"));
    }

    #[test]
    fn none_still_identifies_and_reserves() {
        let headers = Signer::None.headers("msg_1", 5, b"");
        assert_eq!(headers.iter().map(|(n, _)| n.as_str()).collect::<Vec<_>>(), ["webhook-id", "webhook-timestamp"]);
        assert_eq!(Signer::None.reserved(), [ID, TIMESTAMP, SIGNATURE]);
    }
}
