//! `sidehook run`

use std::path::Path;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{check, exit};
use crate::app::{App, StartError};
use crate::clock::{Clock, Entropy};
use crate::limits;
use crate::source::exec::{Exit, Forward};

/// Arguments of `sidehook run`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  sidehook run --config /etc/sidehook")]
pub struct Args {}

/// Runs until told to end.
pub fn run(_args: &Args, config: &Path) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(limits::BLOCKING_THREADS)
        .thread_stack_size(limits::SCRIPT_STACK_BYTES)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before anything is served: one that comes right after the word that it is ready must not end it the hard way.
        let mut signals = Signals::catch()?;
        let started = tokio::select! {
            started = App::start(config, Clock::System, Entropy::system()) => started,
            _ = signals.end() => return Ok(exit::OK),
        };
        let app = match started {
            Ok(app) => app,
            Err(StartError::Config(report)) => {
                check::print_report(&report);
                return Ok(exit::CONFIG);
            }
            Err(error) => return Err(error.into()),
        };
        serve(app, signals).await
    })
}

/// The signals that mean something to a running sidehook. From when they are caught on they are kept until asked for.
pub(super) struct Signals {
    term: Signal,
    int: Signal,
    hup: Signal,
}

impl Signals {
    /// Must be called inside a runtime.
    pub(super) fn catch() -> std::io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
            hup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for SIGTERM or SIGINT, and tells which.
    async fn end(&mut self) -> Forward {
        tokio::select! {
            _ = self.term.recv() => Forward::Term,
            _ = self.int.recv() => Forward::Int,
        }
    }
}

/// Serves until SIGTERM or SIGINT, which an assistant that is sidehook's child gets too, or until there is nothing left to
/// serve; then drains. SIGHUP reloads. The exit code is the child's, where there is one.
pub(super) async fn serve(app: App, mut signals: Signals) -> anyhow::Result<u8> {
    loop {
        tokio::select! {
            _ = signals.term.recv() => break app.forward(Forward::Term),
            _ = signals.int.recv() => break app.forward(Forward::Int),
            () = app.over() => break,
            _ = signals.hup.recv() => {
                let reload = app.reload.clone();
                tokio::spawn(async move { reload.reload().await });
            }
        }
    }
    let hurry = CancellationToken::new();
    let second = hurry.clone();
    tokio::spawn(async move {
        signals.end().await;
        tracing::warn!("second signal: ending at once");
        second.cancel();
    });
    let left = app.drain(hurry).await;
    tracing::info!(
        deliveries = left.deliveries,
        waiting_events = left.events,
        "ended; what waits in the outbox goes out after the next start, with unchanged ids"
    );
    Ok(left.exit.map_or(exit::OK, Exit::status))
}
