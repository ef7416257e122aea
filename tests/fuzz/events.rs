//! Whatever is posted: no panic, and what is taken as JSON is JSON and leaves as it came.

use bytes::Bytes;
use serde::de::IgnoredAny;
use serde_json::Value;
use sidehook::clock::Clock;
use sidehook::event::{Event, Incoming, Json, Stamp, State};

use super::fuzz;

const WORDS: [&str; 24] = [
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\"",
    "\\",
    "null",
    "true",
    "-0",
    "1e999",
    "12345678901234567890123",
    "0.1",
    "\"\\ud800\"",
    "\"\\u0000\"",
    "\"type\":",
    "\"conversation\":{\"id\":1}",
    "\"data\":",
    "\"message\":{}",
    "\"time\":\"2026-01-03T11:38:10Z\"",
    "\"specversion\":\"1.0\"",
    "\u{2028}",
    " \n",
];

fn corpus() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![
        include_bytes!("../fixtures/seed.event.json").to_vec(),
        include_bytes!("../fixtures/rapida.completed.json").to_vec(),
    ];
    for text in [
        r#"{"type":"message.received","conversation":{"id":"c"},"message":{"role":"user","message":"x"}}"#,
        r#"{"type":"conversation.update","conversation":{"id":7},"argument":{"a":null,"b":{"c":[1,2,{"d":"\n"}]}},"analysis":{}}"#,
        r#"{"specversion":"1.0","id":"1","source":"/b","type":"conversation.begin","subject":"c","data":{"argument":{"x":1}}}"#,
        r#"{"specversion":"1.0","id":"1","source":"/b","type":"a.b","data_base64":"e30="}"#,
        r#"{"type":"a.b","id":1,"time":"2026-01-03T11:38:10.5+02:00","x":{"y":-1.5e-7}}"#,
        "[[[[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]]]]",
        "\"just text\"",
    ] {
        all.push(text.as_bytes().to_vec());
    }
    all
}

fn deep(bytes: &[u8]) -> bool {
    bytes.iter().filter(|b| matches!(b, b'[' | b'{')).count() > 60
}

#[test]
fn the_event_parser_takes_or_refuses_whatever_comes() {
    let now = Clock::System.now();
    let mut state = State::default();
    fuzz("events", &corpus(), &WORDS, |input, random| {
        let parsed = Json::parse(Bytes::copy_from_slice(input));
        let reference = serde_json::from_slice::<IgnoredAny>(input).is_ok() && std::str::from_utf8(input).is_ok();
        let Ok(json) = parsed else {
            // The other way round only for what any reader takes: plain values, not too deep.
            assert!(deep(input) || serde_json::from_slice::<Value>(input).is_err(), "refused: {:?}", parsed.err());
            return false;
        };
        assert!(reference, "taken, but it is no JSON");
        let written = json.to_bytes();
        if let Ok(before) = serde_json::from_slice::<Value>(input) {
            assert_eq!(serde_json::from_slice::<Value>(&written).ok(), Some(before), "it left otherwise than it came");
        }
        let incoming = match Incoming::read(&json) {
            Ok(incoming) => incoming,
            Err(errors) => {
                assert!(!errors.is_empty());
                assert!(errors.iter().all(|e| !e.reason.is_empty()));
                return false;
            }
        };
        if random.below(50) == 0 {
            state = State::default();
        }
        state.apply(&incoming);
        let stamp = Stamp {
            namespace: "".into(),
            id: incoming.id.clone().unwrap_or_else(|| "made".into()),
            arrived: now,
            traceparent: None,
        };
        let event = state.assemble(&incoming, incoming.messages.as_ref(), stamp);
        let stored = Event::from_stored(event.to_stored()).expect("what was stored is read back");
        assert_eq!((&stored.kind, &stored.id), (&event.kind, &event.id));
        assert_eq!(stored.to_bytes(), event.to_bytes());
        serde_json::from_slice::<IgnoredAny>(&event.to_bytes()).expect("an event is JSON");
        let again = State::from_stored(&state.to_stored());
        assert_eq!(again.to_stored(), state.to_stored());
        true
    });
}
