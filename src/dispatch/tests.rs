//! The dispatcher with a real outbox and real receivers on loopback.

mod reloads;

use std::collections::{BTreeMap, HashMap};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::{Clock, Entropy, Timestamp};
use crate::config::model::Listen;
use crate::config::{self, Generation};
use crate::delivery::BreakerState;
use crate::event::own::{Trouble, Troubles};
use crate::net::{self, ServeOptions};
use crate::outbox::{
    Arrival, Batch, ConversationKey, Decision, DeliveryView, KnownWebhook, NewDelivery, Options, Outbox, State, Stood,
    WhenFull,
};
use crate::shutdown::Shutdown;

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
/// How long anything that must happen may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A receiver that answers by path: `/503/503/200` answers these in turn and then the last for ever, per delivery.
struct Destination {
    addr: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    /// `/hold…` answers only while this has permits.
    gate: Arc<Semaphore>,
    stop: CancellationToken,
}

#[derive(Debug, Clone)]
struct Seen {
    path: String,
    headers: HashMap<String, String>,
    body: Bytes,
}

impl Seen {
    fn id(&self) -> &str {
        self.headers.get("webhook-id").map_or("", String::as_str)
    }
}

impl Destination {
    async fn start() -> Self {
        let listener = net::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.expect("bound");
        let addr = listener.local_addr().expect("tcp");
        let (seen, gate) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Semaphore::new(0)));
        let stop = CancellationToken::new();
        let (requests, open) = (seen.clone(), gate.clone());
        let service = hyper::service::service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (requests, open) = (requests.clone(), open.clone());
            async move {
                let (head, body) = request.into_parts();
                let path = head.uri.to_string();
                let headers = head.headers.iter();
                let headers = headers.map(|(n, v)| (n.to_string(), v.to_str().unwrap_or("?").to_owned())).collect();
                let body = body.collect().await.map(http_body_util::Collected::to_bytes).unwrap_or_default();
                let seen = Seen { path: path.clone(), headers, body };
                let nth = {
                    let mut requests = requests.lock().expect("not poisoned");
                    let nth = requests.iter().filter(|s: &&Seen| s.id() == seen.id()).count();
                    requests.push(seen);
                    nth
                };
                if path.starts_with("/hold") {
                    open.acquire().await.expect("open").forget();
                }
                let statuses: Vec<u16> = path.split(['/', '?']).filter_map(|part| part.parse().ok()).collect();
                let status = statuses.get(nth).or(statuses.last()).copied().unwrap_or(200);
                let mut response = Response::new(Full::new(Bytes::from_static(b"noted")));
                *response.status_mut() = StatusCode::from_u16(status).expect("a status");
                Ok::<_, std::convert::Infallible>(response)
            }
        });
        tokio::spawn(net::serve(listener, service, stop.clone(), ServeOptions::default()));
        Self { addr, seen, gate, stop }
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("not poisoned").clone()
    }

    fn at(&self, prefix: &str) -> usize {
        self.seen.lock().expect("not poisoned").iter().filter(|seen| seen.path.starts_with(prefix)).count()
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Stage {
    dir: tempfile::TempDir,
    outbox: Outbox,
    generations: watch::Sender<Arc<Generation>>,
    shutdown: Shutdown,
    handle: Handle,
    task: JoinHandle<Summary>,
    events: u64,
    told: Arc<Mutex<Vec<Trouble>>>,
}

fn options() -> Options {
    let day = Duration::from_secs(86_400);
    Options {
        max_bytes: 1 << 30,
        when_full: WhenFull::Reject,
        retain_delivered: day,
        retain_dead: day,
        retain_events: Duration::ZERO,
        retain_bodies: false,
        retain_conversations: day,
        max_open_age: day,
        encryption_keys: Vec::new(),
    }
}

/// `webhooks` are YAML bodies by name; `DEST` stands for the destination's address.
fn generation(dir: &std::path::Path, limits: &str, webhooks: &[(&str, String)]) -> Generation {
    let mut text = format!(
        "sources:\n  events: {{type: http, listen: '127.0.0.1:0'}}\nadmin: {{listen: '127.0.0.1:0'}}\n\
         egress: {{allow_http: true}}\nlimits: {{{limits}}}\nwebhooks:\n"
    );
    for (name, body) in webhooks {
        writeln!(text, "  {name}: {{events: ['*'], {body}}}").expect("a string takes everything");
    }
    let path = dir.join("sidehook.yaml");
    std::fs::write(&path, text).expect("written");
    config::load(&path, &|_| None, &Clock::System).unwrap_or_else(|report| panic!("{report:?}"))
}

fn known(generation: &Generation) -> Vec<KnownWebhook> {
    let known = |w: &Arc<config::Webhook>| KnownWebhook {
        name: w.name.clone(),
        enabled: w.enabled,
        file_hash: w.file_hash.clone(),
    };
    generation.webhooks.values().map(known).collect()
}

impl Stage {
    async fn start(limits: &str, webhooks: &[(&str, String)]) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let first = generation(dir.path(), limits, webhooks);
        let data = dir.path().join("data");
        let outbox = tokio::task::spawn_blocking(move || Outbox::open(&data, options(), Clock::System))
            .await
            .expect("ran")
            .expect("opened");
        outbox.set_webhooks(known(&first)).await.expect("known");
        let (generations, receiver) = watch::channel(Arc::new(first));
        let shutdown = Shutdown::default();
        let dispatcher = Dispatcher::new(outbox.clone(), receiver, Clock::System, Entropy::seeded(1), shutdown.clone());
        let told = Arc::new(Mutex::new(Vec::new()));
        let hear = Arc::clone(&told);
        let dispatcher =
            dispatcher.with_troubles(Troubles::to(move |trouble| hear.lock().expect("no panic").push(trouble)));
        let handle = dispatcher.handle();
        Self { told, dir, outbox, generations, shutdown, handle, task: tokio::spawn(dispatcher.run()), events: 0 }
    }

    /// One event with one delivery to each of `webhooks`, all in one commit; answers the deliveries' ids.
    async fn arrive(&mut self, webhooks: &[&str], conversation: Option<&str>, count: usize) -> Vec<String> {
        let now = Clock::System.now();
        let mut ids = Vec::new();
        let mut arrivals = Vec::new();
        for _ in 0..count {
            self.events += 1;
            let n = self.events;
            let mut decisions = Vec::new();
            for webhook in webhooks {
                let id = format!("msg_{webhook}_{n:06}");
                ids.push(id.clone());
                let delivery = NewDelivery {
                    id,
                    body: Some(Bytes::from(format!("{{\"n\":{n}}}"))),
                    headers: vec![("x-rule".to_owned(), "frozen".to_owned())],
                    ordered: conversation.is_some(),
                    dead: None,
                };
                decisions.push((Arc::from(*webhook), Decision::Rendered(vec![delivery])));
            }
            arrivals.push(Arrival {
                namespace: "".into(),
                event_id: format!("evt_{n}").into(),
                event_type: "tick".into(),
                conversation: conversation.map(|id| ConversationKey { namespace: "".into(), id: id.into() }),
                arrived: now,
                traceparent: Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into()),
                dedupe: None,
                change: None,
                decisions,
                analyses: false,
                waiting_body: None,
                kept_body: None,
            });
        }
        self.outbox.commit(Batch { arrivals, ..Batch::default() }).await.expect("durable");
        ids
    }

    async fn view(&self, id: &str) -> DeliveryView {
        self.outbox.get(id).await.expect("readable").expect("there")
    }

    /// Waits until the delivery is in this state.
    async fn reaches(&self, id: &str, state: State) -> DeliveryView {
        until(&format!("{id} is {state:?}"), async || {
            let view = self.view(id).await;
            (view.state == state).then_some(view)
        })
        .await
    }

    fn reload(&self, limits: &str, webhooks: &[(&str, String)]) -> Arc<Generation> {
        let next = Arc::new(generation(self.dir.path(), limits, webhooks));
        self.generations.send_replace(next.clone());
        next
    }
}

async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = look().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("{what}: not within {PATIENCE:?}"))
}

fn hook(dest: &Destination, path: &str, more: &str) -> String {
    format!("url: 'http://{}{path}', signing: {{scheme: none}}, {more}", dest.addr)
}

#[tokio::test]
async fn an_attempt_carries_everything_it_must_and_settles() {
    let dest = Destination::start().await;
    let body = format!(
        "url: 'http://{}/200', signing: {{scheme: standard, secrets: ['{SECRET}']}}, headers: {{X-Config: c}}",
        dest.addr
    );
    let mut stage = Stage::start("", &[("crm", body)]).await;
    let ids = stage.arrive(&["crm"], None, 1).await;
    let view = stage.reaches(&ids[0], State::Delivered).await;
    assert_eq!(view.attempts.len(), 1);
    assert_eq!((view.attempts[0].status.as_str(), view.attempts[0].response.as_deref()), ("200", Some("noted")));
    let seen = dest.seen().remove(0);
    assert_eq!(seen.id(), ids[0]);
    assert_eq!(seen.body, "{\"n\":1}");
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-config", "c"),
        ("x-rule", "frozen"),
        ("user-agent", concat!("sidehook/", env!("CARGO_PKG_VERSION"))),
    ] {
        assert_eq!(seen.headers.get(name).map(String::as_str), Some(value), "{name}");
    }
    assert!(seen.headers["traceparent"].starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
    let key = crate::sign::VerifyKey::parse(&crate::secret::Secret::new(SECRET)).expect("a key");
    let (at, signature) = (&seen.headers["webhook-timestamp"], &seen.headers["webhook-signature"]);
    let now = Clock::System.now();
    assert_eq!(crate::sign::verify(&[key], &ids[0], at, signature, &seen.body, now, Some(PATIENCE)), Ok(()));
    let status = stage.handle.status("crm", now).expect("known");
    assert!(status.last_success.is_some() && status.breaker == BreakerState::Closed);
}

#[tokio::test]
async fn every_verdict() {
    let dest = Destination::start().await;
    let soon = "retry: {schedule: [20ms, 20ms], jitter: 0}";
    let mut stage = Stage::start(
        "",
        &[
            ("flaky", hook(&dest, "/503/429/200", soon)),
            ("broken", hook(&dest, "/500", soon)),
            ("refusing", hook(&dest, "/400/200", soon)),
            ("moved", hook(&dest, "/302/200", soon)),
            ("down", format!("url: 'http://127.0.0.1:1/', signing: {{scheme: none}}, {soon}")),
            ("getter", hook(&dest, "/200?own=1", "method: GET")),
        ],
    )
    .await;
    let ids = stage.arrive(&["flaky", "broken", "refusing", "moved", "down", "getter"], None, 1).await;
    for (id, state, reason, statuses) in [
        (&ids[0], State::Delivered, None, &["503", "429", "200"][..]),
        (&ids[1], State::Dead, Some("status_500"), &["500", "500", "500"]),
        (&ids[2], State::Dead, Some("status_400"), &["400"]),
        (&ids[3], State::Dead, Some("status_302"), &["302"]),
        (&ids[4], State::Dead, Some("connect"), &["connect", "connect", "connect"]),
        (&ids[5], State::Delivered, None, &["200"]),
    ] {
        let view = stage.reaches(id, state).await;
        assert_eq!(view.reason.as_deref(), reason, "{id}");
        assert_eq!(view.attempts.iter().map(|a| a.status.as_str()).collect::<Vec<_>>(), statuses, "{id}");
    }
    let got = dest.seen().into_iter().find(|seen| seen.path.contains("own=1")).expect("the GET");
    assert_eq!((got.path.as_str(), got.body.len()), ("/200?own=1&n=1", 0));
    let ledger = stage.outbox.ledger().await.expect("readable");
    assert!(ledger.balanced, "{ledger:?}");
}

#[tokio::test]
async fn a_backlog_goes_out_once_each_and_conversations_keep_their_order() {
    let dest = Destination::start().await;
    let mut stage = Stage::start("", &[("crm", hook(&dest, "/200", "concurrency: 8"))]).await;
    let mut ids = stage.arrive(&["crm"], None, 1_500).await;
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for _ in 0..5 {
        for conversation in ["a", "b", "c"] {
            let id = stage.arrive(&["crm"], Some(conversation), 1).await.remove(0);
            expected.entry(conversation.to_owned()).or_default().push(id.clone());
            ids.push(id);
        }
    }
    until("all arrived", async || (dest.seen().len() >= ids.len()).then_some(())).await;
    for id in &ids {
        stage.reaches(id, State::Delivered).await;
    }
    let order: Vec<String> = dest.seen().iter().map(|seen| seen.id().to_owned()).collect();
    assert_eq!(order.len(), ids.len(), "nothing arrives twice");
    for wanted in expected.values() {
        let came: Vec<&String> = order.iter().filter(|id| wanted.contains(id)).collect();
        assert_eq!(came, wanted.iter().collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_stalled_destination_shuts_nobody_out() {
    let dest = Destination::start().await;
    let mut stage = Stage::start(
        "concurrency: 8",
        &[("slow", hook(&dest, "/hold", "concurrency: 16")), ("quick", hook(&dest, "/200", ""))],
    )
    .await;
    stage.arrive(&["slow"], None, 20).await;
    until("the slow one holds what it can get", async || (dest.at("/hold") == 7).then_some(())).await;
    let ids = stage.arrive(&["quick"], None, 10).await;
    for id in &ids {
        stage.reaches(id, State::Delivered).await;
    }
    assert_eq!(dest.at("/hold"), 7, "one place stays free for whoever has nothing in flight");
    dest.gate.add_permits(100);
    until("the slow one goes on", async || (dest.at("/hold") == 20).then_some(())).await;
}

#[tokio::test]
async fn an_open_breaker_sends_one_probe_and_closes_on_success() {
    let dest = Destination::start().await;
    let more = "concurrency: 1, breaker: {failures: 3, open_for: 1s}, retry: {schedule: [10ms, 10ms, 10ms, 10ms, 10ms], jitter: 0}";
    let mut stage = Stage::start("", &[("crm", hook(&dest, "/500/500/500/200", more))]).await;
    let ids = stage.arrive(&["crm"], None, 1).await;
    until("it opens", async || {
        let status = stage.handle.status("crm", Clock::System.now())?;
        (status.breaker != BreakerState::Closed).then_some(())
    })
    .await;
    assert_eq!(dest.seen().len(), 3);
    let view = stage.reaches(&ids[0], State::Delivered).await;
    let waited = view.attempts[3].at.since(view.attempts[2].at);
    assert!(waited >= Duration::from_millis(900), "the probe went after {waited:?}");
    let status = stage.handle.status("crm", Clock::System.now()).expect("known");
    assert_eq!(status.breaker, BreakerState::Closed);
}

#[tokio::test]
async fn draining_finishes_what_is_in_flight_and_starts_nothing() {
    let dest = Destination::start().await;
    let mut stage = Stage::start("", &[("crm", hook(&dest, "/hold", "concurrency: 2"))]).await;
    let ids = stage.arrive(&["crm"], None, 5).await;
    until("two are in flight", async || (dest.at("/hold") == 2).then_some(())).await;
    stage.shutdown.draining.cancel();
    dest.gate.add_permits(100);
    let summary = tokio::time::timeout(PATIENCE, &mut stage.task).await.expect("it ends").expect("whole");
    assert_eq!(summary, Summary { cut_off: 0, unsettled: 0 });
    let mut states = Vec::new();
    for id in &ids {
        states.push(stage.view(id).await.state);
    }
    assert_eq!(states.iter().filter(|s| **s == State::Delivered).count(), 2);
    assert_eq!(states.iter().filter(|s| **s == State::Pending).count(), 3);
    assert_eq!(dest.at("/hold"), 2);
}

#[tokio::test]
async fn an_abort_lets_go() {
    let dest = Destination::start().await;
    let mut stage = Stage::start("", &[("crm", hook(&dest, "/hold", "concurrency: 2"))]).await;
    let ids = stage.arrive(&["crm"], None, 1).await;
    until("one is in flight", async || (dest.at("/hold") == 1).then_some(())).await;
    stage.shutdown.draining.cancel();
    stage.shutdown.abort.cancel();
    let summary = tokio::time::timeout(PATIENCE, &mut stage.task).await.expect("it ends").expect("whole");
    assert_eq!(summary, Summary { cut_off: 1, unsettled: 0 });
    assert_eq!(stage.view(&ids[0]).await.state, State::Pending);
}

#[tokio::test]
async fn what_an_attempt_shows_to_say_who_it_is_is_out_of_a_rules_reach() {
    let dest = Destination::start().await;
    let token =
        format!("auth: {{oauth2: {{token_url: 'http://{}/token/500', client_id: c, client_secret: s}}}}", dest.addr);
    let mut stage = Stage::start(
        "",
        &[
            ("basic", hook(&dest, "/200", "auth: {basic: {username: u, password: 'p:q'}}")),
            ("bearer", hook(&dest, "/200", "auth: {bearer: hunter2}")),
            ("oauth2", hook(&dest, "/200", &format!("{token}, retry: {{schedule: [10ms], jitter: 0}}"))),
        ],
    )
    .await;
    for (webhook, shown) in [("basic", "Basic dTpwOnE="), ("bearer", "Bearer hunter2")] {
        let delivery = NewDelivery {
            id: format!("msg_{webhook}"),
            body: Some(Bytes::from_static(b"{}")),
            headers: vec![("authorization".to_owned(), "Bearer forged".to_owned())],
            ordered: false,
            dead: None,
        };
        let arrival = Arrival {
            namespace: "".into(),
            event_id: webhook.into(),
            event_type: "tick".into(),
            conversation: None,
            arrived: Clock::System.now(),
            traceparent: None,
            dedupe: None,
            change: None,
            decisions: vec![(webhook.into(), Decision::Rendered(vec![delivery]))],
            analyses: false,
            waiting_body: None,
            kept_body: None,
        };
        stage.outbox.commit(Batch { arrivals: vec![arrival], ..Batch::default() }).await.expect("durable");
        let id = format!("msg_{webhook}");
        stage.reaches(&id, State::Delivered).await;
        let seen = dest.seen().into_iter().find(|seen| seen.headers.get("webhook-id") == Some(&id)).expect("a request");
        assert_eq!(seen.headers["authorization"], shown);
    }
    let ids = stage.arrive(&["oauth2"], None, 1).await;
    let view = stage.reaches(&ids[0], State::Dead).await;
    assert_eq!(view.reason.as_deref(), Some("auth"), "it was tried again as after a network fault");
    assert_eq!(view.attempts.iter().map(|a| a.status.as_str()).collect::<Vec<_>>(), ["auth", "auth"]);
    let error = view.attempts[1].error.clone().unwrap_or_default();
    assert_eq!(error, "no token from the token endpoint 127.0.0.1: it answered 500");
}

#[tokio::test]
async fn a_paused_webhook_starts_nothing_more() {
    let dest = Destination::start().await;
    let mut stage = Stage::start("", &[("crm", hook(&dest, "/hold", "concurrency: 2"))]).await;
    let ids = stage.arrive(&["crm"], None, 10).await;
    until("two are in flight", async || (dest.at("/hold") == 2).then_some(())).await;
    assert_eq!(stage.outbox.pause("crm", true).await.expect("durable"), Stood::Yes);
    stage.handle.pause("crm", true).await;
    dest.gate.add_permits(100);
    until("both ended", async || {
        let done = stage.outbox.ledger().await.expect("readable").webhooks[0].delivered;
        (done == 2).then_some(())
    })
    .await;
    // What arrives meanwhile is held too.
    let late = stage.arrive(&["crm"], None, 1).await.remove(0);
    let view = stage.reaches(&late, State::Held).await;
    assert_eq!((view.reason.as_deref(), dest.at("/hold")), (Some("paused"), 2));
    assert_eq!(stage.outbox.pause("crm", false).await.expect("durable"), Stood::Yes);
    stage.handle.pause("crm", false).await;
    for id in ids.iter().chain([&late]) {
        stage.reaches(id, State::Delivered).await;
    }
    assert_eq!(dest.at("/hold"), 11, "each went once");
}

#[tokio::test]
async fn the_lower_priority_number_goes_first_when_places_are_short() {
    let dest = Destination::start().await;
    let mut stage = Stage::start(
        "concurrency: 1",
        &[
            ("gate", hook(&dest, "/hold", "")),
            ("later", hook(&dest, "/200/later", "priority: 5")),
            ("sooner", hook(&dest, "/200/sooner", "priority: -5")),
        ],
    )
    .await;
    stage.arrive(&["gate"], None, 1).await;
    until("the only place is taken", async || (dest.at("/hold") == 1).then_some(())).await;
    // Whoever knows of the later ones knows of the sooner ones; without priorities the two would take turns.
    let mut ids = stage.arrive(&["sooner"], None, 20).await;
    ids.extend(stage.arrive(&["later"], None, 20).await);
    dest.gate.add_permits(1);
    for id in &ids {
        stage.reaches(id, State::Delivered).await;
    }
    let order: Vec<bool> = dest.seen().iter().skip(1).map(|seen| seen.path.ends_with("sooner")).collect();
    assert_eq!(order.len(), 40);
    assert!(order[..20].iter().all(|sooner| *sooner), "{order:?}");
}

#[tokio::test]
async fn an_overloaded_destination_is_asked_less_at_once() {
    let dest = Destination::start().await;
    let more = "concurrency: 16, retry: {schedule: [10ms, 10ms], jitter: 0}";
    let mut stage = Stage::start("", &[("crm", hook(&dest, "/hold/429/200", more))]).await;
    let ids = stage.arrive(&["crm"], None, 17).await;
    until("as many as may be are in flight", async || (dest.at("/hold") == 16).then_some(())).await;
    dest.gate.add_permits(1);
    // The first 429 halves what may be in flight: nothing takes its place.
    until("it came back", async || {
        let mut tried = 0;
        for id in &ids {
            tried += stage.view(id).await.attempts.len();
        }
        (tried == 1).then_some(())
    })
    .await;
    assert_eq!(dest.at("/hold"), 16);
    dest.gate.add_permits(1_000);
    for id in &ids {
        let view = stage.reaches(id, State::Delivered).await;
        assert_eq!(view.attempts.iter().map(|a| a.status.as_str()).collect::<Vec<_>>(), ["429", "200"], "{id}");
    }
}
