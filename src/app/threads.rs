//! Threads that deliveries have to themselves. On those of the intake a task waits its turn behind every sender that has
//! something to say, so that under load deliveries would fall behind, and then cost more: each is read back from the store.

use tokio::runtime::{Builder, EnterGuard, Handle, Runtime};
use tokio::task::JoinHandle;

use crate::limits;

/// A runtime that may be dropped within another one; what still runs on it is let go then.
pub(super) struct Threads {
    runtime: Option<Runtime>,
    handle: Handle,
}

impl Threads {
    /// Starts half as many as there are cores.
    pub(super) fn start() -> std::io::Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .thread_name("delivery")
            .worker_threads(cores.div_ceil(2))
            // No script runs here, but a webhook's last holder may be here, and values of scripts are let go level by level.
            .thread_stack_size(limits::SCRIPT_STACK_BYTES)
            .max_blocking_threads(limits::BLOCKING_THREADS)
            .enable_all()
            .build()?;
        Ok(Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }

    /// Runs a task on them.
    pub(super) fn spawn<T: Send + 'static>(&self, task: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
        self.handle.spawn(task)
    }

    /// What is spawned while this is held runs on them.
    pub(super) fn enter(&self) -> EnterGuard<'_> {
        self.handle.enter()
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
