//! Order within a conversation and webhook.

use futures_util::FutureExt as _;

use super::*;

#[tokio::test]
async fn only_the_first_of_a_lane_is_due() {
    let rig = Rig::new();
    rig.accept(vec![
        rendered("a1", "a", "crm"),
        rendered("a2", "a", "crm"),
        rendered("b1", "b", "crm"),
        rendered("x1", "a", "other"),
    ])
    .await;
    assert_eq!(rig.due_ids("crm").await, ["a1", "b1"]);
    assert_eq!(rig.due_ids("other").await, ["x1"]);
    let row = rig.due("crm").await[0].row;
    rig.settle(row, Verdict::Delivered).await;
    assert_eq!(rig.due_ids("crm").await, ["a2", "b1"]);
}

#[tokio::test]
async fn unordered_deliveries_wait_for_nobody() {
    let rig = Rig::new();
    let loose = |id: &str| NewDelivery { ordered: false, ..delivery(id) };
    let all = Decision::Rendered(vec![loose("1"), loose("2")]);
    rig.accept(vec![Arrival { decisions: vec![(Arc::from("crm"), all)], ..arrival("e", "c") }]).await;
    let mut alone = rendered("3", "c", "crm");
    alone.conversation = None;
    let mut beside = rendered("4", "c", "crm");
    beside.conversation = None;
    rig.accept(vec![alone, beside]).await;
    assert_eq!(rig.due_ids("crm").await, ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn a_retrying_delivery_blocks_its_lane_and_a_dead_one_does_not() {
    let rig = Rig::new();
    rig.accept(vec![rendered("begin", "c", "crm"), rendered("end", "c", "crm")]).await;
    let row = rig.due("crm").await[0].row;
    let later = START.plus(HOUR);
    rig.settle(row, Verdict::Retry(later)).await;
    assert_eq!(rig.due_ids("crm").await, [""; 0]);
    assert_eq!(rig.outbox.next_due("crm", START).await.expect("a look"), Some(later));
    rig.clock.advance(HOUR);
    let due = rig.due("crm").await;
    assert_eq!((due[0].id.as_str(), due[0].attempts), ("begin", 1));
    rig.settle(row, Verdict::Dead("status_400".to_owned())).await;
    assert_eq!(rig.due_ids("crm").await, ["end"]);
    assert_eq!(rig.outbox.next_due("crm", rig.now()).await.expect("a look"), None);
}

#[tokio::test]
async fn a_fan_out_keeps_its_order() {
    let rig = Rig::new();
    let all = Decision::Rendered(vec![delivery("1"), delivery("2"), delivery("3")]);
    rig.accept(vec![Arrival { decisions: vec![(Arc::from("crm"), all)], ..arrival("e", "c") }]).await;
    rig.accept(vec![rendered("4", "c", "crm")]).await;
    for expected in ["1", "2", "3", "4"] {
        let due = rig.due("crm").await;
        assert_eq!(due.iter().map(|d| d.id.as_str()).collect::<Vec<_>>(), [expected]);
        rig.settle(due[0].row, Verdict::Delivered).await;
    }
}

#[tokio::test]
async fn a_dead_letter_that_is_asked_for_again_takes_its_old_place() {
    let rig = Rig::new();
    rig.accept(vec![rendered("begin", "c", "crm"), rendered("end", "c", "crm")]).await;
    let row = rig.due("crm").await[0].row;
    rig.settle(row, Verdict::Dead("status_400".to_owned())).await;
    assert_eq!(rig.due_ids("crm").await, ["end"]);
    assert_eq!(rig.outbox.retry("begin").await.expect("an answer"), Retried::Yes);
    assert_eq!(rig.due_ids("crm").await, ["begin"], "the end is behind it again");
    rig.settle(row, Verdict::Delivered).await;
    assert_eq!(rig.due_ids("crm").await, ["end"]);
}

#[tokio::test]
async fn what_becomes_ready_is_told_with_its_body() {
    let rig = Rig::new();
    let mut ready = rig.outbox.ready().expect("the receiver");
    assert!(rig.outbox.ready().is_none(), "there is one receiver");
    let mut first = rendered("a", "c", "crm");
    first.traceparent = Some(Arc::from("00-1-2-01"));
    if let Decision::Rendered(all) = &mut first.decisions[0].1 {
        all[0].headers = vec![("x-region".to_owned(), "eu".to_owned())];
    }
    rig.accept(vec![first, rendered("b", "c", "crm")]).await;
    let told = ready.recv().await.expect("a delivery");
    assert_eq!((told.id.as_str(), &*told.event_id, &*told.webhook), ("a", "a", "crm"));
    assert_eq!(&told.body[..], b"{\"id\":\"a\"}");
    let found = rig.due("crm").await.remove(0);
    assert_eq!(format!("{found:?}"), format!("{told:?}"), "the store says the same");
    assert!(ready.try_recv().is_err(), "the second is not ready");
    rig.settle(told.row, Verdict::Delivered).await;
    let told = ready.recv().await.expect("the next of the lane");
    assert_eq!((told.id.as_str(), &told.body[..]), ("b", &b"{\"id\":\"b\"}"[..]));
    rig.settle(told.row, Verdict::Retry(START.plus(HOUR))).await;
    assert!(ready.try_recv().is_err(), "not due yet");
    assert_eq!(rig.outbox.retry("b").await.expect("an answer"), Retried::Yes);
    assert_eq!(ready.recv().await.expect("asked for").id, "b");
}

#[tokio::test]
async fn what_does_not_fit_the_channel_is_found_by_a_look() {
    let rig = Rig::new();
    let mut ready = rig.outbox.ready().expect("the receiver");
    rig.accept(vec![rendered("small", "c", "crm")]).await;
    ready.recv().await.expect("a delivery");
    assert_eq!(rig.outbox.left_out().now_or_never(), None, "it was told");
    let many = limits::READY_QUEUE + 50;
    let arrivals = (0..many).map(|n| rendered(&format!("m{n}"), &format!("c{n}"), "crm")).collect();
    rig.accept(arrivals).await;
    let mut told = HashSet::new();
    while told.len() < limits::READY_QUEUE {
        told.insert(ready.recv().await.expect("a delivery").row);
    }
    rig.accept(Vec::new()).await;
    assert!(ready.try_recv().is_err(), "no more were sent");
    rig.outbox.left_out().await;
    assert_eq!(rig.outbox.left_out().now_or_never(), None, "it is said once");
    let rest = rig.outbox.due_beyond("crm", START, 1000, &told).await.expect("a look");
    assert_eq!(rest.len(), 50 + 1, "and the first one, of which nobody told");
}

#[tokio::test]
async fn of_a_payload_that_is_too_large_to_be_announced_somebody_hears() {
    let rig = Rig::new();
    let mut ready = rig.outbox.ready().expect("the receiver");
    let big = NewDelivery { body: Some(Bytes::from(vec![b'x'; limits::READY_BYTES + 1])), ..delivery("big") };
    let decisions = vec![(Arc::from("crm"), Decision::Rendered(vec![big]))];
    rig.accept(vec![Arrival { decisions, ..arrival("e", "c") }]).await;
    rig.outbox.left_out().await;
    assert!(ready.try_recv().is_err());
    assert_eq!(rig.due_ids("crm").await, ["big"]);
}

#[tokio::test]
async fn a_look_for_due_deliveries_is_bounded_in_number_and_bytes() {
    let rig = Rig::new();
    let big = |id: &str| NewDelivery { body: Some(Bytes::from(vec![b'x'; 3 << 20])), ..delivery(id) };
    for n in 0..4 {
        let decisions = vec![(Arc::from("crm"), Decision::Rendered(vec![big(&format!("m{n}"))]))];
        rig.accept(vec![Arrival { decisions, ..arrival("e", &format!("c{n}")) }]).await;
    }
    assert_eq!(rig.due("crm").await.len(), 2);
    assert_eq!(rig.outbox.due("crm", START, 1).await.expect("a look").len(), 1);
}

#[tokio::test]
async fn a_begin_is_dead_once_its_end_is_delivered_where_there_is_no_order() {
    let rig = Rig::new();
    let begin = |id: &str, conversation: &str, namespace: &str, ordered: bool| Arrival {
        event_type: "conversation.begin".into(),
        conversation: Some(ConversationKey { namespace: namespace.into(), id: conversation.into() }),
        decisions: ["crm", "other"]
            .map(|webhook| {
                let delivery = NewDelivery { ordered, ..delivery(&format!("{id}-{webhook}")) };
                (Arc::from(webhook), Decision::Rendered(vec![delivery]))
            })
            .into(),
        ..arrival(id, conversation)
    };
    let end = |id: &str, conversation: &str, ordered: bool| Arrival {
        decisions: vec![(Arc::from("crm"), Decision::Rendered(vec![NewDelivery { ordered, ..delivery(id) }]))],
        ..arrival(id, conversation)
    };
    rig.accept(vec![
        begin("stale", "c", "", false),
        begin("elsewhere", "c", "staging", false),
        begin("another", "d", "", false),
        end("end", "c", false),
        begin("anew", "c", "", false),
    ])
    .await;
    let row = |due: &[Ready], id: &str| due.iter().find(|r| r.id == id).expect("due").row;
    let due = rig.due("crm").await;
    rig.settle(row(&due, "stale-crm"), Verdict::Retry(START.plus(HOUR))).await;
    rig.settle(row(&due, "end"), Verdict::Delivered).await;
    let stale = rig.view("stale-crm").await;
    assert_eq!((stale.state, stale.reason.as_deref()), (State::Dead, Some("superseded")));
    for id in ["elsewhere-crm", "another-crm", "anew-crm", "stale-other"] {
        assert_eq!(rig.view(id).await.state, State::Pending, "{id}");
    }
    assert_eq!(rig.row("crm").await.dead, 1);
    // Asked for by hand, it goes out.
    assert_eq!(rig.outbox.retry("stale-crm").await.expect("a retry"), Retried::Yes);
    assert!(rig.due_ids("crm").await.contains(&"stale-crm".to_owned()));

    // An end that is dead supersedes nothing, and in order nothing can be stale.
    rig.accept(vec![begin("b1", "e", "", false), end("dead-end", "e", false)]).await;
    rig.accept(vec![begin("b2", "f", "", true), end("in-order", "f", true)]).await;
    let due = rig.due("crm").await;
    rig.settle(row(&due, "dead-end"), Verdict::Dead("status_400".to_owned())).await;
    assert_eq!(rig.view("b1-crm").await.state, State::Pending);
    assert!(!rig.due_ids("crm").await.contains(&"in-order".to_owned()));
    let remembered =
        rig.count("SELECT count(*) FROM unordered WHERE row IN (SELECT row FROM delivery WHERE state > 0)");
    assert_eq!(remembered, 0, "what is settled is forgotten");
}
