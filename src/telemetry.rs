//! What the hub writes about itself: to stderr, as text or JSON lines.
//!
//! Tokens, keys, bodies and query strings are never given to a log macro, at any level. The crates below us are held
//! at `warn`, whatever the filter says: at `trace` some of them write whole requests, tokens included.

use std::io::IsTerminal;

use tracing::Level;
use tracing_subscriber::filter::{EnvFilter, FilterFn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

/// Crates that log what passes through them.
const HELD_AT_WARN: [&str; 8] = ["refinery_core", "tungstenite", "tokio_tungstenite", "hyper", "hyper_util", "reqwest", "rustls", "sqlx"];

/// Starts logging.
///
/// # Errors
/// When the filter cannot be read; says where.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    let filter = EnvFilter::builder().parse(filter).map_err(|error| format!("RECADO_LOG is {filter:?}: {error}"))?;
    // Not one more directive of the filter: one that names a module of such a crate would win over it.
    let held = FilterFn::new(|about| *about.level() <= Level::WARN || !is_held(about.target()));
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = tracing_subscriber::registry().with(filter).with(held);
    let started = match format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => registry.with(layer.with_ansi(std::io::stderr().is_terminal())).try_init(),
    };
    // Already started: a second hub in one process, as in tests.
    let _ = started;
    Ok(())
}

fn is_held(target: &str) -> bool {
    HELD_AT_WARN.contains(&target.split("::").next().unwrap_or(target))
}
