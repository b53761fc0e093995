//! How far this instance has seen the log, by its own appends and by its reading.
//!
//! Each append names it, and the database refuses (RC001) when the log does not hold it any more. So no row is appended
//! to, or taken the short way into, a history that is not the one that this instance has handed on.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::{LogId, NotificationId, Seq};

/// A number of the log, and the id there where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeenEnd {
    pub seq: Seq,
    pub id: Option<NotificationId>,
}

/// Shared by the appender and whoever reads the end of the log.
#[derive(Debug)]
pub struct Seen(Mutex<(LogId, SeenEnd)>);

impl Seen {
    pub fn new(log_id: LogId) -> Self {
        Self(Mutex::new((log_id, SeenEnd::default())))
    }

    fn inside(&self) -> MutexGuard<'_, (LogId, SeenEnd)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The history that this instance knows, and how far it has seen it.
    pub fn end(&self) -> (LogId, SeenEnd) {
        *self.inside()
    }

    /// This notification stands in that history. One of another history, or below the known end, says nothing.
    pub fn raise(&self, log_id: LogId, seq: Seq, id: NotificationId) {
        let mut inside = self.inside();
        if inside.0 == log_id && inside.1.seq < seq {
            inside.1 = SeenEnd { seq, id: Some(id) };
        }
    }

    /// The history is this one now; nothing of it is known yet.
    pub fn start_over(&self, log_id: LogId) {
        let mut inside = self.inside();
        if inside.0 != log_id {
            *inside = (log_id, SeenEnd::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_rises_within_one_history_only() {
        let (old, new, id) = (LogId::new(), LogId::new(), NotificationId::new());
        let seen = Seen::new(old);
        let end = || (seen.end().0, seen.end().1.seq.get());
        seen.raise(old, Seq::from_db(7), id);
        seen.raise(old, Seq::from_db(5), id);
        assert_eq!(end(), (old, 7));
        seen.raise(new, Seq::from_db(9), id);
        assert_eq!(end(), (old, 7), "of another history");
        seen.start_over(old);
        assert_eq!(end(), (old, 7));
        seen.start_over(new);
        assert_eq!(end(), (new, 0));
    }
}
