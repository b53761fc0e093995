//! Tests that a CloudEvents 1.0 event becomes one notification, once, however it is carried.
//!
//! The events are the examples of the specification, with recipients added.

use super::support::*;

const NOTIFY: &str = "/api/internal/notify";
const STRUCTURED: (&str, &str) = ("content-type", "application/cloudevents+json; charset=utf-8");

/// The attributes of the specification's examples.
const EXAMPLE: &str = r#""specversion":"1.0","type":"com.github.pull_request.opened","source":"https://github.com/cloudevents/spec/pull",
    "subject":"123","time":"2018-04-05T17:31:00Z","comexampleextension1":"value","comexampleothervalue":5,"userid":"ann""#;

fn event(id: &str, rest: &str) -> String {
    format!("{{{EXAMPLE},\"id\":\"{id}\",{rest}}}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_specification_are_delivered() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let examples = [
        (r#""datacontenttype":"text/xml","data":"<much wow=\"xml\"/>""#, r#""<much wow=\"xml\"/>""#),
        (
            r#""datacontenttype":"application/json","data":{"appinfoA":"abc","appinfoB":123,"appinfoC":true}"#,
            r#"{"appinfoA":"abc","appinfoB":123,"appinfoC":true}"#,
        ),
        (r#""data":{"appinfoA" : "abc", "n": 1.0}"#, r#"{"appinfoA" : "abc", "n": 1.0}"#),
    ];
    for (at, (rest, _)) in examples.iter().enumerate() {
        let answer = hub.post_raw(NOTIFY, &[STRUCTURED], event(&format!("A234-{at}"), rest)).await;
        assert_eq!(answer.status, 201, "{}", answer.body);
    }
    ann.until_seq(3).await;
    let sql = "SELECT data::text, type, title, message FROM recado.log ORDER BY seq";
    let rows: Vec<(String, String, String, String)> = sqlx::query_as(sql).fetch_all(&mut db.connect().await).await.unwrap();
    for ((_, data), row) in examples.iter().zip(&rows) {
        assert_eq!(row, &((*data).to_owned(), "com.github.pull_request.opened".into(), "123".into(), String::new()));
    }
    let again = hub.post_raw(NOTIFY, &[STRUCTURED], event("A234-1", examples[1].0)).await;
    assert_eq!((again.status, again.receipt().seq), (200, 2), "source and id are its key");
    let other = hub.post_raw(NOTIFY, &[STRUCTURED], event("A234-1", "\"data\":1")).await;
    assert_eq!((other.status, other.code()), (422, "idempotency_conflict"));
    let binary_data = hub.post_raw(NOTIFY, &[STRUCTURED], event("B", r#""data_base64":"c29tZQ==""#)).await;
    assert_eq!((binary_data.status, &binary_data.body["errors"][0]["pointer"]), (422, &"/data_base64".into()));
    let two_keys = hub.post_raw(NOTIFY, &[STRUCTURED, ("idempotency-key", "k")], event("C", "\"data\":1")).await;
    assert_eq!(two_keys.status, 422, "an event has its key");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_in_headers_is_the_same_event() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let headers = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-type", "com.example.someevent"),
        ("ce-time", "2018-04-05T03:56:24Z"),
        ("ce-id", "1234-1234-1234"),
        ("ce-source", "/mycontext/subcontext"),
        ("ce-subject", "Euro%20%E2%82%AC"),
        ("ce-userids", "ann,bob"),
        ("ce-ttl", "60"),
        ("ce-comexampleextension1", "value"),
    ];
    let answer = hub.post_raw(NOTIFY, &headers, "{\"n\": 1.0}").await;
    assert_eq!(answer.status, 201, "{}", answer.body);
    let same = r#"{"specversion":"1.0","type":"com.example.someevent","id":"1234-1234-1234","source":"/mycontext/subcontext",
        "subject":"Euro €","userids":"bob, ann","ttl":60,"data":{"n": 1.0}}"#;
    let structured = hub.post_raw(NOTIFY, &[STRUCTURED], same).await;
    assert_eq!((structured.status, structured.receipt().seq), (200, 1));
    let row = "SELECT count(*) FROM recado.log WHERE title = 'Euro €' AND data::text = '{\"n\": 1.0}' AND user_ids = '{ann,bob}'";
    assert_eq!(db.number(row).await, 1);

    let nothing = hub.post_raw(NOTIFY, &[&headers[..4], &[("ce-id", "2"), headers[5], headers[7]]].concat(), "").await;
    assert_eq!(nothing.status, 201, "an event may have no data: {}", nothing.body);
    let plain = hub.post_raw(NOTIFY, &[headers[0], headers[2]], note("plain").to_user("ann").body()).await;
    assert_eq!(plain.status, 201, "without ce-specversion it is no event: {}", plain.body);
    let unclear = hub.post_raw(NOTIFY, &[&headers[..6], &[("ce-subject", "50%"), headers[7]]].concat(), "1").await;
    assert_eq!((unclear.status, &unclear.body["errors"][0]["pointer"]), (422, &"/subject".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_list_of_events_is_a_batch() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let batch = "/api/internal/notify/batch";
    let media = ("content-type", "application/cloudevents-batch+json");
    let two = format!("[{},{}]", event("1", "\"data\":1"), event("2", "\"data\":2"));
    let answer = hub.post_raw(batch, &[media], two.clone()).await;
    assert_eq!((answer.status, &answer.body["items"][1]["seq"]), (201, &2.into()), "{}", answer.body);
    assert_eq!(hub.post_raw(batch, &[media], two).await.status, 200);
    let late = format!("[{},{}]", event("3", "\"data\":1"), event("4", "\"specversion\":\"0.3\""));
    let bad = hub.post_raw(batch, &[media], late).await;
    assert_eq!((bad.status, &bad.body["errors"][0]["pointer"]), (422, &"/1/specversion".into()), "{}", bad.body);
    let conflict = hub.post_raw(batch, &[media], format!("[{},{}]", event("5", "\"data\":1"), event("1", "\"data\":2"))).await;
    assert_eq!((conflict.code(), &conflict.body["errors"][0]["pointer"]), ("idempotency_conflict", &"/1".into()));
    let none = hub.post_raw(batch, &[media], "[]").await;
    assert_eq!((none.status, &none.body["items"]), (200, &serde_json::json!([])), "the specification allows an empty list");
    assert_eq!(db.head().await, 2);
}
