//! Single questions of `recado bench growth`, each asked many times; the median counts, in milliseconds.

use std::time::Duration;

use rand::random_range;
use tokio::time::Instant;

use super::ground::Ground;
use super::post::{Mixture, user};
use super::report::Times;
use crate::cli::error::Failure;
use crate::domain::{ClientId, Principal, Seq};
use crate::store::cursors::{self, Place};
use crate::store::idle::{self, Stand};
use crate::store::{read, retention};

/// How often a question is asked.
const ASKED: usize = 500;
/// How often a question is asked that takes some milliseconds.
const ASKED_RARELY: usize = 50;
/// Rows of a page. Few enough that any user of the short log has them.
const PAGE: i64 = 5;
/// Nobody is as idle as this: a step looks at every device and forgets none.
const NEVER: Duration = Duration::from_secs(100 * 365 * 86_400);

fn median_of(mut times: Vec<Duration>) -> f64 {
    // A connection plans its first question.
    times.remove(0);
    Times::new(times).percentile_ms(50.0)
}

/// The newest page of any user.
pub async fn newest_pages(ground: &Ground, mixture: Mixture) -> Result<f64, Failure> {
    let head = ground.head().await?;
    let reader = ground.database().reader("bench", 1);
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let who = Principal { user: user(random_range(0..mixture.users.max(1)))?, accounts: Vec::new() };
        let start = Instant::now();
        read::page_before(&reader, &who, head.next(), Seq::ZERO, PAGE).await?;
        times.push(start.elapsed());
    }
    reader.close().await;
    Ok(median_of(times))
}

/// The log's id and its ends.
pub async fn heads(ground: &Ground) -> Result<f64, Failure> {
    let mut connection = ground.database().connect("bench").await?;
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let start = Instant::now();
        read::state(&mut connection).await?;
        times.push(start.elapsed());
    }
    Ok(median_of(times))
}

/// The place of any device.
pub async fn places(ground: &Ground, mixture: Mixture) -> Result<f64, Failure> {
    let mut connection = ground.database().connect("bench").await?;
    let state = read::state(&mut connection).await?;
    let reader = ground.database().reader("bench", 1);
    let client = ClientId::parse("device-0").map_err(|error| Failure::other(error.to_string()))?;
    let mut times = Vec::with_capacity(ASKED);
    for _ in 0..ASKED {
        let user = user(random_range(0..mixture.users.max(1)))?;
        let start = Instant::now();
        cursors::place_or_start(&reader, &user, &client, Place { log_id: state.log_id, acked: state.head }).await?;
        times.push(start.elapsed());
    }
    reader.close().await;
    Ok(median_of(times))
}

/// What a round of retention looks at before it drops a partition, or none.
pub async fn retention_looks(ground: &Ground) -> Result<f64, Failure> {
    let mut connection = ground.owned_database().connect("bench").await?;
    let mut times = Vec::with_capacity(ASKED_RARELY);
    for _ in 0..ASKED_RARELY {
        let start = Instant::now();
        read::state(&mut connection).await?;
        retention::partitions(&mut connection).await?;
        times.push(start.elapsed());
    }
    Ok(median_of(times))
}

/// One step of the walk through the devices.
pub async fn device_steps(ground: &Ground) -> Result<f64, Failure> {
    let mut connection = ground.owned_database().connect("bench").await?;
    let mut times = Vec::with_capacity(ASKED_RARELY);
    for _ in 0..ASKED_RARELY {
        let start = Instant::now();
        idle::step(&mut connection, NEVER, &Stand::default()).await?;
        times.push(start.elapsed());
    }
    Ok(median_of(times))
}
