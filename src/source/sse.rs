//! `type: sse`: events of a server-sent event stream, over a client that goes through the egress guard. The last event's id is
//! stored in the same commit as the event, and sent when the stream is taken up again, after a restart too.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, header};
use http_body_util::Full;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::event_stream::{Parser, Said};
use super::feed::{Batch, Feed, Message, Patience, Place, Raw};
use super::{EndReason, Sink, StreamEnd, StreamId};
use crate::clock::{Entropy, millis};
use crate::config::model::{Egress, Tls};
use crate::config::sources::is_loopback;
use crate::limits;
use crate::net::{self, Client, Guard, Streaming};
use crate::rules::Direction;

/// `egress` of the generation in force.
pub type CurrentEgress = Arc<dyn Fn() -> Egress + Send + Sync>;

/// One sse source.
pub struct SseSource<S> {
    feed: Feed<S>,
    url: url::Url,
    headers: Vec<(HeaderName, HeaderValue)>,
    egress: CurrentEgress,
    entropy: Entropy,
    client: Option<(Egress, Client)>,
    last_id: String,
    retry: Duration,
}

/// How far a stream was read, as it is stored. Ids of another URL mean nothing to this one.
#[derive(Serialize, Deserialize)]
struct Offset {
    /// SHA-256 in hex: a URL may hold secrets.
    url: String,
    id: String,
}

/// Why a connection is over.
enum Over {
    /// sidehook ends.
    Ending,
    /// The server says that there is nothing more (204).
    Done,
    /// It was open, and closed or broke.
    Closed(String),
    /// It was not opened.
    Refused(String),
}

impl<S: Sink> SseSource<S> {
    /// The feed's token ends reading and waiting.
    #[must_use]
    pub fn new(
        feed: Feed<S>,
        url: url::Url,
        headers: Vec<(HeaderName, HeaderValue)>,
        egress: CurrentEgress,
        entropy: Entropy,
    ) -> Self {
        let (last_id, retry) = (String::new(), limits::SSE_RETRY);
        Self { feed, url, headers, egress, entropy, client: None, last_id, retry }
    }

    /// Reads the stream, and connects again when it is lost, until the feed's token is cancelled.
    pub async fn run(mut self) {
        let stop = self.feed.stop().clone();
        if !self.resume().await {
            return;
        }
        let mut stream = None;
        let mut lost: Option<Instant> = None;
        let mut failures = 0_u32;
        loop {
            let over = self.until_over(&mut stream, &mut lost, &mut failures).await;
            let why = match over {
                Over::Ending => return,
                Over::Done => {
                    tracing::info!(source = %self.feed.name(), "the stream has ended: the server answered 204; it is not opened again before a restart");
                    self.end(&mut stream).await;
                    return stop.cancelled().await;
                }
                Over::Closed(why) | Over::Refused(why) => why,
            };
            let pause = self.pause(failures);
            failures = failures.saturating_add(1);
            // A server that closes after each batch and goes on at the next connection is no trouble.
            if failures > 1 {
                tracing::warn!(source = %self.feed.name(), reason = why, pause_ms = millis(pause), "the stream is not open; trying again");
            } else {
                tracing::info!(source = %self.feed.name(), reason = why, pause_ms = millis(pause), "the stream was closed; connecting again");
            }
            let again = tokio::time::Instant::now() + pause;
            if let Some(deadline) = deadline(stream, lost).filter(|deadline| *deadline <= again) {
                tokio::select! {
                    () = tokio::time::sleep_until(deadline) => self.end(&mut stream).await,
                    () = stop.cancelled() => return,
                }
            }
            tokio::select! {
                () = tokio::time::sleep_until(again) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Looks up how far the stream was read. False when sidehook ends.
    async fn resume(&mut self) -> bool {
        loop {
            match self.feed.sink().offset(self.feed.name()).await {
                Ok(stored) => {
                    let offset = stored.and_then(|text| serde_json::from_str::<Offset>(&text).ok());
                    let ours = hash(&self.url);
                    self.last_id =
                        offset.filter(|offset| offset.url == ours).map(|offset| offset.id).unwrap_or_default();
                    return true;
                }
                Err(error) => {
                    tracing::warn!(source = %self.feed.name(), error, "how far the stream was read cannot be looked up; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(limits::SSE_RETRY) => {}
                        () = self.feed.stop().cancelled() => return false,
                    }
                }
            }
        }
    }

    /// One connection, to its end. A stream that is not there again in time has ended meanwhile.
    async fn until_over(
        &mut self,
        stream: &mut Option<StreamId>,
        lost: &mut Option<Instant>,
        failures: &mut u32,
    ) -> Over {
        let stop = self.feed.stop().clone();
        let client = match self.client() {
            Ok(client) => client,
            Err(why) => return Over::Refused(why),
        };
        let opened = {
            let opening = self.open(client);
            tokio::pin!(opening);
            loop {
                tokio::select! {
                    opened = &mut opening => break opened,
                    () = until(deadline(*stream, *lost)) => self.end(stream).await,
                    () = stop.cancelled() => return Over::Ending,
                }
            }
        };
        let body = match opened {
            Ok(body) => body,
            Err(over) => return over,
        };
        let id = *stream.get_or_insert_with(|| self.feed.sink().open_stream());
        *lost = None;
        let (over, heard) = self.read(body, id).await;
        // One that is opened and closed without a word is a failure as well.
        if heard {
            *failures = 0;
        }
        *lost = Some(tokio::time::Instant::now());
        over
    }

    async fn end(&self, stream: &mut Option<StreamId>) {
        if let Some(stream) = stream.take() {
            let source = Arc::clone(self.feed.name());
            self.feed.sink().ended(StreamEnd { source, stream, reason: EndReason::Disconnected }).await;
        }
    }

    /// Twice as long after each failure in a row, up to a bound, and spread so that many sidecars do not come at once.
    fn pause(&self, failures: u32) -> Duration {
        let (least, most) = limits::SSE_PAUSE;
        let pause = self.retry.max(least).saturating_mul(2_u32.saturating_pow(failures)).min(most);
        pause.mul_f64(0.75 + 0.5 * self.entropy.unit())
    }

    async fn open(&self, client: Client) -> Result<Streaming, Over> {
        let mut request = Request::get(self.url.as_str());
        let defaults = [
            (header::ACCEPT, HeaderValue::from_static("text/event-stream")),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (header::USER_AGENT, net::AGENT),
        ];
        for (name, value) in self.headers.iter().chain(&defaults) {
            if request.headers_ref().is_some_and(|headers| !headers.contains_key(name)) {
                request = request.header(name, value);
            }
        }
        // An id that no header can carry is as good as none.
        if let Ok(id) = HeaderValue::from_bytes(self.last_id.as_bytes())
            && !id.is_empty()
        {
            request = request.header("last-event-id", id);
        }
        let request = request.body(Full::new(Bytes::new())).map_err(|error| Over::Refused(error.to_string()))?;
        let body = client.stream(request, limits::CONNECT_TIMEOUT).await;
        let body = body.map_err(|failure| Over::Refused(failure.message))?;
        match body.status {
            200 if is_event_stream(&body.content_type) => Ok(body),
            200 => Err(Over::Refused(format!("the answer is {:?}, not text/event-stream", body.content_type))),
            204 => Err(Over::Done),
            status => Err(Over::Refused(format!("the server answered {status}"))),
        }
    }

    /// A client under the egress settings in force.
    fn client(&mut self) -> Result<Client, String> {
        let mut egress = (self.egress)();
        egress.allow_http |= is_loopback(&self.url);
        match &self.client {
            Some((made_for, client)) if *made_for == egress => Ok(client.clone()),
            _ => {
                let client =
                    Client::new(&Tls::default(), Arc::new(Guard::new(&egress)), 1).map_err(|e| e.to_string())?;
                self.client = Some((egress, client.clone()));
                Ok(client)
            }
        }
    }

    /// Reads to the end of a connection; tells whether anything came.
    async fn read(&mut self, mut body: Streaming, stream: StreamId) -> (Over, bool) {
        tracing::info!(source = %self.feed.name(), resumed = !self.last_id.is_empty(), "the stream is open");
        let mut parser = Parser::after(&self.last_id);
        let mut heard = false;
        loop {
            let chunk = match self.chunk(&mut body).await {
                Ok(chunk) => chunk,
                Err(over) => return (over, heard),
            };
            heard = true;
            let mut said = Vec::new();
            parser.push(&chunk, self.feed.most(), &mut said);
            let mut batch = Batch::default();
            for said in said {
                self.take(said, stream, &mut batch).await;
                if batch.is_full() && self.feed.together(batch.take(), Patience::Wait).await.is_err() {
                    return (Over::Ending, heard);
                }
            }
            if self.feed.together(batch.take(), Patience::Wait).await.is_err() {
                return (Over::Ending, heard);
            }
        }
    }

    async fn chunk(&self, body: &mut Streaming) -> Result<Bytes, Over> {
        let chunk = tokio::select! {
            chunk = tokio::time::timeout(limits::SSE_SILENCE, body.next()) => chunk,
            () = self.feed.stop().cancelled() => return Err(Over::Ending),
        };
        match chunk {
            Ok(Ok(Some(chunk))) => Ok(chunk),
            Ok(Ok(None)) => Err(Over::Closed("the server closed it".to_owned())),
            Ok(Err(failure)) => Err(Over::Closed(failure.message)),
            Err(_) => Err(Over::Closed(format!("nothing was heard for {} s", limits::SSE_SILENCE.as_secs()))),
        }
    }

    async fn take(&mut self, said: Said, stream: StreamId, batch: &mut Batch) {
        let (data, event, id) = match said {
            Said::Retry(retry) => return self.retry = retry,
            Said::TooLarge => {
                let detail =
                    format!("an event is larger than limits.body ({} bytes); it is left out", self.feed.most());
                return self.feed.reject("too_large", &detail);
            }
            Said::Event { data, event, id } => (data, event, id),
        };
        self.last_id.clone_from(&id);
        let bytes = data.as_ref().map_or(0, Bytes::len);
        let items = match data {
            None => Vec::new(),
            Some(body) => self.understand(body, event, &id).await,
        };
        let offset = (!id.is_empty()).then(|| Offset { url: hash(&self.url), id });
        let offset = offset.and_then(|offset| serde_json::to_string(&offset).ok());
        batch.push(Message { items, place: Place { stream: Some(stream), offset } }, bytes);
    }

    /// An adapter sees the event's own name and id as headers.
    async fn understand(&self, body: Bytes, event: String, id: &str) -> Vec<crate::event::Incoming> {
        let settings = self.feed.sink().settings(self.feed.name());
        let headers = [("event", event), ("id", id.to_owned())];
        let headers = headers.into_iter().filter(|(_, value)| !value.is_empty());
        let raw = Raw {
            body,
            path: self.url[url::Position::BeforePath..url::Position::AfterQuery].to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).collect(),
            direction: Direction::Response,
            arrived: settings.now,
        };
        // What is wrong is counted and logged, and its place is stored, so that it is not sent again.
        self.feed.read(raw, settings.adapter.as_ref()).await.unwrap_or_default()
    }
}

/// When a stream that was lost counts as ended.
fn deadline(stream: Option<StreamId>, lost: Option<Instant>) -> Option<Instant> {
    stream.and(lost).map(|lost| lost + limits::SSE_RESUME)
}

async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

fn is_event_stream(content_type: &str) -> bool {
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("text/event-stream")
}

fn hash(url: &url::Url) -> String {
    use std::fmt::Write as _;
    let digest = digest::digest(&digest::SHA256, url.as_str().as_bytes());
    digest.as_ref().iter().take(16).fold(String::new(), |mut out, byte| {
        // Writing to a string does not fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests;
