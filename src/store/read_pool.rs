//! Opens a pool of connections that read, and lends them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, PgConnection, PgPool, Postgres};
use tokio::time::Instant;

use super::StoreError;
use super::database_route::Route;
use super::liveness::LastDeath;
use super::settings::{self, SessionSettings};
use crate::metrics;

/// Longest wait for a free reader, and for its answer.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// Adds the name that an administrator sees in `pg_stat_activity`. It adds no settings: poolers refuse startup
/// parameters that they do not know (see [`settings`]).
pub(super) fn named(options: &PgConnectOptions, name: &str) -> PgConnectOptions {
    options
        .clone()
        .application_name(&format!("recado {name}"))
        .extra_float_digits(None)
        .log_statements(tracing::log::LevelFilter::Trace)
        .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1))
}

/// Applies these settings to each new connection of a pool. `deaths` learns how long the server took.
pub(super) fn applying(pool: PgPoolOptions, wanted: SessionSettings, deaths: Option<Arc<LastDeath>>) -> PgPoolOptions {
    pool.after_connect(move |connection, _| {
        let (wanted, deaths) = (wanted.clone(), deaths.clone());
        Box::pin(async move {
            let begun = Instant::now();
            settings::apply(connection, &wanted).await?;
            if let Some(deaths) = deaths {
                deaths.answered_in(begun.elapsed());
            }
            Ok(())
        })
    })
}

/// A pool of connections to one route. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct ReadPool {
    pool: PgPool,
    route: Arc<Route>,
    /// The route's number of turns when the pool got its present options.
    turns: Arc<AtomicU64>,
    name: Arc<str>,
    last_death: Arc<LastDeath>,
}

impl ReadPool {
    /// Makes a pool, named like a connection. It opens connections when they are needed.
    pub(super) fn new(route: Arc<Route>, wanted: SessionSettings, name: &str, connections: u32) -> Self {
        let (name, last_death): (Arc<str>, _) = (name.into(), Arc::new(LastDeath::none()));
        let (called, deaths) = (Arc::clone(&name), Arc::clone(&last_death));
        let pool = PgPoolOptions::new()
            .max_connections(connections)
            .min_connections(0)
            .acquire_timeout(READ_LIMIT)
            // The hub's own check runs less often and for a limited time, and treats one dead connection as a hint
            // about the others.
            .test_before_acquire(false)
            .before_acquire(move |connection, about| {
                let (name, last_death) = (Arc::clone(&called), Arc::clone(&deaths));
                Box::pin(async move { Ok(last_death.is_usable(connection, &name, about.idle_for).await) })
            })
            .max_lifetime(Duration::from_secs(1800));
        let (turns, options) = route.choice();
        let pool = applying(pool, wanted, Some(Arc::clone(&last_death))).connect_lazy_with(named(&options, &name));
        Self { pool, route, turns: Arc::new(AtomicU64::new(turns)), name, last_death }
    }

    /// How many connections it may open.
    pub(super) fn max_connections(&self) -> u32 {
        self.pool.options().get_max_connections()
    }

    /// Records that a call lost a connection of the pool.
    pub(super) fn lost_one(&self) {
        self.last_death.note();
    }

    /// Borrows a connection.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when none becomes free in time or the server cannot be reached.
    pub(super) async fn checkout(&self) -> Result<Checkout, StoreError> {
        let asked_at = Instant::now();
        let outcome = self.acquire().await;
        if let Some(waits) = metrics::DATABASE_WAIT_SECONDS.of(&self.name) {
            waits.time(asked_at.elapsed());
        }
        outcome
    }

    async fn acquire(&self) -> Result<Checkout, StoreError> {
        self.follow();
        // Boxed: opening a connection takes 14 KiB of state, which every request that may read would hold and move
        // about.
        let connection = match Box::pin(self.pool.acquire()).await {
            Ok(connection) => connection,
            Err(error) => {
                // The password may have been changed since.
                self.route.renewed().await;
                if !self.follow() {
                    return Err(error.into());
                }
                Box::pin(self.pool.acquire()).await?
            }
        };
        Ok(Checkout { connection: Some(connection), clean: false })
    }

    /// Points new connections of the pool to the host of the hub's last connection. Returns whether the host changed.
    fn follow(&self) -> bool {
        let (turns, options) = self.route.choice();
        let has_turned = self.turns.swap(turns, Ordering::Relaxed) != turns;
        if has_turned {
            self.pool.set_connect_options(named(&options, &self.name));
        }
        has_turned
    }

    pub(super) async fn close(&self) {
        self.pool.close().await;
    }
}

/// A borrowed reader. It returns to the pool only when [`Checkout::done`] says that every answer was read. Otherwise it
/// is closed, because a late answer would be taken for the answer to the next query.
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
