//! Measures storms: a small one several times, and a large one.

use recado::cli::error::CliFailure;
use recado::domain::UserId;

use super::super::figure::Goal;
use super::super::ground::BenchHub;
use super::super::plain_sockets;
use super::super::post::user;
use super::super::storm::{StormBench, StormFindings};
use super::super::times::middle;
use super::PeersRun;

/// Clients of the small storm.
const SMALL: u32 = 200;
/// Posts a second during the storm.
const RATE: u32 = 100;

impl PeersRun<'_> {
    pub(super) async fn storms(&mut self) -> Result<(), CliFailure> {
        let (storm, missed) = (self.sizes.storm, self.sizes.missed);
        let hub = self.ground.hub().await?;
        let outcome: Result<_, CliFailure> = async {
            let mut small = Vec::new();
            for _ in 0..self.sizes.rounds {
                small.push(self.storm(&hub, SMALL).await?);
            }
            Ok((small, self.storm(&hub, storm).await?))
        }
        .await;
        hub.stop().await?;
        let (small, large) = outcome?;
        let seconds = middle(&small, |found| found.back().as_secs_f64());
        self.goal("storm_small_s", seconds, "s", Goal::AtMost(0.12));
        if let Some(found) = small.first() {
            self.cpu("storm_small", found.cost, SMALL as usize, None);
        }
        self.goal("storm_large_s", large.back().as_secs_f64(), "s", Goal::AtMost(3.5));
        self.report.figure("storm_large_client_p50_ms", large.times.percentile_ms(50.0), "ms");
        let cpu = (large.cost.hub + large.cost.database).cpu;
        self.report.figure("storm_large_cpu_s", cpu.as_secs_f64(), "s");
        self.cpu("storm_large", large.cost, storm as usize, None);
        self.report.figure("storm_large_post_p50_ms", large.posted.answers.percentile_ms(50.0), "ms");
        self.goal("storm_large_post_p99_ms", large.posted.answers.percentile_ms(99.0), "ms", Goal::AtMost(150.0));
        self.report.figure("storm_large_posts_failed", large.posted.failed as f64, "").goal(Goal::AtMost(0.0));
        self.report.figure("storm_large_tries_again", f64::from(large.retries), "");
        let plain = plain_sockets::measure(storm as usize, missed as usize, large.frame_bytes).await?;
        self.report.figure("plain_storm_large_s", plain.time.as_secs_f64(), "s");
        self.report.figure("plain_storm_large_cpu_s", plain.cpu.as_secs_f64(), "s");
        self.report.note(format!(
            "a storm is {SMALL} clients ({} times, median) or {storm}, each back with its {missed} missed notifications once and in order, \
             while {RATE} posts a second go on",
            self.sizes.rounds
        ));
        Ok(())
    }

    async fn storm(&self, hub: &BenchHub, clients: u32) -> Result<StormFindings, CliFailure> {
        let users: Vec<UserId> = (0..clients as usize).map(user).collect::<Result<_, _>>()?;
        let meter = self.meter(hub).await?;
        let found = StormBench::at_once(clients, self.sizes.missed, RATE).through(self.ground, hub, &users, &meter).await?;
        eprintln!("  {clients} clients back after {:.3} s", found.back().as_secs_f64());
        Ok(found)
    }
}
