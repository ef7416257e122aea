//! The functions that sidehook gives to scripts beside Rhai's own. Each is bounded by the limits of the call, none
//! does I/O, and [`docs`] describes every one.

pub(super) mod crypto;
pub mod docs;
mod json;
pub(super) mod log;
mod phone;
mod redact;
mod regexes;
mod text;
mod time;

use std::collections::BTreeMap;
use std::sync::Arc;

use rhai::{Engine, EvalAltResult, FLOAT, INT, ImmutableString};

use crate::clock::Clock;
use crate::limits;

/// What a host function gives.
type Fallible<T> = Result<T, Box<EvalAltResult>>;

/// What host functions need from outside.
pub(super) struct Host {
    /// What `env()` may read.
    pub env: BTreeMap<String, String>,
    /// For the deadline of the call.
    pub clock: Clock,
}

impl Host {
    /// Registers every function.
    pub fn register(self, engine: &mut Engine) {
        json::register(engine, &self.clock);
        crypto::register(engine);
        time::register(engine);
        text::register(engine);
        regexes::register(engine, &self.clock);
        redact::register(engine, &self.clock);
        log::register(engine);
        forbid(engine);
        let env = Arc::new(self.env);
        engine.register_fn("env", move |name: &str| -> Fallible<ImmutableString> {
            match env.get(name) {
                Some(value) => Ok(value.as_str().into()),
                None => Err(format!("env(\"{name}\"): rules_env does not list it").into()),
            }
        });
    }
}

/// What Rhai brings along and a rule may not do.
fn forbid(engine: &mut Engine) {
    fn no_sleep<T>(_: T) -> Fallible<()> {
        Err("there is no sleep in rules: it would hold up other events".into())
    }
    engine.register_fn("sleep", no_sleep::<INT>);
    engine.register_fn("sleep", no_sleep::<FLOAT>);
}

/// A string that a host function made, if scripts may hold one of that length.
fn bounded(text: String) -> Fallible<ImmutableString> {
    if text.len() > limits::SCRIPT_STRING_BYTES {
        return Err(too_long());
    }
    Ok(text.into())
}

#[expect(clippy::unnecessary_box_returns, reason = "the error type of every function of Rhai")]
fn too_long() -> Box<EvalAltResult> {
    EvalAltResult::ErrorDataTooLarge("Length of string".into(), rhai::Position::NONE).into()
}
