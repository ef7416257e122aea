//! Digests, encodings and identifiers.

use aws_lc_rs::{digest, hmac};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rhai::{Engine, ImmutableString};

use super::super::engine::{facts, next_uuid};
use super::{Fallible, bounded};

pub(super) fn register(engine: &mut Engine) {
    engine.register_fn("sha256", |text: &str| hex(digest::digest(&digest::SHA256, text.as_bytes()).as_ref()));
    engine.register_fn("hmac_sha256", |key: &str, text: &str| {
        let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
        hex(hmac::sign(&key, text.as_bytes()).as_ref())
    });
    engine.register_fn("hex", |text: &str| bounded(hex(text.as_bytes())));
    engine.register_fn("base64_encode", |text: &str| bounded(BASE64_STANDARD.encode(text)));
    engine.register_fn("base64_decode", |text: &str| -> Fallible<ImmutableString> {
        let bytes = BASE64_STANDARD.decode(text.trim()).map_err(|error| format!("base64_decode: {error}"))?;
        let text = String::from_utf8(bytes).map_err(|_| "base64_decode: the bytes are no UTF-8 text")?;
        Ok(text.into())
    });
    engine.register_fn("uuid", || -> Fallible<ImmutableString> {
        let facts = facts().ok_or("uuid() is there only while an event is handled")?;
        Ok(uuid(&facts.id, next_uuid()).into())
    });
}

/// Lower-case hexadecimal digits.
pub(in super::super) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}

/// The `n`th identifier of an event: version 8 of RFC 9562, section 5.8, filled from a digest of both.
fn uuid(event: &str, n: u64) -> String {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(b"sidehook rule uuid\0");
    context.update(event.as_bytes());
    context.update(&n.to_be_bytes());
    let hash = context.finish();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.as_ref()[..16]);
    bytes[6] = (bytes[6] & 0x0f) | 0x80;
    bytes[8] = (bytes[8] & 0x3f) | 0x80;
    let h = hex(&bytes);
    format!("{}-{}-{}-{}-{}", &h[..8], &h[8..12], &h[12..16], &h[16..20], &h[20..])
}
