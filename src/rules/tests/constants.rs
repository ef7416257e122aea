//! The top level of a script runs once, and nothing of one call is left for the next.

use super::*;

/// A constant that takes thousands of operations, and others that are shared in every way.
const SCRIPT: &str = r#"
    const SUM = { let sum = 0; for i in 0..2000 { sum += i; } sum };
    const NAMES = #{ eu: #{ text: "Europe", codes: [1, 2.5, parse_json("18446744073709551615")] }, us: () };
    const WORDS = "a,b,c".split(",");
    const TWICE = #{ run: |x| x * 2 };
    const PI = 3.0;
"#;

fn traced(program: &Program) -> (String, Trace) {
    let mut trace = Trace::default();
    match program.evaluate(&event(COMPLETED), Some(&mut trace)) {
        Outcome::Payloads(payloads) => (String::from_utf8_lossy(&payloads[0].body).into_owned(), trace),
        other => panic!("{other:?}"),
    }
}

fn two(rule: &str, lib: &str) -> Program {
    let (scripts, problems) = compile(&[("rule.rhai", rule), ("lib/own.rhai", lib)]);
    assert_eq!(problems, []);
    Program { rule: scripts.rule("rule"), ..program("") }
}

#[test]
fn constants_are_computed_once_at_load() {
    let script = format!("{SCRIPT} fn transform(event, payload) {{ #{{ sum: global::SUM }} }}");
    let (body, trace) = traced(&program(&script));
    assert_eq!(body, r#"{"sum":1999000}"#);
    assert!(trace.operations < 20, "{} operations", trace.operations);
    // Neither are those of an import.
    let lib = format!("{SCRIPT} fn sum() {{ global::SUM }}");
    let importing = "import \"lib/own\" as own;\nfn transform(event, payload) { #{ sum: own::sum() } }";
    let (body, trace) = traced(&two(importing, &lib));
    assert_eq!(body, r#"{"sum":1999000}"#);
    assert!(trace.operations < 20, "{} operations", trace.operations);
}

#[test]
fn constants_read_like_the_values_they_are() {
    for (expression, want) in [
        ("global::NAMES", r#"{"eu":{"codes":[1,2.5,18446744073709551615],"text":"Europe"},"us":null}"#),
        ("global::NAMES.eu.text", r#""Europe""#),
        ("global::NAMES[event.metadata.region]?.text", r#""Europe""#),
        ("global::NAMES.keys()", r#"["eu","us"]"#),
        ("\"eu\" in global::NAMES", "true"),
        ("global::NAMES.eu.codes[-1]", "18446744073709551615"),
        ("global::NAMES.eu == #{ text: \"Europe\", codes: [1, 2.5, global::NAMES.eu.codes[2]] }", "true"),
        ("global::WORDS", r#"["a","b","c"]"#),
        ("global::WORDS.len() + global::WORDS[1]", r#""3b""#),
        ("global::WORDS.map(|w| w + w)", r#"["aa","bb","cc"]"#),
        ("{ let all = []; for word in global::WORDS { all.push(word); } all }", r#"["a","b","c"]"#),
        ("global::TWICE.run.call(4)", "8"),
        ("global::PI", "3.0"),
        ("type_of(global::PI) + type_of(global::NAMES) + type_of(global::WORDS)", r#""f64maparray""#),
        (
            "{ let own = global::NAMES; own.eu.text = 1; own.us = 2; [own.eu.text, own.us, global::NAMES.us] }",
            "[1,2,null]",
        ),
        ("{ let own = global::WORDS; own.push(1); own[0] = 2; [own.len(), own[0], global::WORDS.len()] }", "[4,2,3]"),
    ] {
        let script = format!("{SCRIPT} fn transform(event, payload) {{ let v = {expression}; #{{v: v}} }}");
        let program = program(&script);
        for _ in 0..2 {
            assert_eq!(traced(&program).0, format!("{{\"v\":{want}}}"), "{expression}");
        }
    }
    for (change, part) in [
        ("global::WORDS.push(1)", "constant"),
        ("global::WORDS[0] = 1", "constant"),
        ("global::NAMES.eu.text = 1", "constant"),
        ("global::NAMES.clear()", "constant"),
    ] {
        let script = format!("{SCRIPT} fn transform(event, payload) {{ {change}; payload }}");
        let sources = [("rule.rhai", script.as_str())];
        let (scripts, problems) = compile(&sources);
        let run = || match (Program { rule: scripts.rule("rule"), ..program("") }).evaluate(&event(COMPLETED), None) {
            Outcome::Failed { error, .. } => error.message,
            other => panic!("{change}: {other:?}"),
        };
        let told = problems.first().map_or_else(run, |problem| problem.message.clone());
        assert!(told.to_lowercase().contains(&part.to_lowercase()), "{change}: {told}");
    }
}

#[test]
fn a_constant_inside_a_function_is_gone_with_its_call() {
    let program = program(
        "const A = 1;\nfn transform(event, payload) { let was = global::A; const A = 2; const B = 3; #{ was: was, b: B, inner: A } }",
    );
    for _ in 0..2 {
        assert_eq!(traced(&program).0, r#"{"b":3,"inner":2,"was":1}"#);
    }
}

#[test]
fn imports_and_exports_work_as_written() {
    let lib = "const HIDDEN = [1];\nexport const SHOWN = #{ a: [1, 2] };\nprivate fn deep() { global::HIDDEN }\n\
               fn both() { [deep(), global::SHOWN.a] }";
    let rule = "import \"lib/own\" as own;\nimport \"sidehook/format\" as format;\nconst FROM = own::SHOWN.a.len();\n\
                fn transform(event, payload) { import \"lib/own\" as again; \
                #{ a: own::SHOWN.a, b: own::both(), c: global::FROM, d: again::both(), e: again::SHOWN.a[1] } }";
    let program = two(rule, lib);
    for _ in 0..2 {
        assert_eq!(traced(&program).0, r#"{"a":[1,2],"b":[[1],[1,2]],"c":2,"d":[[1],[1,2]],"e":2}"#);
    }
}

#[test]
fn threads_read_the_constants_of_a_library_at_once() {
    let lib = format!(
        "{SCRIPT} fn name(key) {{ let n = 0; for i in 0..20 {{ n += global::WORDS.len(); }} global::NAMES[key].text + n }}"
    );
    let program = Arc::new(two(
        "import \"lib/own\" as own;\nfn transform(event, payload) { #{ name: own::name(\"eu\") } }",
        &lib,
    ));
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let program = Arc::clone(&program);
            std::thread::spawn(move || {
                for _ in 0..100 {
                    assert_eq!(traced(&program).0, r#"{"name":"Europe60"}"#);
                }
            })
        })
        .collect();
    for worker in workers {
        worker.join().expect("every call went well");
    }
}
