//! Provides the vocabulary of the tests: hubs, databases, clients, faults and providers.

mod browser;
mod client;
pub mod cluster;
mod collector;
mod contract;
mod database;
pub mod disk;
mod event_source;
pub mod host;
mod hub;
mod inbox;
mod inside;
pub mod issuer;
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
mod receiver;
pub mod storm;
mod tls;

pub use browser::Browser;
pub use client::{ClientBuilder, ClientEnd, ClientNotification, ClientSawFrame, TestClient, word};
pub use collector::{Collector, GotSpan};
pub use contract::{document, fits, frame_matches, frames_document, matches_document};
pub use database::TestDb;
pub use event_source::EventSourcePage;
pub use hub::{HubBuilder, SECRET, TestHub, brief_token, http_client, run_to_the_end, service_token, token};
pub use inbox::{InboxDevice, InboxStream, InboxTransport, ToldCounts, inbox_request};
pub use inside::inside;
pub use load::{Addresses, Fan, LoadDevice, LoggedRow, Writers, log_rows, mixed, nothing_is_lost};
pub use note::{Note, PostAnswer, PostReceipt, note};
pub use owner::{LONG, Owner, command, give, message, provider, user, want};
pub use plans::{ExecutedPlan, PlanListener, tell_plans};
pub use points::Points;
pub use postgres::DurableServer;
pub use provider::{BROKEN_FRAMES, Behaviour, Door, FakeProvider, ProviderFile, ProviderRecord, SignInAnswer, SocketEnd};
pub use proxy::{Cut, ProxyFlow, TestProxy};
pub use receiver::{GotPost, Receiver, ReceiverAnswer};
pub use tls::behind_tls;

use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// How long a test waits for something that should happen at once. Long, because the machine may be busy; a test that
/// passes does not wait for it.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Probes until there is an answer, at most for `limit`.
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
