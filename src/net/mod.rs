//! Sockets: listeners and the server loop, the outgoing client with its egress guard, TLS. The only module that opens
//! connections. It carries bytes and HTTP messages and knows nothing of events, deliveries or the outbox.

mod client;
mod connections;
mod connector;
mod either;
mod gathered;
mod guard;
mod linger;
pub mod listener;
pub mod local;
mod prefixed;
mod proxy;
pub mod receiver;
pub mod relay;
pub mod serve;
pub mod tls;
mod token;
mod unclosed;

pub use client::{AGENT, Answer, Client, Failure, Streaming};
pub use connections::connections;
pub use guard::{Denied, Guard};
pub use listener::{ListenError, Listener, Peer, bind};
pub use receiver::{Received, Receiver, ReceiverOptions};
pub use serve::{ServeOptions, serve};
pub use tls::{SelfSigned, TlsError, self_signed, server_config};
pub use token::{Destination, Way};

#[cfg(test)]
mod tests;
