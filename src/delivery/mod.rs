//! What delivery decides, as pure state machines over `now`: retry schedule, status verdicts, breaker, rate, slowing
//! down. Does no I/O and reads no clock.

mod breaker;
mod rate;
mod retry;
mod retry_after;
mod status;
mod throttle;
mod verdict;

pub use breaker::{Admission, Breaker, BreakerPolicy, BreakerState};
pub use rate::{Rate, TokenBucket};
pub use retry::{RetryPolicy, Schedule};
pub use retry_after::parse_retry_after;
pub use status::StatusSet;
pub use throttle::Throttle;
pub use verdict::{Fault, Judgement, Outcome, judge};
