//! Lists the routes and builds the router.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::handler::Handler;
use axum::http::{Method, header};
use axum::middleware;
use axum::routing::{MethodRouter, delete, get, post, put};
use tower_http::cors::{AllowCredentials, AllowHeaders, AllowOrigin, CorsLayer};

use super::health_routes::{health, livez, readyz};
use super::history::{RECADO_HEAD, RECADO_LOG_ID, RECADO_NEXT};
use super::hosts::Hosts;
use super::listener_side::ListenerSide;
use super::origin::Origins;
use super::problems::{REQUEST_ID, RefusedRequest};
use super::state::HubState;
use super::{
    access, api_documents, audit, batch, console, console_page, consumers, device, history, inbox, members, metrics, notify, refused_admin,
    request, sdk, session_auth, sse, stats, upgrade, why, ws_ticket,
};
use crate::metrics::REQUESTS;
use crate::wire::problem::Problem;

/// How long a browser may cache the answer to a preflight. Chromium's maximum.
const PREFLIGHT_LIFE: Duration = Duration::from_secs(2 * 3600);

/// Builds the hub's router.
pub fn router(hub: Arc<HubState>, side: ListenerSide, hosts: Hosts) -> Router {
    let cors = cors(&hub.origins);
    routes(side)
        .router
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(Arc::clone(&hub), refused_admin::watch))
        .layer(cors)
        .layer(middleware::from_fn_with_state((hub.tasks.clone(), hosts), request::frame))
        .with_state(hub)
}

/// Lists what is served. A test fails if a route is missing in `api/openapi/openapi.json`.
pub fn routes(side: ListenerSide) -> Routes {
    Routes { router: Router::new(), side, served: Vec::new() }
        .post("/api/internal/notify", notify::notify)
        .post("/api/internal/notify/batch", batch::notify_batch)
        .put("/api/internal/accounts/{account}/members/{user}", members::add_member)
        .delete("/api/internal/accounts/{account}/members/{user}", members::remove_member)
        .get("/api/internal/accounts/{account}/members", members::list_members)
        .put("/api/internal/consumers/{name}", consumers::create)
        .post("/api/internal/consumers/{name}/fetch", consumers::fetch)
        .post("/api/internal/consumers/{name}/ack", consumers::ack)
        .post("/api/internal/consumers/{name}/renew", consumers::renew)
        .post("/api/internal/consumers/{name}/release", consumers::release)
        .post("/api/internal/consumers/{name}/seek", consumers::seek)
        .post("/api/internal/notify/ndjson", batch::notify_ndjson)
        .post("/api/internal/notify/cloudevent", notify::notify_cloud_event)
        .post("/api/internal/notify/cloudevents", batch::notify_cloud_events)
        .get("/api/internal/ws-stats", stats::stats)
        .get("/stats", stats::stats)
        .get("/api/notifications", history::list)
        .get("/api/notifications/ndjson", history::list_ndjson)
        .post("/api/notifications/ack", device::ack)
        .get("/api/notifications/head", history::head)
        .get("/api/notifications/stream", sse::stream)
        .get("/api/inbox", inbox::list)
        .post("/api/inbox", inbox::change)
        .get("/api/preferences", inbox::preferences)
        .post("/api/preferences", inbox::set_preferences)
        .get("/api/whoami", device::whoami)
        .post("/api/ws-ticket", ws_ticket::ws_ticket)
        .post("/api/session/{id}/auth", session_auth::renew)
        .get("/ws", upgrade::ws)
        .get("/", upgrade::root)
        .get("/health", health)
        .get("/livez", livez)
        .get("/readyz", readyz)
        .get("/metrics", metrics::metrics)
        .get("/api/admin/why", why::why)
        .get("/api/admin/audit", audit::list)
        .get("/api/admin/revocations", access::list)
        .post("/api/admin/revocations", access::revoke)
        .delete("/api/admin/revocations/{user}", access::lift)
        .post("/api/admin/sessions/close", access::close)
        .get("/api/admin/instances", console::instances::list)
        .post("/api/admin/instances/{id}/drain", console::instances::drain)
        .get("/api/admin/live", console::live::stream)
        .get("/api/admin/settings", console::settings::list)
        .get("/api/admin/keys", console::keys::list)
        .get("/api/admin/analysts", console::analysts::list)
        .get("/api/admin/upstream", console::upstream::list)
        .post("/api/admin/upstream/{provider}/{user}", console::upstream::act)
        .post("/api/admin/tokens", console::tokens::mint)
        .post("/api/admin/sign-in", console::sign_in::exchange)
        .get(console_page::PATH, console_page::page)
        .get(console_page::SCRIPT_PATH, console_page::script)
        .get(console_page::STYLE_PATH, console_page::style)
        .get(console_page::ICON_PATH, console_page::icon)
        .get("/api/admin/sessions", console::sessions::list)
        .get("/api/admin/devices", console::devices::list)
        .get("/api/admin/users/{id}", console::users::show)
        .get("/api/admin/users/{id}/notifications", console::users::notifications)
        .post("/api/admin/users/{id}/ack", console::users::ack)
        .get("/api/admin/log", console::log::rows)
        .get("/api/admin/log/partitions", console::partitions::list)
        .get("/openapi.json", api_documents::openapi)
        .get("/asyncapi.json", api_documents::asyncapi)
        .get(sdk::PATH, sdk::recado_js)
}

/// A router that can list its routes.
pub struct Routes {
    router: Router<Arc<HubState>>,
    side: ListenerSide,
    /// Path and method.
    pub served: Vec<(&'static str, Method)>,
}

impl Routes {
    fn get<H: Handler<T, Arc<HubState>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.serve(path, Method::GET, get(handler))
    }

    fn post<H: Handler<T, Arc<HubState>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.serve(path, Method::POST, post(handler))
    }

    fn put<H: Handler<T, Arc<HubState>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.serve(path, Method::PUT, put(handler))
    }

    fn delete<H: Handler<T, Arc<HubState>>, T: 'static>(self, path: &'static str, handler: H) -> Self {
        self.serve(path, Method::DELETE, delete(handler))
    }

    fn serve(mut self, path: &'static str, method: Method, route: MethodRouter<Arc<HubState>>) -> Self {
        if self.side.serves(path) {
            REQUESTS.serve(path);
            self.served.push((path, method));
            self.router = self.router.route(path, route);
        }
        self
    }
}

async fn no_route() -> RefusedRequest {
    Problem::new(404, "not_found", "no route at this path; /openapi.json lists the routes").into()
}

async fn no_method() -> RefusedRequest {
    Problem::new(405, "method_not_allowed", "this method is not allowed at this path; the Allow header lists the allowed ones").into()
}

fn cors(origins: &Origins) -> CorsLayer {
    let (origins, with_credentials) = (origins.clone(), origins.clone());
    CorsLayer::new()
        .allow_origin(AllowOrigin::predicate(move |origin, request| {
            request.uri.path() == sdk::PATH || origins.allow_one(origin, &request.headers)
        }))
        // Only for allowed origins, never with `*`. The hub reads no cookies; a proxy in front of it may.
        .allow_credentials(AllowCredentials::predicate(move |origin, request| with_credentials.allow_one(origin, &request.headers)))
        .allow_methods([Method::GET, Method::POST])
        // Pages and their libraries send headers of their own, which the hub ignores.
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers([header::RETRY_AFTER, REQUEST_ID, RECADO_NEXT, RECADO_HEAD, RECADO_LOG_ID])
        .max_age(PREFLIGHT_LIFE)
}
