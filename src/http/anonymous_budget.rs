//! Charges anonymous requests to the budget of their client address.
//!
//! Whether a request is anonymous is known only after its token or key was checked. So every request takes from the
//! budget of its address when it arrives, and gives it back if it authenticates. If the budget is used up, a request
//! without any credential is refused at once. A request with a credential is checked, which is cheap, so that an
//! anonymous client cannot shut out the clients that share its address.

use std::sync::Arc;

use axum::extract::Request;
use axum::http::{HeaderValue, header};
use axum::response::Response;

use super::address::ClientAddress;
use super::connection_slots::ConnectionSlot;
use super::listener_side::is_internal;
use crate::wire::problem::Problem;

/// A request that was admitted and not settled yet.
pub struct AnonymousPass {
    place: Arc<ConnectionSlot>,
    client: ClientAddress,
    /// Whether the budget of the address was used up.
    over: bool,
}

/// Takes one request from the budget of the client's address.
///
/// # Errors
/// 429 for an anonymous request over the budget of its address; 503 in a reserved slot for a request that is neither
/// a probe's nor a service's.
pub fn admit(request: &Request) -> Result<Option<AnonymousPass>, Problem> {
    let Some(place) = request.extensions().get::<Arc<ConnectionSlot>>().cloned() else { return Ok(None) };
    let path = request.uri().path();
    let is_probe = matches!(path, "/livez" | "/readyz" | "/health");
    if place.is_reserved() && !is_probe && !(is_internal(path) && request.headers().contains_key(header::AUTHORIZATION)) {
        place.refuse_reserved();
        return Err(Problem::new(503, "full", "this hub has reached its limit of connections; connect again later").retry_after(5));
    }
    let client = place.client(request.headers());
    let over = !place.take_request(client);
    if over && !is_probe && !has_credential(request) {
        let detail = "too many requests without a token or key from this address (RECADO_ADDRESS_REQUESTS)";
        return Err(Problem::new(429, "rate_limited", detail).retry_after(1));
    }
    Ok(Some(AnonymousPass { place, client, over }))
}

/// Whether the request brings any credential. It is validated later.
fn has_credential(request: &Request) -> bool {
    let headers = request.headers();
    let in_query = |query: &str| query.contains("token=") || query.contains("ticket=");
    headers.contains_key(header::AUTHORIZATION)
        || headers.contains_key(header::SEC_WEBSOCKET_PROTOCOL)
        || request.uri().query().is_some_and(in_query)
}

impl AnonymousPass {
    /// Gives the request back to the budget if it authenticated. Otherwise closes the connection of a client over
    /// its budget or in a reserved slot.
    pub fn settle(self, response: &mut Response) {
        let Self { place, client, over } = self;
        if place.is_vouched() {
            if !over {
                place.give_back_request(client);
            }
        } else if over || place.is_reserved() {
            close(&place, response);
        }
    }
}

/// Closes the connection of an anonymous client. Otherwise its next requests would cost nothing of the budget for new
/// connections. The connection of a proxy stays open, because other clients use it as well.
pub fn close(slot: &ConnectionSlot, response: &mut Response) {
    if !slot.is_proxy() {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}
