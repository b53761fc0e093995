//! One stream in the body of an HTTP answer: one task owns the subscription, its clocks, and the near end of the body.
//!
//! The body is a channel that holds one piece; hyper takes the next one when it has written the last. So a client
//! that takes nothing stops the task at its next piece, and the deadline of that piece is the client's. What hyper has
//! taken by then (some pieces at most) it would offer to such a client for ever: the connection is hung up.

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::http::{HeaderName, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, timeout};

use super::ask::Wish;
use super::deadline::within;
use super::hub::Hub;
use super::problems::Refused;
use super::server::Hangup;
use super::stream::{TokenClock, connect, hello};
use super::token::Claims;
use crate::delivery::outbox::Ending;
use crate::delivery::{Ready, Subscription};
use crate::domain::Seq;
use crate::wire::close::Close;
use crate::wire::flow::{self, Form};
use crate::wire::problem::Problem;
use crate::wire::server::{Resume, ServerFrame};

/// A piece of the body is full at this size, or when nothing more is at hand.
const PIECE_BYTES: usize = 16 << 10;
/// How soon an `EventSource` comes back after a break. After a goodbye it is told its own time.
const RETRY_MS: u64 = 1000;
/// How long the last words may take, and the client to take them.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Why a stream is over.
enum Over {
    Ended(Ending),
    /// The client takes nothing.
    Slow,
    /// The client is gone.
    Lost,
}

impl From<Close> for Over {
    fn from(close: Close) -> Self {
        Self::Ended(Ending { close, after_ms: 0 })
    }
}

/// Opens a stream for a user. `named` is the place that the client itself has named as its last: that confirms it.
///
/// # Errors
/// 429 and 503 when there is no place for it.
pub async fn open(
    hub: Arc<Hub>,
    hangup: Hangup,
    (wish, named): (Wish, Option<Seq>),
    claims: Claims,
    form: Form,
) -> Result<Response, Refused> {
    let connected = connect(&hub, wish.of(claims.who, form.transport())).await;
    let (subscription, resume, position) = connected.map_err(refused)?;
    if named.is_some() && matches!(resume, Resume::Ok { .. }) {
        subscription.ack_start();
    }
    let hello = hello(&subscription, resume, position, hub.sockets.heartbeat, claims.expires_at);
    let mut first = String::new();
    if form == Form::Events {
        flow::retry(&mut first, RETRY_MS);
    }
    form.control(&mut first, "connection_established", None, &hello);

    let (out, pieces) = mpsc::channel(1);
    let heartbeat_at = Instant::now() + hub.sockets.heartbeat;
    let tasks = hub.tasks.clone();
    let flow = Flow { form, hub, hangup, subscription, out, token: TokenClock::until(claims.expires_at), heartbeat_at };
    tasks.contained("stream", flow.serve(first));
    Ok(answer(form, pieces))
}

fn refused(close: Close) -> Refused {
    match close {
        Close::TooManyConnections => Problem::new(429, "too_many_connections", "this user has as many connections as one may have").into(),
        _ => Problem::new(503, "unavailable", "no place in the stream could be found in time; connect again later").retry_after(2).into(),
    }
}

fn answer(form: Form, pieces: mpsc::Receiver<Bytes>) -> Response {
    let body = stream::unfold(pieces, |mut pieces| async move { pieces.recv().await.map(|piece| (Ok::<_, Infallible>(piece), pieces)) });
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(form.media_type())),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        // nginx would gather the events to larger pieces.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
        // The end of the stream is the end of the connection, so that it can be waited for.
        (header::CONNECTION, HeaderValue::from_static("close")),
    ];
    (headers, Body::from_stream(body)).into_response()
}

struct Flow {
    form: Form,
    hub: Arc<Hub>,
    hangup: Hangup,
    subscription: Subscription,
    out: mpsc::Sender<Bytes>,
    token: TokenClock,
    heartbeat_at: Instant,
}

impl Flow {
    async fn serve(mut self, first: String) {
        let over = match self.send(first).await {
            Ok(()) => self.run().await,
            Err(over) => over,
        };
        self.finish(over).await;
    }

    async fn run(&mut self) -> Over {
        // As with a socket, one timer for all of it.
        let mut clock = pin!(tokio::time::sleep_until(self.heartbeat_at));
        loop {
            let next_time = self.heartbeat_at.min(self.token.next());
            if clock.deadline() != next_time {
                clock.as_mut().reset(next_time);
            }
            let done = tokio::select! {
                () = self.out.closed() => Err(Over::Lost),
                ready = self.subscription.ready() => match ready {
                    Ready::Frames => self.write_frames().await,
                    // A stream has nothing to ask with.
                    Ready::Ask => Ok(()),
                    Ready::End(ending) => Err(Over::Ended(ending)),
                },
                () = clock.as_mut() => self.keep_time().await,
            };
            if let Err(over) = done {
                return over;
            }
        }
    }

    async fn write_frames(&mut self) -> Result<(), Over> {
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

    async fn keep_time(&mut self) -> Result<(), Over> {
        let now = Instant::now();
        if self.token.has_ended(now) {
            return Err(Close::TokenExpired.into());
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

    fn heartbeat(&mut self, piece: &mut String) {
        match self.form {
            // A page does not see a heartbeat, so no `prev` that it sees may name one.
            Form::Events => match self.subscription.silent_heartbeat() {
                Some(seq) => flow::place(piece, seq),
                None => flow::comment(piece),
            },
            Form::Lines => {
                if let Some((seq, prev)) = self.subscription.heartbeat() {
                    self.form.control(piece, "heartbeat", Some(seq), &ServerFrame::Heartbeat { seq, prev }.encode());
                }
            }
        }
    }

    async fn send(&mut self, piece: String) -> Result<(), Over> {
        if piece.is_empty() {
            return Ok(());
        }
        match within(self.hub.sockets.send_deadline, self.out.send(piece.into())).await {
            Ok(Ok(())) => {
                // That there is room again says that the client takes.
                self.subscription.member().touch();
                Ok(())
            }
            Ok(Err(_)) => Err(Over::Lost),
            Err(_) => Err(Over::Slow),
        }
    }

    async fn finish(self, over: Over) {
        let Self { form, hangup, subscription, out, .. } = self;
        let why = match &over {
            Over::Ended(ending) => ending.close.reason(),
            Over::Slow => Close::SlowConsumer.reason(),
            Over::Lost => "lost",
        };
        tracing::debug!(session = %subscription.member().session, why, "a stream ends");
        // The place is left before the goodbye: a client that comes back at once finds its session ended.
        subscription.end(why);
        if let Over::Ended(Ending { close, after_ms }) = over {
            let mut last = String::new();
            if form == Form::Events && after_ms > 0 {
                flow::retry(&mut last, after_ms);
            }
            form.control(&mut last, "goodbye", None, &ServerFrame::goodbye(close, after_ms).encode());
            let _ = timeout(CLOSE_LIMIT, out.send(last.into())).await;
        }
        drop(out);
        if !matches!(over, Over::Slow) && timeout(CLOSE_LIMIT, hangup.over()).await.is_ok() {
            return;
        }
        hangup.now();
    }
}
