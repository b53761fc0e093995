//! Creates the tasks for provider sessions, connects their channels and starts them.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::cipher::Cipher;
use super::dial::Dialer;
use super::dial_rate::DialRate;
use super::message_appender::MessageAppender;
use super::pending_writes::PendingWrites;
use super::provider::Providers;
use super::session::SessionContext;
use super::session_store::SessionStore;
use super::session_writer::SessionWriter;
use super::supervisor::{self, Supervisor, SupervisorLimits};
use crate::domain::InstanceId;
use crate::outgoing::LeaseRule;
use crate::store::Database;
use crate::store::listener::UpstreamHints;
use crate::store::log_watermark::LogWatermark;
use crate::tasks::{Stop, TaskName, Tasks};

/// Capacity of a hint channel. When full, the task still polls every second.
const HINTS: usize = 256;

/// The parameters of [`start`].
pub struct UpstreamSetup {
    pub database: Database,
    pub instance: InstanceId,
    pub providers: Providers,
    pub keys: Vec<[u8; 32]>,
    pub seen: Arc<LogWatermark>,
    pub lease: Duration,
    pub starts_per_second: u32,
    pub most_sessions: usize,
}

/// Why the tasks cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the crypto library rejected the key for session ids")]
    Key,
    #[error("could not set up TLS: {0}")]
    Tls(#[from] rustls::Error),
}

/// Starts the tasks and returns the channels for hints. `holding` stops the sessions; `writing`, given later, stops the
/// tasks that write for them.
///
/// # Errors
/// See [`StartError`].
pub fn start(setup: UpstreamSetup, tasks: &Tasks, holding: Stop, writing: &Stop) -> Result<UpstreamHints, StartError> {
    let UpstreamSetup { database, instance, providers, keys, seen, lease, starts_per_second, most_sessions } = setup;
    let session_store = Arc::new(SessionStore::default());
    let pending_writes = Arc::new(PendingWrites::default());
    let (message_handle, message_appender) = MessageAppender::new(database.clone(), instance, seen);
    let shared = Arc::new(SessionContext {
        dialer: Dialer::new()?,
        cipher: Cipher::new(&keys).map_err(|_| StartError::Key)?,
        dial_rate: Arc::new(DialRate::new(starts_per_second)),
        pending_writes: Arc::clone(&pending_writes),
        session_store: Arc::clone(&session_store),
        recorder: message_handle,
    });
    let limits = SupervisorLimits { lease: LeaseRule { lease }, most: most_sessions };
    let (to_supervisor, for_supervisor) = mpsc::channel(HINTS);
    let (to_writer, for_writer) = mpsc::channel(HINTS);
    let session_writer = SessionWriter::new(database.clone(), instance, Arc::clone(&session_store), pending_writes);
    let supervisor = Supervisor::new(database, instance, providers, shared, limits, tasks.clone());
    tasks.essential(TaskName::ProviderSupervisor, supervisor.run(for_supervisor, holding));
    tasks.essential(TaskName::SessionWriter, session_writer.run(for_writer, writing.clone()));
    tasks.essential(TaskName::MessageAppender, message_appender.run(writing.clone()));
    tasks.essential(TaskName::ProviderWatch, supervisor::watch(session_store, writing.clone()));
    Ok(vec![to_supervisor, to_writer])
}
