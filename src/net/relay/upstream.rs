//! Connections to the one upstream: dialled, kept while they may serve again, and asked whether they speak HTTP/2. No egress
//! guard stands here: the operator chose the upstream, no webhook did.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;

use bytes::BytesMut;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, ReadBuf, ReadHalf, WriteHalf};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tokio_rustls::TlsConnector;

use crate::config::model::Tls;
use crate::limits;
use crate::net::connector::{self, Transport};
use crate::net::either::Either;
use crate::net::tls::{self, TlsError};

/// An HTTP/2 connection's beginning with settings that say nothing (RFC 9113, sections 3.4 and 6.5).
const HELLO: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// Where everything goes.
pub struct Upstream {
    host: String,
    port: u16,
    secure: bool,
    name: Option<ServerName<'static>>,
    /// Offers HTTP/1.1 only, and HTTP/2 too.
    tls: Option<[TlsConnector; 2]>,
    idle: Mutex<VecDeque<Idle>>,
    speaks_http2: Mutex<Option<(bool, Instant)>>,
}

/// Why there is no upstream to begin with.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// Not a host.
    #[error("{0:?} is not a host")]
    Host(String),
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// A connection in both its directions.
pub struct Connection {
    pub(super) read: ReadHalf<Transport>,
    pub(super) write: WriteHalf<Transport>,
    /// Bytes that were read beyond the last message.
    pub(super) buffer: BytesMut,
    /// Whether it served before.
    pub(super) reused: bool,
}

struct Idle {
    connection: Connection,
    since: Instant,
}

impl Upstream {
    /// `host` is a name or an address.
    pub fn new(host: &str, port: u16, secure: bool) -> Result<Self, UpstreamError> {
        let bare = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(bare.to_owned()).ok();
        if secure && name.is_none() {
            return Err(UpstreamError::Host(host.to_owned()));
        }
        let tls = if secure {
            let both = tls::client_config(&Tls::default())?;
            let mut first = both.clone();
            first.alpn_protocols = vec![b"http/1.1".to_vec()];
            Some([TlsConnector::from(Arc::new(first)), TlsConnector::from(Arc::new(both))])
        } else {
            None
        };
        let (idle, speaks_http2) = (Mutex::default(), Mutex::default());
        Ok(Self { host: bare.to_owned(), port, secure, name, tls, idle, speaks_http2 })
    }

    /// Whether TLS is spoken.
    pub fn is_secure(&self) -> bool {
        self.secure
    }

    /// `host:port`, the port left out where it is the usual one.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.secure { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }

    /// Its URL, for people.
    pub fn url(&self) -> String {
        format!("{}://{}", if self.secure { "https" } else { "http" }, self.authority())
    }

    /// A new connection.
    pub(super) async fn dial(&self, http2: bool) -> io::Result<Transport> {
        match timeout(limits::CONNECT_TIMEOUT, self.dial_now(http2)).await {
            Ok(dialled) => dialled,
            Err(_) => Err(io::Error::other(format!("no connection within {} s", limits::CONNECT_TIMEOUT.as_secs()))),
        }
    }

    async fn dial_now(&self, http2: bool) -> io::Result<Transport> {
        let addresses: Vec<SocketAddr> = match self.host.parse() {
            Ok(ip) => vec![SocketAddr::new(ip, self.port)],
            Err(_) => tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect(),
        };
        let stream = connector::dial(&self.host, &addresses).await.map_err(io::Error::other)?;
        let _ = stream.set_nodelay(true);
        match (&self.name, &self.tls) {
            (Some(name), Some(tls)) => {
                let stream = tls[usize::from(http2)].connect(name.clone(), stream).await?;
                Ok(Either::B(Box::new(stream)))
            }
            _ => Ok(Either::A(stream)),
        }
    }

    /// A connection for HTTP/1: a kept one that is still good, or a new one. One that was quiet for longer than `rested` is
    /// not taken: its other end may be closing it at this moment.
    pub(super) async fn connection(&self, rested: std::time::Duration) -> io::Result<Connection> {
        loop {
            let kept = self.lock().pop_back();
            let Some(Idle { mut connection, since }) = kept else { break };
            if since.elapsed() > rested {
                // Those below it are older still; they may do for others.
                self.lock().push_back(Idle { connection, since });
                break;
            }
            if is_quiet(&mut connection).await {
                return Ok(connection);
            }
        }
        let (read, write) = tokio::io::split(self.dial(false).await?);
        Ok(Connection { read, write, buffer: BytesMut::new(), reused: false })
    }

    /// Keeps a connection on which nothing is under way.
    pub(super) fn keep(&self, mut connection: Connection) {
        if connection.buffer.is_empty() {
            connection.reused = true;
            let mut idle = self.lock();
            if idle.len() >= limits::RELAY_CONNECTIONS {
                idle.pop_front();
            }
            idle.push_back(Idle { connection, since: tokio::time::Instant::now() });
        }
    }

    /// Lets go of connections that were quiet for long or that upstream has closed.
    pub(super) async fn sweep(&self) {
        let all = std::mem::take(&mut *self.lock());
        let mut good = VecDeque::with_capacity(all.len());
        for mut idle in all {
            if idle.since.elapsed() < limits::POOL_IDLE_TIMEOUT && is_quiet(&mut idle.connection).await {
                good.push_back(idle);
            }
        }
        let mut idle = self.lock();
        good.append(&mut idle);
        *idle = good;
    }

    /// Whether a plain upstream speaks HTTP/2 when it is addressed in it. Asked on a connection of its own; the answer is
    /// remembered for a while.
    pub(super) async fn speaks_http2(&self) -> bool {
        let known = *self.speaks_http2.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((speaks, at)) = known
            && at.elapsed() < limits::HTTP2_REMEMBERED
        {
            return speaks;
        }
        let asked = async {
            let Ok(Either::A(mut stream)) = self.dial(false).await else { return None };
            Some(greets(&mut stream).await.unwrap_or(false))
        };
        // One that cannot be reached has not said no.
        let Some(speaks) = asked.await else { return known.is_some_and(|(speaks, _)| speaks) };
        *self.speaks_http2.lock().unwrap_or_else(PoisonError::into_inner) = Some((speaks, tokio::time::Instant::now()));
        speaks
    }

    /// Has the next request ask anew.
    pub(super) fn forget_http2(&self) {
        *self.speaks_http2.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// How many connections are kept.
    #[cfg(test)]
    pub(super) fn idle(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nothing came on it, not even its end.
async fn is_quiet(connection: &mut Connection) -> bool {
    let mut space = [0; 1];
    let quiet = poll_fn(|cx| {
        let mut buffer = ReadBuf::new(&mut space);
        Poll::Ready(Pin::new(&mut connection.read).poll_read(cx, &mut buffer).is_pending())
    });
    // A task that looked at many in a row would otherwise be told that nothing came, whatever did.
    tokio::task::unconstrained(quiet).await
}

/// Says hello and looks whether the answer begins with HTTP/2 settings.
async fn greets(stream: &mut TcpStream) -> io::Result<bool> {
    stream.write_all(HELLO).await?;
    let mut head = [0; 9];
    match timeout(limits::HTTP2_GREETING, stream.read_exact(&mut head)).await {
        Ok(read) => {
            read?;
            // Type 4 on stream 0.
            Ok(head[3] == 4 && head[5..] == [0; 4])
        }
        Err(_) => Ok(false),
    }
}
