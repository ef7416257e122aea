//! Adapters: a message in, events out.

use super::*;
use crate::event::Incoming;
use crate::limits;

fn adapter(script: &str) -> Adapter {
    let (scripts, problems) = compile(&[("bot.rhai", script)]);
    assert_eq!(problems, [], "{script}");
    Adapter::new(scripts.rule("bot").expect("the rule"), Duration::from_secs(30)).expect("an adapter")
}

fn message(body: &str) -> Message {
    Message {
        body: Message::body_of(&body.to_owned().into()),
        path: "/calls?x=1".into(),
        headers: vec![("X-Bot".into(), "a".into()), ("x-bot".into(), "b".into()), ("Content-Type".into(), "t".into())],
        direction: Direction::Request,
        arrived: Timestamp::parse_rfc3339("2026-01-03T11:38:11Z").expect("a time"),
    }
}

/// What an adapter with this body makes of a message, each event on a line; or the error.
fn adapt(function: &str, body: &str) -> Result<String, String> {
    let events = adapter(&format!("fn adapt(message) {{ {function} }}")).adapt(&message(body));
    let text = |event: &Json| String::from_utf8_lossy(&event.to_bytes()).into_owned();
    events.map(|events| events.iter().map(text).collect::<Vec<_>>().join("\n")).map_err(|error| error.to_string())
}

#[test]
fn a_message_becomes_events() {
    let call = r#"{"status":"ended","call":{"id":12345678901234567890,"note":"\u0041"}}"#;
    for (function, body, want) in [
        ("()", "{}", ""),
        ("[]", "{}", ""),
        ("message.body", r#"{ "type": "a.b",  "n": 1.50 }"#, r#"{ "type": "a.b",  "n": 1.50 }"#),
        ("message.body", r#"[{"type":"a"},{"type":"b"}]"#, "{\"type\":\"a\"}\n{\"type\":\"b\"}"),
        ("message.body.list", r#"{"list":[{"type":"a"}]}"#, r#"{"type":"a"}"#),
        (
            r#"#{ "type": "call." + message.body.status, raw: message.body["call"] }"#,
            call,
            // What the script did not touch leaves as it came: digits and escapes.
            r#"{"raw":{"id":12345678901234567890,"note":"\u0041"},"type":"call.ended"}"#,
        ),
        (r"[#{ n: 1, f: 1.5, c: 'x', b: true, u: () }]", "", r#"{"b":true,"c":"x","f":1.5,"n":1,"u":null}"#),
        (r"#{ text: message.body }", "a=1&b=2", r#"{"text":"a=1&b=2"}"#),
        (r"#{ text: message.body }", "", r#"{"text":""}"#),
        (
            r#"#{ p: message.path, d: message.direction, h: message.headers["x-bot"], none: message.headers["X-Bot"] }"#,
            "{}",
            r#"{"d":"request","h":"a, b","none":null,"p":"/calls?x=1"}"#,
        ),
        ("#{ n: message.headers.keys() }", "", r#"{"n":["content-type","x-bot"]}"#),
        ("#{ t: now() }", "", r#"{"t":"2026-01-03T11:38:11.000Z"}"#),
        ("let b = message.body; b.type = \"x\"; b", r#"{"a":[1.0]}"#, r#"{"a":[1.0],"type":"x"}"#),
    ] {
        assert_eq!(adapt(function, body).as_deref(), Ok(want), "{function}");
    }
}

#[test]
fn errors_say_what_an_adapter_returns() {
    for (function, body, want) in [
        (
            "1",
            "",
            "bot.rhai: adapt, line 1, column 1: event is a number; adapt returns an event (a map), an array of events, or ()",
        ),
        (
            "\"x\"",
            "",
            "bot.rhai: adapt, line 1, column 1: event is a string; adapt returns an event (a map), an array of events, or ()",
        ),
        (
            "[#{}, 1]",
            "",
            "bot.rhai: adapt, line 1, column 1: event 1 is a number; adapt returns an event (a map), an array of events, or ()",
        ),
        (
            "message.body",
            "[[1]]",
            "bot.rhai: adapt, line 1, column 1: event 0 is an array; adapt returns an event (a map), an array of events, or ()",
        ),
        (
            "#{ a: [#{ f: |x| x }] }",
            "",
            "bot.rhai: adapt, line 1, column 1: event.a[0].f is a function; JSON has maps, arrays, strings, numbers, true, false and ()",
        ),
        (
            "let a = []; a.pad(1001, #{}); a",
            "",
            "bot.rhai: adapt, line 1, column 1: gave 1001 events; at most 1000 are taken",
        ),
        (
            "message.body.x = 1; ()",
            "{}",
            "bot.rhai: adapt, line 1, column 28: message is read-only: change a copy of the part (`let body = message.body;`)",
        ),
        ("throw \"odd\"", "", "bot.rhai: adapt, line 1, column 21: odd"),
    ] {
        assert_eq!(adapt(function, body), Err(want.to_owned()), "{function}");
    }
    let large = format!("{{\"t\":\"{}\"}}", "x".repeat(1_000_000));
    let error = adapt("let a = []; a.pad(20, #{ b: message.body }); a", &large).expect_err("too large");
    assert_eq!(
        error,
        "bot.rhai: adapt, line 1, column 1: what the script returns is larger than 16777216 bytes together"
    );
    assert_eq!(adapt("let a = []; a.pad(3, #{ b: message.body }); a", &large).map(|text| text.len()), Ok(3_000_044));
}

#[test]
fn identifiers_are_those_of_the_message() {
    let twice = adapter("fn adapt(message) { #{ a: uuid(), b: uuid() } }");
    let text = |message: &Message| twice.adapt(message).expect("events")[0].to_bytes();
    let first = message("{\"n\":1}");
    assert_eq!(text(&first), text(&first));
    let mut resent = first.clone();
    resent.headers.push(("date".into(), "later".into()));
    resent.arrived = Timestamp::from_millis(0);
    assert_eq!(text(&first), text(&resent), "what differs from one attempt to the next is no part of it");
    for other in [
        message("{\"n\":2}"),
        Message { path: "/other".into(), ..first.clone() },
        Message { direction: Direction::Response, ..first.clone() },
    ] {
        assert_ne!(text(&first), text(&other));
    }
    let both = twice.adapt(&first).expect("events")[0].decode::<BTreeMap<String, String>>().expect("texts");
    assert_ne!(both["a"], both["b"]);
}

#[test]
fn a_script_without_adapt_is_no_adapter() {
    for (script, want) in [
        (
            "fn adopt(message) { () }",
            "bot.rhai has no fn adapt(message): did you mean `adopt`? It must be called adapt",
        ),
        (
            "fn transform(event, payload) { payload }",
            "bot.rhai has no fn adapt(message): this is a rule, for a webhook's `rule`",
        ),
        (
            "fn other() { 1 }",
            "bot.rhai has no fn adapt(message): write one that returns an event, an array of events, or ()",
        ),
    ] {
        let (scripts, problems) = compile(&[("bot.rhai", script)]);
        assert_eq!(problems, []);
        assert_eq!(Adapter::new(scripts.rule("bot").expect("it"), Duration::ZERO).expect_err(script), want);
    }
    let (_, problems) = compile(&[("bot.rhai", "fn adapt(message, more) { () }")]);
    assert_eq!(problems[0].message, "write fn adapt(message): sidehook calls it with these parameters");
}

#[test]
fn limits_hold_and_a_slow_adapter_rests() {
    let endless = adapter("fn adapt(message) { loop { } }");
    for _ in 0..limits::RULE_TIMEOUTS {
        assert_eq!(endless.adapt(&message("")).expect_err("endless").kind, "operations");
    }
    assert_eq!(endless.adapt(&message("")).expect_err("suspended").kind, "suspended");
    let mut trace = Trace::default();
    assert_eq!(endless.rehearse(&message(""), &mut trace).expect_err("tried all the same").kind, "operations");
}

#[test]
fn a_quick_try_is_made_once() {
    let quick = adapter("fn adapt(message) { #{ type: \"a.b\" } }");
    assert_eq!(quick.adapt_quickly(&message("")).map(|events| events.len()), Some(1));
    let heavy = adapter("fn adapt(message) { let n = 0; while n < 5000 { n += 1; } #{ n: n } }");
    assert!(heavy.adapt_quickly(&message("")).is_none());
    assert_eq!(heavy.adapt(&message("")).map(|events| events.len()), Ok(1));
    let talkative = adapter("fn adapt(message) { log_info(\"seen\"); #{ n: 1 } }");
    assert!(talkative.adapt_quickly(&message("")).is_none());
    let mut trace = Trace::default();
    talkative.rehearse(&message(""), &mut trace).expect("events");
    assert_eq!(trace.log, ["seen"]);
}

#[test]
fn a_large_message_is_not_copied() {
    let words = format!("{{\"kind\":\"end\",\"words\":[{}1]}}", "\"some words that were said\",".repeat(40_000));
    let pick = adapter("fn adapt(message) { #{ type: `x.${message.body.kind}`, words: message.body.words } }");
    let message = message(&words);
    let mut trace = Trace::default();
    let events = pick.rehearse(&message, &mut trace).expect("events");
    assert!(trace.operations < 50, "{}", trace.operations);
    let found = events[0].get("words").expect("words");
    assert_eq!(found.to_bytes().as_ptr(), message.body.get("words").expect("words").to_bytes().as_ptr());
    assert_eq!(Incoming::read(&events[0]).expect("an event").kind.as_ref(), "x.end");
}
