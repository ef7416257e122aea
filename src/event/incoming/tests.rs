//! Items of every accepted shape, and every mistake by its message.

use super::*;

fn read(text: &str) -> Result<Incoming, Vec<ItemError>> {
    Incoming::read(&Json::parse(text.to_owned()).expect("valid JSON"))
}

fn text(json: Option<&Json>) -> String {
    String::from_utf8(json.expect("present").to_bytes().to_vec()).expect("UTF-8")
}

#[test]
fn the_canonical_envelope_is_read() {
    let event = read(
        r#"{"id":"evt_1","type":"conversation.completed","time":"2026-01-03T11:38:10Z",
            "assistant":{"id":2193965165215481856,"name":"Support"},
            "conversation":{"id":2216964057603244032,"messages":[{"role":"user","message":"hello"}],"lang":"de"},
            "argument":{"caller":"x"},"metadata":null,"custom":[1]}"#,
    )
    .expect("an event");
    assert_eq!((&*event.kind, event.id.as_deref()), ("conversation.completed", Some("evt_1")));
    assert_eq!(event.conversation.as_deref(), Some("2216964057603244032"));
    assert_eq!(text(event.maps[0].as_ref()), r#"{"id":"2193965165215481856","name":"Support"}"#);
    assert_eq!(text(event.maps[1].as_ref()), r#"{"lang":"de"}"#);
    assert_eq!(text(event.messages.as_ref()), r#"[{"role":"user","message":"hello"}]"#);
    assert!(event.maps[3].is_none() && event.maps[5].is_none());
    assert_eq!(event.extra.len(), 1);
    assert_eq!(event.identity, Identity::Id);
}

#[test]
fn a_rapida_body_is_recognised_by_its_content() {
    let body = r#"{"event":"conversation.completed","data":{"assistant":{"id":"a","version":"v"},
        "conversation":{"id":7,"messages":[{"message":"hi","role":"user"}]},"analysis":{"s":{"result":"ok"}}},
        "s":{"result":"ok"}}"#;
    let event = read(body).expect("an event");
    assert_eq!(
        (&*event.kind, event.conversation.as_deref(), event.id.as_deref()),
        ("conversation.completed", Some("7"), None)
    );
    assert_eq!(text(event.maps[5].as_ref()), r#"{"s":{"result":"ok"}}"#);
    assert_eq!(event.extra[0].0.as_ref(), "s");
    assert!(matches!(event.identity, Identity::Content(_)));
    assert_eq!(event.dedupe_key(""), read(body).expect("an event").dedupe_key(""));
    assert_ne!(event.dedupe_key(""), event.dedupe_key("other"));
}

#[test]
fn the_newest_rapida_body_keeps_ids_beside_data() {
    let event = read(
        r#"{"assistant":{"id":1},"conversation":{"id":2},"event":"conversation.completed",
            "data":{"version":"1","messages":[{"id":"m","role":"user","content":"x"}],"metadata":{"k":"v"}}}"#,
    )
    .expect("an event");
    assert_eq!(event.conversation.as_deref(), Some("2"));
    assert_eq!(text(event.messages.as_ref()), r#"[{"id":"m","role":"user","content":"x"}]"#);
    assert_eq!(text(event.maps[3].as_ref()), r#"{"k":"v"}"#);
}

#[test]
fn cloud_events_are_read() {
    let event = read(
        r#"{"specversion":"1.0","type":"conversation.begin","source":"/bots/1","id":"A1","subject":"conv-9",
            "time":"2026-01-03T11:38:10Z","traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "data":{"argument":{"a":1},"x":2},"x":3,"y":4,"y":5}"#,
    )
    .expect("an event");
    assert_eq!((event.conversation.as_deref(), event.id.as_deref()), (Some("conv-9"), Some("A1")));
    assert_eq!(event.identity, Identity::Source(Arc::from("/bots/1")));
    assert_eq!(event.traceparent.as_deref(), Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"));
    let extra: Vec<_> = event.extra.iter().map(|(key, value)| (&**key, text(Some(value)))).collect();
    let first = |key, value: &str| (key, value.to_owned());
    assert_eq!(extra[0], first("x", "2"), "data wins over attributes");
    assert!(extra.contains(&first("y", "4")) && !extra.contains(&first("y", "5")), "{extra:?}");
    assert_eq!(text(event.maps[2].as_ref()), r#"{"a":1}"#);
    let nested = read(
        r#"{"specversion":"1.0","type":"conversation.completed","source":"s","id":"A2",
            "data":{"event":"conversation.completed","data":{"conversation":{"id":"c"}}}}"#,
    )
    .expect("an event");
    assert_eq!(nested.conversation.as_deref(), Some("c"));
    let odd = read(r#"{"specversion":"1.0","type":"x","source":"s","id":"A3","traceparent":"00-ab-cd-01"}"#);
    assert_eq!(odd.expect("an event").traceparent, None, "what is no trace context is not kept as one");
}

#[test]
fn of_a_repeated_member_the_last_counts() {
    let event = read(r#"{"type":"x","a":1,"b":2,"a":3,"argument":{"k":1},"argument":{"k":2}}"#).expect("an event");
    let extra: Vec<_> = event.extra.iter().map(|(key, value)| (&**key, text(Some(value)))).collect();
    assert_eq!(extra, [("b", "2".to_owned()), ("a", "3".to_owned())]);
    assert_eq!(text(event.maps[2].as_ref()), r#"{"k":2}"#);
}

#[test]
fn one_item_has_no_more_mistakes_than_are_told() {
    let item = format!(r#"{{"type":"x",{}"argument":1}}"#, r#""argument":1,"#.repeat(1000));
    assert_eq!(read(&item).expect_err("mistakes").len(), limits::PROBLEM_ERRORS);
}

#[test]
fn every_mistake_of_an_item_is_named() {
    for (item, want) in [
        ("[]", vec![("", "must be an object, not an array")]),
        ("{}", vec![("/type", "required")]),
        (r#"{"type":7}"#, vec![("/type", "must be a string, not a number")]),
        (r#"{"type":""}"#, vec![("/type", "must not be empty")]),
        (r#"{"type":"a b"}"#, vec![("/type", "may hold only letters, digits, '_', '-' and '.'")]),
        (r#"{"type":"sidehook.x"}"#, vec![("/type", "types that begin with \"sidehook.\" are sidehook's own")]),
        (r#"{"type":"conversation.begin"}"#, vec![("/conversation/id", "required")]),
        (
            r#"{"type":"conversation.begin","conversation":{"id":[]}}"#,
            vec![("/conversation/id", "must be a string or a number, not an array")],
        ),
        (
            r#"{"type":"conversation.begin","conversation":{"id":"c","messages":{}}}"#,
            vec![("/conversation/messages", "must be an array, not an object")],
        ),
        (
            r#"{"type":"conversation.begin","conversation":{"id":"c","messages":[{},1]}}"#,
            vec![("/conversation/messages/1", "must be an object, not a number")],
        ),
        (
            r#"{"type":"x","argument":[],"time":"soon","id":true}"#,
            vec![
                ("/id", "must be a string or a number, not a boolean"),
                ("/time", "must be an RFC 3339 time such as \"2026-01-03T11:38:10Z\""),
                ("/argument", "must be an object, not an array"),
            ],
        ),
        (r#"{"type":"message.sent","conversation":{"id":1}}"#, vec![("/message", "required")]),
        (
            r#"{"type":"message.sent","conversation":{"id":1},"message":"hi"}"#,
            vec![("/message", "must be an object, not a string")],
        ),
        (r#"{"event":"conversation.completed","data":{}}"#, vec![("/data/conversation/id", "required")]),
        (
            r#"{"specversion":"0.3","type":"x","data":1}"#,
            vec![
                ("/specversion", "must be \"1.0\""),
                ("/source", "required"),
                ("/id", "required"),
                ("/data", "must be an object, not a number"),
            ],
        ),
    ] {
        let got = read(item).expect_err(item);
        let got: Vec<_> = got.iter().map(|e| (e.pointer.as_str(), e.reason.as_str())).collect();
        assert_eq!(got, want, "for {item}");
    }
    let long = format!(r#"{{"type":"{}"}}"#, "x".repeat(300));
    assert_eq!(read(&long).expect_err("too long")[0].reason, "must not be longer than 256 bytes");
}

#[test]
fn of_a_key_that_is_there_twice_the_last_counts() {
    let text = r#"{"type":"a.b","id":"1","type":"c.d","metadata":{"k":1,"k":2},"id":"2"}"#;
    let item = Incoming::read(&Json::parse(text.to_owned()).expect("JSON")).expect("an event");
    assert_eq!((&*item.kind, item.id.as_deref()), ("c.d", Some("2")));
    let wrong = r#"{"type":"a.b","type":7}"#;
    assert!(Incoming::read(&Json::parse(wrong.to_owned()).expect("JSON")).is_err());
}
