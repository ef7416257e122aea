//! Files → generation: watches what the configuration was made of, compiles a changed one aside and swaps it whole, or
//! refuses it whole. Watches are hints only; what counts is the contents, which a poll compares too. Knows nothing of
//! what a generation is used for.

mod canary;
mod hints;

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::{Clock, Timestamp};
use crate::config::model::{Inputs, Settings};
use crate::config::{self, Generation, Loaded, Problem, Report};
use crate::event::own::{Trouble, Troubles};
use crate::limits;
use crate::outbox::Outbox;
use crate::telemetry::config::{CanaryCutShort, GenerationAccepted, Refused, ReloadRejected, ReloadUnchanged};
use hints::Watch;

/// Reads an environment variable.
pub type Env = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What came of a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ReloadResult {
    /// A new generation is in force.
    Accepted,
    /// The new contents were refused; the old generation is in force.
    Rejected,
    /// The contents are those in force.
    Unchanged,
}

/// The last reload, as `status` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastReload {
    /// When; RFC 3339.
    pub at: Timestamp,
    /// What came of it.
    pub result: ReloadResult,
    /// Why it was refused.
    pub problems: Vec<Problem>,
    /// Keys that changed and need a restart, such as `admin.listen`; the rest is in force.
    pub restart_required: Vec<String>,
}

/// How patient a reloader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// Quiet time after the last hint.
    pub quiet: Duration,
    /// Longest time that hints can put a reload off.
    pub delay: Duration,
    /// How often contents are compared without a hint.
    pub poll: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { quiet: limits::RELOAD_QUIET, delay: limits::RELOAD_DELAY, poll: limits::RELOAD_POLL }
    }
}

/// What the handle and the reloader share.
#[derive(Debug)]
struct Shared {
    last: Mutex<LastReload>,
    number: Mutex<u64>,
}

impl Shared {
    fn last(&self) -> LastReload {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_last(&self, last: LastReload) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    fn number(&self) -> u64 {
        *self.number.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks for reloads and tells what came of the last. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReloadHandle {
    requests: mpsc::Sender<oneshot::Sender<LastReload>>,
    shared: Arc<Shared>,
}

impl ReloadHandle {
    /// Reads the files again now and answers what came of it. After the reloader has ended: the last result.
    pub async fn reload(&self) -> LastReload {
        let (answer, answered) = oneshot::channel();
        if self.requests.send(answer).await.is_err() {
            return self.last();
        }
        answered.await.unwrap_or_else(|_| self.last())
    }

    /// The last reload; the start counts as one that was accepted.
    #[must_use]
    pub fn last(&self) -> LastReload {
        self.shared.last()
    }

    /// Number of the generation in force; the start's is 1.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.shared.number()
    }
}

/// The actor that keeps the generation in force.
pub struct Reloader {
    path: PathBuf,
    env: Env,
    clock: Clock,
    pace: Pace,
    /// Settings that only a restart changes are those of the start.
    started: Settings,
    generations: watch::Sender<Arc<Generation>>,
    requests: mpsc::Receiver<oneshot::Sender<LastReload>>,
    shared: Arc<Shared>,
    /// Where the canary's events come from.
    outbox: Option<Outbox>,
    stop: CancellationToken,
    /// Hash and inputs of the last load, be it good or bad.
    seen_hash: String,
    seen_inputs: Inputs,
    watch: Watch,
    troubles: Troubles,
}

impl Reloader {
    /// A reloader of `path`, with `first` in force. Nothing is watched until it runs.
    #[must_use]
    pub fn new(
        path: PathBuf,
        first: Generation,
        clock: Clock,
    ) -> (Self, ReloadHandle, watch::Receiver<Arc<Generation>>) {
        let last = LastReload {
            at: clock.now(),
            result: ReloadResult::Accepted,
            problems: Vec::new(),
            restart_required: Vec::new(),
        };
        let shared = Arc::new(Shared { last: Mutex::new(last), number: Mutex::new(1) });
        let (ask, requests) = mpsc::channel(limits::RELOAD_QUEUE);
        let (seen_hash, seen_inputs) = (first.hash.clone(), first.inputs.clone());
        let started = first.settings.clone();
        accepted(&first, 1, &[]);
        let (generations, receiver) = watch::channel(Arc::new(first));
        let handle = ReloadHandle { requests: ask, shared: Arc::clone(&shared) };
        let reloader = Self {
            path,
            env: Arc::new(|name| std::env::var(name).ok()),
            clock,
            pace: Pace::default(),
            started,
            generations,
            requests,
            shared,
            outbox: None,
            stop: CancellationToken::new(),
            seen_hash,
            seen_inputs,
            watch: Watch::default(),
            troubles: Troubles::default(),
        };
        (reloader, handle, receiver)
    }

    /// Tells what is refused to these.
    #[must_use]
    pub fn with_troubles(mut self, troubles: Troubles) -> Self {
        self.troubles = troubles;
        self
    }

    /// With another source of environment variables.
    #[must_use]
    pub fn with_env(mut self, env: Env) -> Self {
        self.env = env;
        self
    }

    /// With an outbox whose kept events `reload.canary` tries.
    #[must_use]
    pub fn with_outbox(mut self, outbox: Outbox) -> Self {
        self.outbox = Some(outbox);
        self
    }

    /// With other patience.
    #[must_use]
    pub fn with_pace(mut self, pace: Pace) -> Self {
        self.pace = pace;
        self
    }

    /// Without the system's watches: only the poll and requests find changes.
    #[must_use]
    pub fn without_watches(mut self) -> Self {
        self.watch.disabled = true;
        self
    }

    /// Watches and reloads until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        self.stop = stop.clone();
        self.rewatch().await;
        let mut poll = tokio::time::interval(self.pace.poll);
        poll.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let hints = Arc::clone(&self.watch.hints);
        let mut asking = true;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                request = self.requests.recv(), if asking => match request {
                    Some(answer) => self.answer(answer).await,
                    None => asking = false,
                },
                () = hints.notified() => {
                    if let Some(answer) = self.settle(&hints, &stop).await {
                        self.answer(answer).await;
                    } else {
                        self.check().await;
                    }
                }
                _ = poll.tick() => self.check().await,
            }
        }
    }

    /// Waits until hints stop coming, or for long enough. A request ends the wait and comes back.
    async fn settle(&mut self, hints: &Notify, stop: &CancellationToken) -> Option<oneshot::Sender<LastReload>> {
        let enough = tokio::time::sleep(self.pace.delay);
        tokio::pin!(enough);
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                Some(answer) = self.requests.recv() => return Some(answer),
                () = &mut enough => return None,
                () = hints.notified() => {}
                () = tokio::time::sleep(self.pace.quiet) => return None,
            }
        }
    }

    async fn answer(&mut self, answer: oneshot::Sender<LastReload>) {
        let last = self.reload(true).await;
        // Whoever asked may have gone away.
        let _ = answer.send(last);
    }

    /// Reloads when the contents differ from those of the last load.
    async fn check(&mut self) {
        let inputs = self.seen_inputs.clone();
        // A comparison that failed says nothing; the load will.
        let now = tokio::task::spawn_blocking(move || inputs.fingerprint()).await.unwrap_or_default();
        if now != self.seen_hash {
            self.reload(false).await;
        }
        self.rewatch().await;
    }

    async fn reload(&mut self, asked: bool) -> LastReload {
        let (path, env, clock) = (self.path.clone(), Arc::clone(&self.env), self.clock.clone());
        let loaded = tokio::task::spawn_blocking(move || config::load_all(&path, &*env, &clock)).await;
        let Ok(Loaded { inputs, hash, result, .. }) = loaded else {
            let problem =
                Problem::of_file(self.path.display().to_string(), "reading the configuration failed inside sidehook");
            return self.reject(Report::from(problem));
        };
        let changed = hash != self.seen_hash;
        self.seen_hash = hash;
        self.seen_inputs = inputs;
        let last = match result {
            Err(_) if !changed && !asked => self.shared.last(),
            Err(report) => self.reject(report),
            Ok(generation) if generation.hash == self.generations.borrow().hash => self.unchanged(changed || asked),
            Ok(generation) => match self.tried(generation).await {
                Ok(generation) => self.accept(generation),
                Err(report) => self.reject(report),
            },
        };
        self.rewatch().await;
        last
    }

    /// The generation, if the outbox has nothing against it.
    async fn tried(&self, new: Generation) -> Result<Generation, Report> {
        self.can_start_again(&new).await?;
        self.rehearsed(new).await
    }

    /// Whether everything in the outbox could be opened with these keys. A running sidehook knows the keys of before, but the
    /// next one would not start.
    async fn can_start_again(&self, new: &Generation) -> Result<(), Report> {
        let Some(outbox) = &self.outbox else { return Ok(()) };
        // An outbox that cannot be read says so itself.
        let unlisted = outbox.unlisted_keys(new.settings.outbox.encryption_keys.clone()).await.unwrap_or_default();
        let Some(id) = unlisted.first() else { return Ok(()) };
        let message = format!(
            "`outbox.encryption_key` does not list key {id}, which sealed what is still in the outbox: sidehook could not \
             start again"
        );
        let help = "keep it below the new one until `sidehook outbox inspect` shows nothing of it";
        Err(Report::from(Problem::of_file("sidehook.yaml", message).with_help(help)))
    }

    /// The generation, if recent kept events render in it (`reload.canary`).
    async fn rehearsed(&self, new: Generation) -> Result<Generation, Report> {
        let Some(outbox) = self.outbox.as_ref().filter(|_| new.settings.canary > 0) else { return Ok(new) };
        let refuse = |message: String| Report::from(Problem::of_file("sidehook.yaml", message));
        let stored = outbox.recent_events(new.settings.canary).await;
        let stored =
            stored.map_err(|error| refuse(format!("`reload.canary`: the kept events cannot be read: {error}")))?;
        let (today, clock, stop) = (Arc::clone(&self.generations.borrow()), self.clock.clone(), self.stop.clone());
        let events = stored.len();
        let (new, rehearsal) = tokio::task::spawn_blocking(move || {
            let rehearsal = canary::rehearse(&new, &today, stored, &clock, &stop);
            (new, rehearsal)
        })
        .await
        .map_err(|error| refuse(format!("`reload.canary`: the kept events could not be tried: {error}")))?;
        if rehearsal.cut_short {
            CanaryCutShort { tried: rehearsal.tried, events }.emit();
        }
        if rehearsal.report.problems.is_empty() { Ok(new) } else { Err(rehearsal.report) }
    }

    /// The contents in force are there again, or still.
    fn unchanged(&self, say: bool) -> LastReload {
        let mut last = self.shared.last();
        if say {
            ReloadUnchanged.emit();
            last.at = self.clock.now();
            last.result = ReloadResult::Unchanged;
            last.problems.clear();
            self.shared.set_last(last.clone());
        }
        last
    }

    fn reject(&self, report: Report) -> LastReload {
        let problems: Vec<_> = report.problems.iter().map(refused).collect();
        ReloadRejected { problems: &problems }.emit();
        self.troubles.tell(Trouble::ReloadRejected { reason: first(&report) });
        let last = LastReload {
            at: self.clock.now(),
            result: ReloadResult::Rejected,
            problems: report.problems,
            restart_required: self.shared.last().restart_required,
        };
        self.shared.set_last(last.clone());
        last
    }

    fn accept(&self, mut generation: Generation) -> LastReload {
        let restart_required = pin(&self.started, &mut generation.settings);
        let number = {
            let mut number = self.shared.number.lock().unwrap_or_else(PoisonError::into_inner);
            *number += 1;
            *number
        };
        accepted(&generation, number, &restart_required);
        let last =
            LastReload { at: self.clock.now(), result: ReloadResult::Accepted, problems: Vec::new(), restart_required };
        // The result is there before anybody sees the generation it tells of.
        self.shared.set_last(last.clone());
        self.generations.send_replace(Arc::new(generation));
        last
    }

    /// Watches the directories of the last load. A change between the load and the watch is looked for once more.
    async fn rewatch(&mut self) {
        let directories = self.seen_inputs.directories.clone();
        let watch = std::mem::take(&mut self.watch);
        let hints = Arc::clone(&watch.hints);
        self.watch =
            tokio::task::spawn_blocking(move || watch.follow(&directories)).await.unwrap_or_else(|_| Watch::new(hints));
    }
}

fn accepted(generation: &Generation, number: u64, restart: &[String]) {
    let (hash, webhooks) = (&generation.hash, generation.webhooks.len());
    GenerationAccepted { number, hash, webhooks, restart, warnings: &generation.warnings }.emit();
}

fn refused(problem: &Problem) -> Refused<'_> {
    let help = problem.help.as_deref().unwrap_or_default();
    Refused { file: &problem.file, line: problem.line, column: problem.column, message: &problem.message, help }
}

/// The first problem in a line; values in it are masked already.
fn first(report: &Report) -> String {
    let others = report.problems.len().saturating_sub(1) + report.omitted;
    let Some(Problem { file, line, column, message, .. }) = report.problems.first() else { return String::new() };
    let more = if others == 0 { String::new() } else { format!(" (and {others} more)") };
    format!("{file}:{line}:{column}: {message}{more}")
}

/// Keeps what only a restart changes as it was at the start, and names what would have changed.
fn pin(started: &Settings, new: &mut Settings) -> Vec<String> {
    let mut names = Vec::new();
    if new.outbox_path != started.outbox_path {
        names.push("outbox.path".to_owned());
        new.outbox_path.clone_from(&started.outbox_path);
    }
    if new.admin.listen != started.admin.listen {
        names.push("admin.listen".to_owned());
        new.admin.listen = started.admin.listen.clone();
    }
    for (name, started) in &started.sources {
        if let Some(source) = new.sources.get_mut(name) {
            names.extend(source.pin(started).map(|key| format!("sources.{name}{key}")));
        } else {
            // It is still open, and must go on asking for its token.
            names.push(format!("sources.{name}"));
            new.sources.insert(name.clone(), started.clone());
        }
    }
    let added: Vec<String> = new.sources.keys().filter(|name| !started.sources.contains_key(*name)).cloned().collect();
    for name in added {
        names.push(format!("sources.{name}"));
        new.sources.remove(&name);
    }
    names
}

#[cfg(test)]
mod tests;
