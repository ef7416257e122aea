//! Every read-only function of Rhai's maps and arrays gives on a view what it gives on a plain value, and every
//! changing one works on a payload.

use super::*;

const ARRAY: &str = r#"[3, 1, "b", true, 2.5, [1, 2], #{k: 1, "z y": ()}, 3]"#;
const ARRAY_JSON: &str = r#"[3,1,"b",true,2.5,[1,2],{"k":1,"z y":null},3]"#;
const NUMBERS: &str = "[3, 1, 2, 3]";
const MAP: &str = r#"#{a: 1, b: "x", c: #{d: [1, 2]}, e: ()}"#;
const MAP_JSON: &str = r#"{"b":"x","a":1,"c":{"d":[1,2]},"e":null}"#;

/// Expressions over `v`, run once with a plain value and once with a view.
const ON_ARRAYS: &[&str] = &[
    "v",
    "v.len()",
    "v.len",
    "v.is_empty()",
    "v[0]",
    "v[-1]",
    "v[5][1]",
    "v[6].k",
    "v[6][\"z y\"]",
    "v.get(1)",
    "v.get(99)",
    "v.get(-2)",
    "v == v",
    "v != v",
    "v == []",
    "[] != v",
    "v + [1]",
    "[1] + v",
    "v + v",
    "3 in v",
    "\"zz\" in v",
    "v.contains(\"b\")",
    "v.extract(1, 2)",
    "v.extract(1..3)",
    "v.extract(1..=3)",
    "v.extract(5)",
    "v.map(|x| type_of(x))",
    "v.map(|x, i| i)",
    "v.filter(|x| type_of(x) == \"i64\")",
    "v.filter(|x, i| i > 2)",
    "v.index_of(3)",
    "v.index_of(3, 1)",
    "v.index_of(|x| x == true)",
    "v.index_of([1, 2])",
    "v.find(|x| x == \"b\")",
    "v.find(|x| x == 3, 1)",
    "v.find_map(|x| if x == true { 9 })",
    "v.some(|x| x == 2.5)",
    "v.all(|x| x != 77)",
    "v.reduce(|sum, x| `${sum}${x}`, \"\")",
    "v.reduce_rev(|sum, x| `${sum}${x}`, \"\")",
    "v.zip([1, 2], |a, b| b)",
    "[1, 2].zip(v, |a, b| b)",
    "v.to_string()",
    "v.to_debug()",
    "`${v}`",
    "\"\" + v",
    "v.to_json()",
    "to_json(v)",
    "type_of(v)",
    "let n = 0; for x in v { n += 1; } n",
    "let t = \"\"; for (x, i) in v { t += i; } t",
    "v.for_each(|i| { this }); v",
    "v?.len()",
    "v ?? 1",
    "let c = v; c.push(1); c.len() + v.len()",
    "let c = v; c[0] = 9; [c[0], v[0]]",
    "let c = v; c.pop()",
    "let c = v; c.shift(); c",
    "let c = v; c.remove(1); c",
    "let c = v; c.insert(1, 9); c",
    "let c = v; c.append([1]); c",
    "let c = v; c.append(v); c.len()",
    "let c = v; c += [1]; c",
    "let c = v; c += v; c.len()",
    "let c = v; c += 4; c",
    "let c = v; c += #{a: 1}; c",
    "let c = v; c += \"text\"; c",
    "let c = v; c.reverse(); c",
    "let c = v; c.truncate(2); c",
    "let c = v; c.chop(2); c",
    "let c = v; c.clear(); c",
    "let c = v; c.pad(10, 0); c",
    "let c = v; c.splice(1, 2, [7]); c",
    "let c = v; c.splice(1, 2, v); c.len()",
    "let c = v; c.drain(|x| x == 3)",
    "let c = v; c.drain(1, 2)",
    "let c = v; c.retain(|x| x == 3); c",
    "let c = v; c.retain(1, 2); c",
    "let c = v; c.dedup(); c",
    "let c = v; c.split(2)",
    "let c = v; c.set(0, 5); c",
    "let c = v; c[6].k = 2; c[5][0] = 8; c",
    "let c = v; c[5].push(3); c[5].len()",
    "let c = v; c.for_each(|| this = 1); c",
];

const ON_NUMBERS: &[&str] = &[
    "v.order()",
    "v.order_desc()",
    "v.order(|a, b| b - a)",
    "v.order_by(|a, b| b - a)",
    "v.reduce(|a, b| (a ?? 0) + b)",
    "v.reduce_rev(|a, b| (a ?? 0) + b)",
    "let c = v; c.sort(); c",
    "let c = v; c.sort_desc(); c",
    "let c = v; c.sort(|a, b| b - a); c",
    "let c = v; c.sort_by(|a, b| b - a); c",
    "let c = v; c.sort(); c.dedup(); c",
    "v[0] + v[1]",
    "v.len > 2",
];

const ON_MAPS: &[&str] = &[
    "v",
    "v.len()",
    "v.is_empty()",
    "v.a",
    "v[\"b\"]",
    "v.c.d[1]",
    "v.nope",
    "v?.nope?.x",
    "v.nope ?? 4",
    "v.get(\"a\")",
    "v.get(\"zz\")",
    "v.contains(\"a\")",
    "\"b\" in v",
    "\"zz\" in v",
    "\"zz\" !in v",
    "v == v",
    "v != v",
    "v == #{}",
    "#{} == v",
    "v.keys()",
    "v.values().len()",
    "v + #{z: 1}",
    "#{a: 0} + v",
    "v + v",
    "v.map(|x| type_of(x))",
    "v.filter(|k| k != \"a\")",
    "v.filter(|k, x| x != ())",
    "v.to_string()",
    "print(v); v",
    "debug(v); 1",
    "`${v}`",
    "v.to_json().len()",
    "type_of(v)",
    "v.c == #{d: [1, 2]}",
    "v.c.d == [1, 2]",
    "[1, 2] == v.c.d",
    "v.c.len()",
    "v.c.d.len()",
    "let c = v; c.a = 9; [c.a, v.a]",
    "let c = v; c.fresh = 1; c.len()",
    "let c = v; c.c.d[0] = 7; c",
    "let c = v; c.c.d.push(3); c",
    "let c = v; c.remove(\"a\"); c",
    "let c = v; c.clear(); c",
    "let c = v; c.set(\"a\", 2); c",
    "let c = v; c.mixin(#{a: 5}); c",
    "let c = v; c += #{a: 5}; c",
    "let c = v; c.fill_with(#{a: 5, q: 6}); c",
    "let c = #{q: 1}; c.mixin(v); c",
    "let c = #{q: 1}; c += v; c",
    "let c = #{q: 1}; c.fill_with(v); c",
    "let c = v; c.drain(|k| k == \"a\"); c",
    "let c = v; c.retain(|k| k == \"a\"); c",
    "let c = v; c.a += 4; c",
    "let c = v; c.b += \"y\"; c",
    "let c = v; c.c.x = #{}; c.c.x.y = 1; c",
    "let c = v; let d = c.c; d.x = 1; [c.c.len(), d.len()]",
    "let c = v; c.c = v; c.c.c.d = 1; c",
];

/// The value of a block with `v`, as JSON; errors by their message.
fn value(setup: &str, expression: &str, json: &str) -> String {
    let script =
        format!("fn f(v) {{ {expression} }} fn transform(event, payload) {{ let v = {setup}; #{{ v: f(v) }} }}");
    let event = event(&format!(r#"{{"type":"x","view":{json}}}"#));
    match program(&script).evaluate(&event, None) {
        // Key order is no part of a value; maps that nobody touched keep theirs.
        Outcome::Payloads(p) => serde_json::from_slice::<serde_json::Value>(&p[0].body).expect("JSON").to_string(),
        Outcome::Failed { error, .. } => format!("{}: {}", error.kind, error.message),
        other @ Outcome::Filtered(_) => format!("{other:?}"),
    }
}

#[test]
fn views_behave_like_plain_values() {
    for (plain, json, expressions) in
        [(ARRAY, ARRAY_JSON, ON_ARRAYS), (NUMBERS, "[3,1,2,3]", ON_NUMBERS), (MAP, MAP_JSON, ON_MAPS)]
    {
        for expression in expressions {
            let want = value(plain, expression, json);
            assert!(!want.starts_with("type:"), "{expression} on a plain value: {want}");
            assert_eq!(value("event.view", expression, json), want, "{expression}");
            // The same once more where the view lies in a payload.
            let in_payload = value("#{ x: [event.view] }.x[0]", expression, json);
            assert_eq!(in_payload, want, "{expression} in a payload");
        }
    }
}

#[test]
fn every_standard_function_on_maps_and_arrays_is_adapted_or_known() {
    // What the tables above exercise, by name; a function that a new Rhai brings shows up here.
    let (scripts, _) = compile(&[]);
    let tables = [ON_ARRAYS, ON_NUMBERS, ON_MAPS].concat().join("\n");
    let unseen: Vec<String> = scripts
        .names_taking_maps_or_arrays()
        .into_iter()
        .filter(|name| !name.contains('$') && name.chars().all(|c| c.is_alphanumeric() || c == '_'))
        .filter(|name| !tables.contains(&format!("{name}(")))
        .collect();
    assert_eq!(unseen, Vec::<String>::new(), "write a line for each");
}

#[test]
fn a_member_called_tag_is_one_like_others() {
    let event = r#"{"id":"e","type":"a.b","metadata":{"tag":"vip","n":{}}}"#;
    let run = |script: &str| match program(script).evaluate(&super::event(event), None) {
        Outcome::Payloads(payloads) => String::from_utf8_lossy(&payloads[0].body).into_owned(),
        other => format!("{other:?}"),
    };
    let body = run("fn transform(event, payload) {
        let n = event.metadata.n; n.tag = 9;
        let m = event.metadata; m.tag += \"!\";
        #{ a: event.metadata.tag, b: event.metadata?.tag, c: event.metadata.n.tag ?? \"none\", n: n, m: m.tag }
    }");
    assert_eq!(body, r#"{"a":"vip","b":"vip","c":"none","m":"vip!","n":{"tag":9}}"#);
    assert!(run("fn transform(event, payload) { event.metadata.tag = 5; payload }").contains("read-only"));
}
