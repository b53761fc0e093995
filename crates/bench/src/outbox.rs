//! Implements `recado-bench outbox`: the cost of `recado.notify` in a caller's transaction.
//!
//! It also measures the time from COMMIT to socket.

use std::time::Duration;

use clap::Args;
use recado::cli::error::CliFailure;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::business::{self, Business};
use super::clocks::Clocks;
use super::ground::{BenchHub, Ground};
use super::joined::joined;
use super::paced::{PostPace, Poster, Worker};
use super::post::Post;
use super::report::Report;
use super::times::{SortedTimes, middle};

/// Numbers of database clients whose commits are counted.
const CLIENTS: [u32; 2] = [8, 32];
/// Connections of the paced part.
const PACED: u32 = 16;
/// Approximate bytes of a notification.
const SIZE: usize = 300;

/// Measure commits a second with and without recado.notify, and the time from COMMIT to socket against that from POST
/// to socket
#[derive(Debug, Clone, Args)]
pub struct OutboxBench {
    /// Length of each part, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often all is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,
    /// Notifications a second while times are measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Writing transactions that stay open in the second half of the parts
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(0..=50))]
    open: u32,
}

/// Commits a second with one number of clients.
struct OutboxRates {
    clients: u32,
    plain: f64,
    notify: f64,
    notify_beside_open: f64,
}

struct OutboxRound {
    rates: Vec<OutboxRates>,
    sql: SortedTimes,
    sql_beside_open: SortedTimes,
    post: SortedTimes,
}

/// A caller whose transactions notify the listener.
struct NotifyCaller(Business);

impl Worker for NotifyCaller {
    async fn send(&mut self, n: usize, clocks: &Clocks) -> Result<(), CliFailure> {
        self.0.begin(Some(("bench-0", &Post { n, size: SIZE }.data()))).await?;
        clocks.starts(n);
        Ok(self.0.commit().await?)
    }
}

impl OutboxBench {
    /// Sockets of one process.
    pub fn sockets(&self) -> usize {
        (CLIENTS[1] + PACED + self.open) as usize
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        let database = ground.owned_database();
        business::make(&database, CLIENTS[1] + PACED + self.open).await?;
        let outcome = self.measure(ground).await;
        let dropped = business::unmake(&database).await;
        let report = outcome?;
        dropped?;
        Ok(report)
    }

    async fn measure(&self, ground: &Ground) -> Result<Report, CliFailure> {
        let hub = ground.hub().await?;
        let mut rounds = Vec::new();
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            rounds.push(self.round(ground, &hub).await?);
        }
        hub.stop().await?;
        Ok(self.report(&rounds))
    }

    async fn round(&self, ground: &Ground, hub: &BenchHub) -> Result<OutboxRound, CliFailure> {
        let post = self.by_post(ground, hub).await?;
        let sql = self.by_sql(ground, hub).await?;
        let mut rates = Vec::new();
        for clients in CLIENTS {
            let plain = self.commits_per_s(ground, clients, false).await?;
            let notify = self.commits_per_s(ground, clients, true).await?;
            rates.push(OutboxRates { clients, plain, notify, notify_beside_open: 0.0 });
        }
        let open = self.leave_open(ground).await?;
        let sql_beside_open = self.by_sql(ground, hub).await?;
        for rates in &mut rates {
            rates.notify_beside_open = self.commits_per_s(ground, rates.clients, true).await?;
            eprintln!(
                "  {} clients: {:.0} commits/s, {:.0} with recado.notify, {:.0} beside {} open transactions",
                rates.clients, rates.plain, rates.notify, rates.notify_beside_open, self.open
            );
        }
        for mut open in open {
            open.commit().await?;
        }
        let [by_sql, by_post] = [&sql, &post].map(|times| times.percentile_ms(50.0));
        eprintln!("  COMMIT to socket at {} a second: {by_sql:.2} ms; POST to socket: {by_post:.2} ms", self.rate);
        Ok(OutboxRound { rates, sql, sql_beside_open, post })
    }

    /// Opens transactions that have written and notified, and leaves them open.
    async fn leave_open(&self, ground: &Ground) -> Result<Vec<Business>, CliFailure> {
        let mut open = Vec::new();
        for n in 0..self.open {
            let mut one = Business::connect(&ground.owned_database(), CLIENTS[1] + PACED + n).await?;
            one.begin(Some(("bench-open", "{}"))).await?;
            open.push(one);
        }
        Ok(open)
    }

    async fn commits_per_s(&self, ground: &Ground, clients: u32, notify: bool) -> Result<f64, CliFailure> {
        let mut working = JoinSet::new();
        let mut ready = Vec::new();
        for client in 0..clients {
            let mut business = Business::connect(&ground.owned_database(), client).await?;
            // A program's connections are warm: the first call compiles the function and plans.
            business.begin(notify.then_some(("bench-rate", "{}"))).await?;
            business.commit().await?;
            ready.push(business);
        }
        let start = Instant::now();
        let end = start + Duration::from_secs(self.seconds);
        for (n, mut business) in ready.into_iter().enumerate() {
            working.spawn(async move {
                let data = Post { n, size: SIZE }.data();
                let mut count = 0_u64;
                while Instant::now() < end {
                    business.begin(notify.then_some(("bench-rate", data.as_str()))).await?;
                    business.commit().await?;
                    count += 1;
                }
                Ok(count)
            });
        }
        let count: u64 = joined(working).await?.into_iter().sum();
        Ok(count as f64 / start.elapsed().as_secs_f64())
    }

    /// Notifies at an even rate by commits. The time counts from just before COMMIT is sent.
    async fn by_sql(&self, ground: &Ground, hub: &BenchHub) -> Result<SortedTimes, CliFailure> {
        let mut callers = Vec::new();
        for n in 0..PACED {
            callers.push(NotifyCaller(Business::connect(&ground.owned_database(), CLIENTS[1] + n).await?));
        }
        Ok(PostPace::new(self.rate, self.seconds).heard(ground, hub, callers).await?.whole()?.arrived)
    }

    async fn by_post(&self, ground: &Ground, hub: &BenchHub) -> Result<SortedTimes, CliFailure> {
        let posters = Poster::some(ground, hub, PACED as usize, SIZE, false).await?;
        Ok(PostPace::new(self.rate, self.seconds).heard(ground, hub, posters).await?.whole()?.arrived)
    }

    fn report(&self, rounds: &[OutboxRound]) -> Report {
        let mut report = Report::new("outbox");
        report.setting("seconds", self.seconds);
        report.setting("rate", self.rate);
        report.setting("open", self.open);
        let of = |value: &dyn Fn(&OutboxRound) -> f64| middle(rounds, value);
        for (name, beside, at) in
            [("commit_to_socket_p50_ms", "post_to_socket_p50_ms", 50.0), ("commit_to_socket_p99_ms", "post_to_socket_p99_ms", 99.0)]
        {
            report.figure(name, of(&|r| r.sql.percentile_ms(at)), "ms").beside(beside, of(&|r| r.post.percentile_ms(at)));
        }
        for (name, at) in [("commit_to_socket_beside_open_p50_ms", 50.0), ("commit_to_socket_beside_open_p99_ms", 99.0)] {
            let alone = of(&|r| r.sql.percentile_ms(at));
            report.figure(name, of(&|r| r.sql_beside_open.percentile_ms(at)), "ms").beside("without them", alone);
        }
        for (at, with, beside_open) in
            [(0, "commits_per_s_8_clients", "beside_open_8_clients"), (1, "commits_per_s_32_clients", "beside_open_32_clients")]
        {
            let plain = of(&|r| r.rates[at].plain);
            report.figure(with, of(&|r| r.rates[at].notify), "1/s").beside("without recado.notify", plain);
            report.figure(beside_open, of(&|r| r.rates[at].notify_beside_open), "1/s").beside("without recado.notify", plain);
        }
        report.note(format!("medians of {} rounds; the hub relays and delivers on the same machine meanwhile", self.rounds));
        report.note("a transaction is BEGIN, one UPDATE, COMMIT, each a round trip; recado.notify is one more");
        report
    }
}
