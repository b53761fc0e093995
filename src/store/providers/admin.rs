//! Shows provider sessions to admins, and passes the admins' requests to the owners.

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use super::leases::AdminRequest;
use super::user;
use crate::domain::audit::Act;
use crate::domain::{ProviderName, UserId};
use crate::store::StoreError;
use crate::store::audit::{self, Entry};
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

/// Lists the sessions that are wanted or held, of one user or of all, by provider and user, at most `most`.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection, of: Option<&UserId>, most: i64) -> Result<Vec<SessionOverview>, StoreError> {
    let rows = sqlx::query_as!(
        SessionOverview,
        r#"SELECT provider, user_id, state, coalesce(state = 'live' AND lease_until > clock_timestamp(), false) AS "is_live!", attempts,
                  owner, term, lease_until, wanted_until, next_try_at, connected_at, last_message_at, error, asked
             FROM recado.upstream_session
            WHERE user_id = $1 OR $1 IS NULL AND (owner IS NOT NULL OR wanted_until > statement_timestamp())
            ORDER BY provider, user_id
            LIMIT $2"#,
        of.map(UserId::as_str),
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
/// Returns the number of sessions. A released session stays so until the user's next connection.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn ask(connection: &mut PgConnection, of: &UserId, with: Option<&ProviderName>, asked: AdminRequest) -> Result<u64, StoreError> {
    let mut transaction = limited(ASK_LIMIT, connection.begin()).await?;
    let done = sqlx::query_scalar!(
        r#"WITH asked AS (
               UPDATE recado.upstream_session s
                  SET asked = CASE WHEN s.lease_until > clock_timestamp() THEN $3 END,
                      state = CASE WHEN s.lease_until > clock_timestamp() THEN s.state WHEN $3 = 'release' THEN 'released' ELSE 'waiting' END,
                      owner = CASE WHEN s.lease_until > clock_timestamp() THEN s.owner END,
                      lease_until = CASE WHEN s.lease_until > clock_timestamp() THEN s.lease_until END,
                      attempts = CASE WHEN s.lease_until > clock_timestamp() THEN s.attempts ELSE 0 END,
                      next_try_at = CASE WHEN s.lease_until > clock_timestamp() THEN s.next_try_at ELSE clock_timestamp() END,
                      -- Anew means a new sign-in, too.
                      secret = CASE WHEN s.lease_until > clock_timestamp() THEN s.secret END,
                      error = CASE WHEN s.lease_until > clock_timestamp() THEN s.error END,
                      version = nextval('recado.upstream_version'), updated_at = clock_timestamp()
                WHERE s.user_id = $1 AND (s.provider = $2 OR $2 IS NULL)
            RETURNING s.provider, s.user_id)
           SELECT count(recado.upstream_hint('ask') AND recado.upstream_hint('want')
                        AND recado.upstream_hint('state', provider, user_id)) AS "done!"
             FROM asked"#,
        of.as_str(),
        with.map(ProviderName::as_str),
        asked.as_str(),
    )
    .fetch_one(&mut *transaction);
    let done = limited(ASK_LIMIT, done).await?.unsigned_abs();
    let act = match asked {
        AdminRequest::Reconnect => Act::UpstreamReconnect,
        AdminRequest::Release => Act::UpstreamRelease,
    };
    let provider = with.map_or("*", ProviderName::as_str);
    let entry = if done > 0 { Entry::done(act, provider) } else { Entry::failed(act, provider, "the user has no such session") };
    let entry = Entry { user: Some(of.as_str()), details: json!({ "sessions": done }), ..entry };
    audit::record(&mut transaction, None, &entry).await?;
    limited(ASK_LIMIT, transaction.commit()).await?;
    Ok(done)
}
