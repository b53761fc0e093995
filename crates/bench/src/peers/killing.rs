//! Kills the hub under load, and looks for every acknowledged post in the log.

use std::collections::HashSet;
use std::time::Duration;

use recado::cli::error::CliFailure;
use tokio::task::JoinSet;

use super::super::figure::Goal;
use super::super::ground::BenchHub;
use super::super::post::Post;
use super::super::post_client::PostClient;
use super::super::yardstick;
use super::{PeersRun, SIZE};

const CONNECTIONS: usize = 64;

impl PeersRun<'_> {
    pub(super) async fn kill(&mut self) -> Result<(), CliFailure> {
        let after = self.ground.head().await?;
        let hub = self.ground.hub().await?;
        eprintln!("killing the hub while {CONNECTIONS} connections post");
        let acknowledged = self.killed(hub).await?;
        let mut connection = self.ground.owned_database().connect("bench").await?;
        let kept: HashSet<usize> = yardstick::marks(&mut connection, after).await?.into_iter().collect();
        let lost = acknowledged.iter().filter(|n| !kept.contains(n)).count();
        self.report.figure("kill_acknowledged", acknowledged.len() as f64, "");
        self.report.figure("kill_lost", lost as f64, "").goal(Goal::AtMost(0.0));
        Ok(())
    }

    /// Returns the marks of the posts that were acknowledged before the kill.
    async fn killed(&self, hub: BenchHub) -> Result<Vec<usize>, CliFailure> {
        let token = self.ground.service_token()?;
        let mut posting = JoinSet::new();
        for first in 0..CONNECTIONS {
            let mut client = PostClient::connect(hub.address, &token).await?;
            posting.spawn(async move {
                let mut acknowledged = Vec::new();
                for n in (first..).step_by(CONNECTIONS) {
                    // The first failure is the hub's end.
                    if client.post(&Post { n, size: SIZE }.body("\"user_id\":\"bench-0\""), None).await.is_err() {
                        break;
                    }
                    acknowledged.push(n);
                }
                acknowledged
            });
        }
        tokio::time::sleep(Duration::from_secs(self.sizes.seconds)).await;
        hub.kill().await;
        Ok(posting.join_all().await.concat())
    }
}
