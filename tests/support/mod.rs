//! What the behaviour tests share: a running sidehook, a TLS receiver that can misbehave, a plain HTTP client,
//! signatures computed by other code than sidehook's. Nothing here looks inside the library.

pub mod cli;
pub mod client;
pub mod events;
pub mod random;
pub mod receiver;
pub mod sidehook;
pub mod signature;

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use cli::{cli, cli_in};
pub use client::{Answer, Connection};
pub use receiver::{Body, Received, Receiver, Reply, Shown};
pub use sidehook::Sidehook;

/// How long a condition may take to come true on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// A loopback address that no other test of this machine uses, so that fixed ports never collide.
pub fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    // Process ids have 22 bits on Linux. Those of tests that run side by side are close together; within one process the
    // stride leads far away from them.
    let host = std::process::id().wrapping_add(next.wrapping_mul(611_953)) & 0x3F_FFFF;
    let octet = |n: u32| u8::try_from(n % 256).unwrap_or_default();
    Ipv4Addr::new(127, 64 + octet(host / 254 / 256), octet(host / 254), 1 + octet(host % 254))
}

/// Awaits a condition that is polled. Panics with what the condition last said.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Result<T, String>) -> T {
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        match check().await {
            Ok(value) => return value,
            Err(last) if tokio::time::Instant::now() > end => panic!("{what}: not within {PATIENCE:?}; last: {last}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
        }
    }
}
