//! Claims, renews, checkpoints and releases provider sessions, and takes admins' requests.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::sessions::{UpstreamState, state};
use super::{Lease, LeaseColumns, name, user};
use crate::domain::{InstanceId, ProviderName, Term, UserId};
use crate::metrics;
use crate::store::StoreError;
use crate::store::time_limit::{ASK_LIMIT, limited};

/// A session that this instance holds now, under a new term.
#[derive(Debug, Clone)]
pub struct Claimed {
    pub provider: ProviderName,
    pub user: UserId,
    pub term: Term,
    /// The provider's session id, as a checkpoint stored it: encrypted.
    pub secret: Option<Vec<u8>>,
    pub attempts: u32,
    /// The state that the last owner left. The row says `waiting` from now on.
    pub state: UpstreamState,
    /// The number of commands whose outcome stays unknown.
    pub unknown: u32,
    /// The time of the last message, when the session was live under an earlier owner. Later messages may be missing.
    pub live_until: Option<DateTime<Utc>>,
}

impl Claimed {
    pub fn lease(&self) -> Lease {
        Lease { provider: self.provider.clone(), user: self.user.clone(), term: self.term }
    }
}

/// Claims at most `most` sessions that are wanted and due, and that have no owner or an expired lease.
///
/// # Errors
/// When the database is unavailable or slow. After [`StoreError::TimedOut`] this instance may hold sessions without
/// knowing it; their leases expire.
pub async fn claim(
    connection: &mut PgConnection,
    instance: InstanceId,
    lease: Duration,
    most: usize,
    providers: &[ProviderName],
) -> Result<Vec<Claimed>, StoreError> {
    let providers: Vec<&str> = providers.iter().map(ProviderName::as_str).collect();
    let claimed = sqlx::query!(
        r#"SELECT provider AS "provider!", user_id AS "user_id!", term AS "term!", secret, attempts AS "attempts!", state AS "state!",
                  unknown AS "unknown!", live_until
             FROM recado.upstream_claim($1, $2, $3, $4)"#,
        instance.0,
        lease.as_secs_f64(),
        i32::try_from(most).unwrap_or(i32::MAX),
        &providers as _,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, claimed).await?;
    rows.into_iter()
        .map(|row| {
            // An owner that gives a session back leaves it waiting, backing off or ended.
            let is_left_behind = matches!(row.state.as_str(), "signing_in" | "connecting" | "live");
            metrics::UPSTREAM_CLAIMED.add(if is_left_behind { "taken_over" } else { "free" }, 1);
            metrics::UPSTREAM_COMMANDS.add("unknown", usize::try_from(row.unknown).unwrap_or(0));
            Ok(Claimed {
                provider: name(&row.provider)?,
                user: user(&row.user_id)?,
                term: Term::from_db(row.term),
                secret: row.secret,
                attempts: u32::try_from(row.attempts).unwrap_or(0),
                state: state(&row.state)?,
                unknown: u32::try_from(row.unknown).unwrap_or(0),
                live_until: row.live_until,
            })
        })
        .collect()
}

/// A session to renew, and how long ago its last message and ping were.
#[derive(Debug, Clone)]
pub struct RenewRequest {
    pub lease: Lease,
    /// The age of the provider's last message.
    pub last_message: Option<Duration>,
    pub last_ping: Option<Duration>,
}

impl From<Lease> for RenewRequest {
    fn from(lease: Lease) -> Self {
        Self { lease, last_message: None, last_ping: None }
    }
}

/// A session whose lease was renewed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    pub lease: Lease,
    /// The user is connected, or was a moment ago.
    pub wanted: bool,
    /// An admin's request waits for [`take_asks`].
    pub is_asked: bool,
}

/// Renews leases from now. A session that is not in the answer is lost, for good.
///
/// # Errors
/// When the database is unavailable or slow; the leases keep their end, or were renewed.
pub async fn renew(
    connection: &mut PgConnection,
    instance: InstanceId,
    lease: Duration,
    held: &[RenewRequest],
) -> Result<Vec<Renewed>, StoreError> {
    let columns = LeaseColumns::of(held.iter().map(|h| &h.lease));
    let seconds = |age: Option<Duration>| age.map(|age| age.as_secs_f64());
    let messages: Vec<Option<f64>> = held.iter().map(|h| seconds(h.last_message)).collect();
    let pings: Vec<Option<f64>> = held.iter().map(|h| seconds(h.last_ping)).collect();
    // The rows are locked in lock order before the first one is changed.
    let renewed = sqlx::query!(
        r#"WITH mine AS (
               SELECT s.provider, s.user_id, h.message, h.ping
                 FROM recado.upstream_session s
                 JOIN unnest($3::text[], $4::text[], $5::bigint[], $6::float8[], $7::float8[])
                      AS h (provider, user_id, term, message, ping)
                   ON h.provider = s.provider AND h.user_id = s.user_id AND h.term = s.term
                WHERE s.owner = $1 AND s.lease_until > clock_timestamp()
                ORDER BY s.provider, s.user_id
                  FOR UPDATE OF s)
           UPDATE recado.upstream_session s
              SET lease_until = clock_timestamp() + make_interval(secs => $2),
                  last_message_at = greatest(s.last_message_at, clock_timestamp() - make_interval(secs => m.message)),
                  last_ping_at = greatest(s.last_ping_at, clock_timestamp() - make_interval(secs => m.ping))
             FROM mine m
            WHERE s.provider = m.provider AND s.user_id = m.user_id AND s.lease_until > clock_timestamp()
        RETURNING s.provider, s.user_id, s.term, s.wanted_until > clock_timestamp() AS "wanted!", s.asked IS NOT NULL AS "asked!""#,
        instance.0,
        lease.as_secs_f64(),
        &columns.provider as _,
        &columns.user as _,
        &columns.term,
        &messages as _,
        &pings as _,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, renewed).await?;
    rows.into_iter()
        .map(|row| {
            let lease = Lease { provider: name(&row.provider)?, user: user(&row.user_id)?, term: Term::from_db(row.term) };
            Ok(Renewed { lease, wanted: row.wanted, is_asked: row.asked })
        })
        .collect()
}

/// The term has passed, or the lease has expired: nothing was changed, and nothing will be under this term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the session is no longer held under this term")]
pub struct StaleTerm;

/// Why an owner's change was not stored.
#[derive(Debug, thiserror::Error)]
pub enum Checkpoint {
    #[error(transparent)]
    Fenced(#[from] StaleTerm),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// The changes of a session. A field that is `None` stays as it was.
#[derive(Debug, Clone)]
pub struct CheckpointChange {
    /// `refused`, `idle` and `released` also end the lease, in the same commit.
    pub state: UpstreamState,
    /// The provider's session id, encrypted. `Some(None)` deletes it.
    pub secret: Option<Option<Vec<u8>>>,
    pub attempts: u32,
    /// Counted from now; zero means at once.
    pub next_try_in: Duration,
    /// Counted from now: when a new connection of the user brings the next try forward. `None` means not at all.
    pub early_try_in: Option<Duration>,
    /// The text of the user's `status` frame: for `live` that of "connected", else that of "disconnected". Set only
    /// where the status changes.
    pub message: Option<String>,
    /// The text of an `error` frame, such as why a try failed. It stays with the session until that is live.
    pub error: Option<String>,
}

impl CheckpointChange {
    pub fn to(state: UpstreamState) -> Self {
        Self { state, secret: None, attempts: 0, next_try_in: Duration::ZERO, early_try_in: None, message: None, error: None }
    }
}

/// Stores an owner's changes of its session.
///
/// # Errors
/// [`Checkpoint::Fenced`] when this instance no longer holds it.
pub async fn checkpoint(
    connection: &mut PgConnection,
    instance: InstanceId,
    lease: &Lease,
    change: CheckpointChange,
) -> Result<(), Checkpoint> {
    let ends = change.state.is_ended();
    let live = change.state == UpstreamState::Live;
    // The user gets no frame between two provider connections: only an end or a failure says "disconnected".
    let breaks = ends || change.state == UpstreamState::BackingOff;
    let said = sqlx::query_scalar!(
        r#"WITH said AS (
           UPDATE recado.upstream_session s
              SET state = $4,
                  status = CASE WHEN $5 THEN 'connected' WHEN $6 AND s.status IS NOT NULL THEN 'disconnected' ELSE s.status END,
                  message = CASE WHEN $7::text IS NOT NULL OR $5 AND s.status IS DISTINCT FROM 'connected' OR $6 AND s.status = 'connected'
                                 THEN $7 ELSE s.message END,
                  error = CASE WHEN $5 THEN NULL ELSE coalesce($8, s.error) END,
                  secret = CASE WHEN $9 THEN $10 ELSE s.secret END,
                  attempts = $11,
                  next_try_at = clock_timestamp() + make_interval(secs => $12),
                  early_try_at = clock_timestamp() + make_interval(secs => $15),
                  was_live = ($5 OR s.was_live) AND NOT $13,
                  connected_at = CASE WHEN NOT $5 THEN s.connected_at WHEN s.state = 'live' THEN s.connected_at ELSE clock_timestamp() END,
                  owner = CASE WHEN $13 THEN NULL ELSE s.owner END,
                  lease_until = CASE WHEN $13 THEN NULL ELSE s.lease_until END,
                  version = nextval('recado.upstream_version'),
                  updated_at = clock_timestamp()
            WHERE s.provider = $2 AND s.user_id = $3 AND s.owner = $1 AND s.term = $14 AND s.lease_until > clock_timestamp()
        RETURNING s.provider, s.user_id)
           SELECT count(recado.upstream_hint('state', provider, user_id)) AS "said!" FROM said"#,
        instance.0,
        lease.provider.as_str(),
        lease.user.as_str(),
        change.state.as_str(),
        live,
        breaks,
        change.message,
        change.error,
        change.secret.is_some(),
        change.secret.flatten(),
        i32::try_from(change.attempts).unwrap_or(i32::MAX),
        change.next_try_in.as_secs_f64(),
        ends,
        lease.term.get(),
        change.early_try_in.unwrap_or(change.next_try_in).as_secs_f64(),
    )
    .fetch_one(connection);
    if limited(ASK_LIMIT, said).await? == 0 { Err(StaleTerm.into()) } else { Ok(()) }
}

/// Gives sessions back, so that another instance may claim them at once. Returns those that this instance still held.
///
/// # Errors
/// When the database is unavailable or slow; the leases then expire.
pub async fn release(connection: &mut PgConnection, instance: InstanceId, leases: &[Lease]) -> Result<Vec<Lease>, StoreError> {
    let columns = LeaseColumns::of(leases.iter());
    let released = sqlx::query!(
        r#"WITH mine AS (
               SELECT s.provider, s.user_id
                 FROM recado.upstream_session s
                 JOIN unnest($2::text[], $3::text[], $4::bigint[]) AS h (provider, user_id, term)
                   ON h.provider = s.provider AND h.user_id = s.user_id AND h.term = s.term
                WHERE s.owner = $1
                ORDER BY s.provider, s.user_id
                  FOR UPDATE OF s),
           freed AS (
               UPDATE recado.upstream_session s
                  SET owner = NULL, lease_until = NULL, updated_at = clock_timestamp(),
                      state = CASE s.state WHEN 'backing_off' THEN s.state ELSE 'waiting' END,
                      version = nextval('recado.upstream_version')
                 FROM mine m
                WHERE s.provider = m.provider AND s.user_id = m.user_id
            RETURNING s.provider, s.user_id, s.term)
           SELECT f.provider, f.user_id, f.term, recado.upstream_hint('want') AS told FROM freed f"#,
        instance.0,
        &columns.provider as _,
        &columns.user as _,
        &columns.term,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, released).await?;
    let lease = |provider: &str, id: &str, term| Ok(Lease { provider: name(provider)?, user: user(id)?, term: Term::from_db(term) });
    rows.iter().map(|row| lease(&row.provider, &row.user_id, row.term)).collect()
}

/// An admin's request for a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminRequest {
    /// Drop the connection and the provider's session id, and begin anew.
    Reconnect,
    /// End it, and do not begin again until the user's next connection.
    Release,
}

impl AdminRequest {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reconnect => "reconnect",
            Self::Release => "release",
        }
    }
}

/// Takes the admins' requests for held sessions. Each is returned once.
///
/// # Errors
/// When the database is unavailable or slow. A request may then be taken already, and the admin repeats it.
pub async fn take_asks(
    connection: &mut PgConnection,
    instance: InstanceId,
    leases: &[Lease],
) -> Result<Vec<(Lease, AdminRequest)>, StoreError> {
    let columns = LeaseColumns::of(leases.iter());
    let taken = sqlx::query!(
        r#"WITH mine AS (
               SELECT s.provider, s.user_id, s.term, s.asked
                 FROM recado.upstream_session s
                 JOIN unnest($2::text[], $3::text[], $4::bigint[]) AS h (provider, user_id, term)
                   ON h.provider = s.provider AND h.user_id = s.user_id AND h.term = s.term
                WHERE s.owner = $1 AND s.lease_until > clock_timestamp() AND s.asked IS NOT NULL
                ORDER BY s.provider, s.user_id
                  FOR UPDATE OF s)
           UPDATE recado.upstream_session s
              SET asked = NULL
             FROM mine m
            WHERE s.provider = m.provider AND s.user_id = m.user_id
        RETURNING m.provider, m.user_id, m.term, m.asked AS "asked!""#,
        instance.0,
        &columns.provider as _,
        &columns.user as _,
        &columns.term,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, taken).await?;
    rows.into_iter()
        .map(|row| {
            let lease = Lease { provider: name(&row.provider)?, user: user(&row.user_id)?, term: Term::from_db(row.term) };
            let asked = if row.asked == AdminRequest::Release.as_str() { AdminRequest::Release } else { AdminRequest::Reconnect };
            Ok((lease, asked))
        })
        .collect()
}
