//! Counts what single operations cost the database. They run one after another, so that no clock decides how many of
//! them share a transaction.

use std::time::Duration;

use recado::cli::error::CliFailure;

use super::super::crowd::{self, Crowd};
use super::super::database_counts::{StatementCount, since};
use super::super::ground::BenchHub;
use super::super::meter::{Cost, Meter};
use super::super::post::{Post, user};
use super::super::post_client::PostClient;
use super::super::ws_client::WsClient;
use super::{PeersRun, SIZE};

/// Time after which the outbox relay of an idle hub sleeps. Until then it looks 12 times a second.
const ASLEEP: Duration = Duration::from_secs(6);
/// How long an idle hub is watched, to tell its own statements from those of the work. The rarest but those of each
/// minute are sent every 20 s.
const IDLE: Duration = Duration::from_secs(22);
/// Time after which the hub has written what it writes later, such as acknowledgements and ends of sessions.
const SETTLED: Duration = Duration::from_millis(1500);
/// Items of a counted batch.
const BATCH: usize = 100;
/// Batches that are counted.
const BATCHES: usize = 20;
/// Posts to everyone that are counted.
const BROADCASTS: usize = 4;
const DEVICE: &str = "client_id=counted";

/// What a hub without work does.
struct Idle {
    cost: Cost,
    statements: Vec<StatementCount>,
}

impl Idle {
    fn sends(&self, text: &str) -> bool {
        self.statements.iter().any(|one| one.text == text)
    }
}

impl PeersRun<'_> {
    pub(super) async fn counts(&mut self) -> Result<(), CliFailure> {
        eprintln!("counting statements, transactions and WAL of single operations");
        let hub = self.ground.hub().await?;
        let outcome = self.count_with(&hub).await;
        hub.stop().await?;
        outcome
    }

    async fn count_with(&mut self, hub: &BenchHub) -> Result<(), CliFailure> {
        let meter = self.meter(hub).await?;
        let times = self.sizes.counted;
        // The first operations plan statements, fill caches and write whole pages to the WAL.
        self.posts(hub, times / 4).await?;
        drop(self.connects(hub, times / 4, "client_id=warm").await?);
        tokio::time::sleep(SETTLED + ASLEEP).await;

        let listed = meter.statements().await?;
        let before = meter.now().await?;
        tokio::time::sleep(IDLE).await;
        let idle = Idle { cost: meter.now().await? - before, statements: since(&listed, meter.statements().await?) };
        self.print_statements("idle", 1, &idle.statements);
        if let Some(counts) = idle.cost.counts
            && let Some(statements) = counts.statements
        {
            // Without a unit that is compared: the hub's timers decide it.
            self.report.figure("idle_statements_per_s", statements as f64 / idle.cost.time.as_secs_f64(), "");
        }

        self.part(&meter, "post", times, &idle, async |run| run.posts(hub, times).await).await?;
        self.part(&meter, "batch_row", BATCHES * BATCH, &idle, async |run| run.batches(hub).await).await?;
        let mut sockets = Vec::new();
        self.part(&meter, "first_connect", times, &idle, async |run| {
            sockets = run.connects(hub, times, DEVICE).await?;
            Ok(())
        })
        .await?;
        drop(sockets);
        tokio::time::sleep(SETTLED).await;
        let mut sockets = Vec::new();
        self.part(&meter, "connect", times, &idle, async |run| {
            sockets = run.connects(hub, times, DEVICE).await?;
            Ok(())
        })
        .await?;
        let mut crowd = Crowd::of(sockets, BROADCASTS);
        self.part(&meter, "broadcast", BROADCASTS, &idle, async |run| crowd.post_to_all(run.ground, hub, BROADCASTS, SIZE).await).await?;
        crowd.leave().await?;
        Ok(())
    }

    /// Counts one kind of operation, with what the hub writes a moment later.
    async fn part(
        &mut self,
        meter: &Meter,
        name: &str,
        units: usize,
        idle: &Idle,
        work: impl AsyncFnOnce(&Self) -> Result<(), CliFailure>,
    ) -> Result<(), CliFailure> {
        let listed = meter.statements().await?;
        let before = meter.now().await?;
        work(self).await?;
        tokio::time::sleep(SETTLED).await;
        let cost = meter.now().await? - before;
        let ran = since(&listed, meter.statements().await?);
        self.print_statements(name, units, &ran);
        let caused = ran.iter().filter(|one| !idle.sends(&one.text)).map(|one| one.calls).sum();
        // The list needs the extension pg_stat_statements.
        let statements = cost.counts.and_then(|counts| counts.statements).map(|_| caused);
        self.counted(name, cost, idle.cost, statements, units);
        Ok(())
    }

    async fn posts(&self, hub: &BenchHub, times: usize) -> Result<(), CliFailure> {
        let mut client = PostClient::connect(hub.address, &self.ground.service_token()?).await?;
        for n in 0..times {
            client.post(&Post { n, size: SIZE }.body(&format!("\"user_id\":\"{}\"", user(n)?)), None).await?;
        }
        Ok(())
    }

    async fn batches(&self, hub: &BenchHub) -> Result<(), CliFailure> {
        let mut client = PostClient::connect_for(hub.address, &self.ground.service_token()?, "/api/internal/notify/batch").await?;
        let item = |n: usize| Post { n, size: SIZE }.body(&format!("\"user_id\":\"bench-{n}\""));
        let body = format!("{{\"items\":[{}]}}", (0..BATCH).map(item).collect::<Vec<_>>().join(","));
        for _ in 0..BATCHES {
            client.post(&body, None).await?;
        }
        Ok(())
    }

    async fn connects(&self, hub: &BenchHub, times: usize, device: &str) -> Result<Vec<WsClient>, CliFailure> {
        let mut sockets = Vec::with_capacity(times);
        for n in 0..times {
            sockets.push(crowd::connect_one(self.ground, hub, n, device).await?);
        }
        Ok(sockets)
    }
}
