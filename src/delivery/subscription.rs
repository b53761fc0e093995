//! One client's stream: performs what the pure [`super::connection`] decides.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use super::connection::{Connection, Step};
use super::event::Event;
use super::live::Delivery;
use super::outbox::Ending;
use super::registry::{Member, Seat};
use crate::backoff::Backoff;
use crate::domain::{LogId, Principal, Seq};
use crate::metrics;
use crate::store::read::{self, Page};
use crate::store::{Reader, StoreError};
use crate::wire::close::Close;
use crate::wire::server::ServerFrame;

/// How often a page is tried before the client is asked to come back.
const PAGE_TRIES: u32 = 4;

/// What the transport has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// Take frames by [`Subscription::next_frame`] until there are none.
    Frames,
    /// Ask the client for a word on what it was given; only where [`Subscription::will_ask`] was called.
    Ask,
    /// End the connection.
    End(Ending),
}

/// A frame on its way to the client.
#[derive(Debug)]
pub struct Sending {
    /// Everything that concerns the client up to here is given with it; `None` for a frame that no number orders.
    pub seq: Option<Seq>,
    /// The frame's type, for one that is no notification.
    pub control: Option<&'static str>,
    pub text: String,
    /// The client is asked for a word on it when [`Ready::Ask`] says so: many get it at this moment.
    pub ask_later: bool,
}

/// An acknowledgement of something that was never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AckAhead {
    pub sent: Seq,
}

/// The stream of one connection. Dropping it ends the membership, and its session as `lost` unless
/// [`Subscription::end`] has said otherwise.
pub struct Subscription {
    delivery: Delivery,
    reader: Reader,
    seat: Seat,
    connection: Connection,
    log_id: LogId,
    page: Option<Box<OpenPage>>,
    reading: Option<BoxFuture<'static, Result<Page, StoreError>>>,
    announcement: Option<(Seq, u64)>,
    end: &'static str,
}

/// A page that is being given.
struct OpenPage {
    events: VecDeque<Arc<Event>>,
    through: Seq,
}

impl Subscription {
    pub(super) fn new(delivery: Delivery, reader: Reader, seat: Seat, connection: Connection, log_id: LogId) -> Self {
        Self { delivery, reader, seat, connection, log_id, page: None, reading: None, announcement: None, end: "lost" }
    }

    pub fn member(&self) -> &Arc<Member> {
        self.seat.member()
    }

    /// The client does not say by itself what it has: [`Subscription::ready`] tells when to ask it about what went to many.
    pub fn will_ask(&self) {
        self.member().outbox.will_ask();
    }

    /// Whether it is the client's turn to be asked, which [`Ready::Ask`] says where nothing is to be written.
    pub fn take_ask(&self) -> bool {
        self.member().outbox.take_ask()
    }

    /// Whether it was given something that it has not acknowledged.
    pub fn is_unconfirmed(&self) -> bool {
        self.sent() > self.member().acked()
    }

    /// The highest number given so far.
    pub fn sent(&self) -> Seq {
        self.connection.given()
    }

    /// Waits until there is something to do. Safe to drop and call again: a page that is being read goes on being read.
    pub async fn ready(&mut self) -> Ready {
        loop {
            let outbox = self.seat.member().outbox.look();
            if let Some(ending) = outbox.ending {
                return Ready::End(ending);
            }
            if self.announcement.is_some() || outbox.notices {
                return Ready::Frames;
            }
            if let Some(page) = &self.page {
                if !page.events.is_empty() {
                    return Ready::Frames;
                }
                self.connection.page_given(page.through);
                self.page = None;
            }
            match self.connection.step() {
                Step::Read { after, upto } => {
                    if let Some(ending) = self.read(after, upto).await {
                        return Ready::End(ending);
                    }
                }
                Step::Join => self.join(),
                Step::Live if outbox.overflowed => self.fall_back(),
                Step::Live if outbox.events => return Ready::Frames,
                Step::Live if outbox.ask => {
                    self.take_ask();
                    return Ready::Ask;
                }
                Step::Live => self.seat.member().outbox.filled().await,
            }
        }
    }

    /// The next frame, if one is at hand.
    pub fn next_frame(&mut self) -> Option<Sending> {
        if let Some(notice) = self.seat.member().outbox.next_notice() {
            return Some(Sending { seq: None, control: Some(notice.name), text: notice.text, ask_later: false });
        }
        if let Some((seq, replayed)) = self.announcement.take() {
            self.seat.member().set_sent(seq);
            let text = ServerFrame::CaughtUp { seq, replayed }.encode();
            return Some(Sending { seq: Some(seq), control: Some("caught_up"), text, ask_later: false });
        }
        loop {
            let is_live = self.page.is_none();
            let event = match &mut self.page {
                Some(page) => page.events.pop_front()?,
                // One that has overflowed is empty.
                None if self.connection.step() == Step::Live => self.seat.member().outbox.pop()?,
                None => return None,
            };
            let replayed = self.connection.is_replaying();
            if let Some(prev) = self.connection.give(event.seq) {
                self.seat.member().set_sent(event.seq);
                metrics::SENT.add(if replayed { "replayed" } else { "live" }, 1);
                let text = event.frame(prev, replayed);
                return Some(Sending { seq: Some(event.seq), control: None, text, ask_later: is_live && event.audience.is_for_many() });
            }
            // Given before: must not be, and must not go out again.
            tracing::error!(session = %self.seat.member().session, seq = event.seq.get(), "a number came twice to one connection");
        }
    }

    /// A heartbeat, when all that was published has been given: its number and the frame's `prev`.
    pub fn heartbeat(&mut self) -> Option<(Seq, Seq)> {
        if self.connection.step() != Step::Live || self.announcement.is_some() {
            return None;
        }
        let seq = self.delivery.registry.quiet_at(self.seat.member())?;
        let prev = self.connection.heartbeat(seq)?;
        self.seat.member().set_sent(seq);
        Some((seq, prev))
    }

    /// A heartbeat that moves a client's place without a frame that it could see: no later `prev` names it.
    pub fn silent_heartbeat(&mut self) -> Option<Seq> {
        if self.connection.step() != Step::Live || self.announcement.is_some() {
            return None;
        }
        let seq = self.delivery.registry.quiet_at(self.seat.member())?;
        self.connection.pass(seq);
        self.seat.member().set_sent(seq);
        Some(seq)
    }

    /// The client has everything up to where its stream began: by naming that place it has confirmed it.
    pub fn ack_start(&self) {
        self.confirm(self.seat.member().from());
    }

    /// The client has everything up to `seq`.
    ///
    /// # Errors
    /// When it was never sent that far; nothing is noted then.
    pub fn ack(&self, seq: Seq) -> Result<(), AckAhead> {
        let sent = self.sent();
        if seq > sent {
            return Err(AckAhead { sent });
        }
        self.confirm(seq);
        Ok(())
    }

    /// The client's library has everything up to `seq`. That it has nothing yet confirms nothing: the place where the
    /// stream began is confirmed by the client's own word alone.
    pub fn pong(&self, seq: Seq) {
        if seq > self.seat.member().acked() && seq <= self.sent() {
            self.confirm(seq);
        }
    }

    fn confirm(&self, seq: Seq) {
        let member = self.seat.member();
        if member.set_acked(seq) {
            metrics::ACKS.one();
            self.delivery.acks.note(&member.who.user, &member.client, self.log_id, seq);
        }
    }

    /// Says why the session ends.
    pub fn end(mut self, why: &'static str) {
        self.end = why;
    }

    async fn read(&mut self, after: Seq, upto: Seq) -> Option<Ending> {
        let reading =
            self.reading.get_or_insert_with(|| read_page(self.reader.clone(), self.seat.member().who.clone(), after, upto).boxed());
        let page = reading.await;
        self.reading = None;
        match page {
            Ok(page) if page.floor > after => {
                // Retention passed the client while it was reading. It comes back and is told which part is lost.
                Some(Ending { close: Close::ServerError, after_ms: 0 })
            }
            Ok(page) => {
                let events = page.notifications.into_iter().map(Event::of).collect();
                self.page = Some(Box::new(OpenPage { events, through: page.through }));
                None
            }
            Err(error) => {
                tracing::warn!(%error, session = %self.seat.member().session, "a page for a resuming client could not be read");
                Some(Ending { close: Close::ServerError, after_ms: 1000 })
            }
        }
    }

    fn join(&mut self) {
        if self.seat.member().outbox.overflowed() {
            self.fall_back();
        } else {
            self.announcement = self.connection.joined();
        }
    }

    fn fall_back(&mut self) {
        metrics::FELL_BEHIND.one();
        let position = self.delivery.registry.retake(self.seat.member());
        self.connection.fell_behind(position.published);
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        metrics::DISCONNECTED.one(self.end);
        self.delivery.progress.ended(self.seat.member());
        self.delivery.sessions.ended(self.seat.member(), self.log_id, self.end);
        self.delivery.acks.hurry();
    }
}

async fn read_page(reader: Reader, who: Principal, after: Seq, upto: Seq) -> Result<Page, StoreError> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    for _ in 1..PAGE_TRIES {
        match read::page(&reader, &who, after, upto).await {
            Err(StoreError::Unavailable(error)) => {
                tracing::debug!(%error, "a page is tried again");
                tokio::time::sleep(backoff.failed()).await;
            }
            outcome => return outcome,
        }
    }
    read::page(&reader, &who, after, upto).await
}
