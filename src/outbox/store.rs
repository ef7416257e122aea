//! The store as the writer holds it: the connection that writes, what is remembered beside it, and the log that is copied
//! as it grows. Decides nothing about batches.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;

use rusqlite::Connection;

use super::checkpoint::{self, Checkpointer};
use super::ledger::Book;
use super::seal::{KeyId, Seal};
use super::space::{self, Space};
use super::{OutboxError, schema};
use crate::limits;

/// An open store with what is remembered of it.
pub(super) struct Store {
    pub(super) conn: Connection,
    pub(super) book: Book,
    pub(super) space: Space,
    wal_pages: Arc<AtomicI32>,
    /// How many there were when the last copying of them began, and when commits last waited for one.
    copied_pages: i32,
    waited_pages: i32,
    checkpointer: Checkpointer,
    /// The key that seals, once the store knows of it.
    pub(super) sealing: Option<KeyId>,
    /// Which file it is.
    pub(super) file: Option<FileIdentity>,
}

/// Which file a path leads to: its device and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FileIdentity(u64, u64);

impl FileIdentity {
    /// `None` where there is no file.
    pub(super) fn of(path: &Path) -> std::io::Result<Option<Self>> {
        use std::os::unix::fs::MetadataExt as _;
        match std::fs::metadata(path) {
            Ok(found) => Ok(Some(Self(found.dev(), found.ino()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl Store {
    pub(super) fn open(dir: &Path, seal: &Seal, after_failure: bool) -> Result<Self, OutboxError> {
        let mut conn = schema::open_writer(dir, after_failure)?;
        seal.check(&conn, &schema::file(dir))?;
        let explain = |e: &rusqlite::Error| schema::explain(&schema::file(dir), e);
        // The writer copies the log itself, after it has answered, instead of SQLite within a commit.
        let wal_pages = Arc::new(AtomicI32::new(0));
        let pages = Arc::clone(&wal_pages);
        conn.wal_hook(Some(move |_: &mut rusqlite::hooks::Wal, count: i32| {
            pages.store(count, Ordering::Relaxed);
            Ok(())
        }))
        .map_err(|e| explain(&e))?;
        let book = Book::load(&conn).map_err(|e| explain(&e))?;
        let space = Space::new(space::used(&conn).map_err(|e| explain(&e))?);
        Ok(Self {
            conn,
            book,
            space,
            wal_pages,
            copied_pages: 0,
            waited_pages: 0,
            checkpointer: Checkpointer::default(),
            sealing: None,
            file: FileIdentity::of(&schema::file(dir)).ok().flatten(),
        })
    }

    /// Whether its file was removed, or another one put into its place: what is written then is lost with the process.
    pub(super) fn is_gone(&self, dir: &Path) -> bool {
        self.file.is_some() && FileIdentity::of(&schema::file(dir)).is_ok_and(|found| found != self.file)
    }

    pub(super) fn log_holds_something(&self) -> bool {
        self.wal_pages.load(Ordering::Relaxed) > 0
    }

    /// Copies the log and cuts its file to nothing. Where a reader is in the way, the next time will do.
    pub(super) fn empty_log(&mut self) -> rusqlite::Result<()> {
        if self.checkpointer.under_way()? {
            return Ok(());
        }
        self.conn.busy_timeout(Duration::ZERO)?;
        let emptied = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get::<_, i64>(0));
        self.conn.busy_timeout(schema::BUSY_TIMEOUT)?;
        if emptied? == 0 {
            self.wal_pages.store(0, Ordering::Relaxed);
            (self.copied_pages, self.waited_pages) = (0, 0);
        }
        Ok(())
    }

    /// Has the log copied into the store as it grows, beside the commits. Where they never pause some of it is always
    /// uncopied; so when it is long they wait for that little, and it begins anew.
    pub(super) fn checkpoint(&mut self, dir: &Path) -> rusqlite::Result<()> {
        let under_way = self.checkpointer.under_way()?;
        let pages = self.wal_pages.load(Ordering::Relaxed);
        if pages < self.copied_pages {
            (self.copied_pages, self.waited_pages) = (0, 0); // It began anew.
        }
        if under_way {
            return Ok(());
        }
        let uncopied = pages - self.copied_pages;
        // A reader that stays on an old state keeps the log from beginning anew: then not every commit tries.
        let long = pages >= limits::LOG_PAGES.max(self.waited_pages + limits::CHECKPOINT_PAGES);
        if long && (uncopied < limits::CHECKPOINT_PAGES || pages >= 2 * limits::LOG_PAGES) {
            (self.copied_pages, self.waited_pages) = (pages, pages);
            checkpoint::copy(&self.conn)
        } else if uncopied >= limits::CHECKPOINT_PAGES {
            self.copied_pages = pages;
            self.checkpointer.begin(dir)
        } else {
            Ok(())
        }
    }

    /// Closes it with its log copied, as far as that can be done.
    pub(super) fn close(mut self) {
        // The thread's connection would keep some of the log in use.
        self.checkpointer = Checkpointer::default();
        // What fails here is in the log, and is copied at the next opening.
        let _ = self.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
    }
}
