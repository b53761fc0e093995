//! Defines the body of `GET /readyz?verbose`.

use serde::Serialize;

/// Whether the hub is ready, and the checks that decide it.
#[derive(Debug, Serialize)]
pub struct ReadinessBody {
    pub ready: bool,
    pub checks: ReadinessChecks,
}

#[derive(Debug, Serialize)]
pub struct ReadinessChecks {
    pub log_read: AgeCheck,
    pub durable: SettingCheck,
    pub appends: FailingCheck,
    pub moves: WaitingCheck,
    pub key_sets: PlainCheck,
    pub not_draining: PlainCheck,
    pub not_stopping: PlainCheck,
}

/// Milliseconds since the log was last read.
#[derive(Debug, Serialize)]
pub struct AgeCheck {
    pub ok: bool,
    pub age_ms: u64,
    pub limit_ms: u64,
}

/// The setting of PostgreSQL under which a commit may be lost, if there is one.
#[derive(Debug, Serialize)]
pub struct SettingCheck {
    pub ok: bool,
    pub setting: Option<String>,
}

/// Milliseconds for which every append has failed.
#[derive(Debug, Serialize)]
pub struct FailingCheck {
    pub ok: bool,
    pub failing_ms: u64,
    pub limit_ms: u64,
}

/// Milliseconds for which rows of the outbox have waited.
#[derive(Debug, Serialize)]
pub struct WaitingCheck {
    pub ok: bool,
    pub waiting_ms: u64,
    pub limit_ms: u64,
}

#[derive(Debug, Serialize)]
pub struct PlainCheck {
    pub ok: bool,
}
