//! Serves `POST /api/admin/tokens`: a short token of a user, for the playground.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use crate::http::auth::actor;
use crate::http::problems::RefusedRequest;
use crate::http::query::no_store;
use crate::http::request::{BODY_MAX_BYTES, Media, media, whole_body};
use crate::http::state::HubState;
use crate::identity::MintError;
use crate::store::audit;
use crate::wire::console::tokens::{MintedBody, TokenBody};
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

pub async fn mint(State(hub): State<Arc<HubState>>, headers: HeaderMap, body: Body) -> Result<Response, RefusedRequest> {
    let caller = hub.auth.admin(&headers).await?;
    hub.console.check_plays(&headers)?;
    media(&headers, &[Media::Json])?;
    let TokenBody { who, ttl } = TokenBody::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)?;
    let minted = hub.console.minter.for_playground(&who, ttl).map_err(|error| match error {
        MintError::TooLong => Problem::new(422, "invalid_field", "the token would be too long; name fewer accounts"),
        MintError::Refused => Problem::new(500, "internal", "the token could not be made"),
    })?;
    // Before the token is handed out: there is no token without its row.
    if !audit::record_minted(&hub.reader, &actor(&headers, &caller), &who, ttl).await? {
        let detail =
            "the access of this user is revoked, and a new token could get around that; lift the revocation first, or take another user";
        return Err(Problem::new(409, "user_revoked", detail).into());
    }
    tracing::info!(by = caller.name, ttl_s = ttl.as_secs(), "made a token for the playground");
    let body = MintedBody { token: minted.token, expires_at: timestamp(minted.expires_at) };
    Ok((no_store(), Json(body)).into_response())
}
