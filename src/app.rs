//! The only place that wires: build (bind) → serve → drain.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Parts};
use crate::clock::{Clock, Entropy};
use crate::config::model::{Listen, Settings, SourceKind};
use crate::config::{self, Generation, Report};
use crate::dispatch::{self, Dispatcher, Summary};
use crate::ingest::{self, Ingest};
use crate::net::relay::UpstreamError;
use crate::net::{self, ListenError, ServeOptions};
use crate::outbox::{CommitError, KnownWebhook, Options, Outbox, OutboxError, WhenFull};
use crate::reload::{ReloadHandle, Reloader};
use crate::shutdown::Shutdown;
use crate::source::http::HttpSource;
use crate::source::proxy::ProxySource;
use crate::telemetry;

/// How long what is told to let go may take to do so.
const LET_GO: Duration = Duration::from_secs(1);

/// Why sidehook did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration has problems.
    #[error(transparent)]
    Config(#[from] Report),
    /// The outbox could not be opened.
    #[error("the outbox could not be opened")]
    Outbox(#[from] OutboxError),
    /// The outbox refused to take note of the webhooks.
    #[error("the outbox could not be prepared")]
    Prepare(#[from] CommitError),
    /// A proxy's upstream cannot be used.
    #[error("{what}")]
    Upstream {
        /// Which one, by its key.
        what: String,
        /// Why.
        source: UpstreamError,
    },
    /// A listener could not be bound.
    #[error("{what}")]
    Listen {
        /// Which one, by its key.
        what: String,
        /// Why.
        source: ListenError,
    },
}

/// A sidehook that serves.
pub struct App {
    /// Where each http source listens, by name.
    pub sources: Vec<(String, Listen)>,
    /// Where the admin API listens.
    pub admin: Listen,
    /// Asks for reloads.
    pub reload: ReloadHandle,
    /// The outbox, for those who run sidehook inside their own process.
    pub outbox: Outbox,
    generations: watch::Receiver<Arc<Generation>>,
    ready: Arc<AtomicBool>,
    intake: CancellationToken,
    shutdown: Shutdown,
    admin_stop: CancellationToken,
    admin_thread: std::thread::JoinHandle<()>,
    sources_done: Vec<JoinHandle<()>>,
    dispatcher: JoinHandle<Summary>,
    followers: Vec<JoinHandle<()>>,
}

/// What was left when sidehook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Deliveries that wait in the outbox, held ones included.
    pub deliveries: u64,
    /// Events that wait for analysis.
    pub events: u64,
}

impl App {
    /// Loads the configuration, opens the outbox, binds every listener and starts all actors. When it returns,
    /// everything serves.
    pub async fn start(config: &Path, clock: Clock, entropy: Entropy) -> Result<Self, StartError> {
        telemetry::metrics();
        let env = |name: &str| std::env::var(name).ok();
        let first = config::load_all(config, &env, &clock).result?;
        for warning in &first.warnings {
            tracing::warn!("{warning}");
        }
        let settings = first.settings.clone();
        let outbox = Outbox::open(&settings.outbox_path, options(&settings), clock.clone())?;
        outbox.set_webhooks(known(&first)).await?;

        let shutdown = Shutdown::default();
        let intake = CancellationToken::new();
        let (troubles, heard) = ingest::troubles();
        let (reloader, reload, generations) = Reloader::new(config.to_owned(), first, clock.clone());
        let reloader = reloader.with_outbox(outbox.clone()).with_troubles(troubles.clone());
        let ready = Arc::new(AtomicBool::new(false));
        let admin_stop = CancellationToken::new();
        let listening = Arc::new(OnceLock::new());
        let ingest = Ingest::new(outbox.clone(), generations.clone(), clock.clone(), entropy.clone(), intake.clone());
        ingest.prepare().await?;
        let ingest = Arc::new(ingest.with_troubles(troubles.clone()));
        let dispatcher =
            Dispatcher::new(outbox.clone(), generations.clone(), clock.clone(), entropy.clone(), shutdown.clone())
                .with_troubles(troubles);
        let wake = dispatcher.handle();
        let admin = Admin::new(Parts {
            outbox: outbox.clone(),
            generations: generations.clone(),
            reload: reload.clone(),
            dispatch: wake.clone(),
            ingest: Arc::clone(&ingest),
            ready: Arc::clone(&ready),
            listening: Arc::clone(&listening),
            clock: clock.clone(),
        });
        let (admin, admin_thread) =
            admin.spawn(settings.admin.listen.clone(), admin_stop.clone()).await.map_err(at("admin.listen"))?;

        let mut sources = Vec::new();
        let mut sources_done = Vec::new();
        let mut proxies = Vec::new();
        for (name, source) in &settings.sources {
            match &source.kind {
                SourceKind::Http { listen, .. } => {
                    let listener = net::bind(listen).await.map_err(at(&format!("sources.{name}.listen")))?;
                    sources.push((name.clone(), listener.local().clone()));
                    let source = HttpSource::new(Arc::from(name.as_str()), Arc::clone(&ingest));
                    sources_done.push(tokio::spawn(serve_http(listener, Arc::new(source), intake.clone())));
                }
                SourceKind::Proxy { listen, upstream, taps } => {
                    let listener = net::bind(listen).await.map_err(at(&format!("sources.{name}.listen")))?;
                    sources.push((name.clone(), listener.local().clone()));
                    let what = (upstream, taps.as_slice());
                    let sink = Arc::clone(&ingest);
                    let proxy = ProxySource::new(
                        &Arc::from(name.as_str()),
                        sink,
                        what,
                        (clock.clone(), entropy.clone()),
                        intake.clone(),
                    )
                    .map_err(|source| StartError::Upstream { what: format!("sources.{name}.upstream"), source })?;
                    let proxy = Arc::new(proxy);
                    sources_done.push(tokio::spawn(Arc::clone(&proxy).serve(listener)));
                    proxies.push((name.clone(), proxy));
                }
                SourceKind::Stdin
                | SourceKind::Unix { .. }
                | SourceKind::File { .. }
                | SourceKind::Exec(_)
                | SourceKind::Sse { .. } => {}
            }
        }
        let dispatcher = tokio::spawn(dispatcher.run());
        let followers = vec![
            tokio::spawn(Arc::clone(&ingest).run_own(heard)),
            tokio::spawn(Arc::clone(&ingest).run_ends()),
            tokio::spawn(Arc::clone(&ingest).run_analyses()),
            tokio::spawn(ingest.run_waits()),
            tokio::spawn(reloader.run(shutdown.draining.clone())),
            tokio::spawn(follow(generations.clone(), outbox.clone(), wake)),
            tokio::spawn(follow_taps(generations.clone(), proxies)),
        ];
        // Set once, here.
        let _ = listening.set(sources.clone());
        ready.store(true, Ordering::SeqCst);
        for (name, listen) in &sources {
            tracing::info!(source = %name, %listen, "takes events");
        }
        tracing::info!(admin = %admin, webhooks = generations.borrow().webhooks.len(), "sidehook is ready");
        Ok(Self {
            sources,
            admin,
            reload,
            outbox,
            generations,
            ready,
            intake,
            shutdown,
            admin_stop,
            admin_thread,
            sources_done,
            dispatcher,
            followers,
        })
    }

    /// Ends in order: readiness goes red, events are still accepted for `shutdown.accept`, then intake stops, attempts
    /// in flight get `shutdown.grace`, and the outbox is closed. `hurry` cuts every wait short.
    pub async fn drain(self, hurry: CancellationToken) -> Leftover {
        self.ready.store(false, Ordering::SeqCst);
        let (accept, grace) = {
            let generation = self.generations.borrow();
            (generation.settings.shutdown_accept, generation.settings.shutdown_grace)
        };
        tracing::info!(accept_ms = millis(accept), grace_ms = millis(grace), "ending: the last events are still taken");
        tokio::select! {
            () = tokio::time::sleep(accept) => {}
            () = hurry.cancelled() => {}
        }
        self.intake.cancel();
        self.shutdown.draining.cancel();
        let abort = self.shutdown.abort.clone();
        let in_flight = async {
            for source in self.sources_done {
                // A source that panicked has nothing in flight.
                let _ = source.await;
            }
            self.dispatcher.await
        };
        tokio::pin!(in_flight);
        let ended = tokio::select! {
            ended = &mut in_flight => Some(ended),
            () = tokio::time::sleep(grace) => None,
            () = hurry.cancelled() => None,
        };
        abort.cancel();
        let ended = match ended {
            Some(ended) => Some(ended),
            // After `abort` the dispatcher only lets go of what it holds.
            None => tokio::time::timeout(LET_GO, in_flight).await.ok(),
        };
        match ended {
            Some(Ok(Summary { cut_off: 0, unsettled: 0 })) => {}
            Some(Ok(Summary { cut_off, unsettled })) => {
                tracing::warn!(
                    cut_off,
                    unsettled,
                    "attempts were let go; their deliveries are sent again after the next start"
                );
            }
            Some(Err(error)) => tracing::error!(%error, "dispatch ended unexpectedly"),
            None => tracing::warn!("a request or an attempt did not let go in time"),
        }
        for follower in self.followers {
            follower.abort();
        }
        let leftover = match self.outbox.ledger().await {
            Ok(ledger) => Leftover {
                deliveries: ledger.webhooks.iter().map(|row| row.pending + row.held).sum(),
                events: ledger.webhooks.iter().map(|row| row.waiting).sum(),
            },
            Err(error) => {
                tracing::warn!(%error, "the ledger could not be read");
                Leftover { deliveries: 0, events: 0 }
            }
        };
        self.outbox.close().await;
        self.admin_stop.cancel();
        let _ = tokio::task::spawn_blocking(move || self.admin_thread.join()).await;
        leftover
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
async fn follow_taps(
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

/// Tells the outbox and the metrics about each new generation.
async fn follow(mut generations: watch::Receiver<Arc<Generation>>, outbox: Outbox, dispatch: dispatch::Handle) {
    while generations.changed().await.is_ok() {
        let generation = Arc::clone(&generations.borrow_and_update());
        outbox.set_options(options(&generation.settings));
        while let Err(error) = outbox.set_webhooks(known(&generation)).await {
            if matches!(error, CommitError::Closed) {
                return;
            }
            tracing::warn!(%error, "the outbox could not take note of the new webhooks; trying again");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        dispatch.wake_all().await;
        telemetry::metrics().retain("webhook", |name| generation.webhooks.contains_key(name));
        telemetry::metrics().retain("analysis", |name| generation.analyses.iter().any(|a| *a.name == *name));
    }
}

fn known(generation: &Generation) -> Vec<KnownWebhook> {
    let webhooks = generation.webhooks.values();
    webhooks
        .map(|w| KnownWebhook { name: Arc::clone(&w.name), enabled: w.enabled, file_hash: w.file_hash.clone() })
        .collect()
}

/// The outbox's part of the settings.
#[must_use]
pub fn options(settings: &Settings) -> Options {
    let outbox = &settings.outbox;
    Options {
        max_bytes: outbox.max_bytes,
        when_full: if outbox.drop_oldest_begin { WhenFull::DropOldestBegin } else { WhenFull::Reject },
        retain_delivered: outbox.retain_delivered,
        retain_dead: outbox.retain_dead,
        retain_events: outbox.retain_events,
        retain_bodies: outbox.retain_bodies,
        retain_conversations: settings.conversations.retain,
        max_open_age: settings.conversations.max_open_age,
        encryption_keys: outbox.encryption_keys.clone(),
    }
}

fn at(what: &str) -> impl FnOnce(ListenError) -> StartError {
    let what = what.to_owned();
    move |source| StartError::Listen { what, source }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
