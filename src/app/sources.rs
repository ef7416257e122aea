//! From configured sources to running ones: first everything is opened that can fail, then all of them start, a child process
//! last, when whatever it may want to reach is there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{StartError, at};
use crate::clock::{Clock, Entropy};
use crate::config::Generation;
use crate::config::model::{Exec, Listen, Source, SourceKind, Tap};
use crate::ingest::Ingest;
use crate::limits;
use crate::net::{self, ServeOptions};
use crate::source::exec::{self, ExecSource};
use crate::source::feed::Feed;
use crate::source::http::HttpSource;
use crate::source::proxy::ProxySource;
use crate::source::sse::SseSource;
use crate::source::unix::UnixSource;
use crate::source::{file, stdin};

/// Sources that are open and read nothing yet.
pub(super) struct Opened {
    sources: Vec<(Arc<str>, Kind)>,
}

enum Kind {
    Http(net::Listener),
    Proxy(net::Listener, url::Url, Vec<Tap>),
    Unix(net::Listener),
    Stdin,
    File(PathBuf),
    Sse(url::Url, Vec<(HeaderName, HeaderValue)>),
    Exec(Exec),
}

/// Sources that read.
pub(super) struct Running {
    /// Cancelled when they are to read nothing more; each then stores what it has in hand and ends.
    pub reading: CancellationToken,
    pub tasks: Vec<JoinHandle<()>>,
    /// The assistant, where it is sidehook's child.
    pub child: Option<exec::Handle>,
    /// The proxies by name, whose taps a reload changes.
    pub proxies: Vec<(String, Arc<ProxySource<Ingest>>)>,
    /// Cancelled when the only source has come to its end.
    exhausted: CancellationToken,
}

/// Opens what listens.
pub(super) async fn open(configured: &BTreeMap<String, Source>) -> Result<Opened, StartError> {
    let mut sources = Vec::new();
    for (name, source) in configured {
        let kind = match &source.kind {
            SourceKind::Http { listen, .. } => {
                Kind::Http(net::bind(listen).await.map_err(at(&format!("sources.{name}.listen")))?)
            }
            SourceKind::Proxy { listen, upstream, taps } => {
                let listener = net::bind(listen).await.map_err(at(&format!("sources.{name}.listen")))?;
                Kind::Proxy(listener, upstream.clone(), taps.clone())
            }
            SourceKind::Unix { listen } => {
                Kind::Unix(net::bind(listen).await.map_err(at(&format!("sources.{name}.listen")))?)
            }
            SourceKind::Stdin => Kind::Stdin,
            SourceKind::File { path } => {
                let name = name.clone();
                file::check(path).map_err(|source| StartError::File { name, source })?;
                Kind::File(path.clone())
            }
            SourceKind::Sse { url, headers } => Kind::Sse(url.clone(), headers.clone()),
            SourceKind::Exec(exec) => Kind::Exec(exec.clone()),
        };
        sources.push((Arc::from(name.as_str()), kind));
    }
    Ok(Opened { sources })
}

impl Opened {
    /// Where each source that listens does so, by name.
    pub(super) fn listening(&self) -> Vec<(String, Listen)> {
        let listener = |kind: &Kind| match kind {
            Kind::Http(listener) | Kind::Unix(listener) | Kind::Proxy(listener, ..) => Some(listener.local().clone()),
            Kind::Stdin | Kind::File(_) | Kind::Sse(..) | Kind::Exec(_) => None,
        };
        self.sources.iter().filter_map(|(name, kind)| Some((name.to_string(), listener(kind)?))).collect()
    }

    /// Starts them. `intake` is cancelled when nothing is taken in any more.
    pub(super) fn start(
        self,
        ingest: &Arc<Ingest>,
        generations: &watch::Receiver<Arc<Generation>>,
        intake: &CancellationToken,
        clock: &Clock,
        entropy: &Entropy,
    ) -> Result<Running, StartError> {
        let reading = CancellationToken::new();
        let exhausted = CancellationToken::new();
        let alone = self.sources.len() == 1;
        let (mut tasks, mut proxies) = (Vec::new(), Vec::new());
        let (mut child, mut programs) = (None, Vec::new());
        for (name, kind) in self.sources {
            // What such a source has read it cannot read again, so it waits for the outbox as long as there is one.
            let lasting = || Feed::new(Arc::clone(&name), Arc::clone(ingest), intake.clone());
            let brief = || Feed::new(Arc::clone(&name), Arc::clone(ingest), reading.clone());
            match kind {
                Kind::Http(listener) => {
                    let source = Arc::new(HttpSource::new(Arc::clone(&name), Arc::clone(ingest)));
                    tasks.push(tokio::spawn(serve_http(listener, source, reading.clone())));
                }
                Kind::Proxy(listener, upstream, taps) => {
                    let (sink, chance) = (Arc::clone(ingest), (clock.clone(), entropy.clone()));
                    let proxy = ProxySource::new(&name, sink, (&upstream, &taps), chance, reading.clone());
                    let what = format!("sources.{name}.upstream");
                    let proxy = Arc::new(proxy.map_err(|source| StartError::Upstream { what, source })?);
                    tasks.push(tokio::spawn(Arc::clone(&proxy).serve(listener)));
                    proxies.push((name.to_string(), proxy));
                }
                Kind::Unix(listener) => {
                    let source = UnixSource::new(brief());
                    let handle = move |stream| source.clone().handle(stream);
                    tasks.push(tokio::spawn(net::connections(listener, limits::CONNECTIONS, reading.clone(), handle)));
                }
                Kind::Stdin => {
                    let (feed, stop, exhausted) = (lasting(), reading.clone(), exhausted.clone());
                    tasks.push(tokio::spawn(async move {
                        let ended = stdin::run(feed, std::io::stdin(), stop).await;
                        if ended && alone {
                            exhausted.cancel();
                        }
                    }));
                }
                Kind::File(path) => tasks.push(file::spawn(brief(), path)),
                Kind::Sse(url, headers) => {
                    let generations = generations.clone();
                    let egress = Arc::new(move || generations.borrow().settings.egress.clone());
                    let source = SseSource::new(brief(), url, headers, egress, entropy.clone());
                    tasks.push(tokio::spawn(source.run()));
                }
                Kind::Exec(exec) => programs.push((lasting(), exec)),
            }
        }
        for (feed, exec) in programs {
            let name = feed.name().to_string();
            let started = ExecSource::start(feed, &exec, tokio::io::stdout());
            let (source, handle) = started.map_err(|source| StartError::Exec { name, source })?;
            tasks.push(tokio::spawn(source.run()));
            child = Some(handle);
        }
        Ok(Running { reading, tasks, child, proxies, exhausted })
    }
}

impl Running {
    /// Waits until nothing can come in any more.
    pub(super) async fn over(&self) {
        match &self.child {
            Some(child) => child.exited().await,
            None => self.exhausted.cancelled().await,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.exhausted.is_cancelled() || self.child.as_ref().is_some_and(|child| child.exit().is_some())
    }
}

async fn serve_http(listener: net::Listener, source: Arc<HttpSource<Ingest>>, stop: CancellationToken) {
    let service = hyper::service::service_fn(move |request| {
        let source = Arc::clone(&source);
        async move { Ok::<_, std::convert::Infallible>(source.handle(request).await) }
    });
    net::serve(listener, service, stop, ServeOptions::default()).await;
}

/// Tells the proxies about each new generation.
pub(super) async fn follow(
    mut generations: watch::Receiver<Arc<Generation>>,
    proxies: Vec<(String, Arc<ProxySource<Ingest>>)>,
) {
    while !proxies.is_empty() && generations.changed().await.is_ok() {
        let generation = Arc::clone(&generations.borrow_and_update());
        for (name, proxy) in &proxies {
            let source = generation.settings.sources.get(name).map(|source| &source.kind);
            let Some(SourceKind::Proxy { upstream, taps, .. }) = source else { continue };
            if let Err(error) = proxy.apply(upstream, taps) {
                tracing::error!(source = name, %error, "the new upstream cannot be used; the old one stays");
            }
        }
    }
}
