//! Connections on which no HTTP is spoken: accepts and bounds them. What is said on them is the handler's business.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::listener::{Listener, Stream};
use super::serve::next;

/// Hands every connection to `handle`, `most` of them at once; further ones wait in the kernel's queue. Accepts nothing more
/// once `stop` is cancelled, and returns when all handlers have. Dropping the future ends all of them at once.
pub async fn connections<F>(
    listener: Listener,
    most: usize,
    stop: CancellationToken,
    handle: impl Fn(Stream) -> F + Send,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let places = Arc::new(Semaphore::new(most.max(1)));
    let mut open = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(_) = open.join_next(), if !open.is_empty() => {}
            accepted = next(&listener, &places) => match accepted {
                Ok((stream, _, place)) => {
                    let handled = handle(stream);
                    open.spawn(async move {
                        handled.await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(listen = %listener.local(), %error, "a connection could not be accepted");
                    // Out of file descriptors: accepting again at once would spin.
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
        }
    }
    drop(listener);
    while open.join_next().await.is_some() {}
}
