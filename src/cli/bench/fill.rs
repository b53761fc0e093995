//! `recado bench fill`: a log of many rows, quickly, by the way that every row takes.

use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

use super::ceilings::append_rows;
use super::ground::Ground;
use super::post::{Mixture, Post};
use super::report::Report;
use crate::cli::error::Failure;
use crate::store::{read, yardstick};

/// Rows of one append.
const BATCH: usize = 1000;

/// Fill the log of a database with a realistic mixture of notifications. They stay there.
#[derive(Debug, Clone, Args)]
pub struct Fill {
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000_000))]
    rows: u64,
    /// Users that the notifications go to
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    users: u32,
    /// Accounts that the notifications go to
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    accounts: u32,
    /// Bytes of a post's body, about
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(150..=60_000))]
    size: u16,
    /// Do not wait for the disk: a crash of the server loses the last rows
    #[arg(long)]
    relaxed: bool,
}

impl Fill {
    pub async fn run(&self, ground: &Ground) -> Result<Report, Failure> {
        let mixture = Mixture { users: self.users as usize, accounts: self.accounts as usize };
        let filled = fill(ground, mixture, self.rows, self.size.into(), self.relaxed).await?;
        let mut report = Report::new("fill");
        report.setting("users", self.users);
        report.setting("accounts", self.accounts);
        report.setting("relaxed", self.relaxed);
        report.figure("rows", self.rows as f64, "rows");
        report.figure("rows_per_s", self.rows as f64 / filled.as_secs_f64(), "rows/s");
        report.figure("head", ground.head().await?.get() as f64, "");
        Ok(report)
    }
}

/// Appends so many rows; returns how long it took.
pub async fn fill(ground: &Ground, mixture: Mixture, rows: u64, size: usize, relaxed: bool) -> Result<Duration, Failure> {
    let mut connection = ground.owned_database().connect("bench").await?;
    if relaxed {
        yardstick::relax_commits(&mut connection).await?;
    }
    let mut head = read::state(&mut connection).await?.head;
    let bar = bar(rows);
    let start = Instant::now();
    let mut n = 0;
    while n < rows {
        let some = u64::min(BATCH as u64, rows - n);
        let batch: Vec<_> = (n..n + some)
            .map(|n| Ok(Post { n: usize::try_from(n).unwrap_or(0), size }.row(mixture.next()?, None)))
            .collect::<Result<_, Failure>>()?;
        head = append_rows(&mut connection, head, &batch).await?;
        n += some;
        bar.inc(some);
    }
    bar.finish_and_clear();
    Ok(start.elapsed())
}

/// On stderr, where that is a terminal.
fn bar(rows: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} rows, {per_sec}, {eta} left");
    ProgressBar::new(rows).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
