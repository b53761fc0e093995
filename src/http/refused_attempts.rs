//! Records refused requests to the routes of admins, without a row for each.
//!
//! Any client can cause them. So they are counted in memory by what tells them apart, and written about once a minute:
//! at most [`KINDS`] rows and one for all others, each with its count. The first refusal after a quiet minute is
//! written after a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::domain::audit::{Act, Actor, Outcome, Via};
use crate::store::audit::{self, Entry};
use crate::store::dedicated_connection::DedicatedConnection;
use crate::store::{Database, StoreError};
use crate::tasks::Stop;

/// Kinds of refused requests that are told apart between two writes. More would let a stranger fill the table.
const KINDS: usize = 10;
/// Time between two writes.
const SPACING: Duration = Duration::from_secs(60);
/// Time for which refusals are collected before the first write.
const FIRST: Duration = Duration::from_secs(1);

/// The refused requests that are not recorded yet.
#[derive(Debug, Default)]
pub struct RefusedAttempts {
    counts: Mutex<HashMap<Attempt, i32>>,
    arrived: Notify,
}

/// What tells refused requests apart. It holds no credential.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attempt {
    /// Method and pattern of the route.
    pub route: String,
    pub reason: String,
    pub who: String,
    pub user: Option<String>,
    pub address: Option<String>,
}

impl Attempt {
    fn other() -> Self {
        let reason = "further attempts that are not told apart".to_owned();
        Self { route: "other".to_owned(), reason, who: "unknown".to_owned(), user: None, address: None }
    }
}

impl RefusedAttempts {
    fn counts(&self) -> MutexGuard<'_, HashMap<Attempt, i32>> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn count(&self, attempt: Attempt, times: i32) {
        let mut counts = self.counts();
        let is_known = counts.contains_key(&attempt) || counts.len() < KINDS;
        let count = counts.entry(if is_known { attempt } else { Attempt::other() }).or_default();
        *count = count.saturating_add(times);
        drop(counts);
        self.arrived.notify_one();
    }
}

/// Records the refused requests until stopped, and then the rest.
pub async fn run(database: Database, attempts: Arc<RefusedAttempts>, mut stop: Stop) {
    let mut dedicated = DedicatedConnection::new(database, "audit");
    loop {
        tokio::select! {
            () = attempts.arrived.notified() => {}
            () = stop.wait() => break,
        }
        let begun = Instant::now();
        tokio::select! {
            () = sleep_until(begun + FIRST) => {}
            () = stop.wait() => break,
        }
        write_down(&mut dedicated, &attempts).await;
        tokio::select! {
            () = sleep_until(begun + SPACING) => {}
            () = stop.wait() => break,
        }
    }
    write_down(&mut dedicated, &attempts).await;
}

/// Writes one row for each kind. What cannot be written is counted again, and written later.
async fn write_down(dedicated: &mut DedicatedConnection, attempts: &RefusedAttempts) {
    let taken = std::mem::take(&mut *attempts.counts());
    let mut failed = false;
    for (attempt, times) in taken {
        if !failed && let Err(error) = write(dedicated, &attempt, times).await {
            tracing::warn!(%error, "refused requests to admin routes are not in the audit yet; retrying");
            dedicated.discard();
            failed = true;
        }
        if failed {
            attempts.count(attempt, times);
        }
    }
    // Refusals are rare: the connection is opened for them, and not kept.
    dedicated.discard();
}

async fn write(dedicated: &mut DedicatedConnection, attempt: &Attempt, times: i32) -> Result<(), StoreError> {
    let Attempt { route, reason, who, user, address } = attempt;
    let actor = Actor { who: who.clone(), via: Via::Rest, address: address.clone() };
    let entry = Entry {
        user: user.as_deref(),
        outcome: Outcome::Refused,
        reason: Some(reason),
        count: times,
        details: json!({}),
        ..Entry::done(Act::AdminRequest, route)
    };
    audit::record(dedicated.get().await?, Some(&actor), &entry).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(address: usize) -> Attempt {
        Attempt { address: Some(address.to_string()), ..Attempt::other() }
    }

    #[test]
    fn a_flood_from_many_addresses_is_counted_in_few_rows() {
        let attempts = RefusedAttempts::default();
        for address in 0..1000 {
            attempts.count(attempt(address), 1);
            attempts.count(attempt(0), 1);
        }
        let counts = attempts.counts();
        assert_eq!(counts.len(), KINDS + 1);
        assert_eq!((counts.values().sum::<i32>(), counts[&attempt(0)]), (2000, 1001));
    }
}
