//! Serves `/api/admin/instances`: lists the hubs of the database, and drains one.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use uuid::Uuid;

use crate::domain::InstanceId;
use crate::http::auth::actor;
use crate::http::problems::RefusedRequest;
use crate::http::query::no_store;
use crate::http::request::{BODY_MAX_BYTES, Media, media, whole_body};
use crate::http::state::HubState;
use crate::store::access;
use crate::wire::console::instances::{DrainBegun, DrainBody, InstancesBody};
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

/// `GET /api/admin/instances`.
pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let Some(latest) = hub.instances.latest() else {
        // Only before the first heartbeat, or while the database has not answered since the start.
        return Err(Problem::new(503, "unavailable", "this hub has read no heartbeat yet. Retry later").retry_after(2).into());
    };
    let body = InstancesBody { as_of: timestamp(latest.as_of), instances: &latest.instances, stopped: &latest.stopped };
    Ok((no_store(), Json(body)).into_response())
}

/// `POST /api/admin/instances/{id}/drain`.
pub async fn drain(
    State(hub): State<Arc<HubState>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.admin(&headers).await?;
    media(&headers, &[Media::Json])?;
    let DrainBody { window_seconds } = DrainBody::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)?;
    let window = Duration::from_secs(window_seconds);
    let connections = match Uuid::parse_str(&id) {
        Ok(instance) => access::drain(&hub.reader, InstanceId(instance), window, &actor(&headers, &caller)).await?,
        Err(_) => None,
    };
    let Some(connections) = connections else {
        let detail = "no live instance that can drain has this id; GET /api/admin/instances lists them, and a hub of an earlier version \
                      drains only by stopping it";
        return Err(Problem::new(404, "not_found", detail).into());
    };
    tracing::info!(by = caller.name, instance = id, window_seconds, "orders an instance to drain");
    Ok((StatusCode::ACCEPTED, no_store(), Json(DrainBegun { success: true, connections })).into_response())
}
