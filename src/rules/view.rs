//! The lazy view: an event, or a part of one, as a script sees it. Reading a member is a look-up in the received
//! bytes; writing turns one level into a Rhai map or array and leaves the levels below as they are. Every function
//! that Rhai has for maps and arrays takes a view as well.

use std::any::TypeId;
use std::sync::{Arc, OnceLock};

use rhai::{
    Array, Dynamic, Engine, EvalAltResult, FuncRegistration, INT, ImmutableString, Map, Module, NativeCallContext,
    Position, RhaiFunc, Shared,
};

use super::{engine, format, number};
use crate::clock::Clock;
use crate::event::{Json, Kind};
use crate::limits;

type Fallible<T> = Result<T, Box<EvalAltResult>>;
/// A native function.
pub(super) type FnAny = dyn Fn(Option<NativeCallContext>, &mut [&mut Dynamic]) -> Fallible<Dynamic> + Send + Sync;

/// An object of an event.
#[derive(Clone)]
pub(super) struct MapView {
    json: Json,
    /// What a script calls it, where it is the event or the message itself: nothing may be written into it.
    frozen: Option<&'static str>,
}

/// An array of an event.
#[derive(Clone)]
pub(super) struct ListView {
    json: Json,
    /// Places of the elements, made when one far from the start is asked for.
    places: Arc<OnceLock<Vec<Json>>>,
}

/// The event itself, as a script gets it.
pub(super) fn of_event(root: &Json) -> Dynamic {
    Dynamic::from(MapView { json: root.clone(), frozen: Some("event") })
}

/// A message, as an adapter gets it.
pub(super) fn of_message(root: &Json) -> Dynamic {
    Dynamic::from(MapView { json: root.clone(), frozen: Some("message") })
}

/// A JSON value as a script sees it: scalars by value, the others as views.
pub(super) fn to_dynamic(json: &Json) -> Dynamic {
    match json.kind() {
        Kind::Null => Dynamic::UNIT,
        Kind::Bool => json.as_bool().map_or(Dynamic::UNIT, Dynamic::from_bool),
        Kind::Number => json.as_number().map_or(Dynamic::UNIT, |digits| number::to_dynamic(&digits)),
        Kind::String => json.as_str().map_or(Dynamic::UNIT, |text| ImmutableString::from(&*text).into()),
        Kind::Array => Dynamic::from(ListView { json: json.clone(), places: Arc::default() }),
        Kind::Object => Dynamic::from(MapView { json: json.clone(), frozen: None }),
    }
}

/// The JSON behind a view.
pub(super) fn json_of(value: &Dynamic) -> Option<Json> {
    if let Some(map) = value.read_lock::<MapView>() {
        return Some(map.json.clone());
    }
    value.read_lock::<ListView>().map(|list| list.json.clone())
}

impl MapView {
    fn thaw(&self) -> Fallible<Map> {
        if self.json.len() > limits::SCRIPT_MAP_MEMBERS {
            return Err(EvalAltResult::ErrorDataTooLarge("Size of object map".into(), Position::NONE).into());
        }
        Ok(self.json.members().map(|(key, value)| (key.as_ref().into(), to_dynamic(&value))).collect())
    }

    fn get(&self, key: &str) -> Dynamic {
        self.json.get(key).map_or(Dynamic::UNIT, |value| to_dynamic(&value))
    }
}

impl ListView {
    fn thaw(&self) -> Fallible<Array> {
        if self.json.len() > limits::SCRIPT_ARRAY_ITEMS {
            return Err(EvalAltResult::ErrorDataTooLarge("Size of array/BLOB".into(), Position::NONE).into());
        }
        Ok(self.json.items().map(|item| to_dynamic(&item)).collect())
    }

    fn len(&self) -> usize {
        self.json.len()
    }

    fn at(&self, index: usize) -> Option<Json> {
        const NEAR: usize = 256;
        if index < NEAR {
            return self.json.at(index);
        }
        self.places.get_or_init(|| self.json.items().collect()).get(index).cloned()
    }

    /// Rhai's rule: negative counts from the end.
    fn place(&self, index: INT) -> Option<usize> {
        let len = self.len();
        let place = if index < 0 {
            len.checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?
        } else {
            usize::try_from(index).ok()?
        };
        (place < len).then_some(place)
    }
}

impl IntoIterator for ListView {
    type Item = Dynamic;
    type IntoIter = std::iter::Map<crate::event::json::Items, fn(Json) -> Dynamic>;

    fn into_iter(self) -> Self::IntoIter {
        self.json.items().map(|json| to_dynamic(&json))
    }
}

/// A value's kind, for messages.
pub(super) fn describe(value: &Dynamic) -> String {
    let name = value.type_name();
    match name {
        "string" => "a string".into(),
        "i64" | "f64" => "a number".into(),
        "bool" => "a boolean".into(),
        "char" => "a character".into(),
        "Fn" => "a function".into(),
        "()" => "()".into(),
        _ if value.read_lock::<Map>().is_some() || value.read_lock::<MapView>().is_some() => "a map".into(),
        _ if value.read_lock::<Array>().is_some() || value.read_lock::<ListView>().is_some() => "an array".into(),
        _ if name.contains("Range") => "a range".into(),
        _ => format!("a value of type {name}"),
    }
}

/// One level of a view as a Rhai map or array; everything else as it is. An error when it is larger than what scripts
/// may make.
pub(super) fn thaw(value: &Dynamic) -> Fallible<Dynamic> {
    if let Some(map) = value.read_lock::<MapView>() {
        return Ok(map.thaw()?.into());
    }
    if let Some(list) = value.read_lock::<ListView>() {
        return Ok(list.thaw()?.into());
    }
    Ok(value.clone())
}

/// The items of an array or of a view of one; of anything else itself alone.
pub(super) fn items_of(value: Dynamic) -> Fallible<Vec<Dynamic>> {
    if let Some(list) = value.read_lock::<ListView>() {
        return list.thaw();
    }
    Ok(if value.is_array() { value.into_array().unwrap_or_default() } else { vec![value] })
}

/// Whether a value that is written back is the one that was read: the chain `event.a.b.len()` writes `a` back into
/// `event`, which is no change.
pub(super) fn unchanged(old: Option<&Json>, new: &Dynamic) -> bool {
    let Some(old) = old else { return false };
    if let Some(new) = json_of(new) {
        return same_place(old, &new);
    }
    match old.kind() {
        Kind::Null => new.is_unit(),
        Kind::Bool => new.as_bool().is_ok_and(|new| Some(new) == old.as_bool()),
        Kind::String => {
            new.read_lock::<ImmutableString>().is_some_and(|new| old.as_str().is_some_and(|old| old == **new))
        }
        Kind::Number => {
            let old = old.as_number().map(|digits| number::to_dynamic(&digits));
            old.is_some_and(|old| {
                old.type_id() == new.type_id() && number::compare(&old, new).is_some_and(std::cmp::Ordering::is_eq)
            })
        }
        Kind::Array | Kind::Object => false,
    }
}

fn same_place(a: &Json, b: &Json) -> bool {
    match (a, b) {
        (Json::Node(a), Json::Node(b)) => a.is(b),
        (Json::List(a), Json::List(b)) => Arc::ptr_eq(a, b),
        (Json::Map(a), Json::Map(b)) => Arc::ptr_eq(a, b),
        _ => false,
    }
}

#[expect(clippy::unnecessary_box_returns, reason = "the error type of every function of Rhai")]
fn read_only(name: &str) -> Box<EvalAltResult> {
    match name {
        "message" => "message is read-only: change a copy of the part (`let body = message.body;`)".into(),
        _ => "event is read-only: change payload, or a copy of the part (`let m = event.metadata;`)".into(),
    }
}

/// Makes `target` writable in place, one level deep, for `function`.
fn make_writable(target: &mut Dynamic, function: &str) -> Fallible<()> {
    if target.is_read_only() {
        return Err(EvalAltResult::ErrorNonPureMethodCallOnConstant(function.to_owned(), Position::NONE).into());
    }
    let frozen = target.read_lock::<MapView>().and_then(|map| map.frozen);
    if let Some(name) = frozen {
        return Err(read_only(name));
    }
    *target = thaw(target)?;
    Ok(())
}

const INDEX_GET: &str = "index$get$";
const INDEX_SET: &str = "index$set$";

/// Functions that change their first argument. All others leave it alone.
const CHANGING: [&str; 26] = [
    "+=",
    "append",
    "chop",
    "clear",
    "dedup",
    "drain",
    "fill_with",
    "for_each",
    "insert",
    "mixin",
    "pad",
    "pop",
    "push",
    "remove",
    "retain",
    "reverse",
    "set",
    "shift",
    "sort",
    "sort_by",
    "sort_desc",
    "splice",
    "split",
    "truncate",
    "swap",
    "rotate",
];

/// Registers the two types and everything that takes them.
pub(super) fn register(engine: &mut Engine, clock: &Clock) {
    engine.register_type_with_name::<MapView>("map");
    engine.register_type_with_name::<ListView>("array");
    number::register(engine);
    adapt_standard_functions(engine, clock);
    format::register(engine, clock);
    register_changes(engine);
    // These are asked for most, and answered without making a map.
    engine.register_fn(INDEX_GET, |map: &mut MapView, key: &str| map.get(key));
    engine.register_fn("get", |map: &mut MapView, key: &str| map.get(key));
    // Of other values Rhai itself has a property of this name.
    engine.register_get("tag", |map: &mut MapView| map.get("tag"));
    engine.register_fn("contains", |map: &mut MapView, key: &str| map.json.get(key).is_some());
    engine.register_fn("is_empty", |map: &mut MapView| map.json.is_empty());
    engine.register_fn(INDEX_GET, |list: &mut ListView, index: INT| -> Fallible<Dynamic> {
        match list.place(index).and_then(|place| list.at(place)) {
            Some(json) => Ok(to_dynamic(&json)),
            None => Err(EvalAltResult::ErrorArrayBounds(list.len(), index, Position::NONE).into()),
        }
    });
    engine.register_fn("get", |list: &mut ListView, index: INT| {
        list.place(index).and_then(|place| list.at(place)).map_or(Dynamic::UNIT, |json| to_dynamic(&json))
    });
    for name in ["len", "get$len"] {
        engine.register_fn(name, |list: &mut ListView| INT::try_from(list.len()).unwrap_or(INT::MAX));
    }
    for name in ["is_empty", "get$is_empty"] {
        engine.register_fn(name, |list: &mut ListView| list.json.is_empty());
    }
    engine.register_iterator::<ListView>();
}

/// Indexed assignment: `view.key = value`, `view[0] = value`. Rhai also calls these to write back what was only read,
/// which a constant must allow, so they are registered as harmless and refuse a change themselves.
fn register_changes(engine: &mut Engine) {
    let (map, list, any) = (TypeId::of::<MapView>(), TypeId::of::<ListView>(), TypeId::of::<Dynamic>());
    let mut module = Module::new();
    let mut register = |types: [TypeId; 3], change: fn(&mut [&mut Dynamic]) -> Fallible<()>| {
        let func: Shared<FnAny> = Shared::new(move |_, args| change(args).map(Dynamic::from));
        let func = RhaiFunc::Method { func, has_context: true, is_pure: true, is_volatile: true };
        FuncRegistration::new(INDEX_SET).in_global_namespace().set_into_module_raw(&mut module, types, func);
    };
    register([map, TypeId::of::<ImmutableString>(), any], set_member);
    register([list, TypeId::of::<INT>(), any], set_element);
    engine.register_global_module(module.into());
    // Of other values Rhai itself has a property of this name, which takes numbers.
    for value in [any, TypeId::of::<INT>()] {
        engine.register_raw_fn("set$tag", [map, value], |_, args| {
            let mut key = Dynamic::from("tag");
            let (map, value) = args.split_at_mut(1);
            set_member(&mut [&mut *map[0], &mut key, &mut *value[0]]).map(Dynamic::from)
        });
    }
    // As with an array of the script's own: `+=` takes an array's items, and anything else for one.
    engine.register_raw_fn("+=", [list, any], |_, args| {
        let item = std::mem::take(args[1]);
        make_writable(args[0], "+=")?;
        if let Some(mut array) = args[0].write_lock::<Array>() {
            array.push(item);
        }
        Ok(Dynamic::UNIT)
    });
}

fn set_member(args: &mut [&mut Dynamic]) -> Fallible<()> {
    let key = args[1].clone().cast::<ImmutableString>();
    let value = std::mem::take(args[2]);
    let old = args[0].read_lock::<MapView>().and_then(|view| view.json.get(&key));
    if unchanged(old.as_ref(), &value) {
        return Ok(());
    }
    make_writable(args[0], INDEX_SET)?;
    if let Some(mut map) = args[0].write_lock::<Map>() {
        map.insert(key.as_str().into(), value);
    }
    Ok(())
}

fn set_element(args: &mut [&mut Dynamic]) -> Fallible<()> {
    let index = args[1].as_int().unwrap_or(0);
    let value = std::mem::take(args[2]);
    let (len, place, old) = match args[0].read_lock::<ListView>() {
        Some(view) => {
            let place = view.place(index);
            (view.len(), place, place.and_then(|place| view.at(place)))
        }
        None => (0, None, None),
    };
    let Some(place) = place else {
        return Err(EvalAltResult::ErrorArrayBounds(len, index, Position::NONE).into());
    };
    if unchanged(old.as_ref(), &value) {
        return Ok(());
    }
    make_writable(args[0], INDEX_SET)?;
    if let Some(mut array) = args[0].write_lock::<Array>()
        && let Some(slot) = array.get_mut(place)
    {
        *slot = value;
    }
    Ok(())
}

/// For every standard function that takes maps or arrays: one that takes views in their places.
fn adapt_standard_functions(engine: &mut Engine, clock: &Clock) {
    let (map, array) = (TypeId::of::<Map>(), TypeId::of::<Array>());
    let mut found: Vec<(String, Vec<TypeId>)> = engine.collect_fn_metadata(
        None,
        |info| {
            let types: Vec<TypeId> = info.metadata.param_types.iter().copied().collect();
            types.iter().any(|t| *t == map || *t == array).then(|| (info.metadata.name.to_string(), types))
        },
        true,
    );
    // Operators that Rhai has built in, outside its modules.
    found.push(("+=".to_owned(), vec![array, array]));
    found.push(("+=".to_owned(), vec![map, map]));
    for (name, types) in found {
        let places: Vec<usize> = (0..types.len()).filter(|i| types[*i] == map || types[*i] == array).collect();
        for choice in 1..(1_usize << places.len()) {
            let mut signature = types.clone();
            let chosen: Vec<usize> = places
                .iter()
                .enumerate()
                .filter(|(bit, _)| choice & (1 << bit) != 0)
                .map(|(_, place)| *place)
                .collect();
            for place in &chosen {
                signature[*place] =
                    if types[*place] == map { TypeId::of::<MapView>() } else { TypeId::of::<ListView>() };
            }
            adapt(engine, &name, &signature, chosen, clock.clone());
        }
    }
}

fn adapt(engine: &mut Engine, name: &str, signature: &[TypeId], views: Vec<usize>, clock: Clock) {
    let function = name.to_owned();
    let changing = CHANGING.contains(&name);
    let equality = matches!(name, "==" | "!=").then_some(name == "==");
    engine.register_raw_fn(name.to_owned(), signature, move |ctx: NativeCallContext, args| {
        // What runs natively is in no count of operations.
        engine::check_time(&clock)?;
        if let (Some(equal), Some(a), Some(b)) = (equality, json_of(args[0]), args.get(1).and_then(|b| json_of(b)))
            && same_place(&a, &b)
        {
            return Ok(equal.into());
        }
        for place in views.iter().copied().filter(|place| *place > 0) {
            *args[place] = thaw(args[place])?;
        }
        if views.first() != Some(&0) {
            return ctx.call_native_fn_raw(&function, true, args);
        }
        if function == "for_each" {
            return for_each(&ctx, args);
        }
        if changing {
            make_writable(args[0], &function)?;
            return ctx.call_native_fn_raw(&function, true, args);
        }
        let mut first = thaw(args[0])?;
        let mut rest: Vec<&mut Dynamic> = Vec::with_capacity(args.len());
        rest.push(&mut first);
        rest.extend(args[1..].iter_mut().map(|arg| &mut **arg));
        ctx.call_native_fn_raw(&function, true, &mut rest)
    });
}

/// `for_each` may change the elements through `this`: the view stays a view when it did not.
fn for_each(ctx: &NativeCallContext, args: &mut [&mut Dynamic]) -> Fallible<Dynamic> {
    let mut copy = thaw(args[0])?;
    let result = {
        let mut call: Vec<&mut Dynamic> = Vec::with_capacity(args.len());
        call.push(&mut copy);
        call.extend(args[1..].iter_mut().map(|arg| &mut **arg));
        ctx.call_native_fn_raw("for_each", true, &mut call)?
    };
    let same = match (args[0].read_lock::<ListView>(), copy.read_lock::<Array>()) {
        (Some(view), Some(array)) => view.json.items().zip(array.iter()).all(|(old, new)| unchanged(Some(&old), new)),
        _ => false,
    };
    if !same {
        make_writable(args[0], "for_each")?;
        *args[0] = copy;
    }
    Ok(result)
}
