//! A batch into the open transaction: arrivals, releases, standings, offsets. Results of attempts are in `settle`,
//! conversations in `conversation`.

use std::sync::Arc;

use rusqlite::params;

use super::seal::Place;
use super::txn::{DEAD, Draft, OWED, Refusal, Txn, body_key, clip, headers_text, lane_of, less};
use super::types::{
    Analysed, Arrival, Batch, ConversationKey, Decision, Dedupe, KnownWebhook, NewDelivery, Ready, Receipt, Release,
    Standing, Stood,
};
use super::{conversation, lane, settle, supersede};
use crate::clock::Timestamp;
use crate::limits;

/// Applies all of a batch. On a refusal the caller takes back what was done, so nothing is taken out of the batch.
pub(super) fn batch(txn: &mut Txn<'_>, batch: &Batch) -> Result<Receipt, Refusal> {
    // Standings first: a delivery that met a 410 is held by the standing that comes with it.
    for (webhook, standing) in &batch.standings {
        let at = txn.book.enter(webhook);
        set_standing(txn, at, standing);
    }
    for settlement in &batch.settlements {
        settle::settle(txn, settlement)?;
    }
    for analysed in &batch.analysed {
        self::analysed(txn, analysed)?;
    }
    for release in &batch.releases {
        self::release(txn, release)?;
    }
    let mut receipt = Receipt::default();
    for (index, arrival) in batch.arrivals.iter().enumerate() {
        receipt.duplicates.push(self::arrival(txn, index, arrival)?);
    }
    for (source, offset) in &batch.offsets {
        txn.run("INSERT OR REPLACE INTO source_offset VALUES (?1, ?2)", (source, offset))?;
    }
    Ok(receipt)
}

/// What deliveries of one event share.
struct Origin {
    seq: i64,
    event_id: Arc<str>,
    event_type: Arc<str>,
    conversation: Option<ConversationKey>,
    traceparent: Option<Arc<str>>,
    arrived: Timestamp,
}

impl Origin {
    fn lane(&self, webhook: &str) -> Option<i64> {
        self.conversation.as_ref().map(|c| lane_of(webhook, &c.namespace, &c.id))
    }
}

fn arrival(txn: &mut Txn<'_>, index: usize, arrival: &Arrival) -> Result<Option<String>, Refusal> {
    if let Some(dedupe) = &arrival.dedupe
        && let Some(first) = known(txn, index, arrival, dedupe)?
    {
        return Ok(Some(first));
    }
    let origin = Origin {
        seq: txn.book.number(),
        event_id: Arc::clone(&arrival.event_id),
        event_type: Arc::clone(&arrival.event_type),
        conversation: arrival.conversation.clone(),
        traceparent: arrival.traceparent.clone(),
        arrived: arrival.arrived,
    };
    if let (Some(key), Some(change)) = (&origin.conversation, &arrival.change) {
        conversation::change(txn, key, change, origin.arrived)?;
    }
    let mut waits = false;
    for (webhook, decision) in &arrival.decisions {
        let at = txn.book.enter(webhook);
        txn.book.edit(at).counts.matched += 1;
        if let Decision::Waiting { deadline, ordered } = decision {
            waits = true;
            wait(txn, at, &origin, *deadline, *ordered)?;
        } else {
            decided(txn, at, &origin, decision)?;
        }
    }
    if waits {
        keep_waiting(txn, &origin, arrival.waiting_body.as_deref().unwrap_or_default())?;
        if arrival.analyses {
            txn.run("INSERT INTO analysis_due VALUES (?1)", [origin.seq])?;
        }
    }
    if let Some(body) = &arrival.kept_body {
        let body = txn.seal.seal(Place::KeptEvent(origin.seq), body)?;
        txn.run(
            "INSERT INTO kept_event VALUES (?1, ?2, ?3, ?4, ?5)",
            params![origin.seq, origin.arrived.as_millis(), arrival.namespace, origin.event_id, &body[..]],
        )?;
    }
    Ok(None)
}

/// Enters the dedupe key; answers the first event's id when the key is in force already.
fn known(txn: &Txn<'_>, index: usize, arrival: &Arrival, dedupe: &Dedupe) -> Result<Option<String>, Refusal> {
    let entered = txn.run(
        "INSERT INTO dedupe (key, fingerprint, until, event_id) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (key) DO UPDATE SET fingerprint = ?2, until = ?3, event_id = ?4 WHERE until <= ?5",
        params![
            dedupe.key,
            dedupe.fingerprint,
            dedupe.until.as_millis(),
            arrival.event_id,
            arrival.arrived.as_millis()
        ],
    )?;
    if entered > 0 {
        return Ok(None);
    }
    let first: Option<(String, [u8; 16])> =
        txn.one("SELECT event_id, fingerprint FROM dedupe WHERE key = ?1", [&dedupe.key], |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?;
    match first {
        Some((id, fingerprint)) if fingerprint == dedupe.fingerprint => Ok(Some(id)),
        _ => Err(Refusal::Conflict { index, event_id: arrival.event_id.to_string() }),
    }
}

/// Counts a final decision and creates its deliveries.
fn decided(txn: &mut Txn<'_>, at: usize, origin: &Origin, decision: &Decision) -> rusqlite::Result<()> {
    let counts = &mut txn.book.edit(at).counts;
    let deliveries = match decision {
        // A release never waits again: such an event counts as filtered rather than not at all.
        Decision::Filtered | Decision::Waiting { .. } => {
            counts.filtered += 1;
            return Ok(());
        }
        Decision::Rendered(deliveries) => {
            counts.rendered += 1;
            deliveries
        }
        Decision::RuleFailed(deliveries) => {
            counts.rule_failed += 1;
            deliveries
        }
    };
    for (idx, delivery) in (0i64..).zip(deliveries) {
        create(txn, at, origin, idx, delivery)?;
    }
    Ok(())
}

fn create(txn: &mut Txn<'_>, at: usize, origin: &Origin, idx: i64, new: &NewDelivery) -> rusqlite::Result<()> {
    let row = txn.book.number();
    let webhook = txn.book.edit(at);
    webhook.counts.created += 1;
    let (webhook_id, name) = (webhook.id, Arc::clone(&webhook.name));
    let lane = if new.ordered { origin.lane(&name) } else { None };
    // What has no payload cannot be owed.
    let dead = match (&new.dead, &new.body) {
        (Some(reason), _) => Some(reason.as_str()),
        (None, None) => Some("no_payload"),
        (None, Some(_)) => None,
    };
    let ready = match (&dead, lane) {
        (Some(_), _) => false,
        (None, None) => true,
        (None, Some(lane)) => lane::enter(txn, lane, origin.seq, idx, row)?,
    };
    let now = txn.now.as_millis();
    // What a rule threw may hold content, as may the headers that it made.
    let reason = txn.seal.seal_text(Place::Reason(row), dead.map(|r| clip(r, limits::REASON_BYTES)))?;
    let headers = headers_text(&new.headers);
    let headers = txn.seal.seal_text(Place::Headers(row), headers.as_deref())?;
    txn.run(
        "INSERT INTO delivery (row, webhook, state, ready, next_at, changed_at, attempts, tries, seq, idx, lane,
             arrived, created_at, id, event_id, event_type, conversation, traceparent, headers, reason)
         VALUES (?1, ?2, ?3, ?4, ?5, ?5, 0, 0, ?6, ?7, ?8, ?9, ?5, ?10, ?11, ?12, ?13, ?14, ?15, ?16)",
        params![
            row,
            webhook_id,
            if dead.is_some() { DEAD } else { OWED },
            ready,
            now,
            origin.seq,
            idx,
            lane,
            origin.arrived.as_millis(),
            new.id,
            origin.event_id,
            origin.event_type,
            origin.conversation.as_ref().map(|c| &*c.id),
            origin.traceparent,
            headers,
            reason,
        ],
    )?;
    let counts = &mut txn.book.edit(at).counts;
    let Some(body) = &new.body else {
        counts.dead += 1;
        return Ok(());
    };
    let stored = txn.seal.seal(Place::Payload(row), body)?;
    if dead.is_some() {
        counts.dead += 1;
        txn.run("INSERT INTO kept_body VALUES (?1, ?2)", params![row, &stored[..]])?;
        return Ok(());
    }
    counts.owed += 1;
    txn.run("INSERT INTO body VALUES (?1, ?2)", params![body_key(webhook_id, row), &stored[..]])?;
    if let (None, Some(key)) = (lane, origin.lane(&name)) {
        supersede::enter(txn, row, &origin.event_type, key)?;
    }
    if ready && txn.announce {
        txn.drafts.push(Draft::Fresh(Ready {
            row,
            id: new.id.clone(),
            webhook: name,
            event_id: Arc::clone(&origin.event_id),
            event_type: Arc::clone(&origin.event_type),
            body: body.clone(),
            headers: new.headers.clone(),
            traceparent: origin.traceparent.clone(),
            attempts: 0,
            created_at: txn.now,
            arrived: origin.arrived,
        }));
    }
    Ok(())
}

fn wait(txn: &mut Txn<'_>, at: usize, origin: &Origin, deadline: Timestamp, ordered: bool) -> rusqlite::Result<()> {
    let row = txn.book.number();
    let webhook = txn.book.edit(at);
    webhook.counts.waiting += 1;
    let id = webhook.id;
    let lane = if ordered { origin.lane(&webhook.name) } else { None };
    if let Some(lane) = lane {
        lane::enter(txn, lane, origin.seq, 0, lane::WAITS)?;
    }
    txn.run("INSERT INTO wait VALUES (?1, ?2, ?3, ?4, ?5)", params![row, id, origin.seq, lane, deadline.as_millis()])?;
    Ok(())
}

fn keep_waiting(txn: &Txn<'_>, origin: &Origin, body: &[u8]) -> rusqlite::Result<()> {
    let body = txn.seal.seal(Place::WaitingEvent(origin.seq), body)?;
    txn.run(
        "INSERT INTO waiting_event VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
        params![
            origin.seq,
            origin.arrived.as_millis(),
            origin.event_id,
            origin.event_type,
            origin.conversation.as_ref().map(|c| &*c.namespace),
            origin.conversation.as_ref().map(|c| &*c.id),
            origin.traceparent,
            &body[..],
        ],
    )?;
    Ok(())
}

/// Ends an event's analyses. Those that are over already are left alone: what a second round came to is nobody's.
fn analysed(txn: &mut Txn<'_>, analysed: &Analysed) -> Result<(), Refusal> {
    let seq = analysed.event;
    if txn.run("DELETE FROM analysis_due WHERE seq = ?1", [seq])? == 0 {
        return Ok(());
    }
    if let Some(body) = &analysed.body {
        let waiting = txn.seal.seal(Place::WaitingEvent(seq), body)?;
        txn.run("UPDATE waiting_event SET body = ?2 WHERE seq = ?1", params![seq, &waiting[..]])?;
        let kept = txn.seal.seal(Place::KeptEvent(seq), body)?;
        txn.run("UPDATE kept_event SET body = ?2 WHERE seq = ?1", params![seq, &kept[..]])?;
    }
    if let Some((key, change)) = &analysed.change {
        conversation::change(txn, key, change, txn.now)?;
    }
    Ok(())
}

/// Ends a wait: what became of it takes its place. A wait that is over already is left alone, so that a second answer
/// makes no second delivery.
fn release(txn: &mut Txn<'_>, release: &Release) -> rusqlite::Result<()> {
    let wait: Option<(i64, i64, Option<i64>)> =
        txn.one("DELETE FROM wait WHERE row = ?1 RETURNING webhook, seq, lane", [release.wait], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?))
        })?;
    let Some((webhook, seq, lane)) = wait else { return Ok(()) };
    let Some(at) = txn.book.place(webhook) else { return Ok(()) };
    less(&mut txn.book.edit(at).counts.waiting, 1);
    if let Some(lane) = lane {
        lane::leave(txn, lane, seq, 0)?;
    }
    if let Some(origin) = origin_of(txn, seq)? {
        decided(txn, at, &origin, &release.decision)?;
    }
    forget_waiting(txn, seq)?;
    if let Some(lane) = lane {
        lane::promote(txn, lane)?;
    }
    Ok(())
}

fn origin_of(txn: &Txn<'_>, seq: i64) -> rusqlite::Result<Option<Origin>> {
    txn.one(
        "SELECT event_id, event_type, namespace, conversation, traceparent, arrived FROM waiting_event WHERE seq = ?1",
        [seq],
        |row| {
            let namespace: Option<Arc<str>> = row.get(2)?;
            let id: Option<Arc<str>> = row.get(3)?;
            Ok(Origin {
                seq,
                event_id: row.get(0)?,
                event_type: row.get(1)?,
                conversation: namespace.zip(id).map(|(namespace, id)| ConversationKey { namespace, id }),
                traceparent: row.get(4)?,
                arrived: Timestamp::from_millis(row.get(5)?),
            })
        },
    )
}

/// Drops a waiting event's body once no wait of it remains.
pub(super) fn forget_waiting(txn: &Txn<'_>, seq: i64) -> rusqlite::Result<()> {
    let gone = txn.run(
        "DELETE FROM waiting_event WHERE seq = ?1 AND NOT EXISTS (SELECT 1 FROM wait WHERE wait.seq = ?1)",
        [seq],
    )?;
    if gone > 0 {
        txn.run("DELETE FROM analysis_due WHERE seq = ?1", [seq])?;
    }
    Ok(())
}

/// Changes a standing. A disabling that was meant for other contents of the file is no news any more.
fn set_standing(txn: &mut Txn<'_>, at: usize, standing: &Standing) {
    let webhook = txn.book.get(at);
    if let Standing::Disabled { file_hash, .. } = standing
        && !webhook.file_hash.is_empty()
        && **file_hash != *webhook.file_hash
    {
        return;
    }
    let was_halted = webhook.halted().is_some();
    let webhook = txn.book.edit(at);
    webhook.standing = standing.clone();
    if was_halted && webhook.halted().is_none() {
        let id = webhook.id;
        txn.resumed.push(id);
    }
}

/// Pauses or resumes a webhook. What a 410 disabled stays disabled.
pub(super) fn pause(txn: &mut Txn<'_>, webhook: &str, paused: bool) -> Stood {
    let Some(at) = txn.book.find(webhook).filter(|at| txn.book.get(*at).known) else { return Stood::Unknown };
    match (&txn.book.get(at).standing, paused) {
        (Standing::Disabled { .. }, _) => return Stood::Disabled,
        (Standing::Active, true) => set_standing(txn, at, &Standing::Paused),
        (Standing::Paused, false) => set_standing(txn, at, &Standing::Active),
        (Standing::Active, false) | (Standing::Paused, true) => {}
    }
    Stood::Yes
}

/// Takes over which webhooks there are.
pub(super) fn webhooks(txn: &mut Txn<'_>, known: &[KnownWebhook]) {
    let halted: Vec<bool> = txn.book.webhooks().iter().map(|w| w.halted().is_some()).collect();
    for at in 0..halted.len() {
        if txn.book.get(at).known && !known.iter().any(|k| k.name == txn.book.get(at).name) {
            txn.book.edit(at).known = false;
        }
    }
    for k in known {
        let at = txn.book.enter(&k.name);
        let webhook = txn.book.edit(at);
        webhook.known = true;
        webhook.enabled = k.enabled;
        webhook.file_hash = Arc::from(k.file_hash.as_str());
        if let Standing::Disabled { file_hash, .. } = &webhook.standing
            && *file_hash != k.file_hash
        {
            webhook.standing = Standing::Active;
        }
    }
    for (at, was_halted) in halted.into_iter().enumerate() {
        if was_halted && txn.book.get(at).halted().is_none() {
            let id = txn.book.get(at).id;
            txn.resumed.push(id);
        }
    }
}
