//! `verify` of a source: how the signatures of what comes in are checked. Keys are parsed at load; no message shows any part of
//! one.

use std::sync::Arc;
use std::time::Duration;

use super::decode::Decoder;
use super::fields::Fields;
use super::shape;
use super::signing::{mistakes, secrets, unusable};
use super::yaml::Node;
use crate::secret::Secret;
use crate::sign::{Beside, DEFAULT_TOLERANCE, HmacTemplate, HmacVerifier, LiveKit, Verifier, VerifyKey};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Reads `verify`.
pub fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<Arc<Verifier>> {
    let fields = d.fields(node, &shape::VERIFY, None)?;
    fields.require(d, "scheme", "`scheme: standard`, `scheme: hmac` or `scheme: livekit`")?;
    let scheme = fields.choice(d, "scheme", "");
    let own: &[&str] = match scheme {
        "standard" => &["secrets", "tolerance"],
        "hmac" => &[
            "secrets",
            "tolerance",
            "header",
            "algorithm",
            "encoding",
            "template",
            "content",
            "timestamp_header",
            "id_header",
        ],
        "livekit" => &["api_key", "api_secret"],
        _ => return None,
    };
    for key in shape::VERIFY.keys.iter().filter(|key| key.name != "scheme" && !own.contains(&key.name)) {
        if let Some(node) = fields.get(key.name) {
            let message = format!("`{}` means nothing with `scheme: {scheme}`", key.name);
            d.problem(node.span, message, Some("leave it out".to_owned()));
        }
    }
    let verifier = match scheme {
        "standard" => standard(d, &fields),
        "hmac" => hmac(d, &fields),
        _ => livekit(d, &fields),
    };
    verifier.map(Arc::new)
}

fn standard(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Verifier> {
    let tolerance = tolerance(d, fields);
    let (found, all) = secrets(d, fields);
    let mut keys = Vec::new();
    for (node, secret) in &found {
        match VerifyKey::parse(secret) {
            Ok(key) => keys.push(key),
            Err(error) => unusable(d, node, &error),
        }
    }
    (all && keys.len() == found.len()).then_some(Verifier::Standard { keys, tolerance })
}

fn tolerance(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Duration {
    fields.duration(d, "tolerance", DEFAULT_TOLERANCE, (Duration::from_secs(1), DAY))
}

fn hmac(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Verifier> {
    let tolerance = tolerance(d, fields);
    let mut header = |name| fields.get(name).map(|node| (node, d.text(node)));
    let (timestamp, id) = (header("timestamp_header"), header("id_header"));
    let unread = [&timestamp, &id].into_iter().flatten().any(|(_, text)| text.is_none());
    let beside = Beside {
        timestamp: timestamp.as_ref().and_then(|(_, text)| text.as_deref()),
        id: id.as_ref().and_then(|(_, text)| text.as_deref()),
    };
    let build =
        |template: HmacTemplate<'_>, secrets: &[Secret]| HmacVerifier::new(template, beside, secrets, tolerance);
    let verifier = mistakes(d, fields, &[timestamp.as_ref(), id.as_ref()], build)?;
    if let Some(node) = fields.get("tolerance").filter(|_| !verifier.is_timed()) {
        let help = "let `content` hold {timestamp} if the sender signs it, or leave `tolerance` out".to_owned();
        d.problem(node.span, "`tolerance` is without effect: the signature does not cover a timestamp", Some(help));
    }
    (!unread).then(|| Verifier::Hmac(Box::new(verifier)))
}

fn livekit(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Verifier> {
    let key = fields.require(d, "api_key", "`api_key: API…`, the key that LiveKit signs with");
    let secret = fields.require(d, "api_secret", "`api_secret: {env: LIVEKIT_API_SECRET}`, or {file: PATH}");
    let key = key.and_then(|node| d.text(node));
    let secret = secret.and_then(|node| d.secret(node));
    let (key, secret) = (key?, secret?);
    Some(Verifier::LiveKit(LiveKit::new(&key, &secret)))
}
