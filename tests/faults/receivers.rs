//! Receivers that misbehave for a while: events that were sent meanwhile arrive once they have mended their ways.

use std::sync::Arc;

use super::{PATIENT, Sent, record_clean, settled, verified};
use crate::support::{Body, Connection, Receiver, Reply, Shown, Sidehook, eventually, own_address};

/// Events for each fault.
const EVENTS: u64 = 24;

async fn send(sidehook: &Sidehook, sent: &Sent, count: u64) {
    let mut connection = Connection::tcp(&sidehook.ingest).await.unwrap();
    for _ in 0..count {
        let id = sent.id();
        assert_eq!(sent.send(&mut connection, &id).await, Some(202));
    }
}

#[tokio::test]
async fn answers_that_have_no_end_or_do_not_come() {
    let endless = |status| Reply::status(status).body(Body::Endless);
    for (place, name, bad) in [
        (14, "receiver accepts and never answers", Reply::status(200).body(Body::Hang)),
        (15, "receiver drips a byte a second", Reply::status(200).body(Body::Trickle)),
        (16, "receiver sends a 503 with an endless body", endless(503)),
        (17, "receiver sends a 200 with an endless body", endless(200)),
        (18, "receiver resets the connection", Reply::status(200).body(Body::Reset)),
    ] {
        let receiver = Receiver::start().await;
        // The first two attempts for each event; of two requests one is for another event than its neighbour's.
        let seen = std::sync::Mutex::new(std::collections::HashMap::<String, u32>::new());
        receiver.on_each("/x", move |request, _| {
            let mut seen = seen.lock().unwrap();
            let times = seen.entry(request.id().to_owned()).or_default();
            *times += 1;
            if *times <= 2 { bad.clone() } else { Reply::status(200) }
        });
        let webhook = receiver.webhook("/x", &PATIENT.replace("timeout: 2s", "timeout: 1500ms"));
        let mut sidehook = Sidehook::builder().webhook("x", &webhook).start().await;
        let sent = Sent::default();
        send(&sidehook, &sent, EVENTS).await;
        let tally = settled(&sidehook, "x", &receiver, "/x", &sent).await;
        verified(&mut sidehook).await;
        record_clean(place, name, EVENTS, &tally);
    }
}

/// Waits until an attempt of the oldest pending delivery ended with this status.
async fn failed_with(sidehook: &Sidehook, status: &str) {
    eventually(&format!("an attempt that ended with {status}"), async || {
        let series = sidehook.metric("sidehook_attempts_total", &[&format!("status=\"{status}\"")]).await;
        if series >= 3.0 { Ok(()) } else { Err(format!("{series} attempts")) }
    })
    .await;
}

#[tokio::test]
async fn certificates_that_are_not_good() {
    let names = vec!["another.example".to_owned()];
    for (place, name, shown) in [
        (19, "receiver shows a certificate for another name", Some(Shown { names, expired: false })),
        (20, "receiver shows an expired certificate", None),
    ] {
        let mut receiver = Receiver::start().await;
        let good = Shown::good(receiver.address.ip());
        let bad = shown.unwrap_or(Shown { expired: true, ..Shown::good(receiver.address.ip()) });
        receiver.stop().await;
        receiver.show(&bad);
        receiver.resume().await;
        let mut sidehook = Sidehook::builder().webhook("x", &receiver.webhook("/x", PATIENT)).start().await;
        let sent = Sent::default();
        send(&sidehook, &sent, EVENTS).await;
        failed_with(&sidehook, "tls").await;
        assert!(receiver.all().is_empty(), "nothing was told to whoever shows it");
        receiver.stop().await;
        receiver.show(&good);
        receiver.resume().await;
        let tally = settled(&sidehook, "x", &receiver, "/x", &sent).await;
        verified(&mut sidehook).await;
        record_clean(place, name, EVENTS, &tally);
    }
}

#[tokio::test]
async fn an_address_changes() {
    const MOVES: u64 = 4;
    let mut receiver = Receiver::start().await;
    let port = receiver.address.port();
    let hosts = tempfile::NamedTempFile::new().unwrap();
    let point = |ip: std::net::IpAddr| std::fs::write(hosts.path(), format!("{ip} moving.test\n")).unwrap();
    point(receiver.address.ip());
    let yaml = receiver.webhook("/x", PATIENT).replace(&receiver.url("/x"), &format!("https://moving.test:{port}/x"));
    let mut sidehook = Sidehook::builder().webhook("x", &yaml).prepare();
    // The table of names is this process's own.
    let mount = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";
    let namespace = if rustix::process::getuid().is_root() { "-m" } else { "-rm" };
    sidehook.wrap(&["unshare", namespace, "sh", "-c", mount, hosts.path().to_str().unwrap()]);
    sidehook.start().await;
    let sent = Arc::new(Sent::default());
    for _ in 0..MOVES {
        send(&sidehook, &sent, EVENTS / 2).await;
        // Some of these still go to the old address, some find nobody there.
        let moving = tokio::spawn({
            let sent = Arc::clone(&sent);
            let ingest = sidehook.ingest.clone();
            async move {
                let mut connection = Connection::tcp(&ingest).await.unwrap();
                for _ in 0..EVENTS / 2 {
                    let id = sent.id();
                    assert_eq!(sent.send(&mut connection, &id).await, Some(202));
                }
            }
        });
        let ip = own_address().into();
        receiver.move_to(ip).await;
        point(ip);
        moving.await.unwrap();
        let last = sent.acknowledged();
        receiver
            .wait_for("all at the new address", |all| {
                let arrived: std::collections::BTreeSet<_> =
                    all.iter().map(|r| r.json()["id"].as_str().unwrap().to_owned()).collect();
                last.iter().all(|id| arrived.contains(id)).then_some(())
            })
            .await;
    }
    let tally = settled(&sidehook, "x", &receiver, "/x", &sent).await;
    verified(&mut sidehook).await;
    // An answer that was on its way when its connection was torn never came: it is asked for again.
    assert_eq!(tally.lost, 0);
    super::record(21, "receiver moves to another address", MOVES, &tally);
}
