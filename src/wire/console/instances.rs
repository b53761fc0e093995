//! Defines what instances tell of themselves, and the bodies of the routes that show it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::wire::problem::{FieldError, Problem, read_body};
use crate::wire::server_frame::timestamp;

/// Longest window over which an instance may spread the closing of its connections, in seconds.
pub const WINDOW_MAX_SECONDS: u64 = 600;
const WINDOW_DEFAULT_SECONDS: u64 = 30;

/// What an instance tells with each heartbeat. Stored as JSON: a field that another version does not tell is zero.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceReport {
    pub ready: bool,
    /// The checks of readiness that fail.
    pub reasons: Vec<String>,
    pub draining: bool,
    pub counters: InstanceCounters,
    pub gauges: InstanceGauges,
    pub append_buckets: AppendBuckets,
    /// Provider sessions that the instance holds, by state.
    pub upstream: BTreeMap<String, u64>,
    /// How often the LISTEN connection was lost and replaced.
    pub listen_reconnects: u64,
}

/// Numbers since the start of the instance.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceCounters {
    pub appended: u64,
    pub delivered_live: u64,
    pub delivered_replayed: u64,
    pub acked: u64,
    pub connected: u64,
    pub disconnected: u64,
    /// Times that a client was too slow for live delivery.
    pub slow: u64,
    pub refused: u64,
    /// Connections that were closed with `no_pong`, and with `slow_consumer`.
    pub closed_no_pong: u64,
    pub closed_slow: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct InstanceGauges {
    pub connections: u64,
    /// The highest distance from the acknowledged number of a connection to the head.
    pub max_lag: i64,
    pub head: i64,
    pub floor: i64,
    pub rss_bytes: Option<u64>,
}

/// How long posts took, from request to commit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct AppendBuckets {
    /// Upper bounds in seconds.
    pub le: Vec<f64>,
    /// Posts up to each bound.
    pub counts: Vec<u64>,
    pub count: u64,
    pub sum: f64,
}

/// The row of an instance.
#[derive(Debug, Clone)]
pub struct InstanceRow {
    pub instance: Uuid,
    pub address: String,
    pub version: String,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    /// `None`: a hub of an earlier version, which tells nothing.
    pub report: Option<InstanceReport>,
}

/// An instance in an answer.
#[derive(Debug, Clone, Serialize)]
pub struct ShownInstance {
    pub instance: Uuid,
    pub address: String,
    pub version: String,
    pub started_at: String,
    pub seen_at: String,
    #[serde(flatten)]
    pub told: ShownReport,
}

/// What an instance told. All fields are `None` for a hub of an earlier version.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ShownReport {
    pub ready: Option<bool>,
    pub reasons: Option<Vec<String>>,
    pub draining: Option<bool>,
    pub counters: Option<InstanceCounters>,
    pub gauges: Option<InstanceGauges>,
    pub append_buckets: Option<AppendBuckets>,
    pub upstream: Option<BTreeMap<String, u64>>,
    pub listen_reconnects: Option<u64>,
}

impl ShownInstance {
    pub fn of(row: InstanceRow) -> Self {
        let InstanceRow { instance, address, version, started_at, seen_at, report } = row;
        let told = report.map_or_else(ShownReport::default, ShownReport::of);
        Self { instance, address, version, started_at: timestamp(started_at), seen_at: timestamp(seen_at), told }
    }
}

impl ShownReport {
    fn of(report: InstanceReport) -> Self {
        Self {
            ready: Some(report.ready),
            reasons: Some(report.reasons),
            draining: Some(report.draining),
            counters: Some(report.counters),
            gauges: Some(report.gauges),
            append_buckets: Some(report.append_buckets),
            upstream: Some(report.upstream),
            listen_reconnects: Some(report.listen_reconnects),
        }
    }
}

/// An instance that ended lately, in an answer.
#[derive(Debug, Clone, Serialize)]
pub struct StoppedInstance {
    pub instance: Uuid,
    pub address: String,
    pub version: String,
    pub started_at: String,
    /// When it stopped, or was last seen.
    pub stopped_at: String,
    /// It stopped in good order. Otherwise it was killed or cut off.
    pub clean: bool,
}

/// The body of `GET /api/admin/instances`.
#[derive(Debug, Serialize)]
pub struct InstancesBody<'a> {
    pub as_of: String,
    pub instances: &'a [ShownInstance],
    /// The newest first.
    pub stopped: &'a [StoppedInstance],
}

/// The data of an event `sample` of `GET /api/admin/live`.
#[derive(Debug, Serialize)]
pub struct SampleBody<'a> {
    pub at: String,
    pub instances: &'a [ShownInstance],
}

/// How much of the past a stream of samples begins with, in minutes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveQuery {
    pub minutes: u64,
}

impl LiveQuery {
    /// # Errors
    /// 422 for a window that is none of the known ones, or another parameter.
    pub fn parse(pairs: &[(String, String)]) -> Result<Self, Problem> {
        let wrong = |pointer: String, rule: &str| {
            let errors = vec![FieldError::new(pointer, rule)];
            Err(Problem::new(422, "invalid_field", "the query breaks the rules listed in errors").with_errors(errors))
        };
        match pairs {
            [] => Ok(Self { minutes: 0 }),
            [(name, window)] if name == "window" => match window.as_str() {
                "0m" => Ok(Self { minutes: 0 }),
                "15m" => Ok(Self { minutes: 15 }),
                "30m" => Ok(Self { minutes: 30 }),
                "60m" => Ok(Self { minutes: 60 }),
                _ => wrong("/window".to_owned(), "must be one of 0m, 15m, 30m, 60m"),
            },
            [(name, _), ..] => wrong(format!("/{name}"), "the only parameter is window, once"),
        }
    }
}

/// The body of `POST /api/admin/instances/{id}/drain`.
#[derive(Debug, PartialEq, Eq)]
pub struct DrainBody {
    pub window_seconds: u64,
}

impl DrainBody {
    /// Reads `{"window_seconds":30}`; the field may be absent.
    ///
    /// # Errors
    /// 400 for malformed JSON, 422 for a window that is too long, or another field.
    pub fn parse(body: &[u8]) -> Result<Self, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            window_seconds: Option<u64>,
        }
        let Fields { window_seconds } = read_body(body, r#"the body is {"window_seconds":30} and nothing else"#)?;
        let window_seconds = window_seconds.unwrap_or(WINDOW_DEFAULT_SECONDS);
        if window_seconds > WINDOW_MAX_SECONDS {
            let errors = vec![FieldError::new("/window_seconds", format!("must be a number from 0 to {WINDOW_MAX_SECONDS}"))];
            return Err(Problem::new(422, "invalid_field", "the body breaks the rules listed in errors").with_errors(errors));
        }
        Ok(Self { window_seconds })
    }
}

#[derive(Debug, Serialize)]
pub struct DrainBegun {
    pub success: bool,
    pub connections: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_another_version_is_read_as_far_as_it_goes() {
        let report: InstanceReport = serde_json::from_str(r#"{"ready":true,"counters":{"appended":7,"new":1},"new":{}}"#).unwrap();
        assert_eq!((report.ready, report.counters.appended, report.counters.acked, report.gauges.rss_bytes), (true, 7, 0, None));
        let whole = serde_json::to_value(InstanceReport::default()).unwrap();
        assert_eq!(serde_json::from_value::<InstanceReport>(whole).unwrap(), InstanceReport::default());
    }

    #[test]
    fn a_window_of_the_past_is_one_of_four() {
        let parse = |pairs: &[(&str, &str)]| {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            LiveQuery::parse(&pairs).map(|query| query.minutes).map_err(|problem| problem.errors[0].pointer.clone())
        };
        assert_eq!((parse(&[]), parse(&[("window", "60m")]), parse(&[("window", "0m")])), (Ok(0), Ok(60), Ok(0)));
        assert_eq!(parse(&[("window", "5m")]), Err("/window".to_owned()));
        assert_eq!(parse(&[("window", "15m"), ("window", "15m")]), Err("/window".to_owned()));
        assert_eq!(parse(&[("since", "15m")]), Err("/since".to_owned()));
    }

    #[test]
    fn a_drain_has_a_window() {
        let read = |text: &str| DrainBody::parse(text.as_bytes()).map(|body| body.window_seconds).map_err(|problem| problem.status);
        assert_eq!((read("{}"), read(r#"{"window_seconds":0}"#), read(r#"{"window_seconds":600}"#)), (Ok(30), Ok(0), Ok(600)));
        assert_eq!(
            (read(r#"{"window_seconds":601}"#), read(r#"{"window_seconds":-1}"#), read(r#"{"x":1}"#), read("")),
            (Err(422), Err(422), Err(422), Err(400))
        );
    }
}
