//! `signing` of a webhook. Keys are parsed at load; no message shows any part of one.

use super::decode::Decoder;
use super::fields::Fields;
use super::shape;
use super::yaml::Node;
use crate::secret::Secret;
use crate::sign::{Algorithm, Encoding, HmacScheme, HmacTemplate, Signer, SigningKey, TemplateError};

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
        _ => None,
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

fn secrets<'n>(d: &mut Decoder<'_>, fields: &Fields<'n>) -> Option<Vec<(&'n Node, Secret)>> {
    let node =
        fields.require(d, "secrets", "`secrets: [{env: NAME}]`, or {file: PATH}; `sidehook secret new` makes one")?;
    let items = d.list(node)?;
    if items.is_empty() {
        let help = "add one; `sidehook secret new` makes it".to_owned();
        d.problem(node.span, "`secrets` is empty", Some(help));
        return None;
    }
    let found: Vec<(&Node, Secret)> = items.iter().filter_map(|item| d.secret(item).map(|s| (item, s))).collect();
    (found.len() == items.len()).then_some(found)
}

fn standard(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Signer> {
    let found = secrets(d, fields)?;
    let mut keys = Vec::new();
    for (node, secret) in &found {
        match SigningKey::parse(secret) {
            Ok(key) => keys.push(key),
            Err(error) => {
                d.problem(node.span, error.to_string(), Some("`sidehook secret new` makes a good one".to_owned()));
            }
        }
    }
    (keys.len() == found.len()).then_some(Signer::Standard(keys))
}

fn hmac(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<Signer> {
    let found = secrets(d, fields);
    let header_node = fields.require(d, "header", "`header: X-Signature`");
    let header = header_node.and_then(|n| d.text(n));
    let algorithm =
        if fields.choice(d, "algorithm", "sha256") == "sha512" { Algorithm::Sha512 } else { Algorithm::Sha256 };
    let encoding = if fields.choice(d, "encoding", "hex") == "base64" { Encoding::Base64 } else { Encoding::Hex };
    let (template_node, content_node) = (fields.get("template"), fields.get("content"));
    let template = template_node.map_or(Some("{signature}".to_owned()), |n| d.text(n))?;
    let content = content_node.map_or(Some("{body}".to_owned()), |n| d.text(n))?;
    let (found, header) = (found?, header?);
    let secrets: Vec<Secret> = found.iter().map(|(_, secret)| secret.clone()).collect();
    let parts = HmacTemplate { header: &header, algorithm, encoding, template: &template, content: &content };
    match HmacScheme::new(parts, &secrets) {
        Ok(scheme) => Some(Signer::Hmac(scheme)),
        Err(error) => {
            let node = match &error {
                TemplateError::Header(_) | TemplateError::Taken(_) => header_node,
                TemplateError::Placeholder { key: "content", .. }
                | TemplateError::Brace { key: "content" }
                | TemplateError::NoBody => content_node,
                TemplateError::NoSecret | TemplateError::Key(_) => fields.get("secrets"),
                _ => template_node,
            };
            d.problem(node.map_or(fields.span, |n| n.span), error.to_string(), None);
            None
        }
    }
}
