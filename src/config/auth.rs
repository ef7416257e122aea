//! `auth` of a destination: how sidehook shows who it is. Asks no server for anything; messages show no secret.

use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::{HeaderName, HeaderValue, header};

use super::decode::Decoder;
use super::fields::Fields;
use super::model::{Auth, ClientAuth, OAuth2};
use super::reader::sha256;
use super::shape;
use super::webhook::url;
use super::yaml::Node;

/// Reads `auth` of a webhook that sends these headers.
pub fn decode(
    d: &mut Decoder<'_>,
    webhook: &Fields<'_>,
    headers: &[(HeaderName, HeaderValue)],
    allow_http: bool,
) -> Option<Auth> {
    let node = webhook.get("auth")?;
    let fields = d.fields(node, &shape::AUTH, None)?;
    if headers.iter().any(|(name, _)| *name == header::AUTHORIZATION) {
        let message = "`auth` and a header `Authorization` would both say who sidehook is";
        d.problem(node.span, message, Some("keep one of the two".to_owned()));
    }
    match (fields.get("basic"), fields.get("bearer"), fields.get("oauth2")) {
        (Some(node), None, None) => basic(d, node),
        (None, Some(node), None) => bearer(d, node),
        (None, None, Some(node)) => oauth2(d, node, allow_http).map(|oauth2| Auth::OAuth2(Arc::new(oauth2))),
        (None, None, None) => {
            let help = "write `basic: {username: …, password: …}`, `bearer: {env: NAME}` or `oauth2: {…}`";
            d.problem(node.span, "`auth` names no way", Some(help.to_owned()));
            None
        }
        _ => {
            d.problem(node.span, "`auth` names more than one way", Some("keep one of them".to_owned()));
            None
        }
    }
}

fn sensitive(text: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// RFC 7617: the user name ends at the first colon, the rest is the password.
fn basic(d: &mut Decoder<'_>, node: &Node) -> Option<Auth> {
    let fields = d.fields(node, &shape::BASIC, None)?;
    let named = fields.require(d, "username", "`username: NAME`");
    let username = named.and_then(|n| d.text(n).map(|text| (n, text)));
    let password = fields.require(d, "password", "`password: {env: NAME}`").and_then(|n| d.secret(n));
    let ((node, username), password) = (username?, password?);
    if username.contains(':') {
        let help = "take a user name without a colon".to_owned();
        d.problem(node.span, "a user name for basic authentication cannot hold a colon", Some(help));
        return None;
    }
    let credentials = BASE64_STANDARD.encode(format!("{username}:{}", password.expose()));
    sensitive(&format!("Basic {credentials}")).map(Auth::Header)
}

fn bearer(d: &mut Decoder<'_>, node: &Node) -> Option<Auth> {
    let token = d.secret(node)?;
    let value = sensitive(&format!("Bearer {}", token.expose()));
    if value.is_none() {
        let message = "this token holds a line break, a control character or one beyond ASCII, which no header can";
        d.problem(node.span, message, Some("a trailing newline may come from a block (`|`) or a variable".to_owned()));
    }
    value.map(Auth::Header)
}

fn oauth2(d: &mut Decoder<'_>, node: &Node, allow_http: bool) -> Option<OAuth2> {
    let fields = d.fields(node, &shape::OAUTH2, None)?;
    let token_url = fields
        .require(d, "token_url", "`token_url: https://…`")
        .and_then(|n| url(d, n, allow_http, "put them into `client_id` and `client_secret`"));
    let client_id = fields.require(d, "client_id", "`client_id: NAME`").and_then(|n| d.text(n));
    let client_secret = fields.require(d, "client_secret", "`client_secret: {env: NAME}`").and_then(|n| d.secret(n));
    let scopes = fields.get("scopes").map_or_else(Vec::new, |node| scopes(d, node));
    let audience = fields.get("audience").and_then(|n| d.text(n));
    let client_auth =
        if fields.choice(d, "client_auth", "basic") == "body" { ClientAuth::Body } else { ClientAuth::Basic };
    let (token_url, client_id, client_secret) = (token_url?, client_id?, client_secret?);
    let parts = [
        token_url.as_str(),
        &client_id,
        client_secret.expose(),
        &scopes.join(" "),
        audience.as_deref().unwrap_or_default(),
        if client_auth == ClientAuth::Body { "body" } else { "basic" },
    ];
    let identity = sha256(parts.join("\n").as_bytes());
    Some(OAuth2 { token_url, client_id, client_secret, scopes, audience, client_auth, identity })
}

/// RFC 6749, section 3.3: scopes are separated by blanks.
fn scopes(d: &mut Decoder<'_>, node: &Node) -> Vec<String> {
    let mut out = Vec::new();
    for item in d.list(node).unwrap_or_default() {
        let Some(scope) = d.text(item) else { continue };
        let allowed = |c: char| c.is_ascii_graphic() && !matches!(c, '"' | '\\');
        if scope.is_empty() || !scope.chars().all(allowed) {
            let message = format!("{} is no scope", d.quote(item));
            d.problem(item.span, message, Some("write one scope an entry, without blanks".to_owned()));
            continue;
        }
        out.push(scope);
    }
    out
}
