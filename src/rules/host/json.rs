//! `parse_json` and `to_json`.

use rhai::{Array, Dynamic, Engine, ImmutableString, Map};

use super::super::engine::check_time;
use super::super::{render, view};
use super::{Fallible, bounded};
use crate::clock::Clock;
use crate::event::{Json, compact};

pub(super) fn register(engine: &mut Engine, clock: &Clock) {
    let clock = clock.clone();
    engine.register_fn("parse_json", move |text: &str| -> Fallible<Dynamic> {
        // A text is as long as a string may be, which bounds the parser; there is no way to look at the clock in it.
        let parsed = Json::parse(text.to_owned());
        check_time(&clock)?;
        match parsed {
            Ok(json) => Ok(view::to_dynamic(&json)),
            Err(error) => Err(format!("parse_json: {error}").into()),
        }
    });
    // Rhai has one of its own for maps, so the exact types are named beside the general one.
    engine.register_fn("to_json", |value: Dynamic| to_json(&value));
    engine.register_fn("to_json", |map: Map| to_json(&map.into()));
    engine.register_fn("to_json", |array: Array| to_json(&array.into()));
    engine.register_fn("to_json", |map: view::MapView| to_json(&Dynamic::from(map)));
    engine.register_fn("to_json", |list: view::ListView| to_json(&Dynamic::from(list)));
}

fn to_json(value: &Dynamic) -> Fallible<ImmutableString> {
    let mut out = Vec::new();
    render::to_json(value, None, "value", &mut out).map_err(|(_, message)| format!("to_json: {message}"))?;
    // Parts of the event come as they were sent.
    bounded(compact(&String::from_utf8_lossy(&out)))
}
