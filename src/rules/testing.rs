//! Rule tests: one event or message, what is expected of it, and what came. Reads no files: cases come in as parsed data.

use std::fmt::Write as _;
use std::sync::Arc;

use super::adapter::{Adapter, Message};
use super::number;
use super::program::{Outcome, Payload, Program, RuleError, Trace};
use crate::event::{Event, Incoming, Json, Kind};

/// What a case expects. Every member that is there must hold.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// The payload, exactly; an array for a fan-out. The order of keys does not count.
    pub payload: Option<Json>,
    /// The events that an adapter makes, exactly, in order.
    pub events: Option<Json>,
    /// A part of the payload: members not named may be anything. An array for a fan-out. Of an adapter a part of its events.
    pub contains: Option<Json>,
    /// Headers that each delivery carries, among others.
    pub headers: Vec<(String, String)>,
    /// Whether the event is filtered.
    pub skipped: bool,
    /// A part of the error's text.
    pub error: Option<String>,
}

/// How a case went.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// Empty when the case holds; else what does not, each with a diff where there is one.
    pub faults: Vec<String>,
    /// The payload that came (an array for a fan-out), or the events, to be written into the case; `None` when there is none.
    pub payload: Option<Json>,
    /// What the script logged.
    pub log: Vec<String>,
    /// An `expect` that would hold, about the same members as the one that was checked.
    pub actual: Json,
}

impl Expect {
    /// From the `expect` of a case.
    pub fn read(json: &Json) -> Result<Self, String> {
        let mut expect = Self::default();
        for (key, value) in json.members() {
            match &*key {
                "payload" => expect.payload = Some(value),
                "events" => match value.kind() {
                    Kind::Array => expect.events = Some(value),
                    Kind::Object => expect.events = Some(Json::List(Arc::new(vec![value]))),
                    kind => return Err(format!("expect.events is an array of events, not {kind}")),
                },
                "contains" => expect.contains = Some(value),
                "skipped" => {
                    expect.skipped = value.as_bool().ok_or("expect.skipped is true or false")?;
                }
                "error" => expect.error = Some(value.as_str().ok_or("expect.error is a text")?.into_owned()),
                "headers" => {
                    for (name, value) in value.members() {
                        let text = value.as_id().ok_or_else(|| format!("expect.headers.{name} is a text"))?;
                        expect.headers.push((name.to_string(), text.into_owned()));
                    }
                }
                other => {
                    return Err(format!(
                        "expect.{other} is unknown: it has payload, events, contains, headers, skipped and error"
                    ));
                }
            }
        }
        let outcomes = usize::from(expect.skipped)
            + usize::from(expect.error.is_some())
            + usize::from(
                expect.payload.is_some()
                    || expect.events.is_some()
                    || expect.contains.is_some()
                    || !expect.headers.is_empty(),
            );
        match outcomes {
            0 => Err("expect is empty: name payload, events, contains, headers, skipped: true, or error".into()),
            1 if expect.events.is_some() && (expect.payload.is_some() || !expect.headers.is_empty()) => {
                Err("expect contradicts itself: an adapter has events, a rule has payload and headers".into())
            }
            1 => Ok(expect),
            _ => Err("expect contradicts itself: skipped, error and a payload exclude each other".into()),
        }
    }

    /// Evaluates the event and compares.
    #[must_use]
    pub fn check(&self, program: &Program, event: &Event) -> Verdict {
        let mut trace = Trace::default();
        let outcome = program.evaluate(event, Some(&mut trace));
        let mut verdict = Verdict { faults: Vec::new(), payload: None, log: trace.log, actual: Json::Null };
        match outcome {
            Outcome::Filtered(by) => {
                if !self.skipped {
                    verdict.faults.push(format!("the event was filtered by {}", by.name()));
                }
                verdict.actual = Json::map(vec![(Arc::from("skipped"), Json::Bool(true))]);
            }
            Outcome::Failed { error, .. } => self.failed(&error, &mut verdict),
            Outcome::Payloads(payloads) => {
                let mut got = together(&payloads);
                let wanted = [&self.payload, &self.contains];
                if payloads.len() == 1 && wanted.iter().any(|want| want.as_ref().is_some_and(is_a_list)) {
                    // A fan-out of one.
                    got = Json::List(Arc::new(vec![got]));
                }
                self.compare(&payloads, &got, &mut verdict.faults);
                verdict.actual = self.actual(&payloads, &got);
                verdict.payload = Some(got);
            }
        }
        verdict
    }

    /// Whether it is about a rule only, or about an adapter only.
    #[must_use]
    pub fn is_of_adapter(&self) -> Option<bool> {
        if self.events.is_some() {
            return Some(true);
        }
        (self.payload.is_some() || !self.headers.is_empty()).then_some(false)
    }

    /// Gives the message to the adapter and compares. What comes out must be events, whatever is expected.
    #[must_use]
    pub fn check_adapter(&self, adapter: &Adapter, message: &Message) -> Verdict {
        let mut trace = Trace::default();
        let result = adapter.rehearse(message, &mut trace);
        let mut verdict = Verdict { faults: Vec::new(), payload: None, log: trace.log, actual: Json::Null };
        match result {
            Err(error) => self.failed(&error, &mut verdict),
            Ok(events) if events.is_empty() => {
                if !self.skipped && self.events.as_ref().is_none_or(|want| !want.is_empty()) {
                    verdict.faults.push("the message made no event".into());
                }
                verdict.actual = Json::map(vec![(Arc::from("skipped"), Json::Bool(true))]);
            }
            Ok(events) => {
                for (i, event) in events.iter().enumerate() {
                    for error in Incoming::read(event).err().into_iter().flatten() {
                        let place =
                            if error.pointer.is_empty() { String::new() } else { format!("{}: ", error.pointer) };
                        verdict.faults.push(format!("event {i} is no event: {place}{}", error.reason));
                    }
                }
                self.compare_events(events, &mut verdict);
            }
        }
        verdict
    }

    fn compare_events(&self, events: Vec<Json>, verdict: &mut Verdict) {
        let one = events.len() == 1;
        let got = Json::List(Arc::new(events));
        let faults = &mut verdict.faults;
        if self.skipped {
            faults.push("the message made events, it was not skipped".into());
        }
        if let Some(part) = &self.error {
            faults.push(format!("the message made events; an error was expected that says `{part}`"));
        }
        let got_value = value(&got);
        if let Some(want) = self.events.as_ref().map(value)
            && want != got_value
        {
            faults.push(format!("the events differ (- expected, + got):\n{}", diff(&want, &got_value)));
        }
        // A single event may be written without its array.
        let single = one && self.contains.as_ref().is_some_and(|want| want.kind() == Kind::Object);
        let got_part = if single { got.at(0).unwrap_or(Json::Null) } else { got.clone() };
        if let Some(want) = self.contains.as_ref().map(value) {
            let mut missing = String::new();
            contains(&want, &value(&got_part), if single { "event" } else { "events" }, &mut missing);
            if !missing.is_empty() {
                faults.push(format!("the events lack (- expected, + got):\n{}", missing.trim_end()));
            }
        }
        let part = self.contains.as_ref().map(|want| overlap(want, &got_part)).filter(|part| !part.is_empty());
        let mut members: Vec<(Arc<str>, Json)> = Vec::new();
        if self.events.is_some() || part.is_none() {
            members.push((Arc::from("events"), got.clone()));
        }
        members.extend(part.map(|part| (Arc::from("contains"), part)));
        verdict.actual = Json::map(members);
        verdict.payload = Some(got);
    }

    fn failed(&self, error: &RuleError, verdict: &mut Verdict) {
        let report = error.report();
        verdict.actual = Json::map(vec![(Arc::from("error"), Json::text(&error.message))]);
        match &self.error {
            Some(part) if report.contains(part.as_str()) => {}
            Some(part) => verdict.faults.push(format!("the error does not say `{part}`:\n{report}")),
            None => verdict.faults.push(format!("the rule failed:\n{report}")),
        }
    }

    /// What came, told as this expectation tells it: its members, with the values that came.
    fn actual(&self, payloads: &[Payload], got: &Json) -> Json {
        let mut members = Vec::new();
        let part = self.contains.as_ref().map(|want| overlap(want, got)).filter(|part| !part.is_empty());
        let headers: Vec<(Arc<str>, Json)> = self
            .headers
            .iter()
            .filter_map(|(name, _)| {
                let mut all = payloads.iter().flat_map(|p| &p.headers);
                let (_, value) = all.find(|(n, _)| n.eq_ignore_ascii_case(name))?;
                Some((Arc::from(name.as_str()), Json::text(value)))
            })
            .collect();
        if self.payload.is_some() || (part.is_none() && headers.is_empty()) {
            members.push((Arc::from("payload"), got.clone()));
        }
        if let Some(part) = part {
            members.push((Arc::from("contains"), part));
        }
        if !headers.is_empty() {
            members.push((Arc::from("headers"), Json::map(headers)));
        }
        Json::map(members)
    }

    fn compare(&self, payloads: &[Payload], got: &Json, faults: &mut Vec<String>) {
        if self.skipped {
            faults.push("the event was sent, not skipped".into());
        }
        if let Some(part) = &self.error {
            faults.push(format!("the event was sent; an error was expected that says `{part}`"));
        }
        let got_value = value(got);
        if let Some(want) = self.payload.as_ref().map(value)
            && want != got_value
        {
            faults.push(format!("the payload differs (- expected, + got):\n{}", diff(&want, &got_value)));
        }
        if let Some(want) = self.contains.as_ref().map(value) {
            let mut missing = String::new();
            contains(&want, &got_value, "payload", &mut missing);
            if !missing.is_empty() {
                faults.push(format!("the payload lacks (- expected, + got):\n{}", missing.trim_end()));
            }
        }
        for (name, want) in &self.headers {
            for payload in payloads {
                let got = payload.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str());
                if got != Some(want) {
                    faults.push(format!(
                        "the header {name} is {}, not `{want}`",
                        got.map_or("missing".into(), |g| format!("`{g}`"))
                    ));
                }
            }
        }
    }
}

fn is_a_list(json: &Json) -> bool {
    json.kind() == Kind::Array && !json.is_empty()
}

/// One payload by itself, several as an array.
fn together(payloads: &[Payload]) -> Json {
    let mut all: Vec<Json> = payloads.iter().map(|p| Json::parse(p.body.clone()).unwrap_or(Json::Null)).collect();
    match all.len() {
        1 => all.remove(0),
        _ => Json::List(Arc::new(all)),
    }
}

/// The members of `got` that `want` names, at every depth of maps.
fn overlap(want: &Json, got: &Json) -> Json {
    if want.kind() != Kind::Object || got.kind() != Kind::Object {
        return got.clone();
    }
    let common = want.members().filter_map(|(key, want)| Some((Arc::clone(&key), overlap(&want, &got.get(&key)?))));
    Json::map(common.collect())
}

/// For comparing and showing: maps without order, and numbers that no float holds by their digits.
#[must_use]
pub fn value(json: &Json) -> serde_json::Value {
    match json.kind() {
        Kind::Object => json.members().map(|(k, v)| (k.to_string(), value(&v))).collect(),
        Kind::Array => json.items().map(|v| value(&v)).collect(),
        Kind::Number if number::is_exact(&json.as_number().unwrap_or_default()) => {
            format!("{} (number)", json.as_number().unwrap_or_default()).into()
        }
        _ => json.decode().unwrap_or(serde_json::Value::Null),
    }
}

/// A line diff of two values with sorted keys.
#[must_use]
pub fn diff(want: &serde_json::Value, got: &serde_json::Value) -> String {
    let (want, got) = (format!("{want:#}"), format!("{got:#}"));
    let text = similar::TextDiff::from_lines(&want, &got);
    let mut out = String::new();
    for change in text.iter_all_changes() {
        let sign = match change.tag() {
            similar::ChangeTag::Delete => '-',
            similar::ChangeTag::Insert => '+',
            similar::ChangeTag::Equal => ' ',
        };
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{sign} {}", change.value().trim_end_matches('\n'));
    }
    out.truncate(out.trim_end().len());
    out
}

/// Writes a line for each part of `want` that `got` does not have.
fn contains(want: &serde_json::Value, got: &serde_json::Value, place: &str, missing: &mut String) {
    use serde_json::Value;
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            for (key, want) in want {
                contains(want, got.get(key).unwrap_or(&Value::Null), &format!("{place}.{key}"), missing);
            }
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            for (i, (want, got)) in want.iter().zip(got).enumerate() {
                contains(want, got, &format!("{place}[{i}]"), missing);
            }
        }
        _ if want == got => {}
        _ => {
            let _ = writeln!(missing, "- {place}: {want}\n+ {place}: {got}");
        }
    }
}
