//! `egress.proxy` and `egress.no_proxy`. A proxy's URL may hold a password: it counts as a secret, and no message shows
//! any of it.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::HeaderValue;
use percent_encoding::percent_decode_str;

use super::decode::Decoder;
use super::fields::Fields;
use super::model::{NoProxy, Proxy};
use super::yaml::{Node, Value};

/// Reads both.
pub fn decode(d: &mut Decoder<'_>, egress: &Fields<'_>) -> Option<Proxy> {
    let except = egress.get("no_proxy").map_or_else(Vec::new, |node| exceptions(d, node));
    let node = egress.get("proxy")?;
    let text = match &node.value {
        Value::Scalar(_) => d.text(node)?,
        _ => d.secret(node)?.expose().to_owned(),
    };
    let right = "write http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT".to_owned();
    let url = url::Url::parse(&text).ok();
    let Some((url, host)) = url.as_ref().and_then(|url| Some((url, url.host_str()?))) else {
        d.problem(node.span, "this is no URL of a proxy", Some(right));
        return None;
    };
    if url.scheme() != "http" {
        let scheme =
            if matches!(url.scheme(), "https" | "socks4" | "socks5" | "socks5h") { url.scheme() } else { "such" };
        d.problem(node.span, format!("proxies are spoken to in HTTP only, not over {scheme}"), Some(right));
        return None;
    }
    if !matches!(url.path(), "" | "/") || url.query().is_some() || url.fragment().is_some() {
        d.problem(node.span, "a proxy's URL has no path", Some(right));
        return None;
    }
    let authorization = if url.username().is_empty() && url.password().is_none() {
        None
    } else {
        let plain = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let mut pair = plain(url.username());
        pair.push(b':');
        pair.extend(plain(url.password().unwrap_or_default()));
        let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair))).ok()?;
        value.set_sensitive(true);
        Some(value)
    };
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Proxy { host, port: url.port_or_known_default().unwrap_or(80), authorization, except })
}

fn exceptions(d: &mut Decoder<'_>, node: &Node) -> Vec<NoProxy> {
    let mut out = Vec::new();
    for item in d.list(node).unwrap_or_default() {
        let Some(text) = d.text(item) else { continue };
        let net = text.parse::<ipnet::IpNet>().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(Into::into));
        let name = text.trim_start_matches("*.").trim_matches('.').to_ascii_lowercase();
        let is_name = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        match net {
            Some(net) => out.push(NoProxy::Net(net.trunc())),
            None if text == "*" => out.push(NoProxy::All),
            None if is_name => out.push(NoProxy::Host(name)),
            None => {
                let help = "write a name such as internal.example.com, an address, a network such as 10.0.0.0/8, or \"*\"; no port";
                d.problem(
                    item.span,
                    format!("{} is nothing that could go past a proxy", d.quote(item)),
                    Some(help.to_owned()),
                );
            }
        }
    }
    out
}
