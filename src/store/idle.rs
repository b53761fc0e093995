//! Devices that are not used any more: their places go, and a mark stays for whoever comes back.
//!
//! A browser that makes up a new `client_id` at each visit leaves a row each time. There is no index by time (it would be
//! written with every acknowledgement), so the table is walked in the order of its key, some thousand rows a round, for ever;
//! how far the walk has come is stored. What a step does and why it cannot deadlock: `recado.forget_devices` in
//! `migrations/V7__devices.sql`. Called under the lock of [`super::retention`], by one instance at a time.

use std::time::Duration;

use sqlx::PgConnection;

use super::StoreError;
use super::database::{ASK_LIMIT, limited};

/// Devices of one step: a transaction of some milliseconds. No more than the client ids that a mark remembers one by one.
const STEP_ROWS: i32 = 1000;
/// Longest wait for a step: nobody waits for it, and a busy machine may take seconds.
const STEP_LIMIT: Duration = Duration::from_secs(10);
/// Steps of one round: a round of two hundred thousand devices then takes ten rounds, some minutes.
const STEPS: u32 = 20;

/// How far one round looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Every device.
    All,
    /// Some thousand, from where the last round stopped.
    Part,
}

/// Where the walk stands: after this device, in the order of the table's key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stand {
    user: String,
    client: String,
}

/// What a step came to.
#[derive(Debug)]
pub struct Step {
    pub forgotten: u64,
    /// Where the next step begins; `None` when this was the last of the table.
    pub next: Option<Stand>,
}

/// Forgets the devices that were not here for `age`; how many that were.
///
/// # Errors
/// When the database is away or slow. What was forgotten until then is forgotten; a later round goes on there.
pub async fn forget(connection: &mut PgConnection, age: Duration, reach: Reach) -> Result<u64, StoreError> {
    let mut stand = match reach {
        Reach::All => Stand::default(),
        Reach::Part => stored(connection).await?,
    };
    let (mut forgotten, mut steps) = (0, 0);
    loop {
        let step = step(connection, age, &stand).await?;
        forgotten += step.forgotten;
        steps += 1;
        let ends = step.next.is_none() || reach == Reach::Part && steps >= STEPS;
        stand = step.next.unwrap_or_default();
        if ends {
            break;
        }
    }
    if reach == Reach::Part {
        store(connection, &stand).await?;
    }
    Ok(forgotten)
}

/// One step of the walk.
///
/// # Errors
/// As [`forget`].
pub async fn step(connection: &mut PgConnection, age: Duration, stand: &Stand) -> Result<Step, StoreError> {
    let done = sqlx::query!(
        r#"SELECT looked AS "looked!", forgotten AS "forgotten!", last_user_id, last_client_id
             FROM recado.forget_devices($1, $2, $3, $4)"#,
        stand.user,
        stand.client,
        STEP_ROWS,
        age.as_secs_f64(),
    )
    .fetch_one(connection);
    let done = limited(STEP_LIMIT, done).await?;
    let next = done.last_user_id.zip(done.last_client_id).filter(|_| done.looked == STEP_ROWS);
    Ok(Step { forgotten: u64::try_from(done.forgotten).unwrap_or(0), next: next.map(|(user, client)| Stand { user, client }) })
}

async fn stored(connection: &mut PgConnection) -> Result<Stand, StoreError> {
    let stand = sqlx::query_as!(Stand, r#"SELECT user_id AS "user", client_id AS "client" FROM recado.device_walk"#);
    limited(ASK_LIMIT, stand.fetch_one(connection)).await
}

async fn store(connection: &mut PgConnection, stand: &Stand) -> Result<(), StoreError> {
    let stored = sqlx::query!(
        "UPDATE recado.device_walk SET user_id = $1, client_id = $2 WHERE (user_id, client_id) <> ($1, $2)",
        stand.user,
        stand.client,
    );
    limited(ASK_LIMIT, stored.execute(connection)).await?;
    Ok(())
}
