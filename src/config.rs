//! Defines every setting with its name, default and meaning, and reads the environment.
//!
//! No other module reads the environment. A setting is a row of [`TABLE`], from which `docs/reference/settings.md` and
//! `recado config` are generated. Flags override the environment before it is read. All errors are reported at once.

mod console;
mod effective;
mod origins;
mod reading;
mod traces;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

pub use console::{ConsoleSettings, SwitchedOn};
use effective::without_credentials;
pub use effective::{EffectiveSetting, SettingSource};
pub use reading::{FOREVER, parse_bytes, parse_duration, parse_idle, parse_key};
use reading::{Reading, as_text, parse_facts, parse_networks, parse_types, service_links, unknown_names};
pub use traces::TraceSettings;

use crate::domain::MutePattern;

/// One row of the table of settings.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub name: &'static str,
    /// As a user would write it; empty if there is none.
    pub default: &'static str,
    pub meaning: &'static str,
    /// May also be given as `NAME_FILE`, a file whose content is the value; never shown.
    pub secret: bool,
}

const fn row(name: &'static str, default: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default, meaning, secret: false }
}

const fn secret(name: &'static str, meaning: &'static str) -> Setting {
    Setting { name, default: "", meaning, secret: true }
}

/// All settings, in the order in which they are documented.
pub const TABLE: &[Setting] = &[
    secret(
        "DATABASE_URL",
        "PostgreSQL 15 or newer, such as postgres://USER:PASSWORD@HOST/DATABASE?sslmode=verify-full. A connection \
         to another machine requires TLS unless the URL says sslmode=disable. Several hosts are tried in order. A \
         file named by DATABASE_URL_FILE is read again before each new connection. Absent: the hub runs its own \
         private server.",
    ),
    secret("RECADO_LISTEN_DATABASE_URL", "Direct connection for LISTEN. Needed if DATABASE_URL leads through a pooler (in session mode)."),
    secret(
        "RECADO_READ_DATABASE_URL",
        "Hot standbys of DATABASE_URL that read the past for resuming clients, the history and recado export: one URL for each, \
         separated by commas or white space, 8 at most. A standby that lags or fails is not used meanwhile. Absent: the \
         primary reads everything.",
    ),
    row("RECADO_DATABASE_WAIT", "60s", "How long a starting hub waits for its database to accept connections. 0s: not at all."),
    row(
        "RECADO_DATA_DIR",
        "",
        "Folder of the private server and of secrets that the hub made. Absent: /var/lib/recado for root, else the \
         user's state folder.",
    ),
    row("RECADO_POSTGRES_BIN", "", "Folder of the private server's programs. No other folder is searched."),
    row(
        "RECADO_POSTGRES_USER",
        "",
        "System user that runs the private server if the hub runs as root. Absent: the owner of the data, \
         postgres, or recado.",
    ),
    row(
        "RECADO_USER",
        "",
        "System user that a hub started by root becomes, for good. With a private server it is always the user that \
         runs the server. Absent: with DATABASE_URL the hub stays root and warns.",
    ),
    row("RECADO_FETCH_POSTGRES", "on", "on: download the private server's programs once if none are installed. off: never download."),
    row(
        "RECADO_ALLOW_UNSAFE_DURABILITY",
        "off",
        "on: serve although fsync, full_page_writes or synchronous_commit is off. A notification that was answered \
         with 201 can then be lost.",
    ),
    row("RECADO_BIND", "127.0.0.1", "Address to listen on."),
    row("PORT", "8080", "Port to listen on. 0: any free port; the ready line names it."),
    row(
        "RECADO_PUBLIC_URL",
        "",
        "Address under which browsers reach the hub, such as https://hub.example.com or https://example.com/hub. Pages \
         of its origin may always connect, also behind a proxy that changes the Host header, and a hub that listens on \
         loopback answers under its name. Absent: the Host header of a request decides alone.",
    ),
    row(
        "RECADO_ALLOWED_ORIGINS",
        "",
        "Origins of pages that may connect, separated by commas: https://app.example.com, https://*.example.com \
         for one label, capacitor://localhost. Pages of the hub's own host may always connect. Absent: loopback \
         origins only.",
    ),
    row(
        "RECADO_ALLOWED_HOSTS",
        "",
        "Further names under which a hub that listens on loopback answers, separated by commas: hub.example.com, \
         *.example.com for one label, or * for every name. Absent: localhost, addresses and the hosts of \
         RECADO_ALLOWED_ORIGINS and RECADO_PUBLIC_URL. Requests through a proxy of RECADO_TRUSTED_PROXIES are always answered.",
    ),
    row(
        "RECADO_INTERNAL_BIND",
        "",
        "Address and port of a second listener, such as 10.0.0.5:8081. Only that listener then serves posting, \
         /stats, /metrics, /health, /readyz and the admin routes. Absent: one listener serves everything.",
    ),
    row(
        "RECADO_TRUSTED_PROXIES",
        "",
        "Networks of proxies whose word about a client's address is believed (X-Forwarded-For, Forwarded, PROXY \
         protocol version 2), separated by commas, such as 10.0.0.0/8,127.0.0.1. Absent: none.",
    ),
    row(
        "RECADO_ADMIN",
        "auto",
        "The console at /admin, for admins. on, off, or auto: on when the listener that serves it is bound to loopback and \
         RECADO_PUBLIC_URL, RECADO_ALLOWED_HOSTS and RECADO_TRUSTED_PROXIES tell of no proxy in front of it, and for requests \
         without a header that proxies add, such as Forwarded, X-Forwarded-For, X-Real-IP or Via. With \
         RECADO_INTERNAL_BIND only that listener serves it.",
    ),
    row(
        "RECADO_PLAYGROUND",
        "auto",
        "on: the console's playground may make tokens for any user, for 15 minutes at most. off, or auto: on where, and \
         for requests to which, auto serves the console. Always off without the console and with RECADO_INTERNAL_BIND.",
    ),
    row(
        "RECADO_ADDRESS_CONNECTIONS",
        "",
        "Most open anonymous connections of one client address. An IPv6 /64 counts as one address. 0: no limit. \
         Absent: a quarter of all connections.",
    ),
    row(
        "RECADO_ADDRESS_HANDSHAKES",
        "200",
        "Most new anonymous connections per second of one client address, after a burst of as many as the hub \
         accepts. 0: no limit.",
    ),
    row(
        "RECADO_ADDRESS_REQUESTS",
        "300",
        "Most requests per second of one client address without a valid token, ticket or key, after a burst of \
         five times as many. 0: no limit.",
    ),
    row(
        "RECADO_IDLE_TIMEOUT",
        "75s",
        "Closes an HTTP connection without a request after this time, and announces it to clients. 1s to 1h.",
    ),
    secret("RECADO_JWT_SECRET", "Secret of user tokens (HS256), 32 bytes or more. Absent: made once and kept."),
    secret(
        "RECADO_JWT_ACCEPTED_SECRETS",
        "Further secrets that verify tokens and never sign, one a line: the next secret before a rotation, and the \
         previous one after it (docs/guides/identity.md).",
    ),
    row("RECADO_JWT_ISSUER", "", "Required iss of a token. Absent: not checked."),
    row("RECADO_JWT_AUDIENCE", "", "Required aud of a token. Absent: not checked."),
    row("RECADO_JWT_USER_CLAIM", "sub", "Claim with the user id: its name, or a JSON pointer such as /user/id."),
    row("RECADO_JWT_ACCOUNT_CLAIM", "account_id", "Claim with the account id, a string or a whole number: its name, or a JSON pointer."),
    row("RECADO_JWT_ACCOUNTS_CLAIM", "account_ids", "Claim with the account ids, a list: its name, or a JSON pointer."),
    row("RECADO_JWT_MAX_LIFETIME", "24h", "Longest remaining lifetime of a token. A token that expires later is refused."),
    row(
        "RECADO_JWT_ROLES",
        "own",
        "Whose tokens may claim recado_role. own: only tokens of the hub's own secret. any: also tokens by RECADO_JWKS_URL \
         or RECADO_JWKS_FILE.",
    ),
    row(
        "RECADO_JWKS_URL",
        "",
        "Address (https) of the key set of an identity provider, whose tokens are accepted as well. Needs \
         RECADO_JWT_ISSUER and RECADO_JWT_AUDIENCE. Absent: none.",
    ),
    row("RECADO_JWKS_FILE", "", "The same key set in a file, which is read again at each refresh. Absent: none."),
    row("RECADO_JWKS_REFRESH", "10m", "Time between two fetches of a key set, unless its server sends a max-age. 1s to 24h."),
    row("RECADO_JWKS_MAX_STALE", "24h", "For how long a key set serves when it cannot be fetched again. 1s to 30d."),
    row(
        "RECADO_IDENTITY_FILE",
        "",
        "TOML file that describes several issuers of tokens, and named secrets of the hub (docs/guides/identity.md). \
         Absent: none.",
    ),
    row(
        "RECADO_ACCOUNTS",
        "token",
        "Where a user's accounts come from. token: the account claims of the token. table: the members that services add \
         (recado.add_member, PUT /api/internal/accounts/…); account claims are ignored. both: the accounts of either. Set \
         the same on every hub.",
    ),
    row(
        "RECADO_REQUIRED_TYPES",
        "",
        "Types of notifications that users cannot mute, separated by commas, such as security_*,terms_changed. Set the same on \
         every hub. Absent: none.",
    ),
    row("WS_HEARTBEAT_INTERVAL", "30s", "Time between two heartbeats. 1s to 1h."),
    row("WS_MAX_CONNECTIONS", "", "Most clients of one instance. Absent: by the limit of open files."),
    row(
        "RECADO_MAX_CONNECTIONS_PER_USER",
        "20",
        "Most connections of one user to one instance. One more closes the oldest of the same device (4004); if \
         there is none, the new connection is refused.",
    ),
    row(
        "RECADO_MAX_DEVICES_PER_USER",
        "200",
        "Most devices (client_id) of one user whose positions are kept. One more replaces the device that was \
         unused for longest; that device gets gap when it returns.",
    ),
    row("RECADO_SESSION_POLICY", "multi", "multi: a user may have several connections. single: a newer connection closes the older one."),
    row("RECADO_SEND_DEADLINE", "10s", "Closes a client that takes nothing for this long (4001)."),
    row("RECADO_PONG_DEADLINE", "20s", "Closes a client that does not answer a ping for this long (4002)."),
    row("RECADO_POLL_INTERVAL", "1s", "Longest time between two reads of the log, with or without a NOTIFY."),
    row("RECADO_DRAIN_WINDOW", "5s", "When the hub stops, its clients are asked to come back spread over this time."),
    row(
        "RECADO_RETENTION_AGE",
        "",
        "Deletes notifications by age. With 90d, one goes between day 90 and day 112.5: the delay is at most a \
         quarter of the age, and at least one hour. Absent or forever: all are kept.",
    ),
    row(
        "RECADO_RETENTION_SIZE",
        "",
        "Drops the oldest partitions while the log is larger than this on disk, such as 50GB. Absent or forever: \
         no limit.",
    ),
    row("RECADO_RETENTION_SESSIONS", "30d", "Deletes sessions that ended longer ago than this, with their delivery facts. forever: none."),
    row(
        "RECADO_RETENTION_DEVICES",
        "180d",
        "Deletes the stored position of devices that did not connect for this long; minimum 2d. A device that \
         returns later gets gap. forever: none.",
    ),
    row(
        "RECADO_RETENTION_UPSTREAM",
        "30d",
        "Deletes provider commands that were settled longer ago than this, and provider sessions that no client \
         wanted for as long. forever: none.",
    ),
    row(
        "RECADO_RETENTION_AUDIT",
        "400d",
        "Deletes rows of the audit that are older. The delay is at most a tenth of this time, and at most one day: each \
         deletion leaves a row. forever: none.",
    ),
    row("RECADO_DELIVERY_FACTS", "1s", "Shortest time between two delivery facts of one connection. 200ms to 1h. off: none are written."),
    row(
        "RECADO_RESUME_WINDOW",
        "24h",
        "How long the position of an ended connection counts for other clients with the same client_id. 0s to 7d.",
    ),
    row(
        "RECADO_READ_CONNECTIONS",
        "8",
        "Database connections for resuming clients and statistics, and as many to each standby. Thirteen more serve the hub \
         itself, and six more with a provider file.",
    ),
    row("RECADO_PUBLISH_RATE", "0", "Most notifications per second of one service on one instance. 0: no limit."),
    row(
        "RECADO_USER_RATE",
        "100",
        "Most requests per second of one user to one instance besides streams: history, head, whoami, \
         acknowledgements. 0: no limit.",
    ),
    row(
        "RECADO_USER_READ_RATE",
        "4MB",
        "Most bytes per second that one user reads from the log on one instance, by resuming streams and the \
         history, after a burst of four seconds' worth. A user over the limit waits. 0: no limit.",
    ),
    row(
        "RECADO_UPSTREAM_FILE",
        "",
        "TOML file that describes the providers whose sessions the hub holds (docs/guides/providers.md). Absent: \
         none.",
    ),
    secret(
        "RECADO_UPSTREAM_KEY",
        "Key that encrypts provider session ids and the secrets of webhooks in the database, 32 bytes in hex or base64, the same on every hub. \
         Absent: made once and kept.",
    ),
    secret(
        "RECADO_UPSTREAM_ACCEPTED_KEYS",
        "Further keys that decrypt what RECADO_UPSTREAM_KEY encrypts and never encrypt, separated by commas or white space. For a \
         rotation without new sign-ins.",
    ),
    row("RECADO_UPSTREAM_LEASE", "15s", "A provider session whose hub is gone is taken over after this time. 3s to 5m."),
    row("RECADO_UPSTREAM_STARTS", "20", "Most sign-ins and provider connections that one hub begins per second."),
    row("RECADO_UPSTREAM_SESSIONS", "1000", "Most provider sessions that one hub holds. Each takes an open file."),
    row(
        "RECADO_WEBHOOK_NETWORKS",
        "",
        "Networks that webhooks may reach besides the public Internet, also without TLS, separated by commas, such as \
         10.1.0.0/16,127.0.0.1. Absent: only public addresses, over https. Set the same on every hub.",
    ),
    row("RECADO_LOG", "info", "Log filter: error, warn, info, debug, trace, or recado::delivery=debug,info."),
    row("RECADO_LOG_FORMAT", "text", "text or json."),
    row(
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "",
        "Address of an OpenTelemetry collector that takes OTLP over HTTP, such as http://collector:4318. The hub sends \
         traces to /v1/traces below it (docs/guides/operate.md). Absent: no traces.",
    ),
    row(
        "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
        "",
        "The whole address for traces, such as http://collector:4318/v1/traces. It counts instead of the other one. Absent: OTEL_EXPORTER_OTLP_ENDPOINT counts alone.",
    ),
    row("OTEL_SDK_DISABLED", "false", "true: no traces, also where a collector is named."),
    row(
        "OTEL_TRACES_SAMPLER",
        "parentbased_always_on",
        "Which traces are sent: always_on, always_off, traceidratio, or one of these with parentbased_ before it, which \
         follows the decision of the caller if there is one.",
    ),
    row("OTEL_TRACES_SAMPLER_ARG", "", "The part of all traces that traceidratio sends, such as 0.1."),
    row("OTEL_SERVICE_NAME", "recado", "The name of the hub in traces. OTEL_RESOURCE_ATTRIBUTES may name it as well."),
    row(
        "RECADO_URL",
        "",
        "Hub that notify, listen, history, stats, top, why, member, revoke, revocation, close, healthcheck and recado-bench talk \
         to, and that the link of admin leads to. Absent: the hub on this machine, by RECADO_BIND and PORT; all but listen and history use RECADO_INTERNAL_BIND if it is set.",
    ),
    secret(
        "RECADO_KEY",
        "Key of notify and member, and an admin's key of stats, top, why, revoke, revocation and close. Absent: a token made from the \
         secret on this machine.",
    ),
    secret("RECADO_TOKEN", "Token of listen. Absent: made from the secret on this machine, for --user."),
];

/// All errors of the settings.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

/// Whether a user may have several connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPolicy {
    Multi,
    Single,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

/// The claims of a user's token, and their limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JwtRules {
    pub issuer: Option<String>,
    pub audience: Option<String>,
    pub user_claim: String,
    pub account_claim: String,
    pub accounts_claim: String,
    pub max_lifetime: Duration,
    /// Whether the account claims count.
    pub reads_accounts: bool,
}

/// Where a user's accounts come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountSource {
    Token,
    Table,
    Both,
}

impl AccountSource {
    /// Whether the account claims of a token count.
    pub fn reads_token(self) -> bool {
        self != Self::Table
    }

    /// Whether the accounts of the table `recado.member` count.
    pub fn reads_table(self) -> bool {
        self != Self::Token
    }
}

/// The rules of a hub whose settings name none.
impl Default for JwtRules {
    fn default() -> Self {
        Self {
            issuer: None,
            audience: None,
            user_claim: "sub".into(),
            account_claim: "account_id".into(),
            accounts_claim: "account_ids".into(),
            max_lifetime: Duration::from_secs(86_400),
            reads_accounts: true,
        }
    }
}

/// How much of the log, the sessions and the devices is kept; `None` means everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retention {
    pub age: Option<Duration>,
    pub bytes: Option<u64>,
    pub sessions: Option<Duration>,
    pub devices: Option<Duration>,
    pub upstream: Option<Duration>,
    pub audit: Option<Duration>,
}

/// Limits on the provider sessions of this hub.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamSettings {
    pub lease: Duration,
    pub starts_per_second: u32,
    pub most_sessions: usize,
}

/// All settings, read and checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub database_url: Option<String>,
    pub listen_database_url: Option<String>,
    /// The files that these URLs came from.
    pub database_url_file: Option<PathBuf>,
    pub listen_database_url_file: Option<PathBuf>,
    /// The URLs of the standbys, as they were given.
    pub read_database_url: Option<String>,
    pub read_database_url_file: Option<PathBuf>,
    pub database_wait: Duration,
    /// Number of variables that Kubernetes made from names of services.
    pub service_links: usize,
    pub data_dir: Option<PathBuf>,
    pub postgres_bin: Option<PathBuf>,
    pub postgres_user: Option<String>,
    pub user: Option<String>,
    pub fetch_postgres: bool,
    pub allow_unsafe_durability: bool,
    pub bind: IpAddr,
    pub port: u16,
    /// A separate listener for services, operators and probes.
    pub internal_bind: Option<SocketAddr>,
    /// Networks, as an address and the length of the prefix.
    pub trusted_proxies: Vec<(IpAddr, u8)>,
    /// Zero means no limit.
    pub address_connections: Option<usize>,
    pub address_handshakes: u32,
    pub address_requests: u32,
    pub idle_timeout: Duration,
    /// The origin of the address under which browsers reach the hub.
    pub public_origin: Option<String>,
    pub allowed_origins: Option<Vec<String>>,
    /// In lower case; `*`: every name.
    pub allowed_hosts: Vec<String>,
    pub jwt_secret: Option<String>,
    /// Secrets that verify and never sign.
    pub jwt_accepted_secrets: Vec<String>,
    pub jwt: JwtRules,
    /// Whether tokens of the published key set may claim a role.
    pub jwks_grants_roles: bool,
    pub jwks_url: Option<String>,
    pub jwks_file: Option<PathBuf>,
    pub jwks_refresh: Duration,
    pub jwks_max_stale: Duration,
    pub identity_file: Option<PathBuf>,
    pub accounts: AccountSource,
    /// Types that users cannot mute.
    pub required_types: Vec<MutePattern>,
    pub heartbeat: Duration,
    pub max_connections: Option<usize>,
    pub max_connections_per_user: usize,
    pub max_devices_per_user: usize,
    pub session_policy: SessionPolicy,
    pub send_deadline: Duration,
    pub pong_deadline: Duration,
    pub poll_interval: Duration,
    pub drain_window: Duration,
    pub retention: Retention,
    /// `None`: no delivery facts.
    pub delivery_facts: Option<Duration>,
    pub resume_window: Duration,
    pub read_connections: u32,
    pub publish_rate: u32,
    pub user_rate: u32,
    /// Bytes per second; zero means no limit.
    pub user_read_rate: u64,
    pub upstream_file: Option<PathBuf>,
    pub upstream_key: Option<[u8; 32]>,
    /// Keys that decrypt and never encrypt.
    pub upstream_accepted_keys: Vec<[u8; 32]>,
    pub upstream: UpstreamSettings,
    /// Networks, as an address and the length of the prefix.
    pub webhook_networks: Vec<(IpAddr, u8)>,
    pub log: String,
    pub log_format: LogFormat,
    pub url: String,
    /// The base URL of that hub's routes for services, operators and probes.
    pub internal_url: String,
    /// Whether the hub's address was given, by a flag or the environment.
    pub url_is_given: bool,
    pub key: Option<String>,
    pub token: Option<String>,
    pub machine: MachineEnvironment,
    pub traces: TraceSettings,
    pub console: ConsoleSettings,
    /// The settings that were given and differ from their defaults, for the audit. No secret and no password.
    pub given: Values,
    /// Every setting, for the console. No secret and no password.
    pub effective: Vec<EffectiveSetting>,
}

/// Variables of the environment that are not settings of the hub.
#[derive(Debug, Clone, Default)]
pub struct MachineEnvironment {
    pub home: Option<PathBuf>,
    pub xdg_state_home: Option<PathBuf>,
    pub path: Option<std::ffi::OsString>,
    pub tmpdir: Option<PathBuf>,
    /// The address at which a service manager hears how the hub does.
    pub notify_socket: Option<std::ffi::OsString>,
    /// The service manager kills the hub if it hears nothing for this long.
    pub watchdog: Option<Duration>,
}

impl MachineEnvironment {
    fn read() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        let number = |name: &str| var(name)?.to_str()?.parse().ok();
        Self {
            home: var("HOME").map(PathBuf::from),
            xdg_state_home: var("XDG_STATE_HOME").map(PathBuf::from),
            path: var("PATH"),
            tmpdir: var("TMPDIR").map(PathBuf::from),
            notify_socket: var("NOTIFY_SOCKET"),
            watchdog: watchdog(number("WATCHDOG_USEC"), number("WATCHDOG_PID")),
        }
    }
}

/// The watchdog time of the service manager. Another process id means that it is for the process that started this one.
fn watchdog(microseconds: Option<u64>, pid: Option<u64>) -> Option<Duration> {
    let is_ours = pid.is_none_or(|pid| pid == u64::from(std::process::id()));
    microseconds.filter(|time| *time > 0 && is_ours).map(Duration::from_micros)
}

/// Settings as text, by name.
pub type Values = BTreeMap<String, String>;

impl Config {
    /// Reads the environment; `flags` override it.
    ///
    /// # Errors
    /// All errors, one per line.
    pub fn load(flags: &Values) -> Result<Self, ConfigError> {
        #[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
        let vars = std::env::vars_os();
        let mut values = as_text(vars)?;
        values.extend(flags.clone());
        let config = Self::from_values(&values, MachineEnvironment::read())?;
        Ok(Self { effective: effective::effective(&values, flags), ..config })
    }

    /// # Errors
    /// All errors, one per line.
    pub fn from_values(values: &Values, machine: MachineEnvironment) -> Result<Self, ConfigError> {
        let mut read = Reading { values, errors: unknown_names(values) };
        let accounts = read
            .choice("RECADO_ACCOUNTS", &[("token", AccountSource::Token), ("table", AccountSource::Table), ("both", AccountSource::Both)]);
        let mut config = Self {
            accounts,
            required_types: read
                .optional("RECADO_REQUIRED_TYPES", "types such as security_*,terms_changed, separated by commas", parse_types)
                .unwrap_or_default(),
            database_url: read.text("DATABASE_URL"),
            listen_database_url: read.text("RECADO_LISTEN_DATABASE_URL"),
            database_url_file: values.get("DATABASE_URL_FILE").map(PathBuf::from),
            listen_database_url_file: values.get("RECADO_LISTEN_DATABASE_URL_FILE").map(PathBuf::from),
            read_database_url: read.text("RECADO_READ_DATABASE_URL"),
            read_database_url_file: values.get("RECADO_READ_DATABASE_URL_FILE").map(PathBuf::from),
            database_wait: read.duration("RECADO_DATABASE_WAIT", Duration::ZERO, Duration::from_secs(3600)),
            service_links: service_links(values),
            data_dir: read.text("RECADO_DATA_DIR").map(PathBuf::from),
            postgres_bin: read.text("RECADO_POSTGRES_BIN").map(PathBuf::from),
            postgres_user: read.text("RECADO_POSTGRES_USER"),
            user: read.text("RECADO_USER"),
            fetch_postgres: read.switch("RECADO_FETCH_POSTGRES"),
            allow_unsafe_durability: read.switch("RECADO_ALLOW_UNSAFE_DURABILITY"),
            bind: read.parsed("RECADO_BIND", "an IP address").unwrap_or(IpAddr::from([127, 0, 0, 1])),
            port: read.parsed("PORT", "a port, 0 to 65535").unwrap_or_default(),
            internal_bind: read.parsed("RECADO_INTERNAL_BIND", "an address and a port, such as 127.0.0.1:8081"),
            trusted_proxies: read
                .optional("RECADO_TRUSTED_PROXIES", "addresses and networks such as 10.0.0.0/8,::1, separated by commas", parse_networks)
                .unwrap_or_default(),
            address_connections: read.number("RECADO_ADDRESS_CONNECTIONS", 0, 1_000_000),
            address_handshakes: read.rate("RECADO_ADDRESS_HANDSHAKES"),
            address_requests: read.rate("RECADO_ADDRESS_REQUESTS"),
            idle_timeout: read.duration("RECADO_IDLE_TIMEOUT", Duration::from_secs(1), Duration::from_secs(3600)),
            public_origin: read.optional("RECADO_PUBLIC_URL", "an address such as https://hub.example.com", origins::of_address),
            allowed_origins: read.origins(),
            allowed_hosts: read.hosts(),
            jwt_secret: read.jwt_secret(),
            jwt_accepted_secrets: read.jwt_accepted_secrets(),
            jwt: JwtRules {
                issuer: read.text("RECADO_JWT_ISSUER"),
                audience: read.text("RECADO_JWT_AUDIENCE"),
                user_claim: read.text("RECADO_JWT_USER_CLAIM").unwrap_or_default(),
                account_claim: read.text("RECADO_JWT_ACCOUNT_CLAIM").unwrap_or_default(),
                accounts_claim: read.text("RECADO_JWT_ACCOUNTS_CLAIM").unwrap_or_default(),
                max_lifetime: read.duration("RECADO_JWT_MAX_LIFETIME", Duration::from_secs(1), Duration::MAX),
                reads_accounts: accounts.reads_token(),
            },
            jwks_grants_roles: read.choice("RECADO_JWT_ROLES", &[("own", false), ("any", true)]),
            jwks_url: read.text("RECADO_JWKS_URL"),
            jwks_file: read.text("RECADO_JWKS_FILE").map(PathBuf::from),
            jwks_refresh: read.duration("RECADO_JWKS_REFRESH", Duration::from_secs(1), Duration::from_secs(86_400)),
            jwks_max_stale: read.duration("RECADO_JWKS_MAX_STALE", Duration::from_secs(1), Duration::from_secs(30 * 86_400)),
            identity_file: read.text("RECADO_IDENTITY_FILE").map(PathBuf::from),
            heartbeat: read.duration("WS_HEARTBEAT_INTERVAL", Duration::from_secs(1), Duration::from_secs(3600)),
            max_connections: read.number("WS_MAX_CONNECTIONS", 1, 1_000_000),
            max_connections_per_user: read.number("RECADO_MAX_CONNECTIONS_PER_USER", 1, 100_000).unwrap_or(1),
            max_devices_per_user: read.number("RECADO_MAX_DEVICES_PER_USER", 1, 1_000_000).unwrap_or(1),
            session_policy: read.choice("RECADO_SESSION_POLICY", &[("multi", SessionPolicy::Multi), ("single", SessionPolicy::Single)]),
            send_deadline: read.duration("RECADO_SEND_DEADLINE", Duration::from_millis(100), Duration::from_secs(600)),
            pong_deadline: read.duration("RECADO_PONG_DEADLINE", Duration::from_millis(100), Duration::from_secs(600)),
            poll_interval: read.duration("RECADO_POLL_INTERVAL", Duration::from_millis(50), Duration::from_secs(3)),
            drain_window: read.duration("RECADO_DRAIN_WINDOW", Duration::ZERO, Duration::from_secs(600)),
            retention: Retention {
                age: read.kept("RECADO_RETENTION_AGE", "a time such as 90d", parse_duration),
                bytes: read.kept("RECADO_RETENTION_SIZE", "a size such as 500MB or 50GB", parse_bytes),
                sessions: read.kept("RECADO_RETENTION_SESSIONS", "a time such as 30d", parse_duration),
                upstream: read.kept("RECADO_RETENTION_UPSTREAM", "a time such as 30d", parse_duration),
                audit: read.kept("RECADO_RETENTION_AUDIT", "a time such as 400d", parse_duration),
                devices: read.kept("RECADO_RETENTION_DEVICES", "a time such as 180d, 2d at least", parse_idle),
            },
            delivery_facts: read.optional("RECADO_DELIVERY_FACTS", "off, or a time from 200ms to 1h", parse_facts).flatten(),
            resume_window: read.duration("RECADO_RESUME_WINDOW", Duration::ZERO, Duration::from_secs(7 * 86_400)),
            read_connections: read.number("RECADO_READ_CONNECTIONS", 1, 1000).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            publish_rate: read.number("RECADO_PUBLISH_RATE", 0, 10_000_000).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            user_rate: read.number("RECADO_USER_RATE", 0, 10_000_000).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            user_read_rate: read.optional("RECADO_USER_READ_RATE", "a size such as 500kB or 4MB, 0 for no limit", parse_bytes).unwrap_or(0),
            upstream_file: read.text("RECADO_UPSTREAM_FILE").map(PathBuf::from),
            upstream_key: read.key("RECADO_UPSTREAM_KEY"),
            upstream_accepted_keys: read.keys("RECADO_UPSTREAM_ACCEPTED_KEYS"),
            upstream: UpstreamSettings {
                lease: read.duration("RECADO_UPSTREAM_LEASE", Duration::from_secs(3), Duration::from_secs(300)),
                starts_per_second: read.number("RECADO_UPSTREAM_STARTS", 1, 10_000).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
                most_sessions: read.number("RECADO_UPSTREAM_SESSIONS", 1, 1_000_000).unwrap_or(1),
            },
            webhook_networks: read
                .optional(
                    "RECADO_WEBHOOK_NETWORKS",
                    "addresses and networks such as 10.1.0.0/16,127.0.0.1, separated by commas",
                    parse_networks,
                )
                .unwrap_or_default(),
            log: read.text("RECADO_LOG").unwrap_or_default(),
            log_format: read.choice("RECADO_LOG_FORMAT", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            url: read.text("RECADO_URL").unwrap_or_default().trim_end_matches('/').to_owned(),
            url_is_given: values.get("RECADO_URL").is_some_and(|url| !url.trim().is_empty()),
            internal_url: String::new(),
            key: read.text("RECADO_KEY"),
            token: read.text("RECADO_TOKEN"),
            machine,
            traces: TraceSettings::of(values),
            console: ConsoleSettings::read(&mut read),
            given: given(values),
            effective: effective::effective(values, &Values::new()),
        };
        if config.read_database_url.is_some() && config.database_url.is_none() {
            read.errors.push("RECADO_READ_DATABASE_URL needs DATABASE_URL: the private server has no standbys".to_owned());
        }
        config.find_hub();
        if read.errors.is_empty() { Ok(config) } else { Err(ConfigError(read.errors)) }
    }
}

/// The settings that differ from their defaults. A secret is shown as set; an address is shown without its user,
/// password and query.
fn given(values: &Values) -> Values {
    let shown = |setting: &Setting| {
        if setting.secret {
            let is_set = [setting.name.to_owned(), format!("{}_FILE", setting.name)].iter().any(|name| values.contains_key(name));
            return is_set.then(|| "(set)".to_owned());
        }
        let value = values.get(setting.name).map(|value| value.trim()).filter(|value| !value.is_empty() && *value != setting.default)?;
        Some(without_credentials(value))
    };
    TABLE.iter().filter_map(|setting| Some((setting.name.to_owned(), shown(setting)?))).collect()
}

impl Config {
    /// Uses the hub that the same settings start on this machine, if no address was given.
    fn find_hub(&mut self) {
        if self.url.is_empty() {
            self.url = url_of(self.bind, self.port);
            self.internal_url = self.internal_bind.map_or_else(|| self.url.clone(), |bind| url_of(bind.ip(), bind.port()));
        } else {
            self.internal_url = self.url.clone();
        }
    }
}

/// The URL at which a hub that listens on this address is reached from its own machine.
fn url_of(bind: IpAddr, port: u16) -> String {
    let reached = match bind {
        IpAddr::V4(v4) if v4.is_unspecified() => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(v6) if v6.is_unspecified() => IpAddr::from(Ipv6Addr::LOCALHOST),
        other => other,
    };
    // If the system chose the port, it is unknown here.
    format!("http://{}", SocketAddr::new(reached, if port == 0 { 8080 } else { port }))
}

/// A credential that a provider file or an identity file names: the variable `name`, or the content of the file that
/// `name_FILE` names.
///
/// # Errors
/// For a setting of the hub itself, which must not reach a provider, and for a file that cannot be read.
pub fn credential(name: &str) -> Result<Option<String>, String> {
    if name.starts_with("RECADO_") || TABLE.iter().any(|setting| setting.name == name) {
        return Err(format!("{name}: a setting of the hub cannot be given to a provider or an issuer; choose another name"));
    }
    #[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
    let var = |name: &str| match std::env::var_os(name).map(std::ffi::OsString::into_string) {
        Some(Ok(value)) => Ok(Some(value).filter(|value| !value.is_empty())),
        Some(Err(_)) => Err(format!("{name} holds bytes that are not UTF-8")),
        None => Ok(None),
    };
    match (var(name)?, var(&format!("{name}_FILE"))?) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}_FILE are both set; leave one out")),
        (Some(value), None) => Ok(Some(value)),
        (None, None) => Ok(None),
        (None, Some(file)) => match crate::secrets::read_given(file.as_ref()) {
            Ok(content) => Ok(Some(content.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(format!("{name}_FILE: cannot use {file}: {error}")),
        },
    }
}

/// Checks variables that the runtime reads itself and would panic over.
///
/// # Errors
/// The error as a sentence.
pub fn check_runtime() -> Result<(), String> {
    #[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
    let threads = std::env::var_os("TOKIO_WORKER_THREADS");
    match threads.as_deref().map(|threads| threads.to_str().and_then(|text| text.parse::<usize>().ok())) {
        Some(None | Some(0)) => {
            Err("TOKIO_WORKER_THREADS must be a whole number above 0; leave it out for one thread per processor".to_owned())
        }
        _ => Ok(()),
    }
}

/// Generates `docs/reference/settings.md` from the table.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Settings\n\nLists every setting with its default and meaning.\n\n\
         `recado config --markdown` prints this page from the code; a test compares the two.\n\n\
         - Settings come from the environment. A flag overrides its variable.\n\
         - An unknown `RECADO_` variable is an error.\n\
         - A setting marked * may also be given as `NAME_FILE`, a file that holds the value. The file must belong to the hub's\n  \
         user or root and be closed to others (`chmod 600`), unless it is on a read-only mount, as secrets of container\n  \
         platforms are.\n\
         - Times are written `500ms`, `30s`, `5m`, `2h`. A bare number is seconds.\n\n\
         | setting | default | meaning |\n| --- | --- | --- |\n",
    );
    for setting in TABLE {
        let mark = if setting.secret { " *" } else { "" };
        let default = if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
        page.push_str(&format!("| `{}`{mark} | {default} | {} |\n", setting.name, setting.meaning));
    }
    page.push_str(OTHER_VARIABLES);
    page
}

/// Ends the page: variables that are no settings of the hub.
const OTHER_VARIABLES: &str = "\n## Other variables of OpenTelemetry\n\n\
    The exporter reads these variables itself, with the meaning that OpenTelemetry gives them. The hub sends no metrics and\n\
    no logs, and has no gRPC. It does not compress, and refuses to start where `OTEL_EXPORTER_OTLP_COMPRESSION` asks for it.\n\n\
    | variable | meaning |\n| --- | --- |\n\
    | `OTEL_EXPORTER_OTLP_HEADERS`, `OTEL_EXPORTER_OTLP_TRACES_HEADERS` | Headers of each export, such as a key of the collector. Never shown. |\n\
    | `OTEL_EXPORTER_OTLP_TIMEOUT`, `OTEL_EXPORTER_OTLP_TRACES_TIMEOUT` | Longest time of an export, in milliseconds. Default: 10,000. |\n\
    | `OTEL_RESOURCE_ATTRIBUTES` | Attributes of the hub in traces, such as `deployment.environment.name=production`. |\n\
    | `OTEL_BSP_SCHEDULE_DELAY` | Time between two exports, in milliseconds. Default: 5,000. |\n\
    | `OTEL_BSP_MAX_QUEUE_SIZE`, `OTEL_BSP_MAX_EXPORT_BATCH_SIZE` | Most spans that wait, and most in an export. Default: 2,048 and 512. |\n\
    | `OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT`, `OTEL_SPAN_LINK_COUNT_LIMIT` | Most attributes and links of a span. Default: 128. |\n";

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn load(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_values(&values(pairs), MachineEnvironment::default())
    }

    #[test]
    fn standbys_need_the_primary_and_their_urls_are_not_shown() {
        let standby = ("RECADO_READ_DATABASE_URL", "postgres://hub:hush@standby/recado");
        let alone = load(&[standby]).unwrap_err().to_string();
        assert!(alone.contains("DATABASE_URL") && !alone.contains("hush"), "{alone}");
        let both = load(&[standby, ("DATABASE_URL", "postgres://hub:hush@db/recado")]).unwrap();
        assert!(!format!("{:?} {:?}", both.given, both.effective).contains("hush"));
        assert!(both.read_database_url.is_some());
    }

    #[test]
    fn the_defaults_of_the_table_are_valid() {
        let config = load(&[]).unwrap();
        assert_eq!((config.port, config.heartbeat, config.fetch_postgres), (8080, Duration::from_secs(30), true));
        assert!(config.bind.is_loopback());
        assert_eq!(config.jwt, JwtRules::default());
    }

    #[test]
    fn everything_wrong_is_said_at_once_and_a_typing_error_is_recognised() {
        let errors = load(&[("PORT", "70000"), ("RECADO_BNID", "::1"), ("WS_HEARTBEAT_INTERVAL", "soon"), ("RECADO_JWT_SECRET", "short")])
            .unwrap_err()
            .0;
        assert_eq!(errors.len(), 4, "{errors:?}");
        assert!(errors[0].contains("did you mean RECADO_BIND?"), "{errors:?}");
    }

    #[test]
    fn commands_talk_to_the_hub_that_the_same_settings_start() {
        let urls = |pairs: &[(&str, &str)]| load(pairs).map(|config| (config.url, config.internal_url)).unwrap();
        let both = |url: &str| (url.to_owned(), url.to_owned());
        assert_eq!(urls(&[]), both("http://127.0.0.1:8080"));
        assert_eq!(urls(&[("PORT", "9000"), ("RECADO_BIND", "0.0.0.0")]), both("http://127.0.0.1:9000"));
        assert_eq!(urls(&[("RECADO_BIND", "::")]), both("http://[::1]:8080"));
        assert_eq!(urls(&[("RECADO_BIND", "10.0.0.5")]), both("http://10.0.0.5:8080"));
        let internal = urls(&[("RECADO_INTERNAL_BIND", "[::]:9001"), ("PORT", "9000")]);
        assert_eq!(internal, ("http://127.0.0.1:9000".to_owned(), "http://[::1]:9001".to_owned()));
        assert_eq!(urls(&[("RECADO_INTERNAL_BIND", "[::]:9001"), ("RECADO_URL", "http://hub/")]), both("http://hub"));
    }

    #[test]
    fn a_watchdog_of_another_process_is_not_ours() {
        let own = Some(u64::from(std::process::id()));
        assert_eq!(watchdog(Some(1_500_000), own), Some(Duration::from_millis(1500)));
        assert_eq!(watchdog(Some(1_500_000), None), Some(Duration::from_millis(1500)));
        assert_eq!(watchdog(Some(1_500_000), Some(1)), None);
        assert_eq!((watchdog(Some(0), own), watchdog(None, own)), (None, None));
    }

    #[test]
    fn proxies_are_addresses_and_networks() {
        let proxies = load(&[("RECADO_TRUSTED_PROXIES", "10.0.0.0/8, ::1,fd00::/8")]).unwrap().trusted_proxies;
        assert_eq!(proxies.iter().map(|(_, prefix)| *prefix).collect::<Vec<_>>(), [8, 128, 8]);
        for wrong in ["10.0.0.0/33", "10.0.0.0/8;::1", "proxy", "10.0.0.0/", "::/129"] {
            assert!(load(&[("RECADO_TRUSTED_PROXIES", wrong)]).unwrap_err().to_string().contains("RECADO_TRUSTED_PROXIES"), "{wrong}");
        }
    }

    #[test]
    fn a_key_of_32_bytes_comes_in_hex_or_base64_and_is_not_shown_when_it_is_wrong() {
        let hex = "00".repeat(31) + "ff";
        let key = load(&[("RECADO_UPSTREAM_KEY", &hex)]).unwrap().upstream_key;
        assert_eq!(key.unwrap()[31], 255);
        let base64 = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAP8=";
        assert_eq!(load(&[("RECADO_UPSTREAM_KEY", base64)]).unwrap().upstream_key, key);
        for wrong in ["tooshort", &hex[1..], &format!("{hex}0"), "é"] {
            let error = load(&[("RECADO_UPSTREAM_KEY", wrong)]).unwrap_err().to_string();
            assert!(error.contains("32 bytes") && !error.contains(wrong), "{error}");
        }
    }

    #[test]
    fn a_provider_is_told_no_setting_of_the_hub() {
        for own in ["RECADO_JWT_SECRET", "RECADO_NEW", "DATABASE_URL", "PORT"] {
            assert!(credential(own).is_err(), "{own}");
        }
        assert_eq!(credential("A_NAME_THAT_NOBODY_SET"), Ok(None));
    }

    #[test]
    fn the_old_hubs_heartbeat_in_bare_seconds_is_taken() {
        assert_eq!(load(&[("WS_HEARTBEAT_INTERVAL", "30"), ("WS_MAX_CONNECTIONS", "1000")]).unwrap().max_connections, Some(1000));
    }

    #[test]
    fn the_audit_is_told_the_settings_and_no_secret() {
        let given = load(&[
            ("RECADO_JWT_SECRET", "0123456789012345678901234567890123456789"),
            ("DATABASE_URL", "postgres://hub:hush@db/recado"),
            ("RECADO_JWKS_URL", "https://me:hush@idp.example/keys?key=hush"),
            ("RECADO_JWT_ISSUER", "us"),
            ("RECADO_JWT_AUDIENCE", "hub"),
            ("WS_HEARTBEAT_INTERVAL", "30s"),
            ("RECADO_POLL_INTERVAL", "2s"),
        ]);
        let given = given.unwrap().given;
        let all = format!("{given:?}");
        assert!(!all.contains("hush") && !all.contains("0123"), "{all}");
        assert_eq!(given["RECADO_JWKS_URL"], "https://idp.example/keys");
        assert_eq!(given["DATABASE_URL"], "(set)");
        assert_eq!(given["RECADO_POLL_INTERVAL"], "2s");
        assert!(!given.contains_key("WS_HEARTBEAT_INTERVAL"), "it is the default");
    }

    #[test]
    fn a_secret_can_come_from_a_file_and_from_one_place_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789012345678901234567890123456789\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(load(&[("RECADO_JWT_SECRET_FILE", path)]).unwrap().jwt_secret.unwrap().len(), 40);
        assert!(load(&[("RECADO_JWT_SECRET_FILE", path), ("RECADO_JWT_SECRET", "x")]).is_err());
        assert!(load(&[("RECADO_PORT_FILE", path)]).is_err());
    }
}
