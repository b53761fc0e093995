//! Acknowledgements on their way to the database: the highest a device, kept until stored.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::domain::{ClientId, LogId, Seq, UserId};
use crate::store::cursors::Ack;

type Device = (UserId, ClientId);

/// What is not stored yet. Losing it costs a repeat, never a loss: the place in the database is lower, not higher.
#[derive(Debug, Default)]
pub struct AckBook {
    pages: Mutex<Pages>,
    hurry: Notify,
}

#[derive(Debug, Default)]
struct Pages {
    /// Acknowledged and waiting.
    waiting: HashMap<Device, (LogId, Seq)>,
    /// Taken by the clerk, who has not said yet that they are stored.
    leaving: HashMap<Device, (LogId, Seq)>,
}

impl AckBook {
    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a device has everything up to `acked`. A lower number than the noted one changes nothing; another
    /// history replaces the old one's.
    pub fn note(&self, user: &UserId, client: &ClientId, log_id: LogId, acked: Seq) {
        raise(&mut self.pages().waiting, (user.clone(), client.clone()), log_id, acked);
    }

    /// The highest number of this history that this instance knows of and may not have stored yet.
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

    /// Asks the clerk not to wait for its next round: a device has left and may come back elsewhere at once.
    pub fn hurry(&self) {
        self.hurry.notify_one();
    }

    pub(super) async fn hurried(&self) {
        self.hurry.notified().await;
    }

    /// What is to be stored now, sorted. Follow with [`AckBook::stored`] or [`AckBook::not_stored`].
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
            // What came in meanwhile is newer; of another history too.
            if pages.waiting.get(&device).is_none_or(|(log, _)| *log == log_id) {
                raise(&mut pages.waiting, device, log_id, acked);
            }
        }
    }
}

fn raise(page: &mut HashMap<Device, (LogId, Seq)>, device: Device, log_id: LogId, acked: Seq) {
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
        let book = AckBook::default();
        let (user, client, log) = (UserId::parse("u").unwrap(), ClientId::default_device(), LogId::new());
        let pending = |book: &AckBook| book.pending(&user, &client, log).map(Seq::get);
        book.note(&user, &client, log, Seq::from_db(7));
        book.note(&user, &client, log, Seq::from_db(5));
        assert_eq!(pending(&book), Some(7));
        assert_eq!(book.take().len(), 1);
        assert_eq!(pending(&book), Some(7), "taken is not stored");
        book.note(&user, &client, log, Seq::from_db(6));
        book.not_stored();
        assert_eq!(pending(&book), Some(7));
        book.take();
        book.stored();
        assert_eq!(pending(&book), None);
        book.note(&user, &client, LogId::new(), Seq::from_db(1));
        assert_eq!(pending(&book), None, "the place of another history is not ours");
    }
}
