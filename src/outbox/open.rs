//! Conversations that are open, found by their age or by the stream that they come by, a page at a time. Changes nothing.

use std::sync::Arc;

use rusqlite::{Connection, Row, params};

use super::conversation::origin;
use super::types::ConversationKey;
use super::views::{OpenConversation, OpenPage};
use crate::clock::Timestamp;

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
pub(super) fn by_age(conn: &Connection, after: Option<(i64, i64)>, limit: usize) -> rusqlite::Result<OpenPage> {
    let sql = format!(
        "SELECT {COLUMNS} FROM conversation INDEXED BY conversation_open
         WHERE ended_at IS NULL AND (opened_at, row) > (?1, ?2) ORDER BY opened_at, row"
    );
    let (at, row) = after.unwrap_or((i64::MIN, i64::MIN));
    page(&mut conn.prepare_cached(&sql)?.query(params![at, row])?, 1, limit)
}

/// Those of streams within `from..below`, by stream, behind a place.
pub(super) fn by_stream(
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

/// The greatest stream of an open conversation.
pub(super) fn last_stream(conn: &Connection) -> rusqlite::Result<Option<i64>> {
    conn.prepare_cached("SELECT max(stream) FROM conversation WHERE stream IS NOT NULL AND ended_at IS NULL")?
        .query_row([], |row| row.get(0))
}
