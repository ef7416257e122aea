//! A script's functions as importers see them.

use std::any::TypeId;

use rhai::{
    Array, Dynamic, EvalAltResult, FuncRegistration, GlobalRuntimeState, Map, Module, NativeCallContext, Position,
    RhaiFunc, Shared,
};

use super::Body;
use crate::limits;
use crate::rules::view::FnAny;

/// Gives a function to importers as one of sidehook's own, which begins in its script's own `frame`. Rhai remembers for a
/// whole call which function a name stands for, whatever file the name is in: two files that have a function of one name
/// would get each other's, and a file with a function `map` would take that of arrays away from its importers.
pub(super) fn export(module: &mut Module, body: Body, frame: &GlobalRuntimeState) {
    let types = vec![TypeId::of::<Dynamic>(); body.params.len()];
    let registration = FuncRegistration::new(body.name.clone());
    let frame = frame.clone();
    let call = move |ctx: Option<NativeCallContext>, args: &mut [&mut Dynamic]| {
        let level = ctx.as_ref().map_or(0, NativeCallContext::call_level) + 1;
        let Some(ctx) = ctx.filter(|_| level <= limits::SCRIPT_CALL_LEVELS) else {
            return Err(EvalAltResult::ErrorStackOverflow(Position::NONE).into());
        };
        let mut frame = frame.clone();
        frame.level = level;
        if args.iter().any(|arg| holds_function(arg, 1)) {
            // A function that is handed over is found where the caller's are, but behind the script's own.
            let own = std::mem::take(&mut frame.lib);
            frame.lib.extend(ctx.namespaces().iter().cloned().chain(own));
        }
        let file = frame.source.as_ref().map_or_else(String::new, ToString::to_string);
        let given: Vec<Dynamic> = args.iter().map(|arg| arg.flatten_clone()).collect();
        body.run(ctx.engine(), frame, given.into_iter()).map_err(|error| {
            // As Rhai tells where an error comes from, and where it does not.
            if error.is_system_exception() {
                return error;
            }
            EvalAltResult::ErrorInFunctionCall(body.name.to_string(), file, error, Position::NONE).into()
        })
    };
    let func: Shared<FnAny> = Shared::new(call);
    let func = RhaiFunc::Method { func, has_context: true, is_pure: true, is_volatile: true };
    registration.set_into_module_raw(module, types, func);
}

/// Whether a value is a function, or has one among its first members.
fn holds_function(value: &Dynamic, levels: usize) -> bool {
    const LOOKED_AT: usize = 16;
    if value.is_fnptr() {
        return true;
    }
    let among = |members: &mut dyn Iterator<Item = &Dynamic>| {
        levels > 0 && members.take(LOOKED_AT).any(|member| holds_function(member, levels - 1))
    };
    value.read_lock::<Array>().is_some_and(|array| among(&mut array.iter()))
        || value.read_lock::<Map>().is_some_and(|map| among(&mut map.values()))
}
