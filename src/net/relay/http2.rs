//! HTTP/2 from clients: to upstream in HTTP/2 where it speaks that, else in HTTP/1.1. WebSockets (RFC 8441) go on as an
//! HTTP/1.1 upgrade.

use std::convert::Infallible;
use std::error::Error as StdError;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri, Version};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use hyper_util::client::legacy;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::copier::{Copier, Copiers, Headers, Seen, Watch};
use super::refusal::Refusal;
use super::upstream::Upstream;
use super::{Relay, Transport, Way, pump};
use crate::limits;
use crate::net::prefixed::Prefixed;
use crate::net::serve::{ServeOptions, until_stopped};

/// A relayed body.
type Relayed = UnsyncBoxBody<Bytes, hyper::Error>;
type Client = legacy::Client<Connect, Relayed>;

/// Clients to the one upstream.
pub struct Clients {
    /// HTTP/2 on plain connections.
    http2: Client,
    /// What TLS agrees on; HTTP/1.1 on plain connections.
    agreed: Client,
    /// HTTP/1.1.
    http1: Client,
}

impl Clients {
    pub fn new(upstream: &Arc<Upstream>) -> Self {
        let builder = || {
            let mut builder = legacy::Client::builder(TokioExecutor::new());
            builder.timer(TokioTimer::new()).pool_timer(TokioTimer::new());
            builder.pool_idle_timeout(limits::POOL_IDLE_TIMEOUT).pool_max_idle_per_host(limits::RELAY_CONNECTIONS);
            builder.http1_preserve_header_case(true);
            builder.http2_keep_alive_interval(Duration::from_secs(30));
            builder
        };
        let connect = |http2| Connect { upstream: Arc::clone(upstream), http2 };
        Self {
            http2: builder().http2_only(true).build(connect(true)),
            agreed: builder().build(connect(true)),
            http1: builder().build(connect(false)),
        }
    }
}

/// Dials the upstream whatever the request's URI says.
#[derive(Clone)]
struct Connect {
    upstream: Arc<Upstream>,
    http2: bool,
}

impl tower_service::Service<Uri> for Connect {
    type Response = TokioIo<Transport>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let Self { upstream, http2 } = self.clone();
        Box::pin(async move { upstream.dial(http2).await.map(TokioIo::new) })
    }
}

/// Serves an HTTP/2 connection whose first bytes are `prefix`.
pub async fn serve<I>(relay: Arc<Relay>, io: I, prefix: Bytes, stop: CancellationToken, options: &ServeOptions)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .auto_date_header(false)
        .enable_connect_protocol()
        .max_concurrent_streams(options.max_streams)
        .max_header_list_size(u32::try_from(options.header_bytes).unwrap_or(u32::MAX))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(20));
    let service = hyper::service::service_fn(move |request| {
        let relay = Arc::clone(&relay);
        async move { Ok::<_, Infallible>(handle(&relay, request).await) }
    });
    let connection = builder.serve_connection(TokioIo::new(Prefixed::new(prefix, io)), service);
    if let Err(error) = until_stopped(connection, &stop).await {
        tracing::debug!(%error, "an HTTP/2 connection ended early");
    }
}

async fn handle(relay: &Arc<Relay>, request: Request<Incoming>) -> Response<Relayed> {
    let way = &*relay.way.load_full();
    if request.method() == Method::CONNECT {
        let protocol = request.extensions().get::<hyper::ext::Protocol>().map(|p| p.as_str().to_owned());
        return match protocol {
            Some(protocol) if protocol.eq_ignore_ascii_case("websocket") => websocket(relay, way, request).await,
            _ => refuse(&Refusal::connect(&way.url)),
        };
    }
    let (mut parts, body) = request.into_parts();
    let target = parts.uri.path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let seen = Seen { method: parts.method.as_str(), target: &target, headers: &|| headers(&parts.headers) };
    let mut watch = relay.observer.watch(&seen);
    let copier = watch.as_mut().and_then(|watch| watch.request());
    let http2 = way.upstream.is_secure() || way.upstream.speaks_http2().await;
    let client = match (way.upstream.is_secure(), http2) {
        (true, _) => &way.http2.agreed,
        (false, true) => &way.http2.http2,
        (false, false) => &way.http2.http1,
    };
    parts.uri = absolute(way, &parts, &target);
    parts.version = Version::HTTP_11;
    if http2 && !way.upstream.is_secure() {
        parts.version = Version::HTTP_2;
    }
    parts.headers = end_to_end(&parts.headers);
    if parts.version == Version::HTTP_11 {
        join_cookies(&mut parts.headers);
    }
    let body = passing(body, copier);
    match client.request(Request::from_parts(parts, body)).await {
        Ok(response) => pass_on(response, watch),
        Err(error) => {
            if http2 {
                // It may have been replaced by one that does not.
                way.upstream.forget_http2();
            }
            no_answer(way, &error)
        }
    }
}

fn pass_on(response: Response<Incoming>, mut watch: Option<Box<dyn Watch>>) -> Response<Relayed> {
    let (mut parts, body) = response.into_parts();
    let copiers = match &mut watch {
        Some(watch) => watch.response(parts.status.as_u16(), &|| headers(&parts.headers)),
        None => Copiers::default(),
    };
    parts.headers = end_to_end(&parts.headers);
    parts.extensions.clear();
    Response::from_parts(parts, passing(body, copiers.server))
}

fn no_answer(way: &Way, error: &(dyn StdError + 'static)) -> Response<Relayed> {
    let mut why = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        why = inner.to_string();
        source = inner.source();
    }
    tracing::warn!(upstream = way.url, why, "no answer from upstream");
    refuse(&Refusal::bad_gateway(&way.url, &why))
}

fn refuse(refusal: &Refusal) -> Response<Relayed> {
    let body = Full::new(Bytes::from(refusal.document())).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
    *response.status_mut() = refusal.status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response
}

/// With the authority that the client named, since that is what upstream is to see.
fn absolute(way: &Way, parts: &http::request::Parts, target: &str) -> Uri {
    let named = parts.uri.authority().map(http::uri::Authority::as_str);
    let host = named.or_else(|| parts.headers.get(header::HOST).and_then(|host| host.to_str().ok()));
    let scheme = if way.upstream.is_secure() { "https" } else { "http" };
    let build = |authority: &str| Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build();
    host.and_then(|host| build(host).ok()).or_else(|| build(&way.authority).ok()).unwrap_or_default()
}

/// Without what belongs to one connection (RFC 9110, section 7.6.1). Order stays.
fn end_to_end(from: &HeaderMap) -> HeaderMap {
    let named: Vec<_> = from
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| HeaderName::try_from(name.trim()).ok())
        .filter(|name| *name != header::CONTENT_LENGTH && *name != header::HOST)
        .collect();
    let mut to = HeaderMap::with_capacity(from.keys_len());
    for (name, value) in from {
        let ends = matches!(*name, header::CONNECTION | header::TRANSFER_ENCODING | header::UPGRADE)
            || matches!(name.as_str(), "keep-alive" | "proxy-connection")
            || (*name == header::TE && !value.as_bytes().eq_ignore_ascii_case(b"trailers"))
            || (*name != header::TE && named.contains(name));
        if !ends {
            to.append(name, value.clone());
        }
    }
    to
}

/// HTTP/2 may split cookies over several lines, which elsewhere are one (RFC 9113, section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let cookies: Vec<_> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if cookies.len() > 1
        && let Ok(value) = HeaderValue::from_bytes(&cookies.join(&b"; "[..]))
    {
        headers.insert(header::COOKIE, value);
    }
}

fn headers(map: &HeaderMap) -> Headers {
    let text = |value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    map.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect()
}

/// Opens a WebSocket with an HTTP/1.1 upgrade and joins it to the client's stream.
async fn websocket(relay: &Relay, way: &Way, mut request: Request<Incoming>) -> Response<Relayed> {
    let target = request.uri().path_and_query().map_or("/", |target| target.as_str()).to_owned();
    let mut map = end_to_end(request.headers());
    join_cookies(&mut map);
    let mut key = [0; 16];
    relay.entropy.fill(&mut key);
    map.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    map.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    if let Ok(key) = HeaderValue::try_from(BASE64_STANDARD.encode(key)) {
        map.insert(header::SEC_WEBSOCKET_KEY, key);
    }
    let seen = Seen { method: "GET", target: &target, headers: &|| headers(&map) };
    let mut watch = relay.observer.watch(&seen);
    let client_side = hyper::upgrade::on(&mut request);
    let (mut parts, _) = request.into_parts();
    parts.uri = absolute(way, &parts, &target);
    parts.method = Method::GET;
    parts.version = Version::HTTP_11;
    parts.headers = map;
    parts.extensions.clear();
    let opening = Request::from_parts(parts, Empty::new().map_err(|never| match never {}).boxed_unsync());
    let mut response = match way.http2.http1.request(opening).await {
        Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => response,
        Ok(response) => return pass_on(response, watch),
        Err(error) => return no_answer(way, &error),
    };
    let copiers = match &mut watch {
        Some(watch) => watch.response(101, &|| headers(response.headers())),
        None => Copiers::default(),
    };
    let server_side = hyper::upgrade::on(&mut response);
    relay.tunnels.spawn(async move {
        let joined = async {
            let (client, server) = tokio::try_join!(client_side, server_side).map_err(io::Error::other)?;
            let (mut client_read, mut client_write) = tokio::io::split(TokioIo::new(client));
            let (mut server_read, mut server_write) = tokio::io::split(TokioIo::new(server));
            let (mut up, mut down) = (BytesMut::new(), BytesMut::new());
            tokio::try_join!(
                pump::direction(&mut client_read, &mut up, &mut server_write, copiers.client),
                pump::direction(&mut server_read, &mut down, &mut client_write, copiers.server),
            )
        };
        if let Err(error) = joined.await {
            tracing::debug!(%error, "a WebSocket over HTTP/2 broke");
        }
    });
    let mut answer = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *answer.headers_mut() = end_to_end(response.headers());
    answer.headers_mut().remove(header::SEC_WEBSOCKET_ACCEPT);
    answer
}

/// A body that is read along while it passes.
struct Passing {
    body: Incoming,
    copier: Option<Copier>,
}

fn passing(body: Incoming, copier: Option<Copier>) -> Relayed {
    let Some(copier) = copier else { return body.boxed_unsync() };
    if body.is_end_stream() {
        copier.finish();
        return body.boxed_unsync();
    }
    Passing { body, copier: Some(copier) }.boxed_unsync()
}

impl Body for Passing {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        if let Some(copier) = &mut this.copier {
            ready!(copier.poll_room(cx));
        }
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let (Some(copier), Some(Ok(frame))) = (&mut this.copier, &frame)
            && let Some(data) = frame.data_ref()
        {
            copier.push(data);
        }
        // Whoever takes the frames need not ask again after the last one.
        let ended = frame.is_none() || (frame.as_ref().is_some_and(Result::is_ok) && this.body.is_end_stream());
        if ended && let Some(copier) = this.copier.take() {
            copier.finish();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
