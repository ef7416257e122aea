//! The compiled configuration: validated values that the actors read. Built by `config::load` only.

mod sources;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::delivery::{BreakerPolicy, Rate, RetryPolicy};
use crate::rules::{Params, Program, Scripts};
use crate::secret::{Secret, SecretKey};
use crate::sign::Signer;
pub use sources::{Exec, Overflow, Read, Source, SourceKind, Tap, TapFormat};

/// One validated snapshot of everything the files say. Swapped whole.
pub struct Generation {
    /// Hash of all contents read, hex.
    pub hash: String,
    /// `sidehook.yaml`
    pub settings: Settings,
    /// By name, disabled ones included.
    pub webhooks: BTreeMap<Arc<str>, Arc<Webhook>>,
    /// `analyses`, in the order of the file.
    pub analyses: Vec<Arc<Analysis>>,
    /// All scripts.
    pub scripts: Arc<Scripts>,
    /// `rules_dir` as it is named to people.
    pub rules_dir: String,
    /// Every file that was read and every directory that should be watched.
    pub inputs: Inputs,
    /// Warnings for the log: `subPath` mounts, secrets with loose permissions, …
    pub warnings: Vec<String>,
}

impl Generation {
    /// The file a webhook stands in, as it is named to people.
    #[must_use]
    pub fn file_of(&self, webhook: &str) -> String {
        let own = format!("webhooks/{webhook}.yaml");
        let is_there = self.inputs.files.iter().any(|file| file.ends_with(&own));
        if is_there { own } else { "sidehook.yaml".to_owned() }
    }
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

/// How commands reach a running sidehook and its outbox: each part is there when its own lines of `sidehook.yaml` are
/// good, whatever is wrong elsewhere, so that a broken reload does not take the tools away.
#[derive(Debug, Clone, Default)]
pub struct Reach {
    /// `admin.listen` and `admin.token`
    pub admin: Option<(Listen, Option<Secret>)>,
    /// The first http source with its token, where there is one.
    pub source: Option<(Listen, Option<Secret>)>,
    /// `outbox.path`, with the keys of `outbox.encryption_key` as far as they can be read.
    pub outbox: Option<(PathBuf, Vec<SecretKey>)>,
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
    /// `reload.canary`
    pub canary: usize,
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
    /// `encryption_key`: the first seals, all open; none where it is not set.
    pub encryption_keys: Vec<SecretKey>,
}

/// `conversations`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversations {
    /// `state: durable`; otherwise memory only.
    pub durable: bool,
    /// `retain`
    pub retain: Duration,
    /// `idle_timeout`: after so long without an event an open conversation has failed.
    pub idle_timeout: Option<Duration>,
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
    /// What is sent goes through it.
    pub proxy: Option<Proxy>,
}

/// `egress.proxy` with `egress.no_proxy`: an HTTP proxy that makes tunnels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proxy {
    /// Its name or address, without brackets.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `Proxy-Authorization`; a secret.
    pub authorization: Option<HeaderValue>,
    /// What does not go through it.
    pub except: Vec<NoProxy>,
}

/// An entry of `egress.no_proxy`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoProxy {
    /// Everything.
    All,
    /// This name and what is below it; without a dot at either end.
    Host(String),
    /// Literal addresses in this network.
    Net(ipnet::IpNet),
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

/// How sidehook shows a destination who it is.
#[derive(Clone)]
pub enum Auth {
    /// The same `Authorization` with every attempt: basic or bearer.
    Header(HeaderValue),
    /// A token from a token endpoint.
    OAuth2(Arc<OAuth2>),
}

/// Client credentials (RFC 6749, section 4.4).
#[derive(Debug, PartialEq, Eq)]
pub struct OAuth2 {
    /// Where tokens come from.
    pub token_url: url::Url,
    /// Who asks.
    pub client_id: String,
    /// Its secret.
    pub client_secret: Secret,
    /// What is asked for.
    pub scopes: Vec<String>,
    /// For whom, where the endpoint wants to know.
    pub audience: Option<String>,
    /// How the client shows who it is.
    pub client_auth: ClientAuth,
    /// Hash of all of the above: a token belongs to (webhook, this).
    pub identity: String,
}

/// Where the client's id and secret stand in a token request (RFC 6749, section 2.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// In `Authorization`.
    Basic,
    /// In the form.
    Body,
}

/// How a webhook's analyses are awaited.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitFor {
    /// Names that must all be there.
    pub analysis: Vec<String>,
    /// Longest wait.
    pub timeout: Duration,
}

/// One of `analyses`: a call at the end of a conversation.
pub struct Analysis {
    /// What its answer is called under `analysis`.
    pub name: Arc<str>,
    /// Where it is posted.
    pub url: url::Url,
    /// The URL as people see it.
    pub shown_url: String,
    /// What is posted.
    pub params: Params,
    /// Configured headers; values are secrets.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// All of it: repeated attempts and the answer's body included.
    pub timeout: Duration,
    /// `tls`
    pub tls: Tls,
    /// `auth`
    pub auth: Option<Auth>,
}

/// One webhook.
pub struct Webhook {
    /// Its name.
    pub name: Arc<str>,
    /// `description`
    pub description: Option<String>,
    /// `url`
    pub url: url::Url,
    /// The URL as people see it: what came from `${…}` and the query's values are starred.
    pub shown_url: String,
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
    /// `auth`
    pub auth: Option<Auth>,
    /// `breaker`
    pub breaker: BreakerPolicy,
    /// Hash of the file's contents: a 410 is forgotten when it changes.
    pub file_hash: String,
}

impl Webhook {
    /// A text that may name the URL's host, which stays hidden where the URL hides it.
    #[must_use]
    pub fn hide_host(&self, text: String) -> String {
        hide_host(&self.url, &self.shown_url, text)
    }
}

impl Analysis {
    /// As [`Webhook::hide_host`].
    #[must_use]
    pub fn hide_host(&self, text: String) -> String {
        hide_host(&self.url, &self.shown_url, text)
    }
}

fn hide_host(url: &url::Url, shown: &str, text: String) -> String {
    match url.host_str().filter(|host| !shown.to_ascii_lowercase().contains(host)) {
        // Names in errors have no brackets.
        Some(host) => text.replace(host.trim_start_matches('[').trim_end_matches(']'), super::mask::STARS),
        None => text,
    }
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
