//! Facts that `config` and `reload` state.

const RELOADS: &str = "sidehook_config_reloads_total";
const GENERATION: &str = "sidehook_config_generation";

/// A generation came into force.
pub struct GenerationAccepted<'a> {
    /// Its number; 1 is the one of the start, which is no reload.
    pub number: u64,
    /// Its hash.
    pub hash: &'a str,
    /// How many webhooks it has.
    pub webhooks: usize,
    /// Keys whose change waits for a restart.
    pub restart: &'a [String],
    /// What an operator should know.
    pub warnings: &'a [String],
}

impl GenerationAccepted<'_> {
    /// Writes the log line and moves the metrics.
    pub fn emit(self) {
        #[expect(clippy::cast_precision_loss, reason = "reloads of one process stay far below 2^53")]
        metrics::gauge!(GENERATION).set(self.number as f64);
        if self.number <= 1 {
            return;
        }
        metrics::counter!(RELOADS, "result" => "accepted").increment(1);
        tracing::info!(generation = self.number, hash = self.hash, webhooks = self.webhooks, "configuration reloaded");
        for warning in self.warnings {
            tracing::warn!("{warning}");
        }
        if !self.restart.is_empty() {
            let keys = self.restart.join(", ");
            tracing::warn!(keys, "these keys changed and need a restart; everything else is in force");
        }
    }
}

/// One problem of a refused configuration.
pub struct Refused<'a> {
    /// Where.
    pub file: &'a str,
    /// 1-based.
    pub line: usize,
    /// 1-based.
    pub column: usize,
    /// What is wrong; never a secret.
    pub message: &'a str,
    /// What to write instead.
    pub help: &'a str,
}

/// A changed configuration was refused; the old generation goes on.
pub struct ReloadRejected<'a> {
    /// Why.
    pub problems: &'a [Refused<'a>],
}

impl ReloadRejected<'_> {
    /// Writes a log line a problem and moves the metric.
    pub fn emit(self) {
        metrics::counter!(RELOADS, "result" => "rejected").increment(1);
        tracing::error!(problems = self.problems.len(), "configuration refused; the old one stays in force");
        for Refused { file, line, column, message, help } in self.problems {
            tracing::error!(file, line, column, help, "{message}");
        }
    }
}

/// A reload was asked for and nothing had changed.
pub struct ReloadUnchanged;

impl ReloadUnchanged {
    /// Writes the log line and moves the metric.
    pub fn emit(self) {
        metrics::counter!(RELOADS, "result" => "unchanged").increment(1);
        tracing::debug!("configuration unchanged");
    }
}

/// Trying kept events in a new generation took too long; the rest was left out.
pub struct CanaryCutShort {
    /// Events that were tried.
    pub tried: usize,
    /// Events that should have been.
    pub events: usize,
}

impl CanaryCutShort {
    /// Writes the log line.
    pub fn emit(self) {
        let Self { tried, events } = self;
        tracing::warn!(tried, events, "the canary took too long; the remaining kept events were not tried");
    }
}

/// The system does not tell of changes; the poll finds them.
pub struct WatchFailed<'a> {
    /// What the system said.
    pub error: &'a str,
}

impl WatchFailed<'_> {
    /// Writes the log line.
    pub fn emit(self) {
        tracing::warn!(error = self.error, "files cannot be watched; changes are found by polling");
    }
}
