//! What senders are told when nothing of a request is stored. Stores nothing and looks nothing up.

use std::collections::HashMap;
use std::time::Duration;

use super::Draft;
use crate::event::Identity;
use crate::limits;
use crate::outbox::{CommitError, Seen};
use crate::source::{Items, Refusal};

pub(super) fn unavailable(detail: &str) -> Refusal {
    Refusal::Unavailable { detail: detail.to_owned(), retry_after: Duration::from_secs(1) }
}

/// Refuses items whose id came before with other contents, all of them at once: here or among the items themselves.
pub(super) fn without_conflicts(items: &Items, seen: &[Option<Seen>]) -> Result<(), Refusal> {
    let mut within = HashMap::new();
    let mut bad: Vec<usize> = Vec::new();
    for (index, (item, seen)) in items.items.iter().zip(seen).enumerate() {
        if item.identity == Identity::None {
            continue;
        }
        let fingerprint = item.fingerprint();
        let first = match seen {
            Some(seen) => seen.fingerprint,
            // One item meets no other.
            None if items.items.len() == 1 => fingerprint,
            None => {
                item.dedupe_key(&items.namespace).map_or(fingerprint, |key| *within.entry(key).or_insert(fingerprint))
            }
        };
        if first != fingerprint {
            bad.push(index);
        }
    }
    let Some(first) = bad.first().copied() else { return Ok(()) };
    let id = items.items[first].id.as_deref().unwrap_or_default();
    let more = match bad.len() - 1 {
        0 => String::new(),
        n => format!(" ({n} more item{} like it)", if n == 1 { " is" } else { "s are" }),
    };
    let detail = format!("{}{more}", conflict(first, id));
    bad.truncate(limits::PROBLEM_ERRORS);
    Err(Refusal::IdConflict { items: bad, detail })
}

fn conflict(index: usize, id: &str) -> String {
    format!("item {index}: the id {id:?} was already accepted with another type or conversation; nothing was stored")
}

pub(super) fn refusal(draft: &Draft, error: CommitError) -> Refusal {
    let detail = error.to_string();
    match error {
        CommitError::IdConflict { index, event_id } => {
            let index = draft.items.get(index).copied().unwrap_or(index);
            Refusal::IdConflict { items: vec![index], detail: conflict(index, &event_id) }
        }
        CommitError::Full { .. } => Refusal::Full { detail, retry_after: Duration::from_secs(5) },
        CommitError::Stale | CommitError::Failed(_) | CommitError::Closed => unavailable(&detail),
    }
}
