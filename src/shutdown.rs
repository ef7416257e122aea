//! The two steps of an orderly end: intake stops, then work in flight is abandoned.

use tokio_util::sync::CancellationToken;

/// Handed to every actor. `draining` is cancelled when nothing new may begin; `abort` when the grace is over or a
/// second signal came, and whatever still runs must let go (its state is in the outbox).
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    /// No new work: intake refuses, dispatch starts no further attempt.
    pub draining: CancellationToken,
    /// No work at all: attempts in flight are dropped.
    pub abort: CancellationToken,
}
