//! The answer to "why has this user a notification, or has it not": a paragraph for people, the same as data for programs.

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use super::history;
use super::problem::{FieldError, Problem};
use super::server::timestamp;
use crate::domain::why::{DeviceWhy, Facts, LogRow, SessionSeen, Verdict, Whom, Why};
use crate::domain::{Seq, UserId};

/// Who and what is asked about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WhyQuery {
    pub user: UserId,
    pub seq: Seq,
}

impl WhyQuery {
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
                "user" | "seq" => errors.push(FieldError::new(format!("/{name}"), "stands twice")),
                _ => errors.push(FieldError::new("", "only user and seq are known here")),
            }
        }
        let wrong = |name: &str, detail: String| FieldError::new(format!("/{name}"), detail);
        match (user, seq) {
            (Some(Ok(user)), Some(Ok(seq))) if errors.is_empty() => Ok(Self { user, seq }),
            (user, seq) => {
                let missing = || "is needed".to_owned();
                errors.extend(user.map_or_else(|| Some(missing()), Result::err).map(|detail| wrong("user", detail)));
                errors.extend(seq.map_or_else(|| Some(missing()), |s| s.err().map(str::to_owned)).map(|detail| wrong("seq", detail)));
                Err(Problem::new(422, "invalid_field", "the query breaks the rules listed in errors").with_errors(errors))
            }
        }
    }
}

/// The answer.
pub fn body(facts: &Facts, why: &Why) -> Value {
    let devices: &[DeviceWhy] = if let Why::Addressed(devices) = why { devices } else { &[] };
    json!({
        "user": facts.user,
        "seq": facts.seq,
        "log_id": facts.log_id,
        "verdict": why.best().map_or(word(why), verdict_word),
        "text": text(facts, why),
        "notification": facts.row.as_ref().filter(|_| *why != Why::Dropped).map(notification),
        "accounts": facts.accounts,
        "devices": devices.iter().map(|d| device(facts, d)).collect::<Vec<_>>(),
        "sessions": if devices.is_empty() { vec![] } else { facts.sessions.iter().map(session).collect() },
    })
}

fn word(why: &Why) -> &'static str {
    match why {
        Why::NotGiven => "not_given",
        Why::Dropped => "dropped",
        Why::NotAddressed => "not_addressed",
        Why::NotInAccount => "not_in_account",
        Why::NeverConnected => "never_connected",
        Why::Addressed(_) => "no_session",
    }
}

fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Acked { .. } => "acked",
        Verdict::Sent(_) => "sent",
        Verdict::Behind { .. } => "behind",
        Verdict::Expired => "expired",
        Verdict::NotReplayed => "not_replayed",
        Verdict::OtherAccount => "other_account",
        Verdict::BeganAfter => "began_after",
        Verdict::NewSince => "new_since",
        Verdict::NoLongerKnown => "no_longer_known",
        Verdict::NoSession => "no_session",
    }
}

fn notification(row: &LogRow) -> Value {
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

fn device(facts: &Facts, device: &DeviceWhy) -> Value {
    let (sent, acked) = match device.verdict {
        Verdict::Acked { sent, at, .. } => (sent, at),
        Verdict::Sent(sent) => (Some(sent), None),
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
        "from_seq": session.from,
        "sent_seq": session.sent,
        "connected_at": timestamp(session.connected_at),
        "ended_at": session.ended.as_ref().map(|(at, _)| timestamp(*at)),
        "end_reason": session.ended.as_ref().map(|(_, why)| why),
    })
}

fn text(facts: &Facts, why: &Why) -> String {
    let (seq, user) = (facts.seq, &facts.user);
    let row = match (why, &facts.row) {
        (Why::NotGiven, _) => return format!("Number {seq} is not given yet: the log ends at {}.", facts.head),
        (Why::Dropped, _) | (_, None) => {
            return format!("Number {seq} was dropped by retention, up to {}. For whom it was is no longer known.", facts.floor);
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
        Why::NotAddressed => format!("It is not for {user}."),
        Why::NotInAccount => format!("{user} is not known to be in that account: {}.", accounts(facts)),
        Why::NeverConnected => {
            format!("No session of {user} is known: it was never connected, or that was long ago, or the name is wrong.")
        }
        Why::Addressed(devices) if devices.is_empty() => format!("No device of {user} was there since, as far as is kept."),
        Why::Addressed(devices) => devices.iter().map(|d| one_device(facts, row, d)).collect::<Vec<_>>().join(" "),
        Why::NotGiven | Why::Dropped => return said.concat(),
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

/// Nothing but sessions tells which accounts a user has, so that is said along with it.
fn accounts(facts: &Facts) -> String {
    if facts.accounts.is_empty() {
        return "no session that is kept was in any account".to_owned();
    }
    format!("the sessions that are kept were in {}", facts.accounts.join(", "))
}

fn one_device(facts: &Facts, row: &LogRow, device: &DeviceWhy) -> String {
    let name = &device.client;
    let after = |at: DateTime<Utc>| span(at - row.created_at);
    let sending = |sent: crate::domain::why::Sending| match sent.at {
        Some(at) if sent.exact => format!("was sent it after {} (session {})", after(at), sent.session),
        Some(at) => format!("was sent it after at most {} (session {})", after(at), sent.session),
        None => format!("was sent it (session {}), when is not known", sent.session),
    };
    let acked = |at: Option<DateTime<Utc>>, how: &str| match at {
        Some(at) => format!("acknowledged it{how} after {}", after(at)),
        None => format!("has acknowledged it{how}, when is not known"),
    };
    match device.verdict {
        Verdict::Acked { sent, at, beside } => {
            let how = if beside { " by POST" } else { "" };
            let sent = sent.map_or_else(String::new, |sent| format!("{} and ", sending(sent)));
            format!("{name} {sent}{}.", acked(at, how))
        }
        Verdict::Sent(sent) => format!("{name} {}, and has not acknowledged it.", sending(sent)),
        Verdict::Behind { sent } => format!("{name} is connected and behind: it was sent up to {sent}."),
        Verdict::Expired => {
            let end = row.expires_at.map_or_else(String::new, |end| format!(" at {}", timestamp(end)));
            format!("{name} was not sent it: it expired{end}, before {name} came to it.")
        }
        Verdict::NotReplayed => format!("{name} was not sent it: it is not replayed, and {name} was not connected when it was appended."),
        Verdict::OtherAccount => format!("{name} was not sent it: its sessions were not in the account; {}.", accounts(facts)),
        Verdict::BeganAfter => format!("{name} was not sent it: it asked for a stream that begins after it."),
        Verdict::NewSince => format!("{name} was not sent it: it is a device that came later, and began after it."),
        Verdict::NoLongerKnown => format!("The place of {name} is after it; whether {name} was sent it is no longer known."),
        Verdict::NoSession => format!("{name} was not sent it: it has no session since that came so far."),
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
