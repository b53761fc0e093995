//! Bringing the database to the schema of this program.

use std::time::Duration;

use refinery_core::Migration;
use refinery_core::traits::r#async::{AsyncMigrate, AsyncQuery, AsyncTransaction};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{Database, StoreError};

mod embedded {
    refinery::embed_migrations!("migrations");
}

/// Names the lock of the migration runner among advisory locks: "recado" in ASCII. The schema, whose tables name the
/// other locks, may not exist yet.
const LOCK: i64 = 0x7265_6361_646f;
/// The table of applied migrations.
const HISTORY: &str = "recado.schema_history";
/// Longest wait for another instance that migrates.
const LOCK_LIMIT: Duration = Duration::from_secs(60);

/// A migration that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("another process has been migrating this database for {LOCK_LIMIT:?}; if none is, look for who holds advisory lock {LOCK}")]
    Locked,
    #[error("the schema could not be brought up to date: {0}")]
    Failed(#[from] refinery::Error),
}

/// What a migration run found and did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Migrated {
    /// Names of the migrations applied now.
    pub applied: Vec<String>,
    /// The schema's version afterwards.
    pub version: i32,
    /// The database was made by a newer program; nothing was done, and this program may serve beside it.
    pub newer: bool,
}

/// Applies what is missing. Several processes may call it at once: the migration runner itself takes no lock, so it
/// runs under an advisory lock here; one applies, the others find nothing to do.
///
/// # Errors
/// When the database is away, the lock is not had within a minute, or a migration fails; a failed one leaves nothing behind.
pub async fn run(database: &Database) -> Result<Migrated, MigrateError> {
    // A connection of its own: the lock belongs to the session, and would stay on a pooled one.
    let mut connection = database.connect("migrate").await?;
    // These settings are for serving; a migration may take its time.
    sqlx::raw_sql(
        "SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0; SET client_min_messages = warning",
    )
    .execute(&mut connection)
    .await
    .map_err(StoreError::from)?;
    lock(&mut connection).await?;
    let outcome = apply(&mut connection).await;
    // Ends the session, and the lock with it.
    let _ = connection.close().await;
    outcome
}

/// Polls instead of waiting inside PostgreSQL: a waiter would hold a snapshot, and there would be no limit.
async fn lock(connection: &mut PgConnection) -> Result<(), MigrateError> {
    let end = tokio::time::Instant::now() + LOCK_LIMIT;
    loop {
        let had: Option<bool> =
            sqlx::query_scalar!("SELECT pg_try_advisory_lock($1)", LOCK).fetch_one(&mut *connection).await.map_err(StoreError::from)?;
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
    // The history stands in our schema by name. Under a search path it would be looked for elsewhere as soon as a user
    // called recado has a schema recado.
    sqlx::raw_sql("CREATE SCHEMA IF NOT EXISTS recado").execute(&mut *connection).await.map_err(StoreError::from)?;
    let mut runner = embedded::migrations::runner();
    runner.set_migration_table_name(HISTORY);
    let newest = runner.get_migrations().iter().map(Migration::version).max().unwrap_or(0);
    let mut session = Refinery(connection);
    let last = last_applied(session.0).await?;
    if last > newest {
        return Ok(Migrated { applied: Vec::new(), version: last, newer: true });
    }
    let report = runner.run_async(&mut session).await?;
    let applied = report.applied_migrations().iter().map(ToString::to_string).collect();
    Ok(Migrated { applied, version: newest, newer: false })
}

/// Zero for a database that has never been migrated.
async fn last_applied(connection: &mut PgConnection) -> Result<i32, StoreError> {
    let exists: Option<bool> = sqlx::query_scalar!("SELECT to_regclass($1) IS NOT NULL", HISTORY).fetch_one(&mut *connection).await?;
    if exists != Some(true) {
        return Ok(0);
    }
    // Not a checked query: the table is the migration runner's, and not there while the queries are checked.
    let last: Option<i32> = sqlx::query_scalar("SELECT max(version) FROM recado.schema_history").fetch_one(connection).await?;
    Ok(last.unwrap_or(0))
}

/// The migration runner's view of our connection.
struct Refinery<'c>(&'c mut PgConnection);

impl AsyncTransaction for Refinery<'_> {
    type Error = sqlx::Error;

    /// Called once a migration, with its text and the insert of its history row: one transaction for both.
    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(&'a mut self, queries: T) -> Result<usize, sqlx::Error> {
        let mut transaction = self.0.begin().await?;
        let mut count = 0;
        for query in queries {
            // The text of our own migration files.
            sqlx::raw_sql(AssertSqlSafe(query.to_owned())).execute(&mut *transaction).await?;
            count += 1;
        }
        transaction.commit().await?;
        Ok(count)
    }
}

impl AsyncQuery<Vec<Migration>> for Refinery<'_> {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, sqlx::Error> {
        let rows: Vec<(i32, String, String, String)> = sqlx::query_as(AssertSqlSafe(query.to_owned())).fetch_all(&mut *self.0).await?;
        rows.into_iter().map(applied).collect()
    }
}

fn applied((version, name, applied_on, checksum): (i32, String, String, String)) -> Result<Migration, sqlx::Error> {
    let at = OffsetDateTime::parse(&applied_on, &Rfc3339).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    let checksum: u64 = checksum.parse().map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
    Ok(Migration::applied(version, name, at, checksum))
}

impl AsyncMigrate for Refinery<'_> {}
