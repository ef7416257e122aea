//! Two sidehooks on one outbox.

use std::sync::Arc;

use super::{PATIENT, Sent, record_clean, sender, settled, verified};
use crate::support::{Receiver, Sidehook, cli};
use tokio_util::sync::CancellationToken;

#[tokio::test]
async fn a_second_sidehook_on_the_outbox_is_refused_and_disturbs_nothing() {
    const ROUNDS: u64 = 5;
    let receiver = Receiver::start().await;
    let webhook = receiver.webhook("/x", PATIENT);
    let mut first = Sidehook::builder().webhook("x", &webhook).start().await;
    let outbox = first.config.join("data");
    let main = format!("outbox: {{path: {}}}", outbox.display());
    let second = Sidehook::builder().main(&main).webhook("x", &webhook).prepare();
    let sent = Arc::new(Sent::default());
    for round in 0..ROUNDS {
        let stop = CancellationToken::new();
        let sending = tokio::spawn(sender(first.ingest.clone(), Arc::clone(&sent), stop.clone()));
        let said = cli(&["run", "--config", second.config_arg()]).await.expect(1);
        let expected = format!("is in use by another sidehook (pid {})", first.pid());
        assert!(said.stderr.contains(&expected), "{}", said.stderr);
        stop.cancel();
        sending.await.unwrap();
        assert!(sent.acknowledged().len() as u64 > round, "the first one went on");
    }
    let tally = settled(&first, "x", &receiver, "/x", &sent).await;
    verified(&mut first).await;
    record_clean(30, "a second sidehook on the same outbox: exit 1, names the holder", ROUNDS, &tally);
}
