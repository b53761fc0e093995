//! Whether the hub does its work: measured at the delivery, not at the process.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::Utc;
use serde_json::json;
use tokio::time::Instant;

use super::router::Hub;
use crate::delivery::tailer::Pulse;
use crate::wire::server::timestamp;

/// Without a confirmed look at the end of the log for this long, delivery counts as broken. Above the poll interval
/// and one missed answer, below the five seconds after which `/readyz` must tell.
const STALE_AFTER: Duration = Duration::from_secs(4);

/// What the health routes look at.
#[derive(Debug)]
pub struct Health {
    pulse: Arc<Pulse>,
    stopping: AtomicBool,
    started: Instant,
}

impl Health {
    pub fn new(pulse: Arc<Pulse>) -> Self {
        Self { pulse, stopping: AtomicBool::new(false), started: Instant::now() }
    }

    /// From now on nobody should be sent here.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Whether the log was read to its end a moment ago.
    pub fn log_is_read(&self) -> bool {
        self.pulse.age() < STALE_AFTER
    }

    fn is_ready(&self) -> bool {
        self.log_is_read() && !self.is_stopping()
    }

    fn status(&self) -> StatusCode {
        if self.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
    }
}

/// The old service's health route, with its fields.
pub async fn health(State(hub): State<Arc<Hub>>) -> Response {
    let health = &hub.health;
    let position = hub.delivery.registry.position();
    let body = json!({
        "status": if health.is_ready() { "ok" } else { "degraded" },
        "activeConnections": hub.delivery.registry.count(),
        "timestamp": timestamp(Utc::now()),
        "uptime": health.started.elapsed().as_secs_f64(),
        "instance": hub.instance,
        "version": env!("CARGO_PKG_VERSION"),
        "log_id": position.log_id,
        "head": position.published,
    });
    (health.status(), Json(body)).into_response()
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
        return (health.status(), if health.is_ready() { "ready\n" } else { "not ready\n" }).into_response();
    }
    let checks = json!({
        "ready": health.is_ready(),
        "checks": {
            "log_read": { "ok": health.log_is_read(), "age_ms": health.pulse.age().as_millis() as u64, "limit_ms": STALE_AFTER.as_millis() as u64 },
            "not_stopping": { "ok": !health.is_stopping() },
        },
    });
    (health.status(), Json(checks)).into_response()
}
