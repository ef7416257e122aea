//! Which destinations go through a proxy, and tunnels through a real one on loopback.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::Full;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::clock::Clock;
use crate::config::model::{Egress, Listen, Tls};
use crate::delivery::Fault;
use crate::net::{Answer, Client, Failure, Guard, Receiver, ReceiverOptions, self_signed};

/// A proxy that makes tunnels, or answers something else; remembers the heads it read.
struct Other {
    port: u16,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Other {
    async fn start(answer: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
        let port = listener.local_addr().expect("bound").port();
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while !head.ends_with(b"\r\n\r\n") {
                        head.push(stream.read_u8().await?);
                    }
                    let head = String::from_utf8_lossy(&head).into_owned();
                    seen.lock().expect("not poisoned").push(head.clone());
                    stream.write_all(answer.as_bytes()).await?;
                    if answer.contains(" 200") {
                        let port = head.split([' ', ':']).nth(2).and_then(|p| p.parse::<u16>().ok()).expect("a port");
                        let mut far = TcpStream::connect(("127.0.0.1", port)).await?;
                        tokio::io::copy_bidirectional(&mut stream, &mut far).await?;
                    }
                    std::io::Result::Ok(())
                });
            }
        });
        Self { port, heads }
    }

    fn egress(&self, authorization: Option<&'static str>, except: Vec<NoProxy>) -> Egress {
        let authorization = authorization.map(HeaderValue::from_static);
        let proxy = Proxy { host: "127.0.0.1".into(), port: self.port, authorization, except };
        Egress { allow_http: true, proxy: Some(proxy), ..Egress::default() }
    }

    fn heads(&self) -> Vec<String> {
        self.heads.lock().expect("not poisoned").clone()
    }
}

async fn receiver() -> (u16, Tls, CancellationToken) {
    let made = self_signed(&["localhost".to_owned(), "far.invalid".to_owned()]).expect("certificates");
    let options = ReceiverOptions {
        listen: Listen::Tcp(([127, 0, 0, 1], 0).into()),
        tls: Some(made.server),
        keys: Vec::new(),
        tolerance: None,
        status: StatusCode::NO_CONTENT,
        clock: Clock::System,
    };
    let receiver = Receiver::bind(options).await.expect("bound");
    let Listen::Tcp(addr) = receiver.local().clone() else { panic!("tcp") };
    let stop = CancellationToken::new();
    let mut requests = receiver.start(stop.clone());
    tokio::spawn(async move { while requests.recv().await.is_some() {} });
    (addr.port(), Tls { ca: vec![made.ca], ..Tls::default() }, stop)
}

async fn send(url: &str, tls: &Tls, egress: &Egress) -> Result<Answer, Failure> {
    let client = Client::new(tls, Arc::new(Guard::new(egress)), 4).expect("a client");
    let request = Request::post(url).body(Full::new(Bytes::from_static(b"{}"))).expect("a request");
    client.send(request, Duration::from_secs(20)).await
}

const TUNNEL: &str = "HTTP/1.1 200 Connection established\r\nX-Via: test\r\n\r\n";

#[tokio::test]
async fn tunnels_carry_tls_and_credentials_stay_with_the_proxy() {
    let (port, tls, _stop) = receiver().await;
    let proxy = Other::start(TUNNEL).await;
    let egress = proxy.egress(Some("Basic dTpw"), Vec::new());
    // A name that only the proxy can resolve is left to it; TLS still verifies that name.
    for host in ["localhost", "far.invalid"] {
        let answer = send(&format!("https://{host}:{port}/"), &tls, &egress).await.expect("an answer");
        assert_eq!(answer.status, 204);
        let head = proxy.heads().pop().expect("a request");
        assert!(head.starts_with(&format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n")), "{head}");
        assert!(head.contains("\r\nProxy-Authorization: Basic dTpw\r\n"), "{head}");
    }
    let direct = proxy.egress(None, vec![NoProxy::Host("localhost".to_owned())]);
    assert_eq!(send(&format!("https://localhost:{port}/"), &tls, &direct).await.expect("an answer").status, 204);
    assert_eq!(proxy.heads().len(), 2, "no_proxy goes past it");
}

#[tokio::test]
async fn refusals_of_a_proxy_are_told_apart() {
    for (answer, authorization, text) in [
        ("HTTP/1.1 407 Auth\r\n\r\n", None, "it wants credentials (407); egress.proxy holds them"),
        ("HTTP/1.1 407 Auth\r\n\r\n", Some("Basic aHVudGVyMg"), "it refused its credentials (407)"),
        ("HTTP/1.1 403 Forbidden\r\n\r\n", None, "it answered 403 to CONNECT: its own rules"),
        ("HTTP/1.1 502 Bad\r\n\r\n", None, "it answered 502 to CONNECT: it could not reach"),
        ("HTTP/1.1 405 No\r\n\r\n", None, "is it a forward proxy?"),
        ("HTTP/1.1 302 Found\r\nLocation: /\r\n\r\n", None, "it answered 302 to CONNECT"),
        ("SSH-2.0-OpenSSH\r\n\r\n", None, "it did not answer in HTTP"),
        ("", None, "it closed the connection without an answer"),
    ] {
        let proxy = Other::start(answer).await;
        let failure = send("http://far.invalid/", &Tls::default(), &proxy.egress(authorization, Vec::new())).await;
        let failure = failure.expect_err(text);
        assert_eq!(failure.fault, Fault::Connect);
        let begin = format!("no way to far.invalid through the proxy 127.0.0.1:{}: ", proxy.port);
        assert!(failure.message.starts_with(&begin) && failure.message.contains(text), "{}", failure.message);
        assert!(!failure.message.contains("aHVudGVyMg"), "{}", failure.message);
    }
    let mut egress = Other::start(TUNNEL).await.egress(None, Vec::new());
    egress.proxy.as_mut().expect("a proxy").host = "proxy.invalid".to_owned();
    let failure = send("http://far.invalid/", &Tls::default(), &egress).await.expect_err("no proxy");
    assert!(failure.message.starts_with("the proxy on the way to far.invalid: proxy.invalid"), "{}", failure.message);
}

#[tokio::test]
async fn the_guard_looks_at_the_destination_and_not_at_the_proxy() {
    let proxy = Other::start("HTTP/1.1 502 Bad\r\n\r\n").await;
    let nets = ["127.0.0.0/8", "::1/128"].map(|net| net.parse().expect("a network")).to_vec();
    let egress = Egress { deny: nets, ..proxy.egress(None, Vec::new()) };
    for (url, fault, text) in [
        ("https://169.254.169.254/latest", Fault::Denied, "built-in rule link-local"),
        ("https://[64:ff9b::a9fe:a9fe]/", Fault::Denied, "which leads to 169.254.169.254"),
        ("https://localhost/", Fault::Denied, "is blocked by egress.deny"),
        ("https://203.0.113.1/", Fault::Connect, "it answered 502"),
        ("https://[2001:db8::1]:8443/", Fault::Connect, "it answered 502"),
    ] {
        let failure = send(url, &Tls::default(), &egress).await.expect_err(url);
        assert_eq!(failure.fault, fault, "{url}: {}", failure.message);
        assert!(failure.message.contains(text), "{url}: {}", failure.message);
    }
    let heads = proxy.heads();
    assert_eq!(heads.len(), 2, "what is denied never reaches the proxy");
    assert!(heads[1].starts_with("CONNECT [2001:db8::1]:8443 HTTP/1.1\r\n"), "{}", heads[1]);
}

#[test]
fn no_proxy_is_read_as_curl_reads_it() {
    let proxy = |except: Vec<NoProxy>| Proxy { host: "proxy".into(), port: 3128, authorization: None, except };
    let host = |name: &str| NoProxy::Host(name.to_owned());
    let net = |text: &str| NoProxy::Net(text.parse().expect("a network"));
    let mixed = proxy(vec![host("internal"), host("corp.example.com"), net("10.0.0.0/8"), net("fd00::/8")]);
    for (name, through) in [
        ("crm.example.com", true),
        ("corp.example.com", false),
        ("a.CORP.example.com", false),
        ("a.corp.example.com.", false),
        ("notcorp.example.com", true),
        ("corp.example.com.evil.example", true),
        ("internal", false),
        ("a.internal", false),
        ("10.1.2.3", false),
        ("::ffff:10.1.2.3", false),
        ("11.1.2.3", true),
        ("fd00::1", false),
        ("2606:4700::1", true),
        ("10.example.org", true),
        ("", true),
    ] {
        assert_eq!(applies(&mixed, name), through, "{name}");
    }
    assert!(!applies(&proxy(vec![NoProxy::All]), "crm.example.com"));
    assert!(applies(&proxy(Vec::new()), "localhost"));
}

#[test]
fn status_lines() {
    for (line, expected) in [
        ("HTTP/1.1 200 Connection established\r\n\r\n", Some(200)),
        ("HTTP/1.0 407\r\n\r\n", Some(407)),
        ("HTTP/1.1 20 x\r\n\r\n", None),
        ("HTTP/2 200\r\n\r\n", None),
        ("SSH-2.0-x\r\n\r\n", None),
    ] {
        assert_eq!(status(line.as_bytes()), expected, "{line}");
    }
}
