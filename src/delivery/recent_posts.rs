//! Remembers when recent notifications were posted to this hub, until they are acknowledged.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::domain::Seq;

/// Most notifications that are remembered: some seconds of a busy hub, in 96 KiB. A client that takes longer than that
/// is not measured.
const MOST: usize = 4096;

/// Numbers and times of the last posts, by number.
#[derive(Debug, Default)]
pub struct RecentPosts(Mutex<VecDeque<(Seq, Instant)>>);

impl RecentPosts {
    fn inside(&self) -> MutexGuard<'_, VecDeque<(Seq, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers posts, each above the numbers before it.
    pub(super) fn add(&self, posts: impl Iterator<Item = (Seq, Instant)>) {
        let mut inside = self.inside();
        for post in posts {
            if inside.len() == MOST {
                inside.pop_front();
            }
            inside.push_back(post);
        }
    }

    /// Time since this number was posted; `None` if it is not remembered.
    pub(super) fn since(&self, seq: Seq) -> Option<Duration> {
        let inside = self.inside();
        let at = inside.binary_search_by_key(&seq, |(known, _)| *known).ok()?;
        inside.get(at).map(|(_, posted)| posted.elapsed())
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
        let numbers = |range: std::ops::Range<i64>| range.map(|seq| (Seq::from_db(seq * 2), now));
        posts.add(numbers(1..3));
        assert!(posts.since(Seq::from_db(4)).is_some());
        assert_eq!(posts.since(Seq::from_db(3)), None, "posted to another hub");
        posts.add(numbers(3..3 + i64::try_from(MOST).unwrap()));
        assert_eq!(posts.since(Seq::from_db(4)), None, "too long ago");
        assert!(posts.since(Seq::from_db(6)).is_some());
        posts.clear();
        assert_eq!(posts.since(Seq::from_db(6)), None);
    }
}
