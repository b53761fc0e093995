//! Implements `recado-bench publish --batch`: batches over HTTP, compared with plain SQL's group commit.

use std::time::Duration;

use recado::cli::error::CliFailure;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::burst::USERS;
use super::ceilings::{RowShape, Yardstick};
use super::figure::Goal;
use super::ground::{BenchHub, Ground};
use super::joined::joined;
use super::post::Post;
use super::post_client::PostClient;
use super::report::Report;
use super::times::{SortedTimes, middle};

/// How long each ceiling is measured, before and after posting.
const CEILING_TIME: Duration = Duration::from_secs(2);

/// Shape of the posted batches.
#[derive(Debug, Clone, Copy)]
pub struct Batches {
    pub connections: usize,
    pub batch: usize,
    pub size: usize,
    pub keyed: bool,
    pub seconds: u64,
    pub rounds: u8,
}

/// Results of one round.
struct BatchRound {
    rows_per_s: f64,
    commit_rows: f64,
    append_per_s: f64,
    insert_per_s: f64,
    answers: Vec<Duration>,
}

impl Batches {
    pub async fn measure(self, ground: &Ground, yardstick: &mut Yardstick) -> Result<Report, CliFailure> {
        let mut rounds = Vec::new();
        for round in 1..=self.rounds {
            eprintln!(
                "round {round} of {}: batches of {} over {} connections for {} s",
                self.rounds, self.batch, self.connections, self.seconds
            );
            rounds.push(self.round(ground, yardstick).await?);
        }
        let mut report = Report::new("publish --batch");
        report.setting("connections", self.connections);
        report.setting("batch", self.batch);
        report.setting("seconds", self.seconds);
        report.setting("size", self.size);
        report.setting("keyed", self.keyed);
        let of = |value: fn(&BatchRound) -> f64| middle(&rounds, value);
        report.figure("rows_per_s", of(|r| r.rows_per_s), "rows/s");
        report.figure("ratio_to_sql_append", of(|r| r.rows_per_s / r.append_per_s), "").goal(Goal::AtLeast(0.85));
        report.figure("ratio_to_sql_insert", of(|r| r.rows_per_s / r.insert_per_s), "");
        report.figure("sql_append_per_s", of(|r| r.append_per_s), "rows/s");
        report.figure("sql_insert_per_s", of(|r| r.insert_per_s), "rows/s");
        report.figure("commit_rows", of(|r| r.commit_rows), "rows");
        let answers = SortedTimes::new(rounds.iter().flat_map(|r| r.answers.iter().copied()).collect());
        report.times(["answer_p50_ms", "answer_p90_ms", "answer_p99_ms", "answer_max_ms"], &answers);
        report.note(format!("medians of {} rounds; the ceilings of each round commit as many rows at once as the hub did", self.rounds));
        Ok(report)
    }

    async fn round(self, ground: &Ground, yardstick: &mut Yardstick) -> Result<BatchRound, CliFailure> {
        let hub = ground.hub().await?;
        let before = ground.head().await?;
        let start = Instant::now();
        let answers = self.burst(ground, &hub).await?;
        let rows_per_s = (answers.len() * self.batch) as f64 / start.elapsed().as_secs_f64();
        let after = ground.head().await?;
        // Stops the hub so that the ceilings have the machine to themselves.
        hub.stop().await?;
        let commit_rows = yardstick.batch_size(before, after).await?;
        let shape = RowShape { batch: commit_rows.round() as usize, size: self.size, users: USERS, keyed: self.keyed };
        let append_per_s = yardstick.appends(shape, CEILING_TIME).await?;
        let insert_per_s = yardstick.inserts(shape, CEILING_TIME).await?;
        eprintln!(
            "  {rows_per_s:.0} rows/s, {commit_rows:.0} a commit; plain SQL: append {append_per_s:.0}, insert {insert_per_s:.0} rows/s"
        );
        Ok(BatchRound { rows_per_s, commit_rows, append_per_s, insert_per_s, answers })
    }

    /// Posts on every connection as fast as answers come. Returns the time of each batch. A connection builds its body
    /// once: the client's time for that is not the hub's.
    async fn burst(self, ground: &Ground, hub: &BenchHub) -> Result<Vec<Duration>, CliFailure> {
        let token = ground.service_token()?;
        let end = Instant::now() + Duration::from_secs(self.seconds);
        let mut posting = JoinSet::new();
        for connection in 0..self.connections {
            let mut client = PostClient::connect_for(hub.address, &token, "/api/internal/notify/batch").await?;
            let item = |n: usize| Post { n, size: self.size }.body(&format!("\"user_id\":\"bench-{}\"", n % USERS));
            let items: Vec<String> = (0..self.batch).map(|n| item(connection * self.batch + n)).collect();
            let body = format!("{{\"items\":[{}]}}", items.join(","));
            posting.spawn(async move {
                let mut times = Vec::new();
                while Instant::now() < end {
                    let key = self.keyed.then(|| uuid::Uuid::now_v7().to_string());
                    let start = Instant::now();
                    client.post(&body, key.as_deref()).await?;
                    times.push(start.elapsed());
                }
                Ok(times)
            });
        }
        Ok(joined(posting).await?.concat())
    }
}
