//! Tells what this instance does, with each heartbeat, and keeps what all instances told.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::Utc;
use serde_json::Value;

use crate::http::state::HubState;
use crate::log::maintenance::InstanceReports;
use crate::metrics;
use crate::metrics::process::resident_bytes;
use crate::store::instances::{InstanceEnd, SeenInstance};
use crate::wire::close::CloseCode;
use crate::wire::console::instances::{AppendBuckets, InstanceCounters, InstanceGauges, InstanceReport, InstanceRow, StoppedInstance};
use crate::wire::server_frame::timestamp;

/// The reports of this hub.
pub struct HubReports(pub Arc<HubState>);

impl InstanceReports for HubReports {
    fn report(&self) -> Value {
        serde_json::to_value(report(&self.0)).unwrap_or_default()
    }

    fn take(&self, seen: Vec<SeenInstance>) {
        let is_other = |seen: &SeenInstance| seen.end.is_none() && seen.id != self.0.instance;
        self.0.row_seal.has_readers(seen.iter().any(is_other));
        let (live, ended): (Vec<_>, Vec<_>) = seen.into_iter().partition(|seen| seen.end.is_none());
        self.0.instances.add(live.into_iter().map(row).collect(), ended.into_iter().filter_map(stopped).collect(), Utc::now());
    }
}

fn row(seen: SeenInstance) -> InstanceRow {
    let SeenInstance { id, address, version, started_at, seen_at, sample, end: _ } = seen;
    // What cannot be read is shown as if the instance told nothing.
    let report = sample.and_then(|sample| serde_json::from_value(sample).ok());
    InstanceRow { instance: id.0, address, version, started_at, seen_at, report }
}

fn stopped(seen: SeenInstance) -> Option<StoppedInstance> {
    let SeenInstance { id, address, version, started_at, end, .. } = seen;
    let InstanceEnd { at, is_clean: clean } = end?;
    Some(StoppedInstance { instance: id.0, address, version, started_at: timestamp(started_at), stopped_at: timestamp(at), clean })
}

fn report(hub: &HubState) -> InstanceReport {
    let reasons: Vec<String> = hub.health.failing().into_iter().map(str::to_owned).collect();
    InstanceReport {
        ready: reasons.is_empty(),
        reasons,
        draining: hub.health.is_draining(),
        counters: counters(),
        gauges: gauges(hub),
        append_buckets: append_buckets(),
        upstream: metrics::UPSTREAM_SESSIONS
            .all()
            .into_iter()
            .map(|(state, count)| (state.to_owned(), count as u64))
            .collect::<BTreeMap<_, _>>(),
        listen_reconnects: metrics::LISTENER_REPLACED.get(),
    }
}

fn counters() -> InstanceCounters {
    let sent: BTreeMap<&str, f64> = metrics::SENT.all().into_iter().collect();
    let sent = |how: &str| sent.get(how).map_or(0, |count| *count as u64);
    let ended: BTreeMap<&str, f64> = metrics::DISCONNECTED.all().into_iter().collect();
    let closed = |code: CloseCode| ended.get(code.reason()).map_or(0, |count| *count as u64);
    let sum = |counts: Vec<(&'static str, f64)>| counts.iter().map(|(_, count)| *count as u64).sum();
    InstanceCounters {
        appended: metrics::APPENDED.get(),
        delivered_live: sent("live"),
        delivered_replayed: sent("replayed"),
        acked: metrics::ACKS.get(),
        connected: sum(metrics::CONNECTED.all()),
        disconnected: sum(metrics::DISCONNECTED.all()),
        slow: metrics::FELL_BEHIND.get(),
        refused: sum(metrics::REFUSED.all()),
        closed_no_pong: closed(CloseCode::NoPong),
        closed_slow: closed(CloseCode::SlowConsumer),
    }
}

fn gauges(hub: &HubState) -> InstanceGauges {
    let position = hub.delivery.registry.position();
    let (mut connections, mut max_lag) = (0, 0);
    hub.delivery.registry.each(|connection| {
        connections += 1;
        max_lag = max_lag.max(position.dispatched.since(connection.acked()));
    });
    let (head, floor) = (position.dispatched.get(), position.floor.get());
    InstanceGauges { connections, max_lag, head, floor, rss_bytes: resident_bytes() }
}

fn append_buckets() -> AppendBuckets {
    let histogram = &metrics::APPEND_SECONDS;
    let (counts, count) = histogram.cumulated();
    AppendBuckets { le: histogram.bounds.to_vec(), counts, count, sum: histogram.sum() }
}
