//! Makes the parts of the room that move, joins them and starts their tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::cipher::Cipher;
use super::clock::LeaseRule;
use super::dial::Dialer;
use super::gate::Gate;
use super::holdings::Holdings;
use super::ledger::Ledger;
use super::provider::Providers;
use super::recorder::Recorder;
use super::scribe::Scribe;
use super::session::Outward;
use super::supervisor::{self, Limits, Supervisor};
use crate::domain::InstanceId;
use crate::store::Database;
use crate::store::listener::UpstreamHints;
use crate::store::seen::Seen;
use crate::tasks::{Stop, Tasks};

/// The name of the task that gives the sessions back when the hub stops; the others of the room end after it.
pub const SUPERVISOR_TASK: &str = "upstream supervisor";
/// Hints that one task has not looked at. Full: it looks by itself each second.
const HINTS: usize = 256;

/// What the room is given.
pub struct Setup {
    pub database: Database,
    pub instance: InstanceId,
    pub providers: Providers,
    pub key: [u8; 32],
    pub seen: Arc<Seen>,
    pub lease: Duration,
    pub starts_per_second: u32,
    pub most_sessions: usize,
}

/// Why the room cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the key of the session ids is not taken by the crypto library")]
    Key,
    #[error("TLS cannot be set up: {0}")]
    Tls(#[from] rustls::Error),
}

/// Starts the room's tasks and returns to whom hints go. `holding` stops the sessions; `writing` what they hand on, later.
///
/// # Errors
/// See [`StartError`].
pub fn start(setup: Setup, tasks: &Tasks, holding: Stop, writing: &Stop) -> Result<UpstreamHints, StartError> {
    let Setup { database, instance, providers, key, seen, lease, starts_per_second, most_sessions } = setup;
    let holdings = Arc::new(Holdings::default());
    let ledger = Arc::new(Ledger::default());
    let (recorder_handle, recorder) = Recorder::new(database.clone(), instance, seen);
    let shared = Arc::new(Outward {
        dialer: Dialer::new()?,
        cipher: Cipher::new(&key).map_err(|_| StartError::Key)?,
        gate: Arc::new(Gate::new(starts_per_second)),
        ledger: Arc::clone(&ledger),
        holdings: Arc::clone(&holdings),
        recorder: recorder_handle,
    });
    let limits = Limits { lease: LeaseRule { lease }, most: most_sessions };
    let (to_supervisor, for_supervisor) = mpsc::channel(HINTS);
    let (to_scribe, for_scribe) = mpsc::channel(HINTS);
    let scribe = Scribe::new(database.clone(), instance, Arc::clone(&holdings), ledger);
    let supervisor = Supervisor::new(database, instance, providers, shared, limits, tasks.clone());
    tasks.essential(SUPERVISOR_TASK, supervisor.run(for_supervisor, holding));
    tasks.essential("upstream scribe", scribe.run(for_scribe, writing.clone()));
    tasks.essential("upstream recorder", recorder.run(writing.clone()));
    tasks.essential("upstream watch", supervisor::watch(holdings, writing.clone()));
    Ok(vec![to_supervisor, to_scribe])
}
