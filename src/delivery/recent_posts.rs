//! Remembers when recent notifications were posted to this hub, until they are acknowledged.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::{Seq, TraceContext};

/// Most notifications that are remembered: some seconds of a busy hub, in 128 KiB. A client that takes longer than that
/// is not measured.
const MOST: usize = 4096;

/// The last posts, by number.
#[derive(Debug, Default)]
pub struct RecentPosts(Mutex<VecDeque<RecentPost>>);

#[derive(Debug)]
struct RecentPost {
    seq: Seq,
    posted: Instant,
    /// Boxed: most posts have none.
    trace: Option<Box<TraceContext>>,
}

/// A post that is acknowledged.
#[derive(Debug, Clone, Copy)]
pub(super) struct AckedPost {
    pub(super) since: Duration,
    /// Its trace, if it is recorded and no client has acknowledged the post before: one of many that do is enough.
    pub(super) trace: Option<TraceContext>,
}

impl RecentPosts {
    fn inside(&self) -> MutexGuard<'_, VecDeque<RecentPost>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers posts, each above the numbers before it.
    pub(super) fn add(&self, posts: impl Iterator<Item = (Seq, Instant, Option<TraceContext>)>) {
        let mut inside = self.inside();
        for (seq, posted, trace) in posts {
            if inside.len() == MOST {
                inside.pop_front();
            }
            let trace = trace.filter(|trace| trace.is_sampled).map(Box::new);
            inside.push_back(RecentPost { seq, posted, trace });
        }
    }

    /// The post with this number, which a client acknowledges now; `None` if it is not remembered.
    pub(super) fn acked(&self, seq: Seq) -> Option<AckedPost> {
        let mut inside = self.inside();
        let at = inside.binary_search_by_key(&seq, |post| post.seq).ok()?;
        let post = inside.get_mut(at)?;
        Some(AckedPost { since: post.posted.elapsed(), trace: post.trace.take().map(|trace| *trace) })
    }

    /// Forgets all: the numbers begin again in another log.
    pub(super) fn clear(&self) {
        self.inside().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_posts_are_remembered_by_number() {
        let (posts, now) = (RecentPosts::default(), Instant::now());
        let numbers = |range: std::ops::Range<i64>| range.map(|seq| (Seq::from_db(seq * 2), now, None));
        let is_known = |seq: i64| posts.acked(Seq::from_db(seq)).is_some();
        posts.add(numbers(1..3));
        assert!(is_known(4));
        assert!(!is_known(3), "posted to another hub");
        posts.add(numbers(3..3 + i64::try_from(MOST).unwrap()));
        assert!(!is_known(4), "too long ago");
        assert!(is_known(6));
        posts.clear();
        assert!(!is_known(6));
    }

    #[test]
    fn the_first_acknowledgement_has_the_trace() {
        let (posts, now) = (RecentPosts::default(), Instant::now());
        let trace = |is_sampled| Some(TraceContext { trace_id: 7, span_id: 8, is_sampled });
        posts.add([(Seq::from_db(1), now, trace(true)), (Seq::from_db(2), now, trace(false))].into_iter());
        let acked = |seq| posts.acked(Seq::from_db(seq)).unwrap().trace;
        assert_eq!((acked(1), acked(1), acked(2)), (trace(true), None, None));
    }
}
