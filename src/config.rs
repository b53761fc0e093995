//! Every setting: name, default, meaning. The only reader of the environment.
//!
//! A setting is a row of [`TABLE`]; `docs/settings.md` and `recado config` are made from it. Flags are laid over the
//! environment before it is read. All that is wrong is said at once.

mod reading;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use reading::{Reading, parse_facts, unknown_names};
pub use reading::{parse_bytes, parse_duration, parse_idle, parse_key};

/// One row of the table of settings.
#[derive(Debug, Clone, Copy)]
pub struct Setting {
    pub name: &'static str,
    /// As one would write it; empty: none.
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
    secret("DATABASE_URL", "PostgreSQL 15 or newer. Absent: the hub runs its own private server"),
    secret("RECADO_LISTEN_DATABASE_URL", "a direct connection for LISTEN, where DATABASE_URL leads through a pooler"),
    row(
        "RECADO_DATA_DIR",
        "",
        "folder of the private server and of the secrets that the hub made (default: /var/lib/recado for root, else the user's state folder)",
    ),
    row("RECADO_POSTGRES_BIN", "", "folder of the private server's programs; no other is looked at"),
    row(
        "RECADO_POSTGRES_USER",
        "",
        "user who runs the private server when the hub runs as root (default: who owns the data, postgres, or nobody)",
    ),
    row("RECADO_FETCH_POSTGRES", "on", "on: download the server's programs, once, when none are installed; off: do not"),
    row(
        "RECADO_ALLOW_UNSAFE_DURABILITY",
        "off",
        "on: serve although fsync, full_page_writes or synchronous_commit is off, so that a 201 can be lost",
    ),
    row("RECADO_BIND", "127.0.0.1", "address to listen on"),
    row("PORT", "8080", "port to listen on; 0: any free one, the ready line says which"),
    row("RECADO_ALLOWED_ORIGINS", "", "origins of browsers that may connect, exact, separated by commas (default: loopback origins only)"),
    secret("RECADO_JWT_SECRET", "secret of the users' tokens (HS256), 32 bytes or more (default: made once and kept)"),
    row("RECADO_JWT_ISSUER", "", "the iss that a token must have"),
    row("RECADO_JWT_AUDIENCE", "", "the aud that a token must have or contain"),
    row("RECADO_JWT_USER_CLAIM", "sub", "claim that holds the user id"),
    row("RECADO_JWT_ACCOUNT_CLAIM", "account_id", "claim that holds the account id, a string"),
    row("RECADO_JWT_ACCOUNTS_CLAIM", "account_ids", "claim that holds the account ids, a list of strings"),
    row("RECADO_JWT_MAX_LIFETIME", "24h", "a token that is valid for longer than this is refused"),
    row("WS_HEARTBEAT_INTERVAL", "30s", "time between two heartbeats; 1s to 1h"),
    row("WS_MAX_CONNECTIONS", "", "most clients of one instance (default: by the limit of open files)"),
    row("RECADO_MAX_CONNECTIONS_PER_USER", "20", "most connections of one user to one instance"),
    row("RECADO_SESSION_POLICY", "multi", "multi: a user may have several connections; single: a newer one ends the older"),
    row("RECADO_SEND_DEADLINE", "10s", "a client that takes nothing for this long is closed (4001)"),
    row("RECADO_PONG_DEADLINE", "20s", "a client that does not answer a ping for this long is closed (4002)"),
    row("RECADO_POLL_INTERVAL", "1s", "longest time between two looks at the log, with or without a NOTIFY"),
    row("RECADO_DRAIN_WINDOW", "5s", "when the hub stops, its clients are asked to come back spread over this time"),
    row(
        "RECADO_RETENTION_AGE",
        "",
        "the oldest partition of the log goes when its newest notification is older, such as 90d (default: kept for ever)",
    ),
    row("RECADO_RETENTION_SIZE", "", "the oldest partitions of the log go while it takes more on disk, such as 50GB (default: no limit)"),
    row("RECADO_RETENTION_SESSIONS", "", "sessions that ended longer ago are forgotten, such as 30d (default: kept for ever)"),
    row(
        "RECADO_RETENTION_DEVICES",
        "",
        "devices that were not here for longer are forgotten, such as 180d, 2d at least; one that comes back is told the gap (default: kept for ever)",
    ),
    row(
        "RECADO_RETENTION_UPSTREAM",
        "",
        "commands to providers that were settled longer ago, and upstream sessions that nobody wanted for as long, are forgotten, \
         such as 30d (default: kept for ever)",
    ),
    row(
        "RECADO_DELIVERY_FACTS",
        "1s",
        "shortest time between two facts of one connection about when it was sent and has acknowledged, 200ms to 1h; off: none are kept",
    ),
    row(
        "RECADO_READ_CONNECTIONS",
        "8",
        "database connections for resuming clients and statistics; eight more serve the hub itself, and six with a provider file",
    ),
    row("RECADO_PUBLISH_RATE", "0", "most notifications a second of one service on one instance; 0: no limit"),
    row(
        "RECADO_USER_RATE",
        "100",
        "most requests a second of one user to one instance beside streams: history, head, whoami, acknowledgements; 0: no limit",
    ),
    row("RECADO_UPSTREAM_FILE", "", "file of the outside providers whose sessions the hub holds, in TOML (docs/upstream.md); absent: none"),
    secret(
        "RECADO_UPSTREAM_KEY",
        "key that seals the providers' session ids in the database, 32 bytes in hex or base64 (default: made once and kept); the same on every hub",
    ),
    row("RECADO_UPSTREAM_LEASE", "15s", "a provider's session whose hub is gone is taken over after this time; 3s to 5m"),
    row("RECADO_UPSTREAM_STARTS", "20", "most sign-ins and connections to providers that one hub begins in a second"),
    row("RECADO_UPSTREAM_SESSIONS", "1000", "most providers' sessions that one hub holds; each takes an open file"),
    row("RECADO_LOG", "info", "what is logged, as a filter: error, warn, info, debug, trace, or recado::delivery=debug,info"),
    row("RECADO_LOG_FORMAT", "text", "text or json"),
    row("RECADO_URL", "http://127.0.0.1:8080", "the hub that notify, listen, stats, why and bench talk to"),
    secret("RECADO_KEY", "service key of notify, stats and why (default: a token made from the secret on this machine)"),
    secret("RECADO_TOKEN", "token of listen (default: made from the secret on this machine, for --user)"),
];

/// What is wrong with the settings, all at once.
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

/// The claims of a user's token, and the bounds that it must keep.
#[derive(Debug, Clone)]
pub struct JwtRules {
    pub issuer: Option<String>,
    pub audience: Option<String>,
    pub user_claim: String,
    pub account_claim: String,
    pub accounts_claim: String,
    pub max_lifetime: Duration,
}

/// What is kept of the log, of the sessions and of the devices; `None`: everything.
#[derive(Debug, Clone, Copy, Default)]
pub struct Retention {
    pub age: Option<Duration>,
    pub bytes: Option<u64>,
    pub sessions: Option<Duration>,
    pub devices: Option<Duration>,
    pub upstream: Option<Duration>,
}

/// How this hub holds providers' sessions.
#[derive(Debug, Clone, Copy)]
pub struct Upstream {
    pub lease: Duration,
    pub starts_per_second: u32,
    pub most_sessions: usize,
}

/// All settings, read and checked.
#[derive(Debug, Clone)]
pub struct Config {
    pub database_url: Option<String>,
    pub listen_database_url: Option<String>,
    pub data_dir: Option<PathBuf>,
    pub postgres_bin: Option<PathBuf>,
    pub postgres_user: Option<String>,
    pub fetch_postgres: bool,
    pub allow_unsafe_durability: bool,
    pub bind: IpAddr,
    pub port: u16,
    pub allowed_origins: Option<Vec<String>>,
    pub jwt_secret: Option<String>,
    pub jwt: JwtRules,
    pub heartbeat: Duration,
    pub max_connections: Option<usize>,
    pub max_connections_per_user: usize,
    pub session_policy: SessionPolicy,
    pub send_deadline: Duration,
    pub pong_deadline: Duration,
    pub poll_interval: Duration,
    pub drain_window: Duration,
    pub retention: Retention,
    /// `None`: no facts.
    pub delivery_facts: Option<Duration>,
    pub read_connections: u32,
    pub publish_rate: u32,
    pub user_rate: u32,
    pub upstream_file: Option<PathBuf>,
    pub upstream_key: Option<[u8; 32]>,
    pub upstream: Upstream,
    pub log: String,
    pub log_format: LogFormat,
    pub url: String,
    /// Whether the hub's address was given, by a flag or the environment.
    pub url_is_given: bool,
    pub key: Option<String>,
    pub token: Option<String>,
    pub machine: Machine,
}

/// What the environment says of the machine, beside our settings.
#[derive(Debug, Clone, Default)]
pub struct Machine {
    pub home: Option<PathBuf>,
    pub xdg_state_home: Option<PathBuf>,
    pub path: Option<std::ffi::OsString>,
    pub tmpdir: Option<PathBuf>,
}

impl Machine {
    fn read() -> Self {
        #[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
        let var = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            home: var("HOME").map(PathBuf::from),
            xdg_state_home: var("XDG_STATE_HOME").map(PathBuf::from),
            path: var("PATH"),
            tmpdir: var("TMPDIR").map(PathBuf::from),
        }
    }
}

/// Settings as text, by name.
pub type Values = BTreeMap<String, String>;

impl Config {
    /// Reads the environment, with `flags` laid over it.
    ///
    /// # Errors
    /// Everything that is wrong, a line each.
    pub fn load(flags: &Values) -> Result<Self, ConfigError> {
        #[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
        let vars = std::env::vars_os();
        let mut values: Values = vars.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?))).collect();
        values.extend(flags.clone());
        Self::from_values(&values, Machine::read())
    }

    /// # Errors
    /// Everything that is wrong, a line each.
    pub fn from_values(values: &Values, machine: Machine) -> Result<Self, ConfigError> {
        let mut read = Reading { values, errors: unknown_names(values) };
        let config = Self {
            database_url: read.text("DATABASE_URL"),
            listen_database_url: read.text("RECADO_LISTEN_DATABASE_URL"),
            data_dir: read.text("RECADO_DATA_DIR").map(PathBuf::from),
            postgres_bin: read.text("RECADO_POSTGRES_BIN").map(PathBuf::from),
            postgres_user: read.text("RECADO_POSTGRES_USER"),
            fetch_postgres: read.switch("RECADO_FETCH_POSTGRES"),
            allow_unsafe_durability: read.switch("RECADO_ALLOW_UNSAFE_DURABILITY"),
            bind: read.parsed("RECADO_BIND", "an IP address").unwrap_or(IpAddr::from([127, 0, 0, 1])),
            port: read.parsed("PORT", "a port, 0 to 65535").unwrap_or_default(),
            allowed_origins: read.origins(),
            jwt_secret: read.jwt_secret(),
            jwt: JwtRules {
                issuer: read.text("RECADO_JWT_ISSUER"),
                audience: read.text("RECADO_JWT_AUDIENCE"),
                user_claim: read.text("RECADO_JWT_USER_CLAIM").unwrap_or_default(),
                account_claim: read.text("RECADO_JWT_ACCOUNT_CLAIM").unwrap_or_default(),
                accounts_claim: read.text("RECADO_JWT_ACCOUNTS_CLAIM").unwrap_or_default(),
                max_lifetime: read.duration("RECADO_JWT_MAX_LIFETIME", Duration::from_secs(1), Duration::MAX),
            },
            heartbeat: read.duration("WS_HEARTBEAT_INTERVAL", Duration::from_secs(1), Duration::from_secs(3600)),
            max_connections: read.number("WS_MAX_CONNECTIONS", 1, 1_000_000),
            max_connections_per_user: read.number("RECADO_MAX_CONNECTIONS_PER_USER", 1, 100_000).unwrap_or(1),
            session_policy: read.choice("RECADO_SESSION_POLICY", &[("multi", SessionPolicy::Multi), ("single", SessionPolicy::Single)]),
            send_deadline: read.duration("RECADO_SEND_DEADLINE", Duration::from_millis(100), Duration::from_secs(600)),
            pong_deadline: read.duration("RECADO_PONG_DEADLINE", Duration::from_millis(100), Duration::from_secs(600)),
            poll_interval: read.duration("RECADO_POLL_INTERVAL", Duration::from_millis(50), Duration::from_secs(3)),
            drain_window: read.duration("RECADO_DRAIN_WINDOW", Duration::ZERO, Duration::from_secs(600)),
            retention: Retention {
                age: read.optional("RECADO_RETENTION_AGE", "a time such as 90d", parse_duration),
                bytes: read.optional("RECADO_RETENTION_SIZE", "a size such as 500MB or 50GB", parse_bytes),
                sessions: read.optional("RECADO_RETENTION_SESSIONS", "a time such as 30d", parse_duration),
                upstream: read.optional("RECADO_RETENTION_UPSTREAM", "a time such as 30d", parse_duration),
                devices: read.optional("RECADO_RETENTION_DEVICES", "a time such as 180d, 2d at least", parse_idle),
            },
            delivery_facts: read.optional("RECADO_DELIVERY_FACTS", "off, or a time from 200ms to 1h", parse_facts).flatten(),
            read_connections: read.number("RECADO_READ_CONNECTIONS", 1, 1000).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
            publish_rate: read.number("RECADO_PUBLISH_RATE", 0, 10_000_000).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            user_rate: read.number("RECADO_USER_RATE", 0, 10_000_000).and_then(|n| u32::try_from(n).ok()).unwrap_or(0),
            upstream_file: read.text("RECADO_UPSTREAM_FILE").map(PathBuf::from),
            upstream_key: read.key("RECADO_UPSTREAM_KEY"),
            upstream: Upstream {
                lease: read.duration("RECADO_UPSTREAM_LEASE", Duration::from_secs(3), Duration::from_secs(300)),
                starts_per_second: read.number("RECADO_UPSTREAM_STARTS", 1, 10_000).and_then(|n| u32::try_from(n).ok()).unwrap_or(1),
                most_sessions: read.number("RECADO_UPSTREAM_SESSIONS", 1, 1_000_000).unwrap_or(1),
            },
            log: read.text("RECADO_LOG").unwrap_or_default(),
            log_format: read.choice("RECADO_LOG_FORMAT", &[("text", LogFormat::Text), ("json", LogFormat::Json)]),
            url: read.text("RECADO_URL").unwrap_or_default().trim_end_matches('/').to_owned(),
            url_is_given: values.get("RECADO_URL").is_some_and(|url| !url.trim().is_empty()),
            key: read.text("RECADO_KEY"),
            token: read.text("RECADO_TOKEN"),
            machine,
        };
        if read.errors.is_empty() { Ok(config) } else { Err(ConfigError(read.errors)) }
    }
}

/// A credential that a provider file names: the variable `name`, or the file that `name_FILE` leads to.
///
/// # Errors
/// For a setting of the hub's own, which no provider may be told, and for a file that cannot be read.
pub fn credential(name: &str) -> Result<Option<String>, String> {
    if name.starts_with("RECADO_") || TABLE.iter().any(|setting| setting.name == name) {
        return Err(format!("{{env:{name}}}: a setting of the hub itself cannot be given to a provider; choose another name"));
    }
    #[expect(clippy::disallowed_methods, reason = "the one reader of the environment")]
    let var = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    match (var(name), var(&format!("{name}_FILE"))) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}_FILE are both set; leave one out")),
        (Some(value), None) => Ok(Some(value)),
        (None, None) => Ok(None),
        (None, Some(file)) => match std::fs::read_to_string(&file) {
            Ok(content) => Ok(Some(content.trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => Err(format!("{name}_FILE: {file} cannot be read: {error}")),
        },
    }
}

/// `docs/settings.md`, made from the table.
pub fn markdown() -> String {
    let mut page = String::from(
        "# Settings\n\nMade from the code by `recado config --markdown`; a test compares the two.\n\n\
         Settings come from the environment; flags win. An unknown `RECADO_` variable is an error. \
         A setting marked * may also be given as `NAME_FILE`, a file that holds the value. \
         Times are written `500ms`, `30s`, `5m`, `2h`; a bare number is seconds.\n\n\
         | setting | default | meaning |\n| --- | --- | --- |\n",
    );
    for setting in TABLE {
        let mark = if setting.secret { " *" } else { "" };
        let default = if setting.default.is_empty() { String::new() } else { format!("`{}`", setting.default) };
        page.push_str(&format!("| `{}`{mark} | {default} | {} |\n", setting.name, setting.meaning));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, &str)]) -> Values {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn load(pairs: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::from_values(&values(pairs), Machine::default())
    }

    #[test]
    fn the_defaults_of_the_table_are_valid() {
        let config = load(&[]).unwrap();
        assert_eq!((config.port, config.heartbeat, config.fetch_postgres), (8080, Duration::from_secs(30), true));
        assert!(config.bind.is_loopback());
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
    fn a_secret_can_come_from_a_file_and_from_one_place_only() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "0123456789012345678901234567890123456789\n").unwrap();
        let path = file.path().to_str().unwrap();
        assert_eq!(load(&[("RECADO_JWT_SECRET_FILE", path)]).unwrap().jwt_secret.unwrap().len(), 40);
        assert!(load(&[("RECADO_JWT_SECRET_FILE", path), ("RECADO_JWT_SECRET", "x")]).is_err());
        assert!(load(&[("RECADO_PORT_FILE", path)]).is_err());
    }
}
