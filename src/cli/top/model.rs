//! Reads samples and sessions of a hub, makes rates of them, and sorts sessions.

use std::cmp::Ordering;
use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::Value;

/// What all hubs told at a time.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Sample {
    #[serde(alias = "as_of")]
    pub at: Option<DateTime<Utc>>,
    pub instances: Vec<Instance>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Instance {
    pub instance: String,
    pub address: String,
    pub version: String,
    pub started_at: Option<DateTime<Utc>>,
    pub seen_at: Option<DateTime<Utc>>,
    pub ready: Option<bool>,
    pub reasons: Option<Vec<String>>,
    /// `None`: a hub of an earlier version.
    pub counters: Option<Counters>,
    pub gauges: Option<Gauges>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Counters {
    pub appended: u64,
    pub delivered_live: u64,
    pub delivered_replayed: u64,
    pub acked: u64,
    pub slow: u64,
    pub refused: u64,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default)]
pub struct Gauges {
    pub connections: u64,
    pub max_lag: i64,
    pub head: i64,
    pub rss_bytes: Option<u64>,
}

/// Events per second between two samples.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Rates {
    pub appended: f64,
    pub delivered: f64,
    pub replayed: f64,
    pub acked: f64,
    pub slow: f64,
    pub refused: f64,
}

impl std::ops::AddAssign for Rates {
    fn add_assign(&mut self, other: Self) {
        self.appended += other.appended;
        self.delivered += other.delivered;
        self.replayed += other.replayed;
        self.acked += other.acked;
        self.slow += other.slow;
        self.refused += other.refused;
    }
}

/// The rates of each instance that is in both samples.
pub fn rates(before: &Sample, now: &Sample) -> HashMap<String, Rates> {
    let (Some(from), Some(to)) = (before.at, now.at) else { return HashMap::new() };
    let seconds = (to - from).num_milliseconds() as f64 / 1000.0;
    if seconds <= 0.0 {
        return HashMap::new();
    }
    let earlier: HashMap<&str, Counters> =
        before.instances.iter().filter_map(|instance| Some((instance.instance.as_str(), instance.counters?))).collect();
    let of = |instance: &Instance| {
        let (now, before) = (instance.counters?, earlier.get(instance.instance.as_str())?);
        let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
        let rates = Rates {
            appended: rate(now.appended, before.appended),
            delivered: rate(now.delivered_live + now.delivered_replayed, before.delivered_live + before.delivered_replayed),
            replayed: rate(now.delivered_replayed, before.delivered_replayed),
            acked: rate(now.acked, before.acked),
            slow: rate(now.slow, before.slow),
            refused: rate(now.refused, before.refused),
        };
        Some((instance.instance.clone(), rates))
    };
    now.instances.iter().filter_map(of).collect()
}

/// The answer of `GET /api/admin/sessions`.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct SessionsAnswer {
    head: i64,
    total: u64,
    columns: Vec<String>,
    instances: Vec<String>,
    rows: Vec<Vec<Value>>,
}

/// The sessions of all hubs.
#[derive(Debug, Clone, Default)]
pub struct Sessions {
    pub total: u64,
    pub rows: Vec<Session>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Session {
    pub user: String,
    pub device: String,
    pub accounts: String,
    pub transport: String,
    pub hub: String,
    pub connected: Option<DateTime<Utc>>,
    pub active: Option<DateTime<Utc>>,
    pub sent: i64,
    pub acked: i64,
    pub lag: i64,
    pub provider: bool,
}

impl Sessions {
    /// Reads the answer. Columns are found by their names, so that a later hub may add some.
    pub fn read(answer: Value) -> Self {
        let answer: SessionsAnswer = serde_json::from_value(answer).unwrap_or_default();
        let place = |name: &str| answer.columns.iter().position(|column| column == name);
        let places: HashMap<&str, usize> = [
            "user_id",
            "account_ids",
            "client_id",
            "instance",
            "transport",
            "connected_at",
            "last_activity_at",
            "sent",
            "acked",
            "upstream",
        ]
        .into_iter()
        .filter_map(|name| Some((name, place(name)?)))
        .collect();
        let rows = answer.rows.iter().map(|row| {
            let cell = |name: &str| places.get(name).and_then(|at| row.get(*at)).unwrap_or(&Value::Null);
            let text = |name: &str| cell(name).as_str().unwrap_or_default().to_owned();
            let number = |name: &str| cell(name).as_i64().unwrap_or_default();
            let time = |name: &str| cell(name).as_i64().and_then(DateTime::from_timestamp_millis);
            let accounts = cell("account_ids").as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(",");
            let hub = cell("instance").as_u64().and_then(|at| answer.instances.get(usize::try_from(at).ok()?));
            Session {
                user: text("user_id"),
                device: text("client_id"),
                accounts,
                transport: text("transport"),
                hub: hub.cloned().unwrap_or_default(),
                connected: time("connected_at"),
                active: time("last_activity_at"),
                sent: number("sent"),
                acked: number("acked"),
                lag: (answer.head - number("acked")).max(0),
                provider: cell("upstream").as_bool().unwrap_or_default(),
            }
        });
        Self { total: answer.total, rows: rows.collect() }
    }

    pub fn sort(&mut self, by: Column, descending: bool) {
        self.rows.sort_by(|one, other| {
            let order = by.compare(one, other);
            if descending { order.reverse() } else { order }
                .then_with(|| one.user.cmp(&other.user))
                .then_with(|| one.device.cmp(&other.device))
        });
    }
}

/// A column of the table of sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    User,
    Device,
    Accounts,
    Transport,
    Hub,
    Connected,
    Active,
    Sent,
    Acked,
    Lag,
    Provider,
}

impl Column {
    pub const ALL: [Self; 11] = [
        Self::User,
        Self::Device,
        Self::Accounts,
        Self::Transport,
        Self::Hub,
        Self::Connected,
        Self::Active,
        Self::Sent,
        Self::Acked,
        Self::Lag,
        Self::Provider,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Device => "device",
            Self::Accounts => "accounts",
            Self::Transport => "transport",
            Self::Hub => "hub",
            Self::Connected => "connected",
            Self::Active => "active",
            Self::Sent => "sent",
            Self::Acked => "acked",
            Self::Lag => "lag",
            Self::Provider => "provider",
        }
    }

    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|column| column.name() == name)
    }

    /// The column to the right, or with `back` to the left; around the ends.
    pub fn next(self, back: bool) -> Self {
        let count = Self::ALL.len();
        let at = Self::ALL.iter().position(|column| *column == self).unwrap_or_default();
        let next = if back { at + count - 1 } else { at + 1 } % count;
        Self::ALL.get(next).copied().unwrap_or(self)
    }

    /// Numbers and times begin with the highest, texts with the first.
    pub const fn begins_descending(self) -> bool {
        matches!(self, Self::Connected | Self::Active | Self::Sent | Self::Acked | Self::Lag | Self::Provider)
    }

    fn compare(self, one: &Session, other: &Session) -> Ordering {
        match self {
            Self::User => one.user.cmp(&other.user),
            Self::Device => one.device.cmp(&other.device),
            Self::Accounts => one.accounts.cmp(&other.accounts),
            Self::Transport => one.transport.cmp(&other.transport),
            Self::Hub => one.hub.cmp(&other.hub),
            Self::Connected => one.connected.cmp(&other.connected),
            Self::Active => one.active.cmp(&other.active),
            Self::Sent => one.sent.cmp(&other.sent),
            Self::Acked => one.acked.cmp(&other.acked),
            Self::Lag => one.lag.cmp(&other.lag),
            Self::Provider => one.provider.cmp(&other.provider),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    pub fn sample(at: &str, appended: u64) -> Sample {
        let instance =
            json!({ "instance": "a", "counters": { "appended": appended, "delivered_live": 2 * appended, "delivered_replayed": 5 } });
        serde_json::from_value(json!({ "at": at, "instances": [instance, { "instance": "old", "counters": null }] })).unwrap()
    }

    #[test]
    fn rates_are_the_difference_of_two_samples() {
        let (one, two) = (sample("2026-11-30T12:00:00Z", 100), sample("2026-11-30T12:00:05Z", 150));
        let between = rates(&one, &two);
        assert_eq!(between.len(), 1, "a hub that tells nothing has no rates");
        assert_eq!(between["a"], Rates { appended: 10.0, delivered: 20.0, ..Rates::default() });
        assert_eq!(rates(&two, &one).len(), 0, "the clock went back");
        assert_eq!(rates(&sample("2026-11-30T12:00:00Z", 150), &sample("2026-11-30T12:00:05Z", 100))["a"].appended, 0.0);
    }

    #[test]
    fn sessions_are_read_by_the_names_of_their_columns_and_sorted_by_any() {
        let mut sessions = Sessions::read(json!({
            "head": 12, "total": 2, "instances": ["i1", "i2"],
            "columns": ["new", "session_id", "user_id", "account_ids", "client_id", "instance", "transport", "connected_at", "last_activity_at", "sent", "acked", "upstream"],
            "rows": [
                [1, "s", "bob", ["7", "8"], "web", 1, "sse", 1_732_950_000_000_i64, 1_732_950_000_001_i64, 12, 2, true],
                [1, "s", "ann", [], "phone", 0, "websocket", 1_732_950_000_001_i64, 1_732_950_000_000_i64, 11, 11, false]],
        }));
        let bob = sessions.rows[0].clone();
        assert_eq!(
            (bob.accounts.as_str(), bob.hub.as_str(), bob.lag, bob.provider, bob.connected.unwrap().timestamp()),
            ("7,8", "i2", 10, true, 1_732_950_000)
        );
        for (column, descending, first) in [
            (Column::User, false, "ann"),
            (Column::Lag, true, "bob"),
            (Column::Lag, false, "ann"),
            (Column::Hub, false, "ann"),
            (Column::Connected, true, "ann"),
            (Column::Active, true, "bob"),
            (Column::Accounts, true, "bob"),
            (Column::Provider, true, "bob"),
            (Column::Transport, true, "ann"),
        ] {
            sessions.sort(column, descending);
            assert_eq!(sessions.rows[0].user, first, "{column:?} {descending}");
        }
        assert_eq!(Sessions::read(json!({ "rows": [[1]], "columns": [] })).rows, [Session::default()]);
        assert_eq!(Sessions::read(Value::Null).rows.len(), 0);
    }

    #[test]
    fn columns_follow_each_other_in_a_circle() {
        assert_eq!(
            (Column::User.next(true), Column::Provider.next(false), Column::Sent.next(false)),
            (Column::Provider, Column::User, Column::Acked)
        );
        for column in Column::ALL {
            assert_eq!((column.next(false).next(true), Column::parse(column.name())), (column, Some(column)));
        }
    }
}
