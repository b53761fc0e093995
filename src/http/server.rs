//! Listening: one small task a TCP connection until it is a WebSocket or done.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tower::ServiceExt;

use super::stall::Unstalled;
use crate::tasks::{Stop, Tasks};

/// A request's head must have arrived within this time; so long may a connection stay open between two requests.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// What hyper reads a head into. Above our own limits, so that those answer with a problem body.
const HEAD_MAX_BYTES: usize = 64 << 10;
/// Most header fields that hyper reads; above our own limit for the same reason.
const HEADERS_MAX: usize = 200;
/// The kernel's send buffer of one connection, in bytes (Linux doubles it). Thousands that do not read must not hold
/// gigabytes in the kernel.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Pause after an error of accept, such as no file left: the next one would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A bound listener.
pub struct Server {
    listener: TcpListener,
    router: Router,
    tasks: Tasks,
    most: usize,
    stall_limit: Duration,
}

impl Server {
    /// `most` is the number of open connections, of either kind, above which a new one is dropped unheard: the files
    /// that are left belong to the database. One whose other side takes nothing for `stall_limit` is broken off.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr, router: Router, tasks: Tasks, most: usize, stall_limit: Duration) -> std::io::Result<Self> {
        Ok(Self { listener: TcpListener::bind(address).await?, router, tasks, most, stall_limit })
    }

    /// # Errors
    /// When the system does not say.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until stopped. Connections that are open then finish the request that they are at.
    pub async fn run(self, mut stop: Stop) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.wait() => return,
            };
            match accepted {
                // A stream in an answer's body is its connection's task and one more; the connection is counted.
                Ok((stream, _)) if self.tasks.count(&["http", "websocket"]) >= self.most => drop(stream),
                Ok((stream, _)) => {
                    prepare(&stream);
                    let stream = Unstalled::new(stream, self.stall_limit);
                    self.tasks.contained("http", serve(stream, self.router.clone(), stop.clone()));
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Settings that make a connection quick and small. One that refuses them still works.
fn prepare(stream: &TcpStream) {
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(stream).set_send_buffer_size(SEND_BUFFER_BYTES);
}

/// A handler's hold on the connection of its request: for an answer that the client does not take.
#[derive(Debug, Clone)]
pub struct Hangup(Arc<watch::Sender<bool>>);

impl Hangup {
    /// Ends the connection without a word.
    pub fn now(&self) {
        self.0.send_replace(true);
    }

    /// Returns when the connection is over.
    pub async fn over(&self) {
        self.0.closed().await;
    }
}

async fn serve(stream: Unstalled<TcpStream>, router: Router, mut stop: Stop) {
    let (hangup, mut hung_up) = watch::channel(false);
    let hangup = Hangup(Arc::new(hangup));
    let router = router.map_request(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(hangup.clone());
        request
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_LIMIT)
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = async {
        tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.wait() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        }
    };
    let ended = tokio::select! {
        ended = served => ended,
        // The other end of this channel is with the router, which the connection holds.
        Ok(_) = hung_up.wait_for(|now| *now) => return,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "an HTTP connection broke off");
    }
}
