//! Ready deliveries on their way to the dispatcher, straight from memory where they still are. Bounded in number and in
//! bytes: what does not fit is not sent, and a look for due deliveries finds it.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::Shared;
use super::read;
use super::settle;
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
    /// Whether the transaction under way makes something ready for which there is no room.
    left_out: Cell<bool>,
}

impl Announcer {
    pub(super) fn new(to: mpsc::Sender<Ready>) -> Self {
        Self { to, tally: Arc::new(AtomicUsize::new(0)), left_out: Cell::new(false) }
    }

    /// Whether it is worth collecting anything.
    pub(super) fn wanted(&self, shared: &Shared) -> bool {
        let room = self.to.capacity() > 0 && self.room() > 0;
        if !room {
            self.left_out.set(true);
        }
        shared.ready_taken.load(Ordering::Relaxed) && room
    }

    fn room(&self) -> usize {
        limits::READY_BYTES.saturating_sub(self.tally.load(Ordering::Relaxed))
    }

    /// Reads what is not in memory any more, as far as it can be sent.
    pub(super) fn load(&self, txn: &mut Txn<'_>) -> rusqlite::Result<Vec<Ready>> {
        for webhook in std::mem::take(&mut txn.resumed) {
            due_again(txn, webhook)?;
        }
        let mut ready = Vec::with_capacity(txn.drafts.len().min(limits::READY_QUEUE));
        let mut read = 0;
        let mut drafts = VecDeque::from(std::mem::take(&mut txn.drafts));
        while let Some(draft) = drafts.pop_front() {
            if ready.len() >= self.to.capacity() {
                self.left_out.set(true);
                break;
            }
            let found = match draft {
                Draft::Fresh(ready) => Some(Ok(ready)),
                Draft::Stored(_) if read >= limits::DUE_BYTES.min(self.room()) => {
                    self.left_out.set(true);
                    None
                }
                Draft::Stored(row) => read::ready_now(txn.conn, txn.seal, row, txn.now, |id| {
                    txn.book
                        .place(id)
                        .map(|at| txn.book.get(at))
                        .filter(|w| w.halted().is_none())
                        .map(|w| Arc::clone(&w.name))
                })?,
            };
            let found = match found {
                Some(Ok(found)) => found,
                Some(Err(closed)) => {
                    settle::unreadable(txn, &closed)?;
                    // What was behind it in its lane is ready now.
                    drafts.extend(txn.drafts.drain(..));
                    continue;
                }
                None => continue,
            };
            let active = txn.book.find(&found.webhook).is_some_and(|at| txn.book.get(at).halted().is_none());
            if active {
                read += found.body.len();
                ready.push(found);
            }
        }
        Ok(ready)
    }

    /// Sends what there is room for, after the commit that made it ready: whoever hears that something was left out finds
    /// it in the store.
    pub(super) fn send(&self, ready: Vec<Ready>, shared: &Shared) {
        let left_out = || shared.unannounced.notify_one();
        if self.left_out.take() {
            left_out();
        }
        for mut one in ready {
            if one.body.len() > self.room() {
                left_out();
                continue;
            }
            self.tally.fetch_add(one.body.len(), Ordering::Relaxed);
            one.body = Bytes::from_owner(Counted { bytes: one.body, tally: Arc::clone(&self.tally) });
            if self.to.try_send(one).is_err() {
                left_out();
                return;
            }
        }
    }
}

/// Tells the dispatcher that a webhook goes on by some of what is due to it; it looks for the rest itself. What waits for
/// its retry goes on waiting: the pause before it may be the destination's own wish.
fn due_again(txn: &mut Txn<'_>, webhook: i64) -> rusqlite::Result<()> {
    let rows: Vec<i64> = {
        let mut due = txn.conn.prepare_cached(
            "SELECT row FROM delivery WHERE webhook = ?1 AND ready = 1 AND next_at <= ?2 ORDER BY next_at LIMIT 16",
        )?;
        due.query_map((webhook, txn.now.as_millis()), |row| row.get(0))?.collect::<Result<_, _>>()?
    };
    for row in rows {
        txn.announce(row);
    }
    Ok(())
}
