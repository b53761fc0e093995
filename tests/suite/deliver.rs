//! Tests that a notification reaches every device of its audience and no other device.
//!
//! It arrives byte for byte as it was posted.

use std::time::Duration;

use super::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_audience_gets_what_is_addressed_to_it_on_every_hub_and_nobody_else_does() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let mut ann = TestClient::of("ann").account("a").device("phone").connect(&here).await;
    let mut ann_elsewhere = TestClient::of("ann").account("a").device("laptop").connect(&there).await;
    let mut ann_of_b = TestClient::of("ann").account("b").device("work").connect(&here).await;
    let mut ann_of_both = TestClient::of("ann").account("a").account("b").device("tablet").connect(&there).await;
    let mut bob = TestClient::of("bob").account("a").connect(&there).await;
    let mut eve = TestClient::of("eve").account("c").connect(&here).await;
    let mut loner = TestClient::of("loner").connect(&there).await;

    here.post(&note("user").to_user("ann")).await;
    there.post(&note("user in a").to_user("ann").account("a")).await;
    here.post(&note("list").to_users(&["ann", "bob"])).await;
    there.post(&note("list in c").to_users(&["ann", "eve"]).account("c")).await;
    here.post(&note("account").account("a")).await;
    // A marker: a row that was not delivered before it was not delivered at all.
    there.post(&note("end").to_everyone()).await;

    for ann in [&mut ann, &mut ann_elsewhere, &mut ann_of_both] {
        assert_eq!(ann.titles_before("end").await, ["user", "user in a", "list", "account"]);
    }
    assert_eq!(ann_of_b.titles_before("end").await, ["user", "list"]);
    assert_eq!(bob.titles_before("end").await, ["list", "account"]);
    assert_eq!(eve.titles_before("end").await, ["list in c"]);
    assert_eq!(loner.titles_before("end").await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_holds_in_replay_as_well() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    hub.post(&note("user").to_user("ann")).await;
    hub.post(&note("user in a").to_user("ann").account("a")).await;
    hub.post(&note("list").to_users(&["ann", "bob"])).await;
    hub.post(&note("list in c").to_users(&["ann", "eve"]).account("c")).await;
    hub.post(&note("account").account("a")).await;
    hub.post(&note("everyone").to_everyone()).await;
    hub.settled(&db).await;
    let cases: [(&str, &[&str], &[&str]); 5] = [
        ("ann", &["a"], &["user", "user in a", "list", "account", "everyone"]),
        ("ann", &["b"], &["user", "list", "everyone"]),
        ("bob", &["a", "b"], &["list", "account", "everyone"]),
        ("eve", &["c"], &["list in c", "everyone"]),
        ("loner", &[], &["everyone"]),
    ];
    for (user, accounts, expected) in cases {
        let asked = accounts.iter().fold(TestClient::of(user), |asked, account| asked.account(account));
        let got = asked.since("earliest").connect(&hub).await.until_caught_up().await;
        let titles: Vec<&str> = got.iter().map(|n| n.title.as_str()).collect();
        assert_eq!(titles, expected, "{user} in {accounts:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frame_says_to_whom_it_is_and_holds_what_the_receipt_says() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").account("a").connect(&hub).await;
    assert_eq!((ann.hello["user_id"].as_str(), ann.hello["account_ids"][0].as_str()), (Some("ann"), Some("a")));
    assert_eq!((ann.hello["head"].as_i64(), ann.hello["earliest"].as_i64()), (Some(0), Some(1)));
    assert_eq!(ann.resume_status(), "live");
    let cases = [
        (note("1").to_user("ann"), "user", None),
        (note("2").to_user("ann").account("a"), "user", Some("a")),
        (note("3").to_users(&["ann", "bob"]), "user", None),
        (note("4").account("a"), "account", Some("a")),
        (note("5").to_everyone(), "everyone", None),
    ];
    for (note, to, account) in cases {
        let receipt = hub.post(&note).await;
        let got = ann.expect_notification().await;
        assert_eq!((got.seq, got.id.as_str()), (receipt.seq, receipt.id.as_str()));
        assert_eq!((got.to.as_str(), got.account.as_deref(), got.replayed), (to, account, false), "{}", got.text);
        assert_eq!((got.kind.as_str(), got.prev), ("order_created", got.seq - 1));
        assert!(got.text.contains(&format!("\"created_at\":\"{}\"", receipt.created_at)), "{}", got.text);
        assert!(!got.text.contains("bob"), "the others on the list are nobody's business: {}", got.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn data_arrives_byte_for_byte_live_elsewhere_and_replayed() {
    let db = TestDb::new().await;
    let (here, there) = (TestHub::on(&db).start().await, TestHub::on(&db).start().await);
    let mut live = TestClient::of("ann").device("1").connect(&here).await;
    let mut elsewhere = TestClient::of("ann").device("2").connect(&there).await;
    let posted = [
        "{\"b\":1,\"a\":2}",
        "{ \"spaces\" :\t[ 1 , 2 ] }",
        "1.0",
        "1e5",
        "-0",
        "0.1000",
        "12345678901234567",
        "\"\\u00e9 é \\ud83d\\ude00 😀 \\/ </script>\"",
        "[]",
        "\"\"",
        "false",
        "{\"nested\":{\"seq\":1,\"type\":\"heartbeat\",\"prev\":99}}",
    ];
    for data in posted {
        here.post(&note("t").to_user("ann").data(data)).await;
    }
    there.settled(&db).await;
    let replayed = TestClient::of("ann").since("earliest").connect(&there).await.until_caught_up().await;
    assert_eq!(replayed.len(), posted.len());
    for (data, replayed) in posted.iter().zip(replayed) {
        assert_eq!(live.expect_notification().await.data, *data);
        assert_eq!(elsewhere.expect_notification().await.data, *data);
        assert_eq!(replayed.data, *data);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_refused_reaches_nobody() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    let cases = [
        (note("x"), 422, "no_audience"),
        (note("x").to_user("ann").raw("type", "\"heartbeat\""), 422, "reserved_type"),
        (note("x").to_user("ann").raw("type", "\"upstream_gap\""), 422, "reserved_type"),
        (note("x").to_user("ann").raw("type", "\"inbox\""), 422, "reserved_type"),
        (note("x").to_user("ann").raw("type", "\"preferences\""), 422, "reserved_type"),
        (note("x").to_user("ann").raw("type", "\"recado_member\""), 422, "reserved_type"),
        (note("x").to_user("-"), 422, "invalid_field"),
        (note("x").to_user("ann").raw("type", "\"Not a type\""), 422, "invalid_field"),
        (note("x").to_user("ann").to_everyone(), 422, "invalid_field"),
        (note("x").to_user("ann").raw("title", "7"), 422, "invalid_field"),
        (note("x").to_user("ann").data("{\"a\":1,\"a\":2}"), 422, "invalid_field"),
        (note("x").to_user("ann").data("\"\\u0000\""), 422, "invalid_field"),
        (note("x").to_user("ann").data("{"), 400, "malformed_json"),
    ];
    for (note, status, code) in cases {
        let answer = hub.try_post(&note).await.unwrap();
        assert_eq!((answer.status, answer.code()), (status, code), "{}: {}", note.body(), answer.body);
    }
    let user = token("ann", &[]);
    for (bearer, status) in [("rck_unknown", 401), ("x.y.z", 401), (user.as_str(), 403)] {
        let answer = hub.post_as(bearer, &note("x").to_user("ann")).await.unwrap();
        assert_eq!(answer.status, status, "{}", answer.body);
    }
    hub.post(&note("end").to_everyone()).await;
    assert_eq!(ann.titles_before("end").await, [""; 0]);
    assert_eq!(db.head().await, 1, "a 4xx was never appended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_may_come_in_every_way_of_the_contract_and_a_bad_one_is_told_by_the_close_code() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).start().await;
    let good = token("ann", &[]);
    let bare = || TestClient::of("ann").without_header();
    let subprotocols = format!("recado.v1, recado.bearer.{good}");
    let ways = [
        bare().header("authorization", &format!("bearer {good}")),
        bare().query("token", &good),
        bare().path("/").query("token", &good),
        bare().header("sec-websocket-protocol", &subprotocols),
    ];
    for (at, way) in ways.into_iter().enumerate() {
        let mut client = way.device(&format!("d{at}")).connect(&hub).await;
        hub.post(&note("hello").to_user("ann")).await;
        assert_eq!(client.expect_notification().await.title, "hello");
    }
    let service = service_token("shop", recado::domain::Role::Service);
    for (what, way) in [("none", bare()), ("nonsense", bare().query("token", "a.b.c")), ("a service's", bare().query("token", &service))] {
        let mut client = TestClient::over(way.open(&hub).await.expect("the upgrade is completed"));
        let ended = client.ended(Duration::from_secs(5)).await;
        assert_eq!(ended, ClientEnd::Code(4500, "unauthorized".to_owned()), "{what}");
    }
    let foreign = TestClient::of("ann").header("origin", "https://evil.example").open(&hub).await.expect_err("a foreign origin");
    assert!(foreign.to_string().contains("403"), "{foreign}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_session_policy_ends_the_older_connection() {
    let db = TestDb::new().await;
    let hub = TestHub::on(&db).with("RECADO_SESSION_POLICY", "single").start().await;
    let mut older = TestClient::of("ann").connect(&hub).await;
    let mut other = TestClient::of("bob").connect(&hub).await;
    let mut newer = TestClient::of("ann").connect(&hub).await;
    assert_eq!(older.ended(PATIENCE).await, ClientEnd::Code(4004, "session_replaced".to_owned()));
    hub.post(&note("end").to_everyone()).await;
    assert_eq!(newer.titles_before("end").await, [""; 0]);
    assert_eq!(other.titles_before("end").await, [""; 0]);
}
