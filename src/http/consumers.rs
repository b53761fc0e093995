//! Serves `/api/internal/consumers/{name}`: services follow the log under a lease.
//!
//! A fetch that finds nothing waits in the hub, without a connection to the database: the tailer wakes it. While it
//! waits, the lease is renewed. A client that goes away ends its request, and so the renewals.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::auth::actor;
use super::history::bounds;
use super::log_line::log_line;
use super::problems::RefusedRequest;
use super::query::no_store;
use super::request::{BODY_MAX_BYTES, Media, media, whole_body};
use super::scopes::{check_consumer, check_consumer_audience};
use super::state::HubState;
use crate::domain::{ConsumerName, Seq, ServiceCaller};
use crate::metrics::CONSUMED;
use crate::store::consumers::{self, Batch, ConsumerAudience, ConsumerError, FetchWish, Fetched};
use crate::store::read::log_state;
use crate::wire::consumer::{self, BatchBody, ConsumerAckBody, ConsumerBody, FetchBody};
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

/// Most fetches on one instance at once, nearly all of which wait.
pub const FETCHES_MAX: usize = 256;
/// Most fetches of one key or subject.
pub const FETCHES_OF_ONE: usize = 64;
/// Shortest time between two reads of one fetch: rows that the consumer does not want wake it as well.
const READ_SPACING: Duration = Duration::from_millis(100);
/// How often a waiting fetch looks whether the hub stops.
const TICK: Duration = Duration::from_millis(250);
/// How often a fetch tries to take a lease that another owner has, since that may be given back.
const HELD_POLL: Duration = Duration::from_secs(1);

/// `PUT /api/internal/consumers/{name}`.
pub async fn create(
    State(hub): State<Arc<HubState>>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.caller(&headers).await?;
    let name = consumer::name(&segment)?;
    check_consumer(&caller, &name)?;
    let ConsumerBody { filter, start } = ConsumerBody::parse(&json_body(&headers, body).await?)?;
    check_consumer_audience(&caller, &ConsumerAudience { user: filter.user.clone(), account: filter.account.clone() })?;
    let by = actor(&headers, &caller);
    let created = hub.consumer_calls.run(async |connection| consumers::create(connection, &name, &filter, start, Some(&by)).await).await;
    let created = match created {
        Ok(created) => created,
        Err(error) => return Err(refused(&hub, error).await),
    };
    let status = if created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, no_store(), Json(json!({ "success": true, "created": created }))).into_response())
}

/// `POST /api/internal/consumers/{name}/fetch`.
pub async fn fetch(
    State(hub): State<Arc<HubState>>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let (caller, name) = admitted(&hub, &segment, &headers).await?;
    let body = FetchBody::parse(&json_body(&headers, body).await?)?;
    let _place = hub.consumer_fetches.take(actor(&headers, &caller).who)?;
    let deadline = Instant::now() + Duration::from_secs(u64::from(body.wait_seconds));
    loop {
        let read_at = Instant::now();
        let fetched = call_fetch(&hub, &name, &body).await?;
        let is_last = read_at >= deadline || hub.health.is_stopping();
        match fetched {
            Fetched::Batch(batch) if is_last || !batch.rows.is_empty() => return Ok(answer(&batch)),
            Fetched::Batch(batch) if batch.through < batch.head => {}
            Fetched::Batch(batch) => {
                let renewal = read_at + Duration::from_secs(u64::try_from(body.lease_seconds).unwrap_or(1)) / 3;
                until_appended(&hub, batch.head, deadline.min(renewal)).await;
                sleep_until((read_at + READ_SPACING).min(deadline)).await;
            }
            Fetched::Held(_) if is_last => return held(&hub).await,
            Fetched::Held(left) => sleep(left.clamp(READ_SPACING, HELD_POLL).min(deadline - read_at)).await,
        }
        // The key may have been revoked or limited meanwhile.
        admitted(&hub, &segment, &headers).await?;
    }
}

/// `POST /api/internal/consumers/{name}/ack`.
pub async fn ack(
    State(hub): State<Arc<HubState>>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let (_, name) = admitted(&hub, &segment, &headers).await?;
    let ConsumerAckBody { term, seq } = ConsumerAckBody::parse(&json_body(&headers, body).await?)?;
    let acked = hub.consumer_calls.run(async |connection| consumers::ack(connection, &name, term, seq).await).await;
    match acked {
        Ok(acked) => Ok((no_store(), Json(json!({ "success": true, "acked": acked }))).into_response()),
        Err(error) => Err(refused(&hub, error).await),
    }
}

/// `POST /api/internal/consumers/{name}/renew`.
pub async fn renew(
    State(hub): State<Arc<HubState>>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let (_, name) = admitted(&hub, &segment, &headers).await?;
    let term = consumer::term(&json_body(&headers, body).await?)?;
    let until = hub.consumer_calls.run(async |connection| consumers::renew(connection, &name, term).await).await;
    match until {
        Ok(until) => Ok((no_store(), Json(json!({ "success": true, "lease_until": timestamp(until) }))).into_response()),
        Err(error) => Err(refused(&hub, error).await),
    }
}

/// `POST /api/internal/consumers/{name}/release`.
pub async fn release(
    State(hub): State<Arc<HubState>>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let (_, name) = admitted(&hub, &segment, &headers).await?;
    let owner = consumer::owner(&json_body(&headers, body).await?)?;
    let released = hub.consumer_calls.run(async |connection| consumers::release(connection, &name, &owner).await).await;
    match released {
        Ok(released) => Ok((no_store(), Json(json!({ "success": true, "released": released }))).into_response()),
        Err(error) => Err(refused(&hub, error).await),
    }
}

/// `POST /api/internal/consumers/{name}/seek`.
pub async fn seek(
    State(hub): State<Arc<HubState>>,
    Path(segment): Path<String>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    let (caller, name) = admitted(&hub, &segment, &headers).await?;
    let start = consumer::new_start(&json_body(&headers, body).await?)?;
    let by = actor(&headers, &caller);
    let acked = hub.consumer_calls.run(async |connection| consumers::seek(connection, &name, start, Some(&by)).await).await;
    match acked {
        Ok(acked) => Ok((no_store(), Json(json!({ "success": true, "acked": acked }))).into_response()),
        Err(error) => Err(refused(&hub, error).await),
    }
}

/// The caller, if its key may use the consumer of the path.
async fn admitted(hub: &HubState, segment: &str, headers: &HeaderMap) -> Result<(ServiceCaller, ConsumerName), RefusedRequest> {
    let caller = hub.auth.caller(headers).await?;
    let name = consumer::name(segment)?;
    check_consumer(&caller, &name)?;
    if caller.scopes.as_ref().is_some_and(|scopes| scopes.limits_consumers()) {
        let audience = hub.consumer_calls.run(async |connection| consumers::audience(connection, &name).await).await;
        match audience {
            Ok(audience) => check_consumer_audience(&caller, &audience)?,
            Err(error) => return Err(refused(hub, error).await),
        }
    }
    Ok((caller, name))
}

async fn json_body(headers: &HeaderMap, body: Body) -> Result<axum::body::Bytes, RefusedRequest> {
    media(headers, &[Media::Json])?;
    whole_body(headers, body, BODY_MAX_BYTES).await
}

async fn call_fetch(hub: &HubState, name: &ConsumerName, body: &FetchBody) -> Result<Fetched, RefusedRequest> {
    let wish = FetchWish { name, owner: &body.owner, rows: body.limit, lease_seconds: body.lease_seconds };
    let fetched = hub.consumer_calls.run(async |connection| consumers::fetch(connection, wish).await).await;
    match fetched {
        Ok(fetched) => Ok(fetched),
        Err(error) => Err(refused(hub, error).await),
    }
}

/// Waits until this hub has dispatched a row above the head, or stops, or the moment comes.
async fn until_appended(hub: &HubState, head: Seq, moment: Instant) {
    while Instant::now() < moment && !hub.health.is_stopping() {
        let tick = TICK.min(moment - Instant::now());
        if timeout(tick, hub.delivery.registry.dispatched(head.next())).await.is_ok() {
            return;
        }
    }
}

fn answer(batch: &Batch) -> Response {
    CONSUMED.add(batch.rows.len());
    let Batch { term, rows, through, head, log_id } = batch;
    let records = rows.iter().map(log_line).collect();
    body(&BatchBody { term: Some(*term), records, through: Some(*through), head: *head, log_id: *log_id })
}

/// The answer while another owner has the lease: there is nothing to acknowledge.
async fn held(hub: &HubState) -> Result<Response, RefusedRequest> {
    let state = hub.consumer_calls.in_turn(log_state).await?;
    Ok(body(&BatchBody { term: None, records: Vec::new(), through: None, head: state.head, log_id: state.log_id }))
}

fn body(body: &BatchBody<'_>) -> Response {
    // Plain structs of strings and numbers, and JSON that was checked.
    let body = serde_json::to_string(body).expect("a batch is always JSON");
    ([(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))], no_store(), body).into_response()
}

/// The answer to a call that the database refused.
async fn refused(hub: &HubState, error: ConsumerError) -> RefusedRequest {
    let detail = error.to_string();
    let with_bounds = match error {
        ConsumerError::Unknown => return Problem::new(404, "unknown_consumer", detail).into(),
        ConsumerError::StaleTerm => return Problem::new(409, "stale_term", detail).into(),
        ConsumerError::OtherConditions => return Problem::new(409, "other_conditions", detail).into(),
        ConsumerError::Reset => Problem::new(409, "reset", detail),
        ConsumerError::Ahead => Problem::new(409, "ack_ahead", detail),
        ConsumerError::Expired => Problem::new(410, "expired", detail),
        ConsumerError::Store(error) => return error.into(),
        ConsumerError::NoLogin(_) | ConsumerError::NotAllowed(_) => {
            tracing::error!(%detail, "the hub's role lacks rights for consumers; run recado migrate as the owner");
            return Problem::new(500, "internal", "internal error; the hub's log has the details").into();
        }
    };
    match hub.consumer_calls.in_turn(log_state).await {
        Ok(state) => with_bounds.with_bounds(bounds(&state)).into(),
        Err(error) => error.into(),
    }
}
