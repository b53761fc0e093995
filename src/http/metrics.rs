//! `GET /metrics`: what this hub counts, for Prometheus. Open as `/health` is: it names no user.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::hub::Hub;
use crate::metrics::{self, HEAD_SEEN, MEDIA_TYPE, Page};

pub async fn metrics(State(hub): State<Arc<Hub>>) -> Response {
    let mut page = Page::default();
    page.gauges("recado_info", "Always 1; the version of this hub.", "version", &[(env!("CARGO_PKG_VERSION"), 1.0)]);
    page.gauge("recado_ready", "1: clients may be sent here.", f64::from(u8::from(hub.health.is_ready())));
    page.gauge("recado_uptime_seconds", "How long this hub has been running.", hub.health.uptime().as_secs_f64());
    let published = hub.delivery.registry.position().published.get();
    page.gauge("recado_published", "Number of the last notification that was handed to the connections.", published as f64);
    let lag = HEAD_SEEN.get().saturating_sub(published).max(0);
    page.gauge("recado_lag", "Notifications that this hub has heard of and not handed to its connections.", lag as f64);
    let age = hub.health.log_age().as_secs_f64();
    page.gauge("recado_log_read_age_seconds", "How long ago the log was read to its end.", age);
    page.gauges("recado_connections", "Clients that are connected.", "transport", &connections(&hub));
    metrics::write(&mut page);
    process(&mut page);
    ([(header::CONTENT_TYPE, MEDIA_TYPE), (header::CACHE_CONTROL, "no-store")], page.finish()).into_response()
}

fn connections(hub: &Hub) -> Vec<(&'static str, f64)> {
    let mut counts: BTreeMap<&'static str, f64> = [("ndjson", 0.0), ("sse", 0.0), ("websocket", 0.0)].into();
    hub.delivery.registry.each(|member| *counts.entry(member.transport).or_default() += 1.0);
    counts.into_iter().collect()
}

/// The names that all programs give to these, where the system tells.
fn process(page: &mut Page) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let resident =
        status.lines().find_map(|line| line.strip_prefix("VmRSS:")).and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    if let Some(kib) = resident {
        page.gauge("process_resident_memory_bytes", "Resident memory.", kib * 1024.0);
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        page.gauge("process_open_fds", "Open files and sockets.", files.count() as f64);
    }
}
