//! Reads and creates the roles that this database uses.
//!
//! Roles belong to the cluster, so a second hub's database gets role names of its own (`migrations/V17__roles.sql`).

use sqlx::PgConnection;

use super::StoreError;
use super::time_limit::{ASK_LIMIT, limited};

/// Names of the roles. `None`: this database needs a role of its own that could not be created yet.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Names {
    /// The role that hubs act under.
    pub hub: Option<String>,
    /// The role that may call `recado.notify`.
    pub producer: Option<String>,
    /// The role that may read the views.
    pub analyst: Option<String>,
}

/// Reads the names of the roles.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn names(connection: &mut PgConnection) -> Result<Names, StoreError> {
    let names = sqlx::query_as!(
        Names,
        "SELECT recado.role_name('hub') AS hub, recado.role_name('producer') AS producer, recado.role_name('analyst') AS analyst"
    )
    .fetch_one(connection);
    limited(ASK_LIMIT, names).await
}

/// Whether this user was made a member of the plain role. A superuser counts only if it was made a member explicitly.
pub(super) async fn is_member_of_plain_role(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let member = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM pg_auth_members m
                            JOIN pg_roles r ON r.oid = m.roleid
                            JOIN pg_roles u ON u.oid = m.member
                           WHERE r.rolname = 'recado_hub' AND u.rolname = current_user) AS "member!""#
    )
    .fetch_one(connection);
    limited(ASK_LIMIT, member).await
}

/// Whether the names are not decided yet.
pub(super) async fn are_undecided(connection: &mut PgConnection) -> Result<bool, StoreError> {
    let undecided = sqlx::query_scalar!(r#"SELECT NOT EXISTS (SELECT FROM recado.role) AS "undecided!""#).fetch_one(connection);
    limited(ASK_LIMIT, undecided).await
}

/// Decides the names once, and gives the roles the grants of the migrations. Has no time limit.
pub(super) async fn settle(connection: &mut PgConnection, was_member: bool) -> Result<(), StoreError> {
    sqlx::query!("SELECT recado.settle_roles($1)", was_member).execute(connection).await?;
    Ok(())
}

/// Restores lost grants of the roles, for example after a restore into another cluster. Returns the roles it changed.
pub(super) async fn equip(connection: &mut PgConnection) -> Result<Vec<String>, StoreError> {
    Ok(sqlx::query_scalar!(r#"SELECT recado.equip_roles() AS "equipped!""#).fetch_one(connection).await?)
}

/// A login that is a member of a role.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub purpose: String,
    pub login: String,
}

/// Reads the members of the roles in use, except superusers, this user and the schema's owner.
pub(super) async fn members(connection: &mut PgConnection) -> Result<Vec<Member>, StoreError> {
    let members = sqlx::query_as!(
        Member,
        r#"SELECT n.purpose AS "purpose!", u.rolname::text AS "login!"
             FROM recado.role n
             JOIN pg_roles r ON r.rolname = n.name
             JOIN pg_auth_members m ON m.roleid = r.oid
             JOIN pg_roles u ON u.oid = m.member
            WHERE NOT u.rolsuper AND u.rolname <> current_user
              AND u.oid <> (SELECT s.nspowner FROM pg_namespace s WHERE s.nspname = 'recado')
            ORDER BY 1, 2
            LIMIT 1000"#
    )
    .fetch_all(connection);
    limited(ASK_LIMIT, members).await
}

/// Gives the database roles of its own and closes it to other logins. All or nothing.
///
/// # Errors
/// Errors of the server: `55006` while a hub runs, `42501` if this user may not create roles.
pub(super) async fn separate(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query!("SELECT recado.own_roles()").execute(connection).await?;
    Ok(())
}

/// Names other databases of the cluster in which a role of this database has rights: at most three, and a count of the
/// rest.
///
/// # Errors
/// When the database cannot be queried.
pub async fn shared_with(connection: &mut PgConnection) -> Result<Option<String>, StoreError> {
    let names = sqlx::query_scalar!(
        r#"SELECT DISTINCT d.datname::text AS "name!"
             FROM recado.role n
             JOIN pg_roles r ON r.rolname = n.name
             JOIN pg_shdepend s ON s.refclassid = 'pg_authid'::regclass AND s.refobjid = r.oid
             JOIN pg_database d ON d.oid = s.dbid
            WHERE d.datname <> current_database()
            ORDER BY 1"#
    )
    .fetch_all(connection);
    let mut names = limited(ASK_LIMIT, names).await?;
    let more = names.len().saturating_sub(3);
    names.truncate(3);
    let shown = names.join(", ");
    Ok((!shown.is_empty()).then(|| if more > 0 { format!("{shown} and {more} more") } else { shown }))
}
