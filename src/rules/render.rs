//! What a script returned becomes JSON text. Views are copied byte for byte; what is no JSON is an error that names
//! the place. Bounded in depth and in bytes.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rhai::{Array, Dynamic, FLOAT, ImmutableString, Map};

use super::number::Exact;
use super::view;
use crate::event::{Json, json};
use crate::limits;

/// Why a value has no JSON text: the metric's kind and the message.
pub(super) type Unfit = (&'static str, String);

/// Where in a value one is, for messages: a chain on the stack that is written out only when it is asked for.
struct Place<'a> {
    within: Option<&'a Place<'a>>,
    step: Step<'a>,
    depth: usize,
}

enum Step<'a> {
    Top(&'a str),
    Member(&'a str),
    Item(usize),
}

impl<'a> Place<'a> {
    fn top(name: &'a str) -> Self {
        Self { within: None, step: Step::Top(name), depth: 1 }
    }

    fn step<'b>(&'b self, step: Step<'b>) -> Place<'b> {
        Place { within: Some(self), step, depth: self.depth + 1 }
    }

    /// An error where it is too deep.
    fn check_depth(&self) -> Result<(), Unfit> {
        if self.depth <= limits::JSON_DEPTH {
            return Ok(());
        }
        let mut start = self;
        while let Some(within) = start.within.filter(|_| start.depth > 4) {
            start = within;
        }
        Err(("size", format!("{start} is nested deeper than {} levels", limits::JSON_DEPTH)))
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(within) = self.within {
            within.fmt(f)?;
        }
        match self.step {
            Step::Top(name) => f.write_str(name),
            Step::Member(name) => write!(f, ".{name}"),
            Step::Item(n) => write!(f, "[{n}]"),
        }
    }
}

/// The JSON text of a value that is called `name` in messages. Where a part still says what the same part of
/// `origin` says, the bytes of the origin are written, and its members keep their order.
pub(super) fn to_json(value: &Dynamic, origin: Option<&Json>, name: &str, out: &mut Vec<u8>) -> Result<(), Unfit> {
    write(value, origin, out, &Place::top(name))
}

fn write(value: &Dynamic, origin: Option<&Json>, out: &mut Vec<u8>, place: &Place<'_>) -> Result<(), Unfit> {
    place.check_depth()?;
    if let Some(json) = view::json_of(value) {
        json.write(out);
    } else if let Some(origin) = origin.filter(|origin| view::unchanged(Some(origin), value)) {
        origin.write(out);
    } else if let Some(map) = value.read_lock::<Map>() {
        write_map(&map, origin, out, place)?;
    } else if let Some(array) = value.read_lock::<Array>() {
        out.push(b'[');
        let mut origins = origin.map(Json::items);
        for (i, value) in array.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            let origin = origins.as_mut().and_then(Iterator::next);
            write(value, origin.as_ref(), out, &place.step(Step::Item(i)))?;
        }
        out.push(b']');
    } else {
        write_scalar(value, out, place)?;
    }
    if out.len() > limits::PAYLOAD_BYTES {
        return Err(("size", format!("the payload is larger than {} bytes", limits::PAYLOAD_BYTES)));
    }
    Ok(())
}

/// What a script returned as a JSON value that shares the parts which the script did not touch; `name` as in
/// [`to_json`]. Takes its size from `left`.
pub(super) fn compose(value: &Dynamic, name: &str, left: &mut usize) -> Result<Json, Unfit> {
    part(value, &Place::top(name), left)
}

fn part(value: &Dynamic, place: &Place<'_>, left: &mut usize) -> Result<Json, Unfit> {
    place.check_depth()?;
    let (json, weight) = if let Some(json) = view::json_of(value) {
        let weight = json.weight();
        (json, weight)
    } else if let Some(map) = value.read_lock::<Map>() {
        let mut members = Vec::with_capacity(map.len());
        for (key, value) in &*map {
            members.push((Arc::from(key.as_str()), part(value, &place.step(Step::Member(key)), left)?));
        }
        let weight = members.iter().map(|(key, _): &(Arc<str>, Json)| key.len() + 4).sum();
        (Json::map(members), weight)
    } else if let Some(array) = value.read_lock::<Array>() {
        let mut items = Vec::with_capacity(array.len());
        for (i, value) in array.iter().enumerate() {
            items.push(part(value, &place.step(Step::Item(i)), left)?);
        }
        let weight = items.len();
        (Json::List(Arc::new(items)), weight)
    } else if let Some(text) = value.read_lock::<ImmutableString>() {
        (Json::text(&text), text.len())
    } else {
        let mut out = Vec::new();
        write_scalar(value, &mut out, place)?;
        let weight = out.len();
        (Json::parse(out).unwrap_or(Json::Null), weight)
    };
    *left = left.checked_sub(weight).ok_or_else(|| {
        ("size", format!("what the script returns is larger than {} bytes together", limits::PAYLOAD_BYTES))
    })?;
    Ok(json)
}

fn write_map(map: &Map, origin: Option<&Json>, out: &mut Vec<u8>, place: &Place<'_>) -> Result<(), Unfit> {
    let mut first = true;
    let mut member = |key: &str, value: &Dynamic, origin: Option<&Json>| {
        out.push(if std::mem::take(&mut first) { b'{' } else { b',' });
        json::write_string(key, out);
        out.push(b':');
        write(value, origin, out, &place.step(Step::Member(key)))
    };
    let mut written = BTreeSet::new();
    for (key, _) in origin.map(Json::members).into_iter().flatten() {
        if let Some((key, value)) = map.get_key_value(&*key)
            && written.insert(key.as_str())
        {
            member(key, value, origin.and_then(|o| o.get(key)).as_ref())?;
        }
    }
    for (key, value) in map {
        if !written.contains(key.as_str()) {
            member(key, value, None)?;
        }
    }
    if first {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(())
}

fn write_scalar(value: &Dynamic, out: &mut Vec<u8>, place: &Place<'_>) -> Result<(), Unfit> {
    if value.is_unit() {
        out.extend_from_slice(b"null");
    } else if let Ok(b) = value.as_bool() {
        out.extend_from_slice(if b { b"true" } else { b"false" });
    } else if let Ok(n) = value.as_int() {
        out.extend_from_slice(n.to_string().as_bytes());
    } else if let Ok(f) = value.as_float() {
        write_float(f, out, place)?;
    } else if let Some(exact) = value.read_lock::<Exact>() {
        out.extend_from_slice(exact.digits().as_bytes());
    } else if let Some(text) = value.read_lock::<ImmutableString>() {
        json::write_string(&text, out);
    } else if let Ok(c) = value.as_char() {
        json::write_string(c.encode_utf8(&mut [0; 4]), out);
    } else {
        let kind = match value.type_name() {
            "Fn" => "a function",
            name if name.contains("Range") => "a range",
            name if name.contains("Vec<u8>") => "a blob",
            _ => "no JSON value",
        };
        return Err((
            "type",
            format!("{place} is {kind}; JSON has maps, arrays, strings, numbers, true, false and ()"),
        ));
    }
    Ok(())
}

fn write_float(f: FLOAT, out: &mut Vec<u8>, place: &Place<'_>) -> Result<(), Unfit> {
    if !f.is_finite() {
        return Err(("type", format!("{place} is {f}, which JSON cannot say")));
    }
    // Writing a float to a Vec cannot fail.
    let _ = serde_json::to_writer(out, &f);
    Ok(())
}
