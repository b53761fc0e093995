//! Lets services follow the log: creates consumers, fetches under a lease, acknowledges.
//!
//! The functions of `migrations/V31__consumers.sql` hold the rules. A service with a login calls them in SQL; a hub
//! calls them for services with a key.

use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::StoreError;
use super::audit;
use super::console::log::LogRow;
use super::time_limit::{ASK_LIMIT, limited};
use super::turn_pool::RefusableCall;
use crate::domain::audit::{Act, Actor};
use crate::domain::{AccountId, ConsumerFilter, ConsumerName, ConsumerStart, LogId, Seq, UserId};

/// Longest wait for a fetch, which may look at many rows.
const FETCH_LIMIT: Duration = Duration::from_secs(9);

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum ConsumerError {
    #[error("no consumer has this name; recado consumer list shows them, and recado consumer create NAME makes one")]
    Unknown,
    #[error("the position of the consumer belongs to another log: the database was restored; recado consumer seek NAME sets a position")]
    Reset,
    #[error("rows that the consumer has not acknowledged are no longer kept; recado consumer seek NAME earliest accepts the gap")]
    Expired,
    #[error("the term has ended: another owner has the lease, or it was given back; fetch again")]
    StaleTerm,
    #[error("the number is above what may be named; use one that was fetched, or up to the head of the log")]
    Ahead,
    #[error("the consumer exists with other conditions; use another name, or delete it first (recado consumer delete NAME)")]
    OtherConditions,
    #[error("no role {0:?} can log in to this server; create it first: CREATE ROLE … LOGIN")]
    NoLogin(String),
    #[error("this user may not do that ({0}): run the command with the DATABASE_URL of the user who migrated, or of a superuser")]
    NotAllowed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<sqlx::Error> for ConsumerError {
    /// By SQLSTATE: `recado.refuse_consumer` gives each refusal its own.
    fn from(error: sqlx::Error) -> Self {
        let database = error.as_database_error();
        match database.and_then(|e| e.code()).as_deref() {
            Some("RC020") => Self::Unknown,
            Some("RC021") => Self::Reset,
            Some("RC022") => Self::Expired,
            Some("RC023") => Self::StaleTerm,
            Some("RC024") => Self::Ahead,
            Some("RC025") => Self::OtherConditions,
            Some("42501") => Self::NotAllowed(database.map(|e| e.message().to_owned()).unwrap_or_default()),
            _ => Self::Store(error.into()),
        }
    }
}

/// Runs one statement within its limit.
async fn asked<T>(limit: Duration, call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, ConsumerError> {
    Ok(limited(limit, async { Ok(call.await) }).await??)
}

impl RefusableCall for ConsumerError {
    fn is_of_store(&self) -> bool {
        matches!(self, Self::Store(_))
    }
}

/// Creates a consumer. Returns false if it exists with these conditions.
///
/// # Errors
/// See [`ConsumerError`].
pub async fn create(
    connection: &mut PgConnection,
    name: &ConsumerName,
    filter: &ConsumerFilter,
    start: ConsumerStart,
    by: Option<&Actor>,
) -> Result<bool, ConsumerError> {
    let created = sqlx::query_scalar!(
        r#"SELECT recado.create_consumer($1, $2, $3, $4, $5, $6, $7, $8) AS "created!""#,
        name.as_str(),
        filter.types.as_deref(),
        filter.user.as_ref().map(UserId::as_str),
        filter.account.as_ref().map(AccountId::as_str),
        start.to_string(),
        by.map(|by| by.who.as_str()),
        by.map(|by| by.via.as_str()),
        by.and_then(|by| by.address.as_deref()),
    );
    asked(ASK_LIMIT, created.fetch_one(connection)).await
}

/// Moves the position of a consumer, also backward. The present term ends. Returns the position.
///
/// # Errors
/// See [`ConsumerError`].
pub async fn seek(
    connection: &mut PgConnection,
    name: &ConsumerName,
    start: ConsumerStart,
    by: Option<&Actor>,
) -> Result<Seq, ConsumerError> {
    let place = sqlx::query_scalar!(
        r#"SELECT recado.seek_consumer($1, $2, $3, $4, $5) AS "place!""#,
        name.as_str(),
        start.to_string(),
        by.map(|by| by.who.as_str()),
        by.map(|by| by.via.as_str()),
        by.and_then(|by| by.address.as_deref()),
    );
    asked(ASK_LIMIT, place.fetch_one(connection)).await.map(Seq::from_db)
}

/// Whom the rows of a consumer are addressed to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerAudience {
    pub user: Option<UserId>,
    pub account: Option<AccountId>,
}

/// Reads the conditions of a consumer that scopes are compared with.
///
/// # Errors
/// [`ConsumerError::Unknown`], and when the database is unavailable or slow.
pub async fn audience(connection: &mut PgConnection, name: &ConsumerName) -> Result<ConsumerAudience, ConsumerError> {
    let row = sqlx::query!("SELECT user_id, account_id FROM recado.consumer WHERE name = $1", name.as_str());
    let row = asked(ASK_LIMIT, row.fetch_optional(connection)).await?.ok_or(ConsumerError::Unknown)?;
    // An erased user has left `-`, which is no user's id.
    let user = row.user_id.and_then(|user| UserId::parse_stored(&user).ok());
    Ok(ConsumerAudience { user, account: row.account_id.and_then(|account| AccountId::parse(&account).ok()) })
}

/// What a fetch asks for.
#[derive(Debug, Clone, Copy)]
pub struct FetchWish<'a> {
    pub name: &'a ConsumerName,
    /// Names the process that fetches. Another owner waits until the lease ends.
    pub owner: &'a str,
    pub rows: i32,
    pub lease_seconds: i32,
}

/// The result of a fetch.
#[derive(Debug)]
pub enum Fetched {
    /// Another owner has the lease, for this long.
    Held(Duration),
    Batch(Batch),
}

/// Rows that follow the position, under a term.
#[derive(Debug)]
pub struct Batch {
    pub term: i64,
    pub rows: Vec<LogRow>,
    /// Every row up to here that the consumer wants is in this batch, or was acknowledged.
    pub through: Seq,
    pub head: Seq,
    pub log_id: LogId,
}

/// Takes or renews the lease, and reads the next rows.
///
/// # Errors
/// See [`ConsumerError`].
pub async fn fetch(connection: &mut PgConnection, wish: FetchWish<'_>) -> Result<Fetched, ConsumerError> {
    let rows = sqlx::query!(
        r#"SELECT term AS "term?", through AS "through?", head AS "head?", log_id AS "log_id?", lease_left AS "lease_left?",
                  seq AS "seq?", id AS "id?", created_at AS "created_at?", type AS "kind?", title AS "title?", message AS "message?",
                  data::text AS "data?", user_ids AS "user_ids?", account_id AS "account_id?", broadcast AS "broadcast?",
                  source AS "source?", expires_at AS "expires_at?", replay AS "replay?", bytes AS "bytes?"
             FROM recado.fetch_batch($1, $2, $3, $4)"#,
        wish.name.as_str(),
        wish.owner,
        wish.rows,
        wish.lease_seconds,
    )
    .fetch_all(connection);
    let rows = asked(FETCH_LIMIT, rows).await?;
    let Some(first) = rows.first() else { return Err(StoreError::Broken(sqlx::Error::RowNotFound).into()) };
    let (Some(term), Some(through), Some(head), Some(log_id)) = (first.term, first.through, first.head, first.log_id) else {
        return Ok(Fetched::Held(Duration::from_secs_f64(first.lease_left.unwrap_or_default().clamp(0.0, 3600.0))));
    };
    let rows = rows.into_iter().filter_map(|row| {
        Some(LogRow {
            seq: row.seq?,
            id: row.id?,
            kind: row.kind?,
            title: row.title?,
            message: row.message?,
            data: row.data,
            created_at: row.created_at?,
            user_ids: row.user_ids?,
            account_id: row.account_id,
            broadcast: row.broadcast?,
            source: row.source?,
            expires_at: row.expires_at,
            replay: row.replay?,
            bytes: row.bytes?,
        })
    });
    let rows = rows.collect();
    Ok(Fetched::Batch(Batch { term, rows, through: Seq::from_db(through), head: Seq::from_db(head), log_id: LogId(log_id) }))
}

/// Acknowledges everything up to `seq`, and renews the lease. Returns the position.
///
/// # Errors
/// See [`ConsumerError`].
pub async fn ack(connection: &mut PgConnection, name: &ConsumerName, term: i64, seq: Seq) -> Result<Seq, ConsumerError> {
    let place = sqlx::query_scalar!(r#"SELECT recado.ack_batch($1, $2, $3) AS "place!""#, name.as_str(), term, seq.get());
    asked(ASK_LIMIT, place.fetch_one(connection)).await.map(Seq::from_db)
}

/// Renews the lease by its length. Returns when it ends.
///
/// # Errors
/// See [`ConsumerError`].
pub async fn renew(connection: &mut PgConnection, name: &ConsumerName, term: i64) -> Result<DateTime<Utc>, ConsumerError> {
    let until = sqlx::query_scalar!(r#"SELECT recado.renew_consumer($1, $2) AS "until!""#, name.as_str(), term);
    asked(ASK_LIMIT, until.fetch_one(connection)).await
}

/// Gives the lease back. Returns whether the owner had it.
///
/// # Errors
/// See [`ConsumerError`].
pub async fn release(connection: &mut PgConnection, name: &ConsumerName, owner: &str) -> Result<bool, ConsumerError> {
    let had = sqlx::query_scalar!(r#"SELECT recado.release_consumer($1, $2) AS "had!""#, name.as_str(), owner);
    asked(ASK_LIMIT, had.fetch_one(connection)).await
}

/// A consumer in a list.
#[derive(Debug, Clone, serde::Serialize)]
pub struct ListedConsumer {
    pub name: String,
    pub types: Option<Vec<String>>,
    pub user_id: Option<String>,
    pub account_id: Option<String>,
    pub acked: i64,
    /// Numbers between the position and the head, whether or not the consumer wants them.
    pub lag: i64,
    /// `ok`, `expired`: retention dropped what follows the position, or `reset`: the position is of another log.
    pub state: String,
    /// `None`: no owner has a lease.
    pub owner: Option<String>,
    pub lease_until: Option<DateTime<Utc>>,
    pub acked_at: Option<DateTime<Utc>>,
    pub created_at: DateTime<Utc>,
    pub created_by: String,
    pub logins: Vec<String>,
}

/// Lists the consumers.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<ListedConsumer>, StoreError> {
    let rows = sqlx::query_as!(
        ListedConsumer,
        r#"WITH log AS (
               SELECT m.log_id, m.floor_seq, greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) AS head
                 FROM recado.meta m)
           SELECT k.name, k.types, k.user_id, k.account_id, k.acked_seq AS acked, greatest(log.head - k.acked_seq, 0) AS "lag!",
                  CASE WHEN k.log_id <> log.log_id OR k.acked_seq > log.head THEN 'reset'
                       WHEN k.acked_seq < log.floor_seq THEN 'expired' ELSE 'ok' END AS "state!",
                  CASE WHEN k.lease_until > statement_timestamp() THEN k.owner END AS owner,
                  CASE WHEN k.lease_until > statement_timestamp() THEN k.lease_until END AS lease_until,
                  k.acked_at, k.created_at, k.created_by,
                  ARRAY(SELECT l.login FROM recado.consumer_login l WHERE l.consumer = k.name ORDER BY l.login) AS "logins!"
             FROM log
            CROSS JOIN recado.consumer k
            ORDER BY k.name
            LIMIT 1000"#
    );
    limited(ASK_LIMIT, rows.fetch_all(connection)).await
}

/// How far the consumers are behind, all together.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConsumersLag {
    /// Age of the oldest row after the position of a consumer, in seconds; 0 if all are at the head.
    pub seconds: f64,
    /// Consumers that get nothing until someone moves their position.
    pub stopped: i64,
}

/// Measures how far the consumers are behind.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn lag(connection: &mut PgConnection) -> Result<ConsumersLag, StoreError> {
    let measured = sqlx::query_as!(
        ConsumersLag,
        r#"WITH log AS (
               SELECT m.log_id, m.floor_seq, greatest(m.floor_seq, coalesce((SELECT l.seq FROM recado.log l ORDER BY l.seq DESC LIMIT 1), 0)) AS head
                 FROM recado.meta m)
           SELECT coalesce(max(extract(epoch FROM statement_timestamp() - next.created_at)), 0)::double precision AS "seconds!",
                  count(*) FILTER (WHERE k.log_id <> log.log_id OR k.acked_seq > log.head OR k.acked_seq < log.floor_seq) AS "stopped!"
             FROM log
            CROSS JOIN recado.consumer k
             LEFT JOIN LATERAL (SELECT l.created_at FROM recado.log l WHERE l.seq > k.acked_seq ORDER BY l.seq LIMIT 1) next
               ON k.log_id = log.log_id"#
    );
    limited(ASK_LIMIT, measured.fetch_one(connection)).await
}

/// Deletes a consumer with its position.
///
/// # Errors
/// [`ConsumerError::Unknown`], and as the others.
pub async fn delete(connection: &mut PgConnection, name: &ConsumerName) -> Result<(), ConsumerError> {
    let deleted = sqlx::query_scalar!(r#"SELECT recado.delete_consumer($1) AS "deleted!""#, name.as_str());
    if asked(ASK_LIMIT, deleted.fetch_one(&mut *connection)).await? {
        return Ok(());
    }
    audit::record_failure(connection, Act::ConsumerDelete, name.as_str(), "no consumer has this name").await;
    Err(ConsumerError::Unknown)
}

/// Lets a login use a consumer in SQL.
///
/// # Errors
/// See [`ConsumerError`].
pub async fn grant(connection: &mut PgConnection, name: &ConsumerName, login: &str) -> Result<(), ConsumerError> {
    let exists = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin) AS "exists!""#, login);
    if !asked(ASK_LIMIT, exists.fetch_one(&mut *connection)).await? {
        return Err(ConsumerError::NoLogin(login.to_owned()));
    }
    let granted = sqlx::query!("SELECT recado.grant_consumer($1, $2)", name.as_str(), login);
    asked(ASK_LIMIT, granted.execute(connection)).await.map(drop)
}

/// Takes a consumer from a login. Returns whether the login had it.
///
/// # Errors
/// See [`ConsumerError`].
pub async fn revoke(connection: &mut PgConnection, name: &ConsumerName, login: &str) -> Result<bool, ConsumerError> {
    let revoked = sqlx::query_scalar!(r#"SELECT recado.revoke_consumer($1, $2) AS "revoked!""#, name.as_str(), login);
    asked(ASK_LIMIT, revoked.fetch_one(connection)).await
}
