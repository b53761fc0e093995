//! Programs that notify by SQL, inside transactions of their own: some long, some rolled back, some torn off.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;
use tokio::time::sleep;

use crate::Trouble;
use crate::cast::{self, Wish};
use crate::fact::Fact;
use crate::witness::{Call, Ledger};
use crate::writers::{Desk, NONE};

/// What a producer does between `recado.notify` and the end of its transaction.
pub const LONGEST_TRANSACTION: Duration = Duration::from_millis(1_500);

pub struct Producer {
    desk: Arc<Desk>,
    number: usize,
    random: StdRng,
    url: String,
    ledger: Option<Ledger>,
}

impl Producer {
    pub fn new(desk: Arc<Desk>, number: usize, seed: u64, url: String) -> Self {
        let random = StdRng::seed_from_u64(seed.wrapping_mul(77).wrapping_add(number as u64));
        Self { desk, number, random, url, ledger: None }
    }

    /// Until the desk is closed.
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
            self.desk.book.note(Fact::Wish { title, audience, hash, replay: wish.replay });
            let is_kept = !self.random.random_bool(0.1);
            while !self.attempt(&wish, is_kept).await {
                sleep(Duration::from_millis(150)).await;
            }
            let pause = self.random.random_range(0..120);
            sleep(Duration::from_millis(pause)).await;
        }
    }

    /// `true`: the outcome is known.
    async fn attempt(&mut self, wish: &Wish, is_kept: bool) -> bool {
        let (op, title) = (self.desk.book.number(), wish.title.clone());
        self.desk.book.note(Fact::PostInvoke { op, title: title.clone(), hub: NONE });
        let (fact, is_known) = match self.transaction(wish, is_kept).await {
            Ok(id) if is_kept => {
                self.desk.kept.lock().unwrap_or_else(PoisonError::into_inner).push(title.clone());
                (Fact::PostKept { op, title, id }, true)
            }
            Ok(_) => (Fact::PostFail { op, title, why: "rolled back".to_owned() }, true),
            Err(error) => {
                self.ledger = None;
                // A transaction that was never to be committed is not, however it ends.
                let why = error.to_string();
                if is_kept { (Fact::PostInfo { op, title, why }, false) } else { (Fact::PostFail { op, title, why }, true) }
            }
        };
        self.desk.book.note(fact);
        is_known
    }

    async fn transaction(&mut self, wish: &Wish, is_kept: bool) -> Result<String, Trouble> {
        let mut ledger = match self.ledger.take() {
            Some(ledger) => ledger,
            None => Ledger::open(&self.url).await?,
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
