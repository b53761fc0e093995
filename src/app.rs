//! Serves: starts a hub on its database and stops it at a signal.

mod connection_room;
mod database_connections;
mod hub;
mod service_manager;

use std::net::SocketAddr;

use tokio::signal::unix::{Signal, SignalKind, signal};

pub use self::connection_room::open_file_limit;
pub use self::database_connections::database_connections;
pub use self::hub::{Hub, HubBuilder, ProviderConfig, webhook_rules};
use self::service_manager::ServiceManager;
use crate::config::Config;
use crate::domain::InstanceId;
use crate::identity::{Identity, OwnSecret};
use crate::providers;
use crate::startup::{self, Startup, StartupError};
use crate::store::StoreError;
use crate::store::fingerprints::SharedSecret;
use crate::store::log_identity::LogMemory;
use crate::tasks::TaskName;
use crate::telemetry;

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
    #[error("{0}")]
    Traces(String),
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
    identity: Identity,
    provider_config: Option<ProviderConfig>,
    webhook_keys: Vec<[u8; 32]>,
}

impl Kept {
    /// # Errors
    /// If a secret can neither be read nor created, or the provider file is wrong: a hub with half of its providers
    /// would look healthy without being so.
    pub fn read(config: &Config) -> Result<Self, StartupError> {
        let identity = startup::identity(config)?;
        let providers = startup::providers(config)?;
        let provider_config =
            if providers.is_empty() { None } else { Some(ProviderConfig { providers, keys: startup::upstream_keys(config)? }) };
        let webhook_keys = startup::webhook_keys(config);
        Ok(Self { identity, provider_config, webhook_keys })
    }

    /// The secret that signs tokens.
    pub const fn current_secret(&self) -> &OwnSecret {
        &self.identity.secrets.current
    }
}

/// Where a hub is reached.
#[derive(Debug, Clone, Copy)]
pub struct ReadyAddresses {
    /// Where clients connect.
    pub clients: SocketAddr,
    /// Where admins open the console; `None` if it is not served.
    pub console: Option<SocketAddr>,
}

/// Serves until SIGTERM, SIGINT or SIGHUP. `ready` gets the addresses once clients may connect.
///
/// # Errors
/// See [`ServeError`].
pub async fn serve(config: Config, kept: Kept, ready: impl FnOnce(ReadyAddresses)) -> Result<(), ServeError> {
    let Kept { identity, provider_config, webhook_keys } = kept;
    let instance = InstanceId::new();
    telemetry::start_traces(&config.traces, &instance.to_string()).map_err(ServeError::Traces)?;
    if config.jwt_secret.is_some() && config.jwt.issuer.is_none() && config.jwt.audience.is_none() {
        tracing::warn!("tokens are accepted for any issuer and audience; set RECADO_JWT_AUDIENCE or RECADO_JWT_ISSUER to restrict them");
    }
    if let Some(ProviderConfig { providers, .. }) = &provider_config {
        tracing::info!(providers = ?providers.names(), "provider file loaded");
    }
    let mut startup = Startup::open(&config).await?;
    startup.act_as_hub();
    let outcome = serve_on(&config, instance, (identity, webhook_keys), &mut startup, provider_config, ready).await;
    // Also if the start failed: the private server must not stay behind.
    startup.close().await;
    outcome
}

async fn serve_on(
    config: &Config,
    instance: InstanceId,
    (identity, webhook_keys): (Identity, Vec<[u8; 32]>),
    startup: &mut Startup,
    provider_config: Option<ProviderConfig>,
    ready: impl FnOnce(ReadyAddresses),
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
    startup.record_noted_acts(config).await?;
    check(startup, memory.as_ref(), &identity, provider_config.as_ref()).await?;
    // Before readiness is announced: a signal without a handler would kill the process.
    let signals = Signals::receive()?;
    let mut builder = HubBuilder::of(config, identity, startup.database.clone())
        .instance(instance)
        .private_server(startup.keeper())
        .memory(memory)
        .webhook_keys(webhook_keys);
    if let Some(provider_config) = provider_config {
        builder = builder.providers(provider_config);
    }
    let mut hub = builder.start().await?;
    let address = hub.address();
    ready(ReadyAddresses { clients: address, console: hub.console_address() });
    let manager = ServiceManager::of(&config.machine);
    manager.tell(&format!("READY=1\nSTATUS=serving on {address}")).await;
    let outcome = tokio::select! {
        outcome = signals.wait_for_stop(&mut hub) => outcome,
        never = manager.keep_alive(address) => match never {},
    };
    manager.tell("STOPPING=1\nSTATUS=asking clients to reconnect").await;
    hub.stop().await;
    outcome
}

/// Checks the conditions for serving next to other hubs, and for clients that knew the log before.
async fn check(
    startup: &Startup,
    memory: Option<&LogMemory>,
    identity: &Identity,
    provider_config: Option<&ProviderConfig>,
) -> Result<(), StartupError> {
    let secrets: Vec<&[u8]> = identity.secrets.all().map(|own| own.secret.as_bytes()).collect();
    startup.compare_secret(SharedSecret::Jwt, &secrets).await?;
    if let Some(ProviderConfig { keys, .. }) = provider_config {
        let keys: Vec<&[u8]> = keys.iter().map(<[u8; 32]>::as_slice).collect();
        startup.compare_secret(SharedSecret::Upstream, &keys).await?;
    }
    startup.check_history(memory).await
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

    async fn wait_for_stop(mut self, hub: &mut Hub) -> Result<(), ServeError> {
        tokio::select! {
            _ = self.terminate.recv() => tracing::info!("SIGTERM: stopping"),
            _ = self.interrupt.recv() => tracing::info!("SIGINT: stopping"),
            _ = self.hang_up.recv() => tracing::info!("SIGHUP: stopping"),
            name = hub.failed() => {
                tracing::error!(task = %name, "essential task panicked: stopping");
                return Err(ServeError::TaskFailed(name));
            }
        }
        Ok(())
    }
}
