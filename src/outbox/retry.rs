//! Deliveries asked for again by filter, a slice of them per transaction.

use super::list::{FACTS, Wanted};
use super::settle;
use super::txn::{DEAD, DELIVERED, Txn};
use super::types::Retried;
use super::views::{Filter, State};
use crate::limits;

/// Where the next slice begins, and what came later than the question.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    after: (i64, i64),
    until: i64,
}

/// How far it has come.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    pub(super) retried: u64,
    pub(super) next: Option<Place>,
}

/// Makes some matching deliveries due now: dead ones, or those of the filter's state. Held ones stay held.
pub(super) fn some(txn: &mut Txn<'_>, filter: &Filter, from: Option<Place>) -> rusqlite::Result<Progress> {
    let limit = limits::RETENTION_SLICE_ROWS;
    let candidates = match filter.state {
        None | Some(State::Dead) => settled(txn, filter, DEAD, from, limit)?,
        Some(State::Delivered) => settled(txn, filter, DELIVERED, from, limit)?,
        Some(State::Pending) => owed(txn, filter, from, limit)?,
        Some(State::Held) => return Ok(Progress::default()),
    };
    let mut progress = Progress { retried: 0, next: candidates.next };
    for row in candidates.rows {
        if settle::retry_row(txn, row, None)? == Retried::Yes {
            progress.retried += 1;
        }
    }
    Ok(progress)
}

struct Candidates {
    rows: Vec<i64>,
    next: Option<Place>,
}

fn settled(
    txn: &Txn<'_>,
    filter: &Filter,
    state: i64,
    from: Option<Place>,
    limit: usize,
) -> rusqlite::Result<Candidates> {
    let from = from.unwrap_or(Place { after: (i64::MIN, i64::MIN), until: txn.now.as_millis() });
    let sql = format!(
        "SELECT {FACTS}, changed_at FROM delivery INDEXED BY delivery_settled
         WHERE state = ?1 AND state > 0 AND (changed_at, row) > (?2, ?3) AND changed_at <= ?4
         ORDER BY changed_at, row LIMIT {limit}"
    );
    let params = (state, from.after.0, from.after.1, from.until);
    collect(txn, filter, &sql, params, limit, |row| Ok((row.get(6)?, row.get(0)?)), from)
}

fn owed(txn: &Txn<'_>, filter: &Filter, from: Option<Place>, limit: usize) -> rusqlite::Result<Candidates> {
    let from = from.unwrap_or(Place { after: (0, 0), until: txn.book.next });
    let sql = format!(
        "SELECT {FACTS}, body.key FROM body JOIN delivery ON delivery.row = body.key & 0xffffffffff
         WHERE body.key > ?1 AND ?2 = ?2 AND delivery.row < ?3 ORDER BY body.key LIMIT {limit}"
    );
    let params = (from.after.0, from.after.1, from.until);
    collect(txn, filter, &sql, params, limit, |row| Ok((row.get(6)?, 0)), from)
}

fn collect(
    txn: &Txn<'_>,
    filter: &Filter,
    sql: &str,
    params: impl rusqlite::Params,
    limit: usize,
    place: impl Fn(&rusqlite::Row<'_>) -> rusqlite::Result<(i64, i64)>,
    from: Place,
) -> rusqlite::Result<Candidates> {
    let wanted = Wanted::new(filter, txn.book);
    let mut statement = txn.conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Candidates { rows: Vec::new(), next: None };
    let mut looked = 0;
    while let Some(row) = rows.next()? {
        looked += 1;
        if wanted.matches(row)? {
            found.rows.push(row.get(0)?);
        }
        if looked == limit {
            found.next = Some(Place { after: place(row)?, ..from });
        }
    }
    Ok(found)
}
