//! Tokens from a real endpoint over TLS, and a destination that believes only the newest one.

use std::sync::Mutex as Shared;
use std::sync::atomic::AtomicUsize;

use http::Response;
use http_body_util::BodyExt as _;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::config;
use crate::config::model::{Egress, Listen};
use crate::net::{self, ServeOptions};

const LONG: Duration = Duration::from_secs(30);
const SECRET: &str = "hunter2 & more";

/// A token endpoint at `/token` and a destination everywhere else.
struct Server {
    url: String,
    dir: tempfile::TempDir,
    state: Arc<Side>,
    stop: CancellationToken,
}

struct Side {
    /// What the endpoint answers: status and body, `N` being the number of the token.
    answer: Shared<(u16, String)>,
    asked: AtomicUsize,
    forms: Shared<Vec<(String, Option<String>)>>,
    /// Numbers of tokens that are believed from here on.
    believed: AtomicUsize,
    requests: AtomicUsize,
    /// The endpoint answers only while this has permits.
    gate: Semaphore,
}

impl Server {
    async fn start(lifetime: &str) -> Self {
        let made = net::self_signed(&["localhost".to_owned()]).expect("certificates");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("ca.pem"), &made.ca_pem).expect("written");
        let listener = net::bind(&Listen::Tcp(([127, 0, 0, 1], 0).into())).await.expect("bound");
        let url = format!("https://localhost:{}", listener.local_addr().expect("tcp").port());
        let state = Arc::new(Side {
            answer: Shared::new((200, format!("{{\"access_token\":\"token-N\",\"token_type\":\"bearer\"{lifetime}}}"))),
            asked: AtomicUsize::new(0),
            forms: Shared::default(),
            believed: AtomicUsize::new(1),
            requests: AtomicUsize::new(0),
            gate: Semaphore::new(1000),
        });
        let side = Arc::clone(&state);
        let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
            let side = Arc::clone(&side);
            async move { Ok::<_, std::convert::Infallible>(side.serve(request).await) }
        });
        let stop = CancellationToken::new();
        let options = ServeOptions { tls: Some(Arc::new(made.server)), ..ServeOptions::default() };
        tokio::spawn(net::serve(listener, service, stop.clone(), options));
        Self { url, dir, state, stop }
    }

    /// The way of a webhook with this `auth.oauth2`, more keys and other settings.
    fn way(&self, oauth2: &str, clock: &Clock) -> Way {
        let text = format!(
            "webhooks:\n  crm:\n    url: {0}/hook\n    events: ['*']\n    signing: {{scheme: none}}\n    \
             tls: {{ca_file: ca.pem}}\n    auth: {{oauth2: {{token_url: '{0}/token', client_id: 'me:1', \
             client_secret: '{SECRET}'{oauth2}}}}}\n",
            self.url
        );
        let path = self.dir.path().join("sidehook.yaml");
        std::fs::write(&path, text).expect("written");
        let generation = config::load(&path, &|_| None, &Clock::System).unwrap_or_else(|r| panic!("{r:?}"));
        let crm = &generation.webhooks["crm"];
        let to = Destination { url: &crm.url, tls: &crm.tls, auth: crm.auth.as_ref(), at_once: crm.concurrency };
        Way::new(to, &Arc::new(Guard::new(&Egress::default())), clock).expect("a way")
    }

    fn hook(&self) -> Request<Full<Bytes>> {
        Request::post(format!("{}/hook", self.url)).body(Full::new(Bytes::from_static(b"{}"))).expect("a request")
    }

    fn asked(&self) -> usize {
        self.state.asked.load(Ordering::SeqCst)
    }

    fn answers(&self, status: u16, body: &str) {
        *self.state.answer.lock().expect("not poisoned") = (status, body.to_owned());
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Side {
    async fn serve(&self, request: Request<hyper::body::Incoming>) -> Response<Full<Bytes>> {
        let (head, body) = request.into_parts();
        let shown = head.headers.get(AUTHORIZATION).map(|v| v.to_str().expect("text").to_owned());
        let body = body.collect().await.expect("a body").to_bytes();
        let (status, text) = if head.uri.path() == "/token" {
            self.forms.lock().expect("not poisoned").push((String::from_utf8_lossy(&body).into_owned(), shown));
            let n = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
            self.gate.acquire().await.expect("open").forget();
            let (status, text) = self.answer.lock().expect("not poisoned").clone();
            (status, text.replace("-N", &format!("-{n}")))
        } else {
            self.requests.fetch_add(1, Ordering::SeqCst);
            let n = shown.and_then(|text| text.strip_prefix("Bearer token-").and_then(|n| n.parse::<usize>().ok()));
            let believed = n.is_some_and(|n| n >= self.believed.load(Ordering::SeqCst));
            (if believed { 204 } else { 401 }, String::new())
        };
        let mut response = Response::new(Full::new(Bytes::from(text)));
        *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        response
    }
}

#[tokio::test]
async fn one_token_serves_many_and_is_renewed_before_it_expires() {
    let server = Server::start(",\"expires_in\":\"300\"").await;
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let way = server.way(", scopes: [hooks.write, more], audience: 'https://crm.example.com'", &clock);
    server.state.gate.forget_permits(1000);
    let attempts = futures_util::future::join_all((0..20).map(|_| way.send(server.hook(), LONG)));
    let release = async {
        while server.asked() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server.state.gate.add_permits(1000);
    };
    for answer in tokio::join!(attempts, release).0 {
        assert_eq!(answer.expect("an answer").status, 204);
    }
    assert_eq!(server.asked(), 1, "twenty attempts at once ask once");
    let (form, shown) = server.state.forms.lock().expect("not poisoned")[0].clone();
    assert_eq!(form, "grant_type=client_credentials&scope=hooks.write+more&audience=https%3A%2F%2Fcrm.example.com");
    // RFC 6749, section 2.3.1: form-encoded before they are joined.
    let pair = BASE64_STANDARD.encode("me%3A1:hunter2+%26+more");
    assert_eq!(shown, Some(format!("Basic {pair}")));
    for (advance, asked) in [(200, 1), (50, 2), (100, 2), (1_000, 3)] {
        clock.advance(Duration::from_secs(advance));
        assert_eq!(way.send(server.hook(), LONG).await.expect("an answer").status, 204);
        assert_eq!(server.asked(), asked, "after {advance} s more");
    }
}

#[tokio::test]
async fn a_refused_token_is_asked_for_again_once_and_a_new_one_is_not() {
    let server = Server::start("").await;
    let way = server.way(", client_auth: body", &Clock::System);
    assert_eq!(way.send(server.hook(), LONG).await.expect("an answer").status, 204);
    let (form, shown) = server.state.forms.lock().expect("not poisoned")[0].clone();
    assert_eq!(form, "grant_type=client_credentials&client_id=me%3A1&client_secret=hunter2+%26+more");
    assert_eq!(shown, None);

    server.state.believed.store(2, Ordering::SeqCst);
    let answers = futures_util::future::join_all((0..8).map(|_| way.send(server.hook(), LONG))).await;
    assert!(answers.into_iter().all(|answer| answer.expect("an answer").status == 204));
    assert_eq!(server.asked(), 2, "all of those that were refused share the next token");

    server.state.believed.store(9_999, Ordering::SeqCst);
    let before = server.state.requests.load(Ordering::SeqCst);
    assert_eq!(way.send(server.hook(), LONG).await.expect("an answer").status, 401);
    assert_eq!((server.asked(), server.state.requests.load(Ordering::SeqCst) - before), (3, 2), "once, and no more");
    for _ in 0..3 {
        assert_eq!(way.send(server.hook(), LONG).await.expect("an answer").status, 401);
    }
    assert_eq!(server.asked(), 3, "a token that never was good is not worth another");
}

#[tokio::test]
async fn what_goes_wrong_at_the_endpoint_is_told_without_the_secret() {
    let server = Server::start("").await;
    let large = format!("{{\"access_token\":\"{}\"}}", "x".repeat(limits::TOKEN_BYTES));
    for (status, body, text) in [
        (
            401,
            "{\"error\":\"invalid_client\",\"error_description\":\"hunter2 & more\"}",
            "it answered 401 (invalid_client)",
        ),
        (400, "{\"error\":\"a <b> c\"}", "it answered 400"),
        (302, "", "it answered 302"),
        (500, "hunter2 & more", "it answered 500"),
        (200, "<html>", "its answer is no JSON with an access_token"),
        (200, "{\"access_token\":\"\"}", "its access_token is empty"),
        (200, "{\"access_token\":\"a\\nb\"}", "its access_token makes no header"),
        (200, "{\"access_token\":\"a\",\"token_type\":\"mac\"}", "another type than bearer"),
        (200, &large, "larger than 64 KiB"),
    ] {
        server.answers(status, body);
        let failure = server.way("", &Clock::System).send(server.hook(), LONG).await.expect_err(text);
        assert_eq!(failure.fault, Fault::Auth);
        let expected = format!("no token from the token endpoint localhost: {text}");
        let whole = failure.message.contains("localhost: ") && failure.message.contains(text);
        assert!(whole && !failure.message.contains("hunter2"), "{}, expected {expected}", failure.message);
    }
    assert_eq!(server.state.requests.load(Ordering::SeqCst), 0, "without a token nothing is sent");
}

#[tokio::test]
async fn a_stalling_endpoint_costs_the_attempt_only_while_there_is_no_good_token() {
    let server = Server::start(",\"expires_in\":100").await;
    let clock = Clock::manual(Timestamp::from_millis(1_700_000_000_000));
    let way = server.way("", &clock);
    server.state.gate.forget_permits(1000);
    let failure = way.send(server.hook(), Duration::from_millis(300)).await.expect_err("no token");
    assert!(failure.message.contains("an answer did not come within"), "{}", failure.message);
    assert_eq!(failure.fault, Fault::Timeout);
    server.state.gate.add_permits(1000);
    assert_eq!(way.send(server.hook(), LONG).await.expect("an answer").status, 204);

    server.state.gate.forget_permits(1000);
    clock.advance(Duration::from_secs(80));
    let answer = way.send(server.hook(), Duration::from_secs(4)).await;
    assert_eq!(answer.expect("the old token is still good").status, 204);
    let asked = server.asked();
    assert_eq!(way.send(server.hook(), LONG).await.expect("an answer").status, 204);
    assert_eq!(server.asked(), asked, "the next renewal waits a while");
    clock.advance(Duration::from_secs(30));
    assert!(way.send(server.hook(), Duration::from_millis(300)).await.is_err(), "it has expired");
}

#[test]
fn lifetimes_that_are_none_do_no_harm() {
    for (text, expected) in [
        ("", None),
        (",\"expires_in\":null", None),
        (",\"expires_in\":\"NaN\"", None),
        (",\"expires_in\":-5", Some(Duration::ZERO)),
        (",\"expires_in\":1e300", Some(Duration::from_secs(365 * 86_400))),
        (",\"expires_in\":3599.5", Some(Duration::from_millis(3_599_500))),
    ] {
        let body = format!("{{\"access_token\":\"t\"{text}}}");
        assert_eq!(read(body.as_bytes()).expect(text).1, expected, "{text}");
    }
}
