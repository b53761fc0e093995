//! Alternates the commits of busy instances.
//!
//! One lock orders all commits, whichever instance makes them. A batch that waits for the lock is closed, and later
//! requests go to the next batch. Without turns, each of two busy instances would have one batch at the lock and one in
//! the making: twice as many commits as one instance makes of the same posts, each half as big. So an instance that has
//! just committed, and saw from the sequence numbers that another one commits as well, does not queue for the lock at
//! once. It gathers until the other's commit is announced.
//!
//! Correctness does not depend on turns: the lock decides order and numbers. A missing announcement costs one short
//! wait.

use std::ops::RangeInclusive;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::domain::{InstanceId, Seq};
use crate::store::listener::OtherInstances;

/// An instance whose commits hold less than this is not busy: it gathers too little to be worth a wait.
const BUSY: usize = 4;
/// The wait, in durations of our last commit: the other's commit takes about as long, and is announced a moment later.
const WAIT_OF_COMMITS: u32 = 2;
/// Longest wait for the other instance, however long commits take.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// Decides when this instance commits next.
#[derive(Debug)]
pub struct CommitTurn {
    others: watch::Receiver<Seq>,
    /// The last number of our last commit.
    last: Seq,
    /// Another instance goes first until this time.
    until: Option<Instant>,
    wait_max: Duration,
}

impl CommitTurn {
    pub fn of(instance: InstanceId) -> (OtherInstances, Self) {
        let (heard, others) = OtherInstances::of(instance);
        (heard, Self { others, last: Seq::ZERO, until: None, wait_max: WAIT_MAX })
    }

    /// Records a commit of our own: its numbers, its number of requests, and its duration.
    pub fn committed(&mut self, numbers: RangeInclusive<Seq>, requests: usize, took: Duration) {
        let (first, last) = numbers.into_inner();
        let between = first.get() - self.last.get() - 1;
        let is_anothers = self.last != Seq::ZERO && (self.last..first).contains(&self.others.borrow());
        let others_between = is_anothers && usize::try_from(between).is_ok_and(|rows| rows >= BUSY);
        self.until = (others_between && requests >= BUSY).then(|| Instant::now() + (took * WAIT_OF_COMMITS).min(self.wait_max));
        self.last = last;
    }

    /// Returns when it is our turn: at once, unless another instance is busy as well.
    pub async fn wait(&mut self) {
        let Some(until) = self.until.take() else { return };
        let last = self.last;
        // It is our turn too when the time is over or the listener has ended.
        let _ = timeout_at(until, self.others.wait_for(|head| *head > last)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt, poll};

    use super::*;
    use crate::domain::CommitOrigin;

    const TOOK: Duration = Duration::from_millis(2);

    fn another() -> CommitOrigin {
        CommitOrigin::Appender(InstanceId::new())
    }

    fn seqs(first: i64, last: i64) -> RangeInclusive<Seq> {
        Seq::from_db(first)..=Seq::from_db(last)
    }

    /// Whether the turn comes without a wait.
    fn at_once(turn: &mut CommitTurn) -> bool {
        turn.wait().now_or_never().is_some()
    }

    #[tokio::test]
    async fn who_appends_alone_never_waits() {
        let (_others, mut turn) = CommitTurn::of(InstanceId::new());
        assert!(at_once(&mut turn));
        turn.committed(seqs(5, 9), 5, TOOK);
        assert!(at_once(&mut turn), "what was before the first commit says nothing");
        turn.committed(seqs(10, 19), 10, TOOK);
        assert!(at_once(&mut turn));
    }

    /// Makes two commits, each after a commit of another instance, without a wait in between.
    fn is_met(others: &OtherInstances, turn: &mut CommitTurn, took: Duration) {
        turn.committed(seqs(1, 9), 9, TOOK);
        others.committed(Seq::from_db(19), another());
        turn.committed(seqs(20, 29), 10, took);
        others.committed(Seq::from_db(39), another());
        turn.committed(seqs(40, 49), 10, took);
    }

    #[tokio::test]
    async fn one_of_two_busy_instances_waits_for_the_others_commit_and_no_other() {
        let own = InstanceId::new();
        let (others, mut turn) = CommitTurn::of(own);
        turn.wait_max = Duration::from_secs(60);
        is_met(&others, &mut turn, Duration::from_secs(30));
        {
            let mut wait = pin!(turn.wait());
            assert!(poll!(&mut wait).is_pending());
            others.committed(Seq::from_db(50), CommitOrigin::Appender(own));
            others.committed(Seq::from_db(45), another());
            assert!(poll!(&mut wait).is_pending(), "neither our own nor one that was before");
            others.committed(Seq::from_db(59), another());
            assert!(poll!(&mut wait).is_ready());
        }
        assert!(at_once(&mut turn), "it goes first once");
        turn.committed(seqs(60, 69), 10, TOOK);
        others.committed(Seq::from_db(75), another());
        assert!(at_once(&mut turn), "it was told before");
        turn.committed(seqs(76, 77), 2, Duration::from_secs(30));
        assert!(at_once(&mut turn), "hardly anybody asks for anything");
        others.committed(Seq::from_db(85), another());
        turn.committed(seqs(86, 95), 10, Duration::from_secs(30));
        drop(others);
        assert!(at_once(&mut turn), "nobody listens any more");
    }

    #[tokio::test]
    async fn commits_of_who_takes_no_turns_are_no_reason_to_wait() {
        let own = InstanceId::new();
        let (others, mut turn) = CommitTurn::of(own);
        turn.committed(seqs(301, 400), 40, TOOK);
        for at in 5..9 {
            for origin in [CommitOrigin::Appender(own), CommitOrigin::Providers(own), CommitOrigin::OutboxRelay(InstanceId::new())] {
                others.committed(Seq::from_db(at * 100), origin);
            }
            turn.committed(seqs(at * 100 + 1, at * 100 + 50), 40, TOOK);
            assert!(at_once(&mut turn), "nobody who takes turns was between");
        }
        turn.committed(seqs(851, 1050), 40, TOOK);
        for at in 10..14 {
            others.committed(Seq::from_db(at * 100 + 52), another());
            turn.committed(seqs(at * 100 + 53, at * 100 + 150), 40, TOOK);
            assert!(at_once(&mut turn), "another that is not busy");
        }
        for at in [1, 500, 600] {
            turn.committed(seqs(at, at + 9), 10, TOOK);
            assert!(at_once(&mut turn), "the log went back, and what is known of others with it");
        }
    }

    #[tokio::test]
    async fn an_announcement_that_does_not_come_costs_one_short_wait() {
        let (others, mut turn) = CommitTurn::of(InstanceId::new());
        let begun = Instant::now();
        is_met(&others, &mut turn, TOOK);
        turn.wait().await;
        assert!(begun.elapsed() >= TOOK * WAIT_OF_COMMITS);
        others.committed(Seq::from_db(59), another());
        turn.committed(seqs(60, 69), 10, Duration::from_secs(3600));
        turn.wait().await;
        assert!(at_once(&mut turn));
    }
}
