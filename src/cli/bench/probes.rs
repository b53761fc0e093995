//! Single questions of `recado bench growth`, each asked many times; the median counts, in milliseconds.

use std::time::Duration;

use rand::random_range;
use tokio::time::Instant;

use super::ground::Ground;
use super::post::{Mixture, user};
use super::times::Times;
use crate::cli::error::Failure;
use crate::domain::{ClientId, Principal, Seq, UserId};
use crate::store::cursors::{self, Place};
use crate::store::idle::{self, Stand};
use crate::store::{read, retention, why};

/// How often a question is asked in a turn.
const ASKED: usize = 50;
/// How often a question is asked that takes some milliseconds.
const ASKED_RARELY: usize = 10;
/// Rows of a page. Few enough that two of three users have so many at each of their addresses in a log of 100 thousand rows as well: a page is
/// not smaller there.
const PAGE: i64 = 2;
/// Nobody is as idle as this: a step looks at every device and forgets none.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Asks so many times.
async fn median_of(times: usize, mut ask: impl AsyncFnMut() -> Result<(), Failure>) -> Result<f64, Failure> {
    // A connection plans its first question.
    ask().await?;
    let mut found = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        ask().await?;
        found.push(start.elapsed());
    }
    Ok(Times::new(found).percentile_ms(50.0))
}

fn any_user(mixture: Mixture) -> Result<UserId, Failure> {
    user(random_range(0..mixture.users.max(1)))
}

/// The newest page of any user.
pub async fn newest_pages(ground: &Ground, mixture: Mixture) -> Result<f64, Failure> {
    let head = ground.head().await?;
    let reader = ground.database().reader("bench", 1);
    let median = median_of(ASKED, async || {
        let who = Principal { user: any_user(mixture)?, accounts: Vec::new() };
        read::page_before(&reader, &who, head.next(), Seq::ZERO, PAGE).await?;
        Ok(())
    });
    let median = median.await?;
    reader.close().await;
    Ok(median)
}

/// What `recado why` asks about any user and any notification.
pub async fn whys(ground: &Ground, mixture: Mixture) -> Result<f64, Failure> {
    let head = ground.head().await?.get();
    let reader = ground.database().reader("bench", 1);
    let median = median_of(ASKED, async || {
        why::facts(&reader, &any_user(mixture)?, Seq::from_db(random_range(1..=head.max(1)))).await?;
        Ok(())
    });
    let median = median.await?;
    reader.close().await;
    Ok(median)
}

/// The log's id and its ends.
pub async fn heads(ground: &Ground) -> Result<f64, Failure> {
    let mut connection = ground.database().connect("bench").await?;
    median_of(ASKED, async || {
        read::state(&mut connection).await?;
        Ok(())
    })
    .await
}

/// The place of the first device of any of so many users.
pub async fn places(ground: &Ground, users: usize) -> Result<f64, Failure> {
    let mut connection = ground.database().connect("bench").await?;
    let state = read::state(&mut connection).await?;
    let reader = ground.database().reader("bench", 1);
    let client = ClientId::parse("device-0").map_err(|error| Failure::other(error.to_string()))?;
    let median = median_of(ASKED, async || {
        let place = Place { log_id: state.log_id, acked: state.head };
        cursors::place_or_start(&reader, &user(random_range(0..users))?, &client, place).await?;
        Ok(())
    });
    let median = median.await?;
    reader.close().await;
    Ok(median)
}

/// What a round of retention looks at before it drops a partition, or none.
pub async fn retention_looks(ground: &Ground) -> Result<f64, Failure> {
    let mut connection = ground.owned_database().connect("bench").await?;
    median_of(ASKED_RARELY, async || {
        read::state(&mut connection).await?;
        retention::partitions(&mut connection).await?;
        Ok(())
    })
    .await
}

/// One step of the walk through the devices.
pub async fn device_steps(ground: &Ground) -> Result<f64, Failure> {
    let mut connection = ground.owned_database().connect("bench").await?;
    median_of(ASKED_RARELY, async || {
        idle::step(&mut connection, NEVER, &Stand::default()).await?;
        Ok(())
    })
    .await
}
