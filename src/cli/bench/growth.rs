//! `recado bench growth`: whether what a hub does costs the same in a short log and in a long one.

use std::time::Duration;

use clap::Args;
use tokio::time::Instant;

use super::ceilings::{Shape, append_times};
use super::curve::Curve;
use super::figure::Goal;
use super::fill::{Filling, fill, fill_devices};
use super::ground::Ground;
use super::post::{Mixture, user};
use super::probes;
use super::report::Report;
use super::resume::append_missed;
use super::times::Times;
use crate::cli::error::Failure;
use crate::domain::{Principal, Seq, UserId};
use crate::store::{Reader, read, yardstick};

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
    /// Lengths that are measured, these two among them
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=20))]
    points: u8,
    /// Fill without waiting for the disk; what is measured waits for it all the same
    #[arg(long)]
    relaxed: bool,
}

/// The costs in one log: medians, in milliseconds.
struct Costs {
    rows: u64,
    medians: Vec<(&'static str, f64)>,
    filled_per_s: f64,
    rows_at_end: f64,
}

impl Growth {
    pub async fn run(&self, ground: &Ground) -> Result<Report, Failure> {
        if self.large <= self.small {
            return Err(Failure::other("--large must be above --small"));
        }
        let mut found = Vec::new();
        for rows in self.lengths() {
            let devices = u64::from(self.devices) * rows / self.large;
            found.push(self.costs_at(ground, rows, usize::try_from(devices).unwrap_or(0).max(1)).await?);
        }
        let (Some(small), Some(large)) = (found.first(), found.last()) else { return Err(Failure::other("no length was measured")) };
        let mut report = Report::new("growth");
        report.setting("small", self.small);
        report.setting("large", self.large);
        report.setting("devices", self.devices);
        report.setting("relaxed", self.relaxed);
        for ((name, large), (_, small)) in large.medians.iter().zip(&small.medians) {
            let [at_large, at_small] = ["large", "small"].map(|length| format!("{name}_{length}_p50_ms"));
            report.figure(at_large, *large, "ms").beside(at_small, *small).goal(Goal::AtMost(1.2));
        }
        report.figure("fill_large_per_s", large.filled_per_s, "rows/s").beside("fill_small_per_s", small.filled_per_s);
        report.figure("rows_large_at_end", large.rows_at_end, "rows").beside("rows_small_at_end", small.rows_at_end);
        report.note("measuring appends as well: the logs at the end are longer than they were filled");
        let mut curve = Curve::new("log", "What a hub asks of a log, by the log's length", "rows", "ms");
        for costs in &found {
            costs.medians.iter().for_each(|(name, median)| curve.point(name, costs.rows as f64, *median));
        }
        report.curves.push(curve);
        Ok(report)
    }

    /// From the short log to the long one, each as many times as long as the one before.
    fn lengths(&self) -> Vec<u64> {
        let steps = f64::from(self.points.max(2) - 1);
        let times = self.large as f64 / self.small as f64;
        let between = (1..self.points.max(2) - 1).map(|n| (self.small as f64 * times.powf(f64::from(n) / steps)).round() as u64);
        std::iter::once(self.small).chain(between).chain([self.large]).collect()
    }

    /// Fills the log up to so many rows and measures there.
    async fn costs_at(&self, ground: &Ground, rows: u64, devices: usize) -> Result<Costs, Failure> {
        let head = u64::try_from(ground.head().await?.get()).unwrap_or(0);
        let missing = rows.saturating_sub(head);
        eprintln!("filling the log up to {rows} rows");
        let filling = Filling { mixture: MIXTURE, size: SIZE, keyed: true, relaxed: self.relaxed };
        let time = fill(ground, filling, missing).await?;
        fill_devices(ground, MIXTURE, devices).await?;
        // Otherwise the server does it when it likes, beside what is measured.
        eprintln!("vacuuming");
        yardstick::tidy_up(&mut ground.owned_database().connect("bench").await?).await?;
        eprintln!("measuring at {rows} rows");
        // A line each; the last makes the log longer.
        let medians = vec![
            ("append_1", appends(ground, 1, SINGLE_APPENDS).await?),
            ("resume_100", resumes(ground).await?),
            ("newest_page", probes::newest_pages(ground, MIXTURE).await?),
            ("why", probes::whys(ground, MIXTURE).await?),
            ("head", probes::heads(ground).await?),
            ("place", probes::places(ground, MIXTURE).await?),
            ("retention_look", probes::retention_looks(ground).await?),
            ("device_step", probes::device_steps(ground).await?),
            ("append_100", appends(ground, BATCH, BATCH_APPENDS).await?),
        ];
        let filled_per_s = missing as f64 / time.as_secs_f64();
        // Measuring at a shorter length may have made it longer than this one.
        let rows = rows.max(head);
        Ok(Costs { rows, medians, filled_per_s, rows_at_end: ground.head().await?.get() as f64 })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_length_is_as_many_times_as_long_as_the_one_before() {
        let growth = |points| Growth { small: 100, large: 10_000, devices: 1, points, relaxed: false };
        assert_eq!(growth(2).lengths(), [100, 10_000]);
        assert_eq!(growth(3).lengths(), [100, 1000, 10_000]);
        assert_eq!(growth(5).lengths(), [100, 316, 1000, 3162, 10_000]);
    }
}
