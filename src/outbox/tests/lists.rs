//! Lists, filters, cursors, and reading beside a running sidehook.

use super::*;

async fn ids(outbox: &Outbox, filter: &Filter, limit: usize) -> Vec<String> {
    let (mut all, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let page = outbox.list(filter, cursor.as_deref(), limit).await.expect("a page");
        assert!(page.items.len() <= limit);
        all.extend(page.items.into_iter().map(|v| v.id));
        cursor = page.next_cursor;
        if cursor.is_none() {
            return all;
        }
    }
}

/// Eight deliveries: two webhooks in turn, one settled each way, one webhook paused.
async fn filled() -> Rig {
    let rig = Rig::new();
    for n in 0..8 {
        let webhook = if n % 2 == 0 { "a" } else { "b" };
        let mut one = rendered(&format!("m{n}"), &format!("c{n}"), webhook);
        if n == 3 {
            one.event_type = Arc::from("conversation.begin");
        }
        rig.accept(vec![one]).await;
        rig.clock.advance(Duration::from_secs(1));
    }
    let due = rig.due("a").await;
    rig.settle(due[0].row, Verdict::Delivered).await;
    rig.settle(due[1].row, Verdict::Dead("status_400".to_owned())).await;
    rig.stand("b", Standing::Paused).await;
    rig
}

#[tokio::test]
async fn filters_pick_and_pages_meet() {
    let rig = filled().await;
    let all = Filter::default();
    let state = |state| Filter { state: Some(state), ..all.clone() };
    let at = |n| Some(START.plus(Duration::from_secs(n)));
    let cases: Vec<(Filter, &[&str])> = vec![
        (all.clone(), &["m7", "m6", "m5", "m4", "m3", "m2", "m1", "m0"]),
        (Filter { webhook: Some("a".into()), ..all.clone() }, &["m6", "m4", "m2", "m0"]),
        (Filter { webhook: Some("x".into()), ..all.clone() }, &[]),
        (state(State::Pending), &["m6", "m4"]),
        (state(State::Held), &["m7", "m5", "m3", "m1"]),
        (state(State::Delivered), &["m0"]),
        (state(State::Dead), &["m2"]),
        (Filter { webhook: Some("b".into()), ..state(State::Pending) }, &[]),
        (Filter { event: Some("conversation.begin".into()), ..all.clone() }, &["m3"]),
        (Filter { conversation: Some("c5".into()), ..all.clone() }, &["m5"]),
        (Filter { since: at(2), until: at(5), ..all.clone() }, &["m4", "m3", "m2"]),
        (Filter { since: at(2), until: at(5), ..state(State::Held) }, &["m3"]),
    ];
    for (filter, expected) in cases {
        for limit in [1, 3, 4, 100] {
            assert_eq!(ids(&rig.outbox, &filter, limit).await, expected, "{filter:?} by {limit}");
        }
    }
}

#[tokio::test]
async fn owed_deliveries_of_several_webhooks_come_in_one_order() {
    let rig = filled().await;
    rig.stand("b", Standing::Active).await;
    let pending = Filter { state: Some(State::Pending), ..Filter::default() };
    for limit in 1..8 {
        assert_eq!(ids(&rig.outbox, &pending, limit).await, ["m7", "m6", "m5", "m4", "m3", "m1"], "{limit}");
    }
}

#[tokio::test]
async fn a_scan_is_bounded_and_goes_on() {
    let rig = Rig::new();
    let many = limits::LIST_SCAN_ROWS + 10;
    for from in (0..many).step_by(5000) {
        let some = (from..many.min(from + 5000)).map(|n| rendered(&format!("m{n}"), &format!("c{n}"), "crm"));
        rig.accept(some.collect()).await;
    }
    let filter = Filter { conversation: Some("c3".into()), ..Filter::default() };
    let page = rig.outbox.list(&filter, None, 50).await.expect("a page");
    assert_eq!(page.items.len(), 0);
    assert!(page.next_cursor.is_some());
    assert_eq!(ids(&rig.outbox, &filter, 50).await, ["m3"]);
    assert_eq!(ids(&rig.outbox, &Filter { state: Some(State::Pending), ..filter }, 50).await, ["m3"]);
}

#[tokio::test]
async fn a_bad_cursor_is_told_apart() {
    let rig = Rig::new();
    let error = rig.outbox.list(&Filter::default(), Some("nonsense"), 10).await.expect_err("a bad cursor");
    assert!(matches!(error, OutboxError::BadCursor), "{error}");
}

#[tokio::test]
async fn it_is_read_beside_a_running_one() {
    let rig = filled().await;
    let reader = Outbox::open_read_only(rig.dir.path(), rig.clock.clone()).expect("a reader");
    assert_eq!(reader.ledger().await.expect("a ledger"), rig.outbox.ledger().await.expect("a ledger"));
    let all = Filter::default();
    assert_eq!(ids(&reader, &all, 3).await, ids(&rig.outbox, &all, 3).await);
    assert_eq!(reader.standing("b").await.expect("a look"), Standing::Paused);
    assert!(reader.bytes() > 0);
    let error = reader.commit(Batch::default()).await.expect_err("read only");
    assert!(matches!(error, CommitError::Closed), "{error}");
    rig.outbox.close().await;
    let reader = Outbox::open_read_only(rig.dir.path(), rig.clock.clone()).expect("a reader without a writer");
    assert_eq!(reader.ledger().await.expect("a ledger").webhooks.len(), 2);
}

#[tokio::test]
async fn the_gauges_know_the_oldest() {
    let rig = filled().await;
    let gauges = rig.outbox.gauges().await.expect("figures");
    let at = |n| START.plus(Duration::from_secs(n));
    assert_eq!(gauges.oldest, [(Arc::from("a"), at(4)), (Arc::from("b"), at(1))]);
    assert_eq!(gauges.bytes, rig.outbox.bytes());
    assert_eq!(gauges.ledger, rig.outbox.ledger().await.expect("a ledger"));
}
