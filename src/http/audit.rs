//! Serves `GET /api/admin/audit`: administrative acts, the newest first, for admins.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::problems::RefusedRequest;
use super::query::{QueryPairs, cut_page, no_store, pairs};
use super::state::HubState;
use crate::store::audit;
use crate::wire::audit::{AuditQuery, body};

pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let AuditQuery { filter, limit } = AuditQuery::parse(&pairs(query)?)?;
    let mut rows = audit::page(&hub.reader, &filter, limit + 1).await?;
    let next = cut_page(&mut rows, limit, |row| row.audit_id);
    Ok((no_store(), Json(body(&rows, next))).into_response())
}
