//! Accepts TCP connections, and serves HTTP/1.1 on each in a task of its own.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::response::Response;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::time::timeout;
use tower::ServiceExt;

use super::address::{self, PROXY_HEAD_BYTES, PROXY_SIGNATURE};
use super::connection_slots::{ConnectionSlot, ConnectionSlots, HERE};
use super::idle_timeout::IdleTimeout;
use super::shared_socket::SharedSocket;
use super::write_timeout::WriteTimeout;
use crate::tasks::{Stop, TaskName, Tasks};

/// A request's head must arrive within this time after its first byte, and the first head within this time after the
/// connection was made.
const HEAD_LIMIT: Duration = Duration::from_secs(10);
/// Size of hyper's buffer for a head. Above our own limits, so that those answer with a problem body.
const HEAD_MAX_BYTES: usize = 64 << 10;
/// Maximum header fields that hyper reads. Above our own limit for the same reason.
const HEADERS_MAX: usize = 200;
/// Connections that the kernel queues until they are accepted. With a shorter queue, clients of a connection storm
/// wait for a second until they retry.
const BACKLOG: u32 = 4096;
/// The kernel's send buffer of one connection, in bytes (Linux doubles it). Thousands of clients that do not read
/// must not hold gigabytes in the kernel.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Pause between two reads of a PROXY protocol header that has arrived in part.
const PEEK_PAUSE: Duration = Duration::from_millis(5);
/// Pause after an error of accept, such as no free file descriptor: the next accept would fail as well.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How much longer than a write may wait the kernel retries data that the peer does not acknowledge.
const UNACKNOWLEDGED_MARGIN: Duration = Duration::from_secs(5);
/// After this time without data the kernel probes whether the peer is still there, and then every [`PROBE_EVERY`].
const PROBE_AFTER: Duration = Duration::from_secs(60);
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// How long an evicted connection may take to write the rest of its response.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The time limits of a connection.
#[derive(Debug, Clone, Copy)]
pub struct ServerRules {
    /// Write timeout: a connection whose peer reads nothing for this long is closed.
    pub stall: Duration,
    /// How long a connection may stay open between two requests.
    pub idle: Duration,
}

/// A bound listener.
pub struct Server {
    listener: TcpListener,
    router: Router,
    tasks: Tasks,
    places: Arc<ConnectionSlots>,
    rules: ServerRules,
}

impl Server {
    /// Binds the listener.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(
        address: SocketAddr,
        router: Router,
        tasks: Tasks,
        places: Arc<ConnectionSlots>,
        rules: ServerRules,
    ) -> std::io::Result<Self> {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(Self { listener: socket.listen(BACKLOG)?, router, tasks, places, rules })
    }

    /// The bound address.
    ///
    /// # Errors
    /// When the system does not tell the address.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts connections until stopped. Open connections then finish their current request.
    pub async fn run(self, mut stop: Stop) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                () = stop.wait() => return,
            };
            match accepted {
                Ok((stream, peer)) => {
                    let Some(slot) = self.places.enter(peer.ip()) else { continue };
                    prepare(&stream, self.rules);
                    let served = serve(stream, Arc::clone(&slot), self.router.clone(), self.rules, stop.clone());
                    self.tasks.contained(TaskName::Http, HERE.scope(slot, served));
                }
                Err(error) => {
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Sets options that make a connection fast and small, and end it when the peer vanishes. A connection that refuses
/// them still works.
fn prepare(stream: &TcpStream, rules: ServerRules) {
    let _ = stream.set_nodelay(true);
    let socket = SockRef::from(stream);
    let _ = socket.set_send_buffer_size(SEND_BUFFER_BYTES);
    // A stream of events gets no requests from its client. Without these options the hub would write to a client that
    // vanished for as long as the kernel retries, which is a quarter of an hour.
    let _ = socket.set_tcp_user_timeout(Some(rules.stall + UNACKNOWLEDGED_MARGIN));
    let _ = socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(PROBE_AFTER).with_interval(PROBE_EVERY));
}

/// Lets a handler close the connection of its request, for a response that the client does not read.
#[derive(Debug, Clone)]
pub struct Hangup(Arc<watch::Sender<bool>>);

impl Hangup {
    /// Closes the connection without a response.
    pub fn now(&self) {
        self.0.send_replace(true);
    }

    /// Returns when the connection has ended.
    pub async fn over(&self) {
        self.0.closed().await;
    }
}

async fn serve(mut stream: TcpStream, slot: Arc<ConnectionSlot>, router: Router, rules: ServerRules, mut stop: Stop) {
    if slot.is_proxy() {
        match timeout(HEAD_LIMIT, proxied_client(&mut stream)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(client))) if slot.comes_from(client).is_ok() => {}
            Ok(Ok(Some(_))) => return,
            Ok(Err(error)) => {
                tracing::debug!(%error, "PROXY protocol header could not be read");
                return slot.refuse_proxy_header();
            }
            Err(_) => return,
        }
    }
    let socket = SharedSocket::new(stream);
    let writer = socket.writer();
    let (hangup, mut hung_up) = watch::channel(false);
    let mut hung_up_at_the_end = hung_up.clone();
    let hangup = Hangup(Arc::new(hangup));
    let at = Arc::clone(&slot);
    let keep_alive = keep_alive(rules.idle);
    let service = service_fn(move |request: Request<Incoming>| {
        at.begins();
        let mut request = without_trailing_slash(request.map(Body::new));
        request.extensions_mut().insert(hangup.clone());
        request.extensions_mut().insert(Arc::clone(&at));
        request.extensions_mut().insert(writer.clone());
        let (router, at, keep_alive) = (router.clone(), Arc::clone(&at), keep_alive.clone());
        async move { router.oneshot(request).await.map(|response| attended(response, at, keep_alive)) }
    });
    let stream = WriteTimeout::new(IdleTimeout::new(socket, Arc::clone(&slot), HEAD_LIMIT, rules.idle), rules.stall);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .max_buf_size(HEAD_MAX_BYTES)
        .max_headers(HEADERS_MAX)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(stream), service)
        .with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.wait() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection.as_mut() => ended,
                () = until_hung_up(&mut hung_up_at_the_end) => return,
            }
        }
        // The sender of this channel is in the service, which the connection holds.
        () = until_hung_up(&mut hung_up) => return,
        () = slot.evicted() => {
            // A connection without any request is closed at once; others may still write the end of their response.
            if slot.requests() > 0 {
                connection.as_mut().graceful_shutdown();
                let _ = timeout(LAST_WORDS, connection).await;
            }
            return;
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "HTTP connection failed");
    }
}

/// Returns when a handler has hung up; never when no handler is left.
async fn until_hung_up(hung_up: &mut watch::Receiver<bool>) {
    if hung_up.wait_for(|now| *now).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The client that a PROXY protocol header names, if there is one. A request stays unread.
async fn proxied_client(stream: &mut TcpStream) -> std::io::Result<Option<IpAddr>> {
    let mut head = [0; PROXY_HEAD_BYTES];
    loop {
        let read = stream.peek(&mut head).await?;
        let compared = read.min(PROXY_SIGNATURE.len());
        if read == 0 || head[..compared] != PROXY_SIGNATURE[..compared] {
            return Ok(None);
        }
        if read == PROXY_HEAD_BYTES {
            break;
        }
        // The system reports the same bytes as readable at once, so the loop has to pause.
        tokio::time::sleep(PEEK_PAUSE).await;
    }
    let invalid = |error| std::io::Error::new(std::io::ErrorKind::InvalidData, error);
    stream.read_exact(&mut head).await?;
    let mut rest = vec![0; address::proxy_rest(&head).map_err(invalid)?];
    stream.read_exact(&mut rest).await?;
    address::proxied(&head, &rest).map_err(invalid)
}

/// The `Keep-Alive` header: how long the client may keep the connection for the next request.
fn keep_alive(idle: Duration) -> Option<HeaderValue> {
    HeaderValue::from_str(&format!("timeout={}", idle.as_secs())).ok().filter(|_| idle.as_secs() > 0)
}

/// Removes one slash at the end of a path: `/ws/` is `/ws`.
fn without_trailing_slash(mut request: Request<Body>) -> Request<Body> {
    let uri = request.uri();
    let Some(path) = uri.path().strip_suffix('/').filter(|path| !path.is_empty() && !path.ends_with('/')) else { return request };
    let path_and_query = uri.query().map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"));
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = path_and_query.parse().ok();
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
        request.extensions_mut().insert(TrailingSlash);
    }
    request
}

/// Marks a request whose path had a slash at its end.
#[derive(Debug, Clone, Copy)]
pub struct TrailingSlash;

/// Records when the response has been handed to the connection, and adds the `Keep-Alive` header.
fn attended(mut response: Response<Body>, place: Arc<ConnectionSlot>, keep_alive: Option<HeaderValue>) -> Response<Body> {
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        place.upgraded();
        return response;
    }
    let closes = response.headers().get(header::CONNECTION).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"close"));
    if let Some(keep_alive) = keep_alive.filter(|_| !closes) {
        response.headers_mut().insert(HeaderName::from_static("keep-alive"), keep_alive);
    }
    response.map(|body| Body::new(AttendedBody { body, place }))
}

/// The body of a response. Its connection is idle when the body is dropped.
struct AttendedBody {
    body: Body,
    place: Arc<ConnectionSlot>,
}

impl HttpBody for AttendedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for AttendedBody {
    fn drop(&mut self) {
        self.place.idles();
    }
}
