//! Serves `GET /api/admin/why`: whether a user has a notification, and the reason, for admins.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::problems::RefusedRequest;
use super::query::{QueryPairs, no_store, pairs};
use super::state::HubState;
use crate::store;
use crate::wire::why::{WhyQuery, body};

pub async fn why(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let WhyQuery { user, seq } = WhyQuery::parse(&pairs(query)?)?;
    let facts = store::why::facts(&hub.reader, &user, seq).await?;
    Ok((no_store(), Json(body(&facts, &facts.why()))).into_response())
}
