//! One dedicated connection that is thrown away at the first doubt.

use sqlx::PgConnection;

use super::{Database, StoreError};

/// A connection with one user. Opened when first needed, and again after it was discarded.
pub struct Lane {
    database: Database,
    name: &'static str,
    connection: Option<PgConnection>,
}

impl Lane {
    pub fn new(database: Database, name: &'static str) -> Self {
        Self { database, name, connection: None }
    }

    /// # Errors
    /// When it has to be opened and that fails; the next call tries again.
    pub async fn get(&mut self) -> Result<&mut PgConnection, StoreError> {
        let open = match self.connection.take() {
            Some(open) => open,
            None => self.database.connect(self.name).await?,
        };
        Ok(self.connection.insert(open))
    }

    /// Drops the connection without a word to the server: after a missed limit it may still be at work on our last
    /// statement, and nothing that we could say would be read before it is done.
    pub fn discard(&mut self) {
        self.connection = None;
    }
}
