//! What one part of sidehook does to the others: a rule that always times out costs the other webhooks little, and an intake
//! that is stuck holds up no delivery.

use std::time::{Duration, Instant};

use sidehook::app::App;
use sidehook::clock::{Clock, Entropy};
use tokio_util::sync::CancellationToken;

use crate::support::events::event;
use crate::support::{Connection, Receiver, Reply, Sidehook};

/// Events a second.
const RATE: u32 = 200;
/// Length of one measured stretch.
const STRETCH: Duration = Duration::from_secs(4);

/// Sends at the rate for one stretch; answers the ids with the moment each was sent.
async fn stretch(ingest: &str, name: &str) -> Vec<(String, Instant)> {
    let count = RATE * u32::try_from(STRETCH.as_secs()).unwrap();
    let mut connection = Connection::tcp(ingest).await.unwrap();
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / RATE);
    let mut sent = Vec::new();
    for n in 0..count {
        ticks.tick().await;
        let id = format!("{name}-{n}");
        let body = event(&id, "a.b", &id).to_string();
        sent.push((id, Instant::now()));
        let headers = [("content-type", "application/json")];
        connection.send("POST", "/v1/events", &headers, body).await.unwrap().expect(202);
    }
    sent
}

/// p99 from sending to arrival at `/fine`.
async fn p99(receiver: &Receiver, sent: &[(String, Instant)]) -> Duration {
    let last = format!("{} of a stretch", sent.len());
    let prefix = sent[0].0.split('-').next().unwrap();
    let arrived = receiver
        .wait_for(&last, |all| {
            let mine = all.iter().filter(|r| r.path == "/fine");
            let mine: std::collections::HashMap<_, _> = mine
                .map(|r| (r.json()["id"].as_str().unwrap().to_owned(), r.at))
                .filter(|(id, _)| id.starts_with(prefix))
                .collect();
            (mine.len() == sent.len()).then_some(mine)
        })
        .await;
    let mut took: Vec<_> = sent.iter().map(|(id, at)| arrived[id].saturating_duration_since(*at)).collect();
    took.sort();
    took[took.len() * 99 / 100]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_always_times_out_at_most_doubles_the_others_p99() {
    let receiver = Receiver::start().await;
    let fine = receiver.webhook("/fine", "events: [\"*\"]\nparams: {id: event.id}\nordering: none");
    let hanging = receiver.webhook("/never", "events: [\"*\"]\nrule: hang.rhai\non_rule_error: skip");
    let sidehook = Sidehook::builder()
        .main("limits: {script_operations: 1000000000}")
        .webhook("fine", &fine)
        .rule("hang.rhai", "fn transform(event, payload) { let n = 0; loop { n += 1; } }")
        .start()
        .await;
    // Warm, then without and with the hanging rule in turn, so that other work on the machine weighs on both alike.
    p99(&receiver, &stretch(&sidehook.ingest, "warm").await).await;
    let mut ratios = Vec::new();
    for round in 0..3 {
        let without = p99(&receiver, &stretch(&sidehook.ingest, &format!("without{round}")).await).await;
        sidehook.write("webhooks/hanging.yaml", &hanging);
        sidehook.admin_post("/api/v1/reload", "").await.expect(200);
        let with = p99(&receiver, &stretch(&sidehook.ingest, &format!("with{round}")).await).await;
        sidehook.remove("webhooks/hanging.yaml");
        sidehook.admin_post("/api/v1/reload", "").await.expect(200);
        println!("p99 without {without:?}, with {with:?}");
        // Twice, or 20 ms more where everything is so fast that a tick of the scheduler would decide.
        ratios.push(with <= (without * 2).max(without + Duration::from_millis(20)));
    }
    let failed = sidehook.metric("sidehook_rule_errors_total", &["rule=\"hang\""]).await;
    assert!(failed >= 5.0, "the rule timed out {failed} times");
    assert!(ratios.iter().filter(|&&good| good).count() >= 2, "the p99 more than doubled");
    assert!(receiver.requests("/never").is_empty());
}

/// The intake's only thread is this test's, which does nothing until the second attempt has arrived.
#[tokio::test]
async fn deliveries_go_out_while_the_intake_is_stuck() {
    let elsewhere = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let receiver = elsewhere.spawn(Receiver::start()).await.unwrap();
    receiver.on_each("/x", |_, n| Reply::status(if n == 0 { 503 } else { 200 }));
    let webhook = receiver.webhook("/x", "events: [\"*\"]\nretry: {schedule: [1s, 1s]}");
    let sidehook = Sidehook::builder().webhook("x", &webhook).prepare();
    let app = App::start(&sidehook.config, Clock::System, Entropy::system()).await.unwrap();
    sidehook.send(&event("evt_1", "a.b", "c")).await;
    receiver.wait("/x", 1).await;
    let stuck = Instant::now();
    while receiver.requests("/x").len() < 2 {
        assert!(stuck.elapsed() < Duration::from_secs(20), "no second attempt");
        std::thread::sleep(Duration::from_millis(10));
    }
    let left = app.drain(CancellationToken::new()).await;
    assert_eq!((left.deliveries, left.events), (0, 0));
    elsewhere.shutdown_background();
}
