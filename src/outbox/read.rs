//! Reads beside the writer: a few read-only connections, and the short queries of the hot path. These run where they are
//! called: each is a handful of index look-ups, some tens of microseconds from memory, less than a hand-over to another
//! thread would cost. Lists, which may look at many rows, are in `list` and run on the blocking pool.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::seal::{Place, Seal, Unreadable};
use super::txn::{body_key, headers_from, shared};
use super::types::{AnalysisDue, ConversationKey, KeptEvents, Ready, Seen, Wait};
use super::{OutboxError, schema};
use crate::clock::Timestamp;
use crate::limits;
use crate::telemetry::outbox as facts;

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

    /// Reads one consistent state of the store, in as many statements as it takes.
    pub(super) fn with<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, OutboxError> {
        self.glance(|conn| {
            conn.prepare_cached("BEGIN")?.execute([])?;
            let found = read(conn)?;
            conn.prepare_cached("COMMIT")?.execute([])?;
            Ok(found)
        })
    }

    /// Reads with one statement, which sees one state by itself.
    pub(super) fn glance<T>(&self, read: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T, OutboxError> {
        let idle = self.idle().pop();
        let conn = match idle {
            Some(conn) => conn,
            None => schema::open_reader(&self.dir)?,
        };
        match read(&conn) {
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

/// A delivery whose payload or headers are sealed and cannot be opened.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) row: i64,
    pub(super) why: Unreadable,
}

type Opened = Result<Ready, Closed>;

fn ready(row: &Row<'_>, seal: &Seal, webhook: Arc<str>, body: Result<Bytes, Unreadable>) -> rusqlite::Result<Opened> {
    let number = row.get(0)?;
    let headers = seal.open_text(Place::Headers(number), row.get_ref(5)?);
    let (body, headers) = match (body, headers) {
        (Ok(body), Ok(headers)) => (body, headers),
        (Err(why), _) | (_, Err(why)) => return Ok(Err(Closed { row: number, why })),
    };
    Ok(Ok(Ready {
        row: number,
        id: row.get(2)?,
        webhook,
        event_id: shared(row, 3)?,
        event_type: shared(row, 4)?,
        body,
        headers: headers_from(headers.as_deref()),
        traceparent: row.get(6)?,
        attempts: row.get(7)?,
        created_at: Timestamp::from_millis(row.get(8)?),
        arrived: Timestamp::from_millis(row.get(9)?),
    }))
}

fn body(conn: &Connection, seal: &Seal, webhook: i64, row: i64) -> rusqlite::Result<Option<Result<Bytes, Unreadable>>> {
    conn.prepare_cached("SELECT body FROM body WHERE key = ?1")?
        .query_row([body_key(webhook, row)], |r| Ok(seal.open(Place::Payload(row), r.get_ref(0)?.as_blob()?)))
        .optional()
}

/// One delivery, if it is ready and due, and its webhook has a name to send it under.
pub(super) fn ready_now(
    conn: &Connection,
    seal: &Seal,
    row: i64,
    now: Timestamp,
    name: impl Fn(i64) -> Option<Arc<str>>,
) -> rusqlite::Result<Option<Opened>> {
    let sql = select(READY, "WHERE row = ?1 AND ready = 1 AND next_at <= ?2");
    let mut found = conn.prepare_cached(&sql)?;
    let mut rows = found.query((row, now.as_millis()))?;
    let Some(at) = rows.next()? else { return Ok(None) };
    let webhook: i64 = at.get(1)?;
    let Some(name) = name(webhook) else { return Ok(None) };
    match body(conn, seal, webhook, row)? {
        Some(body) => ready(at, seal, name, body).map(Some),
        None => Ok(None),
    }
}

fn select(columns: &str, rest: &str) -> String {
    format!("SELECT {columns} FROM delivery {rest}")
}

/// What may be attempted now.
#[derive(Debug, Default)]
pub(super) struct Due {
    pub(super) ready: Vec<Ready>,
    /// At most as many as were asked for.
    pub(super) closed: Vec<Closed>,
}

/// Deliveries of one webhook that may be attempted now, beyond those in `known`.
pub(super) fn due(
    conn: &Connection,
    seal: &Seal,
    webhook: (i64, &Arc<str>),
    now: Timestamp,
    limit: usize,
    known: &HashSet<i64>,
) -> rusqlite::Result<Due> {
    let sql = select(READY, "WHERE webhook = ?1 AND ready = 1 AND next_at <= ?2 ORDER BY next_at, row");
    let mut due = conn.prepare_cached(&sql)?;
    let mut rows = due.query((webhook.0, now.as_millis()))?;
    let Due { ready: mut found, mut closed } = Due::default();
    let mut bytes = 0;
    while found.len() < limit && closed.len() < limit && bytes < limits::DUE_BYTES {
        let Some(row) = rows.next()? else { break };
        let number: i64 = row.get(0)?;
        if known.contains(&number) {
            continue;
        }
        let Some(body) = body(conn, seal, webhook.0, number)? else { continue };
        let size = body.as_ref().map_or(0, Bytes::len);
        if !found.is_empty() && bytes + size > limits::DUE_BYTES {
            break;
        }
        bytes += size;
        match ready(row, seal, Arc::clone(webhook.1), body)? {
            Ok(ready) => found.push(ready),
            Err(one) => closed.push(one),
        }
    }
    Ok(Due { ready: found, closed })
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
pub(super) fn seen(conn: &Connection, keys: &[Vec<u8>], now: Timestamp) -> rusqlite::Result<Vec<Option<Seen>>> {
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

const WAIT: &str = "SELECT wait.row, wait.webhook, wait.deadline, event.namespace, event.conversation, event.body,
                           event.seq, event.event_id
                    FROM wait JOIN waiting_event event ON event.seq = wait.seq";

/// Waits whose event has no analyses under way; those that have are not to be seen.
const ANALYSED: &str = "NOT EXISTS (SELECT 1 FROM analysis_due WHERE seq = wait.seq)";

fn wait(row: &Row<'_>, seal: &Seal, name: &Arc<str>) -> rusqlite::Result<Wait> {
    let body = seal.open(Place::WaitingEvent(row.get(6)?), row.get_ref(5)?.as_blob()?);
    let body = told(body, "a waiting event", row.get_ref(7)?.as_str()?);
    let namespace: Option<Arc<str>> = row.get(3)?;
    let id: Option<Arc<str>> = row.get(4)?;
    Ok(Wait {
        row: row.get(0)?,
        webhook: Arc::clone(name),
        conversation: namespace.zip(id).map(|(namespace, id)| ConversationKey { namespace, id }),
        deadline: Timestamp::from_millis(row.get(2)?),
        body: body.unwrap_or_default(),
    })
}

/// Events whose analyses are due.
pub(super) fn analyses_due(
    conn: &Connection,
    seal: &Seal,
    after: i64,
    limit: usize,
) -> rusqlite::Result<Vec<AnalysisDue>> {
    let mut due = conn.prepare_cached(
        "SELECT event.seq, event.namespace, event.conversation, event.body, event.event_id
         FROM analysis_due due JOIN waiting_event event ON event.seq = due.seq WHERE due.seq > ?1 ORDER BY due.seq",
    )?;
    let mut rows = due.query([after])?;
    let (mut found, mut bytes) = (Vec::new(), 0);
    while found.len() < limit && bytes < limits::DUE_BYTES {
        let Some(row) = rows.next()? else { break };
        let event = row.get(0)?;
        let body = seal.open(Place::WaitingEvent(event), row.get_ref(3)?.as_blob()?);
        let body = told(body, "a waiting event", row.get_ref(4)?.as_str()?).unwrap_or_default();
        bytes += body.len();
        let (namespace, id): (Option<Arc<str>>, Option<Arc<str>>) = (row.get(1)?, row.get(2)?);
        let conversation = namespace.zip(id).map(|(namespace, id)| ConversationKey { namespace, id });
        found.push(AnalysisDue { event, conversation, body });
    }
    Ok(found)
}

/// A value that was opened; of one that cannot be it is said that it is done without.
fn told(opened: Result<Bytes, Unreadable>, what: &str, id: &str) -> Option<Bytes> {
    opened.inspect_err(|why| facts::Unreadable { what, id: Some(id), why: &why.to_string() }.emit()).ok()
}

/// Waits of one conversation, but for webhooks that `name` does not give.
pub(super) fn waits_of(
    conn: &Connection,
    seal: &Seal,
    key: &ConversationKey,
    name: impl Fn(i64) -> Option<Arc<str>>,
) -> rusqlite::Result<Vec<Wait>> {
    let sql = format!("{WAIT} WHERE event.conversation = ?1 AND event.namespace = ?2 AND {ANALYSED} ORDER BY wait.row");
    let mut all = conn.prepare_cached(&sql)?;
    let mut rows = all.query((&key.id, &key.namespace))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next()? {
        if let Some(name) = name(row.get(1)?) {
            found.push(wait(row, seal, &name)?);
        }
    }
    Ok(found)
}

/// Waits of these webhooks that are over, at most `limit`, and when the next one is.
pub(super) fn waits_due(
    conn: &Connection,
    seal: &Seal,
    webhooks: &[(i64, Arc<str>)],
    now: Timestamp,
    limit: usize,
) -> rusqlite::Result<(Vec<Wait>, Option<Timestamp>)> {
    let sql = format!("{WAIT} WHERE wait.webhook = ?1 AND {ANALYSED} ORDER BY wait.deadline LIMIT ?2");
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
            let wait = wait(row, seal, name)?;
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

/// A kept event whose body, number and id are the row's columns from `at`.
fn kept(row: &Row<'_>, seal: &Seal, at: usize) -> rusqlite::Result<Option<Bytes>> {
    let place = Place::KeptEvent(row.get(at + 1)?);
    Ok(told(seal.open(place, row.get_ref(at)?.as_blob()?), "a kept event", row.get_ref(at + 2)?.as_str()?))
}

/// Kept events, newest first, as far as the limits allow.
pub(super) fn recent_events(conn: &Connection, seal: &Seal, limit: usize) -> rusqlite::Result<Vec<Bytes>> {
    let mut found = conn.prepare_cached("SELECT body, seq, event_id FROM kept_event ORDER BY seq DESC")?;
    let mut rows = found.query([])?;
    let (mut events, mut bytes) = (Vec::new(), 0);
    while events.len() < limit && bytes < limits::CANARY_BYTES {
        let Some(row) = rows.next()? else { break };
        let Some(body) = kept(row, seal, 0)? else { continue };
        bytes += body.len();
        events.push(body);
    }
    Ok(events)
}

/// A delivery with its kept event.
pub(super) struct Kept {
    pub(super) webhook: i64,
    /// Its place in the event's fan-out.
    pub(super) place: i64,
    pub(super) reason: Option<String>,
    pub(super) body: Bytes,
}

/// A delivery's kept event.
pub(super) fn kept_event(conn: &Connection, seal: &Seal, id: &str) -> rusqlite::Result<Option<Kept>> {
    conn.prepare_cached(
        "SELECT delivery.webhook, delivery.idx, delivery.reason, delivery.row,
                kept_event.body, kept_event.seq, kept_event.event_id
         FROM delivery JOIN kept_event ON kept_event.seq = delivery.seq
         WHERE delivery.id = ?1",
    )?
    .query_row([id], |row| {
        let reason = seal.show_text(Place::Reason(row.get(3)?), row.get_ref(2)?);
        let Some(body) = kept(row, seal, 4)? else { return Ok(None) };
        Ok(Some(Kept { webhook: row.get(0)?, place: row.get(1)?, reason, body }))
    })
    .optional()
    .map(Option::flatten)
}

/// Kept events by place, at most `limit` and [`limits::REPLAY_BYTES`] of them.
pub(super) fn kept_events(
    conn: &Connection,
    seal: &Seal,
    since: Timestamp,
    until: Timestamp,
    after: i64,
    limit: usize,
) -> rusqlite::Result<KeptEvents> {
    let mut found = KeptEvents::default();
    let mut bytes = 0;
    let mut page = conn.prepare_cached(
        "SELECT seq, body, seq, event_id FROM kept_event WHERE seq > ?1 AND arrived >= ?2 AND arrived < ?3 ORDER BY seq",
    )?;
    let mut rows = page.query((after, since.as_millis(), until.as_millis()))?;
    let mut last = after;
    while let Some(row) = rows.next()? {
        if found.bodies.len() == limit || bytes >= limits::REPLAY_BYTES {
            found.next = Some(last);
            break;
        }
        last = row.get(0)?;
        // One that cannot be opened is handed on as nothing, to be counted among the events that cannot be read.
        let body = kept(row, seal, 1)?.unwrap_or_default();
        bytes += body.len();
        found.bodies.push(body);
    }
    Ok(found)
}
