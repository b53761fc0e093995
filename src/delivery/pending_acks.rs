//! Collects the highest acknowledgement of each device until it is stored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::{ClientId, LogId, Seq, UserId};
use crate::store::acked_positions::Ack;

type AckDevice = (UserId, ClientId);

/// The acknowledgements that are not stored yet. Losing them repeats rows but never loses one: the stored position is
/// lower, never higher.
#[derive(Debug, Default)]
pub struct PendingAcks {
    pages: Mutex<AckPages>,
    added: Notify,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct AckPages {
    /// Acknowledged, and not taken by the ack flusher yet.
    waiting: HashMap<AckDevice, (LogId, Seq)>,
    /// Taken by the ack flusher, which has not confirmed yet that they are stored.
    leaving: HashMap<AckDevice, (LogId, Seq)>,
}

impl PendingAcks {
    fn pages(&self) -> MutexGuard<'_, AckPages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a device has everything up to `acked`. A lower number than the noted one changes nothing; a number of
    /// another log replaces the old one.
    pub fn note(&self, user: &UserId, client: &ClientId, log_id: LogId, acked: Seq) {
        raise(&mut self.pages().waiting, (user.clone(), client.clone()), log_id, acked);
        self.added.notify_one();
    }

    /// Returns when an acknowledgement was noted since the last return.
    pub(super) async fn added(&self) {
        self.added.notified().await;
    }

    /// The highest number in this log that this instance knows of and may not have stored yet.
    pub fn pending(&self, user: &UserId, client: &ClientId, log_id: LogId) -> Option<Seq> {
        let device = (user.clone(), client.clone());
        let pages = self.pages();
        [&pages.waiting, &pages.leaving]
            .into_iter()
            .filter_map(|page| page.get(&device))
            .filter(|(log, _)| *log == log_id)
            .map(|(_, seq)| *seq)
            .max()
    }

    /// Wakes the ack flusher before its next round: a device has disconnected and may reconnect to another instance at
    /// once.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    pub(super) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// Takes what is to be stored now, sorted. Call [`PendingAcks::stored`] or [`PendingAcks::not_stored`] afterwards.
    pub(super) fn take(&self) -> Vec<(LogId, Ack)> {
        let mut pages = self.pages();
        pages.leaving = std::mem::take(&mut pages.waiting);
        let mut acks: Vec<_> = pages
            .leaving
            .iter()
            .map(|((user, client), (log, acked))| (*log, Ack { user: user.clone(), client: client.clone(), acked: *acked }))
            .collect();
        acks.sort_unstable_by(|(_, a), (_, b)| a.cmp(b));
        acks
    }

    pub(super) fn stored(&self) {
        self.pages().leaving = HashMap::new();
    }

    pub(super) fn not_stored(&self) {
        let mut pages = self.pages();
        for (device, (log_id, acked)) in std::mem::take(&mut pages.leaving) {
            // An acknowledgement that came in meanwhile is newer, also if it belongs to another log.
            if pages.waiting.get(&device).is_none_or(|(log, _)| *log == log_id) {
                raise(&mut pages.waiting, device, log_id, acked);
            }
        }
    }
}

fn raise(page: &mut HashMap<AckDevice, (LogId, Seq)>, device: AckDevice, log_id: LogId, acked: Seq) {
    match page.entry(device) {
        Entry::Vacant(entry) => {
            entry.insert((log_id, acked));
        }
        Entry::Occupied(mut entry) => {
            let (log, seq) = *entry.get();
            if log != log_id || seq < acked {
                entry.insert((log_id, acked));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_never_goes_back_and_survives_a_failed_flush() {
        let pending = PendingAcks::default();
        let (user, client, log) = (UserId::parse("u").unwrap(), ClientId::default_device(), LogId::new());
        let acked = |pending: &PendingAcks| pending.pending(&user, &client, log).map(Seq::get);
        pending.note(&user, &client, log, Seq::from_db(7));
        pending.note(&user, &client, log, Seq::from_db(5));
        assert_eq!(acked(&pending), Some(7));
        assert_eq!(pending.take().len(), 1);
        assert_eq!(acked(&pending), Some(7), "taken is not stored");
        pending.note(&user, &client, log, Seq::from_db(6));
        pending.not_stored();
        assert_eq!(acked(&pending), Some(7));
        pending.take();
        pending.stored();
        assert_eq!(acked(&pending), None);
        pending.note(&user, &client, LogId::new(), Seq::from_db(1));
        assert_eq!(acked(&pending), None, "the place of another history is not ours");
    }
}
