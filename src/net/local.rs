//! One request to a sidehook on this host, for the command line: plain HTTP over TCP or a unix socket.

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};

use super::either::Either;
use super::listener::Stream;
use crate::config::model::Listen;
use crate::limits;
use crate::secret::Secret;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// Its body, at most [`limits::LOCAL_ANSWER_BYTES`].
    pub body: Bytes,
}

/// Why nothing came back.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// Nobody listens there.
    #[error("no sidehook answers at {listen}: {source}; is it running?")]
    Connect {
        /// Where.
        listen: Listen,
        /// What the system said.
        source: std::io::Error,
    },
    /// The request could not be made or answered.
    #[error("{listen} did not answer properly: {message}")]
    Http {
        /// Where.
        listen: Listen,
        /// What went wrong.
        message: String,
    },
}

/// `POST` of a JSON body.
pub async fn post(listen: &Listen, path: &str, token: Option<&Secret>, body: Bytes) -> Result<Answer, LocalError> {
    send(listen, "POST", path, token, "application/json", body).await
}

/// One request over a connection of its own.
pub async fn send(
    listen: &Listen,
    method: &str,
    path: &str,
    token: Option<&Secret>,
    media: &str,
    body: Bytes,
) -> Result<Answer, LocalError> {
    let http = |message: String| LocalError::Http { listen: listen.clone(), message };
    let mut request = Request::builder().method(method).uri(path).header(header::CONTENT_TYPE, media);
    request = match listen {
        Listen::Tcp(addr) => request.header(header::HOST, addr.to_string()),
        Listen::Unix(_) => request.header(header::HOST, "localhost"),
    };
    if let Some(token) = token {
        request = request.header(header::AUTHORIZATION, format!("Bearer {}", token.expose()));
    }
    let request = request.body(Full::new(body)).map_err(|e| http(e.to_string()))?;
    let connect = |source| LocalError::Connect { listen: listen.clone(), source };
    let exchange = async {
        let stream = match listen {
            Listen::Tcp(addr) => TcpStream::connect(addr).await.map(Either::A),
            Listen::Unix(path) => UnixStream::connect(path).await.map(Either::B),
        };
        exchange(stream.map_err(connect)?, request).await.map_err(http)
    };
    match tokio::time::timeout(limits::LOCAL_ANSWER, exchange).await {
        Ok(answer) => answer,
        Err(_) => Err(http(format!("no answer within {} s", limits::LOCAL_ANSWER.as_secs()))),
    }
}

async fn exchange(stream: Stream, request: Request<Full<Bytes>>) -> Result<Answer, String> {
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
    let status = response.status();
    let body = Limited::new(response.into_body(), limits::LOCAL_ANSWER_BYTES).collect().await;
    connection.abort();
    Ok(Answer { status, body: body.map_err(|e| e.to_string())?.to_bytes() })
}
