//! Ends abandoned commands and provider sessions. Any instance may do it at any time.

use std::time::Duration;

use sqlx::PgConnection;

use crate::metrics::UPSTREAM_COMMANDS;
use crate::store::StoreError;
use crate::store::time_limit::{ASK_LIMIT, limited};

/// Most rows of one step, so that its locks are short.
const STEP_ROWS: i64 = 1000;

/// The result of a round of chores.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EndedCommands {
    /// Commands that no owner took in time.
    pub rejected: u64,
    /// Commands whose owner was lost.
    pub unknown: u64,
    /// Sessions that no user wants: their owner was lost, or they had none for long.
    pub released: u64,
}

/// Does all chores, a step each.
///
/// # Errors
/// When the database is unavailable or slow. The next round continues.
pub async fn round(connection: &mut PgConnection) -> Result<EndedCommands, StoreError> {
    Ok(EndedCommands {
        rejected: reject_stale(connection).await?,
        unknown: orphans(connection).await?,
        released: take_from_lost_owners(connection).await? + release_unwanted(connection).await?,
    })
}

/// Rejects the commands that no owner took in time. Taking one compares with the same time in the opposite direction,
/// and both change it only from `accepted`: no command is both rejected and sent.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn reject_stale(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let rejected = sqlx::query_scalar!(
        r#"WITH stale AS (
               SELECT c.command_id
                 FROM recado.upstream_command c
                WHERE c.state = 'accepted' AND c.reject_at <= statement_timestamp()
                LIMIT $1
                  FOR UPDATE SKIP LOCKED),
           rejected AS (
               UPDATE recado.upstream_command c
                  SET state = 'rejected', settled_at = clock_timestamp(), detail = 'not_taken'
                 FROM stale s
                WHERE c.command_id = s.command_id AND c.state = 'accepted'
            RETURNING c.provider, c.user_id)
           SELECT count(recado.upstream_hint('command', provider, user_id)) AS "rejected!" FROM rejected"#,
        STEP_ROWS,
    )
    .fetch_one(connection);
    let rejected = limited(ASK_LIMIT, rejected).await?.unsigned_abs();
    UPSTREAM_COMMANDS.add("rejected", usize::try_from(rejected).unwrap_or(0));
    Ok(rejected)
}

/// Marks commands as unknown that were taken under an expired lease. An expired lease is never renewed, so no lock on
/// the session is needed; an owner that settles at the same moment is either first, and right, or too late.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn orphans(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let marked = sqlx::query_scalar!(
        r#"WITH orphans AS (
               SELECT c.command_id
                 FROM recado.upstream_command c
                WHERE c.state = 'sending'
                  -- Whoever gives a session back may still be settling its last commands.
                  AND c.taken_at < statement_timestamp() - interval '5 seconds'
                  AND NOT EXISTS (SELECT FROM recado.upstream_session s
                                   WHERE s.provider = c.provider AND s.user_id = c.user_id AND s.term = c.term
                                     AND s.lease_until > clock_timestamp())
                LIMIT $1
                  FOR UPDATE OF c SKIP LOCKED),
           marked AS (
               UPDATE recado.upstream_command c
                  SET state = 'unknown', settled_at = clock_timestamp(), detail = 'owner_lost'
                 FROM orphans o
                WHERE c.command_id = o.command_id AND c.state = 'sending'
            RETURNING c.provider, c.user_id)
           SELECT count(recado.upstream_hint('command', provider, user_id)) AS "marked!" FROM marked"#,
        STEP_ROWS,
    )
    .fetch_one(connection);
    let marked = limited(ASK_LIMIT, marked).await?.unsigned_abs();
    UPSTREAM_COMMANDS.add("unknown", usize::try_from(marked).unwrap_or(0));
    Ok(marked)
}

/// Takes the sessions that no user wants from owners that are lost: no instance claims them, and their rows should not
/// say that they are live. A user who is still there wants them again as soon as the user's instance can say so: an
/// outage of the database, or a stalled hub, may have kept it from that for longer than `linger`. Such a session goes
/// on, after a gap. [`release_unwanted`] ends the others.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn take_from_lost_owners(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let released = sqlx::query_scalar!(
        r#"WITH abandoned AS (
               SELECT s.provider, s.user_id
                 FROM recado.upstream_session s
                WHERE s.owner IS NOT NULL AND s.lease_until <= statement_timestamp() AND s.wanted_until <= statement_timestamp()
                LIMIT $1
                  FOR UPDATE SKIP LOCKED),
           released AS (
               UPDATE recado.upstream_session s
                  SET owner = NULL, lease_until = NULL, state = 'waiting', updated_at = clock_timestamp(),
                      status = NULL, message = NULL,
                      version = nextval('recado.upstream_version')
                 FROM abandoned a
                WHERE s.provider = a.provider AND s.user_id = a.user_id
            RETURNING s.provider, s.user_id)
           SELECT count(recado.upstream_hint('state', provider, user_id)) AS "released!" FROM released"#,
        STEP_ROWS,
    )
    .fetch_one(connection);
    Ok(limited(ASK_LIMIT, released).await?.unsigned_abs())
}

/// Ends the due sessions that no instance holds and no user has wanted for an hour. They would stay at the front of the
/// claim's index, which would skip them each second.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn release_unwanted(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let released = sqlx::query_scalar!(
        r#"WITH unwanted AS (
               SELECT s.provider, s.user_id
                 FROM recado.upstream_session s
                WHERE s.owner IS NULL AND s.state NOT IN ('refused', 'idle', 'released')
                  AND s.next_try_at <= statement_timestamp() AND s.wanted_until < statement_timestamp() - interval '1 hour'
                LIMIT $1
                  FOR UPDATE SKIP LOCKED),
           released AS (
               UPDATE recado.upstream_session s
                  SET state = 'released', was_live = false, updated_at = clock_timestamp(), status = NULL, message = NULL,
                      version = nextval('recado.upstream_version')
                 FROM unwanted u
                WHERE s.provider = u.provider AND s.user_id = u.user_id
            RETURNING s.provider, s.user_id)
           SELECT count(recado.upstream_hint('state', provider, user_id)) AS "released!" FROM released"#,
        STEP_ROWS,
    )
    .fetch_one(connection);
    Ok(limited(ASK_LIMIT, released).await?.unsigned_abs())
}

/// Longest time that a hub schedules a next try ahead, and some more.
const LONGEST_WAIT: Duration = Duration::from_secs(3600 + 300);
/// Longest lease that the setting allows, and some more.
const LONGEST_LEASE: Duration = Duration::from_secs(300 + 30);

/// Corrects times so far ahead that no hub writes them: they were written while the database's clock was wrong. A next
/// try becomes due, and a lease lasts for one lease from now, within which a live owner renews it.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn disbelieve_the_future(connection: &mut PgConnection, lease: Duration) -> Result<u64, StoreError> {
    let tries = sqlx::query!(
        "UPDATE recado.upstream_session
            SET next_try_at = clock_timestamp(), early_try_at = least(early_try_at, clock_timestamp())
          WHERE owner IS NULL AND state NOT IN ('refused', 'idle', 'released')
            AND next_try_at > statement_timestamp() + make_interval(secs => $1)",
        LONGEST_WAIT.as_secs_f64(),
    )
    .execute(&mut *connection);
    let tries = limited(ASK_LIMIT, tries).await?.rows_affected();
    let leases = sqlx::query!(
        "UPDATE recado.upstream_session
            SET lease_until = clock_timestamp() + make_interval(secs => $1), next_try_at = least(next_try_at, clock_timestamp())
          WHERE owner IS NOT NULL AND lease_until > statement_timestamp() + make_interval(secs => $2)",
        lease.as_secs_f64(),
        LONGEST_LEASE.as_secs_f64(),
    )
    .execute(connection);
    Ok(tries + limited(ASK_LIMIT, leases).await?.rows_affected())
}
