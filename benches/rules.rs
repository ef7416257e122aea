//! What rules cost: by size of the conversation, by threads, and a call by itself, beside what building Rhai maps of the
//! event would cost. On threads with the stack that the service gives its own. Prints ratios; judges nothing.

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

use rhai::{Dynamic, Map};
use sidehook::clock::{Clock, Timestamp};
use sidehook::event::{Event, Incoming, Json, Kind, Stamp, State};
use sidehook::limits;
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
    // A thread that waits for a core is not to be taken for a slow script.
    let limits = ScriptLimits { time: Duration::from_secs(10), ..ScriptLimits::default() };
    let (scripts, problems) = Scripts::compile(&sources, BTreeMap::new(), limits, Clock::System);
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

/// The least of several measurements, taken in turn, in seconds per evaluation: the least disturbed one of each.
fn best<const N: usize>(rounds: u32, measure: [&dyn Fn(u32) -> f64; N]) -> [f64; N] {
    let mut least = [f64::INFINITY; N];
    for _ in 0..9 {
        for (least, measure) in least.iter_mut().zip(measure) {
            *least = least.min(measure(rounds) / f64::from(rounds));
        }
    }
    least
}

/// What a host that hands scripts plain Rhai maps would make of an event before the script begins.
fn as_map(json: &Json) -> Dynamic {
    match json.kind() {
        Kind::Object => json.members().map(|(k, v)| (k.as_ref().into(), as_map(&v))).collect::<Map>().into(),
        Kind::Array => json.items().map(|item| as_map(&item)).collect::<Vec<_>>().into(),
        Kind::String => json.as_str().unwrap_or_default().into_owned().into(),
        Kind::Number => json.as_number().and_then(|n| n.parse::<i64>().ok()).map_or(Dynamic::UNIT, Dynamic::from),
        Kind::Bool => json.as_bool().map_or(Dynamic::UNIT, Dynamic::from),
        Kind::Null => Dynamic::UNIT,
    }
}

/// Seconds that building so many maps takes.
fn built(event: &Event, rounds: u32) -> f64 {
    let start = Instant::now();
    for _ in 0..rounds {
        drop(black_box(as_map(black_box(&event.root))));
    }
    start.elapsed().as_secs_f64()
}

/// A thread as those that evaluate rules in service.
fn thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> std::thread::JoinHandle<T> {
    std::thread::Builder::new().stack_size(limits::SCRIPT_STACK_BYTES).spawn(run).expect("a thread")
}

/// Evaluations a second, all threads together, each with an event of its own.
fn throughput(program: &Arc<Program>, threads: u32, rounds: u32) -> f64 {
    let barrier = Arc::new(Barrier::new(threads as usize + 1));
    let workers: Vec<_> = (0..threads)
        .map(|_| {
            let (program, barrier) = (Arc::clone(program), Arc::clone(&barrier));
            thread(move || {
                let event = event(1024);
                timed(&program, &event, rounds / 10 + 1);
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
}

fn main() {
    // `cargo test --benches` only asks whether it runs.
    let rounds = if std::env::args().any(|arg| arg == "--bench") { 20_000 } else { 20 };
    thread(move || sizes(rounds)).join().expect("no panic");
    threads(rounds);
}

fn sizes(rounds: u32) {
    let (small, large) = (event(1024), event(1024 * 1024));
    let (fields, bare) = (program(THREE_FIELDS), program(BARE));
    timed(&fields, &large, rounds);
    let [bare, on_small, on_large] =
        best(rounds, [&|n| timed(&bare, &small, n), &|n| timed(&fields, &small, n), &|n| timed(&fields, &large, n)]);
    println!("a call by itself: {:.2} us", bare * 1e6);
    println!("three fields, 1 KB conversation: {:.2} us", on_small * 1e6);
    println!("three fields, 1 MB conversation: {:.2} us", on_large * 1e6);
    println!("ratio 1 MB to 1 KB: {:.2}", on_large / on_small);
    let [small_map] = best(rounds / 10, [&|n| built(&small, n)]);
    let [large_map] = best(rounds / 1000 + 1, [&|n| built(&large, n)]);
    println!("for comparison, only building Rhai maps: 1 KB {:.2} us, 1 MB {:.2} us", small_map * 1e6, large_map * 1e6);
}

fn threads(rounds: u32) {
    let fields = Arc::new(program(THREE_FIELDS));
    // Short and in turn, so that what else runs on the machine disturbs both alike, and some of them little.
    let (mut one, mut two) = (0.0_f64, 0.0_f64);
    for _ in 0..40 {
        one = one.max(throughput(&fields, 1, rounds / 4));
        two = two.max(throughput(&fields, 2, rounds / 4));
    }
    println!("one thread: {one:.0}/s, two threads: {two:.0}/s");
    println!("ratio two threads to one: {:.2}", two / one);
}
