//! Serves one WebSocket: one task owns the socket, the stream, and their clocks.
//!
//! The task writes the subscription's frames, reads the client's frames, and keeps time: heartbeats, pings, the end
//! of the token. Every write has a deadline. A ping carries the last delivered number. The pong, which every
//! WebSocket client sends by itself (RFC 6455 section 5.5.3), proves that all frames before it arrived.

mod client_frames;
mod ending;
mod pings;

use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, WebSocket};
use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use tokio::time::{Instant, Sleep, timeout};

use super::command_queue::CommandQueue;
use super::line_message::LineMessage;
use super::rate_limits::TokenBucket;
use super::shared_socket::SocketWriter;
use super::state::HubState;
use super::stream::{self, TokenClock};
use super::stream_request::{AckMode, MessageLayout};
use super::websocket_io::{CloseCause, WebSocketIo, end, end_saying};
use crate::delivery::send_queue::CloseOrder;
use crate::delivery::{ConnectRequest, NextStep, Subscription};
use crate::domain::Seq;
use crate::providers::command_intake::CommandReceipt;
use crate::wire::close::CloseCode;
use crate::wire::server_frame::ServerFrame;

/// Bytes after which the first ping of a turn is sent. A client that reads some kilobytes a second must get the ping
/// within the pong deadline. Otherwise it would be closed without having acknowledged anything, and would start at
/// the same position again.
const PING_BYTES: usize = 4 << 10;
/// Bytes written between two checks for the client's frames.
const TURN_BYTES: usize = 64 << 10;
/// Consecutive turns of writing between two checks of the clocks and of the client's frames. A full turn counts for
/// all.
const TURNS: u32 = 16;
/// Messages of a client other than acknowledgements: a burst of this many, then one a second.
const MESSAGES: u32 = 60;
/// When a client that sent too much should reconnect.
const RATE_LIMIT_AFTER_MS: u64 = 10_000;
/// How long an overdue pong is still read for: the runtime may report the deadline before it reports arrived data.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// The outcome of the checks on the handshake.
pub enum Admission {
    /// The close code and its detail.
    Refused(CloseCode, String),
    Open {
        opening: Box<ConnectRequest>,
        expires_at: DateTime<Utc>,
        ack_mode: AckMode,
        message_layout: MessageLayout,
        /// The TCP connection, into which rows may be written past the task.
        writer: Option<SocketWriter>,
    },
}

/// Serves a socket until it closes.
pub async fn serve(mut socket: WebSocket, hub: Arc<HubState>, admission: Admission) {
    match admission {
        Admission::Refused(close, detail) => end_saying(&mut socket, close, &detail).await,
        Admission::Open { opening, expires_at, ack_mode, message_layout, writer } => {
            match Box::pin(open(&mut socket, &hub, *opening, expires_at)).await {
                Ok(subscription) => {
                    // Frames that share a message are collected by the task.
                    if let Some(socket) = writer.filter(|_| message_layout == MessageLayout::Single) {
                        subscription.write_into(Arc::new(socket));
                    }
                    let mut task = WebSocketTask::new(socket, hub, subscription, expires_at, ack_mode, message_layout);
                    let cause = AssertUnwindSafe(task.run()).catch_unwind().await.unwrap_or_else(|_| {
                        tracing::error!(session = %task.subscription.connection().session, "connection task panicked");
                        CloseCause::from(CloseCode::Internal)
                    });
                    Box::pin(task.finish(cause)).await;
                }
                Err(close) => {
                    if close == CloseCode::RateLimited {
                        // A client without a delay would reconnect at once.
                        let goodbye = ServerFrame::goodbye(close, RATE_LIMIT_AFTER_MS).encode();
                        let _ = timeout(hub.sockets.send_deadline, socket.send(Message::Text(goodbye.into()))).await;
                    }
                    end(&mut socket, close).await;
                }
            }
        }
    }
}

fn rate_limited() -> CloseCause {
    CloseCause::Close { close: CloseCode::RateLimited, after_ms: Some(RATE_LIMIT_AFTER_MS) }
}

/// Connects the client to the stream and sends the first frame.
async fn open(
    socket: &mut WebSocket,
    hub: &HubState,
    opening: ConnectRequest,
    expires_at: DateTime<Utc>,
) -> Result<Subscription, CloseCode> {
    let mut admitted = stream::connect(hub, opening).await?;
    let hello = stream::hello(&mut admitted, hub.sockets.heartbeat, expires_at);
    match timeout(hub.sockets.send_deadline, socket.send(Message::Text(hello.into()))).await {
        Ok(Ok(())) => Ok(admitted.subscription),
        Ok(Err(_)) => Err(CloseCode::ServerError),
        Err(_) => Err(CloseCode::SlowConsumer),
    }
}

async fn stored(intake: &mut Option<Box<CommandQueue>>) -> CommandReceipt {
    match intake {
        Some(intake) => intake.stored().await,
        None => std::future::pending().await,
    }
}

/// What a connection's task waits for.
enum SocketEvent {
    /// A command is stored.
    Receipt(CommandReceipt),
    Ready(NextStep),
    /// Something is due.
    Due,
    /// The client has sent a message, or is gone.
    Said(Result<Message, CloseCause>),
}

/// An open connection.
struct WebSocketTask {
    frames: WebSocketIo,
    hub: Arc<HubState>,
    subscription: Subscription,
    ack_mode: AckMode,
    /// Frames that are collected for one message. `None` if each frame is a message.
    lines: Option<LineMessage>,
    heartbeat_at: Instant,
    ping_at: Option<Instant>,
    pinged: Option<(Seq, Instant)>,
    last_ping: Option<Instant>,
    /// The number that the last pong acknowledges, and the time from which it does.
    settling: Option<(Seq, Instant)>,
    token: TokenClock,
    messages: TokenBucket,
    refused: u32,
    /// Set while the user's frames are over their budget. Nothing is read until then.
    deaf_until: Option<Instant>,
    /// Created with the first command: most connections never send one.
    intake: Option<Box<CommandQueue>>,
}

impl WebSocketTask {
    fn new(
        socket: WebSocket,
        hub: Arc<HubState>,
        subscription: Subscription,
        expires_at: DateTime<Utc>,
        ack_mode: AckMode,
        message_layout: MessageLayout,
    ) -> Self {
        let now = Instant::now();
        let heartbeat_at = now + hub.sockets.heartbeat;
        if ack_mode == AckMode::Pong {
            subscription.will_ask();
        }
        Self {
            frames: WebSocketIo::new(socket, hub.sockets.send_deadline),
            hub,
            subscription,
            ack_mode,
            lines: (message_layout == MessageLayout::Lines).then(LineMessage::default),
            heartbeat_at,
            ping_at: None,
            pinged: None,
            last_ping: None,
            settling: None,
            token: TokenClock::until(expires_at),
            messages: TokenBucket::new(MESSAGES, f64::from(MESSAGES) / 60.0),
            refused: 0,
            deaf_until: None,
            intake: None,
        }
    }

    async fn run(&mut self) -> CloseCause {
        // One timer for the whole connection: a new one for each frame would take the lock of all timers twice.
        let mut clock = pin!(tokio::time::sleep_until(self.next_time()));
        let mut turns = 0;
        loop {
            // A write may have taken long, so due work does not wait for the last of the turns.
            if turns >= TURNS || self.next_time() <= Instant::now() {
                turns = 0;
                if let Err(cause) = self.look_up().await {
                    return cause;
                }
            }
            let next_time = self.next_time();
            if clock.deadline() != next_time {
                clock.as_mut().reset(next_time);
            }
            let event = self.wait(clock.as_mut()).await;
            if let Some((seq, at)) = self.subscription.catch_up() {
                (self.pinged, self.last_ping, self.ping_at) = (Some((seq, at)), Some(at), None);
            }
            let done = match event {
                SocketEvent::Receipt(receipt) => self.on_receipt(receipt).await,
                SocketEvent::Ready(NextStep::Frames) => self.write_frames().await.map(|is_all| turns += if is_all { 1 } else { TURNS }),
                SocketEvent::Ready(NextStep::Ask) => self.send_due_ping().await,
                SocketEvent::Ready(NextStep::Renewed(expires_at)) => self.renewed(expires_at).await,
                SocketEvent::Ready(NextStep::End(CloseOrder { close, after_ms })) => {
                    Err(CloseCause::Close { close, after_ms: Some(after_ms) })
                }
                SocketEvent::Due => self.keep_time().await,
                SocketEvent::Said(said) => self.hear(said).await,
            };
            if let Err(cause) = done {
                return cause;
            }
        }
    }

    /// Waits for the next event. In the meantime rows may be written past this task, but never while it is polled.
    async fn wait(&mut self, clock: Pin<&mut Sleep>) -> SocketEvent {
        let connection = Arc::clone(self.subscription.connection());
        let (is_storing, may_hear, ping_plan) = (self.is_storing(), self.may_hear(), self.ping_plan());
        let Self { intake, subscription, frames, .. } = self;
        let next = async {
            tokio::select! {
                // First, and alone if there are frames to write: polling the socket too would double the cost.
                biased;
                receipt = stored(intake), if is_storing => SocketEvent::Receipt(receipt),
                ready = subscription.ready() => SocketEvent::Ready(ready),
                // Before the socket: a client that never stops sending must not stop the clocks.
                () = clock => SocketEvent::Due,
                said = frames.hear(), if may_hear => SocketEvent::Said(said),
            }
        };
        let mut next = pin!(next);
        poll_fn(|context| {
            connection.send_queue.begin_poll();
            let polled = next.as_mut().poll(context);
            if polled.is_pending() {
                connection.send_queue.end_poll(ping_plan);
            }
            polled
        })
        .await
    }

    /// Between two turns of writing, reads the client's frames and does what is due.
    async fn look_up(&mut self) -> Result<(), CloseCause> {
        // Reads all that has arrived; the runtime's budget for one task limits it.
        if self.is_storing()
            && let Some(receipt) = stored(&mut self.intake).now_or_never()
        {
            self.on_receipt(receipt).await?;
        }
        while self.may_hear()
            && let Some(said) = self.frames.hear().now_or_never()
        {
            self.hear(said).await?;
        }
        if self.next_time() <= Instant::now() { self.keep_time().await } else { Ok(()) }
    }

    fn is_storing(&self) -> bool {
        self.intake.as_ref().is_some_and(|intake| intake.is_busy())
    }

    /// Whether one more frame may be read.
    fn may_hear(&self) -> bool {
        self.deaf_until.is_none() && !self.intake.as_ref().is_some_and(|intake| intake.is_full())
    }

    fn next_time(&self) -> Instant {
        let pong_due = self.pinged.map(|(_, at)| at + self.hub.sockets.pong_deadline);
        let settles = self.settling.map(|(_, at)| at);
        let dues = [self.ping_at, pong_due, self.deaf_until, settles].into_iter().flatten();
        dues.fold(self.heartbeat_at.min(self.token.next()), Instant::min)
    }

    fn pong_is_overdue(&self, now: Instant) -> bool {
        self.pinged.is_some_and(|(_, at)| now >= at + self.hub.sockets.pong_deadline)
    }

    async fn keep_time(&mut self) -> Result<(), CloseCause> {
        let now = Instant::now();
        let was_deaf = self.deaf_until.is_some();
        self.deaf_until = self.deaf_until.filter(|until| now < *until);
        if self.token.has_ended(now) {
            return Err(CloseCode::TokenExpired.into());
        }
        if was_deaf && self.pong_is_overdue(now) {
            // The pong is queued behind more frames than a client may send.
            return Err(CloseCode::NoPong.into());
        }
        if self.pong_is_overdue(now) {
            // The pong may be here unread if this hub had no time: a write that waited, a machine that slept.
            return match timeout(LAST_LOOK, self.frames.hear()).await {
                Ok(said) => self.hear(said).await,
                Err(_) => Err(CloseCode::NoPong.into()),
            };
        }
        if self.settling.is_some_and(|(_, at)| now >= at) {
            self.settle();
        }
        if let Some(warning) = self.token.warning(now) {
            self.say(&warning).await?;
        }
        if now >= self.heartbeat_at {
            self.heartbeat_at = now + self.hub.sockets.heartbeat;
            if let Some((seq, prev)) = self.subscription.heartbeat() {
                // It leaves together with the ping: a system call less, for every connection and heartbeat.
                self.frames.feed(Message::Text(ServerFrame::Heartbeat { seq, prev }.encode().into())).await?;
            }
            self.ping().await?;
        } else if self.ping_at.is_some_and(|at| now >= at) {
            self.ping().await?;
        }
        Ok(())
    }

    /// Writes the waiting frames, up to a turn's size, and returns whether those were all. A client that only reads
    /// must not keep the task from reading its frames or from keeping time.
    async fn write_frames(&mut self) -> Result<bool, CloseCause> {
        let (mut written, mut ask_now) = (0, false);
        while written < TURN_BYTES {
            let Some(frame) = self.subscription.next_frame() else { break };
            written += frame.text.len();
            ask_now |= !frame.ask_later;
            self.feed_frame(frame.text).await?;
            if written >= PING_BYTES {
                self.ask_for_ack().await?;
            }
        }
        if self.subscription.take_ask() || ask_now {
            self.ask_for_ack().await?;
        }
        self.feed_collected().await?;
        self.frames.flush().await?;
        #[cfg(feature = "failpoints")]
        crate::failpoints::at(if written < TURN_BYTES { "ws.after_send" } else { "catchup.mid_page" }).await;
        Ok(written < TURN_BYTES)
    }

    /// Writes a frame, or collects it for a message of several.
    async fn feed_frame(&mut self, frame: String) -> Result<(), CloseCause> {
        let message = match &mut self.lines {
            None => Some(frame),
            Some(lines) => lines.add(&frame),
        };
        match message {
            Some(message) => self.frames.feed(Message::Text(message.into())).await,
            None => Ok(()),
        }
    }

    async fn feed_collected(&mut self) -> Result<(), CloseCause> {
        match self.lines.as_mut().and_then(LineMessage::take) {
            Some(message) => self.frames.feed(Message::Text(message.into())).await,
            None => Ok(()),
        }
    }

    async fn say(&mut self, frame: &ServerFrame<'_>) -> Result<(), CloseCause> {
        self.frames.feed(Message::Text(frame.encode().into())).await?;
        self.frames.flush().await
    }
}
