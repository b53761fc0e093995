//! Builds a hub: creates its parts, connects their channels, starts and stops them in order.

mod listeners;
mod webhook_parts;

use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use private_postgres::ServerKeeper;
use serde_json::json;
use tokio::sync::{Notify, Semaphore, mpsc};

use self::listeners::{BoundListener, listen};
pub use self::webhook_parts::webhook_rules;
use self::webhook_parts::webhook_setup;
use super::ServeError;
use super::connection_room::ConnectionRoom;
use super::database_connections::{COMMAND_CONNECTIONS, CONSUMER_CONNECTIONS, KEY_CONNECTIONS, TICKET_CONNECTIONS};
use crate::config::{Config, EffectiveSetting, SessionPolicy, SwitchedOn, UpstreamSettings};
use crate::delivery::ack_flusher::AckFlusher;
use crate::delivery::ack_prober::AckProber;
use crate::delivery::connection_entries::EntryWriter;
use crate::delivery::registry::fan_out::FanOut;
use crate::delivery::registry::{ConnectionLimits, Position};
use crate::delivery::tailer::{Pulse, TailSource, Tailer};
use crate::delivery::{Delivery, Registry};
use crate::domain::InstanceId;
use crate::domain::audit::Act;
use crate::http::{
    AccessWatch, Auth, BATCHES_AT_ONCE, CONSOLE_READS_AT_ONCE, ConsoleRules, DEVICE_LISTS_MAX, DEVICE_LISTS_OF_ONE, FETCHES_MAX,
    FETCHES_OF_ONE, FOLLOWERS_MAX, FOLLOWERS_OF_ONE, Health, HubReports, HubState, InstanceHistory, KeyCache, KeyLooker, KeyRates,
    LIVE_MAX, LIVE_OF_ONE, NameRates, Origins, ScanTurns, Served, SocketRules, StreamPlaces, Tickets, UserBudgets, close_removed_keys,
    record_refused_attempts,
};
use crate::identity::sign_in_link::SignInLinks;
use crate::identity::{Identity, OwnSecrets, TokenMinter};
use crate::log::appender::{Appender, Committed};
use crate::log::commit_turns::CommitTurn;
use crate::log::inbox_writer::InboxWriter;
use crate::log::maintenance::{self, Heartbeat};
use crate::log::outbox_relay::OutboxRelay;
use crate::log::retention::{self, RetentionPolicy};
use crate::providers::command_intake::{CommandIntake, CommandRules, ProviderRules};
use crate::providers::provider_status::ProviderStatus;
use crate::providers::{self, Provider, Providers, UpstreamSetup};
use crate::startup;
use crate::store::access_sign::AccessSign;
use crate::store::audit::{self, Entry};
use crate::store::listener::ListenerOutputs;
use crate::store::log_identity::LogMemory;
use crate::store::log_watermark::LogWatermark;
use crate::store::outbox_calls::OutboxCalls;
use crate::store::sealed_rows::RowSeal;
use crate::store::standby::standby_watch;
use crate::store::turn_pool::TurnPool;
use crate::store::{Database, listener, read};
use crate::tasks::{Stopper, TaskName, Tasks};
use crate::webhooks;
use crate::wire::close::CloseCode;
use crate::wire::console::settings::ShownSetting;

/// Committed batches of this instance that the tailer has not read. When full, the tailer reads the table instead.
const COMMITTED_BATCHES: usize = 64;
/// Hints that the tailer has not read. When full, the tailer is awake anyway.
const HINTS: usize = 256;
/// Hints about provider sessions that one receiver has not read. When full, the receiver polls.
const UPSTREAM_HINTS: usize = 1024;
/// Changes of key sets that were not acted upon. When full, the fetching of sets waits.
const KEY_CHANGES: usize = 16;
/// A command that no instance takes within this time is rejected.
const COMMAND_WAIT: Duration = Duration::from_secs(10);
/// Burst of tickets per user; after it, one per second. A bit more than the connections of one user.
const TICKET_BURST: u32 = 30;
/// How long requests, the appender and the supervisor may still take once the hub stops. The other tasks then get the
/// same time again.
const GRACE: Duration = Duration::from_secs(4);

/// The providers, and the keys of their session ids: the first one encrypts, all of them decrypt.
pub struct ProviderConfig {
    pub providers: Providers,
    pub keys: Vec<[u8; 32]>,
}

/// What a hub is made of. The schema of its database is up to date.
pub struct HubBuilder<'a> {
    config: &'a Config,
    instance: Option<InstanceId>,
    identity: Identity,
    database: Database,
    commands: Option<CommandRules>,
    provider_config: Option<ProviderConfig>,
    hears_providers: bool,
    keeper: Option<ServerKeeper>,
    memory: Option<LogMemory>,
    webhook_keys: Vec<[u8; 32]>,
}

impl<'a> HubBuilder<'a> {
    /// A hub with these settings, and this secret for its tokens.
    ///
    /// # Panics
    /// Never for a secret that [`crate::secrets::check`] accepts.
    pub fn new(config: &'a Config, secret: &str, database: Database) -> Self {
        let identity = Identity::new(OwnSecrets::single(secret), config.jwt.clone(), Vec::new());
        Self::of(config, identity.expect("the caller has checked the secret"), database)
    }

    /// A hub with these settings, secrets and issuers.
    pub const fn of(config: &'a Config, identity: Identity, database: Database) -> Self {
        Self {
            config,
            instance: None,
            identity,
            database,
            commands: None,
            provider_config: None,
            hears_providers: true,
            keeper: None,
            memory: None,
            webhook_keys: Vec::new(),
        }
    }

    /// Names the hub. Without a name it makes one.
    #[must_use]
    pub const fn instance(mut self, instance: InstanceId) -> Self {
        self.instance = Some(instance);
        self
    }

    /// Holds sessions at these providers, and takes the commands for them.
    #[must_use]
    pub fn providers(mut self, provider_config: ProviderConfig) -> Self {
        self.commands = Some(command_rules(&provider_config.providers));
        self.provider_config = Some(provider_config);
        self
    }

    /// Takes commands by these rules, and holds no session: another program of the same database does.
    #[must_use]
    pub fn commands(mut self, rules: CommandRules) -> Self {
        self.commands = Some(rules);
        self
    }

    /// Ignores each NOTIFY about provider sessions, as if all of them were lost. The hub then polls.
    #[must_use]
    pub const fn deaf_to_providers(mut self) -> Self {
        self.hears_providers = false;
        self
    }

    /// Keeps this private server running.
    #[must_use]
    pub fn private_server(mut self, keeper: Option<ServerKeeper>) -> Self {
        self.keeper = keeper;
        self
    }

    /// Writes down outside the database how far the log has come.
    #[must_use]
    pub fn memory(mut self, memory: Option<LogMemory>) -> Self {
        self.memory = memory;
        self
    }

    /// Opens secrets of webhooks with these keys, unless newer ones can be read.
    #[must_use]
    pub fn webhook_keys(mut self, keys: Vec<[u8; 32]>) -> Self {
        self.webhook_keys = keys;
        self
    }

    /// Binds the listeners and starts all tasks. Clients may connect once this returns.
    ///
    /// # Errors
    /// If the database does not answer, an address is taken, or a provider cannot be held.
    pub async fn start(self) -> Result<Hub, ServeError> {
        let Self { config, instance, identity, database, commands, provider_config, hears_providers, keeper, memory, webhook_keys } = self;
        let (tasks, failed) = Tasks::new();
        let instance = instance.unwrap_or_else(InstanceId::new);
        let (fan_out, fan_out_writers) = FanOut::new(thread::available_parallelism().map_or(1, usize::from));
        let (registry, seal) = read_log(config, &database, fan_out).await?;
        let seen = Arc::new(LogWatermark::new(registry.position().log_id));
        let (others, turn) = CommitTurn::of(instance);
        let here = AppContext { instance, registry: &registry, seen: &seen, seal: &seal };
        let HubParts { hub, pulse, looker, committed, appender, inbox_writer, entry_writer } =
            hub(config, &identity, &database, &here, turn, commands, tasks.clone());
        let webhooks_changed = Arc::new(Notify::new());
        let webhooks = webhook_setup(config, database.clone(), &here, webhook_keys, Arc::clone(&webhooks_changed));

        let (accepting, stop_accepting) = Stopper::new();
        let (appending, stop_appending) = Stopper::new();
        let (following, stop_following) = Stopper::new();
        let (writing_down, stop_writing) = Stopper::new();
        let (holding, stop_holding) = Stopper::new();

        // Before a client can connect.
        let access = AccessWatch::begin(database.clone(), Arc::clone(&hub)).await?;
        let listeners = listen(config, &hub, &tasks).await?;
        let address = listeners[0].address;
        // The internal listener, if there is one, comes last.
        let console_address = listeners.last().map(|listener| listener.address).filter(|_| hub.console.page != Served::Off);

        let (hints_in, hints) = mpsc::channel(HINTS);
        let outbox = Arc::new(OutboxCalls::default());
        let outbox_relay = OutboxRelay::new(database.clone(), Arc::clone(&seen), hub.appender.work(), Arc::clone(&outbox));
        let access_changed = Arc::new(Notify::new());
        let access_sign = Arc::new(AccessSign::new(Arc::clone(&access_changed)));
        let source = TailSource { database: database.clone(), instance, access: Arc::clone(&access_sign), seal };
        let tailer = Tailer::new(source, Arc::clone(&registry), Arc::clone(&seen), pulse, config.poll_interval);
        let ack_flusher = AckFlusher::new(database.clone(), instance, &hub.delivery);
        tasks.essential(TaskName::Appender, appender.run(stop_appending.clone()));
        tasks.essential(TaskName::InboxWriter, inbox_writer.run(stop_appending));
        tasks.essential(TaskName::Entries, entry_writer.run(stop_following.clone()));
        tasks.essential(TaskName::Tailer, tailer.run(committed, hints, stop_following.clone()));
        for writer in fan_out_writers {
            tasks.essential(TaskName::FanOut, writer.run(stop_following.clone()));
        }
        tasks.essential(TaskName::AckProber, AckProber::new(Arc::clone(&registry)).run(stop_following.clone()));
        tasks.essential(TaskName::Keys, looker.run(stop_following.clone()));
        tasks.essential(TaskName::OutboxRelay, outbox_relay.run(stop_following.clone()));
        for (at, standbys) in hub.reader.standbys().into_iter().flat_map(|standbys| (0..standbys.count()).map(move |at| (at, standbys))) {
            let watch = standby_watch(Arc::clone(standbys), at, Arc::clone(&seen), stop_following.clone());
            tasks.essential(TaskName::StandbyWatch, watch);
        }
        webhooks::start(webhooks, &tasks, stop_holding.clone());
        let mut upstream_hints = Vec::new();
        if let Some(command_intake) = &hub.command_intake {
            let (hints_in, hints) = mpsc::channel(UPSTREAM_HINTS);
            if hears_providers {
                upstream_hints.push(hints_in);
            }
            let provider_status = ProviderStatus::new(database.clone(), Arc::clone(&hub.delivery.registry), Arc::clone(command_intake));
            tasks.essential(TaskName::ProviderStatus, provider_status.run(hints, stop_following.clone()));
        }
        if let Some(ProviderConfig { providers, keys }) = provider_config {
            let UpstreamSettings { lease, starts_per_second, most_sessions } = config.upstream;
            let (database, seen) = (database.clone(), Arc::clone(&seen));
            let setup = UpstreamSetup { database, instance, providers, keys, seen, lease, starts_per_second, most_sessions };
            upstream_hints.extend(providers::start(setup, &tasks, stop_holding, &stop_following)?);
        }
        if !identity.key_sets().is_empty() {
            let (changes_in, changes) = mpsc::channel(KEY_CHANGES);
            for set in identity.key_sets() {
                tasks.essential(TaskName::KeySets, Arc::clone(set).keep(changes_in.clone(), stop_following.clone()));
            }
            tasks.essential(
                TaskName::KeySets,
                close_removed_keys(Arc::clone(&registry), changes, config.drain_window, stop_following.clone()),
            );
        }
        tasks.essential(TaskName::AccessWatch, access.run(Arc::clone(&access_changed), access_sign, stop_following.clone()));
        let readers = ListenerOutputs { hints: hints_in, others, upstream: upstream_hints, access_changed, outbox, webhooks_changed };
        tasks.essential(TaskName::Listener, listener::run(database.clone(), readers, stop_following.clone()));
        tasks.essential(TaskName::AckFlusher, ack_flusher.run(stop_writing));
        tasks.essential(TaskName::Retention, retention::run(database.clone(), policy(config), stop_following.clone()));
        if let Some(keeper) = keeper {
            tasks.essential(TaskName::PrivateServer, startup::keep(keeper, stop_following.clone()));
        }
        record_start(config, &database, instance).await?;
        let refused = record_refused_attempts(database.clone(), Arc::clone(&hub.refused_attempts), stop_following.clone());
        tasks.essential(TaskName::Audit, refused);
        let memory = memory.map(|memory| memory.of(Arc::clone(&seen)));
        let heartbeat = Heartbeat { instance, address: address.to_string(), reports: Box::new(HubReports(Arc::clone(&hub))) };
        tasks.essential(TaskName::Maintenance, maintenance::run(database, heartbeat, memory, hub.auth.key_uses(), stop_following));
        for BoundListener { server, address, side } in listeners {
            tracing::info!(%address, ?side, %instance, "serving");
            tasks.essential(TaskName::Accept, server.run(stop_accepting.clone()));
        }
        let stoppers = Stoppers { accepting, holding, appending, following, writing_down };
        Ok(Hub { address, console_address, hub, tasks, failed, stoppers, drain_window: config.drain_window })
    }
}

/// A hub that serves. Dropping it stops its tasks without order.
pub struct Hub {
    address: SocketAddr,
    console_address: Option<SocketAddr>,
    hub: Arc<HubState>,
    tasks: Tasks,
    failed: mpsc::Receiver<TaskName>,
    stoppers: Stoppers,
    drain_window: Duration,
}

impl Hub {
    /// Where clients connect.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where admins open the console; `None` if it is not served.
    pub const fn console_address(&self) -> Option<SocketAddr> {
        self.console_address
    }

    /// Waits until a task fails that the hub needs. It must be stopped then.
    pub async fn failed(&mut self) -> TaskName {
        match self.failed.recv().await {
            Some(name) => name,
            // No task is left that could fail.
            None => std::future::pending().await,
        }
    }

    /// Stops the parts in order: readiness, accepting, close frames, the appender, then acknowledgements.
    pub async fn stop(self) {
        let Self { hub, tasks, stoppers, drain_window, .. } = self;
        hub.health.stop();
        hub.instances.end();
        stoppers.accepting.stop();
        // At the same time as the close frames: another hub takes over the provider sessions meanwhile.
        stoppers.holding.stop();
        hub.delivery.registry.end_all(CloseCode::Draining, u64::try_from(drain_window.as_millis()).unwrap_or(u64::MAX));
        // The appender outlives the requests: a request in progress at the signal still gets its number.
        let end = tokio::time::Instant::now() + GRACE;
        let mut running = tasks.join_named(&[TaskName::Http, TaskName::WebSocket, TaskName::Stream], GRACE).await;
        stoppers.appending.stop();
        running.extend(
            tasks
                .join_named(
                    &[TaskName::Appender, TaskName::InboxWriter, TaskName::ProviderSupervisor, TaskName::WebhookSupervisor],
                    end.saturating_duration_since(tokio::time::Instant::now()),
                )
                .await,
        );
        stoppers.following.stop();
        stoppers.writing_down.stop();
        running.extend(tasks.join(GRACE).await);
        hub.tickets.close().await;
        if let Some(command_intake) = &hub.command_intake {
            command_intake.close().await;
        }
        hub.consumer_calls.close().await;
        hub.reader.close().await;
        if !running.is_empty() {
            tracing::warn!(?running, "tasks still ran when the time to stop was over");
        }
    }
}

/// The stop signals of a hub's parts, in the order in which they stop.
struct Stoppers {
    accepting: Stopper,
    holding: Stopper,
    appending: Stopper,
    following: Stopper,
    writing_down: Stopper,
}

/// The hub's shared state, and what its tasks need to run.
struct HubParts {
    hub: Arc<HubState>,
    pulse: Arc<Pulse>,
    looker: KeyLooker,
    committed: mpsc::Receiver<Committed>,
    appender: Appender,
    inbox_writer: InboxWriter,
    entry_writer: EntryWriter,
}

/// The identity of this instance, and its view of the log.
struct AppContext<'a> {
    instance: InstanceId,
    registry: &'a Arc<Registry>,
    seen: &'a Arc<LogWatermark>,
    seal: &'a Arc<RowSeal>,
}

fn hub(
    config: &Config,
    identity: &Identity,
    database: &Database,
    here: &AppContext<'_>,
    turn: CommitTurn,
    rules: Option<CommandRules>,
    tasks: Tasks,
) -> HubParts {
    let AppContext { instance, registry, seen, seal } = *here;
    let reader = database
        .reader("reader", config.read_connections)
        .with_user_rate(config.user_read_rate)
        .with_members(config.accounts.reads_table())
        .with_standbys(database.standbys(config.read_connections));
    let (committed_in, committed) = mpsc::channel(COMMITTED_BATCHES);
    let (handle, appender) = Appender::new(database.clone(), instance, (Arc::clone(seen), Arc::clone(seal)), committed_in, turn);
    let (inboxes, inbox_writer) = InboxWriter::new(database.clone(), instance, Arc::clone(seen), config.accounts.reads_table());
    let (entries, entry_writer) = EntryWriter::new(database.clone(), config.max_devices_per_user);
    let pulse = Arc::new(Pulse::default());
    let health =
        Health::new(Arc::clone(&pulse), handle.work()).with_durability(database.durability().cloned()).with_key_sets(identity.key_sets());
    let (keys, looker) = KeyCache::new(database.reader("keys", KEY_CONNECTIONS));
    let command_intake = rules.map(|rules| CommandIntake::new(rules, database.reader("commands", COMMAND_CONNECTIONS)));
    let hub = HubState {
        instance,
        appender: handle,
        row_seal: Arc::clone(seal),
        delivery: Delivery::new(Arc::clone(registry), reader.clone(), config.delivery_facts)
            .with_resume(instance, config.resume_window)
            .with_entries(entries)
            .with_token_accounts(config.accounts.reads_token())
            .with_arrivals(command_intake.as_ref().map(|intake| Arc::clone(&intake.arrivals))),
        command_intake,
        auth: Auth::new(identity.tokens(), keys),
        reader,
        origins: config
            .allowed_origins
            .clone()
            .map_or_else(Origins::loopback, Origins::listed)
            .reached_at(config.public_origin.clone())
            .on_loopback(config.bind.is_loopback()),
        console: console_rules(config, identity),
        instances: InstanceHistory::default(),
        refused_attempts: Arc::default(),
        rates: NameRates::new("publish", config.publish_rate, config.publish_rate),
        key_rates: KeyRates::default(),
        user_rates: NameRates::new("request", config.user_rate, config.user_rate),
        ticket_rates: NameRates::new("ticket", TICKET_BURST, 1),
        tickets: Tickets::new(&identity.secrets, database.reader("tickets", TICKET_CONNECTIONS)),
        budgets: UserBudgets::new(config.max_connections_per_user),
        batch_room: Semaphore::new(BATCHES_AT_ONCE),
        console_reads: Semaphore::new(CONSOLE_READS_AT_ONCE),
        device_scans: ScanTurns::default(),
        device_lists: StreamPlaces::new("wait for a list of all devices", DEVICE_LISTS_MAX, DEVICE_LISTS_OF_ONE),
        log_followers: StreamPlaces::new("follow the log", FOLLOWERS_MAX, FOLLOWERS_OF_ONE),
        live_readers: StreamPlaces::new("read the samples of the instances", LIVE_MAX, LIVE_OF_ONE),
        inboxes,
        required_types: config.required_types.clone(),
        consumer_calls: TurnPool::new(database.reader("consumers", CONSUMER_CONNECTIONS)),
        consumer_fetches: StreamPlaces::new("fetch for consumers", FETCHES_MAX, FETCHES_OF_ONE),
        retention: policy(config),
        health,
        sockets: SocketRules { heartbeat: config.heartbeat, send_deadline: config.send_deadline, pong_deadline: config.pong_deadline },
        max_connections: ConnectionRoom::of(config).clients,
        tasks,
    };
    HubParts { hub: Arc::new(hub), pulse, looker, committed, appender, inbox_writer, entry_writer }
}

const fn served(switched: SwitchedOn) -> Served {
    match switched {
        SwitchedOn::No => Served::Off,
        SwitchedOn::ByAuto => Served::WithoutProxy,
        SwitchedOn::Yes => Served::On,
    }
}

/// What the console shows and may do.
fn console_rules(config: &Config, identity: &Identity) -> ConsoleRules {
    let shown = |setting: &EffectiveSetting| ShownSetting {
        name: setting.name,
        value: setting.value.clone(),
        source: setting.source.as_str(),
        secret: setting.is_secret,
    };
    ConsoleRules {
        page: served(config.serves_console()),
        playground: served(config.serves_playground()),
        leads_from_root: config.leads_to_console(),
        minter: TokenMinter::new(identity.secrets.current.clone(), config.jwt.clone()),
        links: SignInLinks::of(identity.secrets.all()),
        folder: config.console.folder.clone(),
        settings: config.effective.iter().map(shown).collect(),
    }
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

/// Records the start of a hub, with its version and the settings that differ from their defaults.
async fn record_start(config: &Config, database: &Database, instance: InstanceId) -> Result<(), ServeError> {
    let mut connection = database.connect("start").await?;
    let details = json!({ "version": env!("CARGO_PKG_VERSION"), "settings": config.given });
    let object = instance.to_string();
    audit::record(&mut connection, Some(&audit::hub()), &Entry::done(Act::HubStart, &object).with_details(details)).await?;
    Ok(())
}

/// Creates the registry, positioned at the log's head, and reads the key that the hubs of the log share.
async fn read_log(config: &Config, database: &Database, fan_out: FanOut) -> Result<(Arc<Registry>, Arc<RowSeal>), ServeError> {
    let mut connection = database.connect("start").await?;
    let state = read::state(&mut connection).await?;
    let seal = RowSeal::read(&mut connection).await?;
    let limits = ConnectionLimits {
        connections: ConnectionRoom::of(config).clients,
        per_user: config.max_connections_per_user,
        devices: config.max_devices_per_user,
        single: config.session_policy == SessionPolicy::Single,
    };
    let position = Position { log_id: state.log_id, floor: state.floor, dispatched: state.head };
    Ok((Registry::new(limits, position, fan_out), Arc::new(seal)))
}

fn policy(config: &Config) -> RetentionPolicy {
    let kept = config.retention;
    RetentionPolicy {
        age: kept.age,
        bytes: kept.bytes,
        sessions: kept.sessions,
        devices: kept.devices,
        upstream: kept.upstream,
        audit: kept.audit,
    }
}
