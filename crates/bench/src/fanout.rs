//! Implements `recado-bench fanout`: one post to thousands of sockets, and an idle socket's memory.

use std::time::Duration;

use clap::Args;
use recado::cli::error::CliFailure;
use tokio::time::Instant;

use super::clocks::Clocks;
use super::crowd::{self, Crowd};
use super::figure::Goal;
use super::ground::{BenchHub, Ground};
use super::plain_fanout;
use super::report::Report;

/// Approximate bytes of a post's body.
const SIZE: usize = 300;

/// Measure one post to every socket against a program that only writes the same frames, and the memory of an idle
/// socket
#[derive(Debug, Clone, Args)]
pub struct Fanout {
    /// Sockets, each of another user
    #[arg(long, default_value_t = 9000, value_parser = clap::value_parser!(u32).range(1..=200_000))]
    connections: u32,
    /// Posts to everyone, one after the other
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    posts: u16,
    /// Seconds of quiet before memory is measured
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u64).range(0..=600))]
    quiet: u64,
}

/// Results of the hub's part.
struct FanoutFindings {
    clocks: Clocks,
    frame_bytes: usize,
    connecting: Duration,
    idle_bytes: Option<f64>,
    after_bytes: Option<f64>,
}

impl Fanout {
    /// Sockets of one process.
    pub fn sockets(&self) -> usize {
        self.connections as usize
    }

    pub async fn run(&self, ground: &Ground) -> Result<Report, CliFailure> {
        let connections = self.connections as usize;
        let hub = ground.hub().await?;
        let found = self.through(ground, &hub).await;
        hub.stop().await?;
        let found = found?;
        eprintln!("measuring the ceiling: a program that only writes the same frames");
        let plain = plain_fanout::measure(connections, self.posts.into(), found.frame_bytes).await?.times;

        let mut report = Report::new("fanout");
        report.setting("connections", self.connections);
        report.setting("posts", self.posts);
        let times = found.clocks.times();
        let at = |percent| (times.percentile_ms(percent), plain.percentile_ms(percent));
        report.figure("socket_p50_ms", at(50.0).0, "ms");
        report.figure("plain_writer_p50_ms", at(50.0).1, "ms");
        report.figure("ratio_p50", at(50.0).1 / at(50.0).0, "").goal(Goal::AtLeast(0.7));
        report.figure("socket_p90_ms", at(90.0).0, "ms").beside("plain writer", at(90.0).1);
        report.figure("socket_p99_ms", at(99.0).0, "ms").beside("plain writer", at(99.0).1);
        report.figure("socket_max_ms", times.max_ms(), "ms").beside("plain writer", plain.max_ms());
        report.figure("connects_per_s", f64::from(self.connections) / found.connecting.as_secs_f64(), "1/s");
        report.figure("frame_bytes", found.frame_bytes as f64, "B");
        match (found.idle_bytes, found.after_bytes) {
            (Some(idle), Some(after)) => {
                report.figure("idle_connection_kib", idle / 1024.0, "KiB").goal(Goal::AtMost(10.0));
                report.figure("connection_after_posts_kib", after / 1024.0, "KiB");
            }
            _ => report.note("memory of the hub not measured: it is only known for a hub that the bench started"),
        }
        for (whose, came) in [("the hub's", times.len()), ("the plain writer's", plain.len())] {
            let missing = (connections * usize::from(self.posts)).saturating_sub(came);
            if missing > 0 {
                report.note(format!("{missing} of {whose} arrivals are missing"));
            }
        }
        Ok(report)
    }

    async fn through(&self, ground: &Ground, hub: &BenchHub) -> Result<FanoutFindings, CliFailure> {
        let connections = self.connections as usize;
        let before = hub.resident_kib();
        eprintln!("connecting {connections} clients");
        let start = Instant::now();
        let sockets = crowd::connect(ground, hub, 0..connections, "bench").await?;
        let connecting = start.elapsed();

        let mut crowd = Crowd::of(sockets, self.posts.into());
        tokio::time::sleep(Duration::from_secs(self.quiet)).await;
        let each = |now: Option<u64>| Some((now? as f64 - before? as f64) * 1024.0 / connections as f64);
        let idle_bytes = each(hub.resident_kib());

        eprintln!("posting {} times to everyone", self.posts);
        crowd.post_to_all(ground, hub, self.posts.into(), SIZE).await?;
        tokio::time::sleep(Duration::from_secs(self.quiet)).await;
        let after_bytes = each(hub.resident_kib());
        let (clocks, frame_bytes) = crowd.leave().await?;
        Ok(FanoutFindings { clocks, frame_bytes, connecting, idle_bytes, after_bytes })
    }
}
