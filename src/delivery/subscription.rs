//! Runs one client's stream: performs the steps that [`super::stream_state`] decides.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::time::Instant;

use super::event::SharedNotification;
use super::inbox_counter::InboxCounter;
use super::live_socket::LiveSocket;
use super::recent_posts::AckedPost;
use super::registry::{Connection, Registration};
use super::send_queue::CloseOrder;
use super::send_queue::direct::WrittenPast;
use super::shared_handles::Delivery;
use super::stream_state::{StreamState, StreamStep};
use crate::backoff::Backoff;
use crate::domain::{InboxCounts, LogId, Principal, Seq};
use crate::metrics;
use crate::store::read::{self, PrincipalPage};
use crate::store::{Reader, StoreError};
use crate::telemetry::spans;
use crate::wire::close::CloseCode;
use crate::wire::server_frame::{InboxMarks, ServerFrame};

/// How often reading a page is tried before the client is asked to reconnect.
const PAGE_TRIES: u32 = 4;

/// The next step of the transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextStep {
    /// Take frames with [`Subscription::next_frame`] until it returns `None`.
    Frames,
    /// Ping the client for what it received; only after [`Subscription::will_ask`] was called.
    Ask,
    /// A newer token came in a request of its own, with this end.
    Renewed(DateTime<Utc>),
    /// Close the connection.
    End(CloseOrder),
}

/// A frame to be written to the client.
#[derive(Debug)]
pub struct OutgoingFrame {
    /// The client has all its rows up to here with this frame; `None` for a frame without a sequence number.
    pub seq: Option<Seq>,
    /// The type of a control frame; `None` for a notification.
    pub control: Option<&'static str>,
    pub text: String,
    /// The client is pinged for this frame when [`NextStep::Ask`] says so: many clients receive it at this moment.
    pub ask_later: bool,
}

/// An acknowledgement of a number that was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckAhead {
    pub delivered: Seq,
}

/// The stream of one connection. Dropping it removes the connection from the registry, and ends its session as `lost`
/// unless [`Subscription::end`] has set another cause.
pub struct Subscription {
    delivery: Delivery,
    reader: Reader,
    registration: Registration,
    stream_state: StreamState,
    log_id: LogId,
    page: Option<Box<ReplayPage>>,
    reading: Option<BoxFuture<'static, Result<PrincipalPage, StoreError>>>,
    announcement: Option<(Seq, u64)>,
    end: &'static str,
    is_shared: bool,
    /// Set for a client with an inbox.
    inbox: Option<Box<InboxCounter>>,
}

/// A page that is being delivered.
struct ReplayPage {
    events: VecDeque<Arc<SharedNotification>>,
    through: Seq,
}

impl Subscription {
    pub(super) fn new(
        delivery: Delivery,
        reader: Reader,
        registration: Registration,
        stream_state: StreamState,
        log_id: LogId,
        is_shared: bool,
        inbox: Option<Box<InboxCounter>>,
    ) -> Self {
        let (page, reading, announcement, end) = (None, None, None, "lost");
        Self { delivery, reader, registration, stream_state, log_id, page, reading, announcement, end, is_shared, inbox }
    }

    /// From now on rows may be written into this socket while the task waits between two calls of
    /// [`crate::delivery::send_queue::SendQueue::begin_poll`]. Not for a client with an inbox: its frames have counts,
    /// which only the task knows.
    pub fn write_into(&self, socket: Arc<dyn LiveSocket>) {
        if self.inbox.is_none() {
            self.connection().send_queue.write_into(socket);
        }
    }

    /// The counts for the first frame.
    pub fn first_counts(&mut self) -> Option<InboxCounts> {
        self.inbox.as_mut()?.tell(Seq::default())
    }

    /// Takes over what was written past the task. Must be called after each wait. Returns the ping among it: its
    /// number, and when it was written.
    pub fn catch_up(&mut self) -> Option<(Seq, Instant)> {
        let WrittenPast { delivered, pinged } = self.registration.connection().send_queue.written_past();
        self.stream_state.sent_directly(delivered);
        pinged
    }

    /// Whether another connection of the device is open or may come back.
    pub fn is_shared(&self) -> bool {
        self.is_shared
    }

    pub fn connection(&self) -> &Arc<Connection> {
        self.registration.connection()
    }

    /// Turns pings on for a client that does not acknowledge on its own: [`Subscription::ready`] then says when to ping
    /// for a broadcast.
    pub fn will_ask(&self) {
        self.connection().send_queue.will_ask();
    }

    /// Whether a ping is due. If no frame is to be written, [`NextStep::Ask`] says so.
    pub fn take_ask(&self) -> bool {
        self.connection().send_queue.take_ask()
    }

    /// Whether [`NextStep::Ask`] was returned to learn whether the client is alive.
    pub fn take_probe(&self) -> bool {
        self.connection().send_queue.take_probe()
    }

    /// Whether the client was sent something that it has not acknowledged.
    pub fn is_unconfirmed(&self) -> bool {
        self.delivered() > self.connection().acked()
    }

    /// The highest number delivered so far.
    pub fn delivered(&self) -> Seq {
        self.stream_state.delivered()
    }

    /// Waits for the next step. Safe to drop and call again: a page read that has begun continues.
    pub async fn ready(&mut self) -> NextStep {
        loop {
            let outbox = self.registration.connection().send_queue.look();
            self.stream_state.sent_directly(outbox.delivered);
            if let Some(ending) = outbox.ending {
                return NextStep::End(ending);
            }
            if outbox.renewed
                && let Some(expires_at) = self.registration.connection().send_queue.take_renewal()
            {
                return NextStep::Renewed(expires_at);
            }
            if let Some(carrier) = self.due_count()
                && let Some(inbox) = &mut self.inbox
            {
                inbox.count_first(carrier).await;
                continue;
            }
            // No frame may wait here: writing frames ends with a flush.
            let is_unflushed = outbox.unflushed && self.registration.connection().send_queue.take_unflushed();
            if self.announcement.is_some() || outbox.control || is_unflushed || self.has_inbox_news() {
                return NextStep::Frames;
            }
            if let Some(page) = &self.page {
                if !page.events.is_empty() {
                    return NextStep::Frames;
                }
                self.stream_state.page_given(page.through);
                self.page = None;
            }
            match self.stream_state.step() {
                StreamStep::Read { after, upto } => {
                    if let Some(ending) = self.read(after, upto).await {
                        return NextStep::End(ending);
                    }
                }
                StreamStep::Join => self.join(),
                StreamStep::Live if outbox.overflowed => self.fall_back(),
                StreamStep::Live if outbox.events => return NextStep::Frames,
                StreamStep::Live if outbox.ask => {
                    self.take_ask();
                    return NextStep::Ask;
                }
                StreamStep::Live => {
                    let filled = self.registration.connection().send_queue.filled(self.stream_state.delivered());
                    match &mut self.inbox {
                        None => filled.await,
                        Some(inbox) => {
                            inbox.count_in_background();
                            tokio::select! {
                                () = filled => {}
                                () = inbox.changed() => {}
                            }
                        }
                    }
                }
            }
        }
    }

    /// The count that the next frame waits for, if there is one: for the change at the head of the send queue, or for
    /// the end of a replay.
    fn due_count(&self) -> Option<Option<Seq>> {
        let inbox = self.inbox.as_ref()?;
        if let Some((seq, _)) = self.announcement {
            return inbox.must_reach(seq).then_some(None);
        }
        if self.page.is_some() || self.stream_state.step() != StreamStep::Live {
            return None;
        }
        let front = self.registration.connection().send_queue.front();
        front.filter(|event| inbox.waits_for(event)).map(|change| Some(change.seq))
    }

    /// Whether counts wait for a frame of their own.
    fn has_inbox_news(&self) -> bool {
        self.stream_state.step() == StreamStep::Live && self.inbox.as_ref().is_some_and(|inbox| inbox.news().is_some())
    }

    /// The next frame, if one is ready.
    pub fn next_frame(&mut self) -> Option<OutgoingFrame> {
        if let Some(notice) = self.registration.connection().send_queue.next_notice() {
            return Some(OutgoingFrame { seq: None, control: Some(notice.name), text: notice.text, ask_later: false });
        }
        if let Some((seq, replayed)) = self.announcement.take() {
            self.registration.connection().set_delivered(seq);
            let inbox = self.inbox.as_mut().and_then(|inbox| inbox.tell(seq));
            let text = ServerFrame::CaughtUp { seq, replayed, inbox }.encode();
            return Some(OutgoingFrame { seq: Some(seq), control: Some("caught_up"), text, ask_later: false });
        }
        if self.page.is_none()
            && self.stream_state.step() == StreamStep::Live
            && let Some(inbox) = &mut self.inbox
        {
            if let Some(counts) = inbox.take_news() {
                let text = ServerFrame::InboxCounts(counts).encode();
                return Some(OutgoingFrame { seq: None, control: Some("inbox_counts"), text, ask_later: false });
            }
            let front = self.registration.connection().send_queue.front();
            if front.is_some_and(|event| inbox.waits_for(&event)) {
                return None;
            }
        }
        loop {
            let is_live = self.page.is_none();
            let event = match &mut self.page {
                Some(page) => page.events.pop_front()?,
                // A queue that has overflowed is empty.
                None if self.stream_state.step() == StreamStep::Live => self.registration.connection().send_queue.pop()?,
                None => return None,
            };
            let replayed = self.stream_state.is_replaying();
            if let Some(prev) = self.stream_state.give(event.seq) {
                self.registration.connection().set_delivered(event.seq);
                metrics::SENT.add(if replayed { "replayed" } else { "live" }, 1);
                event.note_given();
                let marks = match &mut self.inbox {
                    None => InboxMarks::default(),
                    Some(inbox) if replayed || !is_live => inbox.replayed(&event),
                    Some(inbox) => inbox.live(&event),
                };
                let text = event.frame(prev, replayed, marks);
                return Some(OutgoingFrame {
                    seq: Some(event.seq),
                    control: None,
                    text,
                    ask_later: is_live && event.audience.is_for_many(),
                });
            }
            // The number was delivered before. That is believed impossible; the row is not sent again.
            tracing::error!(session = %self.registration.connection().session, seq = event.seq.get(), "duplicate seq for one connection; skipped");
        }
    }

    /// A heartbeat, if all dispatched rows are delivered: its number and the frame's `prev`. During a replay, there is
    /// one if rows were read of which the client asked for none.
    pub fn heartbeat(&mut self) -> Option<(Seq, Seq)> {
        if self.announcement.is_some() {
            return None;
        }
        let seq = match self.stream_state.step() {
            StreamStep::Live => self.delivery.registry.quiet_at(self.registration.connection())?,
            StreamStep::Read { .. } | StreamStep::Join => self.stream_state.passed()?,
        };
        let prev = self.stream_state.heartbeat(seq)?;
        self.registration.connection().set_delivered(seq);
        Some((seq, prev))
    }

    /// Acknowledges everything up to the start of the stream: by naming that position the client has confirmed it.
    pub fn ack_start(&self) {
        self.confirm(self.registration.connection().from());
    }

    /// Acknowledges everything up to `seq`.
    ///
    /// # Errors
    /// When the client was never sent that far; nothing is noted then.
    pub fn ack(&self, seq: Seq) -> Result<(), AckAhead> {
        let delivered = self.delivered();
        if seq > delivered {
            return Err(AckAhead { delivered });
        }
        self.confirm(seq);
        Ok(())
    }

    /// Notes a pong: the client's library has everything up to `seq`. A pong does not confirm the start of the stream;
    /// only an acknowledgement by the client does.
    pub fn pong(&self, seq: Seq) {
        if seq > self.registration.connection().acked() && seq <= self.delivered() {
            self.confirm(seq);
        }
    }

    fn confirm(&self, seq: Seq) {
        let connection = self.registration.connection();
        if connection.set_acked(seq) {
            metrics::ACKS.one();
            if let Some(AckedPost { since, trace }) = self.delivery.registry.recent_posts.acked(seq) {
                metrics::POST_TO_ACK_SECONDS.time_in(since, trace.map(|trace| trace.trace_id));
                spans::acked(trace, since, seq.get());
            }
            self.delivery.acks.note(&connection.who.user, &connection.client, self.log_id, seq);
        }
    }

    /// Sets why the session ends.
    pub fn end(mut self, why: &'static str) {
        self.end = why;
    }

    async fn read(&mut self, after: Seq, upto: Seq) -> Option<CloseOrder> {
        let reading = self
            .reading
            .get_or_insert_with(|| read_page(self.reader.clone(), self.registration.connection().who.clone(), after, upto).boxed());
        let page = reading.await;
        self.reading = None;
        match page {
            Ok(page) if page.floor > after => {
                // Retention has dropped rows that the client was still reading. The client reconnects and is told which
                // part is lost.
                Some(CloseOrder { close: CloseCode::ServerError, after_ms: 0 })
            }
            Ok(page) => {
                let connection = self.registration.connection();
                // Not in SQL: the index that finds a client's rows has no types, so that each row is read in any case.
                let taken = page.notifications.into_iter().filter(|notification| connection.takes(&notification.kind));
                let events = taken.map(SharedNotification::of).collect();
                self.page = Some(Box::new(ReplayPage { events, through: page.through }));
                None
            }
            Err(error) => {
                tracing::warn!(%error, session = %self.registration.connection().session, "could not read a replay page; closing the connection");
                Some(CloseOrder { close: CloseCode::ServerError, after_ms: 1000 })
            }
        }
    }

    fn join(&mut self) {
        if self.registration.connection().send_queue.overflowed() {
            self.fall_back();
        } else {
            self.announcement = self.stream_state.joined();
        }
    }

    fn fall_back(&mut self) {
        metrics::FELL_BEHIND.one();
        let position = self.delivery.registry.retake(self.registration.connection());
        self.stream_state.fell_behind(position.dispatched);
        if let Some(inbox) = &mut self.inbox {
            inbox.lose();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.registration.connection().send_queue.leave_socket();
        metrics::DISCONNECTED.one(self.end);
        self.delivery.facts.ended(self.registration.connection());
        self.delivery.sessions.ended(self.registration.connection(), self.log_id, self.end);
        self.delivery.acks.hurry();
    }
}

async fn read_page(reader: Reader, who: Principal, after: Seq, upto: Seq) -> Result<PrincipalPage, StoreError> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    for _ in 1..PAGE_TRIES {
        match read::page(&reader, &who, after, upto).await {
            Err(StoreError::Unavailable(error)) => {
                tracing::debug!(%error, "could not read a replay page; retrying");
                tokio::time::sleep(backoff.failed()).await;
            }
            outcome => return outcome,
        }
    }
    read::page(&reader, &who, after, upto).await
}
