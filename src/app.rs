//! Composes the hub: creates its parts, connects their channels, starts and stops them in order.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use private_postgres::ServerKeeper;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::config::{Config, SessionPolicy, UpstreamSettings};
use crate::delivery::ack_flusher::AckFlusher;
use crate::delivery::ack_prober::AckProber;
use crate::delivery::registry::{ConnectionLimits, Position};
use crate::delivery::tailer::{Pulse, Tailer};
use crate::delivery::{Delivery, Registry};
use crate::domain::InstanceId;
use crate::http::{
    AddressBudgets, Auth, BATCHES_AT_ONCE, ConnectionSlots, Health, Hosts, HubState, KeyCache, KeyLooker, ListenerSide, NameRates, Origins,
    Server, ServerRules, SocketRules, Tickets, TokenRules, TrustedProxies, UserBudgets, router,
};
use crate::log::appender::{Appender, Committed};
use crate::log::commit_turns::CommitTurn;
use crate::log::maintenance;
use crate::log::outbox_relay::OutboxRelay;
use crate::log::retention::{self, RetentionPolicy};
use crate::providers::command_intake::{CommandIntake, CommandRules, ProviderRules};
use crate::providers::provider_status::ProviderStatus;
use crate::providers::{self, Provider, Providers, UpstreamSetup};
use crate::startup::{self, Startup, StartupError};
use crate::store::fingerprints::SharedSecret;
use crate::store::listener::ListenerOutputs;
use crate::store::log_identity::LogMemory;
use crate::store::log_watermark::LogWatermark;
use crate::store::{Database, StoreError, listener, read};
use crate::tasks::{Stop, Stopper, TaskName, Tasks};
use crate::wire::close::CloseCode;

/// Committed batches of this instance that the tailer has not read. When full, the tailer reads the table instead.
const COMMITTED_BATCHES: usize = 64;
/// Hints that the tailer has not read. When full, the tailer is awake anyway.
const HINTS: usize = 256;
/// Hints about provider sessions that one receiver has not read. When full, the receiver polls.
const UPSTREAM_HINTS: usize = 1024;
/// Database connections that store commands.
const COMMAND_CONNECTIONS: u32 = 2;
/// A command that no instance takes within this time is rejected.
const COMMAND_WAIT: Duration = Duration::from_secs(10);
/// Open files that are reserved in addition to all connections to the hub: for the database with the default number of
/// readers, for logs, for sockets that are closing, and a margin. Clients must never take any of these.
const FILES_RESERVED: usize = 96;
/// The default `RECADO_READ_CONNECTIONS`, which is included above.
const USUAL_READERS: usize = 8;
/// Connections of services, admins and health checks, in addition to the clients' sockets.
const HTTP_CONNECTIONS: usize = 64;
/// Connections above all others that only serve probes and services.
const RESERVED_CONNECTIONS: usize = 32;
/// The fraction of the connections that anonymous connections of one address may use.
const ADDRESS_PART: usize = 4;
/// Minimum limit for anonymous connections of one address, unless a setting says otherwise.
const ADDRESS_LEAST: usize = 16;
/// How much longer than the send deadline any write may wait.
const STALL_MARGIN: Duration = Duration::from_secs(5);
/// Database connections for key look-ups: one task does them.
const KEY_CONNECTIONS: u32 = 1;
/// Database connections for tickets: the sender of a ticket is not known before its look-up.
const TICKET_CONNECTIONS: u32 = 2;
/// Burst of tickets per user; after it, one per second. A bit more than the connections of one user.
const TICKET_BURST: u32 = 30;
/// The assumed limit of open files if it is unknown.
const FILES_FALLBACK: usize = 1192;
/// How long requests, the appender and the supervisor may still take once the hub stops. The other tasks then get the
/// same time again.
const GRACE: Duration = Duration::from_secs(4);

/// Why a hub does not serve, or stopped.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error(transparent)]
    Startup(#[from] StartupError),
    #[error("the database did not answer: {0}")]
    Store(#[from] StoreError),
    #[error("cannot listen on {address}: {error}; choose another address with --bind and --port (0: any free port){}", low_port(*address))]
    Bind { address: SocketAddr, error: std::io::Error },
    #[error("could not install signal handlers: {0}")]
    Signals(std::io::Error),
    #[error(transparent)]
    Upstream(#[from] providers::StartError),
    #[error("the task {0} failed; the hub stops because it needs this task")]
    TaskFailed(TaskName),
}

/// A hint for ports that a user without root's rights cannot bind.
fn low_port(address: SocketAddr) -> &'static str {
    if address.port() == 0 || address.port() >= 1024 {
        return "";
    }
    "; ports below 1024 need root's rights, which a hub gives up before it listens: use a proxy, or set \
     net.ipv4.ip_unprivileged_port_start"
}

/// Secrets and providers. The hub reads them once, while it may still have root's rights.
pub struct Kept {
    secret: String,
    provider_config: Option<ProviderConfig>,
}

impl Kept {
    /// # Errors
    /// If a secret can neither be read nor created, or the provider file is wrong: a hub with half of its providers
    /// would look healthy without being so.
    pub fn read(config: &Config) -> Result<Self, StartupError> {
        let secret = startup::jwt_secret(config)?;
        let providers = startup::providers(config)?;
        let provider_config =
            if providers.is_empty() { None } else { Some(ProviderConfig { providers, key: startup::upstream_key(config)? }) };
        Ok(Self { secret, provider_config })
    }
}

/// Serves until SIGTERM, SIGINT or SIGHUP. `ready` gets the address once clients may connect.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(config: Config, kept: Kept, ready: impl FnOnce(SocketAddr)) -> Result<(), ServeError> {
    let Kept { secret, provider_config } = kept;
    if config.jwt_secret.is_some() && config.jwt.issuer.is_none() && config.jwt.audience.is_none() {
        tracing::warn!("tokens are accepted for any issuer and audience; set RECADO_JWT_AUDIENCE or RECADO_JWT_ISSUER to restrict them");
    }
    if let Some(ProviderConfig { providers, .. }) = &provider_config {
        tracing::info!(providers = ?providers.names(), "provider file loaded");
    }
    let mut startup = Startup::open(&config).await?;
    let outcome = serve_on(&config, &secret, &mut startup, provider_config, ready).await;
    // Also if the start failed: the private server must not stay behind.
    startup.close().await;
    outcome
}

async fn serve_on(
    config: &Config,
    secret: &str,
    startup: &mut Startup,
    provider_config: Option<ProviderConfig>,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    if config.service_links > 0 {
        tracing::info!(count = config.service_links, "ignoring variables of Kubernetes service links (RECADO_…_SERVICE_HOST and the like)");
    }
    startup.wait(config).await?;
    let migrated = startup.prepare(config).await?;
    tracing::info!(applied = ?migrated.applied, version = migrated.version, "schema is up to date");
    if migrated.newer {
        tracing::warn!(version = migrated.version, "the schema was created by a newer hub version; serving with it");
    }
    let memory = startup.memory(config)?;
    check(startup, memory.as_ref(), secret, provider_config.as_ref()).await?;
    let held = HeldResources { keeper: startup.keeper(), memory };
    run(config, secret, startup.database.clone(), provider_config, held, ready).await
}

/// Checks the conditions for serving next to other hubs, and for clients that knew the log before.
async fn check(
    startup: &Startup,
    memory: Option<&LogMemory>,
    secret: &str,
    provider_config: Option<&ProviderConfig>,
) -> Result<(), StartupError> {
    startup.compare_secret(SharedSecret::Jwt, secret.as_bytes()).await?;
    if let Some(ProviderConfig { key, .. }) = provider_config {
        startup.compare_secret(SharedSecret::Upstream, key).await?;
    }
    startup.check_history(memory).await
}

/// Resources of the machine that the hub holds.
struct HeldResources {
    /// Keeps the private server running, if there is one.
    keeper: Option<ServerKeeper>,
    memory: Option<LogMemory>,
}

/// The stop signals of a hub's parts, in the order in which they stop.
struct Stoppers {
    accepting: Stopper,
    holding: Stopper,
    appending: Stopper,
    following: Stopper,
    writing_down: Stopper,
}

/// The providers, and the key that encrypts their session ids.
struct ProviderConfig {
    providers: Providers,
    key: [u8; 32],
}

async fn run(
    config: &Config,
    secret: &str,
    database: Database,
    provider_config: Option<ProviderConfig>,
    held: HeldResources,
    ready: impl FnOnce(SocketAddr),
) -> Result<(), ServeError> {
    // Before readiness is announced: a signal without a handler would kill the process.
    let signals = Signals::receive()?;
    let (tasks, mut failed) = Tasks::new();
    let instance = InstanceId::new();
    let registry = registry(config, &database).await?;
    let seen = Arc::new(LogWatermark::new(registry.position().log_id));
    let rules = provider_config.as_ref().map(|config| command_rules(&config.providers));
    let (others, turn) = CommitTurn::of(instance);
    let here = AppContext { instance, registry: &registry, seen: &seen };
    let HubParts { hub, pulse, looker, committed, appender } = hub(config, secret, &database, &here, turn, rules, tasks.clone());

    let (accepting, stop_accepting) = Stopper::new();
    let (appending, stop_appending) = Stopper::new();
    let (following, stop_following) = Stopper::new();
    let (writing_down, stop_writing) = Stopper::new();
    let (holding, stop_holding) = Stopper::new();

    let listeners = listen(config, &hub, &tasks).await?;
    let address = listeners[0].address;

    let (hints_in, hints) = mpsc::channel(HINTS);
    let outbox_relay = OutboxRelay::new(database.clone(), Arc::clone(&seen), hub.appender.work());
    let tailer = Tailer::new(database.clone(), Arc::clone(&registry), Arc::clone(&seen), instance, pulse, config.poll_interval);
    let ack_flusher = AckFlusher::new(database.clone(), instance, &hub.delivery);
    tasks.essential(TaskName::Appender, appender.run(stop_appending));
    tasks.essential(TaskName::Tailer, tailer.run(committed, hints, stop_following.clone()));
    tasks.essential(TaskName::AckProber, AckProber::new(Arc::clone(&registry)).run(stop_following.clone()));
    tasks.essential(TaskName::Keys, looker.run(stop_following.clone()));
    tasks.essential(TaskName::OutboxRelay, outbox_relay.run(stop_following.clone()));
    let mut upstream_hints = Vec::new();
    if let Some(command_intake) = &hub.command_intake {
        let (hints_in, hints) = mpsc::channel(UPSTREAM_HINTS);
        upstream_hints.push(hints_in);
        let provider_status = ProviderStatus::new(database.clone(), Arc::clone(&hub.delivery.registry), Arc::clone(command_intake));
        tasks.essential(TaskName::ProviderStatus, provider_status.run(hints, stop_following.clone()));
    }
    if let Some(ProviderConfig { providers, key }) = provider_config {
        let UpstreamSettings { lease, starts_per_second, most_sessions } = config.upstream;
        let (database, seen) = (database.clone(), Arc::clone(&seen));
        let setup = UpstreamSetup { database, instance, providers, key, seen, lease, starts_per_second, most_sessions };
        upstream_hints.extend(providers::start(setup, &tasks, stop_holding, &stop_following)?);
    }
    let keys_revoked = Arc::new(Notify::new());
    tasks.essential(TaskName::KeyWatch, watch_keys(hub.auth.clone(), Arc::clone(&keys_revoked), stop_following.clone()));
    let readers = ListenerOutputs { hints: hints_in, others, upstream: upstream_hints, keys_revoked };
    tasks.essential(TaskName::Listener, listener::run(database.clone(), readers, stop_following.clone()));
    tasks.essential(TaskName::AckFlusher, ack_flusher.run(stop_writing));
    tasks.essential(TaskName::Retention, retention::run(database.clone(), policy(config), stop_following.clone()));
    if let Some(keeper) = held.keeper {
        tasks.essential(TaskName::PrivateServer, startup::keep(keeper, stop_following.clone()));
    }
    let memory = held.memory.map(|memory| memory.of(Arc::clone(&seen)));
    tasks.essential(TaskName::Maintenance, maintenance::run(database, instance, address.to_string(), memory, stop_following));
    for BoundListener { server, address, side } in listeners {
        tracing::info!(%address, ?side, %instance, "serving");
        tasks.essential(TaskName::Accept, server.run(stop_accepting.clone()));
    }
    ready(address);

    let outcome = signals.wait_for_stop(&mut failed).await;
    let stoppers = Stoppers { accepting, holding, appending, following, writing_down };
    stop(config, &hub, &tasks, stoppers).await;
    outcome
}

/// Clears the key cache after any hub's command line has revoked a key.
async fn watch_keys(auth: Auth, revoked: Arc<Notify>, mut stop: Stop) {
    loop {
        tokio::select! {
            () = revoked.notified() => auth.forget_keys(),
            () = stop.wait() => return,
        }
    }
}

/// The hub's shared state, and what its tasks need to run.
struct HubParts {
    hub: Arc<HubState>,
    pulse: Arc<Pulse>,
    looker: KeyLooker,
    committed: mpsc::Receiver<Committed>,
    appender: Appender,
}

/// The identity of this instance, and its view of the log.
struct AppContext<'a> {
    instance: InstanceId,
    registry: &'a Arc<Registry>,
    seen: &'a Arc<LogWatermark>,
}

fn hub(
    config: &Config,
    secret: &str,
    database: &Database,
    here: &AppContext<'_>,
    turn: CommitTurn,
    rules: Option<CommandRules>,
    tasks: Tasks,
) -> HubParts {
    let AppContext { instance, registry, seen } = *here;
    let reader = database.reader("reader", config.read_connections).with_user_rate(config.user_read_rate);
    let (committed_in, committed) = mpsc::channel(COMMITTED_BATCHES);
    let (handle, appender) = Appender::new(database.clone(), instance, Arc::clone(seen), committed_in, turn);
    let pulse = Arc::new(Pulse::default());
    let health = Health::new(Arc::clone(&pulse), handle.work()).with_durability(database.durability().cloned());
    let (keys, looker) = KeyCache::new(database.reader("keys", KEY_CONNECTIONS));
    let command_intake = rules.map(|rules| CommandIntake::new(rules, database.reader("commands", COMMAND_CONNECTIONS)));
    let hub = HubState {
        instance,
        appender: handle,
        delivery: Delivery::new(Arc::clone(registry), reader.clone(), config.delivery_facts)
            .with_resume(instance, config.resume_window)
            .with_arrivals(command_intake.as_ref().map(|intake| Arc::clone(&intake.arrivals))),
        command_intake,
        auth: Auth::new(TokenRules::new(secret, config.jwt.clone()), keys),
        reader,
        origins: config.allowed_origins.clone().map_or_else(Origins::loopback, Origins::listed).on_loopback(config.bind.is_loopback()),
        rates: NameRates::new("publish", config.publish_rate, config.publish_rate),
        user_rates: NameRates::new("request", config.user_rate, config.user_rate),
        ticket_rates: NameRates::new("ticket", TICKET_BURST, 1),
        tickets: Tickets::new(secret, database.reader("tickets", TICKET_CONNECTIONS)),
        budgets: UserBudgets::new(config.max_connections_per_user),
        batch_room: Semaphore::new(BATCHES_AT_ONCE),
        health,
        sockets: SocketRules { heartbeat: config.heartbeat, send_deadline: config.send_deadline, pong_deadline: config.pong_deadline },
        max_connections: max_connections(config),
        tasks,
    };
    HubParts { hub: Arc::new(hub), pulse, looker, committed, appender }
}

/// The provider settings that the delivery side needs.
fn command_rules(providers: &Providers) -> CommandRules {
    let rules = |provider: &Arc<Provider>| ProviderRules { name: provider.name.clone(), linger: provider.linger };
    let types = |provider: &Arc<Provider>| {
        let name = provider.name.clone();
        provider.commands.types.clone().into_iter().map(move |kind| (kind, name.clone()))
    };
    CommandRules { providers: providers.iter().map(rules).collect(), types: providers.iter().flat_map(types).collect(), wait: COMMAND_WAIT }
}

/// Creates the registry, positioned at the log's head.
async fn registry(config: &Config, database: &Database) -> Result<Arc<Registry>, ServeError> {
    let mut connection = database.connect("start").await?;
    let state = read::state(&mut connection).await?;
    let limits = ConnectionLimits {
        connections: max_connections(config),
        per_user: config.max_connections_per_user,
        devices: config.max_devices_per_user,
        single: config.session_policy == SessionPolicy::Single,
    };
    Ok(Registry::new(limits, Position { log_id: state.log_id, floor: state.floor, dispatched: state.head }))
}

fn policy(config: &Config) -> RetentionPolicy {
    let kept = config.retention;
    RetentionPolicy { age: kept.age, bytes: kept.bytes, sessions: kept.sessions, devices: kept.devices, upstream: kept.upstream }
}

/// How many connections of each kind the hub has room for.
#[derive(Debug, Clone, Copy)]
struct ConnectionRoom {
    clients: usize,
    /// For services, admins and health checks.
    http: usize,
    reserved: usize,
}

impl ConnectionRoom {
    fn of(config: &Config) -> Self {
        Self::within(open_file_limit().unwrap_or(FILES_FALLBACK), config)
    }

    fn within(files: usize, config: &Config) -> Self {
        // Each provider session takes a file as well; but a small limit is not spent on them alone.
        let provider_sockets = config.upstream_file.as_ref().map_or(0, |_| config.upstream.most_sessions).min(files / 2);
        let readers = (config.read_connections as usize).saturating_sub(USUAL_READERS);
        let left = files.saturating_sub(FILES_RESERVED).saturating_sub(provider_sockets).saturating_sub(readers);
        let (http, reserved) = ((left / 4).clamp(4, HTTP_CONNECTIONS), (left / 8).clamp(2, RESERVED_CONNECTIONS));
        let by_files = left.saturating_sub(http + reserved).max(1);
        Self { clients: config.max_connections.unwrap_or(by_files).min(by_files), http, reserved }
    }

    /// The limits of the listener that serves this side.
    fn budgets(self, config: &Config, side: ListenerSide) -> AddressBudgets {
        let Self { clients, http, reserved } = self;
        let (open, reserved) = match side {
            ListenerSide::Whole => (clients + http, reserved),
            ListenerSide::Public => (clients + http / 2, 0),
            ListenerSide::Internal => return AddressBudgets { reserved, ..AddressBudgets::unlimited(http - http / 2) },
        };
        let of_address = config.address_connections.unwrap_or_else(|| (open / ADDRESS_PART).max(ADDRESS_LEAST));
        AddressBudgets {
            open,
            reserved,
            address_connections: of_address,
            address_handshakes: config.address_handshakes,
            address_requests: config.address_requests,
        }
    }
}

fn max_connections(config: &Config) -> usize {
    ConnectionRoom::of(config).clients
}

/// A listener that is bound and does not accept yet.
struct BoundListener {
    server: Server,
    address: SocketAddr,
    side: ListenerSide,
}

/// Binds the listeners of the hub; the one for its clients comes first.
async fn listen(config: &Config, hub: &Arc<HubState>, tasks: &Tasks) -> Result<Vec<BoundListener>, ServeError> {
    let room = ConnectionRoom::of(config);
    if let Some(wanted) = config.max_connections.filter(|wanted| *wanted > room.clients) {
        tracing::warn!(
            wanted,
            possible = room.clients,
            "WS_MAX_CONNECTIONS is more than the limit of open files allows; using the possible number"
        );
    }
    let public = SocketAddr::new(config.bind, config.port);
    let wanted = match config.internal_bind {
        None => vec![(public, ListenerSide::Whole)],
        Some(internal) => vec![(public, ListenerSide::Public), (internal, ListenerSide::Internal)],
    };
    // Above the send deadline: that deadline closes a WebSocket that takes nothing first, with a close code if
    // possible.
    let rules = ServerRules { stall: config.send_deadline + STALL_MARGIN, idle: config.idle_timeout };
    let mut listeners = Vec::new();
    for (address, side) in wanted {
        let places = ConnectionSlots::new(room.budgets(config, side), TrustedProxies::new(config.trusted_proxies.clone()));
        let bind_error = |error| ServeError::Bind { address, error };
        let server = Server::bind(address, router(Arc::clone(hub), side, hosts(config, address)), tasks.clone(), places, rules)
            .await
            .map_err(bind_error)?;
        let address = server.address().map_err(bind_error)?;
        listeners.push(BoundListener { server, address, side });
    }
    Ok(listeners)
}

/// The `Host` names that a listener accepts.
fn hosts(config: &Config, address: SocketAddr) -> Hosts {
    if !address.ip().is_loopback() {
        return Hosts::any();
    }
    Hosts::on_loopback(&config.allowed_hosts, config.allowed_origins.as_deref().unwrap_or_default())
}

/// The soft limit of open files, if the system reports it.
pub fn open_file_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// Sent when a terminal is gone, or by a supervisor that wants settings reloaded, which takes a new process.
    hang_up: Signal,
}

impl Signals {
    fn receive() -> Result<Self, ServeError> {
        let receive = |kind| signal(kind).map_err(ServeError::Signals);
        Ok(Self {
            terminate: receive(SignalKind::terminate())?,
            interrupt: receive(SignalKind::interrupt())?,
            hang_up: receive(SignalKind::hangup())?,
        })
    }

    async fn wait_for_stop(mut self, failed: &mut mpsc::Receiver<TaskName>) -> Result<(), ServeError> {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: stopping"),
            _ = self.hang_up.recv() => tracing::info!("SIGHUP: stopping"),
            Some(name) = failed.recv() => {
                tracing::error!(task = %name, "essential task panicked: stopping");
                return Err(ServeError::TaskFailed(name));
            }
        }
        Ok(())
    }
}

/// Stops the parts in order: readiness, accepting, close frames, the appender, then acknowledgements.
async fn stop(config: &Config, hub: &HubState, tasks: &Tasks, stoppers: Stoppers) {
    hub.health.stop();
    stoppers.accepting.stop();
    // At the same time as the close frames: another hub takes over the provider sessions meanwhile.
    stoppers.holding.stop();
    hub.delivery.registry.end_all(CloseCode::Draining, u64::try_from(config.drain_window.as_millis()).unwrap_or(u64::MAX));
    // The appender outlives the requests: a request in progress at the signal still gets its number.
    let end = tokio::time::Instant::now() + GRACE;
    let mut running = tasks.join_named(&[TaskName::Http, TaskName::WebSocket, TaskName::Stream], GRACE).await;
    stoppers.appending.stop();
    running.extend(
        tasks
            .join_named(&[TaskName::Appender, TaskName::ProviderSupervisor], end.saturating_duration_since(tokio::time::Instant::now()))
            .await,
    );
    stoppers.following.stop();
    stoppers.writing_down.stop();
    running.extend(tasks.join(GRACE).await);
    hub.tickets.close().await;
    if let Some(command_intake) = &hub.command_intake {
        command_intake.close().await;
    }
    hub.reader.close().await;
    if !running.is_empty() {
        tracing::warn!(?running, "tasks still ran when the time to stop was over");
    }
}
