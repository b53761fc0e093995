//! Defines what only the clients of the replaced Node service read.
//!
//! New clients need none of it. It stays while one of the old clients may be in use.

use serde::Serialize;

/// What the old service calls a field of [`super::stats::StatsSession`].
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct OldSessionFields {
    /// The same value as `upstreamConnected`.
    pub pragmatic_connected: bool,
}

/// The body of `GET /health`.
#[derive(Debug, Serialize)]
pub struct HealthBody {
    /// `ok` or `degraded`.
    pub status: &'static str,
    #[serde(rename = "activeConnections")]
    pub active_connections: usize,
    /// RFC 3339, in UTC.
    pub timestamp: String,
    /// In seconds.
    pub uptime: f64,
    pub instance: String,
    pub version: &'static str,
    pub log_id: String,
    pub head: crate::domain::Seq,
}
