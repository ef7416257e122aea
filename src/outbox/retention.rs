//! What leaves with age, in slices small enough that commits never wait for long: history, dead letters, kept events,
//! waits of webhooks that are gone, conversations, dedupe keys; then free pages are given back.

use std::time::Duration;

use super::txn::{DEAD, DELIVERED, Txn, less};
use super::{apply, conversation, lane, space};
use crate::clock::Timestamp;
use crate::limits;

/// Dedupe keys looked at in one round; the next round goes on behind them.
const DEDUPE_ROUND_KEYS: usize = 262_144;
/// Free pages are given back beyond this many, and beyond a quarter of the file.
const FREE_PAGES: i64 = 1024;
const VACUUM_PAGES: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Delivered,
    Dead,
    Events,
    Waits,
    Ended,
    Open,
    Dedupe,
    Vacuum,
    Idle,
}

impl Phase {
    fn next(self) -> Self {
        match self {
            Self::Delivered => Self::Dead,
            Self::Dead => Self::Events,
            Self::Events => Self::Waits,
            Self::Waits => Self::Ended,
            Self::Ended => Self::Open,
            Self::Open => Self::Dedupe,
            Self::Dedupe => Self::Vacuum,
            Self::Vacuum | Self::Idle => Self::Idle,
        }
    }
}

/// How far the round has come.
#[derive(Debug)]
pub(super) struct Retention {
    phase: Phase,
    next_round: Timestamp,
    dedupe_after: Vec<u8>,
    dedupe_left: usize,
}

impl Retention {
    /// The first round begins at `now`.
    pub(super) fn new(now: Timestamp) -> Self {
        Self { phase: Phase::Idle, next_round: now, dedupe_after: Vec::new(), dedupe_left: 0 }
    }

    /// Begins a round when its time has come.
    pub(super) fn wake(&mut self, now: Timestamp) {
        if self.phase == Phase::Idle && now >= self.next_round {
            self.begin(now);
        }
    }

    /// How long until the next round; a clock that was set back does not put it off.
    pub(super) fn pause(&self, now: Timestamp) -> Duration {
        self.next_round.since(now).clamp(Duration::from_millis(10), limits::RETENTION_INTERVAL)
    }

    /// Begins a round now.
    pub(super) fn begin(&mut self, now: Timestamp) {
        self.phase = Phase::Delivered;
        self.next_round = now.plus(limits::RETENTION_INTERVAL);
        self.dedupe_left = DEDUPE_ROUND_KEYS;
    }

    /// Whether there is something to do.
    pub(super) fn busy(&self) -> bool {
        self.phase != Phase::Idle
    }

    /// Does some of it: about `budget` rows.
    pub(super) fn slice(&mut self, txn: &mut Txn<'_>, budget: usize) -> rusqlite::Result<()> {
        let mut left = budget;
        while left > 0 && self.phase != Phase::Idle {
            let done = self.step(txn, left)?;
            if done < left {
                self.phase = self.phase.next();
            }
            left = left.saturating_sub(done);
        }
        Ok(())
    }

    /// One step of the phase in force; fewer rows than `limit` means that the phase is over.
    fn step(&mut self, txn: &mut Txn<'_>, limit: usize) -> rusqlite::Result<usize> {
        let now = txn.now;
        let before = |age| now.minus(age).as_millis();
        let options = txn.options;
        match self.phase {
            Phase::Delivered => space::purge_oldest(txn, DELIVERED, before(options.retain_delivered), limit),
            Phase::Dead => space::purge_oldest(txn, DEAD, before(options.retain_dead), limit),
            Phase::Events => kept_events(txn, before(options.retain_events), limit),
            Phase::Waits => waits(txn, before(options.retain_dead), limit),
            Phase::Ended => conversations(
                txn,
                "SELECT row, messages FROM conversation WHERE ended_at IS NOT NULL AND ended_at < ?1
                 ORDER BY ended_at LIMIT ?2",
                before(options.retain_conversations),
                limit,
                false,
            ),
            Phase::Open => conversations(
                txn,
                "SELECT row, messages FROM conversation WHERE ended_at IS NULL AND opened_at < ?1
                 ORDER BY opened_at LIMIT ?2",
                before(options.max_open_age),
                limit,
                true,
            ),
            Phase::Dedupe => self.dedupe(txn, limit),
            Phase::Vacuum => vacuum(txn, limit),
            Phase::Idle => Ok(0),
        }
    }

    /// Goes through the keys in their order, a part each round, so that no index by time is paid for at every event.
    fn dedupe(&mut self, txn: &Txn<'_>, limit: usize) -> rusqlite::Result<usize> {
        let look = limit.min(self.dedupe_left);
        let mut seen = 0;
        let mut last = std::mem::take(&mut self.dedupe_after);
        let mut expired: Vec<Vec<u8>> = Vec::new();
        {
            let mut keys =
                txn.conn.prepare_cached("SELECT key, until FROM dedupe WHERE key > ?1 ORDER BY key LIMIT ?2")?;
            let mut rows = keys.query((&last, i64::try_from(look).unwrap_or(0)))?;
            while let Some(row) = rows.next()? {
                seen += 1;
                last = row.get(0)?;
                if row.get::<_, i64>(1)? <= txn.now.as_millis() {
                    expired.push(last.clone());
                }
            }
        }
        for key in &expired {
            txn.run("DELETE FROM dedupe WHERE key = ?1", [key])?;
        }
        self.dedupe_left -= seen;
        self.dedupe_after = if seen < look { Vec::new() } else { last };
        Ok(seen)
    }
}

fn kept_events(txn: &Txn<'_>, before: i64, limit: usize) -> rusqlite::Result<usize> {
    let rows: Vec<(i64, i64)> = {
        let mut oldest = txn.conn.prepare_cached("SELECT seq, arrived FROM kept_event ORDER BY seq LIMIT ?1")?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        oldest.query_map([limit], |row| Ok((row.get(0)?, row.get(1)?)))?.collect::<Result<_, _>>()?
    };
    let mut gone = 0;
    for (seq, _) in rows.into_iter().take_while(|(_, arrived)| *arrived < before) {
        gone += txn.run("DELETE FROM kept_event WHERE seq = ?1", [seq])?;
    }
    Ok(gone)
}

/// Events that wait for a webhook that is gone: they leave the ledger on both of its sides.
fn waits(txn: &mut Txn<'_>, before: i64, limit: usize) -> rusqlite::Result<usize> {
    let gone: Vec<(usize, i64)> =
        txn.book.webhooks().iter().enumerate().filter(|(_, w)| !w.known).map(|(at, w)| (at, w.id)).collect();
    let mut done = 0;
    for (at, id) in gone {
        let rows: Vec<(i64, i64, Option<i64>)> = {
            let mut oldest = txn.conn.prepare_cached(
                "SELECT row, seq, lane FROM wait WHERE webhook = ?1 AND deadline < ?2 ORDER BY deadline LIMIT ?3",
            )?;
            let limit = i64::try_from(limit - done).unwrap_or(i64::MAX);
            oldest
                .query_map((id, before, limit), |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
                .collect::<Result<_, _>>()?
        };
        for (row, seq, lane) in &rows {
            txn.run("DELETE FROM wait WHERE row = ?1", [row])?;
            apply::forget_waiting(txn, *seq)?;
            if let Some(lane) = lane {
                lane::leave(txn, *lane, *seq, 0)?;
                lane::promote(txn, *lane)?;
            }
            let counts = &mut txn.book.edit(at).counts;
            less(&mut counts.waiting, 1);
            less(&mut counts.matched, 1);
        }
        done += rows.len();
        txn.purged += rows.len() as u64;
        if done >= limit {
            break;
        }
    }
    Ok(done)
}

fn conversations(txn: &mut Txn<'_>, sql: &str, before: i64, limit: usize, open: bool) -> rusqlite::Result<usize> {
    let rows: Vec<(i64, usize)> = {
        let mut oldest = txn.conn.prepare_cached(sql)?;
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, usize::try_from(row.get::<_, i64>(1)?).unwrap_or(0)));
        oldest.query_map((before, limit), read)?.collect::<Result<_, _>>()?
    };
    let mut done = 0;
    for (row, messages) in rows {
        conversation::forget_messages(txn, row)?;
        txn.run("DELETE FROM conversation WHERE row = ?1", [row])?;
        txn.book.conversations_open -= i64::from(open);
        done += 1 + messages;
        if done >= limit {
            break;
        }
    }
    Ok(done)
}

/// Gives free pages back to the file system where there are many; the others are used again.
fn vacuum(txn: &Txn<'_>, limit: usize) -> rusqlite::Result<usize> {
    let free: i64 = txn.conn.query_row("PRAGMA freelist_count", [], |row| row.get(0))?;
    let all: i64 = txn.conn.query_row("PRAGMA page_count", [], |row| row.get(0))?;
    if free <= FREE_PAGES || free * 4 <= all {
        return Ok(0);
    }
    let pages = VACUUM_PAGES.min(limit);
    let mut step = txn.conn.prepare(&format!("PRAGMA incremental_vacuum({pages})"))?;
    let mut rows = step.query([])?;
    while rows.next()?.is_some() {}
    Ok(limit)
}
