//! `sidehook test` and the reload gate, with the real binary.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::cli::{self, cli};
use crate::support::signature::SECRET;
use crate::support::{PATIENCE, Receiver, Sidehook};

const RULE: &str = "fn accept(event) { event.metadata.region == \"eu\" }\nfn transform(event, payload) { payload.turns = event.conversation.messages.len(); payload }\nfn headers(event, payload) { #{ \"X-Region\": event.metadata.region } }\n";

/// A config directory with one webhook whose rule is [`RULE`], and these tests.
fn prepared(tests: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in [
        ("sidehook.yaml", "rules_dir: scripts\n"),
        (
            "webhooks/crm.yaml",
            "url: https://crm.example.com\nevents: [\"*\"]\nrule: x.rhai\nparams: {kind: event.type, big: argument.big}\n\
             when: event.id != \"never\"\nheaders: {X-Kept: mine}\nsigning: {scheme: none}\n",
        ),
        ("scripts/x.rhai", RULE),
        ("scripts/x.test.yaml", tests),
        ("scripts/event.json", r#"{"type": "a.b", "id": "never", "metadata": {"region": "eu"}}"#),
    ] {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    dir
}

async fn test(dir: &tempfile::TempDir, more: &[&str]) -> cli::Output {
    let mut args = vec!["test", "--config", dir.path().to_str().unwrap()];
    args.extend(more);
    cli(&args).await
}

const GOOD: &str = r"# what the rule does
- name: default params
  event: {type: a.b, metadata: {region: eu}, conversation: {id: c, messages: [{role: user, message: hi}]}}
  expect:
    contains: {event: a.b, turns: 1}
    headers: {x-region: eu}
- name: by its webhook
  webhook: crm
  event: {type: a.b, metadata: {region: eu}, argument: {big: 12345678901234567890123}}
  expect: {payload: {kind: a.b, turns: 0, big: 12345678901234567890123}}
- name: others are skipped
  event: {type: a.b, metadata: {region: us}}
  expect: {skipped: true}
- name: the webhook's when counts
  webhook: crm
  event_file: event.json
  expect: {skipped: true}
- {name: in braces, event: {type: a.b, metadata: {region: eu}, conversation: 5}, expect: {error: x}}
";

#[tokio::test]
async fn good_tests_pass() {
    let good: String = GOOD.lines().filter(|l| !l.contains("in braces")).map(|l| format!("{l}\n")).collect();
    let dir = prepared(&good);
    let output = test(&dir, &[]).await.expect(0);
    assert_eq!(
        output.stdout,
        "ok    x.rhai: default params\nok    x.rhai: by its webhook\nok    x.rhai: others are skipped\n\
         ok    x.rhai: the webhook's when counts\n\n4 passed\n"
    );
    std::fs::remove_file(dir.path().join("scripts/x.test.yaml")).unwrap();
    assert!(test(&dir, &[]).await.expect(0).stdout.contains("no tests"));
}

#[tokio::test]
async fn a_fan_out_of_one_may_be_written_as_one() {
    let dir = prepared("- name: one\n  event: {type: a.b}\n  expect: {payload: [{n: 1}], contains: [{n: 1}]}\n");
    std::fs::write(dir.path().join("scripts/x.rhai"), "fn transform(event, payload) { [#{ n: 1 }] }").unwrap();
    assert_eq!(test(&dir, &[]).await.expect(0).stdout, "ok    x.rhai: one\n\n1 passed\n");
}

const BAD: &str = "# a comment that stays\n- name: one\n  event: {type: a.b, metadata: {region: eu}}\n  expect:\n    # stays above what it is about\n    contains:   # so does this\n      # why three\n      turns: 3 # said who?\n\n# the second\n- name: two\n  event: {type: a.b, metadata: {region: us}}\n  expect: {payload: {}}   \n- {name: three, event: {type: a.b, metadata: {region: eu}}, expect: {headers: {X-Region: us}}}  # stays\n- name: four\n  event: {type: a.b, metadata: {region: eu}}\n  expect: {contains: {turns: 0}}\n- name: five\n  expect: {payload: []}\n  event: {type: a.b, id: 5, metadata: {region: eu}}\n";

#[tokio::test]
async fn a_failing_case_shows_its_event_the_difference_and_its_place() {
    let dir = prepared(BAD);
    let output = test(&dir, &[]).await.expect(1);
    for part in [
        "FAIL  x.rhai: one\n      at scripts/x.test.yaml:2:3\n      event:\n        {\n          \"metadata\": {",
        "      - payload.turns: 3\n      + payload.turns: 0\n",
        "the event was filtered by accept",
        "the header X-Region is `eu`, not `us`",
        "ok    x.rhai: four",
        "1 passed, 4 failed",
    ] {
        assert!(output.stdout.contains(part), "{part:?} is not in {}", output.stdout);
    }
    assert!(!output.stdout.contains('\u{1b}'), "colours are for terminals");
    let shown = test(&dir, &["--json"]).await.expect(1).json();
    assert_eq!((&shown["passed"], &shown["failed"]), (&json!(1), &json!(4)), "{shown}");
    let two = &shown["cases"][1];
    assert_eq!(
        (&two["file"], &two["line"], &two["name"], &two["passed"], &two["expected"], &two["got"]),
        (
            &json!("scripts/x.test.yaml"),
            &json!(11),
            &json!("two"),
            &json!(false),
            &json!({"payload": {}}),
            &json!({"skipped": true})
        ),
    );
}

#[tokio::test]
async fn update_rewrites_what_fails_and_nothing_else() {
    let dir = prepared(BAD);
    let output = test(&dir, &["--update"]).await.expect(0);
    assert!(output.stdout.contains("1 passed, 4 updated"), "{}", output.stdout);
    let text = std::fs::read_to_string(dir.path().join("scripts/x.test.yaml")).unwrap();
    assert_eq!(
        text,
        "# a comment that stays\n- name: one\n  event: {type: a.b, metadata: {region: eu}}\n  expect:\n    # stays above what it is about\n    contains:   # so does this\n      # why three\n      turns: 0 # said who?\n\n# the second\n- name: two\n  event: {type: a.b, metadata: {region: us}}\n  expect:\n    skipped: true\n- {name: three, event: {type: a.b, metadata: {region: eu}}, expect: {\"headers\":{\"X-Region\":\"eu\"}}}  # stays\n- name: four\n  event: {type: a.b, metadata: {region: eu}}\n  expect: {contains: {turns: 0}}\n- name: five\n  expect:\n    payload:\n      event: a.b\n      data:\n        assistant: {}\n        conversation:\n          messages: []\n        analysis: {}\n      turns: 0\n  event: {type: a.b, id: 5, metadata: {region: eu}}\n"
    );
    test(&dir, &[]).await.expect(0);
}

#[tokio::test]
async fn mistakes_in_test_files_are_reported_at_their_places() {
    for (tests, part) in [
        ("name: x", "a test file is a list of cases"),
        ("- name: a\n  event: {type: a.b}\n  expekt: {skipped: true}", "did you mean `expect`?"),
        ("- name: a\n  event: {type: a.b}\n", "`expect` is missing"),
        ("- name: a\n  expect: {skipped: true}\n", "`event` is missing"),
        ("- name: a\n  event: {kind: a.b}\n  expect: {skipped: true}", "this is no event: /type: required"),
        ("- name: a\n  event: {type: a.b}\n  expect: {skiped: true}", "did you mean `skipped`?"),
        ("- name: a\n  event: {type: a.b}\n  expect: {skipped: true, error: x}", "x.test.yaml:3:11"),
        ("- name: a\n  event: {type: a.b}\n  webhook: crn\n  expect: {skipped: true}", "did you mean `crm`?"),
        ("- name: a\n  event_file: ../x.json\n  expect: {skipped: true}", "leads out of the test's folder"),
        ("- name: a\n  event_file: none.json\n  expect: {skipped: true}", "there is no such file"),
        ("- name: a\n  event: {type: a.b}\n  event_file: event.json\n  expect: {skipped: true}", "exclude each other"),
        ("- name: [", "x.test.yaml:"),
    ] {
        let output = test(&prepared(tests), &[]).await.expect(64);
        assert!(output.stderr.contains(part), "{tests}: {part:?} is not in {}", output.stderr);
    }
    let dir = prepared(GOOD);
    let shown = test(&dir, &["--json"]).await.expect(64).json();
    assert_eq!(
        (&shown["problems"][0]["file"], &shown["problems"][0]["line"]),
        (&json!("scripts/x.test.yaml"), &json!(18)),
        "{shown}"
    );
    std::fs::rename(dir.path().join("scripts/x.test.yaml"), dir.path().join("scripts/y.test.yaml")).unwrap();
    assert!(test(&dir, &[]).await.expect(64).stderr.contains("there is no y.rhai beside this test"));
    cli(&["test", "--config", "no/such/dir"]).await.expect(64);
}

#[tokio::test]
async fn watch_runs_the_tests_again_after_a_change() {
    let dir = prepared(BAD);
    let mut child = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidehook"))
        .args(["test", "--watch", "--json", "--config", dir.path().to_str().unwrap()])
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut next = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a run in time").unwrap().unwrap();
        serde_json::from_str::<serde_json::Value>(&line).unwrap()
    };
    assert_eq!(next().await["failed"], 4);
    std::fs::write(dir.path().join("scripts/x.test.yaml"), GOOD.lines().take(6).collect::<Vec<_>>().join("\n"))
        .unwrap();
    // A look in the middle of the write may give a run of its own.
    while next().await["passed"] != 1 {}
    std::fs::write(dir.path().join("scripts/x.rhai"), "fn transform(event, payload) { nonsense() }").unwrap();
    while next().await["problems"][0]["file"] != "scripts/x.rhai" {}
    child.kill().await.unwrap();
}

#[tokio::test]
async fn run_tests_refuses_a_start_and_a_reload() {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", "events: [\"*\"]\nrule: x.rhai");
    let tests = "- name: it counts\n  event: {type: a.b}\n  expect: {contains: {n: 1}}\n";
    let rule = |n: u32| format!("fn transform(event, payload) {{ payload.n = {n}; payload }}");
    let builder = || {
        Sidehook::builder().main("reload: {run_tests: true}\n").webhook("x", &webhook).file("rules/x.test.yaml", tests)
    };
    let refused = builder().rule("x.rhai", &rule(2)).prepare();
    for command in ["run", "check"] {
        let output = cli(&[command, "--config", refused.config_arg()]).await.expect(64);
        for part in ["the test \"it counts\" of x.rhai fails: the payload lacks", "rules/x.test.yaml:1:3"] {
            assert!(output.stderr.contains(part), "{command}: {part:?} is not in {}", output.stderr);
        }
    }
    assert_eq!(test_at(&refused).await, 1, "and the tests themselves can still be run");

    let sidehook = builder().rule("x.rhai", &rule(1)).start().await;
    sidehook.write("rules/x.rhai", &rule(2));
    let status = crate::support::eventually("a refused reload", async || {
        let status = sidehook.get("/api/v1/status").await.expect(200).json();
        if status["last_reload"]["result"] == "rejected" { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    let problem = &status["last_reload"]["problems"][0];
    assert_eq!((&problem["file"], &problem["line"]), (&json!("rules/x.test.yaml"), &json!(1)), "{status}");
    assert!(problem["message"].as_str().is_some_and(|m| m.contains("it counts")), "{status}");
    sidehook.send(&json!({"id": "e", "type": "a.b"})).await;
    assert_eq!(receiver.wait("/x", 1).await[0].json()["n"], 1, "the old generation goes on");
    sidehook.write("rules/x.test.yaml", &tests.replace('1', "2"));
    sidehook.await_generation(2).await;
}

async fn test_at(sidehook: &Sidehook) -> i32 {
    tokio::time::timeout(Duration::from_secs(60), cli(&["test", "--config", sidehook.config_arg()])).await.unwrap().code
}

#[tokio::test]
async fn rules_definitions_writes_files_for_editors() {
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("a/b");
    let output = cli(&["rules", "definitions", to.to_str().unwrap()]).await.expect(0);
    assert_eq!(output.stdout.lines().count(), 2, "{}", output.stdout);
    assert!(std::fs::read_to_string(to.join("functions.d.rhai")).unwrap().contains("fn redact_email(v: ?) -> ?;"));
    assert!(std::fs::read_to_string(to.join("event.d.rhai")).unwrap().contains("let event: Map;"));
}

#[tokio::test]
async fn preview_shows_the_difference_that_a_rule_makes_and_where_it_fails() {
    let dir = prepared("");
    let preview = async |event: &str, more: &[&str], code: i32| {
        let file = dir.path().join("event.json");
        std::fs::write(&file, event).unwrap();
        let mut args = vec!["preview", "--webhook", "crm", "--event", file.to_str().unwrap()];
        args.extend(more);
        args.extend(["--config", dir.path().to_str().unwrap()]);
        cli(&args).await.expect(code)
    };
    let shown = preview(r#"{"type": "a.b", "id": "e1", "metadata": {"region": "eu"}}"#, &[], 0).await.stdout;
    let difference = "the rule changed it (- as params made it, + as the rule left it):\n  {\n-   \"kind\": \"a.b\"\n+   \"kind\": \"a.b\",\n+   \"turns\": 0\n  }\n";
    for part in ["event e1 (a.b)\n", "accepted: ", "x-region: eu", difference, " operations, "] {
        assert!(shown.to_lowercase().contains(&part.to_lowercase()), "{part:?} is not in {shown}");
    }
    assert!(!shown.contains('\u{1b}'), "colours are for terminals");
    let digits = r#"{"type": "a.b", "metadata": {"region": "eu"}, "argument": {"big": 12345678901234567890.10}}"#;
    for more in [&[][..], &["--json"]] {
        let shown = preview(digits, more, 0).await.stdout;
        assert!(shown.contains("12345678901234567890.10"), "{shown}");
        assert!(!shown.contains("1.2345678901234567e+19"), "{shown}");
    }
    let filtered = preview(r#"{"type": "a.b", "metadata": {"region": "us"}}"#, &[], 0).await.stdout;
    assert!(filtered.contains("filtered: accept returned false"), "{filtered}");
    // A large payload is shown once; of it the difference repeats only what surrounds a change.
    let messages: Vec<_> = (0..9).map(|n| json!({"role": "user", "message": format!("turn {n}")})).collect();
    let event = json!({"type": "a.b", "metadata": {"region": "eu"}, "conversation": {"id": "c", "messages": messages}});
    let shown = preview(&event.to_string(), &[], 0).await.stdout;
    assert!(shown.contains("\"turns\": 9") && shown.matches("a.b\"").count() <= 3, "{shown}");

    std::fs::write(
        dir.path().join("scripts/x.rhai"),
        "fn transform(event, payload) {\n    let n = 1 + ();\n    payload\n}\n",
    )
    .unwrap();
    let event = r#"{"type": "a.b", "id": "e2"}"#;
    let failed = preview(event, &[], 1).await.stdout;
    for part in ["event e2 (a.b)\n", "failed: x.rhai: transform, line 2, column ", "let n = 1 + ();", "^"] {
        assert!(failed.contains(part), "{part:?} is not in {failed}");
    }
    let failed = preview(event, &["--json"], 1).await.json();
    let error = &failed["error"];
    assert_eq!(
        (&error["event"], &error["file"], &error["line"]),
        (&json!("e2"), &json!("x.rhai"), &json!(2)),
        "{failed}"
    );
    assert!(error["excerpt"].as_str().is_some_and(|e| e.contains('^')), "{failed}");
}

#[tokio::test]
async fn each_ready_rule_is_used_by_an_example_that_runs() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = root.join("examples/ready-rules");
    let names = |dir: &Path, suffix: &str| -> BTreeSet<String> {
        let entries = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
        entries.filter(|name| name.ends_with(suffix)).collect()
    };
    let run = async |args: &[&str], code: i32| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidehook"));
        command.args(args).current_dir(&example).kill_on_drop(true).env("PSEUDONYM_KEY", "k");
        for secret in ["RESEARCH_SECRET", "WAREHOUSE_SECRET", "PARTNER_SECRET"] {
            command.env(secret, SECRET);
        }
        let output = tokio::time::timeout(PATIENCE, command.output()).await.expect("in time").unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{args:?}: {out}{err}");
        out.into_owned()
    };
    run(&["check"], 0).await;
    let tested = run(&["test"], 0).await;
    // Its folder of rules holds the adapters as well.
    let ready = tested.lines().filter(|line| line.starts_with("ok ") && !line.contains(" adapters/"));
    assert_eq!(ready.count(), 9, "{tested}");
    let mut used = BTreeSet::new();
    for (webhook, part) in [
        ("slack", json!({"text": ":white_check_mark: Conversation completed: Refund for [email]"})),
        ("discord", json!({"embeds": [{"title": "Conversation completed"}]})),
        ("crm-note", json!({"properties": {"hs_timestamp": 1_767_440_290_000_i64}})),
        ("transcripts", json!({"messages": [{"message": "I am [email] and want my money back"}]})),
        ("warehouse", json!({"messages": 2, "result": "Refund for jane@example.com"})),
        ("thin", json!({"id": "evt_ready", "conversation": "2216964057603244032"})),
    ] {
        let shown = run(&["preview", "--webhook", webhook, "--event", "event.json", "--json"], 0).await;
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(shown["accepted"], true, "{webhook}: {shown}");
        assert!(holds(&shown["deliveries"][0]["payload"], &part), "{webhook}: {shown}");
        let text = std::fs::read_to_string(example.join(format!("webhooks/{webhook}.yaml"))).unwrap();
        used.extend(text.lines().filter_map(|line| Some(line.strip_prefix("rule: ")?.to_owned())));
    }
    assert_eq!(used, names(&root.join("rules"), ".rhai"), "each ready rule");
    assert_eq!(names(&example.join("webhooks"), ".yaml").len(), used.len(), "each webhook was tried");
}

/// Whether a value has everything that another one says; of arrays the first elements.
fn holds(value: &serde_json::Value, part: &serde_json::Value) -> bool {
    match part {
        serde_json::Value::Object(part) => part.iter().all(|(key, part)| holds(&value[key], part)),
        serde_json::Value::Array(part) => part.iter().enumerate().all(|(i, part)| holds(&value[i], part)),
        _ => value == part,
    }
}

/// The blocks of a section of the guide, by the file their first line names.
fn blocks(section: &str) -> Vec<(String, String)> {
    let guide = include_str!("../rules/README.md");
    let section = guide.split(&format!("\n## {section}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = section.split("\n```").skip(1).step_by(2);
    let named = blocks.filter_map(|block| {
        let (_, text) = block.split_once('\n')?;
        let name = text.lines().next()?.trim_start_matches(['#', '/']).trim();
        name.starts_with("rules/").then(|| (name.to_owned(), format!("{text}\n")))
    });
    named.collect()
}

#[tokio::test]
async fn the_adapter_of_the_guide_passes_its_tests() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = blocks("Adapters");
    files.extend(blocks("Tests"));
    assert_eq!(
        files.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        ["rules/adapters/mybot.rhai", "rules/adapters/mybot.test.yaml"]
    );
    files.push(("sidehook.yaml".into(), "{}\n".into()));
    for (name, text) in files {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let output = test(&dir, &[]).await.expect(0);
    assert_eq!(
        output.stdout,
        "ok    adapters/mybot.rhai: a call that ends is a completed conversation\n\
         ok    adapters/mybot.rhai: other messages are of no interest\n\n2 passed\n"
    );
}

const ADAPTER: &str = "fn adapt(message) {\n    if message.body == \"bad\" { throw \"odd body\" }\n    if message.body == \"none\" { return; }\n    #{ type: message.body.type, at: message.direction, path: message.path, host: message.headers.host }\n}\n";

/// A config directory with one adapter and these tests.
fn adapting(tests: &str) -> tempfile::TempDir {
    let dir = prepared("[]\n");
    std::fs::write(dir.path().join("scripts/bot.rhai"), ADAPTER).unwrap();
    std::fs::write(dir.path().join("scripts/bot.test.yaml"), tests).unwrap();
    let text = r#"{"body": {"type": "a.b"}, "direction": "server", "headers": {"Host": "h"}}"#;
    std::fs::write(dir.path().join("scripts/message.json"), text).unwrap();
    dir
}

#[tokio::test]
async fn adapters_are_tested_by_messages() {
    let dir = adapting(
        "- name: from a file\n  message_file: message.json\n  expect: {events: [{type: a.b, at: server, path: '', host: h}]}\n\
         - {name: a part, message: {body: {type: a.b}, path: /x}, expect: {contains: {path: /x}}}\n\
         - {name: parts, message: {body: {type: a.b}, path: /x}, expect: {contains: [{path: /x}]}}\n\
         - {name: nothing, message: {body: none}, expect: {skipped: true}}\n\
         - {name: an error, message: {body: bad}, expect: {error: odd body}}\n",
    );
    let output = test(&dir, &[]).await.expect(0);
    assert!(output.stdout.ends_with("ok    bot.rhai: an error\n\n5 passed\n"), "{}", output.stdout);

    let dir = adapting(
        "- name: differs\n  message: {body: {type: a.b}}\n  expect:\n    events: []   # why\n\
         - {name: no event, message: {body: {type: 5}}, expect: {contains: {at: request}}}\n\
         - {name: came to nothing, message: {body: none}, expect: {events: [{type: a.b}]}}\n\
         - {name: failed, message: {body: bad}, expect: {skipped: true}}\n\
         - {name: made some, message: {body: {type: a.b}}, expect: {error: odd}}\n",
    );
    let output = test(&dir, &[]).await.expect(1);
    for part in [
        "FAIL  bot.rhai: differs\n      at scripts/bot.test.yaml:1:3\n      message:\n        {\n",
        "the events differ (- expected, + got):",
        "event 0 is no event: /type: must be a string, not a number",
        "the message made no event",
        "bot.rhai: adapt, line 2, column 32: odd body",
        "the message made events; an error was expected that says `odd`",
        "0 passed, 5 failed",
    ] {
        assert!(output.stdout.contains(part), "{part:?} is not in {}", output.stdout);
    }
    // What is no event stays wrong, whatever is expected of it.
    test(&dir, &["--update"]).await.expect(0);
    let output = test(&dir, &[]).await.expect(1);
    assert!(output.stdout.contains("4 passed, 1 failed"), "{}", output.stdout);
    let text = std::fs::read_to_string(dir.path().join("scripts/bot.test.yaml")).unwrap();
    let updated = "- name: differs\n  message: {body: {type: a.b}}\n  expect:\n    events:   # why\n      -\n        at: request\n";
    assert!(text.starts_with(updated), "{text}");
}

#[tokio::test]
async fn a_case_of_the_wrong_kind_is_said_at_its_place() {
    let dir = adapting(
        "- {name: a, message: {body: x}, event: {type: a.b}, expect: {skipped: true}}\n\
         - {name: b, message: {body: x}, expect: {payload: {}}}\n\
         - {name: c, event: {type: a.b}, expect: {events: []}}\n\
         - {name: d, message: {bdy: x}, expect: {skipped: true}}\n\
         - {name: e, message: {body: x, direction: up}, expect: {skipped: true}}\n\
         - {name: f, message_file: ../message.json, expect: {skipped: true}}\n\
         - {name: g, message: {body: x}, expect: {events: 5}}\n\
         - {name: h, message: {body: x}, message_file: message.json, expect: {skipped: true}}\n",
    );
    std::fs::write(
        dir.path().join("scripts/x.test.yaml"),
        "- {name: i, message: {body: x}, expect: {skipped: true}}\n",
    )
    .unwrap();
    let output = test(&dir, &[]).await.expect(64);
    for part in [
        "`message` and `event` exclude each other",
        "an adapter makes events: a payload and its headers are a rule's",
        "a rule makes a payload: events are an adapter's, whose case has a `message`",
        "unknown key `bdy`",
        "`up` is none of request, response, client, server",
        "leads out of the test's folder",
        "expect.events is an array of events, not a number",
        "`message` and `message_file` exclude each other",
        "x.rhai has no fn adapt(message)",
        "this is a rule, for a webhook's `rule`",
    ] {
        assert!(output.stderr.contains(part), "{part:?} is not in {}", output.stderr);
    }
}
