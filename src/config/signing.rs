//! `signing` of a webhook. Keys are parsed at load; no message shows any part of one.

use super::decode::Decoder;
use super::fields::Fields;
use super::params::split_help;
use super::shape;
use super::webhook::hide;
use super::yaml::Node;
use crate::secret::Secret;
use crate::sign::{Algorithm, Encoding, HmacScheme, HmacTemplate, KeyError, Signer, SigningKey, TemplateError};

/// Reads `signing`.
pub fn decode(d: &mut Decoder<'_>, node: &Node) -> Option<Signer> {
    let fields = d.fields(node, &shape::SIGNING, None)?;
    fields.require(d, "scheme", "`scheme: standard`, or `scheme: none` to send unsigned")?;
    match fields.choice(d, "scheme", "") {
        "none" => {
            only(d, &fields, "none", &["secrets", "header", "algorithm", "encoding", "template", "content"]);
            Some(Signer::None)
        }
        "standard" => {
            only(d, &fields, "standard", &["header", "algorithm", "encoding", "template", "content"]);
            standard(d, &fields)
        }
        "hmac" => hmac(d, &fields),
        _ => {
            // Which keys are right is not known without the scheme; that the secrets are there can be.
            if fields.get("secrets").is_some() {
                secrets(d, &fields);
            }
            None
        }
    }
}

/// Keys that another scheme knows would be silently without effect.
fn only(d: &mut Decoder<'_>, fields: &Fields<'_>, scheme: &str, foreign: &[&'static str]) {
    for name in foreign {
        if let Some(node) = fields.get(name) {
            let help = if *name == "secrets" {
                "write `scheme: standard`, or leave the secrets out"
            } else {
                "that is for `scheme: hmac`"
            };
            d.problem(node.span, format!("`{name}` means nothing with `scheme: {scheme}`"), Some(help.to_owned()));
        }
    }
}

/// The secrets with their places; those that cannot be read are recorded and left out. The second value says whether all
/// were read.
pub(super) fn secrets<'n>(d: &mut Decoder<'_>, fields: &Fields<'n>) -> (Vec<(&'n Node, Secret)>, bool) {
    let right = "`secrets: [{env: NAME}]`, or {file: PATH}; `sidehook secret new` makes one";
    let Some(items) = fields.require(d, "secrets", right).and_then(|node| d.list(node)) else {
        return (Vec::new(), false);
    };
    if let (Some(node), true) = (fields.get("secrets"), items.is_empty()) {
        let help = "add one; `sidehook secret new` makes it".to_owned();
        d.problem(node.span, "`secrets` is empty", Some(help));
        return (Vec::new(), false);
    }
    let found: Vec<(&Node, Secret)> = items.iter().filter_map(|item| d.secret(item).map(|s| (item, s))).collect();
    let all = found.len() == items.len();
    (found, all)
}

fn standard(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Signer> {
    let (found, all) = secrets(d, fields);
    let mut keys = Vec::new();
    for (node, secret) in &found {
        match SigningKey::parse(secret) {
            Ok(key) => keys.push(key),
            Err(error) => unusable(d, node, &error),
        }
    }
    (all && keys.len() == found.len()).then_some(Signer::Standard(keys))
}

pub(super) fn unusable(d: &mut Decoder<'_>, node: &Node, error: &KeyError) {
    let (message, help) = split_help(error.to_string());
    d.problem(node.span, message, Some(help.unwrap_or_else(|| "`sidehook secret new` makes a good one".to_owned())));
}

fn hmac(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Signer> {
    mistakes(d, fields, &[], HmacScheme::new).map(Signer::Hmac)
}

/// What `build` makes of the keys of an hmac scheme; every part is looked at, whatever is wrong with the others. `beside` are
/// further headers that it takes.
pub(super) fn mistakes<T>(
    d: &mut Decoder<'_>,
    fields: &Fields<'_>,
    beside: &[Option<&(&Node, Option<String>)>],
    build: impl FnOnce(HmacTemplate<'_>, &[Secret]) -> Result<T, Vec<TemplateError>>,
) -> Option<T> {
    let (found, all) = secrets(d, fields);
    let header_node = fields.require(d, "header", "`header: X-Signature`");
    let header = header_node.and_then(|n| d.text(n));
    let algorithm =
        if fields.choice(d, "algorithm", "sha256") == "sha512" { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let encoding = if fields.choice(d, "encoding", "hex") == "base64" { Encoding::Base64 } else { Encoding::Hex };
    let (template_node, content_node) = (fields.get("template"), fields.get("content"));
    let template = template_node.map_or(Some("{signature}".to_owned()), |n| d.text(n));
    let content = content_node.map_or(Some("{body}".to_owned()), |n| d.text(n));
    let whole = all && header.is_some() && template.is_some() && content.is_some();
    let secrets: Vec<Secret> = found.iter().map(|(_, secret)| secret.clone()).collect();
    // What could not be read is told already; something harmless stands for it.
    let parts = HmacTemplate {
        header: header.as_deref().unwrap_or("x-signature"),
        algorithm,
        encoding,
        template: template.as_deref().unwrap_or("{signature}"),
        content: content.as_deref().unwrap_or("{body}"),
    };
    let mistakes = match build(parts, &secrets) {
        Ok(scheme) => return whole.then_some(scheme),
        Err(mistakes) => mistakes,
    };
    for error in mistakes {
        let (node, text) = match &error {
            TemplateError::NoSecret => continue,
            TemplateError::Key { index, error } => {
                if let Some((node, _)) = found.get(*index) {
                    unusable(d, node, error);
                }
                continue;
            }
            TemplateError::Header(name) | TemplateError::Taken(name) => {
                let other = beside.iter().flatten().find(|(_, text)| text.as_ref() == Some(name));
                let own = (header_node, header.as_deref());
                other
                    .filter(|_| header.as_ref() != Some(name))
                    .map_or(own, |(node, text)| (Some(*node), text.as_deref()))
            }
            TemplateError::Placeholder { key: "content", .. }
            | TemplateError::Brace { key: "content" }
            | TemplateError::Untold { .. }
            | TemplateError::NoBody => (content_node, content.as_deref()),
            _ => (template_node, template.as_deref()),
        };
        let message = match (node, text) {
            (Some(node), Some(text)) => {
                let part = if let TemplateError::Placeholder { name, .. } = &error { name } else { text };
                hide(d, node, part, error.to_string())
            }
            _ => error.to_string(),
        };
        let (message, help) = split_help(message);
        d.problem(node.map_or(fields.span, |n| n.span), message, help);
    }
    None
}
