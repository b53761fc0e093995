//! Connects many clients that read.
//!
//! A crowd measures what listeners cost the hub, not what connecting costs.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use recado::cli::error::CliFailure;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::clocks::Clocks;
use super::ground::{BenchHub, Ground};
use super::joined::joined;
use super::post::{Post, user};
use super::post_client::PostClient;
use super::ws_client::{WsClient, mark};

/// Longest time until every listener has one post, for each 10,000 listeners.
const ARRIVAL_LIMIT: Duration = Duration::from_secs(15);
/// Pause between two posts to everyone, so that pongs and their acknowledgements do not meet the next post. Streams
/// without pongs pause as long.
pub const PAUSE: Duration = Duration::from_millis(1500);
/// Clients that connect at the same time.
const PARALLEL: usize = 128;

/// Connects one client for each of these users, in their order, a few at a time. All of them are live when it returns.
pub async fn connect(ground: &Ground, hub: &BenchHub, users: Range<usize>, device: &str) -> Result<Vec<WsClient>, CliFailure> {
    let doors = Arc::new(Semaphore::new(PARALLEL));
    let query = format!("client_id={device}");
    let mut connecting = JoinSet::new();
    for n in users {
        let (token, address, doors, query) = (ground.user_token(&user(n)?)?, hub.address, Arc::clone(&doors), query.clone());
        connecting.spawn(async move {
            let _door = doors.acquire().await.map_err(|error| CliFailure::other(error.to_string()))?;
            let (mut socket, _) = WsClient::connect(address, &token, &query).await?;
            socket.until_caught_up().await?;
            Ok((n, socket))
        });
    }
    let mut sockets = joined(connecting).await?;
    sockets.sort_unstable_by_key(|(n, _)| *n);
    Ok(sockets.into_iter().map(|(_, socket)| socket).collect())
}

/// Connects one client, which is live when it returns.
pub async fn connect_one(ground: &Ground, hub: &BenchHub, n: usize, query: &str) -> Result<WsClient, CliFailure> {
    let (mut socket, _) = WsClient::connect(hub.address, &ground.user_token(&user(n)?)?, query).await?;
    socket.until_caught_up().await?;
    Ok(socket)
}

/// Connected clients that read posts to everyone.
pub struct Crowd {
    clocks: Arc<Clocks>,
    frame_bytes: Arc<AtomicUsize>,
    listeners: JoinSet<CliFailure>,
    connections: usize,
    posted: usize,
}

impl Crowd {
    /// Starts to read these sockets, for so many posts.
    pub fn of(sockets: Vec<WsClient>, posts: usize) -> Self {
        let connections = sockets.len();
        let clocks = Arc::new(Clocks::new(posts, connections));
        let frame_bytes = Arc::new(AtomicUsize::new(0));
        let mut listeners = JoinSet::new();
        for (at, socket) in sockets.into_iter().enumerate() {
            listeners.spawn(listen(socket, at, Arc::clone(&clocks), Arc::clone(&frame_bytes)));
        }
        Self { clocks, frame_bytes, listeners, connections, posted: 0 }
    }

    /// Posts so many times to everyone, one after the other, and waits for every client and for the acknowledgements.
    pub async fn post_to_all(&mut self, ground: &Ground, hub: &BenchHub, posts: usize, size: usize) -> Result<(), CliFailure> {
        let mut client = PostClient::connect(hub.address, &ground.service_token()?).await?;
        for _ in 0..posts {
            let body = Post { n: self.posted, size }.body("\"broadcast\":true");
            self.clocks.starts(self.posted);
            client.post(&body, None).await?;
            self.posted += 1;
            arrival_of(&self.clocks, self.posted * self.connections, &mut self.listeners).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Disconnects everyone. Returns the times, and the longest frame in bytes.
    pub async fn leave(mut self) -> Result<(Clocks, usize), CliFailure> {
        self.listeners.shutdown().await;
        let clocks = Arc::try_unwrap(self.clocks).map_err(|_| CliFailure::other("a listener still runs"))?;
        Ok((clocks, self.frame_bytes.load(Ordering::Relaxed)))
    }
}

/// Reads one socket: records the arrival of each marked post, and the longest frame. Returns only when the connection
/// breaks.
pub async fn listen(mut socket: WsClient, at: usize, clocks: Arc<Clocks>, bytes: Arc<AtomicUsize>) -> CliFailure {
    loop {
        match socket.text().await {
            Ok(text) => {
                if let Some(n) = mark(&text) {
                    clocks.arrived(n, at);
                    bytes.fetch_max(text.len(), Ordering::Relaxed);
                }
            }
            Err(failure) => return failure,
        }
    }
}

/// Waits until so many arrivals were counted, as long as no listener is lost.
pub async fn arrival_of(clocks: &Clocks, wanted: usize, listeners: &mut JoinSet<CliFailure>) -> Result<(), CliFailure> {
    let end = Instant::now() + ARRIVAL_LIMIT * u32::try_from(1 + clocks.listeners() / 10_000).unwrap_or(u32::MAX);
    while clocks.count() < wanted && Instant::now() < end {
        if let Some(Ok(failure)) = listeners.try_join_next() {
            return Err(failure);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
