//! Gauges that are read from the outbox when somebody scrapes.

use crate::clock::Timestamp;
use crate::outbox::Gauges;
use crate::telemetry;

/// Sets them. A webhook that is gone has series only while something of it is left to tell of.
/// `in_memory`: open conversations whose state is not in the outbox.
pub(super) fn publish(gauges: &Gauges, in_memory: usize, now: Timestamp, in_force: impl Fn(&str) -> bool) {
    metrics::gauge!("sidehook_outbox_bytes").set(float(gauges.bytes));
    metrics::gauge!("sidehook_conversations_open").set(float(gauges.conversations_open + in_memory as u64));
    for row in &gauges.ledger.webhooks {
        if !in_force(&row.webhook) && row.pending + row.held + row.dead == 0 {
            telemetry::metrics().retain("webhook", |name| name != row.webhook);
            continue;
        }
        for (state, count) in
            [("pending", row.pending), ("delivered", row.delivered), ("dead", row.dead), ("held", row.held)]
        {
            metrics::gauge!("sidehook_outbox_deliveries", "webhook" => row.webhook.clone(), "state" => state)
                .set(float(count));
        }
        let oldest = gauges.oldest.iter().find(|(name, _)| **name == *row.webhook);
        let age = oldest.map_or(0.0, |(_, at)| now.since(*at).as_secs_f64());
        metrics::gauge!("sidehook_outbox_oldest_seconds", "webhook" => row.webhook.clone()).set(age);
    }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge is an f64; counts stay far below 2^53")]
fn float(n: u64) -> f64 {
    n as f64
}
