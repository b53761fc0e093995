//! Reads what is known of one user: devices, accounts, provider sessions, revocation.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::domain::device_lag::ListedDevice;
use crate::domain::why::Revocation;
use crate::domain::{InboxFacts, Seq, UserId};
use crate::store::StoreError;
use crate::store::console::device_list;
use crate::store::database::Reader;
use crate::store::inbox;
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
    /// Without a count of what they have not acknowledged.
    pub devices: Vec<ListedDevice>,
    /// On the clock of the database.
    pub now: DateTime<Utc>,
    pub forgotten: Option<ForgottenDevices>,
    pub upstream: Vec<SessionOverview>,
    /// The accounts of the newest stored sessions: those that their tokens named.
    pub token_accounts: Vec<String>,
    /// The accounts of the table of members.
    pub members_of: Vec<String>,
    pub revocation: Option<Revocation>,
    /// `None`: the user has never opened an inbox.
    pub inbox: Option<InboxFacts>,
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
    limited(ASK_LIMIT, sqlx::raw_sql(device_list::BEGIN).execute(&mut *connection)).await?;
    let log = read::state(connection).await?;
    let (devices, now) = device_list::of_user(connection, user, &log, MANY).await?;
    let facts = UserFacts {
        log,
        devices,
        now,
        forgotten: forgotten(connection, user).await?,
        upstream: admin::list(connection, Some(user), PROVIDER_SESSIONS).await?,
        token_accounts: why::accounts(connection, user).await?.1,
        members_of: members_of(connection, user).await?,
        revocation: revocation(connection, user).await?,
        inbox: inbox::facts(connection, user).await?,
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

async fn revocation(connection: &mut PgConnection, user: &UserId) -> Result<Option<Revocation>, StoreError> {
    let row = sqlx::query_as!(Revocation, "SELECT not_before, reason FROM recado.revocation WHERE user_id = $1", user.as_str());
    limited(ASK_LIMIT, row.fetch_optional(connection)).await
}
