//! From a request to a socket.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::ask::{Ask, check_origin, check_room};
use super::auth::bearer;
use super::frames::{MESSAGE_MAX_BYTES, bounded};
use super::hub::Hub;
use super::problems::Refused;
use super::socket::{self, Admission};
use super::ticket;
use super::token::{Claims, TokenError};
use crate::wire::close::Close;
use crate::wire::problem::Problem;

/// The subprotocol that is spoken (RFC 6455 section 1.9).
const SUBPROTOCOL: &str = "recado.v1";
/// A client that can set no header names its token as one more subprotocol. It is never echoed.
const TOKEN_SUBPROTOCOL: &str = "recado.bearer.";
pub async fn root(
    state: State<Arc<Hub>>,
    headers: HeaderMap,
    query: Result<Query<Ask>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refused> {
    // Old clients connect to the root; a person who looks at it gets a sign.
    if !headers.contains_key(header::UPGRADE) {
        return Ok(Json(json!({ "name": "recado", "version": env!("CARGO_PKG_VERSION"), "websocket": "/ws", "health": "/health" }))
            .into_response());
    }
    ws(state, headers, query, upgrade).await
}

pub async fn ws(
    State(hub): State<Arc<Hub>>,
    headers: HeaderMap,
    query: Result<Query<Ask>, QueryRejection>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refused> {
    check_origin(&hub, &headers)?;
    let upgrade = handshake(&headers, upgrade)?;
    let ask = Ask::read(query)?;
    let wish = ask.wish()?;
    check_room(&hub)?;

    // A browser cannot read the status of a refused upgrade, so a bad token is told over the socket.
    let checked = match (token(&headers), &ask.ticket) {
        // Last of all checks: whoever is sent away for another reason keeps the ticket.
        (None, Some(ticket)) => ticket::redeem(&hub.reader, ticket).await?,
        (sent, _) => hub.auth.tokens.check(sent.or(ask.token.as_deref()).unwrap_or_default()),
    };
    let admission = match checked {
        Ok(Claims { role: Some(_), .. }) | Err(TokenError::Invalid(_)) => Admission::Refused(Close::Unauthorized),
        Err(TokenError::Expired) => Admission::Refused(Close::TokenExpired),
        Ok(Claims { who, expires_at, role: None }) => {
            let ack_mode = wish.ack_mode;
            Admission::Open { opening: Box::new(wish.of(who, "websocket")), expires_at, ack_mode }
        }
    };
    let guest = hub.tasks.guest("websocket");
    let upgraded = bounded(upgrade, MESSAGE_MAX_BYTES).protocols([SUBPROTOCOL]).on_upgrade(move |socket| async move {
        socket::serve(socket, hub, admission).await;
        drop(guest);
    });
    Ok(upgraded)
}

/// # Errors
/// 400 or 426 for what is no handshake.
pub(super) fn handshake(
    headers: &HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade, Refused> {
    let upgrade = upgrade.map_err(|_| {
        if headers.contains_key(header::UPGRADE) {
            Problem::new(400, "bad_handshake", "this is no WebSocket handshake of version 13 (RFC 6455 section 4.1)")
        } else {
            Problem::new(426, "upgrade_required", "this is a WebSocket; connect with a WebSocket client")
        }
    })?;
    // 16 bytes in base64, as RFC 6455 section 4.2.1 has it; the library takes any text.
    let is_nonce = |key: &HeaderValue| {
        let key = key.as_bytes();
        key.len() == 24 && key.ends_with(b"==") && key[..22].iter().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/'))
    };
    if !headers.get(header::SEC_WEBSOCKET_KEY).is_some_and(is_nonce) {
        return Err(Problem::new(400, "bad_handshake", "Sec-WebSocket-Key is not 16 bytes in base64 (RFC 6455 section 4.1)").into());
    }
    Ok(upgrade)
}

/// The token of the header, or of a subprotocol. After them the query counts: its ticket, then its token.
pub fn token(headers: &HeaderMap) -> Option<&str> {
    let protocols = headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let in_protocol = || protocols.flat_map(|v| v.split(',')).find_map(|p| p.trim().strip_prefix(TOKEN_SUBPROTOCOL));
    bearer(headers).or_else(in_protocol)
}
