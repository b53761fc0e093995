//! Tells the health check whether appends and the outbox relay succeed while work waits.
//!
//! A failed append says nothing by itself: the next one may succeed. Appends count as failing when none has succeeded
//! for [`APPENDS_FAIL_AFTER`] and one has failed recently. While nothing is posted, nothing fails.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Appends that have failed for this long are reported. Shorter than the time after which a load balancer should look
/// elsewhere.
pub const APPENDS_FAIL_AFTER: Duration = Duration::from_secs(3);
/// This long after the last failure nothing is known any more: the next post may succeed.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(5);
/// An outbox row that was committed and waits for this long is reported. A new relay takes over within six seconds.
pub const MOVES_FAIL_AFTER: Duration = Duration::from_secs(15);

#[derive(Debug, Default)]
struct FailingSince {
    since: Option<Instant>,
    last: Option<Instant>,
}

/// Shared by the appender and the outbox relay, which report to it, and the health check, which reads it.
#[derive(Debug, Default)]
pub struct WriteHealth {
    appends: Mutex<FailingSince>,
    /// The outbox row that has waited longest, and when this hub saw it first.
    waiting: Mutex<Option<(i64, Instant)>>,
}

fn inside<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl WriteHealth {
    pub fn appended(&self) {
        *inside(&self.appends) = FailingSince::default();
    }

    /// Records that the database did not append a request of this time, or did not confirm it.
    pub fn not_appended(&self, asked_at: Instant) {
        let mut failing = inside(&self.appends);
        let now = Instant::now();
        if failing.last.is_none_or(|last| now.duration_since(last) > FORGOTTEN_AFTER) {
            failing.since = None;
        }
        failing.since.get_or_insert(asked_at);
        failing.last = Some(now);
    }

    /// Records the outbox row that has waited longest.
    pub fn waits(&self, row: Option<i64>) {
        let mut waiting = inside(&self.waiting);
        if waiting.map(|(row, _)| row) != row {
            *waiting = row.map(|row| (row, Instant::now()));
        }
    }

    /// How long appends have failed.
    pub fn appends_fail_for(&self) -> Duration {
        let failing = inside(&self.appends);
        let is_known = failing.last.is_some_and(|last| last.elapsed() <= FORGOTTEN_AFTER);
        failing.since.filter(|_| is_known).map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// How long the same outbox row has waited.
    pub fn moves_wait_for(&self) -> Duration {
        inside(&self.waiting).map_or(Duration::ZERO, |(_, since)| since.elapsed())
    }

    pub fn appends_succeed(&self) -> bool {
        self.appends_fail_for() < APPENDS_FAIL_AFTER
    }

    pub fn moves_succeed(&self) -> bool {
        self.moves_wait_for() < MOVES_FAIL_AFTER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets time pass, by moving all recorded times into the past.
    fn later(work: &WriteHealth, by: Duration) {
        let mut failing = inside(&work.appends);
        failing.since = failing.since.map(|at| at - by);
        failing.last = failing.last.map(|at| at - by);
        let mut waiting = inside(&work.waiting);
        *waiting = waiting.map(|(row, at)| (row, at - by));
    }

    #[test]
    fn appends_fail_while_none_succeeds_and_are_forgotten_while_none_is_made() {
        let work = WriteHealth::default();
        work.not_appended(Instant::now() - Duration::from_secs(2));
        assert!(work.appends_succeed(), "one that failed says nothing yet");
        later(&work, Duration::from_secs(2));
        assert!(!work.appends_succeed());
        work.appended();
        assert!(work.appends_succeed());
        work.not_appended(Instant::now() - Duration::from_secs(4));
        assert!(!work.appends_succeed());
        later(&work, FORGOTTEN_AFTER + Duration::from_secs(1));
        assert!(work.appends_succeed(), "nothing was posted since");
        work.not_appended(Instant::now());
        assert!(work.appends_succeed(), "counted anew");
    }

    #[test]
    fn a_move_is_late_when_the_same_row_waits() {
        let work = WriteHealth::default();
        work.waits(Some(1));
        later(&work, MOVES_FAIL_AFTER);
        assert!(!work.moves_succeed());
        work.waits(Some(2));
        assert!(work.moves_succeed(), "a backlog that gets shorter is work in progress");
        later(&work, MOVES_FAIL_AFTER);
        work.waits(None);
        assert!(work.moves_succeed());
    }
}
