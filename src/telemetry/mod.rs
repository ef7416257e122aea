//! What sidehook tells about itself: one struct per fact, whose `emit` writes the log line and moves the metric.
//! Facts are grouped by the module that states them. Metrics go through the `metrics` facade to the recorder set up
//! here, whose series can be deleted when a webhook is gone.

pub mod config;
pub mod dispatch;
pub mod ingest;
pub mod log;
pub mod outbox;
pub mod recorder;
pub mod rules;

pub use log::LogFormat;
pub use recorder::metrics;
