//! Takes and gives back leases, so that one instance at a time does a job.
//!
//! A lease is a row that expires by the database's clock, not a lock of a session: a pooler keeps the session of a dead
//! hub open, and any login of the database may take an advisory lock.

use std::time::Duration;

use sqlx::PgConnection;
use uuid::Uuid;

use super::StoreError;
use super::time_limit::{ASK_LIMIT, limited};

/// Takes or renews the lease of this name, for `time` from now. Returns whether `holder` has it.
///
/// # Errors
/// When the database is unavailable.
pub async fn take(connection: &mut PgConnection, name: &str, holder: Uuid, time: Duration) -> Result<bool, StoreError> {
    let seconds = i32::try_from(time.as_secs()).unwrap_or(i32::MAX);
    let taken = sqlx::query_scalar!(r#"SELECT recado.take_lease($1, $2, $3) AS "taken!""#, name, holder, seconds);
    limited(ASK_LIMIT, taken.fetch_one(connection)).await
}

/// Gives the lease back, so that the next instance need not wait until it expires.
///
/// # Errors
/// When the database is unavailable; the lease then expires by itself.
pub async fn give_back(connection: &mut PgConnection, name: &str, holder: Uuid) -> Result<(), StoreError> {
    let given = sqlx::query!("SELECT recado.give_lease($1, $2)", name, holder);
    limited(ASK_LIMIT, given.execute(connection)).await?;
    Ok(())
}
