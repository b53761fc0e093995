//! Opens database connections and pools of readers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool, Postgres};
use tokio::time::Instant;

use super::address::{AddressError, DatabaseAddress};
use super::cleartext;
use super::database_route::Route;
use super::durability::Durability;
use super::liveness::LastDeath;
use super::page_scheduler::{PageScheduler, PageTurn};
use super::time_limit::{CONNECT_LIMIT, limited};
use super::{StoreError, settings};
use crate::domain::UserId;
use crate::domain::audit::Actor;

/// Longest wait for a free reader, and for its answer.
const READ_LIMIT: Duration = Duration::from_secs(10);

/// The address of the database, and the settings of each connection to it.
#[derive(Debug, Clone)]
pub struct Database {
    main: Arc<Route>,
    /// The route of LISTEN: the same as `main` unless it has its own URL.
    listen: Arc<Route>,
    role: Option<Arc<str>>,
    actor: Option<Arc<Actor>>,
    durability: Option<Arc<Durability>>,
}

impl Database {
    /// Parses the URLs.
    ///
    /// # Errors
    /// When a URL is malformed or asks for something unsupported. The message names the setting and never a value.
    pub fn parse(url: &str, listen_url: Option<&str>) -> Result<Self, AddressError> {
        Self::from_files((url, None), listen_url.map(|url| (url, None)))
    }

    /// Same, with the files that hold the URLs. They are read again before each new connection.
    ///
    /// # Errors
    /// As [`Database::parse`].
    pub fn from_files(main: (&str, Option<PathBuf>), listen: Option<(&str, Option<PathBuf>)>) -> Result<Self, AddressError> {
        let route = |name: &str, (url, file): (&str, Option<PathBuf>)| {
            Ok(Arc::new(Route::new(DatabaseAddress::parse(url).map_err(|error| error.of(name))?, file)))
        };
        let main = route("DATABASE_URL", main)?;
        let listen = listen.map_or_else(|| Ok(Arc::clone(&main)), |listen| route("RECADO_LISTEN_DATABASE_URL", listen))?;
        Ok(Self { main, listen, role: None, actor: None, durability: None })
    }

    /// Whether a server on another machine asks for the password in clear text while TLS is turned off.
    pub async fn would_show_its_password(&self) -> bool {
        for route in [&self.main, &self.listen] {
            if cleartext::asked_at(&route.known()).await == cleartext::Asked::Cleartext {
                return true;
            }
        }
        false
    }

    /// Makes every later connection act under this role.
    #[must_use]
    pub fn under_role(mut self, role: Option<Arc<str>>) -> Self {
        self.role = role;
        self
    }

    /// Makes every later connection name this actor in the audit.
    #[must_use]
    pub fn acting_as(mut self, actor: Actor) -> Self {
        self.actor = Some(Arc::new(actor));
        self
    }

    /// From now on, the commits of each connection are made durable, or the connection is refused.
    #[must_use]
    pub fn durable(mut self) -> Self {
        self.durability = Some(Arc::default());
        self
    }

    /// The durability of commits; `None` where the operator has allowed unsafe commits.
    pub fn durability(&self) -> Option<&Arc<Durability>> {
        self.durability.as_ref()
    }

    /// Opens one connection. An administrator sees its name in `pg_stat_activity`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when the server cannot be reached, [`StoreError::TimedOut`] after [`CONNECT_LIMIT`].
    pub async fn connect(&self, name: &str) -> Result<PgConnection, StoreError> {
        limited(CONNECT_LIMIT, self.open(name)).await
    }

    /// Tries each host for its share of the time, until one takes writes.
    async fn open(&self, name: &str) -> Result<PgConnection, sqlx::Error> {
        let address = self.main.renewed().await;
        let (count, first) = (address.hosts.len(), self.main.first());
        let wanted = self.wanted(&self.main, false);
        let mut outcome = Err(sqlx::Error::Configuration("no host is named".into()));
        for at in (0..count).map(|step| (first + step) % count) {
            let opening = async {
                let mut connection = PgConnection::connect_with(&named(&address.hosts[at], name)).await?;
                settings::apply(&mut connection, &wanted).await?;
                Ok(connection)
            };
            outcome = match tokio::time::timeout(CONNECT_LIMIT / u32::try_from(count).unwrap_or(1), opening).await {
                Ok(outcome) => outcome,
                Err(_) => Err(sqlx::Error::Io(std::io::ErrorKind::TimedOut.into())),
            };
            if outcome.is_ok() {
                self.main.prefer(at);
                break;
            }
        }
        outcome
    }

    /// Opens a pool of one connection, for the listener.
    ///
    /// # Errors
    /// When it cannot be opened; the next call tries the next host.
    pub(super) async fn listening(&self) -> Result<PgPool, sqlx::Error> {
        let address = self.listen.renewed().await;
        let at = self.listen.first() % address.hosts.len();
        let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let opened = self.applying(pool, &self.listen, None).connect_with(named(&address.hosts[at], "listener")).await;
        if opened.is_err() && address.hosts.len() > 1 {
            self.listen.prefer((at + 1) % address.hosts.len());
        }
        opened
    }

    fn wanted(&self, route: &Route, is_reader: bool) -> settings::SessionSettings {
        let address = route.known();
        settings::SessionSettings {
            role: self.role.clone(),
            actor: self.actor.clone(),
            is_reader,
            // With a single server, the hub itself detects and reports a standby.
            must_write: address.hosts.len() > 1,
            given: address.settings.clone(),
            durability: self.durability.clone(),
        }
    }

    fn applying(&self, pool: PgPoolOptions, route: &Route, deaths: Option<Arc<LastDeath>>) -> PgPoolOptions {
        let wanted = self.wanted(route, deaths.is_some());
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

    /// Makes a pool for reading, named like a connection.
    pub fn reader(&self, name: &str, connections: u32) -> Reader {
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
        let (turns, options) = self.main.choice();
        let pool = self.applying(pool, &self.main, Some(Arc::clone(&last_death))).connect_lazy_with(named(&options, &name));
        Reader {
            pool,
            route: Arc::clone(&self.main),
            turns: Arc::new(AtomicU64::new(turns)),
            name,
            last_death,
            pages: PageScheduler::new(connections, 0),
            reads_members: false,
        }
    }
}

/// Adds the name that an administrator sees in `pg_stat_activity`. It adds no settings: poolers refuse startup
/// parameters that they do not know (see [`settings`]).
fn named(options: &PgConnectOptions, name: &str) -> PgConnectOptions {
    options
        .clone()
        .application_name(&format!("recado {name}"))
        .extra_float_digits(None)
        .log_statements(tracing::log::LevelFilter::Trace)
        .log_slow_statements(tracing::log::LevelFilter::Debug, Duration::from_secs(1))
}

/// A pool of readers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: PgPool,
    pages: PageScheduler,
    route: Arc<Route>,
    /// The route's number of turns when the pool got its present options.
    turns: Arc<AtomicU64>,
    name: Arc<str>,
    last_death: Arc<LastDeath>,
    reads_members: bool,
}

impl Reader {
    /// Makes the accounts of the table `recado.member` count for every user.
    #[must_use]
    pub fn with_members(mut self, reads_members: bool) -> Self {
        self.reads_members = reads_members;
        self
    }

    /// Whether the accounts of the table count.
    pub fn reads_members(&self) -> bool {
        self.reads_members
    }

    /// Limits how many bytes a second one user's pages may have; zero means no limit.
    #[must_use]
    pub fn with_user_rate(mut self, bytes: u64) -> Self {
        self.pages = PageScheduler::new(self.pool.options().get_max_connections(), bytes);
        self
    }

    /// Records that a call lost a connection of the pool.
    pub(super) fn lost_one(&self) {
        self.last_death.note();
    }

    /// Waits until this user may read one more page of the log.
    pub(super) async fn page_turn(&self, user: &UserId) -> PageTurn {
        self.pages.turn(user).await
    }

    /// Whether the limit of waiting pages of this user is reached. A request that can come later is refused then.
    pub fn is_crowded(&self, user: &UserId) -> bool {
        self.pages.is_crowded(user)
    }

    /// Borrows a connection from the pool.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when none becomes free in time or the server cannot be reached.
    pub async fn checkout(&self) -> Result<Checkout, StoreError> {
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

    pub async fn close(&self) {
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
