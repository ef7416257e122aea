//! `sidehook run`

use std::path::Path;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::{check, exit};
use crate::app::{App, StartError};
use crate::clock::{Clock, Entropy};
use crate::limits;

/// Arguments of `sidehook run`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  sidehook run --config /etc/sidehook")]
pub struct Args {}

/// Runs until told to end.
pub fn run(_args: &Args, config: &Path) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .max_blocking_threads(32)
        .thread_stack_size(limits::SCRIPT_STACK_BYTES)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let app = match App::start(config, Clock::System, Entropy::system()).await {
            Ok(app) => app,
            Err(StartError::Config(report)) => {
                check::print_report(&report);
                return Ok(exit::CONFIG);
            }
            Err(error) => return Err(error.into()),
        };
        serve(app).await
    })
}

/// Serves until SIGTERM or SIGINT, then drains; SIGHUP reloads.
pub(super) async fn serve(app: App) -> anyhow::Result<u8> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut hup = signal(SignalKind::hangup())?;
    loop {
        tokio::select! {
            _ = term.recv() => break,
            _ = int.recv() => break,
            _ = hup.recv() => {
                let reload = app.reload.clone();
                tokio::spawn(async move { reload.reload().await });
            }
        }
    }
    let hurry = CancellationToken::new();
    let second = hurry.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        tracing::warn!("second signal: ending at once");
        second.cancel();
    });
    let left = app.drain(hurry).await;
    tracing::info!(
        deliveries = left.deliveries,
        waiting_events = left.events,
        "ended; what waits in the outbox goes out after the next start, with unchanged ids"
    );
    Ok(exit::OK)
}
