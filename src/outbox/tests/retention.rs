//! What leaves with age, and when.

use super::*;

/// Deliveries of one webhook: `d` delivered, `x` dead, `p` pending, all created at the start.
async fn three(options: Options) -> Rig {
    let rig = Rig::with(options);
    rig.outbox.set_webhooks(vec![known("crm", true, "v1")]).await.expect("known");
    rig.accept(["d", "x", "p"].map(|id| rendered(id, id, "crm")).into()).await;
    for ready in rig.due("crm").await {
        match ready.id.as_str() {
            "d" => rig.settle(ready.row, Verdict::Delivered).await,
            "x" => rig.settle(ready.row, Verdict::Dead("status_400".to_owned())).await,
            _ => {}
        }
    }
    rig
}

async fn left(rig: &Rig) -> Vec<String> {
    rig.outbox.maintain().await;
    let mut ids = Vec::new();
    for id in ["d", "x", "p"] {
        if rig.outbox.get(id).await.expect("a look").is_some() {
            ids.push(id.to_owned());
        }
    }
    ids
}

#[tokio::test]
async fn history_and_dead_letters_leave_with_their_ages_and_what_is_owed_stays() {
    let rig = three(options()).await;
    assert_eq!(left(&rig).await, ["d", "x", "p"]);
    rig.clock.advance(24 * HOUR);
    assert_eq!(left(&rig).await, ["d", "x", "p"], "not before it is older");
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(left(&rig).await, ["x", "p"]);
    rig.clock.advance(29 * 24 * HOUR);
    assert_eq!(left(&rig).await, ["p"]);
    let row = rig.row("crm").await;
    assert_eq!((row.created, row.pending, row.delivered, row.dead, row.purged), (1, 1, 0, 0, 2), "{row:?}");
    rig.clock.advance(1000 * 24 * HOUR);
    assert_eq!(left(&rig).await, ["p"], "what is owed is never purged");
}

#[tokio::test]
async fn new_ages_count_for_what_is_there_already() {
    let rig = three(options()).await;
    rig.clock.advance(HOUR);
    assert_eq!(left(&rig).await, ["d", "x", "p"]);
    rig.outbox.set_options(Options {
        retain_delivered: Duration::from_secs(60),
        retain_dead: Duration::from_secs(60),
        ..options()
    });
    assert_eq!(left(&rig).await, ["p"]);
}

#[tokio::test]
async fn conversations_leave_after_their_end_or_when_they_stay_open_too_long() {
    let rig = Rig::new();
    let change = |ended| ConversationChange {
        append_messages: vec![Bytes::from_static(b"{}")],
        ended: Some(ended),
        ..ConversationChange::default()
    };
    let stateful = |id: &str, ended| Arrival { change: Some(change(ended)), ..arrival(id, id) };
    rig.accept(vec![stateful("ended", Some(START)), stateful("open", None)]).await;
    let there = async || {
        rig.outbox.maintain().await;
        let mut found = Vec::new();
        for id in ["ended", "open"] {
            if rig.outbox.conversation(&key(id), true).await.expect("a look").is_some() {
                found.push(id);
            }
        }
        found
    };
    rig.clock.advance(HOUR);
    assert_eq!(there().await, ["ended", "open"]);
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(there().await, ["open"], "after conversations.retain");
    rig.clock.advance(Duration::from_millis((7 * 24 - 1) * 3600 * 1000 - 1));
    assert_eq!(there().await, ["open"]);
    rig.clock.advance(Duration::from_millis(1));
    assert_eq!(there().await, Vec::<&str>::new(), "after conversations.max_open_age");
    assert_eq!(rig.count("SELECT count(*) FROM message"), 0, "its messages go with it");
}
