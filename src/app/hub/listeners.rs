//! Binds the sockets on which a hub serves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::app::ServeError;
use crate::app::connection_room::ConnectionRoom;
use crate::config::Config;
use crate::http::{ConnectionSlots, Hosts, HubState, ListenerSide, Server, ServerRules, TrustedProxies, router};
use crate::tasks::Tasks;

/// How much longer than the send deadline any write may wait.
const STALL_MARGIN: Duration = Duration::from_secs(5);

/// A listener that is bound and does not accept yet.
pub(super) struct BoundListener {
    pub server: Server,
    pub address: SocketAddr,
    pub side: ListenerSide,
}

/// Binds the listeners of the hub; the one for its clients comes first.
pub(super) async fn listen(config: &Config, hub: &Arc<HubState>, tasks: &Tasks) -> Result<Vec<BoundListener>, ServeError> {
    let room = ConnectionRoom::of(config);
    if let Some(wanted) = config.max_connections.filter(|wanted| *wanted > room.clients) {
        tracing::warn!(
            wanted,
            possible = room.clients,
            "WS_MAX_CONNECTIONS is more than the limit of open files allows; using the possible number"
        );
    }
    let public = SocketAddr::new(config.bind, config.port);
    let wanted = match config.internal_bind {
        None => vec![(public, ListenerSide::Whole)],
        Some(internal) => vec![(public, ListenerSide::Public), (internal, ListenerSide::Internal)],
    };
    // Above the send deadline: that deadline closes a WebSocket that takes nothing first, with a close code if
    // possible.
    let rules = ServerRules { stall: config.send_deadline + STALL_MARGIN, idle: config.idle_timeout };
    let mut listeners = Vec::new();
    for (address, side) in wanted {
        let places = ConnectionSlots::new(room.budgets(config, side), TrustedProxies::new(config.trusted_proxies.clone()));
        let bind_error = |error| ServeError::Bind { address, error };
        let server = Server::bind(address, router(Arc::clone(hub), side, hosts(config, address)), tasks.clone(), places, rules)
            .await
            .map_err(bind_error)?;
        let address = server.address().map_err(bind_error)?;
        listeners.push(BoundListener { server, address, side });
    }
    Ok(listeners)
}

/// The `Host` names that a listener accepts.
fn hosts(config: &Config, address: SocketAddr) -> Hosts {
    if !address.ip().is_loopback() {
        return Hosts::any();
    }
    let origins: Vec<String> = config.allowed_origins.iter().flatten().chain(&config.public_origin).cloned().collect();
    Hosts::on_loopback(&config.allowed_hosts, &origins)
}
