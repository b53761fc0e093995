//! Records what figures depend on apart from the program, and checks the machine's fitness.

use std::time::Duration;

use recado::app;
use recado::cli::error::CliFailure;
use serde::{Deserialize, Serialize};

use super::ceilings::Yardstick;
use super::ground::Ground;
use super::times::SortedTimes;
use super::yardstick;

/// Files that a process needs in addition to its sockets. The hub reserves as many.
const FILES_RESERVED: usize = 200;

/// How long commits are timed.
const COMMITS_TIME: Duration = Duration::from_millis(300);

/// Facts that figures depend on apart from the program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BenchMachine {
    cores: usize,
    postgresql: String,
    /// Median time of one small durable commit; absent where the bench may not create a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit_ms: Option<f64>,
    /// The load before the bench began.
    load: Option<f64>,
    /// Whether the program is a release build.
    release: bool,
}

impl BenchMachine {
    /// `load` is the load before the bench began.
    pub async fn facts(ground: &Ground, load: Option<f64>) -> Result<Self, CliFailure> {
        let mut connection = ground.database().connect("bench").await?;
        Ok(Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            postgresql: yardstick::server_version(&mut connection).await?,
            commit_ms: commit_ms(ground).await.ok(),
            load,
            release: !cfg!(debug_assertions),
        })
    }
}

async fn commit_ms(ground: &Ground) -> Result<f64, CliFailure> {
    let mut yardstick = Yardstick::make(ground).await?;
    let times = yardstick.bare_commits(COMMITS_TIME).await;
    yardstick.unmake().await?;
    Ok((SortedTimes::new(times?).percentile_ms(50.0) * 1000.0).round() / 1000.0)
}

/// Checks that a process can open so many sockets. The hub inherits the bench's limit.
pub fn enough_files(sockets: usize) -> Result<(), CliFailure> {
    let needed = sockets + FILES_RESERVED;
    match app::open_file_limit() {
        Some(limit) if limit < needed => Err(CliFailure::settings(format!(
            "{sockets} connections need {needed} open files, and the limit here is {limit}: ulimit -n {needed}, or fewer connections"
        ))),
        _ => Ok(()),
    }
}

pub fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Warns of other programs' load before the bench began. It costs the hub more than a single connection of plain SQL: a
/// chain of processes waits for a processor at every step.
pub fn other_work(load: f64) -> Option<String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let disturbs = load > processors as f64 / 2.0;
    disturbs.then(|| format!("the load was {load} on {processors} processors before the bench began: other work disturbs these figures"))
}
