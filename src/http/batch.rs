//! `POST /api/internal/notify/batch`: a service hands over up to 1,000 notifications, and gets their numbers once all are
//! committed, in one commit. What comes as NDJSON goes to [`super::ndjson`].

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::{Instant, timeout};

use super::hub::Hub;
use super::ndjson;
use super::notify::{check_rate, header_key, wished};
use super::problems::Refused;
use super::request::{Media, RequestId, media, whole_body};
use crate::domain::{Caller, NewNotification, NotificationId, Seq};
use crate::store::appender::{DEADLINE, Receipt, Refusal};
use crate::wire::batch;
use crate::wire::notify::NotifyBody;
use crate::wire::problem::{FieldError, Problem};
use crate::wire::server::timestamp;

/// Longest body of a batch, in bytes.
const BODY_MAX_BYTES: usize = 8 << 20;

#[derive(Serialize)]
struct Answer {
    success: bool,
    items: Vec<Item>,
}

/// What became of one notification.
#[derive(Serialize)]
pub struct Item {
    seq: Seq,
    id: NotificationId,
    created_at: String,
    duplicate: bool,
}

impl From<Receipt> for Item {
    fn from(Receipt { seq, id, created_at, duplicate }: Receipt) -> Self {
        Self { seq, id, created_at: timestamp(created_at), duplicate }
    }
}

pub async fn notify_batch(
    State(hub): State<Arc<Hub>>,
    Extension(RequestId(request_id)): Extension<RequestId>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let caller = hub.auth.caller(&headers).await?;
    check_rate(&hub, &caller)?;
    let header_key = header_key(&headers)?;
    let media = media(&headers, &[Media::Json, Media::Ndjson, Media::CloudEvents])?;
    if media == Media::Ndjson {
        return Ok(ndjson::answer(hub, headers, header_key, request_id, body));
    }
    let Ok(Ok(_room)) = timeout(DEADLINE, hub.batch_room.acquire()).await else {
        return Err(Problem::new(503, "overloaded", "too many batches are under way; nothing was appended. Repeat later")
            .retry_after(1)
            .into());
    };
    let bytes = whole_body(&headers, body, BODY_MAX_BYTES).await?;
    let (items, root) = match media {
        Media::CloudEvents => (batch::parse_events(&bytes)?, ""),
        _ => (batch::parse(&bytes)?, "/items"),
    };
    if items.is_empty() {
        return Ok(answer(Vec::new()));
    }
    // Counted from here: a body of this size may take its time.
    let deadline = Instant::now() + DEADLINE;
    hub.rates.charge(&caller.name, items.len().saturating_sub(1));
    let wishes = items.into_iter().enumerate().map(|(at, item)| wished_item(item, at, header_key.as_deref(), &caller)).collect();
    let receipts = hub.appender.append_all(wishes, deadline).await.map_err(|refusal| refused(refusal, root))?;
    Ok(answer(receipts))
}

fn answer(receipts: Vec<Receipt>) -> Response {
    let status = if receipts.iter().all(|receipt| receipt.duplicate) { StatusCode::OK } else { StatusCode::CREATED };
    (status, Json(Answer { success: true, items: receipts.into_iter().map(Item::from).collect() })).into_response()
}

/// What an item asks to be appended. Without a key of its own it has one made of the key of the whole and its place.
pub fn wished_item(mut item: NotifyBody, at: usize, batch_key: Option<&str>, caller: &Caller) -> NewNotification {
    if item.idempotency_key.is_none() {
        item.idempotency_key = batch_key.map(|key| format!("{key}/{at}"));
    }
    wished(item, caller)
}

/// A refusal of the whole, with a pointer to each item that is to blame.
fn refused(refusal: Refusal, root: &str) -> Refused {
    let mut errors = Vec::new();
    if let Refusal::OtherBody { items } = &refusal {
        errors.extend(items.iter().map(|at| FieldError::new(format!("{root}/{at}"), "its key was used before with another body")));
    }
    Refused(Refused::from(refusal).0.with_errors(errors))
}
