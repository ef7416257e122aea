//! sidehook: a sidecar that turns an AI assistant's lifecycle events into signed, durable webhooks.
//!
//! Modules are layered; a module imports only from lower layers (`tests/layers.rs` enforces it).
//! `src/ARCHITECTURE.md` walks the way of an event through them.

// layer 9
pub mod cli;
// layer 8
pub mod app;
// layer 7
pub mod admin;
// layer 6
pub mod dispatch;
pub mod ingest;
pub mod reload;
// layer 5
pub mod outbox;
pub mod source;
// layer 4
pub mod net;
// layer 3
pub mod config;
// layer 2
pub mod delivery;
pub mod rules;
pub mod sign;
// layer 1
pub mod event;
// layer 0
pub mod clock;
pub mod limits;
pub mod secret;
pub mod shutdown;
pub mod telemetry;
