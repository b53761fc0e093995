//! What any instance may do at any time: end what nobody will end.

use sqlx::PgConnection;

use crate::metrics::UPSTREAM_COMMANDS;
use crate::store::StoreError;
use crate::store::database::{ASK_LIMIT, limited};

/// Most rows of one step, so that its locks are short.
const STEP_ROWS: i64 = 1000;

/// What a round of chores has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ended {
    /// Commands that nobody took in time.
    pub rejected: u64,
    /// Commands whose owner was lost.
    pub unknown: u64,
    /// Sessions whose owner was lost and that nobody wants.
    pub released: u64,
}

/// Does all of it, a step each.
///
/// # Errors
/// When the database is away or slow. The next round goes on.
pub async fn round(connection: &mut PgConnection) -> Result<Ended, StoreError> {
    Ok(Ended {
        rejected: reject_stale(connection).await?,
        unknown: orphans(connection).await?,
        released: release_abandoned(connection).await?,
    })
}

/// Rejects the commands that nobody took in time. Taking one compares with the same moment the other way round, and both
/// change it only from `accepted`: none is rejected and sent.
///
/// # Errors
/// When the database is away or slow.
pub async fn reject_stale(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let rejected = sqlx::query_scalar!(
        r#"WITH stale AS (
               SELECT c.command_id
                 FROM recado.upstream_command c
                WHERE c.state = 'accepted' AND c.reject_at <= clock_timestamp()
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

/// Calls unknown what was taken under a lease that is over. A lease that is over never comes back, so no lock on the session
/// is needed; an owner that settles at the same moment is either first, and right, or too late.
///
/// # Errors
/// When the database is away or slow.
pub async fn orphans(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let marked = sqlx::query_scalar!(
        r#"WITH orphans AS (
               SELECT c.command_id
                 FROM recado.upstream_command c
                WHERE c.state = 'sending'
                  -- Whoever gives a session back may still be settling its last commands.
                  AND c.taken_at < clock_timestamp() - interval '5 seconds'
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

/// Ends the sessions whose owner is lost and that nobody wants: nobody will claim them, and their rows should not say that
/// they are live.
///
/// # Errors
/// When the database is away or slow.
pub async fn release_abandoned(connection: &mut PgConnection) -> Result<u64, StoreError> {
    let released = sqlx::query_scalar!(
        r#"WITH abandoned AS (
               SELECT s.provider, s.user_id
                 FROM recado.upstream_session s
                WHERE s.owner IS NOT NULL AND s.lease_until <= clock_timestamp() AND s.wanted_until <= clock_timestamp()
                LIMIT $1
                  FOR UPDATE SKIP LOCKED),
           released AS (
               UPDATE recado.upstream_session s
                  SET owner = NULL, lease_until = NULL, state = 'released', was_live = false, updated_at = clock_timestamp(),
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
