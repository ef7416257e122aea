//! A look at a store as it is, in use or copied from somewhere: what it holds, and whether it is whole. Writes nothing,
//! takes no lock, and believes no counter that it can count itself.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::ledger::Book;
use super::views::Ledger;
use super::{OutboxError, schema, seal};
use crate::clock::Timestamp;
use crate::limits;

/// What a store holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// The file.
    pub file: String,
    /// Its size; what the write-ahead log holds beside it is not counted.
    pub bytes: u64,
    /// Version of its tables.
    pub schema_version: usize,
    /// Version that this sidehook writes.
    pub schema_known: usize,
    /// Waiting events, kept events, conversations and so on, by name.
    pub counts: Vec<(String, u64)>,
    /// When the oldest delivery that is owed was created.
    pub oldest_owed: Option<Timestamp>,
    /// Ids of keys that sealed something, with the number of values that each has there. Empty where nothing is sealed.
    pub keys: Vec<(String, u64)>,
    /// The ledger.
    pub ledger: Ledger,
    /// What is wrong; empty unless it was asked for.
    pub problems: Vec<String>,
}

const COUNTS: [(&str, &str); 9] = [
    ("deliveries", "SELECT count(*) FROM delivery"),
    ("payloads_owed", "SELECT count(*) FROM body"),
    ("payloads_kept", "SELECT count(*) FROM kept_body"),
    ("attempts", "SELECT (SELECT count(*) FROM attempt) + (SELECT count(won_at) FROM delivery)"),
    ("events_waiting", "SELECT count(*) FROM waiting_event"),
    ("events_kept", "SELECT count(*) FROM kept_event"),
    ("conversations", "SELECT count(*) FROM conversation"),
    ("messages", "SELECT count(*) FROM message"),
    ("ids_remembered", "SELECT count(*) FROM dedupe"),
];

/// Counts that must be 0: a query, and what it counts.
const MUST_BE_NONE: [(&str, &str); 7] = [
    (
        "owed deliveries without a payload",
        "SELECT count(*) FROM delivery WHERE state = 0
         AND NOT EXISTS (SELECT 1 FROM body WHERE key = (delivery.webhook << 40) | delivery.row)",
    ),
    (
        "owed payloads without a delivery",
        "SELECT count(*) FROM body WHERE NOT EXISTS
         (SELECT 1 FROM delivery WHERE row = body.key & 0xffffffffff AND webhook = body.key >> 40 AND state = 0)",
    ),
    (
        "deliveries of a webhook that is not there",
        "SELECT count(*) FROM delivery WHERE NOT EXISTS (SELECT 1 FROM webhook WHERE id = delivery.webhook)",
    ),
    (
        "attempts of a delivery that is not there",
        "SELECT count(*) FROM attempt WHERE NOT EXISTS (SELECT 1 FROM delivery WHERE row = attempt.delivery)",
    ),
    (
        "waits of an event that is not there",
        "SELECT count(*) FROM wait WHERE NOT EXISTS (SELECT 1 FROM waiting_event WHERE seq = wait.seq)",
    ),
    (
        "conversations' orders whose first delivery is not ready",
        "SELECT count(*) FROM lane JOIN delivery ON delivery.row = lane.delivery
         WHERE delivery.ready = 0 AND NOT EXISTS (SELECT 1 FROM lane AS other WHERE other.lane = lane.lane
               AND (other.seq, other.idx) < (lane.seq, lane.idx))",
    ),
    (
        "deliveries that are ready before their turn",
        "SELECT count(*) FROM lane JOIN delivery ON delivery.row = lane.delivery
         WHERE delivery.ready = 1 AND EXISTS (SELECT 1 FROM lane AS other WHERE other.lane = lane.lane
               AND (other.seq, other.idx) < (lane.seq, lane.idx))",
    ),
];

/// The store's file: `path` itself, or the one in that directory.
fn file_of(path: &Path) -> PathBuf {
    if path.is_dir() { schema::file(path) } else { path.to_owned() }
}

/// Looks into a store; `verify` checks it too, which reads all of it.
pub fn inspect(path: &Path, verify: bool) -> Result<Inspection, OutboxError> {
    let file = file_of(path);
    let failed = |message: String| OutboxError::Store { path: file.display().to_string(), message };
    let bytes = match std::fs::metadata(&file) {
        Ok(found) => found.len(),
        Err(error) => return Err(failed(format!("cannot be read: {error}; name an outbox.db or its directory"))),
    };
    let explain = |error: rusqlite::Error| schema::explain(&file, &error);
    let conn = open(&file).map_err(explain)?;
    conn.execute_batch("BEGIN").map_err(explain)?;
    let schema_version = schema::version(&conn).map_err(explain)?;
    if schema_version != schema::KNOWN {
        return Err(failed(format!(
            "has schema version {schema_version}, this sidehook reads {}; use the sidehook that wrote it, or let a newer \
             one migrate a copy by running with it",
            schema::KNOWN
        )));
    }
    let mut problems = Vec::new();
    if verify {
        problems = structure(&conn).map_err(explain)?;
        // Counting in a damaged tree would only fail.
        if problems.is_empty() {
            problems = contents(&conn).map_err(explain)?;
        }
    }
    let number = |sql: &str| conn.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|n| u64::try_from(n).unwrap_or(0));
    let mut counts = Vec::new();
    for (name, sql) in COUNTS {
        counts.push((name.to_owned(), number(sql).map_err(explain)?));
    }
    let oldest: Option<i64> = conn
        .query_row("SELECT min(created_at) FROM delivery WHERE state = 0", [], |row| row.get(0))
        .map_err(explain)?;
    Ok(Inspection {
        file: file.display().to_string(),
        bytes,
        schema_version,
        schema_known: schema::KNOWN,
        counts,
        oldest_owed: oldest.map(Timestamp::from_millis),
        keys: seal::in_use(&conn).map_err(explain)?,
        ledger: Book::load(&conn).map_err(explain)?.ledger(),
        problems,
    })
}

/// A copy without a log beside it is read as it lies there, even where nothing can be written; one with a log, or one in
/// use, which has one, is read with it.
fn open(file: &Path) -> rusqlite::Result<Connection> {
    let mut log = file.as_os_str().to_owned();
    log.push("-wal");
    let alone = !Path::new(&log).exists();
    let name = percent_encoding::utf8_percent_encode(&file.to_string_lossy(), URI).to_string();
    let uri = format!("file:{name}?mode=ro{}", if alone { "&immutable=1" } else { "" });
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX | OpenFlags::SQLITE_OPEN_URI;
    let conn = Connection::open_with_flags(uri, flags)?;
    conn.busy_timeout(std::time::Duration::from_secs(2))?;
    Ok(conn)
}

/// What a path may not hold inside a URI.
const URI: &percent_encoding::AsciiSet = &percent_encoding::CONTROLS.add(b'%').add(b'?').add(b'#').add(b' ');

fn structure(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut check = conn.prepare(&format!("PRAGMA integrity_check({})", limits::VERIFY_PROBLEMS))?;
    let found = check.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    Ok(found.into_iter().filter(|line| line != "ok").map(|line| format!("structure: {line}")).collect())
}

fn contents(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut problems = Vec::new();
    for (what, sql) in MUST_BE_NONE {
        let found: i64 = conn.query_row(sql, [], |row| row.get(0))?;
        if found > 0 {
            problems.push(format!("{found} {what}"));
        }
    }
    let book = Book::load(conn)?;
    for row in book.ledger().webhooks.iter().filter(|row| !row.balances()) {
        problems.push(format!("webhook {}: its ledger does not balance", row.webhook));
    }
    for webhook in book.webhooks() {
        let count = |sql: &str| conn.query_row(sql, [webhook.id], |row| row.get::<_, i64>(0));
        for (what, told, sql) in [
            ("owed", webhook.counts.owed, "SELECT count(*) FROM delivery WHERE webhook = ?1 AND state = 0"),
            ("delivered", webhook.counts.delivered, "SELECT count(*) FROM delivery WHERE webhook = ?1 AND state = 1"),
            ("dead", webhook.counts.dead, "SELECT count(*) FROM delivery WHERE webhook = ?1 AND state = 2"),
            ("waiting", webhook.counts.waiting, "SELECT count(*) FROM wait WHERE webhook = ?1"),
        ] {
            let found = u64::try_from(count(sql)?).unwrap_or(0);
            if found != told {
                problems.push(format!("webhook {}: its ledger says {told} {what}, there are {found}", webhook.name));
            }
        }
    }
    problems.truncate(limits::VERIFY_PROBLEMS);
    Ok(problems)
}
