//! `sources`: from a checked tree to [`Source`]s, each type by its own keys. Opens and reads nothing.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use super::decode::Decoder;
use super::fields::Fields;
use super::model::{Admin, Exec, Listen, Overflow, Read, Source, SourceKind, Tap, TapFormat};
use super::scripts::Library;
use super::settings::check_name;
use super::shape;
use super::verify;
use super::webhook;
use super::yaml::{Key, Node, Span};
use crate::limits;
use crate::secret::Secret;
use crate::sign::Verifier;

/// Types that this version has.
const AVAILABLE: [&str; 7] = ["http", "proxy", "stdin", "unix", "file", "exec", "sse"];

fn default_source() -> Source {
    let listen = Listen::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 7070)));
    Source {
        kind: SourceKind::Http { listen, token: None },
        namespace: Arc::from(""),
        adapter: None,
        verify: None,
        infer_failure: true,
    }
}

/// Reads `sources` of the root mapping.
pub fn decode(d: &mut Decoder<'_>, root: &Fields<'_>) -> BTreeMap<String, Source> {
    let Some(node) = root.get("sources") else {
        return BTreeMap::from([("events".to_owned(), default_source())]);
    };
    let mut out = BTreeMap::new();
    let entries = d.map(node).unwrap_or_default();
    if entries.is_empty() {
        let help = "name one: {events: {type: http, listen: 127.0.0.1:7070}}, or leave `sources` out".to_owned();
        d.problem(node.span, "without a source nothing comes in", Some(help));
    }
    for (key, node) in entries {
        check_name(d, key, "source");
        if let Some(source) = source(d, key, node) {
            if let Some(other) = out.iter().find_map(|(name, other)| same_input(&source, other).then_some(name)) {
                let message = format!(
                    "source {} needs standard input, or the end of the process, for itself, and so does source {other}",
                    key.text
                );
                let help = "keep one source of type `stdin` or `exec`; a second assistant gets a sidehook of its own";
                d.problem(node.span, message, Some(help.to_owned()));
            }
            out.insert(key.text.clone(), source);
        }
    }
    out
}

/// A child inherits standard input, and sidehook ends when it does.
fn same_input(a: &Source, b: &Source) -> bool {
    let takes = |source: &Source| matches!(source.kind, SourceKind::Stdin | SourceKind::Exec(_));
    takes(a) && takes(b)
}

fn source(d: &mut Decoder<'_>, key: &Key, node: &Node) -> Option<Source> {
    // Which keys belong here, only `type` tells.
    let kind = member(node, "type");
    let named = kind.and_then(|node| d.choice(node, &shape::SOURCE_TYPES));
    let block = named.and_then(shape::source).unwrap_or(&shape::SOURCE_HTTP);
    let fields = d.fields(node, block, None)?;
    if kind.is_none() {
        fields.require(d, "type", "`type: http`");
        return None;
    }
    let name = named?;
    if !AVAILABLE.contains(&name) {
        let message = format!("known source type, not available in this version of sidehook: `{name}`");
        d.problem(kind.map_or(node.span, |k| k.span), message, Some(format!("use one of {}", AVAILABLE.join(", "))));
        return None;
    }
    let namespace = fields.get("namespace").and_then(|n| d.loose(n).map(|text| (n, text)));
    if let Some((node, text)) = &namespace
        && text.len() > limits::NAME_BYTES
    {
        d.problem(node.span, format!("a namespace is longer than {} bytes", limits::NAME_BYTES), None);
    }
    let infer_failure = fields.boolean(d, "infer_failure", true);
    let kind = match name {
        "http" => http(d, key, &fields),
        "proxy" => proxy(d, key, &fields),
        "stdin" => Some(SourceKind::Stdin),
        "unix" => unix(d, &fields),
        "file" => file(d, &fields),
        "exec" => exec(d, &fields),
        "sse" => sse(d, &fields),
        _ => None,
    };
    let verify = fields.get("verify").and_then(|node| verify::decode(d, node));
    if let Some(node) = fields.get("verify").filter(|_| name != "http") {
        let help = "leave it out, or let the sender use a source of `type: http`".to_owned();
        d.problem(
            node.span,
            format!("what comes by `type: {name}` is not signed: `verify` is for `type: http`"),
            Some(help),
        );
    }
    if let (Some(Verifier::LiveKit(_)), Some(node)) = (verify.as_deref(), member(node, "token")) {
        let help = "leave `token` out: the signature says who sends".to_owned();
        d.problem(node.span, "`token` and `scheme: livekit` both want the authorization header", Some(help));
    }
    // Compiled once the scripts are: see `adapters`.
    let _ = fields.get("adapter");
    let namespace = Arc::from(namespace.map(|(_, t)| t).unwrap_or_default());
    Some(Source { kind: kind?, namespace, adapter: None, verify, infer_failure })
}

/// Gives sources and their taps the adapters that they name. A tap without one has its source's.
pub fn adapters(d: &mut Decoder<'_>, root: &Fields<'_>, library: &Library, sources: &mut BTreeMap<String, Source>) {
    let adapter = |d: &mut Decoder<'_>, node: &Node| {
        member(node, "adapter").and_then(|node| library.adapter(d, node, limits::ADAPTER_REST))
    };
    let entries = root.get("sources").map(|node| &node.value);
    let Some(super::yaml::Value::Map(entries)) = entries else { return };
    for (key, node) in entries {
        // Looked up even where the source itself is no good, so that all that is wrong is told at once.
        let own = adapter(d, node);
        let items = match member(node, "taps").map(|node| &node.value) {
            Some(super::yaml::Value::List(items)) => items.as_slice(),
            _ => &[],
        };
        let of_taps: Vec<_> = items.iter().map(|item| adapter(d, item)).collect();
        let Some(source) = sources.get_mut(&key.text) else { continue };
        if let SourceKind::Proxy { taps, .. } = &mut source.kind {
            for (tap, adapter) in taps.iter_mut().zip(of_taps) {
                tap.adapter = adapter.or_else(|| own.clone());
            }
        }
        source.adapter = own;
    }
}

/// Streams are read over TLS, unless they come from this machine or `egress.allow_http` says otherwise.
pub fn encrypted(d: &mut Decoder<'_>, root: &Fields<'_>, allow_http: bool, sources: &BTreeMap<String, Source>) {
    let entries = root.get("sources").map(|node| &node.value);
    let Some(super::yaml::Value::Map(entries)) = entries else { return };
    for (key, node) in entries {
        let Some(SourceKind::Sse { url, .. }) = sources.get(&key.text).map(|source| &source.kind) else { continue };
        if url.scheme() == "http" && !allow_http && !is_loopback(url) {
            let node = member(node, "url").unwrap_or(node);
            let message = format!("{} is not encrypted, and not on this machine", d.quote(node));
            let help = "use https://, or set `egress: {allow_http: true}`".to_owned();
            d.problem(node.span, message, Some(help));
        }
    }
}

/// Whether a URL leads to this machine, by its host as it is written.
#[must_use]
pub fn is_loopback(url: &url::Url) -> bool {
    match url.host() {
        Some(url::Host::Domain(name)) => name == "localhost",
        Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
        Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
        None => false,
    }
}

/// A member of a mapping that has a value.
fn member<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let super::yaml::Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|(key, _)| key.text == name).map(|(_, value)| value).filter(|value| !value.is_null())
}

fn http(d: &mut Decoder<'_>, key: &Key, fields: &Fields<'_>) -> Option<SourceKind> {
    let token = fields.get("token").and_then(|n| d.secret(n));
    let listen = fields.require(d, "listen", "`listen: 127.0.0.1:7070`").and_then(|n| listen(d, n))?;
    if !is_local(&listen) && fields.get("token").is_none() && fields.get("verify").is_none() {
        d.warnings.push(format!(
            "source {}: {listen} can be reached from other machines and asks for no token or signature; whoever reaches it can send events",
            key.text
        ));
    }
    Some(SourceKind::Http { listen, token })
}

fn unix(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<SourceKind> {
    let node = fields.require(d, "listen", "`listen: unix:/run/sidehook/events.sock`")?;
    let listen = listen(d, node)?;
    if matches!(listen, Listen::Tcp(_)) {
        let help = "write unix:/path, or use `type: http`".to_owned();
        d.problem(node.span, format!("{} is no unix socket", d.quote(node)), Some(help));
        return None;
    }
    Some(SourceKind::Unix { listen })
}

fn file(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<SourceKind> {
    let path = fields.require(d, "path", "`path: /var/log/assistant/events.ndjson`").and_then(|n| d.text(n))?;
    Some(SourceKind::File { path: d.locate(&path) })
}

fn exec(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<SourceKind> {
    let mut env = Vec::new();
    if let Some(node) = fields.get("env") {
        for (key, value) in d.map(node).unwrap_or_default() {
            if key.text.is_empty() || key.text.contains(['=', '\0']) {
                let message = format!("{} is no name of a variable", d.quote_key(key));
                d.problem(key.span, message, Some("write NAME: VALUE".to_owned()));
                continue;
            }
            let text = match &value.value {
                super::yaml::Value::Map(_) => d.secret(value),
                _ => d.loose(value).map(Secret::new),
            };
            env.extend(text.map(|text| (key.text.clone(), text)));
        }
    }
    let cwd = fields.get("cwd").and_then(|n| d.text(n)).map(|path| d.locate(&path));
    let on_overflow = overflow(d, fields);
    let node = fields.require(d, "command", "`command: [python, bot.py]`")?;
    let items = d.list(node)?;
    let mut command: Vec<String> = items.iter().filter_map(|item| d.loose(item)).collect();
    if command.len() < items.len() {
        return None;
    }
    if command.first().is_none_or(String::is_empty) {
        let help = "write the program and its arguments: [python, bot.py]".to_owned();
        d.problem(node.span, "there is no program to run", Some(help));
        return None;
    }
    if let Some(program) = command.first_mut().filter(|program| program.contains('/')) {
        *program = d.locate(program).to_string_lossy().into_owned();
    }
    Some(SourceKind::Exec(Exec { command, env, cwd, on_overflow }))
}

fn sse(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Option<SourceKind> {
    let headers = webhook::headers(d, fields, &[]);
    let url = fields
        .require(d, "url", "`url: https://…`")
        .and_then(|n| webhook::url(d, n, true, "put them into `headers`, as `Authorization: Basic …`"))?;
    Some(SourceKind::Sse { url, headers })
}

fn proxy(d: &mut Decoder<'_>, key: &Key, fields: &Fields<'_>) -> Option<SourceKind> {
    let taps = fields.get("taps").map(|node| taps(d, node)).unwrap_or_default();
    let upstream = fields.require(d, "upstream", "`upstream: http://127.0.0.1:8000`").and_then(|n| upstream(d, n));
    let node = fields.require(d, "listen", "`listen: 127.0.0.1:7072`")?;
    let listen = listen(d, node)?;
    let upstream = upstream?;
    if let Listen::Tcp(address) = &listen
        && leads_to(&upstream, address)
    {
        let message = format!("{upstream} is where the proxy itself listens, so that it would lead to itself");
        d.problem(node.span, message, Some("give the assistant another port than the proxy".to_owned()));
        return None;
    }
    if !is_local(&listen) {
        d.warnings.push(format!(
            "source {}: {listen} can be reached from other machines; whoever reaches it reaches {upstream}",
            key.text
        ));
    }
    Some(SourceKind::Proxy { listen, upstream, taps })
}

/// Whether a URL names the very address, as far as that can be told without a look-up.
fn leads_to(url: &url::Url, address: &SocketAddr) -> bool {
    let same_port = address.port() != 0 && url.port_or_known_default() == Some(address.port());
    let local = |ip: std::net::IpAddr| ip == address.ip() || (address.ip().is_unspecified() && ip.is_loopback());
    same_port
        && match url.host() {
            Some(url::Host::Ipv4(ip)) => local(ip.into()),
            Some(url::Host::Ipv6(ip)) => local(ip.into()),
            Some(url::Host::Domain(name)) => name == "localhost" && is_local(&Listen::Tcp(*address)),
            None => false,
        }
}

/// The assistant's address. Paths come from the client.
fn upstream(d: &mut Decoder<'_>, node: &Node) -> Option<url::Url> {
    let url = webhook::url(d, node, true, "leave them out: each request that passes shows who it is")?;
    if url.path() != "/" || url.query().is_some() {
        let message = format!("{} has a path, but a proxy passes on the path of each request", d.quote(node));
        let origin = url.origin().ascii_serialization();
        let shown = d.quote(node).contains(super::mask::STARS);
        let help = if shown { "leave the path out".to_owned() } else { format!("write {origin}") };
        d.problem(node.span, message, Some(help));
        return None;
    }
    Some(url)
}

fn taps(d: &mut Decoder<'_>, node: &Node) -> Vec<Tap> {
    let items = d.list(node).unwrap_or_default();
    items.iter().filter_map(|item| tap(d, item)).collect()
}

fn tap(d: &mut Decoder<'_>, node: &Node) -> Option<Tap> {
    let fields = d.fields(node, &shape::TAP, None)?;
    let method = fields.get("method").and_then(|n| method(d, n));
    let read = match fields.choice(d, "read", "both") {
        "request" => Read::Request,
        "response" => Read::Response,
        _ => Read::Both,
    };
    let on_overflow = overflow(d, &fields);
    let _ = fields.get("adapter");
    let format = fields.require(d, "format", "`format: json`").and_then(|n| d.choice(n, &shape::TAP_FORMATS));
    let path = fields.require(d, "path", "`path: /v1/*/events`").and_then(|n| tap_path(d, n));
    let format = match format? {
        "ndjson" => TapFormat::Ndjson,
        "sse" => TapFormat::Sse,
        "websocket" => TapFormat::Websocket,
        _ => TapFormat::Json,
    };
    if format == TapFormat::Websocket && method.as_ref().is_some_and(|(m, _)| *m != http::Method::GET) {
        let span = method.as_ref().map_or(node.span, |(_, span)| *span);
        let help = "leave `method` out".to_owned();
        d.problem(span, "a WebSocket is opened with GET, so this tap would never read anything", Some(help));
        return None;
    }
    Some(Tap { path: path?, method: method.map(|(method, _)| method), read, format, adapter: None, on_overflow })
}

/// Methods are compared exactly, and all that are in use are upper case.
fn method(d: &mut Decoder<'_>, node: &Node) -> Option<(http::Method, Span)> {
    let text = d.text(node)?;
    match http::Method::from_bytes(text.as_bytes()) {
        Ok(method) if !text.bytes().any(|b| b.is_ascii_lowercase()) => return Some((method, node.span)),
        Ok(_) => {
            let message = format!("{} is not a method as requests name it", d.quote(node));
            d.problem(node.span, message, Some(format!("write {}", text.to_ascii_uppercase())));
        }
        Err(_) => {
            d.problem(node.span, format!("{} is no method", d.quote(node)), Some("write POST, for example".to_owned()));
        }
    }
    None
}

fn tap_path(d: &mut Decoder<'_>, node: &Node) -> Option<String> {
    let text = d.text(node)?;
    let right = "write a path such as /v1/conversations/*/events; `*` is one segment, `**` any number".to_owned();
    let wrong = if !text.starts_with('/') {
        Some(format!("{} does not begin with `/`", d.quote(node)))
    } else if text.contains(['?', '#']) {
        Some(format!("{} has more than a path: queries are not compared", d.quote(node)))
    } else {
        let glob = globset::GlobBuilder::new(&text).literal_separator(true).backslash_escape(false).build();
        glob.err().map(|error| format!("{} is no pattern of a path: {}", d.quote(node), error.kind()))
    };
    match wrong {
        None => Some(text),
        Some(message) => {
            d.problem(node.span, message, Some(right));
            None
        }
    }
}

fn overflow(d: &mut Decoder<'_>, fields: &Fields<'_>) -> Overflow {
    if fields.choice(d, "on_overflow", "drop") == "block" { Overflow::Block } else { Overflow::Drop }
}

/// Whether only this machine can reach it.
#[must_use]
pub fn is_local(listen: &Listen) -> bool {
    match listen {
        Listen::Tcp(address) => address.ip().to_canonical().is_loopback(),
        Listen::Unix(_) => true,
    }
}

/// An address to listen on.
pub fn listen(d: &mut Decoder<'_>, node: &Node) -> Option<Listen> {
    let text = d.loose(node)?;
    if let Some(path) = text.strip_prefix("unix:") {
        let path = d.locate(path.strip_prefix("//").unwrap_or(path));
        if path.as_os_str().len() > limits::SOCKET_PATH_BYTES || text.len() <= "unix:".len() {
            let help = Some(format!("write unix:/path, with a path of at most {} bytes", limits::SOCKET_PATH_BYTES));
            d.problem(node.span, format!("{} is no path for a unix socket", d.quote(node)), help);
            return None;
        }
        return Some(Listen::Unix(path));
    }
    if let Ok(address) = text.parse::<SocketAddr>() {
        return Some(Listen::Tcp(address));
    }
    let right = "write IP:PORT or unix:/path".to_owned();
    let help = if d.quote(node).contains(super::mask::STARS) {
        right
    } else if let Some(port) = text.strip_prefix("localhost:") {
        format!("write 127.0.0.1:{port}")
    } else if let Some(port) = text.strip_prefix("*:").or_else(|| text.strip_prefix(':')) {
        format!("write 127.0.0.1:{port} for this machine only, or 0.0.0.0:{port} for all")
    } else if text.parse::<u16>().is_ok() {
        format!("write 127.0.0.1:{text}")
    } else if text.parse::<std::net::IpAddr>().is_ok() {
        "add a port: 127.0.0.1:7070, or \"[::1]:7070\" in quotes".to_owned()
    } else if text.contains("://") {
        format!("{right}, without a scheme")
    } else {
        right
    };
    d.problem(node.span, format!("{} is no address to listen on", d.quote(node)), Some(help));
    None
}

/// Two listeners cannot share an address.
pub fn same_address(d: &mut Decoder<'_>, root: &Fields<'_>, sources: &BTreeMap<String, Source>, admin: &Admin) {
    let section = root.get("sources");
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    let of_admin = root.get("admin").and_then(|node| member(node, "listen"));
    let mut named = vec![("admin".to_owned(), &admin.listen, of_admin)];
    named.extend(sources.iter().filter_map(|(name, source)| {
        let node = section.and_then(|node| member(node, name)).and_then(|node| member(node, "listen"));
        Some((format!("source {name}"), source.listen()?, node))
    }));
    for (name, listen, node) in named {
        if matches!(listen, Listen::Tcp(address) if address.port() == 0) {
            continue;
        }
        if let Some(other) = seen.get(&listen.to_string()) {
            let span = node.or(section).map_or(root.span, |node| node.span);
            let shown = node.map_or_else(|| format!("`{listen}`"), |node| d.quote(node));
            let message = format!("{name} listens on {shown}, and so does {other}");
            d.problem(span, message, Some("give each its own port".to_owned()));
        } else {
            seen.insert(listen.to_string(), name);
        }
    }
}
