//! The canary: recent kept events must render in a new generation as they do in the one in force. Compares two
//! generations over given events; reads nothing, swaps nothing, and is in no metric and no log of the rules.

use std::sync::Arc;

use bytes::Bytes;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::{Generation, Problem, Report, Webhook};
use crate::event::Event;
use crate::limits;
use crate::rules::{Outcome, RuleError, Trace};

/// What a rehearsal of a new generation came to.
#[derive(Debug, Default)]
pub(super) struct Rehearsal {
    /// Events that were tried.
    pub tried: usize,
    /// A problem for each webhook that fails where the generation in force does not.
    pub report: Report,
    /// Whether time ran out before all events were tried.
    pub cut_short: bool,
}

/// Renders stored events, newest first, in `new`, and where that fails in `today`. Blocks; gives up at `stop`.
pub(super) fn rehearse(
    new: &Generation,
    today: &Generation,
    stored: Vec<Bytes>,
    clock: &Clock,
    stop: &CancellationToken,
) -> Rehearsal {
    let mut rehearsal = Rehearsal::default();
    let mut open: Vec<&Arc<Webhook>> = new.webhooks.values().filter(|w| w.enabled).collect();
    let start = clock.instant();
    let over = || stop.is_cancelled() || clock.instant().duration_since(start) >= limits::CANARY_TIME;
    for event in stored.into_iter().filter_map(Event::from_stored) {
        let mut failed = Vec::new();
        for webhook in open.iter().filter(|w| w.events.matches(&event.kind)) {
            if over() {
                rehearsal.cut_short = true;
                return rehearsal;
            }
            let Some(error) = failure(webhook, &event) else { continue };
            // What fails today already, or is new, is no reason to keep today's.
            let Some(before) = today.webhooks.get(&webhook.name).filter(|w| w.enabled) else { continue };
            if before.events.matches(&event.kind) && failure(before, &event).is_none() {
                rehearsal.report.problems.push(problem(new, webhook, &event, &error));
                failed.push(Arc::clone(&webhook.name));
            }
        }
        // One problem a webhook is enough.
        open.retain(|webhook| !failed.contains(&webhook.name));
        rehearsal.tried += 1;
    }
    rehearsal
}

/// Why an event does not render.
fn failure(webhook: &Webhook, event: &Event) -> Option<RuleError> {
    let once = || match webhook.program.evaluate(event, Some(&mut Trace::default())) {
        Outcome::Failed { error, .. } => Some(error),
        Outcome::Filtered(_) | Outcome::Payloads(_) => None,
    };
    // A rule that had no time on a busy machine gets another chance.
    once().and_then(|error| if error.kind == "timeout" { once() } else { Some(error) })
}

fn problem(new: &Generation, webhook: &Webhook, event: &Event, error: &RuleError) -> Problem {
    let message = format!(
        "webhook {}: the kept event {} ({}) renders in the generation in force, and fails in this one: {}: {}",
        webhook.name, event.id, event.kind, error.function, error.message
    );
    let (file, line, column) = if error.file.is_empty() {
        (new.file_of(&webhook.name), 0, 0)
    } else {
        (format!("{}/{}", new.rules_dir, error.file), error.line, error.column)
    };
    let problem = Problem { line, column, ..Problem::of_file(file, message) };
    problem.with_help("mend the rule; `reload.canary: 0` puts it in force all the same")
}
