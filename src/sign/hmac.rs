//! The `hmac` scheme: a header made from a template, for receivers that expect another platform's signature.
//! Everything a template can get wrong is refused when it is read, so that signing cannot fail.

mod inbound;

use std::fmt::Write as _;

use aws_lc_rs::hmac;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderName;

use super::key::{KeyError, whsec_bytes};
use crate::secret::Secret;

pub use inbound::{Beside, HmacVerifier};

/// `algorithm`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// HMAC-SHA256.
    #[default]
    Sha256,
    /// HMAC-SHA512.
    Sha512,
}

/// `encoding`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Encoding {
    /// Lower-case hexadecimal.
    #[default]
    Hex,
    /// Standard alphabet, padded.
    Base64,
}

/// The keys of `signing` that describe an `hmac` scheme, as written.
#[derive(Debug, Clone, Copy)]
pub struct HmacTemplate<'a> {
    /// `header`
    pub header: &'a str,
    /// `algorithm`
    pub algorithm: Algorithm,
    /// `encoding`
    pub encoding: Encoding,
    /// `template`: the header's value, with `{signature}` and optionally `{timestamp}`, `{timestamp_ms}`, `{id}`.
    pub template: &'a str,
    /// `content`: what is signed, with `{body}` and optionally `{timestamp}`, `{timestamp_ms}`, `{id}`.
    pub content: &'a str,
}

/// What is wrong with an `hmac` scheme. Never shows a secret.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// `header` is no header name.
    #[error("header {0:?} is not a header name; write one such as X-Signature")]
    Header(String),
    /// `header` has another meaning.
    #[error("header {0:?} has a meaning of its own and cannot carry the signature; write one such as X-Signature")]
    Taken(String),
    /// A placeholder nobody knows.
    #[error("{key} names {{{name}}}; known are {known}")]
    Placeholder {
        /// `template` or `content`.
        key: &'static str,
        /// As written.
        name: String,
        /// What may stand there.
        known: &'static str,
    },
    /// `{` without `}`.
    #[error("{key} has an opening brace without a closing one; close it, as in {{timestamp}}")]
    Brace {
        /// `template` or `content`.
        key: &'static str,
    },
    /// The signature is missing from the header.
    #[error("template must hold {{signature}} once; write for example \"t={{timestamp}},v1={{signature}}\"")]
    NoSignature,
    /// The body would not be covered.
    #[error("content must hold {{body}}, else anybody could change it; write for example \"{{timestamp}}.{{body}}\"")]
    NoBody,
    /// Of a scheme that checks: nobody tells what belongs there.
    #[error(
        "content names {{{name}}}, which neither the template nor a header tells; write it into the template, or name its header"
    )]
    Untold {
        /// The placeholder.
        name: &'static str,
    },
    /// Of a scheme that checks: unclear where one ends and the next begins.
    #[error(
        "template has two placeholders without a comma or a semicolon between them; write for example \"t={{timestamp}},v1={{signature}}\""
    )]
    Together,
    /// Not a header value.
    #[error("template holds a character that a header value cannot carry, or a blank at its end; use visible ASCII")]
    Characters,
    /// No secret given.
    #[error("secrets is empty; scheme hmac needs at least one")]
    NoSecret,
    /// One of the secrets is no key.
    #[error("{error}")]
    Key {
        /// Which one, from 0.
        index: usize,
        /// What is wrong with it.
        error: KeyError,
    },
}

/// The `hmac` scheme, as configured.
pub struct HmacScheme {
    header: HeaderName,
    encoding: Encoding,
    /// What stands before the repeated part.
    before: Vec<Part>,
    /// What is repeated before each signature, `v1=`.
    prefix: String,
    after: Vec<Part>,
    content: Vec<Part>,
    keys: Vec<hmac::Key>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    Text(String),
    Timestamp,
    TimestampMillis,
    Id,
    Body,
    Signature,
}

/// Headers that mean something else to HTTP or to sidehook itself.
const TAKEN: [&str; 12] = [
    "host",
    "connection",
    "content-length",
    "content-type",
    "content-encoding",
    "transfer-encoding",
    "te",
    "upgrade",
    "user-agent",
    "traceparent",
    "webhook-id",
    "webhook-timestamp",
];

impl HmacScheme {
    /// Checks a template and its secrets; all mistakes come back together. A `whsec_` secret is decoded, any other is
    /// the key as written.
    pub fn new(template: HmacTemplate<'_>, secrets: &[Secret]) -> Result<Self, Vec<TemplateError>> {
        let mut mistakes = Vec::new();
        let header = HeaderName::from_bytes(template.header.as_bytes()).ok();
        match &header {
            None => mistakes.push(TemplateError::Header(template.header.to_owned())),
            Some(name) if TAKEN.contains(&name.as_str()) => {
                mistakes.push(TemplateError::Taken(template.header.to_owned()));
            }
            Some(_) => {}
        }
        let (before, prefix, after) = split_template(template.template, &mut mistakes);
        let others = mistakes.len();
        let content = parts("content", template.content, &mut mistakes);
        if !content.contains(&Part::Body) && mistakes.len() == others {
            mistakes.push(TemplateError::NoBody);
        }
        let algorithm = match template.algorithm {
            Algorithm::Sha256 => hmac::HMAC_SHA256,
            Algorithm::Sha512 => hmac::HMAC_SHA512,
        };
        if secrets.is_empty() {
            mistakes.push(TemplateError::NoSecret);
        }
        let mut keys = Vec::with_capacity(secrets.len());
        for (index, secret) in secrets.iter().enumerate() {
            let key = if secret.expose().is_empty() { Err(KeyError::Empty) } else { whsec_bytes(secret) };
            match key {
                Ok(Some(bytes)) => keys.push(hmac::Key::new(algorithm, &bytes)),
                Ok(None) => keys.push(hmac::Key::new(algorithm, secret.expose().as_bytes())),
                Err(error) => mistakes.push(TemplateError::Key { index, error }),
            }
        }
        match header {
            Some(header) if mistakes.is_empty() => {
                Ok(Self { header, encoding: template.encoding, before, prefix, after, content, keys })
            }
            _ => Err(mistakes),
        }
    }

    /// The header that carries the signature.
    #[must_use]
    pub fn header(&self) -> &HeaderName {
        &self.header
    }

    /// The header's value. With several keys `{signature}` is repeated with its prefix, comma-separated.
    pub(super) fn sign(&self, id: &str, timestamp_secs: i64, body: &[u8]) -> String {
        let mut out = String::new();
        text_into(&self.before, &mut out, id, timestamp_secs);
        for (i, key) in self.keys.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            out.push_str(&self.prefix);
            let tag = self.mac(key, id, timestamp_secs, body);
            match self.encoding {
                Encoding::Base64 => STANDARD.encode_string(tag, &mut out),
                Encoding::Hex => {
                    for byte in tag.as_ref() {
                        let _ = write!(out, "{byte:02x}");
                    }
                }
            }
        }
        text_into(&self.after, &mut out, id, timestamp_secs);
        out
    }

    fn mac(&self, key: &hmac::Key, id: &str, timestamp_secs: i64, body: &[u8]) -> hmac::Tag {
        let mut context = hmac::Context::with_key(key);
        let mut text = String::new();
        for part in &self.content {
            if *part == Part::Body {
                context.update(body);
            } else {
                text.clear();
                text_into(std::slice::from_ref(part), &mut text, id, timestamp_secs);
                context.update(text.as_bytes());
            }
        }
        context.sign()
    }
}

/// Writes everything but bodies and signatures, which the callers place themselves.
fn text_into(parts: &[Part], out: &mut String, id: &str, timestamp_secs: i64) {
    for part in parts {
        match part {
            Part::Text(text) => out.push_str(text),
            Part::Timestamp => {
                let _ = write!(out, "{timestamp_secs}");
            }
            Part::TimestampMillis => {
                let _ = write!(out, "{}", timestamp_secs.saturating_mul(1000));
            }
            Part::Id => out.push_str(id),
            Part::Body | Part::Signature => {}
        }
    }
}

/// Around `{signature}`: what comes before, what is repeated with it (back to the last separator), what follows.
fn split_template(template: &str, mistakes: &mut Vec<TemplateError>) -> (Vec<Part>, String, Vec<Part>) {
    let others = mistakes.len();
    if !template.bytes().all(|b| (b' '..=b'~').contains(&b)) || template.trim() != template {
        mistakes.push(TemplateError::Characters);
    }
    let mut before = parts("template", template, mistakes);
    let mut places = before.iter().enumerate().filter(|(_, part)| **part == Part::Signature).map(|(i, _)| i);
    let (Some(at), None) = (places.next(), places.next()) else {
        // A misspelt placeholder may be the one that is missing; that is told already.
        if mistakes.len() == others {
            mistakes.push(TemplateError::NoSignature);
        }
        return (before, String::new(), Vec::new());
    };
    let after = before.split_off(at + 1);
    before.truncate(at);
    let mut prefix = String::new();
    if let Some(Part::Text(text)) = before.last_mut() {
        let cut = text.rfind([',', ';', ' ']).map_or(0, |i| i + 1);
        prefix = text.split_off(cut);
    }
    (before, prefix, after)
}

fn parts(key: &'static str, text: &str, mistakes: &mut Vec<TemplateError>) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(open) = rest.find('{') {
        if open > 0 {
            parts.push(Part::Text(rest[..open].to_owned()));
        }
        let Some(close) = rest[open..].find('}').map(|close| close + open) else {
            mistakes.push(TemplateError::Brace { key });
            return parts;
        };
        let name = &rest[open + 1..close];
        match (name, key) {
            ("timestamp", _) => parts.push(Part::Timestamp),
            ("timestamp_ms", _) => parts.push(Part::TimestampMillis),
            ("id", _) => parts.push(Part::Id),
            ("body", "content") => parts.push(Part::Body),
            ("signature", "template") => parts.push(Part::Signature),
            _ => {
                let known = if key == "content" {
                    "{timestamp}, {timestamp_ms}, {id}, {body}"
                } else {
                    "{timestamp}, {timestamp_ms}, {id}, {signature}"
                };
                mistakes.push(TemplateError::Placeholder { key, name: name.to_owned(), known });
            }
        }
        rest = &rest[close + 1..];
    }
    if !rest.is_empty() {
        parts.push(Part::Text(rest.to_owned()));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scheme(header: &str, template: &str, content: &str, secrets: &[&str]) -> Result<HmacScheme, Vec<TemplateError>> {
        let secrets: Vec<Secret> = secrets.iter().map(|s| Secret::new(*s)).collect();
        let (algorithm, encoding) = (Algorithm::Sha256, Encoding::Hex);
        HmacScheme::new(HmacTemplate { header, algorithm, encoding, template, content }, &secrets)
    }

    #[test]
    fn github_documented_example() {
        // "Validating webhook deliveries", docs.github.com: secret, payload and expected value are given there.
        let github =
            scheme("X-Hub-Signature-256", "sha256={signature}", "{body}", &["It's a Secret to Everybody"]).expect("ok");
        assert_eq!(
            github.sign("msg_1", 0, b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    #[test]
    fn slack_documented_example() {
        // "Verifying requests from Slack", api.slack.com: signing secret, timestamp, body and signature are given there.
        let body = "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&\
                    channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&\
                    response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F\
                    96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let slack = scheme(
            "X-Slack-Signature",
            "v0={signature}",
            "v0:{timestamp}:{body}",
            &["8f742231b10e8888abcd99yyyzzz85a5"],
        )
        .expect("ok");
        assert_eq!(
            slack.sign("msg_1", 1_531_420_618, body.as_bytes()),
            "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
        );
    }

    #[test]
    fn stripe_and_elevenlabs_sign_timestamp_and_body_and_retell_body_and_milliseconds() {
        let sha = |key: &str, content: &str| {
            let key = hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes());
            hmac::sign(&key, content.as_bytes()).as_ref().iter().fold(String::new(), |mut s, b| {
                let _ = write!(s, "{b:02x}");
                s
            })
        };
        let stripe = scheme("Stripe-Signature", "t={timestamp},v1={signature}", "{timestamp}.{body}", &["k1", "k2"])
            .expect("ok");
        assert_eq!(
            stripe.sign("msg_1", 12, b"{}"),
            format!("t=12,v1={},v1={}", sha("k1", "12.{}"), sha("k2", "12.{}"))
        );
        let eleven = scheme("ElevenLabs-Signature", "t={timestamp},v0={signature}", "{timestamp}.{body}", &["k"]);
        assert_eq!(eleven.expect("ok").sign("m", 12, b"{}"), format!("t=12,v0={}", sha("k", "12.{}")));
        let retell = scheme("X-Retell-Signature", "v={timestamp_ms},d={signature}", "{body}{timestamp_ms}", &["k"]);
        assert_eq!(retell.expect("ok").sign("m", 12, b"{}"), format!("v=12000,d={}", sha("k", "{}12000")));
    }

    #[test]
    fn a_whsec_secret_is_decoded_and_sha512_and_base64_are_honoured() {
        let secrets = [Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")];
        let template = HmacTemplate {
            header: "X-Signature",
            algorithm: Algorithm::Sha512,
            encoding: Encoding::Base64,
            template: "{signature}",
            content: "{id}|{body}",
        };
        let scheme = HmacScheme::new(template, &secrets).expect("ok");
        let raw = STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64");
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA512, &raw), b"msg_1|x");
        assert_eq!(scheme.sign("msg_1", 0, b"x"), STANDARD.encode(tag));
    }

    #[test]
    fn mistakes_are_named() {
        let long = "t={timestamp},v1={signature}";
        let cases: &[(&str, &str, &str, &[&str], &str)] = &[
            ("X Sig", long, "{body}", &["k"], "\"X Sig\" is not a header name"),
            ("Content-Length", long, "{body}", &["k"], "has a meaning of its own"),
            ("webhook-id", long, "{body}", &["k"], "has a meaning of its own"),
            ("X-S", "v1=", "{body}", &["k"], "template must hold {signature} once"),
            ("X-S", "{signature}{signature}", "{body}", &["k"], "template must hold {signature} once"),
            ("X-S", "{signature}{body}", "{body}", &["k"], "template names {body}; known are"),
            ("X-S", "{sig}", "{body}", &["k"], "template names {sig}; known are {timestamp}"),
            ("X-S", "{signature", "{body}", &["k"], "template has an opening brace without a closing one"),
            ("X-S", "v1={signature}\n", "{body}", &["k"], "a character that a header value cannot carry"),
            ("X-S", "{signature}", "{timestamp}", &["k"], "content must hold {body}"),
            ("X-S", "{signature}", "{signature}{body}", &["k"], "content names {signature}; known are"),
            ("X-S", "{signature}", "{body}", &[], "secrets is empty"),
            ("X-S", "{signature}", "{body}", &[""], "the signing secret is empty"),
            ("X-S", "{signature}", "{body}", &["whsec_!!"], "what follows whsec_ is not base64"),
        ];
        for (header, template, content, secrets, expected) in cases {
            let errors = scheme(header, template, content, secrets).err().expect(expected);
            let [error] = &errors[..] else { panic!("one mistake, {} are told: {errors:?}", errors.len()) };
            assert!(error.to_string().contains(expected), "{error}");
        }
    }

    #[test]
    fn all_mistakes_come_together() {
        let errors = scheme("Host", "{sig},{x}", "{timestamp", &["", "k", "whsec_!!"]).err().expect("mistakes");
        let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
        let wanted = ["\"Host\"", "{sig}", "{x}", "content has an opening", "secret is empty", "not base64"];
        assert_eq!(told.len(), wanted.len(), "{told:?}");
        for (told, wanted) in told.iter().zip(wanted) {
            assert!(told.contains(wanted), "{told}");
        }
        assert!(matches!(errors[5], TemplateError::Key { index: 2, .. }));
    }
}
