//! `recado bench growth`: whether what a hub does costs the same in a short log and in a long one.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::ceilings::{Shape, append_times};
use super::fill::{Filling, fill, fill_devices};
use super::ground::Ground;
use super::post::{Mixture, user};
use super::probes;
use super::report::{Goal, Report, Times};
use super::resume::append_missed;
use crate::cli::error::Failure;
use crate::domain::{Principal, Seq, UserId};
use crate::store::{Reader, read};

/// The mixture that fills the log.
const MIXTURE: Mixture = Mixture { users: 20_000, accounts: 1000 };
/// Bytes of a post's body, about.
const SIZE: usize = 300;
/// Appends of one measurement; the larger ones make the short log longer, so they come last and are fewer.
const SINGLE_APPENDS: usize = 1000;
const BATCH_APPENDS: usize = 500;
/// Rows of the larger appends.
const BATCH: usize = 100;
/// Who resumes, and how many rows each has missed.
const RESUMING: usize = 200;
const MISSED: usize = 100;
/// How often each of them reads.
const READINGS: usize = 3;
/// How long the server may tidy up after the filling.
const SETTLE: Duration = Duration::from_secs(5);

/// What a hub does, in a short log and in a long one, in a database of its own.
#[derive(Debug, Clone, Args)]
pub struct Growth {
    /// Rows of the short log
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    small: u64,
    /// Rows of the long log
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    large: u64,
    /// Devices beside the long log; beside the short one as many less as it is shorter
    #[arg(long, default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    devices: u32,
    /// Fill without waiting for the disk; what is measured waits for it all the same
    #[arg(long)]
    relaxed: bool,
}

/// The costs in one log: medians, in milliseconds, under their names in the long and in the short one.
struct Costs {
    medians: Vec<([&'static str; 2], f64)>,
    filled_per_s: f64,
    rows_at_end: f64,
}

impl Growth {
    pub async fn run(&self, ground: &Ground) -> Result<Report, Failure> {
        if self.large <= self.small {
            return Err(Failure::other("--large must be above --small"));
        }
        let few = u64::from(self.devices) * self.small / self.large;
        let small = self.costs_at(ground, self.small, usize::try_from(few).unwrap_or(0).max(1)).await?;
        let large = self.costs_at(ground, self.large, self.devices as usize).await?;
        let mut report = Report::new("growth");
        report.setting("small", self.small);
        report.setting("large", self.large);
        report.setting("devices", self.devices);
        report.setting("relaxed", self.relaxed);
        for (([name, _], large), ([_, small_name], small)) in large.medians.into_iter().zip(small.medians) {
            report.figure(name, large, "ms").beside(small_name, small).goal(Goal::AtMost(1.2));
        }
        report.figure("fill_large_per_s", large.filled_per_s, "rows/s").beside("fill_small_per_s", small.filled_per_s);
        report.figure("rows_large_at_end", large.rows_at_end, "rows").beside("rows_small_at_end", small.rows_at_end);
        report.note("measuring appends as well: the logs at the end are longer than they were filled");
        Ok(report)
    }

    /// Fills the log up to so many rows and measures there.
    async fn costs_at(&self, ground: &Ground, rows: u64, devices: usize) -> Result<Costs, Failure> {
        let head = u64::try_from(ground.head().await?.get()).unwrap_or(0);
        let missing = rows.saturating_sub(head);
        eprintln!("filling the log up to {rows} rows");
        let filling = Filling { mixture: MIXTURE, size: SIZE, keyed: true, relaxed: self.relaxed };
        let time = fill(ground, filling, missing).await?;
        fill_devices(ground, MIXTURE, devices).await?;
        tokio::time::sleep(SETTLE).await;
        eprintln!("measuring at {rows} rows");
        // A line each; the same names at both lengths.
        let medians = vec![
            (["append_1_large_p50_ms", "append_1_small_p50_ms"], appends(ground, 1, SINGLE_APPENDS).await?),
            (["resume_100_large_p50_ms", "resume_100_small_p50_ms"], resumes(ground).await?),
            (["newest_page_large_p50_ms", "newest_page_small_p50_ms"], probes::newest_pages(ground, MIXTURE).await?),
            (["head_large_p50_ms", "head_small_p50_ms"], probes::heads(ground).await?),
            (["place_large_p50_ms", "place_small_p50_ms"], probes::places(ground, MIXTURE).await?),
            (["retention_look_large_p50_ms", "retention_look_small_p50_ms"], probes::retention_looks(ground).await?),
            (["device_step_large_p50_ms", "device_step_small_p50_ms"], probes::device_steps(ground).await?),
            (["append_100_large_p50_ms", "append_100_small_p50_ms"], appends(ground, BATCH, BATCH_APPENDS).await?),
        ];
        let filled_per_s = missing as f64 / time.as_secs_f64();
        Ok(Costs { medians, filled_per_s, rows_at_end: ground.head().await?.get() as f64 })
    }
}

/// The median time of an append of so many rows.
async fn appends(ground: &Ground, batch: usize, count: usize) -> Result<f64, Failure> {
    let mut connection = ground.database().connect("bench").await?;
    let shape = Shape { batch, size: SIZE, users: MIXTURE.users, keyed: true };
    Ok(append_times(&mut connection, shape, count).await?.percentile_ms(50.0))
}

/// The median time of the one page that a client with a hundred missed rows needs.
async fn resumes(ground: &Ground) -> Result<f64, Failure> {
    let users: Vec<UserId> = (0..RESUMING).map(|n| user(MIXTURE.users + n)).collect::<Result<_, _>>()?;
    let from = ground.head().await?;
    append_missed(ground, &users, MISSED).await?;
    let upto = ground.head().await?;
    let reader = ground.database().reader("bench", 1);
    // A connection plans its first page.
    one_page(&reader, &users[0], from, upto).await?;
    let mut times = Vec::with_capacity(READINGS * RESUMING);
    for _ in 0..READINGS {
        for user in &users {
            times.push(one_page(&reader, user, from, upto).await?);
        }
    }
    reader.close().await;
    Ok(Times::new(times).percentile_ms(50.0))
}

async fn one_page(reader: &Reader, user: &UserId, from: Seq, upto: Seq) -> Result<Duration, Failure> {
    let who = Principal { user: user.clone(), accounts: Vec::new() };
    let start = Instant::now();
    let page = read::page(reader, &who, from, upto).await?;
    let time = start.elapsed();
    if page.notifications.len() != MISSED {
        return Err(Failure::other(format!("a page had {} rows instead of {MISSED}", page.notifications.len())));
    }
    Ok(time)
}
