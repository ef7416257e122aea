//! The tests beside the rules: `NAME.test.yaml` read into cases for `NAME.rhai`, every mistake at its place. Reads files
//! only through the load's reader; writes none.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::decode::Decoder;
use super::fields::Fields;
use super::model::Webhook;
use super::scripts::TEST_SUFFIX;
use super::shape;
use super::yaml::{Key, Node, Span, Value};
use super::{params, values};
use crate::clock::Timestamp;
use crate::event::{Event, Incoming, Json, Kind, Stamp, State};
use crate::limits;
use crate::rules::testing::{Expect, Verdict};
use crate::rules::{Adapter, Direction, Format, Message, OnRuleError, Params, Program, Rule, Scripts};

/// When an event without a time arrived, so that `now()` is the same in every run.
const ARRIVED_MS: i64 = 1_767_225_600_000;

/// The id of an event without one, so that `uuid()` is the same in every run.
const EVENT_ID: &str = "evt_test";

/// One case of a test file.
pub struct Case {
    /// `name`
    pub name: String,
    /// The script under test, relative to `rules_dir`.
    pub rule: String,
    /// `webhook`
    pub webhook: Option<Arc<str>>,
    /// The test file as it is named to people.
    pub file: String,
    /// The test file.
    pub path: PathBuf,
    /// Where the case begins, 1-based.
    pub line: usize,
    /// Where the case begins, 1-based.
    pub column: usize,
    /// The event or the message as it was written.
    pub written: Json,
    /// What is expected of it.
    pub expect: Expect,
    /// `expect` as it was written.
    pub expected: Json,
    /// Where `expect` stands.
    pub place: Place,
    subject: Subject,
    span: Span,
}

/// Where a case's `expect` stands in its file; lines and columns are 1-based, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Line and column of the key.
    pub key: (usize, usize),
    /// Line and column where the value begins.
    pub begin: (usize, usize),
    /// Line and column behind the value.
    pub end: (usize, usize),
    /// Whether the case is written in braces.
    pub braces: bool,
}

/// What a case runs, and over what.
enum Subject {
    /// A webhook of the configuration: its params, its `when`, its headers.
    Webhook(Arc<Webhook>, Event),
    /// The rule by itself, with the default params.
    Rule(Arc<Program>, Event),
    /// An adapter.
    Adapter(Adapter, Message),
}

impl Case {
    /// Runs the case.
    #[must_use]
    pub fn run(&self) -> Verdict {
        match &self.subject {
            Subject::Webhook(webhook, event) => self.expect.check(&webhook.program, event),
            Subject::Rule(program, event) => self.expect.check(program, event),
            Subject::Adapter(adapter, message) => self.expect.check_adapter(adapter, message),
        }
    }

    /// Whether it has a message rather than an event.
    #[must_use]
    pub fn is_of_adapter(&self) -> bool {
        matches!(self.subject, Subject::Adapter(..))
    }

    /// Runs the case and records a problem when it fails.
    pub(super) fn gate(&self, d: &mut Decoder<'_>) {
        if let Some(fault) = self.run().faults.first() {
            let fault = fault.lines().next().unwrap_or_default();
            let fault = fault.split(" (- expected").next().unwrap_or(fault).trim_end_matches(':');
            let message = format!("the test \"{}\" of {} fails: {fault}", self.name, self.rule);
            let help = "`sidehook test` shows the whole difference; `reload.run_tests: false` starts without tests";
            d.problem(self.span, message, Some(help.to_owned()));
        }
    }
}

/// What cases of one file share.
struct File<'a> {
    /// As it is named to people.
    shown: String,
    path: PathBuf,
    text: String,
    rule: Arc<Rule>,
    plain: Arc<Program>,
    webhooks: &'a BTreeMap<Arc<str>, Arc<Webhook>>,
}

/// The cases of one test file, `name` relative to `rules_dir`; mistakes are recorded.
pub fn read(
    d: &mut Decoder<'_>,
    rules_dir: &Path,
    name: &str,
    scripts: &Scripts,
    webhooks: &BTreeMap<Arc<str>, Arc<Webhook>>,
) -> Vec<Case> {
    let path = rules_dir.join(name);
    let shown = d.show(&path);
    let script = format!("{}.rhai", name.strip_suffix(TEST_SUFFIX).unwrap_or(name));
    let Some((_, root, text)) = d.plain_yaml(&path, limits::SCRIPT_FILE_BYTES) else { return Vec::new() };
    let Some(rule) = scripts.rule(&script) else {
        // A script with a mistake has a problem of its own.
        if !d.reader.exists(&rules_dir.join(&script)) {
            d.problem(
                root.span,
                format!("there is no {script} beside this test"),
                Some("rename one of the two".into()),
            );
        }
        return Vec::new();
    };
    let plain = Arc::new(Program {
        params: Params::default(),
        when: None,
        rule: Some(Arc::clone(&rule)),
        on_rule_error: OnRuleError::DeadLetter,
        format: Format::Json,
        reserved_headers: Vec::new(),
        suspend_for: std::time::Duration::ZERO,
    });
    let file = File { shown, path, text, rule, plain, webhooks };
    let Value::List(items) = &root.value else {
        let help = "write `- name: …`, `event: …`, `expect: …` for each".to_owned();
        d.problem(root.span, "a test file is a list of cases", Some(help));
        return Vec::new();
    };
    items.iter().filter_map(|node| case(d, &file, node)).collect()
}

fn case(d: &mut Decoder<'_>, file: &File<'_>, node: &Node) -> Option<Case> {
    let fields = d.fields(node, &shape::CASE, None)?;
    let name = fields.require(d, "name", "`name: what the rule does`").and_then(|n| d.loose(n));
    let of_adapter = fields.get("message").is_some() || fields.get("message_file").is_some();
    let expect = expect(d, &fields, of_adapter);
    let (written, subject, webhook) = if of_adapter {
        let (written, message) = message(d, file, &fields)?;
        (written, Subject::Adapter(adapter(d, file, node)?, message), None)
    } else {
        let event = event(d, file, &fields);
        let webhook = webhook(d, file, &fields)?;
        let (written, event) = event?;
        let name = webhook.map(|(name, _)| Arc::clone(name));
        let subject = match webhook {
            Some((_, webhook)) => Subject::Webhook(Arc::clone(webhook), event),
            None => Subject::Rule(Arc::clone(&file.plain), event),
        };
        (written, subject, name)
    };
    let (name, (expect, expected)) = (name?, expect?);
    let Value::Map(entries) = &node.value else { return None };
    let (key, value) = entries.iter().find(|(key, _)| key.text == "expect")?;
    Some(Case {
        name,
        rule: file.rule.file().to_owned(),
        webhook,
        file: file.shown.clone(),
        path: file.path.clone(),
        line: node.span.line,
        column: node.span.column,
        written,
        expect,
        expected,
        place: place(&file.text, node, key, value),
        subject,
        span: Span { end_line: node.span.line, end_column: usize::MAX, ..node.span },
    })
}

/// The script under test as an adapter, which never rests.
fn adapter(d: &mut Decoder<'_>, file: &File<'_>, node: &Node) -> Option<Adapter> {
    match Adapter::new(Arc::clone(&file.rule), std::time::Duration::ZERO) {
        Ok(adapter) => Some(adapter),
        Err(message) => {
            let (message, help) = message.split_once(": ").unwrap_or((&message, ""));
            d.problem(node.span, message, Some(help.to_owned()));
            None
        }
    }
}

fn message(d: &mut Decoder<'_>, file: &File<'_>, fields: &Fields<'_>) -> Option<(Json, Message)> {
    for other in ["event", "event_file", "webhook"] {
        if let Some(node) = fields.get(other) {
            let help = "an adapter's case has a message, a rule's an event: keep one of the two".to_owned();
            d.problem(node.span, format!("`message` and `{other}` exclude each other"), Some(help));
            return None;
        }
    }
    let (node, json) = match (fields.get("message"), fields.get("message_file")) {
        (Some(_), Some(node)) => {
            let help = "keep one of the two".to_owned();
            d.problem(node.span, "`message` and `message_file` exclude each other", Some(help));
            return None;
        }
        (Some(node), _) => {
            let problems = d.report().problems.len();
            let inside = d.fields(node, &shape::MESSAGE, None)?;
            inside.require(d, "body", "`body: …`, a value for JSON, else a text")?;
            if let Some(direction) = inside.get("direction") {
                d.choice(direction, &shape::DIRECTIONS)?;
            }
            if d.report().problems.len() > problems {
                return None;
            }
            (node, json_of(d, node)?)
        }
        (None, node) => (node?, json_file(d, file, node?)?),
    };
    match message_of(&json) {
        Ok(message) => Some((json, message)),
        Err(reason) => {
            d.problem(node.span, format!("this is no message: {reason}"), None);
            None
        }
    }
}

fn message_of(json: &Json) -> Result<Message, String> {
    if json.kind() != Kind::Object {
        return Err(format!("it is an object with a body, not {}", json.kind()));
    }
    if let Some((key, _)) = json.members().find(|(key, _)| shape::MESSAGE.key(key).is_none()) {
        return Err(format!("`{key}` is unknown: it has body, path, headers and direction"));
    }
    let text = |name: &str| json.get(name).and_then(|v| v.as_id().map(std::borrow::Cow::into_owned));
    let written = text("direction").unwrap_or_else(|| Direction::default().name().to_owned());
    let direction = Direction::ALL.into_iter().find(|direction| direction.name() == written);
    let headers = json.get("headers").unwrap_or_else(Json::empty_map);
    let headers = headers.members().map(|(name, value)| match value.as_id() {
        Some(value) => Ok((name.to_string(), value.into_owned())),
        None => Err(format!("headers.{name} is a text, not {}", value.kind())),
    });
    Ok(Message {
        body: json.get("body").ok_or("`body` is missing")?,
        path: text("path").unwrap_or_default(),
        headers: headers.collect::<Result<_, _>>()?,
        direction: direction.ok_or_else(|| format!("`direction` is one of {}", shape::DIRECTIONS.join(", ")))?,
        arrived: Timestamp::from_millis(ARRIVED_MS),
    })
}

fn place(text: &str, case: &Node, key: &Key, value: &Node) -> Place {
    let line = text.lines().nth(case.span.line.saturating_sub(1)).unwrap_or_default();
    Place {
        key: (key.span.line, key.span.column),
        begin: (value.span.line, value.span.column),
        end: (value.span.end_line, value.span.end_column),
        braces: line.chars().nth(case.span.column.saturating_sub(1)) == Some('{'),
    }
}

fn event(d: &mut Decoder<'_>, file: &File<'_>, fields: &Fields<'_>) -> Option<(Json, Event)> {
    let (node, json) = match (fields.get("event"), fields.get("event_file")) {
        (Some(_), Some(node)) => {
            d.problem(node.span, "`event` and `event_file` exclude each other", Some("keep one of the two".into()));
            return None;
        }
        (Some(node), None) => (node, json_of(d, node)?),
        (None, Some(node)) => (node, json_file(d, file, node)?),
        (None, None) => {
            let _ = fields.require(d, "event", "`event: {type: …}`, or `event_file: FILE`");
            return None;
        }
    };
    match Incoming::read(&json) {
        Ok(incoming) => Some((json, alone(&incoming))),
        Err(errors) => {
            for error in errors {
                let place = if error.pointer.is_empty() { String::new() } else { format!("{}: ", error.pointer) };
                d.problem(node.span, format!("this is no event: {place}{}", error.reason), None);
            }
            None
        }
    }
}

/// An event that is all there is of its conversation.
fn alone(incoming: &Incoming) -> Event {
    let given = incoming.time.as_deref().and_then(Timestamp::parse_rfc3339);
    let arrived = given.unwrap_or(Timestamp::from_millis(ARRIVED_MS));
    let id = incoming.id.clone().unwrap_or_else(|| Arc::from(EVENT_ID));
    let stamp = Stamp { namespace: Arc::from(""), id, arrived, traceparent: None };
    let mut state = State::default();
    state.apply(incoming);
    state.assemble(incoming, incoming.messages.as_ref(), stamp)
}

/// An event or a message in a file of its own, beside the test.
fn json_file(d: &mut Decoder<'_>, file: &File<'_>, node: &Node) -> Option<Json> {
    let name = d.text(node)?;
    if Path::new(&name).is_absolute() || name.split('/').any(|part| part == "..") {
        let help = Some("write its path relative to the test, without `..`".to_owned());
        d.problem(node.span, format!("{} leads out of the test's folder", d.quote(node)), help);
        return None;
    }
    let path = file.path.with_file_name("").join(&name);
    let shown = d.show(&path);
    match d.reader.text(&path, limits::SCRIPT_FILE_BYTES) {
        Ok(text) => match Json::parse(text) {
            Ok(json) => return Some(json),
            Err(error) => d.problem(node.span, format!("{shown} is not JSON: {error}"), None),
        },
        Err(error) => d.problem(node.span, format!("{shown}: {error}"), None),
    }
    None
}

fn expect(d: &mut Decoder<'_>, fields: &Fields<'_>, of_adapter: bool) -> Option<(Expect, Json)> {
    let right = if of_adapter {
        "`expect: {events: […]}`, or contains, skipped: true, error"
    } else {
        "`expect: {payload: …}`, or contains, headers, skipped: true, error"
    };
    let node = fields.require(d, "expect", right)?;
    d.fields(node, &shape::EXPECT, None)?;
    let json = json_of(d, node)?;
    // An unknown member was recorded already, with what may have been meant.
    if json.members().any(|(key, _)| shape::EXPECT.key(&key).is_none()) {
        return None;
    }
    match Expect::read(&json) {
        Ok(expect) if expect.is_of_adapter().is_some_and(|is| is != of_adapter) => {
            let message = if of_adapter {
                "an adapter makes events: a payload and its headers are a rule's"
            } else {
                "a rule makes a payload: events are an adapter's, whose case has a `message`"
            };
            d.problem(node.span, message, Some(format!("write {right}")));
            None
        }
        Ok(expect) => Some((expect, json)),
        Err(message) => {
            d.problem(node.span, message, None);
            None
        }
    }
}

/// The webhook that a case names, `Some(None)` where it names none.
#[expect(clippy::option_option, reason = "the outer one is whether a problem was recorded")]
fn webhook<'a>(
    d: &mut Decoder<'_>,
    file: &File<'a>,
    fields: &Fields<'_>,
) -> Option<Option<(&'a Arc<str>, &'a Arc<Webhook>)>> {
    let Some(node) = fields.get("webhook") else { return Some(None) };
    let name = d.loose(node)?;
    let Some((name, webhook)) = file.webhooks.get_key_value(name.as_str()) else {
        let names = || file.webhooks.keys().map(|n| &**n);
        let help = match values::nearest(&name, names()) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("there are: {}", names().take(10).collect::<Vec<_>>().join(", ")),
        };
        d.problem(node.span, format!("there is no webhook {}", d.quote(node)), Some(help));
        return None;
    };
    let ruled = webhook.program.rule.as_deref().map(Rule::file);
    if ruled != Some(file.rule.file()) {
        let has = ruled.map_or("no rule".to_owned(), |file| format!("`rule: {file}`"));
        let message = format!("webhook {name} has {has}, and this tests {}", file.rule.file());
        d.problem(node.span, message, Some("name a webhook with this rule, or leave `webhook` out".to_owned()));
        return None;
    }
    Some(Some((name, webhook)))
}

fn json_of(d: &mut Decoder<'_>, node: &Node) -> Option<Json> {
    let mut out = String::new();
    if params::json(d, node, &mut out) { Json::parse(out).ok() } else { None }
}
