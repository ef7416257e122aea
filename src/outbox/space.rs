//! The size limit: what is in use, what a batch needs, and what gives way when it does not fit. Decides nothing about age.

use std::sync::Arc;

use rusqlite::Connection;

use super::settle;
use super::txn::{DEAD, DELIVERED, Txn, less};
use super::types::{Batch, CommitError, Decision, NewDelivery, WhenFull};
use crate::event;
use crate::limits;

/// A row of a delivery with its share of the indexes.
const DELIVERY_BYTES: u64 = 700;
/// A row of anything smaller.
const ROW_BYTES: u64 = 120;
const PAGE_BYTES: u64 = 8192;
/// Below the limit by this much nothing is measured per batch.
const NEAR_BYTES: u64 = 32 * 1024 * 1024;
/// Deliveries removed at once, and at most for one batch; retention goes on where this stops.
const SLICE_ROWS: usize = 100;
const BATCH_ROWS: usize = 20_000;

/// Bytes in use: pages that are not free.
pub(super) fn used(conn: &Connection) -> rusqlite::Result<u64> {
    let pragma = |sql: &str| conn.prepare_cached(sql)?.query_row([], |row| row.get::<_, i64>(0));
    let pages = pragma("PRAGMA page_count")? - pragma("PRAGMA freelist_count")?;
    Ok(u64::try_from(pages).unwrap_or(0) * u64::try_from(pragma("PRAGMA page_size")?).unwrap_or(PAGE_BYTES))
}

fn body(bytes: usize) -> u64 {
    let bytes = bytes as u64;
    // Rows share a page as far as they fit; what is left of it may stay empty.
    if bytes < PAGE_BYTES { bytes + bytes / 2 + ROW_BYTES } else { (bytes / PAGE_BYTES + 1) * PAGE_BYTES }
}

fn deliveries(all: &[NewDelivery]) -> u64 {
    all.iter().map(|d| DELIVERY_BYTES + d.body.as_ref().map_or(0, |b| body(b.len()))).sum()
}

/// What a batch's arrivals will take, about; 0 when they create nothing but the trace of having been seen.
pub(super) fn needs(batch: &Batch) -> u64 {
    let mut bytes = 0;
    for arrival in &batch.arrivals {
        for (_, decision) in &arrival.decisions {
            bytes += match decision {
                Decision::Filtered => 0,
                Decision::Rendered(all) | Decision::RuleFailed(all) => deliveries(all),
                Decision::Waiting { .. } => ROW_BYTES,
            };
        }
        if let Some(change) = &arrival.change {
            let messages = change.replace_messages.iter().flatten().chain(&change.append_messages);
            bytes += ROW_BYTES + messages.chain(&change.maps).map(|m| body(m.len())).sum::<u64>();
        }
        bytes += arrival.waiting_body.iter().chain(&arrival.kept_body).map(|b| body(b.len())).sum::<u64>();
    }
    bytes
}

/// Whether a batch holds nothing but sidehook's own events, which have a reserve: that they fit says nothing of others.
pub(super) fn is_own(batch: &Batch) -> bool {
    batch.arrivals.iter().all(|a| event::own::is_own(&a.event_type))
}

/// Room under the limit, kept up to date by estimate and measured when it gets tight.
#[derive(Debug, Default)]
pub(super) struct Space {
    used: u64,
}

impl Space {
    /// Starts from what is in use.
    pub(super) fn new(used: u64) -> Self {
        Self { used }
    }

    /// Makes sure that `batch` fits, removing what may be removed; otherwise why it does not.
    pub(super) fn room_for(&mut self, txn: &mut Txn<'_>, batch: &Batch) -> rusqlite::Result<Option<CommitError>> {
        let needs = needs(batch);
        let max_bytes = txn.options.max_bytes;
        if needs == 0 {
            // Even the trace of an event takes some; the reserve bounds it.
            let over = !batch.arrivals.is_empty() && self.used > max_bytes + limits::OUTBOX_RESERVE_BYTES;
            return Ok(over.then_some(CommitError::Full { bytes: self.used, max_bytes }));
        }
        let limit = max_bytes + if is_own(batch) { limits::OUTBOX_RESERVE_BYTES } else { 0 };
        if self.used + needs + NEAR_BYTES <= limit {
            self.used += needs;
            return Ok(None);
        }
        self.used = used(txn.conn)?;
        if self.used + needs > limit && needs <= limit {
            // A little more than needed, so that not every batch has to.
            self.make_room(txn, limit - needs, limit / 256)?;
        }
        if self.used + needs <= limit {
            self.used += needs;
            return Ok(None);
        }
        Ok(Some(CommitError::Full { bytes: self.used, max_bytes }))
    }

    fn make_room(&mut self, txn: &mut Txn<'_>, target: u64, slack: u64) -> rusqlite::Result<()> {
        let enough = target.saturating_sub(slack);
        for state in [DELIVERED, DEAD] {
            self.until(txn, enough, |txn, rows| purge_oldest(txn, state, i64::MAX, rows))?;
        }
        if txn.options.when_full == WhenFull::DropOldestBegin {
            self.until(txn, target, drop_begins)?;
        }
        Ok(())
    }

    /// Gives rows up until no more than `enough` is in use, or none is left. Few at first, since one may be large: what is
    /// given up beyond need is at most as much again.
    fn until(
        &mut self,
        txn: &mut Txn<'_>,
        enough: u64,
        give_up: impl Fn(&mut Txn<'_>, usize) -> rusqlite::Result<usize>,
    ) -> rusqlite::Result<()> {
        let (mut rows, mut gone) = (1, 0);
        while self.used > enough && gone < BATCH_ROWS {
            let given = give_up(txn, rows)?;
            if given == 0 {
                break;
            }
            self.used = used(txn.conn)?;
            gone += given;
            rows = (rows * 2).min(SLICE_ROWS);
        }
        Ok(())
    }
}

/// Removes settled deliveries, those settled longest ago first, at most `limit`, settled before `before`.
pub(super) fn purge_oldest(txn: &mut Txn<'_>, state: i64, before: i64, limit: usize) -> rusqlite::Result<usize> {
    let rows: Vec<(i64, i64)> = {
        let mut oldest = txn.conn.prepare_cached(
            "SELECT row, webhook FROM delivery INDEXED BY delivery_settled
             WHERE state = ?1 AND state > 0 AND changed_at < ?2 ORDER BY changed_at LIMIT ?3",
        )?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        oldest.query_map((state, before, limit), |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?
    };
    for (row, webhook) in &rows {
        txn.run("DELETE FROM delivery WHERE row = ?1", [row])?;
        txn.run("DELETE FROM attempt WHERE delivery = ?1", [row])?;
        txn.run("DELETE FROM kept_body WHERE row = ?1", [row])?;
        if let Some(at) = txn.book.place(*webhook) {
            let counts = &mut txn.book.edit(at).counts;
            less(if state == DELIVERED { &mut counts.delivered } else { &mut counts.dead }, 1);
            less(&mut counts.created, 1);
            counts.purged += 1;
        }
    }
    txn.purged += rows.len() as u64;
    Ok(rows.len())
}

/// Gives up pending `conversation.begin` deliveries, oldest first; held ones stay.
fn drop_begins(txn: &mut Txn<'_>, limit: usize) -> rusqlite::Result<usize> {
    let mut rows: Vec<(i64, Arc<str>, String)> = Vec::new();
    {
        let mut begins = txn.conn.prepare_cached(
            "SELECT row, webhook, id FROM delivery WHERE state = 0 AND event_type = 'conversation.begin' ORDER BY row",
        )?;
        let mut found = begins.query([])?;
        let mut looked = 0;
        while let Some(row) = found.next()? {
            looked += 1;
            let at = txn.book.place(row.get(1)?);
            if let Some(webhook) = at.map(|at| txn.book.get(at)).filter(|w| w.halted().is_none()) {
                rows.push((row.get(0)?, Arc::clone(&webhook.name), row.get(2)?));
            }
            if rows.len() == limit || looked == limits::LIST_SCAN_ROWS {
                break;
            }
        }
    }
    let dropped = rows.len();
    for (row, webhook, id) in rows {
        settle::dead(txn, row, 0, "outbox_full", false)?;
        txn.dropped.push((webhook, id));
    }
    Ok(dropped)
}

/// Payload of a batch, to bound what one transaction takes.
pub(super) fn payload(batch: &Batch) -> usize {
    usize::try_from(needs(batch)).unwrap_or(usize::MAX)
}
