//! Runs programs that call `recado.notify` inside their own transactions.
//!
//! Some transactions are long, some are rolled back, some lose their connection.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use recado_torture_check::fact::RunFact;
use serde_json::Value;
use tokio::time::sleep;

use crate::RunError;
use crate::cast::{self, PostWish};
use crate::witness::{Call, ProducerConnection};
use crate::writers::{NONE, WriterShared};

/// Longest pause between `recado.notify` and the end of a producer's transaction.
pub const LONGEST_TRANSACTION: Duration = Duration::from_millis(1_500);

pub struct Producer {
    desk: Arc<WriterShared>,
    number: usize,
    random: StdRng,
    url: String,
    ledger: Option<ProducerConnection>,
}

impl Producer {
    pub fn new(desk: Arc<WriterShared>, number: usize, seed: u64, url: String) -> Self {
        let random = StdRng::seed_from_u64(seed.wrapping_mul(77).wrapping_add(number as u64));
        Self { desk, number, random, url, ledger: None }
    }

    /// Runs until `closed` is set.
    pub async fn run(mut self) {
        let mut n = 0;
        while !self.desk.closed.load(Ordering::SeqCst) {
            while self.desk.hushed.load(Ordering::SeqCst) {
                sleep(Duration::from_millis(20)).await;
            }
            n += 1;
            let mut wish = cast::wish(&mut self.random, 100 + self.number, n);
            // Without a key an unknown outcome could not be settled.
            wish.key = Some(format!("sql-{}-{n}", self.number));
            let (title, audience, hash) = (wish.title.clone(), wish.audience.clone(), wish.hash.clone());
            self.desk.book.note(RunFact::Wish { title, audience, hash, replay: wish.replay });
            let is_kept = !self.random.random_bool(0.1);
            while !self.attempt(&wish, is_kept).await {
                sleep(Duration::from_millis(150)).await;
            }
            let pause = self.random.random_range(0..120);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Returns `true` when the outcome is known.
    async fn attempt(&mut self, wish: &PostWish, is_kept: bool) -> bool {
        let (op, title) = (self.desk.book.number(), wish.title.clone());
        self.desk.book.note(RunFact::PostInvoke { op, title: title.clone(), hub: NONE });
        let (fact, is_known) = match self.transaction(wish, is_kept).await {
            Ok(id) if is_kept => {
                self.desk.kept.lock().unwrap_or_else(PoisonError::into_inner).push(title.clone());
                (RunFact::PostKept { op, title, id }, true)
            }
            Ok(_) => (RunFact::PostFail { op, title, why: "rolled back".to_owned() }, true),
            Err(error) => {
                self.ledger = None;
                // A transaction that was meant to be rolled back is never committed, however it ends.
                let why = error.to_string();
                if is_kept { (RunFact::PostInfo { op, title, why }, false) } else { (RunFact::PostFail { op, title, why }, true) }
            }
        };
        self.desk.book.note(fact);
        is_known
    }

    async fn transaction(&mut self, wish: &PostWish, is_kept: bool) -> Result<String, RunError> {
        let mut ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => ProducerConnection::open(&self.url).await?,
        };
        let field = |name: &str| wish.fields.iter().find(|(known, _)| *known == name).map(|(_, json)| json.as_str());
        let text = |name: &str| field(name).and_then(|json| serde_json::from_str::<String>(json).ok());
        let (user, account, message) = (text("user_id"), text("account_id"), text("message").unwrap_or_default());
        let users: Option<Vec<String>> = field("user_ids").and_then(|json| serde_json::from_str(json).ok());
        let call = Call {
            title: &wish.title,
            message: &message,
            data: field("data").unwrap_or("null"),
            user: user.as_deref(),
            users: users.as_deref(),
            account: account.as_deref(),
            everyone: field("broadcast").is_some(),
            ttl: field("ttl").and_then(|json| serde_json::from_str::<Value>(json).ok()?.as_i64()),
            replay: field("replay").is_none(),
            key: wish.key.as_deref(),
        };
        ledger.begin().await?;
        let id = ledger.notify(&call).await?;
        if self.random.random_bool(0.2) {
            let work = self.random.random_range(Duration::from_millis(10)..LONGEST_TRANSACTION);
            sleep(work).await;
        }
        if is_kept {
            ledger.commit().await?
        } else {
            ledger.rollback().await?
        }
        self.ledger = Some(ledger);
        Ok(id)
    }
}
