//! Signatures as receivers check them; what else an attempt carries.

use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use crate::support::events::event;
use crate::support::signature::{OTHER_SECRET, SECRET, v1, verify};
use crate::support::{Received, Receiver, Reply, Sidehook};

/// The request of one event under this signing.
async fn signed(signing: &str) -> Received {
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", &format!("events: [\"*\"]\nsigning: {signing}"));
    let sidehook = Sidehook::builder().webhook("x", &webhook).env("CURRENT", OTHER_SECRET).start().await;
    sidehook.send(&event("e", "a.b", "c")).await;
    receiver.wait("/x", 1).await.remove(0)
}

#[tokio::test]
async fn a_standard_signature_verifies_and_the_rest_is_there() {
    let request = signed(&format!("{{scheme: standard, secrets: [{SECRET}]}}")).await;
    verify(SECRET, &request).unwrap();
    assert!(verify(OTHER_SECRET, &request).is_err());
    assert_eq!(request.method, "POST");
    assert_eq!(request.header("content-type"), "application/json");
    assert!(request.header("user-agent").starts_with("sidehook"), "{}", request.header("user-agent"));
    let parent: Vec<_> = request.header("traceparent").split('-').map(str::len).collect();
    assert_eq!(parent, [2, 32, 16, 2], "{}", request.header("traceparent"));
    assert!(!request.id().is_empty() && !request.id().contains('.'), "{}", request.id());
    // Cut out of any of the three signed parts, it verifies no more.
    let mut forged = request.clone();
    forged.body = b"{}".to_vec().into();
    assert!(verify(SECRET, &forged).is_err());
}

#[tokio::test]
async fn several_secrets_sign_in_order_the_current_one_first() {
    let request = signed(&format!("{{scheme: standard, secrets: [{{env: CURRENT}}, {SECRET}]}}")).await;
    verify(SECRET, &request).unwrap();
    verify(OTHER_SECRET, &request).unwrap();
    let (id, time) = (request.id(), request.header("webhook-timestamp"));
    let both = format!("{} {}", v1(OTHER_SECRET, id, time, &request.body), v1(SECRET, id, time, &request.body));
    assert_eq!(request.header("webhook-signature"), both);
}

#[tokio::test]
async fn an_ed25519_secret_makes_a_v1a_signature() {
    let secret = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    let public = STANDARD.decode("1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=").unwrap();
    let request = signed(&format!("{{scheme: standard, secrets: [{secret}]}}")).await;
    let signature = request.header("webhook-signature").strip_prefix("v1a,").expect("v1a").to_owned();
    let mut content = format!("{}.{}.", request.id(), request.header("webhook-timestamp")).into_bytes();
    content.extend_from_slice(&request.body);
    UnparsedPublicKey::new(&ED25519, public).verify(&content, &STANDARD.decode(signature).unwrap()).unwrap();
}

#[tokio::test]
async fn scheme_none_signs_nothing() {
    let request = signed("{scheme: none}").await;
    assert!(!request.headers.contains_key("webhook-signature"));
    assert!(!request.id().is_empty());
}

#[tokio::test]
async fn the_hmac_scheme_follows_its_template() {
    let signing = "{scheme: hmac, secrets: [plain-key], header: X-Signature, algorithm: sha512, encoding: base64, template: \"t={timestamp},v1={signature}\", content: \"{id}:{timestamp}.{body}\"}";
    let request = signed(signing).await;
    let time = request.header("webhook-timestamp");
    let key = hmac::Key::new(hmac::HMAC_SHA512, b"plain-key");
    let mut content = format!("{}:{time}.", request.id()).into_bytes();
    content.extend_from_slice(&request.body);
    let expected = format!("t={time},v1={}", STANDARD.encode(hmac::sign(&key, &content)));
    assert_eq!(request.header("x-signature"), expected);
    assert!(!request.headers.contains_key("webhook-signature"));
}

#[tokio::test]
async fn every_attempt_has_a_fresh_timestamp_and_signature_and_the_same_id_and_body() {
    let receiver = Receiver::start().await;
    receiver.on("/x", &[Reply::status(500), Reply::status(200)]);
    let webhook = receiver.webhook("/x", "events: [\"*\"]\nretry: {schedule: [1100ms], jitter: 0}");
    let sidehook = Sidehook::builder().webhook("x", &webhook).start().await;
    sidehook.send(&event("e", "a.b", "c")).await;
    let requests = receiver.wait("/x", 2).await;
    for request in &requests {
        verify(SECRET, request).unwrap();
    }
    assert_eq!(requests[0].id(), requests[1].id());
    assert_eq!(requests[0].body, requests[1].body);
    assert_ne!(requests[0].header("webhook-timestamp"), requests[1].header("webhook-timestamp"));
    assert_ne!(requests[0].header("webhook-signature"), requests[1].header("webhook-signature"));
}

#[tokio::test]
async fn methods_carry_the_body_and_get_carries_a_query() {
    let receiver = Receiver::start().await;
    let mut builder = Sidehook::builder();
    for method in ["POST", "PUT", "PATCH", "GET"] {
        let yaml = receiver.webhook(
            &format!("/{method}?own=1"),
            &format!("events: [\"*\"]\nmethod: {method}\nparams: {{type: event.type, text: argument.text, map: argument.map}}"),
        );
        builder = builder.webhook(&method.to_lowercase(), &yaml);
    }
    let sidehook = builder.start().await;
    sidehook.send(&json!({"type": "a.b", "argument": {"text": "a b&c=ü", "map": {"x": [1, "y"]}}})).await;
    for method in ["POST", "PUT", "PATCH"] {
        let request = receiver.wait(&format!("/{method}"), 1).await.remove(0);
        assert_eq!((request.method.as_str(), request.query.as_str()), (method, "own=1"));
        assert_eq!(request.json()["text"], "a b&c=ü");
    }
    let request = receiver.wait("/GET", 1).await.remove(0);
    assert_eq!(request.method, "GET");
    assert!(request.body.is_empty());
    verify(SECRET, &request).unwrap();
    let query: std::collections::BTreeMap<_, _> =
        form_urlencoded::parse(request.query.as_bytes()).into_owned().collect();
    let expected = [("own", "1"), ("type", "a.b"), ("text", "a b&c=ü"), ("map", r#"{"x":[1,"y"]}"#)];
    assert_eq!(query, expected.map(|(k, v)| (k.to_owned(), v.to_owned())).into());
}

/// Requests of every kind, kept for the libraries that `tests/run` has judge them.
#[tokio::test]
async fn captured_requests_are_left_for_other_libraries() {
    let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("captured");
    std::fs::create_dir_all(&dir).unwrap();
    let receiver = Receiver::start().await;
    let one = receiver.webhook("/one", "events: [\"*\"]");
    let two = receiver.webhook(
        "/two",
        &format!("events: [\"*\"]\nsigning: {{scheme: standard, secrets: [{OTHER_SECRET}, {SECRET}]}}"),
    );
    let sidehook = Sidehook::builder().webhook("one", &one).webhook("two", &two).start().await;
    sidehook.send(&crate::support::events::seed()).await;
    sidehook
        .send(&json!({"type": "a.b", "conversation": {"id": "ü€😀"}, "argument": {"x": "\u{2028}</script>"}}))
        .await;
    sidehook.post_as("application/json", include_str!("fixtures/rapida.completed.json")).await.expect(202);
    for (path, secrets) in [("/one", vec![SECRET]), ("/two", vec![SECRET, OTHER_SECRET])] {
        for (n, request) in receiver.wait(path, 3).await.iter().enumerate() {
            let headers: serde_json::Map<_, _> =
                request.headers.iter().map(|(k, v)| (k.to_string(), v.to_str().unwrap().into())).collect();
            let body = STANDARD.encode(&request.body);
            let text = json!({"secrets": secrets, "headers": headers, "body": body}).to_string();
            std::fs::write(dir.join(format!("{}{n}.json", &path[1..])), text).unwrap();
        }
    }
}
