//! Serves `POST /api/session/{id}/auth`: gives a newer token to an open stream.
//!
//! A WebSocket takes a newer token in a frame of its own. An SSE stream and a follower of the history have no way from
//! the client to the hub, so the token arrives in a request. A load balancer may bring it to another hub than the one
//! that serves the stream; the newer end is then left in the database.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;
use uuid::Uuid;

use super::access_watch;
use super::problems::RefusedRequest;
use super::query::{QueryPairs, no_store, pairs, token};
use super::state::HubState;
use super::stream_request::{check_origin, check_user_rate};
use crate::domain::SessionId;
use crate::store::access::{self, RenewalOutcome, TokenRenewal};
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

pub async fn renew(
    State(hub): State<Arc<HubState>>,
    Path(session): Path<String>,
    headers: HeaderMap,
    query: QueryPairs,
) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let claims = hub.auth.listener(&headers, token(&pairs(query)?)).await?;
    check_user_rate(&hub, &claims.who)?;
    let session = Uuid::parse_str(&session).map(SessionId).map_err(|_| unknown())?;
    let renewal = TokenRenewal { session, user: claims.who.user.clone(), expires_at: claims.expires_at, origin: claims.origin };
    let here = hub.delivery.registry.of_user(&claims.who.user).into_iter().find(|connection| connection.session == session);
    match here {
        // By the token alone: the table of members may change while a stream is open.
        Some(connection) if connection.who.accounts != claims.who.accounts => return Err(other_accounts()),
        Some(connection) => access_watch::renew(&hub.delivery.registry, hub.auth.tokens.revocations(), &connection, &renewal),
        None => match access::leave_renewal(&hub.reader, &renewal, &claims.who.accounts).await? {
            RenewalOutcome::Left => {}
            RenewalOutcome::Unknown => return Err(unknown()),
            RenewalOutcome::OtherAccounts => return Err(other_accounts()),
        },
    }
    Ok((no_store(), Json(json!({ "session_id": session.to_string(), "expires_at": timestamp(claims.expires_at) }))).into_response())
}

fn unknown() -> RefusedRequest {
    Problem::new(404, "unknown_session", "this user has no open stream with this session_id; connect again").into()
}

fn other_accounts() -> RefusedRequest {
    Problem::new(409, "other_accounts", "the token has other accounts than the stream; connect again with it").into()
}
