//! The only place that wires: build (bind) → serve → drain.

mod files;
mod sources;
mod threads;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::admin::{Admin, Parts};
use crate::clock::{Clock, Entropy, millis};
use crate::config::model::{Listen, Settings};
use crate::config::{self, Generation, Report};
use crate::dispatch::{self, Dispatcher, Summary};
use crate::ingest::{self, Ingest};
use crate::net::ListenError;
use crate::net::relay::UpstreamError;
use crate::outbox::{CommitError, KnownWebhook, Options, Outbox, OutboxError, WhenFull};
use crate::reload::{ReloadHandle, Reloader};
use crate::shutdown::Shutdown;
use crate::source::exec::{self, ExecError, Exit, Forward};
use crate::source::file::FileError;
use crate::telemetry;
use threads::Threads;

/// How long what is told to let go may take to do so.
const LET_GO: Duration = Duration::from_secs(1);
/// How often it is looked whether deliveries are due, when nothing else is waited for.
const DUE_POLL: Duration = Duration::from_millis(25);

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
    /// There are no threads for deliveries.
    #[error("the threads that deliver cannot be started; raise the limits on open files and threads")]
    Threads(#[source] std::io::Error),
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
    /// A file cannot be followed.
    #[error("sources.{name}")]
    File {
        /// The source.
        name: String,
        /// Why.
        source: FileError,
    },
    /// The assistant could not be started.
    #[error("sources.{name}")]
    Exec {
        /// The source.
        name: String,
        /// Why.
        source: ExecError,
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
    running: sources::Running,
    clock: Clock,
    shutdown: Shutdown,
    admin_stop: CancellationToken,
    admin_thread: std::thread::JoinHandle<()>,
    dispatcher: JoinHandle<Summary>,
    delivery: Threads,
    followers: Vec<JoinHandle<()>>,
}

/// Turns readiness red when it is dropped by a panic: without deliveries nobody should send anything.
struct Alarm(Arc<AtomicBool>);

impl Drop for Alarm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(false, Ordering::SeqCst);
        }
    }
}

/// What was left when sidehook ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// Deliveries that wait in the outbox, held ones included.
    pub deliveries: u64,
    /// Events that wait for analysis.
    pub events: u64,
    /// How the assistant ended, where it was sidehook's child.
    pub exit: Option<Exit>,
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
        files::raise_limit(&settings);
        let outbox = Outbox::open(&settings.outbox_path, options(&settings), clock.clone())?;
        outbox.set_webhooks(known(&first)).await?;

        let shutdown = Shutdown::default();
        let intake = CancellationToken::new();
        let (troubles, heard) = ingest::troubles();
        outbox.tell_troubles(troubles.clone());
        let (reloader, reload, generations) = Reloader::new(config.to_owned(), first, clock.clone());
        let reloader = reloader.with_outbox(outbox.clone()).with_troubles(troubles.clone());
        let ready = Arc::new(AtomicBool::new(false));
        let admin_stop = CancellationToken::new();
        let listening = Arc::new(OnceLock::new());
        let ingest = Ingest::new(outbox.clone(), generations.clone(), clock.clone(), entropy.clone(), intake.clone());
        ingest.prepare().await?;
        let ingest = Arc::new(ingest.with_troubles(troubles.clone()));
        let delivery = Threads::start().map_err(StartError::Threads)?;
        let dispatcher = {
            let _on = delivery.enter();
            Dispatcher::new(outbox.clone(), generations.clone(), clock.clone(), entropy.clone(), shutdown.clone())
                .with_troubles(troubles)
        };
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

        let opened = sources::open(&settings.sources).await?;
        let sources = opened.listening();
        let dispatcher = {
            let alarm = Alarm(Arc::clone(&ready));
            delivery.spawn(async move {
                let summary = dispatcher.run().await;
                drop(alarm);
                summary
            })
        };
        let mut followers = vec![
            tokio::spawn(Arc::clone(&ingest).run_own(heard)),
            tokio::spawn(Arc::clone(&ingest).run_ends()),
            tokio::spawn(Arc::clone(&ingest).run_analyses()),
            tokio::spawn(Arc::clone(&ingest).run_waits()),
            tokio::spawn(reloader.run(shutdown.draining.clone())),
            tokio::spawn(follow(generations.clone(), outbox.clone(), wake)),
        ];
        // Set once, here.
        let _ = listening.set(sources.clone());
        ready.store(true, Ordering::SeqCst);
        for (name, listen) in &sources {
            tracing::info!(source = %name, %listen, "takes events");
        }
        let running = opened.start(&ingest, &generations, &intake, &clock, &entropy)?;
        followers.push(tokio::spawn(sources::follow(generations.clone(), running.proxies.clone())));
        tracing::info!(admin = %admin, webhooks = generations.borrow().webhooks.len(), "sidehook is ready");
        Ok(Self {
            sources,
            admin,
            reload,
            outbox,
            generations,
            ready,
            intake,
            running,
            clock,
            shutdown,
            admin_stop,
            admin_thread,
            dispatcher,
            delivery,
            followers,
        })
    }

    /// Waits until there is nothing left to run for: the assistant that was sidehook's child has ended, or standard input
    /// has, where it is the only source.
    pub async fn over(&self) {
        self.running.over().await;
    }

    /// Hands a signal on to the assistant, where it is sidehook's child.
    pub fn forward(&self, signal: Forward) {
        if let Some(child) = &self.running.child {
            child.forward(signal);
        }
    }

    /// Ends in order: readiness goes red, events are still accepted for `shutdown.accept` (of an assistant that is
    /// sidehook's child, until it has ended, at most for `accept` and `grace` together), then sources stop reading and store
    /// what they have in hand, intake stops, attempts in flight get `shutdown.grace`, and the outbox is closed. `hurry`
    /// cuts every wait short.
    pub async fn drain(self, hurry: CancellationToken) -> Leftover {
        self.ready.store(false, Ordering::SeqCst);
        let (accept, grace) = {
            let generation = self.generations.borrow();
            (generation.settings.shutdown_accept, generation.settings.shutdown_grace)
        };
        let end = tokio::time::Instant::now() + accept + grace;
        tracing::info!(accept_ms = millis(accept), grace_ms = millis(grace), "ending: the last events are still taken");
        self.last_words(accept, end, &hurry).await;
        let exit = self.running.child.as_ref().and_then(exec::Handle::exit);
        self.running.reading.cancel();
        self.shutdown.draining.cancel();
        let abort = self.shutdown.abort.clone();
        let intake = self.intake.clone();
        let in_flight = async {
            for source in self.running.tasks {
                // A source that panicked has nothing in flight.
                let _ = source.await;
            }
            intake.cancel();
            self.dispatcher.await
        };
        tokio::pin!(in_flight);
        let ended = tokio::select! {
            ended = &mut in_flight => Some(ended),
            () = tokio::time::sleep_until(end) => None,
            () = hurry.cancelled() => None,
        };
        self.intake.cancel();
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
                exit,
            },
            Err(error) => {
                tracing::warn!(%error, "the ledger could not be read");
                Leftover { deliveries: 0, events: 0, exit }
            }
        };
        drop(self.delivery);
        self.outbox.close().await;
        self.admin_stop.cancel();
        let _ = tokio::task::spawn_blocking(move || self.admin_thread.join()).await;
        leftover
    }

    /// Until nobody has anything to say any more.
    async fn last_words(&self, accept: Duration, end: tokio::time::Instant, hurry: &CancellationToken) {
        let child = self.running.child.as_ref();
        let said = async {
            if let Some(child) = child {
                child.ended().await;
            } else if !self.running.is_over() {
                return tokio::time::sleep(accept).await;
            }
            // Nobody may start this sidehook again soon, so what is due goes out first.
            while self.is_anything_due().await {
                tokio::time::sleep(DUE_POLL).await;
            }
        };
        tokio::select! {
            () = said => {}
            () = tokio::time::sleep_until(end) => {}
            () = hurry.cancelled() => {}
        }
        if let Some(child) = child.filter(|child| child.exit().is_none()) {
            tracing::warn!("the assistant has not ended in time and is killed");
            child.kill();
            // Its last events, and what its end means for its conversations.
            let _ = tokio::time::timeout(LET_GO, child.ended()).await;
        }
    }

    /// Whether a delivery is due or in flight.
    async fn is_anything_due(&self) -> bool {
        let names: Vec<Arc<str>> = self.generations.borrow().webhooks.keys().cloned().collect();
        let now = self.clock.now();
        for name in names {
            match self.outbox.due(&name, now, 1).await {
                Ok(due) if due.is_empty() => {}
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
        false
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
