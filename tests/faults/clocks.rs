//! Clocks that jump, and days that pass. The clock is a hand-moved one, so sidehook runs inside the test: the same wiring
//! as the binary's, the same listeners, outbox and connections.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sidehook::app::App;
use sidehook::clock::{Clock, Entropy, Timestamp};
use tokio_util::sync::CancellationToken;

use super::{PATIENT, Sent, Tally, count, record_clean};
use crate::support::{Connection, Receiver, Reply, Sidehook, cli, eventually};

const HOUR: Duration = Duration::from_secs(3600);
const START: Timestamp = Timestamp::from_millis(1_767_441_490_000);

/// Moves a manual clock back.
fn back(clock: &Clock, by: Duration) {
    let Clock::Manual(millis) = clock else { panic!("a clock that cannot be moved") };
    millis.fetch_sub(i64::try_from(by.as_millis()).unwrap(), Ordering::SeqCst);
}

async fn send(sidehook: &Sidehook, sent: &Sent) -> String {
    let mut connection = Connection::tcp(&sidehook.ingest).await.unwrap();
    let id = sent.id();
    assert_eq!(sent.send(&mut connection, &id).await, Some(202));
    id
}

/// Ends it and has its outbox checked; nothing may be owed any more.
async fn end(app: App, sidehook: &Sidehook) {
    let left = app.drain(CancellationToken::new()).await;
    assert_eq!((left.deliveries, left.events), (0, 0));
    cli(&["outbox", "verify", sidehook.config.join("data").to_str().unwrap()]).await.expect(0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clock_jumps_both_ways() {
    const JUMPS: u64 = 16;
    let receiver = Receiver::start().await;
    // Every third attempt fails, so that something waits for its time at each jump.
    receiver.on_each("/x", |_, n| Reply::status(if n % 3 == 1 { 503 } else { 200 }));
    let webhook = receiver.webhook("/x", &PATIENT.replace("50ms", "10m"));
    let sidehook =
        Sidehook::builder().main("outbox: {retain: {delivered: 900d, dead: 900d}}").webhook("x", &webhook).prepare();
    let clock = Clock::manual(START);
    let app = App::start(&sidehook.config, clock.clone(), Entropy::system()).await.unwrap();
    let sent = Sent::default();
    for jump in 0..JUMPS {
        for _ in 0..3 {
            send(&sidehook, &sent).await;
        }
        let far = HOUR * [1, 30, 24 * 7, 24 * 40][(jump / 2 % 4) as usize];
        if jump % 2 == 0 {
            back(&clock, far);
        } else {
            clock.advance(far * 2);
        }
        // Whatever the clock says, what is new goes out now: a conversation that nothing else holds up.
        let fresh = format!("fresh-{jump}");
        let event = crate::support::events::event(&fresh, "a.b", &fresh);
        sidehook.send(&event).await;
        receiver
            .wait_for("a new event after the jump", |all| all.iter().find(|r| r.json()["id"] == *fresh).map(drop))
            .await;
    }
    let acknowledged: std::collections::BTreeSet<String> =
        sent.acknowledged().into_iter().chain((0..JUMPS).map(|n| format!("fresh-{n}"))).collect();
    // Far behind every time that any delivery was put off to.
    clock.advance(HOUR * 24 * 365);
    let tally = eventually("every event", async || {
        clock.advance(HOUR);
        let row = sidehook.ledger("x").await;
        let tally = count(&receiver, "/x", &acknowledged);
        if row["pending"] == 0 { Ok(tally) } else { Err(format!("{row} {tally:?}")) }
    })
    .await;
    end(app, &sidehook).await;
    record_clean(22, "clock jumps back and forth by an hour to 80 days", JUMPS, &tally);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_destination_is_dead_for_days_while_others_flow() {
    const DAYS: u64 = 5;
    const STEPS: u64 = DAYS * 6;
    let (dead, alive) = (Receiver::start().await, Receiver::start().await);
    let patient = "events: [\"*\"]\nparams: {id: event.id}\n\
                   retry: {schedule: {initial: 5s, factor: 4, max: 3h, attempts: 100}}";
    let sidehook = Sidehook::builder()
        .main("outbox: {retain: {delivered: 30d}}")
        .webhook("dead", &dead.webhook("/x", patient))
        .webhook("alive", &alive.webhook("/x", patient))
        .prepare();
    let clock = Clock::manual(START);
    let app = App::start(&sidehook.config, clock.clone(), Entropy::system()).await.unwrap();
    dead.stop().await;
    let sent = Sent::default();
    for step in 0..STEPS {
        for _ in 0..4 {
            send(&sidehook, &sent).await;
        }
        // All of them at the one that lives, before the clock moves on.
        alive.wait("/x", usize::try_from(step + 1).unwrap() * 4).await;
        clock.advance(HOUR * 4);
    }
    let row = sidehook.ledger("dead").await;
    assert_eq!((row["pending"].as_u64(), row["dead"].as_u64()), (Some(STEPS * 4), Some(0)), "{row}");
    dead.resume().await;
    let acknowledged = sent.acknowledged();
    eventually("what the dead one is owed", async || {
        clock.advance(HOUR);
        let row = sidehook.ledger("dead").await;
        if row["pending"] == 0 { Ok(()) } else { Err(row.to_string()) }
    })
    .await;
    let (late, early) = (count(&dead, "/x", &acknowledged), count(&alive, "/x", &acknowledged));
    // In order, within each conversation, after all that time.
    let mut last = std::collections::HashMap::new();
    for request in dead.requests("/x") {
        let id = request.json()["id"].as_str().unwrap().to_owned();
        let (name, number) = id.split_once('_').unwrap();
        let number: u64 = number.parse().unwrap();
        let conversation = format!("{name}{}{}", id.len(), number % 10);
        assert!(last.insert(conversation, number).is_none_or(|before| before < number), "{id} overtook");
    }
    end(app, &sidehook).await;
    let both = Tally {
        acknowledged: early.acknowledged,
        lost: early.lost + late.lost,
        duplicated: early.duplicated + late.duplicated,
    };
    record_clean(23, "a destination dead for 5 simulated days while another flows", STEPS, &both);
}
