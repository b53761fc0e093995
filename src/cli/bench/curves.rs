//! `recado bench curves`: how costs grow with idle connections, and with a user's accounts.

use std::time::Duration;

use clap::Args;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ceilings::append_rows;
use super::crowd;
use super::curve::Curve;
use super::ground::{Ground, Hub};
use super::paced::{Pace, Poster};
use super::post::{Post, user};
use super::report::Report;
use super::resume::follows;
use super::times::Times;
use super::ws_client::WsClient;
use crate::cli::error::Failure;
use crate::domain::{AccountId, Audience, Principal, Seq, UserId};
use crate::store::read;

/// Connections that post in turn.
const POSTERS: usize = 8;
/// Before times are measured beside new connections.
const QUIET: Duration = Duration::from_secs(2);
/// Bytes of a notification, about.
const SIZE: usize = 300;
/// Who resumes, how often, and how much each has missed.
const RESUMING: usize = 50;
const READINGS: usize = 3;
const MISSED: usize = 100;
/// The first of those users: the idle ones stand before them.
const FIRST: usize = 1_000_000;

/// POST to socket beside ever more idle connections, and the resume of users with ever more accounts.
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

/// What was found at one size: the median, the ninety-ninth, and what it stands beside.
struct AtSize {
    size: u32,
    times: Times,
    plain: Option<Times>,
}

impl Curves {
    /// Sockets of one process.
    pub fn sockets(&self) -> usize {
        self.connections.iter().copied().max().unwrap_or(0) as usize
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, Failure> {
        if !self.connections.is_sorted() || !self.accounts.is_sorted() {
            return Err(Failure::other("--connections and --accounts are lists of rising numbers"));
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

    async fn through(&self, ground: &Ground, hub: &Hub) -> Result<(Vec<AtSize>, Vec<AtSize>), Failure> {
        // Few connections first: who resumes shall not stand beside thousands.
        let mut by_accounts = Vec::new();
        for accounts in &self.accounts {
            eprintln!("users with {accounts} accounts resume");
            by_accounts.push(with_accounts(ground, hub, *accounts).await?);
        }
        let mut by_connections = Vec::new();
        let mut idle = JoinSet::new();
        for connections in &self.connections {
            eprintln!("posting beside {connections} idle connections");
            // The listener is the first user.
            let sockets = crowd::connect(ground, hub, idle.len() + 1..*connections as usize + 1, "bench").await?;
            for socket in sockets {
                idle.spawn(until_broken(socket));
            }
            tokio::time::sleep(QUIET).await;
            let posters = Poster::some(ground, hub, POSTERS, SIZE, false).await?;
            let times = Pace::new(self.rate, self.seconds).heard(ground, hub, posters).await?.whole()?.arrived;
            if let Some(Ok(failure)) = idle.try_join_next() {
                return Err(failure);
            }
            by_connections.push(AtSize { size: *connections, times, plain: None });
        }
        Ok((by_connections, by_accounts))
    }
}

/// Reads, and so answers pings.
async fn until_broken(mut socket: WsClient) -> Failure {
    loop {
        if let Err(failure) = socket.text().await {
            return failure;
        }
    }
}

/// Some users with so many accounts miss as many notifications as the others did, half of them to an account, and resume one
/// after the other; beside it the same pages by plain SQL.
async fn with_accounts(ground: &Ground, hub: &Hub, count: u32) -> Result<AtSize, Failure> {
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
            // The first reading is for connections that have planned nothing yet.
            if reading > 0 {
                times.push(by_hub);
                plain.push(by_sql);
            }
        }
    }
    reader.close().await;
    Ok(AtSize { size: count, times: Times::new(times), plain: Some(Times::new(plain)) })
}

/// Nobody else is in its accounts.
fn person(n: usize, accounts: usize) -> Result<Principal, Failure> {
    let account = |of: usize| AccountId::parse(&format!("bench-{accounts}-{n}-{of}")).map_err(|error| Failure::other(error.to_string()));
    Ok(Principal { user: user(FIRST + accounts * RESUMING + n)?, accounts: (0..accounts).map(account).collect::<Result<_, _>>()? })
}

async fn append_for(ground: &Ground, people: &[Principal]) -> Result<(), Failure> {
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

async fn resume(ground: &Ground, hub: &Hub, who: &Principal, from: Seq) -> Result<Duration, Failure> {
    let token = ground.token_of(who)?;
    let start = Instant::now();
    let (mut socket, _) = WsClient::connect(hub.address, &token, &format!("client_id=bench&since={}", from.get())).await?;
    let got = socket.until_caught_up().await?;
    let time = start.elapsed();
    if got != MISSED { Err(Failure::other(format!("a client got {got} notifications instead of {MISSED}"))) } else { Ok(time) }
}

async fn page(reader: &crate::store::Reader, who: &Principal, from: Seq, upto: Seq) -> Result<Duration, Failure> {
    let start = Instant::now();
    let page = read::page(reader, who, from, upto).await?;
    let (time, got) = (start.elapsed(), page.notifications.len());
    if got != MISSED { Err(Failure::other(format!("a page had {got} rows instead of {MISSED}"))) } else { Ok(time) }
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
