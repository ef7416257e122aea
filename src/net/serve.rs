//! The server loop: accepts, bounds and serves HTTP/1.1 and HTTP/2 connections with or without TLS. Knows nothing of
//! what the service answers.

use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::Service;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulConnection;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::linger::Lingering;
use super::listener::{Listener, Peer, Stream};
use super::prefixed::Prefixed;
use crate::limits;

/// How every HTTP/2 connection begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Bounds of a server.
#[derive(Clone)]
pub struct ServeOptions {
    /// Connections at once; further ones wait in the kernel's queue.
    pub max_connections: usize,
    /// From the connection (or the last answer) to the end of the next request's head, and for a TLS handshake.
    pub header_timeout: Duration,
    /// Largest request head, in bytes.
    pub header_bytes: usize,
    /// Requests at once over one HTTP/2 connection.
    pub max_streams: u32,
    /// TLS, if it is to be spoken.
    pub tls: Option<Arc<rustls::ServerConfig>>,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            max_connections: limits::CONNECTIONS,
            header_timeout: limits::HEADER_TIMEOUT,
            header_bytes: limits::HEADER_BYTES,
            max_streams: limits::STREAMS_PER_CONNECTION,
            tls: None,
        }
    }
}

/// Serves until `stop` is cancelled, then accepts nothing more, lets the requests in flight finish and returns.
/// Dropping the future ends all its connections at once. Each request carries its [`Peer`] as an extension.
/// Reading a body is the service's: it must bound its size and time.
pub async fn serve<S, B>(listener: Listener, service: S, stop: CancellationToken, options: ServeOptions)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let ending = stop.clone();
    each_connection(listener, stop, options, |stream, peer, options| {
        let (service, stop) = (service.clone(), ending.clone());
        async move { connection(stream, peer, service, stop, &options).await }
    })
    .await;
}

/// Accepts until `stop` is cancelled and runs `serve` for each connection; returns when the last of them has ended.
pub(super) async fn each_connection<F, T>(listener: Listener, stop: CancellationToken, options: ServeOptions, serve: F)
where
    F: Fn(Stream, Peer, Arc<ServeOptions>) -> T,
    T: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(options.max_connections.max(1)));
    let options = Arc::new(options);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = next(&listener, &places) => match accepted {
                Ok((stream, peer, place)) => {
                    let serving = serve(stream, peer, options.clone());
                    connections.spawn(async move {
                        serving.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(listen = %listener.local(), %error, "a connection could not be accepted");
                    // Out of file descriptors: accepting again at once would spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

/// Waits for a place before it accepts, so that what cannot be served stays in the kernel's queue.
pub(super) async fn next(
    listener: &Listener,
    places: &Arc<Semaphore>,
) -> io::Result<(Stream, Peer, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
    let (stream, peer) = listener.accept().await?;
    Ok((stream, peer, place))
}

async fn connection<S, B>(stream: Stream, peer: Peer, service: S, stop: CancellationToken, options: &ServeOptions)
where
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let Some(config) = &options.tls else { return http(stream, peer, service, stop, options).await };
    let handshake = tokio_rustls::TlsAcceptor::from(config.clone()).accept(stream);
    match tokio::time::timeout(options.header_timeout, handshake).await {
        Ok(Ok(stream)) => http(stream, peer, service, stop, options).await,
        Ok(Err(error)) => tracing::debug!(?peer, %error, "TLS handshake failed"),
        Err(_) => tracing::debug!(?peer, "TLS handshake timed out"),
    }
}

async fn http<I, S, B>(mut io: I, peer: Peer, service: S, stop: CancellationToken, options: &ServeOptions)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    // hyper has no deadline while it finds out the version, so that is done here, where there is one.
    let sniffed = tokio::select! {
        () = stop.cancelled() => return,
        sniffed = tokio::time::timeout(options.header_timeout, sniff(&mut io)) => sniffed,
    };
    let Ok(Ok((prefix, http2))) = sniffed else { return };
    let builder = builder(http2, options);
    let early = Arc::new(AtomicBool::new(false));
    let io = Lingering::new(Prefixed::new(prefix, io), early.clone());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        // HTTP/2 ends a single request where HTTP/1.1 has to end the connection.
        let has_body = !http2 && !request.body().is_end_stream();
        let (answer, early) = (service.call(request), early.clone());
        async move {
            let answer = answer.await;
            // Whether the service read the body is not known here; where it refused the request it may not have.
            let refused = answer.as_ref().is_ok_and(|a| a.status().is_client_error() || a.status().is_server_error());
            early.store(has_body && refused, Ordering::Relaxed);
            answer
        }
    });
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(io), service);
    if let Err(error) = until_stopped(connection, &stop).await {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// Serves a connection; once `stop` is cancelled it takes no further request and lets those in flight finish.
pub(super) async fn until_stopped<C: GracefulConnection>(
    connection: C,
    stop: &CancellationToken,
) -> Result<(), C::Error> {
    tokio::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    }
}

/// Reads until it is clear whether this is HTTP/2.
pub(super) async fn sniff<I: AsyncRead + Unpin>(io: &mut I) -> io::Result<(Bytes, bool)> {
    let mut read = BytesMut::with_capacity(PREFACE.len());
    loop {
        let mut chunk = [0; PREFACE.len()];
        let n = io.read(&mut chunk[..PREFACE.len() - read.len()]).await?;
        read.extend_from_slice(&chunk[..n]);
        if read != PREFACE[..read.len()] {
            return Ok((read.freeze(), false));
        }
        if read.len() == PREFACE.len() {
            return Ok((read.freeze(), true));
        }
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn builder(http2: bool, options: &ServeOptions) -> auto::Builder<TokioExecutor> {
    let builder = auto::Builder::new(TokioExecutor::new());
    let mut builder = if http2 { builder.http2_only() } else { builder.http1_only() };
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(options.header_timeout)
        // hyper's smallest buffer is 8 KiB
        .max_buf_size(options.header_bytes.max(8 * 1024));
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(options.max_streams)
        .max_header_list_size(u32::try_from(options.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    builder
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Full};
    use hyper::service::service_fn;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::*;
    use crate::config::model::Listen;
    use crate::net::bind;

    async fn echo(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let peer = request.extensions().get::<Peer>().cloned();
        let version = request.version();
        let body = request.into_body().collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        let text = format!("{version:?} {} {}", matches!(peer, Some(Peer::Tcp(_))), body.len());
        Ok(Response::new(Full::new(Bytes::from(text))))
    }

    async fn server(options: ServeOptions) -> (std::net::SocketAddr, CancellationToken, tokio::task::JoinHandle<()>) {
        let listener = bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.expect("bound");
        let addr = listener.local_addr().expect("tcp");
        let stop = CancellationToken::new();
        let task = tokio::spawn(serve(listener, service_fn(echo), stop.clone(), options));
        (addr, stop, task)
    }

    async fn say(addr: std::net::SocketAddr, text: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.expect("connected");
        stream.write_all(text.as_bytes()).await.expect("written");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer).await;
        answer
    }

    #[tokio::test]
    async fn serves_http1_and_stops_gracefully() {
        let (addr, stop, task) = server(ServeOptions::default()).await;
        let answer = say(addr, "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\nconnection: close\r\n\r\nabc").await;
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("HTTP/1.1 true 3"), "{answer}");

        // A request that is half sent when the end comes is still answered.
        let mut stream = TcpStream::connect(addr).await.expect("connected");
        stream.write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\na").await.expect("written");
        let idle = TcpStream::connect(addr).await.expect("connected");
        let (done, second) = tokio::join!(say(addr, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"), async {
            stream.write_all(b"b").await
        });
        assert!(done.ends_with("true 0") && second.is_ok(), "both connections are being served: {done}");
        stop.cancel();
        stream.write_all(b"c").await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("answered and closed");
        assert!(answer.ends_with("HTTP/1.1 true 3"), "{answer}");
        task.await.expect("ended");
        assert!(TcpStream::connect(addr).await.is_err(), "nobody listens any more");
        drop(idle);
    }

    #[tokio::test]
    async fn serves_http2_with_prior_knowledge() {
        let (addr, _stop, _task) = server(ServeOptions::default()).await;
        let stream = TcpStream::connect(addr).await.expect("connected");
        let (mut send, connection) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("h2");
        tokio::spawn(connection);
        let request = Request::post("http://x/").body(Full::new(Bytes::from_static(b"hello"))).expect("a request");
        let body = send.send_request(request).await.expect("answered").into_body().collect().await.expect("whole");
        assert_eq!(body.to_bytes(), "HTTP/2.0 true 5");
    }

    #[tokio::test]
    async fn an_answer_before_the_body_was_read_arrives() {
        let listener = bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.expect("bound");
        let addr = listener.local_addr().expect("tcp");
        let refuse = service_fn(async |_: Request<Incoming>| {
            Ok(Response::builder().status(413).body(Full::new(Bytes::from_static(b"no"))).expect("a response"))
        });
        let stop = CancellationToken::new();
        let _stop = stop.clone().drop_guard();
        tokio::spawn(serve(listener, refuse, stop, ServeOptions::default()));
        for _ in 0..5 {
            let mut stream = TcpStream::connect(addr).await.expect("connected");
            let body = vec![b'x'; 9 * 1024 * 1024];
            let head = format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).await.expect("written");
            stream.write_all(&body).await.expect("all is taken");
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.expect("answered");
            assert!(answer.starts_with("HTTP/1.1 413") && answer.ends_with("no"), "{answer}");
        }
    }

    #[tokio::test]
    async fn silent_and_dripping_connections_lose_their_place() {
        let options =
            ServeOptions { max_connections: 1, header_timeout: Duration::from_millis(100), ..ServeOptions::default() };
        let (addr, _stop, _task) = server(options).await;
        for beginning in ["", "P", "PRI * HTTP/2.0\r\n", "GET / HTTP/1.1\r\nx"] {
            let mut hog = TcpStream::connect(addr).await.expect("connected");
            hog.write_all(beginning.as_bytes()).await.expect("written");
            let answer = say(addr, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
            assert!(answer.ends_with("true 0"), "{beginning:?}: {answer}");
        }
    }
}
