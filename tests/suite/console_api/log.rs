//! Tests the rows of the log page by page, and its partitions.

use recado::domain::Seq;
use recado::store::Database;
use recado::store::erase::{self, EraseTarget};
use serde_json::{Value, json};

use super::*;

/// The lines of a page.
async fn lines(db: &TestDb, hub: &TestHub, query: &str) -> Vec<Value> {
    let (status, body) = hub.get(&format!("/api/admin/log{query}"), Some(&db.admin_key())).await.unwrap();
    assert_eq!(status, 200, "{body}");
    let lines = body.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")));
    let lines: Vec<Value> = lines.collect();
    for row in lines.iter().filter(|line| line["seq"].is_i64()) {
        fits("/components/schemas/LogRow", row).unwrap_or_else(|error| panic!("{error}: {row}"));
    }
    lines
}

fn seqs(lines: &[Value]) -> Vec<i64> {
    lines.iter().filter_map(|line| line["seq"].as_i64()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_has_what_clients_are_not_told_and_an_erased_one_nothing() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let whole = note("title").message("m").to_users(&["ann", "bob"]).account("7").data("{ \"z\":1.0}").ttl(3600);
    hub.post(&whole.raw("type", "\"order_created\"")).await;
    hub.post(&note("to all").to_everyone().never_replayed()).await;
    hub.post(&note("secret").to_user("ann")).await;
    let rows = lines(&db, &hub, "").await;
    assert_eq!(seqs(&rows), [1, 2, 3]);
    let row = &rows[0];
    assert_eq!((&row["type"], &row["title"], &row["message"]), (&json!("order_created"), &json!("title"), &json!("m")));
    assert_eq!((&row["user_ids"], &row["account_id"], &row["broadcast"]), (&json!(["ann", "bob"]), &json!("7"), &json!(false)));
    assert_eq!((&row["source"], &row["replay"], &row["bytes"]), (&json!("shop"), &json!(true), &json!(5 + 1 + 10)));
    let time = |name: &str| chrono::DateTime::parse_from_rfc3339(row[name].as_str().unwrap()).unwrap();
    assert_eq!((time("expires_at") - time("created_at")).num_seconds(), 3600);
    assert_eq!((&rows[1]["broadcast"], &rows[1]["replay"], &rows[1]["user_ids"]), (&json!(true), &json!(false), &json!([])));
    assert_eq!((&rows[2]["user_ids"], &rows[2]["account_id"], &rows[2]["expires_at"]), (&json!(["ann"]), &json!(null), &json!(null)));
    let (_, text) = hub.get("/api/admin/log?limit=3", Some(&db.admin_key())).await.unwrap();
    assert!(text.contains("\"data\":{ \"z\":1.0}"), "as posted: {text}");

    let mut connection = Database::parse(&db.url(), None).unwrap().connect("test").await.unwrap();
    erase::erase(&mut connection, &EraseTarget::Seq(Seq::from_db(3)), "asked for").await.unwrap();
    let erased = lines(&db, &hub, "?after=2").await.remove(0);
    assert_eq!(
        (&erased["seq"], &erased["type"], &erased["title"], &erased["data"]),
        (&json!(3), &json!("erased"), &json!(""), &json!(null))
    );
    assert_eq!((&erased["user_ids"], &erased["bytes"], &erased["replay"]), (&json!([]), &json!(0), &json!(false)));
    assert_eq!((&erased["id"], &erased["created_at"]), (&rows[2]["id"], &rows[2]["created_at"]), "number, id and time stay");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_and_pages_show_every_row_that_matches_once() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let kinds = ["order_created", "order_paid", "stock_low"];
    for n in 0..30 {
        let note = note("n").raw("type", &format!("\"{}\"", kinds[n % 3]));
        let note = match n % 5 {
            0 => note.to_user("ann"),
            1 => note.to_users(&["ann", "bob"]),
            2 => note.account("7"),
            3 => note.to_user("bob").account("7"),
            _ => note.to_everyone(),
        };
        hub.post(&note).await;
    }
    db.run("SELECT recado.notify('stock_low', 't', 'm', user_id => 'ann')").await;
    eventually("it is moved", PATIENCE, async || (db.head().await == 31).then_some(())).await;
    let all: Vec<i64> = (1..=31).collect();
    let of = |wanted: &dyn Fn(i64) -> bool| -> Vec<i64> { all.iter().copied().filter(|seq| wanted(*seq)).collect() };
    for (query, expected) in [
        ("?limit=1000", all.clone()),
        ("?type=stock_low", of(&|seq| seq == 31 || seq % 3 == 0)),
        ("?type=order_*", of(&|seq| seq != 31 && seq % 3 != 0)),
        ("?type=order_paid,stock_*", of(&|seq| seq == 31 || seq % 3 != 1)),
        ("?user=ann", of(&|seq| seq == 31 || [1, 2].contains(&(seq % 5)))),
        ("?account=7", of(&|seq| seq != 31 && [3, 4].contains(&(seq % 5)))),
        ("?source=shop&user=ann&type=order_created", of(&|seq| seq != 31 && seq % 3 == 1 && [1, 2].contains(&(seq % 5)))),
        ("?source=nobody", vec![]),
        ("?after=29", vec![30, 31]),
        ("?after=31", vec![]),
        ("?after=99", vec![]),
    ] {
        assert_eq!(seqs(&lines(&db, &hub, query).await), expected, "{query}");
    }
    // Without a position, the last ones.
    assert_eq!(seqs(&lines(&db, &hub, "?limit=3").await), [29, 30, 31]);
    assert_eq!(seqs(&lines(&db, &hub, "?limit=2&type=stock_low").await), [30, 31]);
    for filter in ["", "&type=order_*", "&user=ann"] {
        let (mut at, mut seen) = (0, Vec::new());
        loop {
            let page = lines(&db, &hub, &format!("?limit=4&after={at}{filter}")).await;
            seen.extend(seqs(&page));
            let Some(next) = page.last().and_then(|line| line["next"].as_i64()) else { break };
            at = next;
        }
        assert_eq!(seen, seqs(&lines(&db, &hub, &format!("?after=0&limit=1000{filter}")).await), "{filter}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_of_large_rows_comes_in_pieces_and_begins_at_the_floor() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    append(&db, "ann", 700, 5000).await;
    let rows = lines(&db, &hub, "?after=0&limit=1000").await;
    assert_eq!(seqs(&rows), (1..=700).collect::<Vec<_>>());
    assert_eq!(rows[0]["message"].as_str().unwrap().len(), 5000);
    db.run("UPDATE recado.meta SET floor_seq = 690").await;
    let rows = lines(&db, &hub, "?after=3&limit=1000").await;
    assert_eq!((&rows[0], seqs(&rows)), (&json!({ "skipped": { "from": 4, "to": 690 } }), (691..=700).collect::<Vec<_>>()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_say_what_they_hold_and_when_they_go() {
    let db = TestDb::new().await;
    db.with_partitions("UPDATE recado.meta SET partition_rows = 10; SELECT recado.ensure_partitions();").await;
    for _ in 0..3 {
        append(&db, "ann", 8, 10).await;
        db.run("SELECT recado.ensure_partitions()").await;
    }
    db.run("UPDATE recado.meta SET floor_seq = 4").await;
    let hub = TestHub::on(&db).with("RECADO_RETENTION_AGE", "90d").with("RECADO_RETENTION_SIZE", "50GB").start().await;
    let answer = shown(&db, &hub, "/api/admin/log/partitions").await;
    assert_eq!((&answer["floor"], &answer["head"], &answer["earliest"]), (&json!(4), &json!(24), &json!(5)));
    let partitions = answer["partitions"].as_array().unwrap();
    let found = |name: &str| partitions.iter().map(|partition| partition[name].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!((&found("lo")[..3], &found("hi")[..3], &found("rows")[..4]), (&[0, 10, 20][..], &[10, 20, 30][..], &[5, 10, 5, 0][..]));
    assert!(partitions.len() > 3 && found("bytes").iter().all(|bytes| *bytes > 0), "{answer:#}");
    assert_eq!(answer["bytes"].as_i64().unwrap(), found("bytes").iter().sum::<i64>());
    assert_eq!(partitions[1]["name"], "log_p000000000010");
    let time = |partition: &Value, name: &str| chrono::DateTime::parse_from_rfc3339(partition[name].as_str().unwrap()).unwrap();
    for full in &partitions[..2] {
        assert!(time(full, "from") <= time(full, "to"));
        assert_eq!((time(full, "drops_at") - time(full, "to")).num_days(), 90);
    }
    assert!(partitions[2]["to"].is_string() && partitions[2]["drops_at"].is_null(), "it has the head: {answer:#}");
    assert!(partitions[3]["from"].is_null() && partitions[3]["to"].is_null() && partitions[3]["drops_at"].is_null());
    assert_eq!(
        answer["settings"],
        json!({
            "retention_age_seconds": 90 * 86_400, "retention_size_bytes": 50_000_000_000_i64, "retention_sessions_seconds": 30 * 86_400,
            "retention_devices_seconds": 180 * 86_400, "retention_upstream_seconds": 30 * 86_400, "retention_audit_seconds": 400 * 86_400,
        })
    );
}
