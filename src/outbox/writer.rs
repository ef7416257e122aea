//! The one thread that writes. It takes everything that waits, makes it one transaction, and answers after the commit.
//! When the store fails it latches: it refuses at once, opens the store again with backoff, and goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode};
use tokio::sync::mpsc;

use super::announce::Announcer;
use super::command::{Command, Due, Job, refuse};
use super::ledger::Book;
use super::retention::Retention;
use super::space::{self, Space};
use super::txn::{Refusal, Txn};
use super::types::{Batch, CommitError, Options, Ready, Receipt, Retried};
use super::{Health, OutboxError, Shared, apply, lock::Lock, retry, schema, settle};
use crate::clock::Clock;
use crate::limits;
use crate::telemetry::outbox as facts;

/// An open store with what is remembered of it.
struct Store {
    conn: Connection,
    book: Book,
    space: Space,
    wal_pages: Arc<AtomicI32>,
}

impl Store {
    fn open(dir: &std::path::Path, after_failure: bool) -> Result<Self, OutboxError> {
        let mut conn = schema::open_writer(dir, after_failure)?;
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
        Ok(Self { conn, book, space, wal_pages })
    }
}

/// The failed state.
struct Latch {
    why: String,
    try_at: Instant,
    backoff: Duration,
}

/// The writer.
pub(super) struct Writer {
    dir: PathBuf,
    clock: Clock,
    options: Options,
    shared: Arc<Shared>,
    announcer: Announcer,
    store: Result<Store, Latch>,
    retention: Retention,
    _lock: Lock,
}

impl Writer {
    /// Opens the store. `lock` is let go of when the writer ends.
    pub(super) fn open(
        dir: PathBuf,
        options: Options,
        clock: Clock,
        lock: Lock,
        shared: Arc<Shared>,
        ready: mpsc::Sender<Ready>,
    ) -> Result<Self, OutboxError> {
        let store = Store::open(&dir, false)?;
        let retention = Retention::new(clock.now());
        let writer = Self {
            dir,
            clock,
            options,
            announcer: Announcer::new(ready),
            store: Ok(store),
            retention,
            shared,
            _lock: lock,
        };
        writer.publish_all();
        Ok(writer)
    }

    fn publish_all(&self) {
        if let Ok(store) = &self.store {
            *self.shared.book_mut() = Arc::new(store.book.clone());
            if let Ok(bytes) = space::used(&store.conn) {
                self.shared.bytes.store(bytes, Ordering::Relaxed);
            }
        }
    }

    /// Works until it is told to close, or everybody has let go of the outbox.
    pub(super) fn run(mut self, jobs: &Receiver<Job>) {
        loop {
            let first = if self.store.is_ok() && self.retention.busy() {
                jobs.recv_timeout(Duration::ZERO)
            } else {
                jobs.recv_timeout(self.pause())
            };
            let mut group = Vec::new();
            match first {
                Ok(job) => group = gather(job, jobs),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            }
            self.reopen();
            let mut closing = None;
            let mut maintain = None;
            let mut work = Vec::with_capacity(group.len());
            for job in group {
                drop(job.place);
                match job.command {
                    Command::Options(options) => self.options = options,
                    Command::Maintain(done) => maintain = Some(done),
                    Command::Close(done) => closing = Some(done),
                    command => work.push(command),
                }
            }
            let now = self.clock.now();
            self.retention.wake(now);
            if maintain.is_some() {
                self.retention.begin(now);
            }
            self.work(work);
            if let Some(done) = maintain {
                while self.store.is_ok() && self.retention.busy() {
                    self.work(Vec::new());
                }
                let _ = done.send(());
            }
            if let Some(done) = closing {
                self.end();
                let _ = done.send(());
                return;
            }
        }
    }

    /// How long there is nothing to do unless somebody asks.
    fn pause(&self) -> Duration {
        match &self.store {
            Ok(_) => self.retention.pause(self.clock.now()),
            Err(latch) => latch.try_at.saturating_duration_since(self.clock.instant()),
        }
    }

    /// Commits, or refuses, what was asked; with nothing asked, retention alone.
    fn work(&mut self, work: Vec<Command>) {
        if work.is_empty() && !self.retention.busy() {
            return;
        }
        let mut due = Vec::with_capacity(work.len());
        let Ok(store) = &mut self.store else {
            let why = self.failure();
            for command in work {
                refuse(command, &why);
            }
            return;
        };
        let announce = self.announcer.wanted(&self.shared);
        let mut txn = Txn {
            conn: &store.conn,
            book: &mut store.book,
            options: &self.options,
            now: self.clock.now(),
            announce,
            drafts: Vec::new(),
            purged: 0,
            dropped: 0,
        };
        let mut left = work.into_iter();
        let mut full = None;
        let result = (|| {
            txn.run("BEGIN IMMEDIATE", [])?;
            let asked = left.len();
            for command in left.by_ref() {
                apply_one(&mut txn, &mut store.space, command, &mut due, &mut full)?;
            }
            // Under load retention goes along with the commits, idle it has transactions of its own.
            let budget = if asked == 0 { limits::RETENTION_SLICE_ROWS } else { 32 + 2 * asked };
            self.retention.slice(&mut txn, budget)?;
            let ready = self.announcer.load(&mut txn)?;
            let changed = txn.book.store(txn.conn)?;
            txn.run("COMMIT", [])?;
            Ok((ready, changed))
        })();
        match result {
            Ok((ready, changed)) => {
                let (purged, dropped) = (txn.purged, txn.dropped);
                self.committed(&changed, full);
                due.into_iter().for_each(Due::send);
                self.announcer.send(ready);
                if purged > 0 {
                    facts::Purged { rows: purged }.emit();
                }
                if dropped > 0 {
                    facts::BeginsDropped { deliveries: dropped }.emit();
                }
                self.checkpoint();
            }
            Err(error) => {
                let why = self.latch(&error, due.len() + left.len());
                for answer in due {
                    answer.fail(&why);
                }
                for command in left {
                    refuse(command, &why);
                }
            }
        }
    }

    /// Publishes what a commit changed.
    fn committed(&mut self, changed: &[usize], full: Option<bool>) {
        let Ok(store) = &mut self.store else { return };
        self.shared.transactions.fetch_add(1, Ordering::Relaxed);
        store.book.publish(Arc::make_mut(&mut self.shared.book_mut()), changed);
        if let Ok(bytes) = space::used(&store.conn) {
            store.space = Space::new(bytes);
            self.shared.bytes.store(bytes, Ordering::Relaxed);
        }
        let max_bytes = self.options.max_bytes;
        let bytes = self.shared.bytes.load(Ordering::Relaxed);
        self.shared.health.send_if_modified(|health| match (full, &health) {
            (Some(true), Health::Healthy) => {
                facts::Full { bytes, max_bytes }.emit();
                *health = Health::Full;
                true
            }
            // Not only a batch that fits says so: readiness may be what keeps new events away.
            (Some(false) | None, Health::Full) if full.is_some() || bytes + max_bytes / 64 <= max_bytes => {
                facts::NotFull.emit();
                *health = Health::Healthy;
                true
            }
            _ => false,
        });
    }

    fn failure(&self) -> String {
        self.store.as_ref().err().map_or_else(String::new, |latch| latch.why.clone())
    }

    /// Closes the store and remembers why.
    fn latch(&mut self, error: &rusqlite::Error, refused: usize) -> String {
        let why = schema::explain(&schema::file(&self.dir), error).to_string();
        facts::StoreFailed { error: &why, refused }.emit();
        let backoff = limits::REOPEN_BACKOFF.0;
        self.store = Err(Latch { why: why.clone(), try_at: self.clock.instant() + backoff, backoff });
        self.shared.health.send_replace(Health::Failed(why.clone()));
        why
    }

    /// Opens a failed store again when it is time to.
    fn reopen(&mut self) {
        let Err(latch) = &mut self.store else { return };
        if self.clock.instant() < latch.try_at {
            return;
        }
        match Store::open(&self.dir, true) {
            Ok(store) => {
                self.store = Ok(store);
                self.retention = Retention::new(self.clock.now());
                self.publish_all();
                facts::Reopened.emit();
                self.shared.health.send_replace(Health::Healthy);
            }
            Err(error) => {
                latch.backoff = (latch.backoff * 2).min(limits::REOPEN_BACKOFF.1);
                latch.try_at = self.clock.instant() + latch.backoff;
                latch.why = error.to_string();
                facts::ReopenFailed { error: &latch.why, retry_ms: latch.backoff.as_millis() }.emit();
            }
        }
    }

    /// Copies the log into the store when it has grown. After the answers, since it syncs.
    fn checkpoint(&mut self) {
        let Ok(store) = &self.store else { return };
        if store.wal_pages.load(Ordering::Relaxed) < limits::CHECKPOINT_PAGES {
            return;
        }
        if let Err(error) = store.conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(())) {
            self.latch(&error, 0);
        }
    }

    fn end(self) {
        if let Ok(store) = self.store {
            // What fails here is in the log, and is copied at the next opening.
            let _ = store.conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()));
        }
    }
}

/// Takes what waits besides `first`, up to a bound.
fn gather(first: Job, jobs: &Receiver<Job>) -> Vec<Job> {
    let size = |job: &Job| match &job.command {
        Command::Commit(batch, _) => space::payload(batch),
        _ => 0,
    };
    let mut bytes = size(&first);
    let mut group = vec![first];
    while group.len() < limits::GROUP_BATCHES
        && bytes < limits::GROUP_BYTES
        && !matches!(group.last().map(|j| &j.command), Some(Command::Close(_)))
        && let Ok(job) = jobs.try_recv()
    {
        bytes += size(&job);
        group.push(job);
    }
    group
}

fn apply_one(
    txn: &mut Txn<'_>,
    space: &mut Space,
    command: Command,
    due: &mut Vec<Due>,
    full: &mut Option<bool>,
) -> rusqlite::Result<()> {
    match command {
        Command::Commit(batch, answer) => {
            let creates = space::needs(&batch) > 0;
            let result = match space.room_for(txn, &batch) {
                Ok(None) => apply_batch(txn, batch),
                Ok(Some(refused)) => Ok(Err(refused)),
                Err(error) => Err(error),
            };
            // Even where the store failed the caller gets an answer, with all others of the group.
            match result {
                Ok(result) => {
                    if creates {
                        *full = Some(matches!(result, Err(CommitError::Full { .. })));
                    }
                    due.push(Due::Commit(answer, result));
                }
                Err(error) => {
                    due.push(Due::Commit(answer, Err(CommitError::Closed)));
                    return Err(error);
                }
            }
        }
        Command::Webhooks(known, answer) => {
            apply::webhooks(txn, &known);
            due.push(Due::Webhooks(answer));
        }
        Command::Retry { id, payload, answer } => {
            let result = settle::retry(txn, &id, payload.as_ref());
            let retried = result.as_ref().map_or(Retried::Unknown, Clone::clone);
            due.push(Due::Retry(answer, retried));
            result?;
        }
        Command::RetrySome { filter, from, answer } => {
            let result = retry::some(txn, &filter, from);
            let progress = result.as_ref().map_or_else(|_| retry::Progress::default(), Clone::clone);
            due.push(Due::RetrySome(answer, progress));
            result?;
        }
        Command::Options(_) | Command::Maintain(_) | Command::Close(_) => {}
    }
    Ok(())
}

/// Applies one batch so that its refusal leaves no trace and spoils no other's.
fn apply_batch(txn: &mut Txn<'_>, batch: Batch) -> rusqlite::Result<Result<Receipt, CommitError>> {
    if batch.arrivals.is_empty() && batch.releases.is_empty() {
        // Nothing in it can be refused.
        return match apply::batch(txn, batch) {
            Ok(receipt) => Ok(Ok(receipt)),
            Err(Refusal::Store(error)) => Err(error),
            Err(_) => Ok(Err(CommitError::Stale)),
        };
    }
    txn.run("SAVEPOINT batch", [])?;
    let mark = txn.book.mark();
    let drafts = txn.drafts.len();
    let refusal = match apply::batch(txn, batch) {
        Ok(receipt) => {
            txn.run("RELEASE batch", [])?;
            return Ok(Ok(receipt));
        }
        Err(Refusal::Conflict { index, event_id }) => CommitError::IdConflict { index, event_id },
        Err(Refusal::Stale) => CommitError::Stale,
        Err(Refusal::Store(error)) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            CommitError::Failed(format!("the batch breaks a rule of the store: {error}"))
        }
        Err(Refusal::Store(error)) => return Err(error),
    };
    txn.run("ROLLBACK TO batch", [])?;
    txn.run("RELEASE batch", [])?;
    txn.book.roll_back(mark);
    txn.drafts.truncate(drafts);
    Ok(Err(refusal))
}
