//! Many clients that are connected and read: a crowd costs the hub what listeners cost, not what connecting does.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::clocks::Clocks;
use super::ground::{Ground, Hub};
use super::joined;
use super::post::user;
use super::ws_client::{WsClient, mark};
use crate::cli::error::Failure;

/// Clients that connect at the same time.
const PARALLEL: usize = 128;

/// Connects one client for each of these users, in their order, a few at a time; all are live then.
pub async fn connect(ground: &Ground, hub: &Hub, users: Range<usize>, device: &str) -> Result<Vec<WsClient>, Failure> {
    let doors = Arc::new(Semaphore::new(PARALLEL));
    let query = format!("client_id={device}");
    let mut connecting = JoinSet::new();
    for n in users {
        let (token, address, doors, query) = (ground.user_token(&user(n)?)?, hub.address, Arc::clone(&doors), query.clone());
        connecting.spawn(async move {
            let _door = doors.acquire().await.map_err(|error| Failure::other(error.to_string()))?;
            let (mut socket, _) = WsClient::connect(address, &token, &query).await?;
            socket.until_caught_up().await?;
            Ok((n, socket))
        });
    }
    let mut sockets = joined(connecting).await?;
    sockets.sort_unstable_by_key(|(n, _)| *n);
    Ok(sockets.into_iter().map(|(_, socket)| socket).collect())
}

/// One socket's reader: notes when each marked post came, and the longest frame. Ends only by a broken connection.
pub async fn listen(mut socket: WsClient, at: usize, clocks: Arc<Clocks>, bytes: Arc<AtomicUsize>) -> Failure {
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
