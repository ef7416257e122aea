//! Scripts that mean harm, or are merely wrong: each ends with its kind of error, soon, and takes nothing along.

use std::time::Duration;

use super::*;
use crate::clock::Clock;

/// A script, and the kinds of error that may end it: `load` when it is not even compiled.
const HOSTILE: &[(&str, &[&str])] = &[
    // Endless work.
    ("fn transform(event, payload) { loop {} }", &["timeout", "operations"]),
    ("fn transform(event, payload) { while true { let x = 1; } }", &["timeout", "operations"]),
    ("fn transform(event, payload) { let x = 0; do { x += 1; } while x >= 0; }", &["timeout", "operations"]),
    (
        "fn transform(event, payload) { let n = 0; for i in 0..9223372036854775807 { n += 1; } }",
        &["timeout", "operations"],
    ),
    ("fn transform(event, payload) { try { loop {} } catch { #{} } }", &["timeout", "operations"]),
    ("fn transform(event, payload) { loop { try { loop {} } catch {} } }", &["timeout", "operations"]),
    ("fn f(x) { f(x + 1) } fn transform(event, payload) { f(0) }", &["depth"]),
    ("fn f(x) { g(x) } fn g(x) { f(x) } fn transform(event, payload) { f(0) }", &["depth"]),
    ("fn f(x) { try { f(x + 1) } catch { f(x + 1) } } fn transform(event, payload) { f(0) }", &["depth"]),
    ("fn transform(event, payload) { let f = |x, f| f.call(x, f); f.call(1, f) }", &["depth"]),
    ("fn transform(event, payload) { [1].map(|x| { loop {} }) }", &["timeout", "operations"]),
    (
        "fn transform(event, payload) { let a = []; a.pad(1000, 0); for i in 0..1000000 { a.map(|x| x + 1); } }",
        &["timeout", "operations"],
    ),
    ("fn transform(event, payload) { event.conversation.messages.map(|m| { loop {} }) }", &["timeout", "operations"]),
    (
        "fn transform(event, payload) { let a = []; a.pad(3000, 1); a.sort(|x, y| { loop {} }); }",
        &["timeout", "operations"],
    ),
    (
        "fn transform(event, payload) { let a = []; a.pad(20000, 1); for i in 0..100000 { a.index_of(2); } }",
        &["timeout", "operations"],
    ),
    ("fn transform(event, payload) { sleep(10) }", &["load"]),
    ("fn transform(event, payload) { let s = \"sle\" + \"ep\"; call(s, 10) }", &["type", "load"]),
    ("fn transform(event, payload) { let f = Fn(\"sle\" + \"ep\"); f.call(10) }", &["thrown", "load"]),
    ("fn transform(event, payload) { let f = Fn(\"sleep\"); f.call(10.0) }", &["thrown", "load"]),
    // Memory.
    ("fn transform(event, payload) { let s = \"x\"; loop { s += s; } }", &["size"]),
    ("fn transform(event, payload) { let s = \"x\"; loop { s = `${s}${s}`; } }", &["size"]),
    ("fn transform(event, payload) { let s = \"\"; s.pad(1000000000, 'x'); }", &["size"]),
    ("fn transform(event, payload) { let a = []; a.pad(1000000000, 0); }", &["size"]),
    ("fn transform(event, payload) { let b = blob(1000000000, 0); }", &["size"]),
    ("fn transform(event, payload) { let a = [1]; loop { a += a; } }", &["size"]),
    ("fn transform(event, payload) { let a = [1]; loop { a.append(a); } }", &["size"]),
    ("fn transform(event, payload) { let a = [1]; loop { a = [a, a]; } }", &["size"]),
    (
        "fn transform(event, payload) { let m = #{}; let i = 0; loop { m[i.to_string()] = i; i += 1; } }",
        &["size", "timeout", "operations"],
    ),
    ("fn transform(event, payload) { let m = #{}; loop { m = #{a: m, b: m}; } }", &["size", "timeout", "operations"]),
    (
        "fn transform(event, payload) { let s = \"x\"; for i in 0..19 { s += s; } let a = []; loop { a.push(s); } }",
        &["size"],
    ),
    ("fn transform(event, payload) { let s = \"x\"; for i in 0..19 { s += s; } s.replace(\"x\", s); s }", &["size"]),
    ("fn transform(event, payload) { let s = \"x\"; for i in 0..19 { s += s; } replace_all(s, \"x\", s) }", &["size"]),
    (
        "fn transform(event, payload) { let s = \"x\"; for i in 0..19 { s += s; } replace_all(s, \"(.*)\", \"$1$1$1$1$1$1\") }",
        &["size"],
    ),
    ("fn transform(event, payload) { let s = \"x\"; for i in 0..20 { s += s; } hex(s) }", &["size"]),
    ("fn transform(event, payload) { let s = \"x\"; for i in 0..20 { s += s; } base64_encode(s) }", &["size"]),
    ("fn transform(event, payload) { let s = \"\\u0001\"; for i in 0..19 { s += s; } to_json(s) }", &["size"]),
    (
        "fn transform(event, payload) { let v = event; let p = #{}; for i in 0..100000 { p[`k${i}`] = v; } p }",
        &["size", "timeout", "operations"],
    ),
    ("fn transform(event, payload) { let p = []; p.pad(2000, #{}); p }", &["size"]),
    (
        "fn transform(event, payload) { let s = \"x\"; for i in 0..19 { s += s; } let p = []; p.pad(2, #{}); for i in 0..p.len() { p[i].s = s; } for i in 0..6 { p += p; } p }",
        &["size"],
    ),
    ("fn transform(event, payload) { let x = 1; let f = || x; loop { f = f.curry(f); } }", &["load"]),
    ("fn transform(event, payload) { let f = || 1; loop { let g = f; f = || g; } }", &["timeout", "operations"]),
    // Depth.
    ("fn transform(event, payload) { let a = []; loop { a = [a]; } }", &["size", "timeout", "operations"]),
    (
        "fn transform(event, payload) { let a = []; for i in 0..3000 { a = [a]; } a.to_string(); a }",
        &["size", "type", "timeout"],
    ),
    (
        "fn transform(event, payload) { let a = []; let b = []; for i in 0..3000 { a = [a]; b = [b]; } #{ same: a == b, a: a } }",
        &["size", "timeout"],
    ),
    ("fn transform(event, payload) { let m = #{}; for i in 0..3000 { m = #{m: m}; } m }", &["size", "timeout"]),
    (
        "fn transform(event, payload) { let m = #{}; for i in 0..3000 { m = #{m: m}; } to_json(m) }",
        &["thrown", "timeout"],
    ),
    (
        "fn transform(event, payload) { let m = #{}; for i in 0..3000 { m = #{m: m}; } redact_email(m) }",
        &["thrown", "timeout"],
    ),
    (
        "fn transform(event, payload) { let m = #{}; for i in 0..3000 { m = #{m: m}; } log_info(m); `${m}`.len(); m }",
        &["size", "timeout"],
    ),
    ("fn transform(event, payload) { let m = #{}; for i in 0..3000 { m = #{m: m}; } throw m }", &["thrown", "timeout"]),
    (
        "fn transform(event, payload) { let m = #{}; for i in 0..3000 { m = #{m: [m]}; } let f = |x| x; [m].map(f).filter(|x| x == m); m }",
        &["size", "timeout"],
    ),
    ("fn transform(event, payload) { parse_json(\"[\" + \"[\".pad(100000, '[')) }", &["type", "thrown"]),
    // Patterns.
    ("fn transform(event, payload) { matches(\"a\", \"(\") }", &["thrown"]),
    ("fn transform(event, payload) { matches(\"a\", \"(a{1,1000}){1,1000}\") }", &["thrown"]),
    ("fn transform(event, payload) { matches(\"a\", \"\\\\pL{1000}\") }", &["thrown"]),
    (
        "fn transform(event, payload) { let s = \"a\"; for i in 0..19 { s += s; } matches(s, \"(a?){200}a{200}\") }",
        &["thrown"],
    ),
    (
        "fn transform(event, payload) { let s = \"ab\"; for i in 0..18 { s += s; } matches(s, \"[ab]*a[ab]{500}c\") }",
        &["thrown"],
    ),
    (
        "fn transform(event, payload) { let i = 0; loop { matches(\"a\", `x{1,${i % 900 + 1}}y{50}`); i += 1; } }",
        &["timeout", "operations"],
    ),
    ("fn transform(event, payload) { let p = \"\"; p.pad(100000, '('); matches(\"a\", p) }", &["thrown"]),
    (
        "fn transform(event, payload) { let s = \"a\"; for i in 0..20 { s += s; } loop { replace_all(s, \"a\", \"b\"); } }",
        &["timeout", "operations"],
    ),
    (
        "fn transform(event, payload) { let s = \"1 \"; for i in 0..18 { s += s; } loop { redact_phone(s); redact_card(s); redact_email(s); } }",
        &["timeout", "operations"],
    ),
    (
        "fn transform(event, payload) { let s = \"a@b.\"; for i in 0..18 { s += s; } loop { redact_email(s); } }",
        &["timeout", "operations"],
    ),
    (
        "fn transform(event, payload) { let s = \"xyz\"; for i in 0..18 { s += s; } loop { sha256(s); } }",
        &["timeout", "operations"],
    ),
    // Ways out.
    ("import \"/etc/passwd\" as p; fn transform(event, payload) { #{} }", &["load"]),
    ("import \"../../secret\" as p; fn transform(event, payload) { #{} }", &["load"]),
    ("import \"rule\" as p; fn transform(event, payload) { #{} }", &["load"]),
    ("fn transform(event, payload) { import \"/etc/passwd\" as p; #{} }", &["load"]),
    ("fn transform(event, payload) { let n = \"/etc/pass\" + \"wd\"; import n as p; #{} }", &["load"]),
    ("fn transform(event, payload) { eval(\"loop {}\") }", &["load"]),
    ("fn transform(event, payload) { let f = Fn(\"ev\" + \"al\"); f.call(\"1\") }", &["type", "load"]),
    ("fn transform(event, payload) { open(\"/etc/passwd\") }", &["load"]),
    ("fn transform(event, payload) { timestamp() }", &["load"]),
    ("fn transform(event, payload) { env(\"PATH\") }", &["thrown"]),
    ("fn transform(event, payload) { env(\"\") }", &["thrown"]),
    // Another call's data.
    ("let seen = []; fn transform(event, payload) { #{} }", &["load"]),
    ("const SEEN = []; fn transform(event, payload) { global::SEEN.push(1); #{} }", &["type", "load"]),
    ("fn transform(event, payload) { this.x = 1; #{} }", &["type", "load"]),
    ("fn transform(event, payload) { event.x = 1; #{} }", &["thrown"]),
    ("fn transform(event, payload) { event.metadata.region += \"x\"; #{} }", &["thrown"]),
    ("fn transform(event, payload) { event.conversation.messages.clear(); #{} }", &["thrown"]),
    // Results that are none.
    ("fn transform(event, payload) { 42 }", &["type"]),
    ("fn transform(event, payload) { \"text\" }", &["type"]),
    ("fn transform(event, payload) { [#{}, 1] }", &["type"]),
    ("fn transform(event, payload) { [()] }", &["type"]),
    ("fn transform(event, payload) { #{ f: |x| x } }", &["type"]),
    ("fn transform(event, payload) { #{ x: 0.0 / 0.0 } }", &["type"]),
    ("fn transform(event, payload) { #{ x: 1..2 } }", &["type"]),
    ("fn transform(event, payload) { #{ x: blob(3, 0) } }", &["type"]),
    ("fn transform(event, payload) { throw #{ code: 1 } }", &["thrown"]),
    ("fn transform(event, payload) { throw \"x\".pad(1000, 'y') }", &["type", "thrown"]),
    ("fn transform(event, payload) { 1 / 0 }", &["type"]),
    ("fn transform(event, payload) { 9223372036854775807 + 1 }", &["type"]),
    ("fn transform(event, payload) { event.metadata.big + 1 }", &["thrown"]),
    ("fn transform(event, payload) { [1][5] }", &["type"]),
    ("fn transform(event, payload) { event.metadata.tags[5] }", &["type"]),
    ("fn transform(event, payload) { event.nope.deeper.still }", &["type"]),
    ("fn transform(event, payload) { format_time(9223372036854775807, \"%Y\") }", &["thrown"]),
    ("fn transform(event, payload) { format_time(0, \"%\") }", &["thrown"]),
    ("fn transform(event, payload) { truncate(\"x\", -1) }", &["thrown"]),
    ("fn transform(event, payload) { base64_decode(\"/w==\") }", &["thrown"]),
    ("fn headers(event, payload) { #{ \"X-A\": \"a\\r\\nX-B: b\" } }", &["type"]),
    ("fn headers(event, payload) { #{ \"X A\": \"a\" } }", &["type"]),
    ("fn headers(event, payload) { #{ \"X-A\": [1] } }", &["type"]),
    ("fn headers(event, payload) { 3 }", &["type"]),
    ("fn accept(event) { 1 }", &["type"]),
    ("fn accept(event) { () }", &["type"]),
];

#[test]
fn hostile_scripts_end_with_an_error_and_soon() {
    assert!(HOSTILE.len() >= 60);
    let event = event(COMPLETED);
    for (script, kinds) in HOSTILE {
        let (scripts, problems) = compile(&[("rule.rhai", script)]);
        let (kind, message) = if let Some(problem) = problems.first() {
            ("load", problem.message.clone())
        } else {
            let mut program = program("");
            program.rule = scripts.rule("rule");
            let start = Clock::System.instant();
            let outcome = program.evaluate(&event, None);
            let took = Clock::System.instant().duration_since(start);
            // The time limit is 500 ms; the rest is for a busy machine. Without limits these never end.
            assert!(took < Duration::from_secs(20), "{script} took {took:?}");
            match outcome {
                Outcome::Failed { error, .. } => (error.kind, error.to_string()),
                other => panic!("{script} gave {other:?}"),
            }
        };
        assert!(kinds.contains(&kind), "{script}\n  ended as {kind}: {message}");
        assert!(message.len() < 2000, "{script}: {message}");
    }
}
