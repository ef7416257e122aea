//! The one thread that writes. It takes everything that waits, makes it one transaction, and answers after the commit.
//! When the store fails it latches: it refuses at once, opens the store again with backoff, and goes on.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rusqlite::ErrorCode;
use tokio::sync::mpsc;

use super::announce::Announcer;
use super::command::{Command, Job, Reply, answer, refuse};
use super::ledger::Book;
use super::retention::Retention;
use super::space::{self, Space};
use super::store::{FileIdentity, Store};
use super::txn::{Refusal, Txn};
use super::types::{Batch, CommitError, Options, Ready, Receipt};
use super::{Health, OutboxError, Shared, apply, lock::Lock, retry, schema, settle};
use crate::clock::{Clock, millis};
use crate::event::own::Trouble;
use crate::limits;
use crate::telemetry::outbox as facts;

/// The failed state.
struct Latch {
    why: String,
    /// The file that was taken away; nothing else is opened in its place.
    gone: Option<FileIdentity>,
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
    /// Whether many asked at once the last time.
    crowded: bool,
    /// When there was last something to commit.
    asked_at: Instant,
    /// When it was last looked whether the store's file is still there.
    looked_at: Instant,
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
        let store = Store::open(&dir, &shared.seal, false)?;
        let retention = Retention::new(clock.now());
        let writer = Self {
            dir,
            options,
            announcer: Announcer::new(ready),
            store: Ok(store),
            retention,
            crowded: false,
            asked_at: clock.instant(),
            looked_at: clock.instant(),
            clock,
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
                Ok(job) => {
                    self.linger();
                    group = gather(job, jobs);
                    self.crowded = group.len() >= limits::CROWD;
                }
                Err(RecvTimeoutError::Timeout) => self.empty_log(),
                Err(RecvTimeoutError::Disconnected) => return self.end(),
            }
            self.look();
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
            if !work.is_empty() {
                self.asked_at = self.clock.instant();
            }
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

    /// Waits a little for more to share the sync and the pages that every commit writes, where many are at it: each of them
    /// waits for an answer before it asks again, so that without this half of them would find the writer busy with the
    /// other half. Nobody wakes the writer meanwhile.
    fn linger(&self) {
        if self.crowded && self.store.is_ok() {
            std::thread::sleep(limits::CROWD_LINGER);
        }
    }

    /// How long there is nothing to do unless somebody asks.
    fn pause(&self) -> Duration {
        match &self.store {
            Ok(store) => {
                let pause = self.retention.pause(self.clock.now());
                if store.log_holds_something() { pause.min(limits::LOG_EMPTY_AFTER) } else { pause }
            }
            Err(latch) => latch.try_at.saturating_duration_since(self.clock.instant()),
        }
    }

    /// Commits, or refuses, what was asked; with nothing asked, retention alone.
    fn work(&mut self, work: Vec<Command>) {
        if work.is_empty() && !self.retention.busy() {
            return;
        }
        if self.store.is_err() {
            let why = self.failure();
            for command in work {
                refuse(command, &why);
            }
            return;
        }
        let result = match self.transact(&work, Care::AllGood) {
            // Rare: somebody's batch is refused. Nobody else's suffers, they are done again, each so that it can be undone.
            Err(Stop::Refusal) => self.start_over().and_then(|()| self.transact(&work, Care::EachAlone)),
            result => result,
        };
        match result {
            Ok(done) => {
                self.committed(&done.changed, done.full);
                for (command, reply) in work.into_iter().zip(done.replies) {
                    answer(command, reply);
                }
                self.announcer.send(done.ready, &self.shared);
                if done.purged > 0 {
                    facts::Purged { rows: done.purged }.emit();
                }
                if !done.dropped.is_empty() {
                    let webhooks: Vec<_> = done.dropped.iter().map(|(webhook, _)| Arc::clone(webhook)).collect();
                    facts::BeginsDropped { webhooks: &webhooks }.emit();
                }
                for (webhook, delivery) in done.dropped {
                    self.shared.trouble(Trouble::DeliveryDead { webhook, delivery, reason: "outbox_full".to_owned() });
                }
                for webhook in &done.superseded {
                    facts::Superseded { webhook }.emit();
                }
                for (webhook, delivery, reason) in done.unreadable {
                    facts::UnreadableDelivery { webhook: &webhook, delivery: &delivery, reason: &reason }.emit();
                    self.shared.trouble(Trouble::DeliveryDead { webhook, delivery, reason });
                }
                self.checkpoint();
            }
            Err(Stop::Refusal) => {
                let why = "a refusal was not undone; this is a fault of sidehook, please report it";
                for command in work {
                    refuse(command, why);
                }
            }
            Err(Stop::Store(error)) => {
                let why = self.latch(schema::explain(&schema::file(&self.dir), &error).to_string(), work.len());
                for command in work {
                    refuse(command, &why);
                }
            }
        }
    }

    /// One transaction with all of `work`.
    fn transact(&mut self, work: &[Command], care: Care) -> Result<Done, Stop> {
        let Ok(store) = &mut self.store else { return Err(Stop::Store(rusqlite::Error::InvalidQuery)) };
        let announce = self.announcer.wanted(&self.shared);
        let with = (&self.options, &self.shared.seal);
        let mut txn = Txn::begin(&store.conn, &mut store.book, with, self.clock.now(), announce)?;
        let mut replies = Vec::with_capacity(work.len());
        let mut full = None;
        for command in work {
            replies.push(apply_one(&mut txn, &mut store.space, command, care, &mut full)?);
        }
        // Under load retention goes along with the commits, idle it has transactions of its own.
        let idle = work.is_empty() && self.clock.instant().duration_since(self.asked_at) >= limits::RETENTION_BUSY;
        let budget = if idle { limits::RETENTION_SLICE_ROWS } else { limits::RETENTION_BUSY_ROWS + 2 * work.len() };
        self.retention.slice(&mut txn, budget)?;
        let ready = self.announcer.load(&mut txn)?;
        let changed = txn.book.store(txn.conn)?;
        // Last, since keys may come while the transaction is under way.
        let sealing = txn.seal.enter(txn.conn, store.sealing)?;
        txn.run("COMMIT", [])?;
        store.sealing = sealing;
        let Txn { purged, dropped, superseded, unreadable, .. } = txn;
        Ok(Done { replies, ready, changed, full, purged, dropped, superseded, unreadable })
    }

    /// Takes an unfinished transaction back, in the store and in what is remembered of it.
    fn start_over(&mut self) -> Result<(), Stop> {
        let Ok(store) = &mut self.store else { return Ok(()) };
        store.conn.execute_batch("ROLLBACK")?;
        store.book = Book::load(&store.conn)?;
        store.space = Space::new(space::used(&store.conn)?);
        Ok(())
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

    /// Looks from time to time whether the store's file is still there.
    fn look(&mut self) {
        let now = self.clock.instant();
        if now.duration_since(self.looked_at) < limits::STORE_LOOK {
            return;
        }
        self.looked_at = now;
        let Ok(store) = &self.store else { return };
        if store.is_gone(&self.dir) {
            let file = store.file;
            let path = schema::file(&self.dir);
            let why = format!(
                "{}: the file was removed or replaced while sidehook ran; put it back, or start sidehook again, with an \
                 empty store or a backup",
                path.display()
            );
            self.latch(why, 0);
            if let Err(latch) = &mut self.store {
                latch.gone = file;
            }
        }
    }

    /// Closes the store and remembers why.
    fn latch(&mut self, why: String, refused: usize) -> String {
        facts::StoreFailed { error: &why, refused }.emit();
        let backoff = limits::REOPEN_BACKOFF.0;
        self.store = Err(Latch { gone: None, why: why.clone(), try_at: self.clock.instant() + backoff, backoff });
        self.shared.health.send_replace(Health::Failed(why.clone()));
        why
    }

    /// Opens a failed store again when it is time to.
    fn reopen(&mut self) {
        let Err(latch) = &mut self.store else { return };
        if self.clock.instant() < latch.try_at {
            return;
        }
        let found = FileIdentity::of(&schema::file(&self.dir)).ok().flatten();
        if latch.gone.is_some() && latch.gone != found {
            latch.try_at = self.clock.instant() + latch.backoff;
            return;
        }
        match Store::open(&self.dir, &self.shared.seal, true) {
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
                facts::ReopenFailed { error: &latch.why, retry_ms: millis(latch.backoff) }.emit();
            }
        }
    }

    /// Copies the log into the store when it has grown. After the answers, since it syncs.
    fn checkpoint(&mut self) {
        let Ok(store) = &mut self.store else { return };
        if let Err(error) = store.checkpoint(&self.dir) {
            self.latch(schema::explain(&schema::file(&self.dir), &error).to_string(), 0);
        }
    }

    /// Empties the log once nothing is asked for a while: it holds what the store itself has overwritten.
    fn empty_log(&mut self) {
        let Ok(store) = &mut self.store else { return };
        if store.log_holds_something()
            && !self.retention.busy()
            && let Err(error) = store.empty_log()
        {
            self.latch(schema::explain(&schema::file(&self.dir), &error).to_string(), 0);
        }
    }

    fn end(self) {
        if let Ok(store) = self.store {
            store.close();
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

/// How a group of commands is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Care {
    /// As if nothing in it were refused, which is nearly always so. A savepoint costs a copy of every page that its batch
    /// touches.
    AllGood,
    /// Each batch within a savepoint.
    EachAlone,
}

/// Why a transaction was not committed.
enum Stop {
    /// A batch has to be refused, and what it did until then undone.
    Refusal,
    Store(rusqlite::Error),
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Store(error)
    }
}

/// What a commit leaves to be told.
struct Done {
    replies: Vec<Reply>,
    ready: Vec<Ready>,
    changed: Vec<usize>,
    full: Option<bool>,
    purged: u64,
    dropped: Vec<(Arc<str>, String)>,
    superseded: Vec<Arc<str>>,
    unreadable: Vec<(Arc<str>, String, String)>,
}

fn apply_one(
    txn: &mut Txn<'_>,
    space: &mut Space,
    command: &Command,
    care: Care,
    full: &mut Option<bool>,
) -> Result<Reply, Stop> {
    Ok(match command {
        Command::Commit(batch, _) => {
            let result = match space.room_for(txn, batch)? {
                None if care == Care::EachAlone => apply_alone(txn, batch)?,
                None => Ok(apply::batch(txn, batch).map_err(|refusal| match refused(refusal) {
                    Ok(_) => Stop::Refusal,
                    Err(error) => Stop::Store(error),
                })?),
                Some(refused) => Err(refused),
            };
            if space::needs(batch) > 0 && !space::is_own(batch) {
                *full = Some(matches!(result, Err(CommitError::Full { .. })));
            }
            Reply::Commit(result)
        }
        Command::Webhooks(known, _) => {
            apply::webhooks(txn, known);
            Reply::Webhooks
        }
        Command::Pause { webhook, paused, .. } => Reply::Pause(apply::pause(txn, webhook, *paused)),
        Command::Retry { id, payload, .. } => Reply::Retry(settle::retry(txn, id, payload.as_ref())?),
        Command::RetrySome { filter, from, .. } => Reply::RetrySome(retry::some(txn, filter, *from)?),
        Command::Unreadable(closed) => {
            for one in closed {
                settle::unreadable(txn, one)?;
            }
            Reply::Nothing
        }
        Command::Options(_) | Command::Maintain(_) | Command::Close(_) => Reply::Nothing,
    })
}

/// What the caller is told of a refusal; the store's own failures are none.
fn refused(refusal: Refusal) -> Result<CommitError, rusqlite::Error> {
    match refusal {
        Refusal::Conflict { index, event_id } => Ok(CommitError::IdConflict { index, event_id }),
        Refusal::Stale => Ok(CommitError::Stale),
        Refusal::Store(error) if error.sqlite_error_code() == Some(ErrorCode::ConstraintViolation) => {
            Ok(CommitError::Failed(format!("the batch breaks a rule of the store: {error}")))
        }
        Refusal::Store(error) => Err(error),
    }
}

/// Applies one batch so that its refusal leaves no trace and spoils no other's.
fn apply_alone(txn: &mut Txn<'_>, batch: &Batch) -> rusqlite::Result<Result<Receipt, CommitError>> {
    txn.run("SAVEPOINT batch", [])?;
    let mark = txn.book.mark();
    let drafts = txn.drafts.len();
    let refusal = match apply::batch(txn, batch) {
        Ok(receipt) => {
            txn.run("RELEASE batch", [])?;
            return Ok(Ok(receipt));
        }
        Err(refusal) => refused(refusal)?,
    };
    txn.run("ROLLBACK TO batch", [])?;
    txn.run("RELEASE batch", [])?;
    txn.book.roll_back(mark);
    txn.drafts.truncate(drafts);
    Ok(Err(refusal))
}
