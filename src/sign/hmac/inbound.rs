//! The `hmac` scheme read backwards: what another platform put into its header, held against what its template says.
//! Takes elements in any order and several signatures, as platforms that change their secret send them.

use std::time::Duration;

use aws_lc_rs::{constant_time, hmac};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};

use super::{Encoding, HmacScheme, HmacTemplate, Part, TemplateError};
use crate::clock::Timestamp;
use crate::secret::Secret;
use crate::sign::inbound::{InboundError, SIGNATURES, header, within};

/// Where, beside the signature's header, a sender tells what it signed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Beside<'a> {
    /// `timestamp_header`
    pub timestamp: Option<&'a str>,
    /// `id_header`
    pub id: Option<&'a str>,
}

/// An `hmac` scheme that checks.
pub struct HmacVerifier {
    scheme: HmacScheme,
    elements: Vec<Element>,
    timestamp_header: Option<HeaderName>,
    id_header: Option<HeaderName>,
    tolerance: Duration,
}

/// One element of the header's value, `v1={signature}`: what stands around a placeholder.
#[derive(Debug)]
struct Element {
    prefix: String,
    part: Part,
    suffix: String,
}

/// What a header told.
#[derive(Default)]
struct Received {
    timestamp: Option<String>,
    id: Option<String>,
    signatures: Vec<Vec<u8>>,
    /// Whether there was any, be it no text of the encoding.
    signed: bool,
}

impl HmacVerifier {
    /// Checks template, secrets and headers; all mistakes come back together. `content` may name what the template or one of
    /// the headers beside it tells; a timestamp must be within `tolerance` where `content` covers it.
    pub fn new(
        template: HmacTemplate<'_>,
        beside: Beside<'_>,
        secrets: &[Secret],
        tolerance: Duration,
    ) -> Result<Self, Vec<TemplateError>> {
        let mut mistakes = Vec::new();
        let mut name = |text: Option<&str>| {
            let text = text?;
            let name = HeaderName::from_bytes(text.as_bytes()).ok();
            if name.is_none() {
                mistakes.push(TemplateError::Header(text.to_owned()));
            }
            name
        };
        let (timestamp_header, id_header) = (name(beside.timestamp), name(beside.id));
        let scheme = match HmacScheme::new(template, secrets) {
            Ok(scheme) => scheme,
            Err(more) => {
                mistakes.extend(more);
                return Err(mistakes);
            }
        };
        let elements = match elements(&scheme) {
            Ok(elements) => elements,
            Err(mistake) => {
                mistakes.push(mistake);
                return Err(mistakes);
            }
        };
        let told = |part: &Part| elements.iter().any(|element| element.part == *part);
        for (part, written, header) in [
            (Part::Timestamp, "timestamp", beside.timestamp.is_some()),
            (Part::TimestampMillis, "timestamp_ms", beside.timestamp.is_some()),
            (Part::Id, "id", beside.id.is_some()),
        ] {
            if scheme.content.contains(&part) && !told(&part) && !header {
                mistakes.push(TemplateError::Untold { name: written });
            }
        }
        if mistakes.is_empty() {
            Ok(Self { scheme, elements, timestamp_header, id_header, tolerance })
        } else {
            Err(mistakes)
        }
    }

    /// Whether the timestamp is part of what is signed, so that an old request is recognised.
    #[must_use]
    pub fn is_timed(&self) -> bool {
        self.scheme.content.iter().any(|part| matches!(part, Part::Timestamp | Part::TimestampMillis))
    }

    /// The header that carries the signature.
    #[must_use]
    pub fn header(&self) -> &HeaderName {
        &self.scheme.header
    }

    pub(in crate::sign) fn verify(&self, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), InboundError> {
        let mut received = self.read(header(headers, &self.scheme.header)?);
        if !received.signed {
            return Err(InboundError::Malformed(self.scheme.header.to_string()));
        }
        if let (None, Some(name)) = (&received.timestamp, &self.timestamp_header)
            && self.is_timed()
        {
            received.timestamp = Some(header(headers, name)?.trim().to_owned());
        }
        if let (None, Some(name)) = (&received.id, &self.id_header)
            && self.scheme.content.contains(&Part::Id)
        {
            received.id = Some(header(headers, name)?.to_owned());
        }
        let at = if self.is_timed() { Some(self.time(&received)?) } else { None };
        let mut matches = false;
        for key in &self.scheme.keys {
            let tag = self.mac(key, &received, body);
            for signature in &received.signatures {
                matches |= constant_time::verify_slices_are_equal(tag.as_ref(), signature).is_ok();
            }
        }
        if !matches {
            return Err(InboundError::Mismatch);
        }
        // Looked at last, so that a wrong clock and a wrong secret are told apart.
        at.map_or(Ok(()), |at| within(at, now, self.tolerance))
    }

    fn read(&self, value: &str) -> Received {
        let mut received = Received::default();
        for text in value.split([',', ';']).map(str::trim) {
            let found = self.elements.iter().find_map(|element| {
                let inner = text.strip_prefix(element.prefix.as_str())?.strip_suffix(element.suffix.as_str())?;
                Some((&element.part, inner))
            });
            match found {
                Some((Part::Signature, inner)) if received.signatures.len() < SIGNATURES => {
                    received.signed = true;
                    received.signatures.extend(self.decoded(inner));
                }
                Some((Part::Timestamp | Part::TimestampMillis, inner)) => received.timestamp = Some(inner.to_owned()),
                Some((Part::Id, inner)) => received.id = Some(inner.to_owned()),
                _ => {}
            }
        }
        received
    }

    fn decoded(&self, text: &str) -> Option<Vec<u8>> {
        match self.scheme.encoding {
            Encoding::Base64 => STANDARD.decode(text).ok(),
            Encoding::Hex => {
                let digits = text.as_bytes().chunks(2).map(|pair| {
                    let text = std::str::from_utf8(pair).ok().filter(|text| text.len() == 2)?;
                    u8::from_str_radix(text, 16).ok()
                });
                digits.collect()
            }
        }
    }

    /// When it was signed, in milliseconds.
    fn time(&self, received: &Received) -> Result<Timestamp, InboundError> {
        let text = received.timestamp.as_deref().unwrap_or_default();
        let whole = Some(text).filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
        let number: i64 = whole.and_then(|text| text.parse().ok()).ok_or(InboundError::Timestamp)?;
        let unit = if self.scheme.content.contains(&Part::TimestampMillis) { 1 } else { 1000 };
        number.checked_mul(unit).map(Timestamp::from_millis).ok_or(InboundError::Timestamp)
    }

    /// Over what was received, letter by letter.
    fn mac(&self, key: &hmac::Key, received: &Received, body: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(key);
        for part in &self.scheme.content {
            match part {
                Part::Text(text) => context.update(text.as_bytes()),
                Part::Timestamp | Part::TimestampMillis => {
                    context.update(received.timestamp.as_deref().unwrap_or_default().as_bytes());
                }
                Part::Id => context.update(received.id.as_deref().unwrap_or_default().as_bytes()),
                Part::Body => context.update(body),
                Part::Signature => {}
            }
        }
        context.sign()
    }
}

/// The template as elements between commas or semicolons; each holds one placeholder at most.
fn elements(scheme: &HmacScheme) -> Result<Vec<Element>, TemplateError> {
    let prefix = [Part::Text(scheme.prefix.clone()), Part::Signature];
    let parts = scheme.before.iter().chain(&prefix).chain(&scheme.after);
    let mut elements = Vec::new();
    let mut open = Element { prefix: String::new(), part: Part::Body, suffix: String::new() };
    let mut close = |element: &mut Element| {
        let fresh = Element { prefix: String::new(), part: Part::Body, suffix: String::new() };
        let Element { prefix, part, suffix } = std::mem::replace(element, fresh);
        // Nothing but text says nothing.
        if part != Part::Body {
            let (prefix, suffix) = (prefix.trim_start().to_owned(), suffix.trim_end().to_owned());
            elements.push(Element { prefix, part, suffix });
        }
    };
    for part in parts {
        let Part::Text(text) = part else {
            if open.part != Part::Body {
                return Err(TemplateError::Together);
            }
            open.part = part.clone();
            continue;
        };
        for (i, piece) in text.split([',', ';']).enumerate() {
            if i > 0 {
                close(&mut open);
            }
            let side = if open.part == Part::Body { &mut open.prefix } else { &mut open.suffix };
            side.push_str(piece);
        }
    }
    close(&mut open);
    Ok(elements)
}
