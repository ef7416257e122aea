//! `sidehook test`: the tests beside the rules. Sends nothing and needs no running sidehook.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use anyhow::Context as _;
use notify::{RecursiveMode, Watcher as _};
use serde_json::{Value, json};

use super::{check, exit, print};
use crate::clock::Clock;
use crate::config::model::Inputs;
use crate::config::{self, Case, Loaded, Report, Tests, rewrite};
use crate::limits;
use crate::rules::testing::Verdict;

/// Longest event that is shown with a failing case.
const EVENT_LINES: usize = 40;

/// Arguments of `sidehook test`.
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  sidehook test\n  sidehook test --watch\n  sidehook test --update --config ./sidehook\n\n\
    Exit code 0 when every case holds, 1 when one does not, 64 when the configuration or a test file is invalid."
)]
pub struct Args {
    /// Runs the tests again after each change, until interrupted.
    #[arg(long)]
    watch: bool,
    /// Prints JSON: {"passed", "failed", "updated", "cases", "problems"}; with --watch a line per run.
    #[arg(long)]
    json: bool,
    /// Writes what came into the failing cases, in place, for you to judge in the diff.
    #[arg(long)]
    update: bool,
}

/// Runs the tests.
pub fn run(args: &Args, config: &Path) -> anyhow::Result<u8> {
    loop {
        let env = |name: &str| std::env::var(name).ok();
        let loaded = config::load_with(config, &env, &Clock::System, Tests::Read);
        let code = once(args, &loaded)?;
        if !args.watch {
            return Ok(code);
        }
        until_change(&loaded.inputs, &loaded.hash)?;
        if !args.json {
            print("\n")?;
        }
    }
}

fn once(args: &Args, loaded: &Loaded) -> anyhow::Result<u8> {
    if let Err(report) = &loaded.result {
        invalid(args, report)?;
        return Ok(exit::CONFIG);
    }
    let results: Vec<(&Case, Verdict)> = loaded.tests.iter().map(|case| (case, case.run())).collect();
    let failed = results.iter().filter(|(_, verdict)| !verdict.faults.is_empty()).count();
    let updated = if args.update { update(&results)? } else { 0 };
    if args.json {
        let summary = summary(&results, failed, updated);
        print(&if args.watch { format!("{summary}\n") } else { format!("{summary:#}\n") })?;
    } else {
        let paint = Paint { color: std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() };
        print(&shown(&results, failed, updated, &paint))?;
    }
    Ok(if failed > updated { exit::FAILED } else { exit::OK })
}

fn invalid(args: &Args, report: &Report) -> std::io::Result<()> {
    if !args.json {
        check::print_report(report);
        return Ok(());
    }
    let summary = json!({"passed": 0, "failed": 0, "updated": 0, "cases": [], "problems": report.to_json()});
    print(&if args.watch { format!("{summary}\n") } else { format!("{summary:#}\n") })
}

/// Writes the expectations of failing cases anew; answers how many.
fn update(results: &[(&Case, Verdict)]) -> anyhow::Result<usize> {
    let mut files: BTreeMap<&Path, Vec<_>> = BTreeMap::new();
    for (case, verdict) in results.iter().filter(|(_, verdict)| !verdict.faults.is_empty()) {
        files.entry(&case.path).or_default().push((case.place, verdict.actual.clone()));
    }
    let mut updated = 0;
    for (path, updates) in files {
        updated += updates.len();
        let text = std::fs::read_to_string(path).with_context(|| path.display().to_string())?;
        let text = rewrite::expectations(&text, updates);
        std::fs::write(path, text).with_context(|| path.display().to_string())?;
    }
    Ok(updated)
}

fn summary(results: &[(&Case, Verdict)], failed: usize, updated: usize) -> Value {
    let value = |json: &crate::event::Json| json.decode::<Value>().unwrap_or_default();
    let cases: Vec<Value> = results
        .iter()
        .map(|(case, verdict)| {
            json!({
                "file": case.file,
                "line": case.line,
                "column": case.column,
                "name": case.name,
                "rule": case.rule,
                "webhook": case.webhook,
                "passed": verdict.faults.is_empty(),
                "faults": verdict.faults,
                "event": value(&case.written),
                "expected": value(&case.expected),
                "got": value(&verdict.actual),
                "log": verdict.log,
            })
        })
        .collect();
    json!({"passed": results.len() - failed, "failed": failed, "updated": updated, "cases": cases, "problems": []})
}

fn shown(results: &[(&Case, Verdict)], failed: usize, updated: usize, paint: &Paint) -> String {
    let mut out = String::new();
    if results.is_empty() {
        out.push_str("there are no tests: write NAME.test.yaml beside NAME.rhai\n");
        return out;
    }
    for (case, verdict) in results {
        // Writing to a String cannot fail.
        let _ = if verdict.faults.is_empty() {
            writeln!(out, "{}    {}: {}", paint.green("ok"), case.rule, case.name)
        } else {
            writeln!(out, "{}  {}: {}", paint.red("FAIL"), case.rule, case.name)
        };
        if !verdict.faults.is_empty() {
            failure(&mut out, case, verdict, paint);
        }
    }
    let passed = results.len() - failed;
    let _ = match (failed, updated) {
        (0, _) => writeln!(out, "\n{}", paint.green(&format!("{passed} passed"))),
        (_, 0) => writeln!(out, "\n{passed} passed, {}", paint.red(&format!("{failed} failed"))),
        _ => writeln!(out, "\n{passed} passed, {updated} updated: judge them in the diff"),
    };
    out
}

/// Where the case stands, its event, what was expected and what came.
fn failure(out: &mut String, case: &Case, verdict: &Verdict, paint: &Paint) {
    let _ = writeln!(out, "      at {}:{}:{}", case.file, case.line, case.column);
    let event = format!("{:#}", case.written.decode::<Value>().unwrap_or_default());
    let _ = writeln!(out, "      {}:", if case.is_of_adapter() { "message" } else { "event" });
    for line in event.lines().take(EVENT_LINES) {
        let _ = writeln!(out, "        {line}");
    }
    if event.lines().count() > EVENT_LINES {
        let _ = writeln!(out, "        …");
    }
    for line in verdict.faults.iter().flat_map(|fault| fault.lines()) {
        let _ = writeln!(out, "      {}", paint.line(line));
    }
    for line in &verdict.log {
        let _ = writeln!(out, "      log: {line}");
    }
}

/// Waits until the contents are others than those of this hash. Watches are hints; a poll backs them up.
fn until_change(inputs: &Inputs, hash: &str) -> anyhow::Result<()> {
    let (hint, hints) = mpsc::channel();
    let mut watcher = notify::recommended_watcher(move |_: notify::Result<notify::Event>| {
        // Nobody waits any more once the wait is over.
        let _ = hint.send(());
    })
    .context("watching for changes")?;
    let mut directories: Vec<&PathBuf> = inputs.directories.iter().collect();
    directories.dedup();
    for dir in directories {
        watcher.watch(dir, RecursiveMode::NonRecursive).with_context(|| dir.display().to_string())?;
    }
    while inputs.fingerprint() == hash {
        if hints.recv_timeout(limits::RELOAD_POLL).is_ok() {
            settle(&hints);
        }
    }
    Ok(())
}

/// Waits until hints stop coming: an editor writes a file in several steps.
fn settle(hints: &mpsc::Receiver<()>) {
    let mut left: u32 = 50;
    while left > 0 && hints.recv_timeout(Duration::from_millis(20)).is_ok() {
        left -= 1;
    }
}

/// Colours for a terminal, or none.
pub(super) struct Paint {
    /// Whether there are any.
    pub color: bool,
}

impl Paint {
    fn wrap(&self, code: &str, text: &str) -> String {
        if self.color { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    }

    /// A line of a diff by its sign.
    pub fn line(&self, line: &str) -> String {
        match line.as_bytes().first() {
            Some(b'-') => self.red(line),
            Some(b'+') => self.green(line),
            _ => line.to_owned(),
        }
    }

    /// For what is wrong or gone.
    pub fn red(&self, text: &str) -> String {
        self.wrap("31", text)
    }

    /// For what is right or new.
    pub fn green(&self, text: &str) -> String {
        self.wrap("32", text)
    }
}
