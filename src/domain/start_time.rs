//! Defines the time at which a client wants to start reading.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Datelike, SecondsFormat, Utc};

/// The longest time ago: a hundred years.
const AGO_MAX: Duration = Duration::from_secs(36_500 * 86_400);

/// A time in the log. Notifications have the times of the database's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartTime {
    At(DateTime<Utc>),
    /// As long before now, by the clock of the database.
    Ago(Duration),
}

impl StartTime {
    /// Reads a whole number with its unit, such as `10m`, or a time of RFC 3339.
    pub fn parse(text: &str) -> Option<Self> {
        if text.contains('-') { at(text).map(Self::At) } else { ago(text).map(Self::Ago) }
    }
}

/// As [`StartTime::parse`] reads it.
impl fmt::Display for StartTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(at) => f.write_str(&at.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            Self::Ago(ago) => write!(f, "{}s", ago.as_secs()),
        }
    }
}

fn ago(text: &str) -> Option<Duration> {
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return None,
    };
    if number.is_empty() || !number.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let ago = Duration::from_secs(number.parse::<u64>().ok()?.checked_mul(seconds)?);
    (ago <= AGO_MAX).then_some(ago)
}

fn at(text: &str) -> Option<DateTime<Utc>> {
    // In a query, a plus sign that is not escaped is a space. No other space is in a time of RFC 3339 with a `T`.
    let text = text.replace(' ', "+");
    let is_date = text.as_bytes().get(10).is_some_and(|b| matches!(b, b'T' | b't'));
    let at: DateTime<Utc> = if is_date { DateTime::parse_from_rfc3339(&text).ok()?.into() } else { return None };
    // The offset may lead to a year that RFC 3339 cannot write.
    (0..=9999).contains(&at.year()).then_some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_start_time_is_a_duration_or_a_time() {
        let ago = |seconds| Some(StartTime::Ago(Duration::from_secs(seconds)));
        for (text, expected) in [("0s", ago(0)), ("90s", ago(90)), ("10m", ago(600)), ("2h", ago(7200)), ("36500d", ago(3_153_600_000))] {
            assert_eq!(StartTime::parse(text), expected, "{text}");
        }
        let noon = Some(StartTime::At("2026-11-21T12:00:00.5Z".parse().unwrap()));
        for text in ["2026-11-21T12:00:00.500Z", "2026-11-21t12:00:00.5z", "2026-11-21T13:00:00.5+01:00", "2026-11-21T13:00:00.5 01:00"] {
            assert_eq!(StartTime::parse(text), noon, "{text}");
        }
        for text in ["5s", "2026-11-21T12:00:00.500Z", "2026-12-31T23:59:60Z", "0000-01-01T00:00:00Z"] {
            assert_eq!(StartTime::parse(text).unwrap().to_string(), text);
        }
        for bad in [
            "",
            "m",
            "10",
            "10ms",
            "10 m",
            "+10m",
            "1.5h",
            "10M",
            "1w",
            "-10m",
            "36501d",
            "99999999999999999999s",
            "10é",
            "2026-11-21",
            "2026-11-21T12:00:00",
            "2026-11-21 12:00:00Z",
            "2026-13-21T12:00:00Z",
            "0000-01-01T00:00:00+01:00",
            "9999-12-31T23:59:59-01:00",
            "2026-11-21T12:00Z",
            "now",
        ] {
            assert_eq!(StartTime::parse(bad), None, "{bad:?}");
        }
    }
}
