//! The table of keys against the decoders, and input that nobody means well.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use proptest::prelude::*;

use super::fields::ASKED;
use super::shape::{self, Block, Kind};
use super::*;
use crate::clock::Clock;

fn dir(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a folder");
        fs::write(path, text).expect("a file");
    }
    dir
}

fn load_dir(path: &Path) -> Result<Generation, Report> {
    load(path, &|_| None, &Clock::System)
}

fn reachable(block: &'static Block, out: &mut Vec<&'static Block>) {
    if out.iter().any(|b| b.name == block.name) {
        return;
    }
    out.push(block);
    for key in block.keys.iter().filter(|k| !k.later) {
        blocks_of(&key.kind, out);
    }
}

fn blocks_of(kind: &Kind, out: &mut Vec<&'static Block>) {
    match kind {
        Kind::Block(block) => reachable(block, out),
        Kind::List(kind) | Kind::Map(kind) => blocks_of(kind, out),
        Kind::Either(kinds) => kinds.iter().for_each(|kind| blocks_of(kind, out)),
        Kind::Source => reachable(&shape::SOURCE_HTTP, out),
        _ => {}
    }
}

#[test]
fn decoders_ask_for_every_key_of_the_table() {
    let text = "sources: {a: {type: http, listen: 127.0.0.1:0, verify: {scheme: hmac, header: X-Sig, secrets: [x]}}}\noutbox: {retain: {bodies: false}}\nconversations: {state: memory}\n\
                analyses: [{name: a, url: https://example.com}]\nadmin: {hosts: [x]}\negress: {allow_http: true}\nlimits: {concurrency: 1}\nreload: {canary: 0}\nshutdown: {grace: 1s}\n\
                webhooks:\n  a: &a\n    url: https://example.com\n    events: [a.b]\n    wait_for: {analysis: [x]}\n    tls: {min_version: 1.3}\n\
                \x20   breaker: {failures: 2}\n    retry: {schedule: {attempts: 2}}\n\
                \x20   signing: {scheme: hmac, header: X-Sig, secrets: [x]}\n    auth: {basic: {username: u, password: p}}\n\
                \x20 b: {url: https://example.com, events: [a.b], signing: {scheme: none}, auth: {oauth2: {token_url: https://example.com, client_id: c, client_secret: s}}}\n";
    let dir = dir(&[("sidehook.yaml", text)]);
    if let Err(report) = load_dir(dir.path()) {
        panic!("{}", report.render(false));
    }
    let mut blocks = Vec::new();
    reachable(&shape::ROOT, &mut blocks);
    let mut unasked = Vec::new();
    ASKED.with_borrow(|asked| {
        for block in blocks {
            for key in block.keys.iter().filter(|k| !k.later) {
                // `type` decides which table is used, so it is read before there is one.
                if key.name != "type" && !asked.contains(&(block.name, key.name)) {
                    unasked.push(format!("{}.{}", block.name, key.name));
                }
            }
        }
    });
    assert_eq!(unasked, Vec::<String>::new(), "keys that are accepted and then ignored");
}

#[test]
fn defaults_shown_to_editors_are_the_defaults() {
    fn check(block: &Block, path: &str) {
        for key in block.keys.iter().filter(|k| !k.default.is_empty()) {
            let value: serde_json::Value = serde_json::from_str(key.default).expect(path);
            let text = value.as_str().unwrap_or_default();
            match key.kind {
                Kind::Duration => drop(values::duration(text).unwrap_or_else(|e| panic!("{path}.{}: {e}", key.name))),
                Kind::Size => drop(values::size(text).unwrap_or_else(|e| panic!("{path}.{}: {e}", key.name))),
                Kind::Choice(words) => assert!(words.contains(&text), "{path}.{}", key.name),
                _ => {}
            }
        }
    }
    let mut blocks = Vec::new();
    reachable(&shape::ROOT, &mut blocks);
    for block in &blocks {
        check(block, block.name);
    }
    // Writing the defaults out changes nothing.
    let short = dir(&[("sidehook.yaml", "")]);
    let long = dir(&[(
        "sidehook.yaml",
        "sources: {events: {type: http, listen: 127.0.0.1:7070}}\ndedupe_window: 24h\n\
         outbox: {path: data, max_bytes: 1GiB, when_full: reject, retain: {delivered: 24h, dead: 30d, events: 0s, bodies: false}}\n\
         conversations: {state: durable, retain: 1h, idle_timeout: null, max_open_age: 7d}\nadmin: {listen: 127.0.0.1:7071}\n\
         limits: {body: 8MiB, concurrency: 256, script_operations: 200000, script_time: 50ms}\nshutdown: {accept: 5s, grace: 20s}\n",
    )]);
    let (short_settings, mut long_settings) =
        (load_dir(short.path()).expect("loads").settings, load_dir(long.path()).expect("loads").settings);
    long_settings.outbox_path.clone_from(&short_settings.outbox_path);
    assert_eq!(short_settings, long_settings);
}

#[test]
fn client_certificates_are_held_against_their_keys() {
    let one = rcgen::generate_simple_self_signed(["a.example".to_owned()]).expect("a certificate");
    let two = rcgen::generate_simple_self_signed(["b.example".to_owned()]).expect("a certificate");
    let webhook = "url: https://example.com\nevents: [a.b]\nsigning: {scheme: none}\n\
                   tls: {ca_file: ../c.pem, client_cert_file: ../c.pem, client_key_file: ../k.pem}\n"
        .replace("../", "");
    let (cert, key, wrong) = (one.cert.pem(), one.signing_key.serialize_pem(), two.signing_key.serialize_pem());
    let good = dir(&[("sidehook.yaml", ""), ("webhooks/a.yaml", &webhook), ("c.pem", &cert), ("k.pem", &key)]);
    let generation = load_dir(good.path()).unwrap_or_else(|r| panic!("{}", r.render(false)));
    let tls = &generation.webhooks["a"].tls;
    assert!(tls.client.is_some() && tls.ca.len() == 1);
    let bad = dir(&[("sidehook.yaml", ""), ("webhooks/a.yaml", &webhook), ("c.pem", &cert), ("k.pem", &wrong)]);
    let report = load_dir(bad.path()).err().expect("a problem");
    assert!(report.problems[0].message.contains("the key in k.pem does not belong"), "{}", report.render(false));
    let none = dir(&[("sidehook.yaml", ""), ("webhooks/a.yaml", &webhook), ("c.pem", &cert), ("k.pem", "x")]);
    let report = load_dir(none.path()).err().expect("a problem");
    assert!(report.problems[0].message.contains("holds no PEM private key"), "{}", report.render(false));
    assert!(!report.render(false).contains("BEGIN PRIVATE KEY----- block\n\n-----BEGIN"));
}

#[test]
fn links_out_of_the_rules_directory_are_refused() {
    let outside = dir(&[("evil.rhai", "fn accept(e) { true }")]);
    let dir = dir(&[("sidehook.yaml", ""), ("rules/fine.rhai", "fn accept(e) { true }")]);
    symlink(outside.path().join("evil.rhai"), dir.path().join("rules/evil.rhai")).expect("a link");
    let report = load_dir(dir.path()).err().expect("a problem");
    assert_eq!(report.problems.len(), 1);
    assert_eq!(report.problems[0].file, "rules/evil.rhai");
    assert!(report.problems[0].message.contains("leads out of the rules directory"));
    fs::remove_file(dir.path().join("rules/evil.rhai")).expect("removed");
    symlink("fine.rhai", dir.path().join("rules/inside.rhai")).expect("a link");
    assert!(load_dir(dir.path()).is_ok());
}

#[test]
fn a_file_hash_follows_its_webhook_only() {
    let hooks = |x: &str| {
        format!(
            "webhooks:\n  a: {{url: https://example.com/{x}, events: [a.b], signing: {{scheme: none}}}}\n\
             \x20 b: {{url: https://example.com, events: [a.b], signing: {{scheme: none}}}}\n"
        )
    };
    let hashes = |text: &str| {
        let dir = dir(&[("sidehook.yaml", text)]);
        let generation = load_dir(dir.path()).expect("loads");
        (generation.webhooks["a"].file_hash.clone(), generation.webhooks["b"].file_hash.clone())
    };
    let (one, two) = (hashes(&hooks("1")), hashes(&hooks("2")));
    assert_ne!(one.0, two.0);
    assert_eq!(one.1, two.1);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    /// Whatever stands in the files, a load ends with a generation or a report, and the report can be shown.
    #[test]
    fn no_text_panics(settings in text(), webhook in text()) {
        let dir = dir(&[("sidehook.yaml", &settings), ("webhooks/a.yaml", &webhook)]);
        if let Err(report) = load_dir(dir.path()) {
            prop_assert!(!report.problems.is_empty());
            prop_assert!(!report.render(true).is_empty());
            for problem in &report.problems {
                prop_assert!(problem.line == 0 || problem.column > 0);
            }
        }
    }
}

/// Pieces of configurations, put together at random.
fn text() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        prop::sample::select(vec![
            "url: ",
            "events: ",
            "signing: ",
            "scheme",
            "hmac",
            "{",
            "}",
            "[",
            "]",
            ": ",
            ", ",
            "\n",
            "\n  ",
            "\n    ",
            "- ",
            "\"",
            "'",
            "${",
            "${X}",
            "${X:-",
            "}",
            "|",
            ">",
            "&a ",
            "*a",
            "!x ",
            "!!str ",
            "#",
            " #",
            "whsec_",
            "headers: ",
            "params: ",
            "when: ",
            "5s",
            "0x",
            "1e9",
            ".inf",
            "null",
            "~",
            "retry: ",
            "schedule: ",
            "sources: ",
            "webhooks: ",
            "type: http",
            "listen: ",
            "[::1]:70",
            "unix:",
            "tls: ",
            "ca_file: ",
            "/dev/zero",
            "secrets: ",
            "{file: ",
            "\t",
            "é",
            "\u{0}",
            "\u{feff}",
            "---\n",
            "...",
            "? ",
            "<<: ",
            "defaults: ",
            "wait_for: ",
            "rule: ",
            "../",
            "%",
            "@",
            "`",
        ])
        .prop_map(str::to_owned),
        "[a-z.]{1,6}",
        any::<char>().prop_map(String::from),
    ];
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

#[test]
fn aliases_may_not_repeat_text_without_end() {
    let text = format!("a: &a {}\nb: [{}]\n", "x".repeat(100_000), "*a, ".repeat(100));
    let parsed = super::yaml::parse(0, &text);
    assert!(parsed.root.is_none());
    assert_eq!(parsed.mistakes[0].message, "aliases repeat more than 8 MiB of text");
}

#[test]
fn mistakes_show_no_secret() {
    const HOOK: &str = "url: https://x.example/h\nevents: [a.b]\nsigning: {scheme: none}\n";
    let over = |key: &str, line: &str| {
        HOOK.lines().filter(|l| !l.starts_with(key)).fold(format!("{line}\n"), |a, l| a + l + "\n")
    };
    for text in [
        format!("{HOOK}headers:\n  Authorization: LEAK: x\n"),
        format!("{HOOK}headers: {{Authorization: LEAK: x}}\n"),
        format!("{HOOK}headers: {{Authorization LEAK}}\n"),
        format!("{HOOK}headers: {{Authorization LEAK: x}}\n"),
        format!("{HOOK}headers: {{Authorization, LEAK}}\n"),
        format!("{HOOK}headers: {{LEAK, LEAK}}\n"),
        format!("{HOOK}headers:\n  Authorization LEAK\n"),
        format!("{HOOK}headers:\n  ? LEAK\n"),
        format!("{HOOK}auth: {{basic: {{username: a, password: LEAK: b}}}}\n"),
        format!("{HOOK}auth: {{basic: {{username: a, password LEAK}}}}\n"),
        format!("{HOOK}auth: {{bearer, LEAK}}\n"),
        format!("{HOOK}auth: {{oauth2: {{token_url: 'http://x/?k=LEAK', client_id: a, client_secret, LEAK}}}}\n"),
        over("signing", "signing: {scheme: standard, LEAK}"),
        over("signing", "signing: {scheme: standard, secrets: [a: LEAK: b]}"),
        over("url", "url: http://x/?key=LEAK"),
        over("url", "url: 'http://x/?key=LEAK LEAK'"),
        over("url", "url: https://x/?LEAK#f"),
        over("url", "url: https://x/#LEAK"),
        over("url", "url: ftp://x/?key=LEAK"),
        over("url", "url: https:///?key=LEAK"),
        over("url", "url: https://x:99999/?key=LEAK"),
        over("url", "url: https://u:LEAK@x/h"),
        over("url", "url: https://x/?key=LEAK: y"),
        over("url", "url: >-\n  http://x/\n  ?key=LEAK"),
    ] {
        let dir = dir(&[("sidehook.yaml", "admin: {listen: 127.0.0.1:0}"), ("webhooks/a.yaml", &text)]);
        let Err(report) = load_dir(dir.path()) else { panic!("loads: {text}") };
        let shown = format!("{}{}", report.render(false), report.to_json());
        assert!(!shown.contains("LEAK"), "{text}\n{shown}");
    }
    for text in
        ["admin: {listen: 127.0.0.1:0, token LEAK}", "admin: {token: LEAK: x}", "outbox: {encryption_key, LEAK}"]
    {
        let dir = dir(&[("sidehook.yaml", text)]);
        let Err(report) = load_dir(dir.path()) else { panic!("loads: {text}") };
        let shown = format!("{}{}", report.render(false), report.to_json());
        assert!(!shown.contains("LEAK"), "{text}\n{shown}");
    }
}

#[test]
fn what_variables_put_into_a_url_is_starred() {
    let env = |name: &str| match name {
        "P" => Some("LEAK/p?q=LEAK".to_owned()),
        "HOST" => Some("leak.example".to_owned()),
        "K" => Some("LEAK".to_owned()),
        _ => None,
    };
    for (url, shown) in [
        ("https://x.example:19444/hook/${K}?key=${K}&b=LEAK", "https://x.example:19444/hook/****?key=****&b=****"),
        ("https://x.example/${P}&b=LEAK", "https://x.example/****&b=****"),
        ("https://${HOST}/h", "https://****/h"),
        ("https://x.example/h?LEAK", "https://x.example/h?****"),
    ] {
        let hook = format!("url: {url}\nevents: [a.b]\nsigning: {{scheme: none}}\n");
        let dir = dir(&[("sidehook.yaml", ""), ("webhooks/a.yaml", &hook)]);
        let generation = load(dir.path(), &env, &Clock::System).unwrap_or_else(|r| panic!("{}", r.render(false)));
        let webhook = &generation.webhooks["a"];
        assert_eq!(webhook.shown_url, shown);
        let hidden = webhook.hide_host("leak.example could not be resolved".to_owned());
        let wanted =
            if url.contains("HOST") { "**** could not be resolved" } else { "leak.example could not be resolved" };
        assert_eq!(hidden, wanted);
    }
}

#[test]
fn webhook_files_of_other_endings_are_reported() {
    for name in ["x.yml", "x.YML", "x.YAML", "x.Json"] {
        let dir = dir(&[("sidehook.yaml", ""), (&format!("webhooks/{name}"), "{}")]);
        let Err(report) = load_dir(dir.path()) else { panic!("loads: {name}") };
        let shown = report.render(false);
        assert!(
            shown.contains("webhook files end in .yaml") && shown.contains("rename it to x.yaml"),
            "{name}: {shown}"
        );
    }
}

/// Everything that holds a value, each once at least.
fn full() -> serde_json::Value {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let webhook = |auth: serde_json::Value, schedule: serde_json::Value| {
        serde_json::json!({
            "url": "https://example.com/hook", "events": ["a.b", "c.*"], "description": "text", "method": "PUT", "enabled": true,
            "headers": {"X-A": "1", "X-B": {"env": "NAME"}}, "auth": auth, "timeout": "5s", "ordering": "none",
            "wait_for": {"analysis": ["x"], "timeout": "1s"}, "concurrency": 2, "rate_limit": "5/s", "priority": 1,
            "retry": {"schedule": schedule, "jitter": 0.1, "statuses": [429, "5xx"]},
            "breaker": {"failures": 2, "open_for": "1s"}, "tls": {"server_name": "example.com", "min_version": "1.3"},
            "signing": {"scheme": "standard", "secrets": [secret, {"env": "SECRET"}]},
            "params": {"a": "event.type", "b": {"value": "text"}}, "missing": "null", "on_rule_error": "skip",
        })
    };
    serde_json::json!({
        "sources": {
            "a": {"type": "http", "listen": "127.0.0.1:7070", "token": {"env": "NAME"}, "namespace": "n", "infer_failure": false},
            "b": {"type": "http", "listen": "127.0.0.1:7072", "verify": {"scheme": "standard", "secrets": [secret]}},
            "c": {"type": "http", "listen": "127.0.0.1:7073", "verify": {"scheme": "hmac", "header": "X-Sig", "secrets": [{"env": "NAME"}]}},
            "d": {"type": "proxy", "listen": "127.0.0.1:7074", "upstream": "http://127.0.0.1:8000",
                  "taps": [{"path": "/v1/*", "format": "json", "method": "POST", "read": "both", "on_overflow": "drop"}]},
            "e": {"type": "unix", "listen": "unix:/run/a.sock"},
            "f": {"type": "file", "path": "/var/log/a"},
            "g": {"type": "sse", "url": "https://example.com/stream", "headers": {"X-A": "1"}},
            "h": {"type": "exec", "command": ["echo", "hi"], "env": {"A": "1", "B": {"env": "NAME"}}, "cwd": "/tmp"},
        },
        "admin": {"listen": "127.0.0.1:7071", "token": "secret", "hosts": ["example.com"]},
        "outbox": {"path": "data", "max_bytes": "1GiB", "when_full": "reject", "encryption_key": {"env": "KEY"},
                   "retain": {"delivered": "1h", "dead": "1h", "events": "1h", "bodies": false}},
        "conversations": {"state": "durable", "retain": "1h", "max_open_age": "1h", "idle_timeout": "1m"},
        "egress": {"allow_http": false, "allow": ["10.0.0.0/8"], "deny": ["10.1.0.0/16"],
                   "proxy": "http://example.com:3128", "no_proxy": ["example.com"]},
        "limits": {"body": "1MiB", "concurrency": 8, "script_operations": 1000, "script_time": "10ms"},
        "reload": {"run_tests": true, "canary": 1},
        "shutdown": {"accept": "1s", "grace": "1s"},
        "dedupe_window": "1h", "rules_dir": "rules", "rules_env": ["NAME"],
        "analyses": [{"name": "x", "url": "https://example.com/a", "timeout": "1s"}],
        "defaults": {"timeout": "1s"},
        "webhooks": {
            "one": webhook(serde_json::json!({"bearer": {"env": "NAME"}}), serde_json::json!(["1s", "2s"])),
            "two": webhook(serde_json::json!({"basic": {"username": "u", "password": "p"}}),
                           serde_json::json!({"initial": "1s", "factor": 2, "max": "1m", "attempts": 3})),
            "three": webhook(serde_json::json!({"oauth2": {"token_url": "https://example.com/t", "client_id": "c",
                             "client_secret": {"env": "NAME"}, "scopes": ["s"], "audience": "a"}}), serde_json::json!(["1s"])),
        },
    })
}

fn leaves(value: &serde_json::Value, at: &str, out: &mut Vec<String>) {
    match value {
        serde_json::Value::Object(members) => {
            members.iter().for_each(|(key, value)| leaves(value, &format!("{at}/{}", key.replace('/', "~1")), out));
        }
        serde_json::Value::Array(items) => {
            items.iter().enumerate().for_each(|(n, value)| leaves(value, &format!("{at}/{n}"), out));
        }
        _ => out.push(at.to_owned()),
    }
}

#[test]
fn where_a_value_is_forgotten_it_is_missed() {
    let env = |name: &str| match name {
        "KEY" => Some("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=".to_owned()),
        "SECRET" => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()),
        _ => Some("value".to_owned()),
    };
    let loads = |config: &serde_json::Value| {
        let dir = dir(&[("sidehook.yaml", &config.to_string())]);
        load(dir.path(), &env, &Clock::System)
    };
    let whole = full();
    if let Err(report) = loads(&whole) {
        panic!("{}", report.render(false));
    }
    let mut places = Vec::new();
    leaves(&whole, "", &mut places);
    let mut silent = Vec::new();
    for place in places {
        let mut config = whole.clone();
        *config.pointer_mut(&place).expect("a leaf") = serde_json::Value::Null;
        if loads(&config).is_ok() {
            silent.push(place);
        }
    }
    // Null is a value to these.
    let nullable = ["/conversations/idle_timeout", "/egress/proxy"];
    silent.retain(|place| {
        !nullable.contains(&place.as_str()) && !place.ends_with("/params/b/value") && !place.ends_with("/missing")
    });
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn an_event_that_nearly_has_a_known_name_is_wondered_at() {
    let webhook = "webhooks:\n  crm:\n    url: https://example.com\n    events: [message.send, conversation.completed]\n    signing: {scheme: none}\n";
    let generation = load_dir(dir(&[("sidehook.yaml", webhook)]).path()).unwrap_or_else(|report| panic!("{report:?}"));
    assert_eq!(
        generation.warnings,
        ["sidehook.yaml, line 4: `message.send` is no event of a conversation's life; did you mean `message.sent`?"]
    );
}

#[test]
fn webhooks_beside_a_settings_file_that_is_named_alone_are_wondered_at() {
    let dir = dir(&[("sidehook.yaml", "{}"), ("webhooks/crm.yaml", "{}")]);
    let generation =
        load_dir(&dir.path().join("sidehook.yaml")).unwrap_or_else(|report| panic!("{}", report.render(false)));
    assert_eq!(generation.warnings.len(), 1);
    assert!(generation.warnings[0].contains("is not read, since --config names"), "{}", generation.warnings[0]);
}

#[test]
fn the_first_http_source_is_the_first_that_is_written() {
    let text = "sources:\n  taps: {type: stdin}\n  zeta: {type: http, listen: 127.0.0.1:7090}\n  alpha: {type: http, listen: 127.0.0.1:7091}\n";
    let dir = dir(&[("sidehook.yaml", text)]);
    let (listen, _) = load_all(dir.path(), &|_| None, &Clock::System).reach.source.expect("a source");
    assert_eq!(listen.to_string(), "127.0.0.1:7090");
}
