//! Decides the next step of one stream, as a pure machine.
//!
//! ```text
//!            page read            nothing missed meanwhile
//!   resuming ────────► resuming ──────────────────────────► live
//!      ▲                   ▲                                  │
//!      │                   └── queue overflowed: new P ◄──────┘
//!    connect
//! ```

use crate::domain::Seq;

/// The next step of the driver.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamStep {
    /// Read the client's rows above `after` up to `upto` from the table, deliver them, then call
    /// [`StreamState::page_given`].
    Read { after: Seq, upto: Seq },
    /// The table's part is delivered: check the send queue and call [`StreamState::joined`] or
    /// [`StreamState::fell_behind`].
    Join,
    /// Deliver rows from the send queue.
    Live,
}

/// One stream of sequence numbers to one client.
#[derive(Debug, Clone)]
pub struct StreamState {
    phase: StreamPhase,
    delivered: Seq,
    replayed: u64,
    caught_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum StreamPhase {
    Resuming { after: Seq, upto: Seq },
    Live,
}

impl StreamState {
    /// A stream that begins after `from`; the send queue holds rows above `upto`.
    pub fn new(from: Seq, upto: Seq) -> Self {
        #[cfg(feature = "mutants")]
        let upto = if crate::mutants::is("live-early") { from } else { upto };
        Self { phase: StreamPhase::Resuming { after: from, upto: upto.max(from) }, delivered: from, replayed: 0, caught_up: false }
    }

    pub fn step(&self) -> StreamStep {
        match self.phase {
            StreamPhase::Resuming { after, upto } if after < upto => StreamStep::Read { after, upto },
            StreamPhase::Resuming { .. } => StreamStep::Join,
            StreamPhase::Live => StreamStep::Live,
        }
    }

    /// The last number that was delivered to the client.
    pub fn delivered(&self) -> Seq {
        self.delivered
    }

    /// Notes that rows up to `seq` were sent past the connection's task, which only happens in live phase.
    pub fn sent_directly(&mut self, seq: Seq) {
        #[cfg(feature = "mutants")]
        if crate::mutants::is("direct-unseen") {
            return;
        }
        self.delivered = self.delivered.max(seq);
    }

    /// Whether a notification delivered now belongs to the first replay.
    pub fn is_replaying(&self) -> bool {
        !self.caught_up
    }

    /// Notes that a notification is delivered, and returns the `prev` of its frame. Returns `None` for a number that is
    /// not above the last one: it must not be delivered.
    pub fn give(&mut self, seq: Seq) -> Option<Seq> {
        if seq <= self.delivered {
            return None;
        }
        if self.is_replaying() {
            self.replayed += 1;
        }
        Some(std::mem::replace(&mut self.delivered, seq))
    }

    /// Notes that all rows of the table up to `through` are delivered.
    pub fn page_given(&mut self, through: Seq) {
        if let StreamPhase::Resuming { after, .. } = &mut self.phase {
            *after = through.max(*after);
        }
    }

    /// Notes that the send queue holds all rows above the table's part. The first time, returns the number up to which
    /// the client has everything and how many rows were replayed.
    pub fn joined(&mut self) -> Option<(Seq, u64)> {
        let StreamPhase::Resuming { upto, .. } = self.phase else { return None };
        self.phase = StreamPhase::Live;
        if std::mem::replace(&mut self.caught_up, true) {
            return None;
        }
        self.delivered = self.delivered.max(upto);
        Some((self.delivered, self.replayed))
    }

    /// Notes that the send queue was dropped and now holds rows above `upto`. The client has all rows up to
    /// `delivered`, or up to the end of the part that was read.
    pub fn fell_behind(&mut self, upto: Seq) {
        let after = match self.phase {
            StreamPhase::Resuming { after, .. } => after.max(self.delivered),
            StreamPhase::Live => self.delivered,
        };
        self.phase = StreamPhase::Resuming { after, upto: upto.max(after) };
    }

    /// The number up to which the table was read, if the client does not know of it: the rows after the last delivered
    /// one were left out. A long replay that leaves out everything would look dead to the client, and would start over
    /// when the connection breaks.
    pub fn passed(&self) -> Option<Seq> {
        match self.phase {
            StreamPhase::Resuming { after, .. } => Some(after).filter(|after| *after > self.delivered),
            StreamPhase::Live => None,
        }
    }

    /// Notes that all rows up to `seq` are delivered. Returns the frame's `prev`, or `None` if a heartbeat would be
    /// wrong.
    pub fn heartbeat(&mut self, seq: Seq) -> Option<Seq> {
        let is_complete = match self.phase {
            StreamPhase::Resuming { after, .. } => seq <= after,
            StreamPhase::Live => true,
        };
        if !is_complete || seq < self.delivered {
            return None;
        }
        Some(std::mem::replace(&mut self.delivered, seq))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    /// A growing log, a send queue that may overflow, and a client: the smallest model in which the join can fail.
    #[derive(Debug)]
    struct World {
        addressed: Vec<bool>,
        send_queue: VecDeque<i64>,
        overflowed: bool,
        capacity: usize,
        connection: StreamState,
        page: Option<(VecDeque<i64>, i64)>,
        got: Vec<(i64, i64)>,
        /// The number that the next `prev` must name.
        told: i64,
    }

    impl World {
        fn append(&mut self, addressed: bool) {
            self.addressed.push(addressed);
            if !addressed || self.overflowed {
                return;
            }
            if self.send_queue.len() == self.capacity {
                self.send_queue.clear();
                self.overflowed = true;
            } else {
                self.send_queue.push_back(self.addressed.len() as i64);
            }
        }

        fn head(&self) -> Seq {
            Seq::from_db(self.addressed.len() as i64)
        }

        fn give(&mut self, seq: i64) {
            if let Some(prev) = self.connection.give(Seq::from_db(seq)) {
                assert_eq!(std::mem::replace(&mut self.told, seq), prev.get());
                self.got.push((seq, prev.get()));
            }
        }

        fn heartbeat(&mut self, seq: Seq) {
            if let Some(prev) = self.connection.heartbeat(seq) {
                assert_eq!(std::mem::replace(&mut self.told, seq.get()), prev.get());
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
                StreamStep::Read { after, upto } => {
                    // A page may hold rows that the client did not ask for, and nothing else.
                    let rows: Vec<i64> = (after.get() + 1..=upto.get()).take(3).collect();
                    let through = if rows.len() == 3 { *rows.last().unwrap() } else { upto.get() };
                    if let Some(passed) = self.connection.passed()
                        && passed.get() % 2 == 0
                    {
                        self.heartbeat(passed);
                    }
                    let taken = rows.into_iter().filter(|s| self.addressed[*s as usize - 1]).collect();
                    self.page = Some((taken, through));
                }
                StreamStep::Join | StreamStep::Live if self.overflowed => {
                    self.overflowed = false;
                    self.send_queue.clear();
                    self.connection.fell_behind(self.head());
                }
                StreamStep::Join => {
                    if let Some((caught_up, _)) = self.connection.joined() {
                        assert!(caught_up.get() >= self.told);
                        self.told = caught_up.get();
                    }
                }
                StreamStep::Live => {
                    if let Some(seq) = self.send_queue.pop_front() {
                        self.give(seq);
                    } else {
                        self.heartbeat(self.head());
                    }
                }
            }
        }
    }

    proptest! {
        /// For any mixture of log growth and client speed, the client gets exactly its rows, once and in order, and
        /// each `prev` names the number that was delivered before.
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
                addressed: before, send_queue: VecDeque::new(), overflowed: false, capacity,
                connection: StreamState::new(Seq::from_db(from), Seq::from_db(head)), page: None, got: Vec::new(), told: from,
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
    fn a_heartbeat_is_named_by_the_next_prev() {
        let mut c = StreamState::new(Seq::ZERO, Seq::ZERO);
        c.joined();
        assert_eq!(c.heartbeat(Seq::from_db(5)), Some(Seq::ZERO));
        assert_eq!((c.delivered(), c.give(Seq::from_db(5))), (Seq::from_db(5), None));
        assert_eq!(c.give(Seq::from_db(6)), Some(Seq::from_db(5)));
        assert_eq!(c.heartbeat(Seq::from_db(8)), Some(Seq::from_db(6)));
    }

    #[test]
    fn a_replay_that_leaves_out_everything_moves_the_client_by_heartbeats() {
        let mut c = StreamState::new(Seq::from_db(3), Seq::from_db(900));
        assert_eq!((c.passed(), c.heartbeat(Seq::from_db(4))), (None, None), "nothing was read yet");
        c.page_given(Seq::from_db(500));
        assert_eq!(c.passed(), Some(Seq::from_db(500)));
        assert_eq!(c.heartbeat(Seq::from_db(501)), None, "that far was not read");
        assert_eq!(c.heartbeat(Seq::from_db(500)), Some(Seq::from_db(3)));
        assert_eq!((c.passed(), c.step()), (None, StreamStep::Read { after: Seq::from_db(500), upto: Seq::from_db(900) }));
        assert_eq!(c.give(Seq::from_db(700)), Some(Seq::from_db(500)));
        c.page_given(Seq::from_db(900));
        assert_eq!(c.joined(), Some((Seq::from_db(900), 1)));
    }

    #[test]
    fn caught_up_is_said_once_and_moves_the_place() {
        let mut c = StreamState::new(Seq::from_db(3), Seq::from_db(9));
        assert_eq!(c.step(), StreamStep::Read { after: Seq::from_db(3), upto: Seq::from_db(9) });
        assert_eq!(c.give(Seq::from_db(5)), Some(Seq::from_db(3)));
        c.page_given(Seq::from_db(9));
        assert_eq!(c.step(), StreamStep::Join);
        assert_eq!(c.joined(), Some((Seq::from_db(9), 1)));
        assert_eq!(c.give(Seq::from_db(10)), Some(Seq::from_db(9)));
        c.fell_behind(Seq::from_db(20));
        assert_eq!(c.step(), StreamStep::Read { after: Seq::from_db(10), upto: Seq::from_db(20) });
        c.page_given(Seq::from_db(20));
        assert_eq!(c.joined(), None);
        assert_eq!(c.give(Seq::from_db(10)), None, "a number is never delivered twice");
    }
}
