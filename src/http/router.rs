//! The routes, and what their handlers share.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::auth::Auth;
use super::health::{Health, health, livez, readyz};
use super::limits::Rates;
use super::origin::Origins;
use super::problems::Refused;
use super::socket::SocketRules;
use super::{batch, device, history, notify, request, sse, stats, upgrade};
use crate::delivery::Delivery;
use crate::domain::InstanceId;
use crate::store::Reader;
use crate::store::appender::AppendHandle;
use crate::tasks::Tasks;
use crate::wire::problem::Problem;

/// What every handler may use. There is no way from here into an outbox.
pub struct Hub {
    pub instance: InstanceId,
    pub appender: AppendHandle,
    pub delivery: Delivery,
    pub reader: Reader,
    pub auth: Auth,
    pub origins: Origins,
    pub rates: Rates,
    /// Room for the bodies of batches; who finds none waits a while.
    pub batch_room: Semaphore,
    pub health: Health,
    pub sockets: SocketRules,
    pub max_connections: usize,
    pub tasks: Tasks,
}

/// The hub's HTTP side.
pub fn router(hub: Arc<Hub>) -> Router {
    let cors = cors(&hub.origins);
    Router::new()
        .route("/api/internal/notify", post(notify::notify))
        .route("/api/internal/notify/batch", post(batch::notify_batch))
        .route("/api/internal/ws-stats", get(stats::stats))
        .route("/stats", get(stats::stats))
        .route("/api/notifications", get(history::list))
        .route("/api/notifications/ack", post(device::ack))
        .route("/api/notifications/head", get(history::head))
        .route("/api/whoami", get(device::whoami))
        .route("/api/notifications/stream", get(sse::stream))
        .route("/ws", get(upgrade::ws))
        .route("/", get(upgrade::root))
        .route("/health", get(health))
        .route("/livez", get(livez))
        .route("/readyz", get(readyz))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(cors)
        .layer(middleware::from_fn(request::frame))
        .with_state(hub)
}

async fn no_route() -> Refused {
    Problem::new(404, "not_found", "there is nothing at this path; docs/protocol.md lists what there is").into()
}

async fn no_method() -> Refused {
    Problem::new(405, "method_not_allowed", "this path is served, but not with this method; Allow lists those that are").into()
}

fn cors(origins: &Origins) -> CorsLayer {
    let origins = origins.clone();
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin: &HeaderValue, _| origins.allow_one(origin)))
        .allow_methods([Method::GET, Method::POST])
        .allow_headers([header::AUTHORIZATION, header::CONTENT_TYPE, HeaderName::from_static("last-event-id")])
}
