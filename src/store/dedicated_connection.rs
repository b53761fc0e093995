//! Owns one database connection for one task and discards it at the first doubt.

use sqlx::PgConnection;
use tokio::time::Instant;

use super::liveness::{TRUSTED_FOR, alive_or};
use super::{Database, StoreError};

/// A connection with one owner. It is opened when first needed, and again after it was discarded.
pub struct DedicatedConnection {
    database: Database,
    name: &'static str,
    connection: Option<PgConnection>,
    used_at: Instant,
}

impl DedicatedConnection {
    pub fn new(database: Database, name: &'static str) -> Self {
        Self { database, name, connection: None, used_at: Instant::now() }
    }

    /// Returns the connection, after a liveness check if it was idle. An error means that no statement was sent.
    ///
    /// # Errors
    /// When the connection has to be opened and that fails. The next call tries again.
    pub async fn get(&mut self) -> Result<&mut PgConnection, StoreError> {
        let open = match self.connection.take() {
            Some(open) if self.used_at.elapsed() < TRUSTED_FOR => open,
            Some(idle) => alive_or(idle, self.name, self.database.connect(self.name)).await?,
            None => self.database.connect(self.name).await?,
        };
        self.used_at = Instant::now();
        Ok(self.connection.insert(open))
    }

    /// Same, for writes that are confirmed as stored. Refused while the server's settings would lose them in a crash.
    ///
    /// # Errors
    /// As [`DedicatedConnection::get`], and [`StoreError::Unavailable`] with the setting's name. Nothing was sent.
    pub async fn get_durable(&mut self) -> Result<&mut PgConnection, StoreError> {
        if let Some(finding) = self.database.durability().and_then(|durability| durability.finding()) {
            return Err(StoreError::Unavailable(sqlx::Error::Configuration(finding.into())));
        }
        self.get().await
    }

    /// Drops the connection without a message to the server. After a missed limit the server may still be running our
    /// last statement, and would read no message before it is done.
    pub fn discard(&mut self) {
        self.connection = None;
    }
}
