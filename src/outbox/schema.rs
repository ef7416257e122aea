//! The tables and how a connection to them is opened. Knows nothing of what is done with the rows.

use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::config::DbConfig;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::OutboxError;

/// The store's file within the outbox directory.
pub(super) const FILE: &str = "outbox.db";

/// One entry per schema version, in order; entry `n` leads from version `n` to `n + 1`. Entries are never edited once
/// released: a change is a new entry.
const MIGRATIONS: &[&str] = &[
    include_str!("schema/0001.sql"),
    include_str!("schema/0002.sql"),
    include_str!("schema/0003.sql"),
    include_str!("schema/0004.sql"),
];

/// The version that this sidehook writes.
pub(super) const KNOWN: usize = MIGRATIONS.len();

/// How long the writer waits for somebody else's lock.
pub(super) const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Path of the store's file.
pub(super) fn file(dir: &Path) -> PathBuf {
    dir.join(FILE)
}

/// Opens the store for writing, creating and migrating it. `after_failure`: nothing is trusted that is only in the log.
pub(super) fn open_writer(dir: &Path, after_failure: bool) -> Result<Connection, OutboxError> {
    let path = file(dir);
    create_private(&path).map_err(|e| OutboxError::Store {
        path: path.display().to_string(),
        message: format!("cannot be created or opened: {e}; is the directory writable and is there space?"),
    })?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let explain = |e: &rusqlite::Error| explain(&path, e);
    let mut conn = Connection::open_with_flags(&path, flags).map_err(|e| explain(&e))?;
    prepare_writer(&conn).map_err(|e| explain(&e))?;
    let version = version(&conn).map_err(|e| explain(&e))?;
    if version > MIGRATIONS.len() {
        return Err(too_new(&path, version));
    }
    migrate(&mut conn, version).map_err(|e| explain(&e))?;
    // Whatever the log holds is written to the store anew before anything builds on it: after a failed sync the
    // system may hold pages that look written and are not.
    let busy: i64 = conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(|e| explain(&e))?;
    if busy != 0 && after_failure {
        return Err(OutboxError::Store {
            path: path.display().to_string(),
            message: "a reader keeps the write-ahead log from being rewritten after the failure; close it".to_owned(),
        });
    }
    Ok(conn)
}

/// Opens the store for copying its log into it, beside the writer of this process.
pub(super) fn open_checkpointer(file: &Path) -> rusqlite::Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let conn = Connection::open_with_flags(file, flags)?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -64;")?;
    Ok(conn)
}

/// Opens the store for reading, beside a writer in this process or another.
pub(super) fn open_reader(dir: &Path) -> Result<Connection, OutboxError> {
    let path = file(dir);
    if !path.exists() {
        return Err(OutboxError::Store {
            path: path.display().to_string(),
            message: "there is no outbox here; `sidehook run` creates it, is --config right?".to_owned(),
        });
    }
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let explain = |e: &rusqlite::Error| explain(&path, e);
    let conn = Connection::open_with_flags(&path, flags).map_err(|e| explain(&e))?;
    conn.busy_timeout(Duration::from_secs(2)).map_err(|e| explain(&e))?;
    plan_once(&conn).map_err(|e| explain(&e))?;
    conn.execute_batch("PRAGMA cache_size = -1024; PRAGMA temp_store = MEMORY;").map_err(|e| explain(&e))?;
    conn.set_prepared_statement_cache_capacity(32);
    match version(&conn).map_err(|e| explain(&e))? {
        found if found > MIGRATIONS.len() => Err(too_new(&path, found)),
        found if found < MIGRATIONS.len() => Err(OutboxError::Store {
            path: path.display().to_string(),
            message: format!(
                "has schema version {found}, this sidehook reads {}; start `sidehook run` once to migrate it",
                MIGRATIONS.len()
            ),
        }),
        _ => Ok(conn),
    }
}

/// Says what `SQLite` said, and what to do about it.
pub(super) fn explain(path: &Path, error: &rusqlite::Error) -> OutboxError {
    let cure = match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            "the store is damaged; restore it from a backup, or move the directory aside to start empty (what was owed \
             is lost then)"
        }
        Some(ErrorCode::DiskFull) => {
            "free space on its volume; a running sidehook goes on by itself, one that did not start has to be started again"
        }
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied | ErrorCode::CannotOpen) => {
            "check that the directory is there and writable for sidehook's user"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "another process holds it locked; close whatever has it open for writing"
        }
        Some(ErrorCode::SystemIoFailure) => {
            "the disk failed it; check the volume; a running sidehook tries again by itself"
        }
        _ => "check the volume and the log",
    };
    OutboxError::Store { path: path.display().to_string(), message: format!("{error}; {cure}") }
}

fn create_private(path: &Path) -> std::io::Result<()> {
    // Only where it is missing: closing a second descriptor of an open store would drop SQLite's locks on it.
    if path.exists() {
        return Ok(());
    }
    std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    if let Some(dir) = path.parent() {
        std::fs::File::open(dir)?.sync_all()?;
    }
    Ok(())
}

/// Plans do not depend on what is bound: without this a statement with `LIMIT ?` is compiled anew at every use.
fn plan_once(conn: &Connection) -> rusqlite::Result<()> {
    conn.set_db_config(DbConfig::SQLITE_DBCONFIG_ENABLE_QPSG, true).map(drop)
}

fn prepare_writer(conn: &Connection) -> rusqlite::Result<()> {
    plan_once(conn)?;
    conn.busy_timeout(BUSY_TIMEOUT)?;
    conn.set_prepared_statement_cache_capacity(128);
    // The first two count only while the file is still empty, so they come before the journal mode. A conversation of
    // the usual size fits a page of 8 KiB without spilling over to a page of its own: half the pages written per event.
    conn.execute_batch(
        "PRAGMA page_size = 8192;
         PRAGMA auto_vacuum = INCREMENTAL;
         PRAGMA journal_mode = WAL;
         PRAGMA synchronous = FULL;
         PRAGMA secure_delete = ON;
         PRAGMA temp_store = MEMORY;
         PRAGMA cache_size = -8192;
         PRAGMA journal_size_limit = 25165824;",
    )
}

/// Version of the tables of a store.
pub(super) fn version(conn: &Connection) -> rusqlite::Result<usize> {
    conn.query_row("PRAGMA user_version", [], |row| row.get::<_, i64>(0)).map(|v| usize::try_from(v).unwrap_or(0))
}

fn migrate(conn: &mut Connection, from: usize) -> rusqlite::Result<()> {
    for (at, migration) in MIGRATIONS.iter().enumerate().skip(from) {
        let tx = conn.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
        tx.execute_batch(migration)?;
        tx.execute_batch(&format!("PRAGMA user_version = {}", at + 1))?;
        tx.commit()?;
    }
    Ok(())
}

fn too_new(path: &Path, version: usize) -> OutboxError {
    OutboxError::Store {
        path: path.display().to_string(),
        message: format!(
            "has schema version {version}, this sidehook knows up to {}; run the newer sidehook that wrote it, or give \
             this one another outbox.path",
            MIGRATIONS.len()
        ),
    }
}
