//! Serves NDJSON on the batch route: one notification per line, answered as they arrive.
//!
//! There may be any number of lines. The lines that have arrived are cut into batches, each with a commit of its own.
//! The hub reads nothing more before a batch is appended: an endless stream holds one batch in memory, and TCP slows
//! its sender to the pace of the log. Each line is answered by a line. The first line that cannot be appended ends
//! the stream with a problem that names the line; every line before it was appended and answered. The status was sent
//! long before, so it is always 200.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, timeout_at};

use super::batch_item::{BatchItem, wished_item};
use super::body_stream::STREAM_CACHING;
use super::notify::{charge_rate, take_rate};
use super::problems::RefusedRequest;
use super::scopes::check_post;
use super::state::HubState;
use crate::domain::{NewNotification, TraceContext};
use crate::log::appender::{DEADLINE, Receipt, Refusal};
use crate::telemetry::spans;
use crate::wire::batch::{ITEM_MAX_BYTES, ITEMS_MAX, LISTED_USERS_MAX};
use crate::wire::lines::{LineSplitter, NumberedLine};
use crate::wire::notify::{self, NotifyBody, USER_IDS_MAX};
use crate::wire::problem::Problem;
use crate::wire::scopes::PostWords;

/// Maximum bytes of a batch.
const BATCH_MAX_BYTES: usize = 1 << 20;
/// How long a batch waits for more lines after its first: long enough for lines on their way, too short to be
/// noticed.
const LINGER: Duration = Duration::from_millis(10);
/// A stream without data for this long is ended.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// How often a waiting stream checks whether the hub is stopping.
const TICK: Duration = Duration::from_millis(250);
/// Pause before a retry when the queue is full or the service is over its rate.
const PAUSE: Duration = Duration::from_millis(50);

/// The response to a stream. It begins at once and ends with the stream.
pub fn answer(hub: Arc<HubState>, headers: HeaderMap, key: Option<String>, request_id: String, body: Body) -> Response {
    let (trace, lines) = (spans::request(), LineSplitter::new(ITEM_MAX_BYTES));
    let intake = NdjsonIntake { hub, headers, key, request_id, trace, body, lines, items: 0 };
    let body = Body::from_stream(stream::unfold(NdjsonStage::Reading(Box::new(intake)), step));
    let media = (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    ([media, (header::CACHE_CONTROL, STREAM_CACHING)], body).into_response()
}

enum NdjsonStage {
    Reading(Box<NdjsonIntake>),
    Done,
}

async fn step(stage: NdjsonStage) -> Option<(Result<Bytes, Infallible>, NdjsonStage)> {
    let NdjsonStage::Reading(mut intake) = stage else { return None };
    let gathered = intake.gather().await;
    let (answers, end) = intake.append(gathered).await;
    let next = match end {
        NdjsonEnd::NotYet => NdjsonStage::Reading(intake),
        NdjsonEnd::Clean | NdjsonEnd::Refused { .. } => NdjsonStage::Done,
    };
    Some((Ok(answers.into()), next))
}

/// Whether the stream continues after a batch, and why not.
enum NdjsonEnd {
    NotYet,
    Clean,
    /// This line and all after it were not appended, unless the problem says that the outcome is unknown.
    Refused {
        line: u64,
        problem: Problem,
    },
}

struct NdjsonBatch {
    items: Vec<(u64, NotifyBody)>,
    end: NdjsonEnd,
}

/// One incoming stream.
struct NdjsonIntake {
    hub: Arc<HubState>,
    headers: HeaderMap,
    /// The idempotency key of the whole stream.
    key: Option<String>,
    request_id: String,
    /// The span of the request, which ends before its lines are appended.
    trace: Option<TraceContext>,
    body: Body,
    lines: LineSplitter,
    /// Number of notifications in the previous batches.
    items: usize,
}

impl NdjsonIntake {
    /// The next batch: the lines that have arrived, and those that arrive within [`LINGER`].
    async fn gather(&mut self) -> NdjsonBatch {
        // Checked before each batch: a caller that never pauses must not outlast the hub's time to stop.
        if self.hub.health.is_stopping() {
            return NdjsonBatch { items: Vec::new(), end: NdjsonEnd::Refused { line: self.lines.next_number(), problem: draining() } };
        }
        let (mut items, mut bytes, mut users) = (Vec::new(), 0, 0);
        let mut linger_end = None;
        let mut over = false;
        let end = loop {
            // There must be room for one more item of the maximum size.
            if items.len() == ITEMS_MAX || bytes + ITEM_MAX_BYTES > BATCH_MAX_BYTES || users + USER_IDS_MAX > LISTED_USERS_MAX {
                break NdjsonEnd::NotYet;
            }
            let line = match self.lines.take(over) {
                Ok(line) => line,
                Err(too_long) => break NdjsonEnd::Refused { line: too_long.number, problem: line_too_long() },
            };
            match line.as_ref().map(read) {
                Some(Ok(Some(item))) => {
                    let line = line.map_or(0, |line| line.number);
                    bytes += item.1;
                    users += item.0.listed_users();
                    items.push((line, item.0));
                    continue;
                }
                Some(Ok(None)) => continue,
                Some(Err(problem)) => break NdjsonEnd::Refused { line: line.map_or(0, |line| line.number), problem },
                None if over => break NdjsonEnd::Clean,
                None => {}
            }
            let deadline = if items.is_empty() { None } else { Some(*linger_end.get_or_insert_with(|| Instant::now() + LINGER)) };
            match self.more(deadline).await {
                NextChunk::Came => {}
                NextChunk::Over => over = true,
                NextChunk::NotNow => break NdjsonEnd::NotYet,
                NextChunk::Never(problem) => break NdjsonEnd::Refused { line: self.lines.next_number(), problem },
            }
        };
        NdjsonBatch { items, end }
    }

    /// Waits for bytes: until the deadline, or without one until the stream counts as idle.
    async fn more(&mut self, deadline: Option<Instant>) -> NextChunk {
        let idle_at = Instant::now() + IDLE_LIMIT;
        loop {
            let now = Instant::now();
            match timeout_at(deadline.unwrap_or(idle_at).min(now + TICK), self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.give(data);
                    }
                    return NextChunk::Came;
                }
                Ok(None) => return NextChunk::Over,
                Ok(Some(Err(_))) => return NextChunk::Never(Problem::new(400, "broken_body", "the body ended before it was complete")),
                Err(_) if deadline.is_some_and(|at| Instant::now() >= at) => return NextChunk::NotNow,
                Err(_) if self.hub.health.is_stopping() => return NextChunk::Never(draining()),
                Err(_) if Instant::now() >= idle_at => {
                    let detail = format!("no data for {} s; resume from this line", IDLE_LIMIT.as_secs());
                    return NextChunk::Never(Problem::new(408, "body_too_slow", detail));
                }
                Err(_) => {}
            }
        }
    }

    /// Appends a batch; returns its answers, and whether the stream continues.
    async fn append(&mut self, NdjsonBatch { items, mut end }: NdjsonBatch) -> (Vec<u8>, NdjsonEnd) {
        let (lines, bodies): (Vec<u64>, Vec<NotifyBody>) = items.into_iter().unzip();
        let mut answers = Vec::new();
        match self.commit(bodies).await {
            Ok((receipts, refused)) => {
                for receipt in receipts {
                    // A struct of numbers and texts is always JSON.
                    let _ = serde_json::to_writer(&mut answers, &BatchItem::from(receipt));
                    answers.push(b'\n');
                }
                if let Some((at, problem)) = refused {
                    end = NdjsonEnd::Refused { line: lines.get(at).copied().unwrap_or(0), problem };
                }
            }
            Err(problem) => end = NdjsonEnd::Refused { line: lines.first().copied().unwrap_or(0), problem },
        }
        self.items += lines.len();
        if let NdjsonEnd::Refused { line, problem } = &end {
            answers.extend_from_slice(problem.of_line(*line, &self.request_id).as_bytes());
        }
        (answers, end)
    }

    /// Appends as many as possible: all, or those before the first that lacks a scope, or whose key belongs to another
    /// body.
    async fn commit(&mut self, mut bodies: Vec<NotifyBody>) -> Result<(Vec<Receipt>, Option<(usize, Problem)>), Problem> {
        if bodies.is_empty() {
            return Ok((Vec::new(), None));
        }
        // Checked for each batch: a stream must not outlive its key.
        let caller = self.hub.auth.caller(&self.headers).await.map_err(|RefusedRequest(problem)| problem)?;
        // Lines before the first one that lacks a scope are appended, as before any other bad line.
        let mut conflict = None;
        if let Some((at, problem)) =
            bodies.iter().enumerate().find_map(|(at, body)| Some((at, check_post(&caller, body, PostWords::Notification).err()?)))
        {
            bodies.truncate(at);
            conflict = Some((at, problem));
        }
        if bodies.is_empty() {
            return Ok((Vec::new(), conflict));
        }
        while take_rate(&self.hub, &caller).is_err() {
            if self.hub.health.is_stopping() {
                return Err(draining());
            }
            sleep(PAUSE).await;
        }
        charge_rate(&self.hub, &caller, bodies.len() - 1);
        let key = self.key.as_deref();
        let wishes = bodies.into_iter().enumerate().map(|(at, body)| wished_item(body, self.items + at, key, &caller));
        let mut wishes: Vec<NewNotification> = wishes.collect();
        let deadline = Instant::now() + DEADLINE;
        while !wishes.is_empty() {
            match spans::within(self.trace, self.hub.appender.append_all(wishes.clone(), deadline)).await {
                Ok(receipts) => return Ok((receipts, conflict)),
                Err(Refusal::Overloaded) if Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
                Err(refusal) => {
                    let RefusedRequest(problem) = RefusedRequest::from(refusal.clone());
                    let Refusal::OtherBody { items } = refusal else { return Err(problem) };
                    let first = items.first().copied().unwrap_or(0);
                    wishes.truncate(first);
                    conflict = Some((first, problem));
                }
            }
        }
        Ok((Vec::new(), conflict))
    }
}

enum NextChunk {
    Came,
    Over,
    NotNow,
    Never(Problem),
}

/// The notification of a line, and its length. A blank line has none.
pub fn read(line: &NumberedLine) -> Result<Option<(NotifyBody, usize)>, Problem> {
    if line.bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    Ok(Some((notify::parse(&line.bytes)?, line.bytes.len())))
}

fn draining() -> Problem {
    Problem::new(503, "draining", "this hub is stopping; connect again and resume from this line").retry_after(1)
}

fn line_too_long() -> Problem {
    Problem::new(413, "body_too_large", format!("a line may have at most {ITEM_MAX_BYTES} bytes"))
}
