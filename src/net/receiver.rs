//! A local webhook receiver: verifies what arrives, hands it to whoever asked, answers. The core of `listen` and `demo`
//! and the counterpart in tests. Prints nothing.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::listener::{ListenError, Listener, bind};
use super::serve::{ServeOptions, serve};
use crate::clock::{Clock, Timestamp};
use crate::config::model::Listen;
use crate::limits;
use crate::sign::{ID, SIGNATURE, TIMESTAMP, VerifyError, VerifyKey, verify};

/// How to receive.
pub struct ReceiverOptions {
    /// Where.
    pub listen: Listen,
    /// TLS, if it is to be spoken.
    pub tls: Option<rustls::ServerConfig>,
    /// Keys, any of which may have signed; none: nothing is verified.
    pub keys: Vec<VerifyKey>,
    /// How far timestamps may be off; `None`: not looked at.
    pub tolerance: Option<Duration>,
    /// What it answers.
    pub status: StatusCode,
    /// For checking timestamps.
    pub clock: Clock,
}

/// One request, as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    /// When its body was complete.
    pub at: Timestamp,
    /// `POST`, …
    pub method: String,
    /// Path with query.
    pub path: String,
    /// `HTTP/1.1`, `HTTP/2.0`.
    pub version: String,
    /// Headers in the order of arrival; values that are not text are shown escaped.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Bytes,
    /// What verification said; `None` when there are no keys.
    pub verified: Option<Result<(), VerifyError>>,
}

impl Received {
    /// The first header of this (lower-case) name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }
}

/// A bound receiver.
pub struct Receiver {
    listener: Listener,
    options: ReceiverOptions,
}

impl Receiver {
    /// Binds, so that [`Receiver::local`] is known before anything is served.
    pub async fn bind(options: ReceiverOptions) -> Result<Self, ListenError> {
        Ok(Self { listener: bind(&options.listen).await?, options })
    }

    /// Where it listens.
    #[must_use]
    pub fn local(&self) -> &Listen {
        self.listener.local()
    }

    /// Serves in a task of its own until `stop` is cancelled. Requests come out of the channel in the order in which
    /// they were complete; each is answered once it is in the channel, so a reader that stops reading stops the sender.
    #[must_use]
    pub fn start(self, stop: CancellationToken) -> mpsc::Receiver<Received> {
        let (sender, receiver) = mpsc::channel(limits::RECEIVED_REQUESTS);
        let Self { listener, mut options } = self;
        let serve_options = ServeOptions { tls: options.tls.take().map(Arc::new), ..ServeOptions::default() };
        let options = Arc::new(options);
        let service = service_fn(move |request| answer(request, options.clone(), sender.clone()));
        tokio::spawn(serve(listener, service, stop, serve_options));
        receiver
    }
}

async fn answer(
    request: Request<Incoming>,
    options: Arc<ReceiverOptions>,
    sender: mpsc::Sender<Received>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let collected =
        tokio::time::timeout(limits::HEADER_TIMEOUT, Limited::new(body, limits::RECEIVED_BYTES).collect()).await;
    let body = match collected {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(_)) => return Ok(plain(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or broke off\n")),
        Err(_) => return Ok(plain(StatusCode::REQUEST_TIMEOUT, "the body did not come in time\n")),
    };
    let at = options.clock.now();
    let verified = (!options.keys.is_empty()).then(|| check(&options, &head.headers, &body, at));
    let said = match &verified {
        Some(Err(error)) => format!("signature refused: {error}\n"),
        _ => String::new(),
    };
    let status = if matches!(verified, Some(Err(_))) { StatusCode::UNAUTHORIZED } else { options.status };
    let received = Received {
        at,
        method: head.method.to_string(),
        path: head.uri.path_and_query().map_or_else(|| "/".to_owned(), ToString::to_string),
        version: format!("{:?}", head.version),
        headers: head.headers.iter().map(|(name, value)| (name.to_string(), text(value))).collect(),
        body,
        verified,
    };
    if sender.send(received).await.is_err() {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "the receiver is ending\n"));
    }
    Ok(plain(status, &said))
}

fn check(options: &ReceiverOptions, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Result<(), VerifyError> {
    let get = |name: http::HeaderName, text: &'static str| {
        headers.get(name).and_then(|v| v.to_str().ok()).ok_or(VerifyError::Missing(text))
    };
    let id = get(ID, "webhook-id")?;
    let timestamp = get(TIMESTAMP, "webhook-timestamp")?;
    let signature = get(SIGNATURE, "webhook-signature")?;
    verify(&options.keys, id, timestamp, signature, body, now, options.tolerance)
}

fn text(value: &http::HeaderValue) -> String {
    value.to_str().map_or_else(|_| value.as_bytes().escape_ascii().to_string(), str::to_owned)
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text.to_owned())));
    *response.status_mut() = status;
    response
}
