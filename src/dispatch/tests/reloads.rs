//! New generations while deliveries are under way.

use super::*;

#[tokio::test]
async fn gone_disables_until_the_file_changes() {
    let dest = Destination::start().await;
    let mut stage = Stage::start("", &[("crm", hook(&dest, "/410/200", "concurrency: 1"))]).await;
    let ids = stage.arrive(&["crm"], None, 3).await;
    for id in &ids {
        stage.reaches(id, State::Held).await;
    }
    assert_eq!(dest.seen().len(), 1, "nothing is sent after the 410");

    let next = stage.reload("", &[("crm", hook(&dest, "/200", "concurrency: 2"))]);
    stage.outbox.set_webhooks(known(&next)).await.expect("known");
    stage.handle.wake_all().await;
    for id in &ids {
        stage.reaches(id, State::Delivered).await;
    }
}

#[tokio::test]
async fn a_410_that_was_meant_for_an_older_file_disables_nothing() {
    let dest = Destination::start().await;
    let mut stage = Stage::start("", &[("crm", hook(&dest, "/hold/410", ""))]).await;
    let ids = stage.arrive(&["crm"], None, 1).await;
    until("the attempt is under way", async || (dest.at("/hold") == 1).then_some(())).await;
    let next = stage.reload("", &[("crm", hook(&dest, "/200", ""))]);
    stage.outbox.set_webhooks(known(&next)).await.expect("known");
    stage.handle.wake_all().await;
    dest.gate.add_permits(1);
    let view = stage.reaches(&ids[0], State::Delivered).await;
    let error = view.attempts[0].error.as_deref().expect("an error");
    assert_eq!(error, "the destination is gone for good; the webhook's file changed meanwhile");
    assert!(stage.told.lock().expect("no panic").is_empty(), "it is told as if the webhook was disabled");
}

#[tokio::test]
async fn another_destination_does_not_pay_for_what_the_last_one_did() {
    let dest = Destination::start().await;
    let slow = |path: &str| hook(&dest, path, "retry: {schedule: [0s]}, breaker: {failures: 1, open_for: 10m}");
    let before = [("broken", slow("/503")), ("busy", hook(&dest, "/429", "retry: {schedule: [0s]}"))];
    let mut stage = Stage::start("", &before).await;
    stage.arrive(&["broken", "busy"], None, 1).await;
    until("the breaker is open", async || {
        let status = stage.handle.status("broken", Clock::System.now())?;
        (status.breaker == BreakerState::Open && dest.at("/429") > 0).then_some(())
    })
    .await;
    let next = stage.reload("", &[("broken", slow("/200")), ("busy", hook(&dest, "/200", "retry: {schedule: [0s]}"))]);
    stage.outbox.set_webhooks(known(&next)).await.expect("known");
    stage.handle.wake_all().await;
    let ids = stage.arrive(&["broken", "busy"], None, 1).await;
    for id in &ids {
        stage.reaches(id, State::Delivered).await;
    }
    let status = stage.handle.status("broken", Clock::System.now()).expect("known");
    assert_eq!(status.breaker, BreakerState::Closed);
}

#[tokio::test]
async fn a_reload_changes_the_way_but_never_the_body() {
    let dest = Destination::start().await;
    let slow = "retry: {schedule: [300ms], jitter: 0}";
    let mut stage = Stage::start("", &[("crm", hook(&dest, "/503", slow))]).await;
    let ids = stage.arrive(&["crm"], None, 1).await;
    until("the first attempt", async || (dest.seen().len() == 1).then_some(())).await;
    let next = stage.reload("", &[("crm", hook(&dest, "/200", &format!("{slow}, headers: {{X-Rule: configured}}")))]);
    stage.outbox.set_webhooks(known(&next)).await.expect("known");
    stage.reaches(&ids[0], State::Delivered).await;
    let seen = dest.seen();
    assert_eq!((seen[1].path.as_str(), &seen[1].body, seen[1].id()), ("/200", &seen[0].body, seen[0].id()));
    assert_eq!(seen[0].headers["x-rule"], "frozen");
    assert_eq!(seen[1].headers["x-rule"], "configured", "what the configuration sets wins");
    let (first, second): (i64, i64) = (
        seen[0].headers["webhook-timestamp"].parse().expect("seconds"),
        seen[1].headers["webhook-timestamp"].parse().expect("seconds"),
    );
    assert!(second >= first && Timestamp::from_millis(second * 1000) <= Clock::System.now());
}
