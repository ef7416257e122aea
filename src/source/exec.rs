//! `type: exec`: the assistant as a child process. Events are lines of its standard output, every other line goes on to
//! sidehook's own. The child is never held up by the outbox, unless `on_overflow: block` says so.

mod child;
mod output;

use std::sync::Arc;

use tokio::io::AsyncWrite;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::feed::{Batch, Feed};
use super::{EndReason, Sink, StreamEnd, stdin};
use crate::config::model::Exec;
use crate::limits;
pub use child::{ExecError, Exit, Forward, Handle};
use output::{Output, Queue};

/// A child that runs.
pub struct ExecSource<S, W> {
    feed: Feed<S>,
    exec: Exec,
    child: child::Running,
    passed_on: W,
}

impl<S: Sink, W: AsyncWrite + Unpin + Send + 'static> ExecSource<S, W> {
    /// Starts the program. Lines that are no events are written to `passed_on`.
    pub fn start(feed: Feed<S>, exec: &Exec, passed_on: W) -> Result<(Self, Handle), ExecError> {
        let (child, handle) = child::start(exec)?;
        tracing::info!(source = %feed.name(), program = %exec.command[0], pid = child.pid(), "the assistant was started");
        Ok((Self { feed, exec: exec.clone(), child, passed_on }, handle))
    }

    /// Reads until the child has ended and all that it said is stored; its handle tells of both.
    pub async fn run(self) {
        let Self { feed, exec, mut child, passed_on } = self;
        let stream = feed.sink().open_stream();
        let (sender, mut queued) = mpsc::unbounded_channel();
        let queue = Queue {
            sender,
            // At least one for each event, so that it bounds their number as well.
            room: Arc::new(Semaphore::new(limits::EXEC_QUEUE_BYTES / 1024)),
            on_overflow: exec.on_overflow,
        };
        let over = CancellationToken::new();
        let stdout = child.stdout();
        let output = Output::new(feed.clone(), stream, queue, passed_on);
        let reading = async {
            if let Some(stdout) = stdout {
                output.read(stdout, &over).await;
            }
            // The queue ends with it.
        };
        let storing = async {
            let mut batch = Batch::default();
            while let Some((message, room)) = queued.recv().await {
                let mut rooms = vec![room];
                batch.push(message, 0);
                while !batch.is_full() {
                    let Ok((message, room)) = queued.try_recv() else { break };
                    batch.push(message, 0);
                    rooms.push(room);
                }
                stdin::store(&feed, &mut batch).await;
            }
        };
        let living = async {
            let exit = child.end().await;
            over.cancel();
            exit
        };
        let (exit, (), ()) = tokio::join!(living, reading, storing);
        let source = Arc::clone(feed.name());
        if exit.code == Some(0) {
            tracing::info!(%source, %exit, "the assistant has ended");
        } else {
            tracing::warn!(%source, %exit, "the assistant has ended");
        }
        let reason = EndReason::ProcessExited { code: exit.code, signal: exit.signal };
        feed.sink().ended(StreamEnd { source, stream, reason }).await;
        child.stored();
    }
}

#[cfg(test)]
mod tests;
