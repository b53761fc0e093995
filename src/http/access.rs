//! Serves the routes that take access back: revocations of users, and the closing of sessions.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::auth::actor;
use super::named_user::named_user;
use super::problems::RefusedRequest;
use super::query::{QueryPairs, cut_page, no_store, pairs};
use super::request::{BODY_MAX_BYTES, Media, media, whole_body};
use super::state::HubState;
use crate::store::access::{self, ClosedSessions, ListedRevocation, SessionsOf};
use crate::wire::access::{CloseBody, RevocationBody};
use crate::wire::member::UserPageQuery;
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

/// `POST /api/admin/revocations`.
pub async fn revoke(State(hub): State<Arc<HubState>>, headers: HeaderMap, body: Body) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.admin(&headers).await?;
    media(&headers, &[Media::Json])?;
    let RevocationBody { user, before, reason } = RevocationBody::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)?;
    let not_before = access::revoke(&hub.reader, &user, before, &reason, &actor(&headers, &caller)).await?;
    tracing::info!(by = caller.name, "revoked a user");
    Ok((no_store(), Json(json!({ "success": true, "user_id": user, "not_before": timestamp(not_before) }))).into_response())
}

/// `DELETE /api/admin/revocations/{user}`.
pub async fn lift(
    State(hub): State<Arc<HubState>>,
    Path(user): Path<String>,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.admin(&headers).await?;
    let (user, _) = named_user("user", &user, query)?;
    let lifted = access::lift(&hub.reader, &user, &actor(&headers, &caller)).await?;
    tracing::info!(by = caller.name, lifted, "lifted a revocation");
    Ok((no_store(), Json(json!({ "success": true, "user_id": user, "lifted": lifted }))).into_response())
}

/// `GET /api/admin/revocations`.
pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let UserPageQuery { after, limit } = UserPageQuery::parse(&pairs(query)?)?;
    let mut found = access::list(&hub.reader, after.as_ref(), limit + 1).await?;
    let next = cut_page(&mut found, limit, |revocation| revocation.user.clone());
    let listed = |revocation: &ListedRevocation| {
        json!({
            "user_id": revocation.user,
            "not_before": timestamp(revocation.not_before),
            "reason": revocation.reason,
            "revoked_by": revocation.by,
            "revoked_at": timestamp(revocation.at),
        })
    };
    let answer = json!({ "revocations": found.iter().map(listed).collect::<Vec<_>>(), "next": next });
    Ok((no_store(), Json(answer)).into_response())
}

/// `POST /api/admin/sessions/close`.
pub async fn close(State(hub): State<Arc<HubState>>, headers: HeaderMap, body: Body) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.admin(&headers).await?;
    media(&headers, &[Media::Json])?;
    let sessions = match CloseBody::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)? {
        CloseBody::Session(session) => SessionsOf::Session(session),
        CloseBody::User(user) => SessionsOf::User(user),
        CloseBody::Account(account) => SessionsOf::Account(account),
        CloseBody::Matching { filter, expect } => {
            let ClosedSessions { matching, closed } =
                access::close_matching(&hub.reader, &filter, expect, &actor(&headers, &caller)).await?;
            if matching != expect {
                return Err(other_count(matching, expect).into());
            }
            tracing::info!(by = caller.name, sessions = closed, "closes the sessions that match a filter");
            return Ok((no_store(), Json(json!({ "success": true, "sessions": closed }))).into_response());
        }
    };
    let open = access::close(&hub.reader, &sessions, &actor(&headers, &caller)).await?;
    tracing::info!(by = caller.name, open, "closes sessions");
    Ok((no_store(), Json(json!({ "success": true, "sessions": open }))).into_response())
}

fn other_count(matching: i64, expect: i64) -> Problem {
    let detail = format!(
        "matching sessions: {matching}, expected: {expect}; nothing was closed. List the sessions again, and send \"expect\":{matching} to close them"
    );
    Problem::new(409, "other_count", detail)
}
