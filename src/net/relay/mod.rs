//! A transparent reverse proxy for HTTP/1, HTTP/2 and what they upgrade to: everything goes to one upstream, as it came and
//! while it comes. Others may read along through an [`Observer`]; this module knows nothing of what they make of it.

mod copier;
mod exchange;
mod framing;
mod head;
mod http2;
mod pump;
mod refusal;
mod upstream;

use std::sync::Arc;

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use copier::{
    Budget, Copier, Copiers, Feed, Headers, Observer, Piece, QueueHandle, Reader, Seen, Side, Watch, queue,
};
pub use upstream::{Upstream, UpstreamError};

use super::connector::Transport;
use super::listener::Listener;
use super::serve::{ServeOptions, each_connection, sniff};
use crate::clock::Entropy;
use crate::limits;

/// A proxy to one upstream.
pub struct Relay {
    way: ArcSwap<Way>,
    observer: Arc<dyn Observer>,
    entropy: Entropy,
    /// WebSockets that came over HTTP/2.
    tunnels: TaskTracker,
}

impl Relay {
    /// To `upstream`, read along by `observer`.
    #[must_use]
    pub fn new(upstream: Upstream, observer: Arc<dyn Observer>, entropy: Entropy) -> Arc<Self> {
        let way = ArcSwap::from_pointee(Way::new(upstream));
        Arc::new(Self { way, observer, entropy, tunnels: TaskTracker::new() })
    }

    /// Leads to another upstream from the next request on.
    pub fn lead_to(&self, upstream: Upstream) {
        if self.way.load().url != upstream.url() {
            self.way.store(Arc::new(Way::new(upstream)));
        }
    }

    /// Bounds of a listener that relays: more connections than others, since streams and WebSockets stay for long.
    #[must_use]
    pub fn options() -> ServeOptions {
        ServeOptions {
            max_connections: limits::RELAY_CONNECTIONS,
            max_streams: limits::RELAY_STREAMS,
            ..ServeOptions::default()
        }
    }

    /// Serves until `stop` is cancelled, then takes no further connection and no further request, lets what is under way
    /// end by itself and returns. Dropping the future ends all of it at once, but for WebSockets over HTTP/2.
    pub async fn serve(self: Arc<Self>, listener: Listener, stop: CancellationToken, options: ServeOptions) {
        let sweeping = async {
            loop {
                tokio::time::sleep(limits::RELAY_SWEEP).await;
                let way = self.way.load_full();
                way.upstream.sweep().await;
            }
        };
        let serving = each_connection(listener, stop.clone(), options, |stream, _peer, options| {
            let (relay, stop) = (Arc::clone(&self), stop.clone());
            async move { relay.connection(stream, stop, &options).await }
        });
        tokio::select! {
            () = serving => {}
            () = sweeping => {}
        }
        self.tunnels.close();
        self.tunnels.wait().await;
    }

    async fn connection<I>(self: Arc<Self>, mut io: I, stop: CancellationToken, options: &ServeOptions)
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let sniffed = tokio::select! {
            () = stop.cancelled() => return,
            sniffed = tokio::time::timeout(options.header_timeout, sniff(&mut io)) => sniffed,
        };
        match sniffed {
            Ok(Ok((prefix, false))) => exchange::serve(&self, io, prefix, &stop, options.header_timeout).await,
            Ok(Ok((prefix, true))) => http2::serve(self, io, prefix, stop, options).await,
            _ => {}
        }
    }
}

/// The way to an upstream.
struct Way {
    upstream: Arc<Upstream>,
    /// `host:port`
    authority: String,
    url: String,
    http2: http2::Clients,
}

impl Way {
    fn new(upstream: Upstream) -> Self {
        let upstream = Arc::new(upstream);
        let http2 = http2::Clients::new(&upstream);
        Self { authority: upstream.authority(), url: upstream.url(), http2, upstream }
    }
}

#[cfg(test)]
pub(crate) mod stage;
#[cfg(test)]
mod tests;
