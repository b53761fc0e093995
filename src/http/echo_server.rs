//! Serves a WebSocket that echoes its messages, only with the feature `conformance`.
//!
//! The test cases for WebSocket servers connect to it. Listener, handshake, frames, deadlines and goodbyes are those
//! of `/ws`. There is no user, and no hub behind it.

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

use super::address::TrustedProxies;
use super::connection_slots::{AddressBudgets, ConnectionSlots};
use super::problems::RefusedRequest;
use super::server::{Server, ServerRules};
use super::upgrade::handshake;
use super::websocket_io::{CloseCause, WebSocketIo, bounded};
use crate::tasks::{Stop, TaskName, Tasks};

/// How long a connection may stay open without a request.
const IDLE: Duration = Duration::from_secs(75);

/// The limits of the echo server.
#[derive(Debug, Clone, Copy)]
pub struct EchoRules {
    /// Maximum length of a frame and of a message, in bytes. More than `/ws` allows, because some test cases send
    /// megabytes.
    pub most: usize,
    pub send_deadline: Duration,
    pub connections: usize,
}

/// A bound listener. [`EchoServer::run`] serves it.
pub struct EchoServer(Server);

impl EchoServer {
    /// Binds the listener.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, rules: EchoRules, tasks: Tasks) -> std::io::Result<Self> {
        let router = Router::new().route("/", get(door)).with_state((tasks.clone(), Arc::new(rules)));
        let places = ConnectionSlots::new(AddressBudgets::unlimited(rules.connections), TrustedProxies::default());
        let times = ServerRules { stall: rules.send_deadline, idle: IDLE };
        Ok(Self(Server::bind(address, router, tasks, places, times).await?))
    }

    /// The bound address.
    ///
    /// # Errors
    /// When the system does not tell the address.
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
) -> Result<Response, RefusedRequest> {
    let upgrade = handshake(&headers, upgrade)?;
    let guest = tasks.guest(TaskName::WebSocket);
    Ok(bounded(upgrade, rules.most).on_upgrade(move |socket| async move {
        let mut frames = WebSocketIo::new(socket, rules.send_deadline);
        let cause = loop {
            if let Err(cause) = echo(&mut frames).await {
                break cause;
            }
        };
        frames.finish(cause, None).await;
        drop(guest);
    }))
}

async fn echo(frames: &mut WebSocketIo) -> Result<(), CloseCause> {
    let said = frames.hear().await?;
    if matches!(said, Message::Text(_) | Message::Binary(_)) {
        frames.feed(said).await?;
    }
    frames.flush().await
}
