//! Stores results of attempts. A result is kept until it is durable: a destination that answered 2xx is not asked again
//! because the store had a bad minute. Everything that came in during one commit goes into the next.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::clock::Timestamp;
use crate::limits;
use crate::outbox::{Batch, CommitError, Outbox, Settlement, Standing, Verdict};
use crate::telemetry::dispatch as facts;

/// A result to be stored.
pub(super) struct Settle {
    pub(super) webhook: Arc<str>,
    pub(super) settlement: Settlement,
    pub(super) standing: Option<Standing>,
}

/// A result that is stored.
pub(super) struct Settled {
    pub(super) webhook: Arc<str>,
    pub(super) row: i64,
    /// When it is due again, if it is.
    pub(super) retry: Option<Timestamp>,
}

/// Runs until `results` is closed and empty, or `abort`.
pub(super) async fn run(
    outbox: Outbox,
    mut results: mpsc::UnboundedReceiver<Settle>,
    settled: mpsc::UnboundedSender<Vec<Settled>>,
    abort: CancellationToken,
) {
    let mut waiting = Vec::new();
    while results.recv_many(&mut waiting, limits::SETTLEMENTS_PER_COMMIT).await > 0 {
        tokio::select! {
            stored = store(&outbox, &waiting) => if !stored { return },
            () = abort.cancelled() => return,
        }
        let done = waiting.drain(..).map(|Settle { webhook, settlement, .. }| Settled {
            webhook,
            row: settlement.row,
            retry: match settlement.verdict {
                Verdict::Retry(at) => Some(at),
                _ => None,
            },
        });
        if settled.send(done.collect()).is_err() {
            return;
        }
    }
}

/// Commits, again and again until it succeeds; `false` when the outbox is closed for good.
async fn store(outbox: &Outbox, waiting: &[Settle]) -> bool {
    let mut pause = Duration::from_millis(50);
    loop {
        let batch = Batch {
            settlements: waiting.iter().map(|settle| settle.settlement.clone()).collect(),
            standings: waiting
                .iter()
                .filter_map(|settle| Some((settle.webhook.clone(), settle.standing.clone()?)))
                .collect(),
            ..Batch::default()
        };
        match outbox.commit(batch).await {
            Ok(_) => return true,
            Err(CommitError::Closed) => return false,
            Err(error) => {
                pause = (pause * 2).min(Duration::from_secs(5));
                facts::SettleFailed { results: waiting.len(), error: &error.to_string(), again_in: pause }.emit();
                tokio::time::sleep(pause).await;
            }
        }
    }
}
