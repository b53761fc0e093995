//! Tracks how far this instance has seen the log, by appending and by reading.
//!
//! Each append names the watermark, and the database refuses it (RC001) when the log no longer contains that row. So no
//! row is appended to a log other than the one that this instance dispatches, and none reaches the tailer from such a
//! log.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::domain::{LogId, NotificationId, Seq};

/// A sequence number, and the id of its row where it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct WatermarkEnd {
    pub seq: Seq,
    pub id: Option<NotificationId>,
}

/// Shared by the appender and all readers of the log's end.
#[derive(Debug)]
pub struct LogWatermark(Mutex<(LogId, WatermarkEnd)>);

impl LogWatermark {
    pub fn new(log_id: LogId) -> Self {
        Self(Mutex::new((log_id, WatermarkEnd::default())))
    }

    fn inside(&self) -> MutexGuard<'_, (LogId, WatermarkEnd)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log that this instance knows, and how far it has seen it.
    pub fn end(&self) -> (LogId, WatermarkEnd) {
        *self.inside()
    }

    /// Records that the log has this notification. One of another log, or below the known end, is ignored.
    pub fn raise(&self, log_id: LogId, seq: Seq, id: NotificationId) {
        let mut inside = self.inside();
        if inside.0 == log_id && inside.1.seq < seq {
            inside.1 = WatermarkEnd { seq, id: Some(id) };
        }
    }

    /// Switches to this log, of which no row is known yet.
    pub fn start_over(&self, log_id: LogId) {
        let mut inside = self.inside();
        if inside.0 != log_id {
            *inside = (log_id, WatermarkEnd::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_rises_within_one_history_only() {
        let (old, new, id) = (LogId::new(), LogId::new(), NotificationId::new());
        let seen = LogWatermark::new(old);
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
