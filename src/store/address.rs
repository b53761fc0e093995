//! Parses `DATABASE_URL` in libpq's URL forms.
//!
//! The hub parses the URL itself, because the client library logs the values of unknown parameters, accepts any scheme,
//! and sends a password in clear text to any server that asks for it. A form that the hub cannot honour is refused by
//! its name. No error repeats a value.

use std::net::IpAddr;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

/// An error in a URL. It holds names of parameters, never values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AddressError(String);

impl AddressError {
    pub(super) fn of(self, setting: &str) -> Self {
        Self(format!("{setting}: {}", self.0))
    }

    /// Names the setting and the entry of its list, counted from 1.
    pub(super) fn of_entry(self, setting: &str, entry: usize) -> Self {
        Self(format!("{setting}: URL {entry}: {}", self.0))
    }

    /// The list has a wrong number of entries.
    pub(super) fn count(setting: &str, given: usize, most: usize) -> Self {
        Self(format!("{setting}: it holds {given} URLs; give 1 to {most}, separated by commas or white space"))
    }
}

/// What the server of a URL is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Primary,
    Standby,
}

fn wrong<T>(what: impl Into<String>) -> Result<T, AddressError> {
    Err(AddressError(what.into()))
}

/// The address of the database: one server, or several of which one takes writes.
#[derive(Clone)]
pub struct DatabaseAddress {
    /// The URL as it was given; used for comparison only.
    text: String,
    /// Options of each host, in the order in which the hosts are tried.
    pub(super) hosts: Vec<PgConnectOptions>,
    /// Settings given as `-c name=value` in the parameter `options`.
    pub(super) settings: Vec<(String, String)>,
}

/// Omits the password.
impl std::fmt::Debug for DatabaseAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Address").field("hosts", &self.hosts.len()).finish_non_exhaustive()
    }
}

/// The parts of a URL that can list several hosts.
#[derive(Default)]
struct Lists {
    hosts: Vec<String>,
    ports: Vec<String>,
    addresses: Vec<String>,
}

impl DatabaseAddress {
    /// Parses a URL.
    ///
    /// # Errors
    /// The name of the part that is malformed or not supported.
    pub fn parse(url: &str) -> Result<Self, AddressError> {
        Self::parse_for(Purpose::Primary, url)
    }

    /// Parses the URL of one standby.
    ///
    /// # Errors
    /// As [`DatabaseAddress::parse`], and for several hosts: the hub would not know which one answers.
    pub fn parse_standby(url: &str) -> Result<Self, AddressError> {
        let address = Self::parse_for(Purpose::Standby, url)?;
        if address.hosts.len() > 1 {
            return wrong("it names several hosts; write one URL for each standby");
        }
        Ok(address)
    }

    fn parse_for(purpose: Purpose, url: &str) -> Result<Self, AddressError> {
        let url = url.trim();
        let Some((scheme, rest)) = url.split_once("://") else {
            return wrong("it must begin with postgres:// or postgresql://; libpq's name=value form is not supported");
        };
        if !["postgres", "postgresql"].contains(&scheme) {
            return wrong("it must begin with postgres:// or postgresql://");
        }
        let (before_query, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = before_query.split_once('/').unwrap_or((before_query, ""));
        let (login, host_list) = authority.rsplit_once('@').map_or((None, authority), |(login, hosts)| (Some(login), hosts));

        let mut lists = Lists::of_authority(host_list)?;
        // Reads libpq's variables (PGHOST, PGUSER, PGSSLMODE …) for what the URL leaves out.
        let mut options = PgConnectOptions::new_without_pgpass();
        if let Some(login) = login {
            let (user, password) = login.split_once(':').map_or((login, None), |(user, password)| (user, Some(password)));
            if !user.is_empty() {
                options = options.username(&decoded("the user name", user)?);
            }
            if let Some(password) = password {
                options = options.password(&decoded("the password", password)?);
            }
        }
        if !path.is_empty() {
            options = options.database(&decoded("the database's name", path)?);
        }
        let mut tls = Tls { mode: None, has_root: false };
        let mut settings = Vec::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = decoded("a parameter's name", name)?;
            // In form encoding a plus is a space.
            let value = decoded(shown(&name).as_str(), &value.replace('+', " "))?;
            if name == "target_session_attrs" && purpose == Purpose::Standby {
                if !["any", "read-only", "standby", "prefer-standby"].contains(&value.as_str()) {
                    return wrong("target_session_attrs can only be any, read-only, standby or prefer-standby: the hub only reads there");
                }
                continue;
            }
            options = parameter(options, &name, &value, &mut tls, &mut lists, &mut settings)?;
        }
        Ok(Self { text: url.to_owned(), hosts: lists.dressed(&options, &tls)?, settings })
    }

    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.text == other.text
    }

    /// Whether a password that is sent to this host can be read on the way: the host is remote and TLS is disabled.
    pub(super) fn is_open_to_listeners(options: &PgConnectOptions) -> bool {
        options.get_socket().is_none() && !is_local(options.get_host()) && matches!(options.get_ssl_mode(), PgSslMode::Disable)
    }
}

fn decoded(what: &str, text: &str) -> Result<String, AddressError> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let hex = after.get(..2).and_then(|two| std::str::from_utf8(two).ok()).and_then(|two| u8::from_str_radix(two, 16).ok());
        match (byte, hex) {
            (b'%', Some(decoded)) => {
                bytes.push(decoded);
                rest = &after[2..];
            }
            (b'%', None) => return wrong(format!("{what} has a % that is not followed by two hexadecimal digits: write it as %25")),
            _ => bytes.push(byte),
        }
    }
    match String::from_utf8(bytes) {
        Ok(text) if !text.contains('\0') => Ok(text),
        _ => wrong(format!("{what} is not percent-encoded UTF-8")),
    }
}

struct Tls {
    mode: Option<PgSslMode>,
    has_root: bool,
}

fn parameter(
    options: PgConnectOptions,
    name: &str,
    value: &str,
    tls: &mut Tls,
    lists: &mut Lists,
    settings: &mut Vec<(String, String)>,
) -> Result<PgConnectOptions, AddressError> {
    let list = || value.split(',').map(|part| part.trim().to_owned()).collect();
    // The hub accepts only the values that describe what it does anyway.
    let only = |good: &[&str], why: &str| {
        if good.contains(&value) { Ok(()) } else { wrong(format!("{name} can only be {}: {why}", good.join(" or "))) }
    };
    Ok(match name {
        "host" => {
            lists.hosts = list();
            options
        }
        "hostaddr" => {
            lists.addresses = list();
            options
        }
        "port" => {
            lists.ports = list();
            options
        }
        "dbname" => options.database(value),
        "user" => options.username(value),
        "password" => options.password(value),
        "sslmode" | "ssl-mode" => {
            tls.mode = Some(match value {
                "disable" => PgSslMode::Disable,
                "allow" => PgSslMode::Allow,
                "prefer" => PgSslMode::Prefer,
                "require" => PgSslMode::Require,
                "verify-ca" => PgSslMode::VerifyCa,
                "verify-full" => PgSslMode::VerifyFull,
                _ => return wrong("sslmode must be disable, allow, prefer, require, verify-ca or verify-full"),
            });
            options
        }
        "sslrootcert" | "ssl-root-cert" | "ssl-ca" => {
            tls.has_root = true;
            if value == "system" {
                // Same as libpq: without a name to check, any certificate of a public authority would be accepted.
                if !matches!(tls.mode, None | Some(PgSslMode::VerifyFull)) {
                    return wrong("sslrootcert=system needs sslmode=verify-full");
                }
                tls.mode = Some(PgSslMode::VerifyFull);
                options
            } else {
                options.ssl_root_cert(value)
            }
        }
        "sslcert" | "ssl-cert" => options.ssl_client_cert(value),
        "sslkey" | "ssl-key" => options.ssl_client_key(value),
        "options" => {
            settings.extend(command_line(value)?);
            options
        }
        _ if name.starts_with("options[") && name.ends_with(']') => {
            settings.push((name["options[".len()..name.len() - 1].to_owned(), value.to_owned()));
            options
        }
        "target_session_attrs" => {
            only(&["any", "read-write", "primary"], "the hub always looks for the server that takes writes")?;
            options
        }
        "load_balance_hosts" => only(&["disable"], "hosts are tried in order").map(|()| options)?,
        "channel_binding" => only(&["prefer", "disable"], "channel binding is not supported; use sslmode=verify-full").map(|()| options)?,
        "gssencmode" => only(&["disable", "prefer"], "GSSAPI is not supported").map(|()| options)?,
        "sslcompression" => only(&["0"], "TLS compression is not supported").map(|()| options)?,
        "sslsni" => only(&["1"], "the server name is always sent").map(|()| options)?,
        "sslnegotiation" => only(&["postgres"], "direct TLS negotiation is not supported").map(|()| options)?,
        "ssl_min_protocol_version" => {
            only(&["TLSv1", "TLSv1.1", "TLSv1.2"], "the oldest supported version is TLS 1.2").map(|()| options)?
        }
        "client_encoding" => only(&["UTF8", "utf8", "UTF-8", "auto"], "the hub uses UTF-8").map(|()| options)?,
        // The hub sets a shorter timeout and its own application names.
        "connect_timeout" | "application_name" | "fallback_application_name" => options,
        "statement-cache-capacity" => match value.parse() {
            Ok(capacity) => options.statement_cache_capacity(capacity),
            Err(_) => return wrong("statement-cache-capacity must be a number"),
        },
        "passfile" => {
            return wrong("passfile is not supported; set PGPASSFILE, or put the whole URL into a file and set DATABASE_URL_FILE");
        }
        "service" | "servicefile" => {
            return wrong(format!("{name} is not supported; write the service's host, dbname and user into the URL"));
        }
        _ => return wrong(format!("the parameter {} is unknown and refused, because it might concern security", shown(name))),
    })
}

/// Returns a parameter name that is safe to print. Any other name may be part of a password.
fn shown(name: &str) -> String {
    let is_plain = name.len() <= 40 && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte == b'-');
    if is_plain { name.to_owned() } else { "with an unusual name".to_owned() }
}

/// Parses `-c name=value` and `--name=value`. A backslash escapes a space or a backslash in a value.
fn command_line(text: &str) -> Result<Vec<(String, String)>, AddressError> {
    let (mut words, mut word, mut chars) = (Vec::new(), String::new(), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => word.extend(chars.next()),
            c if c.is_whitespace() => words.push(std::mem::take(&mut word)),
            c => word.push(c),
        }
    }
    words.push(word);
    let mut words = words.into_iter().filter(|word| !word.is_empty());
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = match (word.strip_prefix("--"), word.strip_prefix("-c")) {
            (Some(setting), _) => setting.replace('-', "_"),
            (None, Some("")) => words.next().unwrap_or_default(),
            (None, Some(setting)) => setting.to_owned(),
            (None, None) => return wrong("options can only hold -c name=value"),
        };
        match setting.split_once('=') {
            Some((name, value)) => settings.push((name.trim().to_owned(), value.to_owned())),
            None => return wrong("options can only hold -c name=value"),
        }
    }
    Ok(settings)
}

impl Lists {
    /// Parses `host:port` and `[address]:port`, separated by commas.
    fn of_authority(text: &str) -> Result<Self, AddressError> {
        let mut lists = Self::default();
        if text.is_empty() {
            return Ok(lists);
        }
        let mut has_ports = false;
        for one in text.split(',') {
            let (host, port) = match one.strip_prefix('[') {
                Some(inner) => match inner.split_once(']') {
                    Some((address, "")) => (address, ""),
                    Some((address, rest)) if rest.starts_with(':') => (address, &rest[1..]),
                    _ => return wrong("a host that begins with [ must be [address] or [address]:port"),
                },
                None => one.split_once(':').unwrap_or((one, "")),
            };
            has_ports |= !port.is_empty();
            lists.hosts.push(decoded("a host", host)?);
            lists.ports.push(port.to_owned());
        }
        if !has_ports {
            lists.ports.clear();
        }
        Ok(lists)
    }

    /// Makes one set of options for each host.
    fn dressed(&self, options: &PgConnectOptions, tls: &Tls) -> Result<Vec<PgConnectOptions>, AddressError> {
        let hosts = if self.addresses.is_empty() { &self.hosts } else { &self.addresses };
        if self.addresses.iter().any(|address| address.parse::<IpAddr>().is_err()) {
            return wrong("hostaddr must hold IP addresses");
        }
        let count = hosts.len().max(1);
        if self.ports.len() > 1 && self.ports.len() != count {
            return wrong("port must be one for all hosts, or one for each");
        }
        let mut dressed = Vec::with_capacity(count);
        for at in 0..count {
            let mut options = options.clone();
            match hosts.get(at).map(String::as_str) {
                None | Some("") => {}
                Some(folder) if folder.starts_with('/') => options = options.socket(folder),
                Some(host) => options = options.host(host.trim_start_matches('[').trim_end_matches(']')),
            }
            match self.ports.get(if self.ports.len() == 1 { 0 } else { at }).map(String::as_str) {
                None | Some("") => {}
                Some(port) => match port.parse() {
                    Ok(port) => options = options.port(port),
                    Err(_) => return wrong("a port must be a number from 1 to 65535"),
                },
            }
            dressed.push(with_tls(options, tls)?);
        }
        Ok(dressed)
    }
}

/// Applies the lowest TLS mode that protects the password and the log on the way to another machine, unless the URL
/// turns TLS off.
fn with_tls(options: PgConnectOptions, tls: &Tls) -> Result<PgConnectOptions, AddressError> {
    let is_remote = options.get_socket().is_none() && !is_local(options.get_host());
    let mode = tls.mode.unwrap_or_else(|| options.get_ssl_mode());
    let mode = match mode {
        PgSslMode::Prefer if is_remote && tls.mode.is_none() => PgSslMode::Require,
        PgSslMode::Prefer | PgSslMode::Allow if is_remote => {
            return wrong(
                "sslmode prefer and allow do not protect a connection to another machine: use require, verify-full, \
                 or disable where the network itself is safe",
            );
        }
        mode => mode,
    };
    // Same as libpq: a given root certificate is always checked.
    let mode = if matches!(mode, PgSslMode::Require) && tls.has_root { PgSslMode::VerifyCa } else { mode };
    Ok(options.ssl_mode(mode))
}

/// Whether the host is this machine.
fn is_local(host: &str) -> bool {
    host.starts_with('/')
        || host.eq_ignore_ascii_case("localhost")
        || host.to_ascii_lowercase().ends_with(".localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests;
