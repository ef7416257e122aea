//! Requests as platforms sign them, and what is refused.

use aws_lc_rs::{digest, hmac};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::HeaderValue;
use proptest::prelude::*;

use super::super::{Algorithm, Beside, Encoding, HmacTemplate, Signer, SigningKey, TemplateError};
use super::*;
use crate::secret::Secret;

const NOW: i64 = 1_767_440_290;
const BODY: &[u8] = br#"{"event":"call_ended"}"#;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_millis(seconds * 1000)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).filter_map(|d| char::from_digit(d.into(), 16)).collect()
}

fn mac(key: &str, content: &str) -> String {
    hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key.as_bytes()), content.as_bytes()).as_ref())
}

fn headers(pairs: &[(&str, &str)]) -> HeaderMap {
    let pair = |(name, value): &(&str, &str)| {
        let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
        (name, HeaderValue::from_str(value).expect("a value"))
    };
    pairs.iter().map(pair).collect()
}

fn scheme(template: HmacTemplate<'_>, beside: Beside<'_>, secrets: &[&str]) -> Result<Verifier, Vec<TemplateError>> {
    let secrets: Vec<Secret> = secrets.iter().map(|s| Secret::new(*s)).collect();
    HmacVerifier::new(template, beside, &secrets, Duration::from_secs(300))
        .map(|verifier| Verifier::Hmac(Box::new(verifier)))
}

fn template<'a>(header: &'a str, template: &'a str, content: &'a str) -> HmacTemplate<'a> {
    HmacTemplate { header, algorithm: Algorithm::Sha256, encoding: Encoding::Hex, template, content }
}

fn said(result: Result<(), InboundError>) -> String {
    result.map_or_else(|error| error.to_string(), |()| "good".to_owned())
}

#[test]
fn retell_elevenlabs_vapi_and_github_are_read_as_they_sign() {
    let body = std::str::from_utf8(BODY).expect("text");
    let retell = scheme(
        template("X-Retell-Signature", "v={timestamp_ms},d={signature}", "{body}{timestamp_ms}"),
        Beside::default(),
        &["key_api"],
    )
    .expect("a scheme");
    let ms = NOW * 1000 + 123;
    let good = format!("v={ms},d={}", mac("key_api", &format!("{body}{ms}")));
    assert_eq!(retell.verify(&headers(&[("x-retell-signature", &good)]), BODY, at(NOW)), Ok(()));

    let eleven = scheme(
        template("ElevenLabs-Signature", "t={timestamp},v0={signature}", "{timestamp}.{body}"),
        Beside::default(),
        &["old", "wsec_k"],
    )
    .expect("a scheme");
    let signature = mac("wsec_k", &format!("{NOW}.{body}"));
    for (value, want) in [
        (format!("t={NOW},v0={signature}"), "good"),
        (format!("v0={signature}, t={NOW}"), "good"),
        (format!("t={NOW},v0={},v0={signature},v9=x", mac("other", "x")), "good"),
        (format!("t={NOW},v0={}", signature.to_uppercase()), "good"),
        (
            format!("t={},v0={signature}", NOW + 1),
            "no signature matches: the secret is another one, or what was signed was changed on the way",
        ),
        (
            format!("t={NOW},v0=abc"),
            "no signature matches: the secret is another one, or what was signed was changed on the way",
        ),
        (format!("t={NOW}"), "the elevenlabs-signature header holds no signature of the configured form"),
        (format!("v0={signature}"), "the timestamp of the signature must be a whole number"),
        (format!("t=soon,v0={signature}"), "the timestamp of the signature must be a whole number"),
        (format!("t=99999999999999999999,v0={signature}"), "the timestamp of the signature must be a whole number"),
    ] {
        assert_eq!(said(eleven.verify(&headers(&[("elevenlabs-signature", &value)]), BODY, at(NOW))), want, "{value}");
    }
    let value = format!("t={NOW},v0={signature}");
    for (now, want) in [
        (NOW + 300, "good"),
        (NOW - 300, "good"),
        (NOW + 301, "the signature is right, but its timestamp is 301 s in the past, more than the tolerance"),
        (NOW - 301, "the signature is right, but its timestamp is 301 s in the future, more than the tolerance"),
    ] {
        assert_eq!(said(eleven.verify(&headers(&[("elevenlabs-signature", &value)]), BODY, at(now))), want, "{now}");
    }
    let twice = headers(&[("elevenlabs-signature", &value), ("elevenlabs-signature", &value)]);
    assert_eq!(
        said(eleven.verify(&twice, BODY, at(NOW))),
        "the elevenlabs-signature header holds no signature of the configured form"
    );
    assert_eq!(said(eleven.verify(&HeaderMap::new(), BODY, at(NOW))), "the elevenlabs-signature header is missing");

    // As Vapi's credential can be set up: timestamp and id in headers of their own.
    let vapi = scheme(
        template("x-vapi-signature", "sha256={signature}", "{id}.{timestamp}.{body}"),
        Beside { timestamp: Some("x-vapi-timestamp"), id: Some("x-vapi-id") },
        &["k"],
    )
    .expect("a scheme");
    let signature = format!("sha256={}", mac("k", &format!("m1.{NOW}.{body}")));
    let time = NOW.to_string();
    let all = [("x-vapi-signature", signature.as_str()), ("x-vapi-timestamp", &time), ("x-vapi-id", "m1")];
    assert_eq!(vapi.verify(&headers(&all), BODY, at(NOW)), Ok(()));
    assert_eq!(said(vapi.verify(&headers(&all[..2]), BODY, at(NOW))), "the x-vapi-id header is missing");
    assert_eq!(said(vapi.verify(&headers(&all), b"other", at(NOW))), InboundError::Mismatch.to_string());

    // Without a timestamp nothing is known of the age.
    let github = scheme(
        template("X-Hub-Signature-256", "sha256={signature}", "{body}"),
        Beside::default(),
        &["It's a Secret to Everybody"],
    )
    .expect("a scheme");
    let value = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(github.verify(&headers(&[("x-hub-signature-256", value)]), b"Hello, World!", at(0)), Ok(()));
}

#[test]
fn a_scheme_that_could_not_check_is_refused() {
    let cases: &[(&str, &str, Beside<'_>, &str)] = &[
        ("{signature}", "{timestamp}.{body}", Beside::default(), "content names {timestamp}, which neither"),
        ("{signature}", "{timestamp_ms}.{body}", Beside::default(), "content names {timestamp_ms}, which neither"),
        ("{signature}", "{id}.{body}", Beside::default(), "content names {id}, which neither"),
        ("{timestamp}{signature}", "{body}", Beside::default(), "template has two placeholders without a comma"),
        ("{timestamp}.{signature}", "{body}", Beside::default(), "template has two placeholders without a comma"),
        ("{signature}", "{body}", Beside { timestamp: Some("a b"), id: None }, "\"a b\" is not a header name"),
        ("v1=", "{body}", Beside::default(), "template must hold {signature} once"),
    ];
    for (written, content, beside, want) in cases {
        let errors = scheme(template("x-sig", written, content), *beside, &["k"]).expect_err(want);
        assert!(errors[0].to_string().contains(want), "{errors:?}");
    }
}

#[test]
fn standard_signatures_are_read_from_their_headers() {
    let secret = Secret::new("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    let keys = vec![VerifyKey::parse(&secret).expect("a key")];
    let verifier = Verifier::Standard { keys, tolerance: Duration::from_secs(300) };
    let signer = Signer::Standard(vec![SigningKey::parse(&secret).expect("a key")]);
    let good: HeaderMap = signer.headers("wh_1", NOW, BODY).into_iter().collect();
    assert_eq!(verifier.verify(&good, BODY, at(NOW)), Ok(()));
    assert!(said(verifier.verify(&good, b"{}", at(NOW))).starts_with("no signature matches"));
    assert!(said(verifier.verify(&good, BODY, at(NOW + 301))).contains("301 s in the past"));
    let mut partly = good.clone();
    partly.remove("webhook-id");
    assert_eq!(said(verifier.verify(&partly, BODY, at(NOW))), "the webhook-id header is missing");
    assert_eq!(format!("{verifier:?}"), "Verifier::Standard(1 keys)");
}

/// A token over these claims.
fn token(head: &str, claims: &str, secret: &str) -> String {
    let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(head), URL_SAFE_NO_PAD.encode(claims));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(tag))
}

#[test]
fn livekit_tokens_are_of_one_key_one_algorithm_and_one_body() {
    let verifier = Verifier::LiveKit(LiveKit::new("API1", &Secret::new("secret")));
    let sum = STANDARD.encode(digest::digest(&digest::SHA256, BODY));
    let head = r#"{"alg":"HS256","typ":"JWT"}"#;
    let claims = format!(r#"{{"iss":"API1","nbf":{NOW},"exp":{},"sha256":"{sum}"}}"#, NOW + 300);
    let good = token(head, &claims, "secret");
    let (unsigned, _) = good.rsplit_once('.').expect("a token");
    let none = format!("{}.{}.", URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#), unsigned.split_once('.').expect("two").1);
    let told = |what: &str| format!("the token in the authorization header {what}");
    for (value, now, want) in [
        (good.clone(), NOW, "good".to_owned()),
        (format!("Bearer {good}"), NOW + 360, "good".to_owned()),
        (good.clone(), NOW - 60, "good".to_owned()),
        (good.clone(), NOW + 361, told("has expired")),
        (good.clone(), NOW - 61, told("is not good yet: the clocks are apart")),
        (token(head, &claims, "other"), NOW, InboundError::Mismatch.to_string()),
        (none, NOW, told("is not signed with HS256, the only algorithm that is taken")),
        (
            token(r#"{"alg":"HS512"}"#, &claims, "secret"),
            NOW,
            told("is not signed with HS256, the only algorithm that is taken"),
        ),
        (token(head, &claims.replace("API1", "API2"), "secret"), NOW, told("was issued by another API key")),
        (
            token(head, &claims.replace(&sum, "AAAA"), "secret"),
            NOW,
            told("is of another body: its sha256 is a different one"),
        ),
        (token(head, &claims.replace(&sum, "!"), "secret"), NOW, told("has no sha256 of the body")),
        (token(head, r#"{"iss":"API1"}"#, "secret"), NOW, told("is of another body: its sha256 is a different one")),
        (
            token(head, &claims.replace("\"exp\"", "\"exq\""), "secret"),
            NOW,
            told("has no exp, so it would be good for ever"),
        ),
        (token(head, "[]", "secret"), NOW, told("has claims that cannot be read")),
        (unsigned.to_owned(), NOW, told("is no JSON web token")),
        ("nonsense".to_owned(), NOW, told("is no JSON web token")),
        ("a.b.c".to_owned(), NOW, told("is no JSON web token")),
        ("x".repeat(9000), NOW, told("is too long")),
    ] {
        assert_eq!(said(verifier.verify(&headers(&[("authorization", &value)]), BODY, at(now))), want, "{value}");
    }
    assert_eq!(said(verifier.verify(&HeaderMap::new(), BODY, at(NOW))), "the authorization header is missing");
    let changed = headers(&[("authorization", &good)]);
    assert_eq!(
        said(verifier.verify(&changed, b"{}", at(NOW))),
        told("is of another body: its sha256 is a different one")
    );
    assert_eq!(format!("{verifier:?}"), "Verifier::LiveKit");
}

proptest! {
    #[test]
    fn what_an_outbound_scheme_signs_the_inbound_one_takes(
        body in proptest::collection::vec(any::<u8>(), 0..200),
        seconds in 0i64..4_000_000_000,
        flip in any::<prop::sample::Index>(),
    ) {
        for (written, content) in [
            ("t={timestamp},v1={signature}", "{timestamp}.{body}"),
            ("v={timestamp_ms},d={signature}", "{body}{timestamp_ms}"),
            ("id={id};s={signature}", "{id}|{body}"),
        ] {
            let secrets = [Secret::new("one"), Secret::new("two")];
            let parts = template("x-sig", written, content);
            let signer = Signer::Hmac(super::super::HmacScheme::new(parts, &secrets).expect("a scheme"));
            let signed: HeaderMap = signer.headers("msg_1", seconds, &body).into_iter().collect();
            let verifier = scheme(parts, Beside::default(), &["two"]).expect("a scheme");
            prop_assert_eq!(verifier.verify(&signed, &body, at(seconds)), Ok(()));
            if !body.is_empty() {
                let mut other = body.clone();
                other[flip.index(body.len())] ^= 1;
                prop_assert_eq!(verifier.verify(&signed, &other, at(seconds)), Err(InboundError::Mismatch));
            }
        }
    }

    #[test]
    fn no_header_makes_it_panic(value in "[ -~]{0,200}") {
        let given = headers(&[("x-sig", &value), ("authorization", &value)]);
        let hmac = scheme(template("x-sig", "t={timestamp},v1={signature}", "{timestamp}.{body}"), Beside::default(), &["k"]);
        let _ = hmac.expect("a scheme").verify(&given, BODY, at(NOW));
        let _ = Verifier::LiveKit(LiveKit::new("a", &Secret::new("b"))).verify(&given, BODY, at(NOW));
    }
}
