//! Shows provider sessions to admins, and passes the admins' requests to the owners.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;
use uuid::Uuid;

use super::leases::AdminRequest;
use super::user;
use crate::domain::audit::Actor;
use crate::domain::{ProviderName, UserId};
use crate::store::StoreError;
use crate::store::database::Reader;
use crate::store::time_limit::{ASK_LIMIT, limited};

/// A session, without its secret.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SessionOverview {
    pub provider: String,
    pub user_id: String,
    pub state: String,
    /// The session is live, and its owner's lease has not expired.
    pub is_live: bool,
    pub attempts: i32,
    pub owner: Option<Uuid>,
    pub term: i64,
    pub lease_until: Option<DateTime<Utc>>,
    pub wanted_until: DateTime<Utc>,
    pub next_try_at: DateTime<Utc>,
    pub connected_at: Option<DateTime<Utc>>,
    pub last_message_at: Option<DateTime<Utc>>,
    pub error: Option<String>,
    pub asked: Option<String>,
}

/// Which sessions are looked for. `None` finds all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSessions {
    pub user: Option<UserId>,
    pub state: Option<String>,
    pub limit: i64,
}

/// Lists the sessions that are wanted or held, of one user or of all, by provider and user, at most `most`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection, of: Option<&UserId>, most: i64) -> Result<Vec<SessionOverview>, StoreError> {
    list_in(connection, of, None, most).await
}

/// As [`list`], of one state or of all.
async fn list_in(
    connection: &mut PgConnection,
    of: Option<&UserId>,
    state: Option<&str>,
    most: i64,
) -> Result<Vec<SessionOverview>, StoreError> {
    let rows = sqlx::query_as!(
        SessionOverview,
        r#"SELECT provider, user_id, state, coalesce(state = 'live' AND lease_until > clock_timestamp(), false) AS "is_live!", attempts,
                  owner, term, lease_until, wanted_until, next_try_at, connected_at, last_message_at, error, asked
             FROM recado.upstream_session
            WHERE (user_id = $1 OR $1 IS NULL AND (owner IS NOT NULL OR wanted_until > statement_timestamp()))
              AND (state = $2 OR $2 IS NULL)
            ORDER BY provider, user_id
            LIMIT $3"#,
        of.map(UserId::as_str),
        state,
        most,
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
}

/// As [`list`], for all users, with a connection of a pool.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list_all(reader: &Reader, most: i64) -> Result<Vec<SessionOverview>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let rows = list(checkout.connection(), None, most).await?;
    checkout.done();
    Ok(rows)
}

/// The provider sessions of a page of the console.
pub struct FoundSessions {
    pub sessions: Vec<SessionOverview>,
    /// The last commands of the user, newest first; `None`: no user was asked for.
    pub commands: Option<Vec<CommandOverview>>,
}

/// Finds sessions of one user or of all, in one state or in any, and a user's last commands.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn find(reader: &Reader, wanted: &WantedSessions, commands: i64) -> Result<FoundSessions, StoreError> {
    let mut checkout = reader.checkout().await?;
    let WantedSessions { user, state, limit } = wanted;
    let sessions = list_in(checkout.connection(), user.as_ref(), state.as_deref(), *limit).await?;
    let commands = match user {
        Some(user) => Some(last_commands(checkout.connection(), user, commands).await?),
        None => None,
    };
    checkout.done();
    Ok(FoundSessions { sessions, commands })
}

/// Lists the users that have a live session.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn live_users(reader: &Reader) -> Result<Vec<UserId>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let rows = sqlx::query_scalar!(
        r#"SELECT DISTINCT user_id
             FROM recado.upstream_session
            WHERE owner IS NOT NULL AND state = 'live' AND lease_until > statement_timestamp()"#
    )
    .fetch_all(checkout.connection());
    let rows = limited(ASK_LIMIT, rows).await?;
    checkout.done();
    Ok(rows.iter().map(|id| user(id)).collect::<Result<_, _>>()?)
}

/// A command, without its payload.
#[derive(Debug, Clone, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CommandOverview {
    pub command_id: Uuid,
    pub provider: String,
    pub client_id: String,
    pub id: String,
    pub r#type: String,
    pub state: String,
    pub detail: Option<String>,
    pub term: Option<i64>,
    pub accepted_at: DateTime<Utc>,
    pub settled_at: Option<DateTime<Utc>>,
}

/// Lists the last commands of a user, newest first.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn last_commands(connection: &mut PgConnection, of: &UserId, most: i64) -> Result<Vec<CommandOverview>, StoreError> {
    let rows = sqlx::query_as!(
        CommandOverview,
        r#"SELECT command_id, provider, client_id, id, type AS "type", state, detail, term, accepted_at, settled_at
             FROM recado.upstream_command
            WHERE user_id = $1
            ORDER BY accepted_at DESC, place DESC
            LIMIT $2"#,
        of.as_str(),
        most,
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
}

/// Asks the owners of a user's sessions, with one provider or all, for something. Without an owner, it is done at once.
/// Returns the number of sessions. A released session stays so until the user's next connection. Without `actor` the
/// audit names who the session acts for.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn ask(
    connection: &mut PgConnection,
    of: &UserId,
    with: Option<&ProviderName>,
    asked: AdminRequest,
    actor: Option<&Actor>,
) -> Result<u64, StoreError> {
    let done = sqlx::query_scalar!(
        r#"SELECT recado.ask_upstream($1, $2, $3, $4, $5, $6) AS "done!""#,
        of.as_str(),
        with.map(ProviderName::as_str),
        asked.as_str(),
        actor.map(|actor| actor.who.as_str()),
        actor.map(|actor| actor.via.as_str()),
        actor.and_then(|actor| actor.address.as_deref()),
    )
    .fetch_one(connection);
    Ok(limited(ASK_LIMIT, done).await?.unsigned_abs())
}

/// As [`ask`], with a connection of a pool.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn ask_as(reader: &Reader, of: &UserId, with: &ProviderName, asked: AdminRequest, actor: &Actor) -> Result<u64, StoreError> {
    let mut checkout = reader.checkout().await?;
    let done = ask(checkout.connection(), of, Some(with), asked, Some(actor)).await?;
    checkout.done();
    Ok(done)
}
