//! The assistant as a child.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use super::{arrived, line, redirected, sidehook};
use crate::support::{PATIENCE, Receiver, Reply, Sidehook, eventually};

/// A folder with a script in it, the source that runs it, and where its other lines go.
struct Bot {
    dir: tempfile::TempDir,
    script: PathBuf,
}

impl Bot {
    fn python(script: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bot.py");
        std::fs::write(&path, script).unwrap();
        Self { dir, script: path }
    }

    fn source(&self, more: &str) -> String {
        format!("{{type: exec, command: [python3, -u, {}]{more}}}", self.script.display())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// What the bot has written to this file of its folder.
    async fn wrote(&self, name: &str) -> String {
        let path = self.file(name);
        eventually(&format!("the bot wrote {name}"), async || match std::fs::read_to_string(&path) {
            Ok(text) if !text.is_empty() => Ok(text),
            other => Err(format!("{other:?}")),
        })
        .await
    }

    async fn pid(&self) -> Pid {
        Pid::from_raw(self.wrote("pid").await.trim().parse().unwrap()).unwrap()
    }

    fn wrap(&self, builder: crate::support::sidehook::Builder) -> Sidehook {
        let words = redirected(&self.file("stdout"), Path::new("/dev/null"));
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        builder.wrapper(&words).prepare()
    }

    fn passed_on(&self) -> String {
        std::fs::read_to_string(self.file("stdout")).unwrap()
    }
}

/// What every bot begins with. It does not outlive a sidehook that a failed test kills.
const HEAD: &str = "import json, os, signal, sys, threading, time
parent = os.getppid()
def orphaned():
    while os.getppid() == parent: time.sleep(.1)
    os._exit(0)
threading.Thread(target=orphaned, daemon=True).start()
here = os.path.dirname(os.path.abspath(__file__))
def write(name, text):
    with open(os.path.join(here, name + '.aside'), 'w') as f: f.write(text)
    os.rename(os.path.join(here, name + '.aside'), os.path.join(here, name))
def event(id, **more): print(json.dumps({'id': id, 'type': 'a.b', **more}), flush=True)
";

#[tokio::test]
async fn its_events_are_delivered_its_lines_passed_on_and_its_code_is_the_exit_code() {
    let receiver = Receiver::start().await;
    let bot = Bot::python(&format!(
        "{HEAD}print('starting', os.environ['WHO'], os.getcwd())\nevent('1')\nprint('{{\"level\":\"info\"}}')\n\
         print('half', end='')\nsys.stdout.flush()\ntime.sleep(.3)\nprint(' and half')\nevent('2')\n\
         sys.stdout.write(json.dumps({{'id': '3', 'type': 'a.b'}}))\nsys.exit(3)\n"
    ));
    let source = bot.source(&format!(", cwd: {}, env: {{WHO: me}}", bot.dir.path().display()));
    let mut sidehook = bot.wrap(sidehook(&receiver, &source));
    sidehook.spawn();
    assert_eq!(sidehook.ended().await.code(), Some(3));
    assert_eq!(arrived(&receiver).len(), 3, "what is due goes out before the end: {:?}", sidehook.log());
    let here = bot.dir.path().display();
    assert_eq!(bot.passed_on(), format!("starting me {here}\n{{\"level\":\"info\"}}\nhalf and half\n"));
    sidehook.logged("exit code 3").await;
}

#[tokio::test]
async fn sigterm_is_handed_on_once_and_the_last_events_are_taken() {
    let receiver = Receiver::start().await;
    for (signal, name) in [(Signal::TERM, "SIGTERM"), (Signal::INT, "SIGINT")] {
        let bot = Bot::python(&format!(
            "{HEAD}got = []\nsignal.signal(signal.{name}, lambda *_: got.append(1))\nwrite('pid', str(os.getpid()))\n\
             while not got: time.sleep(.02)\ntime.sleep(1)\nevent('last {name}', n=len(got))\nsys.exit(0)\n"
        ));
        let mut sidehook = bot.wrap(
            // Longer than `accept`: the child is what is waited for.
            sidehook(&receiver, &bot.source("")).main("shutdown: {accept: 100ms, grace: 60s}"),
        );
        sidehook.start().await;
        bot.pid().await;
        sidehook.signal(signal);
        assert_eq!(sidehook.ended().await.code(), Some(0));
        let last = receiver.requests("/x").pop().expect("the last event").json();
        assert_eq!(last, json!({"id": format!("last {name}"), "n": 1}));
    }
}

#[tokio::test]
async fn a_child_that_does_not_end_is_killed_at_the_end_of_grace() {
    let receiver = Receiver::start().await;
    let bot = Bot::python(&format!(
        "{HEAD}signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwrite('pid', str(os.getpid()))\nevent('1')\n\
         import subprocess; subprocess.Popen(['sleep', '600'])\nevent('2')\ntime.sleep(600)\n"
    ));
    let mut sidehook = bot.wrap(sidehook(&receiver, &bot.source("")).main("shutdown: {accept: 200ms, grace: 800ms}"));
    sidehook.start().await;
    let pid = bot.pid().await;
    receiver.wait("/x", 2).await;
    let asked = Instant::now();
    sidehook.signal(Signal::TERM);
    assert_eq!(sidehook.ended().await.code(), Some(137));
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(rustix::process::test_kill_process(pid).is_err(), "it is gone");
    sidehook.logged("has not ended in time and is killed").await;
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let receiver = Receiver::start().await;
    let bot = Bot::python(&format!(
        "{HEAD}signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwrite('pid', str(os.getpid()))\ntime.sleep(600)\n"
    ));
    let mut sidehook = bot.wrap(sidehook(&receiver, &bot.source("")).main("shutdown: {accept: 5m, grace: 5m}"));
    sidehook.start().await;
    let pid = bot.pid().await;
    sidehook.signal(Signal::TERM);
    sidehook.logged("ending").await;
    sidehook.signal(Signal::TERM);
    assert_eq!(sidehook.ended().await.code(), Some(137));
    assert!(rustix::process::test_kill_process(pid).is_err(), "it is gone");
}

#[tokio::test]
async fn a_child_that_is_killed_ends_sidehook_with_128_and_the_signal() {
    let receiver = Receiver::start().await;
    let bot = Bot::python(&format!("{HEAD}event('1')\nwrite('pid', str(os.getpid()))\ntime.sleep(600)\n"));
    let mut sidehook = bot.wrap(sidehook(&receiver, &bot.source("")));
    sidehook.start().await;
    let pid = bot.pid().await;
    let status = sidehook.get("/api/v1/status").await.expect(200).json();
    assert_eq!(status["sources"][0], json!({"name": "in", "type": "exec", "listen": null, "namespace": ""}));
    receiver.wait("/x", 1).await;
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(sidehook.ended().await.code(), Some(137));
    sidehook.logged("signal 9").await;
}

/// Writes far more than outbox and queue hold together, then says so.
fn flood() -> Bot {
    Bot::python(&format!(
        "{HEAD}for n in range(400): event(str(n), metadata={{'x': 'y' * 100000}})\n\
         print('all written')\nwrite('done', 'done')\ntime.sleep(600)\n"
    ))
}

#[tokio::test]
async fn a_full_outbox_does_not_hold_the_child_up() {
    let receiver = Receiver::start().await;
    receiver.stop().await;
    let bot = flood();
    let webhook = receiver.webhook("/all", "events: [\"*\"]\nparams: {id: event.id, all: metadata.*}");
    let mut sidehook =
        bot.wrap(sidehook(&receiver, &bot.source("")).webhook("all", &webhook).main("outbox: {max_bytes: 4MiB}"));
    sidehook.start().await;
    bot.wrote("done").await;
    let lost = eventually("events are dropped", async || {
        let lost = sidehook.metric("sidehook_events_rejected_total", &["reason=\"overflow\"", "source=\"in\""]).await;
        if lost > 0.0 { Ok(lost) } else { Err("none".to_owned()) }
    })
    .await;
    sidehook.logged("events were dropped").await;
    let told = sidehook.log().iter().filter(|line| line.contains("events were dropped")).count();
    assert!(told < 20, "{told} lines for {lost} events");
    assert_eq!(bot.passed_on(), "all written\n");
}

#[tokio::test]
async fn what_cannot_be_stored_holds_up_neither_the_end_nor_its_code() {
    let receiver = Receiver::start().await;
    let bot = Bot::python(&format!(
        "{HEAD}\nfor i in range(120): event(f'e{{i}}', x=os.urandom(30000).hex())\nwrite('said', 'all')\nsys.exit(7)\n"
    ));
    receiver.on("/all", &[Reply::status(503)]);
    let webhook = receiver.webhook("/all", "events: [\"*\"]\nparams: {all: event.x}");
    let main = "outbox: {max_bytes: 4MiB}\nshutdown: {accept: 500ms, grace: 500ms}";
    let builder = sidehook(&receiver, &bot.source("")).webhook("all", &webhook).main(main);
    let mut sidehook = bot.wrap(builder);
    sidehook.spawn();
    assert_eq!(bot.wrote("said").await, "all");
    let ended = tokio::time::timeout(PATIENCE, sidehook.ended()).await.expect("it ends although its outbox is full");
    assert_eq!(ended.code(), Some(7));
    let log = sidehook.log().join("\n");
    assert!(log.contains("could not be stored before sidehook ended"), "{log}");
}

#[tokio::test]
async fn on_overflow_block_makes_the_child_wait() {
    let receiver = Receiver::start().await;
    receiver.stop().await;
    let bot = flood();
    let webhook = receiver.webhook(
        "/all",
        "events: [\"*\"]\nparams: {id: event.id, all: metadata.*}\nretry: {schedule: {initial: 1s, factor: 1, max: 1s, attempts: 100}}\nbreaker: {failures: 100000}",
    );
    let builder = sidehook(&receiver, &bot.source(", on_overflow: block")).webhook("all", &webhook);
    let mut sidehook = bot.wrap(builder.main("outbox: {max_bytes: 8MiB, retain: {delivered: 0s}}"));
    sidehook.start().await;
    eventually("the outbox is full", async || {
        let state = sidehook.get("/api/v1/status").await.json()["outbox"]["state"].clone();
        if state == "full" { Ok(()) } else { Err(state.to_string()) }
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(!bot.file("done").exists(), "the child waits");
    receiver.resume().await;
    bot.wrote("done").await;
    receiver
        .wait_for("all of them", |all| {
            let ids: std::collections::BTreeSet<_> =
                all.iter().filter(|r| r.path == "/all").map(|r| r.json()["id"].to_string()).collect();
            (ids.len() == 400).then_some(())
        })
        .await;
    assert!(sidehook.metric("sidehook_events_rejected_total", &["reason=\"overflow\""]).await < 1.0);
}

#[tokio::test]
async fn a_program_that_is_not_there_is_a_failed_start() {
    let receiver = Receiver::start().await;
    let mut sidehook = sidehook(&receiver, "{type: exec, command: [no-such-bot]}").prepare();
    sidehook.spawn();
    assert_eq!(sidehook.ended().await.code(), Some(1));
    let told = sidehook.log().pop().unwrap();
    assert_eq!(
        told,
        "sidehook: sources.in: command: there is no program \"no-such-bot\" in PATH; install it, or write its whole path"
    );
}

#[tokio::test]
async fn a_line_that_is_too_long_is_no_event_and_the_next_one_is() {
    let receiver = Receiver::start().await;
    let bot = Bot::python(&format!(
        "{HEAD}event('long', x='y' * 3000000)\nevent('bad', conversation=1)\nprint(json.dumps({{'type': 'conversation.begin'}}))\nevent('good')\n"
    ));
    let mut sidehook = bot.wrap(sidehook(&receiver, &bot.source("")).main("limits: {body: 1MiB}"));
    sidehook.spawn();
    assert_eq!(sidehook.ended().await.code(), Some(0));
    assert!(arrived(&receiver).contains(&"good".to_owned()));
    assert!(!arrived(&receiver).contains(&"long".to_owned()));
    let passed_on = bot.passed_on();
    assert_eq!(passed_on.lines().next().unwrap().len(), line("long", json!({"x": "y".repeat(3_000_000)})).len() + 4);
    assert!(passed_on.ends_with("{\"type\": \"conversation.begin\"}\n"));
    sidehook.logged("longer than limits.body").await;
    sidehook.logged("required; the line is passed on").await;
}

#[tokio::test]
async fn an_adapter_makes_events_of_any_line() {
    let receiver = Receiver::start().await;
    let bot = Bot::python(&format!(
        "{HEAD}print('call 7 started')\nprint('loading')\nprint(json.dumps({{'call': 8, 'state': 'ended'}}))\nprint('call x broken')\n"
    ));
    let adapter = r#"
fn adapt(message) {
    let body = message.body;
    if type_of(body) != "string" {
        return #{ id: `c${body["call"]}`, type: "call." + body.state };
    }
    if !matches(body, "^call ") { return (); }
    if matches(body, " broken$") { return #{ type: "conversation.begin" }; }
    #{ id: "c" + replace_all(body, "[^0-9]", ""), type: "call.started" }
}
"#;
    let source = bot.source(", adapter: adapters/bot.rhai");
    let mut sidehook = bot.wrap(sidehook(&receiver, &source).rule("adapters/bot.rhai", adapter));
    sidehook.spawn();
    assert_eq!(sidehook.ended().await.code(), Some(0));
    let mut ids = arrived(&receiver);
    ids.sort();
    assert_eq!(ids, ["c7", "c8"]);
    assert_eq!(bot.passed_on(), "loading\ncall x broken\n");
    sidehook.logged("\\\"/conversation/id\\\" required; the line is passed on").await;
}

#[tokio::test]
async fn a_conversation_that_its_death_leaves_open_has_failed_before_sidehook_ends() {
    let receiver = Receiver::start().await;
    let bot = Bot::python(&format!(
        "{HEAD}def say(kind, id): print(json.dumps({{'type': kind, 'conversation': {{'id': id}}}}), flush=True)\n\
         say('conversation.begin', 'cut')\nsay('conversation.begin', 'whole')\nsay('conversation.completed', 'whole')\n\
         write('pid', str(os.getpid()))\ntime.sleep(600)\n"
    ));
    let webhook =
        receiver.webhook("/end", "events: [conversation.failed]\nparams: {id: conversation.id, reason: event.reason}");
    let mut sidehook = bot.wrap(sidehook(&receiver, &bot.source("")).webhook("end", &webhook));
    sidehook.start().await;
    let pid = bot.pid().await;
    receiver.wait("/x", 3).await;
    kill_process(pid, Signal::KILL).unwrap();
    assert_eq!(sidehook.ended().await.code(), Some(137));
    let ends = receiver.requests("/end");
    assert_eq!(ends.len(), 1, "only what was open: {:?}", sidehook.log());
    let end = ends[0].json();
    assert_eq!((end["id"].as_str(), end["reason"].as_str()), (Some("cut"), Some("process_exited")), "{end}");
}
