//! Heads of HTTP/1 messages: read from bytes, and written again with their lines as they came, save those that belong to one
//! connection only (RFC 9110, section 7.6.1). Does no I/O.

use bytes::{Buf, BytesMut};
use httparse::Status;

use super::framing::{Broken, Framing};
use crate::limits;

/// Header lines that most heads stay below; more are read with a larger table.
const USUAL_LINES: usize = 64;

/// One header line: where its name, its value and all of it stand in the head's bytes.
#[derive(Debug, Clone, PartialEq)]
struct Line {
    name: std::ops::Range<usize>,
    value: std::ops::Range<usize>,
}

/// Why a head cannot be read or passed on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeadError {
    /// Not HTTP/1.
    #[error("this is no HTTP/1 message: {0}")]
    Syntax(httparse::Error),
    /// Too large.
    #[error("the head is larger than {} bytes", limits::HEADER_BYTES)]
    TooLarge,
    /// Where its body ends cannot be told for sure, so that two readers could disagree.
    #[error("where the body ends is not clear: {0}")]
    Framing(&'static str),
    /// Whom it is for cannot be told for sure.
    #[error("whom the request is for is not clear: {0}")]
    Host(&'static str),
    /// Its chunks are broken.
    #[error(transparent)]
    Chunks(Broken),
}

/// The lines of a head, with the bytes they stand in.
#[derive(Debug, Default)]
pub struct Lines {
    raw: Vec<u8>,
    lines: Vec<Line>,
}

impl Lines {
    /// Name and value of each line, in order, as they came.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &[u8])> {
        self.lines.iter().map(|line| (self.name(line), &self.raw[line.value.clone()]))
    }

    /// The values of one header, name in any case.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The comma-separated members of all values of one header.
    fn members<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.all(name).flat_map(|value| value.split(|b| *b == b',')).map(<[u8]>::trim_ascii).filter(|m| !m.is_empty())
    }

    fn has(&self, name: &str, member: &str) -> bool {
        self.members(name).any(|m| m.eq_ignore_ascii_case(member.as_bytes()))
    }

    fn name(&self, line: &Line) -> &str {
        // The parser lets nothing but ASCII through.
        std::str::from_utf8(&self.raw[line.name.clone()]).unwrap_or_default()
    }

    /// Name, colon, blanks and value as they came. What stood between the value and the line's end is not kept.
    fn write(&self, line: &Line, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.raw[line.name.start..line.value.end]);
        out.extend_from_slice(b"\r\n");
    }

    /// `Content-Length`, if all that are given agree.
    fn length(&self) -> Result<Option<u64>, HeadError> {
        let mut length = None;
        for value in self.all("content-length") {
            let digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(value).ok().filter(|_| digits).and_then(|text| text.parse::<u64>().ok());
            let number = number.ok_or(HeadError::Framing("Content-Length is not a number"))?;
            if length.is_some_and(|before| before != number) {
                return Err(HeadError::Framing("there are several Content-Length"));
            }
            length = Some(number);
        }
        Ok(length)
    }

    /// Whether `Transfer-Encoding` is there, and whether it ends in a single `chunked`.
    fn chunked(&self) -> Option<bool> {
        let codings: Vec<_> = self.members("transfer-encoding").collect();
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        let (last, before) = codings.split_last()?;
        Some(is_chunked(last) && !before.iter().any(|c| is_chunked(c)))
    }

    /// Lines that are for the next connection too: what `Connection` names stays behind, but for what frames the message.
    fn passed(&self, upgrade: bool) -> impl Iterator<Item = &Line> {
        let named: Vec<_> = self.members("connection").filter(|m| !is_kept(m)).collect();
        let mut connection = Some(upgrade || self.keeps_te());
        self.lines.iter().filter(move |line| {
            let name = self.name(line);
            match HopByHop::of(name) {
                Some(HopByHop::Connection) => connection.take().unwrap_or(false),
                Some(HopByHop::Upgrade) => upgrade,
                Some(HopByHop::Te) => self.keeps_te(),
                Some(HopByHop::Other) => false,
                None => !named.iter().any(|m| name.as_bytes().eq_ignore_ascii_case(m)),
            }
        })
    }

    /// Of `TE` only `trailers` means something beyond this connection.
    fn keeps_te(&self) -> bool {
        self.has("te", "trailers")
    }

    /// Writes the lines that pass, `Connection` reduced to what still holds.
    fn write_passed(&self, upgrade: bool, skip: impl Fn(&str) -> bool, out: &mut Vec<u8>) {
        for line in self.passed(upgrade) {
            let name = self.name(line);
            if skip(name) {
                continue;
            }
            match HopByHop::of(name) {
                Some(HopByHop::Connection) => {
                    let value = match (upgrade, self.keeps_te()) {
                        (true, true) => "Upgrade, TE",
                        (true, false) => "Upgrade",
                        _ => "TE",
                    };
                    push(out, &[name, ": ", value, "\r\n"]);
                }
                Some(HopByHop::Te) => push(out, &[name, ": trailers\r\n"]),
                _ => self.write(line, out),
            }
        }
    }
}

/// Headers that end with the connection.
enum HopByHop {
    Connection,
    Upgrade,
    Te,
    Other,
}

impl HopByHop {
    fn of(name: &str) -> Option<Self> {
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        match name.len() {
            2 if is("te") => Some(Self::Te),
            7 if is("upgrade") => Some(Self::Upgrade),
            10 if is("connection") => Some(Self::Connection),
            10 if is("keep-alive") => Some(Self::Other),
            16 if is("proxy-connection") => Some(Self::Other),
            _ => None,
        }
    }
}

/// What `Connection` may not take away: the message would become another one.
fn is_kept(name: &[u8]) -> bool {
    [&b"host"[..], b"content-length", b"transfer-encoding", b"te", b"upgrade", b"connection", b"close", b"keep-alive"]
        .iter()
        .any(|kept| name.eq_ignore_ascii_case(kept))
}

fn push(out: &mut Vec<u8>, parts: &[&str]) {
    for part in parts {
        out.extend_from_slice(part.as_bytes());
    }
}

/// A request's head.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "independent facts about one message")]
pub struct RequestHead {
    /// As it came.
    pub method: String,
    /// Path and query, or `*`.
    pub target: String,
    /// `host:port` of an absolute target.
    pub authority: Option<String>,
    /// Whether it is HTTP/1.1, not 1.0.
    pub is_11: bool,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether it asks to go on in another protocol.
    pub upgrade: bool,
    /// Whether the client waits before it sends the body.
    pub expects: bool,
    /// Whether the connection may serve a further request.
    pub keep_alive: bool,
    /// Its lines.
    pub lines: Lines,
}

impl RequestHead {
    /// Whether it is `CONNECT`.
    pub fn is_connect(&self) -> bool {
        self.method == "CONNECT"
    }

    /// Whether sending it twice does no more than sending it once, and nothing else follows it.
    pub fn may_be_repeated(&self) -> bool {
        self.framing.is_done() && !self.upgrade && matches!(self.method.as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE")
    }

    /// As it goes upstream. The target is in origin form; `Host` follows an absolute target and is else as it came.
    pub fn write(&self, upstream: &str, out: &mut Vec<u8>) {
        let version = if self.is_11 { " HTTP/1.1\r\n" } else { " HTTP/1.0\r\n" };
        push(out, &[&self.method, " ", &self.target, version]);
        let host = self.lines.all("host").next();
        let other =
            self.authority.as_ref().filter(|a| host.is_none_or(|host| !host.eq_ignore_ascii_case(a.as_bytes())));
        let host = match (other, host) {
            (Some(authority), _) => Some(authority.as_str()),
            (None, None) => Some(upstream),
            (None, Some(_)) => None,
        };
        if let Some(host) = host {
            push(out, &["Host: ", host, "\r\n"]);
        }
        self.lines.write_passed(self.upgrade, |name| host.is_some() && name.eq_ignore_ascii_case("host"), out);
        out.extend_from_slice(b"\r\n");
    }
}

/// A response's head.
#[derive(Debug)]
pub struct ResponseHead {
    /// Its status.
    pub status: u16,
    /// The status line as it came, without its end.
    line: std::ops::Range<usize>,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether upstream keeps the connection.
    pub keep_alive: bool,
    /// Whether it is HTTP/1.1, not 1.0.
    pub is_11: bool,
    /// Its lines.
    pub lines: Lines,
}

impl ResponseHead {
    /// Whether another response to the same request follows.
    pub fn is_interim(&self) -> bool {
        (100..200).contains(&self.status) && self.status != 101
    }

    /// As it goes to the client; `close` says that no further request is served.
    pub fn write(&self, close: bool, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.lines.raw[self.line.clone()]);
        out.extend_from_slice(b"\r\n");
        // With both, the length means nothing.
        let unframed = self.lines.chunked().is_some();
        let switching = self.status == 101;
        self.lines.write_passed(switching, |name| unframed && name.eq_ignore_ascii_case("content-length"), out);
        if close && !switching {
            out.extend_from_slice(b"Connection: close\r\n");
        }
        out.extend_from_slice(b"\r\n");
    }
}

/// What a head's bytes say before they are understood.
#[derive(PartialEq)]
struct Parsed {
    length: usize,
    is_11: bool,
    lines: Vec<Line>,
}

/// Takes a request's head off the front of `buffer`, once all of it is there.
pub fn request(buffer: &mut BytesMut) -> Result<Option<RequestHead>, HeadError> {
    let mut start = (String::new(), String::new());
    let parsed = parse(buffer, |bytes, table| {
        let mut request = httparse::Request::new(table);
        let Status::Complete(length) = request.parse(bytes)? else { return Ok(None) };
        start = (request.method.unwrap_or_default().to_owned(), request.path.unwrap_or_default().to_owned());
        Ok(Some(Parsed { length, is_11: request.version == Some(1), lines: ranges(bytes, request.headers) }))
    })?;
    let Some(parsed) = parsed else { return Ok(None) };
    let lines = Lines { raw: take(buffer, parsed.length), lines: parsed.lines };
    let (method, target) = start;
    let (authority, target) = origin(&method, target);
    let framing = match (lines.chunked(), lines.length()?) {
        (Some(_), Some(_)) => return Err(HeadError::Framing("both Transfer-Encoding and Content-Length are there")),
        (Some(_), None) if !parsed.is_11 => return Err(HeadError::Framing("HTTP/1.0 has no Transfer-Encoding")),
        (Some(false), None) => return Err(HeadError::Framing("Transfer-Encoding does not end in one chunked")),
        (Some(true), None) => Framing::chunked(),
        (None, Some(length)) => Framing::length(length),
        (None, None) => Framing::length(0),
    };
    // RFC 9112, section 3.2; an absolute target says it as well.
    match lines.all("host").count() {
        0 if parsed.is_11 && authority.is_none() => return Err(HeadError::Host("HTTP/1.1 needs a Host")),
        0 | 1 => {}
        _ => return Err(HeadError::Host("there are several Host")),
    }
    let wants = lines.has("connection", "upgrade");
    // `h2c` by upgrade is between two neighbours (RFC 9113, section 3.1).
    let upgrade = parsed.is_11 && wants && lines.members("upgrade").any(|m| !m.eq_ignore_ascii_case(b"h2c"));
    let expects = parsed.is_11 && lines.all("expect").any(|value| value.eq_ignore_ascii_case(b"100-continue"));
    let keep_alive = parsed.is_11 && !lines.has("connection", "close");
    Ok(Some(RequestHead {
        method,
        target,
        authority,
        is_11: parsed.is_11,
        framing,
        upgrade,
        expects,
        keep_alive,
        lines,
    }))
}

/// Takes a response's head off the front of `buffer`, once all of it is there. `head_only` says that it answers `HEAD`.
pub fn response(buffer: &mut BytesMut, head_only: bool) -> Result<Option<ResponseHead>, HeadError> {
    let mut config = httparse::ParserConfig::default();
    config.allow_obsolete_multiline_headers_in_responses(true);
    let mut status = 0;
    let parsed = parse(buffer, |bytes, table| {
        let mut response = httparse::Response::new(table);
        let Status::Complete(length) = config.parse_response(&mut response, bytes)? else { return Ok(None) };
        status = response.code.unwrap_or_default();
        Ok(Some(Parsed { length, is_11: response.version == Some(1), lines: ranges(bytes, response.headers) }))
    })?;
    let Some(parsed) = parsed else { return Ok(None) };
    let lines = Lines { raw: take(buffer, parsed.length), lines: parsed.lines };
    let bodyless = head_only || (100..200).contains(&status) || matches!(status, 204 | 304);
    let framing = match (lines.chunked(), bodyless) {
        (_, true) => Framing::length(0),
        (Some(true), _) => Framing::chunked(),
        (Some(false), _) => Framing::until_close(),
        (None, _) => lines.length()?.map_or_else(Framing::until_close, Framing::length),
    };
    let is_11 = parsed.is_11;
    let keep_alive = is_11 && !lines.has("connection", "close");
    let first = lines.raw.iter().position(|b| *b != b'\r' && *b != b'\n').unwrap_or(0);
    let end = first + lines.raw[first..].iter().position(|b| *b == b'\n').unwrap_or(0);
    let line = first..if lines.raw[..end].ends_with(b"\r") { end - 1 } else { end };
    Ok(Some(ResponseHead { status, line, framing, keep_alive, is_11, lines }))
}

/// Runs the parser with a table that is large enough.
fn parse(
    bytes: &[u8],
    mut read: impl for<'b> FnMut(&'b [u8], &mut [httparse::Header<'b>]) -> Result<Option<Parsed>, httparse::Error>,
) -> Result<Option<Parsed>, HeadError> {
    let mut parsed = read(bytes, &mut [httparse::EMPTY_HEADER; USUAL_LINES]);
    if parsed == Err(httparse::Error::TooManyHeaders) {
        parsed = read(bytes, &mut vec![httparse::EMPTY_HEADER; limits::HEADER_LINES]);
    }
    match parsed {
        Ok(Some(parsed)) if parsed.length > limits::HEADER_BYTES => Err(HeadError::TooLarge),
        Ok(None) if bytes.len() > limits::HEADER_BYTES => Err(HeadError::TooLarge),
        Err(httparse::Error::TooManyHeaders) => Err(HeadError::TooLarge),
        parsed => parsed.map_err(HeadError::Syntax),
    }
}

/// Splits an absolute target into its authority and the rest; others are as they are.
fn origin(method: &str, target: String) -> (Option<String>, String) {
    let rest = match target.find("://") {
        Some(at) if at > 0 && !target.starts_with('/') && target[..at].bytes().all(is_scheme) => &target[at + 3..],
        _ => return (None, target),
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host).to_owned();
    let path = match path {
        "" if method == "OPTIONS" => "*".to_owned(),
        path if path.starts_with('/') => path.to_owned(),
        path => format!("/{path}"),
    };
    (Some(host), path)
}

fn is_scheme(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)
}

/// Copied, so that the buffer can go on being used.
fn take(buffer: &mut BytesMut, length: usize) -> Vec<u8> {
    let taken = buffer[..length].to_vec();
    buffer.advance(length);
    taken
}

fn ranges(bytes: &[u8], headers: &[httparse::Header<'_>]) -> Vec<Line> {
    let base = bytes.as_ptr() as usize;
    let range = |part: &[u8]| {
        let start = part.as_ptr() as usize - base;
        start..start + part.len()
    };
    headers.iter().map(|h| Line { name: range(h.name.as_bytes()), value: range(h.value) }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<RequestHead, HeadError> {
        request(&mut BytesMut::from(text)).map(|head| head.expect("a whole head"))
    }

    fn passed(text: &str) -> String {
        let mut out = Vec::new();
        read(text).expect("a request").write("bot:8000", &mut out);
        String::from_utf8(out).expect("text")
    }

    fn answered(text: &str) -> String {
        let head = response(&mut BytesMut::from(text), false).expect("a response").expect("a whole head");
        let mut out = Vec::new();
        head.write(false, &mut out);
        String::from_utf8(out).expect("text")
    }

    #[test]
    fn lines_keep_their_order_case_and_blanks() {
        let text = "PATCH /a?b=%20c HTTP/1.1\r\nhOsT:x\r\nX-B: 1\r\nset:  two words \t\r\nX-A:\r\nx-b:\u{e9}2\r\n\r\n";
        let same = "PATCH /a?b=%20c HTTP/1.1\r\nhOsT:x\r\nX-B: 1\r\nset:  two words\r\nX-A:\r\nx-b:\u{e9}2\r\n\r\n";
        assert_eq!(passed(text), same);
        let text = "HTTP/1.1 299 \r\nSet-Cookie: a\r\nDATE: x\r\nset-cookie: b\r\n\r\n";
        assert_eq!(answered(text), text);
        assert_eq!(answered("HTTP/1.0 200 Fine by me\r\n\r\n"), "HTTP/1.0 200 Fine by me\r\n\r\n");
    }

    #[test]
    fn what_belongs_to_a_connection_stays_there() {
        for (lines, left) in [
            (
                "Connection: keep-alive, X-Mine\r\nX-Mine: 1\r\nx-other: 2\r\nKeep-Alive: timeout=5\r\n",
                "x-other: 2\r\n",
            ),
            ("Proxy-Connection: close\r\nproxy-authorization: a\r\n", "proxy-authorization: a\r\n"),
            ("TE: gzip\r\nconnection: TE\r\n", ""),
            ("TE: gzip, trailers\r\nconnection: TE\r\n", "TE: trailers\r\nconnection: TE\r\n"),
            ("Upgrade: websocket\r\n", ""),
            (
                "Connection: keep-alive, Upgrade, X\r\nX: 1\r\nUpgrade: websocket\r\n",
                "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            ),
            ("Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n", ""),
            ("Connection: host, content-length\r\nContent-Length: 0\r\n", "Content-Length: 0\r\n"),
            ("Connection: close\r\nConnection: x-a\r\nX-A: 1\r\n", ""),
        ] {
            let text = format!("GET / HTTP/1.1\r\nHost: x\r\n{lines}\r\n");
            assert_eq!(passed(&text), format!("GET / HTTP/1.1\r\nHost: x\r\n{left}\r\n"), "{lines:?}");
        }
    }

    #[test]
    fn absolute_targets_become_paths() {
        for (line, line_passed) in [
            ("GET http://a.example/x?y HTTP/1.1\r\nHost: a.example", "GET /x?y HTTP/1.1\r\nHost: a.example"),
            ("GET http://a.example?y HTTP/1.1\r\nhost: other", "GET /?y HTTP/1.1\r\nHost: a.example"),
            ("GET http://u:p@a.example:81 HTTP/1.1", "GET / HTTP/1.1\r\nHost: a.example:81"),
            ("OPTIONS http://a.example HTTP/1.1\r\nHost: a.example", "OPTIONS * HTTP/1.1\r\nHost: a.example"),
            ("OPTIONS * HTTP/1.1\r\nHost: b", "OPTIONS * HTTP/1.1\r\nHost: b"),
            ("GET /to?url=http://c.example/ HTTP/1.1\r\nHost: b", "GET /to?url=http://c.example/ HTTP/1.1\r\nHost: b"),
            ("GET / HTTP/1.0", "GET / HTTP/1.0\r\nHost: bot:8000"),
        ] {
            assert_eq!(passed(&format!("{line}\r\n\r\n")), format!("{line_passed}\r\n\r\n"));
        }
    }

    #[test]
    fn bodies_without_a_clear_end_are_refused() {
        for (lines, why) in [
            ("Content-Length: 1\r\nTransfer-Encoding: chunked\r\n", "both Transfer-Encoding and Content-Length"),
            ("Content-Length: 1\r\nContent-Length: 2\r\n", "several Content-Length"),
            ("Content-Length: +1\r\n", "not a number"),
            ("Content-Length: 1, 1\r\n", "not a number"),
            ("Transfer-Encoding: chunked, gzip\r\n", "does not end in one chunked"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "does not end in one chunked"),
        ] {
            let error = read(&format!("POST / HTTP/1.1\r\nHost: x\r\n{lines}\r\n")).expect_err(why).to_string();
            assert!(error.starts_with("where the body ends is not clear") && error.contains(why), "{error}");
        }
        for (head, why) in [("Host: x\r\nHost: y\r\n", "there are several Host"), ("X: y\r\n", "HTTP/1.1 needs a Host")]
        {
            let error = read(&format!("GET / HTTP/1.1\r\n{head}\r\n")).expect_err(why).to_string();
            assert_eq!(error, format!("whom the request is for is not clear: {why}"));
        }
        let error = read("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n").expect_err("1.0").to_string();
        assert!(error.contains("HTTP/1.0 has no Transfer-Encoding"), "{error}");
        let error = read("GET / HTTP/1.1\r\nX : y\r\n\r\n").expect_err("a blank").to_string();
        assert!(error.contains("this is no HTTP/1 message: invalid header name"), "{error}");
        let long = format!("GET / HTTP/1.1\r\nX: {}", "y".repeat(limits::HEADER_BYTES));
        assert_eq!(read(&long).map(|_| ()), Err(HeadError::TooLarge));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "X: y\r\n".repeat(limits::HEADER_LINES + 1));
        assert_eq!(read(&many).map(|_| ()), Err(HeadError::TooLarge));
        let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "X: y\r\n".repeat(limits::HEADER_LINES - 1));
        assert_eq!(passed(&many), many);
    }

    #[test]
    fn responses_say_where_they_end() {
        for (text, head_only, framing) in [
            ("200 OK\r\nContent-Length: 5", false, Framing::length(5)),
            ("200 OK\r\nContent-Length: 5", true, Framing::length(0)),
            ("304 Not Modified\r\nContent-Length: 5", false, Framing::length(0)),
            ("204 No Content", false, Framing::length(0)),
            ("101 Switching Protocols", false, Framing::length(0)),
            ("200 OK\r\nTransfer-Encoding: gzip, Chunked", false, Framing::chunked()),
            ("200 OK\r\nTransfer-Encoding: gzip", false, Framing::until_close()),
            ("200 OK\r\nFolded: a\r\n  b", false, Framing::until_close()),
        ] {
            let mut bytes = BytesMut::from(format!("HTTP/1.1 {text}\r\n\r\nrest").as_bytes());
            let head = response(&mut bytes, head_only).expect(text).expect("a whole head");
            assert_eq!((head.framing, &bytes[..]), (framing, &b"rest"[..]), "{text}");
        }
        let both = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
        assert_eq!(answered(both), "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "the length means nothing");
        assert_eq!(response(&mut BytesMut::from("HTTP/1.1 200"), false).expect("so far").map(|_| ()), None);
    }
}
