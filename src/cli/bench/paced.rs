//! Notifications at an even rate to one user who listens, and the time from each one's start to the socket.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clocks::Clocks;
use super::ground::{Ground, Hub};
use super::joined;
use super::post::{Post, user};
use super::post_client::PostClient;
use super::times::Times;
use super::ws_client::{WsClient, mark};
use crate::cli::error::Failure;

/// How long before the first notification its time is set, so that every connection is ready by then.
const LEAD: Duration = Duration::from_millis(100);
/// How long the last notifications may take to the listener.
const LAST_LIMIT: Duration = Duration::from_secs(10);

/// How many, and how often.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    rate: u32,
    total: usize,
}

/// What was heard.
pub struct Heard {
    pub arrived: Times,
    /// How late the notifications were begun, which is the bench's own doing.
    pub late: Times,
}

/// One connection that notifies.
pub trait Worker: Send + 'static {
    /// Sends the n-th notification, and says `clocks.starts(n)` right before what counts.
    fn send(&mut self, n: usize, clocks: &Clocks) -> impl Future<Output = Result<(), Failure>> + Send;
}

impl Pace {
    pub fn new(rate: u32, seconds: u64) -> Self {
        Self { rate, total: usize::try_from(u64::from(rate) * seconds).unwrap_or(usize::MAX) }
    }

    /// Sends by all workers in turn to the first user, who listens at this hub.
    pub async fn heard<W: Worker>(self, ground: &Ground, hub: &Hub, workers: Vec<W>) -> Result<Heard, Failure> {
        let clocks = Arc::new(Clocks::new(self.total, 1));
        let (mut socket, _) = WsClient::connect(hub.address, &ground.user_token(&user(0)?)?, "client_id=bench&since=live").await?;
        socket.until_caught_up().await?;
        let (listening, total) = (Arc::clone(&clocks), self.total);
        let mut listeners = JoinSet::new();
        listeners.spawn(async move {
            loop {
                if let Some(n) = mark(&socket.text().await?)
                    && listening.arrived(n, 0) == total
                {
                    return Ok(());
                }
            }
        });
        let late = self.send(workers, &clocks).await?;
        // A listener that ended says why; one that waits for the last ones has some seconds.
        if let Ok(Err(failure)) = tokio::time::timeout(LAST_LIMIT, joined::<()>(listeners)).await {
            return Err(failure);
        }
        Ok(Heard { arrived: clocks.times(), late: Times::new(late) })
    }

    async fn send<W: Worker>(self, workers: Vec<W>, clocks: &Arc<Clocks>) -> Result<Vec<Duration>, Failure> {
        let (begin, between, step) = (Instant::now() + LEAD, Duration::from_secs(1) / self.rate, workers.len().max(1));
        let mut sending = JoinSet::new();
        for (first, mut worker) in workers.into_iter().enumerate() {
            let clocks = Arc::clone(clocks);
            sending.spawn(async move {
                let mut late = Vec::new();
                for n in (first..self.total).step_by(step) {
                    let due = begin + between * u32::try_from(n).unwrap_or(u32::MAX);
                    tokio::time::sleep_until(due).await;
                    late.push(due.elapsed());
                    worker.send(n, &clocks).await?;
                }
                Ok(late)
            });
        }
        Ok(joined(sending).await?.concat())
    }
}

impl Heard {
    /// How many did not come in time.
    pub fn lost(&self) -> usize {
        self.late.len() - self.arrived.len()
    }

    /// # Errors
    /// When one did not come in time.
    pub fn whole(self) -> Result<Self, Failure> {
        match self.lost() {
            0 => Ok(self),
            lost => Err(Failure::other(format!("{lost} of {} notifications did not come in time", self.late.len()))),
        }
    }
}

/// A service that posts.
pub struct Poster {
    client: PostClient,
    size: usize,
    keyed: bool,
}

impl Poster {
    /// So many, each with a connection of its own.
    pub async fn some(ground: &Ground, hub: &Hub, count: usize, size: usize, keyed: bool) -> Result<Vec<Self>, Failure> {
        let token = ground.service_token()?;
        let mut some = Vec::new();
        for _ in 0..count {
            some.push(Self { client: PostClient::connect(hub.address, &token).await?, size, keyed });
        }
        Ok(some)
    }
}

impl Worker for Poster {
    async fn send(&mut self, n: usize, clocks: &Clocks) -> Result<(), Failure> {
        let body = Post { n, size: self.size }.body("\"user_id\":\"bench-0\"");
        let key = self.keyed.then(|| uuid::Uuid::now_v7().to_string());
        clocks.starts(n);
        self.client.post(&body, key.as_deref()).await
    }
}
