//! A begin is stale once the end of its conversation has been delivered to the same webhook. That can only happen where
//! the webhook asks for no order; there it is given up instead of being sent late. Knows only begins and ends.

use super::settle;
use super::txn::Txn;

const REASON: &str = "superseded";

/// Whether an event's deliveries are remembered here.
fn edge(event_type: &str) -> Option<bool> {
    match event_type {
        "conversation.begin" => Some(true),
        "conversation.completed" | "conversation.failed" => Some(false),
        _ => None,
    }
}

/// Remembers an owed delivery without order; `key` is its webhook's and conversation's.
pub(super) fn enter(txn: &Txn<'_>, row: i64, event_type: &str, key: i64) -> rusqlite::Result<()> {
    if let Some(begins) = edge(event_type) {
        txn.run("INSERT INTO unordered VALUES (?1, ?2, ?3)", (row, key, begins))?;
    }
    Ok(())
}

/// Forgets a delivery without order that is settled; an end that was delivered gives up the begins before it.
pub(super) fn leave(txn: &mut Txn<'_>, row: i64, delivered: bool) -> rusqlite::Result<()> {
    let left: Option<(i64, bool)> =
        txn.one("DELETE FROM unordered WHERE row = ?1 RETURNING key, begins", [row], |r| Ok((r.get(0)?, r.get(1)?)))?;
    let Some((key, false)) = left.filter(|_| delivered) else { return Ok(()) };
    let stale: Vec<i64> = {
        let mut begins =
            txn.conn.prepare_cached("SELECT row FROM unordered WHERE key = ?1 AND begins = 1 AND row < ?2")?;
        begins.query_map((key, row), |r| r.get(0))?.collect::<Result<_, _>>()?
    };
    for begin in stale {
        if let Some(webhook) = txn.one("SELECT webhook FROM delivery WHERE row = ?1", [begin], |r| r.get(0))?
            && settle::dead(txn, begin, 0, REASON, true)?.is_some()
            && let Some(at) = txn.book.place(webhook)
        {
            let name = std::sync::Arc::clone(&txn.book.get(at).name);
            txn.superseded.push(name);
        }
    }
    Ok(())
}
