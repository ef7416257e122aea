//! Files in, one validated generation out. `yaml` gives a tree with places, `decode` and its neighbours walk it and
//! record every problem, `load` does the I/O around them. Nothing here connects, listens or keeps state.

mod analyses;
mod auth;
mod cases;
mod decode;
mod fields;
mod interpolate;
mod load;
mod mask;
pub mod model;
mod params;
mod proxy;
pub mod rapida;
mod reader;
pub mod report;
pub mod rewrite;
mod scalars;
pub mod schema;
mod scripts;
mod sealing;
mod settings;
mod shape;
mod signing;
pub mod sources;
mod tls;
mod traps;
pub mod values;
mod verify;
mod webhook;
mod yaml;

pub use cases::Case;
pub use load::{Loaded, Tests, load, load_all, load_with};
pub use model::{Generation, Webhook};
pub use report::{Problem, Report};

#[cfg(test)]
mod tests;
