//! Closes the connections whose key was removed by its issuer.
//!
//! A removed key may be in the hands of someone else, so a connection that it admitted must not outlive it. All of a
//! hub's connections may have come with one key. They are closed spread over the drain window, so that their clients
//! do not fetch new tokens and return all at once.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::delivery::Registry;
use crate::delivery::send_queue::CloseOrder;
use crate::identity::KeyChange;
use crate::tasks::Stop;
use crate::wire::close::CloseCode;

/// Acts on changes of key sets until stopped.
pub async fn close_removed_keys(registry: Arc<Registry>, mut changes: mpsc::Receiver<KeyChange>, window: Duration, mut stop: Stop) {
    loop {
        let change = tokio::select! {
            Some(change) = changes.recv() => change,
            () = stop.wait() => return,
        };
        tokio::select! {
            () = act(&registry, &change, window) => {}
            () = stop.wait() => return,
        }
    }
}

async fn act(registry: &Registry, change: &KeyChange, window: Duration) {
    #[cfg(feature = "mutants")]
    if crate::mutants::is("keep-removed-key") {
        return;
    }
    // From here on, a connection that was admitted a moment ago ends when it joins.
    let connections = registry.change_keys(&change.removed, &change.added);
    if connections.is_empty() {
        return;
    }
    tracing::info!(connections = connections.len(), "closing connections whose key was removed");
    let begun = Instant::now();
    let count = u32::try_from(connections.len()).unwrap_or(u32::MAX);
    for (at, connection) in connections.into_iter().enumerate() {
        sleep_until(begun + window * u32::try_from(at).unwrap_or(u32::MAX) / count).await;
        // It may have sent a newer token meanwhile.
        if registry.is_removed(connection.origin().key) {
            connection.send_queue.end(CloseOrder { close: CloseCode::TokenExpired, after_ms: 0 });
        }
    }
}
