//! The integration tests: the real binary as its users meet it, a module per behaviour.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::disallowed_methods,
    dead_code,
    reason = "test support is not inside a #[test] function, and tests measure by the real clock"
)]

mod api;
mod commands;
mod config_cases;
mod conversations;
mod crash;
mod draining;
mod fuzz;
mod ingest;
mod isolation;
mod layers;
mod ordering;
mod params;
mod reloads;
mod retries;
mod rules;
mod seed;
mod shapes;
mod signatures;
mod support;
