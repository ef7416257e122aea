//! `examples/python-assistant` as its README plays it: an assistant of a framework from the Python package index, which knows nothing of sidehook,
//! and a caller who speaks to it through the proxy.
//!
//! Needs a Python with what the example's `requirements.txt` names, in `target/tools/assistant`; `tests/run` makes it.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdout, Command};

use crate::support::signature::{SECRET, verify};
use crate::support::{PATIENCE, Receiver, Sidehook, eventually, own_address};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/python-assistant")
}

fn python(script: &str) -> Command {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/assistant/bin/python");
    assert!(
        python.exists(),
        "this test needs the assistant's framework; tests/run installs it, tests/run --quick leaves the test out"
    );
    let mut command = Command::new(python);
    command.arg(example().join(script)).kill_on_drop(true);
    command
}

struct Assistant {
    port: u16,
}

impl Assistant {
    /// Starts it and waits until it listens.
    async fn start(&self) -> Child {
        let child = python("bot.py").env("BOT_PORT", self.port.to_string()).spawn().unwrap();
        eventually("the assistant", async || {
            TcpStream::connect(("127.0.0.1", self.port)).await.map(drop).map_err(|e| e.to_string())
        })
        .await;
        child
    }
}

/// Somebody on the line, and what is said.
struct Call {
    child: Child,
    said: Lines<BufReader<ChildStdout>>,
}

impl Call {
    fn begin(address: &str, words: &[&str]) -> Self {
        let mut child = python("caller.py")
            .arg(format!("ws://{address}/"))
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, said }
    }

    async fn hears(&mut self, text: &str) {
        let line = tokio::time::timeout(PATIENCE, self.said.next_line()).await.expect("somebody speaks").unwrap();
        assert_eq!(line.as_deref(), Some(text));
    }
}

/// Who said what.
fn talk(payload: &Value) -> Vec<(String, String)> {
    let text = |message: &Value, key: &str| message[key].as_str().unwrap().trim().to_owned();
    payload["messages"].as_array().unwrap().iter().map(|m| (text(m, "role"), text(m, "message"))).collect()
}

fn expected(lines: &[(&str, &str)]) -> Vec<(String, String)> {
    lines.iter().map(|(role, text)| ((*role).to_owned(), (*text).to_owned())).collect()
}

#[tokio::test]
async fn an_unpatched_assistants_conversations_are_told_to_their_end() {
    let receiver = Receiver::start().await;
    // The example's own files, with the addresses of this test.
    let proxy = format!("{}:7072", own_address());
    // A port that was free a moment ago; no other test binds this address.
    let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let assistant = Assistant { port };
    let main = std::fs::read_to_string(example().join("sidehook.yaml")).unwrap();
    let main = main.replace("127.0.0.1:7072", &proxy).replace("127.0.0.1:8000", &format!("127.0.0.1:{port}"));
    let main: String = main.lines().filter(|l| !l.starts_with("admin:")).map(|l| format!("{l}\n")).collect();
    let webhook = std::fs::read_to_string(example().join("webhooks/ops.yaml")).unwrap();
    let webhook = webhook
        .replace("https://127.0.0.1:9443/ops", &receiver.url("/ops"))
        .replace("receiver-ca.pem", receiver.ca_file().to_str().unwrap());
    let _sidehook = Sidehook::builder().main(&main).webhook("ops", &webhook).file("secrets/ops", SECRET).start().await;

    let mut bot = assistant.start().await;
    let mut call = Call::begin(&proxy, &["Where is my parcel?", "Order 7.", "--ask"]);
    for text in [
        "user: Where is my parcel?",
        "assistant: Which order is it about?",
        "user: Order 7.",
        "assistant: It leaves our warehouse today.",
    ] {
        call.hears(text).await;
    }
    assert!(call.child.wait().await.unwrap().success());
    let requests = receiver.wait("/ops", 2).await;
    for request in &requests {
        assert_eq!(verify(SECRET, request), Ok(()));
    }
    let (begin, end) = (requests[0].json(), requests[1].json());
    assert_eq!((&begin["event"], &begin["messages"]), (&json!("conversation.begin"), &json!([])));
    assert_eq!((&end["event"], &end["reason"]), (&json!("conversation.completed"), &json!("disconnect-bot")));
    assert_eq!(end["conversation"], begin["conversation"]);
    assert_eq!(
        talk(&end),
        expected(&[
            ("user", "Where is my parcel?"),
            ("assistant", "Which order is it about?"),
            ("user", "Order 7."),
            ("assistant", "It leaves our warehouse today."),
        ])
    );
    // It ends with the conversation, as it was asked to.
    bot.wait().await.unwrap();

    let mut bot = assistant.start().await;
    let mut call = Call::begin(&proxy, &["Hello?"]);
    call.hears("user: Hello?").await;
    call.hears("assistant: Which order is it about?").await;
    receiver.wait("/ops", 3).await;
    bot.kill().await.unwrap();
    assert!(!call.child.wait().await.unwrap().success(), "the line is dead");
    let requests = receiver.wait("/ops", 4).await;
    let (begin, end) = (requests[2].json(), requests[3].json());
    assert_eq!(begin["event"], "conversation.begin");
    assert_eq!((&end["event"], &end["reason"]), (&json!("conversation.failed"), &json!("disconnected")));
    assert_eq!(end["conversation"], begin["conversation"]);
    assert_eq!(talk(&end), expected(&[("user", "Hello?"), ("assistant", "Which order is it about?")]));

    // Neither conversation gets a second end.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(receiver.count("/ops"), 4);
}
