//! Messages to a sink that takes them, or not.

use std::collections::VecDeque;
use std::sync::Mutex;

use super::*;
use crate::source::probe::Probe;

fn feed(sink: Probe) -> (Feed<Probe>, Arc<Probe>) {
    let sink = Arc::new(sink);
    (Feed::new("x".into(), Arc::clone(&sink), CancellationToken::new()), sink)
}

fn message(ids: &[&str], offset: &str) -> Message {
    let item =
        |id: &&str| Incoming::read(&Json::parse(format!("{{\"id\":\"{id}\",\"type\":\"a.b\"}}")).unwrap()).unwrap();
    let items = ids.iter().map(item).collect();
    Message { items, place: Place { stream: None, offset: Some(offset.to_owned()) } }
}

fn full() -> Refusal {
    Refusal::Full { detail: "no space".into(), retry_after: Duration::from_secs(5) }
}

#[tokio::test]
async fn messages_go_together_and_a_bad_one_holds_up_nobody() {
    let (feed, sink) = feed(Probe { conflict: Some("b"), ..Probe::default() });
    let several = |ids: [&str; 3]| ids.map(|id| message(&[id], &format!("after {id}"))).to_vec();
    feed.together(several(["1", "2", "3"]), Patience::Wait).await.unwrap();
    assert_eq!((sink.commits(), sink.offset().as_deref()), (1, Some("after 3")));
    feed.together(several(["a", "b", "c"]), Patience::Wait).await.unwrap();
    assert_eq!(sink.ids(), ["1", "2", "3", "a", "c"]);
    assert_eq!(sink.offset().as_deref(), Some("after c"));
    feed.together(several(["d", "e", "b"]), Patience::Wait).await.unwrap();
    assert_eq!(sink.offset().as_deref(), Some("after b"), "the place of one that cannot be taken is stored too");
    feed.together(vec![message(&["b"], "alone")], Patience::Wait).await.unwrap();
    assert_eq!((sink.ids().len(), sink.offset().as_deref()), (7, Some("alone")));
    let got = sink.commits();
    feed.together(vec![Message::default(), Message::default()], Patience::Wait).await.unwrap();
    assert_eq!(sink.commits(), got, "nothing to take and no place: nothing is committed");
}

#[tokio::test(start_paused = true)]
async fn a_full_outbox_is_waited_for_or_not() {
    let refusals = Mutex::new(VecDeque::from([full(), full(), full()]));
    let (patient, sink) = feed(Probe { refusals, ..Probe::default() });
    patient.together(vec![message(&["1"], "1")], Patience::Wait).await.unwrap();
    assert_eq!(sink.ids(), ["1"]);

    let (busy, sink) = feed(Probe { refuse: Some(full()), ..Probe::default() });
    let messages = || vec![message(&["1"], "1"), message(&["2"], "2")];
    assert_eq!(busy.together(messages(), Patience::None).await, Err(2));
    let ending = busy.stop().clone();
    tokio::spawn(async move {
        tokio::time::sleep(Duration::from_secs(60)).await;
        ending.cancel();
    });
    assert_eq!(busy.together(messages(), Patience::Wait).await, Err(2), "the end ends the wait");
    let wrong = busy.line(Bytes::from_static(b"{")).await.unwrap_err();
    let told = "this is not JSON: EOF while parsing an object at line 1, column 2";
    assert_eq!((wrong.reason, wrong.detail.as_str()), ("malformed", told));
    assert!(sink.ids().is_empty());
}
