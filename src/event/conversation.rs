//! A conversation's state and how events change it: messages are appended, maps are merged, and a lifecycle event sees
//! everything up to its moment. Pure: where the state is kept is not known here.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use super::json::{self, Member};
use super::{Event, Incoming, Json, Kind, MAPS, Role};
use crate::clock::Timestamp;

const ANALYSIS: usize = 5;
const CONVERSATION: usize = 1;

/// What is known of a conversation, messages aside: those are handed in where they are needed.
#[derive(Debug, Clone, Default)]
pub struct State {
    /// The maps of [`MAPS`] in that order; `conversation` without `id` and `messages`.
    maps: [Option<Json>; 6],
}

/// What an event does to the stored messages.
#[derive(Debug, Clone)]
pub enum Messages {
    /// They stay.
    Keep,
    /// One more.
    Append(Json),
    /// These instead.
    Replace(Json),
}

/// The change that one event makes.
#[derive(Debug, Clone)]
pub struct Change {
    /// What happens to the messages.
    pub messages: Messages,
    /// Whether any map is different now.
    pub maps_changed: bool,
    /// `Some(true)`: the conversation ends. `Some(false)`: it is open again.
    pub ended: Option<bool>,
}

impl Change {
    /// None.
    #[must_use]
    pub fn nothing() -> Self {
        Self { messages: Messages::Keep, maps_changed: false, ended: None }
    }
}

impl State {
    /// From its stored form: a JSON object of maps.
    #[must_use]
    pub fn from_stored(maps: &Bytes) -> Self {
        let mut state = Self::default();
        if let Ok(stored) = Json::parse(maps.clone()) {
            for (slot, name) in state.maps.iter_mut().zip(MAPS) {
                *slot = stored.get(name);
            }
        }
        state
    }

    /// Its stored form.
    #[must_use]
    pub fn to_stored(&self) -> Bytes {
        let members = MAPS.iter().zip(&self.maps).filter_map(|(name, map)| Some((Arc::from(*name), map.clone()?)));
        Json::map(members.collect()).to_bytes()
    }

    /// The analysis that is known so far.
    #[must_use]
    pub fn analysis(&self) -> Json {
        self.maps[ANALYSIS].clone().unwrap_or_else(Json::empty_map)
    }

    /// Adds results of analyses; what is there already stays. `None` where nothing is new.
    pub fn add_analysis(&mut self, results: &[Member]) -> Option<Change> {
        let mut members: Vec<Member> = self.maps[ANALYSIS].iter().flat_map(Json::members).collect();
        json::keep_last(&mut members);
        let before = members.len();
        json::add_missing(&mut members, results.iter().cloned());
        (members.len() > before).then(|| {
            self.maps[ANALYSIS] = Some(Json::map(members));
            Change { maps_changed: true, ..Change::nothing() }
        })
    }

    /// Takes an event in and says what changed. `None` for events that leave the state alone.
    pub fn apply(&mut self, incoming: &Incoming) -> Option<Change> {
        let mut change = Change::nothing();
        match incoming.role() {
            Role::Other => return None,
            Role::Message => {
                change.messages = Messages::Append(incoming.message.clone()?);
            }
            Role::Update => {
                for (slot, update) in self.maps.iter_mut().zip(&incoming.maps) {
                    if let Some(update) = update {
                        *slot = Some(merge(slot.as_ref(), update));
                        change.maps_changed = true;
                    }
                }
                if let Some(messages) = &incoming.messages {
                    change.messages = Messages::Replace(messages.clone());
                }
            }
            role @ (Role::Begin | Role::Resume | Role::End) => {
                for (i, (slot, map)) in self.maps.iter_mut().zip(&incoming.maps).enumerate() {
                    if let Some(map) = map {
                        *slot = Some(if i == CONVERSATION { merge(slot.as_ref(), map) } else { map.clone() });
                        change.maps_changed = true;
                    }
                }
                if let Some(messages) = &incoming.messages {
                    change.messages = Messages::Replace(messages.clone());
                }
                change.ended = Some(role == Role::End);
            }
        }
        Some(change)
    }

    /// The event as its webhooks see it. `messages` are the conversation's, as they stand after the event; only
    /// lifecycle events see state.
    #[must_use]
    pub fn assemble(&self, incoming: &Incoming, messages: Option<&Json>, stamp: Stamp) -> Event {
        let role = incoming.role();
        let mut root: Vec<(Arc<str>, Json)> = Vec::with_capacity(10 + incoming.extra.len());
        let time = incoming.time.clone().unwrap_or_else(|| Arc::from(stamp.arrived.to_string()));
        root.push((Arc::from("id"), Json::Text(Arc::clone(&stamp.id))));
        root.push((Arc::from("type"), Json::Text(Arc::clone(&incoming.kind))));
        root.push((Arc::from("time"), Json::Text(Arc::clone(&time))));
        for (i, name) in MAPS.iter().enumerate() {
            let from_state = role.is_lifecycle() && (i != ANALYSIS || role == Role::End);
            let stored = if from_state { self.maps[i].as_ref() } else { None };
            let mut map =
                incoming.maps[i].as_ref().filter(|_| i != CONVERSATION || stored.is_none()).or(stored).cloned();
            if i == CONVERSATION {
                let mut members = Vec::new();
                if let Some(id) = &incoming.conversation {
                    members.push((Arc::from("id"), Json::Text(Arc::clone(id))));
                }
                let messages = incoming.messages.clone().or_else(|| messages.cloned()).unwrap_or_else(Json::empty_list);
                members.push((Arc::from("messages"), messages));
                members.extend(map.iter().flat_map(Json::members).filter(|(k, _)| !matches!(&**k, "id" | "messages")));
                map = Some(Json::map(members));
            }
            root.push((Arc::from(*name), map.unwrap_or_else(Json::empty_map)));
        }
        root.extend(incoming.extra.iter().cloned());
        Event {
            namespace: stamp.namespace,
            id: stamp.id,
            kind: Arc::clone(&incoming.kind),
            time,
            arrived: stamp.arrived,
            conversation: incoming.conversation.clone(),
            traceparent: incoming.traceparent.clone().or(stamp.traceparent),
            root: Json::map(root),
        }
    }
}

/// What arrival adds to an item.
#[derive(Debug, Clone)]
pub struct Stamp {
    /// Namespace of the source.
    pub namespace: Arc<str>,
    /// The sender's id, or a new one.
    pub id: Arc<str>,
    /// Now.
    pub arrived: Timestamp,
    /// Trace context of the request.
    pub traceparent: Option<Arc<str>>,
}

/// `onto` with the members of `update`, one level deep; a null removes its key. Of a name that `onto` repeats the last
/// counts, as everywhere.
fn merge(onto: Option<&Json>, update: &Json) -> Json {
    let mut before: Vec<Member> = onto.into_iter().flat_map(Json::members).collect();
    let mut updates: Vec<Member> = update.members().collect();
    json::keep_last(&mut before);
    json::keep_last(&mut updates);
    let mut changes: HashMap<Arc<str>, Json> = updates.iter().cloned().collect();
    let mut merged = Vec::with_capacity(before.len() + updates.len());
    for (key, value) in before {
        match changes.remove(&key) {
            None => merged.push((key, value)),
            Some(new) if new.is_null() => {}
            Some(new) => merged.push((key, new)),
        }
    }
    merged.extend(updates.into_iter().filter(|(key, value)| !value.is_null() && changes.contains_key(key)));
    Json::map(merged)
}

impl Event {
    /// The event with another `analysis`: what a wait ends with.
    #[must_use]
    pub fn with_analysis(mut self, analysis: &Json) -> Self {
        let members = self.root.members().map(|(k, v)| if &*k == "analysis" { (k, analysis.clone()) } else { (k, v) });
        self.root = Json::map(members.collect());
        self
    }

    /// The event with results of analyses beside those that it has.
    #[must_use]
    pub fn with_results(self, results: &[Member]) -> Self {
        let mut members: Vec<Member> = self.map("analysis").members().collect();
        json::keep_last(&mut members);
        json::add_missing(&mut members, results.iter().cloned());
        self.with_analysis(&Json::map(members))
    }

    /// The form in which a waiting or kept event is stored.
    #[must_use]
    pub fn to_stored(&self) -> Bytes {
        let text = |s: &Arc<str>| Json::Text(Arc::clone(s));
        let mut members = vec![
            (Arc::from("namespace"), text(&self.namespace)),
            (Arc::from("arrived"), Json::Int(self.arrived.as_millis())),
            (Arc::from("event"), self.root.clone()),
        ];
        if let Some(trace) = &self.traceparent {
            members.push((Arc::from("traceparent"), text(trace)));
        }
        Json::map(members).to_bytes()
    }

    /// Reads what [`Event::to_stored`] wrote; `None` when it is not that.
    #[must_use]
    pub fn from_stored(bytes: Bytes) -> Option<Self> {
        let stored = Json::parse(bytes).ok()?;
        let root = stored.get("event").filter(|r| r.kind() == Kind::Object)?;
        let text = |json: Option<Json>| json.and_then(|v| v.as_str().map(|s| Arc::<str>::from(&*s)));
        Some(Self {
            namespace: text(stored.get("namespace"))?,
            id: text(root.get("id"))?,
            kind: text(root.get("type"))?,
            time: text(root.get("time"))?,
            arrived: Timestamp::from_millis(stored.get("arrived")?.as_number()?.parse().ok()?),
            conversation: text(root.get("conversation").and_then(|c| c.get("id"))),
            traceparent: text(stored.get("traceparent")),
            root,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn incoming(text: &str) -> Incoming {
        Incoming::read(&Json::parse(text.to_owned()).expect("JSON")).expect("an event")
    }

    fn stamp() -> Stamp {
        Stamp { namespace: "".into(), id: "evt_1".into(), arrived: Timestamp::from_millis(0), traceparent: None }
    }

    fn shown(json: &Json) -> String {
        String::from_utf8(json.to_bytes().to_vec()).expect("UTF-8")
    }

    #[test]
    fn an_end_sees_everything_before_it() {
        let mut state = State::default();
        let begin =
            incoming(r#"{"type":"conversation.begin","conversation":{"id":1},"argument":{"a":1},"metadata":{"k":1}}"#);
        assert!(state.apply(&begin).expect("a change").maps_changed);
        let message = incoming(r#"{"type":"message.sent","conversation":{"id":1},"message":{"role":"user"}}"#);
        assert!(matches!(state.apply(&message).expect("a change").messages, Messages::Append(_)));
        let update = incoming(
            r#"{"type":"conversation.update","conversation":{"id":1,"lang":"de"},"metadata":{"k":null,"l":2},"analysis":{"s":1}}"#,
        );
        state.apply(&update);
        let end = incoming(r#"{"type":"conversation.completed","conversation":{"id":1},"argument":{"b":2},"x":1}"#);
        assert_eq!(state.apply(&end).expect("a change").ended, Some(true));
        let state = State::from_stored(&state.to_stored());
        let event = state.assemble(&end, Some(&Json::parse(r#"[{"role":"user"}]"#).expect("JSON")), stamp());
        assert_eq!(
            shown(&event.root),
            r#"{"id":"evt_1","type":"conversation.completed","time":"1970-01-01T00:00:00.000Z","assistant":{},"conversation":{"id":"1","messages":[{"role":"user"}],"lang":"de"},"argument":{"b":2},"metadata":{"l":2},"option":{},"analysis":{"s":1},"x":1}"#
        );
        let begin = state.assemble(&begin, None, stamp());
        assert_eq!(shown(&begin.map("analysis")), "{}", "analysis exists only once the conversation has ended");
    }

    #[test]
    fn maps_are_merged_one_level_deep() {
        for (onto, update, merged) in [
            (r#"{"a":1,"b":{"x":1}}"#, r#"{"b":{"y":2},"c":3}"#, r#"{"a":1,"b":{"y":2},"c":3}"#),
            (r#"{"a":1,"b":2}"#, r#"{"a":null,"z":null}"#, r#"{"b":2}"#),
            (r#"{"a":null}"#, r#"{"b":1}"#, r#"{"a":null,"b":1}"#),
            // Of repeated names the last counts, on either side.
            (r#"{"a":1,"a":2}"#, r#"{"b":1}"#, r#"{"a":2,"b":1}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":3}"#, r#"{"a":3}"#),
            (r#"{"a":1,"a":2}"#, r#"{"a":null}"#, "{}"),
            ("{}", r#"{"a":null,"b":1,"a":2}"#, r#"{"b":1,"a":2}"#),
        ] {
            let json = |text: &str| Json::parse(text.to_owned()).expect("JSON");
            assert_eq!(shown(&merge(Some(&json(onto)), &json(update))), merged, "{onto} and {update}");
        }
    }

    #[test]
    fn stored_events_come_back_whole() {
        let end = incoming(
            r#"{"type":"conversation.failed","conversation":{"id":"c"},"reason":"x","big":123456789012345678901}"#,
        );
        let event = State::default().assemble(&end, None, stamp());
        let back = Event::from_stored(event.to_stored()).expect("the stored form");
        assert_eq!(shown(&back.root), shown(&event.root));
        assert_eq!((back.conversation.as_deref(), &*back.kind), (Some("c"), "conversation.failed"));
        let late = back.with_analysis(&Json::parse(r#"{"s":{}}"#).expect("JSON"));
        assert_eq!(shown(&late.map("analysis")), r#"{"s":{}}"#);
        assert!(Event::from_stored(Bytes::from_static(b"[]")).is_none());
    }
}
