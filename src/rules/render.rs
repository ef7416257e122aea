//! What a script returned becomes JSON text. Views are copied byte for byte; what is no JSON is an error that names
//! the place. Bounded in depth and in bytes.

use std::sync::Arc;

use rhai::{Array, Dynamic, FLOAT, ImmutableString, Map};

use super::number::Exact;
use super::view;
use crate::event::{Json, json};
use crate::limits;

/// Why a value has no JSON text: the metric's kind and the message.
pub(super) type Unfit = (&'static str, String);

/// The JSON text of a value that is called `name` in messages. Where a part still says what the same part of
/// `origin` says, the bytes of the origin are written, and its members keep their order.
pub(super) fn to_json(value: &Dynamic, origin: Option<&Json>, name: &str, out: &mut Vec<u8>) -> Result<(), Unfit> {
    let mut path = vec![name.to_owned()];
    write(value, origin, out, &mut path)
}

fn write(value: &Dynamic, origin: Option<&Json>, out: &mut Vec<u8>, path: &mut Vec<String>) -> Result<(), Unfit> {
    if path.len() > limits::JSON_DEPTH {
        return Err(("size", format!("{} is nested deeper than {} levels", place(&path[..4]), limits::JSON_DEPTH)));
    }
    if let Some(json) = view::json_of(value) {
        json.write(out);
    } else if let Some(origin) = origin.filter(|origin| view::unchanged(Some(origin), value)) {
        origin.write(out);
    } else if let Some(map) = value.read_lock::<Map>() {
        write_map(&map, origin, out, path)?;
    } else if let Some(array) = value.read_lock::<Array>() {
        out.push(b'[');
        let mut origins = origin.map(Json::items);
        for (i, value) in array.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            let origin = origins.as_mut().and_then(Iterator::next);
            path.push(format!("[{i}]"));
            write(value, origin.as_ref(), out, path)?;
            path.pop();
        }
        out.push(b']');
    } else {
        write_scalar(value, out, path)?;
    }
    if out.len() > limits::PAYLOAD_BYTES {
        return Err(("size", format!("the payload is larger than {} bytes", limits::PAYLOAD_BYTES)));
    }
    Ok(())
}

/// What a script returned as a JSON value that shares the parts which the script did not touch; `name` as in
/// [`to_json`]. Takes its size from `left`.
pub(super) fn compose(value: &Dynamic, name: &str, left: &mut usize) -> Result<Json, Unfit> {
    part(value, &mut vec![name.to_owned()], left)
}

fn part(value: &Dynamic, path: &mut Vec<String>, left: &mut usize) -> Result<Json, Unfit> {
    if path.len() > limits::JSON_DEPTH {
        return Err(("size", format!("{} is nested deeper than {} levels", place(&path[..4]), limits::JSON_DEPTH)));
    }
    let (json, weight) = if let Some(json) = view::json_of(value) {
        let weight = json.weight();
        (json, weight)
    } else if let Some(map) = value.read_lock::<Map>() {
        let mut members = Vec::with_capacity(map.len());
        for (key, value) in &*map {
            path.push(format!(".{key}"));
            members.push((Arc::from(key.as_str()), part(value, path, left)?));
            path.pop();
        }
        let weight = members.iter().map(|(key, _): &(Arc<str>, Json)| key.len() + 4).sum();
        (Json::map(members), weight)
    } else if let Some(array) = value.read_lock::<Array>() {
        let mut items = Vec::with_capacity(array.len());
        for (i, value) in array.iter().enumerate() {
            path.push(format!("[{i}]"));
            items.push(part(value, path, left)?);
            path.pop();
        }
        let weight = items.len();
        (Json::List(Arc::new(items)), weight)
    } else if let Some(text) = value.read_lock::<ImmutableString>() {
        (Json::text(&text), text.len())
    } else {
        let mut out = Vec::new();
        write_scalar(value, &mut out, path)?;
        let weight = out.len();
        (Json::parse(out).unwrap_or(Json::Null), weight)
    };
    *left = left.checked_sub(weight).ok_or_else(|| {
        ("size", format!("what the script returns is larger than {} bytes together", limits::PAYLOAD_BYTES))
    })?;
    Ok(json)
}

fn write_map(map: &Map, origin: Option<&Json>, out: &mut Vec<u8>, path: &mut Vec<String>) -> Result<(), Unfit> {
    let mut first = true;
    let mut member = |key: &str, value: &Dynamic, origin: Option<&Json>, path: &mut Vec<String>| {
        out.push(if std::mem::take(&mut first) { b'{' } else { b',' });
        json::write_string(key, out);
        out.push(b':');
        path.push(format!(".{key}"));
        write(value, origin, out, path)?;
        path.pop();
        Ok(())
    };
    let mut written = std::collections::HashSet::new();
    for (key, _) in origin.map(Json::members).into_iter().flatten() {
        if let Some(value) = map.get(&*key)
            && written.insert(Arc::clone(&key))
        {
            member(&key, value, origin.and_then(|o| o.get(&key)).as_ref(), path)?;
        }
    }
    for (key, value) in map {
        if !written.contains(key.as_str()) {
            member(key, value, None, path)?;
        }
    }
    if first {
        out.push(b'{');
    }
    out.push(b'}');
    Ok(())
}

fn write_scalar(value: &Dynamic, out: &mut Vec<u8>, path: &[String]) -> Result<(), Unfit> {
    if value.is_unit() {
        out.extend_from_slice(b"null");
    } else if let Ok(b) = value.as_bool() {
        out.extend_from_slice(if b { b"true" } else { b"false" });
    } else if let Ok(n) = value.as_int() {
        out.extend_from_slice(n.to_string().as_bytes());
    } else if let Ok(f) = value.as_float() {
        write_float(f, out, path)?;
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
            format!("{} is {kind}; JSON has maps, arrays, strings, numbers, true, false and ()", place(path)),
        ));
    }
    Ok(())
}

fn write_float(f: FLOAT, out: &mut Vec<u8>, path: &[String]) -> Result<(), Unfit> {
    if !f.is_finite() {
        return Err(("type", format!("{} is {f}, which JSON cannot say", place(path))));
    }
    // Writing a float to a Vec cannot fail.
    let _ = serde_json::to_writer(out, &f);
    Ok(())
}

fn place(path: &[String]) -> String {
    path.concat()
}
