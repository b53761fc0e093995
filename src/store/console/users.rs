//! Reads what is known of one user: devices, accounts, provider sessions, revocation.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::{Seq, UserId};
use crate::store::StoreError;
use crate::store::database::Reader;
use crate::store::providers::admin::{self, SessionOverview};
use crate::store::read::{self, LogState};
use crate::store::time_limit::{ASK_LIMIT, limited};
use crate::store::why;

/// Most devices, and most accounts of the table of members.
const MANY: i64 = 1000;
/// Most provider sessions: a user has one with each provider.
const PROVIDER_SESSIONS: i64 = 100;

/// Everything about a user but the open sessions and the numbers that wait.
#[derive(Debug)]
pub struct UserFacts {
    pub log: LogState,
    pub devices: Vec<StoredDevice>,
    pub forgotten: Option<ForgottenDevices>,
    pub upstream: Vec<SessionOverview>,
    /// The accounts of the newest stored sessions: those that their tokens named.
    pub token_accounts: Vec<String>,
    /// The accounts of the table of members.
    pub members_of: Vec<String>,
    pub revoked_before: Option<DateTime<Utc>>,
}

/// A device with a stored position.
#[derive(Debug)]
pub struct StoredDevice {
    pub client: String,
    /// Zero if the position belongs to another log.
    pub acked: Seq,
    /// When it last acknowledged, or was connected, the latter to within a day.
    pub seen_at: DateTime<Utc>,
}

/// The mark that devices leave whose positions were deleted.
#[derive(Debug, Clone, Copy)]
pub struct ForgottenDevices {
    /// The lowest position that one of them had.
    pub from: Seq,
    /// `None`: too many to remember each of them.
    pub devices: Option<i32>,
}

/// Reads the facts, in one snapshot.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn facts(reader: &Reader, user: &UserId) -> Result<UserFacts, StoreError> {
    let mut checkout = reader.checkout().await?;
    let connection = checkout.connection();
    limited(ASK_LIMIT, sqlx::raw_sql("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").execute(&mut *connection)).await?;
    let facts = UserFacts {
        log: read::state(connection).await?,
        devices: devices(connection, user).await?,
        forgotten: forgotten(connection, user).await?,
        upstream: admin::list(connection, Some(user), PROVIDER_SESSIONS).await?,
        token_accounts: why::accounts(connection, user).await?.1,
        members_of: members_of(connection, user).await?,
        revoked_before: revoked_before(connection, user).await?,
    };
    limited(ASK_LIMIT, sqlx::raw_sql("COMMIT").execute(connection)).await?;
    checkout.done();
    Ok(facts)
}

/// The accounts that the tokens of the user's newest stored sessions named.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn token_accounts(reader: &Reader, user: &UserId) -> Result<Vec<String>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let accounts = why::accounts(checkout.connection(), user).await?.1;
    checkout.done();
    Ok(accounts)
}

async fn devices(connection: &mut PgConnection, user: &UserId) -> Result<Vec<StoredDevice>, StoreError> {
    let rows = sqlx::query!(
        r#"SELECT c.client_id, CASE WHEN c.log_id = m.log_id THEN c.acked_seq ELSE 0 END AS "acked!",
                  greatest(c.seen_at, c.acked_at) AS "seen_at!"
             FROM recado.cursor c, recado.meta m
            WHERE c.user_id = $1
            ORDER BY c.client_id
            LIMIT $2"#,
        user.as_str(),
        MANY,
    )
    .fetch_all(connection);
    let rows = limited(ASK_LIMIT, rows).await?;
    let device = |client, acked, seen_at| StoredDevice { client, acked: Seq::from_db(acked), seen_at };
    Ok(rows.into_iter().map(|row| device(row.client_id, row.acked, row.seen_at)).collect())
}

async fn forgotten(connection: &mut PgConnection, user: &UserId) -> Result<Option<ForgottenDevices>, StoreError> {
    let row = sqlx::query!(
        r#"SELECT CASE WHEN f.log_id = m.log_id THEN f.from_seq ELSE 0 END AS "from_seq!", cardinality(f.clients) AS "clients!", f.any_client
             FROM recado.forgotten_device f, recado.meta m
            WHERE f.user_id = $1"#,
        user.as_str()
    )
    .fetch_optional(connection);
    let row = limited(ASK_LIMIT, row).await?;
    Ok(row.map(|row| ForgottenDevices { from: Seq::from_db(row.from_seq), devices: (!row.any_client).then_some(row.clients) }))
}

async fn members_of(connection: &mut PgConnection, user: &UserId) -> Result<Vec<String>, StoreError> {
    let accounts = sqlx::query_scalar!(
        "SELECT account_id FROM recado.member WHERE user_id = $1 AND until_seq IS NULL ORDER BY account_id LIMIT $2",
        user.as_str(),
        MANY
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, accounts).await
}

async fn revoked_before(connection: &mut PgConnection, user: &UserId) -> Result<Option<DateTime<Utc>>, StoreError> {
    let before = sqlx::query_scalar!("SELECT not_before FROM recado.revocation WHERE user_id = $1", user.as_str());
    limited(ASK_LIMIT, before.fetch_optional(connection)).await
}
