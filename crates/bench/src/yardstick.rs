//! Runs plain SQL that `recado-bench` compares the hub with: the same rows without a hub.
//!
//! The tables have their own schema, made and dropped by the bench. They do not exist where queries are checked at
//! compile time, so these queries are plain text.

use std::time::Duration;

use recado::domain::{NewNotification, Seq};
use recado::store::StoreError;
use recado::store::append::AppendColumns;
use recado::store::time_limit::limited;
use sqlx::PgConnection;

/// Longest wait for one statement on the scratch tables.
const LIMIT: Duration = Duration::from_secs(10);

/// Longest wait for a vacuum of tens of millions of rows.
const TIDY_LIMIT: Duration = Duration::from_secs(1800);

/// Makes the scratch tables: the log's columns with one primary key, and a table with one number in each row.
///
/// # Errors
/// When the database is unavailable, or the database user is not allowed to make a schema.
pub async fn make(connection: &mut PgConnection) -> Result<(), StoreError> {
    run(
        connection,
        "DROP SCHEMA IF EXISTS recado_bench CASCADE;
         CREATE SCHEMA recado_bench;
         CREATE TABLE recado_bench.plain_row (LIKE recado.log INCLUDING DEFAULTS, PRIMARY KEY (seq));
         CREATE TABLE recado_bench.one_number (n bigint NOT NULL)",
    )
    .await
}

/// Drops the scratch tables.
///
/// # Errors
/// When the database is unavailable.
pub async fn unmake(connection: &mut PgConnection) -> Result<(), StoreError> {
    run(connection, "DROP SCHEMA IF EXISTS recado_bench CASCADE").await
}

/// Makes this connection's commits return before they are on disk. Only for filling a log whose rows may be lost.
///
/// # Errors
/// When the database is unavailable.
pub async fn relax_commits(connection: &mut PgConnection) -> Result<(), StoreError> {
    run(connection, "SET synchronous_commit = off").await
}

/// Does at once what autovacuum and the checkpointer would do in the minutes after a log was filled. The server skips
/// tables that the database user may not vacuum, and a checkpoint that this user may not request.
///
/// # Errors
/// When the database is unavailable, or takes more than half an hour.
pub async fn tidy_up(connection: &mut PgConnection) -> Result<(), StoreError> {
    run(connection, "SET statement_timeout = 0").await?;
    limited(TIDY_LIMIT, sqlx::raw_sql("VACUUM (ANALYZE)").execute(&mut *connection)).await?;
    match limited(TIDY_LIMIT, sqlx::raw_sql("CHECKPOINT").execute(connection)).await {
        // Refused: the user is neither a superuser nor a member of pg_checkpoint.
        Err(StoreError::Broken(_)) | Ok(_) => Ok(()),
        Err(error) => Err(error),
    }
}

async fn run(connection: &mut PgConnection, sql: &'static str) -> Result<(), StoreError> {
    limited(LIMIT, sqlx::raw_sql(sql).execute(connection)).await?;
    Ok(())
}

/// Inserts rows into the scratch table, numbered from `first`: one statement, one commit, no look-up and no check.
///
/// # Errors
/// When the database is unavailable, or the numbers were used before.
pub async fn insert(connection: &mut PgConnection, first: Seq, rows: &[&NewNotification]) -> Result<(), StoreError> {
    let columns = AppendColumns::of(rows);
    let inserted = sqlx::query(
        "INSERT INTO recado_bench.plain_row (seq, id, created_at, type, title, message, data, topic, user_id, account_id,
                                             user_ids, expires_at, replay, source, bytes)
         SELECT $1 - 1 + place, id, now(), type, title, message, data::json, topic, user_id, account_id, user_ids::text[],
                now() + ttl_seconds * interval '1 second', replay, source,
                octet_length(title) + octet_length(message) + coalesce(octet_length(data), 0)
           FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
                       $10::text[], $11::int[], $12::bool[], $13::text[])
                WITH ORDINALITY AS u (id, type, title, message, data, topic, user_id, account_id, user_ids, ttl_seconds,
                                      replay, source, place)",
    )
    .bind(first.get())
    .bind(&columns.id)
    .bind(&columns.kind)
    .bind(&columns.title)
    .bind(&columns.message)
    .bind(&columns.data)
    .bind(&columns.topic)
    .bind(&columns.user)
    .bind(&columns.account)
    .bind(&columns.users)
    .bind(&columns.ttl_seconds)
    .bind(&columns.replay)
    .bind(&columns.source)
    .execute(connection);
    limited(LIMIT, inserted).await?;
    Ok(())
}

/// Inserts one row into the scratch table, with the fewest columns that a row of the log has: the plainest INSERT of a
/// notification.
///
/// # Errors
/// When the database is unavailable, or the number was used before.
pub async fn insert_one(connection: &mut PgConnection, seq: Seq, row: &NewNotification) -> Result<(), StoreError> {
    let inserted = sqlx::query(
        "INSERT INTO recado_bench.plain_row (seq, id, created_at, type, title, message, data, topic, user_id, replay, source, bytes)
         VALUES ($1, $2, now(), $3, $4, $5, $6::json, $7, substr($7, 3), true, $8, $9)",
    )
    .bind(seq.get())
    .bind(row.id.0)
    .bind(&row.kind)
    .bind(&row.title)
    .bind(&row.message)
    .bind(row.data.as_deref())
    .bind(row.audience.topic())
    .bind(&row.source)
    .bind(i32::try_from(row.message.len()).unwrap_or(i32::MAX))
    .execute(connection);
    limited(LIMIT, inserted).await?;
    Ok(())
}

/// Commits one small row: the lowest cost of a durable write here.
///
/// # Errors
/// When the database is unavailable.
pub async fn commit_one(connection: &mut PgConnection, n: i64) -> Result<(), StoreError> {
    let inserted = sqlx::query("INSERT INTO recado_bench.one_number (n) VALUES ($1)").bind(n).execute(connection);
    limited(LIMIT, inserted).await?;
    Ok(())
}

/// The number of rows and of commits in a part of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commits {
    pub rows: i64,
    pub commits: i64,
}

/// Counts rows and commits. The rows of one commit share their time, and no other row has it.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn commits(connection: &mut PgConnection, after: Seq, upto: Seq) -> Result<Commits, StoreError> {
    let counted = sqlx::query!(
        r#"SELECT count(*) AS "rows!", count(DISTINCT created_at) AS "commits!" FROM recado.log WHERE seq > $1 AND seq <= $2"#,
        after.get(),
        upto.get(),
    )
    .fetch_one(connection);
    let counted = limited(LIMIT, counted).await?;
    Ok(Commits { rows: counted.rows, commits: counted.commits })
}

/// The bench's marks in the rows after this one.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn marks(connection: &mut PgConnection, after: Seq) -> Result<Vec<usize>, StoreError> {
    let marks = sqlx::query_scalar("SELECT (data->>'bench_n')::bigint FROM recado.log WHERE seq > $1 AND data->>'bench_n' IS NOT NULL")
        .bind(after.get())
        .fetch_all(connection);
    let marks: Vec<i64> = limited(TIDY_LIMIT, marks).await?;
    Ok(marks.into_iter().filter_map(|n| usize::try_from(n).ok()).collect())
}

/// The version that the server reports.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn server_version(connection: &mut PgConnection) -> Result<String, StoreError> {
    let version = sqlx::query_scalar!(r#"SELECT current_setting('server_version') AS "version!""#).fetch_one(connection);
    limited(LIMIT, version).await
}

/// Counts the connections of hubs to this database, by their application names.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn hub_connections(connection: &mut PgConnection) -> Result<i64, StoreError> {
    let count = sqlx::query_scalar!(
        r#"SELECT count(*) AS "count!"
             FROM pg_stat_activity
            WHERE datname = current_database() AND starts_with(application_name, 'recado ') AND application_name <> 'recado bench'"#
    )
    .fetch_one(connection);
    limited(LIMIT, count).await
}

/// The service that posted the log's last row; `None` for an empty log.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn last_source(connection: &mut PgConnection) -> Result<Option<String>, StoreError> {
    let source = sqlx::query_scalar!("SELECT source FROM recado.log ORDER BY seq DESC LIMIT 1").fetch_optional(connection);
    limited(LIMIT, source).await
}
