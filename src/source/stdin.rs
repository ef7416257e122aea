//! `type: stdin`: NDJSON from standard input, one stream until its end. Reads no further than the outbox takes, so that whoever
//! writes waits; what was read is stored before the source ends.

use std::io::Read;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::feed::{Batch, Feed, Message, Patience, Place};
use super::lines::{self, Piece, Splitter};
use super::{EndReason, Sink, StreamEnd};
use crate::limits;
use crate::telemetry::ingest::EventsLost;

/// How long after the word to stop a read that was under way may take to hand over what it got.
const HAND_OVER: Duration = Duration::from_millis(50);

/// Reads until the end of the input, and answers true, or until `stop`. The feed's own token ends waits for the outbox; it
/// should come later than `stop`, for what is in hand.
pub async fn run<S: Sink>(feed: Feed<S>, input: impl Read + Send + 'static, stop: CancellationToken) -> bool {
    let stream = feed.sink().open_stream();
    let place = Place { stream: Some(stream), offset: None };
    let mut chunks = chunks(input, stop.clone());
    let mut splitter = Splitter::default();
    let mut batch = Batch::default();
    let ended = loop {
        while let Some(piece) = splitter.next(feed.most()) {
            take(&feed, &piece, &place, &mut batch).await;
            if batch.is_full() {
                store(&feed, &mut batch).await;
            }
        }
        store(&feed, &mut batch).await;
        let chunk = tokio::select! {
            chunk = chunks.recv() => chunk,
            () = stop.cancelled() => match tokio::time::timeout(HAND_OVER, chunks.recv()).await {
                Ok(Some(chunk)) => Some(chunk),
                Ok(None) | Err(_) => break false,
            },
        };
        match chunk {
            Some(chunk) => splitter.push(&chunk),
            None => break !stop.is_cancelled(),
        }
    };
    if let Some(piece) = splitter.end() {
        take(&feed, &piece, &place, &mut batch).await;
        store(&feed, &mut batch).await;
    }
    if ended {
        tracing::info!(source = %feed.name(), "standard input has ended");
        let source = std::sync::Arc::clone(feed.name());
        feed.sink().ended(StreamEnd { source, stream, reason: EndReason::Disconnected }).await;
    }
    ended
}

/// A thread of its own reads: one of the runtime's would keep the process from ending while it waits for input.
fn chunks(mut input: impl Read + Send + 'static, stop: CancellationToken) -> mpsc::Receiver<Bytes> {
    let (sender, receiver) = mpsc::channel(1);
    std::thread::spawn(move || {
        let mut buffer = vec![0; limits::READ_BYTES];
        while !stop.is_cancelled() {
            match input.read(&mut buffer) {
                Ok(0) => return,
                Ok(n) if sender.blocking_send(Bytes::copy_from_slice(&buffer[..n])).is_ok() => {}
                Ok(_) => return,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::error!(%error, "standard input cannot be read; that counts as its end");
                    return;
                }
            }
        }
    });
    receiver
}

async fn take<S: Sink>(feed: &Feed<S>, piece: &Piece, place: &Place, batch: &mut Batch) {
    match piece {
        Piece::Long { first: true, .. } => too_long(feed),
        Piece::Long { .. } => {}
        Piece::Line(line) => {
            let text = lines::text(line);
            if text.is_empty() {
                return;
            }
            match feed.line(text).await {
                Ok(items) => batch.push(Message { items, place: place.clone() }, line.len()),
                Err(wrong) => feed.reject(wrong.reason, &wrong.detail),
            }
        }
    }
}

/// Counts and logs a line that is longer than `limits.body`.
pub(super) fn too_long<S: Sink>(feed: &Feed<S>) {
    feed.reject("too_large", &format!("a line is longer than limits.body ({} bytes); it is left out", feed.most()));
}

/// Stores what was read. It cannot be read again.
pub(super) async fn store<S: Sink>(feed: &Feed<S>, batch: &mut Batch) {
    if let Err(events) = feed.together(batch.take(), Patience::Wait).await {
        let lost = EventsLost { source: feed.name(), reason: "failed", events };
        lost.count();
        lost.log();
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;
    use std::sync::Arc;

    use super::*;
    use crate::source::Refusal;
    use crate::source::probe::Probe;

    fn feed(sink: Probe) -> (Feed<Probe>, Arc<Probe>) {
        let sink = Arc::new(sink);
        (Feed::new("in".into(), Arc::clone(&sink), CancellationToken::new()), sink)
    }

    #[tokio::test]
    async fn every_line_is_taken_and_the_end_is_told() {
        let (feed, sink) = feed(Probe::default());
        let mut input = String::new();
        for n in 0..100 {
            input.extend(["{\"id\":\"e", &n.to_string(), "\",\"type\":\"a.b\"}\r\n\n"]);
        }
        input += "nonsense\n{\"type\":\"";
        input += &"x".repeat(2000);
        input += "\"}\n";
        input.push_str("{\"id\":\"last\",\"type\":\"a.b\"}");
        assert!(run(feed, Cursor::new(input), CancellationToken::new()).await);
        let ids = sink.ids();
        assert_eq!((ids.len(), ids[0].as_str(), ids[100].as_str()), (101, "e0", "last"));
        assert!(sink.commits() < 20, "{} commits for what was there at once", sink.commits());
        let ends = sink.ends.lock().unwrap();
        assert_eq!((ends.len(), &ends[0].reason), (1, &EndReason::Disconnected));
    }

    #[tokio::test]
    async fn a_stop_keeps_what_was_read_and_is_no_end() {
        let (feed, sink) = feed(Probe::default());
        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"{\"id\":\"1\",\"type\":\"a.b\"}\n").unwrap();
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(feed, reader, stop.clone()));
        while sink.commits() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.cancel();
        assert!(!running.await.unwrap());
        assert_eq!(sink.ids(), ["1"]);
        assert!(sink.ends.lock().unwrap().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_outbox_is_waited_for() {
        let full = || Refusal::Full { detail: "no space".into(), retry_after: Duration::from_secs(5) };
        let (feed, sink) = feed(Probe { refusals: std::sync::Mutex::new([full(), full()].into()), ..Probe::default() });
        assert!(run(feed, Cursor::new("{\"id\":\"1\",\"type\":\"a.b\"}"), CancellationToken::new()).await);
        assert_eq!(sink.ids(), ["1"]);
    }
}
