//! Records which provider sessions users want, and reads what they see of them.

use std::time::Duration;

use sqlx::PgConnection;

use super::{name, user};
use crate::domain::{ProviderName, UserId};
use crate::store::StoreError;
use crate::store::time_limit::{ASK_LIMIT, limited};

/// The state of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UpstreamState {
    /// No instance holds it, or its owner has not begun.
    Waiting,
    SigningIn,
    Connecting,
    Live,
    /// The last try failed; the next one is due later.
    BackingOff,
    /// The provider refuses this user. There is no further try until the user connects again.
    Refused,
    /// Ended because there was nothing to do.
    Idle,
    /// Ended by an admin, or because no user wanted it.
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

    /// Whether it has ended: no instance holds it, or will hold it until it begins again.
    pub const fn is_ended(self) -> bool {
        matches!(self, Self::Refused | Self::Idle | Self::Released)
    }
}

pub(super) fn state(text: &str) -> Result<UpstreamState, sqlx::Error> {
    UpstreamState::parse(text).ok_or_else(|| sqlx::Error::Decode(format!("{text:?} is not a state of a session").into()))
}

/// Records that these users want their sessions with these providers, for `linger` from now. `fresh`: the users have
/// just connected, so ended sessions begin again; a refused one not before the time that its last try has set. The long
/// wait after used-up tries is shortened for them, to the time that the last try has set.
///
/// A row is written only when that moves its end by a fifth of `linger`: most calls of an instance write next to
/// nothing.
///
/// # Errors
/// When the database is unavailable or slow. The call can be repeated.
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
                      was_live = s.was_live AND NOT ($4 AND s.state IN ('refused', 'idle', 'released')),
                      next_try_at = CASE WHEN $4 AND s.state IN ('idle', 'released') THEN clock_timestamp()
                                         WHEN $4 AND s.state = 'backing_off' AND s.owner IS NULL THEN least(s.next_try_at, s.early_try_at)
                                         ELSE s.next_try_at END,
                      version = CASE WHEN $4 AND s.state IN ('refused', 'idle', 'released')
                                     THEN nextval('recado.upstream_version') ELSE s.version END,
                      updated_at = CASE WHEN $4 AND s.state IN ('refused', 'idle', 'released')
                                        THEN clock_timestamp() ELSE s.updated_at END
                WHERE s.wanted_until < excluded.wanted_until - make_interval(secs => $3 / 5)
                   OR $4 AND s.state IN ('refused', 'idle', 'released')
                   OR $4 AND s.state = 'backing_off' AND s.owner IS NULL AND s.early_try_at < s.next_try_at
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

/// A session as its user sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionView {
    pub provider: ProviderName,
    pub user: UserId,
    /// The session is live, and its owner's lease has not expired.
    pub is_live: bool,
    /// The last status for the user, and its text.
    pub status: Option<ProviderStatusWord>,
    pub message: String,
    /// Why the last try failed, until one succeeds.
    pub error: Option<String>,
    pub version: i64,
}

/// The status in a `status` frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProviderStatusWord {
    Connected,
    Disconnected,
}

impl ProviderStatusWord {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Disconnected => "disconnected",
        }
    }
}

/// Lists the sessions of these users with any provider.
///
/// # Errors
/// When the database is unavailable or slow.
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

/// Lists the sessions whose state changed after `version`, the first `most` of them. A slow change may commit with a
/// version that was passed already, so a caller also reads [`of_users`] now and then.
///
/// # Errors
/// When the database is unavailable or slow.
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
/// When the database is unavailable or slow.
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
        let status =
            self.status.map(|status| if status == "connected" { ProviderStatusWord::Connected } else { ProviderStatusWord::Disconnected });
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
