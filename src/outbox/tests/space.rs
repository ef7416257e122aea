//! The size limit: history gives way, then dead letters, then, where asked for, pending begins.

use super::*;
use crate::event::own::{Trouble, Troubles};

const MAX: u64 = 2 << 20;

fn small(when_full: WhenFull) -> Options {
    Options { max_bytes: MAX, when_full, ..options() }
}

fn big(id: &str, event_type: &str) -> Arrival {
    let body = Some(Bytes::from(vec![b'x'; 60_000]));
    Arrival {
        event_type: Arc::from(event_type),
        decisions: vec![(Arc::from("crm"), Decision::Rendered(vec![NewDelivery { body, ..delivery(id) }]))],
        ..arrival(id, id)
    }
}

async fn offer(rig: &Rig, arrival: Arrival) -> Result<Receipt, CommitError> {
    rig.outbox.commit(Batch { arrivals: vec![arrival], ..Batch::default() }).await
}

/// Fills it with `event_type` until it refuses; how many fitted.
async fn fill(rig: &Rig, event_type: &str) -> u64 {
    for n in 0..1000 {
        if let Err(error) = offer(rig, big(&format!("{event_type}{n}"), event_type)).await {
            assert!(matches!(error, CommitError::Full { max_bytes: MAX, .. }), "{error}");
            return n;
        }
        assert!(rig.outbox.bytes() <= MAX, "{} after {n}", rig.outbox.bytes());
    }
    panic!("it never refused");
}

#[tokio::test]
async fn a_full_outbox_refuses_what_is_new_and_takes_results() {
    let rig = Rig::with(small(WhenFull::Reject));
    let fitted = fill(&rig, "conversation.completed").await;
    assert!(fitted > 20, "{fitted}");
    assert_eq!(*rig.outbox.health().borrow(), Health::Full);
    rig.accept(vec![Arrival { dedupe: dedupe(1, 1, START.plus(HOUR)), ..arrival("nothing", "c") }]).await;
    offer(&rig, big("own", "sidehook.outbox.full")).await.expect("sidehook's own events have a reserve");
    let one = rig.due("crm").await.remove(0);
    rig.settle(one.row, Verdict::Retry(START)).await;
    rig.settle(one.row, Verdict::Delivered).await;
    let other = rig.due("crm").await.remove(0);
    rig.settle(other.row, Verdict::Delivered).await;
    assert_eq!(*rig.outbox.health().borrow(), Health::Healthy, "a result that makes room is enough");
    offer(&rig, big("again", "conversation.completed")).await.expect("there is room again");
    assert_eq!(*rig.outbox.health().borrow(), Health::Healthy);
    let row = rig.row("crm").await;
    assert_eq!(row.pending, fitted);
}

#[tokio::test]
async fn history_gives_way_first_then_the_oldest_dead() {
    let rig = Rig::with(Options { retain_bodies: true, ..small(WhenFull::Reject) });
    for (n, verdict) in [Verdict::Dead("x".to_owned()), Verdict::Delivered, Verdict::Dead("x".to_owned())]
        .into_iter()
        .cycle()
        .take(9)
        .enumerate()
    {
        offer(&rig, big(&format!("m{n}"), "e.x")).await.expect("it fits");
        let row = rig.due("crm").await[0].row;
        rig.clock.advance(Duration::from_secs(1));
        rig.settle(row, verdict).await;
    }
    let fitted = fill(&rig, "conversation.completed").await;
    let row = rig.row("crm").await;
    assert_eq!((row.pending, row.delivered, row.dead, row.purged), (fitted, 0, 0, 9));
    assert!(fitted > 20, "{fitted}");
}

#[tokio::test]
async fn begins_give_way_where_that_is_asked_for() {
    let rig = Rig::with(small(WhenFull::DropOldestBegin));
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let hear = Arc::clone(&told);
    rig.outbox.tell_troubles(Troubles::to(move |trouble| hear.lock().expect("no panic").push(trouble)));
    for n in 0..10 {
        offer(&rig, big(&format!("b{n}"), "conversation.begin")).await.expect("it fits");
    }
    let follower = rendered("follower", "b0", "crm");
    rig.accept(vec![follower]).await;
    let mut fitted = 0;
    while rig.row("crm").await.dead == 0 {
        offer(&rig, big(&format!("m{fitted}"), "conversation.completed")).await.expect("begins give way");
        fitted += 1;
    }
    let view = rig.view("b0").await;
    assert_eq!((view.state, view.reason.as_deref()), (State::Dead, Some("outbox_full")));
    let retried = rig.outbox.retry("b0").await.expect("an answer");
    assert_eq!(retried, Retried::NoPayload("its payload was dropped when the outbox was full".to_owned()));
    let row = rig.row("crm").await;
    assert_eq!((row.dead, row.pending), (1, fitted + 1 + 9), "no more than needed");
    let first = Trouble::DeliveryDead { webhook: "crm".into(), delivery: "b0".into(), reason: "outbox_full".into() };
    assert_eq!(*told.lock().expect("no panic"), [first]);
    assert!(rig.due_ids("crm").await.contains(&"follower".to_owned()), "a dead begin releases its end");
    let more = fill(&rig, "conversation.failed").await;
    let row = rig.row("crm").await;
    assert_eq!((row.dead, row.purged, row.pending), (0, 10, fitted + 1 + more), "then the dead give way");
}

#[tokio::test]
async fn beyond_the_reserve_even_a_trace_is_refused() {
    let rig = Rig::with(small(WhenFull::Reject));
    rig.accept(vec![big("a", "conversation.completed")]).await;
    rig.outbox.set_options(Options { max_bytes: 0, ..options() });
    let trace = || Arrival { dedupe: dedupe(1, 1, START.plus(HOUR)), ..arrival("nothing", "c") };
    offer(&rig, trace()).await.expect("within the reserve");
    rig.outbox.set_options(small(WhenFull::Reject));
    let arrivals = (0..25).map(|n| big(&format!("m{n}"), "conversation.completed")).collect();
    rig.accept(arrivals).await;
    rig.outbox.set_options(Options { max_bytes: 0, ..options() });
    let error = offer(&rig, trace()).await.expect_err("beyond it");
    assert!(matches!(error, CommitError::Full { max_bytes: 0, .. }), "{error}");
}

#[tokio::test]
async fn a_batch_larger_than_the_limit_takes_nothing_with_it() {
    let rig = Rig::with(small(WhenFull::Reject));
    rig.accept(vec![rendered("a", "c", "crm")]).await;
    let row = rig.due("crm").await[0].row;
    rig.settle(row, Verdict::Delivered).await;
    let body = Some(Bytes::from(vec![b'x'; 3 << 20]));
    let decisions = vec![(Arc::from("crm"), Decision::Rendered(vec![NewDelivery { body, ..delivery("b") }]))];
    let error = offer(&rig, Arrival { decisions, ..arrival("b", "c") }).await.expect_err("too large");
    assert!(error.to_string().contains("of 2097152 bytes"), "{error}");
    assert_eq!(rig.row("crm").await.delivered, 1);
}

#[tokio::test]
async fn free_pages_are_given_back_and_leave_nothing_readable() {
    let rig = Rig::new();
    let arrivals = (0..200).map(|n| big(&format!("m{n}"), "conversation.completed")).collect();
    rig.accept(arrivals).await;
    let mut done = 0;
    while done < 200 {
        let due = rig.due("crm").await;
        done += due.len();
        let settle = |d: &Ready| Settlement { row: d.row, attempt: None, verdict: Verdict::Delivered };
        let settlements = due.iter().map(settle).collect();
        rig.outbox.commit(Batch { settlements, ..Batch::default() }).await.expect("a commit");
    }
    assert!(rig.outbox.bytes() < 1 << 20, "{}", rig.outbox.bytes());
    rig.outbox.maintain().await;
    rig.outbox.close().await;
    let file = std::fs::read(rig.dir.path().join("outbox.db")).expect("the store");
    assert!(file.len() < 10 << 20, "{}", file.len());
    assert!(!file.windows(64).any(|w| w == [b'x'; 64]), "what is dropped is overwritten");
}

/// Nothing that was delivered is left in the log either, once there was a pause.
#[tokio::test]
async fn the_log_is_emptied_when_nothing_happens() {
    let rig = Rig::new();
    let holds = || {
        ["outbox.db", "outbox.db-wal"].iter().any(|name| {
            let file = std::fs::read(rig.dir.path().join(name)).expect(name);
            file.windows(16).any(|w| w == b"a word in secret")
        })
    };
    let mut one = rendered("m", "c", "crm");
    let body = Some(Bytes::from_static(b"{\"said\":\"a word in secret\"}"));
    one.decisions[0].1 = Decision::Rendered(vec![NewDelivery { body, ..delivery("m") }]);
    rig.accept(vec![one]).await;
    assert!(holds());
    let row = rig.due("crm").await[0].row;
    rig.settle(row, Verdict::Delivered).await;
    let emptied = async {
        while holds() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(60), emptied).await.expect("the log is emptied");
    rig.accept(vec![rendered("n", "c", "crm")]).await;
    assert_eq!(rig.due_ids("crm").await, ["n"]);
}
