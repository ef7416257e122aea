//! A script's functions as importers see them.

use std::any::TypeId;
use std::sync::Weak;

use rhai::{
    Array, Dynamic, EvalAltResult, FuncRegistration, GlobalRuntimeState, Map, Module, NativeCallContext, Position,
    RhaiFunc, Shared,
};

use super::Body;
use super::link::Sources;
use crate::limits;
use crate::rules::view::FnAny;

/// Gives a function to importers as one of sidehook's own, which begins in its script's own `frame`. Rhai remembers for a
/// whole call which function a name stands for, whatever file the name is in: two files that have a function of one name
/// would get each other's, and a file with a function `map` would take that of arrays away from its importers.
/// `sources` are those of all scripts.
pub(super) fn export(module: &mut Module, body: Body, frame: &GlobalRuntimeState, sources: &Weak<Sources>) {
    let types = vec![TypeId::of::<Dynamic>(); body.params.len()];
    let registration = FuncRegistration::new(body.name.clone());
    let (frame, sources) = (frame.clone(), Weak::clone(sources));
    let call = move |ctx: Option<NativeCallContext>, args: &mut [&mut Dynamic]| {
        let level = ctx.as_ref().map_or(0, NativeCallContext::call_level) + 1;
        let Some(ctx) = ctx.filter(|_| level <= limits::SCRIPT_CALL_LEVELS) else {
            return Err(EvalAltResult::ErrorStackOverflow(Position::NONE).into());
        };
        let mut frame = frame.clone();
        frame.level = level;
        let mut looked_at = 0;
        if args.iter().any(|arg| holds_function(arg, &mut looked_at)) {
            add_callers(&mut frame, &ctx, &sources);
        }
        let file = frame.source.as_ref().map_or_else(String::new, ToString::to_string);
        let given: Vec<Dynamic> = args.iter().map(|arg| arg.flatten_clone()).collect();
        body.run(ctx.engine(), frame, given.into_iter()).map_err(|mut error| {
            // As Rhai tells where an error comes from, and where it does not: a limit's place is that of the call.
            if error.is_system_exception() {
                error.set_position(ctx.call_position());
                return error;
            }
            EvalAltResult::ErrorInFunctionCall(body.name.to_string(), file, error, Position::NONE).into()
        })
    };
    let func: Shared<FnAny> = Shared::new(call);
    let func = RhaiFunc::Method { func, has_context: true, is_pure: true, is_volatile: true };
    registration.set_into_module_raw(module, types, func);
}

/// What a function that is handed over calls is found where the caller's is, but behind what is the script's own.
fn add_callers(frame: &mut GlobalRuntimeState, ctx: &NativeCallContext, sources: &Weak<Sources>) {
    let own = std::mem::take(&mut frame.lib);
    frame.lib.extend(ctx.namespaces().iter().cloned().chain(own));
    let Some(sources) = sources.upgrade() else { return };
    let imports: Vec<_> = frame.scan_imports_raw().map(|(name, module)| (name.clone(), module.clone())).collect();
    frame.truncate_imports(0);
    let theirs: Vec<_> =
        ctx.iter_imports().filter_map(|(name, module)| Some((name, sources.shared(module)?))).collect();
    for (name, module) in theirs.into_iter().rev() {
        frame.push_import(name, module);
    }
    for (name, module) in imports {
        frame.push_import(name, module);
    }
}

/// Whether a value is a function, or has one among its members, as far as these are few.
fn holds_function(value: &Dynamic, looked_at: &mut usize) -> bool {
    const FEW: usize = 256;
    *looked_at += 1;
    if value.is_fnptr() {
        return true;
    }
    let mut among = |members: &mut dyn Iterator<Item = &Dynamic>| {
        members.take(FEW).any(|member| *looked_at < FEW && holds_function(member, looked_at))
    };
    value.read_lock::<Array>().is_some_and(|array| among(&mut array.iter()))
        || value.read_lock::<Map>().is_some_and(|map| among(&mut map.values()))
}
