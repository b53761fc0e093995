//! Implements `recado-bench curves`: how costs grow with idle connections and with a user's accounts.

use std::time::Duration;

use clap::Args;
use recado::cli::error::CliFailure;
use recado::domain::{AccountId, Audience, Principal, Seq, UserId};
use recado::store::read;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ceilings::append_rows;
use super::crowd;
use super::curve::Curve;
use super::ground::{BenchHub, Ground};
use super::paced::{PostPace, Poster};
use super::post::{Post, user};
use super::report::Report;
use super::resume::follows;
use super::times::SortedTimes;
use super::ws_client::WsClient;

/// Connections that post in turn.
const POSTERS: usize = 8;
/// Pause between opening connections and measuring times with them.
const QUIET: Duration = Duration::from_secs(2);
/// Approximate bytes of a notification.
const SIZE: usize = 300;
/// Users that resume, how often each does, and how many rows each has missed.
const RESUMING: usize = 50;
const READINGS: usize = 3;
const MISSED: usize = 100;
/// Number of the first of those users. The idle users have the numbers below it.
const FIRST: usize = 1_000_000;

/// Measure POST to socket with a rising number of idle connections, and the resume of users with more and more accounts
#[derive(Debug, Clone, Args)]
pub struct Curves {
    /// Idle connections, rising
    #[arg(long, value_delimiter = ',', default_values_t = [100, 1000, 5000], value_parser = clap::value_parser!(u32).range(1..=100_000))]
    connections: Vec<u32>,
    /// Accounts of a user, rising
    #[arg(long, value_delimiter = ',', default_values_t = [1, 10, 100], value_parser = clap::value_parser!(u32).range(1..=100))]
    accounts: Vec<u32>,
    /// Seconds of posting at each number of connections
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// Posts a second
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
}

/// Results at one size: the median, the 99th percentile, and the figure they are compared with.
struct AtSize {
    size: u32,
    times: SortedTimes,
    plain: Option<SortedTimes>,
}

impl Curves {
    /// Sockets of one process.
    pub fn sockets(&self) -> usize {
        self.connections.iter().copied().max().unwrap_or(0) as usize
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        if !self.connections.is_sorted() || !self.accounts.is_sorted() {
            return Err(CliFailure::other("--connections and --accounts must be lists of rising numbers"));
        }
        let hub = ground.hub().await?;
        let found = self.through(ground, &hub).await;
        hub.stop().await?;
        let (connections, accounts) = found?;
        let mut report = Report::new("curves");
        report.setting("connections", self.connections.clone());
        report.setting("accounts", self.accounts.clone());
        report.setting("seconds", self.seconds);
        report.setting("rate", self.rate);
        say_connections(&mut report, &connections);
        say_accounts(&mut report, &accounts);
        Ok(report)
    }

    async fn through(&self, ground: &Ground, hub: &BenchHub) -> Result<(Vec<AtSize>, Vec<AtSize>), CliFailure> {
        // Resume is measured first, while few connections are open: thousands of idle ones would disturb it.
        let mut by_accounts = Vec::new();
        for accounts in &self.accounts {
            eprintln!("resuming users with {accounts} accounts");
            by_accounts.push(with_accounts(ground, hub, *accounts).await?);
        }
        let mut by_connections = Vec::new();
        let mut idle = JoinSet::new();
        for connections in &self.connections {
            eprintln!("posting with {connections} idle connections");
            // The listener is the first user.
            let sockets = crowd::connect(ground, hub, idle.len() + 1..*connections as usize + 1, "bench").await?;
            for socket in sockets {
                idle.spawn(until_broken(socket));
            }
            tokio::time::sleep(QUIET).await;
            let posters = Poster::some(ground, hub, POSTERS, SIZE, false).await?;
            let times = PostPace::new(self.rate, self.seconds).heard(ground, hub, posters).await?.whole()?.arrived;
            if let Some(Ok(failure)) = idle.try_join_next() {
                return Err(failure);
            }
            by_connections.push(AtSize { size: *connections, times, plain: None });
        }
        Ok((by_connections, by_accounts))
    }
}

/// Reads until the connection breaks; reading also answers pings.
async fn until_broken(mut socket: WsClient) -> CliFailure {
    loop {
        if let Err(failure) = socket.text().await {
            return failure;
        }
    }
}

/// Users with so many accounts miss as many notifications as the others, half of them sent to an account, and resume
/// one after the other. The same pages are read by plain SQL for comparison.
async fn with_accounts(ground: &Ground, hub: &BenchHub, count: u32) -> Result<AtSize, CliFailure> {
    let people: Vec<Principal> = (0..RESUMING).map(|n| person(n, count as usize)).collect::<Result<_, _>>()?;
    let from = ground.head().await?;
    append_for(ground, &people).await?;
    let upto = ground.head().await?;
    follows(ground, hub, upto).await?;
    let reader = ground.database().reader("bench", 1);
    let (mut times, mut plain) = (Vec::new(), Vec::new());
    for reading in 0..=READINGS {
        for who in &people {
            let (by_hub, by_sql) = (resume(ground, hub, who, from).await?, page(&reader, who, from, upto).await?);
            // The first reading only lets the connections plan their statements.
            if reading > 0 {
                times.push(by_hub);
                plain.push(by_sql);
            }
        }
    }
    reader.close().await;
    Ok(AtSize { size: count, times: SortedTimes::new(times), plain: Some(SortedTimes::new(plain)) })
}

/// A user whose accounts have no other member.
fn person(n: usize, accounts: usize) -> Result<Principal, CliFailure> {
    let account = |of: usize| AccountId::parse(&format!("bench-{accounts}-{n}-{of}")).map_err(|error| CliFailure::other(error.to_string()));
    Ok(Principal { user: user(FIRST + accounts * RESUMING + n)?, accounts: (0..accounts).map(account).collect::<Result<_, _>>()? })
}

async fn append_for(ground: &Ground, people: &[Principal]) -> Result<(), CliFailure> {
    let mut connection = ground.database().connect("bench").await?;
    let mut head = read::state(&mut connection).await?.head;
    for n in 0..MISSED {
        let audience = |who: &Principal| match n % 2 {
            0 => Audience::User { user: UserId::clone(&who.user), account: None },
            _ => Audience::Account(who.accounts[(n / 2) % who.accounts.len()].clone()),
        };
        let rows: Vec<_> = people.iter().map(|who| Post { n, size: SIZE }.row(audience(who), None)).collect();
        head = append_rows(&mut connection, head, &rows).await?;
    }
    Ok(())
}

async fn resume(ground: &Ground, hub: &BenchHub, who: &Principal, from: Seq) -> Result<Duration, CliFailure> {
    let token = ground.token_of(who)?;
    let start = Instant::now();
    let (mut socket, _) = WsClient::connect(hub.address, &token, &format!("client_id=bench&since={}", from.get())).await?;
    let got = socket.until_caught_up().await?;
    let time = start.elapsed();
    if got != MISSED { Err(CliFailure::other(format!("a client got {got} notifications instead of {MISSED}"))) } else { Ok(time) }
}

async fn page(reader: &recado::store::Reader, who: &Principal, from: Seq, upto: Seq) -> Result<Duration, CliFailure> {
    let start = Instant::now();
    let page = read::page(reader, who, from, upto).await?;
    let (time, got) = (start.elapsed(), page.notifications.len());
    if got != MISSED { Err(CliFailure::other(format!("a page had {got} rows instead of {MISSED}"))) } else { Ok(time) }
}

fn say_connections(report: &mut Report, found: &[AtSize]) {
    let mut curve = Curve::new("connections", "POST to socket, by idle connections of the hub", "idle connections", "ms");
    for at in found {
        for (series, percent) in [("p50", 50.0), ("p90", 90.0), ("p99", 99.0)] {
            curve.point(series, f64::from(at.size), at.times.percentile_ms(percent));
        }
    }
    if let (Some(few), Some(many)) = (found.first(), found.last()) {
        for (series, percent) in [("p50", 50.0), ("p99", 99.0)] {
            let name = |at: &AtSize| format!("post_to_socket_beside_{}_{series}_ms", at.size);
            report.figure(name(many), many.times.percentile_ms(percent), "ms").beside(name(few), few.times.percentile_ms(percent));
        }
    }
    report.curves.push(curve);
}

fn say_accounts(report: &mut Report, found: &[AtSize]) {
    let mut curve =
        Curve::new("accounts", format!("Connect and resume {MISSED} missed, by the user's accounts").as_str(), "accounts", "ms");
    for at in found {
        let Some(plain) = &at.plain else { continue };
        let (hub, sql) = (at.times.percentile_ms(50.0), plain.percentile_ms(50.0));
        curve.point("p50", f64::from(at.size), hub);
        curve.point("p90", f64::from(at.size), at.times.percentile_ms(90.0));
        curve.point("page by SQL, p50", f64::from(at.size), sql);
        report.figure(format!("resume_with_{}_accounts_p50_ms", at.size), hub, "ms").beside("the same page by plain SQL", sql);
    }
    report.curves.push(curve);
}
