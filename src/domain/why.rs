//! Why a user has a notification or has it not: what is known of the two, and what follows from it.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{LogId, Seq, UserId};

/// All that is known, read in one go.
#[derive(Debug, Clone)]
pub struct Facts {
    pub user: UserId,
    pub seq: Seq,
    pub log_id: LogId,
    pub floor: Seq,
    pub head: Seq,
    pub now: DateTime<Utc>,
    /// What stands in the log under this number.
    pub row: Option<LogRow>,
    /// The user's sessions that lived then or began since, oldest first, of this history.
    pub sessions: Vec<SessionSeen>,
    /// The devices that have a stored place, and those of the sessions whose place is forgotten.
    pub devices: Vec<DeviceSeen>,
    /// Whether the user was ever connected, as far as is kept.
    pub ever_connected: bool,
    /// The accounts of the user's sessions: nothing else tells what accounts a user has.
    pub accounts: Vec<String>,
}

#[derive(Debug, Clone)]
pub struct LogRow {
    pub created_at: DateTime<Utc>,
    pub kind: String,
    pub source: String,
    pub whom: Whom,
    pub replay: bool,
    pub expires_at: Option<DateTime<Utc>>,
}

/// Whom it was for, seen from the user who is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    Everyone,
    Account(String),
    /// This user by name, alone or in a list; with an account only the sessions in it.
    User {
        in_list: bool,
        account: Option<String>,
    },
    Others,
}

#[derive(Debug, Clone)]
pub struct SessionSeen {
    pub session: Uuid,
    pub instance: Uuid,
    pub client: String,
    pub transport: String,
    pub accounts: Vec<String>,
    pub from: Seq,
    pub sent: Seq,
    pub connected_at: DateTime<Utc>,
    pub ended: Option<(DateTime<Utc>, String)>,
    /// The first fact that it was sent that far: exact when it names the number itself, otherwise the latest possible time.
    pub reached: Option<(Seq, DateTime<Utc>)>,
}

#[derive(Debug, Clone)]
pub struct DeviceSeen {
    pub client: String,
    pub created_at: DateTime<Utc>,
    /// Zero where its place is of another history.
    pub acked: Seq,
    /// The earliest fact that it has acknowledged that far, and whether that came by POST.
    pub fact: Option<(DateTime<Utc>, bool)>,
}

/// What follows for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The log has not reached the number.
    NotGiven,
    /// Retention dropped it; what it was and for whom is no longer known.
    Dropped,
    NotAddressed,
    /// Addressed to an account, and no session of the user that is kept was in it.
    NotInAccount,
    /// Addressed, but the user was never connected, as far as is kept.
    NeverConnected,
    Addressed(Vec<DeviceWhy>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceWhy {
    pub client: String,
    pub verdict: Verdict,
}

/// What follows for a device. In the order of how far it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// Times are empty where the facts are not kept any more, or never were.
    Acked {
        sent: Option<Sending>,
        at: Option<DateTime<Utc>>,
        beside: bool,
    },
    Sent(Sending),
    /// Connected, and will get it, but is not that far.
    Behind {
        sent: Seq,
    },
    /// It was over before the device could be sent it.
    Expired,
    /// It was for those connected, and the device was not.
    NotReplayed,
    /// Its sessions were not in the account.
    OtherAccount,
    /// It asked for a stream that begins after it.
    BeganAfter,
    /// The device's first place is after it.
    NewSince,
    /// Its place is after it, but the sessions of that time are not kept any more.
    NoLongerKnown,
    /// It was not connected since, or not for long enough.
    NoSession,
}

/// On which session it was sent, and when at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sending {
    pub session: Uuid,
    pub at: Option<DateTime<Utc>>,
    /// The time is that of this very number, not of a later one.
    pub exact: bool,
}

impl Facts {
    pub fn why(&self) -> Why {
        if self.seq > self.head {
            return Why::NotGiven;
        }
        let Some(row) = self.row.as_ref().filter(|_| self.seq > self.floor) else { return Why::Dropped };
        if row.whom == Whom::Others {
            return Why::NotAddressed;
        }
        let clients = self.devices.iter().map(|d| &d.client).chain(self.sessions.iter().map(|s| &s.client));
        let clients: BTreeSet<&String> = clients.collect();
        if clients.is_empty() && !self.ever_connected {
            return Why::NeverConnected;
        }
        let was_in = |account: &String| self.accounts.contains(account) || self.sessions.iter().any(|s| s.accounts.contains(account));
        if row.whom.account().is_some_and(|account| !was_in(account)) {
            return Why::NotInAccount;
        }
        let device = |client: &String| DeviceWhy { client: client.clone(), verdict: self.device(row, client) };
        Why::Addressed(clients.into_iter().map(device).collect())
    }

    fn device(&self, row: &LogRow, client: &str) -> Verdict {
        let sessions: Vec<&SessionSeen> = self.sessions.iter().filter(|s| s.client == client).collect();
        let device = self.devices.iter().find(|d| d.client == client);
        let place_is_past = device.is_some_and(|d| d.acked >= self.seq);
        let fact = device.and_then(|d| d.fact);
        let sent = sessions.iter().filter(|s| self.was_sent(row, s)).map(|s| self.sending(s)).min_by_key(|s| (s.at.is_none(), s.at));
        let beside = fact.is_some_and(|(_, beside)| beside);
        if let Some(sent) = sent {
            let acked = place_is_past || fact.is_some();
            return if acked { Verdict::Acked { sent: Some(sent), at: fact.map(|(at, _)| at), beside } } else { Verdict::Sent(sent) };
        }
        if beside {
            // It read a page of the history, perhaps, and says that it has it.
            return Verdict::Acked { sent: None, at: fact.map(|(at, _)| at), beside };
        }
        let is_old_device = device.is_some_and(|d| d.created_at <= row.created_at);
        if sessions.is_empty() && place_is_past && is_old_device {
            let was_certain = row.replay && row.expires_at.is_none();
            return if was_certain { Verdict::Acked { sent: None, at: fact.map(|(at, _)| at), beside } } else { Verdict::NoLongerKnown };
        }
        let coming = sessions.iter().find(|s| s.ended.is_none() && s.sent < self.seq && self.may_be_sent(row, s, self.now));
        if let Some(session) = coming {
            return Verdict::Behind { sent: session.sent };
        }
        if !sessions.is_empty() && !sessions.iter().any(|s| row.concerns(s)) {
            return Verdict::OtherAccount;
        }
        if !row.replay {
            return Verdict::NotReplayed;
        }
        if row.expires_at.is_some_and(|end| end <= self.now) {
            return Verdict::Expired;
        }
        if place_is_past && device.is_some() && !is_old_device {
            return Verdict::NewSince;
        }
        if sessions.iter().any(|s| row.concerns(s) && s.from >= self.seq) {
            return Verdict::BeganAfter;
        }
        Verdict::NoSession
    }

    /// Whether the session passed the number in a way that sends it.
    fn was_sent(&self, row: &LogRow, session: &SessionSeen) -> bool {
        let passed = session.reached.is_some() || session.sent >= self.seq;
        passed && self.may_be_sent(row, session, session.reached.map_or(session.connected_at, |(_, at)| at))
    }

    /// A session that was there already is given everything; a later one reads the log, which leaves out what is over.
    fn may_be_sent(&self, row: &LogRow, session: &SessionSeen, at: DateTime<Utc>) -> bool {
        let was_live = session.connected_at <= row.created_at;
        let is_replayed = row.replay && row.expires_at.is_none_or(|end| at < end);
        session.from < self.seq && row.concerns(session) && (was_live || is_replayed)
    }

    fn sending(&self, session: &SessionSeen) -> Sending {
        let exact = session.reached.is_some_and(|(seq, _)| seq == self.seq);
        Sending { session: session.session, at: session.reached.map(|(_, at)| at), exact }
    }
}

impl Whom {
    pub fn account(&self) -> Option<&String> {
        match self {
            Self::Account(account) | Self::User { account: Some(account), .. } => Some(account),
            Self::Everyone | Self::User { .. } | Self::Others => None,
        }
    }
}

impl LogRow {
    fn concerns(&self, session: &SessionSeen) -> bool {
        self.whom.account().is_none_or(|account| session.accounts.contains(account))
    }
}

impl Why {
    /// How far it got with any device.
    pub fn best(&self) -> Option<Verdict> {
        let Self::Addressed(devices) = self else { return None };
        devices.iter().map(|d| d.verdict).min()
    }
}

#[cfg(test)]
mod tests;
