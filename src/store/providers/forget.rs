//! Deletes old commands and provider sessions, in small steps. Needs the owner of the tables.

use std::time::Duration;

use sqlx::PgConnection;

use crate::store::StoreError;
use crate::store::device_expiry::ExpiryReach;
use crate::store::time_limit::limited;

/// Most commands that one statement deletes.
const STEP_COMMANDS: i64 = 10_000;
/// Most sessions that one statement looks at.
const STEP_SESSIONS: i32 = 1000;
/// Steps of a partial round over commands, which an index finds; [`LOOKS`] is for sessions, which have no such index.
const STEPS: u32 = 20;
const LOOKS: u32 = 5;
/// Longest wait for one step.
const STEP_LIMIT: Duration = Duration::from_secs(60);

/// Deletes the commands that were settled longer ago. Their ids may be used again after that.
///
/// # Errors
/// When the database is unavailable or slow; a later round continues.
pub async fn commands(connection: &mut PgConnection, age: Duration, reach: ExpiryReach) -> Result<u64, StoreError> {
    let (mut deleted, mut steps) = (0, 0);
    loop {
        let step = sqlx::query!(
            r#"DELETE FROM recado.upstream_command
                WHERE command_id = ANY (ARRAY(SELECT c.command_id FROM recado.upstream_command c
                                               WHERE c.settled_at < statement_timestamp() - make_interval(secs => $1)
                                               ORDER BY c.settled_at
                                               LIMIT $2))"#,
            age.as_secs_f64(),
            STEP_COMMANDS,
        );
        let rows = limited(STEP_LIMIT, step.execute(&mut *connection)).await?.rows_affected();
        deleted += rows;
        steps += 1;
        if rows == 0 || reach == ExpiryReach::Part && steps >= STEPS {
            return Ok(deleted);
        }
    }
}

/// The position of the walk over the sessions: after this one, in the order of the table's key.
#[derive(Debug, Clone, Default)]
struct SessionWalk {
    provider: String,
    user: String,
}

/// Deletes the sessions that no instance holds and that no user has wanted for longer. A session that becomes wanted at
/// this moment is locked and checked again: it stays. A partial round continues where the last one stopped, as for
/// devices.
///
/// # Errors
/// When the database is unavailable or slow; a later round continues.
pub async fn sessions(connection: &mut PgConnection, age: Duration, reach: ExpiryReach) -> Result<u64, StoreError> {
    let mut walk = match reach {
        ExpiryReach::All => SessionWalk::default(),
        ExpiryReach::Part => stored(connection).await?,
    };
    let (mut deleted, mut steps) = (0, 0);
    loop {
        let (rows, next) = sessions_after(connection, age, &walk).await?;
        deleted += rows;
        steps += 1;
        let ends = next.is_none() || reach == ExpiryReach::Part && steps >= LOOKS;
        walk = next.unwrap_or_default();
        if ends {
            break;
        }
    }
    if reach == ExpiryReach::Part {
        store(connection, &walk).await?;
    }
    Ok(deleted)
}

/// Does one step. Returns how many sessions were deleted, and where the next step begins; `None` at the end of the
/// table.
async fn sessions_after(
    connection: &mut PgConnection,
    age: Duration,
    walk: &SessionWalk,
) -> Result<(u64, Option<SessionWalk>), StoreError> {
    let step = sqlx::query!(
        r#"SELECT looked AS "looked!", forgotten AS "forgotten!", last_provider, last_user_id
             FROM recado.forget_upstream_sessions($1, $2, $3, $4)"#,
        walk.provider,
        walk.user,
        STEP_SESSIONS,
        age.as_secs_f64(),
    );
    let done = limited(STEP_LIMIT, step.fetch_one(connection)).await?;
    let next = done.last_provider.zip(done.last_user_id).filter(|_| done.looked == STEP_SESSIONS);
    Ok((u64::from(done.forgotten.unsigned_abs()), next.map(|(provider, user)| SessionWalk { provider, user })))
}

async fn stored(connection: &mut PgConnection) -> Result<SessionWalk, StoreError> {
    let walk = sqlx::query_as!(SessionWalk, r#"SELECT provider, user_id AS "user" FROM recado.upstream_walk"#);
    limited(STEP_LIMIT, walk.fetch_one(connection)).await
}

async fn store(connection: &mut PgConnection, walk: &SessionWalk) -> Result<(), StoreError> {
    let stored = sqlx::query!(
        "UPDATE recado.upstream_walk SET provider = $1, user_id = $2 WHERE (provider, user_id) <> ($1, $2)",
        walk.provider,
        walk.user,
    );
    limited(STEP_LIMIT, stored.execute(connection)).await?;
    Ok(())
}
