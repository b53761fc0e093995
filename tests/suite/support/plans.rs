//! Reads what PostgreSQL executed for a statement of the store.
//!
//! auto_explain reports it to the connection that sent the statement.

use std::sync::{Arc, Mutex};

use serde_json::Value;
use tracing::field::{Field, Visit};
use tracing::subscriber::DefaultGuard;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::{Layer, Registry};

use super::TestDb;

/// One executed statement.
#[derive(Debug, Clone)]
pub struct ExecutedPlan(Value);

impl ExecutedPlan {
    /// Pages that the statement and everything that it called looked at, in memory or on disk.
    pub fn pages(&self) -> i64 {
        let root = &self.0["Plan"];
        ["Shared Hit Blocks", "Shared Read Blocks"].iter().filter_map(|name| root[name].as_i64()).sum()
    }

    /// The scans that were carried out: kind, table, index.
    pub fn scans(&self) -> Vec<(String, String, String)> {
        let mut scans = Vec::new();
        collect(&self.0["Plan"], &mut scans);
        scans
    }

    /// Rows that the scans returned, all loops together.
    pub fn rows(&self) -> i64 {
        fn below(node: &Value) -> f64 {
            let loops = node["Actual Loops"].as_f64().unwrap_or_default();
            let own = if node["Node Type"].as_str().is_some_and(|kind| kind.ends_with("Scan") && kind != "Subquery Scan") {
                node["Actual Rows"].as_f64().unwrap_or_default() * loops
            } else {
                0.0
            };
            own + node["Plans"].as_array().into_iter().flatten().map(below).sum::<f64>()
        }
        below(&self.0["Plan"]) as i64
    }

    /// The first words of the statement.
    pub fn begins(&self) -> String {
        let words: Vec<&str> = self.0["Query Text"].as_str().unwrap_or_default().split_whitespace().collect();
        words.join(" ").chars().take(90).collect()
    }

    pub fn text(&self) -> String {
        serde_json::to_string_pretty(&self.0).unwrap()
    }
}

fn collect(node: &Value, scans: &mut Vec<(String, String, String)>) {
    let word = |name: &str| node[name].as_str().unwrap_or_default().to_owned();
    if word("Node Type").ends_with("Scan") && node["Actual Loops"].as_f64() > Some(0.0) {
        scans.push((word("Node Type"), word("Relation Name"), word("Index Name")));
    }
    for below in node["Plans"].as_array().into_iter().flatten() {
        collect(below, scans);
    }
}

/// Makes every later connection to this database report its plans, those inside functions included.
pub async fn tell_plans(db: &TestDb) {
    for setting in [
        "session_preload_libraries = 'auto_explain'",
        "auto_explain.log_min_duration = 0",
        "auto_explain.log_analyze = on",
        "auto_explain.log_timing = off",
        "auto_explain.log_buffers = on",
        "auto_explain.log_nested_statements = on",
        "auto_explain.log_format = 'json'",
        "auto_explain.log_level = 'notice'",
    ] {
        db.run(&format!("ALTER DATABASE {} SET {setting}", db.name)).await;
    }
}

/// Collects what the connections of this thread are told.
pub struct PlanListener {
    told: Arc<Mutex<Vec<ExecutedPlan>>>,
    _guard: DefaultGuard,
}

impl PlanListener {
    pub fn start() -> Self {
        let told: Arc<Mutex<Vec<ExecutedPlan>>> = Arc::default();
        let guard = tracing::subscriber::set_default(Registry::default().with(Ear(Arc::clone(&told))));
        Self { told, _guard: guard }
    }

    /// The statements executed since the last call. A statement that calls functions follows their statements.
    pub fn take(&self) -> Vec<ExecutedPlan> {
        std::mem::take(&mut *self.told.lock().unwrap())
    }
}

struct Ear(Arc<Mutex<Vec<ExecutedPlan>>>);

impl<S: tracing::Subscriber> Layer<S> for Ear {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        struct PlanMessage(String);
        impl Visit for PlanMessage {
            fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
                if field.name() == "message" {
                    self.0 = format!("{value:?}");
                }
            }
            fn record_str(&mut self, field: &Field, value: &str) {
                if field.name() == "message" {
                    self.0 = value.to_owned();
                }
            }
        }
        if event.metadata().target() != "sqlx::postgres::notice" {
            return;
        }
        let mut message = PlanMessage(String::new());
        event.record(&mut message);
        if let Some((_, plan)) = message.0.split_once("plan:\n") {
            self.0.lock().unwrap().push(ExecutedPlan(serde_json::from_str(plan).unwrap_or_else(|error| panic!("{error}: {plan}"))));
        }
    }
}
