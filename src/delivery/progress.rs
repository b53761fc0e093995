//! Delivery facts on their way to the database: when each connection was sent, and each device acknowledged.
//!
//! The moments stay with the connections until the clerk collects them, at most once an interval: what moves often costs one
//! fact an interval, and what does not move costs nothing. While the database is away nothing is collected, so that only
//! the ends of connections wait, and those are bounded.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::reached::{Mark, News};
use super::registry::Member;
use crate::domain::{ClientId, LogId, Seq, UserId};
use crate::store::progress::{Moment, ProgressFact};

/// Most facts that wait. Beyond it connections keep theirs, and only what ended meanwhile is lost: facts, never deliveries.
const MOST_WAITING: usize = 50_000;

type Device = (UserId, ClientId);

/// The facts that are not stored yet.
#[derive(Debug)]
pub struct ProgressBook {
    /// Between two facts of one connection; `None`: no facts.
    every: Option<Duration>,
    pages: Mutex<Pages>,
}

#[derive(Debug)]
struct Pages {
    waiting: VecDeque<ProgressFact>,
    /// Acknowledged beside a connection, the highest of each device.
    beside: HashMap<Device, (LogId, Mark)>,
    collected: Instant,
    lost: u64,
}

impl ProgressBook {
    pub fn new(every: Option<Duration>) -> Self {
        let pages = Pages { waiting: VecDeque::new(), beside: HashMap::new(), collected: Instant::now(), lost: 0 };
        Self { every, pages: Mutex::new(pages) }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection has ended: what it has not told yet is told now, whatever the interval.
    pub fn ended(&self, member: &Member) {
        if self.every.is_none() {
            return;
        }
        let Some(news) = member.take_news() else { return };
        let mut pages = self.pages();
        if pages.waiting.len() < MOST_WAITING {
            pages.waiting.push_back(fact(member, news));
        } else {
            pages.lost += 1;
        }
    }

    /// A device has acknowledged beside a connection.
    pub fn acked_beside(&self, user: &UserId, client: &ClientId, log_id: LogId, acked: Seq) {
        if self.every.is_none() {
            return;
        }
        let mut pages = self.pages();
        let (full, now) = (pages.beside.len() >= MOST_WAITING, (log_id, Mark { seq: acked, at: Instant::now() }));
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

    /// Whether the interval is over and all that was collected before is stored.
    pub(super) fn is_due(&self) -> bool {
        let pages = self.pages();
        self.every.is_some_and(|every| pages.waiting.is_empty() && pages.collected.elapsed() >= every)
    }

    /// Adds what has moved since the last time.
    pub(super) fn collect<'a>(&self, members: impl Iterator<Item = &'a Member>) {
        if self.every.is_none() {
            return;
        }
        let mut pages = self.pages();
        pages.collected = Instant::now();
        let beside = std::mem::take(&mut pages.beside);
        pages.waiting.extend(beside.into_iter().map(|((user, client), (log_id, mark))| ProgressFact {
            session: None,
            user,
            client,
            log_id,
            sent: None,
            acked: Some(moment(mark)),
        }));
        for member in members {
            if pages.waiting.len() >= MOST_WAITING {
                break;
            }
            if let Some(news) = member.take_news() {
                pages.waiting.push_back(fact(member, news));
            }
        }
    }

    /// The oldest facts that wait, at most `most`.
    pub(super) fn take(&self, most: usize) -> Vec<ProgressFact> {
        let mut pages = self.pages();
        if pages.lost > 0 {
            let lost = std::mem::take(&mut pages.lost);
            tracing::warn!(lost, "delivery facts are lost: too many wait for the database");
        }
        let count = pages.waiting.len().min(most);
        pages.waiting.drain(..count).collect()
    }

    /// Puts back what could not be stored.
    pub(super) fn not_stored(&self, facts: Vec<ProgressFact>) {
        let mut pages = self.pages();
        for fact in facts.into_iter().rev() {
            pages.waiting.push_front(fact);
        }
    }
}

fn fact(member: &Member, news: News) -> ProgressFact {
    ProgressFact {
        session: Some(member.session),
        user: member.who.user.clone(),
        client: member.client.clone(),
        log_id: news.log_id,
        sent: news.sent.map(moment),
        acked: news.acked.map(moment),
    }
}

fn moment(mark: Mark) -> Moment {
    Moment { seq: mark.seq, at: mark.at }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::Principal;

    fn member(name: &str) -> Member {
        let who = Principal { user: UserId::parse(name).unwrap(), accounts: vec![] };
        let member = Member::new(who, ClientId::default_device(), "test");
        member.begin(LogId::new(), Seq::ZERO, Seq::ZERO);
        member
    }

    #[test]
    fn a_connection_costs_one_fact_an_interval_and_its_end_is_always_told() {
        let (book, ann) = (ProgressBook::new(Some(Duration::from_secs(3600))), member("ann"));
        for seq in 1..=5 {
            ann.set_sent(Seq::from_db(seq));
        }
        book.collect([&ann].into_iter());
        ann.set_sent(Seq::from_db(6));
        assert!(!book.is_due(), "the hour is not over");
        book.ended(&ann);
        let facts = book.take(10);
        let sent: Vec<_> = facts.iter().map(|f| f.sent.unwrap().seq.get()).collect();
        assert_eq!(sent, [5, 6]);
    }

    #[test]
    fn what_could_not_be_stored_comes_first_again_and_nothing_is_collected_meanwhile() {
        let (book, ann) = (ProgressBook::new(Some(Duration::ZERO)), member("ann"));
        ann.set_sent(Seq::from_db(1));
        book.collect([&ann].into_iter());
        let taken = book.take(10);
        book.not_stored(taken);
        assert!(!book.is_due());
        assert_eq!(book.take(10).len(), 1);
        assert!(book.is_due());
    }

    #[test]
    fn switched_off_it_keeps_nothing() {
        let (book, ann) = (ProgressBook::new(None), member("ann"));
        ann.set_sent(Seq::from_db(1));
        book.ended(&ann);
        book.collect([&ann].into_iter());
        book.acked_beside(&ann.who.user, &ann.client, LogId::new(), Seq::from_db(1));
        assert!(!book.is_due() && book.take(10).is_empty());
    }

    #[test]
    fn what_waits_is_bounded() {
        let book = ProgressBook::new(Some(Duration::ZERO));
        for n in 0..=MOST_WAITING {
            let gone = member("ann");
            gone.set_sent(Seq::from_db(1 + n as i64));
            book.ended(&gone);
        }
        assert_eq!(book.take(usize::MAX).len(), MOST_WAITING);
    }
}
