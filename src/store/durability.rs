//! Watches the settings that keep committed rows in a crash, as a 201 promises.
//!
//! The settings are checked at start, on each new connection, and with each heartbeat. `synchronous_commit` belongs to
//! a session: the hub's sessions set it themselves, so a change of the server's default does not reach them. `fsync`
//! and `full_page_writes` belong to the server: while one is off, the hub appends nothing and is not ready.

use std::sync::{Mutex, PoisonError};

use sqlx::PgConnection;

/// The unsafe settings. Shared by the connections, maintenance and the readiness check.
#[derive(Debug, Default)]
pub struct Durability(Mutex<DurabilityState>);

#[derive(Debug, Default)]
struct DurabilityState {
    unsafe_setting: Option<String>,
    default_is_unsafe: bool,
}

/// The settings as one connection sees them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DurabilitySettings {
    /// `synchronous_commit` of the connection.
    pub own: String,
    pub fsync: String,
    pub full_page_writes: String,
    /// `synchronous_commit` of new sessions that do not set it.
    pub default: String,
}

/// The safe values of `synchronous_commit`.
const FLUSHED: [&str; 2] = ["on", "remote_apply"];

impl Durability {
    /// The setting that makes a 201 unsafe, with its value.
    pub fn finding(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).unsafe_setting.clone()
    }

    /// Makes the commits of a new connection durable, and checks the settings of the server.
    ///
    /// # Errors
    /// `Configuration` with the name of the unsafe setting.
    pub(super) async fn secure(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        let (own, fsync, full_page_writes): (String, String, String) = sqlx::query_as(
            "SELECT set_config('synchronous_commit',
                               CASE current_setting('synchronous_commit') WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, false),
                    current_setting('fsync'), current_setting('full_page_writes')",
        )
        .persistent(false)
        .fetch_one(connection)
        .await?;
        self.judge(&own, &fsync, &full_page_writes).map_err(|finding| sqlx::Error::Configuration(finding.into()))
    }

    /// Takes the settings that a connection has read that has been open for a while.
    pub fn take(&self, now: &DurabilitySettings) {
        // The error is not needed: the state holds the finding.
        let _ = self.judge(&now.own, &now.fsync, &now.full_page_writes);
        let is_unsafe = !FLUSHED.contains(&now.default.as_str());
        let was_unsafe = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut state.default_is_unsafe, is_unsafe)
        };
        if is_unsafe && !was_unsafe {
            tracing::warn!(
                synchronous_commit = %now.default,
                "default synchronous_commit would lose commits of recado.notify in a crash; the hub's own connections override it"
            );
        }
    }

    fn judge(&self, own: &str, fsync: &str, full_page_writes: &str) -> Result<(), String> {
        let finding = if !FLUSHED.contains(&own) {
            Some(format!("synchronous_commit is {own}"))
        } else if fsync != "on" {
            Some(format!("fsync is {fsync}"))
        } else if full_page_writes != "on" {
            Some(format!("full_page_writes is {full_page_writes}"))
        } else {
            None
        };
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let was = std::mem::replace(&mut state.unsafe_setting, finding.clone());
        drop(state);
        if was != finding {
            match &finding {
                Some(finding) => {
                    tracing::error!(
                        finding,
                        "unsafe database setting: a crash would lose confirmed notifications; appending stops until it is changed"
                    )
                }
                None => tracing::info!("database settings are safe again; appending resumes"),
            }
        }
        finding.map_or(Ok(()), Err)
    }
}
