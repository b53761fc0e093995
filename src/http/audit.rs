//! Serves `GET /api/admin/audit`: administrative acts, the newest first, for admins.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::problems::RefusedRequest;
use super::query::{QueryPairs, no_store, pairs};
use super::state::HubState;
use crate::store::audit;
use crate::wire::audit::{AuditQuery, body};

pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let AuditQuery { filter, limit } = AuditQuery::parse(&pairs(query)?)?;
    // One more tells whether another page follows.
    let mut rows = audit::page(&hub.reader, &filter, limit + 1).await?;
    let is_last = i64::try_from(rows.len()).is_ok_and(|found| found <= limit);
    rows.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next = if is_last { None } else { rows.last().map(|row| row.audit_id) };
    Ok((no_store(), Json(body(&rows, next))).into_response())
}
