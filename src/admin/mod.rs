//! The admin listener: probes, metrics and the API, on a thread and runtime of its own, so that it answers while
//! everything else is under full load.

mod conversations;
mod deliveries;
mod gauges;
mod guard;
mod pages;
mod problem;
mod replay;
mod status;
mod webhooks;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use hyper_util::service::TowerToHyperService;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::Generation;
use crate::config::model::Listen;
use crate::dispatch;
use crate::ingest::Ingest;
use crate::limits;
use crate::net::{self, ListenError, ServeOptions};
use crate::outbox::{Health, Outbox};
use crate::reload::ReloadHandle;

/// What the handlers share.
#[derive(Clone)]
pub struct Parts {
    /// Where deliveries are.
    pub outbox: Outbox,
    /// The configuration in force.
    pub generations: watch::Receiver<Arc<Generation>>,
    /// Asks for reloads.
    pub reload: ReloadHandle,
    /// What is under way, and what starts nothing.
    pub dispatch: dispatch::Handle,
    /// Where test events go in.
    pub ingest: Arc<Ingest>,
    /// Set by whoever starts and ends the process.
    pub ready: Arc<AtomicBool>,
    /// Where the sources listen, by name, once they do.
    pub listening: Arc<OnceLock<Vec<(String, Listen)>>>,
    /// For ages.
    pub clock: Clock,
}

/// The admin listener's handlers.
#[derive(Clone)]
pub struct Admin(Arc<Parts>);

impl std::ops::Deref for Admin {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Admin {
    /// From its parts.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// Why `/ready` is red; `None` when it is green.
    fn not_ready(&self) -> Option<String> {
        if !self.ready.load(Ordering::SeqCst) {
            return Some("starting or ending".into());
        }
        match &*self.outbox.health().borrow() {
            Health::Healthy => None,
            Health::Failed(error) => Some(format!("the outbox failed: {error}")),
            Health::Full => Some("the outbox is full".into()),
        }
    }

    fn router(self) -> Router {
        let api = Router::new()
            .route("/api/v1/status", get(status::status))
            .route("/api/v1/reload", post(status::reload))
            .route("/api/v1/ledger", get(status::ledger))
            .route("/api/v1/webhooks", get(webhooks::list))
            .route("/api/v1/webhooks/{name}", get(webhooks::show))
            .route("/api/v1/webhooks/{name}/pause", post(webhooks::pause))
            .route("/api/v1/webhooks/{name}/resume", post(webhooks::resume))
            .route("/api/v1/webhooks/{name}/test", post(webhooks::test))
            .route("/api/v1/replay", post(replay::replay))
            .route("/api/v1/conversations", get(conversations::list))
            .route("/api/v1/deliveries", get(deliveries::list))
            .route("/api/v1/deliveries/retry", post(deliveries::retry_where))
            .route("/api/v1/deliveries/{id}", get(deliveries::show))
            .route("/api/v1/deliveries/{id}/retry", post(deliveries::retry))
            .fallback(async |uri: http::Uri| problem::not_found(&format!("there is nothing at {:?}", uri.path())))
            .layer(DefaultBodyLimit::max(limits::ADMIN_BODY_BYTES))
            .layer(axum::middleware::from_fn_with_state(self.clone(), guard::check));
        let all = Router::new()
            .route("/live", get(status::live))
            .route("/ready", get(status::ready))
            .route("/metrics", get(status::metrics))
            .merge(api)
            .with_state(self);
        // Around all of it: a router names the allowed methods only once its own layers are done.
        Router::new().fallback_service(all).layer(axum::middleware::map_response(problem::of_wrong_method))
    }

    /// Binds and serves on a thread of its own until `stop` is cancelled. Answers where it listens.
    pub async fn spawn(self, listen: Listen, stop: CancellationToken) -> Result<(Listen, JoinHandle<()>), ListenError> {
        let io = |source| ListenError::Io { listen: listen.clone(), source };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(io)?;
        let (bound, is_bound) = oneshot::channel();
        let at = listen.clone();
        let serve = async move {
            let listener = match net::bind(&at).await {
                Ok(listener) => listener,
                Err(error) => {
                    // Nobody waits for it only when the caller has given up.
                    let _ = bound.send(Err(error));
                    return;
                }
            };
            let _ = bound.send(Ok(listener.local().clone()));
            let service = TowerToHyperService::new(self.router());
            let options = ServeOptions { max_connections: limits::ADMIN_CONNECTIONS, ..ServeOptions::default() };
            net::serve(listener, service, stop, options).await;
        };
        let thread =
            std::thread::Builder::new().name("admin".into()).spawn(move || runtime.block_on(serve)).map_err(io)?;
        let local = is_bound.await.map_err(|_| io(std::io::Error::other("its thread ended")))??;
        Ok((local, thread))
    }
}
