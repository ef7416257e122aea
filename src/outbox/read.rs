//! Reads beside the writer: a few read-only connections, and the short queries of the hot path. These run where they are
//! called: each is a handful of index look-ups, some tens of microseconds from memory, less than a hand-over to another
//! thread would cost. Lists, which may look at many rows, are in `list` and run on the blocking pool.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::txn::{body_key, headers_from, shared};
use super::types::{ConversationKey, Ready, Seen, Wait};
use super::{OutboxError, schema};
use crate::clock::Timestamp;
use crate::limits;

/// Connections kept open when nobody reads.
const IDLE_READERS: usize = 4;

/// Read-only connections, opened when needed.
#[derive(Debug)]
pub(super) struct Readers {
    dir: PathBuf,
    idle: Mutex<Vec<Connection>>,
}

impl Readers {
    pub(super) fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), idle: Mutex::new(Vec::new()) }
    }

    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads one consistent state of the store.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, OutboxError> {
        let idle = self.idle().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => schema::open_reader(&self.dir)?,
        };
        let result = (|| {
            conn.prepare_cached("BEGIN")?.execute([])?;
            let found = read(&conn)?;
            conn.prepare_cached("COMMIT")?.execute([])?;
            Ok(found)
        })();
        match result {
            Ok(found) => {
                let mut idle = self.idle();
                if idle.len() < IDLE_READERS {
                    idle.push(conn);
                }
                Ok(found)
            }
            // A connection that failed is not used again.
            Err(error) => Err(schema::explain(&schema::file(&self.dir), &error)),
        }
    }

    /// Closes what is open.
    pub(super) fn close(&self) {
        self.idle().clear();
    }
}

const READY: &str = "row, webhook, id, event_id, event_type, headers, traceparent, tries, created_at, arrived, next_at";

fn ready(row: &Row<'_>, webhook: Arc<str>, body: Bytes) -> rusqlite::Result<Ready> {
    Ok(Ready {
        row: row.get(0)?,
        id: row.get(2)?,
        webhook,
        event_id: shared(row, 3)?,
        event_type: shared(row, 4)?,
        body,
        headers: headers_from(row.get_ref(5)?.as_str_or_null()?),
        traceparent: row.get(6)?,
        attempts: row.get(7)?,
        created_at: Timestamp::from_millis(row.get(8)?),
        arrived: Timestamp::from_millis(row.get(9)?),
    })
}

fn body(conn: &Connection, webhook: i64, row: i64) -> rusqlite::Result<Option<Bytes>> {
    conn.prepare_cached("SELECT body FROM body WHERE key = ?1")?
        .query_row([body_key(webhook, row)], |r| Ok(Bytes::copy_from_slice(r.get_ref(0)?.as_blob()?)))
        .optional()
}

/// One delivery, if it is ready and due, and its webhook has a name to send it under.
pub(super) fn ready_now(
    conn: &Connection,
    row: i64,
    now: Timestamp,
    name: impl Fn(i64) -> Option<Arc<str>>,
) -> rusqlite::Result<Option<Ready>> {
    let sql = select(READY, "WHERE row = ?1 AND ready = 1 AND next_at <= ?2");
    let mut found = conn.prepare_cached(&sql)?;
    let mut rows = found.query((row, now.as_millis()))?;
    let Some(at) = rows.next()? else { return Ok(None) };
    let webhook: i64 = at.get(1)?;
    let Some(name) = name(webhook) else { return Ok(None) };
    match body(conn, webhook, row)? {
        Some(body) => ready(at, name, body).map(Some),
        None => Ok(None),
    }
}

fn select(columns: &str, rest: &str) -> String {
    format!("SELECT {columns} FROM delivery {rest}")
}

/// Deliveries of one webhook that may be attempted now, beyond those in `known`.
pub(super) fn due(
    conn: &Connection,
    webhook: (i64, &Arc<str>),
    now: Timestamp,
    limit: usize,
    known: &HashSet<i64>,
) -> rusqlite::Result<Vec<Ready>> {
    let sql = select(READY, "WHERE webhook = ?1 AND ready = 1 AND next_at <= ?2 ORDER BY next_at, row");
    let mut due = conn.prepare_cached(&sql)?;
    let mut rows = due.query((webhook.0, now.as_millis()))?;
    let mut found = Vec::new();
    let mut bytes = 0;
    while found.len() < limit && bytes < limits::DUE_BYTES {
        let Some(row) = rows.next()? else { break };
        let number: i64 = row.get(0)?;
        if known.contains(&number) {
            continue;
        }
        let Some(body) = body(conn, webhook.0, number)? else { continue };
        if !found.is_empty() && bytes + body.len() > limits::DUE_BYTES {
            break;
        }
        bytes += body.len();
        found.push(ready(row, Arc::clone(webhook.1), body)?);
    }
    Ok(found)
}

/// When the next one is due, after `now`.
pub(super) fn next_due(conn: &Connection, webhook: i64, now: Timestamp) -> rusqlite::Result<Option<Timestamp>> {
    conn.prepare_cached(
        "SELECT next_at FROM delivery WHERE webhook = ?1 AND ready = 1 AND next_at > ?2 ORDER BY next_at LIMIT 1",
    )?
    .query_row((webhook, now.as_millis()), |row| row.get(0).map(Timestamp::from_millis))
    .optional()
}

/// What is known of dedupe keys.
pub(super) fn seen(conn: &Connection, keys: &[[u8; 16]], now: Timestamp) -> rusqlite::Result<Vec<Option<Seen>>> {
    let mut find = conn.prepare_cached("SELECT event_id, fingerprint FROM dedupe WHERE key = ?1 AND until > ?2")?;
    keys.iter()
        .map(|key| {
            find.query_row(params![key, now.as_millis()], |row| {
                Ok(Seen { event_id: row.get(0)?, fingerprint: row.get(1)? })
            })
            .optional()
        })
        .collect()
}

const WAIT: &str = "SELECT wait.row, wait.webhook, wait.deadline, event.namespace, event.conversation, event.body
                    FROM wait JOIN waiting_event event ON event.seq = wait.seq";

fn wait(row: &Row<'_>, name: &Arc<str>) -> rusqlite::Result<Wait> {
    let namespace: Option<Arc<str>> = row.get(3)?;
    let id: Option<Arc<str>> = row.get(4)?;
    Ok(Wait {
        row: row.get(0)?,
        webhook: Arc::clone(name),
        conversation: namespace.zip(id).map(|(namespace, id)| ConversationKey { namespace, id }),
        deadline: Timestamp::from_millis(row.get(2)?),
        body: Bytes::copy_from_slice(row.get_ref(5)?.as_blob()?),
    })
}

/// Waits of one conversation, but for webhooks that `name` does not give.
pub(super) fn waits_of(
    conn: &Connection,
    key: &ConversationKey,
    name: impl Fn(i64) -> Option<Arc<str>>,
) -> rusqlite::Result<Vec<Wait>> {
    let sql = format!("{WAIT} WHERE event.conversation = ?1 AND event.namespace = ?2 ORDER BY wait.row");
    let mut all = conn.prepare_cached(&sql)?;
    let mut rows = all.query((&key.id, &key.namespace))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(name) = name(row.get(1)?) {
            found.push(wait(row, &name)?);
        }
    }
    Ok(found)
}

/// Waits of these webhooks that are over, at most `limit`, and when the next one is.
pub(super) fn waits_due(
    conn: &Connection,
    webhooks: &[(i64, Arc<str>)],
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<(Vec<Wait>, Option<Timestamp>)> {
    let sql = format!("{WAIT} WHERE wait.webhook = ?1 ORDER BY wait.deadline LIMIT ?2");
    let mut soonest = conn.prepare_cached(&sql)?;
    let mut found = Vec::new();
    let mut next: Option<Timestamp> = None;
    let mut bytes = 0;
    for (id, name) in webhooks {
        let mut rows = soonest.query((id, i64::try_from(limit).unwrap_or(i64::MAX).saturating_add(1)))?;
        while let Some(row) = rows.next()? {
            let deadline = Timestamp::from_millis(row.get(2)?);
            if deadline > now || found.len() >= limit || bytes >= limits::DUE_BYTES {
                next = Some(next.map_or(deadline, |n| n.min(deadline)));
                break;
            }
            let wait = wait(row, name)?;
            bytes += wait.body.len();
            found.push(wait);
        }
    }
    Ok((found, next))
}

/// The stored offset of a source.
pub(super) fn offset(conn: &Connection, source: &str) -> rusqlite::Result<Option<String>> {
    conn.prepare_cached("SELECT value FROM source_offset WHERE source = ?1")?
        .query_row([source], |row| row.get(0))
        .optional()
}

/// When the oldest delivery that is owed to a webhook was created.
pub(super) fn oldest(conn: &Connection, webhook: i64) -> rusqlite::Result<Option<Timestamp>> {
    conn.prepare_cached(
        "SELECT created_at FROM delivery WHERE row =
             (SELECT key - ?1 FROM body WHERE key BETWEEN ?1 AND ?2 ORDER BY key LIMIT 1)",
    )?
    .query_row((body_key(webhook, 0), body_key(webhook + 1, 0) - 1), |row| row.get(0).map(Timestamp::from_millis))
    .optional()
}

/// A delivery's kept event: its body, webhook and whether the delivery has a payload itself.
pub(super) fn kept_event(conn: &Connection, id: &str) -> rusqlite::Result<Option<(i64, Bytes)>> {
    conn.prepare_cached(
        "SELECT delivery.webhook, kept_event.body FROM delivery JOIN kept_event ON kept_event.seq = delivery.seq
         WHERE delivery.id = ?1",
    )?
    .query_row([id], |row| Ok((row.get(0)?, Bytes::copy_from_slice(row.get_ref(1)?.as_blob()?))))
    .optional()
}
