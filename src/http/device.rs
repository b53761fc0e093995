//! `POST /api/notifications/ack` and `GET /api/whoami`: what a user's device says and asks beside its stream.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::ask::{check_origin, check_user_rate};
use super::history::{Pairs, bounds, no_store, pairs, token};
use super::hub::Hub;
use super::problems::Refused;
use super::request::{BODY_MAX_BYTES, Media, media, whole_body};
use crate::store::cursors::{self, Ack};
use crate::store::read;
use crate::wire::history::AckBody;
use crate::wire::problem::Problem;
use crate::wire::server::timestamp;

pub async fn ack(State(hub): State<Arc<Hub>>, headers: HeaderMap, query: Pairs, body: Body) -> Result<Response, Refused> {
    check_origin(&hub, &headers)?;
    let who = hub.auth.user(&headers, token(&pairs(query)?))?.who;
    check_user_rate(&hub, &who)?;
    media(&headers, &[Media::Json])?;
    let AckBody { client, seq } = AckBody::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)?;
    let state = read::log_state(&hub.reader).await?;
    if seq > state.head {
        let detail = "nothing of this number was sent: the log ends before it";
        return Err(Problem::new(409, "ack_ahead", detail).with_bounds(bounds(&state)).into());
    }
    let ack = Ack { user: who.user, client, acked: seq };
    let (place, moved) = cursors::store_one(&hub.reader, state.log_id, &ack).await?;
    if place.log_id != state.log_id {
        // The history was replaced between the two statements.
        return Err(Problem::new(409, "reset", "the place is of another history; connect again").into());
    }
    if moved {
        hub.delivery.acked_beside(&ack.user, &ack.client, state.log_id, seq);
    }
    Ok((no_store(), Json(json!({ "acked": place.acked }))).into_response())
}

pub async fn whoami(State(hub): State<Arc<Hub>>, headers: HeaderMap, query: Pairs) -> Result<Response, Refused> {
    check_origin(&hub, &headers)?;
    let claims = hub.auth.user(&headers, token(&pairs(query)?))?;
    check_user_rate(&hub, &claims.who)?;
    let answer = json!({
        "user_id": claims.who.user,
        "account_ids": claims.who.accounts,
        "expires_at": timestamp(claims.expires_at),
    });
    Ok((no_store(), Json(answer)).into_response())
}
