//! Conversations, a page at a time: those that are open by their age or by the stream that they come by, and all for people
//! to look at. Changes nothing.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use rusqlite::{Connection, Row, params};

use super::conversation::origin;
use super::seal::{Place, Seal};
use super::types::{AnalysisDue, ConversationKey};
use super::views::{ConversationView, ConversationsPage, OpenConversation, OpenPage};
use super::{Outbox, OutboxError, read};
use crate::clock::Timestamp;
use crate::event::Json;
use crate::limits;

#[expect(clippy::unused_async, reason = "the seam is async for stores that answer over a network; see `read`")]
impl Outbox {
    /// Lists conversations whose state is stored, those first that were opened last; `open`: only those that are, or only
    /// those that are not. A page may hold fewer than `limit` although more follow: go on while there is a cursor.
    pub async fn conversations(
        &self,
        open: Option<bool>,
        cursor: Option<&str>,
        limit: usize,
    ) -> Result<ConversationsPage, OutboxError> {
        let before = match cursor {
            Some(text) => Some(read_cursor(text).ok_or(OutboxError::BadCursor)?),
            None => None,
        };
        self.look_at_length(move |conn, seal, _| list(conn, seal, open, before, limit)).await
    }

    /// Conversations that are open, those first that have been so longest, behind a place; at most `limit`.
    pub async fn open_conversations(&self, after: Option<(i64, i64)>, limit: usize) -> Result<OpenPage, OutboxError> {
        self.inner.readers.glance(|conn| by_age(conn, after, limit))
    }

    /// Open conversations of the streams within `streams`, by stream, behind a place; at most `limit`.
    pub async fn open_conversations_of(
        &self,
        streams: Range<i64>,
        after: Option<(i64, i64)>,
        limit: usize,
    ) -> Result<OpenPage, OutboxError> {
        self.inner.readers.glance(|conn| by_stream(conn, streams.start, streams.end, after, limit))
    }

    /// The greatest stream that an open conversation came by.
    pub async fn last_stream(&self) -> Result<Option<i64>, OutboxError> {
        self.inner.readers.glance(last_stream)
    }

    /// Events whose analyses are due, oldest first, behind the event `after` (0 for the first); at most `limit` and some
    /// 8 MiB of them.
    pub async fn analyses_due(&self, after: i64, limit: usize) -> Result<Vec<AnalysisDue>, OutboxError> {
        self.inner.readers.glance(|conn| read::analyses_due(conn, &self.inner.shared.seal, after, limit))
    }
}

const COLUMNS: &str = "row, opened_at, heard_at, source, stream, namespace, id";

fn open(row: &Row<'_>) -> rusqlite::Result<OpenConversation> {
    let (namespace, id): (Arc<str>, Arc<str>) = (row.get(5)?, row.get(6)?);
    Ok(OpenConversation {
        key: ConversationKey { namespace, id },
        heard_at: row.get::<_, Option<i64>>(2)?.map(Timestamp::from_millis),
        origin: origin(row, 3)?,
    })
}

/// Rows of a statement that is ordered by column `by` and then by row; the place of the last is where the next page begins.
fn page(rows: &mut rusqlite::Rows<'_>, by: usize, limit: usize) -> rusqlite::Result<OpenPage> {
    let mut page = OpenPage::default();
    let mut last = None;
    while let Some(row) = rows.next()? {
        if page.items.len() == limit {
            page.next = last;
            break;
        }
        last = Some((row.get::<_, Option<i64>>(by)?.unwrap_or(0), row.get(0)?));
        page.items.push(open(row)?);
    }
    Ok(page)
}

/// All of them, those first that have been open longest, behind a place.
fn by_age(conn: &Connection, after: Option<(i64, i64)>, limit: usize) -> rusqlite::Result<OpenPage> {
    let sql = format!(
        "SELECT {COLUMNS} FROM conversation INDEXED BY conversation_open
         WHERE ended_at IS NULL AND (opened_at, row) > (?1, ?2) ORDER BY opened_at, row"
    );
    let (at, row) = after.unwrap_or((i64::MIN, i64::MIN));
    page(&mut conn.prepare_cached(&sql)?.query(params![at, row])?, 1, limit)
}

/// Those of streams within `from..below`, by stream, behind a place.
fn by_stream(
    conn: &Connection,
    from: i64,
    below: i64,
    after: Option<(i64, i64)>,
    limit: usize,
) -> rusqlite::Result<OpenPage> {
    let sql = format!(
        "SELECT {COLUMNS} FROM conversation INDEXED BY conversation_stream
         WHERE stream IS NOT NULL AND ended_at IS NULL AND stream < ?1 AND (stream, row) > (?2, ?3)
         ORDER BY stream, row"
    );
    let (stream, row) = after.unwrap_or((from.saturating_sub(1), i64::MAX));
    page(&mut conn.prepare_cached(&sql)?.query(params![below, stream, row])?, 4, limit)
}

/// Reads a cursor; `None` when nobody here wrote it.
fn read_cursor(text: &str) -> Option<i64> {
    let hex = text.strip_prefix('c')?;
    i64::from_str_radix(hex, 16).ok().filter(|row| *row > 0 && write_cursor(*row) == text)
}

fn write_cursor(row: i64) -> String {
    format!("c{row:x}")
}

/// Conversations before a row, those first that were opened last; `open`: only those that are, or only those that are not.
fn list(
    conn: &Connection,
    seal: &Seal,
    open: Option<bool>,
    before: Option<i64>,
    limit: usize,
) -> rusqlite::Result<ConversationsPage> {
    let mut all = conn.prepare_cached(
        "SELECT row, opened_at, ended_at, events, said, id, maps FROM conversation WHERE row < ?1 ORDER BY row DESC",
    )?;
    let mut rows = all.query([before.unwrap_or(i64::MAX)])?;
    let mut page = ConversationsPage::default();
    let (mut looked, mut last) = (0, 0);
    while let Some(row) = rows.next()? {
        if page.items.len() == limit || looked == limits::LIST_SCAN_ROWS {
            page.next_cursor = Some(write_cursor(last));
            break;
        }
        looked += 1;
        last = row.get(0)?;
        let ended_at: Option<i64> = row.get(2)?;
        if open.is_some_and(|open| open != ended_at.is_none()) {
            continue;
        }
        let count = |at: usize| row.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
        // What cannot be opened is told when the conversation is worked on.
        let maps = seal.open(Place::Maps(last), row.get_ref(6)?.as_blob()?).ok();
        page.items.push(ConversationView {
            id: row.get(5)?,
            assistant: maps.and_then(assistant),
            state: if ended_at.is_none() { "open" } else { "ended" },
            events: count(3)?,
            messages: count(4)?,
            opened_at: Timestamp::from_millis(row.get(1)?),
            ended_at: ended_at.map(Timestamp::from_millis),
        });
    }
    Ok(page)
}

/// The assistant's id in a conversation's maps.
fn assistant(maps: Bytes) -> Option<String> {
    let id = Json::parse(maps).ok()?.get("assistant")?.get("id")?;
    id.as_id().map(Cow::into_owned)
}

/// The greatest stream of an open conversation.
fn last_stream(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT max(stream) FROM conversation WHERE stream IS NOT NULL AND ended_at IS NULL")?
        .query_row([], |row| row.get(0))
}
