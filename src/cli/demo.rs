//! `sidehook demo`: the whole way of an event, with nothing configured: a TLS receiver that verifies, a sidehook with the
//! quickstart's files, two conversations, and a rule that changes on disk between them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{exit, ledger, print, run};
use crate::app::App;
use crate::clock::{Clock, Entropy};
use crate::config::model::Listen;
use crate::net::{Received, Receiver, ReceiverOptions, local, self_signed};
use crate::outbox::Ledger;
use crate::secret::Secret;
use crate::sign::VerifyKey;

/// Arguments of `sidehook demo`.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  sidehook demo\n  sidehook demo --keep")]
pub struct Args {
    /// Leaves sidehook running after the demonstration, until SIGINT.
    #[arg(long)]
    keep: bool,
}

/// The quickstart's files; the demonstration points them at its own receiver.
const SIDEHOOK_YAML: &str = include_str!("../../examples/quickstart/sidehook.yaml");
const WEBHOOK_YAML: &str = include_str!("../../examples/quickstart/webhooks/crm.yaml");
const RULE: &str = include_str!("../../examples/quickstart/rules/crm.rhai");
/// What the rule is changed to while sidehook runs.
const NEW_RULE: &str = r#"// Changed on disk while sidehook runs.
fn transform(event, payload) {
    payload.caller = mask(event.argument.caller ?? "unknown");
    payload.turns = event.conversation.messages.len();
    payload.rule = "second edition";
    payload
}
"#;
/// How long anything that must happen may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs the demonstration; exit 0 only when every webhook arrived and verified.
pub fn run(args: &Args) -> anyhow::Result<u8> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let home = Home::new()?;
    runtime.block_on(async {
        let stop = CancellationToken::new();
        let mut stage = Stage::build(&home.0, &stop).await?;
        stage.play(&home.0).await?;
        let settled = stage.settled().await?;
        print(&format!("\nThe ledger:\n{}", ledger::table(&settled)))?;
        ensure!(settled.balanced, "the ledger does not balance");
        if args.keep {
            print(&format!(
                "\nStill running; end it with Ctrl-C.\n  admin      http://{}/\n  events     http://{}/v1/events\n  files      {}\n",
                stage.app.admin,
                stage.source,
                home.0.display()
            ))?;
            let Stage { app, mut webhooks, .. } = stage;
            tokio::spawn(async move {
                while let Some(webhook) = webhooks.recv().await {
                    // A closed standard output must not stop the receiver.
                    let _ = print(&shown(&webhook));
                }
            });
            return run::serve(app, run::Signals::catch()?).await;
        }
        let hurry = CancellationToken::new();
        hurry.cancel();
        stage.app.drain(hurry).await;
        stop.cancel();
        print("\nEvery webhook arrived, signed and in order.\n")?;
        Ok(exit::OK)
    })
}

/// A directory that is removed afterwards.
struct Home(PathBuf);

impl Home {
    fn new() -> anyhow::Result<Self> {
        let name = Entropy::system().id("sidehook-demo", Clock::System.now());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).with_context(|| path.display().to_string())?;
        Ok(Self(path))
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // What cannot be removed is in the system's temporary directory, and harmless.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The actors of the play.
struct Stage {
    app: App,
    source: Listen,
    webhooks: mpsc::Receiver<Received>,
}

impl Stage {
    async fn build(home: &Path, stop: &CancellationToken) -> anyhow::Result<Self> {
        let mut key = [0; 32];
        Entropy::system().fill(&mut key);
        let secret =
            Secret::new(format!("whsec_{}", base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key)));
        let identity = self_signed(&["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        let receiver = Receiver::bind(ReceiverOptions {
            listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
            tls: Some(identity.server),
            keys: vec![VerifyKey::parse(&secret)?],
            tolerance: Some(Duration::from_secs(300)),
            status: http::StatusCode::OK,
            clock: Clock::System,
        })
        .await?;
        let Listen::Tcp(at) = *receiver.local() else { bail!("the receiver has no port") };
        let webhooks = receiver.start(stop.clone());

        write(
            home,
            "sidehook.yaml",
            &SIDEHOOK_YAML.replace("127.0.0.1:7070", "127.0.0.1:0").replace("127.0.0.1:7071", "127.0.0.1:0"),
        )?;
        let webhook = WEBHOOK_YAML.replace("https://localhost:9443", &format!("https://localhost:{}", at.port()));
        write(home, "webhooks/crm.yaml", &webhook)?;
        write(home, "rules/crm.rhai", RULE)?;
        write(home, "secrets/crm", secret.expose())?;
        write(home, "receiver-ca.pem", &identity.ca_pem)?;
        print(&format!("A receiver that verifies signatures listens at https://localhost:{}.\n", at.port()))?;

        let app = App::start(home, Clock::System, Entropy::system()).await?;
        let Some((_, source)) = app.sources.first().cloned() else { bail!("the quickstart has no source") };
        print(&format!("sidehook takes events at http://{source}/v1/events.\n"))?;
        Ok(Self { app, source, webhooks })
    }

    async fn play(&mut self, home: &Path) -> anyhow::Result<()> {
        print("\nA conversation: begin, messages, the end, and its analysis a little later.\n")?;
        self.conversation("conv-1").await?;
        print("\nNow the rule changes on disk.\n")?;
        let before = self.app.reload.generation();
        write(home, "rules/crm.rhai", NEW_RULE)?;
        let reloaded = async {
            while self.app.reload.generation() == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reloaded).await.context("the changed rule was not taken over")?;
        print(&format!("Generation {} is in force. The same conversation again:\n", self.app.reload.generation()))?;
        let last = self.conversation("conv-2").await?;
        ensure!(last["rule"] == "second edition", "the second conversation was rendered by the old rule");
        Ok(())
    }

    /// Plays one conversation and shows its webhooks; answers the last payload.
    async fn conversation(&mut self, id: &str) -> anyhow::Result<Value> {
        let assistant = json!({"id": "2193965165215481856", "name": "Support", "version": "vrsn_2216851806678417408"});
        let conversation = json!({"id": id});
        self.send(&json!({"type": "conversation.begin", "assistant": assistant, "conversation": conversation,
            "argument": {"caller": "+49 30 901820"}, "metadata": {"region": "eu"}}))
            .await?;
        self.arrived().await?;
        let turns = [
            ("message.received", "user", "Hello, my order has not arrived."),
            ("message.sent", "assistant", "I am sorry. It is on its way and arrives tomorrow."),
        ];
        for (kind, role, text) in turns {
            let message = json!({"role": role, "message": text});
            self.send(&json!({"type": kind, "conversation": conversation, "message": message})).await?;
        }
        self.send(&json!({"type": "conversation.completed", "conversation": conversation})).await?;
        print("  → the end waits for its analysis\n")?;
        let analysis = json!({"conversation-analysis": {"result": "Late delivery, customer reassured."}});
        self.send(&json!({"type": "conversation.update", "conversation": conversation, "analysis": analysis})).await?;
        self.arrived().await
    }

    /// The ledger once the last answer is on record too.
    async fn settled(&self) -> anyhow::Result<Ledger> {
        let settled = async {
            loop {
                let ledger = self.app.outbox.ledger().await?;
                if ledger.webhooks.iter().all(|row| row.pending + row.waiting == 0) {
                    return anyhow::Ok(ledger);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, settled).await.context("a delivery was not settled")?
    }

    async fn send(&self, event: &Value) -> anyhow::Result<()> {
        let kind = event["type"].as_str().unwrap_or_default();
        let answer = local::post(&self.source, "/v1/events", None, event.to_string().into()).await?;
        ensure!(answer.status == 202, "{kind} was refused: {}", String::from_utf8_lossy(&answer.body));
        print(&format!("  → {kind}: 202, durable\n"))?;
        Ok(())
    }

    async fn arrived(&mut self) -> anyhow::Result<Value> {
        let webhook = tokio::time::timeout(PATIENCE, self.webhooks.recv()).await.ok().flatten();
        let webhook = webhook.context("no webhook arrived")?;
        print(&shown(&webhook))?;
        if let Some(Err(error)) = &webhook.verified {
            bail!("the webhook did not verify: {error}");
        }
        Ok(serde_json::from_slice(&webhook.body)?)
    }
}

fn shown(webhook: &Received) -> String {
    let verified = match &webhook.verified {
        Some(Ok(())) => "signature verified".to_owned(),
        Some(Err(error)) => format!("SIGNATURE REFUSED: {error}"),
        None => "not signed".to_owned(),
    };
    let id = webhook.header("webhook-id").unwrap_or("-");
    let body = serde_json::from_slice::<Value>(&webhook.body).and_then(|v| serde_json::to_string_pretty(&v));
    let body = body.unwrap_or_else(|_| String::from_utf8_lossy(&webhook.body).into_owned());
    let body = body.lines().fold(String::new(), |all, line| all + "      " + line + "\n");
    format!("  ← {} {} {id}: {verified}\n{body}", webhook.method, webhook.path)
}

fn write(home: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    let path = home.join(name);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent)?;
    }
    std::fs::write(&path, text).with_context(|| path.display().to_string())
}
