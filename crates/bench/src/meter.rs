//! Measures what the server side spends on a piece of work: processor time of the hub and of every PostgreSQL process,
//! and what the database counts.

use std::ops::Sub;
use std::time::Duration;

use recado::cli::error::CliFailure;
use sqlx::PgConnection;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::database_counts::{self, DatabaseCounts, StatementCount};
use super::ground::{BenchHub, Ground};
use super::processes::{self, ProcessCosts, ProcessMemory};

/// Where to look.
pub struct Meter {
    hub: Vec<u32>,
    database: Vec<u32>,
    counts: Option<Mutex<CountedDatabase>>,
}

/// A connection that is kept, because a new one costs the server more than the question.
struct CountedDatabase {
    connection: PgConnection,
    /// Schema of the view `pg_stat_statements`.
    view: Option<String>,
}

/// What had been spent at one moment, or between two.
#[derive(Debug, Clone, Copy)]
pub struct Spent {
    time: Instant,
    pub hub: ProcessCosts,
    pub database: ProcessCosts,
    /// The bench itself. It shares the machine, so a costly client would slow the hub down.
    pub bench: ProcessCosts,
    counts: Option<DatabaseCounts>,
}

/// What a piece of work cost.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    pub time: Duration,
    pub hub: ProcessCosts,
    pub database: ProcessCosts,
    pub bench: ProcessCosts,
    pub counts: Option<DatabaseCounts>,
}

/// Memory of the hub, and of the hub and its database.
#[derive(Debug, Clone, Copy)]
pub struct ServerMemory {
    pub hub: ProcessMemory,
    pub all: ProcessMemory,
}

impl Meter {
    /// Looks at a hub that the bench started and its database, or at the processes that the user named for a given hub.
    pub async fn of(ground: &Ground, hub: Option<&BenchHub>, named: &[u32]) -> Result<Self, CliFailure> {
        let mut connection = ground.owned_database().connect("bench").await?;
        let (mut of_hub, mut of_database) = (named.to_vec(), Vec::new());
        if !ground.hub_is_given() {
            of_hub = hub.and_then(BenchHub::pid).into_iter().collect();
            // Backends are children of the postmaster. A server on another machine has no such process here.
            let backend = database_counts::backend_pid(&mut connection).await?;
            let is_server = |pid: &u32| processes::name(*pid).is_some_and(|name| name.starts_with("postgres"));
            of_database = backend.filter(is_server).and_then(processes::parent).into_iter().collect();
        }
        let counts = if ground.reads_log() {
            let view = database_counts::view(&mut connection).await?;
            Some(Mutex::new(CountedDatabase { connection, view }))
        } else {
            None
        };
        Ok(Self { hub: of_hub, database: of_database, counts })
    }

    /// Whether all processes of the server side are known, so that their processor time can be told.
    pub fn sees_processes(&self) -> bool {
        !(self.hub.is_empty() && self.database.is_empty())
    }

    /// What has been spent up to now.
    pub async fn now(&self) -> Result<Spent, CliFailure> {
        let counts = match &self.counts {
            Some(counted) => {
                let CountedDatabase { connection, view } = &mut *counted.lock().await;
                Some(database_counts::counts(connection, view.as_deref()).await?)
            }
            None => None,
        };
        Ok(Spent {
            time: Instant::now(),
            hub: processes::costs(&self.hub),
            database: processes::costs(&self.database),
            bench: processes::own_costs(),
            counts,
        })
    }

    /// The kinds of statements that the database has counted; empty without `pg_stat_statements`.
    pub async fn statements(&self) -> Result<Vec<StatementCount>, CliFailure> {
        let Some(counted) = &self.counts else { return Ok(Vec::new()) };
        let CountedDatabase { connection, view } = &mut *counted.lock().await;
        match view {
            Some(view) => Ok(database_counts::list(connection, view).await?),
            None => Ok(Vec::new()),
        }
    }

    pub fn memory(&self) -> Option<ServerMemory> {
        let hub = processes::memory(&self.hub)?;
        let roots: Vec<u32> = self.hub.iter().chain(&self.database).copied().collect();
        Some(ServerMemory { hub, all: processes::memory(&roots)? })
    }
}

impl Sub for Spent {
    type Output = Cost;

    fn sub(self, earlier: Self) -> Cost {
        Cost {
            time: self.time - earlier.time,
            hub: self.hub - earlier.hub,
            database: self.database - earlier.database,
            bench: self.bench - earlier.bench,
            counts: self.counts.zip(earlier.counts).map(|(now, before)| now - before),
        }
    }
}
