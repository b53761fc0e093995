//! Runs services that post and repeat each post until its outcome is known.
//!
//! The repeats carry the same key.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recado::domain::Role;
use recado_torture_check::fact::RunFact;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::RunError;
use crate::book::Recorder;
use crate::cast::{self, PostForm, PostWish};
use crate::secrets;

/// Above the five seconds that the contract gives the hub.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// State that all writers share.
pub struct WriterShared {
    pub book: Arc<Recorder>,
    pub http: reqwest::Client,
    /// Indexed by hub.
    pub addresses: Vec<String>,
    /// No new posts; open ones are brought to an end.
    pub closed: AtomicBool,
    /// No writer posts anything now.
    pub hushed: AtomicBool,
    /// No writer posts to this hub now; it must learn of everything from the log.
    pub avoided: AtomicUsize,
    /// Titles that SQL producers have committed: they must come into the log by themselves.
    pub kept: Mutex<Vec<String>>,
}

/// No hub is avoided.
pub const NONE: usize = usize::MAX;

pub struct Writer {
    desk: Arc<WriterShared>,
    number: usize,
    random: StdRng,
    token: String,
    client: reqwest::Client,
}

enum PostOutcome {
    Settled,
    Unknown,
}

impl Writer {
    pub fn new(desk: Arc<WriterShared>, number: usize, seed: u64) -> Result<Self, RunError> {
        let token = secrets::token(&format!("service-{number}"), None, Some(Role::Service))?;
        let client = desk.http.clone();
        let random = StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(number as u64));
        Ok(Self { desk, number, random, token, client })
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// Runs until `closed` is set.
    pub async fn run(mut self) {
        let mut n = 0;
        while !self.desk.closed.load(Ordering::SeqCst) {
            while self.desk.hushed.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(20)).await;
            }
            n += 1;
            match self.random.random_range(0..100) {
                0..2 => {
                    let wish = cast::wish(&mut self.random, self.number, n);
                    let wish = cast::spoil(&mut self.random, wish);
                    self.announce(&wish);
                    self.settle(&wish).await;
                }
                2..12 => {
                    let count = self.random.random_range(2..25);
                    let batch = (0..count).map(|at| cast::wish(&mut self.random, self.number, n + at).with_key_field()).collect();
                    n += count;
                    self.settle_batch(batch).await;
                }
                _ => self.one(n).await,
            }
            let pause = self.random.random_range(0..30);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn one(&mut self, n: u64) {
        let wish = cast::wish(&mut self.random, self.number, n);
        self.announce(&wish);
        self.settle(&wish).await;
        if wish.key.is_some() && self.random.random_bool(0.1) {
            // Posted again, at another hub: the answer must have the same number.
            self.settle(&wish).await;
        }
        if wish.key.is_some() && self.random.random_bool(0.02) {
            let other = wish.other_body();
            self.announce(&other);
            self.settle(&other).await;
        }
    }

    fn announce(&self, wish: &PostWish) {
        let (title, audience, hash) = (wish.title.clone(), wish.audience.clone(), wish.hash.clone());
        self.desk.book.note(RunFact::Wish { title, audience, hash, replay: wish.replay });
    }

    fn hub(&mut self) -> usize {
        let count = self.desk.addresses.len();
        let hub = self.random.random_range(0..count);
        if hub == self.desk.avoided.load(Ordering::SeqCst) { (hub + 1) % count } else { hub }
    }

    /// Repeats until the outcome is known; without a key it tries once.
    async fn settle(&mut self, wish: &PostWish) {
        while let PostOutcome::Unknown = self.attempt(wish).await {
            if wish.key.is_none() && wish.is_valid {
                return;
            }
            let pause = self.random.random_range(50..300);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn attempt(&mut self, wish: &PostWish) -> PostOutcome {
        let (hub, op) = (self.hub(), self.desk.book.number());
        let request = self.client.post(format!("http://{}/api/internal/notify", self.desk.addresses[hub])).bearer_auth(&self.token);
        let request = written(request, wish);
        self.desk.book.note(RunFact::PostInvoke { op, title: wish.title.clone(), hub });
        let answer = answer(request).await;
        self.note(op, &wish.title, &answer, None)
    }

    async fn settle_batch(&mut self, batch: Vec<PostWish>) {
        // A batch is all or nothing, and safe to repeat only when every item has a key.
        let batch: Vec<PostWish> = batch.into_iter().filter(|wish| wish.key.is_some()).collect();
        if batch.is_empty() {
            return;
        }
        batch.iter().for_each(|wish| self.announce(wish));
        let (kind, body) = self.written_batch(&batch);
        loop {
            let hub = self.hub();
            let ops: Vec<u64> = batch.iter().map(|_| self.desk.book.number()).collect();
            for (wish, op) in batch.iter().zip(&ops) {
                self.desk.book.note(RunFact::PostInvoke { op: *op, title: wish.title.clone(), hub });
            }
            let request = self.client.post(format!("http://{}/api/internal/notify/batch", self.desk.addresses[hub]));
            let answer = answer(request.bearer_auth(&self.token).header("content-type", kind).body(body.clone())).await;
            let mut is_known = true;
            for (at, (wish, op)) in batch.iter().zip(&ops).enumerate() {
                is_known &= matches!(self.note(*op, &wish.title, &answer, Some(at)), PostOutcome::Settled);
            }
            if is_known {
                return;
            }
            let pause = self.random.random_range(50..300);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// A list, NDJSON lines, or CloudEvents.
    fn written_batch(&mut self, batch: &[PostWish]) -> (&'static str, String) {
        let plain = || batch.iter().map(PostWish::json).collect::<Vec<_>>();
        match self.random.random_range(0..3) {
            0 => ("application/x-ndjson", plain().join("\n")),
            1 => {
                let events: Vec<String> = batch.iter().filter_map(PostWish::event).collect();
                ("application/cloudevents-batch+json", format!("[{}]", events.join(",")))
            }
            _ => ("application/json", format!("{{\"items\":[{}]}}", plain().join(","))),
        }
    }

    /// Records the outcome of an attempt. A definite no that may be a yes later counts as a no of this attempt.
    fn note(&self, op: u64, title: &str, answer: &Result<(u16, Value), String>, item: Option<usize>) -> PostOutcome {
        let title = title.to_owned();
        let (fact, outcome) = match answer {
            Ok((200 | 201, body)) => {
                let receipt = item.map_or(body, |at| body.get("items").and_then(|items| items.get(at)).unwrap_or(&Value::Null));
                if body["by_lines"] == true && receipt["seq"].is_null() {
                    // Lines are answered as they are appended; the outcome of the rest is unknown.
                    self.desk.book.note(RunFact::PostInfo { op, title, why: "no line for it".to_owned() });
                    return PostOutcome::Unknown;
                }
                let seq = receipt["seq"].as_i64().unwrap_or(-1);
                (RunFact::PostOk { op, title, seq, id: receipt["id"].as_str().unwrap_or("none").to_owned() }, PostOutcome::Settled)
            }
            Ok((status, body)) => {
                let code = body["code"].as_str().unwrap_or("none");
                let why = format!("{status} {code}");
                match *status {
                    429 => (RunFact::PostFail { op, title, why }, PostOutcome::Unknown),
                    400..500 => (RunFact::PostFail { op, title, why }, PostOutcome::Settled),
                    // These two codes mean that nothing was appended.
                    503 if matches!(code, "overloaded" | "unavailable") => (RunFact::PostFail { op, title, why }, PostOutcome::Unknown),
                    _ => (RunFact::PostInfo { op, title, why }, PostOutcome::Unknown),
                }
            }
            Err(why) => (RunFact::PostInfo { op, title, why: why.clone() }, PostOutcome::Unknown),
        };
        self.desk.book.note(fact);
        outcome
    }
}

/// The request for one notification, in its form.
fn written(request: reqwest::RequestBuilder, wish: &PostWish) -> reqwest::RequestBuilder {
    match (wish.form, wish.event(), wish.attributes()) {
        (PostForm::Event, Some(event), _) => request.header("content-type", "application/cloudevents+json").body(event),
        (PostForm::EventInHeaders, _, Some(attributes)) => {
            let attributes = attributes.into_iter().map(|(name, json)| (format!("ce-{name}"), in_header(&json)));
            let request = attributes.fold(request, |request, (name, value)| request.header(name, value));
            request.header("content-type", "application/json").body(wish.data().to_owned())
        }
        _ => {
            let request = wish.key.iter().fold(request, |request, key| request.header("idempotency-key", key));
            request.header("content-type", "application/json").body(wish.json())
        }
    }
}

/// A JSON value as a header carries it: a string without its quotes, percent-encoded.
fn in_header(json: &str) -> String {
    let text = serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned());
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%');
    text.bytes().map(|byte| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Status and body, or why there is none.
pub async fn answer(request: reqwest::RequestBuilder) -> Result<(u16, Value), String> {
    let response = request.timeout(ANSWER_LIMIT).send().await.map_err(|error| format!("no answer: {}", error.without_url()))?;
    let status = response.status().as_u16();
    let kind = response.headers().get("content-type").and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if kind.starts_with("application/x-ndjson") {
        let text = response.text().await.map_err(|error| format!("{status}, and no end: {}", error.without_url()))?;
        let lines: Vec<Value> = text.lines().map_while(|line| serde_json::from_str(line).ok()).collect();
        return Ok((status, json!({ "by_lines": true, "items": lines })));
    }
    let body = response.json().await.map_err(|error| format!("{status}, and no body: {}", error.without_url()))?;
    Ok((status, body))
}
