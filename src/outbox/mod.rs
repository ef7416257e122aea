//! The durable store of deliveries. The only module that knows which store it is: `SQLite`, written by one thread.
//!
//! Rooms: `types` and `views` are what crosses the seam, in and out; `schema` and `lock` open the store; `command` is what
//! it is asked, `writer` groups commits and latches on failure, `store` is what it writes to, `checkpoint` copies its log beside it; `txn` is one
//! transaction, filled by `apply` (batches), `conversation`, `lane` (order), `settle`, `supersede` and `retry` (results),
//! `space` (the size limit) and `retention` (age); `seal` is what is encrypted; `ledger` counts; `announce` hands ready deliveries on; `read`, `open` and
//! `list` look beside the writer, `inspect` at a copy.

mod announce;
mod apply;
mod checkpoint;
mod command;
mod conversation;
mod inspect;
mod lane;
mod ledger;
mod list;
mod lock;
mod open;
mod read;
mod retention;
mod retry;
mod schema;
mod seal;
mod settle;
mod space;
mod store;
mod supersede;
#[cfg(test)]
mod tests;
mod txn;
mod types;
mod views;
mod writer;

use std::collections::HashSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc as queue;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, RwLockWriteGuard};
use std::thread::JoinHandle;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use crate::clock::{Clock, Timestamp};
use crate::event::own::{Trouble, Troubles};
use crate::limits;
use crate::secret::SecretKey;
use crate::telemetry::outbox as facts;
use command::{Answer, Command, Job};
pub use inspect::{Inspection, inspect};
use ledger::Book;
use read::Readers;
use seal::Seal;
pub(crate) use txn::clip;
pub use types::*;
pub use views::*;
use writer::Writer;

/// The outbox. Cloning shares it.
#[derive(Clone, Debug)]
pub struct Outbox {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    readers: Arc<Readers>,
    /// `None` where it is open for reading only.
    writer: Option<Handle>,
    ready: Mutex<Option<mpsc::Receiver<Ready>>>,
}

/// The callers' end of the writer.
#[derive(Debug)]
struct Handle {
    jobs: queue::Sender<Job>,
    places: Arc<Semaphore>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What the writer publishes after each commit.
#[derive(Debug)]
struct Shared {
    book: RwLock<Arc<Book>>,
    bytes: AtomicU64,
    transactions: AtomicU64,
    ready_taken: AtomicBool,
    /// Told when something became ready and was not announced.
    unannounced: Notify,
    health: watch::Sender<Health>,
    seal: Seal,
    troubles: OnceLock<Troubles>,
}

impl Shared {
    fn new(seal: Seal) -> Self {
        Self {
            book: RwLock::default(),
            bytes: AtomicU64::new(0),
            transactions: AtomicU64::new(0),
            ready_taken: AtomicBool::new(false),
            unannounced: Notify::new(),
            health: watch::Sender::new(Health::Healthy),
            seal,
            troubles: OnceLock::new(),
        }
    }

    fn trouble(&self, trouble: Trouble) {
        if let Some(troubles) = self.troubles.get() {
            troubles.tell(trouble);
        }
    }

    /// The book as of the last commit.
    fn book(&self) -> Arc<Book> {
        Arc::clone(&self.book.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn book_mut(&self) -> RwLockWriteGuard<'_, Arc<Book>> {
        self.book.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why an outbox could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// Another process has it open.
    #[error("{path} is in use by another sidehook (pid {pid}); stop it, or give this one another outbox.path")]
    InUse {
        /// The lock file.
        path: String,
        /// Who holds it, as far as it is known.
        pid: String,
    },
    /// Anything the store said.
    #[error("{path}: {message}")]
    Store {
        /// The file.
        path: String,
        /// What is wrong and what to do.
        message: String,
    },
    /// A cursor that no page handed out.
    #[error("the cursor is not one that a page handed out; take next_cursor as it is, or leave it out")]
    BadCursor,
}

/// Whether the store takes commits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It does.
    Healthy,
    /// It failed and is being reopened.
    Failed(String),
    /// It refuses new events for lack of space.
    Full,
}

/// An event that was kept, to render a delivery of it again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptEvent {
    /// The delivery's webhook.
    pub webhook: Arc<str>,
    /// The delivery's place among those of its event for this webhook; the first is 0.
    pub place: usize,
    /// Why the delivery is dead, if it is.
    pub reason: Option<String>,
    /// The whole event as stored ([`Arrival::kept_body`]).
    pub body: Bytes,
}

/// Figures for a scrape: read from the ledger's rows, nothing is counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Bytes in use.
    pub bytes: u64,
    /// Conversations that began and did not end.
    pub conversations_open: u64,
    /// The ledger.
    pub ledger: Ledger,
    /// Per webhook that is owed something: when the oldest of it was created.
    pub oldest: Vec<(Arc<str>, Timestamp)>,
}

#[expect(clippy::unused_async, reason = "the seam is async for stores that answer over a network; see `read`")]
impl Outbox {
    /// Opens (creating, migrating) the outbox in directory `path`, takes its lock and starts the writer thread.
    /// Blocks; call it before the runtime serves.
    pub fn open(path: &Path, options: Options, clock: Clock) -> Result<Self, OutboxError> {
        let lock = lock::Lock::take(path)?;
        let shared = Arc::new(Shared::new(Seal::new(&options.encryption_keys)?));
        let (ready, receiver) = mpsc::channel(limits::READY_QUEUE);
        let writer = Writer::open(path.to_owned(), options, clock, lock, Arc::clone(&shared), ready)?;
        let (jobs, work) = queue::channel();
        let thread =
            std::thread::Builder::new().name("outbox".to_owned()).spawn(move || writer.run(&work)).map_err(|e| {
                OutboxError::Store {
                    path: path.display().to_string(),
                    message: format!("its writer thread cannot be started: {e}; raise the limit on threads"),
                }
            })?;
        let places = Arc::new(Semaphore::new(limits::COMMIT_QUEUE));
        let writer = Some(Handle { jobs, places, thread: Mutex::new(Some(thread)) });
        let readers = Arc::new(Readers::new(path));
        Ok(Self { inner: Arc::new(Inner { shared, readers, writer, ready: Mutex::new(Some(receiver)) }) })
    }

    /// Opens the outbox of a running sidehook for reading only: lists and the ledger. Commits answer
    /// [`CommitError::Closed`]. What is sealed is told to be, unless its key comes with [`Outbox::with_keys`].
    pub fn open_read_only(path: &Path, _clock: Clock) -> Result<Self, OutboxError> {
        let readers = Arc::new(Readers::new(path));
        let shared = Arc::new(Shared::new(Seal::default()));
        shared.bytes.store(readers.with(space::used)?, Ordering::Relaxed);
        Ok(Self { inner: Arc::new(Inner { shared, readers, writer: None, ready: Mutex::new(None) }) })
    }

    /// With keys to open what is sealed.
    pub fn with_keys(self, keys: &[SecretKey]) -> Result<Self, OutboxError> {
        self.inner.shared.seal.take(keys)?;
        Ok(self)
    }

    /// Tells deliveries that the store itself gives up to these; the first call counts.
    pub fn tell_troubles(&self, troubles: Troubles) {
        let _ = self.inner.shared.troubles.set(troubles);
    }

    async fn ask<T>(&self, command: impl FnOnce(Answer<T>) -> Command) -> Result<T, CommitError> {
        let writer = self.inner.writer.as_ref().ok_or(CommitError::Closed)?;
        let place = Arc::clone(&writer.places).acquire_owned().await.map_err(|_| CommitError::Closed)?;
        let (answer, answered) = oneshot::channel();
        let job = Job { command: command(answer), place: Some(place) };
        writer.jobs.send(job).map_err(|_| CommitError::Closed)?;
        answered.await.map_err(|_| CommitError::Closed)?
    }

    /// Makes a batch durable: all of it, or nothing. Resolves after the fsync. Waits for a place in the queue first;
    /// once it has one, the batch is committed even where nobody waits for the answer any more.
    pub async fn commit(&self, batch: Batch) -> Result<Receipt, CommitError> {
        self.ask(|answer| Command::Commit(batch, answer)).await
    }

    /// Takes over new limits, retention and keys after a reload. Keys that are not listed any more still open until the end
    /// of the process.
    pub fn set_options(&self, options: Options) {
        // Before the writer seals with a new one, everybody can open it.
        if let Err(error) = self.inner.shared.seal.take(&options.encryption_keys) {
            facts::KeysRefused { error: &error.to_string() }.emit();
        }
        if let Some(writer) = &self.inner.writer {
            // Nothing to tell a writer that has ended.
            let _ = writer.jobs.send(Job { command: Command::Options(options), place: None });
        }
    }

    /// The keys, by their ids, that sealed something which is still there and are not among these: with these alone the
    /// outbox could not be opened again. Reads the whole store where there is such a key.
    pub async fn unlisted_keys(&self, keys: Vec<SecretKey>) -> Result<Vec<String>, OutboxError> {
        self.look_at_length(move |conn, _, _| seal::unlisted(conn, &keys)).await
    }

    /// Tells which webhooks exist now. Pending deliveries of removed or disabled ones become held, held ones of
    /// returned ones pending again; a 410 is forgotten when the file's hash differs. Durable before it resolves.
    pub async fn set_webhooks(&self, webhooks: Vec<KnownWebhook>) -> Result<(), CommitError> {
        self.ask(|answer| Command::Webhooks(webhooks, answer)).await
    }

    /// Deliveries that became ready, straight from memory. The channel is bounded: what does not fit is not sent, and
    /// [`Outbox::due`] finds it. The first call takes the receiver. Payloads are bounded in bytes too, counted until the
    /// last copy of [`Ready::body`] is dropped.
    pub fn ready(&self) -> Option<mpsc::Receiver<Ready>> {
        let taken = self.inner.ready.lock().unwrap_or_else(PoisonError::into_inner).take();
        if taken.is_some() {
            self.inner.shared.ready_taken.store(true, Ordering::Relaxed);
        }
        taken
    }

    /// Waits until a delivery that became ready is left out of [`Outbox::ready`], or was since this last resolved.
    pub async fn left_out(&self) {
        self.inner.shared.unannounced.notified().await;
    }

    /// Runs on the writer's published book, or where there is no writer on one read with the same snapshot.
    fn look<T>(
        &self,
        read: impl FnOnce(&rusqlite::Connection, &Book) -> rusqlite::Result<T>,
    ) -> Result<T, OutboxError> {
        look(&self.inner, read)
    }

    /// The same, where it may take long.
    async fn look_at_length<T: Send + 'static>(
        &self,
        read: impl FnOnce(&rusqlite::Connection, &Seal, &Book) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, OutboxError> {
        let inner = Arc::clone(&self.inner);
        tokio::task::spawn_blocking(move || look(&inner, |conn, book| read(conn, &inner.shared.seal, book)))
            .await
            .map_err(|e| OutboxError::Store {
                path: "outbox".to_owned(),
                message: format!("the read was given up: {e}; sidehook is ending, or has a fault worth reporting"),
            })?
    }

    /// Pending deliveries of `webhook` that are due at `now` and first in their lane, soonest due first, at most
    /// `limit` and 8 MiB of bodies.
    pub async fn due(&self, webhook: &str, now: Timestamp, limit: usize) -> Result<Vec<Ready>, OutboxError> {
        self.due_beyond(webhook, now, limit, &HashSet::new()).await
    }

    /// As [`Outbox::due`], but without those whose rows are in `known`: what a dispatcher has under way does not hide
    /// what is behind it, and is not read again.
    pub async fn due_beyond(
        &self,
        webhook: &str,
        now: Timestamp,
        limit: usize,
        known: &HashSet<i64>,
    ) -> Result<Vec<Ready>, OutboxError> {
        let seal = &self.inner.shared.seal;
        let read::Due { ready, closed } = self.look(|conn, book| match book.find(webhook).map(|at| book.get(at)) {
            Some(w) if w.halted().is_none() => read::due(conn, seal, (w.id, &w.name), now, limit, known),
            _ => Ok(read::Due::default()),
        })?;
        if let Some(writer) = self.inner.writer.as_ref().filter(|_| !closed.is_empty()) {
            // A writer that has ended gives nothing up; they are found again.
            let _ = writer.jobs.send(Job { command: Command::Unreadable(closed), place: None });
        }
        Ok(ready)
    }

    /// When the next delivery of `webhook` after `now` is due; of first-in-lane ones only.
    pub async fn next_due(&self, webhook: &str, now: Timestamp) -> Result<Option<Timestamp>, OutboxError> {
        self.look(|conn, book| match book.find(webhook).map(|at| book.get(at)) {
            Some(w) if w.halted().is_none() => read::next_due(conn, w.id, now),
            _ => Ok(None),
        })
    }

    /// What is known of dedupe keys that are in force at `now`.
    pub async fn seen(&self, keys: Vec<Vec<u8>>, now: Timestamp) -> Result<Vec<Option<Seen>>, OutboxError> {
        if keys.is_empty() {
            return Ok(Vec::new());
        }
        if keys.len() == 1 {
            return self.inner.readers.glance(|conn| read::seen(conn, &keys, now));
        }
        self.inner.readers.with(|conn| read::seen(conn, &keys, now))
    }

    /// A conversation's state; without its messages unless `messages` asks for them.
    pub async fn conversation(
        &self,
        key: &ConversationKey,
        messages: bool,
    ) -> Result<Option<Conversation>, OutboxError> {
        if messages {
            self.inner.readers.with(|conn| conversation::read(conn, &self.inner.shared.seal, key, true))
        } else {
            self.inner.readers.glance(|conn| conversation::read(conn, &self.inner.shared.seal, key, false))
        }
    }

    /// Whether the writer's book says that nothing waits, so that the store need not be asked.
    fn nobody_waits(&self) -> bool {
        self.inner.writer.is_some() && self.inner.shared.book().webhooks().iter().all(|w| w.counts.waiting == 0)
    }

    /// Waits of one conversation. Those of webhooks that are removed or not enabled are left out until they return.
    pub async fn waits_of(&self, key: &ConversationKey) -> Result<Vec<Wait>, OutboxError> {
        if self.nobody_waits() {
            return Ok(Vec::new());
        }
        self.look(|conn, book| {
            read::waits_of(conn, &self.inner.shared.seal, key, |id| {
                book.place(id).map(|at| book.get(at)).filter(|w| w.in_force()).map(|w| Arc::clone(&w.name))
            })
        })
    }

    /// Waits whose deadline is at or before `now`, at most `limit`, and when the next one after these is due. Those of
    /// webhooks that are removed or not enabled are left out until they return.
    pub async fn waits_due(&self, now: Timestamp, limit: usize) -> Result<(Vec<Wait>, Option<Timestamp>), OutboxError> {
        if self.nobody_waits() {
            return Ok((Vec::new(), None));
        }
        self.look(|conn, book| {
            let waiting = book.webhooks().iter().filter(|w| w.in_force() && w.counts.waiting > 0);
            let webhooks: Vec<_> = waiting.map(|w| (w.id, Arc::clone(&w.name))).collect();
            if webhooks.is_empty() {
                return Ok((Vec::new(), None));
            }
            read::waits_due(conn, &self.inner.shared.seal, &webhooks, now, limit)
        })
    }

    /// Lists deliveries, newest first. A page may hold fewer than `limit` although more follow: go on while there is a
    /// cursor. [`OutboxError::BadCursor`] for a cursor that no page handed out.
    pub async fn list(&self, filter: &Filter, cursor: Option<&str>, limit: usize) -> Result<Page, OutboxError> {
        let before = match cursor {
            Some(text) => Some(list::read_cursor(text).ok_or(OutboxError::BadCursor)?),
            None => None,
        };
        let filter = filter.clone();
        self.look_at_length(move |conn, seal, book| list::page(conn, seal, book, &filter, before, limit)).await
    }

    /// One delivery with its attempts.
    pub async fn get(&self, id: &str) -> Result<Option<DeliveryView>, OutboxError> {
        let id = id.to_owned();
        self.look_at_length(move |conn, seal, book| list::by_id(conn, seal, book, &id)).await
    }

    /// Makes one delivery due now (dead, delivered or pending). Its schedule starts over; its id and its place in its
    /// conversation's order stay. One whose webhook is halted is [`Retried::Held`], or
    /// [`Retried::Halted`] where it is settled.
    pub async fn retry(&self, id: &str) -> Result<Retried, CommitError> {
        let id = id.to_owned();
        self.ask(|answer| Command::Retry { id, payload: None, answer }).await
    }

    /// As [`Outbox::retry`], with a payload rendered anew for a delivery that has none of its own (see
    /// [`Outbox::kept_event`]); one that has keeps it.
    pub async fn retry_with(
        &self,
        id: &str,
        body: Bytes,
        headers: Vec<(String, String)>,
    ) -> Result<Retried, CommitError> {
        let id = id.to_owned();
        let payload = Some(settle::Payload { body, headers });
        self.ask(|answer| Command::Retry { id, payload, answer }).await
    }

    /// Makes all matching dead deliveries due now (all matching ones when the filter names a state); answers how many.
    /// Held ones and those without payload are passed over. Works in slices, so that commits go on beside it.
    pub async fn retry_where(&self, filter: &Filter) -> Result<u64, CommitError> {
        let (mut retried, mut from) = (0, None);
        loop {
            let filter = filter.clone();
            let progress = self.ask(|answer| Command::RetrySome { filter, from, answer }).await?;
            retried += progress.retried;
            from = progress.next;
            if from.is_none() {
                return Ok(retried);
            }
        }
    }

    /// The event a delivery came from, if it was kept (`outbox.retain.events`).
    pub async fn kept_event(&self, delivery: &str) -> Result<Option<KeptEvent>, OutboxError> {
        let id = delivery.to_owned();
        self.look_at_length(move |conn, seal, book| {
            Ok(read::kept_event(conn, seal, &id)?.and_then(|read::Kept { webhook, place, reason, body }| {
                let place = usize::try_from(place).unwrap_or(usize::MAX);
                let name = |at| Arc::clone(&book.get(at).name);
                book.place(webhook).map(|at| KeptEvent { webhook: name(at), place, reason, body })
            }))
        })
        .await
    }

    /// The newest kept events (`outbox.retain.events`) in their stored form, newest first: at most `limit`, and some
    /// 64 MiB.
    pub async fn recent_events(&self, limit: usize) -> Result<Vec<Bytes>, OutboxError> {
        self.look_at_length(move |conn, seal, _| read::recent_events(conn, seal, limit)).await
    }

    /// Kept events that arrived within `since..until`, oldest first, behind the place `after` (0 for the first page).
    pub async fn kept_events(
        &self,
        since: Timestamp,
        until: Timestamp,
        after: i64,
        limit: usize,
    ) -> Result<KeptEvents, OutboxError> {
        self.look_at_length(move |conn, seal, _| read::kept_events(conn, seal, since, until, after, limit)).await
    }

    /// The ledger.
    pub async fn ledger(&self) -> Result<Ledger, OutboxError> {
        if self.inner.writer.is_some() {
            return Ok(self.inner.shared.book().ledger());
        }
        self.look_at_length(|_, _, book| Ok(book.ledger())).await
    }

    /// Figures for a scrape; a few look-ups per webhook.
    pub async fn gauges(&self) -> Result<Gauges, OutboxError> {
        let bytes = self.bytes();
        self.look_at_length(move |conn, _, book| {
            let mut oldest = Vec::new();
            for webhook in book.webhooks().iter().filter(|w| w.counts.owed > 0) {
                oldest.extend(read::oldest(conn, webhook.id)?.map(|at| (Arc::clone(&webhook.name), at)));
            }
            let conversations_open = u64::try_from(book.conversations_open).unwrap_or(0);
            Ok(Gauges { bytes, conversations_open, ledger: book.ledger(), oldest })
        })
        .await
    }

    /// A webhook's standing; one that was never heard of is active.
    pub async fn standing(&self, webhook: &str) -> Result<Standing, OutboxError> {
        if self.inner.writer.is_some() {
            return Ok(standing_in(&self.inner.shared.book(), webhook));
        }
        let webhook = webhook.to_owned();
        self.look_at_length(move |_, _, book| Ok(standing_in(book, &webhook))).await
    }

    /// Every webhook that was ever heard of, by name.
    pub async fn webhooks(&self) -> Result<Vec<WebhookView>, OutboxError> {
        if self.inner.writer.is_some() {
            return Ok(self.inner.shared.book().views());
        }
        self.look_at_length(|_, _, book| Ok(book.views())).await
    }

    /// Pauses a webhook, over restarts, or resumes it. Durable before it resolves; attempts that are under way are the
    /// dispatcher's.
    pub async fn pause(&self, webhook: &str, paused: bool) -> Result<Stood, CommitError> {
        let webhook = webhook.to_owned();
        self.ask(|answer| Command::Pause { webhook, paused, answer }).await
    }

    /// The stored offset of a stream source.
    pub async fn offset(&self, source: &str) -> Result<Option<String>, OutboxError> {
        self.inner.readers.with(|conn| read::offset(conn, source))
    }

    /// Whether it takes commits, and each change of that.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Health> {
        self.inner.shared.health.subscribe()
    }

    /// Bytes in use.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.inner.shared.bytes.load(Ordering::Relaxed)
    }

    /// Transactions made durable since the start; many batches share one.
    #[must_use]
    pub fn transactions(&self) -> u64 {
        self.inner.shared.transactions.load(Ordering::Relaxed)
    }

    /// Applies retention now, all of it, without waiting for its minute.
    pub async fn maintain(&self) {
        if let Some(writer) = &self.inner.writer {
            let (done, wait) = oneshot::channel();
            if writer.jobs.send(Job { command: Command::Maintain(done), place: None }).is_ok() {
                let _ = wait.await;
            }
        }
    }

    /// Finishes what is queued and closes the store.
    pub async fn close(&self) {
        let Some(writer) = &self.inner.writer else { return };
        writer.places.close();
        self.inner.readers.close();
        let (done, wait) = oneshot::channel();
        if writer.jobs.send(Job { command: Command::Close(done), place: None }).is_ok() {
            let _ = wait.await;
        }
        let thread = writer.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread {
            // The thread has said that it is done; joining it waits for its last lines.
            let _ = tokio::task::spawn_blocking(move || thread.join()).await;
        }
    }
}

fn standing_in(book: &Book, webhook: &str) -> Standing {
    book.find(webhook).map_or(Standing::Active, |at| book.get(at).standing.clone())
}

fn look<T>(
    inner: &Inner,
    read: impl FnOnce(&rusqlite::Connection, &Book) -> rusqlite::Result<T>,
) -> Result<T, OutboxError> {
    if inner.writer.is_none() {
        return inner.readers.with(|conn| read(conn, &Book::load(conn)?));
    }
    let book = inner.shared.book();
    inner.readers.with(|conn| read(conn, &book))
}
