//! Conversation state: a row with its maps, and one row per message. Changes apply only to the revision they were made
//! for.

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, params};

use super::txn::{Refusal, Txn};
use super::types::{Conversation, ConversationChange, ConversationKey};
use crate::clock::Timestamp;

/// Applies one change.
pub(super) fn change(
    txn: &mut Txn<'_>,
    key: &ConversationKey,
    change: ConversationChange,
    arrived: Timestamp,
) -> Result<(), Refusal> {
    let stored: Option<(i64, i64, i64, bool)> = txn.one(
        "SELECT row, revision, messages, ended_at IS NULL FROM conversation WHERE id = ?1 AND namespace = ?2",
        params![key.id, key.namespace],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    let revision = stored.map_or(0, |s| s.1);
    if i64::try_from(change.expected_revision) != Ok(revision) {
        return Err(Refusal::Stale);
    }
    let (row, mut messages) = if let Some((row, _, messages, _)) = stored {
        (row, messages)
    } else {
        let row = txn.book.number();
        txn.run(
            "INSERT INTO conversation VALUES (?1, 0, ?2, NULL, 0, 0, ?3, ?4, x'7b7d')",
            params![row, arrived.as_millis(), key.namespace, key.id],
        )?;
        txn.book.conversations_open += 1;
        (row, 0)
    };
    if let Some(all) = change.replace_messages {
        forget_messages(txn, row)?;
        messages = append(txn, row, 0, &all)?;
    }
    messages = append(txn, row, messages, &change.append_messages)?;
    let was_open = stored.is_none_or(|s| s.3);
    let open = change.ended.map_or(was_open, |ended| ended.is_none());
    txn.book.conversations_open += i64::from(open) - i64::from(was_open);
    txn.run(
        "UPDATE conversation SET revision = revision + 1, events = events + 1, messages = ?2,
             maps = coalesce(?3, maps), ended_at = CASE WHEN ?4 THEN ?5 ELSE ended_at END
         WHERE row = ?1",
        params![
            row,
            messages,
            change.maps.as_deref(),
            change.ended.is_some(),
            change.ended.flatten().map(Timestamp::as_millis)
        ],
    )?;
    Ok(())
}

/// Where message number `n` of a conversation is.
fn message_key(conversation: i64, n: i64) -> i64 {
    (conversation << 24) | n
}

/// Removes all messages of a conversation.
pub(super) fn forget_messages(txn: &Txn<'_>, conversation: i64) -> rusqlite::Result<usize> {
    txn.run(
        "DELETE FROM message WHERE key BETWEEN ?1 AND ?2",
        [message_key(conversation, 0), message_key(conversation + 1, 0) - 1],
    )
}

fn append(txn: &Txn<'_>, conversation: i64, from: i64, messages: &[Bytes]) -> rusqlite::Result<i64> {
    let mut at = from;
    for message in messages {
        txn.run("INSERT INTO message VALUES (?1, ?2)", params![message_key(conversation, at), &message[..]])?;
        at += 1;
    }
    Ok(at)
}

/// Reads one, its messages only `with_messages`.
pub(super) fn read(
    conn: &Connection,
    key: &ConversationKey,
    with_messages: bool,
) -> rusqlite::Result<Option<Conversation>> {
    let found = conn
        .prepare_cached(
            "SELECT row, revision, opened_at, ended_at, events, messages, maps FROM conversation
             WHERE id = ?1 AND namespace = ?2",
        )?
        .query_row(params![key.id, key.namespace], |row| {
            let count = |at: usize| row.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
            let messages = usize::try_from(row.get::<_, i64>(5)?).unwrap_or(0);
            Ok((
                row.get::<_, i64>(0)?,
                messages,
                Conversation {
                    revision: count(1)?,
                    maps: Bytes::from(row.get::<_, Vec<u8>>(6)?),
                    messages: Vec::with_capacity(messages),
                    opened_at: Timestamp::from_millis(row.get(2)?),
                    ended_at: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_millis),
                    events: count(4)?,
                },
            ))
        })
        .optional()?;
    let Some((row, messages, mut conversation)) = found else { return Ok(None) };
    if messages > 0 && with_messages {
        let mut all = conn.prepare_cached("SELECT body FROM message WHERE key BETWEEN ?1 AND ?2 ORDER BY key")?;
        let mut rows = all.query([message_key(row, 0), message_key(row + 1, 0) - 1])?;
        while let Some(message) = rows.next()? {
            conversation.messages.push(Bytes::copy_from_slice(message.get_ref(0)?.as_blob()?));
        }
    }
    Ok(Some(conversation))
}
