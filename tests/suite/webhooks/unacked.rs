//! Webhooks that wait for acknowledgements.

use serde_json::{Value, json};

use super::*;

/// Gives a user a device that has acknowledged everything up to a number, before the rows that follow.
async fn device(db: &TestDb, user: &str, acked: i64) {
    let sql = "INSERT INTO recado.cursor (user_id, client_id, log_id, acked_seq) SELECT '{user}', 'web', log_id, {acked} FROM recado.meta
               ON CONFLICT (user_id, client_id) DO UPDATE SET acked_seq = excluded.acked_seq, acked_at = clock_timestamp()";
    db.run(&sql.replace("{user}", user).replace("{acked}", &acked.to_string())).await;
}

fn unacked(post: &GotPost) -> Value {
    post.json()["data"]["unacked"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_row_that_a_user_has_not_acknowledged_in_time_is_posted() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "sms", &receiver.url, &["--unacked-after", "1s", "--type", "order_*"]).await;
    let mut ann = TestClient::of("42").device("web").connect(&hub).await;
    ann.until_caught_up().await;
    let acked = hub.post(&order("acked")).await.seq;
    ann.until("acked").await;
    ann.ack(acked).await;
    eventually("it is stored", PATIENCE, async || (db.place("42", "web").await == Some(acked)).then_some(())).await;
    ann.kill();
    let missed = hub.post(&order("missed")).await.seq;
    hub.post(&note("other type").raw("type", "\"cart\"").to_user("42")).await;
    let post = receiver.post_of("missed").await;
    assert_eq!(
        (post.json()["data"]["seq"].clone(), unacked(&post), post.json()["data"]["unacked_count"].clone()),
        (json!(missed), json!(["42"]), json!(1))
    );
    let age = chrono::Utc::now() - chrono::DateTime::parse_from_rfc3339(post.json()["timestamp"].as_str().unwrap()).unwrap().to_utc();
    assert!(age >= chrono::Duration::seconds(1), "{age}");
    all_posted(&db).await;
    assert_eq!(receiver.titles(), ["missed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_list_the_users_who_have_not_acknowledged_are_named() {
    let (db, receiver, of_one) = (TestDb::new().await, Receiver::start().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    for user in ["a", "b"] {
        device(&db, user, 0).await;
    }
    create(&db, "sms", &receiver.url, &["--unacked-after", "1s"]).await;
    create(&db, "of-b", &of_one.url, &["--unacked-after", "1s", "--user", "b"]).await;
    let list = hub.post(&note("list").to_users(&["a", "b", "c"])).await.seq;
    hub.post(&note("to all").to_everyone()).await;
    hub.post(&note("account").account("7")).await;
    let all = hub.post(&note("both").to_users(&["a", "b"])).await.seq;
    device(&db, "a", all).await;
    device(&db, "b", list).await;
    let post = receiver.post_of("list").await;
    assert_eq!((unacked(&post), post.json()["data"]["user_ids"].clone()), (json!(["c"]), json!(["a", "b", "c"])));
    assert_eq!(unacked(&receiver.post_of("both").await), json!(["b"]));
    assert_eq!(unacked(&of_one.post_of("both").await), json!(["b"]));
    all_posted(&db).await;
    assert_eq!((receiver.titles().len(), of_one.titles().len()), (2, 1), "{:?} {:?}", receiver.titles(), of_one.titles());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_between_two_attempts_ends_the_post() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    device(&db, "42", 0).await;
    create(&db, "sms", &receiver.url, &["--unacked-after", "1s"]).await;
    receiver.answer_with(500);
    let seq = hub.post(&order("paid")).await.seq;
    failed(&db, 1).await;
    device(&db, "42", seq).await;
    receiver.answer_with(200);
    make_due(&db).await;
    all_posted(&db).await;
    assert_eq!(receiver.got().len(), 1);
}

/// What would go wrong: a device that begins at the head has a position above rows that it never got.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_device_that_begins_after_a_row_has_not_acknowledged_it() {
    let (db, receiver) = (TestDb::new().await, Receiver::start().await);
    let hub = hub(&db).start().await;
    create(&db, "sms", &receiver.url, &["--unacked-after", "2s"]).await;
    hub.post(&order("missed")).await;
    let mut late = TestClient::of("42").device("new").connect(&hub).await;
    late.until_caught_up().await;
    eventually("its position is stored", PATIENCE, async || db.place("42", "new").await).await;
    assert_eq!(unacked(&receiver.post_of("missed").await), json!(["42"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_name_no_user_cannot_be_waited_for() {
    let db = TestDb::new().await;
    for audience in ["account", "everyone"] {
        let args = ["webhook", "create", "w", "http://127.0.0.1:9/", "--unacked-after", "5m", "--audience", audience];
        let (code, _, said) = hub(&db).try_run(&args).await;
        assert!(code == Some(2) && said.contains("names no user"), "{said}");
    }
    for wrong in ["0s", "31d", "soon"] {
        let (code, _, _) = hub(&db).try_run(&["webhook", "create", "w", "http://127.0.0.1:9/", "--unacked-after", wrong]).await;
        assert_eq!(code, Some(2), "{wrong}");
    }
}
