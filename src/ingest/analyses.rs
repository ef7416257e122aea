//! `analyses`: calls at the end of a conversation. The end is stored before its sender is answered, and all its webhooks
//! wait; then the calls are made, what they come to becomes part of the event and of the conversation's state in one
//! commit, and the waits are over. After a crash in between the calls are made again. Renders nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use http::Request;
use http::header::{AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http_body_util::Full;
use tokio::sync::Notify;
use tokio::task::{Id, JoinSet};

use super::Ingest;
use super::decide::analyses_due;
use crate::clock::Clock;
use crate::config::Generation;
use crate::config::model::{Analysis, Auth};
use crate::delivery::{Fault, parse_retry_after};
use crate::event::json::Member;
use crate::event::{Event, Json, Kind};
use crate::limits;
use crate::net::{AGENT, Answer, Destination, Failure, Guard, Way};
use crate::outbox::{Analysed, AnalysisDue, Batch, ConversationKey};
use crate::telemetry::ingest::{AnalysesFailed, AnalysisCalled};

/// How soon what could not be read or stored is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What calls share.
#[derive(Default)]
pub(super) struct Calls {
    notify: Notify,
    ways: Mutex<Ways>,
}

/// The ways to the destinations, by analysis; under another guard they are made anew.
#[derive(Default)]
struct Ways {
    guard: Option<Arc<Guard>>,
    known: HashMap<Arc<str>, (String, Way)>,
}

impl Calls {
    /// Some are due.
    pub fn poke(&self) {
        self.notify.notify_one();
    }

    /// The way to an analysis. Its connections and its token outlive generations.
    fn way(&self, analysis: &Analysis, generation: &Generation, clock: &Clock) -> Result<Way, String> {
        let mut ways = self.ways.lock().unwrap_or_else(PoisonError::into_inner);
        let guard = Guard::new(&generation.settings.egress);
        let guard = match &ways.guard {
            Some(known) if **known == guard => Arc::clone(known),
            _ => {
                ways.known.clear();
                Arc::clone(ways.guard.insert(Arc::new(guard)))
            }
        };
        let auth = analysis.auth.as_ref();
        let at_once = limits::ANALYSED_AT_ONCE;
        let to = Destination { url: &analysis.url, tls: &analysis.tls, auth, at_once };
        let identity = to.identity();
        if let Some((known, way)) = ways.known.get(&analysis.name)
            && *known == identity
        {
            return Ok(way.clone());
        }
        let way = Way::new(to, &guard, clock).map_err(|error| error.to_string())?;
        ways.known.retain(|name, _| generation.analyses.iter().any(|analysis| analysis.name == *name));
        ways.known.insert(Arc::clone(&analysis.name), (identity, way.clone()));
        Ok(way)
    }
}

/// Events whose analyses are under way.
#[derive(Default)]
struct UnderWay {
    calls: JoinSet<()>,
    /// Event and conversation by task.
    tasks: HashMap<Id, (i64, Option<ConversationKey>)>,
    /// Everything up to this event is under way or done.
    after: i64,
}

impl UnderWay {
    fn room(&self) -> usize {
        limits::ANALYSED_AT_ONCE.saturating_sub(self.tasks.len())
    }

    /// Whether an event has to wait: it is under way itself, or its conversation is, whose result may serve both.
    fn holds(&self, due: &AnalysisDue) -> bool {
        let mut all = self.tasks.values();
        all.any(|(event, key)| *event == due.event || (key.is_some() && *key == due.conversation))
    }

    /// A task is over; `lost`: through a fault of ours, so that its event is found again.
    fn over(&mut self, task: Id, lost: bool) {
        if let Some((event, _)) = self.tasks.remove(&task).filter(|_| lost) {
            self.after = self.after.min(event - 1);
        }
    }
}

impl Ingest {
    /// Calls what is due until intake ends; what is under way then is called again after the next start.
    pub async fn run_analyses(self: Arc<Self>) {
        let mut under_way = UnderWay::default();
        loop {
            let failed = self.begin_analyses(&mut under_way).await;
            if let Err(error) = &failed {
                AnalysesFailed { error }.emit();
            }
            tokio::select! {
                Some(ended) = under_way.calls.join_next_with_id() => match ended {
                    Ok((task, ())) => under_way.over(task, false),
                    Err(error) => {
                        AnalysesFailed { error: &error.to_string() }.emit();
                        under_way.over(error.id(), true);
                    }
                },
                () = self.calls.notify.notified() => {}
                () = tokio::time::sleep(AGAIN), if failed.is_err() => {}
                () = self.closed.cancelled() => return,
            }
        }
    }

    async fn begin_analyses(self: &Arc<Self>, under_way: &mut UnderWay) -> Result<(), String> {
        let mut after = under_way.after;
        // From here the next look goes on: behind the last event that had not to wait for another one.
        let mut done_to = None;
        while under_way.room() > 0 {
            let page = self.outbox.analyses_due(after, under_way.room()).await.map_err(|e| e.to_string())?;
            let Some(last) = page.last() else { break };
            after = last.event;
            for due in page {
                if under_way.holds(&due) {
                    done_to.get_or_insert(due.event - 1);
                    continue;
                }
                let (event, key) = (due.event, due.conversation.clone());
                let task = under_way.calls.spawn(Arc::clone(self).analyse(due));
                under_way.tasks.insert(task.id(), (event, key));
            }
        }
        under_way.after = done_to.unwrap_or(after);
        Ok(())
    }

    /// Calls what one event still lacks, and stores what came of it.
    async fn analyse(self: Arc<Self>, due: AnalysisDue) {
        let generation = Arc::clone(&self.generations.borrow());
        let event = Event::from_stored(due.body.clone());
        let mut results = Vec::new();
        if let Some(event) = &event {
            let known = match &due.conversation {
                Some(key) => self.known_analysis(key, &generation).await,
                None => Json::empty_map(),
            };
            let wanted = analyses_due(event, &generation);
            let calls = wanted.iter().filter(|analysis| known.get(&analysis.name).is_none());
            let answers = join_all(calls.map(|analysis| self.call(analysis, event, &generation))).await;
            results = answers.into_iter().flatten().collect();
        }
        // Without an event its waits become dead letters.
        while let Err(error) = self.store_results(&due, event.as_ref(), &results, &generation).await {
            AnalysesFailed { error: &error }.emit();
            tokio::time::sleep(AGAIN).await;
        }
        if let Some(key) = due.conversation {
            self.changed.add(key);
        }
    }

    /// What the conversation's state has. Where it cannot be read, nothing: then a call may be made that need not have been.
    async fn known_analysis(&self, key: &ConversationKey, generation: &Generation) -> Json {
        let (settings, now) = (&generation.settings.conversations, self.clock.now());
        match self.states.read(key, false, settings, now, &self.outbox).await {
            Ok(read) => read.state.analysis(),
            Err(error) => {
                AnalysesFailed { error: &error.to_string() }.emit();
                Json::empty_map()
            }
        }
    }

    /// Makes results part of the event and of its conversation's state, and ends the wait for them.
    async fn store_results(
        &self,
        due: &AnalysisDue,
        event: Option<&Event>,
        results: &[Member],
        generation: &Generation,
    ) -> Result<(), String> {
        let settings = &generation.settings;
        let conversations = &settings.conversations;
        let mut analysed = Analysed { event: due.event, body: None, change: None };
        let _lock = match &due.conversation {
            Some(key) => self.locks.lock(vec![key.clone()]).await,
            None => Vec::new(),
        };
        let mut changed = None;
        if let (Some(event), Some(key), false) = (event, &due.conversation, results.is_empty()) {
            analysed.body = Some(event.clone().with_results(results).to_stored());
            let now = self.clock.now();
            let read = self.states.read(key, false, conversations, now, &self.outbox).await;
            let mut working = read.map_err(|error| error.to_string())?;
            // A state that retention took meanwhile is not begun anew.
            if working.is_kept()
                && let Some(change) = working.state.add_analysis(results)
            {
                let before = working.size();
                let change = working.follow(&change, None, now);
                if let Some(error) = working.size().refused(before, settings.body_bytes) {
                    // The event has them all the same.
                    AnalysesFailed { error: &error }.emit();
                } else {
                    analysed.change = conversations.durable.then(|| (key.clone(), change));
                    changed = Some((key.clone(), working));
                }
            }
        }
        let batch = Batch { analysed: vec![analysed], ..Batch::default() };
        self.outbox.commit(batch).await.map_err(|error| error.to_string())?;
        if let Some((key, working)) = changed {
            if conversations.durable {
                self.states.note(key, &working);
            } else {
                self.states.keep(key, working, self.clock.now(), conversations);
            }
        }
        Ok(())
    }

    /// One call, repeated where that may help and there is time. Its result under its name, if there is one.
    async fn call(&self, analysis: &Analysis, event: &Event, generation: &Generation) -> Option<Member> {
        let started = self.clock.instant();
        let mut attempts = 0;
        let answered = match self.calls.way(analysis, generation, &self.clock) {
            Ok(way) => self.ask(&way, analysis, event, &mut attempts).await,
            Err(error) => Err(error),
        };
        let error = answered.as_ref().err().map(|error| analysis.hide_host(error.clone()));
        AnalysisCalled {
            analysis: &analysis.name,
            conversation: event.conversation.as_deref().unwrap_or_default(),
            attempts,
            took: started.elapsed(),
            error: error.as_deref(),
        }
        .emit();
        answered.ok().map(|result| (Arc::clone(&analysis.name), result))
    }

    async fn ask(&self, way: &Way, analysis: &Analysis, event: &Event, attempts: &mut u32) -> Result<Json, String> {
        let body = analysis.params.payload(event);
        let started = self.clock.instant();
        let mut pause = limits::ANALYSIS_PAUSE;
        loop {
            *attempts += 1;
            let request = request(analysis, body.clone())?;
            let left = analysis.timeout.saturating_sub(started.elapsed());
            let (error, wait) = match way.fetch(request, left, limits::ANALYSIS_BYTES + 1).await {
                Ok(Answer { status: 200..300, body, .. }) if body.len() <= limits::ANALYSIS_BYTES => {
                    return Ok(result(&body));
                }
                Ok(Answer { status: 200..300, .. }) => {
                    return Err(format!("its answer is larger than {} KiB", limits::ANALYSIS_BYTES / 1024));
                }
                Ok(Answer { status, retry_after, .. }) => {
                    let asked = retry_after.and_then(|value| parse_retry_after(&value, self.clock.now()));
                    let wait = matches!(status, 408 | 425 | 429 | 500..600).then(|| asked.unwrap_or_default());
                    (format!("it answered {status}"), wait)
                }
                Err(Failure { fault, message, .. }) => {
                    let helps = matches!(fault, Fault::Connect | Fault::Reset | Fault::Timeout | Fault::Auth);
                    (message, helps.then_some(Duration::ZERO))
                }
            };
            let wait = wait.map(|asked| asked.max(pause)).filter(|wait| {
                *attempts < limits::ANALYSIS_ATTEMPTS && started.elapsed().saturating_add(*wait) < analysis.timeout
            });
            let Some(wait) = wait else { return Err(error) };
            tokio::time::sleep(wait).await;
            pause *= 2;
        }
    }
}

fn request(analysis: &Analysis, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
    let mut request = Request::post(&analysis.url[..url::Position::AfterQuery])
        .body(Full::new(body))
        .map_err(|_| "its URL is no usable address".to_owned())?;
    let headers = request.headers_mut();
    for (name, value) in &analysis.headers {
        headers.append(name, value.clone());
    }
    if let Some(Auth::Header(value)) = &analysis.auth {
        headers.insert(AUTHORIZATION, value.clone());
    }
    headers.entry(USER_AGENT).or_insert(AGENT);
    headers.entry(CONTENT_TYPE).or_insert(http::HeaderValue::from_static("application/json"));
    Ok(request)
}

/// An object is the result itself, anything else its text.
fn result(body: &Bytes) -> Json {
    match Json::parse(body.clone()) {
        Ok(json) if json.kind() == Kind::Object => json,
        _ => Json::map(vec![(Arc::from("result"), Json::text(&String::from_utf8_lossy(body)))]),
    }
}
