//! Promise: the alert rules and the dashboard that ship fit what a hub exposes, and every alert says what to do.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

use super::support::host::{given, programs, said};
use super::support::*;

fn project(file: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap()
}

/// Values of a key in a YAML file of ours, one a line.
fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines().filter_map(|line| line.trim_start().trim_start_matches("- ").strip_prefix(key)?.strip_prefix(": ")).collect()
}

/// Names of a hub's metrics in an expression. `up` is Prometheus's own.
fn metrics_of(expression: &str) -> BTreeSet<String> {
    let words = expression.split(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_');
    words.filter(|word| word.starts_with("recado_") || word.starts_with("process_")).map(str::to_owned).collect()
}

/// Series that a hub exposes, and the sets of a histogram's series.
async fn exposed() -> BTreeSet<String> {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let (status, text) = hub.get("/metrics", None).await.unwrap();
    assert_eq!(status, 200);
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '));
    types
        .flat_map(|(name, kind)| match kind {
            "histogram" => ["_bucket", "_sum", "_count"].map(|end| format!("{name}{end}")).to_vec(),
            _ => vec![name.to_owned()],
        })
        .collect()
}

/// The expressions of the dashboard, as Prometheus gets them.
fn expressions(board: &Value) -> Vec<String> {
    let lists = [&board["panels"], &board["annotations"]["list"]].map(|list| list.as_array().unwrap());
    let panels = lists.into_iter().flatten();
    let queries = panels.flat_map(|panel| panel["targets"].as_array().into_iter().flatten().chain([panel]));
    let queries = queries.filter_map(|query| query["expr"].as_str());
    queries.map(|query| query.replace("$__rate_interval", "5m").replace("$job", "recado").replace("$instance", ".+")).collect()
}

fn board() -> Value {
    serde_json::from_str(&project("deploy/grafana/recado.json")).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn alerts_and_dashboard_name_only_metrics_that_a_hub_exposes() {
    let exposed = exposed().await;
    let alerts = project("deploy/prometheus/alerts.yml");
    let (board, tests) = (expressions(&board()), project("deploy/prometheus/alerts.test.yml"));
    assert!(board.len() > 30, "{board:?}");
    for (file, text) in [("alerts.yml", alerts.as_str()), ("alerts.test.yml", tests.as_str()), ("recado.json", board.join("\n").as_str())] {
        let unknown: Vec<_> = metrics_of(text).into_iter().filter(|name| !exposed.contains(name)).collect();
        assert_eq!(unknown, Vec::<String>::new(), "{file} names metrics that a hub does not expose");
    }
}

#[test]
fn every_alert_has_a_test_that_fires_it_and_a_section_of_the_runbook() {
    let (alerts, tests) = (project("deploy/prometheus/alerts.yml"), project("deploy/prometheus/alerts.test.yml"));
    let runbook = project("docs/guides/runbook.md");
    let names = values(&alerts, "alert");
    assert!(names.len() > 10, "{names:?}");
    let links = values(&alerts, "runbook");
    let sections: Vec<&str> = runbook.lines().filter_map(|line| line.strip_prefix("## ")).collect();
    assert_eq!(sections, names, "on the left docs/guides/runbook.md, on the right deploy/prometheus/alerts.yml");
    for (name, link) in names.iter().zip(&links) {
        assert_eq!(*link, format!("docs/guides/runbook.md#{}", name.to_lowercase()));
        assert!(tests.contains(&format!("alertname: {name}\n        exp_alerts:\n")), "no test fires {name}");
    }
    assert_eq!(links.len(), names.len());
}

/// The rules and the dashboard select the job by its name.
#[test]
fn the_prometheus_file_scrapes_the_job_of_the_rules_and_the_pages_name_it() {
    let text = project("deploy/prometheus/prometheus.yml");
    assert_eq!(values(&text, "job_name"), ["recado"]);
    assert!(text.contains("rule_files:\n  - alerts.yml\n"), "{text}");
    for page in ["docs/guides/operate.md", "docs/guides/proxies.md", "docs/guides/runbook.md", "docs/reference/metrics.md"] {
        assert!(project(page).contains("`deploy/prometheus/prometheus.yml`"), "{page}");
    }
}

/// A panel is read by people who do not know the metric.
#[test]
fn every_panel_of_the_dashboard_says_what_it_shows() {
    for panel in board()["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row") {
        let description = panel["description"].as_str().unwrap_or_default();
        assert!(description.ends_with('.'), "{}: {description:?} is no sentence", panel["title"]);
    }
}

/// What went wrong: alerts named metrics of consumers, webhooks and standbys, and the dashboard showed none of them.
#[test]
fn the_dashboard_shows_each_metric_of_an_alert() {
    let shown = metrics_of(&expressions(&board()).join("\n"));
    let alerts = metrics_of(&project("deploy/prometheus/alerts.yml"));
    let more = ["recado_standby_lag", "recado_standby_in_use", "recado_outbox_stuck_seconds", "recado_webhooks_lag_seconds"];
    let more = more.into_iter().chain(["recado_post_to_socket_seconds_bucket", "recado_post_to_ack_seconds_bucket"]);
    let missing: Vec<String> = alerts.into_iter().chain(more.map(str::to_owned)).filter(|name| !shown.contains(name)).collect();
    assert_eq!(missing, Vec::<String>::new());
}

/// The dashboard must work with any data source, scrape interval and set of hubs.
#[test]
fn the_dashboard_has_no_fixed_data_source_interval_or_hub() {
    let board = board();
    let variables = board["templating"]["list"].as_array().unwrap();
    let names: Vec<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["datasource", "job", "instance"]);
    let mut ids = BTreeSet::new();
    for panel in board["panels"].as_array().unwrap() {
        let title = panel["title"].as_str().unwrap();
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}: two panels have this id");
        let place = &panel["gridPos"];
        assert!(place["x"].as_u64().unwrap() + place["w"].as_u64().unwrap() <= 24, "{title}: outside the grid");
        for query in panel["targets"].as_array().into_iter().flatten() {
            let expression = query["expr"].as_str().unwrap();
            assert_eq!(query["datasource"]["uid"], "${datasource}", "{title}");
            assert!(expression.contains(r#"{job="$job", instance=~"$instance""#), "{title}: {expression}");
            let ranges = expression.matches('[').count();
            assert_eq!(ranges, expression.matches("[$__rate_interval]").count(), "{title}: {expression}");
        }
    }
}

/// Prometheus's own program reads the rules, their tests, the dashboard's expressions and what a hub exposes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn promtool_accepts_the_rules_the_dashboard_and_the_metrics() {
    let Some(()) = given("D15", programs(&["promtool"])) else { return };
    let folder = tempfile::tempdir().unwrap();
    let rules: Vec<Value> = expressions(&board())
        .iter()
        .enumerate()
        .map(|(n, expression)| serde_json::json!({ "record": format!("panel:{n}"), "expr": expression }))
        .collect();
    let file = folder.path().join("board.yml");
    // JSON is YAML.
    std::fs::write(&file, serde_json::json!({ "groups": [{ "name": "board", "rules": rules }] }).to_string()).unwrap();
    let promtool = |arguments: &[&str]| {
        let mut command = Command::new("promtool");
        said(command.args(arguments).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/prometheus")))
    };
    promtool(&["check", "rules", file.to_str().unwrap()]).unwrap();
    promtool(&["check", "rules", "alerts.yml"]).unwrap();
    // With the rule file that it names.
    let checked = promtool(&["check", "config", "prometheus.yml"]).unwrap();
    assert!(checked.contains("1 rule files found"), "{checked}");
    promtool(&["test", "rules", "alerts.test.yml"]).unwrap();
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let metrics = folder.path().join("metrics");
    std::fs::write(&metrics, hub.get("/metrics", None).await.unwrap().1).unwrap();
    said(Command::new("sh").args(["-c", "promtool check metrics < \"$0\""]).arg(&metrics)).unwrap();
}

/// A Prometheus that scrapes one hub each second. Dropping the value ends it.
struct Prometheus {
    child: Child,
    address: String,
    folder: tempfile::TempDir,
}

impl Prometheus {
    async fn of(hub: &TestHub) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = serde_json::json!({
            "global": { "scrape_interval": "1s" },
            "scrape_configs": [{ "job_name": "recado", "static_configs": [{ "targets": [hub.address] }] }],
        });
        let file = folder.path().join("prometheus.yml");
        // JSON is YAML.
        std::fs::write(&file, config.to_string()).unwrap();
        // Below the range of ephemeral ports, from which a test's other sockets come.
        let port =
            (21_000..32_000).step_by(11).find(|port| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok()).expect("a free port");
        let address = format!("127.0.0.1:{port}");
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()));
        command.arg(format!("--web.listen-address={address}")).arg("--enable-feature=exemplar-storage");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(std::fs::File::create(folder.path().join("log")).unwrap());
        Self { child: command.spawn().unwrap(), address, folder }
    }

    /// The result of a query, once there is one.
    async fn eventually(&self, what: &str, path: &str, fits: impl Fn(&Value) -> bool) -> Value {
        eventually(what, PATIENCE * 2, async || {
            let answer = http_client().get(format!("http://{}/api/v1/{path}", self.address)).send().await.ok()?;
            answer.json::<Value>().await.ok().filter(&fits)
        })
        .await
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default());
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A fault in the format would cost an operator every metric: Prometheus drops the whole page.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn prometheus_scrapes_a_hub_and_keeps_its_exemplars() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let Some(()) = given("D15", programs(&["prometheus"])) else { return };
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let hub = collector.of(TestHub::on(&db)).start().await;
    let mut page = TestClient::of("ann").connect(&hub).await;
    let headers = [("content-type", "application/json"), ("traceparent", &*format!("00-{TRACE}-00f067aa0ba902b7-01"))];
    let posted = hub.post_raw("/api/internal/notify", &headers, note("traced").to_user("ann").body()).await;
    assert_eq!(posted.status, 201);
    assert_eq!(page.expect_notification().await.title, "traced");

    let prometheus = Prometheus::of(&hub).await;
    let is_healthy = |answer: &Value| answer["data"]["activeTargets"][0]["health"] == "up";
    let targets = prometheus.eventually("a good scrape", "targets", is_healthy).await;
    assert_eq!(targets["data"]["activeTargets"][0]["lastError"], "");
    let has_result = |answer: &Value| answer["data"]["result"].as_array().is_some_and(|result| !result.is_empty());
    let query = "query?query=recado_requests_total%7Broute%3D%22%2Fapi%2Finternal%2Fnotify%22%7D";
    let requests = prometheus.eventually("the count of a route", query, has_result).await;
    assert_eq!(requests["data"]["result"][0]["metric"]["status"], "201");
    assert_eq!(requests["data"]["result"][0]["value"][1], "1");
    for name in ["recado_append_seconds_bucket", "recado_post_to_socket_seconds_bucket"] {
        let query = format!("query_exemplars?query={name}&start=2020-01-01T00:00:00Z&end=2100-01-01T00:00:00Z");
        let has_exemplar = |answer: &Value| answer["data"].as_array().is_some_and(|data| !data.is_empty());
        let found = prometheus.eventually("an exemplar", &query, has_exemplar).await;
        assert_eq!(found["data"][0]["exemplars"][0]["labels"]["trace_id"], TRACE, "{name}: {found}");
    }
}
