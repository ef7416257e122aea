//! The way to one destination: its client and, where it wants `OAuth2`, the token. A token is asked for when the first
//! attempt needs it, by one attempt while the others wait, and kept in memory only. Shows no secret in any message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use http::{HeaderValue, Request};
use http_body_util::Full;
use tokio::sync::Mutex;

use super::client::{AGENT, Answer, Client, Failure, shown};
use super::guard::Guard;
use super::tls::TlsError;
use crate::clock::{Clock, Timestamp};
use crate::config::model::{Auth, ClientAuth, OAuth2, Tls};
use crate::delivery::Fault;
use crate::limits;

/// Where something is sent, and how sidehook shows there who it is.
#[derive(Clone, Copy)]
pub struct Destination<'a> {
    /// Its address.
    pub url: &'a url::Url,
    /// Its certificates.
    pub tls: &'a Tls,
    /// What it wants to see.
    pub auth: Option<&'a Auth>,
    /// How many requests are under way to it at once.
    pub at_once: usize,
}

/// What is needed to reach a destination. Cloning shares its connections and its token.
#[derive(Clone)]
pub struct Way {
    client: Client,
    tokens: Option<Arc<Tokens>>,
    clock: Clock,
}

impl Destination<'_> {
    /// What a way to it depends on: with another one it is made anew.
    #[must_use]
    pub fn identity(&self) -> String {
        match self.auth {
            // Whether `tls.server_name` counts for the endpoint depends on the destination's host.
            Some(Auth::OAuth2(settings)) => {
                let host = self.url.host_str().unwrap_or_default();
                format!("{}|{}|{}|{host}", self.at_once, self.tls.identity, settings.identity)
            }
            _ => format!("{}|{}", self.at_once, self.tls.identity),
        }
    }
}

impl Way {
    /// The way to a destination. The token endpoint is reached under the same guard and with the same certificates.
    pub fn new(to: Destination<'_>, guard: &Arc<Guard>, clock: &Clock) -> Result<Self, TlsError> {
        let client = Client::new(to.tls, Arc::clone(guard), to.at_once)?;
        let tokens = match to.auth {
            Some(Auth::OAuth2(settings)) => Some(Arc::new(Tokens::new(settings, to, guard, clock)?)),
            _ => None,
        };
        Ok(Self { client, tokens, clock: clock.clone() })
    }

    /// [`Way::fetch`] that reads of the answer what is kept of an attempt's.
    pub async fn send(&self, request: Request<Full<Bytes>>, timeout: Duration) -> Result<Answer, Failure> {
        self.fetch(request, timeout, limits::RESPONSE_BYTES).await
    }

    /// Sends one request within `timeout`, a token included, and reads up to `most` bytes of the answer's body. A 401 for
    /// a token that was good before, or is not new, is answered by asking for another one and sending the request once
    /// more, within the same time.
    pub async fn fetch(
        &self,
        request: Request<Full<Bytes>>,
        timeout: Duration,
        most: usize,
    ) -> Result<Answer, Failure> {
        let Some(tokens) = &self.tokens else { return self.client.fetch(request, timeout, most).await };
        let started = self.clock.instant();
        let left = || timeout.saturating_sub(started.elapsed());
        let mut refused = None;
        loop {
            let token = tokens.get(refused, left()).await?;
            let answer = self.client.fetch(with(request.clone(), &token), left(), most).await?;
            if answer.status != 401 {
                tokens.accepted(&token);
                return Ok(answer);
            }
            if refused.is_some() || !tokens.worth_renewing(&token) {
                return Ok(answer);
            }
            refused = Some(token.serial);
        }
    }
}

fn with(mut request: Request<Full<Bytes>>, token: &Token) -> Request<Full<Bytes>> {
    request.headers_mut().insert(AUTHORIZATION, token.header.clone());
    request
}

/// A token as an attempt uses it.
#[derive(Clone)]
struct Token {
    header: HeaderValue,
    /// Counts the tokens of one [`Tokens`]; the first is 1.
    serial: u64,
    asked_at: Timestamp,
    /// When it is no longer sent; `None`: its lifetime was not told.
    expires: Option<Timestamp>,
}

/// The token of one destination.
struct Tokens {
    settings: Arc<OAuth2>,
    client: Client,
    clock: Clock,
    /// Held while a token is asked for, so that one attempt asks and the others wait.
    state: Mutex<State>,
    /// How often a token was asked for to the end.
    rounds: AtomicU64,
    /// The newest token that the destination did not answer with 401.
    accepted: AtomicU64,
}

#[derive(Default)]
struct State {
    token: Option<Token>,
    /// From then on it is renewed.
    renew_at: Option<Timestamp>,
    serial: u64,
    failed: Option<Failure>,
}

impl Tokens {
    fn new(settings: &Arc<OAuth2>, to: Destination<'_>, guard: &Arc<Guard>, clock: &Clock) -> Result<Self, TlsError> {
        // The name to verify belongs to the destination; the endpoint has it only where it is the same host.
        let same_host = settings.token_url.host_str() == to.url.host_str();
        let server_name = to.tls.server_name.clone().filter(|_| same_host);
        let client = Client::new(&Tls { server_name, ..to.tls.clone() }, Arc::clone(guard), 1)?;
        Ok(Self {
            settings: Arc::clone(settings),
            client,
            clock: clock.clone(),
            state: Mutex::default(),
            rounds: AtomicU64::new(0),
            accepted: AtomicU64::new(0),
        })
    }

    /// A token that may be sent now and is not number `refused`. Waits for one that is being asked for; where that
    /// fails, everybody who waited has the same answer.
    async fn get(&self, refused: Option<u64>, left: Duration) -> Result<Token, Failure> {
        let round = self.rounds.load(Ordering::SeqCst);
        let started = self.clock.instant();
        let Ok(mut state) = tokio::time::timeout(left, self.state.lock()).await else {
            return Err(self.failure(&format!("it did not answer within {}", shown(left))));
        };
        let now = self.clock.now();
        let usable = state.token.clone().filter(|token| {
            refused != Some(token.serial) && token.expires.is_none_or(|at| now < at && token.asked_at <= now)
        });
        match &usable {
            Some(token) if state.renew_at.is_none_or(|at| now < at) => return Ok(token.clone()),
            None if self.rounds.load(Ordering::SeqCst) != round => {
                if let Some(failure) = &state.failed {
                    return Err(failure.clone());
                }
            }
            _ => {}
        }
        let mut left = left.saturating_sub(started.elapsed());
        if usable.is_some() {
            // A slow endpoint must not cost an attempt whose token is still good.
            left /= 2;
        }
        let answered = self.ask(left).await;
        self.rounds.fetch_add(1, Ordering::SeqCst);
        match (answered, usable) {
            (Ok((header, lifetime)), _) => {
                let skew = lifetime.map(|lifetime| limits::TOKEN_SKEW.min(lifetime / 4));
                let expires = lifetime.map(|lifetime| now.plus(lifetime));
                state.serial += 1;
                let token = Token { header, serial: state.serial, asked_at: now, expires };
                state.renew_at = expires.zip(skew).map(|(at, skew)| at.minus(skew));
                state.failed = None;
                state.token = Some(token.clone());
                Ok(token)
            }
            (Err(_), Some(token)) => {
                state.renew_at = Some(now.plus(limits::TOKEN_RENEWAL_PAUSE));
                Ok(token)
            }
            (Err(failure), None) => {
                state.failed = Some(failure.clone());
                Err(failure)
            }
        }
    }

    /// Notes that the destination did not refuse it.
    fn accepted(&self, token: &Token) {
        self.accepted.fetch_max(token.serial, Ordering::SeqCst);
    }

    /// Whether another token may help: not where a new one was refused at once, so that a destination which refuses
    /// all of them does not cost the token endpoint a request an attempt.
    fn worth_renewing(&self, token: &Token) -> bool {
        let known_good = self.accepted.load(Ordering::SeqCst) >= token.serial;
        known_good || self.clock.now().since(token.asked_at) >= limits::TOKEN_SKEW
    }

    /// Asks the endpoint: the header to send and how long it is good for.
    async fn ask(&self, timeout: Duration) -> Result<(HeaderValue, Option<Duration>), Failure> {
        let request = self.request().map_err(|message| self.failure(&message))?;
        let answer = match self.client.fetch(request, timeout, limits::TOKEN_BYTES).await {
            Ok(answer) => answer,
            // As if the destination itself could not be reached.
            Err(failure) => return Err(Failure { fault: failure.fault, ..self.failure(&failure.message) }),
        };
        if !(200..300).contains(&answer.status) {
            let code = error_code(&answer.body, &self.settings).map(|code| format!(" ({code})")).unwrap_or_default();
            return Err(self.failure(&format!("it answered {}{code}", answer.status)));
        }
        if answer.body.len() >= limits::TOKEN_BYTES {
            return Err(self.failure(&format!("its answer is larger than {} KiB", limits::TOKEN_BYTES / 1024)));
        }
        read(&answer.body).map_err(|what| self.failure(what))
    }

    /// RFC 6749, section 4.4.2.
    fn request(&self) -> Result<Request<Full<Bytes>>, String> {
        let settings = &self.settings;
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.append_pair("grant_type", "client_credentials");
        if !settings.scopes.is_empty() {
            form.append_pair("scope", &settings.scopes.join(" "));
        }
        if let Some(audience) = &settings.audience {
            form.append_pair("audience", audience);
        }
        let mut request = Request::post(settings.token_url.as_str())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, AGENT);
        match settings.client_auth {
            ClientAuth::Body => {
                form.append_pair("client_id", &settings.client_id);
                form.append_pair("client_secret", settings.client_secret.expose());
            }
            ClientAuth::Basic => {
                let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
                let pair = format!("{}:{}", encoded(&settings.client_id), encoded(settings.client_secret.expose()));
                let mut value = HeaderValue::try_from(format!("Basic {}", BASE64_STANDARD.encode(pair)))
                    .map_err(|_| "its client's id and secret make no header".to_owned())?;
                value.set_sensitive(true);
                request = request.header(AUTHORIZATION, value);
            }
        }
        request.body(Full::new(Bytes::from(form.finish()))).map_err(|_| "its URL is no usable address".to_owned())
    }

    fn failure(&self, what: &str) -> Failure {
        let host = self.settings.token_url.host_str().unwrap_or_default();
        Failure::new(Fault::Auth, format!("no token from the token endpoint {host}: {what}"))
    }
}

/// The code of an error answer (RFC 6749, section 5.2), where it looks like one and repeats nothing that is ours.
fn error_code(body: &[u8], settings: &OAuth2) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Refusal {
        error: String,
    }
    let Refusal { error } = serde_json::from_slice(body).ok()?;
    let word = error.len() <= 64 && error.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
    (word && !error.is_empty() && !error.contains(settings.client_secret.expose())).then_some(error)
}

/// Reads an answer (RFC 6749, section 5.1). A lifetime may be written as text, as some do.
fn read(body: &[u8]) -> Result<(HeaderValue, Option<Duration>), &'static str> {
    #[derive(serde::Deserialize)]
    struct Granted {
        access_token: String,
        #[serde(default)]
        token_type: Option<String>,
        #[serde(default)]
        expires_in: serde_json::Value,
    }
    let granted: Granted = serde_json::from_slice(body).map_err(|_| "its answer is no JSON with an access_token")?;
    if granted.token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return Err("it gives tokens of another type than bearer");
    }
    if granted.access_token.is_empty() {
        return Err("its access_token is empty");
    }
    let mut header = HeaderValue::try_from(format!("Bearer {}", granted.access_token))
        .map_err(|_| "its access_token makes no header")?;
    header.set_sensitive(true);
    let seconds = match &granted.expires_in {
        serde_json::Value::Number(n) => n.as_f64(),
        serde_json::Value::String(text) => text.trim().parse().ok(),
        _ => None,
    };
    // A year at most: what is longer is renewed when it is refused.
    let seconds = seconds.filter(|seconds: &f64| seconds.is_finite());
    let lifetime = seconds.map(|seconds| Duration::from_secs_f64(seconds.clamp(0.0, 365.0 * 86_400.0)));
    Ok((header, lifetime))
}

#[cfg(test)]
mod tests;
