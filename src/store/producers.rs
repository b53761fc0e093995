//! Grants, limits and lists the logins that post in SQL with `recado.notify`.
//!
//! The function itself judges the scopes, inside the transaction of its caller (`migrations/V21__key_scopes.sql`).

use sqlx::PgConnection;

use super::StoreError;
use super::time_limit::{ASK_LIMIT, limited};
use crate::domain::Scopes;

/// Why a login was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ProducerError {
    #[error("no role {0:?} can log in to this server; create it first: CREATE ROLE … LOGIN")]
    NoLogin(String),
    #[error(
        "this user may not grant the role of producers ({0}): run the command with the DATABASE_URL of the user who migrated, or of a superuser"
    )]
    NotAllowed(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A login that may post in SQL, or has scopes.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ListedProducer {
    pub login: String,
    /// Whether the login may call `recado.notify`.
    pub may_notify: bool,
    /// `None`: not limited.
    pub scopes: Option<ProducerScopes>,
}

/// The scopes of a login. It has no rate, no networks and nothing to read.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ProducerScopes {
    pub types: Option<Vec<String>>,
    pub accounts: Option<Vec<String>>,
    pub users: Option<Vec<String>>,
    pub broadcast: bool,
    pub members: bool,
    pub expires_at: Option<chrono::DateTime<chrono::Utc>>,
}

/// Lets a login call `recado.notify`, and change memberships if `members`.
///
/// # Errors
/// See [`ProducerError`].
pub async fn grant(connection: &mut PgConnection, login: &str, members: bool) -> Result<(), ProducerError> {
    must_exist(connection, login).await?;
    let granted = sqlx::query!("SELECT recado.grant_producer($1, $2)", login, members).execute(connection);
    limited(ASK_LIMIT, async { Ok(granted.await) }).await?.map(drop).map_err(refusal)
}

/// Takes from a login its right to post, and its scopes. Returns whether there was anything to take.
///
/// # Errors
/// See [`ProducerError`].
pub async fn revoke(connection: &mut PgConnection, login: &str) -> Result<bool, ProducerError> {
    let had = list(connection).await?.iter().any(|listed| listed.login == login);
    if exists(connection, login).await? {
        let revoked = sqlx::query!("SELECT recado.revoke_producer($1)", login).execute(&mut *connection);
        limited(ASK_LIMIT, async { Ok(revoked.await) }).await?.map_err(refusal)?;
    }
    // Last: a login that could not be barred keeps its limits.
    free(connection, login).await?;
    Ok(had)
}

/// Replaces the scopes of a login. Its next call follows them.
///
/// # Errors
/// See [`ProducerError`].
pub async fn limit(connection: &mut PgConnection, login: &str, scopes: &Scopes) -> Result<(), ProducerError> {
    must_exist(connection, login).await?;
    let stored = sqlx::query!(
        "INSERT INTO recado.producer_scope (login, types, accounts, users, broadcast, members, expires_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7)
         ON CONFLICT (login) DO UPDATE
            SET types = excluded.types, accounts = excluded.accounts, users = excluded.users, broadcast = excluded.broadcast,
                members = excluded.members, expires_at = excluded.expires_at, changed_at = clock_timestamp()",
        login,
        scopes.types.as_deref(),
        scopes.accounts.as_deref(),
        scopes.users.as_deref(),
        scopes.broadcast,
        scopes.members,
        scopes.expires_at,
    )
    .execute(connection);
    limited(ASK_LIMIT, async { Ok(stored.await) }).await?.map(drop).map_err(refusal)
}

/// Removes the scopes of a login: it is not limited any more.
///
/// # Errors
/// See [`ProducerError`].
pub async fn free(connection: &mut PgConnection, login: &str) -> Result<(), ProducerError> {
    let freed = sqlx::query!("DELETE FROM recado.producer_scope WHERE login = $1", login).execute(connection);
    limited(ASK_LIMIT, async { Ok(freed.await) }).await?.map(drop).map_err(refusal)
}

/// Lists the logins that are members of the role of producers, and those with scopes.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<ListedProducer>, StoreError> {
    let rows = sqlx::query!(
        r#"WITH producer AS (SELECT r.oid FROM pg_roles r WHERE r.rolname = recado.role_name('producer')),
           member AS (
               SELECT u.rolname::text AS login
                 FROM pg_auth_members m
                 JOIN producer p ON p.oid = m.roleid
                 JOIN pg_roles u ON u.oid = m.member
                WHERE u.rolcanlogin)
           SELECT coalesce(m.login, s.login) AS "login!", m.login IS NOT NULL AS "may_notify!", s.login IS NOT NULL AS "is_limited!",
                  s.types, s.accounts, s.users, s.broadcast AS "broadcast?", s.members AS "members?", s.expires_at
             FROM member m
             FULL JOIN recado.producer_scope s ON s.login = m.login
            ORDER BY 1
            LIMIT 1000"#
    )
    .fetch_all(connection);
    let listed = limited(ASK_LIMIT, rows).await?.into_iter().map(|row| ListedProducer {
        login: row.login,
        may_notify: row.may_notify,
        scopes: row.is_limited.then_some(ProducerScopes {
            types: row.types,
            accounts: row.accounts,
            users: row.users,
            broadcast: row.broadcast.unwrap_or_default(),
            members: row.members.unwrap_or_default(),
            expires_at: row.expires_at,
        }),
    });
    Ok(listed.collect())
}

async fn must_exist(connection: &mut PgConnection, login: &str) -> Result<(), ProducerError> {
    if exists(connection, login).await? { Ok(()) } else { Err(ProducerError::NoLogin(login.to_owned())) }
}

async fn exists(connection: &mut PgConnection, login: &str) -> Result<bool, StoreError> {
    let exists = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = $1 AND rolcanlogin) AS "exists!""#, login);
    limited(ASK_LIMIT, exists.fetch_one(connection)).await
}

/// By SQLSTATE: a right that this user lacks has a message of its own.
fn refusal(error: sqlx::Error) -> ProducerError {
    match error.as_database_error().and_then(|e| e.code()).as_deref() {
        Some("42501") => ProducerError::NotAllowed(error.as_database_error().map(|e| e.message().to_owned()).unwrap_or_default()),
        _ => ProducerError::Store(error.into()),
    }
}
