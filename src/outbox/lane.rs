//! Order within a lane: only the first unsettled entry of a lane may be ready. An entry is a delivery, or the place that a
//! waiting event keeps.

use super::txn::Txn;

/// Stands for a waiting event where a delivery's row would be.
pub(super) const WAITS: i64 = 0;

type Entry = (i64, i64, i64);

/// The first entry: its place and its delivery.
fn first(txn: &Txn<'_>, lane: i64) -> rusqlite::Result<Option<Entry>> {
    txn.one("SELECT seq, idx, delivery FROM lane WHERE lane = ?1 ORDER BY seq, idx LIMIT 1", [lane], |row| {
        Ok((row.get(0)?, row.get(1)?, row.get(2)?))
    })
}

/// Puts an entry into its place and answers whether it is the first. One that it comes before is not ready any more.
pub(super) fn enter(txn: &Txn<'_>, lane: i64, seq: i64, idx: i64, delivery: i64) -> rusqlite::Result<bool> {
    let before = first(txn, lane)?;
    txn.run("INSERT INTO lane VALUES (?1, ?2, ?3, ?4)", (lane, seq, idx, delivery))?;
    match before {
        None => Ok(true),
        Some((s, i, _)) if (s, i) < (seq, idx) => Ok(false),
        Some((_, _, overtaken)) => {
            if overtaken != WAITS {
                txn.run("UPDATE delivery SET ready = 0 WHERE row = ?1 AND ready = 1", [overtaken])?;
            }
            Ok(true)
        }
    }
}

/// Takes an entry out.
pub(super) fn leave(txn: &Txn<'_>, lane: i64, seq: i64, idx: i64) -> rusqlite::Result<()> {
    txn.run("DELETE FROM lane WHERE lane = ?1 AND seq = ?2 AND idx = ?3", (lane, seq, idx))?;
    Ok(())
}

/// Makes the first entry ready, if it is a delivery and not ready yet.
pub(super) fn promote(txn: &mut Txn<'_>, lane: i64) -> rusqlite::Result<()> {
    if let Some((_, _, delivery)) = first(txn, lane)?
        && delivery != WAITS
        && txn.run("UPDATE delivery SET ready = 1 WHERE row = ?1 AND ready = 0", [delivery])? > 0
    {
        txn.announce(delivery);
    }
    Ok(())
}
