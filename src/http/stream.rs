//! What every stream has, over whatever it goes: a place, a first frame, and a token that ends.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::{Instant, timeout};

use super::hub::Hub;
use crate::delivery::registry::Position;
use crate::delivery::{ConnectError, Opening, Subscription};
use crate::wire::close::Close;
use crate::wire::server::{Established, Resume, ServerFrame};

/// Longest wait for a place in the stream: the database may be slow while many come at once.
const CONNECT_LIMIT: Duration = Duration::from_secs(15);
/// How long before its token's end a client is told.
const EXPIRY_WARNING: Duration = Duration::from_secs(60);
/// A token may be valid for longer than the clock can count.
const FAR: Duration = Duration::from_secs(365 * 86_400);

/// Finds a client's place.
///
/// # Errors
/// With what the client is told instead.
pub async fn connect(hub: &Hub, opening: Opening) -> Result<(Subscription, Resume, Position), Close> {
    match timeout(CONNECT_LIMIT, hub.delivery.connect(opening)).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(ConnectError::UserFull)) => Err(Close::TooManyConnections),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a client could not be given its place");
            Err(Close::ServerError)
        }
        Err(_) => Err(Close::ServerError),
    }
}

/// The first frame.
pub fn hello(subscription: &Subscription, resume: Resume, position: Position, heartbeat: Duration, expires_at: DateTime<Utc>) -> String {
    let member = subscription.member();
    ServerFrame::ConnectionEstablished(Established {
        session_id: member.session,
        user_id: &member.who.user,
        account_ids: &member.who.accounts,
        client_id: &member.client,
        log_id: position.log_id,
        head: position.published,
        earliest: position.floor.next(),
        resume,
        heartbeat_ms: u64::try_from(heartbeat.as_millis()).unwrap_or(u64::MAX),
        token_expires_at: expires_at,
    })
    .encode()
}

/// How long a client's token is still good.
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

    /// When there is something to do next.
    pub fn next(&self) -> Instant {
        self.warn_at.map_or(self.expires, |at| at.min(self.expires))
    }

    pub fn has_ended(&self, now: Instant) -> bool {
        now >= self.expires
    }

    /// The warning, once, when it is time for it.
    pub fn warning(&mut self, now: Instant) -> Option<ServerFrame<'static>> {
        self.warn_at.take_if(|at| now >= *at)?;
        Some(ServerFrame::AuthExpiring { expires_at: Utc::now() + self.expires.saturating_duration_since(now) })
    }
}
