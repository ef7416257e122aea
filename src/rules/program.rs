//! One event, one webhook: `when`, then `accept`, then the payload that `params` make, then `transform` and
//! `headers`. Everything that decides a payload is in a [`Program`]; evaluating one has no side effect but log lines and metrics.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rhai::{Dynamic, Map};

use super::engine::{Call, Facts, Mode};
use super::params::Params;
use super::scripts::{Health, Rule, When};
use super::{engine, headers, render, view};
use crate::event::{Event, Json, json};
use crate::limits;
use crate::telemetry::rules::{RuleFailed, RuleRan};

/// What follows from a failing rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum OnRuleError {
    /// A dead delivery without payload.
    #[default]
    DeadLetter,
    /// Nothing, counted.
    Skip,
    /// What `params` gave, untransformed.
    SendParams,
}

/// Shape of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// The payload itself.
    #[default]
    Json,
    /// `CloudEvents` 1.0 structured mode, the payload in `data`.
    CloudEvents,
}

/// All that decides a webhook's payload, from one generation.
pub struct Program {
    /// `params`
    pub params: Params,
    /// `when`
    pub when: Option<When>,
    /// `rule`
    pub rule: Option<Arc<Rule>>,
    /// `on_rule_error`
    pub on_rule_error: OnRuleError,
    /// `format`
    pub format: Format,
    /// Lower-case names of headers that a rule may not set, beside framing: the signature's and what the config sets.
    pub reserved_headers: Vec<String>,
    /// How long a rule is suspended after five time-outs in a row (`breaker.open_for`).
    pub suspend_for: Duration,
}

/// A frozen payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Payload {
    /// The request body.
    pub body: Bytes,
    /// Headers that the rule made; validated.
    pub headers: Vec<(String, String)>,
}

/// Who filtered an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FilteredBy {
    /// The `when` expression.
    When,
    /// `accept` returned false.
    Accept,
    /// `transform` returned `()` or an empty array.
    Transform,
}

impl FilteredBy {
    /// As it is called in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::When => "when",
            Self::Accept => "accept",
            Self::Transform => "transform",
        }
    }
}

/// A rule that failed at run time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleError {
    /// Script file; empty for `when`.
    pub file: String,
    /// Function it failed in.
    pub function: String,
    /// Innermost line, 1-based; 0 when unknown.
    pub line: usize,
    /// Innermost column, 1-based; 0 when unknown.
    pub column: usize,
    /// `timeout`, `operations`, `size`, `depth`, `type`, `suspended`, `missing`, `thrown`, `panic`: the metric's `kind`.
    pub kind: &'static str,
    /// What went wrong.
    pub message: String,
    /// The line of the script with a caret below the column; empty when the place is unknown.
    pub excerpt: Box<str>,
}

impl RuleError {
    /// An error without a place in a script.
    #[must_use]
    pub fn new(file: &str, function: &str, kind: &'static str, message: String) -> Self {
        Self {
            file: file.to_owned(),
            function: function.to_owned(),
            line: 0,
            column: 0,
            kind,
            message,
            excerpt: Box::default(),
        }
    }

    /// Several lines: what [`RuleError`] displays, and the line of the script.
    #[must_use]
    pub fn report(&self) -> String {
        if self.excerpt.is_empty() { self.to_string() } else { format!("{self}\n{}", self.excerpt) }
    }
}

/// One line: file, function, place and what went wrong.
impl fmt::Display for RuleError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}: ", self.file)?;
        }
        f.write_str(&self.function)?;
        if self.line > 0 {
            write!(f, ", line {}", self.line)?;
        }
        if self.column > 0 {
            write!(f, ", column {}", self.column)?;
        }
        write!(f, ": {}", self.message)
    }
}

impl std::error::Error for RuleError {}

/// What became of one event for one webhook.
#[derive(Debug)]
pub enum Outcome {
    /// No delivery.
    Filtered(FilteredBy),
    /// One delivery, or several in order.
    Payloads(Vec<Payload>),
    /// The rule failed. `fallback` is there only for [`OnRuleError::SendParams`].
    Failed {
        /// Why.
        error: RuleError,
        /// The plain params.
        fallback: Option<Payload>,
    },
}

/// What a preview shows beside the outcome.
#[derive(Debug, Default)]
pub struct Trace {
    /// The payload as `params` built it.
    pub before: Option<Bytes>,
    /// Lines the script logged.
    pub log: Vec<String>,
    /// Operations used.
    pub operations: u64,
    /// Time used, in microseconds.
    pub micros: u64,
}

impl Program {
    /// Whether evaluating runs any script, so that the caller keeps it off the I/O threads.
    #[must_use]
    pub fn runs_scripts(&self) -> bool {
        self.when.is_some() || self.rule.is_some()
    }

    /// Decides one event. Blocks for at most the script time per function. With a `trace` it is a rehearsal: in no
    /// metric, in no log, and without a say in whether a rule is suspended.
    #[must_use]
    pub fn evaluate(&self, event: &Event, trace: Option<&mut Trace>) -> Outcome {
        self.on_stack(|| self.run(event, trace))
    }

    /// Decides one event as [`Program::evaluate`] does, where that takes next to no time, which is so for nearly all rules:
    /// [`limits::QUICK_RULE_TIME`] a function at most, so that it may be called where others wait. `None`: it was not
    /// done, and `evaluate` has to. A rule that fails, is too slow or has something for the log is always left to that.
    #[must_use]
    pub fn evaluate_quickly(&self, event: &Event) -> Option<Outcome> {
        let healths = [self.when.as_ref().map(When::health), self.rule.as_ref().map(|rule| rule.health())];
        let healths = healths.into_iter().flatten();
        if !healths.clone().all(Health::is_quick) {
            return None;
        }
        let outcome = self.on_stack(|| {
            let mut run = Run::begin(self, event, Mode::Quick);
            let outcome = run.decide().ok().filter(|_| !run.call.spoke())?;
            for (rule, took) in run.ran {
                RuleRan { rule, took }.emit();
            }
            Some(outcome)
        });
        healths.for_each(if outcome.is_none() { Health::takes_long } else { Health::was_quick });
        outcome
    }

    /// Runs on a stack that is deep enough for what scripts may nest.
    fn on_stack<T>(&self, run: impl FnOnce() -> T) -> T {
        let limits = self.when.as_ref().map(When::limits).or_else(|| self.rule.as_ref().map(|rule| rule.limits()));
        match limits {
            Some(limits) => engine::with_stack(limits, run),
            None => run(),
        }
    }

    fn run(&self, event: &Event, trace: Option<&mut Trace>) -> Outcome {
        let mode = if trace.is_some() { Mode::Rehearsal } else { Mode::Service };
        let mut run = Run::begin(self, event, mode);
        let outcome = match run.decide() {
            Ok(outcome) => outcome,
            Err(error) => {
                if trace.is_none() {
                    let rule = self.rule.as_deref().filter(|_| !error.file.is_empty()).map_or("when", Rule::name);
                    let rule = if error.function == "params" { "params" } else { rule };
                    RuleFailed { rule, kind: error.kind }.emit();
                }
                let fallback = (self.on_rule_error == OnRuleError::SendParams)
                    .then(|| self.params.pick(event).ok())
                    .flatten()
                    .map(|members| Payload {
                        body: self.dress(event, &Json::map(members).to_bytes()),
                        headers: Vec::new(),
                    });
                Outcome::Failed { error, fallback }
            }
        };
        if let Some(trace) = trace {
            trace.before = self.params.pick(event).ok().map(|members| Json::map(members).to_bytes());
            trace.log = run.call.log();
            trace.operations = run.operations;
            trace.micros = run.micros;
        }
        outcome
    }

    /// Puts a payload into the shape that `format` asks for.
    fn dress(&self, event: &Event, payload: &[u8]) -> Bytes {
        match self.format {
            Format::Json => Bytes::copy_from_slice(payload),
            Format::CloudEvents => cloud_event(event, payload),
        }
    }
}

/// One evaluation.
struct Run<'a> {
    program: &'a Program,
    event: &'a Event,
    call: Call,
    operations: u64,
    micros: u64,
    /// What ran so far, where it may yet be as if it had not.
    ran: Vec<(&'a str, Duration)>,
}

impl<'a> Run<'a> {
    fn begin(program: &'a Program, event: &'a Event, mode: Mode) -> Self {
        let call = Call::begin(Some(Facts::of(event)), mode);
        Self { program, event, call, operations: 0, micros: 0, ran: Vec::new() }
    }

    fn decide(&mut self) -> Result<Outcome, RuleError> {
        let program = self.program;
        if let Some(when) = &program.when {
            let holds = when.test(&self.call, self.event, program.suspend_for);
            self.count("when");
            if !holds? {
                return Ok(Outcome::Filtered(FilteredBy::When));
            }
        }
        if let Some(rule) = program.rule.as_deref().filter(|rule| rule.has("accept", 1))
            && !self.accepts(rule)?
        {
            return Ok(Outcome::Filtered(FilteredBy::Accept));
        }
        let members =
            program.params.pick(self.event).map_err(|message| RuleError::new("", "params", "missing", message))?;
        match program.rule.as_deref() {
            Some(rule) if rule.has("transform", 2) => {
                let payload: Map =
                    members.iter().map(|(key, value)| (key.as_ref().into(), view::to_dynamic(value))).collect();
                let given = self.call(rule, "transform", &mut [view::of_event(&self.event.root), payload.into()])?;
                self.outcome(rule, given, &Json::map(members))
            }
            Some(rule) if rule.has("headers", 2) => {
                let payload: Map =
                    members.iter().map(|(key, value)| (key.as_ref().into(), view::to_dynamic(value))).collect();
                let headers = self.headers(rule, &Dynamic::from(payload))?;
                let body = program.dress(self.event, &Json::map(members).to_bytes());
                Ok(Outcome::Payloads(vec![Payload { body, headers }]))
            }
            _ => {
                let body = program.dress(self.event, &Json::map(members).to_bytes());
                Ok(Outcome::Payloads(vec![Payload { body, headers: Vec::new() }]))
            }
        }
    }

    fn call(&mut self, rule: &'a Rule, function: &str, args: &mut [Dynamic]) -> Result<Dynamic, RuleError> {
        let result = rule.call(&self.call, function, args, self.program.suspend_for);
        self.count(rule.name());
        result
    }

    /// Adds what the last function used.
    fn count(&mut self, rule: &'a str) {
        if self.call.mode == Mode::Quick {
            self.ran.push((rule, self.call.took()));
        }
        self.operations += self.call.operations();
        self.micros += u64::try_from(self.call.took().as_micros()).unwrap_or(u64::MAX);
    }

    fn accepts(&mut self, rule: &'a Rule) -> Result<bool, RuleError> {
        let given = self.call(rule, "accept", &mut [view::of_event(&self.event.root)])?;
        given
            .as_bool()
            .map_err(|_| fault(rule, "accept", "type", format!("gave {}, not true or false", view::describe(&given))))
    }

    /// What `transform` returned: a map, an array of maps, or nothing.
    fn outcome(&mut self, rule: &'a Rule, given: Dynamic, origin: &Json) -> Result<Outcome, RuleError> {
        let given = given.flatten();
        if given.is_unit() {
            return Ok(Outcome::Filtered(FilteredBy::Transform));
        }
        let items = view::items_of(given).map_err(|error| fault(rule, "transform", "size", error.to_string()))?;
        if items.is_empty() {
            return Ok(Outcome::Filtered(FilteredBy::Transform));
        }
        if items.len() > limits::FAN_OUT {
            let message = format!("gave {} payloads; at most {} are sent", items.len(), limits::FAN_OUT);
            return Err(fault(rule, "transform", "size", message));
        }
        let mut payloads = Vec::with_capacity(items.len());
        let mut total = 0;
        // Most payloads are what params made, more or less; several share it.
        let room = (origin.weight() / items.len() + 128).min(limits::PAYLOAD_BYTES);
        for (i, item) in items.iter().enumerate() {
            let name = if items.len() == 1 { "payload".to_owned() } else { format!("payload {i}") };
            let is_map = item.read_lock::<Map>().is_some()
                || view::json_of(item).is_some_and(|json| json.kind() == crate::event::Kind::Object);
            if !is_map {
                let message = format!(
                    "{name} is {}; transform returns a map, an array of maps, or () to send nothing",
                    view::describe(item)
                );
                return Err(fault(rule, "transform", "type", message));
            }
            let mut body = Vec::with_capacity(room);
            render::to_json(item, Some(origin), &name, &mut body)
                .map_err(|(kind, text)| fault(rule, "transform", kind, text))?;
            total += body.len();
            if total > limits::PAYLOAD_BYTES {
                let message = format!("the payloads are larger than {} bytes together", limits::PAYLOAD_BYTES);
                return Err(fault(rule, "transform", "size", message));
            }
            let headers = if rule.has("headers", 2) { self.headers(rule, item)? } else { Vec::new() };
            payloads.push(Payload { body: self.program.dress(self.event, &body), headers });
        }
        Ok(Outcome::Payloads(payloads))
    }

    fn headers(&mut self, rule: &'a Rule, payload: &Dynamic) -> Result<Vec<(String, String)>, RuleError> {
        let given = self.call(rule, "headers", &mut [view::of_event(&self.event.root), payload.clone()])?;
        headers::check(&given.flatten(), &self.program.reserved_headers, rule.file())
            .map_err(|message| fault(rule, "headers", "type", message))
    }
}

fn fault(rule: &Rule, function: &str, kind: &'static str, message: String) -> RuleError {
    rule.fault(function, kind, message)
}

/// `CloudEvents` 1.0, JSON format, structured mode (<https://github.com/cloudevents/spec>, v1.0.2).
/// `source` is `sidehook`, with the namespace below it where there is one.
fn cloud_event(event: &Event, payload: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(payload.len() + 256);
    let mut member = |name: &str, value: &str| {
        json::write_string(name, &mut out);
        out.push(b':');
        json::write_string(value, &mut out);
        out.push(b',');
    };
    let source =
        if event.namespace.is_empty() { "sidehook".to_owned() } else { format!("sidehook/{}", event.namespace) };
    member("specversion", "1.0");
    member("id", &event.id);
    member("source", &source);
    member("type", &event.kind);
    member("time", &event.time);
    if let Some(conversation) = &event.conversation {
        member("subject", conversation);
    }
    member("datacontenttype", "application/json");
    out.insert(0, b'{');
    out.extend_from_slice(b"\"data\":");
    out.extend_from_slice(payload);
    out.push(b'}');
    Bytes::from(out)
}
