//! Implements `recado-bench resume`: many clients come back at once, each with missed notifications.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use recado::cli::error::CliFailure;
use recado::domain::{Audience, ClientId, Principal, Seq, UserId};
use recado::store::acked_positions::{self, Ack};
use recado::store::{Reader, read};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ceilings::append_rows;
use super::figure::Goal;
use super::ground::{BenchHub, Ground};
use super::post::{Post, user};
use super::report::Report;
use super::times::{SortedTimes, ms};
use super::ws_client::WsClient;

/// Rows of one append.
const BATCH: usize = 1000;
/// Approximate bytes of a post's body.
const SIZE: usize = 300;
/// The device of the bench's clients.
const DEVICE: &str = "bench-resume";
/// Longest time for the hub to dispatch the appended rows.
const FOLLOW_LIMIT: Duration = Duration::from_secs(30);

/// Measure the time until all clients have what they missed, against plain SQL that reads the same rows
#[derive(Debug, Clone, Args)]
pub struct ResumeBench {
    /// Clients, each of another user
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    clients: u32,
    /// Notifications that each has missed
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    missed: u32,
    /// Clients that connect at the same time
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    parallel: u16,
}

impl ResumeBench {
    /// Sockets of one process.
    pub fn sockets(&self) -> usize {
        self.clients as usize
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        let users: Vec<UserId> = (0..self.clients as usize).map(user).collect::<Result<_, _>>()?;
        eprintln!("{} users, each missing {} notifications", self.clients, self.missed);
        let from = self.miss(ground, &users).await?;
        let upto = ground.head().await?;
        let connections = ground.config.read_connections;

        let first = pages_by_sql(ground, &users, from, upto, self.missed as usize).await?;
        let hub = ground.hub().await?;
        let resumed = self.come_back(ground, &hub, &users, upto).await;
        hub.stop().await?;
        let (whole, times) = resumed?;
        let second = pages_by_sql(ground, &users, from, upto, self.missed as usize).await?;

        let mut report = Report::new("resume");
        report.setting("clients", self.clients);
        report.setting("missed", self.missed);
        report.setting("parallel", self.parallel);
        report.setting("read_connections", connections);
        let plain = (ms(first) + ms(second)) / 2.0;
        report.figure("all_caught_up_ms", ms(whole), "ms").beside("plain_sql_ms", plain).goal(Goal::AtMost(3.0));
        report.figure("clients_per_s", f64::from(self.clients) / whole.as_secs_f64(), "1/s");
        report.figure("rows_per_s", f64::from(self.clients) * f64::from(self.missed) / whole.as_secs_f64(), "1/s");
        report.times(["client_p50_ms", "client_p90_ms", "client_p99_ms", "client_max_ms"], &times);
        report.figure("plain_sql_before_ms", ms(first), "ms");
        report.figure("plain_sql_after_ms", ms(second), "ms");
        Ok(report)
    }

    /// Stores the head as everyone's position, then appends what they miss, mixed. Returns that position.
    async fn miss(&self, ground: &Ground, users: &[UserId]) -> Result<Seq, CliFailure> {
        let mut connection = ground.database().connect("bench").await?;
        let state = read::state(&mut connection).await?;
        let device = ClientId::parse(DEVICE).map_err(|error| CliFailure::other(error.to_string()))?;
        let mut places: Vec<Ack> = users.iter().map(|user| Ack { user: user.clone(), client: device.clone(), acked: state.head }).collect();
        places.sort_unstable();
        for some in places.chunks(BATCH) {
            acked_positions::store(&mut connection, state.log_id, some).await?;
        }
        append_missed(ground, users, self.missed as usize).await?;
        Ok(state.head)
    }

    async fn come_back(&self, ground: &Ground, hub: &BenchHub, users: &[UserId], upto: Seq) -> Result<(Duration, SortedTimes), CliFailure> {
        follows(ground, hub, upto).await?;
        let tokens: Vec<String> = users.iter().map(|user| ground.user_token(user)).collect::<Result<_, _>>()?;
        let doors = Arc::new(Semaphore::new(self.parallel.into()));
        let missed = self.missed as usize;
        let mut coming = JoinSet::new();
        let start = Instant::now();
        for token in tokens {
            let (address, doors) = (hub.address, Arc::clone(&doors));
            coming.spawn(async move {
                let _door = doors.acquire().await.map_err(|error| CliFailure::other(error.to_string()))?;
                let start = Instant::now();
                let (mut socket, _) = WsClient::connect(address, &token, &format!("client_id={DEVICE}")).await?;
                let got = socket.until_caught_up().await?;
                if got != missed {
                    return Err(CliFailure::other(format!("a client got {got} notifications instead of {missed}")));
                }
                Ok((start.elapsed(), socket))
            });
        }
        let (times, _sockets): (Vec<_>, Vec<_>) = super::joined::joined(coming).await?.into_iter().unzip();
        Ok((start.elapsed(), SortedTimes::new(times)))
    }
}

/// Reads everyone's pages over as many connections as the hub uses for it.
pub async fn pages_by_sql(ground: &Ground, users: &[UserId], from: Seq, upto: Seq, missed: usize) -> Result<Duration, CliFailure> {
    let connections = ground.config.read_connections;
    let reader = ground.database().reader("bench", connections);
    let mut reading = JoinSet::new();
    let start = Instant::now();
    for share in users.chunks(users.len().div_ceil(connections as usize).max(1)) {
        let (reader, share) = (reader.clone(), share.to_vec());
        reading.spawn(async move {
            for user in share {
                let got = read_all(&reader, user, from, upto).await?;
                if got < missed {
                    return Err(CliFailure::other(format!("plain SQL found {got} rows instead of {missed}")));
                }
            }
            Ok(())
        });
    }
    super::joined::joined::<()>(reading).await?;
    let time = start.elapsed();
    reader.close().await;
    Ok(time)
}

async fn read_all(reader: &Reader, user: UserId, mut after: Seq, upto: Seq) -> Result<usize, CliFailure> {
    let who = Principal { user, accounts: Vec::new() };
    let mut got = 0;
    while after < upto {
        let page = read::page(reader, &who, after, upto).await?;
        got += page.notifications.len();
        after = page.through;
    }
    Ok(got)
}

/// Appends `each` notifications for every user, one user after the other in turn.
pub async fn append_missed(ground: &Ground, users: &[UserId], each: usize) -> Result<(), CliFailure> {
    let mut connection = ground.database().connect("bench").await?;
    let mut head = read::state(&mut connection).await?.head;
    let mut rows = Vec::with_capacity(BATCH);
    for n in 0..users.len() * each {
        let audience = Audience::User { user: users[n % users.len()].clone(), account: None };
        rows.push(Post { n, size: SIZE }.row(audience, None));
        if rows.len() == BATCH || n + 1 == users.len() * each {
            head = append_rows(&mut connection, head, &rows).await?;
            rows.clear();
        }
    }
    Ok(())
}

/// Waits until the hub has dispatched the log up to this row.
pub async fn follows(ground: &Ground, hub: &BenchHub, upto: Seq) -> Result<(), CliFailure> {
    let token = ground.user_token(&user(0)?)?;
    let end = Instant::now() + FOLLOW_LIMIT;
    loop {
        let (_, hello) = WsClient::connect(hub.address, &token, "client_id=bench-probe&since=live").await?;
        if hello["head"].as_i64() >= Some(upto.get()) {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(CliFailure::unavailable("the hub does not dispatch the bench's rows; check that both use the same database"));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
