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
        ("thin::pick(event.metadata, [\"region\", \"nope\"])", r#"{"region":"eu"}"#),
    ] {
        let script = format!(
            "import \"sidehook/format\" as format; import \"sidehook/redaction\" as redaction; import \"sidehook/thin\" as thin;
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
