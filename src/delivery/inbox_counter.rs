//! Keeps the counts of one connection's inbox.
//!
//! The counts are those of the database, plus one for each item that was dispatched since. Where that is not enough
//! they are counted anew: for a change of the inbox, after rows were left out of the send queue, and when retention or
//! an erasure took items away. While that is not done, frames go out without counts.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::{Semaphore, watch};
use tokio::time::Sleep;

use super::event::SharedNotification;
use crate::backoff::Backoff;
use crate::domain::{InboxCounts, InboxState, Principal, RecountMark, Seq};
use crate::store::{Reader, StoreError, inbox};
use crate::wire::server_frame::InboxMarks;

/// Most counts at once of those that no frame waits for. An erasure asks for one on each connection, and they must
/// leave connections of the pool to others.
pub const UNASKED_COUNTS: usize = 4;

/// Most items that are remembered while a count runs. A count takes milliseconds.
const PENDING_MAX: usize = 1024;

/// A count that runs.
struct Count {
    /// As [`InboxCounter::opened`], when it began.
    opened: Seq,
    outcome: BoxFuture<'static, Result<InboxState, StoreError>>,
    /// No row and no frame waits for it.
    is_background: bool,
    /// Items that were delivered since it began: it may not have them.
    pending: Vec<Seq>,
}

/// The counts of one connection.
pub(super) struct InboxCounter {
    reader: Reader,
    who: Principal,
    /// The last counts, and whether they can be built on.
    state: InboxState,
    is_known: bool,
    /// The last erasure of an inbox that the hub knew when it opened this inbox. A later one may have been of this
    /// inbox.
    opened: Seq,
    /// What the client was told last; `None` once it received an item or a change that these counts do not cover.
    told: Option<InboxCounts>,
    /// The change that the last count was made for: its frame tells it.
    carrier: Option<Seq>,
    recounts: watch::Receiver<RecountMark>,
    turns: Arc<Semaphore>,
    count: Option<Count>,
    backoff: Backoff,
    retry: Option<Pin<Box<Sleep>>>,
}

impl InboxCounter {
    /// `opened`: the last erasure of an inbox that the hub knew before it opened this one.
    pub fn new(
        reader: Reader,
        who: Principal,
        state: InboxState,
        opened: Seq,
        recounts: watch::Receiver<RecountMark>,
        turns: Arc<Semaphore>,
    ) -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let (told, carrier, count, retry) = (None, None, None, None);
        Self { reader, who, state, is_known: true, opened, told, carrier, recounts, turns, count, backoff, retry }
    }

    /// The counts, where they are known.
    fn counts(&self) -> Option<InboxCounts> {
        self.is_fresh().then_some(self.state.counts)
    }

    fn is_fresh(&self) -> bool {
        let recounts = self.recounts.borrow();
        self.is_known && self.opened >= recounts.inboxes_seq && !recounts.concerns(&self.state)
    }

    /// The counts for a frame that follows no row, at least as new as `seq`.
    pub fn tell(&mut self, seq: Seq) -> Option<InboxCounts> {
        self.told = self.counts().filter(|counts| counts.as_of >= seq).or(self.told);
        self.told.filter(|counts| counts.as_of >= seq)
    }

    /// Rows were left out of the send queue.
    pub fn lose(&mut self) {
        self.is_known = false;
        (self.count, self.carrier) = (None, None);
    }

    /// Whether the next frame must wait for a count: for a frame that names `upto`, the counts must have reached it.
    pub fn must_reach(&self, upto: Seq) -> bool {
        self.retry.is_none() && (!self.is_fresh() || self.state.counts.as_of < upto)
    }

    /// Whether this row must wait for a count.
    pub fn waits_for(&self, event: &SharedNotification) -> bool {
        event.is_inbox_change() && self.retry.is_none() && self.state.counts.as_of < event.seq
    }

    /// Counts while the next frame waits. Safe to drop and call again. `carrier`: the change that it is for, whose
    /// frame tells the counts.
    pub async fn count_first(&mut self, carrier: Option<Seq>) {
        // One that no frame waits for may wait for its turn.
        if self.count.as_ref().is_none_or(|count| count.is_background) {
            self.count = Some(self.counting(None));
        }
        self.counted().await;
        self.carrier = carrier.filter(|carrier| self.counts().is_some_and(|counts| counts.as_of >= *carrier));
    }

    /// Begins to count if the counts are not known. Frames go on meanwhile, without counts.
    pub fn count_in_background(&mut self) {
        if self.count.is_none() && self.retry.is_none() && !self.is_fresh() {
            self.count = Some(self.counting(Some(Arc::clone(&self.turns))));
        }
    }

    /// `turns`: no row and no frame waits for the count.
    fn counting(&self, turns: Option<Arc<Semaphore>>) -> Count {
        let (reader, who) = (self.reader.clone(), self.who.clone());
        let opened = self.recounts.borrow().inboxes_seq;
        let (is_background, must_open) = (turns.is_some(), opened > self.opened);
        let outcome = async move {
            // The semaphore is never closed.
            let _turn = match &turns {
                Some(turns) => turns.acquire().await.ok(),
                None => None,
            };
            if must_open { inbox::open(&reader, &who).await } else { inbox::counts(&reader, &who).await }
        };
        Count { opened, outcome: outcome.boxed(), is_background, pending: Vec::new() }
    }

    /// Waits for the count that runs. Safe to drop and call again.
    async fn counted(&mut self) {
        let Some(count) = &mut self.count else { return };
        let outcome = count.outcome.as_mut().await;
        let Some(Count { opened, pending, .. }) = self.count.take() else { return };
        match outcome {
            Ok(state) => {
                self.backoff.succeeded();
                (self.state, self.is_known, self.opened) = (state, pending.len() < PENDING_MAX, opened);
                for seq in pending {
                    if seq > self.state.counts.as_of {
                        self.state.add(seq);
                    }
                }
            }
            Err(error) => {
                tracing::debug!(%error, user = %self.who.user, "could not count an inbox; retrying");
                self.is_known = false;
                self.retry = Some(Box::pin(tokio::time::sleep(self.backoff.failed())));
            }
        }
    }

    /// Returns when there may be counts to tell or to make: a count is done, another try is due, or items are gone.
    pub async fn changed(&mut self) {
        if self.count.is_some() {
            self.counted().await;
        } else if let Some(retry) = &mut self.retry {
            retry.await;
            self.retry = None;
        } else {
            // The registry outlives its connections.
            let _ = self.recounts.changed().await;
        }
    }

    /// What the frame of this live row tells.
    pub fn live(&mut self, event: &SharedNotification) -> InboxMarks {
        let is_change = event.is_inbox_change();
        let muted = !is_change && self.state.mutes(&event.kind);
        let known = self.live_counts(event, is_change, muted);
        if known.is_none() && !muted {
            self.leave_out(event);
        }
        InboxMarks { muted, counts: known }
    }

    /// The row goes out without counts. If the client was told none that cover it, the next ones are told in a frame of
    /// their own, also if they are the same: an answer to a request may have told others in between.
    fn leave_out(&mut self, event: &SharedNotification) {
        if event.is_item || event.is_inbox_change() {
            self.told.take_if(|told| told.as_of < event.seq);
        }
    }

    fn live_counts(&mut self, event: &SharedNotification, is_change: bool, muted: bool) -> Option<InboxCounts> {
        if self.carrier.take_if(|carrier| *carrier <= event.seq).is_some() && is_change {
            self.told = self.counts().or(self.told);
            return self.counts();
        }
        // Counted before it came, with the same counts as before: they were not told in a frame of their own.
        if is_change && self.told.is_none_or(|told| told.as_of < event.seq) {
            let counts = self.counts().filter(|counts| counts.as_of >= event.seq);
            if counts.is_some() {
                self.told = counts;
                return counts;
            }
        }
        let is_counted = event.is_item && !muted;
        if let Some(count) = self.count.as_mut().filter(|_| is_counted) {
            if count.pending.len() < PENDING_MAX {
                count.pending.push(event.seq);
            }
            return None;
        }
        if !self.is_fresh() || event.seq <= self.state.counts.as_of {
            return None;
        }
        if is_change {
            // Its count has failed.
            self.is_known = false;
            return None;
        }
        if !is_counted {
            return None;
        }
        self.state.add(event.seq);
        self.told = Some(self.state.counts);
        self.told
    }

    /// What the frame of this replayed row tells.
    pub fn replayed(&mut self, event: &SharedNotification) -> InboxMarks {
        self.leave_out(event);
        InboxMarks { muted: !event.is_inbox_change() && self.state.mutes(&event.kind), counts: None }
    }

    /// Counts that the client must be told in a frame of their own, because no row tells them.
    pub fn news(&self) -> Option<InboxCounts> {
        let same = |told: &InboxCounts, counts: &InboxCounts| (told.unread, told.unseen) == (counts.unread, counts.unseen);
        if self.carrier.is_some() {
            return None;
        }
        self.counts().filter(|counts| self.told.as_ref().is_none_or(|told| !same(told, counts)))
    }

    /// Takes [`InboxCounter::news`].
    pub fn take_news(&mut self) -> Option<InboxCounts> {
        let news = self.news()?;
        self.told = Some(news);
        Some(news)
    }
}
