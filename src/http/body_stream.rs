//! Serves one stream in the body of an HTTP response.
//!
//! One task owns the subscription, its clocks, and the sending end of the body. The body is a channel that holds one
//! chunk; hyper takes the next chunk when it has written the last. So a client that reads nothing stops the task at
//! its next chunk, and the deadline of that chunk is the client's. By then hyper holds a few chunks and would offer
//! them to such a client for ever, so the connection is hung up.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use futures_util::stream;
use rand::Rng;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, timeout};

use super::auth::refused_token;
use super::deadline::within;
use super::problems::RefusedRequest;
use super::server::Hangup;
use super::state::HubState;
use super::stream::{TokenClock, connect, hello};
use super::stream_request::StreamRequest;
use crate::delivery::send_queue::CloseOrder;
use crate::delivery::{NextStep, Subscription};
use crate::identity::{Claims, TokenError};
use crate::metrics;
use crate::tasks::TaskName;
use crate::wire::close::CloseCode;
use crate::wire::problem::Problem;
use crate::wire::server_frame::{ResumeOutcome, ServerFrame};
use crate::wire::stream_format::{self, StreamFormat};

/// A chunk of the body is full at this size, or when no more frames are ready.
const PIECE_BYTES: usize = 16 << 10;
/// How soon an `EventSource` reconnects after a broken connection. A goodbye carries its own delay.
const RETRY_MS: u64 = 1000;
/// Caching of a response that is a stream. A proxy that compresses would collect the chunks (RFC 9111 section
/// 5.2.2.6).
pub const STREAM_CACHING: HeaderValue = HeaderValue::from_static("no-cache, no-store, no-transform");
/// The end of a stream ends the connection, so that the hub can wait for it.
pub const LAST_OF_CONNECTION: [(HeaderName, HeaderValue); 1] = [(header::CONNECTION, HeaderValue::from_static("close"))];
/// Seconds until a user who opens streams too often should reconnect.
const RATE_LIMIT_AFTER_S: u32 = 10;
/// Time limit for the last frame, and then for the client to read it.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Why a stream ends.
enum BodyStreamEnd {
    Ended(CloseOrder),
    /// The client read nothing for the send deadline.
    Slow,
    /// The connection was lost.
    Lost,
}

impl From<CloseCode> for BodyStreamEnd {
    fn from(close: CloseCode) -> Self {
        Self::Ended(CloseOrder { close, after_ms: 0 })
    }
}

/// Opens a stream for a user.
///
/// # Errors
/// 429 and 503 when the stream cannot be opened.
pub async fn open(
    hub: Arc<HubState>,
    hangup: Hangup,
    request: StreamRequest,
    claims: Claims,
    form: StreamFormat,
) -> Result<Response, RefusedRequest> {
    let names_last = request.names_last;
    let mut admitted = connect(&hub, request.of(claims.who, claims.origin, form.transport())).await.map_err(refused)?;
    if names_last && matches!(admitted.resume, ResumeOutcome::Ok { .. }) {
        admitted.subscription.ack_start();
    }
    let hello = hello(&mut admitted, hub.sockets.heartbeat, claims.expires_at);
    let subscription = admitted.subscription;
    let mut first = String::new();
    if form == StreamFormat::Events {
        stream_format::retry(&mut first, RETRY_MS);
    }
    form.control(&mut first, "connection_established", None, &hello);

    let (out, pieces) = mpsc::channel(1);
    let heartbeat_at = Instant::now() + hub.sockets.heartbeat;
    let tasks = hub.tasks.clone();
    let task = BodyStream { form, hub, hangup, subscription, out, token: TokenClock::until(claims.expires_at), heartbeat_at };
    tasks.contained(TaskName::Stream, task.serve(first));
    Ok(answer(form, pieces))
}

fn refused(close: CloseCode) -> RefusedRequest {
    match close {
        CloseCode::TokenRevoked => refused_token(&TokenError::Revoked),
        CloseCode::TooManyConnections => {
            let detail = "this user has reached the limit of connections; close one, or connect again later";
            Problem::new(429, "too_many_connections", detail).retry_after(10).into()
        }
        CloseCode::RateLimited => {
            let detail = "this user opens streams too often; connect again later, and keep a stream open";
            Problem::new(429, "rate_limited", detail).retry_after(RATE_LIMIT_AFTER_S).into()
        }
        _ => Problem::new(503, "unavailable", "the stream could not be opened in time; connect again later").retry_after(2).into(),
    }
}

/// Answers a browser with a stream of one goodbye instead of a temporary refusal. Any status but 200 ends an
/// `EventSource` for good. After this answer it reconnects with the same position when `retry` says so.
///
/// # Errors
/// Returns the refusal itself if reconnecting would not help.
pub fn come_back(refused: RefusedRequest) -> Result<Response, RefusedRequest> {
    let RefusedRequest(problem) = &refused;
    if !matches!(problem.status, 429 | 503) {
        return Err(refused);
    }
    metrics::REFUSED.one(problem.code);
    let wait = 1000 * u64::from(problem.retry_after.unwrap_or(2).max(1));
    // Spreads the clients: up to half as long again.
    let after_ms = wait + rand::rng().random_range(0..=wait / 2);
    let mut event = String::new();
    stream_format::retry(&mut event, after_ms);
    StreamFormat::Events.control(&mut event, "goodbye", None, &ServerFrame::Goodbye { reason: problem.code, after_ms }.encode());
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(StreamFormat::Events.media_type())), (header::CACHE_CONTROL, STREAM_CACHING)];
    Ok((headers, event).into_response())
}

fn answer(form: StreamFormat, pieces: mpsc::Receiver<Bytes>) -> Response {
    let body = stream::unfold(pieces, |mut pieces| async move { pieces.recv().await.map(|piece| (Ok::<_, Infallible>(piece), pieces)) });
    (stream_headers(form), LAST_OF_CONNECTION, Body::from_stream(body)).into_response()
}

/// The headers of an answer that comes bit by bit.
pub fn stream_headers(form: StreamFormat) -> [(HeaderName, HeaderValue); 3] {
    [
        (header::CONTENT_TYPE, HeaderValue::from_static(form.media_type())),
        (header::CACHE_CONTROL, STREAM_CACHING),
        // nginx would collect the pieces into larger chunks.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ]
}

struct BodyStream {
    form: StreamFormat,
    hub: Arc<HubState>,
    hangup: Hangup,
    subscription: Subscription,
    out: mpsc::Sender<Bytes>,
    token: TokenClock,
    heartbeat_at: Instant,
}

impl BodyStream {
    async fn serve(mut self, first: String) {
        let cause = match self.send(first).await {
            Ok(()) => self.run().await,
            Err(cause) => cause,
        };
        self.finish(cause).await;
    }

    async fn run(&mut self) -> BodyStreamEnd {
        // As in a WebSocket, one timer serves all deadlines.
        let mut clock = pin!(tokio::time::sleep_until(self.heartbeat_at));
        loop {
            let next_time = self.heartbeat_at.min(self.token.next());
            if clock.deadline() != next_time {
                clock.as_mut().reset(next_time);
            }
            let done = tokio::select! {
                () = self.out.closed() => Err(BodyStreamEnd::Lost),
                ready = self.subscription.ready() => match ready {
                    NextStep::Frames => self.write_frames().await,
                    // An HTTP stream cannot ask its client.
                    NextStep::Ask => {
                        self.subscription.take_probe();
                        Ok(())
                    }
                    NextStep::Renewed(expires_at) => self.renewed(expires_at).await,
                    NextStep::End(ending) => Err(BodyStreamEnd::Ended(ending)),
                },
                () = clock.as_mut() => self.keep_time().await,
            };
            if let Err(cause) = done {
                return cause;
            }
        }
    }

    async fn write_frames(&mut self) -> Result<(), BodyStreamEnd> {
        let mut piece = String::new();
        while piece.len() < PIECE_BYTES {
            let Some(frame) = self.subscription.next_frame() else { break };
            match (frame.control, frame.seq) {
                (None, Some(seq)) => self.form.notification(&mut piece, seq, &frame.text),
                (name, seq) => self.form.control(&mut piece, name.unwrap_or("message"), seq, &frame.text),
            }
        }
        self.send(piece).await
    }

    async fn keep_time(&mut self) -> Result<(), BodyStreamEnd> {
        let now = Instant::now();
        if self.token.has_ended(now) {
            return Err(CloseCode::TokenExpired.into());
        }
        let mut piece = String::new();
        if let Some(warning) = self.token.warning(now) {
            self.form.control(&mut piece, "auth_expiring", None, &warning.encode());
        }
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + self.hub.sockets.heartbeat;
            self.heartbeat(&mut piece);
        }
        self.send(piece).await
    }

    /// Goes on with the end of a newer token, which came in a request of its own.
    async fn renewed(&mut self, expires_at: DateTime<Utc>) -> Result<(), BodyStreamEnd> {
        self.token = TokenClock::until(expires_at);
        let mut piece = String::new();
        self.form.control(&mut piece, "auth_ok", None, &ServerFrame::AuthOk { expires_at }.encode());
        self.send(piece).await
    }

    fn heartbeat(&mut self, piece: &mut String) {
        match (self.subscription.heartbeat(), self.form) {
            // As an event it has a name, so `onmessage` does not receive it, but its id moves the browser's position.
            (Some((seq, prev)), form) => form.control(piece, "heartbeat", Some(seq), &ServerFrame::Heartbeat { seq, prev }.encode()),
            (None, StreamFormat::Events) => stream_format::comment(piece),
            (None, StreamFormat::Lines) => {}
        }
    }

    async fn send(&mut self, piece: String) -> Result<(), BodyStreamEnd> {
        if piece.is_empty() {
            return Ok(());
        }
        match within(self.hub.sockets.send_deadline, self.out.send(piece.into())).await {
            Ok(Ok(())) => {
                // The channel has room again, so the client reads.
                self.subscription.connection().touch();
                Ok(())
            }
            Ok(Err(_)) => Err(BodyStreamEnd::Lost),
            Err(_) => Err(BodyStreamEnd::Slow),
        }
    }

    async fn finish(self, cause: BodyStreamEnd) {
        let Self { form, hangup, subscription, out, .. } = self;
        let why = match &cause {
            BodyStreamEnd::Ended(ending) => ending.close.reason(),
            BodyStreamEnd::Slow => CloseCode::SlowConsumer.reason(),
            BodyStreamEnd::Lost => "lost",
        };
        tracing::debug!(session = %subscription.connection().session, why, "stream ended");
        // The session ends before the goodbye: a client that reconnects at once finds its session ended.
        subscription.end(why);
        if let BodyStreamEnd::Ended(CloseOrder { close, after_ms }) = cause {
            let mut last = String::new();
            if form == StreamFormat::Events && after_ms > 0 {
                stream_format::retry(&mut last, after_ms);
            }
            form.control(&mut last, "goodbye", None, &ServerFrame::goodbye(close, after_ms).encode());
            let _ = timeout(CLOSE_LIMIT, out.send(last.into())).await;
        }
        drop(out);
        if !matches!(cause, BodyStreamEnd::Slow) && timeout(CLOSE_LIMIT, hangup.over()).await.is_ok() {
            return;
        }
        hangup.now();
    }
}
