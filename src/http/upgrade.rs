//! Turns a handshake request into a WebSocket.

use std::sync::Arc;

use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use serde_json::json;

use super::auth::{bearer, ticket_counts};
use super::connection_slots::{SlotClass, vouch};
use super::console_page;
use super::header_list::elements;
use super::problems::RefusedRequest;
use super::shared_socket::SocketWriter;
use super::socket::{self, Admission};
use super::state::HubState;
use super::stream_request::{StreamQuery, check_origin, check_room};
use super::websocket_io::{MESSAGE_MAX_BYTES, bounded};
use crate::identity::{Claims, TokenError};
use crate::metrics;
use crate::tasks::TaskName;
use crate::wire::close::CloseCode;
use crate::wire::problem::Problem;

/// The subprotocol of the hub (RFC 6455 section 1.9).
const SUBPROTOCOL: &str = "recado.v1";
/// A client that cannot set a header sends its token as one more subprotocol. The hub never echoes it.
const TOKEN_SUBPROTOCOL: &str = "recado.bearer.";

/// `GET /`. Old clients connect here.
pub async fn root(
    state: State<Arc<HubState>>,
    headers: HeaderMap,
    query: Result<Query<StreamQuery>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    connection: Option<Extension<SocketWriter>>,
) -> Result<Response, RefusedRequest> {
    if !headers.contains_key(header::UPGRADE) {
        if state.console.leads_from_root && console_page::is_browser(&headers) && state.console.is_served(&headers) {
            return Ok(console_page::lead());
        }
        // A program, or a person without a console, gets a short answer.
        return Ok(Json(json!({ "name": "recado", "version": env!("CARGO_PKG_VERSION"), "websocket": "/ws", "health": "/health" }))
            .into_response());
    }
    ws(state, headers, query, upgrade, connection).await
}

pub async fn ws(
    State(hub): State<Arc<HubState>>,
    headers: HeaderMap,
    query: Result<Query<StreamQuery>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
    connection: Option<Extension<SocketWriter>>,
) -> Result<Response, RefusedRequest> {
    check_origin(&hub, &headers)?;
    let upgrade = handshake(&headers, upgrade)?;
    let (ask, wish) = match StreamQuery::read(query).and_then(|ask| ask.wish().map(|wish| (ask, wish))) {
        Ok(asked) => asked,
        // A page cannot read the status, takes it for a broken connection, and would reconnect for ever.
        Err(RefusedRequest(problem)) if headers.contains_key(header::ORIGIN) => {
            metrics::REFUSED.one(problem.code);
            return Ok(admit(upgrade, hub, Admission::Refused(CloseCode::BadQuery, said(&problem))));
        }
        Err(refused) => return Err(refused),
    };
    check_room(&hub)?;

    // A browser cannot read the status of a refused upgrade, so a bad token is reported over the socket.
    let checked = match (token(&headers), &ask.ticket) {
        // The ticket is redeemed after all other checks: a client that is refused for another reason keeps it.
        (sent, Some(ticket)) if ticket_counts(&hub.auth.tokens, sent) => hub.tickets.redeem(ticket).await?,
        (sent, _) => {
            let verified = hub.auth.tokens.verify_either(sent, ask.token.as_deref()).await;
            verified.inspect_err(|error| metrics::SIGN_INS_REFUSED.add(error.reason(), 1))
        }
    };
    let admission = match checked {
        Ok(Claims { role: Some(_), .. }) => {
            metrics::SIGN_INS_REFUSED.add("wrong_role", 1);
            Admission::Refused(CloseCode::Unauthorized, "this is a service's token; a user's token is required".to_owned())
        }
        Err(error @ TokenError::Invalid(_)) => Admission::Refused(CloseCode::Unauthorized, error.to_string()),
        // The client comes back, as after any failure of the hub's own.
        Err(error @ TokenError::Unavailable) => Admission::Refused(CloseCode::ServerError, error.to_string()),
        Err(TokenError::Revoked) => Admission::Refused(CloseCode::TokenRevoked, String::new()),
        Err(TokenError::Expired) => Admission::Refused(CloseCode::TokenExpired, String::new()),
        Ok(Claims { who, expires_at, role: None, origin }) => {
            vouch(SlotClass::User);
            let (ack_mode, message_layout) = (wish.ack_mode, wish.message_layout);
            let writer = connection.map(|Extension(writer)| writer);
            Admission::Open { opening: Box::new(wish.of(who, origin, "websocket")), expires_at, ack_mode, message_layout, writer }
        }
    };
    Ok(admit(upgrade, hub, admission))
}

fn admit(upgrade: WebSocketUpgrade, hub: Arc<HubState>, admission: Admission) -> Response {
    let guest = hub.tasks.guest(TaskName::WebSocket);
    bounded(upgrade, MESSAGE_MAX_BYTES).protocols([SUBPROTOCOL]).on_upgrade(move |socket| async move {
        socket::serve(socket, hub, admission).await;
        drop(guest);
    })
}

/// The first broken rule of a query.
fn said(problem: &Problem) -> String {
    problem.errors.first().map_or_else(|| problem.detail.clone(), |e| format!("{} {}", e.pointer.trim_start_matches('/'), e.detail))
}

/// Checks a handshake.
///
/// # Errors
/// 400 or 426 for a request that is not a valid handshake.
pub(super) fn handshake(
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade, RefusedRequest> {
    let upgrade = upgrade.map_err(|_| {
        let version = headers.get(header::SEC_WEBSOCKET_VERSION);
        if headers.contains_key(header::UPGRADE) && version.is_some_and(|version| version != "13") {
            Problem::new(426, "upgrade_required", "the supported version of the WebSocket protocol is 13")
        } else if headers.contains_key(header::UPGRADE) {
            Problem::new(400, "bad_handshake", "this is not a WebSocket handshake of version 13 (RFC 6455 section 4.1)")
        } else {
            Problem::new(426, "upgrade_required", "this route is a WebSocket; connect with a WebSocket client")
        }
    })?;
    // 16 bytes in base64, as RFC 6455 section 4.2.1 requires; the library accepts any text.
    let is_nonce = |key: &HeaderValue| {
        let key = key.as_bytes();
        key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
    };
    if !headers.get(header::SEC_WEBSOCKET_KEY).is_some_and(is_nonce) {
        return Err(Problem::new(400, "bad_handshake", "Sec-WebSocket-Key is not 16 bytes in base64 (RFC 6455 section 4.1)").into());
    }
    Ok(upgrade)
}

/// The token of the header, or of a subprotocol. If there is none, the query counts: its ticket, then its token.
pub fn token(headers: &HeaderMap) -> Option<&str> {
    let in_protocol = || elements(headers, header::SEC_WEBSOCKET_PROTOCOL).find_map(|protocol| protocol.strip_prefix(TOKEN_SUBPROTOCOL));
    bearer(headers).or_else(in_protocol)
}
