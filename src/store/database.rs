//! Opens database connections and pools of readers.

use std::path::PathBuf;
use std::sync::Arc;

use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection, PgConnection, PgPool};

use super::address::{AddressError, DatabaseAddress};
use super::address_list::split_list;
use super::cleartext;
use super::database_route::Route;
use super::durability::Durability;
use super::page_scheduler::{HistoryPlace, PageScheduler, PageTurn};
use super::read_pool::{Checkout, ReadPool, applying, named};
use super::settings::SessionSettings;
use super::standby::{STANDBYS_MAX, Standbys};
use super::time_limit::{CONNECT_LIMIT, limited};
use super::{StoreError, settings};
use crate::domain::UserId;
use crate::domain::audit::Actor;

/// The address of the database, and the settings of each connection to it.
#[derive(Debug, Clone)]
pub struct Database {
    main: Arc<Route>,
    /// The route of LISTEN: the same as `main` unless it has its own URL.
    listen: Arc<Route>,
    /// The routes to the standbys of the primary.
    standbys: Arc<[Arc<Route>]>,
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
        Ok(Self { main, listen, standbys: Arc::new([]), role: None, actor: None, durability: None })
    }

    /// Names hot standbys of the primary: one URL or several, separated by commas or white space, and the file that
    /// holds them.
    ///
    /// # Errors
    /// When a URL is malformed, asks for something unsupported or names several hosts, and for none or more
    /// than [`STANDBYS_MAX`]. The message names the setting and never a value.
    pub fn with_standbys(mut self, urls: &str, file: Option<PathBuf>) -> Result<Self, AddressError> {
        const NAME: &str = "RECADO_READ_DATABASE_URL";
        let urls = split_list(urls);
        if !(1..=STANDBYS_MAX).contains(&urls.len()) {
            return Err(AddressError::count(NAME, urls.len(), STANDBYS_MAX));
        }
        let route = |(at, url): (usize, &&str)| {
            let address = DatabaseAddress::parse_standby(url).map_err(|error| error.of_entry(NAME, at + 1))?;
            Ok(Arc::new(Route::standby(address, file.clone(), at)))
        };
        self.standbys = urls.iter().enumerate().map(route).collect::<Result<_, AddressError>>()?;
        Ok(self)
    }

    /// Whether a server on another machine asks for the password in clear text while TLS is turned off.
    pub async fn would_show_its_password(&self) -> bool {
        for route in [&self.main, &self.listen].into_iter().chain(self.standbys.iter()) {
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
        let opened = applying(pool, self.wanted(&self.listen, false), None).connect_with(named(&address.hosts[at], "listener")).await;
        if opened.is_err() && address.hosts.len() > 1 {
            self.listen.prefer((at + 1) % address.hosts.len());
        }
        opened
    }

    fn wanted(&self, route: &Route, is_reader: bool) -> SessionSettings {
        let address = route.known();
        SessionSettings {
            role: self.role.clone(),
            actor: self.actor.clone(),
            is_reader,
            // With a single server, the hub itself detects and reports a standby.
            must_write: address.hosts.len() > 1,
            given: address.settings.clone(),
            durability: self.durability.clone(),
        }
    }

    /// Makes a pool for reading, named like a connection.
    pub fn reader(&self, name: &str, connections: u32) -> Reader {
        let pool = ReadPool::new(Arc::clone(&self.main), self.wanted(&self.main, true), name, connections);
        Reader { pool, pages: PageScheduler::new(connections, 0), reads_members: false, standbys: None }
    }

    /// Makes the standbys of this database, each with a pool of this size; `None` if none is given. No connection is
    /// opened before [`standby_watch`](super::standby::watch) has reached the server.
    pub fn standbys(&self, connections: u32) -> Option<Arc<Standbys>> {
        let make = |route: &Arc<Route>| {
            // A standby takes no writes and commits nothing; it needs the role to read, and no name in the audit.
            let wanted = SessionSettings { actor: None, must_write: false, durability: None, ..self.wanted(route, true) };
            (Arc::clone(route), wanted)
        };
        (!self.standbys.is_empty()).then(|| Arc::new(Standbys::new(self.standbys.iter().map(make), connections)))
    }
}

/// A pool of readers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Reader {
    pool: ReadPool,
    pages: PageScheduler,
    reads_members: bool,
    standbys: Option<Arc<Standbys>>,
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

    /// Reads the past from these standbys where they are fit.
    #[must_use]
    pub fn with_standbys(mut self, standbys: Option<Arc<Standbys>>) -> Self {
        self.standbys = standbys;
        self
    }

    /// The standbys, if there are any.
    pub fn standbys(&self) -> Option<&Arc<Standbys>> {
        self.standbys.as_ref()
    }

    /// The connections to the primary.
    pub(super) fn primary(&self) -> &ReadPool {
        &self.pool
    }

    /// Limits how many bytes a second one user's pages may have; zero means no limit.
    #[must_use]
    pub fn with_user_rate(mut self, bytes: u64) -> Self {
        self.pages = PageScheduler::new(self.pool.max_connections(), bytes);
        self
    }

    /// Records that a call lost a connection of the pool.
    pub(super) fn lost_one(&self) {
        self.pool.lost_one();
    }

    /// Waits until this user may read one more page of the log.
    pub(super) async fn page_turn(&self, user: &UserId) -> PageTurn {
        self.pages.turn(user).await
    }

    /// Admits a request for the history of this user. `None` if too many are under way; it can come later.
    pub fn history_place(&self, user: &UserId) -> Option<HistoryPlace> {
        self.pages.place(user)
    }

    /// Borrows a connection to the primary.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when none becomes free in time or the server cannot be reached.
    pub async fn checkout(&self) -> Result<Checkout, StoreError> {
        self.pool.checkout().await
    }

    pub async fn close(&self) {
        if let Some(standbys) = &self.standbys {
            standbys.close().await;
        }
        self.pool.close().await;
    }
}
