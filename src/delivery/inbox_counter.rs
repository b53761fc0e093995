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

/// Most counts at once of those that no row of the user asked for. An erasure asks for one on each connection, and they
/// must leave connections of the pool to others.
pub const UNASKED_COUNTS: usize = 4;

/// The counts of one connection.
pub(super) struct InboxCounter {
    reader: Reader,
    who: Principal,
    /// The last counts, and whether they can be built on.
    state: InboxState,
    is_known: bool,
    /// What the client was told last.
    told: Option<InboxCounts>,
    /// The change that the last count was made for: its frame tells it.
    carrier: Option<Seq>,
    recounts: watch::Receiver<RecountMark>,
    turns: Arc<Semaphore>,
    counting: Option<BoxFuture<'static, Result<InboxState, StoreError>>>,
    backoff: Backoff,
    retry: Option<Pin<Box<Sleep>>>,
}

impl InboxCounter {
    pub fn new(reader: Reader, who: Principal, state: InboxState, recounts: watch::Receiver<RecountMark>, turns: Arc<Semaphore>) -> Self {
        let backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(10));
        let (told, carrier) = (None, None);
        Self { reader, who, state, is_known: true, told, carrier, recounts, turns, counting: None, backoff, retry: None }
    }

    /// The counts, where they are known.
    fn counts(&self) -> Option<InboxCounts> {
        self.is_fresh().then_some(self.state.counts)
    }

    fn is_fresh(&self) -> bool {
        self.is_known && !self.recounts.borrow().concerns(&self.state)
    }

    /// The counts for a frame that follows no row, at least as new as `seq`.
    pub fn tell(&mut self, seq: Seq) -> Option<InboxCounts> {
        self.told = self.counts().filter(|counts| counts.as_of >= seq).or(self.told);
        self.told.filter(|counts| counts.as_of >= seq)
    }

    /// Rows were left out of the send queue.
    pub fn lose(&mut self) {
        self.is_known = false;
    }

    /// Whether a count is needed before the next step: `upto` is the number that the counts must have reached.
    pub fn needs_count(&self, upto: Option<Seq>) -> bool {
        self.retry.is_none() && (!self.is_fresh() || upto.is_some_and(|upto| self.state.counts.as_of < upto))
    }

    /// Whether this row must be counted before it is delivered.
    pub fn waits_for(&self, event: &SharedNotification) -> bool {
        event.is_inbox_change() && self.needs_count(Some(event.seq))
    }

    /// Counts. Safe to drop and call again. `carrier`: the change that it is for, whose frame tells the counts.
    pub async fn count(&mut self, carrier: Option<Seq>) {
        let counting = self.counting.get_or_insert_with(|| {
            let (reader, who, turns) = (self.reader.clone(), self.who.clone(), carrier.is_none().then(|| Arc::clone(&self.turns)));
            async move {
                // The semaphore is never closed.
                let _turn = match &turns {
                    Some(turns) => turns.acquire().await.ok(),
                    None => None,
                };
                inbox::counts(&reader, &who).await
            }
            .boxed()
        });
        let counted = counting.await;
        self.counting = None;
        match counted {
            Ok(state) => {
                self.backoff.succeeded();
                (self.state, self.is_known, self.carrier) = (state, true, carrier);
            }
            Err(error) => {
                tracing::debug!(%error, user = %self.who.user, "could not count an inbox; retrying");
                self.is_known = false;
                self.retry = Some(Box::pin(tokio::time::sleep(self.backoff.failed())));
            }
        }
    }

    /// Returns when a count may be needed: another try is due, or items are gone.
    pub async fn changed(&mut self) {
        match &mut self.retry {
            Some(retry) => {
                retry.await;
                self.retry = None;
            }
            None => {
                // The registry outlives its connections.
                let _ = self.recounts.changed().await;
            }
        }
    }

    /// What the frame of this live row tells.
    pub fn live(&mut self, event: &SharedNotification) -> InboxMarks {
        let is_change = event.is_inbox_change();
        let muted = !is_change && self.state.mutes(&event.kind);
        if self.carrier.take_if(|carrier| *carrier <= event.seq).is_some() && is_change {
            self.told = self.counts().or(self.told);
            return InboxMarks { muted, counts: self.counts() };
        }
        if !self.is_fresh() || event.seq <= self.state.counts.as_of {
            return InboxMarks { muted, counts: None };
        }
        if is_change {
            // Its count has failed.
            self.is_known = false;
            return InboxMarks { muted, counts: None };
        }
        if !event.is_item || muted {
            return InboxMarks { muted, counts: None };
        }
        self.state.add(event.seq);
        self.told = Some(self.state.counts);
        InboxMarks { muted, counts: self.told }
    }

    /// What the frame of this replayed row tells.
    pub fn replayed(&self, event: &SharedNotification) -> InboxMarks {
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
