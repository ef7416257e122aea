//! Maps and arrays as text, the way Rhai prints them, but bounded: Rhai's own functions follow any depth and length,
//! and a view may stand for megabytes.

use std::fmt::Write as _;

use rhai::{Array, Dynamic, Engine, EvalAltResult, ImmutableString, Map, NativeCallContext};

use super::engine::{check_time, too_large};
use super::view::{self, ListView, MapView};
use crate::clock::Clock;
use crate::limits;

type Fallible<T> = Result<T, Box<EvalAltResult>>;

pub(super) fn register(engine: &mut Engine, clock: &Clock) {
    for name in ["to_string", "to_debug", "print", "debug"] {
        let c = clock.clone();
        engine.register_fn(name, move |ctx: NativeCallContext, value: Map| text(&ctx, &value.into(), &c));
        let c = clock.clone();
        engine.register_fn(name, move |ctx: NativeCallContext, value: Array| text(&ctx, &value.into(), &c));
        let c = clock.clone();
        engine.register_fn(name, move |ctx: NativeCallContext, value: MapView| text(&ctx, &Dynamic::from(value), &c));
        let c = clock.clone();
        engine.register_fn(name, move |ctx: NativeCallContext, value: ListView| text(&ctx, &Dynamic::from(value), &c));
    }
}

fn text(ctx: &NativeCallContext, value: &Dynamic, clock: &Clock) -> Fallible<ImmutableString> {
    let mut out = String::new();
    write(ctx, value, &mut out, clock, 0)?;
    Ok(out.into())
}

fn write(ctx: &NativeCallContext, value: &Dynamic, out: &mut String, clock: &Clock, depth: usize) -> Fallible<()> {
    if depth > limits::JSON_DEPTH || out.len() > limits::SCRIPT_STRING_BYTES {
        return Err(too_large());
    }
    let value = view::thaw(value).map_err(|_| too_large())?;
    if let Some(map) = value.read_lock::<Map>() {
        check_time(clock)?;
        out.push_str("#{");
        for (i, (key, value)) in map.iter().enumerate() {
            // Writing to a String cannot fail.
            let _ = write!(out, "{}{key:?}: ", if i > 0 { ", " } else { "" });
            write(ctx, value, out, clock, depth + 1)?;
        }
        out.push('}');
    } else if let Some(array) = value.read_lock::<Array>() {
        check_time(clock)?;
        out.push('[');
        for (i, value) in array.iter().enumerate() {
            out.push_str(if i > 0 { ", " } else { "" });
            write(ctx, value, out, clock, depth + 1)?;
        }
        out.push(']');
    } else {
        let mut value = value.clone();
        let text = ctx.call_native_fn_raw("to_debug", true, &mut [&mut value])?;
        out.push_str(text.read_lock::<ImmutableString>().as_deref().map_or("", |text| text.as_str()));
    }
    Ok(())
}
