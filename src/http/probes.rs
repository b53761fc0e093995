//! `GET /health`, `/livez`, `/readyz`: what health looks like from outside.

use std::sync::Arc;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde_json::json;

use super::health::{Health, STALE_AFTER};
use super::hub::Hub;
use crate::wire::server::timestamp;

fn status(health: &Health) -> StatusCode {
    if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The old service's health route, with its fields.
pub async fn health(State(hub): State<Arc<Hub>>) -> Response {
    let health = &hub.health;
    let position = hub.delivery.registry.position();
    let body = json!({
        "status": if health.is_ready() { "ok" } else { "degraded" },
        "activeConnections": hub.delivery.registry.count(),
        "timestamp": timestamp(Utc::now()),
        "uptime": health.uptime().as_secs_f64(),
        "instance": hub.instance,
        "version": env!("CARGO_PKG_VERSION"),
        "log_id": position.log_id,
        "head": position.published,
    });
    (status(health), Json(body)).into_response()
}

/// The process runs and answers. Asks nobody else: a database that is away is no reason to restart the hub.
pub async fn livez() -> &'static str {
    "ok\n"
}

/// Whether clients should be sent here.
pub async fn readyz(State(hub): State<Arc<Hub>>, RawQuery(query): RawQuery) -> Response {
    let health = &hub.health;
    let verbose = query.is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
    if !verbose {
        return (status(health), if health.is_ready() { "ready\n" } else { "not ready\n" }).into_response();
    }
    let checks = json!({
        "ready": health.is_ready(),
        "checks": {
            "log_read": { "ok": health.log_is_read(), "age_ms": health.log_age().as_millis() as u64, "limit_ms": STALE_AFTER.as_millis() as u64 },
            "not_stopping": { "ok": !health.is_stopping() },
        },
    });
    (status(health), Json(checks)).into_response()
}
