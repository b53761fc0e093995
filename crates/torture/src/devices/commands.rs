//! Draws the commands that a device sends to the provider, and tracks their results.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use recado_torture_check::fact::RunFact;
use tokio::time::Instant;

use crate::book::Recorder;

/// Pause between two commands of a device, in milliseconds.
const PAUSE_MS: std::ops::Range<u64> = 500..2_500;
/// Pause before asking again, and how many commands are asked for: a connection may send sixty frames a minute.
const AGAIN: (Duration, usize) = (Duration::from_secs(3), 5);

pub struct DeviceCommands {
    user: String,
    client: String,
    next: u32,
    due: Instant,
    untold: BTreeSet<String>,
    /// Number of commands without a result, for tasks that wait for zero.
    pub open: Arc<AtomicUsize>,
}

impl DeviceCommands {
    pub fn of(user: &str, client: &str) -> Self {
        let (user, client) = (user.to_owned(), client.to_owned());
        Self { user, client, next: 0, due: Instant::now(), untold: BTreeSet::new(), open: Arc::default() }
    }

    /// The frames to send now: a new command; or, with `again`, those without a known result.
    pub fn due(&mut self, book: &Recorder, random: &mut StdRng, again: bool) -> Vec<String> {
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
        book.note(RunFact::CommandGiven { user: self.user.clone(), command: id.clone(), sdk: false });
        let said = frame(&id);
        self.untold.insert(id);
        self.open.store(self.untold.len(), Ordering::SeqCst);
        vec![said]
    }

    pub fn told(&mut self, book: &Recorder, id: &str, status: &str) {
        book.note(RunFact::CommandTold { command: id.to_owned(), status: status.to_owned() });
        self.untold.remove(id);
        self.open.store(self.untold.len(), Ordering::SeqCst);
    }
}

fn frame(id: &str) -> String {
    format!("{{\"type\":\"bet\",\"id\":\"{id}\",\"payload\":\"{id}\"}}")
}
