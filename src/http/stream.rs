//! Holds the parts that all kinds of streams share.
//!
//! These are the connect step, the first frame, and the clock of the token.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, timeout};

use super::state::HubState;
use crate::delivery::{Admitted, ConnectError, ConnectRequest};
use crate::wire::close::CloseCode;
use crate::wire::server_frame::{Established, Resumed, ServerFrame};

/// Time limit for connecting a client to the stream: the database may be slow while many clients connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long before the end of its token a client is warned.
const EXPIRY_WARNING: Duration = Duration::from_secs(60);
/// Upper limit for clocks: a token may be valid for longer than an [`Instant`] can hold.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// Connects a client to the stream.
///
/// # Errors
/// The close code that the client gets instead.
pub async fn connect(hub: &HubState, opening: ConnectRequest) -> Result<Admitted, CloseCode> {
    if !hub.budgets.connects.allow(opening.who.user.as_str()) {
        return Err(CloseCode::RateLimited);
    }
    match timeout(CONNECT_LIMIT, hub.delivery.connect(opening)).await {
        Ok(Ok(connected)) => {
            // The token was checked before the connection was registered. A revocation that became known in between saw
            // neither a token to refuse nor a connection to close.
            let connection = connected.subscription.connection();
            if hub.auth.tokens.revocations().refuse(&connection.who.user, connection.origin()) {
                return Err(CloseCode::TokenRevoked);
            }
            Ok(connected)
        }
        Ok(Err(ConnectError::UserFull)) => Err(CloseCode::TooManyConnections),
        Ok(Err(error)) => {
            tracing::warn!(%error, "connect failed");
            Err(CloseCode::ServerError)
        }
        Err(_) => Err(CloseCode::ServerError),
    }
}

/// Encodes the first frame.
pub fn hello(admitted: &mut Admitted, heartbeat: Duration, expires_at: DateTime<Utc>) -> String {
    let inbox = admitted.subscription.first_counts();
    let Admitted { subscription, resume, position } = admitted;
    let connection = subscription.connection();
    ServerFrame::ConnectionEstablished(Established {
        session_id: connection.session,
        user_id: &connection.who.user,
        account_ids: &connection.accounts(),
        client_id: &connection.client,
        log_id: position.log_id,
        head: position.dispatched,
        earliest: position.floor.next(),
        resume: Resumed { resume: *resume, shared: subscription.is_shared() },
        heartbeat_ms: u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX),
        token_expires_at: expires_at,
        inbox,
    })
    .encode()
}

/// The remaining life of a client's token.
#[derive(Debug)]
pub struct TokenClock {
    warn_at: Option<Instant>,
    expires: Instant,
}

impl TokenClock {
    pub fn until(expires_at: DateTime<Utc>) -> Self {
        let left = (expires_at - Utc::now()).to_std().unwrap_or_default();
        let now = Instant::now();
        let warn_at = now + left.saturating_sub(EXPIRY_WARNING.min(left / 2)).min(FAR);
        Self { warn_at: Some(warn_at), expires: now + left.min(FAR) }
    }

    /// The next time at which something is due.
    pub fn next(&self) -> Instant {
        self.warn_at.map_or(self.expires, |at| at.min(self.expires))
    }

    pub fn has_ended(&self, now: Instant) -> bool {
        now >= self.expires
    }

    /// The expiry warning, once, when it is due.
    pub fn warning(&mut self, now: Instant) -> Option<ServerFrame<'static>> {
        self.warn_at.take_if(|at| now >= *at)?;
        Some(ServerFrame::AuthExpiring { expires_at: Utc::now() + self.expires.saturating_duration_since(now) })
    }
}
