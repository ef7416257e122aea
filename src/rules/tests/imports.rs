//! Several files in one call: each sees its own functions, whatever the others call theirs.

use super::*;

fn run_with(rule: &str, libs: &[(&str, &str)]) -> Result<String, RuleError> {
    let files: Vec<(&str, &str)> = [("rule.rhai", rule)].into_iter().chain(libs.iter().copied()).collect();
    let (scripts, problems) = compile(&files);
    assert_eq!(problems, [], "{rule}");
    let program = Program { rule: scripts.rule("rule.rhai"), ..program("") };
    match program.evaluate(&event(COMPLETED), None) {
        Outcome::Payloads(payloads) => Ok(String::from_utf8_lossy(&payloads[0].body).into_owned()),
        Outcome::Filtered(by) => Ok(format!("{by:?}")),
        Outcome::Failed { error, .. } => Err(error),
    }
}

/// A function is remembered from its second call on, so everything is called several times, and in turns.
#[test]
fn functions_of_one_name_stay_with_their_files() {
    let rule = "import \"lib/a\" as a; import \"lib/b\" as b;
        fn clean(text) { `rule ${text}` }
        fn transform(event, payload) {
            let out = [];
            for i in 0..4 { out.push(clean(i)); out.push(a::shown(i)); out.push(b::shown(i)); }
            #{ out: out }
        }";
    let a = "import \"lib/b\" as b; fn clean(text) { `a ${text}` } fn shown(text) { clean(text) + b::shown(text) + clean(text) }";
    let b = "private fn clean(text) { `b ${text}` } fn shown(text) { for i in 0..3 { clean(i); } return clean(text); }";
    let body = run_with(rule, &[("lib/a.rhai", a), ("lib/b.rhai", b)]).expect("a payload");
    let line = |i| format!("\"rule {i}\",\"a {i}b {i}a {i}\",\"b {i}\"");
    assert_eq!(body, format!("{{\"out\":[{}]}}", (0..4).map(line).collect::<Vec<_>>().join(",")));
}

#[test]
fn a_file_with_a_function_called_map_takes_it_from_nobody_else() {
    let rule = "import \"lib/a\" as a;
        fn transform(event, payload) {
            let out = [];
            for i in 0..4 { out.push([1, 2].map(|x| x + i)); out.push(a::object(i)); out.push([i].some(|x| x == i)); }
            #{ out: out }
        }";
    let a = "fn map(value) { `map ${value}` } fn some(value) { value } fn object(value) { map(value) + map(value) + some(value) }";
    let body = run_with(rule, &[("lib/a.rhai", a)]).expect("a payload");
    let line = |i: i32| format!("[{},{}],\"map {i}map {i}{i}\",true", 1 + i, 2 + i);
    assert_eq!(body, format!("{{\"out\":[{}]}}", (0..4).map(line).collect::<Vec<_>>().join(",")));
}

#[test]
fn what_one_file_calls_in_another_is_bounded_and_told_like_its_own() {
    let rule = "import \"lib/a\" as a;\nfn transform(event, payload) { a::deep(0) }";
    let error = run_with(rule, &[("lib/a.rhai", "fn deep(n) { deep(n + 1) }")]).expect_err("no end");
    assert_eq!(error.kind, "depth", "{error}");
    let error = run_with(rule, &[("lib/a.rhai", "\nfn deep(n) {\n  inner(n) }\nfn inner(n) { throw \"why\" }")])
        .expect_err("thrown");
    assert_eq!(error.to_string(), "lib/a.rhai: inner, line 4, column 15: why");
    let error = run_with(rule, &[("lib/a.rhai", "fn deep(n) { loop {} }")]).expect_err("no end");
    assert!(matches!(error.kind, "timeout" | "operations"), "{error}");
    // What is given is the caller's own.
    let rule = "import \"lib/a\" as a;\nfn transform(event, payload) { let list = [1]; let n = a::add(list); #{ list: list, n: n } }";
    let body = run_with(rule, &[("lib/a.rhai", "fn add(list) { list.push(2); list.len() }")]).expect("a payload");
    assert_eq!(body, "{\"list\":[1],\"n\":2}");
}

#[test]
fn functions_may_be_handed_over() {
    let rule = "import \"lib/a\" as a;
        fn twice(x) { x * 2 }
        fn transform(event, payload) {
            let sum = 0;
            a::each([1, 2, 3], |x| sum += twice(x));
            #{ sum: sum, many: a::all([|x| x + 1, |x| twice(x)], 5) }
        }";
    let a = "fn own() { 0 } fn each(list, f) { for x in list { f.call(x); } } fn all(fs, x) { fs.map(|f| f.call(x)) }";
    let body = run_with(rule, &[("lib/a.rhai", a)]).expect("a payload");
    assert_eq!(body, "{\"many\":[6,10],\"sum\":12}");
}

#[test]
fn a_function_that_is_handed_over_may_call_what_its_file_imports() {
    let rule = "import \"lib/a\" as a; import \"lib/b\" as other;
        const N = 5;
        fn transform(event, payload) {
            #{ x: a::mapped([1, 2], |x| a::next(x) + other::ten(x)), deep: a::deep(#{f: #{g: |v| a::next(v)}}, 1) }
        }";
    let a = "fn mapped(list, f) { list.map(f) } fn next(n) { n + 1 } fn deep(fs, v) { fs.f.g.call(v) }";
    let libs = [("lib/a.rhai", a), ("lib/b.rhai", "fn ten(x) { x * 10 }")];
    assert_eq!(run_with(rule, &libs).expect("a payload"), "{\"deep\":2,\"x\":[12,23]}");
}

#[test]
fn a_limit_in_another_file_is_told_where_that_was_called() {
    let rule = "import \"lib/a\" as a;\n\nfn transform(event, payload) {\n  a::endless()\n}";
    let error =
        run_with(rule, &[("lib/a.rhai", "\n\n\n\n\n\n\nfn endless() { loop { let x = 1; } }")]).expect_err("no end");
    let told = error.to_string();
    assert!(
        told.starts_with("rule.rhai: transform, line 4, column 6: ") && told.ends_with(", in `a::endless`"),
        "{told}"
    );
}

#[test]
fn an_import_may_stand_in_a_loop_and_what_is_private_may_not_be_called() {
    let rule = "fn one(v) { import \"lib/a\" as a; a::next(v) }
        fn transform(event, payload) { let n = 0; for i in 0..200 { n = one(n); } #{ n: n } }";
    let lib = ("lib/a.rhai", "fn next(n) { n + step() } private fn step() { 1 }");
    assert_eq!(run_with(rule, &[lib]).expect("a payload"), "{\"n\":200}");
    let rule = "import \"lib/a\" as a;\nfn transform(event, payload) { a::step() }";
    let (_, problems) = compile(&[("rule.rhai", rule), lib]);
    assert!(problems[0].message.starts_with("unknown function `a::step`"), "{problems:?}");
}

#[test]
fn functions_may_give_one_alias_to_different_files() {
    let rule = "fn one() { import \"lib/a\" as h; h::first() + h::N }
        fn two() { import \"lib/b\" as h; h::second() }
        fn transform(event, payload) { #{ one: one(), two: two() } }";
    let libs = [("lib/a.rhai", "export const N = 1; fn first() { 1 }"), ("lib/b.rhai", "fn second() { 2 }")];
    assert_eq!(run_with(rule, &libs).expect("a payload"), "{\"one\":2,\"two\":2}");
}
