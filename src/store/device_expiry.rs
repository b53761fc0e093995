//! Deletes the positions of unused devices, and leaves a mark for devices that return.
//!
//! A browser that makes up a new `client_id` at each visit leaves a row each time. There is no index by time, because
//! it would be written with every acknowledgement. So the table is walked in the order of its key, some thousand rows a
//! round, for ever. The position of the walk is stored. `recado.forget_devices` in `migrations/V7__devices.sql`
//! explains a step and why it cannot deadlock. One instance at a time calls this module, under the lock of
//! [`super::retention`].

use std::time::Duration;

use sqlx::PgConnection;

use super::StoreError;
use super::time_limit::{ASK_LIMIT, limited};

/// Devices of one step: a transaction of some milliseconds. At most as many as the client ids that a mark lists.
const STEP_ROWS: i32 = 1000;
/// Longest wait for a step. No request waits for it, and a busy machine may take seconds.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// Steps of one round. A walk over two hundred thousand devices takes ten rounds, which are some minutes.
const STEPS: u32 = 20;

/// How many devices one round covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpiryReach {
    /// Every device.
    All,
    /// Some thousand devices, from where the last round stopped.
    Part,
}

/// The position of the walk: after this device, in the order of the table's key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WalkPosition {
    user: String,
    client: String,
}

/// The result of a step.
#[derive(Debug)]
pub struct WalkStep {
    pub forgotten: u64,
    /// Where the next step begins; `None` at the end of the table.
    pub next: Option<WalkPosition>,
}

/// Deletes the positions of devices that were not seen for `age`. Returns how many were deleted.
///
/// # Errors
/// When the database is unavailable or slow. Earlier deletions remain; a later round continues there.
pub async fn forget(connection: &mut PgConnection, age: Duration, reach: ExpiryReach) -> Result<u64, StoreError> {
    let mut walk = match reach {
        ExpiryReach::All => WalkPosition::default(),
        ExpiryReach::Part => stored(connection).await?,
    };
    let (mut forgotten, mut steps) = (0, 0);
    loop {
        let step = step(connection, age, &walk).await?;
        forgotten += step.forgotten;
        steps += 1;
        let ends = step.next.is_none() || reach == ExpiryReach::Part && steps >= STEPS;
        walk = step.next.unwrap_or_default();
        if ends {
            break;
        }
    }
    if reach == ExpiryReach::Part {
        store(connection, &walk).await?;
    }
    Ok(forgotten)
}

/// One step of the walk.
///
/// # Errors
/// As [`forget`].
pub async fn step(connection: &mut PgConnection, age: Duration, walk: &WalkPosition) -> Result<WalkStep, StoreError> {
    let done = sqlx::query!(
        r#"SELECT looked AS "looked!", forgotten AS "forgotten!", last_user_id, last_client_id
             FROM recado.forget_devices($1, $2, $3, $4)"#,
        walk.user,
        walk.client,
        STEP_ROWS,
        age.as_secs_f64(),
    )
    .fetch_one(connection);
    let done = limited(STEP_LIMIT, done).await?;
    let next = done.last_user_id.zip(done.last_client_id).filter(|_| done.looked == STEP_ROWS);
    Ok(WalkStep { forgotten: u64::try_from(done.forgotten).unwrap_or(0), next: next.map(|(user, client)| WalkPosition { user, client }) })
}

async fn stored(connection: &mut PgConnection) -> Result<WalkPosition, StoreError> {
    let walk = sqlx::query_as!(WalkPosition, r#"SELECT user_id AS "user", client_id AS "client" FROM recado.device_walk"#);
    limited(ASK_LIMIT, walk.fetch_one(connection)).await
}

async fn store(connection: &mut PgConnection, walk: &WalkPosition) -> Result<(), StoreError> {
    let stored = sqlx::query!(
        "UPDATE recado.device_walk SET user_id = $1, client_id = $2 WHERE (user_id, client_id) <> ($1, $2)",
        walk.user,
        walk.client,
    );
    limited(ASK_LIMIT, stored.execute(connection)).await?;
    Ok(())
}
