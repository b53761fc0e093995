//! Serves `GET /metrics` for Prometheus. Open like `/health`: it names no user.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};

use super::state::HubState;
use crate::metrics::{self, HEAD_SEEN, MetricsFormat, MetricsText};

pub async fn metrics(State(hub): State<Arc<HubState>>, headers: HeaderMap) -> Response {
    let accept = headers.get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = MetricsFormat::accepted(accept);
    let mut page = MetricsText::new(format);
    page.gauges("recado_info", "Always 1; the version of this hub.", "version", &[(env!("CARGO_PKG_VERSION"), 1.0)]);
    page.gauge("recado_ready", "1: the hub is ready for clients.", f64::from(u8::from(hub.health.is_ready())));
    page.gauge("recado_uptime_seconds", "Time since this hub started.", hub.health.uptime().as_secs_f64());
    let dispatched = hub.delivery.registry.position().dispatched.get();
    page.gauge(
        "recado_dispatched_seq",
        "Dispatched position: number of the last notification that this hub dispatched.",
        dispatched as f64,
    );
    let lag = HEAD_SEEN.get().saturating_sub(dispatched).max(0);
    page.gauge("recado_lag", "Notifications that this hub has seen in the log and not dispatched yet.", lag as f64);
    let age = hub.health.log_age().as_secs_f64();
    page.gauge("recado_log_read_age_seconds", "Time since the log was last read to its head.", age);
    let work = hub.health.work();
    let failing = work.appends_fail_for().as_secs_f64();
    page.gauge("recado_appends_failing_seconds", "Time for which no append has succeeded while notifications were posted.", failing);
    let waiting = work.moves_wait_for().as_secs_f64();
    page.gauge("recado_outbox_stuck_seconds", "Time for which the same outbox row has waited to be moved, as this hub saw it.", waiting);
    page.gauges("recado_connections", "Connected clients.", "transport", &connections(&hub));
    standbys(&mut page, &hub);
    metrics::write(&mut page);
    metrics::process::write(&mut page);
    let headers = [(header::CONTENT_TYPE, format.media_type()), (header::CACHE_CONTROL, "no-store"), (header::VARY, "Accept")];
    (headers, page.finish()).into_response()
}

/// Adds the state of each standby. Without standbys the metrics are named and have no value.
fn standbys(page: &mut MetricsText, hub: &HubState) {
    let states = hub.reader.standbys().map(|standbys| standbys.states()).unwrap_or_default();
    let in_use: Vec<_> = states.iter().map(|state| (state.label, f64::from(u8::from(state.is_in_use)))).collect();
    let lag: Vec<_> = states.iter().map(|state| (state.label, state.lag as f64)).collect();
    page.gauges("recado_standby_in_use", "1: the standby reads pages. 0: it is left.", "standby", &in_use);
    page.gauges("recado_standby_lag", "Notifications that this hub has seen and the standby had not replayed.", "standby", &lag);
}

fn connections(hub: &HubState) -> Vec<(&'static str, f64)> {
    let mut counts: BTreeMap<&'static str, f64> = [("ndjson", 0.0), ("sse", 0.0), ("websocket", 0.0)].into();
    hub.delivery.registry.each(|connection| *counts.entry(connection.transport).or_default() += 1.0);
    counts.into_iter().collect()
}
