//! Erases one notification, or a user's notifications and traces, on request. Needs the owner of the tables.
//!
//! An erased row keeps its number, its id and its time, and becomes a tombstone without an audience
//! (`migrations/V13__erasure.sql`). Erasing runs in small steps while the hub serves. It can be repeated, which also
//! completes an interrupted run.

use sqlx::PgConnection;

use super::time_limit::{ASK_LIMIT, limited};
use super::{StoreError, read};
use crate::domain::{Seq, UserId};

/// Sequence numbers of one step: a transaction of some milliseconds.
const STEP: i64 = 10_000;

/// The target of an erasure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EraseTarget {
    /// Everything that was addressed to this user alone, the user's entry in lists, and all records of their devices.
    User(UserId),
    /// One notification, whatever its audience.
    Seq(Seq),
}

/// The extent of an erasure.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct Erased {
    /// Notifications that became tombstones.
    pub erased: i64,
    /// Notifications to several users whose list lost this user.
    pub unlisted: i64,
    /// Rows about the user in other tables: sessions, facts, devices, commands, memberships and the outbox.
    pub traces: i64,
}

/// Why the erasure failed.
#[derive(Debug, thiserror::Error)]
pub enum EraseError {
    #[error("the log has no notification {0}: the number is above the head, or retention has dropped the row")]
    NotThere(Seq),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Erases the target, and records who asked for it and why.
///
/// # Errors
/// When the database is unavailable or slow. The record then has no `finished_at`; a repeat completes it.
pub async fn erase(connection: &mut PgConnection, what: &EraseTarget, reason: &str) -> Result<Erased, EraseError> {
    let state = read::state(connection).await?;
    let (user, seq) = match what {
        EraseTarget::User(user) => (Some(user.as_str()), None),
        EraseTarget::Seq(seq) if *seq <= state.floor || *seq > state.head => return Err(EraseError::NotThere(*seq)),
        EraseTarget::Seq(seq) => (None, Some(seq.get())),
    };
    let record = sqlx::query_scalar!(
        r#"INSERT INTO recado.erasure (what, seq, reason) VALUES (CASE WHEN $1::bigint IS NULL THEN 'user' ELSE 'seq' END, $1, $2)
           RETURNING erasure_id AS "erasure_id!""#,
        seq,
        reason,
    );
    let record = limited(ASK_LIMIT, record.fetch_one(&mut *connection)).await?;
    let mut done = Erased::default();
    match (user, seq) {
        (Some(user), _) => {
            // First the outbox, so that no instance appends its rows behind us; at last again, for rows that came
            // meanwhile.
            done.traces += traces(connection, user).await?;
            let mut through = state.floor.get();
            loop {
                let head = read::state(connection).await?.head.get();
                if through >= head {
                    break;
                }
                rows(connection, Some(user), through, head, &mut done).await?;
                through = head;
            }
            done.traces += traces(connection, user).await?;
        }
        (None, Some(seq)) => rows(connection, None, seq - 1, seq, &mut done).await?,
        (None, None) => {}
    }
    let finished = sqlx::query!(
        "UPDATE recado.erasure SET finished_at = clock_timestamp(), erased = $2, unlisted = $3, traces = $4 WHERE erasure_id = $1",
        record,
        done.erased,
        done.unlisted,
        done.traces,
    );
    limited(ASK_LIMIT, finished.execute(connection)).await?;
    Ok(done)
}

/// Erases in the rows above `after` and up to `upto`.
async fn rows(connection: &mut PgConnection, user: Option<&str>, after: i64, upto: i64, done: &mut Erased) -> Result<(), StoreError> {
    let mut from = after;
    while from < upto {
        let end = upto.min(from + STEP);
        let step =
            sqlx::query!(r#"SELECT erased AS "erased!", unlisted AS "unlisted!" FROM recado.erase_rows($1, $2, $3)"#, user, from, end);
        let step = limited(ASK_LIMIT * 10, step.fetch_one(&mut *connection)).await?;
        if let Some(user) = user {
            let changes = sqlx::query_scalar!(r#"SELECT recado.erase_member_changes($1, $2, $3) AS "changes!""#, user, from, end);
            done.traces += limited(ASK_LIMIT * 10, changes.fetch_one(&mut *connection)).await?;
        }
        done.erased += step.erased;
        done.unlisted += step.unlisted;
        from = end;
    }
    Ok(())
}

async fn traces(connection: &mut PgConnection, user: &str) -> Result<i64, StoreError> {
    let traces = sqlx::query_scalar!(r#"SELECT recado.erase_traces($1) + recado.erase_members($1) AS "traces!""#, user);
    limited(ASK_LIMIT * 20, traces.fetch_one(connection)).await
}
