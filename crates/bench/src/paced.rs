//! Sends notifications at an even rate to one listening user.
//!
//! It measures the time from the start of each one to the socket. A thread keeps the pace, because the runtime's own
//! timer knows whole milliseconds only. A worker that is still busy when its next notification is due sends it late.
//! With [`PostPace::counted_from_plan`] this delay counts too, so a slow hub cannot hide times by slowing the bench
//! down.

use std::sync::Arc;
use std::time::Duration;

use recado::cli::error::CliFailure;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clocks::Clocks;
use super::ground::{BenchHub, Ground};
use super::joined::joined;
use super::post::{Post, user};
use super::post_client::PostClient;
use super::times::SortedTimes;
use super::ws_client::{WsClient, mark};

/// Lead time before the first notification, so that every connection is ready by then.
const LEAD: Duration = Duration::from_millis(100);
/// Longest wait for the last notifications.
const LAST_LIMIT: Duration = Duration::from_secs(10);

/// Number and rate of the notifications.
#[derive(Debug, Clone, Copy)]
pub struct PostPace {
    rate: u32,
    total: usize,
    counted_from_plan: bool,
}

/// Result of a paced run.
pub struct PacedResult {
    pub arrived: SortedTimes,
    /// How late the notifications were started. The bench causes this, not the hub.
    pub late: SortedTimes,
}

/// One connection that notifies.
pub trait Worker: Send + 'static {
    /// Sends the n-th notification, and calls `clocks.starts(n)` right before the part that counts.
    fn send(&mut self, n: usize, clocks: &Clocks) -> impl Future<Output = Result<(), CliFailure>> + Send;
}

impl PostPace {
    pub fn new(rate: u32, seconds: u64) -> Self {
        Self { rate, total: usize::try_from(u64::from(rate) * seconds).unwrap_or(usize::MAX), counted_from_plan: false }
    }

    /// Counts times from the planned moment instead of the start.
    #[must_use]
    pub fn counted_from_plan(self) -> Self {
        Self { counted_from_plan: true, ..self }
    }

    /// Sends through all workers in turn to the first user, who listens at this hub.
    pub async fn heard<W: Worker>(self, ground: &Ground, hub: &BenchHub, workers: Vec<W>) -> Result<PacedResult, CliFailure> {
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
        // A listener that has ended returns its reason. One that waits for the last notifications gets some seconds.
        if let Ok(Err(failure)) = tokio::time::timeout(LAST_LIMIT, joined::<()>(listeners)).await {
            return Err(failure);
        }
        Ok(PacedResult { arrived: clocks.times(), late: SortedTimes::new(late) })
    }

    async fn send<W: Worker>(self, workers: Vec<W>, clocks: &Arc<Clocks>) -> Result<Vec<Duration>, CliFailure> {
        let begin = Instant::now() + LEAD;
        let mut sending = JoinSet::new();
        let mut turns = Vec::new();
        for mut worker in workers {
            let clocks = Arc::clone(clocks);
            let (turn, mut due_posts) = mpsc::channel(self.total.max(1));
            turns.push(turn);
            sending.spawn(async move {
                let mut late = Vec::new();
                while let Some((n, due)) = due_posts.recv().await {
                    late.push(Instant::now().saturating_duration_since(due));
                    if self.counted_from_plan {
                        clocks.planned(n, due);
                    }
                    worker.send(n, &clocks).await?;
                }
                Ok(late)
            });
        }
        // It ends by itself: after the last notification, or when the worker of the next one has failed.
        sending.spawn_blocking(move || {
            self.keep_pace(begin, &turns);
            Ok(Vec::new())
        });
        Ok(joined(sending).await?.concat())
    }

    /// Hands out each notification when it is due. A queue holds all of them, so a busy worker stops no other one.
    #[expect(clippy::disallowed_methods, reason = "a thread of its own sleeps, no worker of the runtime")]
    fn keep_pace(self, begin: Instant, turns: &[mpsc::Sender<(usize, Instant)>]) {
        for (n, turn) in (0..self.total).zip(turns.iter().cycle()) {
            let due = begin + Duration::from_secs(1) * u32::try_from(n).unwrap_or(u32::MAX) / self.rate;
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            if turn.try_send((n, due)).is_err() {
                return;
            }
        }
    }
}

impl PacedResult {
    /// Number of notifications that did not arrive in time.
    pub fn lost(&self) -> usize {
        self.late.len() - self.arrived.len()
    }

    /// # Errors
    /// Fails when a notification did not arrive in time.
    pub fn whole(self) -> Result<Self, CliFailure> {
        match self.lost() {
            0 => Ok(self),
            lost => Err(CliFailure::other(format!("{lost} of {} notifications did not arrive in time", self.late.len()))),
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
    /// Creates so many posters, each with a connection of its own.
    pub async fn some(ground: &Ground, hub: &BenchHub, count: usize, size: usize, keyed: bool) -> Result<Vec<Self>, CliFailure> {
        let token = ground.service_token()?;
        let mut some = Vec::new();
        for _ in 0..count {
            some.push(Self { client: PostClient::connect(hub.address, &token).await?, size, keyed });
        }
        Ok(some)
    }
}

impl Worker for Poster {
    async fn send(&mut self, n: usize, clocks: &Clocks) -> Result<(), CliFailure> {
        let body = Post { n, size: self.size }.body("\"user_id\":\"bench-0\"");
        let key = self.keyed.then(|| uuid::Uuid::now_v7().to_string());
        clocks.starts(n);
        self.client.post(&body, key.as_deref()).await
    }
}
