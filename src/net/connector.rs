//! Opens connections for the client: resolve, ask the guard about every address, dial, shake hands. The only place in
//! sidehook that dials a webhook.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::guard::{Denied, Guard};
use crate::limits;

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{host}: {denied}")]
    Denied { host: String, denied: Denied },
    #[error("{0:?} is not a host")]
    Host(String),
    #[error("{host} could not be resolved: {source}")]
    Resolve { host: String, source: io::Error },
    #[error("{host} has no address")]
    NoAddress { host: String },
    #[error("{address} ({host}) could not be reached: {source}")]
    Dial { host: String, address: SocketAddr, source: io::Error },
    #[error("TLS with {host} failed: {source}{}", hint(source))]
    Tls { host: String, source: io::Error },
    #[error("{host} gave no connection within {}s", limits::CONNECT_TIMEOUT.as_secs())]
    TooLong { host: String },
}

/// Dials one destination's addresses.
#[derive(Clone)]
pub(super) struct Connector {
    pub(super) guard: Arc<Guard>,
    pub(super) tls: TlsConnector,
    /// Name to verify instead of the URL's host.
    pub(super) server_name: Option<ServerName<'static>>,
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Transport>;
    type Error = ConnectError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, ConnectError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), ConnectError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let connector = self.clone();
        Box::pin(async move {
            let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
            // The client may leave a connection that it no longer needs to finish on its own.
            match tokio::time::timeout(limits::CONNECT_TIMEOUT, connector.connect(&uri, &host)).await {
                Ok(connected) => connected.map(TokioIo::new),
                Err(_) => Err(ConnectError::TooLong { host }),
            }
        })
    }
}

impl Connector {
    async fn connect(&self, uri: &Uri, host: &str) -> Result<Transport, ConnectError> {
        let denied = |denied| ConnectError::Denied { host: host.to_owned(), denied };
        self.guard.check_scheme(uri.scheme_str()).map_err(denied)?;
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let addresses = resolve(host, port).await?;
        let mut refused = None;
        let mut open = Vec::with_capacity(addresses.len());
        for address in addresses {
            match self.guard.check(address.ip()) {
                Ok(()) => open.push(address),
                Err(denied) => refused = refused.or(Some(denied)),
            }
        }
        let stream = match (open.as_slice(), refused) {
            ([], Some(reason)) => return Err(denied(reason)),
            ([], None) => return Err(ConnectError::NoAddress { host: host.to_owned() }),
            (addresses, _) => dial(host, addresses).await?,
        };
        let _ = stream.set_nodelay(true);
        if !secure {
            return Ok(Transport::Plain(stream));
        }
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Host(host.to_owned()))?,
        };
        let shaken = self.tls.connect(name, stream).await;
        let stream = shaken.map_err(|source| ConnectError::Tls { host: host.to_owned(), source })?;
        Ok(Transport::Tls(Box::new(stream)))
    }
}

async fn resolve(host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let found = tokio::net::lookup_host((host, port)).await;
    let found = found.map_err(|source| ConnectError::Resolve { host: host.to_owned(), source })?;
    Ok(found.take(limits::ADDRESSES_TRIED).collect())
}

/// Tries one address after the other in the resolver's order. All but the last get a short time only, so that one dead
/// address of several does not use up the attempt.
async fn dial(host: &str, addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    const SHORT: Duration = Duration::from_secs(3);
    let mut failed = None;
    for (i, address) in addresses.iter().enumerate() {
        let last = i + 1 == addresses.len();
        let limit = if last { limits::CONNECT_TIMEOUT } else { SHORT };
        match tokio::time::timeout(limit, TcpStream::connect(address)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(source)) => failed = Some((*address, source)),
            Err(_) => failed = Some((*address, io::ErrorKind::TimedOut.into())),
        }
    }
    let host = host.to_owned();
    Err(match failed {
        Some((address, source)) => ConnectError::Dial { host, address, source },
        None => ConnectError::NoAddress { host },
    })
}

/// What would help, for the errors that operators meet most.
fn hint(error: &io::Error) -> &'static str {
    use rustls::{AlertDescription, CertificateError, Error};
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::UnknownIssuer)) => {
            "; is it signed by a private CA? tls.ca_file adds one to the built-in store"
        }
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => "; tls.server_name sets the name to expect",
        Some(Error::AlertReceived(AlertDescription::CertificateRequired)) => {
            "; it wants a client certificate: tls.client_cert_file and tls.client_key_file"
        }
        Some(Error::InvalidMessage(_)) => "; does it speak TLS on this port?",
        _ => "",
    }
}

/// A connection to a destination.
pub(super) enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl Connection for Transport {
    fn connected(&self) -> Connected {
        match self {
            Self::Tls(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

impl AsyncRead for Transport {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
