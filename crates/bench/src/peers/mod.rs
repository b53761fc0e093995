//! Implements `recado-bench peers`: the measurements by which hubs of other projects are compared with this one.
//!
//! All of them in one run, with the processor time of the whole server side: the hub and every PostgreSQL process. On a
//! machine that client and server share, this is the fairest figure.
//!
//! The order matters. Counts come first, because a later checkpoint makes the server write whole pages to its WAL.
//! Every part starts its own hub, so that no part measures the memory of another.

mod ceilings;
mod counting;
mod killing;
mod publishing;
mod sockets;
mod spending;
mod storms;

use clap::{Args, ValueEnum};
use recado::cli::error::CliFailure;

use super::figure::Goal;
use super::ground::{Ground, GroundNeeds};
use super::report::Report;

/// Bytes of the body of each post.
const SIZE: usize = 295;

/// Measure a hub as other hubs are measured: rates, times, memory, and processor time of hub and database
#[derive(Debug, Clone, Args)]
pub struct PeersBench {
    /// Sizes that take less than a minute: to try it, and for the counts, which do not depend on sizes
    #[arg(long)]
    quick: bool,
    /// Measure only these parts
    #[arg(long, value_enum, value_delimiter = ',', value_name = "PART")]
    only: Vec<Part>,
    /// Idle clients, each of another user
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    connections: Option<u32>,
    /// Length of each part that posts, in seconds
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: Option<u64>,
    /// Posts a second of the open loop
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Posts to everyone
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1000))]
    posts: Option<u16>,
    /// Clients of the large storm
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    storm: Option<u32>,
    /// How often the small storm of 200 clients is repeated; the median counts
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: Option<u8>,
    /// A process of the given hub's server side, such as the hub and PostgreSQL's first process; its children count too
    #[arg(long, value_name = "PID")]
    server_pid: Vec<u32>,
    /// Measure only what needs no connection to the database of the given hub
    #[arg(long)]
    no_database: bool,
    /// Print which statements the hub sent in each part of the counts
    #[arg(long)]
    statements: bool,
}

/// What can be measured by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Statements, transactions and bytes of WAL; no clock is in them
    Counts,
    /// Plain INSERTs, plain sockets and a program that only writes frames
    Ceilings,
    /// As many posts as 64 connections make, and as one makes
    Publish,
    /// Posts at an even rate, to a socket
    Paced,
    /// Connects, idle memory, fan-out, and connects of known devices
    Sockets,
    /// All clients cut off and back at once
    Storm,
    /// kill -9 while 64 connections post
    Kill,
}

/// The sizes of a run.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    connections: usize,
    seconds: u64,
    rate: u32,
    posts: usize,
    /// Seconds of quiet before memory is measured.
    quiet: u64,
    storm: u32,
    missed: u32,
    rounds: u8,
    /// How often each operation is counted.
    counted: usize,
}

/// A run: what it measures, and where it puts the results.
struct PeersRun<'a> {
    bench: &'a PeersBench,
    ground: &'a Ground,
    sizes: Sizes,
    report: Report,
}

impl PeersBench {
    fn sizes(&self) -> Sizes {
        let of = if self.quick {
            Sizes { connections: 200, seconds: 1, rate: 200, posts: 1, quiet: 1, storm: 200, missed: 20, rounds: 1, counted: 200 }
        } else {
            Sizes { connections: 9000, seconds: 10, rate: 1000, posts: 10, quiet: 8, storm: 5000, missed: 20, rounds: 5, counted: 500 }
        };
        Sizes {
            connections: self.connections.map_or(of.connections, |connections| connections as usize),
            seconds: self.seconds.unwrap_or(of.seconds),
            rate: if self.quick { of.rate } else { self.rate },
            posts: self.posts.map_or(of.posts, usize::from),
            storm: self.storm.unwrap_or(of.storm),
            rounds: self.rounds.unwrap_or(of.rounds),
            ..of
        }
    }

    /// The larger number of sockets that one process has open.
    pub fn sockets(&self) -> usize {
        let sizes = self.sizes();
        sizes.connections.max(2 * sizes.storm as usize)
    }

    pub fn needs(&self) -> GroundNeeds {
        GroundNeeds { counts: true, foreign_database: self.no_database }
    }

    fn wants(&self, part: Part) -> bool {
        self.only.is_empty() || self.only.contains(&part)
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        let sizes = self.sizes();
        let mut run = PeersRun { bench: self, ground, sizes, report: Report::markdown("peers") };
        run.report.setting("connections", sizes.connections);
        run.report.setting("seconds", sizes.seconds);
        run.report.setting("rate", sizes.rate);
        run.report.setting("posts", sizes.posts);
        run.report.setting("storm", sizes.storm);
        run.report.setting("missed", sizes.missed);
        run.report.setting("size", SIZE);
        if self.wants(Part::Counts) && ground.reads_log() {
            run.counts().await?;
        }
        if self.wants(Part::Ceilings) && !ground.hub_is_given() {
            run.inserts().await?;
        }
        if self.wants(Part::Publish) {
            run.publish().await?;
        }
        if self.wants(Part::Paced) {
            run.paced().await?;
        }
        if self.wants(Part::Sockets) {
            run.sockets().await?;
        }
        if self.wants(Part::Storm) {
            run.storms().await?;
        }
        if self.wants(Part::Kill) && !ground.hub_is_given() {
            run.kill().await?;
        }
        run.report
            .note("CPU is user and system time of the hub and of every PostgreSQL process; the client, in this process, is not in it");
        if ground.hub_is_given() {
            run.report.note(
                "the hub was given: its CPU and memory are those of --server-pid, it is not killed, and ceilings of SQL are left out",
            );
        }
        Ok(run.report)
    }
}

impl PeersRun<'_> {
    /// Adds a figure with a goal. Goals belong to the full sizes.
    fn goal(&mut self, name: &str, value: f64, unit: &str, goal: Goal) {
        let figure = self.report.figure(name, value, unit);
        if !self.bench.quick {
            figure.goal(goal);
        }
    }
}
