//! Checks at start that the log is still the one that its id names.
//!
//! A running hub itself detects that the log was truncated or restored. While no hub runs, a database can be rolled
//! back and grow past every client's position; then the numbers exist, but their rows are others. Two things show it at
//! the next start:
//! - the server: its system identifier, its timeline and the database's oid are kept in `recado.server_identity`. A
//!   restore into another server, a point-in-time recovery, and a reloaded dump change at least one of them;
//! - the hub's own memory: the last row that it has seen, kept in its data folder, which the database's backup does not
//!   cover.
//!
//! A failover changes the timeline as well. The log keeps its id when continuity can be shown: a running hub has
//! watched the failover, or the remembered row still exists.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sqlx::PgConnection;
use uuid::Uuid;

use super::log_watermark::LogWatermark;
use super::time_limit::{ASK_LIMIT, limited};
use super::{StoreError, read};
use crate::domain::{LogId, NotificationId, Seq};

/// A row of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogMark {
    pub log_id: LogId,
    pub seq: Seq,
    pub id: NotificationId,
}

/// The last row that the hubs of one data folder have seen.
#[derive(Debug)]
pub struct LogMemory {
    file: PathBuf,
    seen: Option<Arc<LogWatermark>>,
    written: Option<LogMark>,
    /// The last try to write failed.
    is_failing: bool,
}

impl LogMemory {
    /// Opens the memory in this data folder.
    pub fn at(folder: &Path) -> Self {
        Self { file: folder.join("log-watermark"), seen: None, written: None, is_failing: false }
    }

    /// From now on, remembers the rows that this instance sees.
    #[must_use]
    pub fn of(mut self, seen: Arc<LogWatermark>) -> Self {
        self.seen = Some(seen);
        self
    }

    /// The remembered row; `None` when there is none, or none that can be read.
    pub fn recall(&self) -> Option<LogMark> {
        let text = fs::read_to_string(&self.file).ok()?;
        let mut words = text.split_whitespace();
        let (log_id, seq, id) = (words.next()?, words.next()?, words.next()?);
        Some(LogMark {
            log_id: LogId(Uuid::parse_str(log_id).ok()?),
            seq: Seq::new(seq.parse().ok()?)?,
            id: NotificationId(Uuid::parse_str(id).ok()?),
        })
    }

    /// Stores the last row that was seen. The file is written under another name and renamed: a crash leaves the old or
    /// the new one. If the folder cannot be written, only this memory is lost.
    pub fn keep(&mut self) {
        let Some((log_id, end)) = self.seen.as_ref().map(|seen| seen.end()) else { return };
        let Some(id) = end.id else { return };
        let mark = LogMark { log_id, seq: end.seq, id };
        if self.written == Some(mark) {
            return;
        }
        // Another hub of this folder may have seen more.
        if self.recall().is_some_and(|known| known.log_id == log_id && known.seq >= end.seq) {
            return;
        }
        match self.write(mark) {
            Ok(()) => (self.written, self.is_failing) = (Some(mark), false),
            Err(error) if !std::mem::replace(&mut self.is_failing, true) => tracing::warn!(
                %error,
                file = %self.file.display(),
                "cannot store the last row that was seen, so a restore while no hub runs may go unnoticed; let the hub's user write there"
            ),
            Err(error) => tracing::debug!(%error, "cannot store the last row that was seen"),
        }
    }

    fn write(&self, mark: LogMark) -> std::io::Result<()> {
        let aside = self.file.with_extension(std::process::id().to_string());
        let mut draft = fs::File::create(&aside)?;
        writeln!(draft, "{} {} {}", mark.log_id.0, mark.seq.get(), mark.id.0)?;
        draft.sync_all()?;
        fs::rename(&aside, &self.file)
    }
}

/// The result of the check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogContinuity {
    /// Nothing indicates another log.
    Same,
    /// The server is another one, and the log has provably continued.
    Moved,
    /// The remembered row is missing.
    WentBack,
    /// The server is another one, and there is no proof that the log has continued.
    Unproven,
}

/// `remembered_is_there` is `None` when no row of this log is remembered.
fn judge(is_same_server: bool, remembered_is_there: Option<bool>, is_watched: bool) -> LogContinuity {
    match (is_same_server, remembered_is_there) {
        (_, Some(false)) => LogContinuity::WentBack,
        (true, _) => LogContinuity::Same,
        (false, Some(true)) => LogContinuity::Moved,
        (false, None) if is_watched => LogContinuity::Moved,
        (false, None) => LogContinuity::Unproven,
    }
}

/// Checks the log, gives it a new id when its continuity is uncertain, and stores the server's identity.
///
/// # Errors
/// When the database is unavailable or slow.
pub async fn check(connection: &mut PgConnection, memory: Option<&LogMemory>) -> Result<LogContinuity, StoreError> {
    let state = read::state(connection).await?;
    let remembered = memory.and_then(LogMemory::recall).filter(|mark| mark.log_id == state.log_id);
    let remembered_is_there = match remembered {
        // Retention has dropped it, so the log has grown since.
        Some(mark) if mark.seq <= state.floor => None,
        Some(mark) => {
            let id = sqlx::query_scalar!("SELECT id FROM recado.log WHERE seq = $1", mark.seq.get()).fetch_optional(&mut *connection);
            Some(limited(ASK_LIMIT, id).await? == Some(mark.id.0))
        }
        None => None,
    };
    let server = server(connection).await?;
    let known = sqlx::query!("SELECT server FROM recado.server_identity").fetch_optional(&mut *connection);
    let known = limited(ASK_LIMIT, known).await?.map(|row| row.server);
    let watched = sqlx::query_scalar!(
        r#"SELECT EXISTS (SELECT FROM recado.instance
                           WHERE ended_at IS NULL AND seen_at BETWEEN clock_timestamp() - interval '15 seconds'
                                                                  AND clock_timestamp() + interval '15 seconds') AS "watched!""#
    )
    .fetch_one(&mut *connection);
    let watched = limited(ASK_LIMIT, watched).await?;
    let is_same = server.is_none() || known.is_none() || known == server;
    let continuity = judge(is_same, remembered_is_there, watched);
    if matches!(continuity, LogContinuity::WentBack | LogContinuity::Unproven) {
        read::renew_log_id(connection, state.log_id).await?;
    }
    if let Some(server) = server.filter(|_| !is_same || known.is_none()) {
        let kept = sqlx::query!(
            "INSERT INTO recado.server_identity (server) VALUES ($1)
             ON CONFLICT (only_row) DO UPDATE SET server = excluded.server, since = clock_timestamp()",
            server
        )
        .execute(&mut *connection);
        limited(ASK_LIMIT, kept).await?;
    }
    Ok(continuity)
}

/// System identifier, timeline and database; `None` where the server does not tell them (some managed ones do not).
async fn server(connection: &mut PgConnection) -> Result<Option<String>, StoreError> {
    let told = sqlx::query_scalar(
        "SELECT s.system_identifier || ' ' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) || ' ' || d.oid
           FROM pg_control_system() s, pg_database d
          WHERE d.datname = current_database()",
    )
    .fetch_optional(connection);
    match limited(ASK_LIMIT, told).await {
        Ok(server) => Ok(server),
        Err(StoreError::Broken(error)) => {
            tracing::info!(%error, "cannot read the server's identity, which would reveal a restore while no hub runs");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_another_one_unless_it_can_be_shown_to_have_gone_on() {
        for (is_same, there, watched, expected) in [
            (true, None, false, LogContinuity::Same),
            (true, Some(true), false, LogContinuity::Same),
            (true, Some(false), true, LogContinuity::WentBack),
            (false, Some(true), false, LogContinuity::Moved),
            (false, None, true, LogContinuity::Moved),
            (false, None, false, LogContinuity::Unproven),
            (false, Some(false), false, LogContinuity::WentBack),
        ] {
            assert_eq!(judge(is_same, there, watched), expected, "{is_same} {there:?} {watched}");
        }
    }

    #[test]
    fn what_was_seen_is_remembered_and_the_highest_counts() {
        let folder = tempfile::tempdir().unwrap();
        let (log_id, low, high) = (LogId::new(), NotificationId::new(), NotificationId::new());
        assert_eq!(LogMemory::at(folder.path()).recall(), None);
        for (seq, id) in [(7, high), (5, low)] {
            let seen = Arc::new(LogWatermark::new(log_id));
            seen.raise(log_id, Seq::from_db(seq), id);
            LogMemory::at(folder.path()).of(seen).keep();
        }
        let mark = LogMemory::at(folder.path()).recall().unwrap();
        assert_eq!((mark.log_id, mark.seq.get(), mark.id), (log_id, 7, high));
    }
}
