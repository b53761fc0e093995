//! Tests the traces: what a collector gets, and that a missing one costs nothing.

use std::net::TcpListener;
use std::time::Duration;

use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use recado::domain::{Audience, BodyHash, IdempotencyKey, InstanceId, NewNotification, NotificationId, Seq, TraceContext, UserId};
use recado::store::append::{self, Appended, Conflict, NewBatch};
use recado::store::log_watermark::WatermarkEnd;
use recado::store::read::{self, TailRow, TailSize};
use sqlx::{AssertSqlSafe, Row};

use super::support::*;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const UNSAMPLED_CALLER: &str = "00-5bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
const NOTIFY: &str = "/api/internal/notify";
const JSON: (&str, &str) = ("content-type", "application/json");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_post_is_a_span_of_its_callers_trace() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let hub = collector.of(TestHub::on(&db)).with("OTEL_EXPORTER_OTLP_HEADERS", "x-key=hush").start().await;
    let body = note("title-of-traces").to_user("user-of-traces").body();
    let headers = [JSON, ("traceparent", CALLER), ("tracestate", "shop=1"), ("x-request-id", "request-of-traces")];
    assert_eq!(hub.post_raw(NOTIFY, &headers, body).await.status, 201);

    let span = collector.span("the span of the post", |span| span.trace == TRACE && span.kind == SpanKind::Server).await;
    assert_eq!((span.name.as_str(), span.parent.as_str(), span.is_error), ("POST /api/internal/notify", "00f067aa0ba902b7", false));
    assert_eq!(span.text("http.request.method").as_deref(), Some("POST"));
    assert_eq!(span.text("http.route").as_deref(), Some(NOTIFY));
    assert_eq!(span.text("http.response.status_code").as_deref(), Some("201"));
    assert_eq!(span.text("request_id").as_deref(), Some("request-of-traces"));
    assert_eq!(span.text("error.type"), None);
    assert!(span.times.0 < span.times.1, "{span:?}");
    assert_eq!(span.of_resource("service.name").as_deref(), Some("recado"));
    assert_eq!(span.of_resource("service.version").as_deref(), Some(env!("CARGO_PKG_VERSION")));
    assert!(span.of_resource("service.instance.id").is_some_and(|id| hub.said().contains(&id)), "{span:?}");
    assert_eq!(collector.headers()[0]["x-key"], "hush");
    assert!(!hub.said().contains("hush"), "the collector's key is in the log");
    for secret in ["user-of-traces", "title-of-traces", &db.key(), "boss"] {
        assert!(collector.spans().iter().all(|span| !span.whole().contains(secret)), "{secret} is in a span");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_request_tells_its_code_and_no_path() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let hub = collector.of(TestHub::on(&db)).with("OTEL_SERVICE_NAME", "hub-of-traces").start().await;
    assert_eq!(hub.post_raw(NOTIFY, &[JSON, ("traceparent", "nonsense")], "{").await.status, 400);
    let refused = collector.span("the span of the post", |span| span.name == "POST /api/internal/notify").await;
    assert_eq!(refused.text("http.response.status_code").as_deref(), Some("400"));
    assert_eq!(refused.text("error.type").as_deref(), Some("malformed_json"));
    assert_eq!((refused.parent.as_str(), refused.is_error), ("", false), "a 4xx is no error of the server");
    assert_eq!(refused.of_resource("service.name").as_deref(), Some("hub-of-traces"));

    assert_eq!(hub.get("/path-of-traces", None).await.unwrap().0, 404);
    let lost = collector.span("the span of a path without route", |span| span.text("error.type").as_deref() == Some("not_found")).await;
    assert_eq!((lost.name.as_str(), lost.text("http.route")), ("GET", None));
    let request = http_client().request(reqwest::Method::from_bytes(b"SECRET").unwrap(), format!("http://{}/livez", hub.address));
    assert_eq!(request.send().await.unwrap().status(), 405);
    let odd = collector.span("the span of another method", |span| span.text("http.request.method").as_deref() == Some("_OTHER")).await;
    assert_eq!(odd.name, "HTTP /livez");
    assert!(collector.spans().iter().all(|span| !span.whole().contains("path-of-traces") && !span.whole().contains("SECRET")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_caller_and_the_sampler_decide_what_is_sent() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let hub = collector.of(TestHub::on(&db)).with("OTEL_TRACES_SAMPLER", "parentbased_always_off").start().await;
    let body = || note("n").to_user("ann").body();
    hub.post_raw(NOTIFY, &[JSON], body()).await;
    hub.post_raw(NOTIFY, &[JSON, ("traceparent", UNSAMPLED_CALLER)], body()).await;
    hub.post_raw(NOTIFY, &[JSON, ("traceparent", CALLER)], body()).await;
    collector.span("the sampled post", |span| span.kind == SpanKind::Server).await;
    assert!(collector.spans().iter().all(|span| span.trace == TRACE), "{:?}", collector.spans());
}

/// The flush at the end sends what the queue still holds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_stops_sends_its_last_spans() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let mut hub = collector.of(TestHub::on(&db)).with("OTEL_BSP_SCHEDULE_DELAY", "3600000").start().await;
    hub.post_raw(NOTIFY, &[JSON, ("traceparent", CALLER)], note("n").to_user("ann").body()).await;
    assert!(collector.spans().is_empty(), "{:?}", collector.spans());
    hub.signal("-TERM").await;
    assert!(hub.ended(PATIENCE).await.success());
    assert!(collector.spans().iter().any(|span| span.trace == TRACE), "{:?}", collector.spans());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_is_away_is_counted_and_logged_once_a_minute() {
    let db = TestDb::new().await;
    // A port at which nothing listens once this is dropped.
    let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let hub =
        TestHub::on(&db).with("OTEL_EXPORTER_OTLP_ENDPOINT", &format!("http://me:hush@{address}")).with("OTEL_BSP_SCHEDULE_DELAY", "50");
    let hub = hub.with("OTEL_EXPORTER_OTLP_TIMEOUT", "500").with("OTEL_BSP_MAX_QUEUE_SIZE", "4").start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let failed = async |reason: &str| {
        let (_, page) = hub.get("/metrics", None).await.unwrap();
        let series = format!("recado_otel_failed_total{{reason=\"{reason}\"}} ");
        page.lines().find_map(|line| line.strip_prefix(&series)?.parse::<f64>().ok()).unwrap()
    };
    let mut seq = 0;
    eventually("spans are lost in both ways", Duration::from_secs(60), async || {
        let posted = hub.post(&note("n").to_user("ann")).await;
        assert_eq!(posted.seq, seq + 1);
        seq = posted.seq;
        (failed("export").await > 0.0 && failed("queue_full").await > 0.0).then_some(())
    })
    .await;
    ann.until_seq(seq).await;
    assert!(hub.is_ready().await);
    let said = hub.said();
    assert_eq!(said.matches("traces were lost").count(), 1, "{said}");
    assert!(said.contains(&format!("http://{address}/")) && !said.contains("hush"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_collector_that_refuses_is_counted_and_gets_the_next_spans() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let hub = collector.of(TestHub::on(&db)).start().await;
    collector.refuse_with(400);
    eventually("the refusal is counted", PATIENCE, async || {
        hub.post(&note("n").to_user("ann")).await;
        (hub.metric("recado_otel_failed_total").await > 0.0).then_some(())
    })
    .await;
    assert!(hub.said().contains("traces were lost"));
    collector.take_again();
    hub.post(&note("n").to_user("ann")).await;
    collector.span("a later post", |span| span.name == "POST /api/internal/notify").await;
}

/// Threads of the process: the exporter has one of its own.
fn threads(hub: &TestHub) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", hub.pid())).unwrap();
    tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_collector_nothing_is_started() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let hub = TestHub::on(&db).with("OTEL_SERVICE_NAME", "hub").with("OTEL_TRACES_SAMPLER", "nonsense").start().await;
    let disabled = collector.of(TestHub::on(&db)).with("OTEL_SDK_DISABLED", "true").start().await;
    let tracing = collector.of(TestHub::on(&db)).start().await;
    for hub in [&hub, &disabled, &tracing] {
        hub.post_raw(NOTIFY, &[JSON, ("traceparent", CALLER)], note("n").to_user("ann").body()).await;
    }
    collector.span("the span of the hub with traces", |span| span.trace == TRACE).await;
    let instances: Vec<_> = collector.spans().iter().filter_map(|span| span.of_resource("service.instance.id")).collect();
    assert!(instances.iter().all(|id| tracing.said().contains(id) && !disabled.said().contains(&format!("instance={id}"))));
    let exports = |hub: &TestHub| threads(hub).iter().any(|name| name.starts_with("OpenTelemetry"));
    assert_eq!([&hub, &disabled, &tracing].map(exports), [false, false, true]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_variable_is_refused_with_its_name() {
    let db = TestDb::new().await;
    let wrong = [("OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318"), ("OTEL_TRACES_SAMPLER", "sometimes")];
    for (name, value) in wrong {
        let hub = TestHub::on(&db).with("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318").with(name, value);
        let (code, said) = run_to_the_end(&hub).await;
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(name), "{said}");
    }
}

/// The column `trace` of each row of the log.
async fn stored(db: &TestDb) -> Vec<Option<String>> {
    let rows = sqlx::raw_sql(AssertSqlSafe("SELECT trace FROM recado.log ORDER BY seq")).fetch_all(&mut db.connect().await).await.unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_commit_and_the_delivery_on_each_hub_link_to_the_post() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let (hub, other) =
        tokio::join!(async { collector.of(TestHub::on(&db)).start().await }, async { collector.of(TestHub::on(&db)).start().await });
    let mut ann = TestClient::of("ann").connect(&other).await;
    hub.post(&note("own trace").to_user("ann")).await;
    let item = note("n").to_user("ann").body();
    let batch = format!("{{\"items\":[{item},{item},{item}]}}");
    let answer = hub.post_raw("/api/internal/notify/batch", &[JSON, ("traceparent", CALLER)], batch).await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    ann.until_seq(4).await;

    let post = collector.span("the span of the post", |span| span.trace == TRACE && span.kind == SpanKind::Server).await;
    let link = vec![(TRACE.to_owned(), post.id.clone())];
    let commit = collector.span("the span of the commit", |span| span.trace == TRACE && span.name == "append").await;
    assert_eq!((&commit.parent, &commit.links, commit.kind), (&post.id, &link, SpanKind::Internal));
    assert_eq!(commit.text("recado.rows").as_deref(), Some("3"));
    assert!(commit.times.0 >= post.times.0 && commit.times.0 < commit.times.1, "{commit:?} {post:?}");
    let published = |span: &GotSpan| span.trace == TRACE && span.name == "publish notifications";
    let spans = eventually("both hubs have published", PATIENCE, async || {
        let spans: Vec<GotSpan> = collector.spans().into_iter().filter(published).collect();
        (spans.len() == 2).then_some(spans)
    })
    .await;
    for span in &spans {
        assert_eq!((&span.parent, &span.links, span.kind), (&post.id, &link, SpanKind::Producer), "one link for one request");
        assert_eq!((span.text("recado.first_seq").as_deref(), span.text("recado.last_seq").as_deref()), (Some("2"), Some("4")));
        assert_eq!(span.text("messaging.batch.message_count").as_deref(), Some("3"));
    }
    let instances = spans.iter().map(|span| span.of_resource("service.instance.id"));
    assert_eq!(instances.collect::<std::collections::BTreeSet<_>>().len(), 2, "{spans:?}");

    let stored = stored(&db).await;
    assert_eq!(stored[1..], vec![Some(format!("00-{TRACE}-{}-01", post.id)); 3]);
    let own = stored[0].as_deref().and_then(TraceContext::parse).expect("a post without traceparent begins a trace");
    assert!(own.is_sampled && format!("{:032x}", own.trace_id) != TRACE);
}

/// Its lines are appended while the response is being written, after the span of the request has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_lines_is_one_request() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let hub = collector.of(TestHub::on(&db)).start().await;
    let line = note("n").to_user("ann").body();
    let request = http_client().post(format!("http://{}/api/internal/notify/ndjson", hub.address)).bearer_auth(hub.key());
    let request = request.header("content-type", "application/x-ndjson").header("traceparent", CALLER);
    let answer = request.body(format!("{line}\n{line}\n")).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    answer.text().await.unwrap();
    let post = collector.span("the span of the post", |span| span.trace == TRACE && span.kind == SpanKind::Server).await;
    collector.span("the span of the commit", |span| span.name == "append" && span.parent == post.id).await;
    assert_eq!(stored(&db).await, vec![Some(format!("00-{TRACE}-{}-01", post.id)); 2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_has_no_trace_unless_its_post_is_sampled_and_clients_see_none() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let without = TestHub::on(&db).start().await;
    let with = collector.of(TestHub::on(&db)).start().await;
    let mut ann = TestClient::of("ann").connect(&with).await;
    let body = || note("n").to_user("ann").body();
    without.post_raw(NOTIFY, &[JSON, ("traceparent", CALLER)], body()).await;
    with.post_raw(NOTIFY, &[JSON, ("traceparent", UNSAMPLED_CALLER)], body()).await;
    db.run("SELECT recado.notify('n', 'from SQL', 'm', user_id => 'ann')").await;
    ann.until_seq(3).await;
    with.post_raw(NOTIFY, &[JSON, ("traceparent", CALLER)], body()).await;
    ann.until_seq(4).await;
    assert!(matches!(&stored(&db).await[..], [None, None, None, Some(_)]), "{:?}", stored(&db).await);
    let (_, history) = with.get("/api/notifications", Some(&token("ann", &[]))).await.unwrap();
    assert!(history.contains("from SQL") && !history.contains(TRACE), "{history}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_row_of_a_commit_keeps_the_trace_of_its_own_request() {
    let db = TestDb::new().await;
    let mut connection = db.hub().connect("test").await.unwrap();
    let row = |key: Option<&str>| NewNotification {
        id: NotificationId::new(),
        kind: "t".to_owned(),
        title: String::new(),
        message: String::new(),
        data: None,
        audience: Audience::User { user: UserId::parse("ann").unwrap(), account: None },
        ttl_seconds: None,
        replay: true,
        inbox: true,
        source: "test".to_owned(),
        key: key.map(|key| IdempotencyKey::new("test", key)),
        body_hash: BodyHash(0),
    };
    let trace = |span_id| Some(TraceContext { trace_id: 7, span_id, is_sampled: true });
    let mut commit = async |rows: Vec<NewNotification>, traces: &[Option<TraceContext>]| {
        let rows: Vec<&NewNotification> = rows.iter().collect();
        let (seen, origin) = (WatermarkEnd::default(), InstanceId::new());
        let batch = NewBatch { seen, origin, sealed: None, rows: &rows, traces, conflict: Conflict::LeavesOut };
        append::append(&mut connection, batch, PATIENCE).await.unwrap().outcomes
    };
    commit(vec![row(Some("known"))], &[trace(1)]).await;
    let outcomes = commit(vec![row(None), row(Some("known")), row(None), row(Some("new"))], &[None, trace(2), trace(3), trace(4)]).await;
    assert!(matches!(outcomes[1], Appended::Known { .. }), "{outcomes:?}");
    // The setting ends with its transaction.
    commit(vec![row(None), row(None)], &[]).await;
    let tail = read::tail(&mut connection, Seq::ZERO, TailSize::WHOLE, None).await.unwrap();
    let traces = tail.rows.into_iter().map(|row| match row {
        TailRow::Readable(notification) => notification.trace,
        TailRow::Unreadable { error, .. } => panic!("{error}"),
    });
    assert_eq!(traces.collect::<Vec<_>>(), [trace(1), None, trace(3), trace(4), None, None]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_acknowledgement_ends_the_trace_of_a_post() {
    let (db, collector) = (TestDb::new().await, Collector::start().await);
    let hub = collector.of(TestHub::on(&db)).start().await;
    let (mut ann, mut phone) = (TestClient::of("ann").connect(&hub).await, TestClient::of("ann").device("phone").connect(&hub).await);
    assert_eq!(hub.post_raw(NOTIFY, &[JSON, ("traceparent", CALLER)], note("n").to_user("ann").body()).await.status, 201);
    for client in [&mut ann, &mut phone] {
        client.until_seq(1).await;
        client.ack(1).await;
    }
    let post = collector.span("the span of the post", |span| span.trace == TRACE && span.kind == SpanKind::Server).await;
    let acked = |span: &GotSpan| span.trace == TRACE && span.name == "ack notifications";
    let ack = collector.span("the span of the acknowledgement", acked).await;
    assert_eq!((&ack.parent, ack.text("recado.seq").as_deref()), (&post.id, Some("1")));
    assert!(ack.times.0 >= post.times.0 && ack.times.0 < ack.times.1, "{ack:?} {post:?}");
    // The spans of a later post come after all spans of this one.
    hub.post_raw(NOTIFY, &[JSON], note("later").to_user("bob").body()).await;
    collector.span("a later post", |span| span.kind == SpanKind::Server && span.trace != TRACE).await;
    assert_eq!(collector.spans().iter().filter(|span| acked(span)).count(), 1, "one of two devices");
}
