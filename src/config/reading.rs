//! From text to checked values, with everything that is wrong collected.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::{TABLE, Values};
use crate::spelling;

/// Reads rows of the table and collects what is wrong with them.
pub(super) struct Reading<'a> {
    pub(super) values: &'a Values,
    pub(super) errors: Vec<String>,
}

impl Reading<'_> {
    /// The value, its file's content, or the default; `None` for nothing at all.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let setting = TABLE.iter().find(|s| s.name == name).expect("every name that is read stands in the table");
        let given = self.values.get(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let file = self.values.get(&format!("{name}_FILE")).filter(|_| setting.secret);
        let value = match (given, file) {
            (Some(_), Some(_)) => {
                self.errors.push(format!("{name} and {name}_FILE are both set; leave one out"));
                None
            }
            (None, Some(file)) => match std::fs::read_to_string(file) {
                Ok(content) => Some(content.trim_end_matches(['\r', '\n']).to_owned()),
                Err(error) => {
                    self.errors.push(format!("{name}_FILE: {file} cannot be read: {error}"));
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

    pub(super) fn origins(&mut self) -> Option<Vec<String>> {
        let text = self.text("RECADO_ALLOWED_ORIGINS")?;
        let origins: Vec<String> = text.split(',').map(|o| o.trim().to_owned()).filter(|o| !o.is_empty()).collect();
        for origin in &origins {
            let rest = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
            if rest.is_none_or(|host| host.is_empty() || host.contains(['/', '?', '#', ' ', '@', '*'])) {
                self.wrong(
                    "RECADO_ALLOWED_ORIGINS",
                    origin,
                    "origins such as https://app.example.com, without a path and without wildcards",
                );
            }
        }
        Some(origins)
    }

    /// A key of 32 bytes, as 64 hexadecimal digits or in base64.
    pub(super) fn key(&mut self, name: &'static str) -> Option<[u8; 32]> {
        let text = self.text(name)?;
        let key = parse_key(&text);
        if key.is_none() {
            // Not the value: most of a key may be in it.
            self.errors.push(format!("{name} must be 32 bytes, as 64 hexadecimal digits or in base64 (openssl rand -hex 32)"));
        }
        key
    }

    pub(super) fn jwt_secret(&mut self) -> Option<String> {
        let secret = self.text("RECADO_JWT_SECRET")?;
        if secret.len() < 32 {
            self.errors.push(format!("RECADO_JWT_SECRET has {} bytes; it must have 32 or more (RFC 7518 section 3.2)", secret.len()));
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

/// `off`, or a time that neither floods the database nor says nothing any more.
pub(super) fn parse_facts(text: &str) -> Option<Option<Duration>> {
    let bounds = Duration::from_millis(200)..=Duration::from_secs(3600);
    if text == "off" { Some(None) } else { parse_duration(text).filter(|every| bounds.contains(every)).map(Some) }
}

/// A time after which a device counts as idle. That one is connected is noted once a day, so less than two days would
/// forget devices that come every day.
pub fn parse_idle(text: &str) -> Option<Duration> {
    parse_duration(text).filter(|idle| *idle >= Duration::from_secs(2 * 86_400))
}

/// A variable that begins like ours and is none is a typing error that would otherwise be silent.
pub(super) fn unknown_names(values: &Values) -> Vec<String> {
    let known = |name: &str| TABLE.iter().any(|s| s.name == name || (s.secret && name.strip_suffix("_FILE") == Some(s.name)));
    let ours = values.keys().filter(|name| name.starts_with("RECADO_"));
    ours.filter(|name| !known(name)).map(|name| format!("{name} is no setting{}", did_you_mean(name))).collect()
}

fn did_you_mean(name: &str) -> String {
    match spelling::nearest(name, TABLE.iter().map(|setting| setting.name)) {
        Some(near) => format!("; did you mean {near}?"),
        None => "; see recado config for all of them".to_owned(),
    }
}
