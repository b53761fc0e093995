//! Forgetting commands and sessions that are over their time, in small steps. Needs the owner of the tables.

use std::time::Duration;

use sqlx::PgConnection;

use crate::store::StoreError;
use crate::store::database::limited;

/// Rows that are deleted in one statement.
const STEP_ROWS: i64 = 10_000;
/// Longest wait for one.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Deletes the commands that were settled longer ago. Their ids may be given anew after that.
///
/// # Errors
/// When the database is away or slow; a later round goes on.
pub async fn commands(connection: &mut PgConnection, age: Duration) -> Result<u64, StoreError> {
    let mut deleted = 0;
    loop {
        // A command is settled after it was accepted, so `accepted_at` only narrows: its index knows where the old ones lie.
        let step = sqlx::query!(
            r#"DELETE FROM recado.upstream_command
                WHERE command_id IN (SELECT c.command_id FROM recado.upstream_command c
                                      WHERE c.accepted_at < clock_timestamp() - make_interval(secs => $1)
                                        AND c.settled_at < clock_timestamp() - make_interval(secs => $1)
                                      LIMIT $2)"#,
            age.as_secs_f64(),
            STEP_ROWS,
        );
        let rows = limited(STEP_LIMIT, step.execute(&mut *connection)).await?.rows_affected();
        deleted += rows;
        if rows == 0 {
            return Ok(deleted);
        }
    }
}

/// Deletes the sessions that nobody holds and that nobody has wanted for longer. One that is wanted at this very moment is
/// locked, and looked at again: it stays.
///
/// # Errors
/// When the database is away or slow; a later round goes on.
pub async fn sessions(connection: &mut PgConnection, age: Duration) -> Result<u64, StoreError> {
    let mut deleted = 0;
    loop {
        let step = sqlx::query!(
            r#"WITH old AS (
                   SELECT s.provider, s.user_id
                     FROM recado.upstream_session s
                    WHERE s.owner IS NULL AND s.wanted_until < clock_timestamp() - make_interval(secs => $1)
                    LIMIT $2
                      FOR UPDATE SKIP LOCKED)
               DELETE FROM recado.upstream_session s
                USING old o
                WHERE s.provider = o.provider AND s.user_id = o.user_id"#,
            age.as_secs_f64(),
            STEP_ROWS,
        );
        let rows = limited(STEP_LIMIT, step.execute(&mut *connection)).await?.rows_affected();
        deleted += rows;
        if rows == 0 {
            return Ok(deleted);
        }
    }
}
