//! Implements `recado-bench fill`: appends many rows quickly, through the function that every row passes.

use std::ops::Range;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use rand::random_range;
use recado::cli::error::CliFailure;
use recado::domain::{ClientId, NewNotification, Seq};
use recado::store::acked_positions::{self, Ack};
use recado::store::read;
use tokio::time::Instant;
use uuid::Uuid;

use super::ceilings::append_rows;
use super::ground::Ground;
use super::post::{Mixture, Post, user};
use super::report::Report;
use super::yardstick;

/// Rows of one append.
const BATCH: usize = 1000;

/// Fill the log of a database with a realistic mixture of notifications; they stay there
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
    /// Approximate bytes of a post's body
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(150..=60_000))]
    size: u16,
    /// Do not wait for the disk: a crash of the server loses the last rows
    #[arg(long)]
    relaxed: bool,
    /// Give each row an idempotency key
    #[arg(long)]
    keyed: bool,
    /// Devices with a position, divided among the users
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    devices: u32,
}

/// Contents of a filled log, and how it is written.
#[derive(Debug, Clone, Copy)]
pub struct FillPlan {
    pub mixture: Mixture,
    /// Approximate bytes of a post's body.
    pub size: usize,
    /// Whether each row has an idempotency key.
    pub keyed: bool,
    /// Whether commits return before the rows are on disk.
    pub relaxed: bool,
}

impl FillPlan {
    /// Builds the rows of this range.
    pub fn rows(self, which: Range<u64>) -> Result<Vec<NewNotification>, CliFailure> {
        let row = |n: u64| {
            let key = self.keyed.then(|| Uuid::new_v4().to_string());
            Ok(Post { n: usize::try_from(n).unwrap_or(0), size: self.size }.row(self.mixture.next()?, key))
        };
        which.map(row).collect()
    }
}

impl Fill {
    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        let mixture = Mixture { users: self.users as usize, accounts: self.accounts as usize };
        let filling = FillPlan { mixture, size: self.size.into(), keyed: self.keyed, relaxed: self.relaxed };
        let filled = fill(ground, filling, self.rows).await?;
        fill_devices(ground, mixture, self.devices as usize).await?;
        let mut report = Report::new("fill");
        report.setting("users", self.users);
        report.setting("accounts", self.accounts);
        report.setting("relaxed", self.relaxed);
        report.setting("keyed", self.keyed);
        report.setting("devices", self.devices);
        report.figure("rows", self.rows as f64, "rows");
        report.figure("rows_per_s", self.rows as f64 / filled.as_secs_f64(), "rows/s");
        report.figure("head", ground.head().await?.get() as f64, "");
        Ok(report)
    }
}

/// Appends so many rows; returns how long it took.
pub async fn fill(ground: &Ground, filling: FillPlan, rows: u64) -> Result<Duration, CliFailure> {
    let mut connection = ground.owned_database().connect("bench").await?;
    if filling.relaxed {
        yardstick::relax_commits(&mut connection).await?;
    }
    let mut head = read::state(&mut connection).await?.head;
    let bar = bar(rows);
    let start = Instant::now();
    let mut n = 0;
    while n < rows {
        let some = u64::min(BATCH as u64, rows - n);
        head = append_rows(&mut connection, head, &filling.rows(n..n + some)?).await?;
        n += some;
        bar.inc(some);
    }
    bar.finish_and_clear();
    Ok(start.elapsed())
}

/// Gives the users so many devices, with positions all over the log.
pub async fn fill_devices(ground: &Ground, mixture: Mixture, devices: usize) -> Result<(), CliFailure> {
    let mut connection = ground.database().connect("bench").await?;
    let state = read::state(&mut connection).await?;
    let device = |n: usize| -> Result<Ack, CliFailure> {
        let client =
            ClientId::parse(&format!("device-{}", n / mixture.users.max(1))).map_err(|error| CliFailure::other(error.to_string()))?;
        Ok(Ack { user: user(n % mixture.users.max(1))?, client, acked: Seq::from_db(random_range(0..=state.head.get())) })
    };
    for first in (0..devices).step_by(BATCH) {
        let mut some: Vec<Ack> = (first..devices.min(first + BATCH)).map(device).collect::<Result<_, _>>()?;
        some.sort_unstable();
        acked_positions::store(&mut connection, state.log_id, &some).await?;
    }
    Ok(())
}

/// Progress bar on stderr, where that is a terminal.
fn bar(rows: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {human_pos} of {human_len} rows, {per_sec}, {eta} left");
    ProgressBar::new(rows).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
