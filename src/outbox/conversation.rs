//! Conversation state: a row with its maps, and one row per message. Changes apply only to the revision they were made
//! for.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, OptionalExtension, Row, params};

use super::seal::{Place, Seal, Unreadable};
use super::txn::{Refusal, Txn};
use super::types::{Conversation, ConversationChange, ConversationKey, Origin};
use crate::clock::Timestamp;
use crate::telemetry::outbox as facts;

/// Applies one change.
pub(super) fn change(
    txn: &mut Txn<'_>,
    key: &ConversationKey,
    change: &ConversationChange,
    arrived: Timestamp,
) -> Result<(), Refusal> {
    if change.expected_revision == 0 {
        return open(txn, key, change, arrived);
    }
    let stored: Option<(i64, i64, i64, bool)> = txn.one(
        "SELECT row, revision, messages, ended_at IS NULL FROM conversation WHERE id = ?1 AND namespace = ?2",
        params![key.id, key.namespace],
        |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?)),
    )?;
    let Some((row, revision, mut messages, was_open)) = stored else { return Err(Refusal::Stale) };
    if i64::try_from(change.expected_revision) != Ok(revision) {
        return Err(Refusal::Stale);
    }
    if let Some(all) = &change.replace_messages {
        forget_messages(txn, row)?;
        messages = append(txn, row, 0, all)?;
    }
    messages = append(txn, row, messages, &change.append_messages)?;
    let maps = change.maps.as_deref().map(|maps| txn.seal.seal(Place::Maps(row), maps)).transpose()?;
    let is_open = change.ended.map_or(was_open, |ended| ended.is_none());
    txn.book.conversations_open += i64::from(is_open) - i64::from(was_open);
    let origin = change.heard.as_ref().and_then(|heard| heard.origin.as_ref());
    txn.run(
        "UPDATE conversation SET revision = revision + 1, events = events + ?6, messages = ?2, said = ?11,
             maps = coalesce(?3, maps), ended_at = CASE WHEN ?4 THEN ?5 ELSE ended_at END,
             heard_at = CASE WHEN ?7 OR (?6 AND heard_at IS NOT NULL) THEN ?8 ELSE heard_at END,
             source = coalesce(?9, source), stream = CASE WHEN ?9 IS NULL THEN stream ELSE ?10 END
         WHERE row = ?1",
        params![
            row,
            messages,
            maps.as_deref(),
            change.ended.is_some(),
            change.ended.flatten().map(Timestamp::as_millis),
            change.heard.is_some(),
            change.heard.as_ref().is_some_and(|heard| heard.lives),
            arrived.as_millis(),
            origin.map(|origin| &*origin.source),
            origin.and_then(|origin| origin.stream),
            i64::try_from(change.messages).unwrap_or(i64::MAX),
        ],
    )?;
    Ok(())
}

/// The first change of a conversation: one row written once, which most conversations are that arrive as a whole.
fn open(
    txn: &mut Txn<'_>,
    key: &ConversationKey,
    change: &ConversationChange,
    arrived: Timestamp,
) -> Result<(), Refusal> {
    let row = txn.book.number();
    let all = change.replace_messages.iter().flatten().chain(&change.append_messages);
    let ended = change.ended.flatten();
    let maps = txn.seal.seal(Place::Maps(row), change.maps.as_deref().unwrap_or(b"{}"))?;
    let lives = change.heard.as_ref().is_some_and(|heard| heard.lives);
    let origin = change.heard.as_ref().and_then(|heard| heard.origin.as_ref());
    let entered = txn.run(
        "INSERT INTO conversation VALUES (?1, 1, ?2, ?3, 1, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
         ON CONFLICT (id, namespace) DO NOTHING",
        params![
            row,
            arrived.as_millis(),
            ended.map(Timestamp::as_millis),
            i64::try_from(all.clone().count()).unwrap_or(i64::MAX),
            i64::try_from(change.messages).unwrap_or(i64::MAX),
            lives.then_some(arrived.as_millis()),
            origin.and_then(|origin| origin.stream),
            origin.map(|origin| &*origin.source),
            key.namespace,
            key.id,
            &maps[..],
        ],
    )?;
    if entered == 0 {
        return Err(Refusal::Stale);
    }
    txn.book.conversations_open += i64::from(ended.is_none());
    append(txn, row, 0, all)?;
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

fn append<'a>(
    txn: &Txn<'_>,
    conversation: i64,
    from: i64,
    messages: impl IntoIterator<Item = &'a Bytes>,
) -> rusqlite::Result<i64> {
    let mut at = from;
    for message in messages {
        let key = message_key(conversation, at);
        let message = txn.seal.seal(Place::Message(key), message)?;
        txn.run("INSERT INTO message VALUES (?1, ?2)", params![key, &message[..]])?;
        at += 1;
    }
    Ok(at)
}

fn opened(seal: &Seal, place: Place, stored: &[u8]) -> Option<Bytes> {
    let tell = |why: &Unreadable| {
        facts::Unreadable { what: "a part of a conversation's state", id: None, why: &why.to_string() }.emit();
    };
    seal.open(place, stored).inspect_err(tell).ok()
}

/// Source and stream from two columns.
pub(super) fn origin(row: &Row<'_>, at: usize) -> rusqlite::Result<Option<Origin>> {
    let stream = row.get(at + 1)?;
    Ok(row.get::<_, Option<Arc<str>>>(at)?.map(|source| Origin { source, stream }))
}

/// Reads one, its messages only `with_messages`. What cannot be opened is left out: the conversation goes on without it.
pub(super) fn read(
    conn: &Connection,
    seal: &Seal,
    key: &ConversationKey,
    with_messages: bool,
) -> rusqlite::Result<Option<Conversation>> {
    let found = conn
        .prepare_cached(
            "SELECT row, revision, opened_at, ended_at, events, messages, maps, heard_at, source, stream
             FROM conversation WHERE id = ?1 AND namespace = ?2",
        )?
        .query_row(params![key.id, key.namespace], |row| {
            let count = |at: usize| row.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
            let messages = usize::try_from(row.get::<_, i64>(5)?).unwrap_or(0);
            let number: i64 = row.get(0)?;
            let maps = opened(seal, Place::Maps(number), row.get_ref(6)?.as_blob()?);
            Ok((
                number,
                messages,
                Conversation {
                    revision: count(1)?,
                    maps: maps.unwrap_or_else(|| Bytes::from_static(b"{}")),
                    messages: Vec::with_capacity(messages),
                    opened_at: Timestamp::from_millis(row.get(2)?),
                    ended_at: row.get::<_, Option<i64>>(3)?.map(Timestamp::from_millis),
                    events: count(4)?,
                    heard_at: row.get::<_, Option<i64>>(7)?.map(Timestamp::from_millis),
                    origin: origin(row, 8)?,
                },
            ))
        })
        .optional()?;
    let Some((row, messages, mut conversation)) = found else { return Ok(None) };
    if messages > 0 && with_messages {
        let mut all = conn.prepare_cached("SELECT key, body FROM message WHERE key BETWEEN ?1 AND ?2 ORDER BY key")?;
        let mut rows = all.query([message_key(row, 0), message_key(row + 1, 0) - 1])?;
        while let Some(message) = rows.next()? {
            let place = Place::Message(message.get(0)?);
            conversation.messages.extend(opened(seal, place, message.get_ref(1)?.as_blob()?));
        }
    }
    Ok(Some(conversation))
}
