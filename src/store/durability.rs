//! Watches the settings that keep committed rows in a crash, as a 201 promises.
//!
//! The settings are checked at start, on each new connection, and every few seconds. `synchronous_commit` belongs to a
//! session: the hub's sessions set it themselves, so a change of the server's default does not reach them. `fsync` and
//! `full_page_writes` belong to the server: while one is off, the hub appends nothing and is not ready.

use std::sync::{Mutex, PoisonError};

use sqlx::PgConnection;

use super::StoreError;
use super::time_limit::{ASK_LIMIT, limited};

/// The unsafe settings. Shared by the connections, maintenance and the readiness check.
#[derive(Debug, Default)]
pub struct Durability(Mutex<DurabilityState>);

#[derive(Debug, Default)]
struct DurabilityState {
    unsafe_setting: Option<String>,
    default_is_unsafe: bool,
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

    /// Checks the settings again, on a connection that has been open for a while.
    ///
    /// # Errors
    /// When the database is unavailable or slow.
    pub async fn look(&self, connection: &mut PgConnection) -> Result<(), StoreError> {
        let now = sqlx::query_as(
            "SELECT current_setting('synchronous_commit'), current_setting('fsync'), current_setting('full_page_writes'),
                    (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit')",
        )
        .fetch_one(connection);
        let (own, fsync, full_page_writes, default): (String, String, String, String) = limited(ASK_LIMIT, now).await?;
        // The error is not needed: the state holds the finding.
        let _ = self.judge(&own, &fsync, &full_page_writes);
        let is_unsafe = !FLUSHED.contains(&default.as_str());
        let was_unsafe = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut state.default_is_unsafe, is_unsafe)
        };
        if is_unsafe && !was_unsafe {
            tracing::warn!(
                synchronous_commit = %default,
                "default synchronous_commit would lose commits of recado.notify in a crash; the hub's own connections override it"
            );
        }
        Ok(())
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
