//! Runs the owners of one consumer: services that follow the log by HTTP, one at a time.
//!
//! They ask any hub, work for a moment, and acknowledge a batch or a part of it. As long as services post, some stop
//! for longer than their lease and acknowledge then; some die, and another one continues under its own name.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recado::domain::Role;
use recado_torture_check::fact::RunFact;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::writers::{WriterShared, answer};
use crate::{RunError, secrets};

pub const CONSUMER: &str = "follower";
/// Seconds of a lease. An owner that stops does so for longer.
const LEASE: u64 = 3;

/// What is known of the consumer, over all of its owners.
#[derive(Debug, Default)]
pub struct ConsumerProgress {
    /// Acknowledged for certain.
    acked: AtomicI64,
    newest_term: AtomicI64,
}

pub struct ConsumerOwner {
    desk: Arc<WriterShared>,
    progress: Arc<ConsumerProgress>,
    number: usize,
    lives: usize,
    random: StdRng,
    token: String,
}

impl ConsumerOwner {
    pub fn new(desk: Arc<WriterShared>, progress: Arc<ConsumerProgress>, number: usize, seed: u64) -> Result<Self, RunError> {
        let token = secrets::token(&format!("follower-{number}"), None, Some(Role::Admin))?;
        let random = StdRng::seed_from_u64(seed.wrapping_mul(313).wrapping_add(number as u64));
        Ok(Self { desk, progress, number, lives: 0, random, token })
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// Runs until it is dropped.
    pub async fn run(mut self) {
        while !matches!(self.ask(true, "", &json!({})).await, Ok((200 | 201, _))) {
            sleep(Duration::from_millis(200)).await;
        }
        loop {
            let pause = match self.turn().await {
                Some(()) => self.random.random_range(0..40),
                None => self.random.random_range(100..400),
            };
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Fetches a batch and deals with it. `None` if there was none.
    async fn turn(&mut self) -> Option<()> {
        let owner = format!("owner-{}-{}", self.number, self.lives);
        let after = self.progress.acked.load(Ordering::SeqCst);
        let limit = self.random.random_range(1..200);
        let wish = json!({ "owner": owner, "limit": limit, "wait": 2, "lease": LEASE });
        let Ok((200, body)) = self.ask(false, "fetch", &wish).await else { return None };
        // Another owner has the lease.
        let term = body["term"].as_i64()?;
        let row = |record: &Value| Some((record["seq"].as_i64()?, record["id"].as_str()?.to_owned()));
        let rows: Vec<(i64, String)> = body["records"].as_array()?.iter().filter_map(row).collect();
        let through = body["through"].as_i64()?;
        self.progress.newest_term.fetch_max(term, Ordering::SeqCst);
        let middle = rows.get(rows.len() / 2).map(|(seq, _)| *seq);
        self.desk.book.note(RunFact::ConsumerBatch { owner: owner.clone(), term, after, rows, through });
        // The pauses let the log grow faster than the consumer follows it. After the last post it has to arrive.
        let is_careless = !self.desk.closed.load(Ordering::SeqCst);
        match self.random.random_range(0..100) {
            // Dies with its work.
            0..4 if is_careless => {
                self.lives += 1;
                return Some(());
            }
            // Another owner takes over meanwhile, and this one does not know.
            4..14 if is_careless => sleep(Duration::from_secs(LEASE) + Duration::from_millis(self.random.random_range(200..2_000))).await,
            _ => sleep(Duration::from_millis(self.random.random_range(0..30))).await,
        }
        let part = middle.filter(|_| self.random.random_bool(0.1));
        self.ack(&owner, term, part.unwrap_or(through)).await;
        Some(())
    }

    async fn ack(&mut self, owner: &str, term: i64, seq: i64) {
        let newest = self.progress.newest_term.load(Ordering::SeqCst);
        let answer = match self.ask(false, "ack", &json!({ "term": term, "seq": seq })).await {
            Ok((200, body)) => {
                self.progress.acked.fetch_max(body["acked"].as_i64().unwrap_or(0), Ordering::SeqCst);
                "acked".to_owned()
            }
            Ok((409, body)) => body["code"].as_str().unwrap_or("none").to_owned(),
            Ok(_) | Err(_) => "unknown".to_owned(),
        };
        self.desk.book.note(RunFact::ConsumerAck { owner: owner.to_owned(), term, seq, newest, answer });
    }

    async fn ask(&mut self, creates: bool, verb: &str, body: &Value) -> Result<(u16, Value), String> {
        let hub = self.random.random_range(0..self.desk.addresses.len());
        let base = format!("http://{}/api/internal/consumers/{CONSUMER}", self.desk.addresses[hub]);
        let request = if creates { self.desk.http.put(base) } else { self.desk.http.post(format!("{base}/{verb}")) };
        answer(request.bearer_auth(&self.token).json(body)).await
    }
}
