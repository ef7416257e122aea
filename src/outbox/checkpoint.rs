//! Copies the log into the store on a thread and a connection of its own, so that commits go on meanwhile. Decides
//! nothing about when.

use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use super::schema;
use rusqlite::Connection;

/// The copying thread, started when it is first needed.
#[derive(Default)]
pub(super) struct Checkpointer {
    thread: Option<Thread>,
    under_way: bool,
}

struct Thread {
    ask: Sender<()>,
    done: Receiver<rusqlite::Result<()>>,
    handle: JoinHandle<()>,
}

impl Checkpointer {
    /// Begins to copy what is in the log now. Only when nothing is under way.
    pub(super) fn begin(&mut self, dir: &Path) -> rusqlite::Result<()> {
        let thread = match self.thread.take() {
            Some(thread) => thread,
            None => Thread::start(&schema::file(dir))?,
        };
        self.under_way = thread.ask.send(()).is_ok();
        self.thread = Some(thread);
        Ok(())
    }

    /// Whether it is copying. The error of one that failed: what the system holds of the store is not to be trusted then.
    pub(super) fn under_way(&mut self) -> rusqlite::Result<bool> {
        if let Some(thread) = self.thread.as_ref().filter(|_| self.under_way) {
            match thread.done.try_recv() {
                Ok(result) => {
                    self.under_way = false;
                    result?;
                }
                Err(TryRecvError::Empty) => {}
                // It ended without an answer: the writer copies by itself.
                Err(TryRecvError::Disconnected) => {
                    self.under_way = false;
                    self.thread = None;
                }
            }
        }
        Ok(self.under_way)
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        if let Some(Thread { ask, done, handle }) = self.thread.take() {
            drop((ask, done));
            // It panics nowhere; a thread that did has nothing to hand over.
            let _ = handle.join();
        }
    }
}

impl Thread {
    fn start(file: &Path) -> rusqlite::Result<Self> {
        let conn = schema::open_checkpointer(file)?;
        let (ask, asked) = channel();
        let (tell, done) = channel();
        let handle = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || {
                while asked.recv().is_ok() {
                    if tell.send(copy(&conn)).is_err() {
                        return;
                    }
                }
            })
            .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
        Ok(Self { ask, done, handle })
    }
}

/// Copies as much of the log as nobody reads, and syncs the store.
pub(super) fn copy(conn: &Connection) -> rusqlite::Result<()> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
