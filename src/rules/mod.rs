//! What a webhook's payload is: param selection and the sandboxed Rhai host. Does no I/O: sources come in as text,
//! log lines go out through `tracing`.
//!
//! The way of an evaluation: [`Program::evaluate`] asks `scripts` to run `when` and `accept` over a lazy `view` of the
//! event, lets `params` pick the payload, gives it to `transform` and `headers`, and lets `render` write it out.
//! [`Adapter::adapt`] comes before all of it: a message of a source in, events out.

mod adapter;
mod constants;
mod definitions;
mod engine;
mod explain;
mod format;
mod headers;
mod host;
mod library;
mod lint;
mod number;
mod params;
mod program;
mod render;
mod scripts;
pub mod testing;
mod view;

#[cfg(test)]
mod tests;

pub use adapter::{Adapter, Direction, Message};
pub use definitions::definition_files;
pub use explain::excerpt;
pub use headers::is_framing;
pub use host::docs::{HOST_FUNCTIONS, HostFunction, host_functions_markdown};
pub use params::{Missing, Params, Selector};
pub use program::{FilteredBy, Format, OnRuleError, Outcome, Payload, Program, RuleError, Trace};
pub use scripts::{Rule, ScriptLimits, ScriptProblem, Scripts, When};
