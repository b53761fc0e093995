//! Serves `GET /health`, `/livez` and `/readyz`.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use chrono::Utc;

use super::health::{Health, STALE_AFTER};
use super::state::HubState;
use crate::log::write_health::{APPENDS_FAIL_AFTER, MOVES_FAIL_AFTER};
use crate::wire::node_service::HealthBody;
use crate::wire::readiness::{AgeCheck, FailingCheck, PlainCheck, ReadinessBody, ReadinessChecks, SettingCheck, WaitingCheck};
use crate::wire::server_frame::timestamp;

fn status(health: &Health) -> StatusCode {
    if health.is_ready() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE }
}

/// The old service's health route, with its fields.
pub async fn health(State(hub): State<Arc<HubState>>) -> Response {
    let health = &hub.health;
    let position = hub.delivery.registry.position();
    let body = HealthBody {
        status: if health.is_ready() { "ok" } else { "degraded" },
        active_connections: hub.delivery.registry.count(),
        timestamp: timestamp(Utc::now()),
        uptime: health.uptime().as_secs_f64(),
        instance: hub.instance.to_string(),
        version: env!("CARGO_PKG_VERSION"),
        log_id: position.log_id.to_string(),
        head: position.dispatched,
    };
    (status(health), Json(body)).into_response()
}

/// Tells that the process runs and answers. It asks nothing else: a database outage is no reason to restart the hub.
pub async fn livez() -> &'static str {
    "ok\n"
}

/// Tells whether clients should be sent to this instance.
pub async fn readyz(State(hub): State<Arc<HubState>>, RawQuery(query): RawQuery) -> Response {
    let health = &hub.health;
    let verbose = query.is_some_and(|q| q.split('&').any(|p| p == "verbose" || p.starts_with("verbose=")));
    if !verbose {
        return (status(health), if health.is_ready() { "ready\n" } else { "not ready\n" }).into_response();
    }
    let work = health.work();
    let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let checks = ReadinessChecks {
        log_read: AgeCheck { ok: health.log_is_read(), age_ms: ms(health.log_age()), limit_ms: ms(STALE_AFTER) },
        durable: SettingCheck { ok: health.unsafe_setting().is_none(), setting: health.unsafe_setting() },
        appends: FailingCheck { ok: work.appends_succeed(), failing_ms: ms(work.appends_fail_for()), limit_ms: ms(APPENDS_FAIL_AFTER) },
        moves: WaitingCheck { ok: work.moves_succeed(), waiting_ms: ms(work.moves_wait_for()), limit_ms: ms(MOVES_FAIL_AFTER) },
        key_sets: PlainCheck { ok: health.has_keys() },
        not_draining: PlainCheck { ok: !health.is_draining() },
        not_stopping: PlainCheck { ok: !health.is_stopping() },
    };
    let body = ReadinessBody { ready: health.is_ready(), checks };
    (status(health), Json(body)).into_response()
}
