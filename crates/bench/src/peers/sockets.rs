//! Measures what connections cost: to come, to stay, to get a post to everyone, and to come back.

use std::time::Duration;

use recado::cli::error::CliFailure;
use tokio::time::Instant;

use super::super::crowd::{self, Crowd};
use super::super::figure::Goal;
use super::super::ground::BenchHub;
use super::super::meter::ServerMemory;
use super::super::{plain_fanout, plain_sockets};
use super::{PeersRun, SIZE};

/// Time after which the hub has written acknowledgements, sessions and their ends.
const SETTLED: Duration = Duration::from_secs(2);
const DEVICE: &str = "peers";

impl PeersRun<'_> {
    pub(super) async fn sockets(&mut self) -> Result<(), CliFailure> {
        let hub = self.ground.hub().await?;
        let outcome = self.crowd(&hub).await;
        hub.stop().await?;
        let frame_bytes = outcome?;
        eprintln!("measuring the ceilings: programs that only write the same frames, and only answer handshakes");
        let connections = self.sizes.connections;
        let plain = plain_fanout::measure(connections, self.sizes.posts, frame_bytes).await?;
        let [p50, last] = [50.0, 100.0].map(|percent| plain.times.percentile_ms(percent));
        self.report.figure("plain_fanout_p50_ms", p50, "ms");
        self.report.figure("plain_fanout_max_ms", last, "ms");
        let deliveries = (connections * self.sizes.posts) as f64;
        self.report.figure("plain_fanout_cpu_s_per_1000", plain.cpu.as_secs_f64() * 1000.0 / deliveries, "s");
        let plain = plain_sockets::measure(connections, 0, 0).await?;
        self.report.figure("plain_connect_cpu_s_per_1000", plain.cpu.as_secs_f64() * 1000.0 / connections as f64, "s");
        Ok(())
    }

    /// Returns the bytes of a frame.
    async fn crowd(&mut self, hub: &BenchHub) -> Result<usize, CliFailure> {
        let (connections, posts) = (self.sizes.connections, self.sizes.posts);
        let meter = self.meter(hub).await?;
        let empty = meter.memory();
        eprintln!("connecting {connections} clients with new devices");
        let before = meter.now().await?;
        let sockets = crowd::connect(self.ground, hub, 0..connections, DEVICE).await?;
        tokio::time::sleep(SETTLED).await;
        self.cpu("first_connect", meter.now().await? - before, connections, None);

        let mut crowd = Crowd::of(sockets, posts);
        let before = meter.now().await?;
        tokio::time::sleep(Duration::from_secs(self.sizes.quiet)).await;
        let idle = meter.now().await? - before;
        if meter.sees_processes() {
            let share = 100.0 * (idle.hub + idle.database).cpu.as_secs_f64() / idle.time.as_secs_f64();
            self.report.figure("idle_cpu_percent", share, "% of a core");
        }
        self.memory(empty, meter.memory());

        eprintln!("posting {posts} times to everyone");
        let before = meter.now().await?;
        crowd.post_to_all(self.ground, hub, posts, SIZE).await?;
        let cost = meter.now().await? - before;
        let (clocks, frame_bytes) = crowd.leave().await?;
        let times = clocks.times();
        self.goal("fanout_p50_ms", times.percentile_ms(50.0), "ms", Goal::AtMost(60.0));
        self.report.figure("fanout_p99_ms", times.percentile_ms(99.0), "ms");
        self.goal("fanout_last_ms", clocks.median_last_ms(), "ms", Goal::AtMost(110.0));
        self.report.figure("fanout_max_ms", times.max_ms(), "ms");
        self.report.figure("fanout_missing", (connections * posts - times.len()) as f64, "").goal(Goal::AtMost(0.0));
        self.cpu("fanout", cost, times.len(), Some(0.03));

        tokio::time::sleep(SETTLED).await;
        eprintln!("connecting the same devices again; none has missed anything");
        let (before, start) = (meter.now().await?, Instant::now());
        let sockets = crowd::connect(self.ground, hub, 0..connections, DEVICE).await?;
        self.report.figure("connects_per_s", connections as f64 / start.elapsed().as_secs_f64(), "1/s");
        tokio::time::sleep(SETTLED).await;
        self.cpu("connect", meter.now().await? - before, connections, Some(0.4));
        drop(sockets);
        Ok(frame_bytes)
    }

    fn memory(&mut self, empty: Option<ServerMemory>, full: Option<ServerMemory>) {
        let (Some(empty), Some(full)) = (empty, full) else {
            self.report.note("memory of the hub not measured: its processes are not known, or may not be read");
            return;
        };
        let connections = self.sizes.connections as f64;
        let each = |full: u64, empty: u64| (full as f64 - empty as f64) / connections;
        self.report.figure("idle_hub_resident_kib", each(full.hub.resident, empty.hub.resident), "KiB");
        self.report.figure("idle_hub_proportional_kib", each(full.hub.proportional, empty.hub.proportional), "KiB");
        self.goal("idle_with_database_proportional_kib", each(full.all.proportional, empty.all.proportional), "KiB", Goal::AtMost(8.0));
    }
}
