//! The actor from the outbox to the webhooks: takes what is ready, sends it within each webhook's and the whole
//! process's bounds, stores what came of it. Renders nothing, never touches a payload, and decides nothing that
//! `delivery` does not decide.
//!
//! `actor` owns all state and selects over what may happen; `lane` is one webhook's state; `attempt` one request's way;
//! `settler` makes results durable; `board` is what the outside may look at.

mod actor;
mod attempt;
mod board;
mod lane;
mod request;
mod settler;

pub use actor::{Dispatcher, Summary};
pub use board::{Handle, LaneStatus};

#[cfg(test)]
mod tests;
