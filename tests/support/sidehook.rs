//! A running sidehook: the real binary, a config directory of its own, its log.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::Value;

use super::client::{Answer, Connection};
use super::{PATIENCE, eventually, own_address};

/// What a sidehook is started with.
#[derive(Default)]
pub struct Builder {
    files: BTreeMap<String, String>,
    main: String,
    sources: Option<String>,
    admin: Option<String>,
    env: BTreeMap<String, String>,
    wrapper: Vec<String>,
}

impl Builder {
    /// Further lines of `sidehook.yaml`. Unless named, `shutdown: {accept: 0s}` is added.
    pub fn main(mut self, yaml: &str) -> Self {
        self.main.push_str(yaml.trim_end());
        self.main.push('\n');
        self
    }

    /// Further keys of the source `events`, such as `token: x`.
    pub fn source(mut self, keys: &str) -> Self {
        self.sources = Some(keys.to_owned());
        self
    }

    /// Further keys of `admin`.
    pub fn admin(mut self, keys: &str) -> Self {
        self.admin = Some(keys.to_owned());
        self
    }

    pub fn webhook(self, name: &str, yaml: &str) -> Self {
        self.file(&format!("webhooks/{name}.yaml"), yaml)
    }

    pub fn rule(self, name: &str, script: &str) -> Self {
        self.file(&format!("rules/{name}"), script)
    }

    /// A file in the config directory.
    pub fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.to_owned(), text.to_owned());
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// A program, with arguments, that runs sidehook (`strace …`).
    pub fn wrapper(mut self, command: &[&str]) -> Self {
        self.wrapper = command.iter().map(|&s| s.to_owned()).collect();
        self
    }

    /// Writes the files and starts nothing yet.
    pub fn prepare(self) -> Sidehook {
        let ip = own_address();
        let dir = tempfile::tempdir().unwrap();
        let sidehook = Sidehook {
            ingest: format!("{ip}:7070"),
            admin: format!("{ip}:7071"),
            config: dir.path().join("config"),
            dir,
            env: self.env,
            wrapper: self.wrapper,
            child: None,
            reader: None,
            log: Arc::default(),
        };
        let mut main = self.main;
        if !main.contains("shutdown:") {
            main.push_str("shutdown: {accept: 0s}\n");
        }
        if !main.contains("sources:") {
            let keys = self.sources.map(|keys| format!(", {keys}")).unwrap_or_default();
            main.push_str(&format!("sources: {{events: {{type: http, listen: \"{}\"{keys}}}}}\n", sidehook.ingest));
        }
        let keys = self.admin.map(|keys| format!(", {keys}")).unwrap_or_default();
        main.push_str(&format!("admin: {{listen: \"{}\"{keys}}}\n", sidehook.admin));
        sidehook.write("sidehook.yaml", &main);
        for (path, text) in &self.files {
            sidehook.write(path, text);
        }
        sidehook
    }

    /// Writes the files, starts sidehook and waits until it is ready.
    pub async fn start(self) -> Sidehook {
        let mut sidehook = self.prepare();
        sidehook.start().await;
        sidehook
    }
}

/// A sidehook with its config directory. Killed when dropped; its log is printed if the test failed.
pub struct Sidehook {
    /// Address of the source `events`.
    pub ingest: String,
    /// Address of the admin listener.
    pub admin: String,
    /// The config directory.
    pub config: PathBuf,
    /// A temporary directory around it.
    pub dir: tempfile::TempDir,
    env: BTreeMap<String, String>,
    wrapper: Vec<String>,
    child: Option<Child>,
    /// Reads the log of the running process.
    reader: Option<std::thread::JoinHandle<()>>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Sidehook {
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// Writes a file of the config directory, whole at once as an editor does.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.config.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let aside = path.with_extension("aside");
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(aside, path).unwrap();
    }

    pub fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.config.join(path)).unwrap()
    }

    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.config.join(path)).unwrap();
    }

    /// Starts the process without waiting for anything.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "it runs already");
        let binary = env!("CARGO_BIN_EXE_sidehook").to_owned();
        let mut words = self.wrapper.clone();
        words.extend([binary, "run".into(), "--config".into(), self.config.display().to_string()]);
        let mut child = Command::new(&words[0])
            .args(&words[1..])
            .envs(&self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            // A group of its own, so that signals reach it through a wrapper as well.
            .process_group(0)
            .spawn()
            .unwrap_or_else(|e| panic!("{words:?}: {e}"));
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::clone(&self.log);
        self.reader = Some(std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                log.lock().unwrap().push(line);
            }
        }));
        self.child = Some(child);
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(&mut self) {
        let heard = self.log().len();
        self.spawn();
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            let answer = self.try_get("/ready").await;
            // Its own word for it too: somebody else's sidehook may answer where this one could not listen.
            let said = self.log().iter().skip(heard).any(|line| line.contains("sidehook is ready"));
            if said && answer.is_ok_and(|answer| answer.status.is_success()) {
                return;
            }
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                self.last_words().await;
                panic!("sidehook ended at its start with {status}");
            }
            assert!(tokio::time::Instant::now() < end, "not ready within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// A program that runs it from the next start on; none to run it plainly.
    pub fn wrap(&mut self, command: &[&str]) {
        self.wrapper = command.iter().map(|&s| s.to_owned()).collect();
    }

    /// Whether the process that was started last is still there.
    pub fn runs(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| child.try_wait().unwrap().is_none())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("it runs").id()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid()).unwrap()).unwrap();
        kill_process_group(pid, signal).unwrap();
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> ExitStatus {
        let end = tokio::time::Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.as_mut().expect("it was started").try_wait().unwrap() {
                self.last_words().await;
                return status;
            }
            assert!(tokio::time::Instant::now() < end, "did not end within {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until the log of the ended process is read to its end.
    async fn last_words(&mut self) {
        self.child = None;
        if let Some(reader) = self.reader.take() {
            tokio::task::spawn_blocking(|| reader.join()).await.unwrap().unwrap();
        }
    }

    /// SIGKILL, and the end.
    pub async fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// SIGTERM, and an orderly end.
    pub async fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.ended().await;
        assert!(status.success(), "{status}");
    }

    /// The log lines so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().unwrap().clone()
    }

    /// Waits for a log line that holds this text.
    pub async fn logged(&self, text: &str) -> String {
        eventually(&format!("a log line with {text:?}"), async || {
            self.log().into_iter().find(|line| line.contains(text)).ok_or_else(|| "no such line".to_owned())
        })
        .await
    }

    /// Posts events and expects 202.
    #[track_caller]
    pub fn send(&self, events: &Value) -> impl Future<Output = Value> {
        let caller = std::panic::Location::caller();
        let events = events.clone();
        async move {
            let answer = self.post(&events).await;
            assert_eq!(answer.status.as_u16(), 202, "{caller}: {}", answer.text());
            answer.json()
        }
    }

    /// Posts JSON to `/v1/events`.
    pub async fn post(&self, events: &Value) -> Answer {
        self.post_as("application/json", events.to_string()).await
    }

    /// Posts a body of this media type to `/v1/events`.
    pub async fn post_as(&self, media: &str, body: impl Into<bytes::Bytes>) -> Answer {
        let headers = [("content-type", media)];
        self.ask(&self.ingest, "POST", "/v1/events", &headers, body).await.expect("an answer")
    }

    /// GET of the admin listener.
    pub async fn get(&self, path: &str) -> Answer {
        self.try_get(path).await.expect("an answer")
    }

    pub async fn try_get(&self, path: &str) -> Result<Answer, String> {
        self.ask(&self.admin, "GET", path, &[], "").await
    }

    /// POST to the admin listener.
    pub async fn admin_post(&self, path: &str, body: &str) -> Answer {
        let headers = [("content-type", "application/json")];
        self.ask(&self.admin, "POST", path, &headers, body.to_owned()).await.expect("an answer")
    }

    /// One request on a connection of its own.
    pub async fn ask(
        &self,
        address: &str,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<bytes::Bytes>,
    ) -> Result<Answer, String> {
        let exchange = async {
            let mut connection = Connection::tcp(address).await.map_err(|e| e.to_string())?;
            connection.send(method, path, headers, body).await
        };
        tokio::time::timeout(PATIENCE, exchange).await.map_err(|_| "no answer in time".to_owned())?
    }

    /// All deliveries, newest first, by the API's filter (`webhook=x&state=dead`).
    pub async fn deliveries(&self, filter: &str) -> Vec<Value> {
        let answer = self.get(&format!("/api/v1/deliveries?limit=1000&{filter}")).await.expect(200);
        answer.json()["items"].as_array().expect("items").clone()
    }

    /// Waits until so many deliveries match the filter.
    pub async fn await_deliveries(&self, filter: &str, count: usize) -> Vec<Value> {
        eventually(&format!("{count} deliveries with {filter:?}"), async || {
            let all = self.deliveries(filter).await;
            if all.len() == count { Ok(all) } else { Err(format!("{}: {all:?}", all.len())) }
        })
        .await
    }

    /// The ledger's row of this webhook; asserts that the ledger balances.
    pub async fn ledger(&self, webhook: &str) -> Value {
        let ledger = self.get("/api/v1/ledger").await.expect(200).json();
        assert_eq!(ledger["balanced"], true, "{ledger}");
        let rows = ledger["webhooks"].as_array().unwrap();
        rows.iter().find(|row| row["webhook"] == webhook).cloned().unwrap_or(Value::Null)
    }

    /// The value of a metric's series that holds every given label (`webhook="crm"`); 0 when there is none.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.get("/metrics").await.expect(200).text();
        let series = text.lines().filter(|line| {
            line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                && labels.iter().all(|l| line.contains(l))
        });
        series.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// `last_reload.result` and the generation's number.
    pub async fn generation(&self) -> (String, u64) {
        let status = self.get("/api/v1/status").await.expect(200).json();
        let result = status["last_reload"]["result"].as_str().unwrap_or_default().to_owned();
        (result, status["generation"].as_u64().unwrap_or_default())
    }

    /// Waits until the generation's number has reached this.
    pub async fn await_generation(&self, number: u64) {
        eventually(&format!("generation {number}"), async || {
            let (result, now) = self.generation().await;
            if now >= number { Ok(()) } else { Err(format!("{now}, last reload {result}")) }
        })
        .await;
    }

    pub fn config_arg(&self) -> &str {
        self.config.to_str().unwrap()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Directory of the outbox.
    pub fn outbox(&self) -> &Path {
        &self.config
    }
}

impl Drop for Sidehook {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                // Already gone is as good.
                let _ = kill_process_group(pid, Signal::KILL);
            }
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log.lock().map(|log| log.clone()).unwrap_or_default();
            let skipped = log.len().saturating_sub(60);
            println!("--- log of sidehook ({skipped} lines skipped)");
            for line in &log[skipped..] {
                println!("{line}");
            }
        }
    }
}
