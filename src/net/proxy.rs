//! The HTTP proxy on the way out (`egress.proxy`): which destinations go through it, and the tunnel to one (CONNECT,
//! RFC 9110, section 9.3.6). Knows nothing of TLS or of what the tunnel carries.

use std::net::IpAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::config::model::{NoProxy, Proxy};
use crate::limits;

/// Why there is no tunnel.
#[derive(Debug, thiserror::Error)]
pub(super) enum TunnelError {
    #[error("the connection to it broke: {0}")]
    Io(#[from] std::io::Error),
    #[error("it closed the connection without an answer")]
    Closed,
    #[error("it did not answer in HTTP")]
    NotHttp,
    #[error("it wants credentials (407); egress.proxy holds them: http://USER:PASSWORD@HOST:PORT")]
    WantsCredentials,
    #[error("it refused its credentials (407)")]
    Credentials,
    #[error("it answered {0} to CONNECT{1}")]
    Status(u16, &'static str),
}

/// Whether what is sent to `host` goes through the proxy. As curl reads `no_proxy`: `*` is everything, a name stands for
/// itself and what is below it, addresses and networks are held against literal addresses only.
pub(super) fn applies(proxy: &Proxy, host: &str) -> bool {
    let host = host.trim_end_matches('.');
    let address = host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical());
    !proxy.except.iter().any(|except| match (except, address) {
        (NoProxy::All, _) => true,
        (NoProxy::Net(net), Some(ip)) => net.contains(&ip),
        (NoProxy::Host(name), None) => {
            let below = host.len().checked_sub(name.len()).filter(|at| host.is_char_boundary(*at));
            below
                .is_some_and(|at| host[at..].eq_ignore_ascii_case(name) && (at == 0 || host.as_bytes()[at - 1] == b'.'))
        }
        (NoProxy::Net(_), None) | (NoProxy::Host(_), Some(_)) => false,
    })
}

/// Asks the proxy at the other end of `stream` for a tunnel to `host`.
pub(super) async fn tunnel(stream: &mut TcpStream, proxy: &Proxy, host: &str, port: u16) -> Result<(), TunnelError> {
    let authority = if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") };
    let mut request = format!(
        "CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: sidehook/{}\r\n",
        env!("CARGO_PKG_VERSION")
    )
    .into_bytes();
    if let Some(value) = &proxy.authorization {
        request.extend_from_slice(b"Proxy-Authorization: ");
        request.extend_from_slice(value.as_bytes());
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"\r\n");
    stream.write_all(&request).await?;
    let head = head(stream).await?;
    match status(&head).ok_or(TunnelError::NotHttp)? {
        200..300 => Ok(()),
        407 if proxy.authorization.is_some() => Err(TunnelError::Credentials),
        407 => Err(TunnelError::WantsCredentials),
        status @ 403 => Err(TunnelError::Status(status, ": its own rules do not let this destination through")),
        status @ (405 | 501) => Err(TunnelError::Status(status, ": is it a forward proxy?")),
        status @ (502..=504) => Err(TunnelError::Status(status, ": it could not reach the destination")),
        status => Err(TunnelError::Status(status, "")),
    }
}

/// Reads the head of the answer and nothing behind it: whatever follows belongs to the tunnel, where the client speaks
/// first.
async fn head(stream: &mut TcpStream) -> Result<Vec<u8>, TunnelError> {
    let mut head = Vec::new();
    loop {
        let mut byte = [0];
        if stream.read(&mut byte).await? == 0 {
            return Err(if head.is_empty() { TunnelError::Closed } else { TunnelError::NotHttp });
        }
        head.push(byte[0]);
        if head.ends_with(b"\r\n\r\n") || head.ends_with(b"\n\n") {
            return Ok(head);
        }
        if head.len() >= limits::PROXY_HEAD_BYTES || (head.len() == 5 && head != b"HTTP/") {
            return Err(TunnelError::NotHttp);
        }
    }
}

fn status(head: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(head.split(|b| *b == b'\r' || *b == b'\n').next()?).ok()?;
    let mut words = line.split(' ');
    let version = words.next()?;
    let code = words.next()?;
    let digits = code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit());
    if version.starts_with("HTTP/1.") && digits { code.parse().ok() } else { None }
}

#[cfg(test)]
mod tests;
