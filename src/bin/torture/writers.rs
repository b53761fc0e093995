//! Services that post. An outcome that is not known is asked for again, with the same key, until it is.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recado::domain::Role;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Trouble;
use crate::book::Book;
use crate::cast::{self, Form, Wish};
use crate::fact::Fact;
use crate::secrets;

/// Above the five seconds that the contract gives the hub.
const ANSWER_LIMIT: Duration = Duration::from_secs(8);

/// What all writers share.
pub struct Desk {
    pub book: Arc<Book>,
    pub http: reqwest::Client,
    /// By hub.
    pub addresses: Vec<String>,
    /// No new wishes; those that are open are brought to an end.
    pub closed: AtomicBool,
    /// Nobody posts anything now.
    pub hushed: AtomicBool,
    /// Nobody posts to this hub now; it must learn of everything from the log.
    pub avoided: AtomicUsize,
    /// What SQL producers have committed: it has to come into the log by itself.
    pub kept: Mutex<Vec<String>>,
}

/// No hub is avoided.
pub const NONE: usize = usize::MAX;

pub struct Writer {
    desk: Arc<Desk>,
    number: usize,
    random: StdRng,
    token: String,
    client: reqwest::Client,
}

enum Outcome {
    Settled,
    Unknown,
}

impl Writer {
    pub fn new(desk: Arc<Desk>, number: usize, seed: u64) -> Result<Self, Trouble> {
        let token = secrets::token(&format!("service-{number}"), None, Some(Role::Service))?;
        let client = desk.http.clone();
        let random = StdRng::seed_from_u64(seed.wrapping_mul(1000).wrapping_add(number as u64));
        Ok(Self { desk, number, random, token, client })
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// Until the desk is closed.
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
            // Again, at another hub: the same number has to come back.
            self.settle(&wish).await;
        }
        if wish.key.is_some() && self.random.random_bool(0.02) {
            let other = wish.other_body();
            self.announce(&other);
            self.settle(&other).await;
        }
    }

    fn announce(&self, wish: &Wish) {
        let (title, audience, hash) = (wish.title.clone(), wish.audience.clone(), wish.hash.clone());
        self.desk.book.note(Fact::Wish { title, audience, hash, replay: wish.replay });
    }

    fn hub(&mut self) -> usize {
        let count = self.desk.addresses.len();
        let hub = self.random.random_range(0..count);
        if hub == self.desk.avoided.load(Ordering::SeqCst) { (hub + 1) % count } else { hub }
    }

    /// Until the outcome is known; without a key there is one try.
    async fn settle(&mut self, wish: &Wish) {
        while let Outcome::Unknown = self.attempt(wish).await {
            if wish.key.is_none() && wish.is_valid {
                return;
            }
            let pause = self.random.random_range(50..300);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn attempt(&mut self, wish: &Wish) -> Outcome {
        let (hub, op) = (self.hub(), self.desk.book.number());
        let request = self.client.post(format!("http://{}/api/internal/notify", self.desk.addresses[hub])).bearer_auth(&self.token);
        let request = written(request, wish);
        self.desk.book.note(Fact::PostInvoke { op, title: wish.title.clone(), hub });
        let answer = answer(request).await;
        self.note(op, &wish.title, &answer, None)
    }

    async fn settle_batch(&mut self, batch: Vec<Wish>) {
        // A batch is all or nothing, and safe to repeat only when every item has a key.
        let batch: Vec<Wish> = batch.into_iter().filter(|wish| wish.key.is_some()).collect();
        if batch.is_empty() {
            return;
        }
        batch.iter().for_each(|wish| self.announce(wish));
        let (kind, body) = self.written_batch(&batch);
        loop {
            let hub = self.hub();
            let ops: Vec<u64> = batch.iter().map(|_| self.desk.book.number()).collect();
            for (wish, op) in batch.iter().zip(&ops) {
                self.desk.book.note(Fact::PostInvoke { op: *op, title: wish.title.clone(), hub });
            }
            let request = self.client.post(format!("http://{}/api/internal/notify/batch", self.desk.addresses[hub]));
            let answer = answer(request.bearer_auth(&self.token).header("content-type", kind).body(body.clone())).await;
            let mut is_known = true;
            for (at, (wish, op)) in batch.iter().zip(&ops).enumerate() {
                is_known &= matches!(self.note(*op, &wish.title, &answer, Some(at)), Outcome::Settled);
            }
            if is_known {
                return;
            }
            let pause = self.random.random_range(50..300);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// A list, lines, or CloudEvents.
    fn written_batch(&mut self, batch: &[Wish]) -> (&'static str, String) {
        let plain = || batch.iter().map(Wish::json).collect::<Vec<_>>();
        match self.random.random_range(0..3) {
            0 => ("application/x-ndjson", plain().join("\n")),
            1 => {
                let events: Vec<String> = batch.iter().filter_map(Wish::event).collect();
                ("application/cloudevents-batch+json", format!("[{}]", events.join(",")))
            }
            _ => ("application/json", format!("{{\"items\":[{}]}}", plain().join(","))),
        }
    }

    /// Writes down what came of an attempt. A definite no that may be a yes later counts as a no of this attempt.
    fn note(&self, op: u64, title: &str, answer: &Result<(u16, Value), String>, item: Option<usize>) -> Outcome {
        let title = title.to_owned();
        let (fact, outcome) = match answer {
            Ok((200 | 201, body)) => {
                let receipt = item.map_or(body, |at| body.get("items").and_then(|items| items.get(at)).unwrap_or(&Value::Null));
                if body["by_lines"] == true && receipt["seq"].is_null() {
                    // Lines are answered as they are appended; the rest may be, or not.
                    self.desk.book.note(Fact::PostInfo { op, title, why: "no line for it".to_owned() });
                    return Outcome::Unknown;
                }
                let seq = receipt["seq"].as_i64().unwrap_or(-1);
                (Fact::PostOk { op, title, seq, id: receipt["id"].as_str().unwrap_or("none").to_owned() }, Outcome::Settled)
            }
            Ok((status, body)) => {
                let code = body["code"].as_str().unwrap_or("none");
                let why = format!("{status} {code}");
                match *status {
                    429 => (Fact::PostFail { op, title, why }, Outcome::Unknown),
                    400..500 => (Fact::PostFail { op, title, why }, Outcome::Settled),
                    // These two say that nothing was appended.
                    503 if matches!(code, "overloaded" | "unavailable") => (Fact::PostFail { op, title, why }, Outcome::Unknown),
                    _ => (Fact::PostInfo { op, title, why }, Outcome::Unknown),
                }
            }
            Err(why) => (Fact::PostInfo { op, title, why: why.clone() }, Outcome::Unknown),
        };
        self.desk.book.note(fact);
        outcome
    }
}

/// The request of one wish, in its form.
fn written(request: reqwest::RequestBuilder, wish: &Wish) -> reqwest::RequestBuilder {
    match (wish.form, wish.event(), wish.attributes()) {
        (Form::Event, Some(event), _) => request.header("content-type", "application/cloudevents+json").body(event),
        (Form::EventInHeaders, _, Some(attributes)) => {
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

/// A JSON value as a header has it: a string without its quotes, percent-encoded.
fn in_header(json: &str) -> String {
    let text = serde_json::from_str::<String>(json).unwrap_or_else(|_| json.to_owned());
    let is_plain = |byte: &u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'%');
    text.bytes().map(|byte| if is_plain(&byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// Status and body, or why there is none.
async fn answer(request: reqwest::RequestBuilder) -> Result<(u16, Value), String> {
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
