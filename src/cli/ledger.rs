//! `sidehook ledger`

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::{exit, outbox_path, print, runtime};
use crate::clock::Clock;
use crate::outbox::{Ledger, Outbox};

/// Arguments of `sidehook ledger`.
#[derive(clap::Args)]
#[command(after_help = "Example:\n  sidehook ledger --config ./sidehook --json")]
pub struct Args {
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Reads this outbox directory and no configuration, which may be broken.
    #[arg(long, value_name = "DIR")]
    outbox: Option<PathBuf>,
}

/// Reads the outbox beside a running sidehook. Exit 1 when the ledger does not balance.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    let path = match outbox_path(args.outbox.as_deref(), config) {
        Ok(path) => path,
        Err(code) => return Ok(code),
    };
    let ledger = runtime()?.block_on(async {
        let outbox = Outbox::open_read_only(&path, Clock::System)?;
        outbox.ledger().await
    })?;
    if args.json {
        print(&format!("{}\n", serde_json::to_string(&ledger)?))?;
    } else {
        print(&table(&ledger))?;
    }
    Ok(if ledger.balanced { exit::OK } else { exit::FAILED })
}

/// The ledger for people.
pub(super) fn table(ledger: &Ledger) -> String {
    let width = ledger.webhooks.iter().map(|row| row.webhook.len()).max().unwrap_or(0).max("webhook".len());
    let mut out = String::new();
    let heads = [
        "matched",
        "filtered",
        "rendered",
        "rule_failed",
        "waiting",
        "created",
        "delivered",
        "pending",
        "held",
        "dead",
        "purged",
    ];
    let _ = write!(out, "{:width$}", "webhook");
    for head in heads {
        let _ = write!(out, "  {head}");
    }
    out.push('\n');
    for row in &ledger.webhooks {
        let _ = write!(out, "{:width$}", row.webhook);
        let figures = [
            row.matched,
            row.filtered,
            row.rendered,
            row.rule_failed,
            row.waiting,
            row.created,
            row.delivered,
            row.pending,
            row.held,
            row.dead,
            row.purged,
        ];
        for (head, figure) in heads.iter().zip(figures) {
            let _ = write!(out, "  {figure:>width$}", width = head.len());
        }
        out.push_str(if row.balances() { "\n" } else { "  DOES NOT BALANCE\n" });
    }
    out.push_str(if ledger.balanced { "balanced\n" } else { "NOT BALANCED: please report this\n" });
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbox::LedgerRow;

    #[test]
    fn the_table_names_what_does_not_balance() {
        let good = LedgerRow {
            webhook: "crm".into(),
            matched: 2,
            rendered: 2,
            created: 2,
            delivered: 2,
            ..LedgerRow::default()
        };
        let text = table(&Ledger { webhooks: vec![good.clone()], balanced: true });
        assert!(text.starts_with("webhook  matched") && text.ends_with("balanced\n"), "{text}");
        let bad = LedgerRow { dead: 1, ..good };
        let text = table(&Ledger { webhooks: vec![bad], balanced: false });
        assert!(text.contains("DOES NOT BALANCE") && text.contains("NOT BALANCED"), "{text}");
    }
}
