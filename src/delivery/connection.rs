//! The state of one stream as a pure machine: what to do next, and what each frame may carry.
//!
//! ```text
//!            page read            nothing missed meanwhile
//!   resuming ────────► resuming ──────────────────────────► live
//!      ▲                   ▲                                  │
//!      │                   └── outbox overflowed: new P ◄─────┘
//!    connect
//! ```

use crate::domain::Seq;

/// What the driver has to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Read what concerns the client above `after` and up to `upto` from the table, give it, then call [`Connection::page_given`].
    Read { after: Seq, upto: Seq },
    /// All of the table's part is given: look at the outbox and call [`Connection::joined`] or [`Connection::fell_behind`].
    Join,
    /// Give what comes to the outbox.
    Live,
}

/// One stream of numbers to one client.
#[derive(Debug, Clone)]
pub struct Connection {
    phase: Phase,
    given: Seq,
    /// What the next frame names as `prev`: as `given`, but for what was given without a frame.
    told: Seq,
    replayed: u64,
    caught_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Resuming { after: Seq, upto: Seq },
    Live,
}

impl Connection {
    /// A stream that begins after `from`; the outbox holds what lies above `upto`.
    pub fn new(from: Seq, upto: Seq) -> Self {
        #[cfg(feature = "mutants")]
        let upto = if crate::mutants::is("live-early") { from } else { upto };
        Self { phase: Phase::Resuming { after: from, upto: upto.max(from) }, given: from, told: from, replayed: 0, caught_up: false }
    }

    pub fn step(&self) -> Step {
        match self.phase {
            Phase::Resuming { after, upto } if after < upto => Step::Read { after, upto },
            Phase::Resuming { .. } => Step::Join,
            Phase::Live => Step::Live,
        }
    }

    /// The last number that the client was told.
    pub fn given(&self) -> Seq {
        self.given
    }

    /// Whether a notification given now is one of the first resume.
    pub fn is_replaying(&self) -> bool {
        !self.caught_up
    }

    /// Takes note that a notification is given, and says what its frame's `prev` is.
    /// `None` for a number that is not above the last one: it must not be given.
    pub fn give(&mut self, seq: Seq) -> Option<Seq> {
        if seq <= self.given {
            return None;
        }
        if self.is_replaying() {
            self.replayed += 1;
        }
        self.given = seq;
        Some(std::mem::replace(&mut self.told, seq))
    }

    /// All that the table holds up to `through` has been given.
    pub fn page_given(&mut self, through: Seq) {
        if let Phase::Resuming { after, .. } = &mut self.phase {
            *after = through.max(*after);
        }
    }

    /// The outbox holds everything above the end of the table's part. The first time, the client is told so with the
    /// number up to which it has everything, and how many were replayed.
    pub fn joined(&mut self) -> Option<(Seq, u64)> {
        let Phase::Resuming { upto, .. } = self.phase else { return None };
        self.phase = Phase::Live;
        if std::mem::replace(&mut self.caught_up, true) {
            return None;
        }
        self.given = self.given.max(upto);
        self.told = self.given;
        Some((self.given, self.replayed))
    }

    /// The outbox was dropped; it now holds what lies above `upto`. All up to `given`, or up to the end of the part
    /// that was read, has been given already.
    pub fn fell_behind(&mut self, upto: Seq) {
        let after = match self.phase {
            Phase::Resuming { after, .. } => after.max(self.given),
            Phase::Live => self.given,
        };
        self.phase = Phase::Resuming { after, upto: upto.max(after) };
    }

    /// Everything up to `seq` has been given; returns the frame's `prev`, or `None` when that says nothing new or is not so.
    pub fn heartbeat(&mut self, seq: Seq) -> Option<Seq> {
        if self.phase != Phase::Live || seq < self.given {
            return None;
        }
        self.given = seq;
        Some(std::mem::replace(&mut self.told, seq))
    }

    /// Everything up to `seq` has been given, and the client is not told so in a frame.
    pub fn pass(&mut self, seq: Seq) {
        if self.phase == Phase::Live {
            self.given = self.given.max(seq);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A log that grows, an outbox that may overflow, and a client: the smallest world in which the joint can go wrong.
    #[derive(Debug)]
    struct World {
        addressed: Vec<bool>,
        outbox: VecDeque<i64>,
        overflowed: bool,
        capacity: usize,
        connection: Connection,
        page: Option<(VecDeque<i64>, i64)>,
        got: Vec<(i64, i64)>,
    }

    impl World {
        fn append(&mut self, addressed: bool) {
            self.addressed.push(addressed);
            if !addressed || self.overflowed {
                return;
            }
            if self.outbox.len() == self.capacity {
                self.outbox.clear();
                self.overflowed = true;
            } else {
                self.outbox.push_back(self.addressed.len() as i64);
            }
        }

        fn head(&self) -> Seq {
            Seq::from_db(self.addressed.len() as i64)
        }

        fn give(&mut self, seq: i64) {
            if let Some(prev) = self.connection.give(Seq::from_db(seq)) {
                self.got.push((seq, prev.get()));
            }
        }

        fn advance(&mut self) {
            if let Some((rows, through)) = &mut self.page {
                let through = *through;
                if let Some(seq) = rows.pop_front() {
                    self.give(seq);
                } else {
                    self.page = None;
                    self.connection.page_given(Seq::from_db(through));
                }
                return;
            }
            match self.connection.step() {
                Step::Read { after, upto } => {
                    let all = (after.get() + 1..=upto.get()).filter(|s| self.addressed[*s as usize - 1]);
                    let rows: VecDeque<i64> = all.take(3).collect();
                    let through = if rows.len() == 3 { *rows.back().unwrap() } else { upto.get() };
                    self.page = Some((rows, through));
                }
                Step::Join | Step::Live if self.overflowed => {
                    self.overflowed = false;
                    self.outbox.clear();
                    self.connection.fell_behind(self.head());
                }
                Step::Join => {
                    self.connection.joined();
                }
                Step::Live => {
                    if let Some(seq) = self.outbox.pop_front() {
                        self.give(seq);
                    } else {
                        let head = self.head();
                        if head.get() % 2 == 0 {
                            self.connection.heartbeat(head);
                        } else {
                            self.connection.pass(head);
                        }
                    }
                }
            }
        }
    }

    proptest! {
        /// Whatever the mixture of growth and pace, the client gets exactly what is addressed to it, once and in
        /// order, and each `prev` names what it was told before.
        #[test]
        fn replay_and_live_are_one_stream(
            before in proptest::collection::vec(any::<bool>(), 0..40),
            from in 0usize..40,
            capacity in 1usize..4,
            moves in proptest::collection::vec(proptest::option::weighted(0.6, any::<bool>()), 0..200),
        ) {
            let from = from.min(before.len()) as i64;
            let head = before.len() as i64;
            let mut world = World {
                addressed: before, outbox: VecDeque::new(), overflowed: false, capacity,
                connection: Connection::new(Seq::from_db(from), Seq::from_db(head)), page: None, got: Vec::new(),
            };
            for step in moves {
                match step {
                    Some(addressed) => world.append(addressed),
                    None => world.advance(),
                }
            }
            for _ in 0..1000 {
                world.advance();
            }
            let expected: Vec<i64> = (from + 1..=world.addressed.len() as i64).filter(|s| world.addressed[*s as usize - 1]).collect();
            let got: Vec<i64> = world.got.iter().map(|(seq, _)| *seq).collect();
            prop_assert_eq!(got, expected);
            let mut last = from;
            for (seq, prev) in world.got {
                prop_assert!(prev >= last && prev < seq, "seq {} has prev {} after {}", seq, prev, last);
                last = seq;
            }
        }
    }

    #[test]
    fn what_was_given_in_silence_is_named_by_no_prev() {
        let mut c = Connection::new(Seq::ZERO, Seq::ZERO);
        c.joined();
        c.pass(Seq::from_db(5));
        assert_eq!((c.given(), c.give(Seq::from_db(5))), (Seq::from_db(5), None));
        assert_eq!(c.give(Seq::from_db(6)), Some(Seq::ZERO));
        assert_eq!(c.heartbeat(Seq::from_db(8)), Some(Seq::from_db(6)));
    }

    #[test]
    fn caught_up_is_said_once_and_moves_the_place() {
        let mut c = Connection::new(Seq::from_db(3), Seq::from_db(9));
        assert_eq!(c.step(), Step::Read { after: Seq::from_db(3), upto: Seq::from_db(9) });
        assert_eq!(c.give(Seq::from_db(5)), Some(Seq::from_db(3)));
        c.page_given(Seq::from_db(9));
        assert_eq!(c.step(), Step::Join);
        assert_eq!(c.joined(), Some((Seq::from_db(9), 1)));
        assert_eq!(c.give(Seq::from_db(10)), Some(Seq::from_db(9)));
        c.fell_behind(Seq::from_db(20));
        assert_eq!(c.step(), Step::Read { after: Seq::from_db(10), upto: Seq::from_db(20) });
        c.page_given(Seq::from_db(20));
        assert_eq!(c.joined(), None);
        assert_eq!(c.give(Seq::from_db(10)), None, "a number is never given twice");
    }
}
