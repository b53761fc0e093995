//! A door that says back what it hears, only with the feature `conformance`: the test cases for WebSocket servers talk to
//! it. Listener, handshake, frames, deadlines and goodbyes are those of `/ws`; there is no user, and no hub behind it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::extract::ws::rejection::WebSocketUpgradeRejection;
use axum::extract::ws::{Message, WebSocketUpgrade};
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;

use super::frames::{Frames, Over, bounded};
use super::problems::Refused;
use super::server::Server;
use super::upgrade::handshake;
use crate::tasks::{Stop, Tasks};

/// The limits of the door.
#[derive(Debug, Clone, Copy)]
pub struct EchoRules {
    /// Longest frame and message, in bytes; more than `/ws` takes, since some of the cases send megabytes.
    pub most: usize,
    pub send_deadline: Duration,
    pub connections: usize,
}

/// A listener that is bound. It serves with [`Echo::run`].
pub struct Echo(Server);

impl Echo {
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, rules: EchoRules, tasks: Tasks) -> std::io::Result<Self> {
        let router = Router::new().route("/", get(door)).with_state((tasks.clone(), Arc::new(rules)));
        Ok(Self(Server::bind(address, router, tasks, rules.connections, rules.send_deadline).await?))
    }

    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.0.address()
    }

    /// Serves until stopped.
    pub async fn run(self, stop: Stop) {
        self.0.run(stop).await;
    }
}

async fn door(
    State((tasks, rules)): State<(Tasks, Arc<EchoRules>)>,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refused> {
    let upgrade = handshake(&headers, upgrade)?;
    let guest = tasks.guest("websocket");
    Ok(bounded(upgrade, rules.most).on_upgrade(move |socket| async move {
        let mut frames = Frames::new(socket, rules.send_deadline);
        let over = loop {
            if let Err(over) = echo(&mut frames).await {
                break over;
            }
        };
        frames.finish(over, None).await;
        drop(guest);
    }))
}

async fn echo(frames: &mut Frames) -> Result<(), Over> {
    let said = frames.hear().await?;
    if matches!(said, Message::Text(_) | Message::Binary(_)) {
        frames.feed(said).await?;
    }
    frames.flush().await
}
