//! Adapters: one message of a source in, the events it stands for out. Does not check whether what comes out are events;
//! that is `event::Incoming`'s.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest;
use bytes::Bytes;
use rhai::{Array, Dynamic, Map};

use super::engine::{Call, Facts, Mode};
use super::host::crypto;
use super::program::{RuleError, Trace};
use super::scripts::Rule;
use super::{engine, lint, render, view};
use crate::clock::Timestamp;
use crate::event::{Json, Kind, json};
use crate::limits;
use crate::telemetry::rules::{RuleFailed, RuleRan};

/// The function that makes a script an adapter.
const ADAPT: &str = "adapt";

/// Which way a message went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Direction {
    /// To the server; also what a source without two sides receives.
    #[default]
    Request,
    /// From the server.
    Response,
    /// On a WebSocket, from the client.
    Client,
    /// On a WebSocket, from the server.
    Server,
}

impl Direction {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Request, Self::Response, Self::Client, Self::Server];

    /// `message.direction`
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::Response => "response",
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

/// One message of a source, as an adapter gets it.
#[derive(Debug, Clone)]
pub struct Message {
    /// `body`: see [`Message::body_of`].
    pub body: Json,
    /// `path` of the request, with its query where it has one; empty where there is no request.
    pub path: String,
    /// `headers`, names in any case; what comes several times is joined with `, `. Scripts get all but
    /// authorization.
    pub headers: Vec<(String, String)>,
    /// `direction`
    pub direction: Direction,
    /// When it came in: `now()`.
    pub arrived: Timestamp,
}

impl Message {
    /// The value of a body: what it says where it is JSON, else its text. Bytes that are no UTF-8 are replaced.
    #[must_use]
    pub fn body_of(bytes: &Bytes) -> Json {
        match Json::parse(bytes.clone()) {
            Ok(json) => json,
            Err(_) => Json::text(&String::from_utf8_lossy(bytes)),
        }
    }

    /// What the script sees. Shares the body.
    fn root(&self) -> Json {
        let mut headers: Vec<json::Member> = Vec::with_capacity(self.headers.len());
        for (name, value) in &self.headers {
            let name = name.to_ascii_lowercase();
            // A script may log what it gets; what opens doors is none of its business.
            if matches!(name.as_str(), "authorization" | "proxy-authorization") {
                continue;
            }
            match headers.iter_mut().find(|(known, _)| **known == *name) {
                Some((_, known)) => *known = Json::text(&format!("{}, {value}", known.as_str().unwrap_or_default())),
                None => headers.push((Arc::from(name), Json::text(value))),
            }
        }
        Json::map(vec![
            (Arc::from("body"), self.body.clone()),
            (Arc::from("path"), Json::text(&self.path)),
            (Arc::from("headers"), Json::map(headers)),
            (Arc::from("direction"), Json::text(self.direction.name())),
        ])
    }

    /// A name made of direction, path and body, so that a message which is sent once more gives the same `uuid()`s. Headers
    /// are no part of it: dates and signatures differ from one attempt to the next.
    fn id(&self) -> Arc<str> {
        let mut hash = digest::Context::new(&digest::SHA256);
        for part in [self.direction.name().as_bytes(), self.path.as_bytes()] {
            hash.update(part);
            hash.update(&[0]);
        }
        hash.update(&self.body.to_bytes());
        format!("message-{}", crypto::hex(&hash.finish().as_ref()[..16])).into()
    }
}

/// A script with `fn adapt(message)`, from one generation. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Adapter {
    rule: Arc<Rule>,
    suspend_for: Duration,
}

/// The same script, resting for as long.
impl PartialEq for Adapter {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.rule, &other.rule) && self.suspend_for == other.suspend_for
    }
}

impl Adapter {
    /// The script as an adapter, which rests for `suspend_for` after five time-outs in a row. The error says what it
    /// lacks, and what may have been meant.
    pub fn new(rule: Arc<Rule>, suspend_for: Duration) -> Result<Self, String> {
        if rule.has(ADAPT, 1) {
            return Ok(Self { rule, suspend_for });
        }
        let names = rule.functions().iter().map(|(name, _)| name.as_str());
        let hint = match lint::nearest(ADAPT, names) {
            Some(near) => format!("did you mean `{near}`? It must be called adapt"),
            None if ["accept", "transform", "headers"]
                .iter()
                .any(|name| rule.functions().iter().any(|f| f.0 == *name)) =>
            {
                "this is a rule, for a webhook's `rule`".to_owned()
            }
            None => "write one that returns an event, an array of events, or ()".to_owned(),
        };
        Err(format!("{} has no fn adapt(message): {hint}", rule.file()))
    }

    /// The script, relative to `rules_dir`, or `sidehook/…`.
    #[must_use]
    pub fn file(&self) -> &str {
        self.rule.file()
    }

    /// The metrics' label.
    #[must_use]
    pub fn name(&self) -> &str {
        self.rule.name()
    }

    /// The events that a message stands for, in order; none where it says nothing of interest. Each is an object, else
    /// unchecked. Blocks for the script's time at most.
    pub fn adapt(&self, message: &Message) -> Result<Vec<Json>, RuleError> {
        let result = self.on_stack(|| self.run(&begin(message, Mode::Service), message));
        if let Err(error) = &result {
            RuleFailed { rule: self.name(), kind: error.kind }.emit();
        }
        result
    }

    /// The same, where it takes next to no time, so that it may be called where others wait: see
    /// [`super::Program::evaluate_quickly`]. `None`: it was not done, and [`Adapter::adapt`] has to.
    #[must_use]
    pub fn adapt_quickly(&self, message: &Message) -> Option<Vec<Json>> {
        if !self.rule.health().is_quick() {
            return None;
        }
        let events = self.on_stack(|| {
            let call = begin(message, Mode::Quick);
            let events = self.run(&call, message).ok().filter(|_| !call.spoke())?;
            RuleRan { rule: self.name(), took: call.took() }.emit();
            Some(events)
        });
        let health = self.rule.health();
        if events.is_none() {
            health.takes_long();
        } else {
            health.was_quick();
        }
        events
    }

    /// The same as a rehearsal: in no metric and no log, and without a say in whether the script rests.
    pub fn rehearse(&self, message: &Message, trace: &mut Trace) -> Result<Vec<Json>, RuleError> {
        self.on_stack(|| {
            let call = begin(message, Mode::Rehearsal);
            let result = self.run(&call, message);
            trace.log = call.log();
            trace.operations = call.operations();
            trace.micros = u64::try_from(call.took().as_micros()).unwrap_or(u64::MAX);
            result
        })
    }

    fn on_stack<T>(&self, run: impl FnOnce() -> T) -> T {
        engine::with_stack(self.rule.limits(), run)
    }

    fn run(&self, call: &Call, message: &Message) -> Result<Vec<Json>, RuleError> {
        let mut args = [view::of_message(&message.root())];
        let given = self.rule.call(call, ADAPT, &mut args, self.suspend_for)?.flatten();
        self.events(&given)
    }

    /// What `adapt` returned: an event, an array of events, or nothing.
    fn events(&self, given: &Dynamic) -> Result<Vec<Json>, RuleError> {
        if given.is_unit() {
            return Ok(Vec::new());
        }
        let mut left = limits::PAYLOAD_BYTES;
        let mut event = |item: &Dynamic, name: &str| {
            let is_map = item.read_lock::<Map>().is_some()
                || view::json_of(item).is_some_and(|json| json.kind() == Kind::Object);
            if !is_map {
                let kind = view::describe(item);
                let message = format!("{name} is {kind}; adapt returns an event (a map), an array of events, or ()");
                return Err(self.fault("type", message));
            }
            render::compose(item, name, &mut left).map_err(|(kind, message)| self.fault(kind, message))
        };
        let listed = view::json_of(given).is_some_and(|json| json.kind() == Kind::Array);
        let list = if listed { view::thaw(given) } else { Ok(given.clone()) };
        let list = list.map_err(|error| self.fault("size", error.to_string()))?;
        let Some(items) = list.read_lock::<Array>() else { return Ok(vec![event(given, "event")?]) };
        if items.len() > limits::ADAPTED_EVENTS {
            let message = format!("gave {} events; at most {} are taken", items.len(), limits::ADAPTED_EVENTS);
            return Err(self.fault("size", message));
        }
        items.iter().enumerate().map(|(i, item)| event(item, &format!("event {i}"))).collect()
    }

    fn fault(&self, kind: &'static str, message: String) -> RuleError {
        self.rule.fault(ADAPT, kind, message)
    }
}

fn begin(message: &Message, mode: Mode) -> Call {
    Call::begin(Some(Facts { id: message.id(), arrived: message.arrived }), mode)
}
