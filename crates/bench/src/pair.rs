//! Implements `recado-bench pair`: compares two hubs on one database with one hub.

use clap::Args;
use recado::cli::error::CliFailure;

use super::burst::Burst;
use super::figure::Goal;
use super::ground::{BenchHub, Ground};
use super::paced::{PostPace, Poster};
use super::report::Report;
use super::times::{SortedTimes, middle};

/// Connections of the paced part.
const PACED: usize = 16;

/// Measure posts a second of two hubs against one, and the time from POST to a socket of the other hub
#[derive(Debug, Clone, Args)]
pub struct Pair {
    /// Posting connections, divided among the hubs
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(2..=4096))]
    connections: u16,
    /// Length of each part, in seconds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often all is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,
    /// Posts a second while the time from POST to socket is measured
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    rate: u32,
    /// Approximate bytes of a post's body
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(150..=60_000))]
    size: u16,
}

/// Results of one round.
struct PairRound {
    one_per_s: f64,
    two_per_s: f64,
    same: SortedTimes,
    other: SortedTimes,
}

impl Pair {
    /// Sockets of one process.
    pub fn sockets(&self) -> usize {
        self.connections.into()
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        if ground.hub_is_given() {
            return Err(CliFailure::settings("bench pair starts hubs of its own: remove --url"));
        }
        let mut rounds = Vec::new();
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}", self.rounds);
            rounds.push(self.round(ground).await?);
        }
        Ok(self.report(&rounds))
    }

    async fn round(&self, ground: &Ground) -> Result<PairRound, CliFailure> {
        let burst = Burst { connections: self.connections.into(), size: self.size.into(), keyed: false, seconds: self.seconds };
        let first = ground.hub().await?;
        let (_, one_per_s) = burst.at(ground, &[&first]).await?;
        let second = ground.hub_with("second.log", &[]).await?;
        let (_, two_per_s) = burst.at(ground, &[&first, &second]).await?;
        eprintln!("  {one_per_s:.0} posts/s by one hub, {two_per_s:.0} by two");
        let same = self.latency(ground, &first, &first).await?;
        let other = self.latency(ground, &first, &second).await?;
        let [at_same, at_other] = [&same, &other].map(|times| times.percentile_ms(50.0));
        eprintln!("  POST to a socket of the same hub: {at_same:.2} ms, of the other: {at_other:.2} ms");
        second.stop().await?;
        first.stop().await?;
        Ok(PairRound { one_per_s, two_per_s, same, other })
    }

    async fn latency(&self, ground: &Ground, posted: &BenchHub, heard: &BenchHub) -> Result<SortedTimes, CliFailure> {
        let posters = Poster::some(ground, posted, PACED, self.size.into(), false).await?;
        Ok(PostPace::new(self.rate, self.seconds).heard(ground, heard, posters).await?.whole()?.arrived)
    }

    fn report(&self, rounds: &[PairRound]) -> Report {
        let mut report = Report::new("pair");
        report.setting("connections", self.connections);
        report.setting("seconds", self.seconds);
        report.setting("rate", self.rate);
        report.setting("size", self.size);
        let of = |value: &dyn Fn(&PairRound) -> f64| middle(rounds, value);
        let (one, two) = (of(&|r| r.one_per_s), of(&|r| r.two_per_s));
        report.figure("two_hubs_posts_per_s", two, "1/s").beside("one hub", one).goal(Goal::AtLeast(1.0));
        for (name, at) in [("other_hub_p50_ms", 50.0), ("other_hub_p90_ms", 90.0), ("other_hub_p99_ms", 99.0)] {
            let same = of(&|r| r.same.percentile_ms(at));
            report.figure(name, of(&|r| r.other.percentile_ms(at)), "ms").beside("same hub", same);
        }
        report.note(format!("medians of {} rounds; with two hubs, each also delivers the other's posts", self.rounds));
        report.note("the clients, both hubs and the database share one machine");
        report
    }
}
