//! What rules cost: by size of the conversation, by threads, and a call by itself. Prints ratios; judges nothing.

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::disallowed_methods,
    reason = "a benchmark prints, measures by the real clock, and stops where it cannot go on"
)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::{Arc, Barrier};
use std::time::{Duration, Instant};

use sidehook::clock::{Clock, Timestamp};
use sidehook::event::{Event, Incoming, Json, Stamp, State};
use sidehook::rules::{Format, OnRuleError, Outcome, Params, Program, ScriptLimits, Scripts};

const THREE_FIELDS: &str = r"
    fn transform(event, payload) {
        #{ caller: event.argument.caller, region: event.metadata.region, turns: event.conversation.messages.len() }
    }
";
const BARE: &str = "fn transform(event, payload) { () }";

/// An event whose conversation is about so many bytes.
fn event(bytes: usize) -> Event {
    let message = r#"{"role":"user","message":"I would like to know when my order will arrive, please."}"#;
    let messages = vec![message; bytes.div_ceil(message.len() + 1)].join(",");
    let text = format!(
        r#"{{"id":"e","type":"conversation.completed","conversation":{{"id":"c","messages":[{messages}]}},
        "argument":{{"caller":"+491701234567"}},"metadata":{{"region":"eu"}}}}"#
    );
    let incoming = Incoming::read(&Json::parse(text).expect("JSON")).expect("an event");
    let arrived = Timestamp::from_millis(1_767_225_600_000);
    let stamp = Stamp { namespace: Arc::from(""), id: Arc::from("e"), arrived, traceparent: None };
    State::default().assemble(&incoming, None, stamp)
}

fn program(script: &str) -> Program {
    let sources = BTreeMap::from([("rule.rhai".to_owned(), Arc::from(script))]);
    let (scripts, problems) = Scripts::compile(&sources, BTreeMap::new(), ScriptLimits::default(), Clock::System);
    assert!(problems.is_empty(), "{problems:?}");
    Program {
        // An empty payload: what params cost is not asked here.
        params: Params::new(Vec::new(), sidehook::rules::Missing::Omit),
        when: None,
        rule: scripts.rule("rule.rhai"),
        on_rule_error: OnRuleError::DeadLetter,
        format: Format::Json,
        reserved_headers: Vec::new(),
        suspend_for: Duration::from_secs(30),
    }
}

/// Seconds that so many evaluations take.
fn timed(program: &Program, event: &Event, rounds: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        let outcome = black_box(program.evaluate(black_box(event), None));
        assert!(!matches!(outcome, Outcome::Failed { .. }), "{outcome:?}");
    }
    start.elapsed().as_secs_f64()
}

/// The least of several measurements, in seconds per evaluation: the least disturbed one.
fn best(program: &Program, event: &Event, rounds: u32) -> f64 {
    let least = (0..7).map(|_| timed(program, event, rounds)).fold(f64::INFINITY, f64::min);
    least / f64::from(rounds)
}

/// Evaluations a second, all threads together; the best of several measurements.
fn throughput(program: &Arc<Program>, event: &Arc<Event>, threads: u32, rounds: u32) -> f64 {
    let measure = |_| {
        let barrier = Arc::new(Barrier::new(threads as usize + 1));
        let workers: Vec<_> = (0..threads)
            .map(|_| {
                let (program, event, barrier) = (Arc::clone(program), Arc::clone(event), Arc::clone(&barrier));
                std::thread::spawn(move || {
                    barrier.wait();
                    timed(&program, &event, rounds);
                })
            })
            .collect();
        barrier.wait();
        let start = Instant::now();
        for worker in workers {
            worker.join().expect("no panic");
        }
        f64::from(threads * rounds) / start.elapsed().as_secs_f64()
    };
    (0..5).map(measure).fold(0.0, f64::max)
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 20_000 } else { 20 };
    let (small, large) = (event(1024), event(1024 * 1024));
    let fields = Arc::new(program(THREE_FIELDS));
    timed(&fields, &large, rounds);
    let (on_small, on_large) = (best(&fields, &small, rounds), best(&fields, &large, rounds));
    println!("three fields, 1 KB conversation: {:.2} us", on_small * 1e6);
    println!("three fields, 1 MB conversation: {:.2} us", on_large * 1e6);
    println!("ratio 1 MB to 1 KB: {:.2}", on_large / on_small);
    println!("a call by itself: {:.2} us", best(&program(BARE), &small, rounds) * 1e6);
    let small = Arc::new(small);
    let one = throughput(&fields, &small, 1, rounds);
    let two = throughput(&fields, &small, 2, rounds);
    println!("one thread: {one:.0}/s, two threads: {two:.0}/s");
    println!("ratio two threads to one: {:.2}", two / one);
}
