//! Serves `GET /stats`: every session of every instance, for admins.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};

use super::own_session::own_session;
use super::problems::RefusedRequest;
use super::state::HubState;
use crate::domain::{Seq, UserId};
use crate::store::providers::admin;
use crate::store::sessions::{self, StoredSession};
use crate::wire::node_service::OldSessionFields;
use crate::wire::stats::{StatsBody, StatsSession};

/// Maximum sessions of other instances in one answer.
const ELSEWHERE_MAX: i64 = 10_000;

/// Maximum provider sessions in one answer.
const UPSTREAM_MAX: i64 = 10_000;

pub async fn stats(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let position = hub.delivery.registry.position();
    let head = position.dispatched;
    let upstream_sessions = match hub.command_intake {
        Some(_) => Some(admin::list_all(&hub.reader, UPSTREAM_MAX).await?),
        None => None,
    };
    // A query of its own, because the list may be cut off.
    let live: HashSet<UserId> = match hub.command_intake {
        Some(_) => admin::live_users(&hub.reader).await?.into_iter().collect(),
        None => HashSet::new(),
    };
    let here: Vec<StoredSession> = hub.delivery.registry.connections().iter().map(|m| own_session(m, hub.instance)).collect();
    let elsewhere = sessions::live_elsewhere(&hub.reader, hub.instance, ELSEWHERE_MAX).await?;
    let connections: Vec<StatsSession> = here
        .into_iter()
        .chain(elsewhere)
        .map(|session| {
            let is_live = live.contains(session.user.as_str());
            shown(session, head, is_live)
        })
        .collect();
    let stats = StatsBody {
        total_connections: connections.len(),
        instance: hub.instance.to_string(),
        log_id: position.log_id.to_string(),
        head,
        earliest: position.floor.next(),
        connections,
        upstream_sessions,
    };
    Ok(Json(stats).into_response())
}

fn shown(session: StoredSession, head: Seq, upstream_connected: bool) -> StatsSession {
    StatsSession {
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
        old: OldSessionFields { pragmatic_connected: upstream_connected },
    }
}
