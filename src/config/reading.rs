//! Converts the text of settings to checked values and collects all errors.

use std::ffi::OsString;
use std::net::IpAddr;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::origins::normalised;
use super::{ConfigError, TABLE, Values};
use crate::domain::MutePattern;
use crate::{secrets, spelling};

/// Settings without a default that name a file or a folder: an empty value would silently mean something else.
const LEADS_ASTRAY_WHEN_EMPTY: &[&str] =
    &["RECADO_DATA_DIR", "RECADO_POSTGRES_BIN", "RECADO_UPSTREAM_FILE", "RECADO_IDENTITY_FILE", "RECADO_JWKS_URL", "RECADO_JWKS_FILE"];

/// The variable that names the folder of the console's files. No setting: only debug builds know it.
pub(super) const FOLDER: &str = "RECADO_ADMIN_DIR";

/// The environment as text. A setting of the hub that is not UTF-8 is an error; other variables are ignored.
pub(super) fn as_text(vars: impl Iterator<Item = (OsString, OsString)>) -> Result<Values, ConfigError> {
    let (mut values, mut errors) = (Values::new(), Vec::new());
    for (name, value) in vars {
        let shown = name.to_string_lossy().into_owned();
        match (name.into_string(), value.into_string()) {
            (Ok(name), Ok(value)) => {
                values.insert(name, value);
            }
            _ if is_ours(&shown) => errors.push(format!("{shown} contains bytes that are not UTF-8")),
            _ => {}
        }
    }
    if errors.is_empty() { Ok(values) } else { Err(ConfigError(errors)) }
}

fn is_ours(name: &str) -> bool {
    name.starts_with("RECADO_") || TABLE.iter().any(|setting| setting.name == name || name.strip_suffix("_FILE") == Some(setting.name))
}

/// How many variables Kubernetes made because a service's name begins with `recado`.
pub(super) fn service_links(values: &Values) -> usize {
    values.iter().filter(|(name, value)| is_service_link(name, value)).count()
}

/// Recognises `RECADO_SERVICE_HOST`, `RECADO_PORT=tcp://…`, `RECADO_PORT_8080_TCP_ADDR` and the like (Kubernetes
/// documentation, "Accessing the Service", environment variables).
fn is_service_link(name: &str, value: &str) -> bool {
    let Some(rest) = name.strip_prefix("RECADO_") else { return false };
    let rest = format!("_{rest}");
    let by_protocol = ["_TCP", "_UDP", "_SCTP"].iter().any(|protocol| {
        ["", "_PROTO", "_PORT", "_ADDR"].iter().any(|end| {
            let number = rest.strip_suffix(&format!("{protocol}{end}")).and_then(|rest| rest.rsplit_once("_PORT_"));
            number.is_some_and(|(_, number)| number.parse::<u16>().is_ok())
        })
    });
    let is_known = TABLE.iter().any(|setting| setting.name == name);
    !is_known
        && (rest.ends_with("_SERVICE_HOST")
            || rest.contains("_SERVICE_PORT")
            || by_protocol
            || rest.ends_with("_PORT") && value.contains("://"))
}

/// Reads rows of the table and collects their errors.
pub(super) struct Reading<'a> {
    pub(super) values: &'a Values,
    pub(super) errors: Vec<String>,
}

impl Reading<'_> {
    /// The value, its file's content, or the default; `None` if there is none.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let setting = TABLE.iter().find(|s| s.name == name).expect("every name that is read is in the table");
        let given = self.values.get(name).map(|v| v.trim().to_owned());
        if given.as_deref() == Some("") && (setting.secret || LEADS_ASTRAY_WHEN_EMPTY.contains(&name)) {
            self.errors.push(format!("{name} is empty; give it a value or leave it out"));
        }
        let given = given.filter(|v| !v.is_empty());
        let file = self.values.get(&format!("{name}_FILE")).filter(|_| setting.secret);
        let value = match (given, file) {
            (Some(_), Some(_)) => {
                self.errors.push(format!("{name} and {name}_FILE are both set; leave one out"));
                None
            }
            (None, Some(file)) => match secrets::read_given(file.as_ref()) {
                Err(_) if file.trim().is_empty() => {
                    self.errors.push(format!("{name}_FILE is empty; name a file or leave it out"));
                    None
                }
                Ok(content) => Some(content.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => {
                    self.errors.push(format!("{name}_FILE: cannot use {file}: {error}"));
                    None
                }
            },
            (given, None) => given,
        };
        value.or_else(|| Some(setting.default.to_owned())).filter(|v| !v.is_empty())
    }

    fn wrong(&mut self, name: &str, value: &str, expected: &str) {
        self.errors.push(format!("{name} is {value:?}; it must be {expected}"));
    }

    pub(super) fn parsed<T: std::str::FromStr>(&mut self, name: &'static str, expected: &str) -> Option<T> {
        let text = self.text(name)?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.wrong(name, &text, expected);
        }
        parsed
    }

    pub(super) fn number(&mut self, name: &'static str, least: usize, most: usize) -> Option<usize> {
        let expected = format!("a whole number from {least} to {most}");
        let number: usize = self.parsed(name, &expected)?;
        if !(least..=most).contains(&number) {
            self.wrong(name, &number.to_string(), &expected);
        }
        Some(number)
    }

    /// A number per second; zero means no limit.
    pub(super) fn rate(&mut self, name: &'static str) -> u32 {
        self.number(name, 0, 10_000_000).and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
    }

    pub(super) fn switch(&mut self, name: &'static str) -> bool {
        self.choice(name, &[("on", true), ("off", false), ("true", true), ("false", false), ("1", true), ("0", false)])
    }

    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> T {
        let text = self.text(name).unwrap_or_default();
        match choices.iter().find(|(word, _)| *word == text) {
            Some((_, value)) => *value,
            None => {
                let words: Vec<_> = choices.iter().map(|(word, _)| *word).collect();
                self.wrong(name, &text, &format!("one of {}", words.join(", ")));
                choices[0].1
            }
        }
    }

    pub(super) fn duration(&mut self, name: &'static str, least: Duration, most: Duration) -> Duration {
        let text = self.text(name).unwrap_or_default();
        match parse_duration(&text) {
            Some(duration) if (least..=most).contains(&duration) => duration,
            _ => {
                let bounds = if most == Duration::MAX { format!("at least {least:?}") } else { format!("{least:?} to {most:?}") };
                self.wrong(name, &text, &format!("a time such as 500ms, 30s, 5m or 2h; {bounds}"));
                least
            }
        }
    }

    /// A setting that may be absent, read by `parse`.
    pub(super) fn optional<T>(&mut self, name: &'static str, expected: &str, parse: fn(&str) -> Option<T>) -> Option<T> {
        let text = self.text(name)?;
        let value = parse(&text);
        if value.is_none() {
            self.wrong(name, &text, expected);
        }
        value
    }

    /// Like [`Self::optional`], but `forever` is a valid value: `None`.
    pub(super) fn kept<T>(&mut self, name: &'static str, expected: &str, parse: fn(&str) -> Option<T>) -> Option<T> {
        if self.text(name).is_some_and(|text| text == FOREVER) {
            return None;
        }
        self.optional(name, &format!("{expected}, or {FOREVER}"), parse)
    }

    pub(super) fn origins(&mut self) -> Option<Vec<String>> {
        let text = self.text("RECADO_ALLOWED_ORIGINS")?;
        let mut origins = Vec::new();
        for entry in text.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
            match normalised(entry) {
                Ok(origin) => origins.push(origin),
                Err(reason) => self.errors.push(format!("RECADO_ALLOWED_ORIGINS contains {entry:?}, which matches no page: {reason}")),
            }
        }
        Some(origins)
    }

    pub(super) fn hosts(&mut self) -> Vec<String> {
        let text = self.text("RECADO_ALLOWED_HOSTS").unwrap_or_default().to_ascii_lowercase();
        let hosts: Vec<String> = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).map(str::to_owned).collect();
        for entry in &hosts {
            let name = entry.strip_prefix("*.").unwrap_or(entry);
            let is_name = !name.starts_with('.') && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
            if entry != "*" && !is_name {
                self.errors.push(format!(
                    "RECADO_ALLOWED_HOSTS holds {entry:?}, which is no name of a host: write it without scheme and port, such as hub.example.com"
                ));
            }
        }
        hosts
    }

    /// A key of 32 bytes, as 64 hexadecimal digits or in base64.
    pub(super) fn key(&mut self, name: &'static str) -> Option<[u8; 32]> {
        let text = self.text(name)?;
        let key = parse_key(&text);
        if key.is_none() {
            // The value is not shown: it may contain most of a key.
            self.errors.push(format!("{name} must be 32 bytes, as 64 hexadecimal digits or in base64 (openssl rand -hex 32)"));
        }
        key
    }

    /// Keys of 32 bytes, separated by commas or white space.
    pub(super) fn keys(&mut self, name: &'static str) -> Vec<[u8; 32]> {
        let text = self.text(name).unwrap_or_default();
        let given: Vec<&str> = text.split([',', ' ', '\t', '\r', '\n']).filter(|part| !part.is_empty()).collect();
        let keys: Vec<[u8; 32]> = given.iter().filter_map(|part| parse_key(part)).collect();
        if keys.len() < given.len() {
            self.errors.push(format!("{name}: each key must be 32 bytes, as 64 hexadecimal digits or in base64 (openssl rand -hex 32)"));
        }
        keys
    }

    /// The secrets that are accepted besides the current one, one a line.
    pub(super) fn jwt_accepted_secrets(&mut self) -> Vec<String> {
        const NAME: &str = "RECADO_JWT_ACCEPTED_SECRETS";
        let text = self.text(NAME).unwrap_or_default();
        let secrets: Vec<String> =
            text.lines().map(|line| line.trim_end_matches('\r').to_owned()).filter(|line| !line.is_empty()).collect();
        for (at, secret) in secrets.iter().enumerate() {
            if let Err(why) = crate::secrets::check(secret) {
                self.errors.push(format!("{NAME}: line {} {why}", at + 1));
            }
        }
        secrets
    }

    pub(super) fn jwt_secret(&mut self) -> Option<String> {
        let secret = self.text("RECADO_JWT_SECRET")?;
        if let Err(why) = secrets::check(&secret) {
            self.errors.push(format!("RECADO_JWT_SECRET {why}"));
        }
        Some(secret)
    }
}

/// 32 bytes, as 64 hexadecimal digits or in base64, either alphabet, padded or not.
pub fn parse_key(text: &str) -> Option<[u8; 32]> {
    let hex = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        let bytes: Option<Vec<u8>> = text.as_bytes().chunks(2).map(hex).collect();
        return bytes?.try_into().ok();
    }
    let plain = text.trim_end_matches('=').replace('-', "+").replace('_', "/");
    STANDARD_NO_PAD.decode(plain).ok()?.try_into().ok()
}

/// `500MB`, `50GB`, `1TB` (powers of 1000), or a number of bytes.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    let unit = match &text[digits.len()..] {
        "" | "B" => 1,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "TB" => 1_000_000_000_000,
        _ => return None,
    };
    number.checked_mul(unit)
}

/// The value for data that is never deleted.
pub const FOREVER: &str = "forever";

/// `500ms`, `30s`, `5m`, `2h`, or a number of seconds.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits.parse().ok()?;
    match &text[digits.len()..] {
        "ms" => Some(Duration::from_millis(number)),
        "" | "s" => Some(Duration::from_secs(number)),
        "m" => number.checked_mul(60).map(Duration::from_secs),
        "h" => number.checked_mul(3600).map(Duration::from_secs),
        "d" => number.checked_mul(86_400).map(Duration::from_secs),
        _ => None,
    }
}

/// Reads a list of types, each exact or with a `*` at its end.
pub(super) fn parse_types(text: &str) -> Option<Vec<MutePattern>> {
    text.split(',').map(|one| MutePattern::parse(one.trim())).collect()
}

/// Addresses and networks, each as an address and the length of its prefix.
pub(super) fn parse_networks(text: &str) -> Option<Vec<(IpAddr, u8)>> {
    let network = |text: &str| -> Option<(IpAddr, u8)> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(address, prefix)| (address, Some(prefix)));
        let address: IpAddr = address.parse().ok()?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Some(longest), |prefix| prefix.parse().ok().filter(|prefix| *prefix <= longest))?;
        Some((address, prefix))
    };
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(network).collect()
}

/// `off`, or a time that neither floods the database nor is too long to be useful.
pub(super) fn parse_facts(text: &str) -> Option<Option<Duration>> {
    let bounds = Duration::from_millis(200)..=Duration::from_secs(3600);
    if text == "off" { Some(None) } else { parse_duration(text).filter(|every| bounds.contains(every)).map(Some) }
}

/// The time after which an unused device expires. A connected device is marked as seen only once a day, so less than
/// two days would expire devices that connect every day.
pub fn parse_idle(text: &str) -> Option<Duration> {
    parse_duration(text).filter(|idle| *idle >= Duration::from_secs(2 * 86_400))
}

/// Reports variables that begin with `RECADO_` and are not settings: typing errors, which would otherwise be silent.
pub(super) fn unknown_names(values: &Values) -> Vec<String> {
    let known = |name: &str| {
        cfg!(debug_assertions) && name == FOLDER
            || TABLE.iter().any(|s| s.name == name || (s.secret && name.strip_suffix("_FILE") == Some(s.name)))
    };
    let ours = values.iter().filter(|(name, value)| name.starts_with("RECADO_") && !is_service_link(name, value)).map(|(name, _)| name);
    ours.filter(|name| !known(name)).map(|name| format!("{name} is not a setting{}", did_you_mean(name))).collect()
}

fn did_you_mean(name: &str) -> String {
    match spelling::nearest(name, TABLE.iter().map(|setting| setting.name)) {
        Some(near) => format!("; did you mean {near}?"),
        None => "; see recado config for all of them".to_owned(),
    }
}
