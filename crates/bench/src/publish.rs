//! Implements `recado-bench publish`: commit rate of posts, and time from POST to socket.

use std::time::Duration;

use clap::Args;
use recado::cli::error::CliFailure;

use super::batches::Batches;
use super::burst::{Burst, USERS};
use super::ceilings::{RowShape, Yardstick};
use super::figure::Goal;
use super::ground::Ground;
use super::paced::{PacedResult, PostPace, Poster};
use super::report::Report;
use super::times::{SortedTimes, middle};

/// How long each ceiling is measured.
const CEILING_TIME: Duration = Duration::from_secs(2);

/// Measure single posts a second against plain SQL, and the time from POST to socket against a bare commit
#[derive(Debug, Clone, Args)]
pub struct PostBench {
    /// Posting connections
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    /// Length of each part, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=600))]
    seconds: u64,
    /// How often all is measured; the median counts
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=50))]
    rounds: u8,
    /// Posts a second while the time from POST to socket is measured
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    rate: u32,
    /// Approximate bytes of a post's body
    #[arg(long, default_value_t = 300, value_parser = clap::value_parser!(u16).range(150..=60_000))]
    size: u16,
    /// Give each post an Idempotency-Key
    #[arg(long)]
    keyed: bool,
    /// Post batches of so many instead of single notifications; no time to a socket is measured then
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1000))]
    batch: u16,
}

/// Results of one round.
struct PostRound {
    per_s: f64,
    batch: f64,
    append_per_s: f64,
    insert_per_s: f64,
    answers: Vec<Duration>,
    latency: LatencyRound,
}

/// Times from POST to socket in one round.
struct LatencyRound {
    heard: PacedResult,
    bare: SortedTimes,
}

impl PostBench {
    /// Sockets of one process.
    pub fn sockets(&self) -> usize {
        self.connections.into()
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        let mut yardstick = Yardstick::make(ground).await?;
        let outcome = match self.batches() {
            Some(batches) => batches.measure(ground, &mut yardstick).await,
            None => self.measure(ground, &mut yardstick).await,
        };
        let dropped = yardstick.unmake().await;
        let report = outcome?;
        dropped?;
        Ok(report)
    }

    fn batches(&self) -> Option<Batches> {
        (self.batch > 1).then_some(Batches {
            connections: self.connections.into(),
            batch: self.batch.into(),
            size: self.size.into(),
            keyed: self.keyed,
            seconds: self.seconds,
            rounds: self.rounds,
        })
    }

    async fn measure(&self, ground: &Ground, yardstick: &mut Yardstick) -> Result<Report, CliFailure> {
        let mut report = Report::new("publish");
        report.setting("connections", self.connections);
        report.setting("seconds", self.seconds);
        report.setting("size", self.size);
        report.setting("keyed", self.keyed);
        let mut rounds = Vec::new();
        for round in 1..=self.rounds {
            eprintln!("round {round} of {}: posting over {} connections for {} s", self.rounds, self.connections, self.seconds);
            rounds.push(self.round(ground, yardstick).await?);
        }
        self.say_throughput(&mut report, &rounds);
        self.say_latency(&mut report, &rounds);
        report.note(format!(
            "medians of {} rounds; each round has its own ceilings, and ratios are the medians of the rounds' own",
            self.rounds
        ));
        if ground.hub_is_given() {
            report.note("the given hub was running while the ceilings were measured, and read the rows of sql_append_per_s as well");
        }
        Ok(report)
    }

    async fn round(&self, ground: &Ground, yardstick: &mut Yardstick) -> Result<PostRound, CliFailure> {
        let hub = ground.hub().await?;
        let before = ground.head().await?;
        let burst = Burst { connections: self.connections.into(), size: self.size.into(), keyed: self.keyed, seconds: self.seconds };
        let (answers, per_s) = burst.at(ground, &[&hub]).await?;
        let after = ground.head().await?;
        // Stops the hub so that the ceilings have the machine to themselves.
        hub.stop().await?;
        let batch = yardstick.batch_size(before, after).await?;
        let shape = RowShape { batch: batch.round() as usize, size: self.size.into(), users: USERS, keyed: self.keyed };
        let append_per_s = yardstick.appends(shape, CEILING_TIME).await?;
        let insert_per_s = yardstick.inserts(shape, CEILING_TIME).await?;
        eprintln!("  {per_s:.0} posts/s in batches of {batch:.1}; plain SQL: append {append_per_s:.0}, insert {insert_per_s:.0} rows/s");
        let latency = self.latency(ground, yardstick).await?;
        Ok(PostRound { per_s, batch, append_per_s, insert_per_s, answers, latency })
    }

    async fn latency(&self, ground: &Ground, yardstick: &mut Yardstick) -> Result<LatencyRound, CliFailure> {
        let mut bare = yardstick.bare_commits(CEILING_TIME).await?;
        let hub = ground.hub().await?;
        let posters = Poster::some(ground, &hub, self.connections.into(), self.size.into(), self.keyed).await?;
        let heard = PostPace::new(self.rate, self.seconds).heard(ground, &hub, posters).await?;
        hub.stop().await?;
        bare.extend(yardstick.bare_commits(CEILING_TIME).await?);
        let found = LatencyRound { heard, bare: SortedTimes::new(bare) };
        let [arrived, bare] = [&found.heard.arrived, &found.bare].map(|times| times.percentile_ms(50.0));
        eprintln!("  POST to socket at {} a second: {arrived:.2} ms; a bare commit: {bare:.2} ms", self.rate);
        Ok(found)
    }

    fn say_throughput(&self, report: &mut Report, rounds: &[PostRound]) {
        let of = |value: fn(&PostRound) -> f64| middle(rounds, value);
        report.figure("posts_per_s", of(|r| r.per_s), "1/s");
        report.figure("ratio_to_sql_append", of(|r| r.per_s / r.append_per_s), "").goal(Goal::AtLeast(0.5));
        report.figure("ratio_to_sql_insert", of(|r| r.per_s / r.insert_per_s), "").goal(Goal::AtLeast(0.3));
        report.figure("sql_append_per_s", of(|r| r.append_per_s), "rows/s");
        report.figure("sql_insert_per_s", of(|r| r.insert_per_s), "rows/s");
        report.figure("batch_rows", of(|r| r.batch), "rows");
        let answers = SortedTimes::new(rounds.iter().flat_map(|r| r.answers.iter().copied()).collect());
        report.times(["answer_p50_ms", "answer_p90_ms", "answer_p99_ms", "answer_max_ms"], &answers);
    }

    fn say_latency(&self, report: &mut Report, rounds: &[PostRound]) {
        let of = |value: fn(&LatencyRound) -> f64| middle(rounds, |r| value(&r.latency));
        report.setting("rate", self.rate);
        report.figure("post_to_socket_p50_ms", of(|l| l.heard.arrived.percentile_ms(50.0)), "ms");
        let ratio = of(|l| l.heard.arrived.percentile_ms(50.0) / l.bare.percentile_ms(50.0));
        report.figure("ratio_to_bare_commit", ratio, "").goal(Goal::AtMost(3.0));
        report.figure("bare_commit_p50_ms", of(|l| l.bare.percentile_ms(50.0)), "ms");
        report.figure("post_to_socket_p99_ms", of(|l| l.heard.arrived.percentile_ms(99.0)), "ms");
        report.figure("bare_commit_p99_ms", of(|l| l.bare.percentile_ms(99.0)), "ms");
        report.figure("post_to_socket_max_ms", of(|l| l.heard.arrived.max_ms()), "ms");
        report.figure("posts_late_p99_ms", of(|l| l.heard.late.percentile_ms(99.0)), "ms");
        let lost: usize = rounds.iter().map(|r| r.latency.heard.lost()).sum();
        if lost > 0 {
            report.note(format!("{lost} posts did not reach the listener in time"));
        }
    }
}
