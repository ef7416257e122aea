//! Reload: what changes, what is refused, and that nobody notices in the traffic.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::events::event;
use crate::support::signature::{OTHER_SECRET, SECRET, verify};
use crate::support::{Connection, Receiver, Reply, Sidehook, eventually};

fn yaml(receiver: &Receiver, version: u32) -> String {
    receiver.webhook("/x", &format!("events: [\"*\"]\nparams: {{id: event.id, v: {{value: {version}}}}}"))
}

async fn started() -> (Receiver, Sidehook) {
    let receiver = Receiver::start().await;
    let sidehook = Sidehook::builder().webhook("x", &yaml(&receiver, 1)).start().await;
    (receiver, sidehook)
}

/// What a new event is rendered with.
async fn version(receiver: &Receiver, sidehook: &Sidehook, id: &str) -> Value {
    sidehook.send(&event(id, "a.b", id)).await;
    receiver.wait_for(id, |all| all.iter().find(|r| r.json()["id"] == id).map(|r| r.json()["v"].clone())).await
}

#[tokio::test]
async fn an_edited_file_is_in_force_by_itself() {
    let (receiver, sidehook) = started().await;
    let (_, before) = sidehook.generation().await;
    assert_eq!(version(&receiver, &sidehook, "a").await, 1);
    sidehook.write("webhooks/x.yaml", &yaml(&receiver, 2));
    sidehook.await_generation(before + 1).await;
    assert_eq!(version(&receiver, &sidehook, "b").await, 2);
    // Written in place too, as some editors do.
    std::fs::write(sidehook.config.join("webhooks/x.yaml"), yaml(&receiver, 3)).unwrap();
    sidehook.await_generation(before + 2).await;
    assert_eq!(version(&receiver, &sidehook, "c").await, 3);
    // A new file is a new webhook.
    sidehook.write("webhooks/y.yaml", &receiver.webhook("/y", "events: [\"*\"]"));
    sidehook.await_generation(before + 3).await;
    sidehook.send(&event("d", "a.b", "d")).await;
    receiver.wait("/y", 1).await;
    assert!(sidehook.metric("sidehook_config_reloads_total", &["result=\"accepted\""]).await >= 3.0);
}

#[tokio::test]
async fn a_bad_file_is_refused_whole_and_the_next_good_one_recovers() {
    let (receiver, sidehook) = started().await;
    let (_, before) = sidehook.generation().await;
    sidehook.write("webhooks/y.yaml", &receiver.webhook("/y", "events: [\"*\"]"));
    sidehook.await_generation(before + 1).await;
    sidehook.write("webhooks/x.yaml", &format!("{}\nevnets: []\n", yaml(&receiver, 2)));
    let status = eventually("the refusal shows", async || {
        let status = sidehook.get("/api/v1/status").await.json();
        if status["last_reload"]["result"] == "rejected" { Ok(status) } else { Err(status.to_string()) }
    })
    .await;
    let problem = &status["last_reload"]["problems"][0];
    assert!(problem["file"].as_str().unwrap().ends_with("webhooks/x.yaml"), "{status}");
    assert!(problem["line"].as_u64().is_some_and(|l| l > 4) && problem["column"] == 1, "{status}");
    assert!(problem["message"].as_str().unwrap().contains("evnets"), "{status}");
    assert!(status["last_reload"]["at"].is_string());
    assert!(sidehook.metric("sidehook_config_reloads_total", &["result=\"rejected\""]).await >= 1.0);
    sidehook.logged("evnets").await;
    assert_eq!(version(&receiver, &sidehook, "a").await, 1, "the old one goes on serving");
    assert_eq!(sidehook.get("/ready").await.status.as_u16(), 200);
    // Asked for by hand, the answer says the same.
    let answer = sidehook.admin_post("/api/v1/reload", "").await.json();
    assert_eq!(answer["result"], "rejected", "{answer}");
    sidehook.write("webhooks/x.yaml", &yaml(&receiver, 3));
    sidehook.await_generation(before + 2).await;
    assert_eq!(version(&receiver, &sidehook, "b").await, 3);
}

#[tokio::test]
async fn sighup_and_the_api_reload_and_unchanged_contents_are_no_reload() {
    let (receiver, sidehook) = started().await;
    let (_, before) = sidehook.generation().await;
    let answer = sidehook.admin_post("/api/v1/reload", "").await.expect(200).json();
    assert_eq!(answer["result"], "unchanged", "{answer}");
    sidehook.signal(Signal::HUP);
    eventually("counted", async || {
        let count = sidehook.metric("sidehook_config_reloads_total", &["result=\"unchanged\""]).await;
        if count >= 2.0 { Ok(()) } else { Err(count.to_string()) }
    })
    .await;
    assert_eq!(sidehook.generation().await.1, before);
    sidehook.write("webhooks/x.yaml", &yaml(&receiver, 2));
    sidehook.signal(Signal::HUP);
    sidehook.await_generation(before + 1).await;
    sidehook.write("webhooks/x.yaml", &yaml(&receiver, 3));
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    // The answer comes after the swap, whoever saw the change first.
    assert_eq!(version(&receiver, &sidehook, "a").await, 3);
}

/// A Kubernetes volume: files are links to `..data/FILE`, and `..data` is a link that is swapped.
struct Volume<'a> {
    dir: &'a Path,
    swaps: u32,
}

impl<'a> Volume<'a> {
    fn new(dir: &'a Path, files: &[(&str, &str)]) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let mut volume = Self { dir, swaps: 0 };
        volume.swap(files);
        // What is linked is the first part of a path, as with `items: [{path: rules/x.rhai}]`.
        let firsts: BTreeSet<_> = files.iter().map(|(name, _)| name.split('/').next().unwrap()).collect();
        for name in firsts {
            symlink(Path::new("..data").join(name), dir.join(name)).unwrap();
        }
        volume
    }

    fn swap(&mut self, files: &[(&str, &str)]) {
        self.swaps += 1;
        let stamped = format!("..2026_01_03_{}", self.swaps);
        let dir = self.dir.join(&stamped);
        for (name, text) in files {
            let path = dir.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        symlink(&stamped, self.dir.join("..data_tmp")).unwrap();
        std::fs::rename(self.dir.join("..data_tmp"), self.dir.join("..data")).unwrap();
        if self.swaps > 1 {
            std::fs::remove_dir_all(self.dir.join(format!("..2026_01_03_{}", self.swaps - 1))).unwrap();
        }
    }
}

#[tokio::test]
async fn a_configmap_swap_is_a_reload() {
    let receiver = Receiver::start().await;
    let mut sidehook = Sidehook::builder().prepare();
    let config = sidehook.config.clone();
    let webhooks = config.join("webhooks");
    let mut volume = Volume::new(&webhooks, &[("x.yaml", &yaml(&receiver, 1))]);
    sidehook.start().await;
    assert_eq!(version(&receiver, &sidehook, "a").await, 1);
    let (_, before) = sidehook.generation().await;
    for n in 2..5 {
        volume.swap(&[("x.yaml", &yaml(&receiver, n))]);
        sidehook.await_generation(before + u64::from(n) - 1).await;
        assert_eq!(version(&receiver, &sidehook, &format!("e{n}")).await, n);
    }
}

#[tokio::test]
async fn a_rotated_secret_signs_the_next_attempt() {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", "events: [\"*\"]\nparams: {id: event.id, v: {value: 1}}\nsigning: {scheme: standard, secrets: [{file: ../secrets/current}]}");
    let mut sidehook = Sidehook::builder().webhook("x", &webhook).prepare();
    let secrets = sidehook.path("secrets");
    let mut volume = Volume::new(&secrets, &[("current", &format!("{SECRET}\n"))]);
    sidehook.start().await;
    version(&receiver, &sidehook, "a").await;
    let (_, before) = sidehook.generation().await;
    volume.swap(&[("current", &format!("{OTHER_SECRET}\n"))]);
    sidehook.await_generation(before + 1).await;
    version(&receiver, &sidehook, "b").await;
    let requests = receiver.requests("/x");
    verify(SECRET, &requests[0]).unwrap();
    verify(OTHER_SECRET, &requests[1]).unwrap();
    let log = sidehook.log().join("\n");
    assert!(!log.contains("MfKQ9r8") && !log.contains("C2FVsBQ"), "a secret is in the log");
}

#[tokio::test]
async fn a_removed_webhooks_deliveries_are_held_until_it_returns() {
    let (receiver, mut sidehook) = started().await;
    receiver.on("/x", &[Reply::status(503)]);
    let retrying = format!(
        "{}retry: {{schedule: {{initial: 200ms, factor: 1, max: 200ms, attempts: 100}}, jitter: 0}}\nbreaker: {{failures: 100000}}\n",
        yaml(&receiver, 1)
    );
    sidehook.write("webhooks/x.yaml", &retrying);
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    sidehook.send(&event("a", "a.b", "c")).await;
    receiver.wait("/x", 1).await;
    sidehook.remove("webhooks/x.yaml");
    sidehook.write("webhooks/other.yaml", &receiver.webhook("/other", "events: [\"*\"]"));
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    let held = sidehook.await_deliveries("state=held", 1).await;
    receiver.on("/x", &[Reply::status(200)]);
    sidehook.send(&event("b", "a.b", "c")).await;
    receiver.wait("/other", 1).await;
    let row = sidehook.ledger("x").await;
    assert_eq!((&row["matched"], &row["held"]), (&json!(1), &json!(1)), "a removed webhook matches nothing new: {row}");
    sidehook.stop().await;
    sidehook.start().await;
    sidehook.await_deliveries("state=held", 1).await;
    // Back, but switched off: still held.
    sidehook.write("webhooks/x.yaml", &format!("{retrying}enabled: false\n"));
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    sidehook.send(&event("c", "a.b", "c")).await;
    receiver.wait("/other", 2).await;
    sidehook.await_deliveries("state=held", 1).await;
    sidehook.write("webhooks/x.yaml", &retrying);
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    let delivered = sidehook.await_deliveries("state=delivered&webhook=x", 1).await;
    assert_eq!(delivered[0]["id"], held[0]["id"]);
    assert_eq!(receiver.requests("/x").last().unwrap().json()["id"], "a");
}

#[tokio::test]
async fn addresses_and_the_outbox_path_need_a_restart_and_say_so_while_the_rest_applies() {
    let (receiver, sidehook) = started().await;
    let (_, before) = sidehook.generation().await;
    let main = sidehook.read("sidehook.yaml").replace(":7070", ":7079");
    sidehook.write("sidehook.yaml", &format!("{main}outbox: {{path: elsewhere}}\n"));
    sidehook.write("webhooks/x.yaml", &yaml(&receiver, 2));
    sidehook.await_generation(before + 1).await;
    sidehook.admin_post("/api/v1/reload", "").await.expect(200);
    assert_eq!(version(&receiver, &sidehook, "a").await, 2);
    eventually("the log names them", async || {
        let log = sidehook.log().join("\n");
        let named = log.contains("sources.events.listen") && log.contains("outbox.path") && log.contains("restart");
        if named { Ok(()) } else { Err(log) }
    })
    .await;
    assert!(!sidehook.config.join("elsewhere").exists());
}

/// Sends events over one connection until told to end; answers the acknowledged ids.
async fn load(ingest: String, stop: Arc<AtomicBool>, sent: Arc<AtomicUsize>) -> Vec<String> {
    let mut connection = Connection::tcp(&ingest).await.unwrap();
    let mut acknowledged = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let id = format!("e{}", acknowledged.len());
        let body = event(&id, "a.b", &format!("c{}", acknowledged.len() % 7)).to_string();
        let headers = [("content-type", "application/json")];
        let answer = connection.send("POST", "/v1/events", &headers, body).await.unwrap();
        assert_eq!(answer.status.as_u16(), 202, "{}", answer.text());
        acknowledged.push(id);
        sent.store(acknowledged.len(), Ordering::Relaxed);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_bad_and_twenty_good_reloads_lose_nothing_and_mix_nothing() {
    let receiver = Receiver::start().await;
    let mut sidehook = Sidehook::builder().prepare();
    let config = sidehook.config.clone();
    let main = sidehook.read("sidehook.yaml");
    sidehook.remove("sidehook.yaml");
    // Everything is in one volume, so that a swap of `..data` changes all files at once, as in a pod. What is rendered
    // shows the generation three times: from the webhook's params, from the rule, and from the rule's headers.
    let files = |n: u32, good: bool| {
        let hook = receiver.webhook(
            "/x",
            &format!(
                "events: [\"*\"]\nrule: x.rhai\nparams: {{id: event.id, params: {{value: {n}}}}}{}",
                if good { "" } else { "\nnonsense: true" }
            ),
        );
        let rule = format!(
            "const N = {n};\nfn transform(event, payload) {{ payload.rule = global::N; payload }}\nfn headers(event, payload) {{ #{{ \"X-Rule\": global::N }} }}"
        );
        (hook, rule)
    };
    let (hook, rule) = files(0, true);
    let mut volume =
        Volume::new(&config, &[("sidehook.yaml", &main), ("webhooks/x.yaml", &hook), ("rules/x.rhai", &rule)]);
    sidehook.start().await;
    let (_, first) = sidehook.generation().await;
    let stop = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let sender = tokio::spawn(load(sidehook.ingest.clone(), Arc::clone(&stop), Arc::clone(&sent)));
    let mut good = 0;
    for n in 1..=40 {
        let is_good = n % 2 == 0;
        let (hook, rule) = files(n, is_good);
        volume.swap(&[("sidehook.yaml", &main), ("webhooks/x.yaml", &hook), ("rules/x.rhai", &rule)]);
        let answer = sidehook.admin_post("/api/v1/reload", "").await.expect(200).json();
        if is_good {
            good += 1;
            sidehook.await_generation(first + good).await;
        } else {
            assert_eq!(answer["result"], "rejected", "{n}: {answer}");
        }
        // Traffic in every generation, and while the next one comes.
        let before = sent.load(Ordering::Relaxed);
        eventually("traffic", async || {
            let now = sent.load(Ordering::Relaxed);
            if now > before + 2 { Ok(()) } else { Err(format!("{now} events sent")) }
        })
        .await;
    }
    stop.store(true, Ordering::Relaxed);
    let acknowledged = sender.await.unwrap();
    assert!(acknowledged.len() > 40, "only {} events in 40 reloads", acknowledged.len());
    let requests = receiver.wait("/x", acknowledged.len()).await;
    let mut seen = BTreeMap::<String, u32>::new();
    let mut generations = BTreeSet::new();
    for request in &requests {
        let payload = request.json();
        assert_eq!(payload["params"], payload["rule"], "half a generation: {payload}");
        assert_eq!(payload["rule"].to_string(), request.header("x-rule"), "half a generation: {payload}");
        assert_eq!(payload["rule"].as_u64().unwrap() % 2, 0, "a refused generation: {payload}");
        generations.insert(payload["rule"].as_u64().unwrap());
        *seen.entry(payload["id"].as_str().unwrap().to_owned()).or_default() += 1;
    }
    for id in &acknowledged {
        assert_eq!(seen.get(id), Some(&1), "{id}");
    }
    assert!(generations.len() > 10, "the load met only generations {generations:?}");
    assert_eq!(sidehook.metric("sidehook_config_reloads_total", &["result=\"accepted\""]).await, 20.0);
}

#[tokio::test]
async fn the_canary_refuses_what_no_longer_renders_recent_events() {
    let receiver = Receiver::start().await;
    let webhook = |name: &str| receiver.webhook(&format!("/{name}"), &format!("events: [\"*\"]\nrule: {name}.rhai"));
    let rule = |change: &str| format!("fn transform(event, payload) {{\n    {change}\n    payload\n}}\n");
    let sidehook = Sidehook::builder()
        .main("outbox: {retain: {events: 1h}}\nreload: {canary: 10}\n")
        .webhook("x", &webhook("x"))
        .rule("x.rhai", &rule("payload.n = event.metadata.n;"))
        .rule("bad.rhai", &rule("throw `never`;"))
        .start()
        .await;
    for n in 1..=3 {
        let mut event = event(&format!("kept-{n}"), "a.b", "c");
        event["metadata"] = json!({"n": n});
        sidehook.send(&event).await;
    }
    receiver.wait("/x", 3).await;
    let calls = || sidehook.metric("sidehook_rule_duration_seconds_count", &["rule=\"x\""]);
    assert_eq!(calls().await, 3.0);

    sidehook.write("rules/x.rhai", &rule("if event.metadata.n == 2 { throw `two`; } log_warn(`seen`);"));
    let answer = sidehook.admin_post("/api/v1/reload", "").await.json();
    assert_eq!(answer["result"], "rejected", "{answer}");
    let problem = &answer["problems"][0];
    assert_eq!((&problem["file"], &problem["line"]), (&json!("rules/x.rhai"), &json!(2)), "{answer}");
    assert_eq!(
        problem["message"],
        "webhook x: the kept event kept-2 (a.b) renders in the generation in force, and fails in this one: transform: two"
    );
    assert_eq!(answer["problems"].as_array().map(Vec::len), Some(1), "{answer}");
    let mut next = event("after", "a.b", "c");
    next["metadata"] = json!({"n": 2});
    sidehook.send(&next).await;
    assert_eq!(receiver.wait("/x", 4).await[3].json()["n"], 2, "the old generation goes on");
    assert_eq!(calls().await, 4.0, "a rehearsal is in no metric");
    assert_eq!(sidehook.metric("sidehook_rule_errors_total", &["rule=\"x\""]).await, 0.0);
    let told = sidehook.log().into_iter().find(|line| line.contains("rule failed") || line.contains("seen"));
    assert_eq!(told, None, "a rehearsal logs nothing");

    // What renders is taken, and a webhook that is new has nothing to keep up with.
    let (_, before) = sidehook.generation().await;
    sidehook.write("rules/x.rhai", &rule("payload.n = event.metadata.n + 100;"));
    sidehook.write("webhooks/bad.yaml", &webhook("bad"));
    let answer = sidehook.admin_post("/api/v1/reload", "").await.json();
    assert_ne!(answer["result"], "rejected", "{answer}");
    sidehook.await_generation(before + 1).await;
    // What failed before may go on failing.
    sidehook.write("rules/bad.rhai", &rule("throw `still`;"));
    let answer = sidehook.admin_post("/api/v1/reload", "").await.json();
    assert_ne!(answer["result"], "rejected", "{answer}");
}

/// The directories of a link and of where it leads in the end are watched; of a link in between only the poll knows.
#[tokio::test]
async fn a_change_that_no_watch_sees_is_found_by_the_poll() {
    let receiver = Receiver::start().await;
    let mut sidehook = Sidehook::builder().webhook("other", &yaml_to(&receiver, "/other")).prepare();
    for (dir, path) in [("one", "/one"), ("two", "/two"), ("between", "")] {
        std::fs::create_dir(sidehook.path(dir)).unwrap();
        if !path.is_empty() {
            std::fs::write(sidehook.path(dir).join("x.yaml"), yaml_to(&receiver, path)).unwrap();
        }
    }
    let between = sidehook.path("between");
    std::os::unix::fs::symlink(sidehook.path("one/x.yaml"), between.join("x.yaml")).unwrap();
    std::os::unix::fs::symlink(between.join("x.yaml"), sidehook.config.join("webhooks/x.yaml")).unwrap();
    sidehook.start().await;
    sidehook.send(&event("e1", "a.b", "c")).await;
    receiver.wait("/one", 1).await;
    std::os::unix::fs::symlink(sidehook.path("two/x.yaml"), between.join("next")).unwrap();
    std::fs::rename(between.join("next"), between.join("x.yaml")).unwrap();
    sidehook.await_generation(2).await;
    sidehook.send(&event("e2", "a.b", "c")).await;
    receiver.wait("/two", 1).await;
    assert_eq!(receiver.requests("/one").len(), 1);
}

fn yaml_to(receiver: &Receiver, path: &str) -> String {
    receiver.webhook(path, "events: [\"*\"]")
}

#[tokio::test]
async fn a_file_that_is_mounted_by_itself_is_warned_of() {
    let receiver = Receiver::start().await;
    // As Kubernetes does for `subPath`, in a mount namespace of its own.
    let mount =
        "for config; do :; done; mount --bind \"$config/mounted.yaml\" \"$config/webhooks/x.yaml\" && exec \"$@\"";
    let sidehook = Sidehook::builder()
        .webhook("x", "")
        .file("mounted.yaml", &yaml_to(&receiver, "/x"))
        .wrapper(&["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh"])
        .start()
        .await;
    let warning = sidehook.logged("mounted as a single file (subPath)").await;
    assert!(warning.contains("webhooks/x.yaml") && warning.contains("mount its directory instead"), "{warning}");
    sidehook.send(&event("e", "a.b", "c")).await;
    receiver.wait("/x", 1).await;
}
