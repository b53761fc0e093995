//! Posts single notifications over many connections, each as fast as it is answered.

use std::time::Duration;

use recado::cli::error::CliFailure;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::ground::{BenchHub, Ground};
use super::joined::joined;
use super::post::Post;
use super::post_client::PostClient;

/// Number of users that the posts go to.
pub const USERS: usize = 1000;

/// Shape of the posts.
#[derive(Debug, Clone, Copy)]
pub struct Burst {
    pub connections: usize,
    pub size: usize,
    pub keyed: bool,
    pub seconds: u64,
}

impl Burst {
    /// Single posts of this size, over so many connections.
    pub fn of(connections: usize, size: usize, seconds: u64) -> Self {
        Self { connections, size, keyed: false, seconds }
    }

    /// Divides the connections evenly among the hubs. Returns the time of each post, and posts a second.
    pub async fn at(self, ground: &Ground, hubs: &[&BenchHub]) -> Result<(Vec<Duration>, f64), CliFailure> {
        let token = ground.service_token()?;
        let mut clients = Vec::new();
        for hub in hubs.iter().cycle().take(self.connections) {
            clients.push(PostClient::connect(hub.address, &token).await?);
        }
        let start = Instant::now();
        let end = start + Duration::from_secs(self.seconds);
        let mut posting = JoinSet::new();
        for (first, mut client) in clients.into_iter().enumerate() {
            posting.spawn(async move {
                let mut times = Vec::new();
                let mut n = first;
                while Instant::now() < end {
                    let body = Post { n, size: self.size }.body(&format!("\"user_id\":\"bench-{}\"", n % USERS));
                    let key = self.keyed.then(|| uuid::Uuid::now_v7().to_string());
                    let start = Instant::now();
                    client.post(&body, key.as_deref()).await?;
                    times.push(start.elapsed());
                    n += self.connections;
                }
                Ok(times)
            });
        }
        let times = joined(posting).await?.concat();
        let per_s = times.len() as f64 / start.elapsed().as_secs_f64();
        Ok((times, per_s))
    }
}
