//! Explains why a user received a notification or did not, from the stored facts.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{LogId, Seq, UserId};

/// The stored facts, read in one query.
#[derive(Debug, Clone)]
pub struct WhyFacts {
    pub user: UserId,
    pub seq: Seq,
    pub log_id: LogId,
    pub floor: Seq,
    pub head: Seq,
    pub now: DateTime<Utc>,
    /// The row of the log with this number.
    pub row: Option<WhyRow>,
    /// The user's sessions in this log that were open then or began since, oldest first.
    pub sessions: Vec<SessionSeen>,
    /// The devices with a stored position, and those of the sessions whose position is forgotten.
    pub devices: Vec<DeviceSeen>,
    /// Whether the user was ever connected, as far as records are kept.
    pub ever_connected: bool,
    /// The accounts of the user's sessions: the only record of a user's accounts.
    pub accounts: Vec<String>,
    /// Whether the accounts of the table `recado.member` counted for any of these sessions.
    pub follows_members: bool,
    /// The user's membership in the row's account, by that table.
    pub membership: Membership,
    /// The user has muted the row's type. It is delivered all the same.
    pub is_muted: bool,
    /// Older tokens of the user are refused.
    pub revocation: Option<Revocation>,
}

/// A revocation of a user's tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Tokens that were issued before are refused.
    pub not_before: DateTime<Utc>,
    pub reason: String,
}

/// A user's membership in one account.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Membership {
    /// Whether the row lies in an interval of the user.
    pub was_member: bool,
    /// The last intervals: the numbers of the changes that added and removed the user.
    pub intervals: Vec<(Seq, Option<Seq>)>,
}

#[derive(Debug, Clone)]
pub struct WhyRow {
    pub created_at: DateTime<Utc>,
    pub kind: String,
    pub source: String,
    pub whom: Whom,
    pub replay: bool,
    pub expires_at: Option<DateTime<Utc>>,
}

/// The audience of the row, seen from the user in question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Whom {
    Everyone,
    Account(String),
    /// This user by name, alone or in a list; with an account, only the sessions in it.
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
    /// Whether the accounts of the table `recado.member` count as well.
    pub follows_members: bool,
    /// Whether the client asked for notifications of this type.
    pub takes_type: bool,
    pub from: Seq,
    pub sent: Seq,
    pub connected_at: DateTime<Utc>,
    pub ended: Option<(DateTime<Utc>, String)>,
    /// The first fact that the session was sent that far: exact if it names the number itself, otherwise the latest
    /// possible time.
    pub reached: Option<(Seq, DateTime<Utc>)>,
}

#[derive(Debug, Clone)]
pub struct DeviceSeen {
    pub client: String,
    pub created_at: DateTime<Utc>,
    /// Zero if its position belongs to another log.
    pub acked: Seq,
    /// The earliest fact that it has acknowledged that far, and whether that came by POST.
    pub fact: Option<(DateTime<Utc>, bool)>,
}

/// The verdict for the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WhyAnswer {
    /// The log has not reached the number.
    NotGiven,
    /// Retention dropped it; its content and audience are no longer known.
    Dropped,
    NotAddressed,
    /// Addressed to an account, and no kept session of the user was in it.
    NotInAccount,
    /// Addressed to an account, and the user was not a member then, by the table `recado.member`.
    NotMember,
    /// Addressed, but the user was never connected, as far as records are kept.
    NeverConnected,
    Addressed(Vec<DeviceWhy>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceWhy {
    pub client: String,
    pub verdict: DeviceVerdict,
}

/// The verdict for a device, ordered by how far the notification got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum DeviceVerdict {
    /// Times are empty if the facts are not kept any more, or never were.
    Acked {
        sent: Option<SentOn>,
        at: Option<DateTime<Utc>>,
        beside: bool,
    },
    Sent(SentOn),
    /// The device is connected and will get it, but is not that far.
    Behind {
        sent: Seq,
    },
    /// It had expired before it could be sent to the device.
    Expired,
    /// It was for connected devices only, and the device was not connected.
    NotReplayed,
    /// The device's sessions were not in the account.
    OtherAccount,
    /// The user was not a member of the account then, by the table `recado.member`.
    NotMember,
    /// The device's sessions asked for other types only.
    OtherTypes,
    /// The device asked for a stream that begins after it.
    BeganAfter,
    /// The device's first position is after it.
    NewSince,
    /// The device's position is after it, but the sessions of that time are not kept any more.
    NoLongerKnown,
    /// The device was not connected since, or not for long enough.
    NoSession,
}

/// The session on which it was sent, and when at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SentOn {
    pub session: Uuid,
    pub at: Option<DateTime<Utc>>,
    /// Whether the time is the one of this very number, not of a later one.
    pub exact: bool,
}

impl WhyFacts {
    pub fn why(&self) -> WhyAnswer {
        if self.seq > self.head {
            return WhyAnswer::NotGiven;
        }
        let Some(row) = self.row.as_ref().filter(|_| self.seq > self.floor) else { return WhyAnswer::Dropped };
        if row.whom == Whom::Others {
            return WhyAnswer::NotAddressed;
        }
        let clients = self.devices.iter().map(|d| &d.client).chain(self.sessions.iter().map(|s| &s.client));
        let clients: BTreeSet<&String> = clients.collect();
        if clients.is_empty() && !self.ever_connected {
            return WhyAnswer::NeverConnected;
        }
        let is_member = self.follows_members && self.membership.was_member;
        let was_in = |account: &String| is_member || self.accounts.contains(account) || self.sessions.iter().any(|s| self.concerns(row, s));
        if row.whom.account().is_some_and(|account| !was_in(account)) {
            return if self.follows_members { WhyAnswer::NotMember } else { WhyAnswer::NotInAccount };
        }
        let device = |client: &String| DeviceWhy { client: client.clone(), verdict: self.device(row, client) };
        WhyAnswer::Addressed(clients.into_iter().map(device).collect())
    }

    fn device(&self, row: &WhyRow, client: &str) -> DeviceVerdict {
        let sessions: Vec<&SessionSeen> = self.sessions.iter().filter(|s| s.client == client).collect();
        let device = self.devices.iter().find(|d| d.client == client);
        let place_is_past = device.is_some_and(|d| d.acked >= self.seq);
        let fact = device.and_then(|d| d.fact);
        let sent = sessions.iter().filter(|s| self.was_sent(row, s)).map(|s| self.sending(s)).min_by_key(|s| (s.at.is_none(), s.at));
        let beside = fact.is_some_and(|(_, beside)| beside);
        if let Some(sent) = sent {
            let acked = place_is_past || fact.is_some();
            return if acked {
                DeviceVerdict::Acked { sent: Some(sent), at: fact.map(|(at, _)| at), beside }
            } else {
                DeviceVerdict::Sent(sent)
            };
        }
        if beside {
            // The device may have read a page of the history and then acknowledged it.
            return DeviceVerdict::Acked { sent: None, at: fact.map(|(at, _)| at), beside };
        }
        let is_old_device = device.is_some_and(|d| d.created_at <= row.created_at);
        if sessions.is_empty() && place_is_past && is_old_device {
            let was_certain = row.replay && row.expires_at.is_none();
            return if was_certain {
                DeviceVerdict::Acked { sent: None, at: fact.map(|(at, _)| at), beside }
            } else {
                DeviceVerdict::NoLongerKnown
            };
        }
        let coming = sessions.iter().find(|s| s.ended.is_none() && s.sent < self.seq && self.may_be_sent(row, s, self.now));
        if let Some(session) = coming {
            return DeviceVerdict::Behind { sent: session.sent };
        }
        if !sessions.is_empty() && !sessions.iter().any(|s| self.concerns(row, s)) {
            let follows = sessions.iter().any(|s| s.follows_members);
            return if follows { DeviceVerdict::NotMember } else { DeviceVerdict::OtherAccount };
        }
        if !sessions.is_empty() && !sessions.iter().any(|s| s.takes_type && self.concerns(row, s)) {
            return DeviceVerdict::OtherTypes;
        }
        if !row.replay {
            return DeviceVerdict::NotReplayed;
        }
        if row.expires_at.is_some_and(|end| end <= self.now) {
            return DeviceVerdict::Expired;
        }
        if place_is_past && device.is_some() && !is_old_device {
            return DeviceVerdict::NewSince;
        }
        if sessions.iter().any(|s| self.concerns(row, s) && s.from >= self.seq) {
            return DeviceVerdict::BeganAfter;
        }
        DeviceVerdict::NoSession
    }

    /// Whether the row's account is one of the session's.
    fn concerns(&self, row: &WhyRow, session: &SessionSeen) -> bool {
        let is_member = session.follows_members && self.membership.was_member;
        row.whom.account().is_none_or(|account| is_member || session.accounts.contains(account))
    }

    /// Whether the session passed the number in a way that sends it.
    fn was_sent(&self, row: &WhyRow, session: &SessionSeen) -> bool {
        let passed = session.reached.is_some() || session.sent >= self.seq;
        passed && self.may_be_sent(row, session, session.reached.map_or(session.connected_at, |(_, at)| at))
    }

    /// A session that was open already gets every row; a later one reads the log, which leaves out expired rows.
    fn may_be_sent(&self, row: &WhyRow, session: &SessionSeen, at: DateTime<Utc>) -> bool {
        let was_live = session.connected_at <= row.created_at;
        let is_replayed = row.replay && row.expires_at.is_none_or(|end| at < end);
        session.from < self.seq && session.takes_type && self.concerns(row, session) && (was_live || is_replayed)
    }

    fn sending(&self, session: &SessionSeen) -> SentOn {
        let exact = session.reached.is_some_and(|(seq, _)| seq == self.seq);
        SentOn { session: session.session, at: session.reached.map(|(_, at)| at), exact }
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

impl WhyAnswer {
    /// How far it got with any device.
    pub fn best(&self) -> Option<DeviceVerdict> {
        let Self::Addressed(devices) = self else { return None };
        devices.iter().map(|d| d.verdict).min()
    }
}

#[cfg(test)]
mod tests;
