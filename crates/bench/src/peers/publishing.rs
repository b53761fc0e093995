//! Measures posts: as many as 64 connections make, as one makes, and an even rate of them to a socket.

use recado::cli::error::CliFailure;

use super::super::burst::Burst;
use super::super::figure::Goal;
use super::super::ground::BenchHub;
use super::super::paced::{PostPace, Poster};
use super::super::times::SortedTimes;
use super::{PeersRun, SIZE};

/// Connections of the open loop. A slow answer delays only the posts of its own connection.
const PACED: usize = 64;

impl PeersRun<'_> {
    pub(super) async fn publish(&mut self) -> Result<(), CliFailure> {
        let hub = self.ground.hub().await?;
        let outcome = self.publish_to(&hub).await;
        hub.stop().await?;
        outcome
    }

    async fn publish_to(&mut self, hub: &BenchHub) -> Result<(), CliFailure> {
        let meter = self.meter(hub).await?;
        for connections in [64, 1] {
            eprintln!("posting over {connections} connections for {} s", self.sizes.seconds);
            let before = meter.now().await?;
            let (times, per_s) = Burst::of(connections, SIZE, self.sizes.seconds).at(self.ground, &[hub]).await?;
            let cost = meter.now().await? - before;
            let (name, posts, times) = (format!("publish_{connections}"), times.len(), SortedTimes::new(times));
            let [p50, p99] = [50.0, 99.0].map(|percent| times.percentile_ms(percent));
            if connections == 1 {
                self.report.figure(format!("{name}_per_s"), per_s, "1/s");
                self.goal(&format!("{name}_p50_ms"), p50, "ms", Goal::AtMost(0.6));
            } else {
                self.goal(&format!("{name}_per_s"), per_s, "1/s", Goal::AtLeast(14_000.0));
                self.report.figure(format!("{name}_p50_ms"), p50, "ms");
            }
            self.report.figure(format!("{name}_p99_ms"), p99, "ms");
            self.cpu(&name, cost, posts, (connections > 1).then_some(0.1));
            if let Some(counts) = cost.counts {
                self.report.figure(format!("{name}_posts_per_transaction"), posts as f64 / counts.writes.max(1) as f64, "");
            }
        }
        Ok(())
    }

    pub(super) async fn paced(&mut self) -> Result<(), CliFailure> {
        let hub = self.ground.hub().await?;
        let outcome = self.pace(&hub).await;
        hub.stop().await?;
        outcome
    }

    async fn pace(&mut self, hub: &BenchHub) -> Result<(), CliFailure> {
        let (rate, seconds) = (self.sizes.rate, self.sizes.seconds);
        eprintln!("posting {rate} times a second for {seconds} s, to a socket");
        let posters = Poster::some(self.ground, hub, PACED, SIZE, false).await?;
        let meter = self.meter(hub).await?;
        let before = meter.now().await?;
        let heard = PostPace::new(rate, seconds).counted_from_plan().heard(self.ground, hub, posters).await?;
        let cost = meter.now().await? - before;
        let at = |percent| heard.arrived.percentile_ms(percent);
        let (p50, p99, most) = (at(50.0), at(99.0), heard.arrived.max_ms());
        let late = [50.0, 99.0].map(|percent| heard.late.percentile_ms(percent));
        self.goal("receipt_p50_ms", p50, "ms", Goal::AtMost(0.8));
        self.goal("receipt_p99_ms", p99, "ms", Goal::AtMost(5.0));
        self.report.figure("receipt_max_ms", most, "ms");
        self.report.figure("paced_late_p50_ms", late[0], "ms");
        self.report.figure("paced_late_p99_ms", late[1], "ms");
        self.report.figure("paced_lost", heard.lost() as f64, "").goal(Goal::AtMost(0.0));
        self.cpu("paced", cost, heard.arrived.len(), Some(0.4));
        if let Some(counts) = cost.counts {
            self.report.figure("paced_posts_per_transaction", heard.arrived.len() as f64 / counts.writes.max(1) as f64, "");
        }
        Ok(())
    }
}
