//! Logins of analysts: they read the views of `recado_views` and nothing else.

use rand::RngCore;
use sqlx::PgConnection;

use super::database::{ASK_LIMIT, limited};
use super::{StoreError, scram};

/// Longest name; PostgreSQL cuts longer ones off.
pub const NAME_MAX: usize = 63;

/// Why there is no new login, or why one stays.
#[derive(Debug, thiserror::Error)]
pub enum AnalystError {
    #[error("an analyst's name is 1 to {NAME_MAX} characters of a-z 0-9 _ - and begins with a letter, but not with pg_ or recado_")]
    BadName,
    #[error("the cluster has a role with this name; choose another (roles are shared by all databases of a cluster)")]
    NameTaken,
    #[error(
        "this user may not make or drop roles: run the command with the DATABASE_URL of one that has CREATEROLE, or have an administrator give it"
    )]
    NotAllowed,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// 128 random bits: letters and digits alone, so that it needs no escaping in a URL or a shell.
pub fn mint_password() -> String {
    let mut secret = [0; 16];
    rand::rng().fill_bytes(&mut secret);
    secret.iter().map(|b| format!("{b:02x}")).collect()
}

/// Nothing that a URL, a shell or an identifier would have to escape.
pub fn name_is_good(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-');
    name.len() <= NAME_MAX
        && name.bytes().all(allowed)
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !["pg_", "recado_"].iter().any(|reserved| name.starts_with(reserved))
}

/// Makes a login. Returns the settings that this user may not give to a role.
///
/// # Errors
/// See [`AnalystError`].
pub async fn create(connection: &mut PgConnection, name: &str, password: &str) -> Result<Vec<String>, AnalystError> {
    if !name_is_good(name) {
        return Err(AnalystError::BadName);
    }
    // A server that logs statements logs their arguments with them.
    let verifier = scram::verifier(password);
    let made = sqlx::query_scalar!(r#"SELECT recado.create_analyst($1, $2) AS "left_out!""#, name, verifier).fetch_one(connection);
    limited(ASK_LIMIT, async { Ok(made.await) }).await?.map_err(refusal)
}

/// Ends an analyst's sessions and drops the login. False when no login of this name was made here.
///
/// # Errors
/// See [`AnalystError`].
pub async fn drop(connection: &mut PgConnection, name: &str) -> Result<bool, AnalystError> {
    let dropped = sqlx::query_scalar!(r#"SELECT recado.drop_analyst($1) AS "dropped!""#, name).fetch_one(connection);
    // It waits up to 5 s for each session to end.
    limited(ASK_LIMIT * 3, async { Ok(dropped.await) }).await?.map_err(refusal)
}

/// By SQLSTATE.
fn refusal(error: sqlx::Error) -> AnalystError {
    match error.as_database_error().and_then(|e| e.code()).as_deref() {
        Some("42710") => AnalystError::NameTaken,
        Some("42501") => AnalystError::NotAllowed,
        _ => AnalystError::Store(error.into()),
    }
}

/// A login that may read the views.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Analyst {
    pub name: String,
    /// Open connections, to any database of the cluster.
    pub connections: i64,
    /// By `recado analyst create`; only those does `recado analyst drop` drop.
    pub made_here: bool,
}

/// # Errors
/// When the database is away or slow.
pub async fn list(connection: &mut PgConnection) -> Result<Vec<Analyst>, StoreError> {
    let rows = sqlx::query_as!(
        Analyst,
        r#"SELECT r.rolname::text AS "name!",
                  (SELECT count(*) FROM pg_stat_activity a WHERE a.usesysid = r.oid) AS "connections!",
                  coalesce(shobj_description(r.oid, 'pg_authid') = 'recado analyst', false) AS "made_here!"
             FROM pg_roles g
             JOIN pg_auth_members m ON m.roleid = g.oid
             JOIN pg_roles r ON r.oid = m.member
            WHERE g.rolname = 'recado_analyst' AND r.rolcanlogin AND NOT r.rolsuper
            ORDER BY 1
            LIMIT 1000"#
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, rows).await
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
}
