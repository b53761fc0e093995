//! Fuzzes the parsers of settings and of their values.

use std::time::Duration;

use recado::config::{Config, MachineEnvironment, TABLE, Values, parse_bytes, parse_duration, parse_key};
use recado::store::Database;

/// Part of every secret. No output may contain it.
const MARK: &str = "~s3cr3t-m4rk~";

/// Lines of `NAME=VALUE`.
pub fn settings(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let lines = text.lines().filter_map(|line| line.split_once('='));
    // A `_FILE` setting would read a file, which this target does not test.
    let mut values: Values = lines.filter(|(name, _)| !name.ends_with("_FILE")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    for setting in TABLE.iter().filter(|setting| setting.secret) {
        values.entry(setting.name.to_owned()).and_modify(|value| value.push_str(MARK));
    }
    match Config::from_values(&values, MachineEnvironment::default()) {
        Ok(config) => {
            let within =
                |time: Duration, least: u64, most: u64| (Duration::from_millis(least)..=Duration::from_millis(most)).contains(&time);
            assert!(within(config.heartbeat, 1_000, 3_600_000) && within(config.poll_interval, 50, 3_000));
            assert!(within(config.send_deadline, 100, 600_000) && within(config.pong_deadline, 100, 600_000));
            assert!(within(config.upstream.lease, 3_000, 300_000) && (1..=1000).contains(&config.read_connections));
            assert!(config.jwt_secret.is_none_or(|secret| secret.len() >= 32));
            // An origin that a browser can send: a scheme, a host, and at most one wildcard label.
            let is_plain = |origin: &String| {
                let rest = origin.split_once("://").map_or("", |(_, rest)| rest.strip_prefix("*.").unwrap_or(rest));
                !rest.is_empty() && origin.is_ascii() && !rest.contains(['/', '*', '@', '?', '#', ' '])
            };
            assert!(config.allowed_origins.unwrap_or_default().iter().all(is_plain));
        }
        Err(wrong) => {
            assert!(!wrong.0.is_empty() && wrong.0.iter().all(|line| !line.is_empty()));
            assert!(!wrong.to_string().contains(MARK), "a secret is shown: {wrong}");
        }
    }
}

/// One value, read by every parser of values.
pub fn values(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    if let Some(time) = parse_duration(text) {
        let written = if time.subsec_millis() > 0 { format!("{}ms", time.as_millis()) } else { time.as_secs().to_string() };
        assert_eq!(parse_duration(&written), Some(time));
    }
    if let Some(bytes) = parse_bytes(text) {
        assert_eq!(parse_bytes(&bytes.to_string()), Some(bytes));
    }
    if let Some(key) = parse_key(text) {
        let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(parse_key(&hex), Some(key));
    }
    // An invalid URL must not show its password.
    for url in [text.to_owned(), format!("postgres://u:{MARK}@{text}"), format!("postgresql://{MARK}:{MARK}@{text}")] {
        if let Err(error) = Database::parse(&url, None) {
            assert!(!error.to_string().contains(MARK), "a password is shown: {error}");
        }
    }
}
