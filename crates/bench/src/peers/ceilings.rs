//! Measures plain INSERTs: the same rows without a hub.

use std::time::Duration;

use recado::cli::error::CliFailure;

use super::super::ceilings::Yardstick;
use super::super::meter::Meter;
use super::{PeersRun, SIZE};

impl PeersRun<'_> {
    pub(super) async fn inserts(&mut self) -> Result<(), CliFailure> {
        eprintln!("measuring the ceilings: plain INSERTs over 64 connections and over one");
        let mut yardstick = Yardstick::make(self.ground).await?;
        let outcome = self.insert_with(&mut yardstick).await;
        yardstick.unmake().await?;
        outcome
    }

    async fn insert_with(&mut self, yardstick: &mut Yardstick) -> Result<(), CliFailure> {
        let meter = Meter::of(self.ground, None, &[]).await?;
        let time = Duration::from_secs(self.sizes.seconds);
        for connections in [64, 1] {
            let before = meter.now().await?;
            let found = yardstick.single_inserts(self.ground, connections, SIZE, time).await?;
            let cost = meter.now().await? - before;
            let name = format!("plain_insert_{connections}");
            self.report.figure(format!("{name}_per_s"), found.per_s, "1/s");
            self.report.figure(format!("{name}_p50_ms"), found.times.percentile_ms(50.0), "ms");
            self.report.figure(format!("{name}_p99_ms"), found.times.percentile_ms(99.0), "ms");
            self.cpu(&name, cost, found.times.len(), None);
        }
        Ok(())
    }
}
