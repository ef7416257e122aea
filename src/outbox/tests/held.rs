//! Standings: paused, disabled, removed and disabled webhooks hold what they are owed.

use super::*;

fn gone(hash: &str) -> Standing {
    Standing::Disabled { reason: "410".to_owned(), file_hash: hash.to_owned() }
}

#[tokio::test]
async fn a_paused_webhook_holds_what_is_pending_and_what_comes() {
    let rig = Rig::new();
    rig.accept(vec![rendered("a", "a", "crm"), rendered("b", "b", "crm"), rendered("c", "c", "crm")]).await;
    let due = rig.due("crm").await;
    rig.settle(due[0].row, Verdict::Retry(START.plus(HOUR))).await;
    rig.stand("crm", Standing::Paused).await;
    rig.accept(vec![rendered("d", "d", "crm")]).await;
    assert!(rig.due("crm").await.is_empty());
    let row = rig.row("crm").await;
    assert_eq!((row.pending, row.held, row.created), (0, 4, 4));
    let view = rig.view("d").await;
    assert_eq!((view.state, view.reason.as_deref(), view.next_attempt_at), (State::Held, Some("paused"), None));
    assert_eq!(rig.outbox.retry("d").await.expect("an answer"), Retried::Held);

    // What was in flight may still end.
    rig.settle(due[1].row, Verdict::Delivered).await;
    assert_eq!(rig.outbox.retry(&due[1].id).await.expect("an answer"), Retried::Halted, "it is not held, and stays so");
    let rig = rig.reopen(options()).await;
    assert_eq!(rig.outbox.standing("crm").await.expect("a look"), Standing::Paused);
    assert_eq!(rig.row("crm").await.held, 3);

    rig.clock.advance(Duration::from_secs(1));
    rig.stand("crm", Standing::Active).await;
    assert_eq!(rig.row("crm").await.pending, 3);
    let mut due = rig.due_ids("crm").await;
    due.sort();
    assert_eq!(
        due,
        ["c", "d"],
        "the one that waited for its retry goes on waiting: the pause may be the receiver's wish"
    );
    assert_eq!(rig.outbox.next_due("crm", rig.now()).await.expect("a look"), Some(START.plus(HOUR)));
}

#[tokio::test]
async fn a_410_holds_until_the_file_changes() {
    let rig = Rig::new();
    rig.outbox.set_webhooks(vec![known("crm", true, "v1")]).await.expect("a commit");
    rig.accept(vec![rendered("a", "c", "crm"), rendered("b", "c", "crm")]).await;
    let row = rig.due("crm").await[0].row;
    let batch = Batch {
        settlements: vec![Settlement {
            row,
            attempt: Some(attempt(START, "410")),
            verdict: Verdict::Held("gone".to_owned()),
        }],
        standings: vec![(Arc::from("crm"), gone("v1"))],
        ..Batch::default()
    };
    rig.outbox.commit(batch).await.expect("a commit");
    let view = rig.view("a").await;
    assert_eq!((view.state, view.reason.as_deref(), view.attempts.len()), (State::Held, Some("disabled"), 1));
    assert_eq!(rig.row("crm").await.held, 2);
    let rig = rig.reopen(options()).await;
    rig.outbox.set_webhooks(vec![known("crm", true, "v1")]).await.expect("a commit");
    assert_eq!(rig.outbox.standing("crm").await.expect("a look"), gone("v1"));
    rig.outbox.set_webhooks(vec![known("crm", true, "v2")]).await.expect("a commit");
    assert_eq!(rig.outbox.standing("crm").await.expect("a look"), Standing::Active);
    assert_eq!(rig.due_ids("crm").await, ["a"], "and the order is kept");
    // A verdict on the old file comes too late to disable the new one; what it set aside is tried again.
    let batch = Batch {
        settlements: vec![Settlement { row, attempt: None, verdict: Verdict::Held("gone".to_owned()) }],
        standings: vec![(Arc::from("crm"), gone("v1"))],
        ..Batch::default()
    };
    rig.outbox.commit(batch).await.expect("a commit");
    assert_eq!(rig.outbox.standing("crm").await.expect("a look"), Standing::Active);
    assert!(rig.due("crm").await.is_empty(), "not at once");
    rig.clock.advance(Duration::from_secs(1));
    assert_eq!(rig.due_ids("crm").await, ["a"]);
}

#[tokio::test]
async fn removed_and_disabled_webhooks_hold_until_they_return() {
    let rig = Rig::new();
    let both = |enabled| vec![known("crm", enabled, "v1"), known("other", true, "v1")];
    rig.outbox.set_webhooks(both(true)).await.expect("a commit");
    rig.accept(vec![rendered("a", "c", "crm"), rendered("o", "c", "other")]).await;
    let state = async || {
        let view = rig.view("a").await;
        (view.state, view.reason)
    };
    let held = |why: &str| (State::Held, Some(why.to_owned()));
    rig.outbox.set_webhooks(both(false)).await.expect("a commit");
    assert_eq!(state().await, held("not_enabled"));
    rig.outbox.set_webhooks(vec![known("other", true, "v1")]).await.expect("a commit");
    assert_eq!(state().await, held("removed"));
    assert_eq!(rig.due_ids("other").await, ["o"]);
    // A generation that is still at work may render for it: held too.
    rig.accept(vec![rendered("b", "d", "crm")]).await;
    assert_eq!(rig.row("crm").await.held, 2);
    rig.clock.advance(400 * 24 * HOUR);
    rig.outbox.maintain().await;
    assert_eq!(rig.row("crm").await.held, 2, "age takes nothing that is owed");
    rig.outbox.set_webhooks(both(true)).await.expect("a commit");
    assert_eq!(state().await, (State::Pending, None));
    assert_eq!(rig.due_ids("crm").await, ["a", "b"]);
}

#[tokio::test]
async fn a_resume_tells_what_is_ready() {
    let rig = Rig::new();
    rig.stand("crm", Standing::Paused).await;
    let mut ready = rig.outbox.ready().expect("the receiver");
    rig.accept(vec![rendered("a", "c", "crm")]).await;
    assert!(ready.try_recv().is_err());
    rig.stand("crm", Standing::Active).await;
    assert_eq!(ready.recv().await.expect("a delivery").id, "a");
}
