//! Serves `POST /api/ws-ticket`: exchanges a token for a single-use ticket.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::problems::RefusedRequest;
use super::query::{QueryPairs, no_store, pairs, token};
use super::state::HubState;
use super::stream_request::check_origin;
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

pub async fn ws_ticket(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let claims = hub.auth.listener(&headers, token(&pairs(query)?)).await?;
    if !hub.ticket_rates.allow(claims.who.user.as_str()) {
        let detail = "this user asks for tickets too often; one per second is enough for all pages of a user";
        return Err(Problem::new(429, "rate_limited", detail).retry_after(1).into());
    }
    let (ticket, expires_at) = hub.tickets.issue(claims).await?;
    Ok((no_store(), Json(json!({ "ticket": ticket, "expires_at": timestamp(expires_at) }))).into_response())
}
