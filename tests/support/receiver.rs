//! A TLS receiver that records every request and answers as the test says, badly if need be.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;

use super::signature::SECRET;
use super::{PATIENCE, own_address};

/// One request as it arrived.
#[derive(Debug, Clone)]
pub struct Received {
    pub method: String,
    pub path: String,
    pub query: String,
    pub version: http::Version,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// When its head was in.
    pub at: Instant,
    /// The status of the answer it got; `None` where that had no end, or no head.
    pub answered: Option<u16>,
}

impl Received {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |v| v.to_str().unwrap_or("?"))
    }

    pub fn id(&self) -> &str {
        self.header("webhook-id")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: not JSON: {:?}", self.body))
    }
}

/// How one request is answered.
#[derive(Debug, Clone)]
pub struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    delay: Duration,
    body: Body,
}

/// What follows an answer's head.
#[derive(Debug, Clone)]
pub enum Body {
    /// This.
    Whole(Bytes),
    /// A byte every 50 ms, for so many bytes.
    Drip(usize),
    /// A byte every second, for ever.
    Trickle,
    /// 16 KiB chunks as fast as they are taken, for ever.
    Endless,
    /// No head either: the connection is closed.
    Reset,
    /// No head either, and the connection stays open.
    Hang,
}

impl Reply {
    pub fn status(status: u16) -> Self {
        Self { status, headers: Vec::new(), delay: Duration::ZERO, body: Body::Whole(Bytes::new()) }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    pub fn text(self, text: &str) -> Self {
        self.body(Body::Whole(Bytes::copy_from_slice(text.as_bytes())))
    }

    pub fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

type Script = Arc<dyn Fn(&Received, usize) -> Reply + Send + Sync>;

#[derive(Default)]
struct State {
    requests: Vec<Received>,
    finished: usize,
    /// By path: how often it was asked, and how it answers.
    scripts: HashMap<String, (usize, Option<Script>)>,
}

struct Shared {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

/// A running receiver. Ends when dropped.
pub struct Receiver {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    ca: Authority,
    mutual: bool,
    ca_file: PathBuf,
    _dir: tempfile::TempDir,
    serving: Mutex<Option<tokio::task::JoinHandle<()>>>,
}

impl Receiver {
    /// Serves on an address of its own, with a certificate for it and for `localhost`.
    pub async fn start() -> Self {
        Self::start_with(false).await
    }

    /// Serves only those who show a certificate of its CA: with the files of one and of its key.
    pub async fn start_mutual() -> (Self, PathBuf, PathBuf) {
        let receiver = Self::start_with(true).await;
        let file = |name: &str| receiver.ca_file.with_file_name(name);
        let (cert, key) = (file("client.pem"), file("client.key"));
        (receiver, cert, key)
    }

    async fn start_with(mutual: bool) -> Self {
        let ip = own_address();
        let dir = tempfile::tempdir().unwrap();
        let ca_file = dir.path().join("ca.pem");
        let ca = Authority::new();
        let (client, client_key) = ca.client();
        std::fs::write(&ca_file, ca.0.pem()).unwrap();
        std::fs::write(dir.path().join("client.pem"), client).unwrap();
        std::fs::write(dir.path().join("client.key"), client_key).unwrap();
        let listener = TcpListener::bind((ip, 0)).await.unwrap();
        let receiver = Self {
            address: listener.local_addr().unwrap(),
            shared: Arc::new(Shared { state: Mutex::default(), changed: watch::Sender::new(()) }),
            tls: ca.acceptor(&Shown::good(ip.into()), mutual),
            ca,
            mutual,
            ca_file,
            _dir: dir,
            serving: Mutex::default(),
        };
        receiver.serve(listener);
        receiver
    }

    /// Shows this certificate from the next [`Receiver::resume`] on.
    pub fn show(&mut self, shown: &Shown) {
        self.tls = self.ca.acceptor(shown, self.mutual);
    }

    /// Goes to another address, with a certificate for it: nobody answers at the old one any more.
    pub async fn move_to(&mut self, ip: IpAddr) {
        self.stop().await;
        self.address.set_ip(ip);
        self.show(&Shown::good(ip));
        self.resume().await;
    }

    fn serve(&self, listener: TcpListener) {
        let (shared, tls) = (Arc::clone(&self.shared), self.tls.clone());
        let task = tokio::spawn(async move {
            // Dropped with this task: every connection ends with the receiver.
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { continue };
                        connections.spawn(connection(stream, tls.clone(), Arc::clone(&shared)));
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        *self.serving.lock().unwrap() = Some(task);
    }

    /// Closes the listener and every connection: nobody answers at the address any more.
    pub async fn stop(&self) {
        let task = self.serving.lock().unwrap().take();
        if let Some(task) = task {
            task.abort();
            // Cancelled is what was asked for.
            let _ = task.await;
        }
    }

    /// Serves again at the same address.
    pub async fn resume(&self) {
        self.serve(TcpListener::bind(self.address).await.unwrap());
    }

    pub fn url(&self, path: &str) -> String {
        format!("https://{}{path}", self.address)
    }

    pub fn ca_file(&self) -> &std::path::Path {
        &self.ca_file
    }

    /// The YAML of a webhook for this path; `signing` is added unless the rest names it.
    pub fn webhook(&self, path: &str, rest: &str) -> String {
        let signing = format!("signing: {{scheme: standard, secrets: [{SECRET}]}}\n");
        let signing = if rest.contains("signing:") { "" } else { &signing };
        let rest = rest.trim_end();
        format!("url: {}\ntls: {{ca_file: {}}}\n{signing}{rest}\n", self.url(path), self.ca_file.display())
    }

    /// These answers in turn for this path, the last one ever after.
    pub fn on(&self, path: &str, replies: &[Reply]) {
        let replies = replies.to_vec();
        self.on_each(path, move |_, n| replies[n.min(replies.len() - 1)].clone());
    }

    /// Answers of this path by request and by how many came before it since the script was set.
    pub fn on_each(&self, path: &str, script: impl Fn(&Received, usize) -> Reply + Send + Sync + 'static) {
        self.shared.state.lock().unwrap().scripts.insert(path.to_owned(), (0, Some(Arc::new(script))));
    }

    /// What this path has received so far, in order of arrival.
    pub fn requests(&self, path: &str) -> Vec<Received> {
        self.shared.state.lock().unwrap().requests.iter().filter(|r| r.path == path).cloned().collect()
    }

    /// How many requests this path has received so far.
    pub fn count(&self, path: &str) -> usize {
        self.shared.state.lock().unwrap().scripts.get(path).map_or(0, |(asked, _)| *asked)
    }

    /// Everything received so far, by all paths.
    pub fn all(&self) -> Vec<Received> {
        self.shared.state.lock().unwrap().requests.clone()
    }

    /// Waits until this path has received so many requests.
    pub async fn wait(&self, path: &str, count: usize) -> Vec<Received> {
        self.wait_for(&format!("{count} requests for {path}"), |all| {
            let requests: Vec<_> = all.iter().filter(|r| r.path == path).cloned().collect();
            (requests.len() >= count).then_some(requests)
        })
        .await
    }

    /// Waits until the check finds what it looks for among all requests, for as long as they go on coming.
    pub async fn wait_for<T>(&self, what: &str, check: impl Fn(&[Received]) -> Option<T>) -> T {
        let mut changed = self.shared.changed.subscribe();
        let end = tokio::time::Instant::now() + 4 * PATIENCE;
        loop {
            changed.borrow_and_update();
            if let Some(found) = check(&self.shared.state.lock().unwrap().requests) {
                return found;
            }
            let silent = tokio::time::timeout(PATIENCE, changed.changed()).await.is_err();
            if silent || tokio::time::Instant::now() > end {
                break;
            }
        }
        let seen: Vec<_> = self.all().iter().map(|r| format!("{} {} {}", r.method, r.path, r.id())).collect();
        let (more, seen) = (seen.len().saturating_sub(20), &seen[..seen.len().min(20)]);
        panic!("{what}: not while requests came; received {seen:#?} and {more} more");
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if let Some(task) = self.serving.lock().unwrap().take() {
            task.abort();
        }
    }
}

async fn connection(stream: TcpStream, tls: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = tls.accept(stream).await else { return };
    let service = service_fn(move |request| answer(Arc::clone(&shared), request));
    let server = auto::Builder::new(TokioExecutor::new());
    // A client that goes away, or a reply that is a reset, ends the connection; the test sees it elsewhere.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}

async fn answer(
    shared: Arc<Shared>,
    request: http::Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, std::io::Error> {
    let at = Instant::now();
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(std::io::Error::other)?.to_bytes();
    let mut received = Received {
        method: head.method.to_string(),
        path: head.uri.path().to_owned(),
        query: head.uri.query().unwrap_or_default().to_owned(),
        version: head.version,
        headers: head.headers,
        body,
        at,
        answered: None,
    };
    let reply = {
        let mut state = shared.state.lock().unwrap();
        let (asked, script) = state.scripts.entry(received.path.clone()).or_insert((0, None));
        let before = *asked;
        *asked += 1;
        let reply = script.as_ref().map_or_else(|| Reply::status(200), |script| script(&received, before));
        // sidehook reads 4 KiB of a body without end and has its answer.
        received.answered = matches!(reply.body, Body::Whole(_) | Body::Endless).then_some(reply.status);
        state.requests.push(received);
        reply
    };
    shared.changed.send_replace(());
    tokio::time::sleep(reply.delay).await;
    let body: BoxBody<Bytes, Infallible> = match reply.body {
        Body::Whole(bytes) => Full::new(bytes).boxed(),
        Body::Trickle => chunks(Bytes::from_static(b"."), Duration::from_secs(1), usize::MAX),
        Body::Drip(count) => chunks(Bytes::from_static(b"."), Duration::from_millis(50), count),
        Body::Endless => chunks(Bytes::from_static(&[b'x'; 16 * 1024]), Duration::ZERO, usize::MAX),
        Body::Reset => return Err(std::io::Error::other("reset, as the test wants it")),
        Body::Hang => std::future::pending().await,
    };
    let mut response = Response::builder().status(reply.status);
    for (name, value) in reply.headers {
        response = response.header(name, value);
    }
    shared.state.lock().unwrap().finished += 1;
    shared.changed.send_replace(());
    Ok(response.body(body).unwrap())
}

fn chunks(chunk: Bytes, pause: Duration, count: usize) -> BoxBody<Bytes, Infallible> {
    let frames = stream::unfold(0, move |sent| {
        let chunk = chunk.clone();
        let frame: Pin<Box<dyn Future<Output = _> + Send + Sync>> = Box::pin(async move {
            if sent >= count {
                return None;
            }
            if pause.is_zero() {
                tokio::task::yield_now().await;
            } else {
                tokio::time::sleep(pause).await;
            }
            Some((Ok(Frame::data(chunk)), sent + 1))
        });
        frame
    });
    StreamBody::new(frames).boxed()
}

/// The certificate that a receiver shows.
pub struct Shown {
    /// For these names and addresses.
    pub names: Vec<String>,
    /// Whether its time is over.
    pub expired: bool,
}

impl Shown {
    /// For this address, `localhost` and `moving.test`.
    pub fn good(ip: IpAddr) -> Self {
        Self { names: vec![ip.to_string(), "localhost".to_owned(), "moving.test".to_owned()], expired: false }
    }
}

/// The CA by which a receiver and its clients know each other.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> Self {
        let mut ca = CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.distinguished_name.push(DnType::CommonName, "tests of sidehook");
        Self(CertifiedIssuer::self_signed(ca, KeyPair::generate().unwrap()).unwrap())
    }

    /// PEM of a client's certificate and of its key.
    fn client(&self) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec!["a-client".to_owned()]).unwrap().signed_by(&key, &self.0).unwrap();
        (certificate.pem(), key.serialize_pem())
    }

    fn acceptor(&self, shown: &Shown, mutual: bool) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let mut leaf = CertificateParams::new(shown.names.clone()).unwrap();
        if shown.expired {
            leaf.not_before = rcgen::date_time_ymd(2001, 1, 1);
            leaf.not_after = rcgen::date_time_ymd(2002, 1, 1);
        }
        let chain = vec![leaf.signed_by(&key, &self.0).unwrap().der().clone()];
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.0.pem().as_bytes()).unwrap()).unwrap();
        let asks =
            rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build();
        let versions =
            rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let versions =
            if mutual { versions.with_client_cert_verifier(asks.unwrap()) } else { versions.with_no_client_auth() };
        let mut config = versions.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        TlsAcceptor::from(Arc::new(config))
    }
}
