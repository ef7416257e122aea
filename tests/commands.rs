//! The commands, by their exit codes and what they print.

use serde_json::json;

use crate::support::events::{event, seed};
use crate::support::signature::{OTHER_SECRET, SECRET};
use crate::support::{Receiver, Reply, Sidehook, cli, cli_in};

#[tokio::test]
async fn every_command_has_help_with_an_example() {
    let top = cli(&["--help"]).await.expect(0).stdout;
    for command in [
        "run",
        "check",
        "preview",
        "send",
        "listen",
        "demo",
        "deliveries",
        "ledger",
        "verify",
        "secret",
        "schema",
        "replay",
        "outbox",
        "webhooks",
    ] {
        assert!(top.contains(command), "{command} is not in --help");
        let help = cli(&[command, "--help"]).await.expect(0).stdout;
        assert!(help.contains("Example") && help.contains(&format!("sidehook {command}")), "{command}: {help}");
    }
    for command in [["deliveries", "list"], ["deliveries", "show"], ["deliveries", "retry"], ["secret", "new"]] {
        let help = cli(&[command[0], command[1], "--help"]).await.expect(0).stdout;
        assert!(help.contains("Example"), "{command:?}: {help}");
    }
    cli(&[]).await.expect(2);
    cli(&["nonsense"]).await.expect(2);
    cli(&["verify"]).await.expect(2);
    let verify = ["verify", "--secret", "odd", "--id", "i", "--timestamp", "1", "--signature", "v1,x", "-"];
    for args in [&verify[..], &["listen", "--secret", "odd"], &["send", "--url", "ftp://x", "-"]] {
        cli(args).await.expect(2);
    }
    assert!(cli(&["--version"]).await.expect(0).stdout.contains(env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn check_says_ok_or_reports_every_problem_with_its_place() {
    let receiver = Receiver::start().await;
    let sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", "events: [\"*\"]")).prepare();
    let config = sidehook.config_arg();
    cli(&["check", "--config", config]).await.expect(0);
    // The default is the working directory.
    cli_in(&sidehook.config, &["check"], "").await.expect(0);
    sidehook.write("webhooks/x.yaml", &receiver.webhook("/x", "events: [\"*\"]\nevnets: []\ntimeout: soon\nsigning: {scheme: standard, secrets: [whsec_dGhpcyBzaG91bGQgbm90IGJlIHNob3du_broken]}"));
    sidehook.write("webhooks/y.yaml", "url: https://example.com\nevents: [a.b]\n");
    let report = cli(&["check", "--config", config]).await.expect(64);
    let text = format!("{}{}", report.stdout, report.stderr);
    for part in ["x.yaml:4:1", "evnets", "x.yaml:5:", "timeout: soon", "y.yaml", "signing"] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(!text.contains("dGhpcyBzaG91bGQ"), "a secret is shown: {text}");
    for command in [vec!["run"], vec!["preview", "--webhook", "x", "--event", "e.json"], vec!["test"]] {
        let mut args = command.clone();
        args.extend(["--config", config]);
        cli(&args).await.expect(64);
    }
    cli(&["check", "--config", "/nowhere/at/all"]).await.expect(64);
    cli(&["run", "--config", "/nowhere/at/all"]).await.expect(64);
}

#[tokio::test]
async fn a_single_file_is_a_config_too() {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", "events: [\"*\"]").replace('\n', "\n    ");
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("one.yaml");
    std::fs::write(&file, format!("webhooks:\n  x:\n    {}\n", webhook.trim_end())).unwrap();
    cli(&["check", "--config", file.to_str().unwrap()]).await.expect(0);
    let event = dir.path().join("event.json");
    std::fs::write(&event, seed().to_string()).unwrap();
    let args =
        ["preview", "--webhook", "x", "--event", event.to_str().unwrap(), "--json", "--config", file.to_str().unwrap()];
    assert_eq!(cli(&args).await.expect(0).json()["accepted"], true);
}

#[tokio::test]
async fn verify_knows_the_published_vectors() {
    let dir = tempfile::tempdir().unwrap();
    let (id, time) = ("msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330");
    let body = r#"{"test": 2432232314}"#;
    let public = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=";
    let private = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    let v1 = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    let v1a = "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==";
    let both = format!("{v1a} {v1}");
    for (secret, id, time, body, signature, tolerance, code) in [
        (SECRET, id, time, body, v1, "--no-tolerance", 0),
        (
            OTHER_SECRET,
            "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
            "1649367553",
            r#"{"email":"test@example.com","username":"test_user"}"#,
            "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
            "--no-tolerance",
            0,
        ),
        (public, id, time, body, v1a, "--no-tolerance", 0),
        (private, id, time, body, v1a, "--no-tolerance", 0),
        (SECRET, id, time, body, &both, "--no-tolerance", 0),
        (SECRET, id, time, body, v1, "--tolerance=5m", 1),
        (SECRET, id, time, r#"{"test":2432232314}"#, v1, "--no-tolerance", 1),
        (SECRET, "msg_other", time, body, v1, "--no-tolerance", 1),
        (SECRET, id, "1614265331", body, v1, "--no-tolerance", 1),
        (OTHER_SECRET, id, time, body, v1, "--no-tolerance", 1),
        (SECRET, id, time, body, "nonsense", "--no-tolerance", 1),
        (SECRET, id, time, body, "", "--no-tolerance", 1),
    ] {
        let file = dir.path().join("body");
        std::fs::write(&file, body).unwrap();
        let signature = format!("--signature={signature}");
        let args = [
            "verify",
            "--secret",
            secret,
            "--id",
            id,
            "--timestamp",
            time,
            &signature,
            tolerance,
            file.to_str().unwrap(),
        ];
        let output = cli(&args).await;
        assert_eq!(output.code, code, "{args:?}: {}{}", output.stdout, output.stderr);
        assert!(!output.stderr.contains("MfKQ9r8"), "{}", output.stderr);
    }
}

#[tokio::test]
async fn secret_new_makes_secrets_that_sign() {
    let one = cli(&["secret", "new"]).await.expect(0).stdout.trim().to_owned();
    let two = cli(&["secret", "new"]).await.expect(0).stdout.trim().to_owned();
    assert_ne!(one, two);
    assert!(one.starts_with("whsec_"), "{one}");
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", &format!("events: [\"*\"]\nsigning: {{scheme: standard, secrets: [{one}]}}"));
    let sidehook = Sidehook::builder().webhook("x", &webhook).start().await;
    sidehook.send(&event("e", "a.b", "c")).await;
    crate::support::signature::verify(&one, &receiver.wait("/x", 1).await[0]).unwrap();
}

#[tokio::test]
async fn schema_is_a_json_schema_of_both_kinds_of_file() {
    for (args, key) in [(&["schema"][..], "sources"), (&["schema", "webhook"], "signing")] {
        let schema = cli(args).await.expect(0).json();
        assert!(schema["$schema"].as_str().is_some_and(|s| s.contains("json-schema.org")), "{schema}");
        assert!(schema["properties"][key].is_object(), "{args:?} has no {key}");
        assert_eq!(schema["additionalProperties"], false, "unknown keys are errors");
    }
    cli(&["schema", "nonsense"]).await.expect(2);
}

#[tokio::test]
async fn preview_shows_what_would_be_sent_and_sends_nothing() {
    let receiver = Receiver::start().await;
    let rule = r#"
        fn accept(event) { event.type != "a.b" }
        fn transform(event, payload) { log_info("seen"); if event.type == "a.bad" { throw "no good" } payload.added = 1; payload }
        fn headers(event, payload) { #{ "X-Added": "yes" } }
    "#;
    let webhook = receiver.webhook(
        "/x",
        "events: [\"*\"]\nrule: x.rhai\nheaders: {Authorization: Bearer hush}\nparams: {data: event.data}",
    );
    let sidehook = Sidehook::builder().webhook("x", &webhook).rule("x.rhai", rule).prepare();
    let file = sidehook.path("event.json");
    let preview = async |event: serde_json::Value, code| {
        std::fs::write(&file, event.to_string()).unwrap();
        let args = [
            "preview",
            "--webhook",
            "x",
            "--event",
            file.to_str().unwrap(),
            "--json",
            "--config",
            sidehook.config_arg(),
        ];
        let output = cli(&args).await.expect(code);
        assert!(!output.stdout.contains("hush") && !output.stderr.contains("hush"), "{output:?}");
        output.json()
    };
    let shown = preview(seed(), 0).await;
    assert_eq!(shown["accepted"], true, "{shown}");
    let delivery = &shown["deliveries"][0];
    assert_eq!(delivery["payload"]["added"], 1);
    assert_eq!(delivery["payload"]["data"]["conversation"]["id"], "2216964057603244032");
    let headers = delivery["headers"].to_string();
    for part in ["webhook-id", "webhook-timestamp", "v1,", "X-Added"] {
        assert!(headers.to_lowercase().contains(&part.to_lowercase()), "{part} is not in {headers}");
    }
    assert!(
        shown["log"].to_string().contains("seen") && shown["operations"].as_u64().is_some_and(|n| n > 0),
        "{shown}"
    );
    assert_eq!(shown["error"], json!(null));
    assert_eq!(preview(event("e", "a.b", "c"), 0).await["accepted"], false);
    // What the webhook has not subscribed to runs no rule and is not accepted, and that is said.
    sidehook.write("webhooks/x.yaml", &webhook.replace("events: [\"*\"]", "events: [conversation.*]"));
    let other = preview(event("e", "a.bad", "c"), 0).await;
    assert_eq!((&other["accepted"], &other["deliveries"], &other["error"]), (&json!(false), &json!([]), &json!(null)));
    assert_eq!(other["reason"], json!("a.bad is not among this webhook's events"));
    let args = ["preview", "--webhook", "x", "--event", file.to_str().unwrap(), "--config", sidehook.config_arg()];
    let told = cli(&args).await.expect(0).stdout;
    assert!(told.contains("not accepted: a.bad is not among this webhook's events"), "{told}");
    assert!(!told.contains("would be sent to"), "{told}");
    sidehook.write("webhooks/x.yaml", &webhook);
    let failed = preview(event("e", "a.bad", "c"), 1).await;
    assert!(failed["error"].to_string().contains("no good"), "{failed}");
    let rapida: serde_json::Value = serde_json::from_str(include_str!("fixtures/rapida.completed.json")).unwrap();
    assert_eq!(preview(rapida.clone(), 0).await["deliveries"][0]["payload"]["data"], rapida["data"]);
    cli(&["preview", "--webhook", "nobody", "--event", file.to_str().unwrap(), "--config", sidehook.config_arg()])
        .await
        .expect(1);
    assert!(receiver.all().is_empty());
}

#[tokio::test]
async fn send_deliveries_and_ledger_work_beside_a_running_sidehook() {
    let receiver = Receiver::start().await;
    receiver.on("/x", &[Reply::status(400), Reply::status(200)]);
    let sidehook = Sidehook::builder()
        .source("token: sesame")
        .admin("token: open")
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]"))
        .start()
        .await;
    let config = sidehook.config_arg();
    let one = sidehook.path("one.json");
    let many = sidehook.path("many.ndjson");
    let bad = sidehook.path("bad.json");
    std::fs::write(&one, seed().to_string()).unwrap();
    std::fs::write(&many, format!("{}\n{}\n", event("e1", "a.b", "c1"), event("e2", "a.b", "c2"))).unwrap();
    std::fs::write(&bad, r#"{"type": "conversation.begin"}"#).unwrap();
    let sent = cli(&["send", one.to_str().unwrap(), "--config", config]).await.expect(0);
    assert!(sent.stdout.contains('1'), "{sent:?}");
    receiver.wait("/x", 1).await;
    cli(&["send", many.to_str().unwrap(), "--config", config]).await.expect(0);
    let refused = cli(&["send", bad.to_str().unwrap(), "--config", config]).await.expect(1);
    assert!(refused.stderr.contains("422"), "{refused:?}");
    let piped =
        cli_in(&sidehook.config, &["send", "-", "--json"], &event("e3", "a.b", "c3").to_string()).await.expect(0);
    assert_eq!(piped.json()["ids"], json!(["e3"]));
    receiver.wait("/x", 4).await;
    let poll = async |state: &str, count: usize| {
        crate::support::eventually(&format!("{count} {state} in the list"), async || {
            let listed =
                cli(&["deliveries", "list", "--state", state, "--json", "--config", config]).await.expect(0).json();
            let listed = listed.as_array().unwrap().clone();
            if listed.len() == count { Ok(listed) } else { Err(format!("{listed:?}")) }
        })
        .await
    };
    poll("delivered", 3).await;
    let dead = poll("dead", 1).await;
    let id = dead[0]["id"].as_str().unwrap();
    let shown = cli(&["deliveries", "show", id, "--config", config]).await.expect(0).stdout;
    assert!(shown.contains(id) && shown.contains("status_400"), "{shown}");
    assert_eq!(
        cli(&["deliveries", "show", id, "--json", "--config", config]).await.expect(0).json()["reason"],
        "status_400"
    );
    cli(&["deliveries", "show", "msg_nobody", "--config", config]).await.expect(1);
    let limited = cli(&["deliveries", "list", "--limit", "2", "--json", "--config", config]).await.expect(0);
    assert_eq!(limited.json().as_array().unwrap().len(), 2);
    cli(&["deliveries", "list", "--state", "odd", "--config", config]).await.expect(2);
    cli(&["deliveries", "retry", id, "--config", config]).await.expect(0);
    poll("delivered", 4).await;
    let ledger = cli(&["ledger", "--json", "--config", config]).await.expect(0).json();
    assert_eq!((&ledger["balanced"], &ledger["webhooks"][0]["delivered"]), (&json!(true), &json!(4)), "{ledger}");
    assert!(cli(&["ledger", "--config", config]).await.expect(0).stdout.contains("balanced"));
}

#[tokio::test]
async fn a_store_is_inspected_and_verified_in_use_and_copied() {
    let receiver = Receiver::start().await;
    let mut sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", "events: [\"*\"]")).start().await;
    sidehook.send(&seed()).await;
    receiver.wait("/x", 1).await;
    sidehook.await_deliveries("state=delivered", 1).await;
    let config = sidehook.config_arg().to_owned();
    let shown = cli(&["outbox", "inspect", "--json", "--config", &config]).await.expect(0).json();
    assert_eq!((&shown["counts"]["deliveries"], &shown["ledger"]["balanced"]), (&json!(1), &json!(true)), "{shown}");
    let text = cli(&["outbox", "verify", "--config", &config]).await.expect(0).stdout;
    assert!(text.contains("good; 0 deliveries are owed"), "{text}");
    sidehook.stop().await;
    let copy = sidehook.path("copy.db");
    std::fs::copy(sidehook.outbox().join("data/outbox.db"), &copy).unwrap();
    let copy = copy.to_str().unwrap();
    let text = cli(&["outbox", "inspect", copy]).await.expect(0).stdout;
    assert!(text.contains("schema version") && text.contains("balanced"), "{text}");
    let mut bytes = std::fs::read(copy).unwrap();
    let half = bytes.len() / 2;
    bytes.truncate(half);
    std::fs::write(copy, bytes).unwrap();
    cli(&["outbox", "verify", copy, "--json"]).await.expect(1);
    std::fs::write(copy, "no store").unwrap();
    let said = cli(&["outbox", "verify", copy]).await.expect(1).stderr;
    assert!(said.contains("the store is damaged") && said.contains(copy), "{said}");
}

#[tokio::test]
async fn webhooks_are_operated_from_the_command_line() {
    let receiver = Receiver::start().await;
    receiver.on("/bad", &[Reply::status(400)]);
    let sidehook = Sidehook::builder()
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]"))
        .webhook("bad", &receiver.webhook("/bad", "events: [a.b]"))
        .start()
        .await;
    let run = async |args: &[&str]| cli(&[&["webhooks"], args, &["--config", sidehook.config_arg()]].concat()).await;
    let list = run(&["list"]).await.expect(0).stdout;
    assert_eq!(list.lines().count(), 2, "{list}");
    assert_eq!(run(&["list", "--json"]).await.expect(0).json()[1]["name"], json!("x"));
    let paused = run(&["pause", "x"]).await.expect(0).stdout;
    assert!(paused.starts_with("x  paused  0 pending, 0 held, 0 dead"), "{paused}");
    let refused = run(&["test", "x"]).await.expect(1).stderr;
    assert!(refused.contains("it is paused"), "{refused}");
    assert_eq!(run(&["resume", "x", "--json"]).await.expect(0).json()["state"], json!("active"));
    let tried = run(&["test", "x"]).await.expect(0).stdout;
    assert!(tried.contains("delivered (200)"), "{tried}");
    let tried = run(&["test", "bad"]).await.expect(1).stdout;
    assert!(tried.contains("dead (400): status_400"), "{tried}");
    assert!(run(&["show", "bad"]).await.expect(0).stdout.contains("\"state\": \"active\""));
    assert!(run(&["pause", "nobody"]).await.expect(1).stderr.contains("there is no webhook"));
}

#[tokio::test]
async fn commands_that_need_a_running_sidehook_say_so() {
    let receiver = Receiver::start().await;
    let sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", "events: [\"*\"]")).prepare();
    let file = sidehook.path("event.json");
    std::fs::write(&file, seed().to_string()).unwrap();
    let sent = cli(&["send", file.to_str().unwrap(), "--config", sidehook.config_arg()]).await.expect(1);
    assert!(sent.stderr.contains(&sidehook.ingest), "{sent:?}");
    assert_eq!(sent.stderr.matches("refused").count(), 1, "said once: {sent:?}");
    let retried = cli(&["deliveries", "retry", "msg_x", "--config", sidehook.config_arg()]).await.expect(1);
    assert!(retried.stderr.contains(&sidehook.admin), "{retried:?}");
    let nothing = cli(&["deliveries", "retry", "--config", sidehook.config_arg()]).await.expect(2);
    assert!(nothing.stderr.contains("an ID") && nothing.stderr.contains("--webhook crm"), "{nothing:?}");
    for url in ["https://127.0.0.1:1", "127.0.0.1:7071", "nonsense"] {
        let told = cli(&["deliveries", "retry", "msg_x", "--admin", url]).await.expect(2);
        assert!(told.stderr.contains("http://HOST:PORT or unix:/path"), "{told:?}");
    }
}

#[tokio::test]
async fn tools_outlive_a_broken_configuration() {
    let receiver = Receiver::start().await;
    receiver.on("/x", &[Reply::status(400), Reply::status(400), Reply::status(200)]);
    let sidehook = Sidehook::builder()
        .source("token: sesame")
        .admin("token: open")
        .webhook("x", &receiver.webhook("/x", "events: [\"*\"]\nordering: none"))
        .start()
        .await;
    let config = sidehook.config_arg();
    let good = sidehook.read("sidehook.yaml");
    let event_of = |id: &str| event(id, "a.b", "c").to_string();
    // Mistakes elsewhere: the addresses and tokens are known all the same.
    sidehook.write("webhooks/x.yaml", "url: nowhere\n");
    sidehook.write("sidehook.yaml", &format!("{good}rulesdir: x\nlimits: {{body: much}}\n"));
    let sent = cli_in(&sidehook.config, &["send", "-"], &event_of("e1")).await.expect(0);
    assert!(sent.stderr.contains("`sidehook check` tells them"), "{sent:?}");
    cli_in(&sidehook.config, &["send", "-"], &event_of("e2")).await.expect(0);
    receiver.wait("/x", 2).await;
    crate::support::eventually("two dead ones", async || {
        let listed =
            cli(&["deliveries", "list", "--state", "dead", "--json", "--config", config]).await.expect(0).json();
        let listed = listed.as_array().unwrap().clone();
        if listed.len() == 2 { Ok(()) } else { Err(format!("{listed:?}")) }
    })
    .await;
    cli(&["ledger", "--config", config]).await.expect(0);
    let retried = cli(&["deliveries", "retry", "--event", "a.b", "--json", "--config", config]).await.expect(0);
    assert_eq!(retried.json()["retried"], 2);
    receiver.wait("/x", 4).await;
    // Where the mistake is in what is needed, the report says so and names the way round it.
    sidehook.write("sidehook.yaml", &good.replace("admin: {listen: \"", "admin: {listen: \"x"));
    let told = cli(&["deliveries", "retry", "msg_x", "--config", config]).await.expect(64);
    assert!(told.stderr.contains("no address to listen on") && told.stderr.contains("--admin"), "{told:?}");
    cli(&["ledger", "--config", config]).await.expect(0);
    sidehook.write("sidehook.yaml", "sources: [\n");
    let told = cli_in(&sidehook.config, &["send", "-"], &event_of("e3")).await.expect(64);
    assert!(told.stderr.contains("--url"), "{told:?}");
    let (url, admin) = (format!("http://{}", sidehook.ingest), format!("http://{}", sidehook.admin));
    cli_in(&sidehook.config, &["send", "--url", &url, "--token", "sesame", "-"], &event_of("e3")).await.expect(0);
    cli_in(&sidehook.config, &["send", "--url", &url, "-"], &event_of("e4")).await.expect(1);
    let args = ["deliveries", "retry", "--state", "dead", "--admin", &admin, "--token"];
    cli(&[&args[..], &["open"]].concat()).await.expect(0);
    let denied = cli(&[&args[..], &["shut"]].concat()).await.expect(1);
    assert!(denied.stderr.contains("admin.token"), "{denied:?}");
}

#[tokio::test]
async fn listen_verifies_and_prints_what_arrives_over_tls() {
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    let address = format!("{}:9443", crate::support::own_address());
    for (secret, code) in [(SECRET, 0), (OTHER_SECRET, 1)] {
        let args = ["listen", "--addr", &address, "--tls", "--ca-file", ca.to_str().unwrap(), "--secret", secret];
        let _ = std::fs::remove_file(&ca);
        let args = [&args[..], &["--count", "2", "--json"]].concat();
        let listener = cli(&args);
        let sending = async {
            let webhook = format!(
                "url: https://{address}/hook?x=1\nevents: [\"*\"]\nordering: none\ntls: {{ca_file: {}}}\nsigning: {{scheme: standard, secrets: [{SECRET}]}}\n",
                ca.display()
            );
            crate::support::eventually(
                "its authority",
                async || if ca.exists() { Ok(()) } else { Err("no file".to_owned()) },
            )
            .await;
            let sidehook = Sidehook::builder().webhook("x", &webhook).start().await;
            sidehook.send(&json!([event("e1", "a.b", "c1"), event("e2", "a.b", "c2")])).await;
            // Kept until the listener has ended.
            sidehook
        };
        let (output, _sidehook) = tokio::join!(listener, sending);
        let output = output.expect(code);
        let lines: Vec<serde_json::Value> = output.stdout.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines[0], json!({"listening": format!("https://{address}"), "verifies": true}));
        assert_eq!(lines.len(), 3, "{output:?}");
        for line in &lines[1..] {
            assert_eq!(line["verified"], code == 0, "{line}");
            assert_eq!(line["error"].is_null(), code == 0, "{line}");
            assert_eq!((&line["method"], &line["path"]), (&json!("POST"), &json!("/hook?x=1")));
            assert_eq!(line["body"]["event"], "a.b");
        }
    }
}

#[tokio::test]
async fn the_demonstration_runs_by_itself() {
    let dir = tempfile::tempdir().unwrap();
    let output = cli_in(dir.path(), &["demo"], "").await.expect(0);
    for part in ["conversation.begin", "conversation.completed", "verified", "balanced"] {
        assert!(output.stdout.contains(part), "{part} is not in {}", output.stdout);
    }
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it leaves nothing behind");
}

#[tokio::test]
async fn logs_are_json_off_a_terminal_and_lines_on_request() {
    let receiver = Receiver::start().await;
    let sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", "events: [\"*\"]")).start().await;
    sidehook.logged("ready").await;
    for line in sidehook.log() {
        serde_json::from_str::<serde_json::Value>(&line).unwrap_or_else(|e| panic!("{e}: {line}"));
    }
}
