//! How far one connection was sent and has acknowledged, and since when.

use std::time::Instant;

use crate::domain::{LogId, Seq};

/// A number, and the moment at which it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    pub seq: Seq,
    pub at: Instant,
}

/// What moved since it was last asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct News {
    /// The history that the numbers belong to.
    pub log_id: LogId,
    pub sent: Option<Mark>,
    pub acked: Option<Mark>,
}

/// The places of a connection. Times are kept with the numbers, so that a fact that is written down later still says when.
#[derive(Debug, Default)]
pub struct Reached {
    /// Empty until the stream begins; nothing moves before.
    log_id: Option<LogId>,
    from: Seq,
    sent: Place,
    acked: Place,
}

/// A number that only rises; `at` is empty until it was moved or confirmed.
#[derive(Debug, Default)]
struct Place {
    seq: Seq,
    at: Option<Instant>,
    noted: bool,
}

impl Place {
    fn begin(seq: Seq) -> Self {
        Self { seq, at: None, noted: false }
    }

    fn move_to(&mut self, seq: Seq) {
        *self = Self { seq, at: Some(Instant::now()), noted: false };
    }

    fn take(&mut self) -> Option<Mark> {
        let at = self.at.filter(|_| !self.noted)?;
        self.noted = true;
        Some(Mark { seq: self.seq, at })
    }
}

impl Reached {
    /// A stream that begins after `from`, of a device that has confirmed everything up to `acked`: less, where it lost something.
    pub fn begin(log_id: LogId, from: Seq, acked: Seq) -> Self {
        Self { log_id: Some(log_id), from, sent: Place::begin(from), acked: Place::begin(acked) }
    }

    pub fn from(&self) -> Seq {
        self.from
    }

    pub fn sent(&self) -> Seq {
        self.sent.seq
    }

    pub fn acked(&self) -> Seq {
        self.acked.seq
    }

    pub fn send(&mut self, seq: Seq) {
        if seq > self.sent.seq {
            self.sent.move_to(seq);
        }
    }

    /// Whether this says something new: a higher number, or that the place where the stream began is confirmed.
    pub fn ack(&mut self, seq: Seq) -> bool {
        let confirms_start = seq == self.acked.seq && self.acked.at.is_none();
        let is_new = seq > self.acked.seq || confirms_start;
        if is_new {
            self.acked.move_to(seq);
        }
        is_new
    }

    /// The device has acknowledged beside this connection, which says so of its own. Not above what was sent here: of that the connection
    /// knows nothing. No news: the acknowledgement is a fact of the device already.
    pub fn acked_beside(&mut self, seq: Seq) {
        let seq = seq.min(self.sent.seq);
        if seq > self.acked.seq {
            self.acked = Place { seq, at: Some(Instant::now()), noted: true };
        }
    }

    /// What moved since the last call; `None` when nothing did.
    pub fn take_news(&mut self) -> Option<News> {
        let news = News { log_id: self.log_id?, sent: self.sent.take(), acked: self.acked.take() };
        (news.sent.is_some() || news.acked.is_some()).then_some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seqs(news: Option<News>) -> Option<(Option<i64>, Option<i64>)> {
        news.map(|n| (n.sent.map(|m| m.seq.get()), n.acked.map(|m| m.seq.get())))
    }

    #[test]
    fn news_are_told_once_and_only_of_what_moved() {
        let mut reached = Reached::begin(LogId::new(), Seq::from_db(3), Seq::from_db(3));
        assert_eq!(seqs(reached.take_news()), None, "nothing has moved");
        reached.send(Seq::from_db(3));
        assert_eq!(seqs(reached.take_news()), None, "the start was not sent here");
        reached.send(Seq::from_db(5));
        assert_eq!(seqs(reached.take_news()), Some((Some(5), None)));
        assert!(reached.ack(Seq::from_db(4)));
        assert!(!reached.ack(Seq::from_db(4)) && !reached.ack(Seq::from_db(2)));
        assert_eq!(seqs(reached.take_news()), Some((None, Some(4))));
        assert_eq!(seqs(reached.take_news()), None);
    }

    #[test]
    fn the_start_can_be_confirmed_once() {
        let mut reached = Reached::begin(LogId::new(), Seq::from_db(3), Seq::from_db(3));
        assert!(!reached.ack(Seq::from_db(2)));
        assert!(reached.ack(Seq::from_db(3)));
        assert!(!reached.ack(Seq::from_db(3)));
        assert_eq!(seqs(reached.take_news()), Some((None, Some(3))));
    }

    #[test]
    fn what_was_acknowledged_beside_moves_the_place_and_is_no_news() {
        let mut reached = Reached::begin(LogId::new(), Seq::ZERO, Seq::ZERO);
        reached.send(Seq::from_db(5));
        reached.acked_beside(Seq::from_db(9));
        assert_eq!(reached.acked(), Seq::from_db(5), "not above what was sent");
        assert_eq!(seqs(reached.take_news()), Some((Some(5), None)));
        assert!(!reached.ack(Seq::from_db(5)));
    }
}
