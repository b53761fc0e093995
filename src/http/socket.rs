//! One WebSocket: one task owns the socket, the stream, and their clocks.
//!
//! It writes what the subscription has, reads what the client says, and keeps time: heartbeats, pings, the token's
//! end. Every write has a deadline. A ping names the last number sent; the pong, which every WebSocket client answers
//! by itself (RFC 6455 section 5.5.3), proves that all before it arrived.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use tokio::time::{Instant, timeout};

use super::ask::AckMode;
use super::frames::{Frames, Over, end};
use super::hub::Hub;
use super::limits::Bucket;
use super::stream::{self, TokenClock};
use super::token::TokenError;
use crate::delivery::desk::Given;
use crate::delivery::outbox::Ending;
use crate::delivery::{Opening, Ready, Subscription};
use crate::domain::{CommandTag, Seq};
use crate::wire::client::{self, ClientFrame};
use crate::wire::close::Close;
use crate::wire::server::ServerFrame;

/// Between two pings that only ask for an acknowledgement.
const ACK_PING_SPACING: Duration = Duration::from_secs(1);
/// Bytes after which the first ping of a turn is sent. A client that takes some kilobytes a second must get it within the
/// pong deadline, or it would be closed without having acknowledged anything, and begin at the same place again.
const PING_BYTES: usize = 4 << 10;
/// Bytes written between two looks at what the client says.
const TURN_BYTES: usize = 64 << 10;
/// Turns of writing, one after the other, between two such looks; a full turn is followed by one at once.
const TURNS: u32 = 16;
/// Messages of a client, acknowledgements aside: so many at once, then one a second.
const MESSAGES: u32 = 60;
/// Refused frames that end a connection.
const REFUSED_MAX: u32 = 60;
/// When a client that sent too much should come back.
const RATE_LIMIT_AFTER_MS: u64 = 10_000;
/// How long a pong that is overdue is looked for: the runtime may know of the time before it knows of what has arrived.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// What the door decided.
pub enum Admission {
    Refused(Close),
    Open { opening: Box<Opening>, expires_at: DateTime<Utc>, ack_mode: AckMode },
}

/// Serves a socket to its end.
pub async fn serve(mut socket: WebSocket, hub: Arc<Hub>, admission: Admission) {
    match admission {
        Admission::Refused(close) => end(&mut socket, close).await,
        Admission::Open { opening, expires_at, ack_mode } => match Box::pin(open(&mut socket, &hub, *opening, expires_at)).await {
            Ok(subscription) => {
                let mut line = Line::new(socket, hub, subscription, expires_at, ack_mode);
                let over = AssertUnwindSafe(line.run()).catch_unwind().await.unwrap_or_else(|_| {
                    tracing::error!(session = %line.subscription.member().session, "a connection's task panicked");
                    Over::from(Close::Internal)
                });
                Box::pin(line.finish(over)).await;
            }
            Err(close) => end(&mut socket, close).await,
        },
    }
}

/// Finds the client's place and says the first frame.
async fn open(socket: &mut WebSocket, hub: &Hub, opening: Opening, expires_at: DateTime<Utc>) -> Result<Subscription, Close> {
    let (subscription, resume, position) = stream::connect(hub, opening).await?;
    let hello = stream::hello(&subscription, resume, position, hub.sockets.heartbeat, expires_at);
    match timeout(hub.sockets.send_deadline, socket.send(Message::Text(hello.into()))).await {
        Ok(Ok(())) => Ok(subscription),
        Ok(Err(_)) => Err(Close::ServerError),
        Err(_) => Err(Close::SlowConsumer),
    }
}

/// A connection that is open.
struct Line {
    frames: Frames,
    hub: Arc<Hub>,
    subscription: Subscription,
    ack_mode: AckMode,
    heartbeat_at: Instant,
    ping_at: Option<Instant>,
    pinged: Option<(Seq, Instant)>,
    last_ping: Option<Instant>,
    token: TokenClock,
    messages: Bucket,
    refused: u32,
}

impl Line {
    fn new(socket: WebSocket, hub: Arc<Hub>, subscription: Subscription, expires_at: DateTime<Utc>, ack_mode: AckMode) -> Self {
        let now = Instant::now();
        let heartbeat_at = now + hub.sockets.heartbeat;
        if ack_mode == AckMode::Pong {
            subscription.will_ask();
        }
        Self {
            frames: Frames::new(socket, hub.sockets.send_deadline),
            hub,
            subscription,
            ack_mode,
            heartbeat_at,
            ping_at: None,
            pinged: None,
            last_ping: None,
            token: TokenClock::until(expires_at),
            messages: Bucket::new(MESSAGES, f64::from(MESSAGES) / 60.0),
            refused: 0,
        }
    }

    async fn run(&mut self) -> Over {
        // One timer for the whole connection: to make one for each frame takes the lock of all timers twice.
        let mut clock = pin!(tokio::time::sleep_until(self.next_time()));
        let mut turns = 0;
        loop {
            // A write may have taken long: what is due is not left to the last of the turns.
            if turns >= TURNS || self.next_time() <= Instant::now() {
                turns = 0;
                if let Err(over) = self.look_up().await {
                    return over;
                }
            }
            let next_time = self.next_time();
            if clock.deadline() != next_time {
                clock.as_mut().reset(next_time);
            }
            let done = tokio::select! {
                // First, and alone when there is something to write: to ask the socket as well would cost as much again.
                biased;
                ready = self.subscription.ready() => match ready {
                    Ready::Frames => self.write_frames().await.map(|is_all| turns += if is_all { 1 } else { TURNS }),
                    Ready::Ask => self.ask_at_last().await,
                    Ready::End(Ending { close, after_ms }) => Err(Over::Close { close, after_ms: Some(after_ms) }),
                },
                // Before the socket: a client that never ceases to speak must not stop the clocks.
                () = clock.as_mut() => self.keep_time().await,
                said = self.frames.hear() => self.hear(said).await,
            };
            if let Err(over) = done {
                return over;
            }
        }
    }

    /// Between two turns of writing: what the client has said, and what is due.
    async fn look_up(&mut self) -> Result<(), Over> {
        // As much as has arrived; the runtime's budget for one task bounds it.
        while let Some(said) = self.frames.hear().now_or_never() {
            self.hear(said).await?;
        }
        if self.next_time() <= Instant::now() { self.keep_time().await } else { Ok(()) }
    }

    fn next_time(&self) -> Instant {
        let pong_due = self.pinged.map(|(_, at)| at + self.hub.sockets.pong_deadline);
        let dues = [self.ping_at, pong_due].into_iter().flatten();
        dues.fold(self.heartbeat_at.min(self.token.next()), Instant::min)
    }

    async fn keep_time(&mut self) -> Result<(), Over> {
        let now = Instant::now();
        if self.token.has_ended(now) {
            return Err(Close::TokenExpired.into());
        }
        if self.pinged.is_some_and(|(_, at)| now >= at + self.hub.sockets.pong_deadline) {
            // The pong may lie here unread, when it was this hub that had no time: a write that waited, a machine that slept.
            return match timeout(LAST_LOOK, self.frames.hear()).await {
                Ok(said) => self.hear(said).await,
                Err(_) => Err(Close::NoPong.into()),
            };
        }
        if let Some(warning) = self.token.warning(now) {
            self.say(&warning).await?;
        }
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + self.hub.sockets.heartbeat;
            if let Some((seq, prev)) = self.subscription.heartbeat() {
                self.say(&ServerFrame::Heartbeat { seq, prev }).await?;
            }
            self.ping().await?;
        } else if self.ping_at.is_some_and(|at| now >= at) {
            self.ping().await?;
        }
        Ok(())
    }

    /// Writes what is at hand, up to a turn's size, and says whether that was all; a client that only takes must not keep us from
    /// listening, nor from keeping time.
    async fn write_frames(&mut self) -> Result<bool, Over> {
        let (mut written, mut ask_now) = (0, false);
        while written < TURN_BYTES {
            let Some(frame) = self.subscription.next_frame() else { break };
            written += frame.text.len();
            ask_now |= !frame.ask_later;
            self.frames.feed(Message::Text(frame.text.into())).await?;
            if written >= PING_BYTES {
                self.ask_for_ack().await?;
            }
        }
        if self.subscription.take_ask() || ask_now {
            self.ask_for_ack().await?;
        }
        self.frames.flush().await?;
        #[cfg(feature = "points")]
        crate::points::at(if written < TURN_BYTES { "ws.after_send" } else { "catchup.mid_page" }).await;
        Ok(written < TURN_BYTES)
    }

    /// A ping of its own for what went to many, unless it is acknowledged already.
    async fn ask_at_last(&mut self) -> Result<(), Over> {
        if self.subscription.is_unconfirmed() {
            self.ask_for_ack().await?;
            self.frames.flush().await?;
        }
        Ok(())
    }

    /// A ping that rides along with what was just written, unless one is on its way or was a moment ago.
    async fn ask_for_ack(&mut self) -> Result<(), Over> {
        if self.ack_mode == AckMode::Client || self.pinged.is_some() {
            return Ok(());
        }
        let due = self.last_ping.map_or_else(Instant::now, |at| at + ACK_PING_SPACING);
        if due <= Instant::now() {
            self.feed_ping().await
        } else {
            self.ping_at = Some(due);
            Ok(())
        }
    }

    async fn ping(&mut self) -> Result<(), Over> {
        if self.pinged.is_none() {
            self.feed_ping().await?;
            self.frames.flush().await?;
        }
        Ok(())
    }

    async fn feed_ping(&mut self) -> Result<(), Over> {
        let seq = self.subscription.sent();
        let now = Instant::now();
        self.ping_at = None;
        self.last_ping = Some(now);
        self.pinged = Some((seq, now));
        self.frames.feed(Message::Ping(seq.to_string().into_bytes().into())).await
    }

    fn pong(&mut self, payload: &[u8]) {
        let Some((seq, _)) = self.pinged else { return };
        // A pong that nobody asked for, or an old one.
        if payload != seq.to_string().as_bytes() {
            return;
        }
        self.pinged = None;
        self.subscription.member().touch();
        if self.ack_mode == AckMode::Pong {
            self.subscription.pong(seq);
            if self.subscription.sent() > seq {
                self.ping_at = self.last_ping.map(|at| at + ACK_PING_SPACING);
            }
        }
    }

    async fn hear(&mut self, said: Result<Message, Over>) -> Result<(), Over> {
        match said? {
            Message::Binary(_) => Err(Close::Binary.into()),
            Message::Pong(payload) => {
                self.pong(&payload);
                Ok(())
            }
            Message::Ping(_) => {
                self.count_message()?;
                self.frames.flush().await
            }
            Message::Text(text) => {
                self.subscription.member().touch();
                self.hear_text(&text).await
            }
            Message::Close(_) => Err(Over::ByClient),
        }
    }

    async fn hear_text(&mut self, text: &str) -> Result<(), Over> {
        let desk = self.hub.delivery.desk.clone();
        let frame = client::parse(text, |kind| desk.as_ref().is_some_and(|desk| desk.takes(kind)));
        // Acknowledgements are as many as notifications; they cost next to nothing and are not counted.
        if !matches!(frame, Ok(ClientFrame::Ack(_))) {
            self.count_message()?;
        }
        match frame {
            Ok(ClientFrame::Ack(seq)) => match self.subscription.ack(seq) {
                Ok(()) => Ok(()),
                Err(ahead) => self.refuse("ack_ahead", &format!("nothing above {} was sent on this connection", ahead.sent)).await,
            },
            Ok(ClientFrame::Ping { id }) => {
                self.say(&ServerFrame::Pong { timestamp: Utc::now().timestamp_millis(), id: id.as_deref() }).await
            }
            Ok(ClientFrame::Auth { token }) => self.renew(&token).await,
            // Boxed: every connection would hold room for what few ever do.
            Ok(ClientFrame::Command { kind, tag, payload }) => Box::pin(self.command(&kind, tag, payload)).await,
            Err(error) => self.refuse(error.code, &error.message).await,
        }
    }

    /// Leaves a command at the desk. Its result comes as everything that waits for this connection does.
    async fn command(&mut self, kind: &str, tag: Option<CommandTag>, payload: Option<String>) -> Result<(), Over> {
        let Some(desk) = self.hub.delivery.desk.clone() else { return Ok(()) };
        let member = Arc::clone(self.subscription.member());
        match desk.give(&member, kind, tag, payload).await {
            Given::Noted | Given::Unknown => Ok(()),
            Given::OtherCommand => {
                self.refuse("command_id_conflict", "this id was given to another command before; nothing was sent. Use a new id").await
            }
        }
    }

    /// Takes a newer token of the same user.
    async fn renew(&mut self, token: &str) -> Result<(), Over> {
        let member = Arc::clone(self.subscription.member());
        match self.hub.auth.tokens.check(token) {
            Ok(claims) if claims.who.user != member.who.user || claims.role.is_some() => Err(Close::IdentityChanged.into()),
            // What this connection is given was decided with the old accounts.
            Ok(claims) if claims.who.accounts != member.who.accounts => Err(Close::TokenExpired.into()),
            Ok(claims) => {
                self.token = TokenClock::until(claims.expires_at);
                self.say(&ServerFrame::AuthOk { expires_at: claims.expires_at }).await
            }
            Err(error @ (TokenError::Expired | TokenError::Invalid(_))) => self.refuse("bad_token", &error.to_string()).await,
        }
    }

    async fn refuse(&mut self, code: &str, message: &str) -> Result<(), Over> {
        self.refused += 1;
        if self.refused >= REFUSED_MAX {
            return Err(Close::ProtocolError.into());
        }
        self.say(&ServerFrame::Error { code, message }).await
    }

    fn count_message(&mut self) -> Result<(), Over> {
        if self.messages.take() {
            return Ok(());
        }
        Err(Over::Close { close: Close::RateLimited, after_ms: Some(RATE_LIMIT_AFTER_MS) })
    }

    async fn say(&mut self, frame: &ServerFrame<'_>) -> Result<(), Over> {
        self.frames.feed(Message::Text(frame.encode().into())).await?;
        self.frames.flush().await
    }

    async fn finish(self, over: Over) {
        let why = match &over {
            Over::Close { close, .. } => close.reason(),
            Over::ByClient => "closed_by_client",
            Over::Lost => "lost",
        };
        let session = self.subscription.member().session;
        tracing::debug!(%session, why, "a connection ends");
        // The place is left before the goodbye: a client that comes back at once finds its acknowledgements noted.
        self.subscription.end(why);
        let goodbye = match over {
            Over::Close { close, after_ms: Some(after_ms) } => Some(Message::Text(ServerFrame::goodbye(close, after_ms).encode().into())),
            _ => None,
        };
        self.frames.finish(over, goodbye).await;
    }
}
