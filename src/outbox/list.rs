//! Lists for people: newest first, filtered, in pages. A page looks at a bounded number of rows; where that is not
//! enough it hands back what it found with a cursor to go on from.

use rusqlite::{Connection, OptionalExtension, Row};

use super::ledger::Book;
use super::seal::{Place, Seal};
use super::txn::{DEAD, DELIVERED, OWED, body_key};
use super::types::Attempt;
use super::views::{DeliveryView, Filter, Page, State};
use crate::clock::Timestamp;
use crate::limits;

/// Slack for clocks that were set back: rows are in the order of creation but for that.
const CLOCK_SLACK_MS: i64 = 60 * 60 * 1000;

/// A filter with its webhook looked up.
pub(super) struct Wanted<'a> {
    filter: &'a Filter,
    webhook: Option<i64>,
    nothing: bool,
}

/// The columns that [`Wanted::matches`] reads.
pub(super) const FACTS: &str = "delivery.row, delivery.webhook, delivery.state, delivery.created_at,
                                delivery.event_type, delivery.conversation";

impl<'a> Wanted<'a> {
    pub(super) fn new(filter: &'a Filter, book: &Book) -> Self {
        let webhook = filter.webhook.as_deref().map(|name| book.find(name).map(|at| book.get(at).id));
        Self { filter, webhook: webhook.flatten(), nothing: webhook == Some(None) }
    }

    /// Whether a row with the columns of [`FACTS`] is wanted, but for its state.
    pub(super) fn matches(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        let f = self.filter;
        let created = Timestamp::from_millis(row.get(3)?);
        Ok(!self.nothing
            && self.webhook.is_none_or(|id| row.get(1) == Ok(id))
            && f.since.is_none_or(|since| created >= since)
            && f.until.is_none_or(|until| created < until)
            && match &f.event {
                Some(event) => row.get_ref(4)?.as_str()? == event,
                None => true,
            }
            && match &f.conversation {
                Some(conversation) => row.get_ref(5)?.as_str_or_null()? == Some(conversation),
                None => true,
            })
    }

    fn too_old(&self, row: &Row<'_>) -> rusqlite::Result<bool> {
        Ok(match self.filter.since {
            Some(since) => row.get::<_, i64>(3)? < since.as_millis() - CLOCK_SLACK_MS,
            None => false,
        })
    }
}

/// Reads a cursor; `None` when nobody here wrote it.
pub(super) fn read_cursor(text: &str) -> Option<i64> {
    let hex = text.strip_prefix('d')?;
    i64::from_str_radix(hex, 16).ok().filter(|row| *row > 0 && write_cursor(*row) == text)
}

fn write_cursor(row: i64) -> String {
    format!("d{row:x}")
}

/// Rows found by one scan, and the row it stopped at before its end.
struct Scanned {
    rows: Vec<i64>,
    stopped: Option<i64>,
}

/// One page of rows before `before`.
pub(super) fn page(
    conn: &Connection,
    seal: &Seal,
    book: &Book,
    filter: &Filter,
    before: Option<i64>,
    limit: usize,
) -> rusqlite::Result<Page> {
    let wanted = Wanted::new(filter, book);
    let before = before.unwrap_or(i64::MAX);
    if wanted.nothing || limit == 0 {
        return Ok(Page { items: Vec::new(), next_cursor: None });
    }
    let by_row = |clause: &str, state: Option<i64>| {
        let sql = format!("SELECT {FACTS} FROM delivery {clause} delivery.row < ?1 ORDER BY delivery.row DESC");
        scan(conn, &sql, [before], &wanted, state, limit)
    };
    let scanned = match filter.state {
        None => by_row("WHERE", None)?,
        Some(State::Delivered) => by_row("WHERE", Some(DELIVERED))?,
        Some(State::Dead) => by_row("INDEXED BY delivery_dead WHERE state = 2 AND", Some(DEAD))?,
        Some(state) => owed(conn, book, &wanted, state == State::Held, before, limit)?,
    };
    let mut items = Vec::with_capacity(scanned.rows.len());
    let mut bytes = 0;
    let mut cut = None;
    for row in scanned.rows {
        if bytes >= limits::LIST_BYTES {
            // Too much text for one page: the next begins here.
            cut = Some(row + 1);
            break;
        }
        if let Some(view) = view(conn, seal, book, row)? {
            bytes += view.attempts.iter().map(|a| a.response.as_ref().map_or(0, String::len)).sum::<usize>();
            items.push(view);
        }
    }
    Ok(Page { items, next_cursor: cut.or(scanned.stopped).map(write_cursor) })
}

fn scan(
    conn: &Connection,
    sql: &str,
    params: impl rusqlite::Params,
    wanted: &Wanted<'_>,
    state: Option<i64>,
    limit: usize,
) -> rusqlite::Result<Scanned> {
    let mut statement = conn.prepare_cached(sql)?;
    let mut rows = statement.query(params)?;
    let mut found = Scanned { rows: Vec::new(), stopped: None };
    let mut looked = 0;
    let mut last = i64::MAX;
    while let Some(row) = rows.next()? {
        if looked == limits::LIST_SCAN_ROWS || found.rows.len() == limit {
            found.stopped = Some(last);
            break;
        }
        if wanted.too_old(row)? {
            break;
        }
        looked += 1;
        last = row.get(0)?;
        if state.is_none_or(|s| row.get(2) == Ok(s)) && wanted.matches(row)? {
            found.rows.push(last);
        }
    }
    Ok(found)
}

/// Owed deliveries lie by webhook: each one's newest, then the newest of all. What one webhook's scan did not reach no
/// page may step over.
fn owed(
    conn: &Connection,
    book: &Book,
    wanted: &Wanted<'_>,
    held: bool,
    before: i64,
    limit: usize,
) -> rusqlite::Result<Scanned> {
    let sql = format!(
        "SELECT {FACTS} FROM body JOIN delivery ON delivery.row = body.key - ?1
         WHERE body.key >= ?1 AND body.key < ?2 ORDER BY body.key DESC"
    );
    let mut all = Scanned { rows: Vec::new(), stopped: None };
    for webhook in book.webhooks() {
        if webhook.halted().is_some() != held || wanted.webhook.is_some_and(|id| id != webhook.id) {
            continue;
        }
        let (from, end) = (body_key(webhook.id, 0), body_key(webhook.id + 1, 0));
        let to = from.checked_add(before).map_or(end, |to| to.min(end));
        let mut found = scan(conn, &sql, (from, to), wanted, Some(OWED), limit)?;
        all.rows.append(&mut found.rows);
        all.stopped = all.stopped.max(found.stopped);
    }
    all.rows.sort_unstable_by(|a, b| b.cmp(a));
    if let Some(floor) = all.stopped {
        all.rows.retain(|row| *row >= floor);
    }
    if all.rows.len() > limit {
        all.rows.truncate(limit);
        all.stopped = all.rows.last().copied();
    }
    Ok(all)
}

/// One delivery by its id.
pub(super) fn by_id(conn: &Connection, seal: &Seal, book: &Book, id: &str) -> rusqlite::Result<Option<DeliveryView>> {
    let row =
        conn.prepare_cached("SELECT row FROM delivery WHERE id = ?1")?.query_row([id], |row| row.get(0)).optional()?;
    row.map_or(Ok(None), |row| view(conn, seal, book, row))
}

fn view(conn: &Connection, seal: &Seal, book: &Book, row: i64) -> rusqlite::Result<Option<DeliveryView>> {
    let found = conn
        .prepare_cached(
            "SELECT id, event_id, event_type, conversation, webhook, state, reason, created_at, next_at,
                    won_at, won_status, won_ms, won_response
             FROM delivery WHERE row = ?1",
        )?
        .query_row([row], |r| {
            let webhook = book.place(r.get(4)?).map(|at| book.get(at));
            let halted = webhook.and_then(super::ledger::Webhook::halted);
            let (state, reason) = match (r.get::<_, i64>(5)?, halted) {
                (DELIVERED, _) => (State::Delivered, None),
                (DEAD, _) => (State::Dead, seal.show_text(Place::Reason(row), r.get_ref(6)?)),
                (_, Some(reason)) => (State::Held, Some(reason.to_owned())),
                (_, None) => (State::Pending, None),
            };
            let next = Timestamp::from_millis(r.get(8)?);
            let won = match r.get(9)? {
                Some(at) => Some(Attempt {
                    at: Timestamp::from_millis(at),
                    status: r.get(10)?,
                    error: None,
                    duration_ms: u64::try_from(r.get::<_, i64>(11)?).unwrap_or(0),
                    response: seal.show_text(Place::Response(row), r.get_ref(12)?),
                }),
                None => None,
            };
            let view = DeliveryView {
                id: r.get(0)?,
                event_id: r.get(1)?,
                event: r.get(2)?,
                conversation: r.get(3)?,
                webhook: webhook.map_or_else(String::new, |w| w.name.to_string()),
                state,
                reason,
                created_at: Timestamp::from_millis(r.get(7)?),
                next_attempt_at: (state == State::Pending).then_some(next),
                attempts: Vec::new(),
            };
            Ok((view, won))
        })
        .optional()?;
    let Some((mut view, won)) = found else { return Ok(None) };
    let mut attempts = conn.prepare_cached(
        "SELECT at, status, error, duration_ms, response FROM attempt WHERE delivery = ?1 ORDER BY n",
    )?;
    let read = |r: &Row<'_>| {
        Ok(Attempt {
            at: Timestamp::from_millis(r.get(0)?),
            status: r.get(1)?,
            error: r.get(2)?,
            duration_ms: u64::try_from(r.get::<_, i64>(3)?).unwrap_or(0),
            response: seal.show_text(Place::Response(row), r.get_ref(4)?),
        })
    };
    view.attempts = attempts.query_map([row], read)?.collect::<Result<_, _>>()?;
    view.attempts.extend(won);
    Ok(Some(view))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back_and_nothing_else_is() {
        for row in [1, 255, i64::MAX] {
            assert_eq!(read_cursor(&write_cursor(row)), Some(row));
        }
        for bad in ["", "d", "d0", "d-1", "d+1", "dF", "x12", "12", "d1 ", "d8000000000000000", "d01"] {
            assert_eq!(read_cursor(bad), None, "{bad:?}");
        }
    }
}
