//! The ready rules and the library do what the tests beside them say.

use saphyr_parser::{Event as Yaml, Parser, ScalarStyle};

use super::testing::Expect;
use super::*;
use crate::event::{Incoming, Stamp, State};

macro_rules! shipped {
    ($($name:literal),*) => {
        &[$(($name, include_str!(concat!("../../../rules/", $name, ".rhai")), include_str!(concat!("../../../rules/", $name, ".test.yaml")))),*]
    };
}

const READY: &[(&str, &str, &str)] = shipped!["slack", "discord", "crm-note", "pii-free", "flat", "thin"];

/// The value at the start of a stream of YAML events. The files are ours: no anchors, no tags.
fn json<'a>(events: &mut impl Iterator<Item = Yaml<'a>>) -> Option<serde_json::Value> {
    Some(match events.next()? {
        Yaml::Scalar(text, ScalarStyle::Plain, ..) => serde_json::from_str(&text)
            .ok()
            .filter(|v: &serde_json::Value| !v.is_string())
            .unwrap_or_else(|| text.into()),
        Yaml::Scalar(text, ..) => text.into(),
        Yaml::SequenceStart(..) => std::iter::from_fn(|| json(events)).collect(),
        Yaml::MappingStart(..) => {
            let mut map = serde_json::Map::new();
            while let Some(key) = json(events) {
                map.insert(key.as_str().expect("a text key").to_owned(), json(events).expect("a value"));
            }
            map.into()
        }
        Yaml::SequenceEnd | Yaml::MappingEnd => return None,
        _ => return json(events),
    })
}

macro_rules! tests_of {
    ($($name:literal),*) => {
        &[$(($name, include_str!(concat!("../../../rules/adapters/", $name, ".test.yaml")))),*]
    };
}

const ADAPTERS: &[(&str, &str)] = tests_of![
    "elevenlabs",
    "livekit",
    "openai-realtime",
    "pipecat-rtvi",
    "rapida",
    "rasa",
    "retell",
    "twilio-status",
    "vapi"
];

/// The message of a case.
fn message(json: &Json) -> Message {
    let text =
        |name: &str| json.get(name).and_then(|v| v.as_str().map(std::borrow::Cow::into_owned)).unwrap_or_default();
    let headers = json.get("headers").unwrap_or_else(Json::empty_map);
    let direction = text("direction");
    Message {
        body: json.get("body").expect("a body"),
        path: text("path"),
        headers: headers.members().map(|(k, v)| (k.to_string(), v.as_str().expect("a text").into_owned())).collect(),
        direction: Direction::ALL.into_iter().find(|d| d.name() == direction).unwrap_or_default(),
        arrived: Timestamp::parse_rfc3339("2026-01-01T00:00:00Z").expect("a time"),
    }
}

#[test]
fn shipped_adapters_pass_their_tests() {
    let (scripts, problems) =
        Scripts::compile(&BTreeMap::new(), BTreeMap::new(), ScriptLimits::default(), Clock::System);
    assert_eq!(problems, []);
    let inside: Vec<String> =
        Scripts::inside().filter(|name| scripts.rule(name).is_some_and(|r| r.has("adapt", 1))).collect();
    assert_eq!(inside.len(), ADAPTERS.len());
    assert_eq!(Scripts::inside().count() - inside.len(), 4, "what is inside loads, the others are for rules");
    assert!(Scripts::inside().all(|name| scripts.rule(&name).is_some()));
    assert!(
        Arc::ptr_eq(&scripts.rule("sidehook/vapi").expect("it"), &scripts.rule("sidehook/vapi.rhai").expect("it")),
        "one script, one rest after time-outs"
    );
    let (mut cases, mut faults) = (0, Vec::new());
    for (name, tests) in ADAPTERS {
        let rule = scripts.rule(&format!("sidehook/{name}")).expect("inside the binary");
        let adapter = Adapter::new(rule, Duration::ZERO).expect("an adapter");
        let list = json(&mut Parser::new_from_str(tests).map(|event| event.expect("YAML").0)).expect("a list");
        for case in list.as_array().expect("a list") {
            let case = Json::parse(case.to_string()).expect("JSON");
            let expect = Expect::read(&case.get("expect").expect("expect")).expect("a good case");
            let verdict = expect.check_adapter(&adapter, &message(&case.get("message").expect("message")));
            let about = case.get("name").expect("a name");
            faults
                .extend(verdict.faults.iter().map(|f| format!("{name}: {}: {f}", about.as_str().unwrap_or_default())));
            cases += 1;
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert_eq!(cases, 71);
}

fn complete(item: &Json) -> Event {
    let incoming = Incoming::read(item).expect("an event");
    let arrived = Timestamp::parse_rfc3339("2026-01-03T11:38:11Z").expect("a time");
    let stamp = Stamp { namespace: "".into(), id: "evt_1".into(), arrived, traceparent: None };
    State::default().assemble(&incoming, None, stamp)
}

#[test]
fn ready_rules_pass_their_tests() {
    let sources: BTreeMap<String, Arc<str>> =
        READY.iter().map(|(name, text, _)| (format!("{name}.rhai"), Arc::from(*text))).collect();
    let env = BTreeMap::from([("PSEUDONYM_KEY".to_owned(), "k".to_owned())]);
    let (scripts, problems) = Scripts::compile(&sources, env, ScriptLimits::default(), Clock::System);
    assert_eq!(problems, []);
    let mut cases = 0;
    for (name, _, tests) in READY {
        let mut program = program("");
        program.rule = scripts.rule(name);
        let list = json(&mut Parser::new_from_str(tests).map(|event| event.expect("YAML").0)).expect("a list");
        {
            for case in list.as_array().expect("a list") {
                let case = Json::parse(case.to_string()).expect("JSON");
                let expect = Expect::read(&case.get("expect").expect("expect")).expect("a good case");
                let verdict = expect.check(&program, &complete(&case.get("event").expect("event")));
                assert_eq!(
                    verdict.faults,
                    Vec::<String>::new(),
                    "{name}: {}",
                    case.get("name").expect("a name").as_str().unwrap_or_default()
                );
                cases += 1;
            }
        }
    }
    assert_eq!(cases, 9);
}

#[test]
fn what_is_no_message_of_a_platform_is_left_alone() {
    let (scripts, _) = Scripts::compile(&BTreeMap::new(), BTreeMap::new(), ScriptLimits::default(), Clock::System);
    let junk = [
        "5",
        "null",
        "[]",
        "[{}]",
        "\"x\"",
        "\"a=1&%zz\"",
        "{}",
        r#"{"message":"x"}"#,
        r#"{"message":{"call":5}}"#,
        r#"{"message":{"type":5,"call":{"id":"c"}}}"#,
        r#"{"event":5,"call":5}"#,
        r#"{"event":"call_ended","call":"x"}"#,
        r#"{"event":"call_ended","chat":[]}"#,
        r#"{"event":"room_started","room":"x"}"#,
        r#"{"event":"user","sender_id":"u","metadata":"x"}"#,
        r#"{"event":{},"data":{}}"#,
        r#"{"type":"post_call_transcription","data":[]}"#,
        r#"{"type":"post_call_transcription","data":"x"}"#,
        r#"{"type":[],"data":{"conversation_id":"c"}}"#,
        r#"{"type":"error","error":"x"}"#,
        r#"{"label":"rtvi-ai","type":"bot-transcription","data":"x"}"#,
        r#"{"label":"rtvi-ai","type":"error","data":[]}"#,
    ];
    let mut faults = Vec::new();
    for (name, _) in ADAPTERS {
        let rule = scripts.rule(&format!("sidehook/{name}")).expect("inside the binary");
        let adapter = Adapter::new(rule, Duration::ZERO).expect("an adapter");
        for body in junk {
            let mut message = message(&Json::parse(format!("{{\"body\":{body}}}")).expect("JSON"));
            message.path = "/?call_id=c&session_id=s".into();
            if let Err(error) = adapter.rehearse(&message, &mut Trace::default()) {
                faults.push(format!("{body}: {error}"));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn a_shipped_adapter_can_be_built_upon() {
    let script = "import \"sidehook/vapi\" as vapi;\n
        fn adapt(message) { let event = vapi::adapt(message); if event != () { event.metadata.team = \"x\"; } event }";
    let (scripts, problems) = compile(&[("bot.rhai", script)]);
    assert_eq!(problems, []);
    let adapter = Adapter::new(scripts.rule("bot").expect("it"), Duration::ZERO).expect("an adapter");
    let body =
        r#"{"body":{"message":{"type":"end-of-call-report","endedReason":"pipeline-error-x","call":{"id":"c"}}}}"#;
    let events = adapter.adapt(&message(&Json::parse(body).expect("JSON"))).expect("events");
    let text = String::from_utf8_lossy(&events[0].to_bytes()).into_owned();
    assert!(text.contains(r#""metadata":{"team":"x"}"#) && text.contains("conversation.failed"), "{text}");
}

#[test]
fn adapters_take_a_long_conversation_within_the_default_limits() {
    let limits = ScriptLimits { time: Duration::from_secs(30), ..ScriptLimits::default() };
    let (scripts, _) = Scripts::compile(&BTreeMap::new(), BTreeMap::new(), limits, Clock::System);
    let all = [2_000, 60_000].into_iter().flat_map(|turns| long(turns).into_iter().map(move |long| (turns, long)));
    for (turns, (name, body)) in all {
        let rule = scripts.rule(&format!("sidehook/{name}")).expect("inside the binary");
        let adapter = Adapter::new(rule, Duration::ZERO).expect("an adapter");
        let body = format!("{{\"body\":{body}}}");
        let mut trace = Trace::default();
        let events = adapter.rehearse(&message(&Json::parse(body).expect("JSON")), &mut trace);
        let events = events.unwrap_or_else(|error| panic!("{name}: {error}, {} operations", trace.operations));
        let messages = events[0].get("conversation").and_then(|c| c.get("messages")).expect("messages");
        assert_eq!(messages.len(), turns, "{name}");
    }
}

/// The end of a conversation of so many turns, as platforms tell it.
fn long(turns: usize) -> [(&'static str, String); 4] {
    let turns = |turn: &str| vec![turn; turns].join(",");
    [
        (
            "vapi",
            format!(
                r#"{{"message":{{"type":"end-of-call-report","call":{{"id":"c"}},"artifact":{{"messages":[{}]}}}}}}"#,
                turns(r#"{"role":"bot","message":"some words","time":1767440290000}"#)
            ),
        ),
        (
            "retell",
            format!(
                r#"{{"event":"call_ended","call":{{"call_id":"c","transcript_object":[{}]}}}}"#,
                turns(r#"{"role":"agent","content":"some words","words":[{"word":"some"}]}"#)
            ),
        ),
        (
            "elevenlabs",
            format!(
                r#"{{"type":"post_call_transcription","data":{{"conversation_id":"c","metadata":{{"start_time_unix_secs":1767440290}},"transcript":[{}]}}}}"#,
                turns(r#"{"role":"agent","message":"some words","time_in_call_secs":3}"#)
            ),
        ),
        (
            "rapida",
            format!(
                r#"{{"event":"conversation.completed","conversation":{{"id":"c"}},"data":{{"messages":[{}]}}}}"#,
                turns(r#"{"role":"user","id":"m","content":"some words"}"#)
            ),
        ),
    ]
}

#[test]
fn the_library_formats_and_redacts() {
    for (call, want) in [
        ("format::duration(7)", r#""7 s""#),
        ("format::duration(185)", r#""3 min 05 s""#),
        ("format::duration(3720)", r#""1 h 02 min""#),
        ("format::seconds_between(\"2026-01-03T11:38:10Z\", \"2026-01-03T11:39:10Z\")", "60"),
        ("format::seconds_between((), \"2026-01-03T11:39:10Z\")", "null"),
        ("format::transcript(event.conversation.messages)", r#""user: hello\nassistant: hi""#),
        ("format::last_words(event.conversation.messages, \"user\")", r#""hello""#),
        ("format::csv_field(\"a,b\")", r#""\"a,b\"""#),
        ("format::csv_field(())", r#""""#),
        ("redaction::personal(\"a@b.de 4111 1111 1111 1111 0170 1234567\")", r#""[email] [card] [phone]""#),
        ("redaction::pseudonym(\"k\", \"v\").len()", "16"),
        ("platform::at_millis(1767440290000)", r#""2026-01-03T11:38:10.000Z""#),
        ("platform::at_millis(\"1767440290000\")", r#""2026-01-03T11:38:10.000Z""#),
        ("platform::at_millis(\"soon\")", "null"),
        ("platform::at_seconds(1767440290.25)", r#""2026-01-03T11:38:10.250Z""#),
        ("platform::at_seconds(())", "null"),
        ("platform::mail_date(\"Sat, 03 Jan 2026 11:38:10 +0000\")", r#""2026-01-03T11:38:10+00:00""#),
        ("platform::mail_date(\"yesterday\")", "null"),
        ("platform::form(\"a=1&b=%C3%BC+%26&c&&a=2&d=100%25%zz\")", r#"{"a":"2","b":"ü &","c":"","d":"100%%zz"}"#),
        ("platform::some(#{ a: (), b: 1 })", r#"{"b":1}"#),
        ("thin::pick(event.metadata, [\"region\", \"nope\"])", r#"{"region":"eu"}"#),
    ] {
        let script = format!(
            "import \"sidehook/format\" as format; import \"sidehook/redaction\" as redaction; import \"sidehook/thin\" as thin;
            import \"sidehook/platform\" as platform;
            fn transform(event, payload) {{ #{{ v: {call} }} }}"
        );
        assert_eq!(run(&script), Ok(format!("{{\"v\":{want}}}")), "{call}");
    }
}

#[test]
fn a_failing_case_shows_the_difference() {
    let program = program("fn transform(event, payload) { #{ a: 1, b: [event[\"type\"]] } }");
    let event = event(COMPLETED);
    for (expect, want) in [
        (r#"{"payload":{"a":1,"b":["conversation.completed"]}}"#, ""),
        (r#"{"contains":{"b":["conversation.completed"]}}"#, ""),
        (
            r#"{"contains":{"a":2,"c":3}}"#,
            "the payload lacks (- expected, + got):\n- payload.a: 2\n+ payload.a: 1\n- payload.c: 3\n+ payload.c: null",
        ),
        (
            r#"{"payload":{"a":2,"b":["conversation.completed"]}}"#,
            "the payload differs (- expected, + got):\n  {\n-   \"a\": 2,\n+   \"a\": 1,\n    \"b\": [\n      \"conversation.completed\"\n    ]\n  }",
        ),
        (r#"{"skipped":true}"#, "the event was sent, not skipped"),
        (r#"{"error":"boom"}"#, "the event was sent; an error was expected that says `boom`"),
        (r#"{"headers":{"X-A":"1"}}"#, "the header X-A is missing, not `1`"),
    ] {
        let expect = Expect::read(&Json::parse(expect).expect("JSON")).expect("a good case");
        assert_eq!(expect.check(&program, &event).faults.join(" | "), want);
    }
    let digits = super::program("fn transform(event, payload) { #{ big: event.metadata.big } }");
    for (expect, holds) in [("18446744073709551615", true), ("18446744073709551616", false)] {
        let expect = Json::parse(format!("{{\"payload\":{{\"big\":{expect}}}}}")).expect("JSON");
        let faults = Expect::read(&expect).expect("a good case").check(&digits, &event).faults;
        assert_eq!(faults.is_empty(), holds, "{faults:?}");
    }
    for (expect, want) in [
        ("{}", "expect is empty: name payload, events, contains, headers, skipped: true, or error"),
        (
            r#"{"skiped":true}"#,
            "expect.skiped is unknown: it has payload, events, contains, headers, skipped and error",
        ),
        (
            r#"{"payload":{},"events":[]}"#,
            "expect contradicts itself: an adapter has events, a rule has payload and headers",
        ),
        (
            r#"{"skipped":true,"error":"x"}"#,
            "expect contradicts itself: skipped, error and a payload exclude each other",
        ),
    ] {
        assert_eq!(Expect::read(&Json::parse(expect).expect("JSON")).expect_err(expect), want);
    }
}
