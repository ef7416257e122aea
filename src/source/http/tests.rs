//! Requests to a sink that keeps what it got, or refuses it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::rules::{ScriptLimits, Scripts};
use crate::secret::Secret;
use crate::sign::{LiveKit, Verifier};
use crate::source::Refusal;
use crate::source::probe::Probe;

async fn ask(sink: Probe, request: http::request::Builder, body: &str) -> (u16, serde_json::Value, Arc<Probe>) {
    let sink = Arc::new(sink);
    let source = HttpSource::new("events".into(), Arc::clone(&sink));
    let request = request.body(Full::new(Bytes::from(body.to_owned()))).unwrap();
    let response = source.handle(request).await;
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&body).unwrap_or_default(), sink)
}

fn post(media: &str) -> http::request::Builder {
    let request = Request::post("/v1/events");
    if media.is_empty() { request } else { request.header("content-type", media) }
}

#[tokio::test]
async fn good_requests_are_acknowledged() {
    let event = r#"{"id":"e1","type":"x.y"}"#;
    for (media, body, ids) in [
        ("application/json", event.to_owned(), vec!["e1"]),
        ("", event.to_owned(), vec!["e1"]),
        ("application/json; charset=US-ASCII", event.to_owned(), vec!["e1"]),
        ("application/x-ndjson;a=b; Charset=\"UTF-8\"", event.to_owned(), vec!["e1"]),
        ("application/json; charset=utf-8", format!("[{event},{{\"type\":\"z\"}}]"), vec!["e1", "made"]),
        ("application/x-ndjson", format!("\n{event}\r\n\n{event}\n"), vec!["e1", "e1"]),
        ("application/json", "[]".to_owned(), vec![]),
        ("application/x-ndjson", "\n".to_owned(), vec![]),
        (
            "application/cloudevents+json",
            r#"{"specversion":"1.0","id":"e2","source":"s","type":"t"}"#.to_owned(),
            vec!["e2"],
        ),
    ] {
        let (status, answer, _) = ask(Probe::default(), post(media), &body).await;
        assert_eq!(status, 202, "{media} {body}: {answer}");
        assert_eq!(answer["ids"], serde_json::json!(ids), "{media} {body}");
        assert_eq!(answer["accepted"], ids.len());
    }
}

#[tokio::test]
async fn binary_cloud_events_and_trace_context_are_read() {
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let request = post("application/json")
        .header("ce-specversion", "1.0")
        .header("ce-type", "conversation.begin")
        .header("ce-source", "bot%20one")
        .header("ce-id", "e3")
        .header("ce-subject", "c1")
        .header("traceparent", trace);
    let (status, answer, sink) = ask(Probe::default(), request, r#"{"argument":{"a":1}}"#).await;
    assert_eq!((status, &answer["ids"][0]), (202, &serde_json::json!("e3")));
    let got = sink.got.lock().unwrap();
    assert_eq!(got[0].traceparent.as_deref(), Some(trace));
    assert_eq!(got[0].items[0].conversation.as_deref(), Some("c1"));
    assert_eq!(got[0].items[0].identity, crate::event::Identity::Source("bot one".into()));
}

#[tokio::test]
async fn bad_requests_say_what_is_wrong() {
    let long = format!("\"{}\"", "x".repeat(1000));
    let cases = [
        (
            post("application/json"),
            "{",
            400,
            "item 0 is not JSON: EOF while parsing an object at line 1, column 2; nothing was stored",
        ),
        (
            post("application/x-ndjson"),
            "{\"type\":\"a\"}\n{\"ty",
            400,
            "item 1 is not JSON: EOF while parsing a string at line 1, column 5; nothing was stored",
        ),
        (
            post("application/json"),
            "7",
            422,
            "1 of 1 items are no events; nothing was stored. The first: item 0, \"\": must be an object, not a number",
        ),
        (
            post("application/json"),
            "[{\"type\":\"a\"},{\"type\":\"conversation.begin\"}]",
            422,
            "1 of 2 items are no events; nothing was stored. The first: item 1, \"/conversation/id\": required",
        ),
        (post("application/json"), long.as_str(), 413, "the body is larger than limits.body (1000 bytes)"),
        (
            post("text/csv"),
            "a",
            415,
            "\"text/csv\" is not read; use application/json, application/x-ndjson or application/cloudevents+json",
        ),
        (
            post("application/json; charset=utf-16"),
            "{\"type\":\"a\"}",
            415,
            "charset \"utf-16\" is not read; send JSON as UTF-8",
        ),
        (
            post("application/x-ndjson;x=y; CHARSET=\"ISO-8859-1\""),
            "{\"type\":\"a\"}",
            415,
            "charset \"iso-8859-1\" is not read; send JSON as UTF-8",
        ),
        (
            post("application/json").header("content-encoding", "gzip"),
            "a",
            415,
            "content-encoding \"gzip\" is not read; send the body as it is",
        ),
        (Request::get("/v1/events"), "", 405, "use POST"),
        (Request::post("/v1/health"), "", 405, "use GET, HEAD"),
        (Request::post("/events"), "", 404, "there is nothing at \"/events\"; events go to POST /v1/events"),
    ];
    for (request, body, status, detail) in cases {
        let (got, answer, sink) = ask(Probe::default(), request, body).await;
        assert_eq!((got, answer["detail"].as_str().unwrap_or_default()), (status, detail), "{body}");
        assert_eq!(answer["status"], status);
        assert!(sink.got.lock().unwrap().is_empty(), "nothing reaches the sink: {body}");
    }
}

#[tokio::test]
async fn more_events_than_a_request_may_hold_are_not_read() {
    let most = limits::EVENTS_PER_REQUEST;
    let bodies = [
        ("application/json", format!("[{}]", vec!["1"; most + 1].join(","))),
        ("application/x-ndjson", "1\n".repeat(most + 1)),
    ];
    for (media, body) in bodies {
        let (status, answer, _) =
            ask(Probe { body_bytes: Some(1 << 20), ..Probe::default() }, post(media), &body).await;
        let told = answer["detail"].as_str().unwrap_or_default();
        assert_eq!((status, told), (413, "more than 10000 events in one request; send them in several"), "{media}");
    }
}

#[tokio::test]
async fn at_most_twenty_bad_items_are_listed() {
    let body = format!("[{}]", vec!["{}"; 50].join(","));
    let (status, answer, _) = ask(Probe::default(), post("application/json"), &body).await;
    assert_eq!((status, answer["errors"].as_array().map(Vec::len)), (422, Some(20)));
    assert_eq!(answer["errors"][19], serde_json::json!({"index": 19, "pointer": "/type", "reason": "required"}));
    assert!(answer["detail"].as_str().unwrap().starts_with("50 of 50 items"));
}

#[tokio::test]
async fn tokens_are_wanted_where_configured() {
    let probe = || Probe { token: Some(Secret::new("t0k")), ..Probe::default() };
    for (header, status) in
        [(None, 401), (Some("Bearer nope"), 401), (Some("Basic t0k"), 401), (Some("bearer t0k"), 202)]
    {
        let mut request = post("application/json");
        if let Some(header) = header {
            request = request.header("authorization", header);
        }
        let (got, answer, _) = ask(probe(), request, r#"{"type":"a"}"#).await;
        assert_eq!(got, status, "{header:?}");
        assert!(!answer.to_string().contains("t0k"));
    }
}

#[tokio::test]
async fn refusals_carry_their_status() {
    let full = Refusal::Full { detail: "full".into(), retry_after: Duration::from_secs(5) };
    let (status, answer, _) = ask(Probe { refuse: Some(full), ..Probe::default() }, post(""), r#"{"type":"a"}"#).await;
    assert_eq!((status, &answer["type"]), (503, &serde_json::json!("urn:sidehook:problem:full")));
    let large = Refusal::TooLarge { index: 0, detail: "too long".into() };
    let (status, answer, _) = ask(Probe { refuse: Some(large), ..Probe::default() }, post(""), r#"{"type":"a"}"#).await;
    assert_eq!((status, &answer["detail"]), (413, &serde_json::json!("item 0: too long; nothing was stored")));
    assert_eq!(answer["errors"][0]["reason"], "conversation_too_large");
    let conflict = Refusal::IdConflict { items: vec![0, 2], detail: "taken".into() };
    let (status, answer, _) =
        ask(Probe { refuse: Some(conflict), ..Probe::default() }, post(""), r#"{"type":"a"}"#).await;
    assert_eq!((status, &answer["errors"][0]["reason"]), (422, &serde_json::json!("id_conflict")));
    assert_eq!(answer["errors"][1]["index"], 2);
}

fn adapter(script: &str) -> Adapter {
    let sources = BTreeMap::from([("bot.rhai".to_owned(), Arc::from(script))]);
    let (scripts, problems) = Scripts::compile(&sources, BTreeMap::new(), ScriptLimits::default(), Clock::System);
    assert_eq!(problems, []);
    Adapter::new(scripts.rule("bot").unwrap(), Duration::ZERO).unwrap()
}

const BOT: &str = r#"fn adapt(message) {
    if message.body == "none" { return; }
    if message.body == "bad" { throw "odd body" }
    if message.body == "loop" { loop {} }
    if message.body == "no event" { return [#{ type: "a.b" }, #{ type: 5 }]; }
    #{ type: "a.b", id: message.path, body: message.body, from: message.headers["x-from"], auth: message.headers.authorization }
}"#;

#[tokio::test]
async fn with_an_adapter_any_path_takes_any_kind_of_message() {
    for (path, media, body, want) in [
        ("/hook?a=1", "application/json", r#"{"n":1.0}"#, r#"{"n":1.0}"#),
        ("/v1/events", "application/x-www-form-urlencoded", "a=1&b=2", r#""a=1&b=2""#),
        ("/", "text/plain; charset=utf-8", "hello", r#""hello""#),
        ("/deep/er", "", "[1,2]", "[1,2]"),
        ("/x", "application/webhook+json", "", r#""""#),
    ] {
        let probe = Probe { adapter: Some(adapter(BOT)), ..Probe::default() };
        let request =
            Request::post(path).header("content-type", media).header("X-From", "me").header("authorization", "x");
        let (status, answer, sink) = ask(probe, request, body).await;
        assert_eq!((status, &answer["accepted"]), (202, &serde_json::json!(1)), "{path}: {answer}");
        let got = sink.got.lock().unwrap();
        let item = &got[0].items[0];
        assert_eq!(item.id.as_deref(), Some(path), "path and query");
        let of = |name: &str| item.extra.iter().find(|(key, _)| &**key == name).map(|(_, value)| value.to_bytes());
        assert_eq!(of("body").as_deref(), Some(want.as_bytes()), "{path}");
        assert_eq!(of("from").as_deref(), Some(&b"\"me\""[..]));
        assert_eq!(of("auth").as_deref(), Some(&b"null"[..]), "scripts do not see it");
    }
    let probe = Probe { adapter: Some(adapter(BOT)), ..Probe::default() };
    let (status, answer, sink) = ask(probe, post("application/x-ndjson"), "{\"n\":1}\n\n{\"n\":2}\n").await;
    assert_eq!((status, &answer["accepted"]), (202, &serde_json::json!(2)), "{answer}");
    assert_eq!(sink.got.lock().unwrap().len(), 1, "one request, one batch");
}

#[tokio::test]
async fn what_an_adapter_makes_of_a_message_is_told() {
    for (body, status, part) in [
        ("none", 202, r#"{"accepted":0,"duplicates":0,"ids":[]}"#),
        ("bad", 422, "the adapter failed: bot.rhai: adapt, line 3, column 32: odd body; nothing was stored"),
        ("loop", 503, "the adapter failed: bot.rhai: adapt, line 4, column 38: the script "),
        ("no event", 422, r#"{"index":1,"pointer":"/type","reason":"must be a string, not a number"}"#),
    ] {
        let probe = Probe { adapter: Some(adapter(BOT)), ..Probe::default() };
        let (got, answer, sink) = ask(probe, post("text/plain"), body).await;
        assert_eq!(got, status, "{body}: {answer}");
        assert!(answer.to_string().contains(part), "{part} is not in {answer}");
        assert!(sink.got.lock().unwrap().is_empty());
    }
    let probe = || Probe { adapter: Some(adapter(BOT)), ..Probe::default() };
    assert_eq!(ask(probe(), Request::get("/hook"), "").await.0, 405);
    assert_eq!(ask(probe(), Request::get("/v1/health"), "").await.0, 200);
    assert_eq!(ask(probe(), Request::post("/hook").header("content-encoding", "br"), "").await.0, 415);
    assert_eq!(ask(Probe::default(), Request::post("/hook"), "{}").await.0, 404);
}

#[tokio::test]
async fn an_unsigned_request_is_refused_before_it_is_read() {
    let verifier = Some(Arc::new(Verifier::LiveKit(LiveKit::new("API1", &Secret::new("secret")))));
    for (value, detail) in [
        (None, "the authorization header is missing"),
        (Some("a.b.c"), "the token in the authorization header is no JSON web token"),
    ] {
        let probe = Probe { verifier: verifier.clone(), ..Probe::default() };
        let mut request = post("application/json");
        if let Some(value) = value {
            request = request.header("authorization", value);
        }
        let (status, problem, sink) = ask(probe, request, "not even JSON").await;
        assert_eq!(status, 401, "{problem}");
        assert_eq!(problem["type"], "urn:sidehook:problem:signature", "{problem}");
        assert_eq!(problem["detail"], detail);
        assert!(sink.got.lock().unwrap().is_empty());
    }
}

#[tokio::test]
async fn cloud_events_come_as_their_content_type_says() {
    let one = r#"{"specversion":"1.0","type":"a.b","source":"s","id":"1","data":{}}"#;
    for (media, body, status, part) in [
        ("application/cloudevents+json", one.to_owned(), 202, "\"accepted\":1"),
        ("application/cloudevents-batch+json; charset=utf-8", format!("[{one},{one}]"), 202, "\"accepted\":2"),
        ("application/cloudevents-batch+json", "[]".to_owned(), 202, "\"accepted\":0"),
        (
            "application/cloudevents-batch+json",
            one.to_owned(),
            422,
            "application/cloudevents-batch+json is an array of events, not an object",
        ),
        ("application/cloudevents+json", format!("[{one}]"), 422, "several are application/cloudevents-batch+json"),
        ("application/cloudevents-batch+json", "[".to_owned(), 400, "is not JSON"),
        ("application/cloudevents-batch+json", format!("[{one},5]"), 422, "\"index\":1"),
    ] {
        let (got, answer, _) = ask(Probe::default(), post(media), &body).await;
        assert_eq!(got, status, "{media} {body}: {answer}");
        assert!(answer.to_string().contains(part), "{part} is not in {answer}");
    }
    let binary = |media: &str| {
        post(media)
            .header("ce-specversion", "1.0")
            .header("ce-type", "a.b")
            .header("ce-source", "s")
            .header("ce-id", "1")
    };
    for (media, body, status, part) in [
        ("application/json", "{\"metadata\":{\"a\":1}}", 202, "\"accepted\":1"),
        ("", "", 202, "\"accepted\":1"),
        ("text/plain", "hello", 415, "a CloudEvent's data must be JSON here, not"),
        ("application/octet-stream", "x", 415, "a CloudEvent's data must be JSON here"),
        ("application/json", "[1]", 422, "must be an object, not an array"),
        ("application/json", "{", 400, "is not JSON"),
    ] {
        let (got, answer, _) = ask(Probe::default(), binary(media), body).await;
        assert_eq!(got, status, "{media} {body}: {answer}");
        assert!(answer.to_string().contains(part), "{part} is not in {answer}");
    }
}
