//! What `recado bench outbox` takes for a business: small transactions of its own, some of which notify.
//!
//! Its table stands in the bench's own schema, so these queries are plain texts.

use std::time::Duration;

use sqlx::PgConnection;

use super::database::limited;
use super::{Database, StoreError};

/// Longest wait for one statement.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes the table: a row a client, so that nobody waits for another's row.
///
/// # Errors
/// When the database is away, or the user of the connection may not make a schema.
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
/// When the database is away.
pub async fn unmake(database: &Database) -> Result<(), StoreError> {
    let mut connection = database.connect("bench").await?;
    limited(LIMIT, sqlx::raw_sql("DROP SCHEMA IF EXISTS recado_bench CASCADE").execute(&mut connection)).await?;
    Ok(())
}

/// One client of the business, with a connection of its own.
pub struct Business {
    connection: PgConnection,
    client: i64,
}

impl Business {
    /// # Errors
    /// When the database is away.
    pub async fn connect(database: &Database, client: u32) -> Result<Self, StoreError> {
        let mut connection = database.connect("bench").await?;
        let settings = "SET idle_in_transaction_session_timeout = 0; SET statement_timeout = 0";
        limited(LIMIT, sqlx::raw_sql(settings).execute(&mut connection)).await?;
        Ok(Self { connection, client: i64::from(client) })
    }

    /// BEGIN and one UPDATE; with data also a call of `recado.notify`, to this user.
    ///
    /// # Errors
    /// When the database is away.
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

    /// # Errors
    /// When the database is away.
    pub async fn commit(&mut self) -> Result<(), StoreError> {
        limited(LIMIT, sqlx::raw_sql("COMMIT").execute(&mut self.connection)).await?;
        Ok(())
    }
}
