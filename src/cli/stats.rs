//! Runs `recado stats`: shows the log, the connections of all hubs, and the provider sessions.

use std::fmt::Display;

use chrono::{DateTime, Local, TimeZone, Utc};
use serde::Deserialize;

use super::error::CliFailure;
use super::hub_client::HubClient;
use super::output::{self, Format};
use crate::config::Config;
use crate::domain::Role;

/// The answer of `GET /stats`, as far as the tables show it. `-o json` prints all fields.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ShownStats {
    instance: String,
    log_id: String,
    head: i64,
    earliest: i64,
    connections: Vec<ShownConnection>,
    upstream_sessions: Option<Vec<ShownProviderSession>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ShownConnection {
    user_id: String,
    client_id: String,
    account_ids: Vec<String>,
    instance: String,
    transport: String,
    #[serde(with = "chrono::serde::ts_milliseconds")]
    connected_at: DateTime<Utc>,
    #[serde(with = "chrono::serde::ts_milliseconds")]
    last_activity: DateTime<Utc>,
    sent_seq: i64,
    acked_seq: i64,
    lag: i64,
    upstream_connected: bool,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ShownProviderSession {
    provider: String,
    user_id: String,
    state: String,
    is_live: bool,
    attempts: i32,
    owner: Option<String>,
    next_try_at: DateTime<Utc>,
    connected_at: Option<DateTime<Utc>>,
    last_message_at: Option<DateTime<Utc>>,
    error: Option<String>,
}

/// Prints the statistics: for people in sections, for programs as the hub wrote them.
///
/// # Errors
/// When the hub does not answer, refuses, or answers with fields that this program does not know.
pub async fn run(config: &Config, format: Format) -> Result<(), CliFailure> {
    let stats = HubClient::new(config, Some(Role::Admin))?.get("/stats").await?.into_success()?;
    if format != Format::Table {
        return output::one(format, &stats);
    }
    let stats = serde_json::from_value(stats)
        .map_err(|error| CliFailure::other(format!("the hub's statistics have another form ({error}); -o json prints them as they are")))?;
    output::line(&sections(&stats, &Local::now()))
}

/// The sections for people. Times are in the time zone of `now`.
fn sections<Z: TimeZone<Offset: Display>>(stats: &ShownStats, now: &DateTime<Z>) -> String {
    let mut all: Vec<&ShownConnection> = stats.connections.iter().collect();
    all.sort_by_key(|connection| (&connection.user_id, &connection.client_id, connection.connected_at));
    let (here, elsewhere): (Vec<_>, Vec<_>) = all.into_iter().partition(|connection| connection.instance == stats.instance);
    let mut sections = vec![
        format!("Hub\n{}", hub(stats, now)),
        format!("Connections of this hub\n{}", connections(&here, now, false)),
        format!("Sessions of other hubs\n{}", connections(&elsewhere, now, true)),
    ];
    if let Some(sessions) = &stats.upstream_sessions {
        sections.push(format!("Provider sessions\n{}", provider_sessions(sessions, now)));
    }
    sections.join("\n\n")
}

fn hub<Z: TimeZone<Offset: Display>>(stats: &ShownStats, now: &DateTime<Z>) -> String {
    let fields = [
        ("hub id", stats.instance.clone()),
        ("log id", stats.log_id.clone()),
        ("head", stats.head.to_string()),
        ("earliest", stats.earliest.to_string()),
        ("connections", format!("{} on all hubs", stats.connections.len())),
        ("time", now.format("%Y-%m-%d %H:%M:%S %:z").to_string()),
    ];
    let lines: Vec<String> = fields.iter().map(|(name, value)| format!("  {name:<11}  {value}")).collect();
    lines.join("\n")
}

fn connections<Z: TimeZone<Offset: Display>>(connections: &[&ShownConnection], now: &DateTime<Z>, with_hub: bool) -> String {
    let heads = ["USER", "DEVICE", "ACCOUNTS", "TRANSPORT", "CONNECTED", "ACTIVE", "SENT", "ACKED", "BEHIND", "PROVIDER", "HUB"];
    let shown = if with_hub { heads.len() } else { heads.len() - 1 };
    let rows = connections.iter().map(|connection| {
        let mut row = vec![
            connection.user_id.clone(),
            connection.client_id.clone(),
            or_dash(connection.account_ids.join(",")),
            connection.transport.clone(),
            output::when(connection.connected_at, now),
            output::ago(connection.last_activity, now.to_utc()),
            connection.sent_seq.to_string(),
            connection.acked_seq.to_string(),
            connection.lag.to_string(),
            if connection.upstream_connected { "live" } else { "-" }.to_owned(),
            short(&connection.instance),
        ];
        row.truncate(shown);
        row
    });
    output::columns(&heads[..shown], &["SENT", "ACKED", "BEHIND"], rows).unwrap_or_else(|| "  none".to_owned())
}

fn provider_sessions<Z: TimeZone<Offset: Display>>(sessions: &[ShownProviderSession], now: &DateTime<Z>) -> String {
    let heads = ["PROVIDER", "USER", "STATE", "CONNECTED", "LAST MESSAGE", "TRIES", "NEXT TRY", "HUB", "ERROR"];
    let rows = sessions.iter().map(|session| {
        vec![
            session.provider.clone(),
            session.user_id.clone(),
            state(session),
            session.connected_at.map_or_else(dash, |at| output::when(at, now)),
            session.last_message_at.map_or_else(dash, |at| output::ago(at, now.to_utc())),
            session.attempts.to_string(),
            if session.next_try_at > *now { output::ahead(session.next_try_at, now.to_utc()) } else { dash() },
            session.owner.as_deref().map_or_else(dash, short),
            session.error.as_deref().map_or_else(dash, output::one_line),
        ]
    });
    output::columns(&heads, &["TRIES"], rows).unwrap_or_else(|| "  none".to_owned())
}

/// A live session whose owner lost the lease is not live for its user.
fn state(session: &ShownProviderSession) -> String {
    match session.state.replace('_', " ") {
        state if state == "live" && !session.is_live => "live, lease expired".to_owned(),
        state => state,
    }
}

/// The first group of an id: enough to tell hubs apart.
fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

fn dash() -> String {
    "-".to_owned()
}

fn or_dash(text: String) -> String {
    if text.is_empty() { dash() } else { text }
}

#[cfg(test)]
mod tests {
    use chrono::{FixedOffset, TimeDelta};
    use serde_json::json;

    use super::*;

    fn now() -> DateTime<FixedOffset> {
        "2026-03-01T12:05:00+02:00".parse().unwrap()
    }

    fn connection(user: &str, instance: &str, before: TimeDelta) -> serde_json::Value {
        let at = (now() - before).timestamp_millis();
        json!({
            "sessionId": "s", "userId": user, "accountIds": [], "clientId": "tab", "instance": instance, "transport": "sse",
            "connectedAt": at, "lastActivity": at, "sentSeq": 12, "ackedSeq": 9, "lag": 3,
            "upstreamConnected": user == "ann", "pragmaticConnected": user == "ann"
        })
    }

    #[test]
    fn people_read_sections_with_local_times_and_aligned_columns() {
        let stats = json!({
            "totalConnections": 3, "instance": "aaaaaaaa-1", "logId": "l-1", "head": 12, "earliest": 1,
            "connections": [
                connection("ann", "aaaaaaaa-1", TimeDelta::minutes(3)),
                connection("a-longer-name", "aaaaaaaa-1", TimeDelta::days(2)),
                connection("bob", "bbbbbbbb-2", TimeDelta::seconds(4)),
            ],
            "upstreamSessions": [{
                "provider": "games", "userId": "ann", "state": "backing_off", "isLive": false, "attempts": 2, "owner": "aaaaaaaa-1",
                "term": 1, "leaseUntil": null, "wantedUntil": "2026-03-02T00:00:00Z", "nextTryAt": "2026-03-01T10:05:09Z",
                "connectedAt": null, "lastMessageAt": null, "error": "refused:\n503", "asked": null
            }]
        });
        let shown = sections(&serde_json::from_value(stats).unwrap(), &now());
        let expected = "\
Hub
  hub id       aaaaaaaa-1
  log id       l-1
  head         12
  earliest     1
  connections  3 on all hubs
  time         2026-03-01 12:05:00 +02:00

Connections of this hub
  USER           DEVICE  ACCOUNTS  TRANSPORT  CONNECTED                      ACTIVE      SENT  ACKED  BEHIND  PROVIDER
  a-longer-name  tab     -         sse        2026-02-27 12:05 (2 days ago)  2 days ago    12      9       3  -
  ann            tab     -         sse        12:02:00 (3 min ago)           3 min ago     12      9       3  live

Sessions of other hubs
  USER  DEVICE  ACCOUNTS  TRANSPORT  CONNECTED           ACTIVE   SENT  ACKED  BEHIND  PROVIDER  HUB
  bob   tab     -         sse        12:04:56 (4 s ago)  4 s ago    12      9       3  -         bbbbbbbb

Provider sessions
  PROVIDER  USER  STATE        CONNECTED  LAST MESSAGE  TRIES  NEXT TRY  HUB       ERROR
  games     ann   backing off  -          -                 2  in 9 s    aaaaaaaa  refused: 503";
        assert_eq!(shown, expected, "\n{shown}");
    }

    #[test]
    fn an_empty_section_says_so_and_a_hub_without_providers_has_no_section_for_them() {
        let stats = json!({ "instance": "a", "logId": "l", "head": 0, "earliest": 1, "connections": [] });
        let shown = sections(&serde_json::from_value(stats).unwrap(), &now());
        assert!(shown.ends_with("Connections of this hub\n  none\n\nSessions of other hubs\n  none"), "{shown}");
    }
}
