//! Sends traces to an OpenTelemetry collector: OTLP over HTTP, from a thread of its own.
//!
//! The SDK reads most variables of OpenTelemetry itself; docs/reference/settings.md lists those that count. A
//! collector that is away costs nothing: spans wait in a bounded queue, and are counted when they are dropped
//! ([`super::export_failures`]).

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};

use super::export_failures::{BoundedProcessor, CountingExporter, Failures};
use super::spans;
use crate::config::TraceSettings;

/// How long the last spans may take when the hub stops.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Makes spans from now on, if a collector is configured. `instance` names this hub.
///
/// # Errors
/// If a variable of OpenTelemetry is invalid; says which.
pub fn start(settings: &TraceSettings, instance: &str) -> Result<(), String> {
    let Some(endpoint) = settings.endpoint()? else { return Ok(()) };
    if let Some(protocol) = &settings.other_protocol {
        tracing::warn!(%protocol, "traces are sent as http/protobuf; the endpoint must be the collector's HTTP port, such as 4318");
    }
    let exporter = SpanExporter::builder().with_http().with_protocol(Protocol::HttpBinary).build();
    let exporter = exporter.map_err(|error| format!("traces cannot be sent to {endpoint}: {error}"))?;
    let failures = Arc::new(Failures::of(endpoint.clone(), settings.queue));
    let batches = BatchConfigBuilder::default().with_max_queue_size(settings.queue).build();
    let exporter = CountingExporter::new(exporter, Arc::clone(&failures));
    let processor = BatchSpanProcessor::builder(exporter).with_batch_config(batches).build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(BoundedProcessor::new(processor, failures))
        .with_resource(resource(settings, instance))
        .build();
    spans::record_with(provider.tracer("recado"));
    if PROVIDER.set(provider).is_ok() {
        tracing::info!(%endpoint, "sending traces");
    }
    Ok(())
}

fn resource(settings: &TraceSettings, instance: &str) -> Resource {
    let own = [KeyValue::new("service.version", env!("CARGO_PKG_VERSION")), KeyValue::new("service.instance.id", instance.to_owned())];
    let name = (!settings.names_service).then(|| KeyValue::new("service.name", "recado"));
    Resource::builder().with_attributes(own.into_iter().chain(name)).build()
}

/// Sends the last spans, and makes none from now on. Blocks for at most three seconds.
pub fn stop() {
    let Some(provider) = PROVIDER.get() else { return };
    if let Err(error) = provider.shutdown_with_timeout(FLUSH_LIMIT) {
        tracing::warn!(%error, "the last traces were not sent");
    }
}
