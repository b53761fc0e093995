//! The words in which the tests are told.

mod browser;
mod client;
pub mod cluster;
mod contract;
mod database;
pub mod disk;
mod event_source;
pub mod host;
mod hub;
mod inside;
mod load;
pub mod net;
mod note;
mod owner;
mod plans;
mod player;
mod points;
mod postgres;
pub mod provider;
mod proxy;
pub mod storm;
mod upstream_history;

pub use browser::Browser;
pub use client::{Asked, Client, Ended, Frame, Notification};
pub use contract::{document, fits, matches_document};
pub use database::TestDb;
pub use event_source::Page;
pub use hub::{Hub, HubBuilder, SECRET, brief_token, http_client, run_to_the_end, service_token, token};
pub use inside::inside;
pub use load::{Addresses, Device, Fan, LogRow, Writers, log_rows, mixed, nothing_is_lost};
pub use note::{Answer, Note, Receipt, note};
pub use owner::{LONG, Owner, command, give, message, provider, user, want};
pub use plans::{Listening, Plan, tell_plans};
pub use points::Points;
pub use postgres::DurableServer;
pub use provider::{BROKEN_FRAMES, Behaviour, Door, Ending, FakeProvider, ProviderFile, Record, SignIn};
pub use proxy::{Cut, Flow, Proxy};
pub use upstream_history::{CommandRow, Entry, Heard, Link, SignedIn, Stream, Term, Told, UpstreamHistory};

use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// How long a test waits for what should come at once. Long, because the machine may be busy; a test that passes does
/// not wait for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Asks until there is an answer, at most `limit`.
pub async fn eventually<T>(what: &str, limit: Duration, mut probe: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await {
            return found;
        }
        assert!(Instant::now() < end, "not within {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
}

/// Tests that load the machine take turns: two at once would measure each other.
pub async fn heavy() -> SemaphorePermit<'static> {
    static TURN: Semaphore = Semaphore::const_new(1);
    TURN.acquire().await.unwrap()
}
