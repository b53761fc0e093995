//! NDJSON on the batch route: one notification a line, as many as the caller likes, answered while they come.
//!
//! What has arrived is cut into batches, each a commit of its own, and nothing more is read before it is appended: an
//! endless stream holds one batch in memory, and its sender feels the log's pace through TCP. Each line is answered by a
//! line. The first line that cannot be appended ends the stream with a problem that names it; every line before it was
//! appended and answered. The status is long out by then, so it is 200 in any case.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use http_body_util::BodyExt;
use tokio::time::{Instant, sleep, timeout_at};

use super::batch::{Item, wished_item};
use super::hub::Hub;
use super::problems::Refused;
use crate::domain::NewNotification;
use crate::store::appender::{DEADLINE, Receipt, Refusal};
use crate::wire::batch::{ITEM_MAX_BYTES, ITEMS_MAX, LISTED_USERS_MAX};
use crate::wire::lines::{Line, Lines};
use crate::wire::notify::{self, NotifyBody, USER_IDS_MAX};
use crate::wire::problem::Problem;

/// Most bytes of a batch.
const BATCH_MAX_BYTES: usize = 1 << 20;
/// So long a batch waits for more lines after its first: long enough for what is under way, too short to be felt.
const LINGER: Duration = Duration::from_millis(10);
/// A stream that brings nothing for this long is ended.
const IDLE_LIMIT: Duration = Duration::from_secs(10);
/// How often a waiting stream looks whether the hub is stopping.
const TICK: Duration = Duration::from_millis(250);
/// Pause before a batch that found the queue full, or the service over its rate, is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// The answer to a stream: begins at once, ends with it.
pub fn answer(hub: Arc<Hub>, headers: HeaderMap, key: Option<String>, request_id: String, body: Body) -> Response {
    let intake = Intake { hub, headers, key, request_id, body, lines: Lines::new(ITEM_MAX_BYTES), items: 0 };
    let body = Body::from_stream(stream::unfold(Stage::Reading(Box::new(intake)), step));
    let media = (header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    ([media, (header::CACHE_CONTROL, HeaderValue::from_static("no-store"))], body).into_response()
}

enum Stage {
    Reading(Box<Intake>),
    Done,
}

async fn step(stage: Stage) -> Option<(Result<Bytes, Infallible>, Stage)> {
    let Stage::Reading(mut intake) = stage else { return None };
    let gathered = intake.gather().await;
    let (answers, end) = intake.append(gathered).await;
    let next = match end {
        End::NotYet => Stage::Reading(intake),
        End::Clean | End::Refused { .. } => Stage::Done,
    };
    Some((Ok(answers.into()), next))
}

/// Why a batch is the last one.
enum End {
    NotYet,
    Clean,
    /// This line, and all after it, are not appended, unless the problem says that this is not known.
    Refused {
        line: u64,
        problem: Problem,
    },
}

struct Gathered {
    items: Vec<(u64, NotifyBody)>,
    end: End,
}

/// One stream on its way in.
struct Intake {
    hub: Arc<Hub>,
    headers: HeaderMap,
    /// Names the whole stream.
    key: Option<String>,
    request_id: String,
    body: Body,
    lines: Lines,
    /// How many notifications were in the batches before.
    items: usize,
}

impl Intake {
    /// The next batch: the lines that are here, and those that come in a moment.
    async fn gather(&mut self) -> Gathered {
        let (mut items, mut bytes, mut users) = (Vec::new(), 0, 0);
        let mut linger_end = None;
        let mut over = false;
        let end = loop {
            // Room for one more of the biggest.
            if items.len() == ITEMS_MAX || bytes + ITEM_MAX_BYTES > BATCH_MAX_BYTES || users + USER_IDS_MAX > LISTED_USERS_MAX {
                break End::NotYet;
            }
            let line = match self.lines.take() {
                Ok(None) if over => self.lines.last(),
                Ok(line) => line,
                Err(too_long) => break End::Refused { line: too_long.number, problem: line_too_long() },
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
                Some(Err(problem)) => break End::Refused { line: line.map_or(0, |line| line.number), problem },
                None if over => break End::Clean,
                None => {}
            }
            let deadline = if items.is_empty() { None } else { Some(*linger_end.get_or_insert_with(|| Instant::now() + LINGER)) };
            match self.more(deadline).await {
                More::Came => {}
                More::Over => over = true,
                More::NotNow => break End::NotYet,
                More::Never(problem) => break End::Refused { line: self.lines.next_number(), problem },
            }
        };
        Gathered { items, end }
    }

    /// Waits for bytes: until the deadline, or without one until the stream counts as idle.
    async fn more(&mut self, deadline: Option<Instant>) -> More {
        let idle_at = Instant::now() + IDLE_LIMIT;
        loop {
            let now = Instant::now();
            match timeout_at(deadline.unwrap_or(idle_at).min(now + TICK), self.body.frame()).await {
                Ok(Some(Ok(frame))) => {
                    if let Some(data) = frame.data_ref() {
                        self.lines.give(data);
                    }
                    return More::Came;
                }
                Ok(None) => return More::Over,
                Ok(Some(Err(_))) => return More::Never(Problem::new(400, "broken_body", "the stream broke off")),
                Err(_) if deadline.is_some_and(|at| Instant::now() >= at) => return More::NotNow,
                Err(_) if self.hub.health.is_stopping() => return More::Never(draining()),
                Err(_) if Instant::now() >= idle_at => {
                    let detail = format!("nothing came for {} s; go on from this line", IDLE_LIMIT.as_secs());
                    return More::Never(Problem::new(408, "body_too_slow", detail));
                }
                Err(_) => {}
            }
        }
    }

    /// Appends a batch; returns its answers, and whether the stream goes on.
    async fn append(&mut self, Gathered { items, mut end }: Gathered) -> (Vec<u8>, End) {
        let (lines, bodies): (Vec<u64>, Vec<NotifyBody>) = items.into_iter().unzip();
        let mut answers = Vec::new();
        match self.commit(bodies).await {
            Ok((receipts, refused)) => {
                for receipt in receipts {
                    // A struct of numbers and texts always is JSON.
                    let _ = serde_json::to_writer(&mut answers, &Item::from(receipt));
                    answers.push(b'\n');
                }
                if let Some((at, problem)) = refused {
                    end = End::Refused { line: lines.get(at).copied().unwrap_or(0), problem };
                }
            }
            Err(problem) => end = End::Refused { line: lines.first().copied().unwrap_or(0), problem },
        }
        self.items += lines.len();
        if let End::Refused { line, problem } = &end {
            answers.extend_from_slice(problem.of_line(*line, &self.request_id).as_bytes());
        }
        (answers, end)
    }

    /// Appends as many as can be: all, or those before the first whose key stands for another body.
    async fn commit(&mut self, bodies: Vec<NotifyBody>) -> Result<(Vec<Receipt>, Option<(usize, Problem)>), Problem> {
        if bodies.is_empty() {
            return Ok((Vec::new(), None));
        }
        // Asked for each batch: a stream must not outlive its key.
        let caller = self.hub.auth.caller(&self.headers).await.map_err(|Refused(problem)| problem)?;
        while !self.hub.rates.allow(&caller.name) {
            if self.hub.health.is_stopping() {
                return Err(draining());
            }
            sleep(PAUSE).await;
        }
        self.hub.rates.charge(&caller.name, bodies.len() - 1);
        let key = self.key.as_deref();
        let wishes = bodies.into_iter().enumerate().map(|(at, body)| wished_item(body, self.items + at, key, &caller));
        let mut wishes: Vec<NewNotification> = wishes.collect();
        let mut conflict = None;
        let deadline = Instant::now() + DEADLINE;
        while !wishes.is_empty() {
            match self.hub.appender.append_all(wishes.clone(), deadline).await {
                Ok(receipts) => return Ok((receipts, conflict)),
                Err(Refusal::Overloaded) if Instant::now() + PAUSE < deadline => sleep(PAUSE).await,
                Err(refusal) => {
                    let Refused(problem) = Refused::from(refusal.clone());
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

enum More {
    Came,
    Over,
    NotNow,
    Never(Problem),
}

/// The notification of a line, and its length; a blank line holds none.
pub fn read(line: &Line) -> Result<Option<(NotifyBody, usize)>, Problem> {
    if line.bytes.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    Ok(Some((notify::parse(&line.bytes)?, line.bytes.len())))
}

fn draining() -> Problem {
    Problem::new(503, "draining", "the hub is stopping; go on elsewhere from this line").retry_after(1)
}

fn line_too_long() -> Problem {
    Problem::new(413, "body_too_large", format!("a line may have {ITEM_MAX_BYTES} bytes"))
}
