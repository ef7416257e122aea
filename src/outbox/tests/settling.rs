//! Results of attempts, history, and deliveries that are asked for again.

use super::*;

#[tokio::test]
async fn a_delivered_one_leaves_its_payload_and_keeps_its_history() {
    let rig = Rig::new();
    rig.accept(vec![rendered("a", "c", "crm")]).await;
    let row = rig.due("crm").await[0].row;
    rig.settle(row, Verdict::Retry(START.plus(HOUR))).await;
    rig.settle(row, Verdict::Delivered).await;
    let view = rig.view("a").await;
    assert_eq!((view.state, view.reason, view.next_attempt_at), (State::Delivered, None, None));
    assert_eq!(view.attempts, [attempt(START, "200"), attempt(START, "200")]);
    assert_eq!(rig.count("SELECT (SELECT count(*) FROM body) + (SELECT count(*) FROM kept_body)"), 0);
    assert_eq!(rig.count("SELECT count(*) FROM lane"), 0);
    let retried = rig.outbox.retry("a").await.expect("an answer");
    let why = "payloads are dropped once delivered; outbox.retain.bodies: true keeps them";
    assert_eq!(retried, Retried::NoPayload(why.to_owned()));
    let row = rig.row("crm").await;
    assert_eq!((row.created, row.delivered, row.pending), (1, 1, 0));
}

#[tokio::test]
async fn a_delivered_one_is_sent_again_where_payloads_are_kept() {
    let rig = Rig::with(Options { retain_bodies: true, ..options() });
    rig.accept(vec![rendered("a", "c", "crm")]).await;
    let row = rig.due("crm").await[0].row;
    rig.settle(row, Verdict::Delivered).await;
    assert_eq!(rig.outbox.retry("a").await.expect("an answer"), Retried::Yes);
    let due = rig.due("crm").await;
    assert_eq!((due[0].id.as_str(), &due[0].body[..], due[0].attempts), ("a", &b"{\"id\":\"a\"}"[..], 0));
    let row = rig.row("crm").await;
    assert_eq!((row.created, row.delivered, row.pending), (1, 0, 1));
}

#[tokio::test]
async fn a_result_that_comes_twice_counts_once() {
    let rig = Rig::new();
    rig.accept(vec![rendered("a", "c", "crm"), rendered("b", "c", "crm")]).await;
    let row = rig.due("crm").await[0].row;
    rig.settle(row, Verdict::Delivered).await;
    rig.settle(row, Verdict::Delivered).await;
    rig.settle(row, Verdict::Dead("late".to_owned())).await;
    rig.settle(row, Verdict::Retry(START)).await;
    rig.settle(999, Verdict::Delivered).await;
    assert_eq!(rig.view("a").await.attempts.len(), 1);
    let counts = rig.row("crm").await;
    assert_eq!((counts.created, counts.delivered, counts.pending, counts.dead), (2, 1, 1, 0));
    assert_eq!(rig.due_ids("crm").await, ["b"]);
}

#[tokio::test]
async fn a_success_after_giving_up_is_a_success() {
    let rig = Rig::new();
    rig.accept(vec![rendered("a", "c", "crm")]).await;
    let row = rig.due("crm").await[0].row;
    rig.settle(row, Verdict::Dead("outbox_full".to_owned())).await;
    rig.settle(row, Verdict::Delivered).await;
    assert_eq!(rig.view("a").await.state, State::Delivered);
    let counts = rig.row("crm").await;
    assert_eq!((counts.delivered, counts.dead), (1, 0));
    assert_eq!(rig.count("SELECT count(*) FROM kept_body"), 0);
}

#[tokio::test]
async fn attempts_are_bounded_and_cut() {
    let rig = Rig::new();
    rig.accept(vec![rendered("a", "c", "crm")]).await;
    let row = rig.due("crm").await[0].row;
    for n in 0..limits::ATTEMPTS_KEPT + 5 {
        let attempt = Attempt {
            status: n.to_string(),
            error: Some("é".repeat(1000)),
            response: Some("x".repeat(10_000)),
            ..attempt(START, "")
        };
        let settlement = Settlement { row, attempt: Some(attempt), verdict: Verdict::Retry(START) };
        rig.outbox.commit(Batch { settlements: vec![settlement], ..Batch::default() }).await.expect("a commit");
    }
    let attempts = rig.view("a").await.attempts;
    assert_eq!((attempts.len(), attempts[0].status.as_str(), attempts[49].status.as_str()), (50, "5", "54"));
    assert_eq!(attempts[0].error.as_ref().map(String::len), Some(1024));
    assert_eq!(attempts[0].response.as_ref().map(String::len), Some(4096));
    assert_eq!(rig.due("crm").await[0].attempts, 55);
}

#[tokio::test]
async fn dead_letters_of_failed_rules_are_counted_and_refused_without_payload() {
    let rig = Rig::new();
    let dead = |id: &str, body| NewDelivery { dead: Some("rule_error: x".to_owned()), body, ..delivery(id) };
    let decisions = vec![
        (Arc::from("none"), Decision::RuleFailed(Vec::new())),
        (Arc::from("letter"), Decision::RuleFailed(vec![dead("l", None)])),
        (Arc::from("params"), Decision::RuleFailed(vec![delivery("p")])),
    ];
    let kept_body = Some(Bytes::from_static(b"{\"event\":1}"));
    rig.accept(vec![Arrival { decisions, kept_body, ..arrival("e", "c") }]).await;
    rig.accept(vec![rendered("next", "c", "letter")]).await;
    let (none, letter, params) = (rig.row("none").await, rig.row("letter").await, rig.row("params").await);
    assert_eq!((none.rule_failed, none.created), (1, 0));
    assert_eq!((letter.rule_failed, letter.dead, letter.pending), (1, 1, 1));
    assert_eq!((params.rule_failed, params.pending), (1, 1));
    assert_eq!(rig.due_ids("letter").await, ["next"], "a dead letter blocks nobody");

    let refused = rig.outbox.retry("l").await.expect("an answer");
    let why = "it has no payload (rule_error: x) and its event was not kept; outbox.retain.events keeps events for \
               rendering again";
    assert_eq!(refused, Retried::NoPayload(why.to_owned()));
    let kept = rig.outbox.kept_event("l").await.expect("a look").expect("its event");
    assert_eq!((&*kept.webhook, &kept.body[..]), ("letter", &b"{\"event\":1}"[..]));
    let body = Bytes::from_static(b"{\"again\":1}");
    assert_eq!(rig.outbox.retry_with("l", body, Vec::new()).await.expect("an answer"), Retried::Yes);
    assert_eq!(&rig.due("letter").await[0].body[..], b"{\"again\":1}", "and it is first again");
    assert_eq!(rig.row("letter").await.pending, 2);
    assert_eq!(rig.outbox.retry("nobody").await.expect("an answer"), Retried::Unknown);
}

#[tokio::test]
async fn dead_letters_are_asked_for_again_by_filter() {
    let rig = Rig::new();
    let many = limits::RETENTION_SLICE_ROWS + 20;
    let arrivals =
        (0..many).map(|n| rendered(&format!("m{n}"), &format!("c{n}"), if n % 2 == 0 { "crm" } else { "b" })).collect();
    rig.accept(arrivals).await;
    let mut settlements = Vec::new();
    for webhook in ["crm", "b"] {
        for one in rig.due(webhook).await {
            settlements.push(Settlement { row: one.row, attempt: None, verdict: Verdict::Dead("x".to_owned()) });
        }
    }
    rig.outbox.commit(Batch { settlements, ..Batch::default() }).await.expect("a commit");
    let filter = Filter { webhook: Some("crm".to_owned()), ..Filter::default() };
    assert_eq!(rig.outbox.retry_where(&filter).await.expect("an answer"), many as u64 / 2);
    assert_eq!((rig.row("crm").await.dead, rig.row("b").await.dead), (0, many as u64 / 2));
    let one = Filter { conversation: Some("c1".to_owned()), ..Filter::default() };
    assert_eq!(rig.outbox.retry_where(&one).await.expect("an answer"), 1);
    assert_eq!(rig.outbox.retry_where(&Filter::default()).await.expect("an answer"), many as u64 / 2 - 1);
    let pending = Filter { state: Some(State::Pending), ..Filter::default() };
    assert_eq!(rig.outbox.retry_where(&pending).await.expect("an answer"), many as u64);
    let nobody = Filter { webhook: Some("nobody".to_owned()), ..pending };
    assert_eq!(rig.outbox.retry_where(&nobody).await.expect("an answer"), 0);
}

#[tokio::test]
async fn history_and_dead_letters_leave_with_age() {
    let rig = Rig::new();
    let arrivals: Vec<_> = (0..1200).map(|n| rendered(&format!("m{n}"), &format!("c{n}"), "crm")).collect();
    rig.accept(arrivals).await;
    let due = rig.outbox.due("crm", START, 2000).await.expect("a look");
    let settle = |row, verdict| Settlement { row, attempt: Some(attempt(START, "200")), verdict };
    let mut settlements: Vec<_> = due.iter().skip(1).map(|d| settle(d.row, Verdict::Delivered)).collect();
    settlements[0].verdict = Verdict::Dead("x".to_owned());
    rig.outbox.commit(Batch { settlements, ..Batch::default() }).await.expect("a commit");
    rig.clock.advance(24 * HOUR);
    rig.outbox.maintain().await;
    assert_eq!(rig.row("crm").await.purged, 0, "not older than a day yet");
    rig.clock.advance(Duration::from_millis(1));
    rig.outbox.maintain().await;
    let row = rig.row("crm").await;
    assert_eq!((row.purged, row.created, row.delivered, row.dead, row.pending), (1198, 2, 0, 1, 1));
    rig.clock.advance(30 * 24 * HOUR);
    rig.outbox.maintain().await;
    let row = rig.row("crm").await;
    assert_eq!((row.purged, row.created, row.dead, row.pending), (1199, 1, 0, 1));
    assert_eq!(rig.count("SELECT (SELECT count(*) FROM attempt) + (SELECT count(*) FROM kept_body)"), 0);
}

#[tokio::test]
async fn recent_events_come_newest_first() {
    let rig = Rig::with(Options { retain_events: HOUR, ..options() });
    for n in 1..4u8 {
        let kept_body = Some(Bytes::from(vec![n]));
        rig.accept(vec![Arrival { dedupe: dedupe(n, 1, START.plus(HOUR)), kept_body, ..arrival("e", "c") }]).await;
    }
    assert_eq!(rig.outbox.recent_events(2).await.expect("a look"), [&[3][..], &[2]]);
    assert_eq!(rig.outbox.recent_events(9).await.expect("a look").len(), 3);
    assert!(rig.outbox.recent_events(0).await.expect("a look").is_empty());
}

#[tokio::test]
async fn kept_events_and_dedupe_keys_leave_with_age() {
    let rig = Rig::with(Options { retain_events: HOUR, ..options() });
    for n in 0..3u8 {
        let until = START.plus(HOUR * u32::from(n + 1));
        let kept_body = Some(Bytes::from_static(b"{}"));
        rig.accept(vec![Arrival { dedupe: dedupe(n + 1, 1, until), kept_body, ..arrival("e", "c") }]).await;
    }
    rig.clock.advance(2 * HOUR);
    rig.outbox.maintain().await;
    assert_eq!(rig.count("SELECT count(*) FROM kept_event"), 0);
    assert_eq!(rig.count("SELECT count(*) FROM dedupe"), 1);
}
