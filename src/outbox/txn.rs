//! What every room that writes works with: the open transaction, the book, and what follows from the commit. Ends no
//! transaction itself.

use std::cell::RefCell;
use std::sync::Arc;

use rusqlite::{CachedStatement, Connection, OptionalExtension};

use super::ledger::Book;
use super::seal::Seal;
use super::types::{Options, Ready};
use crate::clock::Timestamp;

/// State of a delivery row; `0` is owed: pending or held, as its webhook stands.
pub(super) const OWED: i64 = 0;
/// State of a delivery row.
pub(super) const DELIVERED: i64 = 1;
/// State of a delivery row.
pub(super) const DEAD: i64 = 2;

/// Why a batch is refused. Anything but [`Refusal::Store`] leaves the transaction usable.
#[derive(Debug)]
pub(super) enum Refusal {
    Conflict { index: usize, event_id: String },
    Stale,
    Store(rusqlite::Error),
}

impl From<rusqlite::Error> for Refusal {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error)
    }
}

/// A delivery that is to be announced after the commit.
#[derive(Debug)]
pub(super) enum Draft {
    /// Still in memory.
    Fresh(Ready),
    /// To be read from the store.
    Stored(i64),
}

/// The statements that a transaction has used so far. The connection keeps them over transactions, by their text; here they
/// are found by the place of that text, which takes next to nothing.
#[derive(Default)]
struct Statements<'a>(RefCell<Vec<(&'static str, Option<CachedStatement<'a>>)>>);

impl<'a> Statements<'a> {
    /// One of them, taken out while it is in use, and its place.
    fn take(&self, conn: &'a Connection, sql: &'static str) -> rusqlite::Result<(usize, CachedStatement<'a>)> {
        let mut all = self.0.borrow_mut();
        let at = all.iter().position(|(text, _)| std::ptr::eq(*text, sql)).unwrap_or_else(|| {
            all.push((sql, None));
            all.len() - 1
        });
        let statement = match all[at].1.take() {
            Some(statement) => statement,
            None => conn.prepare_cached(sql)?,
        };
        Ok((at, statement))
    }

    fn put_back(&self, at: usize, statement: CachedStatement<'a>) {
        self.0.borrow_mut()[at].1 = Some(statement);
    }
}

/// One transaction on its way.
pub(super) struct Txn<'a> {
    pub(super) conn: &'a Connection,
    statements: Statements<'a>,
    pub(super) book: &'a mut Book,
    pub(super) options: &'a Options,
    pub(super) seal: &'a Seal,
    pub(super) now: Timestamp,
    /// Whether anybody takes ready deliveries.
    pub(super) announce: bool,
    pub(super) drafts: Vec<Draft>,
    /// Webhooks that nothing holds back any more.
    pub(super) resumed: Vec<i64>,
    /// Deliveries that retention or space removed, for the log.
    pub(super) purged: u64,
    /// Webhook and id of pending begins that gave way to newer deliveries, for the log and whoever hears of troubles.
    pub(super) dropped: Vec<(Arc<str>, String)>,
    /// Webhooks of begins that were given up because their end is delivered, for the log.
    pub(super) superseded: Vec<Arc<str>>,
    /// Webhook, id and reason of deliveries that were given up because they cannot be read, for the log.
    pub(super) unreadable: Vec<(Arc<str>, String, String)>,
}

impl<'a> Txn<'a> {
    /// Begins one. `announce`: whether anybody takes ready deliveries.
    pub(super) fn begin(
        conn: &'a Connection,
        book: &'a mut Book,
        (options, seal): (&'a Options, &'a Seal),
        now: Timestamp,
        announce: bool,
    ) -> rusqlite::Result<Self> {
        let txn = Self {
            conn,
            statements: Statements::default(),
            book,
            options,
            seal,
            now,
            announce,
            drafts: Vec::new(),
            purged: 0,
            dropped: Vec::new(),
            resumed: Vec::new(),
            superseded: Vec::new(),
            unreadable: Vec::new(),
        };
        txn.run("BEGIN IMMEDIATE", [])?;
        Ok(txn)
    }

    /// Runs one prepared statement.
    pub(super) fn run(&self, sql: &'static str, params: impl rusqlite::Params) -> rusqlite::Result<usize> {
        let (at, mut statement) = self.statements.take(self.conn, sql)?;
        let changed = statement.execute(params)?;
        self.statements.put_back(at, statement);
        Ok(changed)
    }

    /// Queries at most one row.
    pub(super) fn one<T>(
        &self,
        sql: &'static str,
        params: impl rusqlite::Params,
        read: impl FnOnce(&rusqlite::Row<'_>) -> rusqlite::Result<T>,
    ) -> rusqlite::Result<Option<T>> {
        let (at, mut statement) = self.statements.take(self.conn, sql)?;
        let found = statement.query_row(params, read).optional()?;
        self.statements.put_back(at, statement);
        Ok(found)
    }

    /// Announces a stored delivery after the commit.
    pub(super) fn announce(&mut self, row: i64) {
        if self.announce {
            self.drafts.push(Draft::Stored(row));
        }
    }
}

/// The key of an owed payload.
pub(super) fn body_key(webhook: i64, row: i64) -> i64 {
    (webhook << 40) | row
}

/// One less, and never below none: a wrong count shows in the ledger, it does not end the process.
pub(super) fn less(count: &mut u64, by: u64) {
    *count = count.saturating_sub(by);
}

/// Cuts a text that somebody else wrote to what is kept of it.
pub(crate) fn clip(text: &str, bytes: usize) -> &str {
    let mut end = bytes.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

/// The lane of a webhook's deliveries of one conversation: 64 bits of SHA-256 over the three names, each with its length
/// before it. Two lanes that met would only queue behind each other.
pub(super) fn lane_of(webhook: &str, namespace: &str, conversation: &str) -> i64 {
    let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for part in [webhook, namespace, conversation] {
        hash.update(&(part.len() as u64).to_le_bytes());
        hash.update(part.as_bytes());
    }
    let mut first = [0; 8];
    first.copy_from_slice(&hash.finish().as_ref()[..8]);
    i64::from_le_bytes(first)
}

/// Headers as they are stored.
pub(super) fn headers_text(headers: &[(String, String)]) -> Option<String> {
    if headers.is_empty() { None } else { serde_json::to_string(headers).ok() }
}

/// Headers as they were stored.
pub(super) fn headers_from(text: Option<&str>) -> Vec<(String, String)> {
    text.and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default()
}

/// Shared text from a column.
pub(super) fn shared(row: &rusqlite::Row<'_>, at: usize) -> rusqlite::Result<Arc<str>> {
    Ok(Arc::from(row.get_ref(at)?.as_str()?))
}
