//! Sets the settings of each connection once it is open, and compares the server's answers.
//!
//! They are not in the startup packet, where libpq's `options` would put them: PgBouncer refuses that, and proxies that
//! ignore it would leave a connection without its limits and without its role.

use std::sync::Arc;

use sqlx::PgConnection;

use super::durability::Durability;
use crate::domain::audit::Actor;

/// The wanted settings of a connection.
#[derive(Debug, Clone)]
pub struct SessionSettings {
    pub role: Option<Arc<str>>,
    /// Who the session acts for, in the audit.
    pub actor: Option<Arc<Actor>>,
    /// It reads pages of the log.
    pub is_reader: bool,
    /// The server is one of several, and may be a standby.
    pub must_write: bool,
    /// Settings from the URL's `options`.
    pub given: Vec<(String, String)>,
    pub durability: Option<Arc<Durability>>,
}

/// Settings that keep a stopped hub from stalling the others, and a stuck statement from running for ever.
const ALWAYS: &[(&str, &str)] = &[
    // Shorter than a request's deadline, so that a lock timeout is a definite "not appended".
    ("lock_timeout", "3s"),
    ("statement_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "1s"),
    // A hub without work is idle for hours.
    ("idle_session_timeout", "0"),
    // The plan for unknown parameters suits every query here; custom plans of partitioned tables cost 10 ms each.
    ("plan_cache_mode", "force_generic_plan"),
    // Compiling a plan takes a hundred times as long as any query here.
    ("jit", "off"),
    // The text of the migrations depends on these rules.
    ("standard_conforming_strings", "on"),
    ("check_function_bodies", "on"),
];
/// Not compared, because a Unix-domain socket answers 0.
const TCP: &[(&str, &str)] = &[("tcp_keepalives_idle", "10"), ("tcp_keepalives_interval", "5"), ("tcp_keepalives_count", "3")];

/// Applies the settings.
///
/// # Errors
/// The server's own error, and `Configuration` with the name of a setting that did not take effect.
pub async fn apply(connection: &mut PgConnection, wanted: &SessionSettings) -> Result<(), sqlx::Error> {
    // The hub's own settings come later, and win.
    let given = wanted.given.len();
    let mut settings: Vec<(&str, &str)> = wanted.given.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    settings.extend(ALWAYS);
    if wanted.is_reader {
        // An ordered read uses an index in that order, and stops at the page's size. Where most topics have few rows,
        // the planner would rather collect all rows of a topic and sort them; for a busy user that is the whole log.
        settings.push(("enable_sort", "off"));
    }
    if let Some(role) = wanted.role.as_deref() {
        settings.push(("role", role));
    }
    let compared = settings.len();
    settings.extend(TCP);
    if let Some(actor) = wanted.actor.as_deref() {
        settings.push(("recado.actor_who", &actor.who));
        settings.push(("recado.actor_via", actor.via.as_str()));
        settings.push(("recado.actor_address", actor.address.as_deref().unwrap_or_default()));
    }
    let (names, values): (Vec<&str>, Vec<&str>) = settings.iter().copied().unzip();
    // Not kept as a prepared statement, because it runs once.
    let answers: Vec<String> =
        sqlx::query_scalar("SELECT set_config(s.name, s.value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)")
            .bind(&names)
            .bind(&values)
            .persistent(false)
            .fetch_all(&mut *connection)
            .await?;
    for ((name, value), answer) in settings.iter().zip(&answers).take(compared).skip(given) {
        if value != answer {
            return Err(sqlx::Error::Configuration(format!("the database did not set {name} to {value}: it is {answer}").into()));
        }
    }
    if wanted.must_write && sqlx::query_scalar("SELECT pg_is_in_recovery()").persistent(false).fetch_one(&mut *connection).await? {
        return Err(sqlx::Error::Configuration("the server is a standby; another host is tried".into()));
    }
    match &wanted.durability {
        // A reader commits nothing that was promised.
        Some(durability) if !wanted.is_reader => durability.secure(connection).await,
        _ => Ok(()),
    }
}
