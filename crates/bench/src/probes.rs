//! Asks the single questions of `recado-bench growth`, each many times.
//!
//! The result is the median in milliseconds.

use std::time::Duration;

use rand::random_range;
use recado::cli::error::CliFailure;
use recado::domain::{ClientId, Principal, Seq, UserId};
use recado::store::acked_positions::{self, DevicePosition};
use recado::store::device_expiry::{self, WalkPosition};
use recado::store::{read, retention, why};
use tokio::time::Instant;

use super::ground::Ground;
use super::post::{Mixture, user};
use super::times::SortedTimes;

/// How often a question is asked in a turn.
const ASKED: usize = 50;
/// How often a question that takes some milliseconds is asked.
const ASKED_RARELY: usize = 10;
/// Rows of a page. Few enough that two of three users have as many at each of their addresses in a log of 100 thousand
/// rows too, so a page there is not smaller.
const PAGE: i64 = 2;
/// No device is unused for this long: a step looks at every device and expires none.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Asks so many times and returns the median.
async fn median_of(times: usize, mut ask: impl AsyncFnMut() -> Result<(), CliFailure>) -> Result<f64, CliFailure> {
    // The first question only lets the connection plan its statement.
    ask().await?;
    let mut found = Vec::with_capacity(times);
    for _ in 0..times {
        let start = Instant::now();
        ask().await?;
        found.push(start.elapsed());
    }
    Ok(SortedTimes::new(found).percentile_ms(50.0))
}

fn any_user(mixture: Mixture) -> Result<UserId, CliFailure> {
    user(random_range(0..mixture.users.max(1)))
}

/// The newest page of any user.
pub async fn newest_pages(ground: &Ground, mixture: Mixture) -> Result<f64, CliFailure> {
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

/// The queries of `recado why` for any user and any notification.
pub async fn whys(ground: &Ground, mixture: Mixture) -> Result<f64, CliFailure> {
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

/// The log id, the head and the earliest row.
pub async fn heads(ground: &Ground) -> Result<f64, CliFailure> {
    let mut connection = ground.database().connect("bench").await?;
    median_of(ASKED, async || {
        read::state(&mut connection).await?;
        Ok(())
    })
    .await
}

/// The position of the first device of one of so many users.
pub async fn places(ground: &Ground, users: usize) -> Result<f64, CliFailure> {
    let mut connection = ground.database().connect("bench").await?;
    let state = read::state(&mut connection).await?;
    let reader = ground.database().reader("bench", 1);
    let client = ClientId::parse("device-0").map_err(|error| CliFailure::other(error.to_string()))?;
    let median = median_of(ASKED, async || {
        let place = DevicePosition { log_id: state.log_id, acked: state.head };
        acked_positions::place_or_start(&reader, &user(random_range(0..users))?, &client, place).await?;
        Ok(())
    });
    let median = median.await?;
    reader.close().await;
    Ok(median)
}

/// The queries of a round of retention before it drops a partition, or none.
pub async fn retention_looks(ground: &Ground) -> Result<f64, CliFailure> {
    let mut connection = ground.owned_database().connect("bench").await?;
    median_of(ASKED_RARELY, async || {
        read::state(&mut connection).await?;
        retention::partitions(&mut connection).await?;
        Ok(())
    })
    .await
}

/// One step of device expiry.
pub async fn device_steps(ground: &Ground) -> Result<f64, CliFailure> {
    let mut connection = ground.owned_database().connect("bench").await?;
    median_of(ASKED_RARELY, async || {
        device_expiry::step(&mut connection, NEVER, &WalkPosition::default()).await?;
        Ok(())
    })
    .await
}
