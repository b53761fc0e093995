//! Simulates a business for `recado-bench outbox`: small transactions, some of which notify.
//!
//! The table is in the bench's own schema, so its queries are not checked at compile time.

use std::time::Duration;

use recado::store::time_limit::limited;
use recado::store::{Database, StoreError};
use sqlx::PgConnection;

/// Longest wait for one statement.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes the table. Each client has its own row, so no client waits for another's row lock.
///
/// # Errors
/// When the database is unavailable, or the database user is not allowed to make a schema.
pub async fn make(database: &Database, clients: u32) -> Result<(), StoreError> {
    let mut connection = database.connect("bench").await?;
    let table = "DROP SCHEMA IF EXISTS recado_bench CASCADE;
                 CREATE SCHEMA recado_bench;
                 CREATE TABLE recado_bench.business (client bigint PRIMARY KEY, n bigint NOT NULL) WITH (fillfactor = 10)";
    limited(LIMIT, sqlx::raw_sql(table).execute(&mut connection)).await?;
    let rows =
        sqlx::query("INSERT INTO recado_bench.business (client, n) SELECT c, 0 FROM generate_series(0, $1 - 1) c").bind(i64::from(clients));
    limited(LIMIT, rows.execute(&mut connection)).await?;
    Ok(())
}

/// Drops the table.
///
/// # Errors
/// When the database is unavailable.
pub async fn unmake(database: &Database) -> Result<(), StoreError> {
    let mut connection = database.connect("bench").await?;
    limited(LIMIT, sqlx::raw_sql("DROP SCHEMA IF EXISTS recado_bench CASCADE").execute(&mut connection)).await?;
    Ok(())
}

/// One client of the business, with its own connection.
pub struct Business {
    connection: PgConnection,
    client: i64,
}

impl Business {
    /// Opens the connection of a client.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn connect(database: &Database, client: u32) -> Result<Self, StoreError> {
        let mut connection = database.connect("bench").await?;
        let settings = "SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0";
        limited(LIMIT, sqlx::raw_sql(settings).execute(&mut connection)).await?;
        Ok(Self { connection, client: i64::from(client) })
    }

    /// Runs BEGIN and one UPDATE. With `notify` (a user and data) it also calls `recado.notify`.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn begin(&mut self, notify: Option<(&str, &str)>) -> Result<(), StoreError> {
        limited(LIMIT, sqlx::raw_sql("BEGIN").execute(&mut self.connection)).await?;
        let update = sqlx::query("UPDATE recado_bench.business SET n = n + 1 WHERE client = $1").bind(self.client);
        limited(LIMIT, update.execute(&mut self.connection)).await?;
        if let Some((user, data)) = notify {
            let call = sqlx::query("SELECT recado.notify('order_created', 'New order', 'Order #1001', $1::jsonb, user_id => $2)");
            limited(LIMIT, call.bind(data).bind(user).execute(&mut self.connection)).await?;
        }
        Ok(())
    }

    /// Commits the transaction.
    ///
    /// # Errors
    /// When the database is unavailable.
    pub async fn commit(&mut self) -> Result<(), StoreError> {
        limited(LIMIT, sqlx::raw_sql("COMMIT").execute(&mut self.connection)).await?;
        Ok(())
    }
}
