//! Results of attempts, and deliveries that are asked for again: how a delivery moves between owed, delivered and dead.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rusqlite::params;

use super::lane;
use super::read::Closed;
use super::seal::Place;
use super::supersede;
use super::txn::{DEAD, DELIVERED, OWED, Txn, body_key, clip, headers_text, less};
use super::types::{Attempt, Retried, Settlement, Verdict};
use crate::limits;

/// Before an active webhook's delivery that was set aside is tried again: there is nothing it could wait for.
const HELD_BY_NOTHING: Duration = Duration::from_secs(1);

/// How a delivery was found.
struct Found {
    webhook: i64,
    state: i64,
    lane: Option<i64>,
    seq: i64,
    idx: i64,
    attempts: i64,
    /// Whether it has a conversation and no order.
    unordered: bool,
}

/// Looks before anything is written: an `UPDATE` with `RETURNING` has `SQLite` copy every page that it touches, to be able to
/// undo it alone.
fn find(txn: &Txn<'_>, row: i64) -> rusqlite::Result<Option<Found>> {
    txn.one(
        "SELECT webhook, state, lane, seq, idx, attempts, lane IS NULL AND conversation IS NOT NULL
         FROM delivery WHERE row = ?1",
        [row],
        |r| {
            Ok(Found {
                webhook: r.get(0)?,
                state: r.get(1)?,
                lane: r.get(2)?,
                seq: r.get(3)?,
                idx: r.get(4)?,
                attempts: r.get(5)?,
                unordered: r.get(6)?,
            })
        },
    )
}

/// Records one attempt and what follows from it. A delivery that is gone or settled already is left as it is, but for a
/// success that came in after it was given up.
pub(super) fn settle(txn: &mut Txn<'_>, settlement: &Settlement) -> rusqlite::Result<()> {
    let Settlement { row, attempt, verdict } = settlement;
    let row = *row;
    let made = i64::from(attempt.is_some());
    let won = attempt.as_ref().filter(|a| *verdict == Verdict::Delivered && is_short(a));
    let attempts = match verdict {
        Verdict::Delivered => delivered(txn, row, made, won)?,
        Verdict::Dead(reason) => dead(txn, row, made, reason, true)?,
        Verdict::Retry(at) => later(txn, row, made, at.as_millis())?,
        Verdict::Held(_) => {
            let webhook = txn.one("SELECT webhook FROM delivery WHERE row = ?1", [row], |r| r.get(0))?;
            let halted =
                webhook.and_then(|id| txn.book.place(id)).is_some_and(|at| txn.book.get(at).halted().is_some());
            let at = if halted { txn.now } else { txn.now.plus(HELD_BY_NOTHING) };
            later(txn, row, made, at.as_millis())?
        }
    };
    if let (Some(attempt), Some(n), None) = (attempt, attempts, won) {
        record(txn, row, n, attempt)?;
    }
    Ok(())
}

/// Whether a success is kept in its delivery's row: most webhooks answer next to nothing and succeed at once, and a row
/// of its own would cost as much as the rest of settling them.
fn is_short(attempt: &Attempt) -> bool {
    attempt.error.is_none()
        && attempt.status.len() <= limits::NAME_BYTES
        && attempt.response.as_ref().is_none_or(|r| r.len() <= limits::SHORT_RESPONSE_BYTES)
}

fn record(txn: &Txn<'_>, row: i64, n: i64, attempt: &Attempt) -> rusqlite::Result<()> {
    txn.run(
        "INSERT OR REPLACE INTO attempt VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
        params![
            row,
            n,
            attempt.at.as_millis(),
            i64::try_from(attempt.duration_ms).unwrap_or(i64::MAX),
            clip(&attempt.status, limits::NAME_BYTES),
            attempt.error.as_deref().map(|e| clip(e, limits::REASON_BYTES)),
            txn.seal.seal_text(
                Place::Response(row),
                attempt.response.as_deref().map(|r| clip(r, limits::RESPONSE_BYTES))
            )?,
        ],
    )?;
    let oldest = n - i64::from(limits::ATTEMPTS_KEPT);
    if oldest > 0 {
        txn.run("DELETE FROM attempt WHERE delivery = ?1 AND n <= ?2", (row, oldest))?;
    }
    Ok(())
}

fn next_in_lane(txn: &mut Txn<'_>, was: &Found) -> rusqlite::Result<()> {
    if let Some(lane) = was.lane {
        lane::leave(txn, lane, was.seq, was.idx)?;
        lane::promote(txn, lane)?;
    }
    Ok(())
}

fn delivered(txn: &mut Txn<'_>, row: i64, made: i64, won: Option<&Attempt>) -> rusqlite::Result<Option<i64>> {
    let was = match find(txn, row)? {
        Some(was) if was.state == OWED => was,
        Some(was) if was.state == DEAD => return delivered_after_all(txn, row, &was, made, won).map(Some),
        _ => return Ok(None),
    };
    txn.run(
        "UPDATE delivery SET state = 1, ready = 0, changed_at = ?2, attempts = attempts + ?3, tries = tries + ?3,
             won_at = ?4, won_ms = ?5, won_status = ?6, won_response = ?7
         WHERE row = ?1",
        params![
            row,
            txn.now.as_millis(),
            made,
            won.map(|a| a.at.as_millis()),
            won.map(|a| i64::try_from(a.duration_ms).unwrap_or(i64::MAX)),
            won.map(|a| &a.status),
            txn.seal.seal_text(Place::Response(row), won.and_then(|a| a.response.as_deref()))?,
        ],
    )?;
    drop_owed_body(txn, was.webhook, row, txn.options.retain_bodies)?;
    if let Some(at) = txn.book.place(was.webhook) {
        let counts = &mut txn.book.edit(at).counts;
        less(&mut counts.owed, 1);
        counts.delivered += 1;
    }
    next_in_lane(txn, &was)?;
    if was.unordered {
        supersede::leave(txn, row, true)?;
    }
    Ok(Some(was.attempts + made))
}

/// A delivery was given up while its last attempt was under way, and that attempt succeeded.
fn delivered_after_all(
    txn: &mut Txn<'_>,
    row: i64,
    was: &Found,
    made: i64,
    won: Option<&Attempt>,
) -> rusqlite::Result<i64> {
    txn.run(
        "UPDATE delivery SET state = 1, changed_at = ?2, attempts = attempts + ?3, tries = tries + ?3, reason = NULL
         WHERE row = ?1",
        params![row, txn.now.as_millis(), made],
    )?;
    let attempts = was.attempts + made;
    if let Some(attempt) = won {
        record(txn, row, attempts, attempt)?;
    }
    if !txn.options.retain_bodies {
        txn.run("DELETE FROM kept_body WHERE row = ?1", [row])?;
    }
    if let Some(at) = txn.book.place(was.webhook) {
        let counts = &mut txn.book.edit(at).counts;
        less(&mut counts.dead, 1);
        counts.delivered += 1;
    }
    Ok(attempts)
}

/// Gives a delivery up. `keep_body`: so that it can be sent again.
pub(super) fn dead(
    txn: &mut Txn<'_>,
    row: i64,
    made: i64,
    reason: &str,
    keep_body: bool,
) -> rusqlite::Result<Option<i64>> {
    let Some(was) = find(txn, row)?.filter(|was| was.state == OWED) else { return Ok(None) };
    txn.run(
        "UPDATE delivery SET state = 2, ready = 0, changed_at = ?2, attempts = attempts + ?3, tries = tries + ?3,
             reason = ?4
         WHERE row = ?1",
        params![row, txn.now.as_millis(), made, clip(reason, limits::REASON_BYTES)],
    )?;
    drop_owed_body(txn, was.webhook, row, keep_body)?;
    if let Some(at) = txn.book.place(was.webhook) {
        let counts = &mut txn.book.edit(at).counts;
        less(&mut counts.owed, 1);
        counts.dead += 1;
    }
    next_in_lane(txn, &was)?;
    if was.unordered {
        supersede::leave(txn, row, false)?;
    }
    Ok(Some(was.attempts + made))
}

/// Gives a delivery up whose payload is sealed and cannot be opened. It keeps the payload, in case that the store is mended.
pub(super) fn unreadable(txn: &mut Txn<'_>, closed: &Closed) -> rusqlite::Result<()> {
    let reason = format!("payload_unreadable: {}", closed.why);
    if dead(txn, closed.row, 0, &reason, true)?.is_some()
        && let Some((webhook, id)) = txn.one("SELECT webhook, id FROM delivery WHERE row = ?1", [closed.row], |r| {
            Ok((r.get::<_, i64>(0)?, r.get(1)?))
        })?
        && let Some(at) = txn.book.place(webhook)
    {
        txn.unreadable.push((Arc::clone(&txn.book.get(at).name), id, reason));
    }
    Ok(())
}

fn later(txn: &Txn<'_>, row: i64, made: i64, at: i64) -> rusqlite::Result<Option<i64>> {
    let Some(was) = find(txn, row)?.filter(|was| was.state == OWED) else { return Ok(None) };
    txn.run(
        "UPDATE delivery SET next_at = ?2, changed_at = ?3, attempts = attempts + ?4, tries = tries + ?4
         WHERE row = ?1",
        params![row, at, txn.now.as_millis(), made],
    )?;
    Ok(Some(was.attempts + made))
}

fn drop_owed_body(txn: &Txn<'_>, webhook: i64, row: i64, keep: bool) -> rusqlite::Result<()> {
    let key = body_key(webhook, row);
    if keep {
        txn.run("INSERT OR REPLACE INTO kept_body SELECT ?1, body FROM body WHERE key = ?2", (row, key))?;
    }
    txn.run("DELETE FROM body WHERE key = ?1", [key])?;
    Ok(())
}

/// A payload rendered anew for a delivery that has none.
#[derive(Debug, Clone)]
pub(super) struct Payload {
    pub(super) body: Bytes,
    pub(super) headers: Vec<(String, String)>,
}

/// Makes a delivery due now, by its id.
pub(super) fn retry(txn: &mut Txn<'_>, id: &str, payload: Option<&Payload>) -> rusqlite::Result<Retried> {
    let row: Option<i64> = txn.one("SELECT row FROM delivery WHERE id = ?1", [id], |r| r.get(0))?;
    match row {
        Some(row) => retry_row(txn, row, payload),
        None => Ok(Retried::Unknown),
    }
}

/// Makes a delivery due now. Its schedule starts over, its place in its conversation's order stays.
pub(super) fn retry_row(txn: &mut Txn<'_>, row: i64, payload: Option<&Payload>) -> rusqlite::Result<Retried> {
    let found =
        txn.one("SELECT webhook, state, lane, seq, idx, ready, reason FROM delivery WHERE row = ?1", [row], |r| {
            let place = (r.get::<_, Option<i64>>(2)?, r.get::<_, i64>(3)?, r.get::<_, i64>(4)?);
            let reason = txn.seal.show_text(Place::Reason(row), r.get_ref(6)?);
            Ok((r.get::<_, i64>(0)?, r.get::<_, i64>(1)?, place, r.get::<_, bool>(5)?, reason))
        })?;
    let Some((webhook, state, (lane, seq, idx), ready, reason)) = found else { return Ok(Retried::Unknown) };
    let Some(at) = txn.book.place(webhook) else { return Ok(Retried::Unknown) };
    if txn.book.get(at).halted().is_some() {
        return Ok(if state == OWED { Retried::Held } else { Retried::Halted });
    }
    let now = txn.now.as_millis();
    if state == OWED {
        txn.run("UPDATE delivery SET next_at = ?2, changed_at = ?2, tries = 0 WHERE row = ?1", (row, now))?;
        if ready {
            txn.announce(row);
        }
        return Ok(Retried::Yes);
    }
    let key = body_key(webhook, row);
    let moved = txn.run("INSERT INTO body SELECT ?1, body FROM kept_body WHERE row = ?2", (key, row))?;
    if moved > 0 {
        txn.run("DELETE FROM kept_body WHERE row = ?1", [row])?;
    } else if let Some(payload) = payload {
        let body = txn.seal.seal(Place::Payload(row), &payload.body)?;
        txn.run("INSERT INTO body VALUES (?1, ?2)", params![key, &body[..]])?;
        let headers = headers_text(&payload.headers);
        let headers = txn.seal.seal_text(Place::Headers(row), headers.as_deref())?;
        txn.run("UPDATE delivery SET headers = ?2 WHERE row = ?1", (row, headers))?;
    } else {
        return Ok(Retried::NoPayload(no_payload(state, reason.as_deref())));
    }
    let ready = match lane {
        Some(lane) => lane::enter(txn, lane, seq, idx, row)?,
        None => true,
    };
    txn.run(
        "INSERT OR REPLACE INTO attempt SELECT row, attempts, won_at, won_ms, won_status, NULL, won_response
         FROM delivery WHERE row = ?1 AND won_at IS NOT NULL",
        [row],
    )?;
    txn.run(
        "UPDATE delivery SET won_at = NULL, won_ms = NULL, won_status = NULL, won_response = NULL, state = 0, ready = ?2, next_at = ?3, changed_at = ?3, tries = 0, reason = NULL
         WHERE row = ?1",
        (row, ready, now),
    )?;
    let counts = &mut txn.book.edit(at).counts;
    less(if state == DELIVERED { &mut counts.delivered } else { &mut counts.dead }, 1);
    counts.owed += 1;
    if ready {
        txn.announce(row);
    }
    Ok(Retried::Yes)
}

fn no_payload(state: i64, reason: Option<&str>) -> String {
    if state == DELIVERED {
        return "payloads are dropped once delivered; outbox.retain.bodies: true keeps them".to_owned();
    }
    match reason {
        Some("outbox_full") => "its payload was dropped when the outbox was full".to_owned(),
        Some(reason) => format!(
            "it has no payload ({reason}) and its event was not kept; outbox.retain.events keeps events for rendering \
             again"
        ),
        None => "it has no payload".to_owned(),
    }
}
