//! The integration tests: the real binary as its users meet it, a module per behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::float_cmp,
    clippy::needless_pass_by_value,
    clippy::format_collect,
    clippy::format_push_string,
    dead_code,
    reason = "test support is not inside a #[test] function, tests measure by the real clock, compare counters exactly and need not be fast"
)]

mod adapters;
mod analyses;
mod api;
mod assistant;
mod commands;
mod config_cases;
mod conversations;
mod crash;
mod destinations;
mod docs;
mod draining;
mod ends;
mod faults;
mod fuzz;
mod ingest;
mod isolation;
mod layers;
mod newcomer;
mod ordering;
mod own_events;
mod params;
mod proxy;
mod reloads;
mod replays;
mod retries;
mod rule_tests;
mod rules;
mod sealed;
mod seed;
mod shapes;
mod signatures;
mod sources;
mod support;
