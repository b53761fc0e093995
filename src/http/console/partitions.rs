//! Serves `GET /api/admin/log/partitions`: the partitions of the log, and when retention drops them.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};

use crate::http::problems::RefusedRequest;
use crate::http::query::no_store;
use crate::http::state::HubState;
use crate::log::retention::RetentionPolicy;
use crate::store::console::log::{self, ShownPartition};
use crate::store::read::LogState;
use crate::wire::console::log::{PartitionBody, PartitionsBody, RetentionBody};
use crate::wire::console::users::optional_time;

pub async fn list(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Result<Response, RefusedRequest> {
    hub.auth.reader(&headers).await?;
    let shown = log::partitions(&hub.reader).await?;
    let body = PartitionsBody {
        log_id: shown.state.log_id,
        floor: shown.state.floor,
        head: shown.state.head,
        earliest: shown.state.floor.next(),
        bytes: shown.partitions.iter().map(|partition| partition.bytes).sum(),
        partitions: shown.partitions.iter().map(|partition| body(partition, &shown.state, hub.retention)).collect(),
        settings: settings(hub.retention),
    };
    Ok((no_store(), Json(body)).into_response())
}

fn body(partition: &ShownPartition, state: &LogState, policy: RetentionPolicy) -> PartitionBody {
    PartitionBody {
        name: format!("log_p{:012}", partition.lo),
        lo: partition.lo,
        hi: partition.hi,
        rows: rows(partition, state),
        bytes: partition.bytes,
        from: optional_time(partition.oldest_at),
        to: optional_time(partition.newest_at),
        drops_at: optional_time(drops_at(partition, state, policy)),
    }
}

/// Numbers have no holes, so nothing is counted.
fn rows(partition: &ShownPartition, state: &LogState) -> i64 {
    let first = partition.lo.max(state.floor.next().get());
    let last = (partition.hi - 1).min(state.head.get());
    (last - first + 1).max(0)
}

/// As [`crate::log::retention`] decides: by the age of the newest row, once the partition is full. A limit by size may
/// drop it earlier.
fn drops_at(partition: &ShownPartition, state: &LogState, policy: RetentionPolicy) -> Option<DateTime<Utc>> {
    let age = TimeDelta::from_std(policy.age?).ok()?;
    let is_full = partition.hi <= state.head.get();
    partition.newest_at.filter(|_| is_full)?.checked_add_signed(age)
}

fn settings(policy: RetentionPolicy) -> RetentionBody {
    let seconds = |time: Option<Duration>| time.map(|time| time.as_secs());
    RetentionBody {
        retention_age_seconds: seconds(policy.age),
        retention_size_bytes: policy.bytes,
        retention_sessions_seconds: seconds(policy.sessions),
        retention_devices_seconds: seconds(policy.devices),
        retention_upstream_seconds: seconds(policy.upstream),
        retention_audit_seconds: seconds(policy.audit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{LogId, Seq};

    #[test]
    fn a_full_partition_is_dropped_when_its_newest_row_is_too_old() {
        let state =
            |floor, head| LogState { log_id: LogId::new(), floor: Seq::from_db(floor), head: Seq::from_db(head), is_standby: false };
        let newest = "2026-11-30T12:00:00Z".parse::<DateTime<Utc>>().unwrap();
        let partition = ShownPartition { lo: 0, hi: 100, bytes: 1, oldest_at: Some(newest), newest_at: Some(newest) };
        let policy =
            |days: Option<u64>| RetentionPolicy { age: days.map(|days| Duration::from_secs(days * 86_400)), ..RetentionPolicy::default() };
        let at = |state: &LogState, days| drops_at(&partition, state, policy(days)).map(|at| at.to_rfc3339());
        assert_eq!(at(&state(0, 100), Some(2)).as_deref(), Some("2026-12-02T12:00:00+00:00"));
        assert_eq!((at(&state(0, 99), Some(2)), at(&state(0, 100), None)), (None, None));
        // A time that no calendar has.
        assert_eq!(at(&state(0, 100), Some(200_000_000)), None);
        for (floor, head, kept) in [(0, 0, 0), (0, 7, 7), (5, 7, 2), (0, 100, 99), (99, 200, 0), (40, 200, 59)] {
            assert_eq!(rows(&partition, &state(floor, head)), kept, "{floor} {head}");
        }
    }
}
