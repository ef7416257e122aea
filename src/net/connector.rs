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
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::either::Either;
use super::gathered::Gathered;
use super::guard::{Denied, Guard};
use super::proxy::{self, TunnelError};
use super::unclosed::Unclosed;
use crate::config::model::Proxy;
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
    #[error("no way to {host} through the proxy {proxy}: {source}")]
    Tunnel { host: String, proxy: String, source: TunnelError },
    #[error("the proxy on the way to {host}: {source}")]
    Proxy { host: String, source: Box<ConnectError> },
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
    pub(super) names: Names,
}

#[cfg(test)]
type Script = Arc<dyn Fn(&str, u16) -> Vec<SocketAddr> + Send + Sync>;

/// Where names become addresses. Asked anew for every connection: what a name led to before counts for nothing.
#[derive(Clone, Default)]
pub(super) enum Names {
    /// The system's resolver.
    #[default]
    System,
    /// What a test says.
    #[cfg(test)]
    Scripted(Script),
}

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Outgoing>;
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
    async fn connect(&self, uri: &Uri, host: &str) -> Result<Outgoing, ConnectError> {
        let denied = |denied| ConnectError::Denied { host: host.to_owned(), denied };
        self.guard.check_scheme(uri.scheme_str()).map_err(denied)?;
        let secure = uri.scheme_str() == Some("https");
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let stream = match self.guard.proxy_for(host) {
            Some(proxy) => self.through(proxy, host, port).await?,
            None => self.directly(host, port).await?,
        };
        let _ = stream.set_nodelay(true);
        if !secure {
            return Ok(Either::A(Unclosed(Either::A(stream))));
        }
        let name = match &self.server_name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned()).map_err(|_| ConnectError::Host(host.to_owned()))?,
        };
        let shaken = self.tls.connect(name, stream).await;
        let stream = shaken.map_err(|source| ConnectError::Tls { host: host.to_owned(), source })?;
        Ok(if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Either::B(Box::new(Gathered::new(stream)))
        } else {
            Either::A(Unclosed(Either::B(Box::new(stream))))
        })
    }

    /// All addresses of a host, as the system gives them.
    async fn resolve(&self, host: &str, port: u16) -> Result<Vec<SocketAddr>, ConnectError> {
        if let Ok(ip) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(ip, port)]);
        }
        match &self.names {
            Names::System => {
                let found = tokio::net::lookup_host((host, port)).await;
                let found = found.map_err(|source| ConnectError::Resolve { host: host.to_owned(), source })?;
                Ok(found.collect())
            }
            #[cfg(test)]
            Names::Scripted(answer) => Ok(answer(host, port)),
        }
    }

    /// Dials those of the host's addresses that the guard lets through.
    async fn directly(&self, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        let mut refused = None;
        let mut open = Vec::new();
        for address in self.resolve(host, port).await? {
            match self.guard.check(address.ip()) {
                Ok(()) => open.push(address),
                Err(denied) => refused = refused.or(Some(denied)),
            }
        }
        match (open.as_slice(), refused) {
            ([], Some(denied)) => Err(ConnectError::Denied { host: host.to_owned(), denied }),
            ([], None) => Err(ConnectError::NoAddress { host: host.to_owned() }),
            (addresses, _) => dial(host, addresses).await,
        }
    }

    /// Opens a tunnel. Which of several addresses the proxy takes is not in our hands, so all that the name has must be
    /// good. A name that does not resolve here is left to the proxy, which may be the only one that can. The proxy's own
    /// address is not checked: the operator chose it, no webhook did.
    async fn through(&self, proxy: &Proxy, host: &str, port: u16) -> Result<TcpStream, ConnectError> {
        if let Ok(Ok(addresses)) = tokio::time::timeout(limits::PROXIED_LOOKUP, self.resolve(host, port)).await {
            for address in addresses {
                let checked = self.guard.check(address.ip());
                checked.map_err(|denied| ConnectError::Denied { host: host.to_owned(), denied })?;
            }
        }
        let of_proxy = |source| ConnectError::Proxy { host: host.to_owned(), source: Box::new(source) };
        let addresses = self.resolve(&proxy.host, proxy.port).await.map_err(of_proxy)?;
        let mut stream = dial(&proxy.host, &addresses).await.map_err(of_proxy)?;
        let name = format!("{}:{}", proxy.host, proxy.port);
        match proxy::tunnel(&mut stream, proxy, host, port).await {
            Ok(()) => Ok(stream),
            Err(source) => Err(ConnectError::Tunnel { host: host.to_owned(), proxy: name, source }),
        }
    }
}

/// Tries one address after the other in the resolver's order. All but the last get a short time only, so that one dead
/// address of several does not use up the attempt.
pub(super) async fn dial(host: &str, addresses: &[SocketAddr]) -> Result<TcpStream, ConnectError> {
    const SHORT: Duration = Duration::from_secs(3);
    let addresses = &addresses[..addresses.len().min(limits::ADDRESSES_TRIED)];
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

/// A connection, plain or with TLS.
pub(super) type Transport = Either<TcpStream, Box<TlsStream<TcpStream>>>;

impl Connection for Transport {
    fn connected(&self) -> Connected {
        match self {
            Self::B(stream) if stream.get_ref().1.alpn_protocol() == Some(b"h2") => Connected::new().negotiated_h2(),
            _ => Connected::new(),
        }
    }
}

/// A connection to a destination: for HTTP/1.1, or of the second kind for HTTP/2.
pub(super) type Outgoing = Either<Unclosed<Transport>, Box<Gathered<TlsStream<TcpStream>>>>;

impl Connection for Outgoing {
    fn connected(&self) -> Connected {
        match self {
            Self::A(stream) => stream.0.connected(),
            Self::B(_) => Connected::new().negotiated_h2(),
        }
    }
}
