//! Tests `GET /metrics`: valid for Prometheus, as documented, and counting what happens.
//!
//! The documentation is docs/reference/metrics.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::support::*;

/// A page, parsed strictly: name → type and help, and each sample with its labels.
#[derive(Debug, Default)]
struct Metrics {
    kinds: BTreeMap<String, (String, String)>,
    samples: BTreeMap<String, f64>,
}

fn is_name(name: &str) -> bool {
    !name.is_empty()
        && name.chars().all(|c| c.is_ascii_lowercase() || c == '_' || c.is_ascii_digit())
        && !name.starts_with(|c: char| c.is_ascii_digit())
}

impl Metrics {
    /// Panics where the text breaks a rule of the format (0.0.4), or of naming.
    fn read(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line ends with a line feed");
        let mut metrics = Self::default();
        let mut helped = None;
        let mut current = String::new();
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                let (name, help) = rest.split_once(' ').expect(line);
                helped = Some((name.to_owned(), help.to_owned()));
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').expect(line);
                let (of, help) = helped.take().unwrap_or_else(|| panic!("{line}: without HELP"));
                assert_eq!(name, of, "HELP and TYPE follow each other");
                assert!(is_name(name) && ["counter", "gauge", "histogram"].contains(&kind), "{line}");
                assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
                let before = metrics.kinds.insert(name.to_owned(), (kind.to_owned(), help));
                assert!(before.is_none(), "{name} stands twice");
                name.clone_into(&mut current);
            } else {
                metrics.sample(line, &current);
            }
        }
        metrics.check_histograms();
        metrics
    }

    fn sample(&mut self, line: &str, current: &str) {
        let (series, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no sample: {line}"));
        let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
        let name = series.split('{').next().unwrap();
        let is_histogram = self.kinds.get(current).is_some_and(|(kind, _)| kind == "histogram");
        let of = if is_histogram { ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).expect(line) } else { name };
        assert_eq!(of, current, "{line} stands below another name");
        if let Some(labels) = series.strip_prefix(name).filter(|labels| !labels.is_empty()) {
            let labels = labels.strip_prefix('{').and_then(|l| l.strip_suffix('}')).expect(line);
            for label in labels.split(',') {
                let (label, value) = label.split_once('=').expect(line);
                let value = value.strip_prefix('"').and_then(|v| v.strip_suffix('"')).expect(line);
                assert!(is_name(label) && !value.contains(['"', '\\', '\n']), "{line}");
            }
        }
        assert!(value.is_finite() && value >= 0.0, "{line}");
        assert!(self.samples.insert(series.to_owned(), value).is_none(), "{series} stands twice");
    }

    fn check_histograms(&self) {
        for (name, _) in self.kinds.iter().filter(|(_, (kind, _))| kind == "histogram") {
            // By the labels other than the bound.
            let mut histograms: BTreeMap<&str, Vec<(f64, f64)>> = BTreeMap::new();
            for (series, count) in &self.samples {
                let Some(labels) = series.strip_prefix(&format!("{name}_bucket{{")) else { continue };
                let (others, bound) = labels.trim_end_matches("\"}").split_once("le=\"").expect(series);
                let bound = if bound == "+Inf" { f64::INFINITY } else { bound.parse().unwrap() };
                histograms.entry(others.trim_end_matches(',')).or_default().push((bound, *count));
            }
            assert!(!histograms.is_empty(), "{name} has no bucket");
            for (labels, mut buckets) in histograms {
                buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
                assert!(buckets.windows(2).all(|two| two[0].1 <= two[1].1), "{name} is not cumulated: {buckets:?}");
                let labels = if labels.is_empty() { String::new() } else { format!("{{{labels}}}") };
                assert_eq!(buckets.last(), Some(&(f64::INFINITY, self.of(&format!("{name}_count{labels}")))), "{name}");
            }
        }
    }

    fn of(&self, series: &str) -> f64 {
        *self.samples.get(series).unwrap_or_else(|| panic!("{series} is not there: {:#?}", self.samples))
    }
}

/// Reads on to the notification with this title.
async fn past_status(page: &mut TestClient, title: &str) {
    loop {
        match page.next_frame().await {
            ClientSawFrame::Notification(notification) if notification.title == title => return,
            ClientSawFrame::Ended(ended) => panic!("{title} was to come, not {ended:?}"),
            _ => {}
        }
    }
}

async fn metrics(hub: &TestHub) -> Metrics {
    let (status, text) = hub.get("/metrics", None).await.unwrap();
    assert_eq!(status, 200);
    Metrics::read(&text)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_names_each_metric_with_its_type_and_meaning() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let metrics = metrics(&hub).await;
    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md")).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = rows.map(|row| row.trim_end_matches(" |").split(" | ").collect::<Vec<_>>());
    let documented: BTreeSet<(String, String, String)> = cells
        .filter(|cells| cells.len() == 4)
        .map(|cells| (cells[0].trim_end_matches('`').to_owned(), cells[1].to_owned(), cells[3].to_owned()))
        .collect();
    let said: BTreeSet<(String, String, String)> =
        metrics.kinds.iter().map(|(name, (kind, help))| (name.clone(), kind.clone(), help.clone())).collect();
    assert_eq!(documented, said, "on the left docs/reference/metrics.md, on the right the hub");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_is_counted_and_nobody_is_named() {
    let (db, provider) = (TestDb::new().await, FakeProvider::start().await);
    let file = provider.file("");
    let key = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let hub = TestHub::on(&db).with("RECADO_UPSTREAM_FILE", file.path()).with("RECADO_UPSTREAM_KEY", key).start().await;
    let before = metrics(&hub).await;
    assert_eq!((before.of("recado_ready"), before.of("recado_appended_total")), (1.0, 0.0));

    let mut page = TestClient::of("user-of-metrics").account("account-of-metrics").device("device-of-metrics").connect(&hub).await;
    let session = provider.connected("user-of-metrics").await;
    hub.post(&note("one").to_user("user-of-metrics")).await;
    hub.post(&note("two").to_user("user-of-metrics")).await;
    past_status(&mut page, "two").await;
    page.ack(db.head().await).await;
    assert_eq!(hub.post_as("no key", &note("n").to_user("x")).await.unwrap().status, 401);
    assert_eq!(hub.get("/user-of-metrics", None).await.unwrap().0, 404);
    provider.say_numbered("user-of-metrics", [1]).await;
    past_status(&mut page, "Fake").await;
    page.say(r#"{"type":"bet","id":"b-1","payload":1}"#).await;
    provider.until("the bet", |record| (record.commands_of("user-of-metrics").len() == 1).then_some(())).await;
    db.run("SELECT recado.notify('n', 'from SQL', 'm', user_id => 'user-of-metrics')").await;
    past_status(&mut page, "from SQL").await;

    let wanted = [
        ("recado_appended_total", 2.0),
        ("recado_append_seconds_count", 2.0),
        ("recado_commit_seconds_count", 2.0),
        ("recado_requests_total{route=\"/api/internal/notify\",status=\"201\"}", 2.0),
        ("recado_requests_total{route=\"/api/internal/notify\",status=\"401\"}", 1.0),
        ("recado_requests_total{route=\"(no route)\",status=\"404\"}", 1.0),
        ("recado_requests_total{route=\"/ws\",status=\"101\"}", 1.0),
        ("recado_refused_total{code=\"unauthorized\"}", 1.0),
        ("recado_dispatched_total", 4.0),
        ("recado_dispatched_seq", 4.0),
        ("recado_lag", 0.0),
        ("recado_sent_total{how=\"live\"}", 4.0),
        ("recado_sent_total{how=\"replayed\"}", 0.0),
        ("recado_otel_failed_total{reason=\"export\"}", 0.0),
        ("recado_connections{transport=\"websocket\"}", 1.0),
        ("recado_connections{transport=\"sse\"}", 0.0),
        ("recado_connected_total{transport=\"websocket\"}", 1.0),
        ("recado_outbox_moves", 1.0),
        ("recado_outbox_moved_total", 1.0),
        ("recado_upstream_sessions{state=\"live\"}", 1.0),
        ("recado_upstream_sessions{state=\"connecting\"}", 0.0),
        ("recado_upstream_claimed_total{how=\"free\"}", 1.0),
        ("recado_upstream_claimed_total{how=\"taken_over\"}", 0.0),
        ("recado_upstream_starts_total", 1.0),
        ("recado_upstream_sign_ins_total{outcome=\"signed_in\"}", 1.0),
        ("recado_upstream_messages_total", 1.0),
        ("recado_upstream_commands_total{state=\"accepted\"}", 1.0),
        ("recado_upstream_commands_total{state=\"sent\"}", 1.0),
    ];
    let end = tokio::time::Instant::now() + PATIENCE;
    loop {
        let now = metrics(&hub).await;
        let wrong = wanted.iter().find(|(series, value)| now.samples.get(*series) != Some(value));
        let Some((series, value)) = wrong else { break };
        assert!(tokio::time::Instant::now() < end, "{series} is {:?} and should be {value}", now.samples.get(*series));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    // Acknowledged by a frame, or by a pong that was quicker.
    assert!(metrics(&hub).await.of("recado_acks_total") >= 1.0);
    // A row that the tailer happens to read from the table is not measured.
    eventually("the way of a post is measured", PATIENCE, async || {
        let posted = hub.post(&note("measured").to_user("user-of-metrics")).await;
        past_status(&mut page, "measured").await;
        page.ack(posted.seq).await;
        let now = metrics(&hub).await;
        let count = |name: &str| now.of(&format!("recado_post_to_{name}_seconds_count"));
        (count("socket") >= 1.0 && count("ack") >= 1.0).then_some(())
    })
    .await;
    page.close().await;
    eventually("it has left", PATIENCE, async || {
        (metrics(&hub).await.of("recado_connections{transport=\"websocket\"}") == 0.0).then_some(())
    })
    .await;
    let (_, text) = hub.get("/metrics", None).await.unwrap();
    assert!(text.contains("recado_disconnected_total{reason="), "{text}");
    for secret in ["user-of-metrics", "account-of-metrics", "device-of-metrics", &session, &db.key(), "boss"] {
        assert!(!text.contains(secret), "{secret} is in the metrics");
    }
}
