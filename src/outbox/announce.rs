//! Ready deliveries on their way to the dispatcher, straight from memory where they still are. Bounded in number and in
//! bytes: what does not fit is not sent, and a look for due deliveries finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Shared;
use super::read;
use super::txn::{Draft, Txn};
use super::types::Ready;
use crate::limits;

/// A payload that is counted as long as anybody has it.
struct Counted {
    bytes: Bytes,
    tally: Arc<AtomicUsize>,
}

impl AsRef<[u8]> for Counted {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.tally.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

/// The sending end.
pub(super) struct Announcer {
    to: mpsc::Sender<Ready>,
    tally: Arc<AtomicUsize>,
}

impl Announcer {
    pub(super) fn new(to: mpsc::Sender<Ready>) -> Self {
        Self { to, tally: Arc::new(AtomicUsize::new(0)) }
    }

    /// Whether it is worth collecting anything.
    pub(super) fn wanted(&self, shared: &Shared) -> bool {
        shared.ready_taken.load(Ordering::Relaxed) && self.to.capacity() > 0 && self.room() > 0
    }

    fn room(&self) -> usize {
        limits::READY_BYTES.saturating_sub(self.tally.load(Ordering::Relaxed))
    }

    /// Reads what is not in memory any more, as far as it can be sent.
    pub(super) fn load(&self, txn: &mut Txn<'_>) -> rusqlite::Result<Vec<Ready>> {
        let mut ready = Vec::with_capacity(txn.drafts.len().min(limits::READY_QUEUE));
        let mut read = 0;
        for draft in std::mem::take(&mut txn.drafts) {
            if ready.len() >= self.to.capacity() {
                break;
            }
            let found = match draft {
                Draft::Fresh(ready) => Some(ready),
                Draft::Stored(_) if read >= limits::DUE_BYTES.min(self.room()) => None,
                Draft::Stored(row) => read::ready_now(txn.conn, row, txn.now, |id| {
                    txn.book
                        .place(id)
                        .map(|at| txn.book.get(at))
                        .filter(|w| w.halted().is_none())
                        .map(|w| Arc::clone(&w.name))
                })?,
            };
            let Some(found) = found else { continue };
            let active = txn.book.find(&found.webhook).is_some_and(|at| txn.book.get(at).halted().is_none());
            if active {
                read += found.body.len();
                ready.push(found);
            }
        }
        Ok(ready)
    }

    /// Sends what there is room for.
    pub(super) fn send(&self, ready: Vec<Ready>) {
        for mut one in ready {
            if one.body.len() > self.room() {
                continue;
            }
            self.tally.fetch_add(one.body.len(), Ordering::Relaxed);
            one.body = Bytes::from_owner(Counted { bytes: one.body, tally: Arc::clone(&self.tally) });
            if self.to.try_send(one).is_err() {
                return;
            }
        }
    }
}
