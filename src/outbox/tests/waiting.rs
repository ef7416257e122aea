//! Events that wait: stored once, first in line, released to any number of deliveries.

use super::*;

fn waiting(event: &str, conversation: &str, webhooks: &[(&str, Timestamp)]) -> Arrival {
    let wait = |(name, deadline): &(&str, Timestamp)| {
        (Arc::from(*name), Decision::Waiting { deadline: *deadline, ordered: true })
    };
    Arrival {
        decisions: webhooks.iter().map(wait).collect(),
        waiting_body: Some(Bytes::from(format!("\"{event}\""))),
        ..arrival(event, conversation)
    }
}

async fn release(rig: &Rig, wait: i64, decision: Decision) {
    let batch = Batch { releases: vec![Release { wait, decision }], ..Batch::default() };
    rig.outbox.commit(batch).await.expect("a commit");
}

#[tokio::test]
async fn a_wait_keeps_its_place_and_its_deliveries_take_it() {
    let rig = Rig::new();
    let mut ready = rig.outbox.ready().expect("the receiver");
    rig.accept(vec![rendered("1", "c", "crm"), waiting("w", "c", &[("crm", START.plus(HOUR))])]).await;
    rig.accept(vec![rendered("4", "c", "crm")]).await;
    let first = ready.recv().await.expect("a delivery");
    rig.settle(first.row, Verdict::Delivered).await;
    assert!(rig.due("crm").await.is_empty(), "the place is taken");
    let rig = rig.reopen(options()).await;
    let mut ready = rig.outbox.ready().expect("the receiver");

    let waits = rig.outbox.waits_of(&key("c")).await.expect("a look");
    assert_eq!(waits.len(), 1);
    assert_eq!((&*waits[0].webhook, &waits[0].body[..]), ("crm", &b"\"w\""[..]));
    assert_eq!(waits[0].conversation, Some(key("c")));
    release(&rig, waits[0].row, Decision::Rendered(vec![delivery("2"), delivery("3")])).await;
    release(&rig, waits[0].row, Decision::Rendered(vec![delivery("twice")])).await;
    for expected in ["2", "3", "4"] {
        let told = ready.recv().await.expect("a delivery");
        assert_eq!(told.id, expected);
        assert_eq!(rig.due_ids("crm").await, [expected]);
        rig.settle(told.row, Verdict::Delivered).await;
    }
    let row = rig.row("crm").await;
    assert_eq!((row.matched, row.rendered, row.waiting, row.delivered, row.created), (3, 3, 0, 4, 4));
    assert_eq!(rig.count("SELECT (SELECT count(*) FROM waiting_event) + (SELECT count(*) FROM lane)"), 0);
}

#[tokio::test]
async fn a_wait_that_comes_to_nothing_lets_the_next_go() {
    let rig = Rig::new();
    let soon = START.plus(HOUR);
    rig.accept(vec![waiting("w", "c", &[("crm", soon)]), rendered("2", "c", "crm")]).await;
    let wait = rig.outbox.waits_of(&key("c")).await.expect("a look")[0].row;
    release(&rig, wait, Decision::Filtered).await;
    assert_eq!(rig.due_ids("crm").await, ["2"]);
    let row = rig.row("crm").await;
    assert_eq!((row.matched, row.filtered, row.rendered, row.waiting), (2, 1, 1, 0));
}

#[tokio::test]
async fn the_event_is_kept_until_its_last_wait_is_over() {
    let rig = Rig::new();
    let (soon, late) = (START.plus(HOUR), START.plus(2 * HOUR));
    rig.accept(vec![waiting("w", "c", &[("crm", soon), ("other", late)])]).await;
    let (due, next) = rig.outbox.waits_due(START, 10).await.expect("a look");
    assert_eq!((due.len(), next), (0, Some(soon)));
    let (due, next) = rig.outbox.waits_due(soon, 10).await.expect("a look");
    assert_eq!((due.len(), &*due[0].webhook, next), (1, "crm", Some(late)));
    release(&rig, due[0].row, Decision::RuleFailed(Vec::new())).await;
    assert_eq!(rig.count("SELECT count(*) FROM waiting_event"), 1);
    let (due, next) = rig.outbox.waits_due(late, 10).await.expect("a look");
    assert_eq!((due.len(), next), (1, None));
    release(&rig, due[0].row, Decision::Filtered).await;
    assert_eq!(rig.count("SELECT count(*) FROM waiting_event"), 0);
    assert_eq!((rig.row("crm").await.rule_failed, rig.row("other").await.filtered), (1, 1));
}

#[tokio::test]
async fn a_bounded_look_says_when_to_look_again() {
    let rig = Rig::new();
    for n in 0..5 {
        rig.accept(vec![waiting("w", &format!("c{n}"), &[("crm", START)])]).await;
    }
    let (due, next) = rig.outbox.waits_due(START, 3).await.expect("a look");
    assert_eq!((due.len(), next), (3, Some(START)));
}

#[tokio::test]
async fn waits_of_a_removed_webhook_stay_until_it_returns_or_dead_letters_would_go() {
    let rig = Rig::new();
    rig.outbox.set_webhooks(vec![known("crm", true, "v")]).await.expect("a commit");
    rig.accept(vec![waiting("w", "c", &[("crm", START)]), rendered("2", "c", "crm")]).await;
    rig.outbox.set_webhooks(Vec::new()).await.expect("a commit");
    rig.clock.advance(HOUR);
    rig.outbox.maintain().await;
    assert_eq!(rig.outbox.waits_due(rig.now(), 10).await.expect("a look").0.len(), 0);
    assert_eq!(rig.outbox.waits_of(&key("c")).await.expect("a look").len(), 0);
    assert_eq!(rig.row("crm").await.waiting, 1);
    rig.outbox.set_webhooks(vec![known("crm", true, "v")]).await.expect("a commit");
    assert_eq!(rig.outbox.waits_due(rig.now(), 10).await.expect("a look").0.len(), 1);
    rig.outbox.set_webhooks(Vec::new()).await.expect("a commit");
    rig.clock.advance(31 * 24 * HOUR);
    rig.outbox.maintain().await;
    let row = rig.row("crm").await;
    assert_eq!((row.matched, row.waiting, row.rendered, row.held), (1, 0, 1, 1));
    assert_eq!(rig.count("SELECT count(*) FROM waiting_event"), 0);
    rig.outbox.set_webhooks(vec![known("crm", true, "v")]).await.expect("a commit");
    assert_eq!(rig.due_ids("crm").await, ["2"], "its place is free");
}

#[tokio::test]
async fn waits_of_a_webhook_that_is_not_enabled_hide_no_others() {
    let rig = Rig::new();
    let webhooks = |enabled| vec![known("off", enabled, "v"), known("on", true, "v")];
    rig.outbox.set_webhooks(webhooks(true)).await.expect("a commit");
    for n in 0..5 {
        rig.accept(vec![waiting("w", &format!("c{n}"), &[("off", START)])]).await;
    }
    rig.accept(vec![waiting("x", "x", &[("on", START), ("off", START)])]).await;
    rig.outbox.set_webhooks(webhooks(false)).await.expect("a commit");
    let (due, next) = rig.outbox.waits_due(START, 3).await.expect("a look");
    let names: Vec<_> = due.iter().map(|wait| &*wait.webhook).collect();
    assert_eq!((names, next), (vec!["on"], None));
    assert_eq!(rig.outbox.waits_of(&key("x")).await.expect("a look").len(), 1);
    rig.outbox.set_webhooks(webhooks(true)).await.expect("a commit");
    assert_eq!(rig.outbox.waits_due(START, 10).await.expect("a look").0.len(), 7);
}
