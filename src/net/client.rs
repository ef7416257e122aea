//! One destination's HTTP client: pooled HTTP/1.1 and HTTP/2 connections, one deadline over the whole exchange, a bound
//! on what is read, no redirects. Knows nothing of signatures or retries.

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls_pki_types::ServerName;

use super::connector::{ConnectError, Connector, Names};
use super::guard::Guard;
use super::tls::{TlsError, client_config};
use crate::clock::millis;
use crate::config::model::Tls;
use crate::delivery::Fault;
use crate::limits;

/// How sidehook names itself.
pub const AGENT: HeaderValue = HeaderValue::from_static(concat!("sidehook/", env!("CARGO_PKG_VERSION")));

/// A client with a connection pool of its own. Cloning shares the pool.
#[derive(Clone)]
pub struct Client {
    inner: legacy::Client<Connector, Full<Bytes>>,
}

/// A complete answer, or as much of it as is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// `Retry-After`, as sent.
    pub retry_after: Option<String>,
    /// The beginning of the body: of an attempt's answer the first [`limits::RESPONSE_BYTES`].
    pub body: Bytes,
}

/// Why there is no complete answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Its class.
    pub fault: Fault,
    /// For a person. Holds host names and addresses, never headers or paths.
    pub message: String,
    /// What came of the answer's body before it broke off.
    pub body: Bytes,
}

impl Failure {
    /// One without any of an answer's body.
    pub fn new(fault: Fault, message: impl Into<String>) -> Self {
        Self { fault, message: message.into(), body: Bytes::new() }
    }
}

impl Client {
    /// A client for destinations that share these TLS settings. `guard` is asked about every address it dials. Of
    /// HTTP/1.1 connections `at_once` are kept while unused, as many as its user has under way at once: of fewer, some would
    /// be closed after every request only to be dialled anew.
    pub fn new(tls: &Tls, guard: Arc<Guard>, at_once: usize) -> Result<Self, TlsError> {
        Self::with_names(tls, guard, at_once, Names::System)
    }

    /// With another resolver.
    pub(super) fn with_names(tls: &Tls, guard: Arc<Guard>, at_once: usize, names: Names) -> Result<Self, TlsError> {
        let server_name = match &tls.server_name {
            None => None,
            Some(name) => Some(
                ServerName::try_from(name.clone())
                    .map_err(|_| TlsError::Setup(format!("tls.server_name {name:?} is not a host name")))?,
            ),
        };
        let connector = Connector { guard, tls: Arc::new(client_config(tls)?).into(), server_name, names };
        let inner = legacy::Client::builder(TokioExecutor::new())
            .timer(TokioTimer::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(limits::POOL_IDLE_TIMEOUT)
            .pool_max_idle_per_host(at_once)
            .http1_max_buf_size(limits::HEADER_BYTES)
            .http2_max_header_list_size(u32::try_from(limits::HEADER_BYTES).unwrap_or(u32::MAX))
            .http2_keep_alive_interval(Duration::from_secs(20))
            .http2_keep_alive_timeout(Duration::from_secs(10))
            .build(connector);
        Ok(Self { inner })
    }

    /// Sends one request. `timeout` covers everything: connecting, sending, the answer's head and its body up to
    /// [`limits::RESPONSE_BYTES`], beyond which nothing is read. A request that a pooled connection lost before a byte
    /// of it was sent goes out once more over a fresh one, within the same deadline.
    pub async fn send(&self, request: Request<Full<Bytes>>, timeout: Duration) -> Result<Answer, Failure> {
        self.fetch(request, timeout, limits::RESPONSE_BYTES).await
    }

    /// Sends one request, and hands its answer on once the head is there, which `timeout` covers.
    pub async fn stream(&self, request: Request<Full<Bytes>>, timeout: Duration) -> Result<Streaming, Failure> {
        let answer = tokio::time::timeout(timeout, self.inner.request(request)).await;
        let answer = answer
            .map_err(|_| Failure::new(Fault::Timeout, format!("an answer did not come within {}", shown(timeout))))?;
        let (head, body) = answer.map_err(|e| failure(&e))?.into_parts();
        let content_type = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        Ok(Streaming { status: head.status.as_u16(), content_type: content_type.to_owned(), body })
    }

    /// [`Client::send`] that reads up to `most` bytes of the answer's body.
    pub async fn fetch(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        most: usize,
    ) -> Result<Answer, Failure> {
        let (mut head, mut body) = (None, BytesMut::new());
        let exchange = async {
            let response = self.inner.request(request).await.map_err(|e| failure(&e))?;
            read(response, &mut head, &mut body, most).await
        };
        let done = tokio::time::timeout(timeout, exchange).await;
        let body = body.freeze();
        let failure = match done {
            Ok(Ok(())) => return Ok(Answer { body, ..head.unwrap_or_default() }),
            Ok(Err(failure)) => failure,
            Err(_) => {
                let missing = if head.is_some() { "the end of the answer's body" } else { "an answer" };
                Failure::new(Fault::Timeout, format!("{missing} did not come within {}", shown(timeout)))
            }
        };
        match head {
            // What a refusal says is known from its head; its body is only for show.
            Some(head) if !(200..300).contains(&head.status) => Ok(Answer { body, ..head }),
            _ => Err(Failure { body, ..failure }),
        }
    }
}

/// A time limit as it is told: what is left of one has more digits than anybody wants.
pub(super) fn shown(limit: Duration) -> String {
    format!("{:?}", Duration::from_millis(millis(limit)))
}

/// An answer whose body is read as it comes. Dropping it ends the exchange.
#[derive(Debug)]
pub struct Streaming {
    /// Status code.
    pub status: u16,
    /// `Content-Type`, as sent; empty when there is none.
    pub content_type: String,
    body: Incoming,
}

impl Streaming {
    /// The next bytes, as many as came together; `None` at the end. How long to wait is the caller's to say.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame.map_err(|e| failure(&e))?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }
}

impl Default for Answer {
    fn default() -> Self {
        Self { status: 0, retry_after: None, body: Bytes::new() }
    }
}

/// Reads the body up to the limit; leaves the head in `head` as soon as it is known, and what came of the body in `read`.
/// Dropping the rest closes an HTTP/1.1 connection and resets an HTTP/2 stream.
async fn read(
    response: Response<Incoming>,
    head: &mut Option<Answer>,
    read: &mut BytesMut,
    most: usize,
) -> Result<(), Failure> {
    let retry_after = response.headers().get(header::RETRY_AFTER).and_then(|v| v.to_str().ok()).map(str::to_owned);
    *head = Some(Answer { status: response.status().as_u16(), retry_after, body: Bytes::new() });
    let mut body = response.into_body();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| failure(&e))?;
        let Some(data) = frame.data_ref() else { continue };
        let rest = most - read.len();
        read.extend_from_slice(&data[..data.len().min(rest)]);
        if read.len() == most {
            break;
        }
    }
    Ok(())
}

/// Classifies whatever hyper says by what is at the bottom of it.
fn failure(error: &(dyn StdError + 'static)) -> Failure {
    let mut fault = Fault::Reset;
    let mut message = None;
    let mut deepest = error;
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(connect) = error.downcast_ref::<ConnectError>() {
            fault = match connect {
                ConnectError::Denied { .. } => Fault::Denied,
                ConnectError::Tls { .. } | ConnectError::Host(_) => Fault::Tls,
                ConnectError::Dial { .. }
                | ConnectError::Resolve { .. }
                | ConnectError::NoAddress { .. }
                | ConnectError::Tunnel { .. }
                | ConnectError::Proxy { .. }
                | ConnectError::TooLong { .. } => Fault::Connect,
            };
            message = Some(connect.to_string());
            break;
        }
        if let Some(io) = error.downcast_ref::<io::Error>()
            && let Some(tls) = io.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>())
        {
            // In TLS 1.3 a refused client certificate shows only with the first answer.
            fault = Fault::Tls;
            message = Some(format!("TLS failed: {tls}"));
            break;
        }
        deepest = error;
        next = error.source();
    }
    let message = message.unwrap_or_else(|| format!("the connection broke before the answer was complete: {deepest}"));
    Failure::new(fault, message)
}
