//! Serves `POST /api/internal/notify`: posts one notification and answers once it is committed.
//!
//! `/api/internal/notify/cloudevent` accepts only CloudEvents: generators make one function of a route, so each kind of
//! body has a route of its own.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::Instant;

use super::problems::RefusedRequest;
use super::request::{BODY_MAX_BYTES, Media, media, whole_body};
use super::scopes::check_post;
use super::state::HubState;
use crate::domain::{Audience, BodyHash, IdempotencyKey, NewNotification, NotificationId, Seq, ServiceCaller, UserId};
use crate::log::appender::{DEADLINE, Receipt};
use crate::metrics;
use crate::wire::cloudevents;
use crate::wire::notify::{self, NotifyBody};
use crate::wire::problem::Problem;
use crate::wire::scopes::PostWords;
use crate::wire::server_frame::timestamp;

#[derive(Serialize)]
struct NotifyAnswer {
    success: bool,
    seq: Seq,
    id: NotificationId,
    created_at: String,
    duplicate: bool,
}

pub async fn notify(State(hub): State<Arc<HubState>>, headers: HeaderMap, body: Body) -> Result<Response, RefusedRequest> {
    post(hub, headers, body, &[Media::Json, Media::CloudEvent]).await
}

pub async fn notify_cloud_event(State(hub): State<Arc<HubState>>, headers: HeaderMap, body: Body) -> Result<Response, RefusedRequest> {
    post(hub, headers, body, &[Media::CloudEvent]).await
}

async fn post(hub: Arc<HubState>, headers: HeaderMap, body: Body, taken: &[Media]) -> Result<Response, RefusedRequest> {
    let mut deadline = Instant::now() + DEADLINE;
    let caller = hub.auth.caller(&headers).await?;
    check_rate(&hub, &caller)?;
    let header_key = header_key(&headers)?;
    let media = media(&headers, taken)?;
    // The time to send the body is the caller's and has its own limit, so it extends the deadline.
    let asked = Instant::now();
    let bytes = whole_body(&headers, body, BODY_MAX_BYTES).await?;
    deadline += asked.elapsed();
    let (mut body, words) = match media {
        Media::CloudEvent => (cloudevents::parse(&bytes)?, PostWords::CloudEvent),
        _ if headers.contains_key("ce-specversion") => (cloudevents::parse_binary(event_headers(&headers), &bytes)?, PostWords::CloudEvent),
        _ => (notify::parse(&bytes)?, PostWords::Notification),
    };
    check_post(&caller, &body, words)?;
    body.idempotency_key = one_key(header_key, body.idempotency_key)?;
    let receipt = hub.appender.append(wished(body, &caller), deadline).await?;
    Ok(answer(receipt))
}

/// The attributes of an event whose body is its data (CloudEvents HTTP binding 1.0, section 3.1).
fn event_headers(headers: &HeaderMap) -> impl Iterator<Item = (&str, &[u8])> {
    headers.iter().filter_map(|(name, value)| Some((name.as_str().strip_prefix("ce-")?, value.as_bytes())))
}

/// Counts one post of a service.
///
/// # Errors
/// 429 for a service over its rate.
pub fn check_rate(hub: &HubState, caller: &ServiceCaller) -> Result<(), RefusedRequest> {
    let Err(over) = take_rate(hub, caller) else { return Ok(()) };
    metrics::OVER_BUDGET.add("publish", 1);
    let detail = match over {
        OverRate::OfKey(rate) => format!("this key exceeds its rate of {rate} per second; nothing was appended"),
        OverRate::OfHub => "this service exceeds its rate RECADO_PUBLISH_RATE; nothing was appended".to_owned(),
    };
    Err(Problem::new(429, "rate_limited", detail).retry_after(1).into())
}

/// The rate that a service exceeds.
pub enum OverRate {
    /// The key's own, in posts per second.
    OfKey(u32),
    /// The rate of every service.
    OfHub,
}

/// Takes one post from the rates of a service.
///
/// # Errors
/// The rate that has none left. Nothing is taken then.
pub fn take_rate(hub: &HubState, caller: &ServiceCaller) -> Result<(), OverRate> {
    let own = own_rate(caller);
    if let Some(rate) = own.filter(|rate| !hub.key_rates.take(&caller.name, *rate)) {
        return Err(OverRate::OfKey(rate));
    }
    if hub.rates.take(&caller.name) {
        return Ok(());
    }
    if let Some(rate) = own {
        hub.key_rates.give_back(&caller.name, rate);
    }
    Err(OverRate::OfHub)
}

/// Counts the items of a request after the first, which [`take_rate`] counted.
pub fn charge_rate(hub: &HubState, caller: &ServiceCaller, more: usize) {
    hub.rates.charge(&caller.name, more);
    if let Some(rate) = own_rate(caller) {
        hub.key_rates.charge(&caller.name, rate, more);
    }
}

fn own_rate(caller: &ServiceCaller) -> Option<u32> {
    caller.scopes.as_ref().and_then(|scopes| scopes.rate())
}

fn answer(receipt: Receipt) -> Response {
    let Receipt { seq, id, created_at, duplicate } = receipt;
    let status = if duplicate { StatusCode::OK } else { StatusCode::CREATED };
    (status, Json(NotifyAnswer { success: true, seq, id, created_at: timestamp(created_at), duplicate })).into_response()
}

/// The key of the `Idempotency-Key` header, quoted or bare.
///
/// # Errors
/// 400 when it is not a valid key.
pub fn header_key(headers: &HeaderMap) -> Result<Option<String>, RefusedRequest> {
    let bad = |detail: String| RefusedRequest(Problem::new(400, "idempotency_key", format!("Idempotency-Key {detail}")));
    let mut given = headers.get_all("idempotency-key").iter();
    let Some(value) = given.next() else { return Ok(None) };
    if given.next().is_some() {
        return Err(bad("is sent twice".to_owned()));
    }
    let text = value.to_str().map_err(|_| bad("must be printable ASCII".to_owned()))?.trim();
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    notify::check_key(text).map_err(bad)?;
    Ok(Some(text.to_owned()))
}

fn one_key(header: Option<String>, body: Option<String>) -> Result<Option<String>, RefusedRequest> {
    if header.is_some() && body.is_some() && header != body {
        let detail =
            "Idempotency-Key differs from the field idempotency_key, or from the event's source and id; send one of them, or the same key";
        return Err(Problem::new(422, "invalid_field", detail).into());
    }
    Ok(header.or(body))
}

/// The notification that a body asks to append.
pub fn wished(body: NotifyBody, caller: &ServiceCaller) -> NewNotification {
    let key = body.idempotency_key.as_deref().map(|key| IdempotencyKey::new(&caller.name, key));
    // Compared and stored only together with a key.
    let body_hash = if key.is_some() { body_hash(&body) } else { BodyHash(0) };
    NewNotification {
        id: NotificationId::new(),
        kind: body.kind,
        title: body.title,
        message: body.message,
        data: body.data,
        audience: body.audience,
        ttl_seconds: body.ttl_seconds,
        replay: body.replay,
        inbox: body.inbox,
        source: caller.name.clone(),
        key,
        body_hash,
    }
}

/// The users of a list, sorted already.
fn listed(audience: &Audience) -> String {
    let Audience::Users { users, .. } = audience else { return String::new() };
    users.iter().map(UserId::as_str).collect::<Vec<_>>().join(",")
}

/// A hash of all that distinguishes two bodies for a reader. White space between the fields does not count.
fn body_hash(body: &NotifyBody) -> BodyHash {
    let flags = [u8::from(body.replay), 0];
    BodyHash::of(&[
        body.kind.as_bytes(),
        body.title.as_bytes(),
        body.message.as_bytes(),
        body.data.as_deref().unwrap_or("null").as_bytes(),
        body.audience.topic().as_bytes(),
        body.audience.account().map_or("", |account| account.as_str()).as_bytes(),
        listed(&body.audience).as_bytes(),
        &body.ttl_seconds.unwrap_or(0).to_be_bytes(),
        // A body that is an item has the hash that it had before there were inboxes.
        if body.inbox { &flags[..1] } else { &flags },
    ])
}
