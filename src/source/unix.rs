//! `type: unix`: NDJSON both ways over a unix socket. Each event line is answered by one line, in order, after its commit. Every
//! connection is a stream of its own; a sender that is faster than the outbox waits, since nothing more is read.

use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use bytes::Bytes;
use http::StatusCode;

use super::feed::{Feed, Patience, Place};
use super::lines::{self, Lines, Piece};
use super::problem::Problem;
use super::{Accepted, EndReason, Sink, StreamEnd, StreamId};
use crate::limits;

/// One unix source. Cloning shares it.
pub struct UnixSource<S> {
    feed: Feed<S>,
    /// Bounds the bytes of long lines in memory over all connections, in KiB.
    memory: Arc<Semaphore>,
}

impl<S> Clone for UnixSource<S> {
    fn clone(&self) -> Self {
        Self { feed: self.feed.clone(), memory: Arc::clone(&self.memory) }
    }
}

/// Why a connection is read no further.
#[derive(Debug, PartialEq, Eq)]
enum Close {
    /// The sender has closed it, or is gone.
    Sender,
    /// A long line did not arrive in time, and others wait for its room.
    Slow,
    /// sidehook ends.
    Ending,
}

/// The half that answers. A sender that reads no answers may close its side; its events are taken all the same.
struct Answers<W> {
    to: Option<W>,
}

impl<S: Sink> UnixSource<S> {
    /// The feed's token ends reading and waiting.
    #[must_use]
    pub fn new(feed: Feed<S>) -> Self {
        Self { feed, memory: Arc::new(Semaphore::new(limits::INFLIGHT_BODY_BYTES / 1024)) }
    }

    /// Serves one connection to its end.
    pub async fn handle(self, connection: impl AsyncRead + AsyncWrite + Send) {
        let stream = self.feed.sink().open_stream();
        let (read, write) = tokio::io::split(connection);
        let close = self.converse(Lines::new(read), Answers { to: Some(write) }, stream).await;
        if close == Close::Ending {
            // The sender has not ended; it may connect again to the next sidehook.
            return;
        }
        let source = Arc::clone(self.feed.name());
        self.feed.sink().ended(StreamEnd { source, stream, reason: EndReason::Disconnected }).await;
    }

    async fn converse<C: AsyncRead + AsyncWrite>(
        &self,
        mut lines: Lines<ReadHalf<C>>,
        mut answers: Answers<WriteHalf<C>>,
        stream: StreamId,
    ) -> Close {
        let stop = self.feed.stop().clone();
        let mut room = None;
        loop {
            let most = self.feed.most();
            while let Some(piece) = lines.ready(most) {
                self.take(&piece, stream, &mut answers).await;
                if stop.is_cancelled() {
                    return Close::Ending;
                }
            }
            if lines.is_ended() {
                break;
            }
            if lines.held() <= limits::FREE_LINE_BYTES {
                room = None;
            } else if room.is_none() {
                room = self.room(most).await;
            }
            let fill = async {
                match &room {
                    None => Some(lines.fill().await),
                    Some(_) => tokio::time::timeout(limits::BODY_READ, lines.fill()).await.ok(),
                }
            };
            let filled = tokio::select! {
                filled = fill => filled,
                () = stop.cancelled() => return Close::Ending,
            };
            match filled {
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    tracing::debug!(source = %self.feed.name(), %error, "a connection broke");
                    return Close::Sender;
                }
                None => {
                    let secs = limits::BODY_READ.as_secs();
                    let detail =
                        format!("the rest of a long line did not arrive within {secs} s; the connection is closed");
                    self.feed.reject("malformed", &detail);
                    let problem = Problem::new(StatusCode::REQUEST_TIMEOUT, "malformed", "slow line", detail);
                    answers.write(problem.into_line(), &self.feed).await;
                    return Close::Slow;
                }
            }
        }
        if let Some(piece) = lines.rest() {
            self.take(&piece, stream, &mut answers).await;
        }
        Close::Sender
    }

    /// Room for a whole line. `None` only when sidehook ends.
    async fn room(&self, most: usize) -> Option<OwnedSemaphorePermit> {
        let kib = most.div_ceil(1024).min(limits::INFLIGHT_BODY_BYTES / 1024);
        let room = Arc::clone(&self.memory).acquire_many_owned(u32::try_from(kib).unwrap_or(u32::MAX));
        tokio::select! {
            room = room => room.ok(),
            () = self.feed.stop().cancelled() => None,
        }
    }

    /// Answers one line; a blank one, and the rest of one that was too long, are not answered.
    async fn take<W: AsyncWrite + Unpin>(&self, piece: &Piece, stream: StreamId, answers: &mut Answers<W>) {
        let answer = match piece {
            Piece::Line(line) => {
                let text = lines::text(line);
                if text.is_empty() {
                    return;
                }
                self.accept(text, stream).await
            }
            Piece::Long { first: true, .. } => {
                let detail = format!("the line is longer than limits.body ({} bytes)", self.feed.most());
                Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", "line too long", detail))
            }
            Piece::Long { .. } => return,
        };
        let line = match answer {
            Ok(accepted) => {
                // Numbers and texts always become JSON.
                let mut line = serde_json::to_vec(&accepted).unwrap_or_default();
                line.push(b'\n');
                line
            }
            Err(problem) => {
                self.feed.reject(problem.reason(), problem.detail());
                problem.into_line()
            }
        };
        answers.write(line, &self.feed).await;
    }

    async fn accept(&self, text: Bytes, stream: StreamId) -> Result<Accepted, Problem> {
        let items = self.feed.line(text).await.map_err(|wrong| {
            let (status, title) = match wrong.reason {
                "malformed" => (StatusCode::BAD_REQUEST, "not JSON"),
                "too_large" => (StatusCode::PAYLOAD_TOO_LARGE, "too many events"),
                _ => (StatusCode::UNPROCESSABLE_ENTITY, "not an event"),
            };
            Problem::new(status, wrong.reason, title, wrong.detail).items(wrong.errors)
        })?;
        if items.is_empty() {
            return Ok(Accepted { accepted: 0, duplicates: 0, ids: Vec::new() });
        }
        let place = Place { stream: Some(stream), offset: None };
        self.feed.offer(items, place, Patience::Wait).await.map_err(Problem::refused)
    }
}

impl<W: AsyncWrite + Unpin> Answers<W> {
    /// Waits for a sender that does not read, but no longer than sidehook runs.
    async fn write<S: Sink>(&mut self, line: Vec<u8>, feed: &Feed<S>) {
        let Some(to) = &mut self.to else { return };
        let ending = async {
            feed.stop().cancelled().await;
            tokio::time::sleep(limits::LAST_ANSWER).await;
        };
        let written = tokio::select! {
            written = to.write_all(&line) => written.is_ok(),
            () = ending => false,
        };
        if !written {
            self.to = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader, DuplexStream};
    use tokio::task::JoinHandle;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::source::Refusal;
    use crate::source::probe::Probe;

    fn connect(sink: Probe) -> (DuplexStream, Arc<Probe>, CancellationToken, JoinHandle<()>) {
        let (ours, theirs) = tokio::io::duplex(4096);
        let (sink, stop) = (Arc::new(sink), CancellationToken::new());
        let source = UnixSource::new(Feed::new("socket".into(), Arc::clone(&sink), stop.clone()));
        (ours, sink, stop, tokio::spawn(source.handle(theirs)))
    }

    #[tokio::test]
    async fn each_line_is_answered_in_order_and_closing_ends_the_stream() {
        let (mut ours, sink, _, served) = connect(Probe { conflict: Some("taken"), ..Probe::default() });
        let long = "x".repeat(1100);
        let input = format!(
            "{{\"id\":\"1\",\"type\":\"a.b\"}}\n\n{{\"type\n{{\"type\":\"message.sent\"}}\r\n{{\"x\":\"{long}\"}}\n\
             {{\"id\":\"taken\",\"type\":\"a.b\"}}\n[{{\"id\":\"2\",\"type\":\"a.b\"}},{{\"id\":\"3\",\"type\":\"a.b\"}}]\n[]\n{{\"id\":\"4\",\"type\":\"a.b\"}}"
        );
        ours.write_all(input.as_bytes()).await.unwrap();
        ours.shutdown().await.unwrap();
        let mut out = String::new();
        ours.read_to_string(&mut out).await.unwrap();
        served.await.unwrap();
        let answers: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let short: Vec<Value> =
            answers
                .iter()
                .map(|a| {
                    if a["status"].is_null() {
                        a["ids"].clone()
                    } else {
                        json!([a["status"], a["errors"][0]["pointer"]])
                    }
                })
                .collect();
        let expected =
            json!([["1"], [400, ""], [422, "/conversation/id"], [413, null], [422, "/id"], ["2", "3"], [], ["4"]]);
        assert_eq!(json!(short), expected, "{out}");
        assert_eq!(answers[0], json!({"accepted": 1, "duplicates": 0, "ids": ["1"]}));
        assert_eq!(answers[3]["type"], "urn:sidehook:problem:too_large");
        let ends = sink.ends.lock().unwrap();
        assert_eq!((ends.len(), &ends[0].reason), (1, &EndReason::Disconnected));
    }

    #[tokio::test]
    async fn a_sender_that_goes_without_reading_loses_nothing() {
        let (mut ours, sink, _, served) = connect(Probe::default());
        for n in 0..40 {
            ours.write_all(format!("{{\"id\":\"{n}\",\"type\":\"a.b\"}}\n").as_bytes()).await.unwrap();
        }
        drop(ours);
        served.await.unwrap();
        assert_eq!(sink.ids().len(), 40);
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_outbox_holds_the_answer_back_and_the_end_is_no_disconnect() {
        let full = || Refusal::Full { detail: "no space".into(), retry_after: Duration::from_secs(5) };
        let (ours, sink, stop, served) =
            connect(Probe { refusals: std::sync::Mutex::new([full(), full()].into()), ..Probe::default() });
        let mut ours = BufReader::new(ours);
        ours.write_all(b"{\"id\":\"1\",\"type\":\"a.b\"}\n{\"half\":").await.unwrap();
        let mut line = String::new();
        ours.read_line(&mut line).await.unwrap();
        assert!(line.contains("\"accepted\":1"), "{line}");
        stop.cancel();
        served.await.unwrap();
        line.clear();
        assert_eq!(ours.read_line(&mut line).await.unwrap(), 0, "{line}");
        assert!(sink.ends.lock().unwrap().is_empty());

        let (ours, _, stop, served) = connect(Probe { refuse: Some(full()), ..Probe::default() });
        let mut ours = BufReader::new(ours);
        ours.write_all(b"{\"id\":\"1\",\"type\":\"a.b\"}\n").await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        stop.cancel();
        line.clear();
        ours.read_line(&mut line).await.unwrap();
        assert!(line.contains("\"status\":503"), "{line}");
        served.await.unwrap();
    }
}
