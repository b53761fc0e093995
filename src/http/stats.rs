//! `GET /stats`: every session of every instance, for admins.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::hub::Hub;
use super::problems::Refused;
use crate::delivery::Member;
use crate::domain::{Seq, UserId};
use crate::store::sessions::{self, StoredSession};
use crate::store::upstream::admin::{self, Overview};

/// Most sessions of other instances in one answer.
const ELSEWHERE_MAX: i64 = 10_000;

/// Most upstream sessions in one answer.
const UPSTREAM_MAX: i64 = 10_000;

/// The old service's fields keep their names and forms: times are milliseconds since 1970.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Session {
    session_id: String,
    user_id: String,
    account_ids: Vec<String>,
    client_id: String,
    instance: String,
    transport: String,
    connected_at: i64,
    last_activity: i64,
    sent_seq: Seq,
    acked_seq: Seq,
    /// How many numbers lie between what the client has confirmed and the end of the log.
    lag: i64,
    upstream_connected: bool,
    /// The same, by the name that the old service gave it.
    pragmatic_connected: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    total_connections: usize,
    instance: String,
    log_id: String,
    head: Seq,
    earliest: Seq,
    /// Sessions of other instances are as they were written down last, at most some seconds ago.
    connections: Vec<Session>,
    /// The sessions with providers, of all instances; without their secrets. Absent where no provider is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_sessions: Option<Vec<Overview>>,
}

pub async fn stats(State(hub): State<Arc<Hub>>, headers: HeaderMap) -> Result<Response, Refused> {
    hub.auth.admin(&headers).await?;
    let position = hub.delivery.registry.position();
    let head = position.published;
    let instance = hub.instance.to_string();
    let upstream_sessions = match hub.delivery.desk {
        Some(_) => Some(admin::list_all(&hub.reader, UPSTREAM_MAX).await?),
        None => None,
    };
    // Asked by itself: the list may be cut off.
    let live: HashSet<UserId> = match hub.delivery.desk {
        Some(_) => admin::live_users(&hub.reader).await?.into_iter().collect(),
        None => HashSet::new(),
    };
    let mut connections: Vec<Session> =
        hub.delivery.registry.members().iter().map(|m| here(m, &instance, head, live.contains(&m.who.user))).collect();
    let elsewhere = sessions::live_elsewhere(&hub.reader, hub.instance, ELSEWHERE_MAX).await?;
    connections.extend(elsewhere.into_iter().map(|s| {
        let is_live = live.contains(s.user.as_str());
        there(s, head, is_live)
    }));
    let stats = Stats {
        total_connections: connections.len(),
        instance,
        log_id: position.log_id.to_string(),
        head,
        earliest: position.floor.next(),
        connections,
        upstream_sessions,
    };
    Ok(Json(stats).into_response())
}

fn here(member: &Member, instance: &str, head: Seq, upstream_connected: bool) -> Session {
    Session {
        session_id: member.session.to_string(),
        user_id: member.who.user.to_string(),
        account_ids: member.who.accounts.iter().map(ToString::to_string).collect(),
        client_id: member.client.to_string(),
        instance: instance.to_owned(),
        transport: member.transport.to_owned(),
        connected_at: member.connected_at.timestamp_millis(),
        last_activity: (member.connected_at + member.last_activity()).timestamp_millis(),
        sent_seq: member.sent(),
        acked_seq: member.acked(),
        lag: head.since(member.acked()),
        upstream_connected,
        pragmatic_connected: upstream_connected,
    }
}

fn there(session: StoredSession, head: Seq, upstream_connected: bool) -> Session {
    Session {
        session_id: session.session.to_string(),
        user_id: session.user,
        account_ids: session.accounts,
        client_id: session.client,
        instance: session.instance.to_string(),
        transport: session.transport,
        connected_at: session.connected_at.timestamp_millis(),
        last_activity: session.last_activity_at.timestamp_millis(),
        sent_seq: session.sent,
        acked_seq: session.acked,
        lag: head.since(session.acked),
        upstream_connected,
        pragmatic_connected: upstream_connected,
    }
}
