//! Encodes the answer to "why does this user have a notification, or not?".
//!
//! The answer has a paragraph for people, and the same facts as data for programs.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::history;
use super::problem::{FieldError, Problem};
use super::server_frame::timestamp;
use crate::domain::why::{DeviceVerdict, DeviceWhy, SessionSeen, Whom, WhyAnswer, WhyFacts, WhyRow};
use crate::domain::{Seq, UserId};

/// The user and the notification that the question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhyQuery {
    pub user: UserId,
    pub seq: Seq,
}

impl WhyQuery {
    /// Reads the query of `GET /api/admin/why`.
    ///
    /// # Errors
    /// 422 with every broken rule.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let (mut user, mut seq, mut errors) = (None, None, Vec::new());
        for (name, value) in pairs {
            match name.as_str() {
                "user" if user.is_none() => user = Some(UserId::parse(value).map_err(|error| error.to_string())),
                "seq" if seq.is_none() => {
                    seq = Some(history::seq(value).filter(|seq| *seq > Seq::ZERO).ok_or("must be a number from 1 up"))
                }
                "user" | "seq" => errors.push(FieldError::new(format!("/{name}"), "duplicate parameter")),
                _ => errors.push(FieldError::new("", "the parameters are user and seq")),
            }
        }
        let wrong = |name: &str, detail: String| FieldError::new(format!("/{name}"), detail);
        match (user, seq) {
            (Some(Ok(user)), Some(Ok(seq))) if errors.is_empty() => Ok(Self { user, seq }),
            (user, seq) => {
                let missing = || "is required".to_owned();
                errors.extend(user.map_or_else(|| Some(missing()), Result::err).map(|detail| wrong("user", detail)));
                errors.extend(seq.map_or_else(|| Some(missing()), |s| s.err().map(str::to_owned)).map(|detail| wrong("seq", detail)));
                Err(Problem::new(422, "invalid_field", "the query breaks the rules listed in errors").with_errors(errors))
            }
        }
    }
}

/// Encodes the answer.
pub fn body(facts: &WhyFacts, why: &WhyAnswer) -> Value {
    let devices: &[DeviceWhy] = if let WhyAnswer::Addressed(devices) = why { devices } else { &[] };
    json!({
        "user": facts.user,
        "seq": facts.seq,
        "log_id": facts.log_id,
        "verdict": why.best().map_or(word(why), verdict_word),
        "text": text(facts, why),
        "muted": is_muted(facts, why),
        "revocation": facts.revocation.as_ref().map(|revocation| json!({
            "not_before": timestamp(revocation.not_before),
            "reason": revocation.reason,
        })),
        "notification": facts.row.as_ref().filter(|_| *why != WhyAnswer::Dropped).map(notification),
        "accounts": facts.accounts,
        "devices": devices.iter().map(|d| device(facts, d)).collect::<Vec<_>>(),
        "sessions": if devices.is_empty() { vec![] } else { facts.sessions.iter().map(session).collect() },
    })
}

fn word(why: &WhyAnswer) -> &'static str {
    match why {
        WhyAnswer::NotGiven => "not_given",
        WhyAnswer::Dropped => "dropped",
        WhyAnswer::NotAddressed => "not_addressed",
        WhyAnswer::NotInAccount => "not_in_account",
        WhyAnswer::NotMember => "not_member",
        WhyAnswer::NeverConnected => "never_connected",
        WhyAnswer::Addressed(_) => "no_session",
    }
}

/// The verdict, as answers name it.
pub fn verdict_word(verdict: DeviceVerdict) -> &'static str {
    match verdict {
        DeviceVerdict::Acked { .. } => "acked",
        DeviceVerdict::Sent(_) => "sent",
        DeviceVerdict::Behind { .. } => "behind",
        DeviceVerdict::Expired => "expired",
        DeviceVerdict::NotReplayed => "not_replayed",
        DeviceVerdict::OtherAccount => "other_account",
        DeviceVerdict::NotMember => "not_member",
        DeviceVerdict::OtherTypes => "other_types",
        DeviceVerdict::BeganAfter => "began_after",
        DeviceVerdict::NewSince => "new_since",
        DeviceVerdict::NoLongerKnown => "no_longer_known",
        DeviceVerdict::NoSession => "no_session",
    }
}

fn notification(row: &WhyRow) -> Value {
    let to = match &row.whom {
        Whom::Everyone => "everyone",
        Whom::Account(_) => "account",
        Whom::User { in_list: false, .. } => "user",
        Whom::User { in_list: true, .. } => "list",
        Whom::Others => "others",
    };
    json!({
        "type": row.kind,
        "source": row.source,
        "created_at": timestamp(row.created_at),
        "to": to,
        "account_id": row.whom.account(),
        "replay": row.replay,
        "expires_at": row.expires_at.map(timestamp),
    })
}

fn device(facts: &WhyFacts, device: &DeviceWhy) -> Value {
    let (sent, acked) = match device.verdict {
        DeviceVerdict::Acked { sent, at, .. } => (sent, at),
        DeviceVerdict::Sent(sent) => (Some(sent), None),
        _ => (None, None),
    };
    let since = |at: DateTime<Utc>| facts.row.as_ref().map(|row| (at - row.created_at).num_milliseconds());
    let sent_at = sent.and_then(|s| s.at);
    json!({
        "client_id": device.client,
        "verdict": verdict_word(device.verdict),
        "session_id": sent.map(|s| s.session),
        "sent_at": sent_at.map(timestamp),
        "sent_after_ms": sent_at.and_then(since),
        "sent_exact": sent.filter(|s| s.at.is_some()).map(|s| s.exact),
        "acked_at": acked.map(timestamp),
        "acked_after_ms": acked.and_then(since),
    })
}

fn session(session: &SessionSeen) -> Value {
    json!({
        "session_id": session.session,
        "instance": session.instance,
        "client_id": session.client,
        "transport": session.transport,
        "account_ids": session.accounts,
        "follows_members": session.follows_members,
        "from_seq": session.from,
        "sent_seq": session.sent,
        "connected_at": timestamp(session.connected_at),
        "ended_at": session.ended.as_ref().map(|(at, _)| timestamp(*at)),
        "end_reason": session.ended.as_ref().map(|(_, why)| why),
    })
}

fn text(facts: &WhyFacts, why: &WhyAnswer) -> String {
    let mut text = verdict(facts, why);
    if is_muted(facts, why) {
        text.push_str(&format!(" {} has muted its type: it is delivered, marked as muted, and not counted.", facts.user));
    }
    if let Some(revocation) = &facts.revocation {
        let reason = if revocation.reason.is_empty() { String::new() } else { format!(" ({})", revocation.reason) };
        text.push_str(&format!(
            " Access of {} is revoked{reason}: tokens issued before {} are refused.",
            facts.user,
            timestamp(revocation.not_before)
        ));
    }
    text
}

/// Whether the user would hear of it, were its type not muted.
fn is_muted(facts: &WhyFacts, why: &WhyAnswer) -> bool {
    facts.is_muted && matches!(why, WhyAnswer::Addressed(_) | WhyAnswer::NeverConnected)
}

fn verdict(facts: &WhyFacts, why: &WhyAnswer) -> String {
    let (seq, user) = (facts.seq, &facts.user);
    let row = match (why, &facts.row) {
        (WhyAnswer::NotGiven, _) => return format!("Number {seq} does not exist yet: the log ends at {}.", facts.head),
        (WhyAnswer::Dropped, _) | (_, None) => {
            return format!("Number {seq} was dropped by retention, up to {}. Its audience is no longer known.", facts.floor);
        }
        (_, Some(row)) => row,
    };
    let mut said = vec![format!(
        "Number {seq} ({}, from {}) was appended at {}, {}.",
        row.kind,
        row.source,
        timestamp(row.created_at),
        address(&row.whom, user)
    )];
    said.push(match why {
        WhyAnswer::NotAddressed => format!("It is not for {user}."),
        WhyAnswer::NotInAccount => format!("{user} is not known to be in that account: {}.", accounts(facts)),
        WhyAnswer::NotMember => format!("{user} was not a member of that account then: {}.", membership(facts)),
        WhyAnswer::NeverConnected => {
            format!("No session of {user} is known: the user never connected, or connected too long ago, or the id is wrong.")
        }
        WhyAnswer::Addressed(devices) if devices.is_empty() => {
            format!("No device of {user} has connected since, as far as sessions are kept.")
        }
        WhyAnswer::Addressed(devices) => devices.iter().map(|d| one_device(facts, row, d)).collect::<Vec<_>>().join(" "),
        WhyAnswer::NotGiven | WhyAnswer::Dropped => return said.concat(),
    });
    said.join(" ")
}

fn address(whom: &Whom, user: &UserId) -> String {
    match whom {
        Whom::Everyone => "to everyone".to_owned(),
        Whom::Account(account) => format!("to account {account}"),
        Whom::User { in_list, account } => {
            let list = if *in_list { " in a list" } else { "" };
            account.as_ref().map_or_else(|| format!("to {user}{list}"), |account| format!("to {user}{list}, in account {account} only"))
        }
        Whom::Others => "to others".to_owned(),
    }
}

/// Only sessions tell which accounts a user has, so the text says so.
fn accounts(facts: &WhyFacts) -> String {
    if facts.accounts.is_empty() {
        return "no session that is kept was in any account".to_owned();
    }
    format!("the sessions that are kept were in {}", facts.accounts.join(", "))
}

/// The intervals in which the user was a member of the row's account.
fn membership(facts: &WhyFacts) -> String {
    let interval = |(since, until): &(Seq, Option<Seq>)| match until {
        Some(until) => format!("from {since} to {until}"),
        None => format!("since {since}"),
    };
    let intervals: Vec<String> = facts.membership.intervals.iter().map(interval).collect();
    if intervals.is_empty() {
        return "no membership is known".to_owned();
    }
    format!("the user was a member {}", intervals.join(", "))
}

fn one_device(facts: &WhyFacts, row: &WhyRow, device: &DeviceWhy) -> String {
    let name = &device.client;
    let after = |at: DateTime<Utc>| span(at - row.created_at);
    let sending = |sent: crate::domain::why::SentOn| match sent.at {
        Some(at) if sent.exact => format!("was sent it after {} (session {})", after(at), sent.session),
        Some(at) => format!("was sent it after at most {} (session {})", after(at), sent.session),
        None => format!("was sent it (session {}), when is not known", sent.session),
    };
    let acked = |at: Option<DateTime<Utc>>, how: &str| match at {
        Some(at) => format!("acknowledged it{how} after {}", after(at)),
        None => format!("has acknowledged it{how}, when is not known"),
    };
    match device.verdict {
        DeviceVerdict::Acked { sent, at, beside } => {
            let how = if beside { " by POST" } else { "" };
            let sent = sent.map_or_else(String::new, |sent| format!("{} and ", sending(sent)));
            format!("{name} {sent}{}.", acked(at, how))
        }
        DeviceVerdict::Sent(sent) => format!("{name} {}, and has not acknowledged it.", sending(sent)),
        DeviceVerdict::Behind { sent } => format!("{name} is connected and behind: it was sent up to {sent}."),
        DeviceVerdict::Expired => {
            let end = row.expires_at.map_or_else(String::new, |end| format!(" at {}", timestamp(end)));
            format!("{name} was not sent it: it expired{end}, before {name} reached it.")
        }
        DeviceVerdict::NotReplayed => {
            format!("{name} was not sent it: it is not replayed, and {name} was not connected when it was appended.")
        }
        DeviceVerdict::OtherAccount => format!("{name} was not sent it: its sessions were not in the account; {}.", accounts(facts)),
        DeviceVerdict::NotMember => {
            format!("{name} was not sent it: the user was not a member of the account then; {}.", membership(facts))
        }
        DeviceVerdict::OtherTypes => format!("{name} was not sent it: it asked for other types only."),
        DeviceVerdict::BeganAfter => format!("{name} was not sent it: its stream was requested to begin after it."),
        DeviceVerdict::NewSince => format!("{name} was not sent it: it first connected later, and its stream began after it."),
        DeviceVerdict::NoLongerKnown => format!("The position of {name} is after it; whether {name} was sent it is no longer known."),
        DeviceVerdict::NoSession => format!("{name} was not sent it: it has no session since then that reached it."),
    }
}

fn span(span: TimeDelta) -> String {
    let ms = span.num_milliseconds();
    match span.num_seconds() {
        0..60 => format!("{}.{:03} s", ms / 1000, ms % 1000),
        seconds @ 60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        seconds if seconds >= 3600 => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
        _ => "0 s".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_query_names_one_user_and_one_number() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            WhyQuery::parse(&pairs).map_err(|problem| problem.errors.into_iter().map(|e| e.pointer).collect::<Vec<_>>())
        };
        assert_eq!(parse(&[("seq", "7"), ("user", "ann")]).unwrap().seq, Seq::from_db(7));
        assert_eq!(parse(&[]).unwrap_err(), ["/user", "/seq"]);
        assert_eq!(parse(&[("user", "a b"), ("seq", "0")]).unwrap_err(), ["/user", "/seq"]);
        assert_eq!(parse(&[("user", "a"), ("user", "b"), ("seq", "1"), ("x", "y")]).unwrap_err(), ["/user", ""]);
    }

    #[test]
    fn a_span_is_said_in_units_that_fit() {
        let cases = [(7, "0.007 s"), (59_999, "59.999 s"), (61_000, "1 min 1 s"), (7_260_000, "2 h 1 min"), (-3000, "0 s")];
        for (ms, said) in cases {
            assert_eq!(span(TimeDelta::milliseconds(ms)), said);
        }
    }
}
