//! Reads what a database has counted: statements, transactions that wrote, and bytes of WAL.
//!
//! No clock is in these counts, so two machines give the same ones for the same work. Statements are counted by the
//! extension `pg_stat_statements`, which a server must load when it starts. The other two need no extension.

use std::ops::Sub;
use std::time::Duration;

use recado::store::StoreError;
use recado::store::time_limit::limited;
use sqlx::PgConnection;

/// Longest wait for one statement.
const LIMIT: Duration = Duration::from_secs(10);

/// Counts of one database since its server started, or between two moments. The bytes of WAL are of the whole server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DatabaseCounts {
    /// Statements that clients sent, without those inside of functions; `None` without `pg_stat_statements`.
    pub statements: Option<i64>,
    /// Transactions that wrote.
    pub writes: i64,
    pub wal_bytes: i64,
}

/// One kind of statement, and how often it ran.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatementCount {
    pub text: String,
    pub calls: i64,
    pub microseconds: i64,
}

impl Sub for DatabaseCounts {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            statements: self.statements.zip(earlier.statements).map(|(now, before)| now - before),
            writes: self.writes - earlier.writes,
            wal_bytes: self.wal_bytes - earlier.wal_bytes,
        }
    }
}

/// Makes the server load `pg_stat_statements` at its next start; returns whether this server has it. Only for a server
/// that belongs to the bench.
///
/// # Errors
/// When the database is unavailable, or the database user may not change the server's settings.
pub async fn load_at_start(connection: &mut PgConnection) -> Result<bool, StoreError> {
    // A server that cannot find the library would not start.
    match limited(LIMIT, sqlx::raw_sql("LOAD 'pg_stat_statements'").execute(&mut *connection)).await {
        Err(StoreError::Broken(_)) => return Ok(false),
        outcome => outcome.map(drop)?,
    }
    limited(LIMIT, sqlx::raw_sql("ALTER SYSTEM SET shared_preload_libraries = 'pg_stat_statements'").execute(connection)).await?;
    Ok(true)
}

/// Makes the view of the extension, which the server has loaded.
///
/// # Errors
/// When the database is unavailable, or the extension is not installed.
pub async fn make_view(connection: &mut PgConnection) -> Result<(), StoreError> {
    let sql = "CREATE SCHEMA IF NOT EXISTS recado_bench_counts;
               CREATE EXTENSION IF NOT EXISTS pg_stat_statements SCHEMA recado_bench_counts";
    limited(LIMIT, sqlx::raw_sql(sql).execute(connection)).await?;
    Ok(())
}

/// The schema of the view, if the server counts statements and this user may read the counts.
///
/// # Errors
/// When the database is unavailable.
pub async fn view(connection: &mut PgConnection) -> Result<Option<String>, StoreError> {
    let found = sqlx::query_scalar(
        "SELECT quote_ident(nspname)
           FROM pg_extension JOIN pg_namespace AS n ON n.oid = extnamespace
          WHERE extname = 'pg_stat_statements'
            AND has_schema_privilege(n.oid, 'USAGE')
            AND current_setting('shared_preload_libraries', true) LIKE '%pg_stat_statements%'",
    )
    .fetch_optional(connection);
    limited(LIMIT, found).await
}

/// Reads the counts. `view` is the schema that [`view`] found.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn counts(connection: &mut PgConnection, view: Option<&str>) -> Result<DatabaseCounts, StoreError> {
    // Takes no transaction id: the bench counts transactions by their ids.
    let read =
        sqlx::query_as("SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, (pg_current_wal_insert_lsn() - '0/0')::bigint")
            .fetch_one(&mut *connection);
    let (writes, wal_bytes) = limited(LIMIT, read).await?;
    let mut counts = DatabaseCounts { statements: None, writes, wal_bytes };
    if let Some(view) = view {
        let sql = format!(
            "SELECT coalesce(sum(calls), 0)::bigint
               FROM {view}.pg_stat_statements(true)
              WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND {NOT_OURS}"
        );
        let sum = sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_one(connection);
        counts.statements = Some(limited(LIMIT, sum).await?);
    }
    Ok(counts)
}

/// Leaves out what the functions above ask.
const NOT_OURS: &str = "query NOT LIKE '%pg_stat_statements%' AND query NOT LIKE '%pg_current_wal_insert_lsn%'";

/// Lists the kinds of statements with their counts.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn list(connection: &mut PgConnection, view: &str) -> Result<Vec<StatementCount>, StoreError> {
    let sql = format!(
        "SELECT regexp_replace(query, '\\s+', ' ', 'g'), sum(calls)::bigint, (sum(total_exec_time) * 1000)::bigint
           FROM {view}.pg_stat_statements(true)
          WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database()) AND {NOT_OURS}
          GROUP BY 1"
    );
    let rows = sqlx::query_as(sqlx::AssertSqlSafe(sql)).fetch_all(connection);
    let rows: Vec<(String, i64, i64)> = limited(LIMIT, rows).await?;
    Ok(rows.into_iter().map(|(text, calls, microseconds)| StatementCount { text, calls, microseconds }).collect())
}

/// What was counted since `before`, the longest total time first.
pub fn since(before: &[StatementCount], now: Vec<StatementCount>) -> Vec<StatementCount> {
    let earlier = |text: &str| before.iter().find(|one| one.text == text).map_or((0, 0), |one| (one.calls, one.microseconds));
    let mut grown: Vec<StatementCount> = now
        .into_iter()
        .map(|mut one| {
            let (calls, microseconds) = earlier(&one.text);
            one.calls -= calls;
            one.microseconds -= microseconds;
            one
        })
        .filter(|one| one.calls > 0)
        .collect();
    grown.sort_by_key(|one| -one.microseconds);
    grown
}

/// The process that serves this connection.
///
/// # Errors
/// When the database is unavailable.
pub async fn backend_pid(connection: &mut PgConnection) -> Result<Option<u32>, StoreError> {
    let pid: i32 = limited(LIMIT, sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(connection)).await?;
    Ok(u32::try_from(pid).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_ran_meanwhile_is_listed() {
        let one = |text: &str, calls, microseconds| StatementCount { text: text.to_owned(), calls, microseconds };
        let before = [one("a", 5, 100), one("b", 2, 10)];
        assert_eq!(since(&before, vec![one("a", 6, 120), one("b", 2, 10), one("c", 1, 70)]), [one("c", 1, 70), one("a", 1, 20)]);
    }
}
