//! The machine that a bench runs on: what its figures depend on beside the program, and whether it is fit for them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::ceilings::Yardstick;
use super::ground::Ground;
use super::times::Times;
use crate::app;
use crate::cli::error::Failure;
use crate::store::yardstick;

/// Files that a process needs beside its sockets; the hub keeps as many for itself.
const FILES_RESERVED: usize = 200;

/// How long commits are timed.
const COMMITS_TIME: Duration = Duration::from_millis(300);

/// What figures depend on beside the program.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Machine {
    cores: usize,
    postgresql: String,
    /// One small durable commit, the median; absent where the bench may not make a table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commit_ms: Option<f64>,
    /// The load before the bench began.
    load: Option<f64>,
    /// Whether the program was built for speed.
    release: bool,
}

impl Machine {
    /// `load`: before the bench began.
    pub async fn facts(ground: &Ground, load: Option<f64>) -> Result<Self, Failure> {
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

async fn commit_ms(ground: &Ground) -> Result<f64, Failure> {
    let mut yardstick = Yardstick::make(ground).await?;
    let times = yardstick.bare_commits(COMMITS_TIME).await;
    yardstick.unmake().await?;
    Ok((Times::new(times?).percentile_ms(50.0) * 1000.0).round() / 1000.0)
}

/// A process can have so many sockets; the hub inherits the bench's limit.
pub fn enough_files(sockets: usize) -> Result<(), Failure> {
    let needed = sockets + FILES_RESERVED;
    match app::open_file_limit() {
        Some(limit) if limit < needed => Err(Failure::settings(format!(
            "{sockets} connections need {needed} open files, and the limit here is {limit}: ulimit -n {needed}, or fewer connections"
        ))),
        _ => Ok(()),
    }
}

pub fn load() -> Option<f64> {
    std::fs::read_to_string("/proc/loadavg").ok()?.split_whitespace().next()?.parse().ok()
}

/// Work of others before the bench began. It costs the hub more than a single connection of plain SQL: what waits for a
/// processor at every step of a chain of processes waits more often.
pub fn other_work(load: f64) -> Option<String> {
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let disturbs = load > processors as f64 / 2.0;
    disturbs.then(|| format!("the load was {load} on {processors} processors before the bench began: other work disturbs these figures"))
}
