//! The routes.

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware;
use axum::routing::{get, post};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::hub::Hub;
use super::origin::Origins;
use super::probes::{health, livez, readyz};
use super::problems::Refused;
use super::{batch, device, history, notify, request, sse, stats, upgrade, why};
use crate::wire::problem::Problem;

/// The hub's HTTP side.
pub fn router(hub: Arc<Hub>) -> Router {
    let cors = cors(&hub.origins);
    Router::new()
        .route("/api/internal/notify", post(notify::notify))
        .route("/api/internal/notify/batch", post(batch::notify_batch))
        .route("/api/internal/ws-stats", get(stats::stats))
        .route("/stats", get(stats::stats))
        .route("/api/admin/why", get(why::why))
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
