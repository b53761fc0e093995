//! What the hub writes about itself: to stderr, as text or JSON lines.
//!
//! Tokens, keys, bodies and query strings are never given to a log macro, at any level. The crates below us are held
//! at `warn`, whatever the filter says: at `trace` some of them write whole requests, tokens included.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Crates that log what passes through them.
const HELD_AT_WARN: [&str; 8] = ["refinery_core", "tungstenite", "tokio_tungstenite", "hyper", "hyper_util", "reqwest", "rustls", "sqlx"];

/// Starts logging.
///
/// # Errors
/// When the filter cannot be read; says where.
pub fn start(filter: &str, format: LogFormat) -> Result<(), String> {
    let parsed = EnvFilter::builder().parse(filter).map_err(|error| format!("RECADO_LOG is {filter:?}: {error}"))?;
    let held = HELD_AT_WARN.iter().filter_map(|name| format!("{name}=warn").parse().ok());
    let filter = held.fold(parsed, EnvFilter::add_directive);
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
        LogFormat::Text => builder.with_ansi(std::io::stderr().is_terminal()).try_init(),
    };
    // Already started: a second hub in one process, as in tests.
    let _ = started;
    Ok(())
}
