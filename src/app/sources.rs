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
use crate::config::model::{Exec, Listen, Source, SourceKind};
use crate::ingest::Ingest;
use crate::limits;
use crate::net::{self, ServeOptions};
use crate::source::exec::{self, ExecSource};
use crate::source::feed::Feed;
use crate::source::http::HttpSource;
use crate::source::sse::SseSource;
use crate::source::unix::UnixSource;
use crate::source::{file, stdin};

/// Sources that are open and read nothing yet.
pub(super) struct Opened {
    sources: Vec<(Arc<str>, Kind)>,
}

enum Kind {
    Http(net::Listener),
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
            SourceKind::Proxy { .. } => continue,
        };
        sources.push((Arc::from(name.as_str()), kind));
    }
    Ok(Opened { sources })
}

impl Opened {
    /// Where each source that listens does so, by name.
    pub(super) fn listening(&self) -> Vec<(String, Listen)> {
        let listener = |kind: &Kind| match kind {
            Kind::Http(listener) | Kind::Unix(listener) => Some(listener.local().clone()),
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
        let (mut tasks, mut child, mut programs) = (Vec::new(), None, Vec::new());
        for (name, kind) in self.sources {
            // What such a source has read it cannot read again, so it waits for the outbox as long as there is one.
            let lasting = || Feed::new(Arc::clone(&name), Arc::clone(ingest), intake.clone()).with_clock(clock.clone());
            let brief = || Feed::new(Arc::clone(&name), Arc::clone(ingest), reading.clone()).with_clock(clock.clone());
            match kind {
                Kind::Http(listener) => {
                    let source = Arc::new(HttpSource::new(Arc::clone(&name), Arc::clone(ingest)));
                    tasks.push(tokio::spawn(serve_http(listener, source, reading.clone())));
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
        Ok(Running { reading, tasks, child, exhausted })
    }
}

impl Running {
    /// Waits until nothing can come in any more.
    pub(super) async fn over(&self) {
        match &self.child {
            Some(child) => drop(child.ended().await),
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
