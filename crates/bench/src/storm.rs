//! Implements `recado-bench storm`: all clients are cut off, miss something and return at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use clap::Args;
use recado::cli::error::CliFailure;
use recado::domain::UserId;
use sqlx::PgConnection;
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::crowd;
use super::figure::Goal;
use super::ground::{BenchHub, Ground};
use super::joined::joined;
use super::meter::{Cost, Meter};
use super::plain_sockets;
use super::post::{Post, user};
use super::post_client::PostClient;
use super::report::Report;
use super::resume::pages_by_sql;
use super::returning::{Back, Returning};
use super::steady_poster::{SteadyPoster, SteadyReport};
use super::times::{SortedTimes, ms};
use super::yardstick;

/// How long posts are timed before the storm.
const CALM: Duration = Duration::from_secs(3);
/// The bench fails when not all clients are back within this time.
const BACK_LIMIT: Duration = Duration::from_secs(180);
/// Longest time until the last post reaches everyone.
const LAST_LIMIT: Duration = Duration::from_secs(60);
/// Items of one batch that is posted while the clients are away.
const BATCH: usize = 1000;
/// Bytes of a post's body.
const SIZE: usize = 300;
/// Interval between two counts of the database's connections.
const LOOK: Duration = Duration::from_millis(200);
/// Connections that the hub uses itself, in addition to those for resuming clients.
const OWN_CONNECTIONS: u32 = 8;

/// Measure a storm: all clients are cut off at once and miss something; the time until all are live again, and the time
/// of posts meanwhile
#[derive(Debug, Clone, Args)]
pub struct StormBench {
    /// Clients, each of another user. A hub may have twice as many sockets for a moment
    #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Notifications that each misses while it is away
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    missed: u32,
    /// Posts a second meanwhile, to a user of their own
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rate: u32,
    /// Milliseconds over which the clients spread their return
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    spread: u64,
    #[arg(skip = CALM)]
    calm: Duration,
}

pub struct StormFindings {
    away: Duration,
    all_back: Duration,
    pub times: SortedTimes,
    pub frame_bytes: usize,
    pub retries: u32,
    calm: SteadyReport,
    pub posted: SteadyReport,
    connections: i64,
    /// Cost from the return until all clients were live.
    pub cost: Cost,
}

impl StormFindings {
    /// Time from the return until all clients were live.
    pub fn back(&self) -> Duration {
        self.all_back.saturating_sub(self.away)
    }
}

impl StormBench {
    /// A storm without a calm before it.
    pub fn at_once(clients: u32, missed: u32, rate: u32) -> Self {
        Self { clients, missed, rate, spread: 0, calm: Duration::ZERO }
    }

    /// Sockets of one process. The hub may still hold the old ones when the new ones come.
    pub fn sockets(&self) -> usize {
        2 * self.clients as usize
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        let users: Vec<UserId> = (0..self.clients as usize).map(user).collect::<Result<_, _>>()?;
        let hub = ground.hub().await?;
        let meter = Meter::of(ground, Some(&hub), &[]).await?;
        let from = ground.head().await?;
        let found = self.through(ground, &hub, &users, &meter).await;
        hub.stop().await?;
        let found = found?;
        let upto = ground.head().await?;
        eprintln!("measuring the ceilings: the same pages by plain SQL, the same handshakes and frames by a program that only answers");
        let (clients, missed) = (self.clients as usize, self.missed as usize);
        let sql = pages_by_sql(ground, &users, from, upto, missed).await?;
        let plain = plain_sockets::measure(clients, missed, found.frame_bytes).await?.time;
        Ok(self.report(ground, &found, sql, plain))
    }

    pub async fn through(&self, ground: &Ground, hub: &BenchHub, users: &[UserId], meter: &Meter) -> Result<StormFindings, CliFailure> {
        let poster = SteadyPoster::start(hub.address, self.rate).await?;
        let found = self.storm(ground, hub, users, &poster, meter).await;
        poster.stop().await?;
        found
    }

    async fn storm(
        &self,
        ground: &Ground,
        hub: &BenchHub,
        users: &[UserId],
        poster: &SteadyPoster,
        meter: &Meter,
    ) -> Result<StormFindings, CliFailure> {
        // A new device begins at the head of the log, so it has missed nothing.
        let device = format!("bench-{}", Uuid::new_v4().simple());
        eprintln!("connecting {} clients", self.clients);
        let sockets = crowd::connect(ground, hub, 0..users.len(), &device).await?;
        let tokens: Vec<String> = users.iter().map(|user| ground.user_token(user)).collect::<Result<_, _>>()?;
        let (service, other) = (ground.service_token()?, user(users.len())?);

        let calm = poster.post(&service, other.as_str()).await?;
        tokio::time::sleep(self.calm).await;
        let calm = calm.stop().await?;

        let most = Arc::new(AtomicI64::new(0));
        let mut looking = JoinSet::new();
        if ground.reads_log() {
            looking.spawn(look(ground.owned_database().connect("bench").await?, Arc::clone(&most)));
        }
        let posting = poster.post(&service, other.as_str()).await?;
        eprintln!("cutting all of them off; each misses {} notifications", self.missed);
        let cut = Instant::now();
        sockets.into_iter().try_for_each(super::ws_client::WsClient::cut)?;
        post_missed(ground, hub, users, self.missed as usize).await?;
        let before = meter.now().await?;
        let away = cut.elapsed();

        eprintln!("all clients return, {:.1} s later", away.as_secs_f64());
        let mut coming = JoinSet::new();
        for (n, token) in tokens.into_iter().enumerate() {
            let wait = recado::backoff::jitter(Duration::from_millis(self.spread));
            let one =
                Returning { address: hub.address, token, device: device.clone(), n, clients: users.len(), missed: self.missed as usize };
            coming.spawn(async move {
                tokio::time::sleep(wait).await;
                one.come().await
            });
        }
        let back = tokio::time::timeout(BACK_LIMIT, joined(coming)).await;
        let back = back.map_err(|_| CliFailure::other(format!("not all clients were back after {BACK_LIMIT:?}")))??;
        let all_back = cut.elapsed();
        let cost = meter.now().await? - before;
        let posted = posting.stop().await?;
        looking.shutdown().await;
        let times = SortedTimes::new(back.iter().map(|back| back.took).collect());
        let retries = back.iter().map(|back| back.retries).sum();
        let frame_bytes = back.iter().map(|back| back.frame_bytes).max().unwrap_or(0);
        self.live_and_nothing_twice(ground, hub, back).await?;
        Ok(StormFindings { away, all_back, times, frame_bytes, retries, calm, posted, connections: most.load(Ordering::Relaxed), cost })
    }

    /// Posts once more and checks that it reaches all clients, with no missed notification repeated before it.
    async fn live_and_nothing_twice(&self, ground: &Ground, hub: &BenchHub, back: Vec<Back>) -> Result<(), CliFailure> {
        let last = self.clients as usize * self.missed as usize;
        let mut listening = JoinSet::new();
        for mut back in back {
            listening.spawn(async move {
                match back.socket.mark().await? {
                    n if n == last => Ok(()),
                    n => Err(CliFailure::other(format!("a client received missed number {n} twice"))),
                }
            });
        }
        let mut client = PostClient::connect(hub.address, &ground.service_token()?).await?;
        client.post(&Post { n: last, size: SIZE }.body("\"broadcast\":true"), None).await?;
        let heard = tokio::time::timeout(LAST_LIMIT, joined::<()>(listening)).await;
        heard.map_err(|_| CliFailure::other("a client that was live again did not receive the next notification"))??;
        Ok(())
    }

    fn report(&self, ground: &Ground, found: &StormFindings, sql: Duration, plain: Duration) -> Report {
        let mut report = Report::new("storm");
        report.setting("clients", self.clients);
        report.setting("missed", self.missed);
        report.setting("rate", self.rate);
        report.setting("spread_ms", self.spread);
        report.setting("read_connections", ground.config.read_connections);
        let back = found.back();
        report.figure("cut_to_all_live_s", found.all_back.as_secs_f64(), "s").goal(Goal::AtMost(15.0));
        report.figure("away_s", found.away.as_secs_f64(), "s");
        report.figure("return_to_all_live_s", back.as_secs_f64(), "s").beside("plain handshakes and frames", plain.as_secs_f64());
        report.figure("all_live_beside_sql_s", back.as_secs_f64(), "s").beside("the same pages by plain SQL", sql.as_secs_f64());
        report.figure("clients_per_s", f64::from(self.clients) / back.as_secs_f64(), "1/s");
        report.times(["client_p50_ms", "client_p90_ms", "client_p99_ms", "client_max_ms"], &found.times);
        let answers = |percent| (found.posted.answers.percentile_ms(percent), found.calm.answers.percentile_ms(percent));
        report.figure("post_p50_ms", answers(50.0).0, "ms").beside("before the cut", answers(50.0).1);
        report.figure("post_p99_ms", answers(99.0).0, "ms").goal(Goal::AtMost(500.0));
        report.figure("post_p99_before_ms", answers(99.0).1, "ms");
        report.figure("post_max_ms", found.posted.answers.max_ms(), "ms");
        report.figure("posts_late_p99_ms", found.posted.late.percentile_ms(99.0), "ms");
        report.figure("posts", found.posted.answers.len() as f64, "");
        report.figure("posts_failed", found.posted.failed as f64, "").goal(Goal::AtMost(0.0));
        report.figure("tries_again", f64::from(found.retries), "");
        let most = f64::from(ground.config.read_connections + OWN_CONNECTIONS);
        report.figure("database_connections", found.connections as f64, "").goal(Goal::AtMost(most));
        report.note(format!(
            "each client received each of its {} notifications once, in order, and then a live one; away_s is the time of appending them, {:.0} rows/s",
            self.missed,
            f64::from(self.clients * self.missed) / found.away.as_secs_f64()
        ));
        report.note(format!("a client's own time counts from its first try; the plain program took {:.0} ms", ms(plain)));
        report
    }
}

/// Posts `each` notifications to every user, one user after the other in turn. Over HTTP, so that a hub is enough whose
/// database is out of reach.
async fn post_missed(ground: &Ground, hub: &BenchHub, users: &[UserId], each: usize) -> Result<(), CliFailure> {
    let mut client = PostClient::connect_for(hub.address, &ground.service_token()?, "/api/internal/notify/batch").await?;
    let all: Vec<usize> = (0..users.len() * each).collect();
    for some in all.chunks(BATCH) {
        let item = |n: &usize| Post { n: *n, size: SIZE }.body(&format!("\"user_id\":\"{}\"", users[n % users.len()]));
        let items: Vec<String> = some.iter().map(item).collect();
        client.post(&format!("{{\"items\":[{}]}}", items.join(",")), None).await?;
    }
    Ok(())
}

/// Keeps the highest number of connections that a hub had to the database.
async fn look(mut connection: PgConnection, most: Arc<AtomicI64>) -> Result<(), CliFailure> {
    loop {
        most.fetch_max(yardstick::hub_connections(&mut connection).await?, Ordering::Relaxed);
        tokio::time::sleep(LOOK).await;
    }
}
