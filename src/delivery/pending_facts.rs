//! Collects delivery facts: when rows were sent to each connection and acknowledged by each device.
//!
//! The times stay with the connections until the ack flusher collects them, at most once an interval. A position that
//! moves often costs one fact an interval, and one that does not move costs nothing. While the database is unreachable
//! nothing is collected, so that only the ends of connections wait, and their number is bounded.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::positions::{PositionChange, TimedPosition};
use super::registry::Connection;
use crate::domain::{ClientId, LogId, Seq, UserId};
use crate::store::delivery_facts::{DeliveryFact, FactPosition};

/// Most facts that wait. Above it, connections keep their own facts, and only those of ended connections are lost. No
/// delivery is.
const MOST_WAITING: usize = 50_000;

type FactDevice = (UserId, ClientId);

/// The facts that are not stored yet.
#[derive(Debug)]
pub struct PendingFacts {
    /// Time between two facts of one connection; `None` turns facts off.
    every: Option<Duration>,
    pages: Mutex<FactPages>,
}

#[derive(Debug)]
struct FactPages {
    waiting: VecDeque<DeliveryFact>,
    /// Acknowledgements made over REST, the highest of each device.
    beside: HashMap<FactDevice, (LogId, TimedPosition)>,
    collected: Instant,
    lost: u64,
}

impl PendingFacts {
    pub fn new(every: Option<Duration>) -> Self {
        let pages = FactPages { waiting: VecDeque::new(), beside: HashMap::new(), collected: Instant::now(), lost: 0 };
        Self { every, pages: Mutex::new(pages) }
    }

    fn pages(&self) -> MutexGuard<'_, FactPages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the last facts of a connection that has ended, regardless of the interval.
    pub fn ended(&self, connection: &Connection) {
        if self.every.is_none() {
            return;
        }
        let Some(news) = connection.take_news() else { return };
        let mut pages = self.pages();
        if pages.waiting.len() < MOST_WAITING {
            pages.waiting.push_back(fact(connection, news));
        } else {
            pages.lost += 1;
        }
    }

    /// Notes an acknowledgement made over REST.
    pub fn acked_beside(&self, user: &UserId, client: &ClientId, log_id: LogId, acked: Seq) {
        if self.every.is_none() {
            return;
        }
        let mut pages = self.pages();
        let (full, now) = (pages.beside.len() >= MOST_WAITING, (log_id, TimedPosition { seq: acked, at: Instant::now() }));
        match pages.beside.entry((user.clone(), client.clone())) {
            Entry::Occupied(mut known) if known.get().0 != log_id || known.get().1.seq < acked => {
                known.insert(now);
            }
            Entry::Vacant(free) if !full => {
                free.insert(now);
            }
            Entry::Occupied(_) => {}
            Entry::Vacant(_) => pages.lost += 1,
        }
    }

    /// Whether the interval is over and all facts collected before are stored.
    pub(super) fn is_due(&self) -> bool {
        let pages = self.pages();
        self.every.is_some_and(|every| pages.waiting.is_empty() && pages.collected.elapsed() >= every)
    }

    /// Whether collected facts are not stored yet.
    pub(super) fn has_waiting(&self) -> bool {
        !self.pages().waiting.is_empty()
    }

    /// Adds the positions that moved since the last call.
    pub(super) fn collect<'a>(&self, connections: impl Iterator<Item = &'a Connection>) {
        if self.every.is_none() {
            return;
        }
        let mut pages = self.pages();
        pages.collected = Instant::now();
        let beside = std::mem::take(&mut pages.beside);
        pages.waiting.extend(beside.into_iter().map(|((user, client), (log_id, timed))| DeliveryFact {
            session: None,
            user,
            client,
            log_id,
            sent: None,
            acked: Some(position(timed)),
        }));
        for connection in connections {
            if pages.waiting.len() >= MOST_WAITING {
                break;
            }
            if let Some(news) = connection.take_news() {
                pages.waiting.push_back(fact(connection, news));
            }
        }
    }

    /// Takes the oldest waiting facts, at most `most`.
    pub(super) fn take(&self, most: usize) -> Vec<DeliveryFact> {
        let mut pages = self.pages();
        if pages.lost > 0 {
            let lost = std::mem::take(&mut pages.lost);
            tracing::warn!(lost, "delivery facts lost: too many were waiting for the database");
        }
        let count = pages.waiting.len().min(most);
        pages.waiting.drain(..count).collect()
    }

    /// Puts back facts that could not be stored.
    pub(super) fn not_stored(&self, facts: Vec<DeliveryFact>) {
        let mut pages = self.pages();
        for fact in facts.into_iter().rev() {
            pages.waiting.push_front(fact);
        }
    }
}

fn fact(connection: &Connection, news: PositionChange) -> DeliveryFact {
    DeliveryFact {
        session: Some(connection.session),
        user: connection.who.user.clone(),
        client: connection.client.clone(),
        log_id: news.log_id,
        sent: news.delivered.map(position),
        acked: news.acked.map(position),
    }
}

fn position(timed: TimedPosition) -> FactPosition {
    FactPosition { seq: timed.seq, at: timed.at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Principal;

    fn connection(name: &str) -> Connection {
        let who = Principal { user: UserId::parse(name).unwrap(), accounts: vec![] };
        let connection = Connection::new(who, ClientId::default_device(), "test");
        connection.begin(LogId::new(), Seq::ZERO, Seq::ZERO);
        connection
    }

    #[test]
    fn a_connection_costs_one_fact_an_interval_and_its_end_is_always_told() {
        let (pending, ann) = (PendingFacts::new(Some(Duration::from_secs(3600))), connection("ann"));
        for seq in 1..=5 {
            ann.set_delivered(Seq::from_db(seq));
        }
        pending.collect([&ann].into_iter());
        ann.set_delivered(Seq::from_db(6));
        assert!(!pending.is_due(), "the hour is not over");
        pending.ended(&ann);
        let facts = pending.take(10);
        let sent: Vec<_> = facts.iter().map(|f| f.sent.unwrap().seq.get()).collect();
        assert_eq!(sent, [5, 6]);
    }

    #[test]
    fn what_could_not_be_stored_comes_first_again_and_nothing_is_collected_meanwhile() {
        let (pending, ann) = (PendingFacts::new(Some(Duration::ZERO)), connection("ann"));
        ann.set_delivered(Seq::from_db(1));
        pending.collect([&ann].into_iter());
        let taken = pending.take(10);
        pending.not_stored(taken);
        assert!(!pending.is_due());
        assert_eq!(pending.take(10).len(), 1);
        assert!(pending.is_due());
    }

    #[test]
    fn switched_off_it_keeps_nothing() {
        let (pending, ann) = (PendingFacts::new(None), connection("ann"));
        ann.set_delivered(Seq::from_db(1));
        pending.ended(&ann);
        pending.collect([&ann].into_iter());
        pending.acked_beside(&ann.who.user, &ann.client, LogId::new(), Seq::from_db(1));
        assert!(!pending.is_due() && pending.take(10).is_empty());
    }

    #[test]
    fn what_waits_is_bounded() {
        let pending = PendingFacts::new(Some(Duration::ZERO));
        for n in 0..=MOST_WAITING {
            let gone = connection("ann");
            gone.set_delivered(Seq::from_db(1 + n as i64));
            pending.ended(&gone);
        }
        assert_eq!(pending.take(usize::MAX).len(), MOST_WAITING);
    }
}
