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
use super::post::user;
use super::ws_client::{WsClient, mark};

/// Longest time until every listener has one post.
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
    let end = Instant::now() + ARRIVAL_LIMIT;
    while clocks.count() < wanted && Instant::now() < end {
        if let Some(Ok(failure)) = listeners.try_join_next() {
            return Err(failure);
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}
