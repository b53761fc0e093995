//! Serves `GET /api/notifications/stream`: the stream for an `EventSource`, which resumes by itself.
//!
//! An `EventSource` reconnects after a broken connection, but never after a status other than 200. So it gets a
//! temporary refusal as an event; programs get it as a status.

use std::sync::Arc;

use axum::Extension;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, Method, header};
use axum::response::{IntoResponse, Response};

use super::auth::{bearer, refusal, ticket_counts};
use super::body_stream;
use super::connection_slots::{SlotClass, vouch};
use super::header_list::accepts;
use super::problems::RefusedRequest;
use super::server::Hangup;
use super::state::HubState;
use super::stream_request::{StreamQuery, check_origin, check_room};
use crate::wire::stream_format::StreamFormat;

pub async fn stream(
    method: Method,
    State(hub): State<Arc<HubState>>,
    Extension(hangup): Extension<Hangup>,
    headers: HeaderMap,
    query: Result<Query<StreamQuery>, QueryRejection>,
) -> Result<Response, RefusedRequest> {
    if method == Method::HEAD {
        return head(&hub, &headers, query).await;
    }
    let is_event_source = is_event_source(&headers);
    match open(hub, hangup, headers, query).await {
        Err(refused) if is_event_source => body_stream::come_back(refused),
        outcome => outcome,
    }
}

/// Browsers accept only the event type, and so do the libraries that replace `EventSource`.
fn is_event_source(headers: &HeaderMap) -> bool {
    accepts(headers, StreamFormat::Events.media_type())
}

/// Answers as a GET would, without its effects: no ticket is used up, nothing is acknowledged.
async fn head(hub: &HubState, headers: &HeaderMap, query: Result<Query<StreamQuery>, QueryRejection>) -> Result<Response, RefusedRequest> {
    check_origin(hub, headers)?;
    let ask = StreamQuery::read(query)?;
    ask.wish_after_event(headers)?;
    check_room(hub)?;
    if ask.ticket.is_none() || !ticket_counts(&hub.auth.tokens, bearer(headers)) {
        hub.auth.listener(headers, ask.token.as_deref()).await?;
    }
    Ok([(header::CONTENT_TYPE, StreamFormat::Events.media_type())].into_response())
}

async fn open(
    hub: Arc<HubState>,
    hangup: Hangup,
    headers: HeaderMap,
    query: Result<Query<StreamQuery>, QueryRejection>,
) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let ask = StreamQuery::read(query)?;
    let wish = ask.wish_after_event(&headers)?;
    check_room(&hub)?;
    let claims = match &ask.ticket {
        // The ticket is redeemed after all other checks: a client that is refused for another reason keeps it.
        Some(ticket) if ticket_counts(&hub.auth.tokens, bearer(&headers)) => hub.tickets.redeem(ticket).await?.map_err(|e| refusal(&e))?,
        _ => hub.auth.listener(&headers, ask.token.as_deref()).await?,
    };
    vouch(SlotClass::User);
    body_stream::open(hub, hangup, wish, claims, StreamFormat::Events).await
}
