//! Scripts and events made at random: whatever they are, loading and running ends, with a payload that is JSON or an
//! error that says something.

use proptest::prelude::*;

use super::*;

/// Words that scripts are made of, so that most of what comes out gets past the parser.
fn expression() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("event"),
        Just("payload"),
        Just("event.metadata"),
        Just("event.conversation.messages"),
        Just("payload.data"),
        Just("event.metadata.big"),
        Just("event.metadata.tags"),
        Just("1"),
        Just("-1"),
        Just("9223372036854775807"),
        Just("0.5"),
        Just("\"x\""),
        Just("\"é\\u0000\""),
        Just("()"),
        Just("true"),
        Just("[1, \"a\", ()]"),
        Just("#{a: 1, b: []}"),
        Just("0..3"),
        Just("|x| x"),
        Just("|x| [x, x]"),
        Just("'c'"),
        Just("blob(2, 1)"),
        Just("now()"),
        Just("uuid()"),
    ]
    .prop_map(str::to_owned);
    leaf.prop_recursive(4, 24, 3, |inner| {
        let binary =
            prop::sample::select(vec!["+", "-", "*", "/", "%", "==", "<", ">=", "&&", "||", "??", "in", "**", "<<"]);
        let method = prop::sample::select(vec![
            "len",
            "keys",
            "values",
            "pop",
            "to_string",
            "to_json",
            "reverse",
            "sort",
            "clear",
            "to_upper",
            "is_empty",
            "order",
            "dedup",
            "trim",
            "shift",
            "to_int",
            "to_float",
        ]);
        let method1 = prop::sample::select(vec![
            "map", "filter", "push", "contains", "index_of", "remove", "get", "split", "append", "truncate", "reduce",
            "for_each", "mixin", "extract", "retain", "drain", "find", "all", "some", "chop",
        ]);
        let call1 = prop::sample::select(vec![
            "parse_json",
            "to_json",
            "sha256",
            "hex",
            "base64_encode",
            "base64_decode",
            "mask",
            "redact_email",
            "redact_phone",
            "redact_card",
            "log_info",
            "parse_time",
            "type_of",
            "print",
        ]);
        let call2 = prop::sample::select(vec!["matches", "truncate", "hmac_sha256", "format_time"]);
        prop_oneof![
            (inner.clone(), binary, inner.clone()).prop_map(|(a, op, b)| format!("({a} {op} {b})")),
            (inner.clone(), method).prop_map(|(a, m)| format!("{a}.{m}()")),
            (inner.clone(), method1, inner.clone()).prop_map(|(a, m, b)| format!("{a}.{m}({b})")),
            (call1, inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            (call2, inner.clone(), inner.clone()).prop_map(|(f, a, b)| format!("{f}({a}, {b})")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("{a}[{b}]")),
            (inner.clone(), "[a-c]").prop_map(|(a, k)| format!("{a}?.{k}")),
            (inner.clone(), inner.clone()).prop_map(|(a, b)| format!("#{{x: {a}, y: [{b}]}}")),
            inner.clone().prop_map(|a| format!("`<${{{a}}}>`")),
            (inner.clone(), inner).prop_map(|(a, b)| format!("if {a} {{ {b} }} else {{ {a} }}")),
        ]
    })
}

fn statement() -> impl Strategy<Value = String> {
    prop_oneof![
        expression().prop_map(|e| format!("let v = {e};")),
        (
            prop::sample::select(vec![
                "payload.a",
                "payload.data.x",
                "payload.data.conversation.messages[0].role",
                "event.x"
            ]),
            expression()
        )
            .prop_map(|(place, e)| format!("{place} = {e};")),
        expression().prop_map(|e| format!("for i in {e} {{ payload.last = i; }}")),
        expression().prop_map(|e| format!("try {{ {e}; }} catch (error) {{ payload.error = `${{error}}`; }}")),
        expression().prop_map(|e| format!("payload.data += {e};")),
    ]
}

fn ends_well(script: &str, event: &Event) -> Result<(), TestCaseError> {
    let (scripts, problems) = compile(&[("rule.rhai", script)]);
    prop_assert!(problems.iter().all(|p| !p.message.is_empty()));
    let mut program = program("");
    program.rule = scripts.rule("rule");
    match program.evaluate(event, None) {
        Outcome::Payloads(payloads) => {
            for payload in payloads {
                let value: Result<serde_json::Value, _> = serde_json::from_slice(&payload.body);
                prop_assert!(value.is_ok_and(|v| v.is_object()), "{script}");
            }
        }
        Outcome::Failed { error, .. } => {
            prop_assert!(
                !error.message.is_empty() && !error.message.contains("fault of sidehook"),
                "{script}: {error}"
            );
        }
        Outcome::Filtered(_) => {}
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn made_scripts_end_well(statements in prop::collection::vec(statement(), 0..4), last in expression()) {
        let script = format!("fn transform(event, payload) {{ {} {last} }}", statements.join(" "));
        ends_well(&script, &event(COMPLETED))?;
    }

    #[test]
    fn any_text_is_a_script_or_a_problem(text in r#"[a-z{}()\[\]#|.,;:=+"`$'0-9 \n]{0,60}"#) {
        ends_well(&text, &event(COMPLETED))?;
    }

    #[test]
    fn redaction_takes_any_text(text in r"[0-9+()@.\- a-zé/]{0,60}") {
        let json = serde_json::Value::from(text.clone()).to_string();
        let script = "fn transform(event, payload) { #{ v: redact_phone(redact_email(redact_card(event.v))) } }";
        ends_well(script, &event(&format!("{{\"type\":\"x\",\"v\":{json}}}")))?;
    }
}
