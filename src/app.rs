//! The composition root: makes the parts, joins their channels, starts them in order and stops them in reverse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};

use crate::backing;
use crate::backing::{Backing, BackingError};
use crate::config::{Config, SessionPolicy, Upstream};
use crate::delivery::clerk::Clerk;
use crate::delivery::desk::{CommandRules, Desk, ProviderRules};
use crate::delivery::herald::Herald;
use crate::delivery::pacer::Pacer;
use crate::delivery::registry::{Limits, Position};
use crate::delivery::tailer::{Pulse, Tailer};
use crate::delivery::{Delivery, Registry};
use crate::domain::InstanceId;
use crate::http::{Auth, BATCHES_AT_ONCE, Health, Hub, Origins, Rates, Server, SocketRules, TokenRules, UserRates, router};
use crate::store::appender::Appender;
use crate::store::listener::Readers;
use crate::store::mover::Mover;
use crate::store::retention::{self, Policy};
use crate::store::seen::Seen;
use crate::store::turn::Turn;
use crate::store::{Database, StoreError, caretaker, listener, read};
use crate::tasks::{Stopper, Tasks};
use crate::upstream::{self, Provider, Providers, Setup};
use crate::wire::close::Close;

/// Batches that this instance has committed and its tailer has not looked at. Full: the tailer reads the table.
const COMMITTED_BATCHES: usize = 64;
/// Hints that the tailer has not looked at. Full: it is awake anyway.
const HINTS: usize = 256;
/// Hints about upstream sessions that one reader has not looked at. Full: it polls.
const UPSTREAM_HINTS: usize = 1024;
/// Database connections over which commands are stored.
const COMMAND_CONNECTIONS: u32 = 2;
/// A command that nobody takes in this time is rejected.
const COMMAND_WAIT: Duration = Duration::from_secs(10);
/// Open files beside the clients' sockets: services' connections, the database, the listener, logs, and some air.
const FILES_RESERVED: usize = 192;
/// Connections of services, admins and health checks, beside the clients' sockets.
const HTTP_CONNECTIONS: usize = 64;
/// How much longer than the send deadline a write of any kind may wait.
const STALL_MARGIN: Duration = Duration::from_secs(5);
/// Database connections for looking up keys; a key is asked for once in ten seconds at most.
const KEY_CONNECTIONS: u32 = 2;
/// Tickets that a user may ask for at once; then one a second. As many as there are connections of one user, and some.
const TICKET_BURST: u32 = 30;
/// What is taken when the limit of open files is not known.
const CONNECTIONS_FALLBACK: usize = 1000;
/// After the drain window: how long what still runs may take.
const GRACE: Duration = Duration::from_secs(4);

/// Why a hub does not serve, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Backing(#[from] BackingError),
    #[error("the database does not answer: {0}")]
    Store(#[from] StoreError),
    #[error("cannot listen on {address}: {error}; choose another address with --bind and --port (0: any free port)")]
    Bind { address: SocketAddr, error: std::io::Error },
    #[error("signals cannot be received: {0}")]
    Signals(std::io::Error),
    #[error(transparent)]
    Upstream(#[from] upstream::StartError),
    #[error("the task {0} failed; the hub cannot work without it")]
    TaskFailed(&'static str),
}

/// Serves until SIGTERM or SIGINT. `ready` is told the address once clients may come.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(config: Config, ready: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let secret = backing::jwt_secret(&config)?;
    // Before anything is started: a hub with half of its providers would look well and not be.
    let providers = backing::providers(&config)?;
    if !providers.is_empty() {
        tracing::info!(providers = ?providers.names(), "the provider file is read");
    }
    let mut backing = Backing::open(&config).await?;
    let migrated = backing.prepare(&config).await?;
    tracing::info!(applied = ?migrated.applied, version = migrated.version, "the schema is up to date");
    if migrated.newer {
        tracing::warn!(version = migrated.version, "the database was made by a newer hub; serving beside it");
    }
    let outward = if providers.is_empty() { None } else { Some((providers, backing::upstream_key(&config)?)) };
    let outcome = run(&config, &secret, backing.database.clone(), outward, ready).await;
    backing.close().await;
    outcome
}

/// The stop signals of a hub's parts, in the order in which they stop.
struct Stoppers {
    accepting: Stopper,
    holding: Stopper,
    appending: Stopper,
    following: Stopper,
    writing_down: Stopper,
}

/// The providers, and the key that seals their session ids; `None` where no provider is configured.
type Outward = Option<(Providers, [u8; 32])>;

async fn run(
    config: &Config,
    secret: &str,
    database: Database,
    outward: Outward,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    // Before we are called ready: a signal that nobody waits for yet ends the process on the spot.
    let signals = Signals::receive()?;
    let (tasks, mut failed) = Tasks::new();
    let instance = InstanceId::new();
    let registry = registry(config, &database).await?;
    let seen = Arc::new(Seen::new(registry.position().log_id));
    let rules = outward.as_ref().map(|(providers, _)| command_rules(providers));
    let (others, turn) = Turn::of(instance);
    let here = Here { instance, registry: &registry, seen: &seen };
    let (hub, committed, appender) = hub(config, secret, &database, (&here, turn), rules, tasks.clone());
    let (hub, pulse) = hub;

    let (accepting, stop_accepting) = Stopper::new();
    let (appending, stop_appending) = Stopper::new();
    let (following, stop_following) = Stopper::new();
    let (writing_down, stop_writing) = Stopper::new();
    let (holding, stop_holding) = Stopper::new();

    let wanted = SocketAddr::new(config.bind, config.port);
    let bind_error = |error| ServeError::Bind { address: wanted, error };
    let most = hub.max_connections + HTTP_CONNECTIONS;
    // Above the send deadline: a WebSocket that takes nothing ends by that, and is told why where it can be.
    let stall_limit = config.send_deadline + STALL_MARGIN;
    let server = Server::bind(wanted, router(Arc::clone(&hub)), tasks.clone(), most, stall_limit).await.map_err(bind_error)?;
    let address = server.address().map_err(bind_error)?;

    let (hints_in, hints) = mpsc::channel(HINTS);
    let mover = Mover::new(database.clone(), Arc::clone(&seen));
    let tailer = Tailer::new(database.clone(), Arc::clone(&registry), Arc::clone(&seen), instance, pulse, config.poll_interval);
    let clerk = Clerk::new(database.clone(), instance, &hub.delivery);
    tasks.essential("appender", appender.run(stop_appending));
    tasks.essential("tailer", tailer.run(committed, hints, stop_following.clone()));
    tasks.essential("pacer", Pacer::new(Arc::clone(&registry)).run(stop_following.clone()));
    tasks.essential("mover", mover.run(stop_following.clone()));
    let mut upstream_hints = Vec::new();
    if let Some(desk) = &hub.delivery.desk {
        let (hints_in, hints) = mpsc::channel(UPSTREAM_HINTS);
        upstream_hints.push(hints_in);
        let herald = Herald::new(database.clone(), Arc::clone(&hub.delivery.registry), Arc::clone(desk));
        tasks.essential("herald", herald.run(hints, stop_following.clone()));
    }
    if let Some((providers, key)) = outward {
        let Upstream { lease, starts_per_second, most_sessions } = config.upstream;
        let (database, seen) = (database.clone(), Arc::clone(&seen));
        let setup = Setup { database, instance, providers, key, seen, lease, starts_per_second, most_sessions };
        upstream_hints.extend(upstream::start(setup, &tasks, stop_holding, &stop_following)?);
    }
    let readers = Readers { hints: hints_in, others, upstream: upstream_hints };
    tasks.essential("listener", listener::run(database.clone(), readers, stop_following.clone()));
    tasks.essential("clerk", clerk.run(stop_writing));
    tasks.essential("retention", retention::run(database.clone(), policy(config), stop_following.clone()));
    tasks.essential("caretaker", caretaker::run(database, instance, address.to_string(), stop_following));
    tasks.essential("accept", server.run(stop_accepting));
    tracing::info!(%address, %instance, "serving");
    ready(address);

    let outcome = signals.until_told(&mut failed).await;
    let stoppers = Stoppers { accepting, holding, appending, following, writing_down };
    stop(config, &hub, &tasks, stoppers).await;
    outcome
}

type HubParts = ((Arc<Hub>, Arc<Pulse>), mpsc::Receiver<crate::store::appender::Committed>, Appender);

/// What this instance is, and what it knows of the log.
struct Here<'a> {
    instance: InstanceId,
    registry: &'a Arc<Registry>,
    seen: &'a Arc<Seen>,
}

fn hub(
    config: &Config,
    secret: &str,
    database: &Database,
    (here, turn): (&Here<'_>, Turn),
    rules: Option<CommandRules>,
    tasks: Tasks,
) -> HubParts {
    let Here { instance, registry, seen } = *here;
    let reader = database.reader("reader", config.read_connections);
    let (committed_in, committed) = mpsc::channel(COMMITTED_BATCHES);
    let (handle, appender) = Appender::new(database.clone(), instance, Arc::clone(seen), committed_in, turn);
    let pulse = Arc::new(Pulse::default());
    let hub = Hub {
        instance,
        appender: handle,
        delivery: Delivery::new(Arc::clone(registry), reader.clone(), config.delivery_facts)
            .with_desk(rules.map(|rules| Desk::new(rules, database.reader("commands", COMMAND_CONNECTIONS)))),
        auth: Auth::new(TokenRules::new(secret, config.jwt.clone()), database.reader("keys", KEY_CONNECTIONS)),
        reader,
        origins: config.allowed_origins.clone().map_or(Origins::Loopback, Origins::Listed),
        rates: Rates::new(config.publish_rate),
        user_rates: UserRates::new(config.user_rate, config.user_rate),
        ticket_rates: UserRates::new(TICKET_BURST, 1),
        batch_room: Semaphore::new(BATCHES_AT_ONCE),
        health: Health::new(Arc::clone(&pulse)),
        sockets: SocketRules { heartbeat: config.heartbeat, send_deadline: config.send_deadline, pong_deadline: config.pong_deadline },
        max_connections: max_connections(config),
        tasks,
    };
    ((Arc::new(hub), pulse), committed, appender)
}

/// What the browsers' side has to know of the providers.
fn command_rules(providers: &Providers) -> CommandRules {
    let rules = |provider: &Arc<Provider>| ProviderRules { name: provider.name.clone(), linger: provider.linger };
    let types = |provider: &Arc<Provider>| {
        let name = provider.name.clone();
        provider.commands.types.clone().into_iter().map(move |kind| (kind, name.clone()))
    };
    CommandRules { providers: providers.iter().map(rules).collect(), types: providers.iter().flat_map(types).collect(), wait: COMMAND_WAIT }
}

/// The registry, standing where the log stands now.
async fn registry(config: &Config, database: &Database) -> Result<Arc<Registry>, ServeError> {
    let mut connection = database.connect("start").await?;
    let state = read::state(&mut connection).await?;
    let limits = Limits {
        connections: max_connections(config),
        per_user: config.max_connections_per_user,
        single: config.session_policy == SessionPolicy::Single,
    };
    Ok(Registry::new(limits, Position { log_id: state.log_id, floor: state.floor, published: state.head }))
}

fn policy(config: &Config) -> Policy {
    let kept = config.retention;
    Policy { age: kept.age, bytes: kept.bytes, sessions: kept.sessions, devices: kept.devices, upstream: kept.upstream }
}

fn max_connections(config: &Config) -> usize {
    // Each session with a provider takes one, too; but a small limit is not all theirs.
    let outward = config.upstream_file.as_ref().map_or(0, |_| config.upstream.most_sessions);
    let left = |files: usize| files.saturating_sub(FILES_RESERVED).saturating_sub(outward.min(files / 2)).max(1);
    let by_files = open_file_limit().map_or(CONNECTIONS_FALLBACK, left);
    config.max_connections.unwrap_or(by_files)
}

/// The soft limit of open files, where the system tells.
pub fn open_file_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn receive() -> Result<Self, ServeError> {
        let receive = |kind| signal(kind).map_err(ServeError::Signals);
        Ok(Self { terminate: receive(SignalKind::terminate())?, interrupt: receive(SignalKind::interrupt())? })
    }

    async fn until_told(mut self, failed: &mut mpsc::Receiver<&'static str>) -> Result<(), ServeError> {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: stopping"),
            Some(name) = failed.recv() => {
                tracing::error!(task = name, "an essential task panicked: stopping");
                return Err(ServeError::TaskFailed(name));
            }
        }
        Ok(())
    }
}

/// Not ready, accept nothing new, goodbyes, what was asked is appended, acknowledgements are stored.
async fn stop(config: &Config, hub: &Hub, tasks: &Tasks, stoppers: Stoppers) {
    hub.health.stop();
    stoppers.accepting.stop();
    // At once, beside the goodbyes: another hub goes on with the providers' sessions meanwhile.
    stoppers.holding.stop();
    hub.delivery.registry.end_all(Close::Draining, u64::try_from(config.drain_window.as_millis()).unwrap_or(u64::MAX));
    // The appender outlives the requests: one that was on its way when the signal came still gets its number.
    let end = tokio::time::Instant::now() + GRACE;
    let mut running = tasks.join_named(&["http", "websocket", "stream"], GRACE).await;
    stoppers.appending.stop();
    running.extend(
        tasks.join_named(&["appender", upstream::SUPERVISOR_TASK], end.saturating_duration_since(tokio::time::Instant::now())).await,
    );
    stoppers.following.stop();
    stoppers.writing_down.stop();
    running.extend(tasks.join(GRACE).await);
    hub.auth.close().await;
    if let Some(desk) = &hub.delivery.desk {
        desk.close().await;
    }
    hub.reader.close().await;
    if !running.is_empty() {
        tracing::warn!(?running, "these still ran when the time to stop was over");
    }
}
