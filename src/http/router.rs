//! The routes.

use std::sync::Arc;

use axum::Router;
use axum::handler::Handler;
use axum::http::{HeaderName, HeaderValue, Method, header};
use axum::middleware;
use axum::routing::{MethodRouter, get, post};
use tower_http::cors::{AllowOrigin, CorsLayer};

use super::hub::Hub;
use super::origin::Origins;
use super::probes::{health, livez, readyz};
use super::problems::Refused;
use super::{batch, device, history, metrics, notify, openapi, request, sse, stats, ticket, upgrade, why};
use crate::wire::problem::Problem;

/// The hub's HTTP side.
pub fn router(hub: Arc<Hub>) -> Router {
    let cors = cors(&hub.origins);
    routes()
        .router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(cors)
        .layer(middleware::from_fn_with_state(hub.tasks.clone(), request::frame))
        .with_state(hub)
}

/// What is served. Each of them stands in `openapi.json` as well, or a test fails.
pub fn routes() -> Routes {
    Routes::default()
        .post("/api/internal/notify", notify::notify)
        .post("/api/internal/notify/batch", batch::notify_batch)
        .get("/api/internal/ws-stats", stats::stats)
        .get("/stats", stats::stats)
        .get("/api/notifications", history::list)
        .post("/api/notifications/ack", device::ack)
        .get("/api/notifications/head", history::head)
        .get("/api/notifications/stream", sse::stream)
        .get("/api/whoami", device::whoami)
        .post("/api/ws-ticket", ticket::ws_ticket)
        .get("/ws", upgrade::ws)
        .get("/", upgrade::root)
        .get("/health", health)
        .get("/livez", livez)
        .get("/readyz", readyz)
        .get("/metrics", metrics::metrics)
        .get("/api/admin/why", why::why)
        .get("/openapi.json", openapi::openapi)
}

/// A router that can say what it serves.
#[derive(Default)]
pub struct Routes {
    router: Router<Arc<Hub>>,
    /// Path and method.
    pub served: Vec<(&'static str, Method)>,
}

impl Routes {
    fn get<H: Handler<T, Arc<Hub>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.serve(path, Method::GET, get(handler))
    }

    fn post<H: Handler<T, Arc<Hub>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.serve(path, Method::POST, post(handler))
    }

    fn serve(mut self, path: &'static str, method: Method, route: MethodRouter<Arc<Hub>>) -> Self {
        self.served.push((path, method));
        self.router = self.router.route(path, route);
        self
    }
}

async fn no_route() -> Refused {
    Problem::new(404, "not_found", "there is nothing at this path; /openapi.json lists what there is").into()
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
