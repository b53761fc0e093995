//! Stores a new connection, and compares it with the other connections of its device.

use std::sync::Arc;
use std::time::Duration;

use super::{ConnectError, ConnectRequest, ResumeFrom};
use crate::backoff::Backoff;
use crate::delivery::connection_entries::Entry;
use crate::delivery::registry::{Connection, Position};
use crate::delivery::shared_handles::Delivery;
use crate::domain::resume::{self, KeptPosition, SettledConnection};
use crate::domain::{LogId, MemberInterval, Seq};
use crate::store::acked_positions::{Ack, DevicePosition, KnownDevice};
use crate::store::resume::{ConnectionBegin, KeptConnection, StoredBegin};
use crate::store::sessions::SessionFact;
use crate::store::{self, StoreError, acked_positions};

/// How often reading a device's position is tried. After a database restart every idle connection of the pool is
/// broken, which shows only when it is used. A client that connects at that time should not have to retry for this.
const PLACE_TRIES: u32 = 6;

/// Result of comparing a new connection with the other connections of its device.
#[derive(Debug, Default)]
pub(super) struct Siblings {
    /// Where the connection starts; `None` means at the device's position.
    pub from: Option<Seq>,
    pub is_shared: bool,
    pub settled: Vec<SettledConnection>,
}

/// A stored connection.
pub(super) struct Begun {
    pub known: KnownDevice,
    pub siblings: Siblings,
    /// `None` if they were not read.
    pub intervals: Option<Vec<MemberInterval>>,
}

/// Adds an end that is not stored yet. `None`: the stream never began.
fn with_end(mut kept: KeptPosition, fact: &SessionFact) -> Option<KeptPosition> {
    if !fact.is_kept {
        return None;
    }
    if let Some((at, why)) = fact.end {
        let end = store::resume::end_of(why, micros(fact.last_activity.elapsed()), micros(at.elapsed()));
        (kept.seen, kept.over, kept.left) = (end.seen, Some(end.over), Some(end.left));
        kept.report(fact.from, fact.own_acked);
    }
    Some(kept)
}

fn micros(time: Duration) -> i64 {
    i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
}

impl Delivery {
    /// Stores the connection. Returns what the database and this instance know of its device, where the connection
    /// starts in relation to the device's other connections, and the user's membership intervals if they were read
    /// with it.
    pub(super) async fn begin(&self, request: &ConnectRequest, connection: &Connection, at: Position) -> Result<Begun, ConnectError> {
        // The first position of a new device: the start of its stream.
        let first = match request.since {
            ResumeFrom::Earliest => at.floor,
            ResumeFrom::Seq(seq) => seq.min(at.dispatched),
            ResumeFrom::Ack | ResumeFrom::Live | ResumeFrom::Time(_) => at.dispatched,
        };
        let start = DevicePosition { log_id: at.log_id, acked: first };
        self.store_pending_ack(request, at.log_id).await?;
        let StoredBegin { known, kept: listed, intervals } = self.enter(request, connection, start, at.dispatched).await?;
        let pending = self.acks.pending(&request.who.user, &request.client, at.log_id);
        let known = match (known, pending) {
            (KnownDevice::At(place), Some(pending)) if place.log_id == at.log_id => {
                KnownDevice::At(DevicePosition { acked: place.acked.max(pending), ..place })
            }
            (KnownDevice::At(_) | KnownDevice::Forgotten(_), Some(acked)) => KnownDevice::At(DevicePosition { log_id: at.log_id, acked }),
            (known, _) => known,
        };
        let alone = |intervals| Ok(Begun { known, siblings: Siblings::default(), intervals });
        let KnownDevice::At(place) = known else { return alone(intervals) };
        if place.log_id != at.log_id {
            return alone(intervals);
        }
        let here = self.registry.of_device(&request.who.user, &request.client);
        let kept = listed.into_iter().filter_map(|listed| self.with_unstored_facts(listed, &here)).collect();
        let decision = resume::decide(connection.session, place.acked, kept, micros(self.resume_window));
        #[cfg(feature = "mutants")]
        if crate::mutants::is("resume-shared") {
            return alone(intervals);
        }
        let siblings = Siblings { from: Some(decision.from), is_shared: decision.is_shared, settled: decision.settled };
        Ok(Begun { known, siblings, intervals })
    }

    /// Adds what this instance knows of a connection and has not stored yet. `None`: the connection ended before its
    /// stream began, so no client has its position.
    fn with_unstored_facts(&self, listed: KeptConnection, here: &[Arc<Connection>]) -> Option<KeptPosition> {
        let KeptConnection { mut kept, instance } = listed;
        if instance != self.instance || kept.is_final {
            return Some(kept);
        }
        if let Some(connection) = here.iter().find(|connection| connection.session == kept.session) {
            (kept.over, kept.left) = (None, None);
            kept.seen = kept.seen.min(micros(connection.connected.elapsed().saturating_sub(connection.last_activity())));
            if connection.has_begun() {
                kept.report(connection.from(), connection.own_acked());
            }
        } else if let Some(fact) = self.sessions.ended_fact(kept.session) {
            return with_end(kept, &fact);
        }
        Some(kept)
    }

    /// Pings the other connections of the device on this instance. If one of them ends silently later, its pong proves
    /// that it was alive when this connection began.
    pub(super) fn ask_siblings(&self, connection: &Connection) {
        for sibling in self.registry.of_device(&connection.who.user, &connection.client) {
            if sibling.session != connection.session {
                sibling.send_queue.probe();
            }
        }
    }

    /// Stores what the device acknowledged here and the ack flusher has not stored yet. The stored row of the new
    /// connection says what its device had acknowledged before it. An acknowledgement of an ended connection that came
    /// to the device's position afterwards would count as one of the new connection.
    async fn store_pending_ack(&self, request: &ConnectRequest, log_id: LogId) -> Result<(), StoreError> {
        let Some(acked) = self.acks.pending(&request.who.user, &request.client, log_id) else { return Ok(()) };
        let ack = Ack { user: request.who.user.clone(), client: request.client.clone(), acked };
        acked_positions::store_one(&self.reader, log_id, &ack, self.registry.most_devices()).await?;
        Ok(())
    }

    /// Stores the connection with others that connect now, or by itself. Retrying is safe: if a try stored a first
    /// position and its answer was lost, the next try finds that position.
    async fn enter(
        &self,
        request: &ConnectRequest,
        connection: &Connection,
        start: DevicePosition,
        after: Seq,
    ) -> Result<StoredBegin, StoreError> {
        let new = ConnectionBegin {
            session: connection.session,
            instance: self.instance,
            who: request.who.clone(),
            client: request.client.clone(),
            transport: request.transport,
            follows_members: connection.follows_members(),
            start,
        };
        if let Some(entries) = &self.entries
            && let Entry::Stored(stored) = entries.store(&new, after).await
        {
            return Ok(stored);
        }
        let stored = self.enter_alone(&new).await?;
        if matches!(stored.known, KnownDevice::New(_))
            && let Err(error) = acked_positions::trim_one(&self.reader, &request.who.user, self.registry.most_devices()).await
        {
            // The trim for the user's next new device removes it.
            tracing::debug!(%error, "could not trim the user's oldest device");
        }
        Ok(stored)
    }

    async fn enter_alone(&self, new: &ConnectionBegin) -> Result<StoredBegin, StoreError> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(500));
        for _ in 1..PLACE_TRIES {
            match store::resume::begin(&self.reader, new).await {
                Err(StoreError::Unavailable(error)) => {
                    tracing::debug!(%error, "could not read the device's position; retrying");
                    tokio::time::sleep(backoff.failed()).await;
                }
                outcome => return outcome,
            }
        }
        store::resume::begin(&self.reader, new).await
    }
}

#[cfg(test)]
mod tests;
