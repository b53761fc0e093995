//! Serves `POST /api/internal/notify/batch`.
//!
//! A service posts up to 1,000 notifications and gets their sequence numbers once all are committed, in one commit.
//! NDJSON bodies go to [`super::ndjson`]. `/api/internal/notify/ndjson` and `/api/internal/notify/cloudevents` accept
//! one kind of body each.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::batch_item::{BatchItem, wished_item};
use super::ndjson;
use super::notify::{charge_rate, check_rate, header_key};
use super::problems::RefusedRequest;
use super::request::{Media, RequestId, media, whole_body};
use super::scopes::check_items;
use super::state::HubState;
use crate::log::appender::{DEADLINE, Receipt, Refusal};
use crate::wire::batch;
use crate::wire::problem::{FieldError, Problem};
use crate::wire::scopes::PostWords;

/// Maximum length of a batch's body, in bytes.
const BODY_MAX_BYTES: usize = 8 << 20;

#[derive(Serialize)]
struct BatchAnswer {
    success: bool,
    items: Vec<BatchItem>,
}

pub async fn notify_batch(
    State(hub): State<Arc<HubState>>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    post(hub, id, headers, body, &[Media::Json, Media::Ndjson, Media::CloudEvents]).await
}

pub async fn notify_ndjson(
    State(hub): State<Arc<HubState>>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    post(hub, id, headers, body, &[Media::Ndjson]).await
}

pub async fn notify_cloud_events(
    State(hub): State<Arc<HubState>>,
    Extension(id): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, RefusedRequest> {
    post(hub, id, headers, body, &[Media::CloudEvents]).await
}

async fn post(
    hub: Arc<HubState>,
    RequestId(request_id): RequestId,
    headers: HeaderMap,
    body: Body,
    taken: &[Media],
) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.caller(&headers).await?;
    check_rate(&hub, &caller)?;
    let header_key = header_key(&headers)?;
    let media = media(&headers, taken)?;
    if media == Media::Ndjson {
        return Ok(ndjson::answer(hub, headers, header_key, request_id, body));
    }
    let Ok(Ok(_room)) = timeout(DEADLINE, hub.batch_room.acquire()).await else {
        return Err(Problem::new(503, "overloaded", "too many batches are in progress; nothing was appended. Retry later")
            .retry_after(1)
            .into());
    };
    let bytes = whole_body(&headers, body, BODY_MAX_BYTES).await?;
    let (items, root, words) = match media {
        Media::CloudEvents => (batch::parse_events(&bytes)?, "", PostWords::CloudEvent),
        _ => (batch::parse(&bytes)?, "/items", PostWords::Notification),
    };
    check_items(&caller, &items, words, root)?;
    if items.is_empty() {
        return Ok(answer(Vec::new()));
    }
    // The deadline starts here: a body of this size may take time to arrive.
    let deadline = Instant::now() + DEADLINE;
    charge_rate(&hub, &caller, items.len().saturating_sub(1));
    let wishes = items.into_iter().enumerate().map(|(at, item)| wished_item(item, at, header_key.as_deref(), &caller)).collect();
    let receipts = hub.appender.append_all(wishes, deadline).await.map_err(|refusal| refused(refusal, root))?;
    Ok(answer(receipts))
}

fn answer(receipts: Vec<Receipt>) -> Response {
    let status = if receipts.iter().all(|receipt| receipt.duplicate) { StatusCode::OK } else { StatusCode::CREATED };
    (status, Json(BatchAnswer { success: true, items: receipts.into_iter().map(BatchItem::from).collect() })).into_response()
}

/// Refuses the whole batch, with a pointer to each item at fault.
fn refused(refusal: Refusal, root: &str) -> RefusedRequest {
    let mut errors = Vec::new();
    if let Refusal::OtherBody { items } = &refusal {
        errors.extend(items.iter().map(|at| FieldError::new(format!("{root}/{at}"), "its key was used before with another body")));
    }
    RefusedRequest(RefusedRequest::from(refusal).0.with_errors(errors))
}
