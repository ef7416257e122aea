//! The compiled configuration: validated values that the actors read. Built by `config::load` only.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::delivery::{BreakerPolicy, Rate, RetryPolicy};
use crate::rules::{Program, Scripts};
use crate::secret::Secret;
use crate::sign::Signer;

/// One validated snapshot of everything the files say. Swapped whole.
pub struct Generation {
    /// Hash of all contents read, hex.
    pub hash: String,
    /// `sidehook.yaml`
    pub settings: Settings,
    /// By name, disabled ones included.
    pub webhooks: BTreeMap<Arc<str>, Arc<Webhook>>,
    /// All scripts.
    pub scripts: Arc<Scripts>,
    /// Every file that was read and every directory that should be watched.
    pub inputs: Inputs,
    /// Warnings for the log: `subPath` mounts, secrets with loose permissions, …
    pub warnings: Vec<String>,
}

/// What was read, for watching and for change detection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inputs {
    /// Files, absolute or relative to the working directory.
    pub files: Vec<PathBuf>,
    /// Directories whose entries matter (parents of files, `webhooks/`, `rules/` and below).
    pub directories: Vec<PathBuf>,
    /// Directories whose names were read (`webhooks/`, `rules/` and below): an entry that comes or goes is a change.
    pub listings: Vec<PathBuf>,
}

/// The settings beside webhooks.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// By name.
    pub sources: BTreeMap<String, Source>,
    /// How long ids are remembered.
    pub dedupe_window: Duration,
    /// Directory of the outbox.
    pub outbox_path: PathBuf,
    /// Limits and retention of the outbox.
    pub outbox: OutboxSettings,
    /// `conversations`
    pub conversations: Conversations,
    /// `admin`
    pub admin: Admin,
    /// `egress`
    pub egress: Egress,
    /// `limits.body`
    pub body_bytes: u64,
    /// `limits.concurrency`
    pub concurrency: usize,
    /// `reload.run_tests`
    pub run_tests: bool,
    /// `shutdown.accept`
    pub shutdown_accept: Duration,
    /// `shutdown.grace`
    pub shutdown_grace: Duration,
}

/// Where a listener binds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP.
    Tcp(SocketAddr),
    /// Unix socket.
    Unix(PathBuf),
}

impl std::fmt::Display for Listen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// One source. Further types join this enum.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// `type: http`
    Http {
        /// Where it listens.
        listen: Listen,
        /// Bearer token that senders must show.
        token: Option<Secret>,
        /// Namespace of its events.
        namespace: Arc<str>,
    },
}

/// `outbox`, beside its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutboxSettings {
    /// `max_bytes`
    pub max_bytes: u64,
    /// `when_full: drop_oldest_begin`
    pub drop_oldest_begin: bool,
    /// `retain.delivered`
    pub retain_delivered: Duration,
    /// `retain.dead`
    pub retain_dead: Duration,
    /// `retain.events`
    pub retain_events: Duration,
    /// `retain.bodies`
    pub retain_bodies: bool,
}

/// `conversations`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversations {
    /// `state: durable`; otherwise memory only.
    pub durable: bool,
    /// `retain`
    pub retain: Duration,
    /// `max_open_age`
    pub max_open_age: Duration,
}

/// `admin`
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// Where it listens.
    pub listen: Listen,
    /// Bearer token; required off loopback.
    pub token: Option<Secret>,
    /// Further host names that requests may name.
    pub hosts: Vec<String>,
}

/// `egress`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Egress {
    /// Plain `http://` destinations.
    pub allow_http: bool,
    /// Further networks that are never dialled.
    pub deny: Vec<ipnet::IpNet>,
    /// Exceptions to `deny` and to the built-in list.
    pub allow: Vec<ipnet::IpNet>,
}

/// HTTP method of a webhook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// JSON body.
    Post,
    /// JSON body.
    Put,
    /// JSON body.
    Patch,
    /// Params in the query.
    Get,
}

/// TLS options of a destination, contents already read and parsed.
#[derive(Clone, Default)]
pub struct Tls {
    /// Certificates beside the built-in store.
    pub ca: Vec<rustls_pki_types::CertificateDer<'static>>,
    /// Client certificate chain and key.
    pub client: Option<Arc<ClientCert>>,
    /// Name to verify instead of the URL's host.
    pub server_name: Option<String>,
    /// TLS 1.3 only.
    pub min_tls13: bool,
    /// Hash of all of the above: connection pools belong to (webhook, this).
    pub identity: String,
}

/// A client certificate.
pub struct ClientCert {
    /// Leaf first.
    pub chain: Vec<rustls_pki_types::CertificateDer<'static>>,
    /// Its private key.
    pub key: rustls_pki_types::PrivateKeyDer<'static>,
}

/// How a webhook's analyses are awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitFor {
    /// Names that must all be there.
    pub analysis: Vec<String>,
    /// Longest wait.
    pub timeout: Duration,
}

/// One webhook.
pub struct Webhook {
    /// Its name.
    pub name: Arc<str>,
    /// `description`
    pub description: Option<String>,
    /// `url`
    pub url: url::Url,
    /// `method`
    pub method: Method,
    /// `events`
    pub events: EventPatterns,
    /// `enabled`
    pub enabled: bool,
    /// Configured headers; values are secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// What decides its payload.
    pub program: Program,
    /// `wait_for`
    pub wait_for: Option<WaitFor>,
    /// `signing`
    pub signer: Signer,
    /// `timeout`: whole attempt, body included.
    pub timeout: Duration,
    /// `retry`
    pub retry: RetryPolicy,
    /// `ordering: conversation`
    pub ordered: bool,
    /// `concurrency`
    pub concurrency: usize,
    /// `rate_limit`
    pub rate_limit: Option<Rate>,
    /// `priority`: lower goes first.
    pub priority: i64,
    /// `tls`
    pub tls: Tls,
    /// `breaker`
    pub breaker: BreakerPolicy,
    /// Hash of the file's contents: a 410 is forgotten when it changes.
    pub file_hash: String,
}

/// Exact names and globs. Patterns match `sidehook.*` events only when they begin with `sidehook.`.
#[derive(Debug, Clone)]
pub struct EventPatterns {
    patterns: Vec<String>,
    globs: globset::GlobSet,
}

impl EventPatterns {
    /// Compiles patterns; the error names the bad one.
    pub fn new(patterns: Vec<String>) -> Result<Self, String> {
        let mut globs = globset::GlobSetBuilder::new();
        for pattern in &patterns {
            globs.add(globset::Glob::new(pattern).map_err(|e| format!("{pattern:?}: {}", e.kind()))?);
        }
        let globs = globs.build().map_err(|e| e.to_string())?;
        Ok(Self { patterns, globs })
    }

    /// Whether an event of this type is wanted.
    #[must_use]
    pub fn matches(&self, event_type: &str) -> bool {
        let own = event_type.starts_with("sidehook.");
        self.globs.matches(event_type).into_iter().any(|i| !own || self.patterns[i].starts_with("sidehook."))
    }

    /// As written.
    #[must_use]
    pub fn as_written(&self) -> &[String] {
        &self.patterns
    }
}
