//! Defines the filter of the list of devices, and why a device lags.

use chrono::{DateTime, Utc};

use super::{AccountId, ClientId, Seq, UserId};

/// The conditions that a device must meet, all of them. `None` sets no condition.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceFilter {
    pub user: Option<UserId>,
    /// An account of the user: by the table of members, by an open session, or by one that ended lately.
    pub account: Option<AccountId>,
    pub client: Option<ClientId>,
    /// `None`: the devices with a stored position, connected or away.
    pub state: Option<DeviceState>,
    /// The head of the log is at least so many numbers above the acknowledged position.
    pub min_lag: Option<i64>,
}

/// Whether a device is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceState {
    /// It has an open session.
    Connected,
    /// It has a stored position and no open session.
    Away,
    /// Its position was deleted. Only a mark of its user is left.
    Forgotten,
}

impl DeviceState {
    /// `None` for a word that names no state.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Connected, Self::Away, Self::Forgotten].into_iter().find(|state| state.as_str() == text)
    }

    /// As queries and answers name it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Away => "away",
            Self::Forgotten => "forgotten",
        }
    }
}

/// The order of a list of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeviceSort(&'static str);

/// The slowest first.
impl Default for DeviceSort {
    fn default() -> Self {
        Self("-lag")
    }
}

impl DeviceSort {
    /// `None` for a text that names no order.
    pub fn parse(text: &str) -> Option<Self> {
        ["lag", "-lag", "seen_at", "-seen_at", "user", "-user"].into_iter().find(|name| *name == text).map(Self)
    }

    pub const fn as_str(self) -> &'static str {
        self.0
    }
}

/// A device, or what is left of the forgotten devices of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedDevice {
    pub user: String,
    /// `None`: the forgotten devices of the user, which leave no ids.
    pub client: Option<String>,
    pub state: DeviceState,
    /// Zero if the position belongs to another log. Of forgotten devices: the lowest position that one of them had.
    pub acked: Seq,
    pub acked_at: Option<DateTime<Utc>>,
    /// When it last acknowledged, or was connected, the latter to within a day.
    pub seen_at: Option<DateTime<Utc>>,
    /// The number of forgotten devices; `None` if they are too many to remember each.
    pub forgotten: Option<i32>,
    /// The open session, or the last one if it is still stored.
    pub session: Option<LastSession>,
    /// The reason of a revocation of the user.
    pub revoked: Option<String>,
    /// `None`: not counted.
    pub unacked: Option<Unacked>,
}

/// The newest session of a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastSession {
    pub accounts: Vec<String>,
    /// The types that the client asked for, as in its query; `None` for all.
    pub types: Option<String>,
    pub connected_at: DateTime<Utc>,
    /// When it ended, and why; `None` while it is open.
    pub end: Option<(DateTime<Utc>, String)>,
}

/// How many notifications a device has not acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unacked {
    pub count: usize,
    /// There are more.
    pub more: bool,
}
