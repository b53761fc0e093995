//! Taking turns with the other instances that append.
//!
//! Commits follow one another, whoever makes them: there is one lock. A batch that waits for it is closed, and what is asked
//! meanwhile is of the next one. Of two busy instances each would have one batch at the lock and one in the making: twice
//! as many commits as one instance makes of the same posts, half as big. So an instance that has just committed, and saw by the
//! numbers that another does as well, does not stand in line at once. It gathers until the other's commit is announced.
//!
//! Nothing depends on it: order and numbers are the lock's. An announcement that does not come costs one short wait.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::domain::{InstanceId, Seq};

/// An instance whose commit holds less than this is not busy: it has next to nothing to gather, or to be waited for.
const BUSY: usize = 4;
/// The other's commit takes about as long as our own; its announcement comes a moment later.
const WAIT_OF_COMMITS: u32 = 2;
/// Longest wait for the other, however long commits take.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// Where the listener says how far other instances have brought the log.
#[derive(Debug)]
pub struct Others {
    own: String,
    head: watch::Sender<Seq>,
}

impl Others {
    /// Somebody has committed up to this number. What we did ourselves says nothing, nor do writers that gather nothing and
    /// wait for nobody, ours or another's, such as what moves rows that came from SQL: their names have a slash.
    pub fn committed(&self, head: Seq, origin: &str) {
        if origin != self.own && !origin.contains('/') {
            // The last one counts, and not the highest: a log may go back.
            self.head.send_if_modified(|known| std::mem::replace(known, head) != head);
        }
    }
}

/// When this instance's next commit is due.
#[derive(Debug)]
pub struct Turn {
    others: watch::Receiver<Seq>,
    /// The end of our last commit.
    last: Seq,
    /// Until when another goes first.
    until: Option<Instant>,
    wait_max: Duration,
}

impl Turn {
    pub fn of(instance: InstanceId) -> (Others, Self) {
        let (head, others) = watch::channel(Seq::ZERO);
        (Others { own: instance.to_string(), head }, Self { others, last: Seq::ZERO, until: None, wait_max: WAIT_MAX })
    }

    /// Takes note of a commit of our own: its first and last number, of how many requests, and how long it took.
    pub fn committed(&mut self, (first, last): (Seq, Seq), requests: usize, took: Duration) {
        let between = first.get() - self.last.get() - 1;
        let is_anothers = self.last != Seq::ZERO && (self.last..first).contains(&self.others.borrow());
        let others_between = is_anothers && usize::try_from(between).is_ok_and(|rows| rows >= BUSY);
        self.until = (others_between && requests >= BUSY).then(|| Instant::now() + (took * WAIT_OF_COMMITS).min(self.wait_max));
        self.last = last;
    }

    /// Returns when it is our turn: at once, unless another instance is at work as well.
    pub async fn wait(&mut self) {
        let Some(until) = self.until.take() else { return };
        let last = self.last;
        // Too late, or nobody is left who could tell: it is our turn in any case.
        let _ = timeout_at(until, self.others.wait_for(|head| *head > last)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::{FutureExt, poll};

    use super::*;

    const TOOK: Duration = Duration::from_millis(2);

    fn seqs(first: i64, last: i64) -> (Seq, Seq) {
        (Seq::from_db(first), Seq::from_db(last))
    }

    /// Whether there is nothing to wait for.
    fn at_once(turn: &mut Turn) -> bool {
        turn.wait().now_or_never().is_some()
    }

    #[tokio::test]
    async fn who_appends_alone_never_waits() {
        let (_others, mut turn) = Turn::of(InstanceId::new());
        assert!(at_once(&mut turn));
        turn.committed(seqs(5, 9), 5, TOOK);
        assert!(at_once(&mut turn), "what was before the first commit says nothing");
        turn.committed(seqs(10, 19), 10, TOOK);
        assert!(at_once(&mut turn));
    }

    /// Two commits, each with one of another instance before it, and no wait in between.
    fn is_met(others: &Others, turn: &mut Turn, took: Duration) {
        turn.committed(seqs(1, 9), 9, TOOK);
        others.committed(Seq::from_db(19), "another");
        turn.committed(seqs(20, 29), 10, took);
        others.committed(Seq::from_db(39), "another");
        turn.committed(seqs(40, 49), 10, took);
    }

    #[tokio::test]
    async fn one_of_two_busy_instances_waits_for_the_others_commit_and_no_other() {
        let own = InstanceId::new();
        let (others, mut turn) = Turn::of(own);
        turn.wait_max = Duration::from_secs(60);
        is_met(&others, &mut turn, Duration::from_secs(30));
        {
            let mut wait = pin!(turn.wait());
            assert!(poll!(&mut wait).is_pending());
            others.committed(Seq::from_db(50), &own.to_string());
            others.committed(Seq::from_db(45), "another");
            assert!(poll!(&mut wait).is_pending(), "neither our own nor one that was before");
            others.committed(Seq::from_db(59), "another");
            assert!(poll!(&mut wait).is_ready());
        }
        assert!(at_once(&mut turn), "it goes first once");
        turn.committed(seqs(60, 69), 10, TOOK);
        others.committed(Seq::from_db(75), "another");
        assert!(at_once(&mut turn), "it was told before");
        turn.committed(seqs(76, 77), 2, Duration::from_secs(30));
        assert!(at_once(&mut turn), "hardly anybody asks for anything");
        others.committed(Seq::from_db(85), "another");
        turn.committed(seqs(86, 95), 10, Duration::from_secs(30));
        drop(others);
        assert!(at_once(&mut turn), "nobody listens any more");
    }

    #[tokio::test]
    async fn commits_of_who_takes_no_turns_are_no_reason_to_wait() {
        let own = InstanceId::new();
        let (others, mut turn) = Turn::of(own);
        turn.committed(seqs(301, 400), 40, TOOK);
        for at in 5..9 {
            for origin in [own.to_string(), format!("{own}/upstream"), "another/outbox".to_owned()] {
                others.committed(Seq::from_db(at * 100), &origin);
            }
            turn.committed(seqs(at * 100 + 1, at * 100 + 50), 40, TOOK);
            assert!(at_once(&mut turn), "nobody who takes turns was between");
        }
        turn.committed(seqs(851, 1050), 40, TOOK);
        for at in 10..14 {
            others.committed(Seq::from_db(at * 100 + 52), "another");
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
        let (others, mut turn) = Turn::of(InstanceId::new());
        let begun = Instant::now();
        is_met(&others, &mut turn, TOOK);
        turn.wait().await;
        assert!(begun.elapsed() >= TOOK * WAIT_OF_COMMITS);
        others.committed(Seq::from_db(59), "another");
        turn.committed(seqs(60, 69), 10, Duration::from_secs(3600));
        turn.wait().await;
        assert!(at_once(&mut turn));
    }
}
