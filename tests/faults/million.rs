//! A million deliveries wait for a destination that is down: what that costs while they wait, at a start, and how fast they
//! go once it is back. They are put into the store by the library's own writer; everything else is the binary.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidehook::clock::Clock;
use sidehook::outbox::{
    Arrival, Batch, ConversationKey, Decision, KnownWebhook, NewDelivery, Options, Outbox, WhenFull,
};
use tokio_util::sync::CancellationToken;

use super::{Sent, Tally, note, record_clean, rounds, sender};
use crate::support::{Receiver, Sidehook, cli};

/// How much memory may grow by while they wait.
const GROWTH_MB: f64 = 64.0;
/// Events whose rate, from sending to arrival, is the fresh one.
const FRESH: usize = 8000;
/// How long the others are watched as they go out.
const DRAIN: Duration = Duration::from_secs(10);

/// Fills the outbox with deliveries of a kilobyte, each of a conversation of its own.
async fn fill(dir: &Path, count: u64) {
    const AT_ONCE: u64 = 10_000;
    let day = Duration::from_secs(86_400);
    let options = Options {
        max_bytes: 1 << 34,
        when_full: WhenFull::Reject,
        retain_delivered: day,
        retain_dead: day,
        retain_events: Duration::ZERO,
        retain_bodies: false,
        retain_conversations: day,
        max_open_age: day,
        encryption_keys: Vec::new(),
    };
    let outbox = Outbox::open(dir, options, Clock::System).unwrap();
    let known = KnownWebhook { name: Arc::from("x"), enabled: true, file_hash: String::new() };
    outbox.set_webhooks(vec![known]).await.unwrap();
    let (empty, kind, name): (Arc<str>, Arc<str>, Arc<str>) = (Arc::from(""), Arc::from("a.b"), Arc::from("x"));
    let words = "words and more words ".repeat(47);
    let arrived = Clock::System.now();
    let arrival = |n: u64| {
        let id = format!("waits_{n}");
        let body = Bytes::from(format!("{{\"id\":\"{id}\",\"words\":\"{words}\"}}"));
        let delivery =
            NewDelivery { id: format!("msg_{id}"), body: Some(body), headers: Vec::new(), ordered: true, dead: None };
        Arrival {
            namespace: Arc::clone(&empty),
            conversation: Some(ConversationKey { namespace: Arc::clone(&empty), id: Arc::from(id.as_str()) }),
            event_id: Arc::from(id),
            event_type: Arc::clone(&kind),
            arrived,
            traceparent: None,
            dedupe: None,
            change: None,
            decisions: vec![(Arc::clone(&name), Decision::Rendered(vec![delivery]))],
            analyses: false,
            waiting_body: None,
            kept_body: None,
        }
    };
    for from in (0..count).step_by(usize::try_from(AT_ONCE).unwrap()) {
        let arrivals = (from..count.min(from + AT_ONCE)).map(arrival).collect();
        outbox.commit(Batch { arrivals, ..Batch::default() }).await.unwrap();
    }
    outbox.close().await;
}

fn resident_mb(sidehook: &Sidehook) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", sidehook.pid())).unwrap();
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Requests that arrived.
fn arrived(receiver: &Receiver) -> usize {
    receiver.count("/x")
}

fn per_second(count: usize, since: Instant) -> f64 {
    f64::from(u32::try_from(count).unwrap()) / since.elapsed().as_secs_f64()
}

/// Events a second, from the first that is sent to the last that arrives.
async fn fresh_rate(sidehook: &Sidehook, receiver: &Receiver, sent: &Arc<Sent>) -> f64 {
    let (start, before) = (Instant::now(), arrived(receiver));
    let stop = CancellationToken::new();
    let senders: Vec<_> =
        (0..64).map(|_| tokio::spawn(sender(sidehook.ingest.clone(), Arc::clone(sent), stop.clone()))).collect();
    while arrived(receiver) - before < FRESH {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let rate = per_second(arrived(receiver) - before, start);
    stop.cancel();
    for sender in senders {
        sender.await.unwrap();
    }
    rate
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_million_pending_deliveries_cost_no_memory_and_drain() {
    let pending = rounds("SIDEHOOK_PENDING", 1_000_000);
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook(
        "/x",
        "events: [\"*\"]\nparams: {id: event.id}\nconcurrency: 64\nbreaker: {failures: 10, open_for: 2s}\n\
         retry: {schedule: {initial: 1s, factor: 1, max: 1s, attempts: 100}}",
    );
    let mut sidehook = Sidehook::builder().main("outbox: {max_bytes: 16GiB}").webhook("x", &webhook).start().await;
    let empty = resident_mb(&sidehook);
    let sent = Arc::new(Sent { spread: true, ..Sent::default() });
    let fresh = fresh_rate(&sidehook, &receiver, &sent).await;
    super::settled(&sidehook, "x", &receiver, "/x", &sent).await;
    sidehook.stop().await;

    let filling = Instant::now();
    fill(&sidehook.config.join("data"), pending).await;
    println!("filled in {:?}", filling.elapsed());
    receiver.stop().await;
    let starting = Instant::now();
    sidehook.start().await;
    let ready = starting.elapsed();
    let at_ready = resident_mb(&sidehook);
    // New ones come while they wait; the destination is tried now and then.
    let stop = CancellationToken::new();
    let coming = tokio::spawn(sender(sidehook.ingest.clone(), Arc::clone(&sent), stop.clone()));
    let (waiting, mut most) = (Instant::now(), at_ready);
    while waiting.elapsed() < DRAIN {
        most = most.max(resident_mb(&sidehook));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    stop.cancel();
    coming.await.unwrap();
    // Once more, with what a kill leaves in the log.
    sidehook.kill().await;
    let starting = Instant::now();
    sidehook.start().await;
    let again = starting.elapsed();
    let (new, old) = (sent.acknowledged().len(), arrived(&receiver));

    receiver.resume().await;
    while arrived(&receiver) < old + 500 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (draining, before) = (Instant::now(), arrived(&receiver));
    while draining.elapsed() < DRAIN {
        most = most.max(resident_mb(&sidehook));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let drained = per_second(arrived(&receiver) - before, draining);

    // Those that wait on are not lost: what arrived and what is owed are all there are.
    let ledger = sidehook.ledger("x").await;
    assert_eq!(ledger["created"].as_u64(), Some(pending + new as u64), "{ledger}");
    sidehook.stop().await;
    let said =
        cli(&["outbox", "verify", sidehook.config.join("data").to_str().unwrap(), "--json"]).await.expect(0).json();
    let row = said["ledger"]["webhooks"].as_array().unwrap().iter().find(|w| w["webhook"] == "x").unwrap().clone();
    let number = |key: &str| usize::try_from(row[key].as_u64().unwrap()).unwrap();
    let requests = receiver.requests("/x");
    let good = requests.iter().filter(|r| r.answered == Some(200));
    let (mut ids, mut duplicated) = (BTreeSet::new(), 0);
    for request in good {
        duplicated += usize::from(!ids.insert(request.id().to_owned()));
    }
    assert_eq!((number("dead"), number("held")), (0, 0), "{row}");
    let lost = number("created") - number("pending") - ids.len();
    let tally = Tally { acknowledged: number("created"), lost, duplicated };
    note(
        24,
        &format!(
            "{pending} pending: start to ready {:.2} s, after a SIGKILL {:.2} s; resident {empty:.0} MB empty, {at_ready:.0} MB at ready, {most:.0} MB at most; \
             drains {drained:.0}/s, fresh {fresh:.0}/s, ratio {:.2}",
            ready.as_secs_f64(),
            again.as_secs_f64(),
            drained / fresh
        ),
    );
    assert!(most - empty < GROWTH_MB, "{empty} MB with an empty outbox, {most} MB with {pending} pending");
    record_clean(24, "a million deliveries wait, then the destination is back", 1, &tally);
}
