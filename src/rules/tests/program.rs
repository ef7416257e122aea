//! From event to payload: params, filters, fan-out, headers, formats, failures.

use std::time::Duration;

use super::*;
use crate::clock::Clock;
use crate::limits;
use crate::rules::engine::Mode;

fn params(entries: &[(&str, &str)], missing: Missing) -> Params {
    let entries = entries
        .iter()
        .map(|(key, selector)| {
            let literal = selector.strip_prefix("=").map(|text| Selector::Literal(text.to_owned().into()));
            ((*key).to_owned(), literal.unwrap_or_else(|| Selector::parse(selector).expect(selector)))
        })
        .collect();
    Params::new(entries, missing)
}

fn plain(params: Params) -> Program {
    Program { params, rule: None, ..program("") }
}

fn body(program: &Program, event: &Event) -> String {
    match program.evaluate(event, None) {
        Outcome::Payloads(payloads) => {
            assert_eq!(payloads.len(), 1);
            String::from_utf8(payloads[0].body.to_vec()).expect("UTF-8")
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_seed_payload_is_exact() {
    let event = event(
        r#"{"id":"e","type":"conversation.completed","assistant":{"id":"2193965165215481856","version":"vrsn_2216851806678417408"},
        "conversation":{"id":"2216964057603244032","messages":[{"message":"hello","role":"user"}]},
        "analysis":{"conversation-analysis":{"result":"fine"}}}"#,
    );
    let program = plain(params(
        &[("conversation-analysis", "analysis.conversation-analysis"), ("data", "event.data"), ("event", "event.type")],
        Missing::Omit,
    ));
    assert_eq!(
        body(&program, &event),
        r#"{"conversation-analysis":{"result":"fine"},"data":{"assistant":{"id":"2193965165215481856","version":"vrsn_2216851806678417408"},"conversation":{"id":"2216964057603244032","messages":[{"message":"hello","role":"user"}]},"analysis":{"conversation-analysis":{"result":"fine"}}},"event":"conversation.completed"}"#
    );
}

#[test]
fn selectors_pick_what_they_name() {
    let event = event(COMPLETED);
    for (selector, want) in [
        ("event.type", r#""conversation.completed""#),
        ("event.id", r#""evt_1""#),
        ("event.time", r#""2026-01-03T11:38:10Z""#),
        ("event.custom", r#"{"k":"v"}"#),
        ("event.custom.k", r#""v""#),
        ("event.raw.data", r#""raw""#),
        ("assistant.id", r#""2193965165215481856""#),
        ("assistant.name", r#""Support""#),
        ("assistant.prompt", r#""Be kind""#),
        ("assistant.version", r#""vrsn_1""#),
        ("conversation.id", r#""2216964057603244032""#),
        ("argument.caller", r#""+49 170 1234567""#),
        ("argument.a.b", r#""exact""#),
        ("argument.a.c.d", "7"),
        ("metadata.big", "18446744073709551615"),
        ("metadata.price", "1.50"),
        ("metadata.none", "null"),
        ("option.*", "{}"),
        ("analysis.sentiment.score", "0.2"),
        ("analysis.*", r#"{"conversation-analysis":{"result":"good"},"sentiment":{"score":0.2}}"#),
        ("=[1, 2.50]", "[1, 2.50]"),
    ] {
        let got = body(&plain(params(&[("v", selector)], Missing::Error)), &event);
        assert_eq!(got, format!("{{\"v\":{want}}}"), "{selector}");
    }
    let bare = super::event(r#"{"type":"x"}"#);
    let got = body(&plain(Params::default()), &bare);
    assert_eq!(got, r#"{"event":"x","data":{"assistant":{},"conversation":{"messages":[]},"analysis":{}}}"#);
}

#[test]
fn missing_entries_follow_the_setting() {
    let event = event(COMPLETED);
    let entries = [("a", "argument.nope"), ("b", "event.type"), ("c", "event.reason")];
    assert_eq!(body(&plain(params(&entries, Missing::Omit)), &event), r#"{"b":"conversation.completed"}"#);
    assert_eq!(
        body(&plain(params(&entries, Missing::Null)), &event),
        r#"{"a":null,"b":"conversation.completed","c":null}"#
    );
    match plain(params(&entries, Missing::Error)).evaluate(&event, None) {
        Outcome::Failed { error, fallback: None } => {
            assert_eq!(error.kind, "missing");
            assert_eq!(error.message, "the event has no `argument.nope` for the key `a` (missing: error)");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn bad_selectors_say_what_would_be_right() {
    for (selector, want) in [
        ("", "`` is not a selector: it is empty or begins or ends with a blank"),
        (" event.type", "` event.type` is not a selector: it is empty or begins or ends with a blank"),
        ("event", "`event` is not a selector: name what to pick, for example `event.type`, `event.data`"),
        ("event.", "`event.` ends with a dot: name what to pick, for example `event.type`"),
        ("event.typ", "`event.typ`: did you mean `event.type`?"),
        ("event.*", "`event.*` is not a selector: for the usual parts of the event write `event.data`"),
        ("event.analysis.x", "`event.analysis.x` is not a selector: leave out `event.`: did you mean `analysis.x`?"),
        ("event.metadata", "`event.metadata` is not a selector: leave out `event.`: did you mean `metadata.*`?"),
        (
            "event.conversation",
            "`event.conversation` is not a selector: leave out `event.`: did you mean `conversation.id`?",
        ),
        ("assistant", "`assistant` is not a selector: name what to pick, for example `assistant.id`"),
        (
            "assistant.nme",
            "`assistant.nme` is not a selector: assistant has `assistant.id`, `assistant.name`, `assistant.prompt`, `assistant.version`; did you mean `assistant.name`?",
        ),
        (
            "conversation.message",
            "`conversation.message` is not a selector: conversation has `conversation.id`, `conversation.messages`; did you mean `conversation.messages`?",
        ),
        (
            "metadata",
            "`metadata` is not a selector: name what to pick, for example `metadata.*` for the whole map or `metadata.NAME` for one entry",
        ),
        ("metdata.region", "`metdata.region` is not a selector: did you mean `metadata.region`?"),
        ("arguments.x", "`arguments.x` is not a selector: did you mean `argument.x`?"),
        (
            "eu",
            "`eu` is not a selector: it begins with one of event, assistant, conversation, argument, metadata, option, analysis; a fixed value is written {value: eu}",
        ),
    ] {
        assert_eq!(Selector::parse(selector).expect_err(selector), want);
    }
    assert!(Selector::parse("event.data.assistant").expect_err("inside").contains("event.raw.data"));
}

#[test]
fn events_are_filtered_in_three_places() {
    let event = event(COMPLETED);
    let (scripts, _) = compile(&[]);
    let mut program = program("fn accept(event) { event.metadata.region == \"us\" }");
    assert!(matches!(program.evaluate(&event, None), Outcome::Filtered(FilteredBy::Accept)));
    program.when = scripts.when("event.metadata.region == \"us\"").ok();
    assert!(matches!(program.evaluate(&event, None), Outcome::Filtered(FilteredBy::When)));
    for script in ["fn transform(event, payload) { }", "fn transform(event, payload) { [] }"] {
        assert!(matches!(super::program(script).evaluate(&event, None), Outcome::Filtered(FilteredBy::Transform)));
    }
}

#[test]
fn an_array_is_one_delivery_each_with_headers_of_its_own() {
    let program = program(
        r#"fn transform(event, payload) { event.conversation.messages.map(|m| #{ text: m.message }) }
        fn headers(event, payload) { #{ "X-Text": payload.text, "X-N": 3, "X-Flag": true, "X-None": (),
            "Authorization": "stolen", "Webhook-Id": "x", "Content-Length": "0" } }"#,
    );
    let Outcome::Payloads(payloads) = program.evaluate(&event(COMPLETED), None) else { panic!("no payloads") };
    let bodies: Vec<&[u8]> = payloads.iter().map(|p| &p.body[..]).collect();
    assert_eq!(bodies, [br#"{"text":"hello"}"#.as_slice(), br#"{"text":"hi"}"#.as_slice()]);
    let lines: Vec<String> = payloads[1].headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    assert_eq!(lines, ["X-Flag: true", "X-N: 3", "X-Text: hi"]);
}

#[test]
fn what_is_passed_on_as_it_came_is_in_no_limit_on_what_scripts_make() {
    let members: Vec<String> = (0..=crate::limits::SCRIPT_MAP_MEMBERS).map(|n| format!("\"k{n}\":{n}")).collect();
    let text = format!(r#"{{"type":"conversation.completed","data":{{{}}}}}"#, members.join(","));
    let event = event(&text);
    for (script, given) in [("event.data", "payload"), ("[event.data]", "array")] {
        let program = super::program(&format!("fn transform(event, payload) {{ {script} }}"));
        let Outcome::Payloads(payloads) = program.evaluate(&event, None) else { panic!("{given}") };
        assert_eq!(payloads.len(), 1, "{given}");
        assert_eq!(payloads[0].body, event.root.get("data").expect("data").to_bytes(), "{given}");
    }
}

#[test]
fn cloud_events_wrap_the_payload() {
    let mut program = plain(params(&[("v", "event.type")], Missing::Omit));
    program.format = Format::CloudEvents;
    let mut event = event(COMPLETED);
    event.namespace = "eu".into();
    assert_eq!(
        body(&program, &event),
        r#"{"specversion":"1.0","id":"evt_1","source":"sidehook/eu","type":"conversation.completed","time":"2026-01-03T11:38:10Z","subject":"2216964057603244032","datacontenttype":"application/json","data":{"v":"conversation.completed"}}"#
    );
}

#[test]
fn a_failing_rule_names_the_innermost_place_and_shows_the_line() {
    let (scripts, problems) = compile(&[
        (
            "crm.rhai",
            "import \"lib/deep\" as deep;\nfn transform(event, payload) {\n  deep::first(event);\n  payload\n}",
        ),
        ("lib/deep.rhai", "fn second(e) {\n    throw `no ${e.metadata.region}`\n}\nfn first(e) { second(e) }"),
    ]);
    assert_eq!(problems, []);
    let mut program = program("");
    program.rule = scripts.rule("crm.rhai");
    program.on_rule_error = OnRuleError::SendParams;
    let Outcome::Failed { error, fallback } = program.evaluate(&event(COMPLETED), None) else { panic!("not failed") };
    assert_eq!(
        error.report(),
        "lib/deep.rhai: second, line 2, column 5: no eu\n2 |     throw `no ${e.metadata.region}`\n  |     ^"
    );
    assert_eq!((error.kind, error.line, error.column), ("thrown", 2, 5));
    assert!(fallback.expect("the params").body.starts_with(br#"{"event":"conversation.completed","data":{"#));
}

#[test]
fn a_rule_that_times_out_five_times_rests_and_then_tries_once() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let sources =
        BTreeMap::from([("slow.rhai".to_owned(), Arc::from("fn accept(event) { if event.n == 1 { loop {} } true }"))]);
    let limits = ScriptLimits { operations: u64::MAX, time: Duration::from_millis(50) };
    let (scripts, problems) = Scripts::compile(&sources, BTreeMap::new(), limits, clock.clone());
    assert_eq!(problems, []);
    let mut program = program("");
    program.rule = scripts.rule("slow");
    let (slow, fast) = (event(r#"{"type":"x","n":1}"#), event(r#"{"type":"x","n":2}"#));
    let kind = |event: &Event| match program.evaluate(event, None) {
        Outcome::Failed { error, .. } => error.kind,
        Outcome::Payloads(_) => "sent",
        Outcome::Filtered(_) => "filtered",
    };
    // A good call in between starts the count anew.
    let first: Vec<&str> = [&slow, &slow, &slow, &slow, &fast].map(kind).to_vec();
    assert_eq!(first, ["timeout", "timeout", "timeout", "timeout", "sent"]);
    let second: Vec<&str> = [&slow, &slow, &slow, &slow, &slow, &fast, &slow].map(kind).to_vec();
    assert_eq!(second, ["timeout", "timeout", "timeout", "timeout", "timeout", "suspended", "suspended"]);
    clock.advance(Duration::from_secs(31));
    assert_eq!([kind(&slow), kind(&fast)], ["timeout", "suspended"], "one try, then rest again");
    clock.advance(Duration::from_secs(31));
    assert_eq!([kind(&fast), kind(&fast)], ["sent", "sent"]);
}

#[test]
fn a_rehearsal_neither_suspends_a_rule_nor_minds_that_it_is() {
    let clock = Clock::manual(Timestamp::from_millis(1_000_000));
    let sources =
        BTreeMap::from([("slow.rhai".to_owned(), Arc::from("fn accept(event) { if event.n == 1 { loop {} } true }"))]);
    let limits = ScriptLimits { operations: 1000, time: Duration::from_secs(10) };
    let (scripts, problems) = Scripts::compile(&sources, BTreeMap::new(), limits, clock);
    assert_eq!(problems, []);
    let program = Program { rule: scripts.rule("slow"), ..program("") };
    let (slow, fast) = (event(r#"{"type":"x","n":1}"#), event(r#"{"type":"x","n":2}"#));
    let kind = |event: &Event, rehearsal: bool| match program.evaluate(event, rehearsal.then(Trace::default).as_mut()) {
        Outcome::Failed { error, .. } => error.kind,
        _ => "sent",
    };
    for _ in 0..10 {
        assert_eq!(kind(&slow, true), "operations");
    }
    assert_eq!(kind(&fast, false), "sent", "the rule in service was not suspended");
    for _ in 0..5 {
        kind(&slow, false);
    }
    assert_eq!([kind(&fast, false), kind(&fast, true)], ["suspended", "sent"]);
}

#[test]
fn a_preview_says_which_headers_were_dropped() {
    let program = program("fn headers(event, payload) { #{ \"Host\": \"x\", \"X-Y\": 1 } }");
    let mut trace = Trace::default();
    let _ = program.evaluate(&event(COMPLETED), Some(&mut trace));
    assert_eq!(trace.log, ["the header host was dropped: it is kept for the signature, the protocol or the config"]);
}

#[test]
fn a_trace_shows_what_happened() {
    let program = program(
        "fn accept(event) { print(\"seen\"); true }\nfn transform(event, payload) { log_warn(event.metadata.tags); #{} }",
    );
    let mut trace = Trace::default();
    let _ = program.evaluate(&event(COMPLETED), Some(&mut trace));
    assert_eq!(trace.log, ["seen", r#"["x","y"]"#]);
    assert!(trace.operations > 4 && trace.before.is_some(), "{trace:?}");
    let mut next = Trace::default();
    let _ = super::program("fn accept(event) { true }").evaluate(&event(COMPLETED), Some(&mut next));
    assert_eq!(next.log, Vec::<String>::new(), "nothing is left of the call before");
}

#[test]
fn now_and_uuid_are_fixed_per_event() {
    let script = "fn transform(event, payload) { #{ now: now(), a: uuid(), b: uuid() } }";
    let first = run(script).expect("a payload");
    assert_eq!(first, run(script).expect("a payload"));
    assert!(first.contains(r#""now":"2026-01-03T11:38:11.000Z""#), "{first}");
    let value: serde_json::Value = serde_json::from_str(&first).expect("JSON");
    assert_ne!(value["a"], value["b"]);
    assert_eq!(value["a"].as_str().map(|a| (a.len(), &a[14..15])), Some((36, "8")));
}

/// What a quick try gives is what the rule gives; where it cannot be quiet, good and quick it gives nothing, and nothing of
/// it is left.
#[test]
fn a_quick_try_counts_only_where_it_ends_well_and_silently() {
    let event = event(COMPLETED);
    let program = |script: &str| {
        let sources = BTreeMap::from([("rule.rhai".to_owned(), Arc::from(script))]);
        let clock = Clock::manual(Timestamp::from_millis(1_000_000));
        let (scripts, problems) = Scripts::compile(&sources, BTreeMap::new(), ScriptLimits::default(), clock);
        assert_eq!(problems, [], "{script}");
        Program { rule: scripts.rule("rule.rhai"), ..super::program("") }
    };
    let quick = |script: &str| {
        let program = program(script);
        let tried = program.evaluate_quickly(&event);
        (tried.map(|outcome| format!("{outcome:?}")), format!("{:?}", program.evaluate(&event, None)))
    };
    for script in [
        "fn transform(event, payload) { payload.id = uuid(); payload.n = event.conversation.messages.len(); payload }",
        "fn transform(event, payload) { () }",
        "fn accept(event) { event.argument.caller == `nobody` }",
        "fn headers(event, payload) { #{ \"X-Region\": event.metadata.region } }",
    ] {
        // A busy machine may stop it for longer than it has.
        let (tried, done) = (0..50).map(|_| quick(script)).find(|(tried, _)| tried.is_some()).unwrap_or_default();
        assert_eq!(tried.as_deref(), Some(done.as_str()), "{script}");
    }
    for script in [
        "fn transform(event, payload) { log_info(`said`); payload }",
        "fn transform(event, payload) { throw `never`; }",
        "fn transform(event, payload) { 7 }",
        "fn transform(event, payload) { let n = 0; for i in 0..5000 { n += i; } payload }",
        "fn transform(event, payload) { let n = 0; for i in 0..5000 { n += i; } throw `late` }",
        "fn headers(event, payload) { #{ \"webhook-id\": `mine` } }",
    ] {
        let (tried, _) = quick(script);
        assert_eq!(tried, None, "{script}");
    }
    let long = program("fn transform(event, payload) { let n = 0; for i in 0..5000 { n += i; } payload }");
    assert!(long.evaluate_quickly(&event).is_none());
    assert_eq!(body(&long, &event), body(&program(""), &event), "it has all its time where it is not quick");
    let rest = (0..limits::QUICK_RULE_REST).filter(|_| long.evaluate_quickly(&event).is_some()).count();
    assert_eq!(rest, 0);
}

#[test]
fn a_suspended_rule_is_not_tried_quickly() {
    let event = event(COMPLETED);
    let slow = program("fn transform(event, payload) { if event.metadata.region == `eu` { loop { } } payload }");
    for _ in 0..limits::RULE_TIMEOUTS {
        assert!(matches!(slow.evaluate(&event, None), Outcome::Failed { .. }));
    }
    let harmless = super::event(r#"{"type":"a.b"}"#);
    assert!(slow.evaluate_quickly(&harmless).is_none());
}

#[test]
fn an_error_at_a_limit_names_its_place() {
    for (script, kind, function, line, column, excerpt) in [
        ("fn transform(event, payload) {\n loop {\n }\n}", "operations", "transform", 2, 7, "2 |  loop {\n  |       ^"),
        (
            "fn transform(event, payload) {\n  let n = 0;\n  while true { n += 1; }\n}",
            "operations",
            "transform",
            3,
            0,
            "3 |   while true { n += 1; }",
        ),
        (
            "fn transform(event, payload) {\n  let s = \"x\";\n  for i in 0..30 {\n    s += s;\n  }\n}",
            "size",
            "transform",
            4,
            0,
            "4 |     s += s;",
        ),
        (
            "fn transform(event, payload) {\n  deeper(1)\n}\nfn deeper(n) { deeper(n + 1) }",
            "depth",
            "transform",
            2,
            3,
            "2 |   deeper(1)\n  |   ^",
        ),
        (
            "fn transform(event, payload) {\n  helper();\n}\nfn helper() { loop { 1; } }",
            "operations",
            "transform",
            2,
            3,
            "2 |   helper();\n  |   ^",
        ),
    ] {
        let error = run(script).expect_err(script);
        assert_eq!((error.kind, error.function.as_str(), error.line), (kind, function, line), "{script}: {error:?}");
        assert!(column == 0 || error.column == column, "{script}: {error:?}");
        assert!(error.column > 0 && error.excerpt.starts_with(excerpt), "{script}: {error:?}");
        let called = ["deeper", "helper"].iter().find(|name| script.contains(&format!("fn {name}")));
        match called {
            Some(name) => assert!(error.message.ends_with(&format!(", in `{name}`")), "{error}"),
            None => assert!(!error.message.contains("in `"), "{error}"),
        }
    }
}

#[test]
fn a_function_that_overran_has_timed_out() {
    for mode in [Mode::Rehearsal, Mode::Service] {
        let sources = BTreeMap::from([("rule.rhai".to_owned(), Arc::from("fn transform(event, payload) { payload }"))]);
        let limits = ScriptLimits { operations: 200_000, time: Duration::ZERO };
        let (scripts, problems) = Scripts::compile(&sources, BTreeMap::new(), limits, Clock::System);
        assert_eq!(problems, []);
        let mut program = program("");
        program.rule = scripts.rule("rule");
        let mut trace = Trace::default();
        match program.evaluate(&event(COMPLETED), (mode == Mode::Rehearsal).then_some(&mut trace)) {
            Outcome::Failed { error, .. } => {
                assert_eq!((error.kind, error.line, error.column), ("timeout", 1, 1), "{error}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn handlers_are_run_as_functions() {
    for (script, want) in [
        ("fn transform(event, payload) { return #{ v: 1 }; }", r#"{"v":1}"#),
        ("fn transform(event, payload) { const A = 2; let f = |x| x + A; #{ v: f.call(1) } }", r#"{"v":3}"#),
        (
            "const A = 5;\nfn transform(event, payload) { const A = 2; #{ v: A, g: global::A, h: help() } }\nfn help() { global::A }",
            r#"{"g":5,"h":5,"v":2}"#,
        ),
    ] {
        assert_eq!(run(script).as_deref(), Ok(want), "{script}");
    }
}

#[test]
fn what_is_wrong_with_an_answer_is_shown_where_the_function_is_declared() {
    for (script, want) in [
        ("\nfn accept(event) {\n  event.argument\n}", "accept, line 2, column 1: gave a map, not true or false"),
        (
            "fn transform(event, payload) { payload }\nfn headers(event, payload) {\n  [1]\n}",
            "headers, line 2, column 1: headers gave an array; it returns a map of names and values, or ()",
        ),
        ("\n\nfn transform(event, payload) { 1 }", "transform, line 3, column 1: "),
    ] {
        let error = run(script).expect_err(script);
        assert!(error.to_string().contains(want), "{error}, and not {want}");
        assert!(error.excerpt.contains("fn "), "{}", error.excerpt);
    }
}
