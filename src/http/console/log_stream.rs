//! Makes the body of `GET /api/admin/log`, one chunk at a time.
//!
//! hyper asks for the next chunk when the socket has taken the last one. So a stream holds one page of rows, and reads
//! nothing while its client reads nothing: the write timeout ends such a client. A client that reads slowly falls
//! behind, and is told which numbers it was not sent.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::HeaderMap;
use futures_util::stream;
use tokio::time::{Instant, sleep, sleep_until};

use crate::domain::{LogId, Seq};
use crate::http::log_line::log_line;
use crate::http::problems::RefusedRequest;
use crate::http::state::HubState;
use crate::http::stream_places::StreamPlace;
use crate::store::StoreError;
use crate::store::console::log::{self, LogFilter, PAGE_LOOKS, PAGE_ROWS};
use crate::store::read::LogState;
use crate::wire::console::log::{LogEnd, LogNote, push_line};

/// Shortest time between two reads of a follower.
const READ_SPACING: Duration = Duration::from_millis(250);
/// How often a waiting follower looks at the dispatched number.
const TICK: Duration = Duration::from_millis(250);
/// How often the key or the token of a follower is checked again.
const CHECK_EVERY: Duration = Duration::from_secs(1);
/// A follower without a line for this long is told the head.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// A follower that is further behind goes on with the last rows. Above what one read looks at.
const BEHIND_MAX: i64 = PAGE_LOOKS + PAGE_ROWS;
/// Most reads of one page with a filter.
const READS_MAX: u32 = 20;

/// What a stream sends.
pub enum LogTask {
    /// So many rows, up to a number.
    Page { left: i64, end: Seq },
    /// Rows as they are committed. The place counts the followers.
    Follow { _place: StreamPlace, log_id: LogId },
}

/// One reader of the log.
pub struct LogStream {
    hub: Arc<HubState>,
    /// For the checks of the key or the token.
    headers: HeaderMap,
    filter: LogFilter,
    /// Everything up to here was sent, or meets no condition, or was skipped.
    at: Seq,
    task: LogTask,
    reads: u32,
    read_at: Instant,
    checked_at: Instant,
    said_at: Instant,
    /// Lines that wait to be sent.
    lines: Vec<u8>,
}

enum Stage {
    Open(Box<LogStream>),
    Done,
}

impl LogStream {
    pub fn new(hub: Arc<HubState>, headers: HeaderMap, filter: LogFilter, after: Seq, task: LogTask) -> Self {
        let now = Instant::now();
        Self { hub, headers, filter, at: after, task, reads: 0, read_at: now, checked_at: now, said_at: now, lines: Vec::new() }
    }

    /// Reads the first rows.
    ///
    /// # Errors
    /// When the database is unavailable or slow.
    pub async fn begin(&mut self, state: &LogState) -> Result<(), StoreError> {
        self.skip_lost(state.floor, state.head);
        self.read(state.head).await
    }

    pub fn body(self) -> Body {
        Body::from_stream(stream::unfold(Stage::Open(Box::new(self)), step))
    }

    /// The next lines, and whether they are the last.
    async fn next(&mut self) -> (Vec<u8>, bool) {
        loop {
            // What was read before the answer began.
            if !self.lines.is_empty() {
                self.said_at = Instant::now();
                return (std::mem::take(&mut self.lines), false);
            }
            let upto = match self.due().await {
                Due::Rows(upto) => upto,
                Due::Head(head) => {
                    push_line(&mut self.lines, &LogNote::Head(head));
                    continue;
                }
                Due::Last(note) => {
                    if let Some(note) = note {
                        push_line(&mut self.lines, &note);
                    }
                    return (std::mem::take(&mut self.lines), true);
                }
            };
            if let Err(error) = self.read(upto).await {
                tracing::debug!(%error, "a reader of the log is ended: database error");
                push_line(&mut self.lines, &LogNote::End(LogEnd::Unavailable));
                return (std::mem::take(&mut self.lines), true);
            }
        }
    }

    /// Waits until there is something to do.
    async fn due(&mut self) -> Due {
        match self.task {
            LogTask::Page { left, end } if left > 0 && self.at < end && self.reads < READS_MAX => Due::Rows(end),
            LogTask::Page { end, .. } => Due::Last((self.at < end).then_some(LogNote::Next(self.at))),
            LogTask::Follow { log_id, .. } => self.committed(log_id).await,
        }
    }

    /// Waits until rows were committed, a heartbeat is due, or the stream has to end.
    async fn committed(&mut self, log_id: LogId) -> Due {
        sleep_until(self.read_at + READ_SPACING).await;
        loop {
            if self.hub.health.is_stopping() {
                return Due::Last(Some(LogNote::End(LogEnd::Draining)));
            }
            if !self.is_allowed().await {
                return Due::Last(Some(LogNote::End(LogEnd::Unauthorized)));
            }
            let position = self.hub.delivery.registry.position();
            if position.log_id != log_id {
                return Due::Last(Some(LogNote::End(LogEnd::Reset)));
            }
            let head = position.dispatched;
            if head > self.at {
                self.skip_lost(position.floor, head);
                return Due::Rows(head);
            }
            if self.said_at.elapsed() >= HEARTBEAT {
                return Due::Head(head);
            }
            sleep(TICK).await;
        }
    }

    /// Whether the key or the token still counts. While that cannot be found out, it does: the rows come from the same
    /// database.
    async fn is_allowed(&mut self) -> bool {
        if self.checked_at.elapsed() < CHECK_EVERY {
            return true;
        }
        self.checked_at = Instant::now();
        match self.hub.auth.admin(&self.headers).await {
            Ok(_) => true,
            Err(RefusedRequest(problem)) => !matches!(problem.status, 401 | 403),
        }
    }

    /// Leaves out the numbers that retention has dropped, and those that a follower is too far behind for, and says so.
    fn skip_lost(&mut self, floor: Seq, head: Seq) {
        let is_behind = matches!(self.task, LogTask::Follow { .. }) && head.since(self.at) > BEHIND_MAX;
        let to = if is_behind { floor.max(Seq::from_db(head.get() - PAGE_ROWS)) } else { floor };
        if to > self.at {
            push_line(&mut self.lines, &LogNote::Skipped { from: self.at.next(), to });
            self.at = to;
        }
    }

    /// Reads the next rows up to a number.
    async fn read(&mut self, upto: Seq) -> Result<(), StoreError> {
        self.reads += 1;
        self.read_at = Instant::now();
        let most = if let LogTask::Page { left, .. } = self.task { left } else { PAGE_ROWS };
        let _turn = self.hub.console_reads.acquire().await;
        let page = log::page(&self.hub.reader, self.at, upto, &self.filter, most).await?;
        for row in &page.rows {
            push_line(&mut self.lines, &log_line(row));
        }
        if let LogTask::Page { left, .. } = &mut self.task {
            *left -= i64::try_from(page.rows.len()).unwrap_or(*left);
        }
        self.at = self.at.max(page.through);
        Ok(())
    }
}

/// What a stream does next.
enum Due {
    /// Read rows up to this number.
    Rows(Seq),
    /// Say where the log ends.
    Head(Seq),
    /// End, perhaps with one more line.
    Last(Option<LogNote>),
}

async fn step(stage: Stage) -> Option<(Result<Bytes, Infallible>, Stage)> {
    let Stage::Open(mut stream) = stage else { return None };
    let (lines, is_last) = stream.next().await;
    Some((Ok(lines.into()), if is_last { Stage::Done } else { Stage::Open(stream) }))
}
