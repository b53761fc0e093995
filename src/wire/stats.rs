//! Defines the body of `GET /stats`.

use serde::Serialize;

use super::node_service::OldSessionFields;
use crate::domain::Seq;

/// One session. The old service's fields keep their names and types. Times are milliseconds since 1970.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatsSession {
    pub session_id: String,
    pub user_id: String,
    pub account_ids: Vec<String>,
    pub client_id: String,
    pub instance: String,
    pub transport: String,
    pub connected_at: i64,
    pub last_activity: i64,
    pub sent_seq: Seq,
    pub acked_seq: Seq,
    /// How many numbers lie between the client's acknowledged position and the head of the log.
    pub lag: i64,
    pub upstream_connected: bool,
    #[serde(flatten)]
    pub old: OldSessionFields,
}

/// The whole answer. `P` is a provider session.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatsBody<P> {
    pub total_connections: usize,
    pub instance: String,
    pub log_id: String,
    pub head: Seq,
    pub earliest: Seq,
    /// Sessions of other instances are as last written to the database, at most some seconds ago. Of their last
    /// activity, at most 5 minutes while only pongs come.
    pub connections: Vec<StatsSession>,
    /// The provider sessions of all instances, without their secrets. Absent where no provider is configured.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream_sessions: Option<Vec<P>>,
}
