//! Migrates the database to the schema of this program.

use std::time::Duration;

use refinery_core::Migration;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::roles::{self, Member, Names};
use super::time_limit::{ASK_LIMIT, limited};
use super::{Database, StoreError};

mod rights;

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// The key of the migration runner's advisory lock: "recado" in ASCII. It is fixed here, because the schema, whose
/// tables name the other locks, may not exist yet.
const LOCK: i64 = 0x7265_6361_646f;
/// The table of applied migrations.
const HISTORY: &str = "recado.schema_history";
/// Version and checksum of a migration that only a superuser could apply. Its text was changed before a release. Both
/// texts have the same effect.
const FIRST_TEXT: (i32, u64) = (13, 15_092_659_870_684_576_935);
/// The migration with the functions that record the grants of the cluster's roles and grant them again.
const GRANTS_ARE_NOTED: i32 = 15;
/// Longest wait for another process that migrates.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// Settings of the session that migrates: it has no time limits, and settings of the role or the database must not
/// change what the migrations mean.
const SESSION: &str = "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0;
    SET client_min_messages = warning; SET standard_conforming_strings = on; SET array_nulls = on; SET transform_null_equals = off;
    SET datestyle = 'ISO, MDY'; SET intervalstyle = postgres; SET check_function_bodies = on; SET row_security = on;
    SET default_transaction_deferrable = off";

/// Why the database was not migrated.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "another process has been migrating this database for {LOCK_LIMIT:?}; if there is none, find the session that holds advisory lock {LOCK}"
    )]
    Locked,
    /// Another role could change what the hub runs, or the user lacks a right. Each line says what to do.
    #[error("{}", .0.join("\n  "))]
    Rights(Vec<String>),
    #[error("migration failed: {0}")]
    Failed(#[from] refinery::Error),
}

/// The result of a migration run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Names of the migrations applied now.
    pub applied: Vec<String>,
    /// The schema's version afterwards.
    pub version: i32,
    /// A newer program has migrated the database. Nothing was done, and this program may serve alongside the newer one.
    pub newer: bool,
}

/// The version of a database's schema, and the one that this program needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchemaVersions {
    /// Zero for a database that has never been migrated.
    pub database: i32,
    pub program: i32,
}

/// Applies the missing migrations. Several processes may call it at once: the migration runner itself takes no lock, so
/// it runs under an advisory lock. One process applies, the others find nothing to do.
///
/// # Errors
/// When the database is unavailable, the lock is not free within a minute, or a migration fails. A failed migration
/// leaves nothing behind.
pub async fn run(database: &Database) -> Result<Migrated, MigrateError> {
    under_lock(database, apply).await
}

/// Runs `act` on a connection that holds the lock of the migrations.
async fn under_lock<T>(
    database: &Database,
    act: impl AsyncFnOnce(&mut PgConnection) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    // A separate connection: the lock belongs to the session, and would stay on a pooled one.
    let mut connection = database.connect("migrate").await?;
    // The default limits are for serving; a migration may take longer.
    limited(ASK_LIMIT, sqlx::raw_sql(SESSION).execute(&mut connection)).await?;
    lock(&mut connection).await?;
    let outcome = act(&mut connection).await;
    // Ends the session, and the lock with it.
    let _ = limited(ASK_LIMIT, connection.close()).await;
    outcome
}

/// What [`own_roles`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Separated {
    pub names: Names,
    /// Logins that were members of the former roles and are not members of the new ones.
    pub left_out: Vec<Member>,
}

/// Gives a database roles of its own if it shares them with another database of the cluster, and closes it to other
/// logins if this user owns it. No hub may run meanwhile.
///
/// # Errors
/// As [`run`]; [`MigrateError::Rights`] if a hub runs, or if this user may not create roles.
pub async fn own_roles(database: &Database) -> Result<Separated, MigrateError> {
    under_lock(database, separate).await
}

async fn separate(connection: &mut PgConnection) -> Result<Separated, MigrateError> {
    let left_out = roles::members(connection).await?;
    roles::separate(connection).await.map_err(|error| match error.as_database_error().and_then(|e| e.code()).as_deref() {
        Some("55006") => MigrateError::Rights(vec![
            "a hub runs on this database, under the role that it has now: stop every hub (15 s after one was killed it counts as stopped), \
             and run recado migrate --own-roles again"
                .to_owned(),
        ]),
        Some("42501") => MigrateError::Rights(vec![format!(
            "this user may not make roles, or not change the rights of the present ones ({error}): run recado migrate --own-roles as the \
             owner of the schema recado, with CREATEROLE, or as a superuser"
        )]),
        _ => MigrateError::Store(error.into()),
    })?;
    Ok(Separated { names: roles::names(connection).await?, left_out })
}

/// Polls instead of waiting inside PostgreSQL: a waiter would hold a snapshot, and there would be no limit.
async fn lock(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let end = tokio::time::Instant::now() + LOCK_LIMIT;
    loop {
        let had: Option<bool> =
            limited(ASK_LIMIT, sqlx::query_scalar!("SELECT pg_try_advisory_lock($1)", LOCK).fetch_one(&mut *connection)).await?;
        if had == Some(true) {
            return Ok(());
        }
        if tokio::time::Instant::now() >= end {
            return Err(MigrateError::Locked);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn apply(connection: &mut PgConnection) -> Result<Migrated, MigrateError> {
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    let newest = runner.get_migrations().iter().map(Migration::version).max().unwrap_or(0);
    let strangers = rights::strangers(connection).await?;
    if !strangers.is_empty() {
        return Err(MigrateError::Rights(strangers));
    }
    let rights = rights::of(connection).await?;
    rights.may_look().map_err(|missing| MigrateError::Rights(vec![missing]))?;
    let last = last_applied(connection).await?;
    if last > newest {
        return Ok(Migrated { applied: Vec::new(), version: last, newer: true });
    }
    if !rights.may_change_schema && last == newest {
        // This user only serves. Even the runner's `IF NOT EXISTS` would be refused.
        return Ok(Migrated { applied: Vec::new(), version: last, newer: false });
    }
    let was_member = last > 0 || roles::is_member_of_plain_role(connection).await?;
    rights.suffice(last, newest).map_err(|missing| MigrateError::Rights(vec![missing]))?;
    if !rights.schema_exists {
        // The history table is named with its schema. By the search path, the runner would look elsewhere as soon as a
        // user called recado has a schema recado.
        sqlx::raw_sql("CREATE SCHEMA recado").execute(&mut *connection).await.map_err(StoreError::from)?;
    }
    if last >= GRANTS_ARE_NOTED {
        // A dump that was restored into another cluster has lost the roles and all that they were granted.
        let equipped = roles::equip(connection).await?;
        if !equipped.is_empty() {
            tracing::warn!(roles = ?equipped, "roles had lost their rights in this database; granted them again");
        }
    }
    let mut session = RefineryClient(connection);
    let report = runner.run_async(&mut session).await?;
    if !report.applied_migrations().is_empty() || roles::are_undecided(session.0).await? {
        roles::settle(session.0, was_member).await?;
    }
    let applied = report.applied_migrations().iter().map(ToString::to_string).collect();
    Ok(Migrated { applied, version: newest, newer: false })
}

/// The versions of a database's schema and of this program's. Changes nothing.
///
/// # Errors
/// When the database is unavailable.
pub async fn versions(connection: &mut PgConnection) -> Result<SchemaVersions, StoreError> {
    let newest = embedded::migrations::runner().get_migrations().iter().map(Migration::version).max().unwrap_or(0);
    Ok(SchemaVersions { database: last_applied(connection).await?, program: newest })
}

/// The version of the last migration; zero for a database that has never been migrated.
async fn last_applied(connection: &mut PgConnection) -> Result<i32, StoreError> {
    let exists = sqlx::query_scalar!("SELECT to_regclass($1) IS NOT NULL", HISTORY).fetch_one(&mut *connection);
    let exists: Option<bool> = limited(ASK_LIMIT, exists).await?;
    if exists != Some(true) {
        return Ok(0);
    }
    // Not a checked query: the table is the migration runner's, and not there while the queries are checked.
    let last = sqlx::query_scalar("SELECT max(version) FROM recado.schema_history").fetch_one(connection);
    let last: Option<i32> = limited(ASK_LIMIT, last).await?;
    Ok(last.unwrap_or(0))
}

/// Adapts our connection to the migration runner.
struct RefineryClient<'c>(&'c mut PgConnection);

impl AsyncTransaction for RefineryClient<'_> {
    type Error = sqlx::Error;

    /// Called once for each migration, with its text and the insert of its history row: one transaction for both.
    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(&'a mut self, queries: T) -> Result<usize, sqlx::Error> {
        let mut transaction = self.0.begin().await?;
        let mut count = 0;
        for query in queries {
            // The text comes from our own migration files.
            sqlx::raw_sql(AssertSqlSafe(query.to_owned())).execute(&mut *transaction).await?;
            count += 1;
        }
        transaction.commit().await?;
        Ok(count)
    }
}

impl AsyncQuery<Vec<Migration>> for RefineryClient<'_> {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, sqlx::Error> {
        let rows: Vec<(i32, String, String, String)> = sqlx::query_as(AssertSqlSafe(query.to_owned())).fetch_all(&mut *self.0).await?;
        rows.into_iter().map(applied).collect()
    }
}

fn applied((version, name, applied_on, checksum): (i32, String, String, String)) -> Result<Migration, sqlx::Error> {
    let at = OffsetDateTime::parse(&applied_on, &Rfc3339).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    let mut checksum: u64 = checksum.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    if (version, checksum) == FIRST_TEXT {
        let present = embedded::migrations::runner().get_migrations().iter().find(|m| m.version() == version).map(Migration::checksum);
        checksum = present.unwrap_or(checksum);
    }
    Ok(Migration::applied(version, name, at, checksum))
}

impl AsyncMigrate for RefineryClient<'_> {}
