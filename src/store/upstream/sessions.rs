//! What users want, and what they are shown of their sessions.

use std::time::Duration;

use sqlx::PgConnection;

use super::{name, user};
use crate::domain::{ProviderName, UserId};
use crate::store::StoreError;
use crate::store::database::{ASK_LIMIT, limited};

/// The state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamState {
    /// Nobody holds it, or its owner has not begun.
    Waiting,
    SigningIn,
    Connecting,
    Live,
    /// The last try failed; the next one is due later.
    BackingOff,
    /// The provider does not let this user in. Not tried again until a new connection of the user.
    Refused,
    /// Ended for want of anything to do.
    Idle,
    /// Ended by an admin, or because nobody wanted it.
    Released,
}

impl UpstreamState {
    const ALL: [Self; 8] =
        [Self::Waiting, Self::SigningIn, Self::Connecting, Self::Live, Self::BackingOff, Self::Refused, Self::Idle, Self::Released];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::SigningIn => "signing_in",
            Self::Connecting => "connecting",
            Self::Live => "live",
            Self::BackingOff => "backing_off",
            Self::Refused => "refused",
            Self::Idle => "idle",
            Self::Released => "released",
        }
    }

    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == text)
    }

    /// Nobody holds it, and nobody will until it is begun anew.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Refused | Self::Idle | Self::Released)
    }
}

pub(super) fn state(text: &str) -> Result<UpstreamState, sqlx::Error> {
    UpstreamState::parse(text).ok_or_else(|| sqlx::Error::Decode(format!("{text:?} is no state of a session").into()))
}

/// Says that these users want their sessions with these providers, for `linger` from now. `fresh`: they have just
/// connected, so what had ended begins again; a refused session not before the time that its last try has set.
///
/// A row is written only when that moves its end by a fifth of `linger`: most calls of an instance write next to nothing.
///
/// # Errors
/// When the database is away or slow. Asking again is right.
pub async fn want(
    connection: &mut PgConnection,
    providers: &[ProviderName],
    users: &[UserId],
    linger: Duration,
    fresh: bool,
) -> Result<(), StoreError> {
    let providers: Vec<&str> = providers.iter().map(ProviderName::as_str).collect();
    let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
    let wanted = sqlx::query!(
        r#"WITH wanted AS (
               INSERT INTO recado.upstream_session AS s (provider, user_id, wanted_until)
               SELECT p.provider, u.user_id, clock_timestamp() + make_interval(secs => $3)
                 FROM unnest($1::text[]) AS p (provider), (SELECT DISTINCT user_id FROM unnest($2::text[]) AS d (user_id)) u
                ORDER BY p.provider, u.user_id
               ON CONFLICT (provider, user_id) DO UPDATE
                  SET wanted_until = greatest(s.wanted_until, excluded.wanted_until),
                      state = CASE WHEN $4 AND s.state IN ('refused', 'idle', 'released') THEN 'waiting' ELSE s.state END,
                      attempts = CASE WHEN $4 AND s.state IN ('refused', 'idle', 'released') THEN 0 ELSE s.attempts END,
                      status = CASE WHEN $4 AND s.state IN ('refused', 'idle', 'released') THEN NULL ELSE s.status END,
                      message = CASE WHEN $4 AND s.state IN ('refused', 'idle', 'released') THEN NULL ELSE s.message END,
                      error = CASE WHEN $4 AND s.state IN ('refused', 'idle', 'released') THEN NULL ELSE s.error END,
                      next_try_at = CASE WHEN $4 AND s.state IN ('idle', 'released') THEN clock_timestamp() ELSE s.next_try_at END,
                      version = CASE WHEN $4 AND s.state IN ('refused', 'idle', 'released')
                                     THEN nextval('recado.upstream_version') ELSE s.version END,
                      updated_at = CASE WHEN $4 AND s.state IN ('refused', 'idle', 'released')
                                        THEN clock_timestamp() ELSE s.updated_at END
                WHERE s.wanted_until < excluded.wanted_until - make_interval(secs => $3 / 5)
                   OR $4 AND s.state IN ('refused', 'idle', 'released')
            RETURNING s.owner)
           SELECT recado.upstream_hint('want') AS told FROM wanted WHERE owner IS NULL LIMIT 1"#,
        &providers as _,
        &users as _,
        linger.as_secs_f64(),
        fresh,
    )
    .fetch_optional(connection);
    limited(ASK_LIMIT, wanted).await?;
    Ok(())
}

/// What a user is shown of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    pub provider: ProviderName,
    pub user: UserId,
    /// It is live, and its owner's lease is not over.
    pub is_live: bool,
    /// The last status that there was to tell, and its text.
    pub status: Option<Status>,
    pub message: String,
    /// Why the last try failed, until one succeeds.
    pub error: Option<String>,
    pub version: i64,
}

/// What the `status` frame says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    Connected,
    Disconnected,
}

impl Status {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
        }
    }
}

/// The sessions of these users with any provider.
///
/// # Errors
/// When the database is away or slow.
pub async fn of_users(connection: &mut PgConnection, users: &[UserId]) -> Result<Vec<SessionView>, StoreError> {
    let users: Vec<&str> = users.iter().map(UserId::as_str).collect();
    let rows = sqlx::query_as!(
        ViewRow,
        r#"SELECT provider, user_id, coalesce(state = 'live' AND lease_until > clock_timestamp(), false) AS "is_live!",
                  status, message, error, version
             FROM recado.upstream_session
            WHERE user_id = ANY ($1)"#,
        &users as _,
    )
    .fetch_all(connection);
    Ok(limited(ASK_LIMIT, rows).await?.into_iter().map(ViewRow::read).collect::<Result<_, _>>()?)
}

/// The sessions whose state changed after `version`, the first `most` of them. A slow change may come with a version that
/// was passed already: who goes by this looks at [`of_users`] now and then.
///
/// # Errors
/// When the database is away or slow.
pub async fn changed_since(connection: &mut PgConnection, version: i64, most: i64) -> Result<Vec<SessionView>, StoreError> {
    let rows = sqlx::query_as!(
        ViewRow,
        r#"SELECT provider, user_id, coalesce(state = 'live' AND lease_until > clock_timestamp(), false) AS "is_live!",
                  status, message, error, version
             FROM recado.upstream_session
            WHERE version > $1
            ORDER BY version
            LIMIT $2"#,
        version,
        most,
    )
    .fetch_all(connection);
    Ok(limited(ASK_LIMIT, rows).await?.into_iter().map(ViewRow::read).collect::<Result<_, _>>()?)
}

/// The version of the last change.
///
/// # Errors
/// When the database is away or slow.
pub async fn last_version(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let last = sqlx::query_scalar!(r#"SELECT coalesce(max(version), 0) AS "last!" FROM recado.upstream_session"#).fetch_one(connection);
    limited(ASK_LIMIT, last).await
}

struct ViewRow {
    provider: String,
    user_id: String,
    is_live: bool,
    status: Option<String>,
    message: Option<String>,
    error: Option<String>,
    version: i64,
}

impl ViewRow {
    fn read(self) -> Result<SessionView, sqlx::Error> {
        let status = self.status.map(|status| if status == "connected" { Status::Connected } else { Status::Disconnected });
        Ok(SessionView {
            provider: name(&self.provider)?,
            user: user(&self.user_id)?,
            is_live: self.is_live,
            status,
            message: self.message.unwrap_or_default(),
            error: self.error,
            version: self.version,
        })
    }
}
