//! Promise: a user receives what is addressed to an account exactly while the log has the user in it.
//!
//! The order of the log decides, on every hub and every transport, live and later.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use tokio::process::Command;

use super::mutants::VARIABLE;
use super::support::*;

/// A hub that follows the table of members. With a fault on purpose, if `tools/mutants` asks for one.
fn hub_on(db: &TestDb) -> HubBuilder {
    let hub = TestHub::on(db).with("RECADO_ACCOUNTS", "table");
    match std::env::var(VARIABLE) {
        Ok(mutant) if cfg!(feature = "mutants") => hub.with(VARIABLE, &mutant),
        _ => hub,
    }
}

async fn ask(hub: &TestHub, method: &str, path: &str, bearer: &str) -> (u16, Value) {
    let url = format!("http://{}{path}", hub.address);
    let response = http_client().request(method.parse().unwrap(), url).bearer_auth(bearer).send().await.unwrap();
    let (status, media) = (response.status().as_u16(), response.headers()["content-type"].to_str().unwrap().to_owned());
    let body = response.text().await.unwrap();
    matches_document(method, path, status, Some(&media), &body);
    (status, serde_json::from_str(&body).unwrap())
}

/// Adds or removes over REST. Returns the number of the change.
async fn change(hub: &TestHub, method: &str, account: &str, user: &str) -> i64 {
    let (status, body) = ask(hub, method, &format!("/api/internal/accounts/{account}/members/{user}"), hub.key()).await;
    assert_eq!((status, &body["member"]), (200, &json!(method == "PUT")), "{body}");
    body["seq"].as_i64().unwrap()
}

async fn add(hub: &TestHub, account: &str, user: &str) -> i64 {
    change(hub, "PUT", account, user).await
}

async fn remove(hub: &TestHub, account: &str, user: &str) -> i64 {
    change(hub, "DELETE", account, user).await
}

async fn members(hub: &TestHub, account: &str) -> Vec<String> {
    let (mut users, mut after) = (Vec::new(), String::new());
    loop {
        let (status, page) = ask(hub, "GET", &format!("/api/internal/accounts/{account}/members?limit=2{after}"), hub.key()).await;
        assert_eq!(status, 200, "{page}");
        users.extend(page["members"].as_array().unwrap().iter().map(|member| member["user_id"].as_str().unwrap().to_owned()));
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => return users,
        }
    }
}

/// The titles of a user's history, in both orders.
async fn history(hub: &TestHub, user: &str, limit: usize) -> Vec<String> {
    let mut both = Vec::new();
    for order in ["asc", "desc"] {
        let (mut titles, mut after) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/notifications?limit={limit}&order={order}{after}");
            let (status, body) = hub.get(&path, Some(&token(user, &[]))).await.unwrap();
            assert_eq!(status, 200, "{body}");
            let page: Value = serde_json::from_str(&body).unwrap();
            titles.extend(page["notifications"].as_array().unwrap().iter().map(|n| n["title"].as_str().unwrap().to_owned()));
            match page["next"].as_i64() {
                Some(next) => after = format!("&after={next}"),
                None => break,
            }
        }
        both.push(titles);
    }
    both[1].reverse();
    assert_eq!(both[0], both[1], "both orders have the same");
    both.remove(0)
}

/// Each kind of address that names an account.
async fn post_to_all(hub: &TestHub, title: &str) -> i64 {
    hub.post(&note(&format!("{title} account")).account("7")).await;
    hub.post(&note(&format!("{title} user")).to_user("ann").account("7")).await;
    hub.post(&note(&format!("{title} list")).to_users(&["ann", "bob"]).account("7")).await.seq
}

fn all(titles: &[&str]) -> Vec<String> {
    titles.iter().flat_map(|title| ["account", "user", "list"].map(|kind| format!("{title} {kind}"))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_receives_what_comes_between_the_two_changes_on_every_hub_and_way() {
    let db = TestDb::new().await;
    let (here, there) = (hub_on(&db).start().await, hub_on(&db).start().await);
    let mut socket = TestClient::of("ann").device("ws").connect(&here).await;
    let mut source = EventSourcePage::of("ann").device("sse").open(&there).await;
    assert_eq!(socket.hello["account_ids"], json!([]));
    post_to_all(&here, "before").await;
    add(&there, "7", "ann").await;
    post_to_all(&here, "within").await;
    post_to_all(&there, "also within").await;
    remove(&here, "7", "ann").await;
    post_to_all(&there, "between").await;
    add(&here, "7", "ann").await;
    post_to_all(&there, "again").await;
    hub_marker(&here).await;
    let expected = all(&["within", "also within", "again"]);
    assert_eq!(socket.titles_before("marker").await, expected);
    for title in &expected {
        assert_eq!(&source.message().await.title(), title);
    }
    assert_eq!(source.message().await.title(), "marker");
    for hub in [&here, &there] {
        hub.settled(&db).await;
        for limit in [1, 2, 100] {
            let mut titles = history(hub, "ann", limit).await;
            assert_eq!(titles.pop().as_deref(), Some("marker"));
            assert_eq!(titles, expected, "limit {limit}");
        }
        let mut late = TestClient::of("ann").device("late").since(0).connect(hub).await;
        assert_eq!(late.hello["account_ids"], json!(["7"]));
        assert_eq!(
            late.until_caught_up().await.into_iter().map(|n| n.title).filter(|title| title != "marker").collect::<Vec<_>>(),
            expected
        );
        let (_, me) = hub.get("/api/whoami", Some(&token("ann", &[]))).await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&me).unwrap()["account_ids"], json!(["7"]));
    }
    // A position below, within and above the interval.
    let mut late = TestClient::of("ann").device("late").since(6).connect(&here).await;
    assert_eq!(late.until_caught_up().await.len(), 3 * 3 + 1 - 2);
}

async fn hub_marker(hub: &TestHub) {
    hub.post(&note("marker").to_everyone()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn services_change_members_in_their_own_transaction() {
    let db = TestDb::new().await;
    let hub = hub_on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    db.run(
        "BEGIN;
         SELECT recado.notify('n', 'before', 'm', account_id => '7');
         SELECT recado.add_member('ann', account_id => '7'), recado.add_member(user_id => 'bob', account_id => '7');
         SELECT recado.notify('n', 'within', 'm', account_id => '7');
         SELECT recado.remove_member('ann', '7');
         SELECT recado.notify('n', 'after', 'm', account_id => '7');
         COMMIT;
         BEGIN; SELECT recado.add_member('ann', '7'); ROLLBACK;
         SELECT recado.notify('n', 'marker', 'm', user_id => 'ann')",
    )
    .await;
    assert_eq!(ann.titles_before("marker").await, ["within"]);
    assert_eq!(members(&hub, "7").await, ["bob"]);
    let mut sql = db.connect().await;
    for (call, code, says) in [
        ("recado.add_member('-', '7')", "RC010", "user_id must be"),
        ("recado.add_member(NULL, '7')", "RC010", "user_id must be"),
        ("recado.remove_member('ann', 'a b')", "RC010", "account_id must be"),
        ("recado.add_member('ann', '')", "RC010", "account_id must be"),
        ("recado.notify('recado_member', 't', 'm', user_id => 'ann')", "RC011", "reserved for the hub"),
        ("recado.notify('n', 't', 'm', user_id => '-')", "RC010", "stands for no user"),
        ("recado.notify('n', 't', 'm', user_ids => '{ann,-}')", "RC010", "stands for no user"),
    ] {
        let error = sqlx::raw_sql(AssertSqlSafe(format!("SELECT {call}"))).execute(&mut sql).await.expect_err(call);
        let error = error.as_database_error().unwrap();
        assert!(error.code().as_deref() == Some(code) && error.message().contains(says), "{call}: {error}");
    }
    for role in ["recado_producer", "recado_hub", "recado_analyst"] {
        for call in ["recado.add_member('ann', '7')", "recado.remove_member('ann', '7')", "recado.change_member('add', 'ann', '7')"] {
            let sql = format!("SET ROLE {role}; SELECT {call}");
            let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut db.connect().await).await.expect_err(call);
            assert_eq!(error.as_database_error().unwrap().code().as_deref(), Some("42501"), "{role}: {call}");
        }
        let error = sqlx::raw_sql(AssertSqlSafe(format!("SET ROLE {role}; INSERT INTO recado.member VALUES ('eve', '7', 0)")));
        assert!(error.execute(&mut db.connect().await).await.is_err(), "{role} cannot write the table");
    }
    // An application's login that a DBA allowed it.
    db.run(&format!(
        "CREATE ROLE {0}_app; GRANT USAGE ON SCHEMA recado TO {0}_app;
         GRANT EXECUTE ON FUNCTION recado.add_member(text, text) TO {0}_app;
         SET ROLE {0}_app; SELECT recado.add_member('cleo', '7'); RESET ROLE; DROP OWNED BY {0}_app; DROP ROLE {0}_app",
        db.name
    ))
    .await;
    eventually("it is moved", PATIENCE, async || (members(&hub, "7").await == ["bob", "cleo"]).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_post_and_no_token_can_forge_a_change() {
    let db = TestDb::new().await;
    let hub = hub_on(&db).start().await;
    let data = r#"{"op":"add","user_id":"eve","account_id":"7"}"#;
    for (note, code) in [
        (note("").raw("type", "\"recado_member\"").to_user("eve").data(data).never_replayed(), "reserved_type"),
        (note("").to_user("-").data(data), "invalid_field"),
        (note("").to_users(&["eve", "-"]).data(data), "invalid_field"),
    ] {
        let answer = hub.try_post(&note).await.unwrap();
        assert_eq!((answer.status, answer.code()), (422, code), "{}", answer.body);
    }
    for (path, method, bearer, status) in [
        ("/api/internal/accounts/7/members/eve", "PUT", token("eve", &[]), 403),
        ("/api/internal/accounts/7/members/eve", "DELETE", "rck_no".to_owned(), 401),
        ("/api/internal/accounts/7/members", "GET", token("eve", &[]), 403),
        ("/api/internal/accounts/7/members/-", "PUT", db.key(), 422),
        ("/api/internal/accounts/a%20b/members/eve", "PUT", db.key(), 422),
        ("/api/internal/accounts/7/members?limit=0", "GET", db.key(), 422),
    ] {
        let (answered, body) = ask(&hub, method, path, &bearer).await;
        assert_eq!(answered, status, "{method} {path}: {body}");
    }
    assert_eq!(db.head().await, 0, "nothing was appended");
    // A token for no user, as another issuer might sign it.
    let header = r#"{"alg":"HS256"}"#;
    let claims = json!({ "sub": "-", "exp": chrono::Utc::now().timestamp() + 600 }).to_string();
    let forged = signed(header, &claims);
    let (status, body) = hub.get("/api/whoami", Some(&forged)).await.unwrap();
    assert!(status == 401 && body.contains("sub"), "{status} {body}");
    let (status, _) = hub.get("/api/whoami", Some(&signed(header, &claims.replace("\"-\"", "\"--\"")))).await.unwrap();
    assert_eq!(status, 200, "the signature is right");
}

/// A token signed by hand: the project's own function refuses this user.
fn signed(header: &str, claims: &str) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes()).unwrap();
    let signature = jsonwebtoken::crypto::sign(text.as_bytes(), &key, jsonwebtoken::Algorithm::HS256).unwrap();
    format!("{text}.{signature}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_setting_says_which_accounts_count() {
    let db = TestDb::new().await;
    let of = |source: &'static str| TestHub::on(&db).with("RECADO_ACCOUNTS", source);
    let (by_token, by_table, by_both) = (of("token").start().await, of("table").start().await, of("both").start().await);
    add(&by_table, "2", "ann").await;
    by_both.settled(&db).await;
    by_token.settled(&db).await;
    let mut clients = Vec::new();
    for (hub, device, accounts) in [(&by_token, "t", json!(["1"])), (&by_table, "m", json!(["2"])), (&by_both, "b", json!(["1", "2"]))] {
        let client = TestClient::of("ann").account("1").device(device).connect(hub).await;
        assert_eq!(client.hello["account_ids"], accounts, "{device}");
        let (_, me) = hub.get("/api/whoami", Some(&token("ann", &["1"]))).await.unwrap();
        assert_eq!(serde_json::from_str::<Value>(&me).unwrap()["account_ids"], accounts, "{device}");
        clients.push(client);
    }
    // The token names account 1: changes of the table do not take it away.
    add(&by_table, "1", "ann").await;
    by_token.post(&note("one").account("1")).await;
    remove(&by_table, "1", "ann").await;
    by_token.post(&note("one again").account("1")).await;
    by_token.post(&note("two").account("2")).await;
    hub_marker(&by_token).await;
    let expected: [&[&str]; 3] = [&["one", "one again"], &["one", "two"], &["one", "one again", "two"]];
    for (client, expected) in clients.iter_mut().zip(expected) {
        assert_eq!(client.titles_before("marker").await, expected);
    }
    for (hub, expected) in [&by_token, &by_table, &by_both].into_iter().zip(expected) {
        hub.settled(&db).await;
        let (_, body) = hub.get("/api/notifications?limit=2", Some(&token("ann", &["1"]))).await.unwrap();
        let page: Value = serde_json::from_str(&body).unwrap();
        let first: Vec<&str> = page["notifications"].as_array().unwrap().iter().map(|n| n["title"].as_str().unwrap()).collect();
        assert_eq!(first, expected.iter().copied().chain(["marker"]).take(2).collect::<Vec<_>>());
    }
    let (code, said) = run_to_the_end(&of("nowhere")).await;
    assert!(code == Some(78) && said.contains("RECADO_ACCOUNTS") && said.contains("token, table, both"), "{said}");
}

async fn recado(hub: &TestHub, args: &[&str]) -> std::process::Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_recado"));
    command.arg("member").args(args).args(["-o", "json"]).env_clear().kill_on_drop(true);
    command.env("RECADO_URL", format!("http://{}", hub.address)).env("RECADO_KEY", hub.key());
    tokio::time::timeout(PATIENCE * 2, command.output()).await.expect("the command ends").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_adds_removes_and_lists() {
    let db = TestDb::new().await;
    let hub = hub_on(&db).start().await;
    for (action, user) in [("add", "ann"), ("add", "bob"), ("add", "ann"), ("remove", "bob"), ("remove", "cleo")] {
        let output = recado(&hub, &[action, user, "7"]).await;
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let said: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&said["user_id"], &said["member"]), (&json!(user), &json!(action == "add")));
    }
    let output = recado(&hub, &["list", "7"]).await;
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["user_id"], &listed[0]["since_seq"]), (1, &json!("ann"), &json!(1)));
    let output = recado(&hub, &["add", "-", "7"]).await;
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("stands for no user"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_and_the_views_judge_by_the_interval() {
    let db = TestDb::new().await;
    let hub = hub_on(&db).start().await;
    let mut ann = TestClient::of("ann").device("web").query("ack", "client").connect(&hub).await;
    let before = hub.post(&note("before").account("7")).await.seq;
    let since = add(&hub, "7", "ann").await;
    let within = hub.post(&note("within").account("7")).await.seq;
    let until = remove(&hub, "7", "ann").await;
    let after = hub.post(&note("after").account("7")).await.seq;
    hub_marker(&hub).await;
    assert_eq!(ann.titles_before("marker").await, ["within"]);
    let verdict = async |seq: i64| {
        let (status, body) = ask(&hub, "GET", &format!("/api/admin/why?user=ann&seq={seq}"), &db.admin_key()).await;
        assert_eq!(status, 200, "{body}");
        (body["verdict"].as_str().unwrap().to_owned(), body["text"].as_str().unwrap().to_owned())
    };
    eventually("the delivery is stored", PATIENCE, async || (verdict(within).await.0 == "sent").then_some(())).await;
    for seq in [before, after] {
        let (verdict, text) = verdict(seq).await;
        assert!(verdict == "not_member" && text.contains(&format!("was a member from {since} to {until}")), "{verdict}: {text}");
    }
    let delivered = "SELECT count(*) FROM recado_views.deliveries WHERE audience = 'account'";
    eventually("the session is stored", PATIENCE, async || (db.number(delivered).await == 1).then_some(())).await;
    assert_eq!(db.number("SELECT seq FROM recado_views.deliveries WHERE audience = 'account'").await, within);
    assert_eq!(db.number("SELECT count(*) FROM recado_views.members WHERE since_at < until_at AND NOT is_member").await, 1);
    assert_eq!(db.number("SELECT count(*) FROM recado_views.sessions WHERE follows_members AND account_ids = '{}'").await, 1);
    assert_eq!(db.number("SELECT unacked FROM recado_views.unacked WHERE user_id = 'ann'").await, 2, "within, and the marker");
    ann.ack(within).await;
    eventually("it is acknowledged", PATIENCE, async || (db.place("ann", "web").await == Some(within)).then_some(())).await;
    assert_eq!(db.number("SELECT unacked FROM recado_views.unacked WHERE user_id = 'ann'").await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn erasure_retention_and_a_new_log_keep_the_intervals_true() {
    let db = TestDb::new().await;
    let hub = hub_on(&db).start().await;
    for user in ["ann", "MARKED"] {
        add(&hub, "7", user).await;
        remove(&hub, "7", user).await;
        add(&hub, "7", user).await;
    }
    db.run("SELECT recado.add_member('MARKED', '8')").await;
    eventually("it is moved", PATIENCE, async || (db.head().await == 7).then_some(())).await;
    hub.post(&note("kept").account("7")).await;
    let mut connection = db.connect().await;
    let target = recado::store::erase::EraseTarget::User(recado::domain::UserId::parse("MARKED").unwrap());
    let done = recado::store::erase::erase(&mut connection, &target, "asked for").await.unwrap();
    assert_eq!(done.erased, 0, "no notification was the user's alone");
    for table in ["log", "member", "outbox", "outbox_refused"] {
        let sql = format!("SELECT count(*) FROM recado.{table} t WHERE strpos(t::text, 'MARKED') > 0");
        assert_eq!(db.number(&sql).await, 0, "{table}");
    }
    assert_eq!(db.number("SELECT count(*) FROM recado.log WHERE type = 'erased'").await, 4);
    assert_eq!(members(&hub, "7").await, ["ann"]);

    // Retention drops the rows of the closed interval (1, 2), and the interval with them.
    assert_eq!(db.number("SELECT count(*) FROM recado.member").await, 2);
    db.run("UPDATE recado.meta SET floor_seq = 1").await;
    assert_eq!(db.number("SELECT count(*) FROM recado.member").await, 1);
    // A log that lost its end: the open interval begins at the head, a closed one behind it is gone.
    hub.kill().await;
    db.run(
        "INSERT INTO recado.member VALUES ('bob', '7', 5, 7), ('bob', '7', 8, NULL), ('cleo', '7', 6, 8), ('dan', '7', 3, 8);
         SET session_replication_role = replica; DELETE FROM recado.log WHERE seq > 6; SET session_replication_role = origin;
         UPDATE recado.meta SET log_id = gen_random_uuid()",
    )
    .await;
    let left: Vec<String> = sqlx::query_scalar("SELECT format('%s %s %s', user_id, since_seq, until_seq) FROM recado.member ORDER BY 1")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(left, ["ann 3 ", "bob 5 7", "bob 6 ", "dan 3 7"]);
}

/// Partitions that were made after the trigger have it too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_count_in_every_partition_of_the_log() {
    let db = TestDb::new().await;
    db.with_partitions("UPDATE recado.meta SET partition_rows = 4; SELECT recado.ensure_partitions();").await;
    let hub = hub_on(&db).start().await;
    let mut ann = TestClient::of("ann").connect(&hub).await;
    for n in 0..6 {
        add(&hub, "7", "ann").await;
        hub.post(&note(&format!("within {n}")).account("7")).await;
        remove(&hub, "7", "ann").await;
        hub.post(&note("outside").account("7")).await;
    }
    hub_marker(&hub).await;
    let expected: Vec<String> = (0..6).map(|n| format!("within {n}")).collect();
    assert_eq!(ann.titles_before("marker").await, expected);
    assert_eq!(db.number("SELECT count(*) FROM recado.member WHERE until_seq = since_seq + 2").await, 6);
    assert_eq!(history(&hub, "ann", 4).await[..6], expected);
}

/// Which rows of the account the log's order gives to the user.
async fn expected(db: &TestDb, user: &str, account: &str) -> Vec<i64> {
    // Of a change: who, and whether the user is a member afterwards.
    let rows: Vec<(i64, Option<String>, Option<bool>)> = sqlx::query_as(
        "SELECT seq, CASE type WHEN 'recado_member' THEN data ->> 'user_id' END,
                CASE type WHEN 'recado_member' THEN data ->> 'op' = 'add' END
           FROM recado.log
          WHERE account_id = $1 OR type = 'recado_member' AND data ->> 'account_id' = $1
          ORDER BY seq",
    )
    .bind(account)
    .fetch_all(&mut db.connect().await)
    .await
    .unwrap();
    let (mut is_member, mut his) = (false, Vec::new());
    for (seq, whose, is_added) in rows {
        match is_added {
            None => his.extend(is_member.then_some(seq)),
            Some(is_added) if whose.as_deref() == Some(user) => is_member = is_added,
            Some(_) => {}
        }
    }
    his
}

/// What one stream got, and that each number came once and in order.
fn in_order(what: &str, got: &[i64], expected: &[i64]) {
    assert!(got.is_sorted_by(|a, b| a < b), "{what}: a number came twice or out of order");
    let (got, expected): (BTreeSet<_>, BTreeSet<_>) = (got.iter().collect(), expected.iter().collect());
    let too_much: Vec<_> = got.difference(&expected).collect();
    let missing: Vec<_> = expected.difference(&got).collect();
    assert!(too_much.is_empty() && missing.is_empty(), "{what}: {too_much:?} too much, {missing:?} missing");
}

/// One user is added and removed a thousand times, by REST on two hubs and in SQL, while notifications to the account
/// flow. One hub hears no NOTIFY. Each connection, and each later replay and history, has what the log's order says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "slow"]
async fn a_thousand_changes_under_load_give_each_stream_what_the_order_of_the_log_says() {
    let _turn = heavy().await;
    let changes: usize = 1000;
    let db = TestDb::new().await;
    let proxy = TestProxy::before(&db.url()).await;
    proxy.set(ProxyFlow::Hole);
    let here = hub_on(&db).with("RECADO_POLL_INTERVAL", "200ms").start().await;
    let deaf = hub_on(&db).with("RECADO_POLL_INTERVAL", "200ms").with("RECADO_LISTEN_DATABASE_URL", &db.url_at(proxy.port)).start().await;
    let hubs = [&here, &deaf];
    // Streams that are open all the time, of three transports on two hubs.
    let mut streams = tokio::task::JoinSet::new();
    for (at, hub) in hubs.iter().enumerate() {
        let client = TestClient::of("ann").device(&format!("ws{at}")).connect(hub).await;
        streams.spawn(by_socket(format!("websocket {at}"), client));
        let mut source = EventSourcePage::of("ann").device(&format!("sse{at}")).open(hub).await;
        streams.spawn(async move {
            let mut got = Vec::new();
            loop {
                let event = source.message().await;
                if event.title() == "end" {
                    return (format!("sse {at}"), got, 0);
                }
                got.push(event.id.unwrap().parse().unwrap());
            }
        });
        let url = format!("http://{}/api/notifications?follow=true", hub.address);
        let response = reqwest::Client::new().get(url).bearer_auth(token("ann", &[])).send().await.unwrap();
        assert_eq!(response.status(), 200);
        streams.spawn(by_lines(format!("follow {at}"), response));
    }
    let mut sql = db.connect().await;
    let toggles = async {
        for n in 0..changes {
            let op = if n % 2 == 0 { "PUT" } else { "DELETE" };
            match n % 3 {
                2 => {
                    let call = if op == "PUT" { "SELECT recado.add_member('ann', '7')" } else { "SELECT recado.remove_member('ann', '7')" };
                    sqlx::raw_sql(call).execute(&mut sql).await.unwrap();
                }
                hub => {
                    change(hubs[hub], op, "7", "ann").await;
                }
            }
        }
    };
    let is_over = std::sync::atomic::AtomicBool::new(false);
    let writes = |hub: usize| {
        let (is_over, hubs) = (&is_over, &hubs);
        async move {
            let mut n = 0;
            while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                let note = note(&format!("row {n}"));
                hubs[hub].post(&if n % 4 == 0 { note.to_user("ann").account("7") } else { note.account("7") }).await;
                n += 1;
            }
            n
        }
    };
    // Streams that begin while the membership changes.
    let newcomers = async {
        let mut begun = tokio::task::JoinSet::new();
        let mut n = 0;
        while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
            let client = TestClient::of("ann").device(&format!("new{}", n % 20)).since(if n % 2 == 0 { "earliest" } else { "live" });
            let client = client.connect(hubs[n % 2]).await;
            begun.spawn(by_socket(format!("newcomer {n}"), client));
            n += 1;
            if n == 12 {
                break;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        begun
    };
    let change_all = async {
        toggles.await;
        is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    };
    let ((), first, second, mut begun) = tokio::join!(change_all, writes(0), writes(1), newcomers);
    eventually("all changes are in the log", PATIENCE, async || {
        (db.number("SELECT count(*) FROM recado.log WHERE type = 'recado_member'").await == changes as i64).then_some(())
    })
    .await;
    here.post(&note("end").to_user("ann")).await;
    let expected = expected(&db, "ann", "7").await;
    eprintln!("{first} and {second} rows, {} of them the user's", expected.len());
    assert!(expected.len() > 50 && expected.len() < first + second - 50, "{} of {}", expected.len(), first + second);
    while let Some(stream) = streams.join_next().await {
        let (what, got, from) = stream.unwrap();
        in_order(&what, &got, &expected.iter().copied().filter(|seq| *seq > from).collect::<Vec<_>>());
    }
    while let Some(stream) = begun.join_next().await {
        let (what, got, from) = stream.unwrap();
        in_order(&what, &got, &expected.iter().copied().filter(|seq| *seq > from).collect::<Vec<_>>());
    }
    for hub in hubs {
        hub.settled(&db).await;
        let client = TestClient::of("ann").device("later").since(0).connect(hub).await;
        let (what, got, _) = by_socket("a later replay".to_owned(), client).await;
        in_order(&what, &got, &expected);
        assert_eq!(history(hub, "ann", 1000).await.len(), expected.len() + 1);
    }
    // Changes in SQL reach the log a moment after their commit, so its last one may not be the last that was made.
    let last = "SELECT CASE data ->> 'op' WHEN 'add' THEN 1 ELSE 0 END::bigint FROM recado.log WHERE type = 'recado_member' ORDER BY seq DESC LIMIT 1";
    assert_eq!(members(&here, "7").await.len() as i64, db.number(last).await);
}

/// Reads until the row `end`. Returns the numbers, and where the stream began.
async fn by_socket(what: String, mut client: TestClient) -> (String, Vec<i64>, i64) {
    let from = client.hello["resume"]["from"].as_i64().unwrap();
    let got = client.until("end").await;
    (what, got.iter().filter(|n| n.title != "end").map(|n| n.seq).collect(), from)
}

async fn by_lines(what: String, mut response: reqwest::Response) -> (String, Vec<i64>, i64) {
    let (mut got, mut rest) = (Vec::new(), String::new());
    while let Some(bytes) = response.chunk().await.unwrap() {
        rest.push_str(std::str::from_utf8(&bytes).unwrap());
        while let Some((line, after)) = rest.split_once('\n') {
            let frame: Value = serde_json::from_str(line).unwrap_or_default();
            rest = after.to_owned();
            match (frame["title"].as_str(), frame["seq"].as_i64()) {
                (Some("end"), _) => return (what, got, 0),
                (Some(_), Some(seq)) => got.push(seq),
                _ => {}
            }
        }
    }
    panic!("{what} ended early");
}
