//! Tracks the delivered and acked positions of one connection, and when each was reached.

use std::time::Instant;

use crate::domain::{LogId, Seq};

/// A sequence number and the time at which it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimedPosition {
    pub seq: Seq,
    pub at: Instant,
}

/// The positions that moved since the last call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PositionChange {
    /// The log that the numbers belong to.
    pub log_id: LogId,
    pub delivered: Option<TimedPosition>,
    pub acked: Option<TimedPosition>,
}

/// The positions of a connection. Times are kept with the numbers, so that a fact that is stored later has the right
/// time.
#[derive(Debug, Default)]
pub struct Positions {
    /// `None` until the stream begins; nothing moves before.
    log_id: Option<LogId>,
    from: Seq,
    delivered: RisingPosition,
    acked: RisingPosition,
    /// Acknowledged on this connection.
    own_acked: Seq,
}

/// A number that only rises; `at` is empty until the number was moved or confirmed.
#[derive(Debug, Default)]
struct RisingPosition {
    seq: Seq,
    at: Option<Instant>,
    noted: bool,
}

impl RisingPosition {
    fn begin(seq: Seq) -> Self {
        Self { seq, at: None, noted: false }
    }

    fn move_to(&mut self, seq: Seq) {
        *self = Self { seq, at: Some(Instant::now()), noted: false };
    }

    fn take(&mut self) -> Option<TimedPosition> {
        let at = self.at.filter(|_| !self.noted)?;
        self.noted = true;
        Some(TimedPosition { seq: self.seq, at })
    }
}

impl Positions {
    /// A stream that begins after `from`, of a device that has acknowledged everything up to `acked`, which is lower
    /// than `from` after a gap.
    pub fn begin(log_id: LogId, from: Seq, acked: Seq) -> Self {
        Self { log_id: Some(log_id), from, delivered: RisingPosition::begin(from), acked: RisingPosition::begin(acked), own_acked: acked }
    }

    pub fn from(&self) -> Seq {
        self.from
    }

    pub fn delivered(&self) -> Seq {
        self.delivered.seq
    }

    pub fn acked(&self) -> Seq {
        self.acked.seq
    }

    pub fn has_begun(&self) -> bool {
        self.log_id.is_some()
    }

    pub fn own_acked(&self) -> Seq {
        self.own_acked
    }

    pub fn deliver(&mut self, seq: Seq) {
        if seq > self.delivered.seq {
            self.delivered.move_to(seq);
        }
    }

    /// Returns whether the acknowledgement is new: a higher number, or the first confirmation of the start of the
    /// stream.
    pub fn ack(&mut self, seq: Seq) -> bool {
        self.own_acked = self.own_acked.max(seq);
        let confirms_start = seq == self.acked.seq && self.acked.at.is_none();
        let is_new = seq > self.acked.seq || confirms_start;
        if is_new {
            self.acked.move_to(seq);
        }
        is_new
    }

    /// Applies an acknowledgement made over REST. Capped at the number that was delivered on this connection. It is not
    /// reported again: the REST handler has recorded it already.
    pub fn acked_beside(&mut self, seq: Seq) {
        let seq = seq.min(self.delivered.seq);
        if seq > self.acked.seq {
            self.acked = RisingPosition { seq, at: Some(Instant::now()), noted: true };
        }
    }

    /// Takes what moved since the last call; `None` when nothing did.
    pub fn take_news(&mut self) -> Option<PositionChange> {
        let news = PositionChange { log_id: self.log_id?, delivered: self.delivered.take(), acked: self.acked.take() };
        (news.delivered.is_some() || news.acked.is_some()).then_some(news)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seqs(news: Option<PositionChange>) -> Option<(Option<i64>, Option<i64>)> {
        news.map(|n| (n.delivered.map(|m| m.seq.get()), n.acked.map(|m| m.seq.get())))
    }

    #[test]
    fn news_are_told_once_and_only_of_what_moved() {
        let mut positions = Positions::begin(LogId::new(), Seq::from_db(3), Seq::from_db(3));
        assert_eq!(seqs(positions.take_news()), None, "nothing has moved");
        positions.deliver(Seq::from_db(3));
        assert_eq!(seqs(positions.take_news()), None, "the start was not delivered here");
        positions.deliver(Seq::from_db(5));
        assert_eq!(seqs(positions.take_news()), Some((Some(5), None)));
        assert!(positions.ack(Seq::from_db(4)));
        assert!(!positions.ack(Seq::from_db(4)) && !positions.ack(Seq::from_db(2)));
        assert_eq!(seqs(positions.take_news()), Some((None, Some(4))));
        assert_eq!(seqs(positions.take_news()), None);
    }

    #[test]
    fn the_start_can_be_confirmed_once() {
        let mut positions = Positions::begin(LogId::new(), Seq::from_db(3), Seq::from_db(3));
        assert!(!positions.ack(Seq::from_db(2)));
        assert!(positions.ack(Seq::from_db(3)));
        assert!(!positions.ack(Seq::from_db(3)));
        assert_eq!(seqs(positions.take_news()), Some((None, Some(3))));
    }

    #[test]
    fn what_was_acknowledged_beside_moves_the_place_and_is_no_news() {
        let mut positions = Positions::begin(LogId::new(), Seq::ZERO, Seq::ZERO);
        positions.deliver(Seq::from_db(5));
        positions.acked_beside(Seq::from_db(9));
        assert_eq!(positions.acked(), Seq::from_db(5), "not above what was delivered");
        assert_eq!(seqs(positions.take_news()), Some((Some(5), None)));
        assert!(!positions.ack(Seq::from_db(5)));
    }
}
