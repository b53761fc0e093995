//! Serves `POST /api/notifications/ack` and `GET /api/whoami`: a device's requests other than its stream.

use std::sync::Arc;

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::history::bounds;
use super::problems::RefusedRequest;
use super::query::{QueryPairs, no_store, pairs, token};
use super::request::{BODY_MAX_BYTES, Media, media, whole_body};
use super::state::HubState;
use super::stream_request::{check_origin, check_user_rate};
use crate::store::acked_positions::{self, Ack};
use crate::store::{members, read};
use crate::wire::history::AckBody;
use crate::wire::problem::Problem;
use crate::wire::server_frame::timestamp;

pub async fn ack(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs, body: Body) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let who = hub.auth.user(&headers, token(&pairs(query)?)).await?.who;
    check_user_rate(&hub, &who)?;
    media(&headers, &[Media::Json])?;
    let AckBody { client, seq } = AckBody::parse(&whole_body(&headers, body, BODY_MAX_BYTES).await?)?;
    let state = read::log_state(&hub.reader).await?;
    if seq > state.head {
        let detail = "this number was not sent yet: the log ends before it";
        return Err(Problem::new(409, "ack_ahead", detail).with_bounds(bounds(&state)).into());
    }
    let ack = Ack { user: who.user, client, acked: seq };
    let (position, moved) = acked_positions::store_and_read(&hub.reader, state.log_id, &ack, hub.delivery.registry.most_devices()).await?;
    if position.log_id != state.log_id {
        // The log was replaced between the two statements.
        return Err(Problem::new(409, "reset", "the position belongs to another log; connect again").into());
    }
    if moved {
        hub.delivery.acked_beside(&ack.user, &ack.client, state.log_id, seq);
    }
    Ok((no_store(), Json(json!({ "acked": position.acked }))).into_response())
}

pub async fn whoami(State(hub): State<Arc<HubState>>, headers: HeaderMap, query: QueryPairs) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let claims = hub.auth.user(&headers, token(&pairs(query)?)).await?;
    check_user_rate(&hub, &claims.who)?;
    let mut accounts = claims.who.accounts;
    if hub.reader.reads_members() {
        let head = read::log_state(&hub.reader).await?.head;
        let intervals = members::intervals(&hub.reader, &claims.who.user, head).await?;
        accounts.extend(intervals.into_iter().filter(|interval| interval.until.is_none()).map(|interval| interval.account));
        accounts.sort_unstable();
        accounts.dedup();
    }
    let answer = json!({
        "user_id": claims.who.user,
        "account_ids": accounts,
        "expires_at": timestamp(claims.expires_at),
    });
    Ok((no_store(), Json(answer)).into_response())
}
