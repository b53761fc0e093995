//! Writes the hub's log to stderr, and sends traces to a collector.
//!
//! The log is text or JSON lines. Tokens, keys, bodies and query strings are never passed to a log macro, at any level.
//! Dependencies are limited to `warn`, whatever the filter says: at `trace` some of them write whole requests, tokens
//! included.
//!
//! Logging never waits and never fails: lines go into a bounded queue, and one thread writes them. If the queue is
//! full, or stderr does not accept a line, the line is dropped and counted (`recado_log_dropped_total`).

#[cfg(feature = "otel")]
mod export_failures;
mod queue;
#[cfg(feature = "otel")]
pub mod spans;
#[cfg(not(feature = "otel"))]
#[path = "telemetry/no_spans.rs"]
pub mod spans;
#[cfg(feature = "otel")]
mod traces;

use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::{LogFormat, TraceSettings};
use queue::QUEUE;

/// Crates that log the data that passes through them.
const HELD_AT_WARN: [&str; 8] = ["refinery_core", "tungstenite", "tokio_tungstenite", "hyper", "hyper_util", "reqwest", "rustls", "sqlx"];

/// Starts logging.
///
/// # Errors
/// When the filter cannot be parsed; says where.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| format!("RECADO_LOG {filter:?} is not a valid filter: {error}"))?;
    queue::start_writer(&QUEUE).map_err(|error| format!("could not start the log thread: {error}"))?;
    // A filter of its own, because a directive of the user's filter that names a module of such a crate would take
    // precedence.
    let held = FilterFn::new(|about| *about.level() <= Level::WARN || !is_held(about.target()));
    let layer = tracing_subscriber::fmt::layer().with_writer(Queued);
    let registry = tracing_subscriber::registry().with(filter).with(held);
    let started = match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(layer.with_ansi(io::stderr().is_terminal())).try_init(),
    };
    // Fails if logging is started already, for example by a second hub in one process, as in tests.
    if started.is_ok() {
        log_panics();
    }
    Ok(())
}

/// Sends traces from now on, if a collector is configured. `instance` names this hub.
///
/// # Errors
/// If a variable of OpenTelemetry is invalid; says which.
#[cfg(feature = "otel")]
pub fn start_traces(settings: &TraceSettings, instance: &str) -> Result<(), String> {
    traces::start(settings, instance)
}

/// Sends the last traces. Blocks for at most three seconds.
#[cfg(feature = "otel")]
pub fn stop_traces() {
    traces::stop();
}

/// # Errors
/// If a collector is configured.
#[cfg(not(feature = "otel"))]
pub fn start_traces(settings: &TraceSettings, _instance: &str) -> Result<(), String> {
    match settings.endpoint()? {
        Some(_) => {
            Err("this program was built without traces (the cargo feature otel): leave the OTEL_EXPORTER_OTLP_ endpoint out".to_owned())
        }
        None => Ok(()),
    }
}

#[cfg(not(feature = "otel"))]
pub const fn stop_traces() {}

/// Writes a line for people to stderr, in order with the log. Never waits and never fails.
pub fn say(text: &str) {
    let line = format!("{text}\n").into_bytes();
    if QUEUE.has_writer() {
        QUEUE.push(line);
    } else {
        // Before logging starts, for example for an invalid setting.
        let _ = io::stderr().write_all(&line);
    }
}

/// Waits until the lines logged so far are written, at most `limit`.
pub fn flush(limit: Duration) {
    QUEUE.wait_empty(limit);
}

/// Logs panics like other events. The standard hook writes to stderr itself and would wait for a full pipe.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let payload = panic.payload();
        let message = payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        let backtrace = std::backtrace::Backtrace::capture();
        let location = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(location, "panicked: {}\n{backtrace}", message.unwrap_or("without a message"));
    }));
}

fn is_held(target: &str) -> bool {
    HELD_AT_WARN.contains(&target.split("::").next().unwrap_or(target))
}

/// Passes each formatted event to the queue.
struct Queued;

impl<'a> MakeWriter<'a> for Queued {
    type Writer = StderrLine;

    fn make_writer(&'a self) -> StderrLine {
        StderrLine
    }
}

/// A writer for one event: the subscriber writes a whole event with one call.
struct StderrLine;

impl Write for StderrLine {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        QUEUE.push(event.to_vec());
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
