//! The book: one entry per webhook with its standing and its counts, kept in memory by the writer and as rows in the
//! store, changed in the same transaction as what it counts. Counts nothing by looking at rows.

use std::collections::HashMap;
use std::sync::Arc;

use rusqlite::{Connection, params};

use super::types::Standing;
use super::views::{Ledger, LedgerRow, WebhookView};

/// The counts of one webhook. `owed` is pending or held, whichever the webhook's standing says.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Counts {
    pub(super) matched: u64,
    pub(super) filtered: u64,
    pub(super) rendered: u64,
    pub(super) rule_failed: u64,
    pub(super) waiting: u64,
    pub(super) created: u64,
    pub(super) owed: u64,
    pub(super) delivered: u64,
    pub(super) dead: u64,
    pub(super) purged: u64,
}

/// One webhook as the store knows it.
#[derive(Debug, Clone)]
pub(super) struct Webhook {
    pub(super) id: i64,
    pub(super) name: Arc<str>,
    /// Whether the generation in force has it.
    pub(super) known: bool,
    pub(super) enabled: bool,
    pub(super) file_hash: Arc<str>,
    pub(super) standing: Standing,
    pub(super) counts: Counts,
}

impl Webhook {
    /// Whether events are rendered for it: what is paused or disabled by a 410 is, and held.
    pub(super) fn in_force(&self) -> bool {
        self.known && self.enabled
    }

    /// Why nothing is sent to it, if that is so: the reason of its held deliveries.
    pub(super) fn halted(&self) -> Option<&'static str> {
        if !self.known {
            Some("removed")
        } else if !self.enabled {
            Some("not_enabled")
        } else {
            match self.standing {
                Standing::Active => None,
                Standing::Paused => Some("paused"),
                Standing::Disabled { .. } => Some("disabled"),
            }
        }
    }

    fn row(&self) -> LedgerRow {
        let c = self.counts;
        let (pending, held) = if self.halted().is_some() { (0, c.owed) } else { (c.owed, 0) };
        LedgerRow {
            webhook: self.name.to_string(),
            matched: c.matched,
            filtered: c.filtered,
            rendered: c.rendered,
            rule_failed: c.rule_failed,
            waiting: c.waiting,
            created: c.created,
            delivered: c.delivered,
            pending,
            held,
            dead: c.dead,
            purged: c.purged,
        }
    }
}

/// All webhooks and the store's other running figures.
#[derive(Debug, Clone, Default)]
pub(super) struct Book {
    /// The next number for an event, a delivery or a wait.
    pub(super) next: i64,
    pub(super) conversations_open: i64,
    webhooks: Vec<Webhook>,
    by_name: HashMap<Arc<str>, usize>,
    dirty: Vec<usize>,
    /// What was before the batch in hand, where somebody may want it back.
    undo: Option<Vec<(usize, Webhook)>>,
}

/// Where the book stood before a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    webhooks: usize,
    conversations_open: i64,
}

impl Book {
    /// Reads it from the store.
    pub(super) fn load(conn: &Connection) -> rusqlite::Result<Self> {
        let mut book = Self::default();
        (book.next, book.conversations_open) =
            conn.query_row("SELECT next, conversations_open FROM meta", [], |row| Ok((row.get(0)?, row.get(1)?)))?;
        let mut all = conn.prepare(
            "SELECT id, name, known, enabled, file_hash, standing, standing_reason, standing_hash, matched,
                    filtered, rendered, rule_failed, waiting, created, owed, delivered, dead, purged
             FROM webhook ORDER BY id",
        )?;
        let mut rows = all.query([])?;
        while let Some(row) = rows.next()? {
            let standing = match row.get_ref(5)?.as_str()? {
                "paused" => Standing::Paused,
                "disabled" => Standing::Disabled {
                    reason: row.get::<_, Option<String>>(6)?.unwrap_or_default(),
                    file_hash: row.get::<_, Option<String>>(7)?.unwrap_or_default(),
                },
                _ => Standing::Active,
            };
            let count = |at: usize| row.get::<_, i64>(at).map(|n| u64::try_from(n).unwrap_or(0));
            book.push(Webhook {
                id: row.get(0)?,
                name: row.get(1)?,
                known: row.get(2)?,
                enabled: row.get(3)?,
                file_hash: row.get(4)?,
                standing,
                counts: Counts {
                    matched: count(8)?,
                    filtered: count(9)?,
                    rendered: count(10)?,
                    rule_failed: count(11)?,
                    waiting: count(12)?,
                    created: count(13)?,
                    owed: count(14)?,
                    delivered: count(15)?,
                    dead: count(16)?,
                    purged: count(17)?,
                },
            });
        }
        Ok(book)
    }

    fn push(&mut self, webhook: Webhook) -> usize {
        let at = self.webhooks.len();
        self.by_name.insert(Arc::clone(&webhook.name), at);
        self.webhooks.push(webhook);
        at
    }

    /// The place of a webhook, entered now when it is new.
    pub(super) fn enter(&mut self, name: &Arc<str>) -> usize {
        if let Some(at) = self.by_name.get(name) {
            return *at;
        }
        let id = self.webhooks.last().map_or(1, |w| w.id + 1);
        let at = self.push(Webhook {
            id,
            name: Arc::clone(name),
            known: true,
            enabled: true,
            file_hash: Arc::from(""),
            standing: Standing::Active,
            counts: Counts::default(),
        });
        self.dirty.push(at);
        at
    }

    /// The place of a webhook that is there.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    /// The place of a webhook by its number in the store. Numbers are given out densely, so this is a look.
    pub(super) fn place(&self, id: i64) -> Option<usize> {
        let guess = usize::try_from(id - 1).ok()?;
        match self.webhooks.get(guess) {
            Some(w) if w.id == id => Some(guess),
            _ => self.webhooks.iter().position(|w| w.id == id),
        }
    }

    /// All webhooks.
    pub(super) fn webhooks(&self) -> &[Webhook] {
        &self.webhooks
    }

    /// One of them.
    pub(super) fn get(&self, at: usize) -> &Webhook {
        &self.webhooks[at]
    }

    /// One of them, to be changed: remembered for [`Book::roll_back`] and [`Book::store`].
    pub(super) fn edit(&mut self, at: usize) -> &mut Webhook {
        if let Some(undo) = &mut self.undo
            && !undo.iter().any(|(i, _)| *i == at)
        {
            undo.push((at, self.webhooks[at].clone()));
        }
        if !self.dirty.contains(&at) {
            self.dirty.push(at);
        }
        &mut self.webhooks[at]
    }

    /// Remembers where the book stands.
    pub(super) fn mark(&mut self) -> Mark {
        self.undo = Some(Vec::new());
        Mark { webhooks: self.webhooks.len(), conversations_open: self.conversations_open }
    }

    /// Takes back what was changed since `mark`. Numbers given out stay given out.
    pub(super) fn roll_back(&mut self, mark: Mark) {
        for (at, before) in self.undo.take().unwrap_or_default() {
            self.webhooks[at] = before;
        }
        for gone in self.webhooks.drain(mark.webhooks..) {
            self.by_name.remove(&gone.name);
        }
        self.dirty.retain(|at| *at < mark.webhooks);
        self.conversations_open = mark.conversations_open;
    }

    /// The next number.
    pub(super) fn number(&mut self) -> i64 {
        let number = self.next;
        self.next += 1;
        number
    }

    /// Writes what changed, and answers which entries did.
    pub(super) fn store(&mut self, conn: &Connection) -> rusqlite::Result<Vec<usize>> {
        self.undo = None;
        conn.prepare_cached("UPDATE meta SET next = ?1, conversations_open = ?2")?
            .execute((self.next, self.conversations_open))?;
        let dirty = std::mem::take(&mut self.dirty);
        let mut write = conn.prepare_cached(
            "INSERT INTO webhook VALUES
             (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
             ON CONFLICT (id) DO UPDATE SET known = ?3, enabled = ?4, file_hash = ?5, standing = ?6, standing_reason = ?7,
             standing_hash = ?8, matched = ?9, filtered = ?10, rendered = ?11, rule_failed = ?12, waiting = ?13,
             created = ?14, owed = ?15, delivered = ?16, dead = ?17, purged = ?18",
        )?;
        for at in &dirty {
            let w = &self.webhooks[*at];
            let (standing, reason, hash) = match &w.standing {
                Standing::Active => ("active", None, None),
                Standing::Paused => ("paused", None, None),
                Standing::Disabled { reason, file_hash } => ("disabled", Some(reason), Some(file_hash)),
            };
            let c = w.counts;
            let n = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
            write.execute(params![
                w.id,
                w.name,
                w.known,
                w.enabled,
                w.file_hash,
                standing,
                reason,
                hash,
                n(c.matched),
                n(c.filtered),
                n(c.rendered),
                n(c.rule_failed),
                n(c.waiting),
                n(c.created),
                n(c.owed),
                n(c.delivered),
                n(c.dead),
                n(c.purged),
            ])?;
        }
        Ok(dirty)
    }

    /// Brings a published copy up to date after the commit of `changed`.
    pub(super) fn publish(&self, to: &mut Self, changed: &[usize]) {
        to.next = self.next;
        to.conversations_open = self.conversations_open;
        for at in changed {
            let webhook = self.webhooks[*at].clone();
            if *at < to.webhooks.len() {
                to.webhooks[*at] = webhook;
            } else {
                // New entries are appended in order, so the copies agree on places.
                to.push(webhook);
            }
        }
    }

    /// All webhooks as others see them, by name.
    pub(super) fn views(&self) -> Vec<WebhookView> {
        let view = |w: &Webhook| {
            let row = w.row();
            WebhookView {
                name: Arc::clone(&w.name),
                known: w.known,
                enabled: w.enabled,
                standing: w.standing.clone(),
                pending: row.pending,
                held: row.held,
                dead: row.dead,
                waiting: row.waiting,
            }
        };
        let mut views: Vec<WebhookView> = self.webhooks.iter().map(view).collect();
        views.sort_by(|a, b| a.name.cmp(&b.name));
        views
    }

    /// The ledger as people see it.
    pub(super) fn ledger(&self) -> Ledger {
        let mut webhooks: Vec<LedgerRow> = self.webhooks.iter().map(Webhook::row).collect();
        webhooks.sort_by(|a, b| a.webhook.cmp(&b.webhook));
        let balanced = webhooks.iter().all(LedgerRow::balances);
        Ledger { webhooks, balanced }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_rolled_back_leaves_no_trace() {
        let mut book = Book { next: 1, ..Book::default() };
        let old = book.enter(&Arc::from("old"));
        book.edit(old).counts.matched = 1;
        let mark = book.mark();
        let new = book.enter(&Arc::from("new"));
        book.edit(new).counts.matched = 5;
        book.edit(old).counts.matched = 7;
        book.conversations_open = 3;
        book.roll_back(mark);
        assert_eq!(book.webhooks.len(), 1);
        assert_eq!(book.get(old).counts.matched, 1);
        assert_eq!((book.find("new"), book.conversations_open), (None, 0));
        assert_eq!(book.enter(&Arc::from("newer")), new, "its place is free again");
    }
}
