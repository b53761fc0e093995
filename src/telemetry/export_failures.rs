//! Counts the spans that do not reach the collector, and logs them once a minute.
//!
//! The SDK tells neither how many spans an export lost nor how many its full queue dropped. So the exporter is wrapped,
//! and so is the processor: it counts the spans that wait, and drops those beyond the size of the SDK's queue.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::Context;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{BatchSpanProcessor, Span, SpanData, SpanExporter, SpanProcessor};

use crate::metrics::OTEL_FAILED;

/// Shortest time between two log lines.
const EVERY: Duration = Duration::from_secs(60);

/// What exporter and processor share.
#[derive(Debug)]
pub struct Failures {
    /// Without user, password and query.
    endpoint: String,
    /// Size of the queue.
    most: usize,
    waiting: AtomicUsize,
    unsaid: Mutex<Unsaid>,
}

/// Lost spans that no log line has told.
#[derive(Debug, Default)]
struct Unsaid {
    spans: usize,
    last_line: Option<Instant>,
}

impl Failures {
    pub fn of(endpoint: String, most: usize) -> Self {
        Self { endpoint, most, waiting: AtomicUsize::new(0), unsaid: Mutex::default() }
    }

    fn count(&self, reason: &'static str, spans: usize, why: &str) {
        OTEL_FAILED.add(reason, spans);
        if let Some(lost) = self.due(spans) {
            tracing::warn!(lost, endpoint = self.endpoint, why, "traces were lost");
        }
    }

    /// The spans that the next log line tells, if one is due.
    fn due(&self, more: usize) -> Option<usize> {
        let mut unsaid = self.unsaid.lock().unwrap_or_else(PoisonError::into_inner);
        unsaid.spans += more;
        if unsaid.last_line.is_some_and(|last| last.elapsed() < EVERY) {
            return None;
        }
        unsaid.last_line = Some(Instant::now());
        Some(std::mem::take(&mut unsaid.spans))
    }
}

/// Counts the spans of each export that fails.
#[derive(Debug)]
pub struct CountingExporter<E> {
    inner: E,
    failures: Arc<Failures>,
}

impl<E: SpanExporter> CountingExporter<E> {
    pub const fn new(inner: E, failures: Arc<Failures>) -> Self {
        Self { inner, failures }
    }
}

impl<E: SpanExporter> SpanExporter for CountingExporter<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let spans = batch.len();
        self.failures.waiting.fetch_sub(spans, Ordering::Relaxed);
        let outcome = self.inner.export(batch).await;
        if let Err(error) = &outcome {
            self.failures.count("export", spans, &error.to_string());
        }
        outcome
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

/// Drops and counts the spans that do not fit into the queue.
#[derive(Debug)]
pub struct BoundedProcessor {
    inner: BatchSpanProcessor,
    failures: Arc<Failures>,
}

impl BoundedProcessor {
    pub const fn new(inner: BatchSpanProcessor, failures: Arc<Failures>) -> Self {
        Self { inner, failures }
    }
}

impl SpanProcessor for BoundedProcessor {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.inner.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.failures.waiting.fetch_add(1, Ordering::Relaxed) < self.failures.most {
            return self.inner.on_end(span);
        }
        self.failures.waiting.fetch_sub(1, Ordering::Relaxed);
        self.failures.count("queue_full", 1, "too many spans wait to be sent");
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.inner.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.inner.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.inner.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_failure_is_logged_and_the_next_ones_with_the_next_line() {
        let failures = Failures::of("http://collector".to_owned(), 1);
        assert_eq!(failures.due(3), Some(3));
        assert_eq!((failures.due(2), failures.due(1)), (None, None));
        failures.unsaid.lock().unwrap().last_line = Instant::now().checked_sub(EVERY);
        assert_eq!(failures.due(4), Some(7));
    }
}
