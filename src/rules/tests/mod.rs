//! What scripts may do and see, from load to payload.

mod adapter;
mod constants;
mod docs;
mod fuzz;
mod hostile;
mod imports;
mod load;
mod program;
mod shipped;
mod views;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::clock::{Clock, Timestamp};
use crate::event::{Event, Json};

/// A completed conversation.
pub(super) const COMPLETED: &str = r#"{"id":"evt_1","type":"conversation.completed","time":"2026-01-03T11:38:10Z",
 "assistant":{"id":2193965165215481856,"name":"Support","prompt":"Be kind","version":"vrsn_1"},
 "conversation":{"id":"2216964057603244032","messages":[{"role":"user","message":"hello","n":1},{"role":"assistant","message":"hi"}]},
 "argument":{"caller":"+49 170 1234567","a.b":"exact","a":{"b":"inner","c":{"d":7}}},
 "metadata":{"region":"eu","big":18446744073709551615,"price":1.50,"long":3.14159265358979323846,"tags":["x","y"],"none":null},
 "option":{}, "analysis":{"conversation-analysis":{"result":"good"},"sentiment":{"score":0.2}},
 "custom":{"k":"v"},"data":"raw"}"#;

pub(super) fn event(text: &str) -> Event {
    let root = Json::parse(text.to_owned()).expect("valid JSON");
    Event {
        namespace: "".into(),
        id: root.get("id").and_then(|v| v.as_str().map(|s| Arc::from(&*s))).unwrap_or_else(|| "evt_0".into()),
        kind: root.get("type").and_then(|v| v.as_str().map(|s| Arc::from(&*s))).unwrap_or_else(|| "test".into()),
        time: "2026-01-03T11:38:10Z".into(),
        arrived: Timestamp::parse_rfc3339("2026-01-03T11:38:11Z").expect("a time"),
        conversation: root
            .get("conversation")
            .and_then(|c| c.get("id"))
            .and_then(|v| v.as_id().map(|s| Arc::from(&*s))),
        traceparent: None,
        root,
    }
}

pub(super) fn compile(files: &[(&str, &str)]) -> (Scripts, Vec<ScriptProblem>) {
    let sources: BTreeMap<String, Arc<str>> =
        files.iter().map(|(name, text)| ((*name).to_owned(), Arc::from(*text))).collect();
    let env = BTreeMap::from([("REGION".to_owned(), "eu".to_owned())]);
    let limits = ScriptLimits { operations: 200_000, time: Duration::from_millis(500) };
    Scripts::compile(&sources, env, limits, Clock::System)
}

pub(super) fn program(script: &str) -> Program {
    let (scripts, problems) = compile(&[("rule.rhai", script)]);
    assert_eq!(problems, [], "{script}");
    Program {
        params: Params::default(),
        when: None,
        rule: scripts.rule("rule.rhai"),
        on_rule_error: OnRuleError::DeadLetter,
        format: Format::Json,
        reserved_headers: vec!["authorization".into()],
        suspend_for: Duration::from_secs(30),
    }
}

/// Runs a transform and gives the body, or the error.
pub(super) fn run(script: &str) -> Result<String, RuleError> {
    match program(script).evaluate(&event(COMPLETED), None) {
        Outcome::Payloads(payloads) => {
            Ok(payloads.iter().map(|p| String::from_utf8_lossy(&p.body).into_owned()).collect::<Vec<_>>().join("\n"))
        }
        Outcome::Filtered(by) => Ok(format!("{by:?}")),
        Outcome::Failed { error, .. } => Err(error),
    }
}

/// The value of an expression over the event, as JSON.
fn eval(expression: &str) -> Result<String, RuleError> {
    run(&format!("fn transform(event, payload) {{ let v = {expression}; #{{v: v}} }}"))
        .map(|body| body.strip_prefix("{\"v\":").and_then(|b| b.strip_suffix('}')).unwrap_or(&body).to_owned())
}

#[test]
fn views_read_like_maps() {
    for (expression, want) in [
        ("event.metadata.region", r#""eu""#),
        ("event.metadata.nope", "null"),
        ("event.nope?.x ?? 3", "3"),
        ("event.metadata.tags[-1]", r#""y""#),
        ("event.conversation.messages.len()", "2"),
        ("event.conversation.messages.map(|m| m.role)", r#"["user","assistant"]"#),
        ("event.metadata.tags", r#"["x","y"]"#),
        ("event.metadata.big", "18446744073709551615"),
        (
            "event.metadata",
            r#"{"region":"eu","big":18446744073709551615,"price":1.50,"long":3.14159265358979323846,"tags":["x","y"],"none":null}"#,
        ),
        ("\"x\" in event.metadata.tags", "true"),
        ("\"region\" in event.metadata", "true"),
        ("event.metadata.tags == [\"x\", \"y\"]", "true"),
        ("[\"x\", \"y\"] == event.metadata.tags", "true"),
        ("event.metadata.tags + [1]", r#"["x","y",1]"#),
        ("[1] + event.metadata.tags", r#"[1,"x","y"]"#),
        ("event.metadata.tags.filter(|t| t == \"x\")", r#"["x"]"#),
        ("type_of(event.metadata) + type_of(event.metadata.tags)", r#""maparray""#),
        (
            "`${event.metadata.tags} ${event.conversation.messages[0]}`",
            r#""[\"x\", \"y\"] #{\"message\": \"hello\", \"n\": 1, \"role\": \"user\"}""#,
        ),
        ("event.metadata.keys()", r#"["big","long","none","price","region","tags"]"#),
    ] {
        assert_eq!(eval(expression).as_deref(), Ok(want), "{expression}");
    }
}

#[test]
fn payload_is_writable_at_any_depth() {
    let body = run(r#"fn transform(event, payload) {
        payload.data.conversation.messages[0].role = "caller";
        payload.data.assistant.extra = event.metadata;
        payload.data.assistant.extra.tags.push("z");
        payload.data.remove("analysis");
        payload
    }"#)
    .expect("a payload");
    assert_eq!(
        body,
        r#"{"event":"conversation.completed","data":{"assistant":{"id":"2193965165215481856","version":"vrsn_1","extra":{"big":18446744073709551615,"long":3.14159265358979323846,"none":null,"price":1.5,"region":"eu","tags":["x","y","z"]}},"conversation":{"id":"2216964057603244032","messages":[{"role":"caller","message":"hello","n":1},{"role":"assistant","message":"hi"}]}}}"#
    );
}

#[test]
fn event_is_read_only() {
    for change in [
        "event.x = 1",
        "event.metadata.x = 1",
        "event.metadata.tags.push(1)",
        "event.conversation.messages[0].role = 2",
    ] {
        let error = run(&format!("fn transform(event, payload) {{\n  {change};\n payload }}")).expect_err(change);
        assert!(error.message.contains("event is read-only"), "{change}: {error:?}");
        assert_eq!(error.line, 2, "{change}: {error:?}");
    }
    for reading in [
        "event.metadata.tags.len()",
        "event.metadata.tags.extract(0, 1)",
        "event.metadata.region.len()",
        "event.metadata.tags.for_each(|| print(this))",
        "event.metadata.big.to_string()",
    ] {
        run(&format!("fn transform(event, payload) {{\n  {reading};\n payload }}")).expect(reading);
    }
}
