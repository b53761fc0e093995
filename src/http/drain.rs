//! Moves the clients of this instance to others, while it goes on serving.
//!
//! The connections that are open when the drain begins are closed one by one, spread over the window, with 4000: their
//! clients connect again at once. Meanwhile `/readyz` says not ready, so that a load balancer sends them elsewhere. A
//! client that comes here all the same is served: where no balancer asks, refusing it would only make it try again.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::state::HubState;
use crate::delivery::Connection;
use crate::delivery::send_queue::CloseOrder;
use crate::tasks::Stop;
use crate::wire::close::CloseCode;

/// Drains until the window is over or stopped.
pub async fn run(hub: Arc<HubState>, window: Duration, mut stop: Stop) {
    let draining = hub.health.drain();
    let connections: Vec<Weak<Connection>> = hub.delivery.registry.connections().iter().map(Arc::downgrade).collect();
    tracing::info!(connections = connections.len(), window_ms = window.as_millis(), "draining: closing connections");
    let begun = Instant::now();
    let step = window.checked_div(u32::try_from(connections.len()).unwrap_or(u32::MAX)).unwrap_or_default();
    let mut due = begun;
    for connection in connections {
        tokio::select! {
            () = sleep_until(due) => {}
            () = stop.wait() => return,
        }
        due += step;
        if let Some(connection) = connection.upgrade() {
            connection.send_queue.end(CloseOrder { close: CloseCode::Draining, after_ms: 0 });
        }
    }
    tokio::select! {
        () = sleep_until(begun + window) => {}
        () = stop.wait() => {}
    }
    drop(draining);
    tracing::info!("drained: ready for clients again");
}
