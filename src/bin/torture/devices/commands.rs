//! What a device wants to go up to the provider, and what it was told of it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use tokio::time::Instant;

use crate::book::Book;
use crate::fact::Fact;

/// Between two commands of a device, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 500..2_500;
/// Who asks again waits for so long, and asks for so many: a connection may say sixty things a minute.
const AGAIN: (Duration, usize) = (Duration::from_secs(3), 5);

pub struct Commands {
    user: String,
    client: String,
    next: u32,
    due: Instant,
    untold: BTreeSet<String>,
    /// How many are untold, for whoever waits for that.
    pub open: Arc<AtomicUsize>,
}

impl Commands {
    pub fn of(user: &str, client: &str) -> Self {
        let (user, client) = (user.to_owned(), client.to_owned());
        Self { user, client, next: 0, due: Instant::now(), untold: BTreeSet::new(), open: Arc::default() }
    }

    /// What is to be said now: a new command; or, with `again`, those of which nothing is known.
    pub fn due(&mut self, book: &Book, random: &mut StdRng, again: bool) -> Vec<String> {
        if Instant::now() < self.due {
            return Vec::new();
        }
        if again {
            self.due = Instant::now() + AGAIN.0;
            return self.untold.iter().take(AGAIN.1).map(|id| frame(id)).collect();
        }
        self.due = Instant::now() + Duration::from_millis(random.random_range(PAUSE_MS));
        self.next += 1;
        let id = format!("{}-{}-{}", self.user, self.client, self.next);
        book.note(Fact::CommandGiven { user: self.user.clone(), command: id.clone() });
        let said = frame(&id);
        self.untold.insert(id);
        self.open.store(self.untold.len(), Ordering::SeqCst);
        vec![said]
    }

    pub fn told(&mut self, book: &Book, id: &str, status: &str) {
        book.note(Fact::CommandTold { command: id.to_owned(), status: status.to_owned() });
        self.untold.remove(id);
        self.open.store(self.untold.len(), Ordering::SeqCst);
    }
}

fn frame(id: &str) -> String {
    format!("{{\"type\":\"bet\",\"id\":\"{id}\",\"payload\":\"{id}\"}}")
}
