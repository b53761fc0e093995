//! How connections are made, and the pool of readers.

use std::str::FromStr;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres};

use super::StoreError;

/// Longest wait for a connection to open.
pub const CONNECT_LIMIT: Duration = Duration::from_secs(3);
/// Longest wait for a reader to become free, and for its answer.
const READ_LIMIT: Duration = Duration::from_secs(10);
/// Longest wait for a small question that a health check or a request hangs on.
pub const ASK_LIMIT: Duration = Duration::from_secs(3);

/// Where the database is, and the settings that each connection to it carries.
#[derive(Debug, Clone)]
pub struct Database {
    options: PgConnectOptions,
    listen: PgConnectOptions,
    role: Option<&'static str>,
}

impl Database {
    /// # Errors
    /// When a URL is none of PostgreSQL's.
    pub fn parse(url: &str, listen_url: Option<&str>) -> Result<Self, sqlx::Error> {
        let options = PgConnectOptions::from_str(url)?;
        let listen = listen_url.map_or_else(|| Ok(options.clone()), PgConnectOptions::from_str)?;
        Ok(Self { options, listen, role: None })
    }

    /// Makes every later connection act under this role.
    #[must_use]
    pub fn under_role(mut self, role: Option<&'static str>) -> Self {
        self.role = role;
        self
    }

    /// One connection, named so that an administrator can tell them apart in `pg_stat_activity`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server cannot be reached, [`StoreError::TimedOut`] after [`CONNECT_LIMIT`].
    pub async fn connect(&self, name: &str) -> Result<PgConnection, StoreError> {
        limited(CONNECT_LIMIT, PgConnection::connect_with(&self.dressed(&self.options, name))).await
    }

    pub(super) fn listen_options(&self) -> PgConnectOptions {
        self.dressed(&self.listen, "listener")
    }

    /// The settings keep a stopped hub from stalling the others, and a stuck statement from living for ever.
    fn dressed(&self, options: &PgConnectOptions, name: &str) -> PgConnectOptions {
        let mut settings = vec![
            // Shorter than a request's deadline, so that a lock that is not had is a definite "not appended".
            ("lock_timeout", "3s"),
            ("statement_timeout", "10s"),
            ("idle_in_transaction_session_timeout", "1s"),
            // The plan for unknown parameters is the right one for every query here; custom plans of partitioned tables cost 10 ms each.
            ("plan_cache_mode", "force_generic_plan"),
            // Compiling a plan takes a hundred times what any query here takes.
            ("jit", "off"),
            ("tcp_keepalives_idle", "10"),
            ("tcp_keepalives_interval", "5"),
            ("tcp_keepalives_count", "3"),
        ];
        if let Some(role) = self.role {
            settings.push(("role", role));
        }
        options
            .clone()
            .application_name(&format!("recado {name}"))
            .options(settings)
            .log_statements(tracing::log::LevelFilter::Trace)
            .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1))
    }

    /// A pool for reading, named like a connection.
    pub fn reader(&self, name: &str, connections: u32) -> Reader {
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .min_connections(0)
            .acquire_timeout(READ_LIMIT)
            .test_before_acquire(false)
            .max_lifetime(Duration::from_secs(1800))
            // What is read in order is read from an index in that order, and stops at the page's size. Where most topics have few
            // rows, the planner would rather gather all rows of a topic and sort them: those of a busy user are the whole log.
            .connect_lazy_with(self.dressed(&self.options, name).options([("enable_sort", "off")]));
        Reader { pool }
    }
}

/// Runs a database call for at most `limit`.
///
/// # Errors
/// The call's own, or [`StoreError::TimedOut`]; the connection must not be used again after that.
pub async fn limited<T>(limit: Duration, call: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, call).await {
        Ok(result) => Ok(result?),
        Err(_) => Err(StoreError::TimedOut(limit)),
    }
}

/// A pool of readers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: PgPool,
}

impl Reader {
    /// # Errors
    /// [`StoreError::Unavailable`] when none becomes free in time or the server cannot be reached.
    pub async fn checkout(&self) -> Result<Checkout, StoreError> {
        // Boxed: to open a connection takes 14 KiB of state, which every request that may read would hold and move about.
        let connection = Box::pin(self.pool.acquire()).await?;
        Ok(Checkout { connection: Some(connection), clean: false })
    }

    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// A borrowed reader. Goes back to the pool only when [`Checkout::done`] says that every answer was read; otherwise
/// it is closed, because a late answer would be taken for that of the next question.
pub struct Checkout {
    connection: Option<PoolConnection<Postgres>>,
    clean: bool,
}

impl Checkout {
    pub fn connection(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect("only drop takes the connection out")
    }

    pub fn done(mut self) {
        self.clean = true;
    }
}

impl Drop for Checkout {
    fn drop(&mut self) {
        if !self.clean
            && let Some(connection) = self.connection.take()
        {
            drop(connection.detach());
        }
    }
}
