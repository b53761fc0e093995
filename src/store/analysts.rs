//! Manages logins of analysts, which can only read views.
//!
//! An unlimited login reads `recado_views`. A tenant's login reads `recado_tenant`: the same views, of its accounts.

use rand::RngCore;
use sqlx::PgConnection;

use super::database::Reader;
use super::time_limit::{ASK_LIMIT, limited};
use super::{StoreError, audit, scram};
use crate::domain::AccountId;
use crate::domain::audit::Act;

/// Longest name: PostgreSQL truncates longer identifiers.
pub const NAME_MAX: usize = 63;

/// Why a login was not made, changed or dropped.
#[derive(Debug, thiserror::Error)]
pub enum AnalystError {
    #[error("an analyst's name is 1 to {NAME_MAX} characters of a-z 0-9 _ - and begins with a letter, but not with pg_ or recado_")]
    BadName,
    #[error("a role with this name exists; choose another name (roles are shared by all databases of a cluster)")]
    NameTaken,
    /// Says which right is missing, and how it is given.
    #[error("{0}")]
    NotAllowed(String),
    /// The login of a tenant was granted more elsewhere. Nothing was changed.
    #[error("{0}: nothing was changed; REVOKE the grant or the membership that gives the login this right, or create another login")]
    ReadsMore(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Makes a password of 128 random bits. It has only letters and digits, so it needs no escaping in a URL or a shell.
pub fn mint_password() -> String {
    let mut secret = [0; 16];
    rand::rng().fill_bytes(&mut secret);
    secret.iter().map(|b| format!("{b:02x}")).collect()
}

/// Whether a name is allowed: it needs no escaping in a URL, a shell or an identifier, and has no reserved prefix.
pub fn name_is_good(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    name.len() <= NAME_MAX
        && name.bytes().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !["pg_", "recado_"].iter().any(|reserved| name.starts_with(reserved))
}

/// Creates a login. Returns the settings that this database user is not allowed to set for a role.
///
/// # Errors
/// See [`AnalystError`].
pub async fn create(connection: &mut PgConnection, name: &str, password: &str) -> Result<Vec<String>, AnalystError> {
    if !name_is_good(name) {
        return Err(AnalystError::BadName);
    }
    // The password itself is not sent: a server that logs statements also logs their arguments.
    let verifier = scram::verifier(password);
    let made = sqlx::query_scalar!(r#"SELECT recado.create_analyst($1, $2) AS "left_out!""#, name, verifier).fetch_one(&mut *connection);
    match limited(ASK_LIMIT, async { Ok(made.await) }).await? {
        Ok(left_out) => Ok(left_out),
        Err(error) => Err(refusal(connection, error, None).await.recorded(connection, Act::AnalystCreate, name).await),
    }
}

/// Creates a login that sees only what belongs to `accounts`, in one transaction. Returns as [`create`].
///
/// # Errors
/// See [`AnalystError`].
pub async fn create_limited(
    connection: &mut PgConnection,
    name: &str,
    password: &str,
    accounts: &[AccountId],
) -> Result<Vec<String>, AnalystError> {
    if !name_is_good(name) {
        return Err(AnalystError::BadName);
    }
    let verifier = scram::verifier(password);
    let made = sqlx::query_scalar!(r#"SELECT recado.create_analyst($1, $2, $3) AS "left_out!""#, name, verifier, &texts(accounts))
        .fetch_one(&mut *connection);
    match limited(ASK_LIMIT, async { Ok(made.await) }).await? {
        Ok(left_out) => Ok(left_out),
        Err(error) => Err(refusal(connection, error, None).await.recorded(connection, Act::AnalystCreate, name).await),
    }
}

/// Limits a login to these accounts, in place of those it had, and ends its sessions. Without accounts it sees nothing.
/// Returns false when Recado made no login of this name for this database.
///
/// # Errors
/// See [`AnalystError`].
pub async fn limit_to_accounts(connection: &mut PgConnection, name: &str, accounts: &[AccountId]) -> Result<bool, AnalystError> {
    let set =
        sqlx::query_scalar!(r#"SELECT recado.limit_to_accounts($1, $2) AS "limited!""#, name, &texts(accounts)).fetch_one(&mut *connection);
    match limited(ASK_LIMIT, async { Ok(set.await) }).await? {
        Ok(true) => {}
        Ok(false) => {
            audit::record_failure(connection, Act::AnalystLimit, name, "no login of this name was created here").await;
            return Ok(false);
        }
        Err(error) => return Err(refusal(connection, error, Some(name)).await.recorded(connection, Act::AnalystLimit, name).await),
    }
    // After the commit: a new session has the new rights alone. It waits up to 5 s for each session to end.
    let ended = sqlx::query!("SELECT recado.end_sessions_of($1)", name).execute(&mut *connection);
    match limited(ASK_LIMIT * 3, async { Ok(ended.await) }).await? {
        Ok(_) => Ok(true),
        Err(error) => Err(refusal(connection, error, Some(name)).await),
    }
}

fn texts(accounts: &[AccountId]) -> Vec<String> {
    accounts.iter().map(ToString::to_string).collect()
}

/// Limits how many connections a login can have at once.
///
/// # Errors
/// See [`AnalystError`].
pub async fn limit(connection: &mut PgConnection, name: &str, connections: u16) -> Result<(), AnalystError> {
    let set = sqlx::query!("SELECT recado.limit_analyst($1, $2)", name, i32::from(connections)).execute(&mut *connection);
    match limited(ASK_LIMIT, async { Ok(set.await) }).await? {
        Ok(_) => Ok(()),
        Err(error) => Err(refusal(connection, error, Some(name)).await),
    }
}

/// Ends an analyst's sessions and drops the login. Returns false when Recado made no login of this name.
///
/// # Errors
/// See [`AnalystError`].
pub async fn drop(connection: &mut PgConnection, name: &str) -> Result<bool, AnalystError> {
    // Barring the login is a separate commit: a pool would reconnect between the end of its sessions and the drop.
    let barred = sqlx::query_scalar!(r#"SELECT recado.bar_analyst($1) AS "barred!""#, name).fetch_one(&mut *connection);
    match limited(ASK_LIMIT, async { Ok(barred.await) }).await? {
        Ok(true) => {}
        Ok(false) => {
            audit::record_failure(connection, Act::AnalystDrop, name, "no login of this name was created here").await;
            return Ok(false);
        }
        Err(error) => return Err(refusal(connection, error, Some(name)).await.recorded(connection, Act::AnalystDrop, name).await),
    }
    let dropped = sqlx::query_scalar!(r#"SELECT recado.drop_analyst($1) AS "dropped!""#, name).fetch_one(&mut *connection);
    // It waits up to 5 s for each session to end.
    match limited(ASK_LIMIT * 3, async { Ok(dropped.await) }).await? {
        Ok(dropped) => Ok(dropped),
        Err(error) => Err(refusal(connection, error, Some(name)).await.recorded(connection, Act::AnalystDrop, name).await),
    }
}

impl AnalystError {
    /// Records that the act failed. A user without rights may have none for the audit either.
    async fn recorded(self, connection: &mut PgConnection, act: Act, name: &str) -> Self {
        if !matches!(self, Self::Store(_)) {
            audit::record_failure(connection, act, name, &self.to_string()).await;
        }
        self
    }
}

/// By SQLSTATE. `login`: the role that was to be changed; `None` for a new one.
async fn refusal(connection: &mut PgConnection, error: sqlx::Error, login: Option<&str>) -> AnalystError {
    match error.as_database_error().and_then(|e| e.code()).as_deref() {
        Some("42710") => AnalystError::NameTaken,
        Some("55000") => AnalystError::ReadsMore(error.as_database_error().map(|e| e.message().to_owned()).unwrap_or_default()),
        Some("42501") => {
            let said = error.as_database_error().map(|e| e.message().to_owned()).unwrap_or_default();
            match rights(connection, login).await {
                Ok(rights) => AnalystError::NotAllowed(rights.missing(&said)),
                Err(error) => error.into(),
            }
        }
        _ => AnalystError::Store(error.into()),
    }
}

/// What decides whether this user may make a login, or change one.
struct Rights {
    user: String,
    may_make_roles: bool,
    /// The role that a new login becomes a member of, or the login that is changed.
    role: Option<String>,
    is_its_admin: bool,
    asks_for_admin: bool,
}

async fn rights(connection: &mut PgConnection, login: Option<&str>) -> Result<Rights, StoreError> {
    let rights = sqlx::query_as!(
        Rights,
        // The name is read from the catalog: this user may not be let into the schema.
        r#"WITH target AS (
               SELECT r.oid, r.rolname
                 FROM pg_roles r
                WHERE r.rolname = $1
                   OR $1 IS NULL AND r.oid IN (SELECT a.grantee FROM pg_namespace n, aclexplode(n.nspacl) a
                                                WHERE n.nspname = 'recado_views' AND a.grantee <> n.nspowner)
                ORDER BY 1
                LIMIT 1)
           SELECT u.rolname::text AS "user!", u.rolcreaterole OR u.rolsuper AS "may_make_roles!",
                  (SELECT t.rolname::text FROM target t) AS role,
                  coalesce((SELECT pg_has_role(t.oid, 'MEMBER WITH ADMIN OPTION') FROM target t), false) AS "is_its_admin!",
                  current_setting('server_version_num')::integer >= 160000 AS "asks_for_admin!"
             FROM pg_roles u
            WHERE u.rolname = current_user"#,
        login,
    )
    .fetch_one(connection);
    limited(ASK_LIMIT, rights).await
}

impl Rights {
    /// In words; `said` by the database.
    fn missing(&self, said: &str) -> String {
        let Self { user, may_make_roles, role, is_its_admin, asks_for_admin } = self;
        match role {
            _ if !may_make_roles => format!(
                "user {user} may not make or drop roles ({said}): run the command with the DATABASE_URL of one that has CREATEROLE, or, as an \
                 administrator: ALTER ROLE {user} CREATEROLE"
            ),
            Some(role) if *asks_for_admin && !is_its_admin => format!(
                "user {user} has CREATEROLE, and PostgreSQL 16 and newer want the ADMIN option on role {role} as well ({said}); as an \
                 administrator: GRANT {role} TO {user} WITH ADMIN OPTION"
            ),
            _ => format!(
                "user {user} has CREATEROLE, and the database refuses all the same ({said}): run the command as the owner of the schema recado"
            ),
        }
    }
}

/// A login that may read the views.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Analyst {
    pub name: String,
    /// Open connections to any database of the cluster.
    pub connections: i64,
    /// Made by `recado analyst create`. `recado analyst drop` drops only such logins.
    pub made_here: bool,
    /// The accounts of a tenant; `None` for a login that reads everything.
    pub accounts: Option<Vec<String>>,
}

/// Lists the logins that can read the views.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Analyst>, StoreError> {
    let rows = sqlx::query_as!(
        Analyst,
        r#"SELECT name AS "name!", connections AS "connections!", made_here AS "made_here!", accounts FROM recado.list_analysts()"#
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
}

/// As [`list`], with a connection of a pool.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list_all(reader: &Reader) -> Result<Vec<Analyst>, StoreError> {
    let mut checkout = reader.checkout().await?;
    let listed = list(checkout.connection()).await?;
    checkout.done();
    Ok(listed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_needs_no_escaping_anywhere() {
        for good in ["ana", "a", "ana-2_x", &"a".repeat(63)] {
            assert!(name_is_good(good), "{good}");
        }
        for bad in ["", "Ana", "2a", "-a", "a b", "a'b", "a\"b", "a;b", "a/b", "ä", "pg_a", "recado_hub", &"a".repeat(64)] {
            assert!(!name_is_good(bad), "{bad}");
        }
        assert_eq!(mint_password().len(), 32);
        assert_ne!(mint_password(), mint_password());
    }

    #[test]
    fn the_right_that_is_missing_is_named_with_the_statement_that_gives_it() {
        let rights = |may_make_roles, is_its_admin, asks_for_admin| Rights {
            user: "hub".to_owned(),
            may_make_roles,
            role: Some("recado_analyst".to_owned()),
            is_its_admin,
            asks_for_admin,
        };
        for (rights, expected) in [
            (rights(false, false, true), "ALTER ROLE hub CREATEROLE"),
            (rights(false, false, false), "ALTER ROLE hub CREATEROLE"),
            (rights(true, false, true), "GRANT recado_analyst TO hub WITH ADMIN OPTION"),
            (rights(true, true, true), "as the owner of the schema"),
            (rights(true, false, false), "as the owner of the schema"),
        ] {
            let said = rights.missing("permission denied to grant role");
            assert!(said.contains(expected) && said.contains("permission denied to grant role"), "{said}");
        }
    }
}
